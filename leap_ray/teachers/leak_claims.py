"""Statements in a reason about where something is, true and not seen so far. Part of the leak check.

A sentence is marked (T the thing sought, S several of its kind, P its place, O another place not seen yet), pronouns stand for
what the sentences before named, and the marked clauses are compared with patterns. Guesses, questions, plans and what people
do in general are no statements; a hedge protects its own clause only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from leap_ray.teachers.wording import INSTANCE, has, numbered, unnumbered

Names = Mapping[str, tuple[str, ...]]  # name -> what else its kind is called

_GUESS = re.compile(
    r"\b(might|may|maybe|could|perhaps|likely|probably|possibl[ey]|presumably|often|usual(ly)?|typical(ly)?|common(ly)?|tends?"
    r"|frequent(ly)?|mostly|sometimes|generally|normally|whether|if|unless|would|should|expect|guess|hope(fully)?|looks? like"
    r"|seems?|belongs?|supposed|think|believe|suspect|suppose|assume|worth|plausible|sensible|natural|in case|wonder"
    r"|good (place|spot)|promising|first choice|best bet|likel[iy]\w*|chances?|most|people|folks|everyone|homes|households|kitchens"
    r"|bathrooms|as a rule|in general|always|gets? \w+ed|easily|readily)\b"
)
_IDIOM = re.compile(
    r"\b(?:no need to|stop|without|instead of|no more|rather than) guess(?:ing)?\b|,? ?as (?:good )?luck would have it,?|\b(?:might|may) as well\b|\bno wonder\b|\bif anything\b|\bneedless to say\b|\bas (?:one|you) (?:would|might) expect\b"
)
_CONDITION = re.compile(r"\b(if|unless|whether|in case|should it|or)\b")
_AFTERTHOUGHT = re.compile(r"^(?:i (?:think|guess|believe|suppose|hope|suspect)|maybe|perhaps|probably|presumably|possibly)\b")
_CERTAIN = re.compile(
    r"(?<!not )(?<!n't )(?<!never )\b(?:sure|certain(?:ly|ty)?|confident|positive|guarantee[ds]?|definite(?:ly)?|undoubtedly|doubtless|(?:no|without(?: a)?|beyond) "
    r"doubt|for a fact|bound to|surely|no question|unquestionably|(?:i|we) know|convinced|100 ?%|absolutely)\b"
)
_QUESTION = re.compile(r"\?\s*$|^(?:is|are|does|do|where|could|can|what if)\b")
_INTENT = re.compile(
    r"\b(see if|check|search|look(ing)? (for|in|into|at)|haven't|have not|not yet|unsearched|unexplored|try|find out|where"
    r"|needs? to|has to|have to|must|want|plan|will|then|once|after|ready to|goal|task|goes?)\b"
)
_MODAL = re.compile(r"\b(could|would|should)\b")
_PUT = re.compile(
    r"\b(?:put|(?:(?<=to )|(?<=and )|(?<=then )|(?<=i )|(?<=i'll )|(?<=will )|(?<=can )|(?<=must )|(?<=should )|^)place|move|bring|leave|drop|set|return|carry|store|heat|cool|clean|wash|rinse|throw)"
    r"(?: [\w'-]+){0,3}? (?:[TS]|it|one|them)\b"
)
_BY_SOMEONE = re.compile(r"\b(?:someone|somebody|the owners?|they|he|she)(?: has| have| had| must have)? (?:put|left|placed|stored|dropped|set)\b")
_PRESUMES = re.compile(r"\b(check|search|see|look(ing)?|find|need|then|once|after|when|until|before)\b")
_NEGATION = re.compile(r"\b(no|not|never|nothing|neither|nor|without|none|\w+n't)\b")
_AT = r"(?:in|on|inside|at|under|behind|within|by|near|on top of|next to)"
_BE = (
    r"(?:(?:will|'ll) be|is|are|'s|was|were|lies?|sits?|stands?|hangs?|rests?|waits?|stays?|remains?|lives?|left|stored|hidden|located|kept"
    r"|found|awaits?|resides?|lying|sitting|standing|waiting|placed|locked|chilling|ended up|be found)"
)
_FETCH = (
    r"(?:take|grab|get|fetch|collect|retrieve|pick(?:ing)? up|taking|getting|grabbing|fetched|taken|collected|open up and take)"
)
_HAS = r"(?:has|have|contains?|holds?|houses|hides|stores|keeps|carries|got|gives?|yields?|provides?|supplies|offers?|delivers?|(?:is|are|'s) (?:hid|hold|keep|stor|contain|hous|shelter)ing)"


def _up_to(count: int) -> str:
    """At most so many words, no sign but spaces between them."""
    return rf"(?: [\w'-]+){{0,{count}}}?"


# Statements, each with an example.
STATEMENTS = tuple(
    (example, re.compile(pattern))
    for example, pattern in (
        ("T is in P", rf"[TS](?:'s|,?{_up_to(3)} {_BE}){_up_to(3)} {_AT}{_up_to(4)} P"),
        ("P, which has T", rf"P(?:, (?:which|that))?{_up_to(2)} {_HAS}[^.;]{{0,30}}? [TS]"),
        ("P next to me, number 2, has T", rf"P(?:,? (?!(?:i|we|you|but|and|so|has|have)\b)[\w'-]+){{0,6}},? {_HAS} (?:the |an? |some |exactly )?[TS]\b"),
        ("P is the one with T", rf"P{_up_to(3)} with{_up_to(2)} [TS]"),
        ("you will find T in P", rf"(?:you|i|we)(?:'ll| will| can) (?:find|get){_up_to(3)} [TS]{_up_to(2)} {_AT}{_up_to(3)} P"),
        ("there is T in P", rf"there(?:'s| is| are| was|'re){_up_to(4)} [TS]{_up_to(3)} {_AT}{_up_to(4)} P"),
        ("in P lies T", rf"{_AT}{_up_to(2)} P,?{_up_to(2)} (?:{_BE}|(?:i|we|you)(?: will | can |'ll | )(?:find|get|take|grab|see|spot|have)){_up_to(3)} [TS]"),
        ("two T: one in P", rf"[TS]\b.*\bone {_AT}{_up_to(2)} P"),
        ("P has got some of T", rf"P{_up_to(2)} (?:has|have) got{_up_to(2)} [TS]"),
        ("T that nobody saw is in P", rf"[TS] (?:that|which|who|i|we|you|the task|my)\b[^.;]{{0,40}}? {_BE}{_up_to(2)} {_AT}{_up_to(3)} P"),
        ("P makes sense: T is there", rf"P\b.*[TS] {_BE}(?: \w+)? there\b"),
        ("T is there, on P", rf"[TS] {_BE} (?:right |over )?there,? {_AT}{_up_to(1)} P"),
        ("T, currently on P", rf"[TS],? (?:currently|now|presently|already|right now|still) {_AT}{_up_to(1)} P"),
        ("P and its T", r"P(?:'s| and its) T\b"),
        ("P: that's the place with T", rf"P: (?:that's|that is|it's|it is|the){_up_to(3)} (?:with|that has|for){_up_to(2)} [TS]"),
        ("the only place with T is P", rf"(?:place|spot|location|container|one|receptacle){_up_to(3)} [TS] is (?:in |on |the )*P"),
        ("that is the T's home: P", r"P\b.*[TS]'s (?:\w+ )?(?:home|place|location|spot)\b|[TS]'s (?:\w+ )?(?:home|place|location|spot|whereabouts) is (?:in |on |the )*P"),
    )
)
_WHERE = re.compile(rf"P\b.*\bwhere{_up_to(6)} [TS]{_up_to(2)} (?:{_BE}|goes)\b|P\b.*\bwhere{_up_to(3)} (?:get|find|take){_up_to(2)} [TS]\b")
_FETCH_FROM = re.compile(
    rf"\b(?:{_FETCH}|pick(?:ing)?|bring|move|carry|transfer){_up_to(3)} [TS]{_up_to(2)} (?:from|out of|off){_up_to(3)} P"
    rf"|\bfrom (?:the )?P,? (?:i|we) (?:\w+ )?(?:{_FETCH}|bring|move|carry){_up_to(3)} [TS]"
    rf"|[TS]{_up_to(3)} {_FETCH} (?:from|out of|off){_up_to(3)} P"
)
_GO_AND_FETCH = re.compile(rf"P(?:,| and| to){_up_to(3)} {_FETCH}{_up_to(3)} [TS]")  # to the fridge to get the apple
_THERE = re.compile(rf"[TS]{_up_to(6)} {_AT}{_up_to(3)} P|P\b.* the [TS] there\b")  # the apple in the fridge
_GENERAL = re.compile(r"(?<!the )(?<!of the )(?<!both )(?<!these )\bS (?:are )?(?:kept|stored|found|put|left|go)\b")
_ARROW = re.compile(
    r"[TS](?: 's)?(?: (?:place|location|spot))? ?(?:->|-->|=>|→|⇒|➔|@|=|:|—|–|--| - |\||\() ?(?:the |in |on |at |inside )*P"
    rf"|\bwhere (?:the |an? )?[TS] {_BE}[:,] (?:in |on |at |inside )?(?:the )?P"
    r"|(?:location|place|spot|whereabouts) of (?:the |an? )?[TS] ?(?:->|=>|→|⇒|=|:|is) ?(?:the |in |on |at )*P"
    r"|P ?(?:<-|->|=>|→|⇒|=|:|\() ?(?:the |an? |has |holds )*[TS](?= ?(?:$|[.,;)!]))"
    r"|^(?:and |where(?:'s| is| are)? )?(?:the |an? |my )?[TS] ?[,?] (?:it's |it is |they're |they are )?(?:in |on |at |inside )?(?:the )?P[.!]?$"
)
_ARROW_PLAN = re.compile(r"\b(plan|find|search|look|heat|cool|clean|put|move|steps?|then|check|try|open|visit|start|begin|inspect|consider)\b")
_OPEN_AND_THERE = re.compile(r"P\b.*\bthere (?:it|they|T) (?:is|are)\b.*T|P\b.*\band there(?:'s| is| are) (?:the |an? )?T\b")

_ASKED = re.compile(r"(?:^|[.!?;] )(?:and |so |where(?:'s| is| are)? )?(?:the |an? |my )?[TS]\?$")  # The apple?
_SHORT_ANSWER = re.compile(r"^(?:it's |it is |they're |they are )?(?:in |on |at |inside )?(?:the )?P[.!]?$")  # In the fridge.

# Success promised of the place, whatever the thing.
_OUTCOME = (
    r"(?:pays? off|leads? to (?:success|T|the goal)|(?:will )?(?:work|do it|do the job|succeed|deliver|help|matters?|counts?)"
    r"|(?:has|holds|contains|gives?|yields?) (?:me )?(?:what|the)|be (?:rewarded|successful))"
)
_LEFT = r"(?! (?:\w+ )?(?:i|we|that i|that we|that has|unsearched|unexplored|left|remaining|not|yet|open|closed|in the room|near))"
_PROMISE = re.compile(
    rf"\bonly (?:the )?P (?:will |can |would |is going to )?{_OUTCOME}"
    rf"|\bP (?:will|is (?:sure|certain|bound|guaranteed|going) to) (?:certainly |surely |definitely )?(?:pay off|give|yield|lead to|deliver|contain|have|hold)\b"
    rf"|\bP (?:always )?pays off"
    rf"|\bP is (?:\w+ )?(?:the )?(?:right|correct|winning|true) (?:\w+ )?(?:one|place|spot|answer|location|receptacle|choice|container|target)\b"
    rf"|\b(?:right|correct|true|actual) (?:place|location|spot|answer|receptacle|container)(?: to \w+)? (?:is|:) (?:the )?P"
    rf"|\bP is (?:the )?(?:only|one) (?:\w+ )?(?:one|place|spot|location|receptacle|container|option|thing){_LEFT}(?: that| which)?(?: will| can)? (?:matters?|works?|helps?|counts?|has|holds|contains|T)\b"
    rf"|\b(?:going|heading|walking|moving)(?: straight)? to P (?:first |now |next )?is (?:definitely |certainly )?(?:right|correct)\b"
    rf"|\bit(?:'s| is) P(?: that| which) {_OUTCOME}"
    r"|\bonly (?:the )?P does\b|\b(?:nothing|nowhere|no (?:other )?(?:place|spot|receptacle|container)) (?:but|than|except|other than|else than) (?:the )?P\b"
    r"|\bno further than (?:the )?P\b|\b(?:answer|solution|winner) is (?:the )?P\b"
    r"|\bP is (?:\w+ )?(?:the|my|our) (?:winner|jackpot|answer|key|solution)\b"
)

# Statements about all other places, or about another place that was not seen.
_ALL_OTHERS = (
    r"(?:(?:every|all|any|each|none|no)(?: of)?(?: the| these| those)?(?: \w+)? (?:other|remaining|rest|else)\b(?: \w+)?"
    r"|(?:the|all) (?:(?:remaining|other) \w+|others\b|rest\b(?: of)?(?: the)?(?: \w+)?)|everything else|everywhere else|anywhere else|nowhere else|elsewhere"
    r"|^other \w+|(?:everything|everywhere|all|every place|any place)(?: \w+)? (?:except|apart from|other than|besides)|nothing else|anywhere but|anything but|any place but|all places but|(?:every|all|each|any|none of the)(?: \w+)? O)"
)
_WASTE = (
    r"(?:lacks?|(?:do not|don't|doesn't|won't|will not) (?:have|hold|contain|help|offer)|(?:a )?waste of (?:time|steps?|effort)|waste[sd]?|pointless|useless|futile|in vain|foolish|hopeless|fruitless|dead ends?|empty"
    r"|no (?:use|good|help|point|value)|nothing|achieve nothing|(?:a )?mistake|won't help|will not help|does not help|irrelevant"
    r"|contain nothing|hold nothing|no T|not T|silly|lead nowhere|wrong)"
)
_OTHERS_WASTE = re.compile(
    rf"\b(?:no (?:other )?(?:place|spot|receptacle|container|one)|nothing|nowhere)(?: else)? (?:has|holds|contains|will have|is there)(?: an?| the| any)? [TS]|"
    rf"{_ALL_OTHERS}[^.;]*\b{_WASTE}\b|\b{_WASTE}\b[^.;]*{_ALL_OTHERS}"
)
_OTHER_LACKS = re.compile(
    r"\bO (?:\w+ )?(?:don't|doesn't|do not|does not|won't|will not|can't|cannot) (?:have|contain|hold|help|offer|store|give)\b|"
    rf"\bO{_up_to(4)} (?:is|are|hold|holds|have|has|contain|contains|will|would|won't|offers?|don't|doesn't|do|does)(?: [\w'-]+){{0,3}}? (?:{_WASTE}|no [TS]|not{_up_to(2)} [TS])\b"
    rf"|\b(?:none|neither|nothing) (?:of|in|on|inside)(?: any of)?(?: the| these| those)? (?:\w+ )?O\b[^.;]*"
    rf"|\bnothing (?:useful|relevant|of use|here|helpful|i need|to find)? ?(?:in|on|inside)(?: any of)?(?: the)? O\b"
    rf"|(?:[TS]|\b(?:it|they))(?: is|'s| are)?(?:n't| not)(?: \w+)? (?:in|on|inside|at)(?: any of)?(?: the)? O\b"
    rf"|\b(?:no|not (?:an?|any)) [TS](?: \w+){{0,2}} (?:in|on|inside|at)(?: any of)?(?: the)? O\b"
    rf"|\b(?:won't|will not|can't|cannot) (?:be|find|get|see) (?:(?:the |an? |any )?[TS]|it|one|any)(?: \w+)? (?:in|on|inside|at)(?: any of)?(?: the)? O\b"
    rf"|\b(?:don't|do not|needn't|never|no need to) bother (?:\w+ ){{0,3}}O\b"
    rf"|\b{_WASTE} to (?:\w+ ){{1,3}}O\b|\b(?:searching|checking|opening|visiting|going through) (?:\w+ ){{0,3}}O\b[^.;]*\b(?:is|would be|will be|would|achieves?) {_WASTE}\b"
)
_SEEN = re.compile(
    r"\b(had|was|were|held|contained|showed|saw|seen|found|turned up|gave|opened|searched|checked|visited|looked|so far|already"
    r"|again|back|i've|i have|having|returned|yielded|unsearched|not been|only (?:place|one)s? (?:left|i))\b"
)
_HEDGE = re.compile(r"\b(might|may|maybe|could|perhaps|likely|probably|possibl[ey]|if|usual(ly)?|often|seems?|presumably|want|task)\b")

# --- pronouns and descriptions
_WANT = (
    r"(?:(?:i|we|you)(?: (?:really|still|just|actually|now))?(?:'m| am| are| was| were|'ve been| have been)? (?:need(?:ed)?|want(?:ed)?|seek(?:ing)?|after"
    r"|require|lack|hunting(?: for)?|looking for|searching for|sent (?:for|to \w+)|asked (?:for|to \w+)|told to \w+"
    r"|supposed to \w+(?: (?:away|up|out|back|down))?|meant to \w+|missing|have to \w+)|(?:the|this|my) task (?:asks for|wants|needs|requires|calls for|is about))"
)
_NOT_THINGS = (
    r"place|places|spot|location|action|actions|step|steps|receptacle|container|room|surface|one|first|last|next|only|key|reason"
    r"|way|time|information|tool|appliance|thing left|option|options|all|much|everything"
)
_WANTED = re.compile(
    rf"\b(?:exactly )?what(?:ever)? {_WANT}(?: to \w+)?\b"
    rf"|\b(?:the|my|that) (?!(?:{_NOT_THINGS})\b)(?:\w+ )?(?!(?:{_NOT_THINGS})\b)[a-z]+ (?:that |which )?{_WANT}\b"
    r"|\b(?:the|my) (?:target|sought|missing|wanted|needed|required|desired|goal)(?: (?:object|item|thing))?\b(?! (?:place|location|receptacle|is to|state))"
    r"|\b(?:the|my) (?:thing|object|item)(?: in question| to \w+)?\b|^target\b"
)
_PARENTHESIS = re.compile(r"\(((?:[^() ]+ ){2,}[^() ]+)\)")
_ASIDE = re.compile(r", (?:and )?(?:not|rather than|instead of|unlike|as opposed to|of all places|by the way|in fact|of course|however)\b[^,.;]{0,30}, ")
_SUBJECT = re.compile(rf"\b(?!it(?: is|'s) (?:\w+ )?(?:\w+ to|that|time)\b)(?:it|they|one(?: of (?:them|those|these))?|that one|the other(?: one)?|another(?: one)?|some)(?='s| (?:also |already |has been |have been |has |can |just |only )?{_BE}\b)")
_OBJECT = re.compile(rf"\b({_HAS}|find|see|{_FETCH}|where)( (?:already|also|exactly))? (?:it|one|some|them|both|that)\b(?!')")
_CONTAINER = re.compile(rf"^(?:(?:and|but|so|because|since|as) )*(?:it|this|that|which|this one|that one)(?= (?:also |already |actually |certainly |definitely |does |will )?{_HAS}\b)")
_IN_THERE = re.compile(r"\b(?:in|on|inside) (?:there|it|them)\b|\binside\b(?= *[.!,]?$)|(?<=\bis )there\b|(?<='s )there\b|(?<!^)\b(?:right )?there\b(?=[.!,]?$)")
_THAT_IS_WHERE = re.compile(r"\b(?:that|this|which|it)(?:'s| is)(?: exactly| precisely| just)? where\b")


def claims(said: str, known: str, where: Mapping[str, str], names: Names) -> Iterator[str]:
    """The clauses that state where a thing is. `where` maps things to places, both normal; `names` what else they are called."""
    others = _other_places(known, where)
    for thing, place in where.items():
        if _observed(known, thing, place):
            continue
        unseen = {name: new and not _same_kind(name, place) for name, new in others.items() if not _same_kind(name, thing)}
        marked = [_marked(sentence, thing, place, unseen, names) for sentence in _sentences(said)]
        for i, sentence in enumerate(marked):
            before = " ".join(marked[max(0, i - 2) : i])
            if _sentence_states(sentence, before, anywhere=" ".join(marked)):
                yield _sentences(said)[i].strip()


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?;])\s+", text)


def _sentence_states(sentence: str, before: str, anywhere: str) -> bool:
    """Whether a sentence, or one of its clauses, states where T is."""
    if _ASKED.search(before) and _SHORT_ANSWER.search(sentence):
        return True
    if _QUESTION.search(sentence):
        return False
    sentence = _ASIDE.sub(" ", _PARENTHESIS.sub(r", \1,", _IDIOM.sub("", sentence)))
    whole = _resolved(sentence, before)
    clauses = [clause for clause in re.split(r",\s+|\s+(?=(?:because|since|but (?!in|on|at|inside|under)|yet|and that) )|\s+[—–]\s+", sentence) if clause]
    resolved, context = [], before
    for clause in clauses:
        resolved.append(_resolved(clause, context))
        context += " " + clause
    condition = False
    for i, clause in enumerate(resolved):
        condition = condition or bool(_CONDITION.search(clause) and re.match(r"\W*(if|unless|whether|in case|or|should)\b", clause))
        after = resolved[i + 1] if i + 1 < len(resolved) else ""
        if not condition and not _AFTERTHOUGHT.match(after) and (_states(clause) or _excludes(clause, anywhere)):
            return True
    return len(clauses) > 1 and not condition and (_states(whole) or _excludes(whole, anywhere))


def _resolved(clause: str, before: str) -> str:
    """The clause with its pronouns replaced by what was named before."""
    if "P" in before and "P" not in clause:
        clause = _THAT_IS_WHERE.sub("P is where", clause)
        clause = re.sub(r"\b(?:that|this|which)(?:'s| is) (?=(?:the )?[TS]'s )", "P is ", clause)
        clause = _CONTAINER.sub("P", clause) if not re.search("[TS]", before) or re.search("[TS]", clause) or before.rfind("P") > max(before.rfind("T"), before.rfind("S")) else clause
        clause = _IN_THERE.sub("in P", clause)
    if not re.search("[TS]", clause) and (re.search("[TS]", before) or not before.replace("O", "P").strip() or "P" in before):
        clause = re.sub(r"\bits (?=(?:\w+ )?(?:place|location|spot|home|whereabouts)\b)", "T's ", clause)
        clause = _SUBJECT.sub("T", clause, count=1)
        if not re.search("[TS]", clause):
            clause = _OBJECT.sub(r"\1\2 T", clause, count=1)
    if "O" in before and "O" not in clause:
        clause = re.sub(r"\b(?:they|those|these|it)(?= (?:don't|doesn't|do not|does not|won't|will not|can't|cannot)\b)", "O", clause)
        clause = re.sub(r"\b(in|on) (?:them|those|these|any of them)\b", r"\1 O", clause)
    return clause


def _states(clause: str) -> bool:
    """Whether a marked clause states that T is at P, or acts as if it were known."""
    if "P" not in clause:
        return False
    clause = re.sub(r"(?:\bnot\b|n't\b).*?\bbut ", " ", clause).replace("  ", " ")
    if _PROMISE.search(clause) and not _HEDGE.search(clause) and not _PUT.search(clause):
        return True
    if _CERTAIN.search(clause) and re.search(r"\b(?:it|that)(?:'s| is) (?:in |on |at )?(?:the )?P\b", clause):
        return True
    if not re.search("[TS]", clause):
        return False
    if _ARROW.search(clause) and not _ARROW_PLAN.search(clause[: re.search("[TSP]", clause).start()]) and not _GUESS.search(clause):
        return True
    return _says_where(clause)


def _says_where(clause: str) -> bool:
    puts, certain = _PUT.search(_BY_SOMEONE.sub("", clause)), _CERTAIN.search(clause)
    fetch = _FETCH_FROM.search(clause)
    if fetch and not _GUESS.search(_MODAL.sub("", clause)):
        return not _PRESUMES.search(clause[: fetch.start()])
    if _GUESS.search(clause) and not certain:
        return False
    if _WHERE.search(clause) or _OPEN_AND_THERE.search(clause):
        return True
    if any(m and not _NEGATION.search(m.group(0)) for m in (pattern.search(clause) for _, pattern in STATEMENTS)):
        return not puts and not _GENERAL.search(clause)
    if certain and not puts and re.search(r"\bP\b.*\b[TS]\b|\b[TS]\b.*\bP\b", clause):
        return not re.search(r"\b(must|need|needs|needed|once|after|heat|cool|clean|put|go(?:es)? in)\b", clause)
    if _GO_AND_FETCH.search(clause):
        return not puts and not _PRESUMES.search(clause)
    there = _THERE.search(clause)
    return bool(there) and not (puts or _INTENT.search(clause) or _NEGATION.search(clause))


def _excludes(clause: str, anywhere: str) -> bool:
    """Whether a clause states that the other places, or one not seen, lack what is sought."""
    if _SEEN.search(clause) or _HEDGE.search(clause):
        return False
    if _OTHER_LACKS.search(clause):
        return True
    return bool(re.search("[PTS]", anywhere)) and bool(_OTHERS_WASTE.search(clause))


# --- names


def _marked(sentence: str, thing: str, place: str, others: Mapping[str, bool], names: Names) -> str:
    """The sentence with T for the thing, S for several of its kind, P for the place, O for other places; longer names first."""
    for name in sorted((thing, place), key=len, reverse=True):
        mark = "P" if name == place else "T"
        aliases = names.get(name, ())
        if INSTANCE.fullmatch(name):
            sentence = numbered(name, aliases).sub(mark, sentence)
            several = mark.replace("T", "S")
            sentence = unnumbered(name, aliases).sub(
                lambda m, s=several, o=mark: s if m.group(0).endswith("s") and not m.group(0).endswith("ss") else o, sentence
            )
        else:
            sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", mark, sentence)
    for name, kind_is_new in others.items():
        aliases = names.get(name, ())
        sentence = numbered(name, aliases).sub("O", sentence)
        sentence = unnumbered(name, aliases).sub("O", sentence) if kind_is_new else sentence
    return re.sub(rf"\b([TS]),? (?:that |which )?{_WANT}\b,?", r"\1", _WANTED.sub("T", sentence))


_CONTENTS = re.compile(r"(?:(?:on|in) the ([a-z]+ \d+), you see|the ([a-z]+ \d+) is open\. in it, you see) ([^.]*)")


def _other_places(known: str, where: Mapping[str, str]) -> dict[str, bool]:
    """Instances that were named, are no contents of what was seen and were not looked into -> whether none of the kind was."""
    seen, contents = set(), set()
    for on, inside, things in _CONTENTS.findall(known):
        seen.add(on or inside)
        contents |= set(re.findall(r"[a-z]+ \d+", things))
    kinds_seen = {name.rsplit(" ", 1)[0] for name in seen}
    named = dict.fromkeys(re.findall(r"\b[a-z]+ \d+\b", known))
    places = [name for name in named if name not in seen | contents | set(where)]
    return {name: name.rsplit(" ", 1)[0] not in kinds_seen for name in places}


def _same_kind(name: str, other: str) -> bool:
    return name.rsplit(" ", 1)[0] == other.rsplit(" ", 1)[0]


def _observed(known: str, thing: str, place: str) -> bool:
    """Whether one sentence of what was seen holds both."""
    kind = re.sub(r" \d+$", "", thing)
    return any(
        has(part, place) and has(part, kind)
        for part in re.split(r"(?<=\.) |\n", known)
        if "you see" in part or "pick up" in part or "move the" in part or " in it" in part
    )
