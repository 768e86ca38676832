"""Patterns over marked sentences, for `leak_claims`: T the thing sought, S several of its kind, P its place, O a place unseen."""

from __future__ import annotations

import re


def _words(*groups: str) -> str:
    return rf"\b(?:{'|'.join(groups)})\b"


def _up_to(count: int) -> str:
    """At most so many words, no sign but spaces between them."""
    return rf"(?: [\w'-]+){{0,{count}}}?"


AT = r"\b(?:in|on|inside|at|under|behind|within|by|near|on top of|next to)"
BE = (
    r"(?:(?:will|'ll) be|is|are|'s|was|were|lies?|sits?|stands?|hangs?|rests?|waits?|stays?|remains?|lives?|left"
    r"|stored|hidden"
    r"|located|kept|found|awaits?|resides?|lying|sitting|standing|waiting|placed|locked|chilling|ended up|be found)"
)
HAS = (
    r"(?:has|have|contains?|holds?|houses|hides|stores|keeps|carries|got|gives?|yields?|provides?|supplies"
    r"|offers?|delivers?|(?:is|are|'s) (?:hid|hold|keep|stor|contain|hous|shelter|carry)ing|containing|holding)"
)
FETCH = (
    r"(?:take|grab|get|fetch|collect|retrieve|obtain|acquire|secure|recover|claim|pick(?:ing|ed)? up|taking|getting"
    r"|grabbing|fetched|taken|collected|retrieved|obtained|open up and take)"
)
_THE = r"(?:the |an? |our |my |that )?"
_SUBJECT_PRONOUN = r"(?:i|we|you|the agent)(?: (?:really|still|just|actually|now))?"
_AUXILIARY = r"(?:'m|'re| am| is| are| was| were|'ve been| have been)?"
WANT = (
    rf"(?:{_SUBJECT_PRONOUN}{_AUXILIARY} (?:need(?:ed)?|want(?:ed)?|seek(?:ing)?|after|require|lack"
    rf"|hunting(?: for)?|looking for"
    r"|searching for|sent (?:for|to \w+)|asked (?:for|to \w+)|told to \w+|supposed to \w+(?: (?:away|up|out|back"
    r"|down))?|meant to \w+|missing|have to \w+)|(?:the|this|my) task (?:asks for|wants(?: \w+ed)?|needs|requires"
    r"|calls for|is about))"
)

# --- what a clause is besides a statement

GUESS = re.compile(
    _words(
        "might|may|maybe|could|perhaps|likely|probably|possibl[ey]|presumably|often|usual(?:ly)?|typical(?:ly)?"
        "|common(?:ly)?",
        "tends?|frequent(?:ly)?|mostly|sometimes|generally|normally|whether|if|unless|would|should|expect|guess"
        "|hope(?:fully)?",
        "looks? like|seems?|belongs?|supposed|think|believe|suspect|suppose|assume|worth|plausible|sensible"
        "|natural|in case",
        "wonder|good (?:place|spot)|promising|(?:first|second|next|best) choice|best bet|likel[iy]\\w*|chances?"
        "|as a rule|in general",
        "hoping|odds|experience|comes? to mind|together|hunch|suspicion|gut|feeling|assumption|hypothesis",
        "luck|fingers crossed|in theory|i bet|most|people|folks|one puts|everyone|homes|households|kitchens"
        "|bathrooms|always|gets? \\w+ed|easily|readily|candidates?|options?",
    )
)
HEDGE = re.compile(
    _words("might|may|maybe|could|perhaps|likely|probably|possibl[ey]|if|usual(?:ly)?|often|seems?|presumably|once")
)
CERTAIN = re.compile(
    r"(?<!not )(?<!n't )(?<!never )"
    + _words(
        "sure|certain(?:ly|ty)?|confident|positive|guarantee[ds]?|definite(?:ly)?|undoubtedly|doubtless",
        "(?:no|without(?: a)?|without any|beyond) doubt|for a fact|bound to|surely|no question|unquestionably"
        "|(?:i|we) know",
        "convinced|100 ?%|absolutely|bet my life",
    )
)
IDIOM = re.compile(  # words that look like a guess and are none
    r"\b(?:no need to|stop|without|instead of|no more|rather than) guess(?:ing)?\b"
    r"|,? ?as (?:good )?luck would have it,?"
    r"|\b(?:might|may) as well\b|\bno wonder\b|\bif anything\b|\bneedless to say\b|\bas (?:one|you)(?:'d| would"
    r"| might) expect\b|\b(?:would you )?believe (?:it(?: or not)?|me)\b|\bwho would(?:'ve| have) (?:thought"
    r"|guessed)\b"
    r"|\b(?:\w+ )?as (?:it|that|this) (?:may |might )?(?:sounds?|seems?|looks?|be)\b|\bagainst all (?:the )?odds\b"
    r"|\b(?:never|not|n't) (?=(?:been )?(?:clear|remov|mov|tak|took|put away|tid|collect|pick)\w*)|\bif (?:you|we"
    r"|i) (?:want|need)\b|\b(?:one|you|we|i) needs? to know\b|\bcontrary to (?:all )?expectations?\b"
)
CONDITION = re.compile(r"^\W*(?:(?:and|but|even) )?(?:if|unless|whether|in case|or|should)\b")
AFTERTHOUGHT = re.compile(
    r"^(?:i (?:think|guess|believe|suppose|hope|suspect)|maybe|perhaps|probably|presumably|possibly)\b"
)
ASKED_LAST = re.compile(  # It's in P, so why wait?
    r"^(?!(?:so |but |and )*(?:why|how|who|what|which|would|should|will|has|have|was|were|did|if|maybe|perhaps)\b)"
    r"(.*), [^,]*\?$"
)
QUESTION = re.compile(
    r"^(?!(?:so |but |and )*why\b).*\?\s*$|^(?:is|are|does|do|where(?!:| to\b[^?]*:)|could|can|what if)\b"
)
INTENT = re.compile(  # a search, a need or the order of a plan
    _words(
        "see|check(?:ing)?|search(?:ing)?|look(?:ing|ed)?|try|explore|inspect|examine|(?<!where to )find|visit",
        "haven't|have not|not yet|unsearched|unexplored|unvisited|unseen",
        "needs?|needed|has to|have to|must(?! be (?:in|on|at|inside)\\b)|want|plan|goal|task|destination|ready to|goes?",
        "then|later|next|first|finally|eventually|start|begins?|rules? out|such as|for an? [TS]|hold|holding"
        "|in (?:my )?hands?|mind|(?:my|a|one) pick|hunt\\w*|quest|remains? to",
    )
    + r"|\b(?:once|after|when|while|until|till|before|as soon as|where(?! to find))\b[^P]*[TS]|[TS] (?:in|on)to\b"
)
NEGATION = re.compile(_words("no|not|never|nothing|neither|nor|without|none|lack|missing|\\w+n't"))
_AND = r"\b(?:and|but|so|or|then|therefore|hence)\b(?! (?:it|there|that)\b)"
APART = re.compile(  # why one place is tried before another, and what T is apart from its place
    _words(
        "near\\w*|clos(?:e|er|est)|adjacent|(?:larg|bigg?|quick|cheap|eas|simpl)(?:e|er|est|y|ier|iest)?|costs?|left"
        "|remaining|order|turns?|missing|lost|unknown|unclear|somewhere|anywhere|glance|surface|candidate|idea"
        "|kind|sort|size|small|object",
    )
    + r"|[TS](?: is| are| was| were|'s(?= (?:an?|the|not|still|our|my|one|what)\b))\b"
    + rf"(?! (?:\w+ly )?(?:{BE}|{AT}|there|here|up|down)\b)"
    rf"|[TS]\b[^PTS]*{_AND}[^PTS]*P|P[^PTS]*{_AND}[^PTS]*[TS]\b"
)
PRESUMES = re.compile(_words("check|search|see|look(?:ing)?|find|need|then|once|after|when|until|before"))
PRESUMES_FETCH = re.compile(_words("check|search|see|look(?:ing)?|find|once|when|until|before|if"))
DELIBERATION = re.compile(  # "I should go to P" doubts nothing
    r"\b(?:i|we|you|one|the agent|it)(?:'d| should| would| could| might| may| ought to)(?:'ve| have)?(?: \w+ly| just"
    r"| better| have)? (?=(?:go"
    r"|walk|head|open|move|turn|start|begin|choose|pick|use|visit|proceed|approach|come|been|gone|be (?:wise|better"
    r"|best|silly)|take|grab"
    r"|get|fetch|collect|retrieve)\b)|\bshould be (?=(?:visited|opened|(?:the|my|our) (?:\w+'s )?(?:next|first))\b)"
)
_VERB = "|".join(rf"(?<={before} )" for before in ("to", "and", "then", "i", "i'll", "will", "can", "must", "should"))
PUT = re.compile(
    rf"\b(?:put|(?:{_VERB}|^)place|move|bring|leave|drop|set|return|carry|store|heat|cool|clean|wash|rinse|throw)"
    r"(?: [\w'-]+){0,3}? (?:[TS]|it|one|them)\b"
)
BY_SOMEONE = re.compile(
    r"\b(?:someone|somebody|the owners?|they|he|she)(?: has| have| had| must have)? (?:put|left|placed|stored"
    r"|dropped|set)\b"
)
GENERAL = re.compile(
    r"(?<!the )(?<!both )(?<!these )(?<!those )(?<!our )(?<!my )(?<!two )\bS (?:are (?:\w+ed|kept|put|left|found"
    r"|hung|thrown)|kept|stored|found|put|left|go|get|stand|lie"
    r"|sit|hang|live|end up)\b|\b(?:like|such as) (?:the |an? )?[TS]\b|\b(?:every|each|any|most) P\b"
    r"|\ban? P is where\b|\ban? T (?!is|was|lies|sits)\w+(?: \w+)? in an? P\b"
)

# --- statements that T is at P, each with an example

STATEMENTS = tuple(
    (example, re.compile(pattern))
    for example, pattern in (
        (
            "T is in P",
            rf"[TS](?:'s|,?(?: (?!(?:and|but|so|or)\b)[\w'-]+){{0,3}}? {BE}){_up_to(3)} {AT}{_up_to(4)} P",
        ),
        ("P, which has T", rf"P(?:, (?:which|that))?{_up_to(2)} {HAS}[^.;,]{{0,30}}? [TS]"),
        (
            "P next to me has T",
            rf"P(?:,? (?!(?:i|we|you|but|and|so|has|have)\b)[\w'-]+){{0,6}},? {HAS} {_THE}(?:some |exactly )?[TS]\b",
        ),
        (
            "P is the one with T",
            rf"P(?:{_up_to(3)} with|, (?:the )?(?:home|place|keeper|holder) of){_up_to(2)} [TS](?! in\b| on my\b)",
        ),
        (
            "you will find T in P",
            rf"(?:(?:you|i|we)(?:'ll| will| can| shall|'m going to| am going to)|you|one) (?:finds?"
            rf"|gets?){_up_to(3)} [TS]{_up_to(2)} {AT}{_up_to(3)} P",
        ),
        ("there is T in P", rf"there(?:'s| is| are| was|'re){_up_to(4)} [TS]{_up_to(3)} {AT}{_up_to(4)} P"),
        (
            "in P lies T",
            rf"{AT}{_up_to(2)} P,?{_up_to(2)} (?:{BE}|(?:i|we|you)(?: will | can |'ll | )(?:find|get|take|grab"
            rf"|see|spot|have)){_up_to(3)} [TS]",
        ),
        (
            "P opened, you will have T",
            rf"P\b[^.;?]*?(?:(?:'ll| will| shall| going to)(?: \w+)? (?:have|own|{FETCH}|find|see|meet|spot"
            r"|be \w+ at)"
            r"| (?:reveals?|uncovers?|exposes?|turns? up|brings? up|produces?|(?:gets?|gives?|shows?|brings?"
            rf"|hands?) (?:me|us|you)))\b{_up_to(3)} [TS]",
        ),
        (
            "P and T is mine",
            r"P\b[^.;?]*[TS](?:'s| is| are| becomes?| will be| would be) (?:as good as )?(?:mine|ours|yours"
            r"|in the bag|within reach|accessible)\b",
        ),
    )
)
WHERE = re.compile(
    r"P\b[^.;]*(?:'s|is|was|are) where (?!.*\b(?:goes|belongs?|put|ends?|look|search|check|find)\b|.*[TS] (?:must"
    r"|has to|have to|needs? to)\b)[^,]*[TS]\b"
    rf"|P\b.*\bwhere{_up_to(6)} [TS]{_up_to(2)} (?:{BE}|goes)\b|P\b.*\bwhere{_up_to(3)} (?:get|find|finds"
    rf"|take){_up_to(2)} [TS]\b"
)
_NEXT = r"(?:the (?:next|other|second|last)(?: one)?|another(?: one)?)"
FETCH_FROM = re.compile(
    rf"\b(?:{FETCH}|pick(?:ing)?|bring|move|carry|transfer){_up_to(3)} (?:[TS]|{_NEXT}){_up_to(2)} (?:from|out of"
    rf"|off){_up_to(3)} P|[TS] [^.;,]*\bfrom (?:the )?P\b"
)
GO_AND_FETCH = re.compile(
    rf"\bto {FETCH}{_up_to(3)} [TS],? [^.;]*P|P(?:,| and| to){_up_to(3)} (?:{FETCH}{_up_to(3)} [TS]"
    rf"|pick {_THE}[TS] up)"
)  # to the fridge to get the apple
ASKED = re.compile(  # The apple? What is in P? I need an apple.
    rf"(?:^|[.!?;] )(?:[^.!?;]*(P)(?:[^.!?;PTS]*\?|!)"
    rf"|(?:and |so )*(?:where(?:'s| is| are| did) [^.!?;PO]*|{_THE}(?:\w+ )?[TS][^.!?;PO]*)\?"
    rf"|(?:(?:i|we|you) need |{FETCH} )?{_THE}(?:\w+ )?[TS][.!])$"
)
SHORT_ANSWER = re.compile(
    r"^(?:it's |it is |they're |they are )?(?:(?:\w+ ){0,2}?(?:in |on |at |inside ))?(?:the |an? |our "
    r"|my )*([PTS])[.!]?$"
)  # In the fridge.
_NO = r"\b(?:no|not|never|nobody|no one|cannot|\w+n't)\b"
_BUT = r"\b(?:unless|until|till|without|except|but (?:in|on|at|for)|other than|apart from|(?:were|was) it not for)\b"
EXCLUSIVE = re.compile(  # no T unless P is opened
    rf"^(?!.*\b(?:know|tell|say|whether|sure|rule out|decide|if)\b)(?:.*{_NO}.*?[TS]\b.*?{_BUT}.*P"
    rf"|.*{_BUT}.*?P.*?{_NO}.*?[TS])"
)
NAMED_FIRST = re.compile(  # The apple? The fridge, of course.
    r"^(?:it's |it is |they're |they are )?(?:in |on |at |inside )?(?:the )?P, (?!so|then|and|first|next)"
)
LEADS_TO = re.compile(  # It has to be chilled, and that means the fridge.
    r"\b(?:that|this|which|it|so) (?:means?|says|spells|can only (?:mean|be)|must be|has to be) (?:in |on |at "
    r"|inside )?(?:the )?P(?= ?(?:$|[.,;!]))"
)
HAS_ALONE = re.compile(r"\bP(?: (?:does|has|will|is)|'s)(?: not)?[.!,;]?$")  # The drawers are empty, the fridge is not.

# --- success promised of P, whatever T is

_OUTCOME = (
    r"(?:supply|provide|have|hold|contain|pays? off|leads? to (?:success|T|the goal)|(?:will )?(?:work|do it"
    r"|do the job|succeed|deliver|help|matters?|counts?)"
    r"|(?:has|holds|contains|gives?|yields?) (?:me )?(?:what|the)|be (?:rewarded|successful))"
)
_LEFT = (
    r"(?! (?:\w+ )?(?:i|we|that i|that we|that has|unsearched|unexplored|left|remaining|not|yet|open|closed"
    r"|in the room|near))"
)
_PLACE = r"(?:one|place|spot|location|receptacle|container)"
_TRIUMPH = (  # what one says of a place that ends the search
    r"(?:(?:won't|will not|never|doesn't|does not|not going to) (?:disappoint|fail|let (?:me|us|you) down)"
    r"|(?:search(?:ing)?|hunt(?:ing)?|quest|looking|guessing|mystery|job)(?: \w+)? (?:ends?|stops?|(?:is|'s|will be"
    r"|are) (?:over|done|solved|finished|at an end))"
    r"|(?:strikes?|hits?|struck) (?:gold|lucky|oil|home)|(?:'ll|will) succeed|success (?:lies|is|awaits|waits)"
    r"|(?:can't|cannot|won't) (?:be|go) wrong|jackpot|bingo|treasure|bull'?s[- ]?eye|pay dirt|mother lode"
    r"|does the trick|the real (?:thing|deal|one)|the goods)\b"
)
PROMISE = re.compile(
    rf"\bonly (?:the )?P (?:will |can |would |is going to )?{_OUTCOME}"
    rf"|\b(?:one|only) {_PLACE} (?:that|which) (?:will )?(?:pays?|works?|matters?|counts?|helps?) is (?:the )?P\b"
    r"|\bno further than (?:the )?P\b"
    r"|\bP (?:will|is (?:sure|certain|bound|guaranteed|going) to) (?:certainly |surely |definitely )?"
    r"(?:pay off|give|yield|lead to|deliver|contain|have|hold)\b|\bP (?:always )?pays off"
    rf"|\bP is (?:\w+ )?(?:the )?(?:right|correct|winning|true) (?:\w+ )?(?:{_PLACE}|answer|choice|target)\b"
    rf"|\b(?:right|correct|true|actual) (?:{_PLACE}|answer)(?: to \w+)? (?:is|:) (?:the )?P"
    rf"|\bP is (?:the )?(?:only|one) (?:\w+ )?(?:{_PLACE}|option|thing){_LEFT}(?: that| which)?(?: will| can)?"
    r" (?:matters?|works?|helps?|counts?|has|holds|contains|T)\b"
    rf"|\bit(?:'s| is) P(?: that| which) {_OUTCOME}|\b(?:answer|solution|winner) is (?:the )?P\b"
    rf"|\b(?:nothing|nowhere|no (?:other )?{_PLACE}) (?:but|than|except|other than|else than) (?:the )?P\b"
    r"|\bP is (?:\w+ )?(?:the|my|our) (?:winner|answer|key|solution)\b|^(?:where|location|whereabouts"
    r"|source): (?:the )?P\b"
    rf"|\b(?:it|that|T)(?:'s| is) (?:the )?P,? (?:that |which )?{WANT}|\bP(?:'s| is) (?:the )?(?:one"
    rf"|{_PLACE}) (?:that |which )?{WANT}"
    r"|(?<!not )(?<!n't )\b(?:certain|sure|confident) (?:of|about) (?:the )?P(?= ?(?:$|[.,;!]))|\bP (?:is|(?:has to"
    rf"|must|can only) be) it(?= ?(?:$|[.,;!]))|\bP[^.;]*\b{_TRIUMPH}|{_TRIUMPH}[^.;]*\bP\b"
)
IT_IS_P = re.compile(r"\b(?:it|that)(?:'s| is) (?:in |on |at )?(?:the )?P\b")

# --- statements about all other places, or about O

_ALL_OTHERS = (
    r"(?:(?:every|all|any|each|none|no)(?: of)?(?: the| these| those)?(?: \w+)? (?:other|remaining|rest"
    r"|else)\b(?: \w+)?"
    r"|^other \w+|(?:everything|everywhere|all|every place|any place)(?: \w+)? (?:except|apart from|other than"
    r"|besides)"
    r"|(?:the|all) (?:(?:remaining|other) \w+|others\b|rest\b(?: of)?(?: the)?(?: \w+)?)|(?:every|any|no)(?:thing"
    r"|where) else"
    r"|elsewhere|any(?:where|thing| place) but|all places but|(?:every|all|each|any|none of the)(?: \w+)? O)"
)
_WASTE = (
    r"(?:lacks?|(?:do not|don't|doesn't|won't|will not) (?:have|hold|contain|help|offer)|(?:a )?waste of (?:time"
    r"|steps?|effort)"
    r"|waste[sd]?|pointless|useless|futile|in vain|foolish|hopeless|fruitless|dead ends?|empty|bare|without [TS]"
    r"|without an? [TS]"
    r"|(?:no|not any|of no) (?:use|good|help|point|value)|(?:achieve |contain |hold )?nothing|(?:a )?mistake"
    r"|(?:won't|will not|does not) help"
    r"|irrelevant|no T|not T|silly|lead nowhere|wrong|decoys?|red herrings?|(?:a )?distractions?|(?:a )?detours?)"
)
_ALL_WASTE = rf"\b(?:every|all|each)(?: of the)?(?: \w+){{1,3}} (?:is|are) {_WASTE}\b"
_HAS_NO_T = (
    rf"\b(?:no (?:other )?{_PLACE}|nothing|nowhere)(?: else)? (?:has|holds|contains|will have"
    rf"|is there) {_THE}(?:any )?[TS]"
)
OTHERS_WASTE = re.compile(
    rf"{_HAS_NO_T}|{_ALL_WASTE}|{_ALL_OTHERS}[^.;]*\b{_WASTE}(?!\w)|(?<!\w){_WASTE}\b[^.;]*{_ALL_OTHERS}"
)
_CANNOT = r"(?:don't|doesn't|do not|does not|won't|will not|can't|cannot)"
OTHER_LACKS = re.compile(
    r"\bO (?:has|have|holds?|contains?) (?:only|just)\b|\bneither (?:the )?O nor (?:the )?O (?:has|have|contains?"
    r"|holds?|hides?)\b(?! been)"
    r"|\bO (?:will |all |would )?(?:come|draw|turn)s? (?:up )?(?:empty|an? blank|blanks?|nothing)\b"
    rf"|\bO (?:\w+ )?{_CANNOT} (?:have|contain|hold|help|offer|store|give)\b"
    rf"|\bO{_up_to(4)} (?:is|are|hold|holds|have|has|contain|contains|will|would|won't|offers?|don't|doesn't|do|does)"
    rf"(?: [\w'-]+){{0,3}}? (?:{_WASTE}|no [TS]|not{_up_to(2)} [TS])\b"
    r"|\b(?:none|neither|nothing) (?:of|in|on|inside)(?: any of)?(?: the| these| those)? (?:\w+ )?O\b[^.;]*"
    r"|\bnothing (?:useful|relevant|of use|here|helpful|i need|to find)? ?(?:in|on|inside)(?: any of)?(?: the)? O\b"
    r"|(?:[TS]|\b(?:it|they))(?: is|'s| are)?(?:n't| not)(?: \w+)? (?:in|on|inside|at)(?: any of)?(?: the)? O\b"
    r"|\b(?:no|not (?:an?|any)) [TS](?: \w+){0,2} (?:in|on|inside|at)(?: any of)?(?: the)? O\b"
    rf"|\b(?:won't|will not|can't|cannot) (?:be|find|get|see) (?:{_THE}(?:any )?[TS]|it|one|any)(?: \w+)? (?:in"
    rf"|on|inside|at)(?: any of)?(?: the)? O\b"
    r"|\b(?:don't|do not|needn't|never|no need to) bother (?:\w+ ){0,3}O\b"
    rf"|\b{_WASTE} to (?:\w+ ){{1,3}}O\b"
)
SEEN = re.compile(
    _words(
        "had|was|were|held|contained|showed|saw|seen|found|turned up|gave|opened|searched|checked|visited|looked"
        "|so far|already",
        "again|back|i've|i have|having|returned|yielded|unsearched|not been|only (?:place|one)s? (?:left|i)",
    )
)

# --- descriptions and pronouns

_NO_THING = (
    r"(?!(?:place|places|spot|location|action|actions|step|steps|receptacle|container|room|surface|one|first|last"
    r"|next|only|key|reason|way|time|information|tool|appliance|option|options|all|much|everything)\b)"
)
WANTED = re.compile(
    rf"\b(?:exactly )?what {WANT}(?: to \w+)?\b"
    rf"|\b(?:the|my|that) {_NO_THING}(?:\w+ )?{_NO_THING}[a-z]+(?: of \w+)? (?:that |which )?{WANT}\b"
    r"|(?<!P is )(?<!P's )(?<!P as )\b(?:the|my) (?:target|sought|missing|wanted|needed|required|desired"
    r"|goal)(?: (?:object|item|thing))?\b(?! (?:place|location|receptacle|is to|state))"
    r"|\b(?:the|my) (?:thing|object|item)(?: in question| to \w+)?\b|^target\b"
)
_IT = r"(?:it|they|them|one(?: of (?:them|those|these))?|that one|the other(?: one)?|another(?: one)?|some)"
IT_BEFORE_P = re.compile(
    rf"(?<!open )(?<!check )(?<!close )(?<!search )\b(?!it(?: is|'s) (?:\w+ )?(?:\w+ to|that|time)\b){_IT}(?='s\b"
    rf"|(?:'ll|'d)? [\w' -]*{AT}{_up_to(2)} P\b)"
)
IT_SUBJECT = re.compile(
    r"\b(?:it|they)(?='s\b(?! (?:the )?P (?:that|which|where|i)\b)| (?:also |already |has been "
    rf"|have been )?{BE}\b[\w' -]*{AT}{_up_to(2)} P\b)"
)
IT_AFTER_P = re.compile(
    rf"\b({HAS}|find|see|{FETCH}|where)( (?:already|also|exactly|precisely|just))? (?:{_IT}|both|that)\b(?!'(?:ll|d"
    r"|ve))"
)
IT_IS_AT_P = re.compile(rf"\bit(?='s| is)(?=(?:'s| is) (?:\w+ )?{AT} (?:the )?P\b)|^it(?='s| is) (?=where\b)")
ITS_PLACE = re.compile(r"\bits (?=(?:\w+ )?(?:place|location|spot|home|whereabouts)\b)")
RELATIVE = re.compile(  # "the T that has to be cooled is in P"
    rf"(?<=[TS]) (?:that|which|who|i|we|you|the task|my)\b[^.;,TSP]{{1,40}}? (?={BE}{_up_to(2)} {AT}\b[^.;]*P)"
)
_ACTOR = r"(?:i|we|you|it|they|the agent)"
_IF = (
    rf"\b(?:had {_ACTOR}|if {_ACTOR}(?: had|'d)?|by|once {_ACTOR}|as soon as {_ACTOR}) (?:\w+ ){{0,2}}"
    r"(?:go|goes|gone|going|walk\w*|head\w*|open\w*|visit\w*|tr(?:y|ied))\b[^.;TS]*P"
)
# "Had it opened P, it would have T by now", "I get T if I go to P", "P would have given us T".
CONSEQUENCE = re.compile(
    r"^(?!.*\b(?:whether|may|might|perhaps|maybe|find out|know|tell)\b).*"
    rf"(?:{_IF}[^.;]*\b(?:would|will|can|'ll|'d)\b[^.;]*[TS]\b|{_IF}[^.;]*[TS] would\b|[TS]\b[^.;]*{_IF}"
    r"|P would(?:'ve| have) (?!been)\w+[^.;]*[TS]\b)"
)
THAT_IS_T = re.compile(
    r"\b(?:that|this)(?:'s| is)(?! (?:why|how|what|not|an?|because|since|if|when)\b)(?= .*[TS]\b)|\bit(?:'s"
    r"| is)(?= (?:the )?T's\b)"
)
DISLOCATED = re.compile(r"^(?:the|our|my|an?|that) [TS][.!]?$")  # It's on P, the T.
THAT_IS_WHERE = re.compile(
    r"\b(?:that|this|which|it|here|there)(?:'s| is)(?: exactly| precisely| just)?(?: the (?:place|spot))?(?: where\b"
    r"|(?<=place|.spot)(?= (?:the |our |my )?T\b))"
)
CONTAINER = re.compile(
    rf"^(?:(?:and|but|so|because|since|as|where) )*(?:it|this|that|which|this one|that one)(?= (?:also |already "
    rf"|actually |certainly |definitely |does |will )?(?:{HAS}|'s got)\b)|^it(?='s got\b)"
)
IN_THERE = re.compile(
    r"\b(?:in|on|inside) (?:there|it|them)\b|\binside\b(?= *[.!,]?$)|(?<=\bis )there\b|(?<='s )there\b"
    r"|(?<!^)\b(?:right )?there\b(?=[.!,]?$)|^(?:and )?there(?=,? (?:the|an?|our|my|i|we|you|[TS])\b)"
)
O_PRONOUN = re.compile(
    rf"\b(?:they|those|these|it|them)(?= (?:{_CANNOT}|(?:all )?(?:have|has|hold|holds|is|are) (?:no|nothing|not"
    rf"|without|empty|bare|useless))\b)"
    r"|(?<=none of )(?:them|those|these)\b|(?<=neither of )(?:them|those|these)\b|(?<=in )(?:them|those|these)\b"
    r"|(?<=on )(?:them|those|these)\b"
)
ASIDE = re.compile(
    r", (?:and )?(?:not|rather than|instead of|unlike|as opposed to|of all places|by the way|in fact|of course"
    r"|however|as it happens)\b[^,.;]{0,30}, "
)
INSERTION = re.compile(  # "T rests, as it were, on P", "T, which nobody has seen, lies in P"
    rf"(?<=\w), (?!{GUESS.pattern})(?:(?!{GUESS.pattern})[^,.;TSPO])*,(?= (?:got |there |{BE} |{HAS} )*(?:{AT}|{BE}"
    rf"|{HAS})\b)"
)
PARENTHESIS = re.compile(r"\(((?:[^() ]+ ){2,}[^() ]+)\)")
CLAUSE_ENDS = re.compile(
    rf",\s+(?!{AT} (?:the )?P[.!]?$|where )|\s+[—–]\s+|:\s+(?=[^\s,:;]+ [^\s,:;]+ [^\s,:;]+)|\s+(?=(?:because|since"
    r"|but(?! (?:in|on|at|inside|under|also|rather)\b)|yet|though"
    r"|although|whereas|while|given|on account of|due to|thanks to|owing to|which is why|hence|therefore|thus"
    r"|so(?= (?:the|i|we|it|you|let|that|that's)\b)"
    r"|(?<!such )as(?= (?:the [TS]|it|they|there)\b)|for(?= (?:there|it's|it is|it has|the [TS] (?:is|was|lies|sits"
    r"|stands))\b)|and(?= (?:that|it|i|the|we|you|there|[PTSO])\b)) )"
)
NOT_BUT = re.compile(r"(?:\bnot\b|n't\b).*?\bbut ")
