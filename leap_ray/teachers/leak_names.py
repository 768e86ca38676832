"""Names in a reason that the student has not seen: instances, attributes, options, products. Part of the leak check.

`reason` is the text as written, `said` and `known` are the `normal` reason and what the student has seen.
"""

from __future__ import annotations

import re
from itertools import pairwise, permutations

from leap_ray.envs.base import Secret
from leap_ray.teachers.wording import INSTANCE, common_run, has, normal, numbered, stem, words

_STOPWORDS = frozenset(
    (
        *("a", "an", "the", "of", "for", "with", "and", "or", "to", "in", "on", "at", "by", "from", "is", "are"),
        *("pack", "set", "size", "color", "x", "inch", "inches", "count", "piece", "pieces", "new"),
    )
)
_LINKS = frozenset(
    (
        *("in", "the", "that", "are", "is", "of", "by", "for", "with", "a", "an", "to", "can", "be", "must", "it"),
        *(
            "its",
            "has",
            "have",
            "should",
            "them",
            "these",
            "from",
            "made",
            "any",
            "very",
            "against",
            "up",
            "on",
            "amount",
            "content",
            "much",
        ),
    )
)
# Attribute values that a reason uses in another sense as often, and what they then stand before.
_VAGUE = frozenset(
    (
        *("small", "large", "medium", "big", "natural", "new", "classic", "simple", "easy", "basic", "standard"),
        *("regular", "long", "short", "light", "dark", "full", "clear", "one", "two", "three", "free", "best"),
        *("good", "plain", "single", "double", "wide", "narrow", "multi", "other", "normal", "original", "modern"),
    )
)
_TALK = re.compile(
    r" (?:to|query|queries|search|searches|step|change|changes|list|number|phrase|part|start|way|thing|things|move"
    r"|amount"
    r"|difference|problem|set|word|words|of|by|page|result|results|description|match|choice|idea)\b"
)
_MAKER = re.compile(r"is|makes?|made|sells?|offers?|brand|one|ones|products?")
_LACK = frozenset(
    (
        *("no", "not", "non", "nothing", "without", "free", "zero", "lack", "never"),
        *("avoid", "exclude", "excluding", "leave"),
    )
)
_REFUSED = re.compile(  # of what a product must not have
    r"^(?:\w+ ){0,3}?(?:(?:must|should|can|may|ought) not|cannot|(?:must|should|(?:has|have|needs?"
    r"|ought) to) be (?:absent|avoided|left out|kept out)|(?:is|are)(?: \w+)? (?:not (?:ok|allowed|wanted|welcome"
    r"|acceptable)|no go|out|taboo"
    r"|banned|forbidden|excluded|unwanted|unwelcome|unacceptable))\b"
)


def instance(secret: Secret, said: str, known: str) -> str:
    """The instance's name if the reason says it in any spelling and nothing seen holds it; else ""."""
    if not INSTANCE.fullmatch(normal(secret.text)):  # a name without a number
        return attribute(secret, said, known)
    pattern = numbered(normal(secret.text), secret.aliases)
    return secret.text if pattern.search(said) and not pattern.search(known) else ""


def attribute(secret: Secret, said: str, known: str) -> str:
    """The attribute if the reason names or paraphrases it and nothing seen does; else ""."""
    here, before = _Text(said), _Text(known)
    wordings = [wording for text in (secret.text, *secret.aliases) if words(wording := normal(text))]
    if not wordings or _names(wordings[0], before):
        return ""
    return secret.text if any(_names(wording, here) and not _names(wording, before) for wording in wordings) else ""


def option(secret: Secret, said: str, known: str) -> str:
    """The option's value if the reason names it and not all its words were offered; else ""."""
    value = option_value(normal(secret.text)) or spaced(normal(secret.text))
    parts = [
        word
        for word in value.split()
        if word.isalpha() and len(word) > 2 and word not in _VAGUE and not has(known, word)
    ]
    picked = rf"\b(?:in|colou?r|shade|finish|flavou?r|scent)(?: is| of| should be| must be|:)? (?:{'|'.join(parts)})\b"
    if parts and re.search(picked, said):
        return secret.text
    offered = all(has(known, word) for word in value.split())
    numeric = any(c.isdigit() for c in value)
    measures = [word for word in value.split() if "x" in word and word[0].isdigit() and not has(known, word)]
    of = re.fullmatch(r"(\d\w*) (\w+)", value)  # "24 count"
    amounts = [*measures, *([f"{of[2]} of {of[1]}"] if of and not has(known, value) else [])]
    if any(has(said, amount) for amount in amounts):
        return secret.text
    named = has(spaced(said), value) if numeric else attribute(secret, said, known)
    return secret.text if named and not offered else ""


def option_value(plain: str) -> str | None:
    """An option's value with a number ("4 pound (pack of 1)", "50x60 inch") in its telling words; None where it is none."""
    main = spaced(re.sub(r"\(.*?\)", "", plain))
    value = re.fullmatch(r"(?:[a-z]+ )?\d[\w.]*(?: x \d[\w.]*)?(?: [a-z]+){1,2}|(?:size|pack of) \d[\w.]*", main)
    return main if value else None


def spaced(text: str) -> str:
    """Hyphens as spaces."""
    return " ".join(text.replace("-", " ").split())


# --- attributes


_REQUIRES = re.compile(
    r"\b(?:must|should|ought|has to|have to|had to|needs?|needed|required?|requirements?|criteri\w+|wanted"
    r"|called for)\b"
)


class _Text:
    """A text's words and stems, taken once for all wordings."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("n't", " not")
        self.words = words(self.text)
        self.stems = [stem(word) for word in self.words]
        self.all = set(self.stems)
        self.joined = {*self.words, *map("".join, pairwise(self.words))}
        self.requires = bool(_REQUIRES.search(self.text))


def _names(name: str, text: _Text) -> bool:
    """Whether the text names an attribute: as it is, inflected, or with its words in another order."""
    wanted = [stem(word) for word in words(name)]
    if len(wanted) == 1:
        return _word(name, text.text)
    first, *middle, last = words(name)
    if first in _LACK or last == "free":  # non gmo, sugar free
        without = [*middle, last] if last != "free" else [first, *middle]
        if _lacks([stem(word) for word in without], text):
            return True
        if first in ("not", "no"):
            return False
    if "".join(words(name)) in text.joined:
        return True
    orders = permutations(wanted) if len(wanted) <= 4 else [wanted]
    return set(wanted) <= text.all and any(_linked(list(order), text) for order in orders)


def _linked(wanted: list[str], text: _Text) -> bool:
    """Whether the stems stand in this order with nothing but small words between: "washable in the machine"."""
    for i, word in enumerate(text.stems):
        if word != wanted[0]:
            continue
        at, left = i, wanted[1:]
        spare = (
            2 if text.requires else len(wanted) > 2
        )  # other words that may stand between: "keep out surrounding noise"
        while left and at - i < 8 and (step := _step(text, at, left[0]) or bool(spare and at + 1 < len(text.stems))):
            spare -= not _step(text, at, left[0])
            at += step
            if text.stems[at] == left[0]:
                left = left[1:]
        if not left:
            return True
    return False


def _step(text: _Text, at: int, wanted: str) -> int:
    """How far on the wanted stem, a small word or a member of a list ("spills and stains") stands; 0 if none does."""
    after = text.words[at + 1 : at + 4]
    if after and (text.stems[at + 1] == wanted or after[0] in (*_LINKS, "and")):
        return 1
    return 2 if len(after) == 3 and after[1] in ("and", "or") and text.stems[at + 3] == wanted else 0


def _word(name: str, text: str) -> bool:
    """Whether a one-word value is named as a value: "small" is not in "a small step"."""
    pattern = rf"(?<![\w-]){re.escape(name)}s?(?!\w)"
    return any(name not in _VAGUE or not _TALK.match(text, m.end()) for m in re.finditer(pattern, text))


def _lacks(thing: list[str], text: _Text) -> bool:
    """Whether the text says that something is without this: "no GMOs", "must not contain sugar", "free of nuts"."""
    places = [i for i in range(len(text.stems)) if text.stems[i : i + len(thing)] == thing]
    before = [set(text.words[max(0, i - 3) : i]) for i in places]
    after = [text.words[i + len(thing) : i + len(thing) + 6] for i in places]
    lacking = any(_LACK & few and not {"i", "we", "you"} & few for few in before)  # "I should not" is no requirement
    return lacking or any(_REFUSED.search(" ".join(few)) for few in after)


# --- products


def title(secret: Secret, reason: str, said: str, known: str) -> str:
    """A product's title: a run of its words or most of those that say something, beyond what was seen, its brand or model."""
    of_title, spoken = words(normal(secret.text)), words(said)
    if not of_title:
        return ""
    seen = {stem(word) for word in words(known)}
    telling = [w for w in of_title if w not in _STOPWORDS and stem(w) not in seen and len(w) > 1]
    run = common_run(of_title, spoken, 4)
    if set(telling) & set(run):
        return " ".join(run)
    stems = {stem(word) for word in spoken}
    named = list(dict.fromkeys(word for word in telling if stem(word) in stems))
    most = len(named) >= 0.4 * len(set(telling)) or named[:1] == of_title[:1]
    if len(named) >= 2 and (most or _together(telling, spoken)):
        return " ".join(sorted(named))
    coined = {word.casefold() for word in re.findall(r"[A-Z][a-z]+[A-Z]\w+", secret.text)}
    return _model(telling, spoken, coined) or _brand(of_title, set(telling), reason, known)


def _together(telling: list[str], spoken: list[str]) -> bool:
    """Whether two of these words, in this order, stand side by side in the reason: "columbia arcadia"."""
    return bool(set(pairwise(telling)) & set(pairwise(spoken)))


def _model(telling: list[str], spoken: list[str], coined: set[str]) -> str:
    """A model's number ("505", "p2") or a coined name ("SpeedBoil") that the reason names."""
    return next((word for word in telling if word in spoken and (any(c.isdigit() for c in word) or word in coined)), "")


def _brand(of_title: list[str], telling: set[str], reason: str, known: str) -> str:
    """A word of the title that the reason writes as a name, or its first word, the brand, as the maker of something."""
    for name in re.finditer(r"[A-Z][A-Za-z]{2,}(?:'s)?", reason):
        word = normal(name.group(0)).removesuffix("'s")
        first = re.search(r"(^|[.!?:] )$", reason[: name.start()])
        if word in telling and (not first or word == of_title[0]):
            return name.group(0)
    return _lower_case_brand(of_title[0], telling, normal(reason), known)


def _lower_case_brand(brand: str, telling: set[str], said: str, known: str) -> str:
    """The title's first word in lower case, where it stands as a maker's name: "levis jeans", "by anker", "safavieh makes"."""
    if brand not in telling or brand in _VAGUE or len(brand) < 3:
        return ""
    asked = {stem(word) for word in words(known)} - _STOPWORDS
    maker = re.escape(brand.removesuffix("'s"))
    for match in re.finditer(rf"(\b(?:by|from|brand|buy|get) )?\b{maker}(?:'?s)?\b(?: (\w+))?", said):
        follows = match.group(2) or ""
        if match.group(1) or _MAKER.fullmatch(follows) or (len(follows) > 2 and stem(follows) in asked - _LINKS):
            return match.group(0)
    return ""
