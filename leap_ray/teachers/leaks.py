"""Does a reason say what only the privileged state holds? (LEAP: a correction must be realizable by the student.)

Four kinds of leak are looked for, by the shape of the privileged state's secrets:

- *name*: an instance, attribute, option or product that the student has not seen ("apple 3", "stain resistant");
- *code*: a gold command or output: a long run of its tokens, or one of its literals (a path, a number, a name);
- *claim*: where something is, stated as a fact, before the student has seen it there ("the apple is in the fridge");
- *source*: words that give away where the knowledge comes from ("according to the privileged state").

What the student has seen (task, observations, candidate actions so far) is no secret. A guess is no claim: "mugs are often near
the sink" is what a teacher should say. The check reads words, not meaning: `experiments/benchmarks/leaks.py` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from leap_ray.envs.base import PrivilegedState
from leap_ray.teachers.wording import INSTANCE, has, normal, numbered, stem, unnumbered, words
from leap_ray.types import Episode

LOCATIONS = ("locations", "targets", "lights")  # entries of a privileged state's facts that map a thing to its place
_SOLUTION = r"(command|query|answer|output|solution|standard|label|code|program|script|statement|result|list)"
_SOURCE = re.compile(
    r"\b(privileged|hidden (state|information|info|facts?|tests?|attributes?|goal|criteria|requirements?)|ground[- ]truth"
    rf"|(gold(en)?|reference) {_SOLUTION}|(answer|solution) key|simulator('s)? (state|facts?)|oracle|cheat ?sheet"
    r"|(i|we) (was|were|am|have been) (told|given|shown|informed) (that|where|the)|secretly|behind the scenes"
    r"|(evaluation|grading|scoring) (criteria|criterion|rules?)|(the|my|a) (hints?|clues?|notes?) (says?|tells?|points?|shows?)"
    r"|(the|hidden|unit) (tests?|assertions?|asserts?)( \w+)* (calls?|expects?|asks?|wants?|requires?|demands?|needs?)"
    r"|target (product|item|command|location) is|(i know|expected) (the )?(output|result|answer) (is|of)"
    r"|according to the (state|facts|teacher|coach|notes))\b"
)

# --- claims: T stands for the thing, S for several of its kind, P for the place
_GUESS = re.compile(
    r"\b(might|may|maybe|could|perhaps|likely|probably|possibl[ey]|often|usual(ly)?|typical(ly)?|common(ly)?|tends?"
    r"|sometimes|generally|normally|whether|if|unless|would|should|expect|guess|hope|looks? like|seems?|belongs?|supposed"
    r"|think|believe|suspect|suppose|worth|plausible|sensible|natural|in case|wonder|good (place|spot)|likel[iy]\w*)\b"
)
_INTENT = re.compile(
    r"\b(see if|check|search|look(ing)? (for|in|into|at)|haven't|have not|not yet|unsearched|unexplored|try|find out|where"
    r"|needs? to|has to|have to|must|want|plan|will|then|once|after|ready to|goal|task)\b"
)
_MODAL = re.compile(r"\b(could|would|should)\b")
_PUT = re.compile(
    r"\b(?:put|place|move|bring|leave|drop|set|return|carry|store|heat|cool|clean|wash|rinse)"
    r"(?: [\w'-]+){0,3}? (?:[TS]|it|one|them)\b"
)
_PRESUMES = re.compile(r"\b(check|search|see|look(ing)?|find|need|then|once|after|when|until|before)\b")
_NEGATION = re.compile(r"\b(no|not|never|nothing|neither|without|\w+n't)\b")
_AT = r"(?:in|on|inside|at|under|behind|within|by|near)"
_BE = (
    r"(?:is|are|'s|was|were|lies?|sits?|stands?|hangs?|rests?|waits?|stays?|remains?|left|stored|hidden|located|kept|found"
    r"|awaits?|resides?|lying|sitting|waiting|placed)"
)
_FETCH = r"(?:take|grab|get|fetch|collect|retrieve|pick(?:ing)? up|taking|getting|grabbing|fetched|taken|collected)"


def _up_to(count: int) -> str:
    """At most so many words, no sign but spaces between them."""
    return rf"(?: [\w'-]+){{0,{count}}}?"


_CLAIMS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"[TS](?:'s|,?{_up_to(3)} {_BE}){_up_to(3)} {_AT}{_up_to(4)} P",  # the apple is in the fridge
        rf"P(?:, (?:which|that))?{_up_to(2)} (?:has|have|contains?|holds?|houses|hides|stores|keeps)[^.;]{{0,30}}? [TS]",
        rf"P{_up_to(3)} with{_up_to(2)} [TS]",  # the fridge is the one with an apple in it
        rf"(?:you|i|we)(?:'ll| will| can) find{_up_to(3)} [TS]{_up_to(2)} {_AT}{_up_to(3)} P",
        rf"there(?:'s| is| are| was|'re){_up_to(4)} [TS]{_up_to(3)} {_AT}{_up_to(4)} P",
        rf"{_AT}{_up_to(2)} P,?{_up_to(2)} (?:{_BE}|i (?:will |can )?(?:find|get|take|grab)){_up_to(3)} [TS]",
        rf"[TS]\b.*\bone {_AT}{_up_to(2)} P",  # two apples: one in the fridge
    )
)
_WHERE = re.compile(rf"P\b.*\bwhere{_up_to(4)} [TS]{_up_to(2)} {_BE}\b")  # the fridge, where the apple is
_FETCH_FROM = re.compile(
    rf"\b(?:{_FETCH}|pick(?:ing)?){_up_to(3)} [TS]{_up_to(2)} (?:from|out of|off){_up_to(3)} P"
    rf"|[TS]{_up_to(3)} {_FETCH} (?:from|out of|off){_up_to(3)} P"
)
_IT = re.compile(rf"\b(?:it|they)(?= ?{_BE}\b)")
_GO_AND_FETCH = re.compile(rf"P(?:,| and| to){_up_to(3)} {_FETCH}{_up_to(3)} [TS]")  # to the fridge to get the apple
_THERE = re.compile(rf"[TS]{_up_to(6)} {_AT}{_up_to(3)} P|P\b.* the [TS] there\b")  # the apple in the fridge
_GENERAL = re.compile(r"(?<!the )(?<!of the )(?<!both )(?<!these )\bS (?:are )?(?:kept|stored|found|put|left|go)\b")

# --- code
_CODE = re.compile(
    r"[|/$*{}()<>;=\\`]|\s-{1,2}[a-zA-Z]|^-|\b(select|from|where|def|return|import|grep|awk|sed|find)\b", re.I
)
_TOKEN = re.compile(r"[A-Za-z0-9_./*+~%@-]+|\S")
_ENDS = ".,;:!?\"'`()[]{}"
_ANSWER = r"\b(answer|output|result|count|total|prints?|returns?|expected|submit|there (?:are|is|should be|must be|will be))\b"
_DIGIT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# --- attributes and titles
_STOPWORDS = frozenset(
    (
        *("a", "an", "the", "of", "for", "with", "and", "or", "to", "in", "on", "at", "by", "from", "is", "are"),
        *("pack", "set", "size", "color", "x", "inch", "inches", "count", "piece", "pieces", "new"),
    )
)
_LINKS = frozenset(
    (
        *("in", "the", "that", "are", "is", "of", "by", "for", "with", "a", "an", "to", "can", "be", "must", "it"),
        *("its", "has", "have", "should", "them", "these", "from", "made"),
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
    r" (?:to|query|queries|search|searches|step|change|changes|list|number|phrase|part|start|way|thing|things|move|amount"
    r"|difference|problem|set|word|words|of|by|page|result|results|description|match|choice|idea)\b"
)


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing given away: its kind (name, code, claim, source) and the words."""

    kind: str
    words: str


def find_leaks(reason: str, seen: str, privileged: PrivilegedState) -> list[Leak]:
    """What `reason` gives away to one who has seen only `seen`. Empty where it is clean."""
    said, known = normal(reason), normal(seen)
    found = [Leak("source", m.group(0)) for m in [_SOURCE.search(said)] if m]
    for secret in _secrets(privileged):
        is_title = secret == privileged.facts.get("product") or _looks_like_a_title(secret)
        if leak := _secret(secret, is_title, reason, seen, said, known):
            found.append(leak)
    found += _claims(said, known, privileged)
    return list(dict.fromkeys(found))


def seen_until(episode: Episode, t: int) -> str:
    """All that the student has seen when it chooses action t: the task, its actions so far, and what each step showed."""
    parts = [episode.instruction]
    for step in episode.steps[:t]:
        parts += [step.observation, "\n".join(step.candidates), step.action]
    step = episode.steps[t]
    return "\n".join([*parts, step.observation, "\n".join(step.candidates)])


def _secrets(privileged: PrivilegedState) -> Iterator[str]:
    """The secrets, each once, and what the facts hold besides: every instance they name, and a gold output."""
    found = dict.fromkeys(privileged.secrets)
    if any(privileged.facts.get(key) for key in LOCATIONS):
        found |= dict.fromkeys(
            name for text in _texts(privileged.facts) for name in re.findall(r"\b[a-z]+ \d+\b", text)
        )
    found |= dict.fromkeys(str(privileged.facts[key]) for key in ("gold", "output") if privileged.facts.get(key))
    yield from found


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _texts(inner)


def _looks_like_a_title(secret: str) -> bool:
    """Four words or more, most of them written with a capital: no sentence, no command."""
    parts = secret.split()
    return len(parts) >= 4 and 2 * sum(bool(re.match(r"\W?[A-Z][a-z]", part)) for part in parts) > len(parts)


def _secret(secret: str, is_title: bool, reason: str, seen: str, said: str, known: str) -> Leak | None:
    """The leak of one secret, judged by what it looks like: an instance, code, a title, an attribute."""
    plain = normal(secret)
    if not plain or has(known, plain):
        return None
    if is_title:
        return _title(plain, reason, said, known)
    if option := _option(plain):
        offered = all(has(known, word) for word in option.split())
        return Leak("name", secret) if has(_spaced(said), option) and not offered else None
    if INSTANCE.fullmatch(plain):
        pattern = numbered(plain)
        return Leak("name", secret) if pattern.search(said) and not pattern.search(known) else None
    if _CODE.search(secret) or any(c.isdigit() for c in plain) or plain[0] in "[(":
        return _code(secret, reason, seen)
    if len(plain.split()) >= 4:
        return _title(plain, reason, said, known)
    return Leak("name", secret) if _attribute(plain, said) and not _attribute(plain, known) else None


# --- attributes, options, titles


def _attribute(name: str, text: str) -> bool:
    """Whether the text names an attribute: as it is, inflected, or with its words the other way round."""
    wanted, spoken = [stem(word) for word in words(name)], [stem(word) for word in words(text)]
    if len(wanted) == 1:
        return _word(name, text)
    turned = [wanted[i:] + wanted[:i] for i in range(len(wanted))]
    if "".join(wanted) in spoken or any(_linked(order, spoken, words(text)) for order in (*turned, wanted[::-1])):
        return True
    first, *middle, last = words(name)
    if first in ("non", "no") or last == "free":  # non gmo, sugar free
        return _lacks([stem(word) for word in ([*middle, last] if last != "free" else [first, *middle])], words(text))
    return False


def _linked(wanted: list[str], spoken: list[str], text: list[str]) -> bool:
    """Whether the stems stand in this order with nothing but small words between: "washable in the machine"."""
    for i, word in enumerate(spoken):
        if word != wanted[0]:
            continue
        at, left = i, list(wanted[1:])
        while left and at + 1 < len(spoken) and (spoken[at + 1] == left[0] or (text[at + 1] in _LINKS and at - i < 5)):
            at += 1
            if spoken[at] == left[0]:
                left.pop(0)
        if not left:
            return True
    return False


def _word(name: str, text: str) -> bool:
    """Whether a one-word value is named as a value: "small" is not in "a small step"."""
    pattern = rf"(?<![\w-]){re.escape(name)}s?(?!\w)"
    return any(name not in _VAGUE or not _TALK.match(text, m.end()) for m in re.finditer(pattern, text))


def _lacks(thing: list[str], text: list[str]) -> bool:
    """Whether the text says that something is without this: "no GMOs", "must not contain sugar", "free of nuts"."""
    spoken = [stem(word) for word in text]
    places = [i for i in range(len(spoken)) if spoken[i : i + len(thing)] == thing]
    return any({"no", "not", "non", "without", "free", "zero"} & set(text[max(0, i - 3) : i]) for i in places)


def _option(plain: str) -> str | None:
    """An option's value with a number ("4 pound (pack of 1)", "size 8", "50x60 inch") in its telling words; None: it is none."""
    main = _spaced(re.sub(r"\(.*?\)", "", plain))
    value = re.fullmatch(r"(?:[a-z]+ )?\d[\w.]*(?: x \d[\w.]*)?(?: [a-z]+){1,2}|(?:size|pack of) \d[\w.]*", main)
    return main if value else None


def _spaced(text: str) -> str:
    return " ".join(text.replace("-", " ").split())


def _title(title: str, reason: str, said: str, known: str) -> Leak | None:
    """A product's title: a run of its words or most of those that say something, beyond what was seen, or its brand."""
    seen = {stem(word) for word in words(known)}
    of_title, spoken = words(title), words(said)
    telling = {w for w in of_title if w not in _STOPWORDS and stem(w) not in seen and len(w) > 1}
    run = _common_run(of_title, spoken, 4)
    if telling & set(run):
        return Leak("name", " ".join(run))
    stems = {stem(word) for word in spoken}
    named = {word for word in telling if stem(word) in stems}
    if len(named) >= 2 and len(named) >= 0.4 * len(telling):
        return Leak("name", " ".join(sorted(named)))
    return _brand(of_title, telling, reason)


def _brand(title: list[str], telling: set[str], reason: str) -> Leak | None:
    """A word of the title that the reason writes as a name, with a capital: the brand anywhere, others within a sentence."""
    for name in re.finditer(r"[A-Z][A-Za-z]{2,}(?:'s)?", reason):
        word = normal(name.group(0))
        first = re.search(r"(^|[.!?:] )$", reason[: name.start()])
        if word in telling and (not first or word == title[0]):
            return Leak("name", name.group(0))
    return None


# --- code


def _code(secret: str, reason: str, seen: str) -> Leak | None:
    """A long run of one of its lines' tokens, several of its harder tokens, or a literal out of it, that was not seen."""
    said, known = _tokens(reason), _tokens(seen)
    for line in secret.splitlines():
        tokens = _tokens(line)
        plain = _wordy(tokens)
        run = _common_run(plain, _wordy(said), max(3, (len(plain) + 1) // 2))
        if run and not _common_run(run, _wordy(known), len(run)):
            return Leak("code", " ".join(run))
        run = _common_run(tokens, said, 5)  # signs included: nobody writes those by chance
        if any(len(token) == 1 and not token.isalnum() for token in run) and not _common_run(run, known, len(run)):
            return Leak("code", " ".join(run))
        hard = {token for token in tokens if re.fullmatch(r"-{1,2}\w[\w-]*|[a-z]\w*\.[a-z]\w*|\{\}", token)} - set(
            known
        )
        if len(hard & set(said)) >= 3:
            return Leak("code", " ".join(sorted(hard & set(said))))
    return _literals(secret, reason, seen)


def _wordy(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The tokens without single signs."""
    return tuple(token for token in tokens if token[0].isalnum() or len(token) > 1)


def _literals(secret: str, reason: str, seen: str) -> Leak | None:
    """A path, a file name, a number, a quoted text or a value of the secret that the reason names and was not seen."""
    inside, said, known = normal(secret), normal(reason), normal(seen)
    for token in _tokens(said):
        core = token.strip("*./")
        if _literal(token) and has(inside, token) and not has(known, token) and not has(known, core):
            return Leak("code", token)
    quoted = {
        text.strip() for pair in re.findall(r"\"([^\"]{3,})\"|'([^']{3,})'", secret) for text in pair if text.strip()
    }
    for text in sorted(quoted):
        spoken = has(said, text.casefold()) and (
            inside.startswith("assert") or re.search(rf"[\"'`]{re.escape(text)}", reason)
        )
        core = text.casefold().strip("*./ ")
        if spoken and core and not has(known, text.casefold()) and not has(known, core):
            return Leak("code", text)
    return _digit(secret, said) or _value(secret, reason, known)


def _digit(secret: str, said: str) -> Leak | None:
    """An output that is one digit, said of the answer and not of something else."""
    digit = re.fullmatch(r"\W*(\d)\W*", secret)
    if digit and re.search(rf"{_ANSWER}[^.]*\b({digit.group(1)}|{_DIGIT[int(digit.group(1))]})\b", said):
        return Leak("code", digit.group(1))
    if digit and re.search(rf"\b{digit.group(1)}\b[^.]*\b(is|as) the (answer|output|result|count|total)\b", said):
        return Leak("code", digit.group(1))
    return None


def _value(secret: str, reason: str, known: str) -> Leak | None:
    """A name out of an output: a word with a capital there and in the reason; at a sentence's start only out of a table."""
    table = secret.lstrip().startswith(("[", "("))
    names = (
        set(re.findall(r"(?<![\w.])[A-Z][a-z]{2,}(?![\w.])", secret)) if not _CODE.search(secret) or table else set()
    )
    for match in re.finditer(r"(?<![\w.])[A-Z][a-z]{2,}(?![\w])", reason):
        first = re.search(r"(^|[.!?:] )$", reason[: match.start()])
        if match.group(0) in names and (table or not first) and not has(known, match.group(0).casefold()):
            return Leak("code", match.group(0))
    return None


@lru_cache(maxsize=256)
def _tokens(text: str) -> tuple[str, ...]:
    """Words, paths, flags and single signs; a sentence's own punctuation at the end of a word is left out."""
    found = (token.strip(_ENDS) if len(token) > 1 else token for token in _TOKEN.findall(text.casefold()))
    return tuple(token for token in found if token and token not in ".,;:!?\"'`")


def _literal(token: str) -> bool:
    """A token that one does not simply guess: a path, a file name, a number of two digits or more. No flag, no plain word."""
    if token.startswith("-") or len(token) < 2:
        return False
    path = r"[/~.]?[\w.*-]*(/[\w.*-]*)+"
    return bool(re.fullmatch(rf"{path}|[\w*-]+\.[a-z]\w{{0,4}}|\d[\d.,:]+|[a-z]+_\w+|\w*\d\w*[a-z]\w*", token))


def _common_run(tokens: Sequence[str], said: Sequence[str], need: int) -> Sequence[str]:
    """The longest run of `tokens` that stands in `said`, if it has at least `need`."""
    best: Sequence[str] = ()
    for i in range(len(tokens)):
        for j in range(len(said)):
            k = 0
            while i + k < len(tokens) and j + k < len(said) and tokens[i + k] == said[j + k]:
                k += 1
            if k > len(best):
                best = tokens[i : i + k]
    return best if len(best) >= need else ()


# --- claims


def _claims(said: str, known: str, privileged: PrivilegedState) -> Iterator[Leak]:
    """Sentences that state where a thing is, which is true, and which nothing seen so far shows."""
    maps = [privileged.facts.get(key) for key in LOCATIONS]
    where = {str(k): str(v) for entry in maps if isinstance(entry, Mapping) for k, v in entry.items()}
    sentences = [clause for sentence in re.split(r"(?<=[.!?;])\s+", said) for clause in _clauses(sentence)]
    for thing, place in where.items():
        thing, place = normal(thing), normal(place)
        for before, sentence in sentences:
            marked = _marked(sentence, thing, place)
            if not re.search("[TS]", marked) and re.search("[TS]", _marked(before, thing, place)):
                marked = _IT.sub("T", marked)  # the apple was thrown away, so it is in the garbage
            if _states(marked) and not _observed(known, thing, place):
                yield Leak("claim", sentence.strip())


def _clauses(sentence: str) -> Iterator[tuple[str, str]]:
    """(what came before in the sentence, the clause) for each of its clauses."""
    clauses = re.split(r", (?:so|and|but) ", sentence)
    for i, clause in enumerate(clauses):
        yield " ".join(clauses[:i]), clause


def _marked(sentence: str, thing: str, place: str) -> str:
    """The sentence with T for the thing, S for several of its kind and P for the place; the longer name first."""
    for name in sorted((thing, place), key=len, reverse=True):
        mark = "P" if name == place else "T"
        if INSTANCE.fullmatch(name):
            sentence = numbered(name).sub(mark, sentence)
            several = mark.replace("T", "S")
            sentence = unnumbered(name).sub(lambda m, s=several, o=mark: s if m.group(0).endswith("s") else o, sentence)
        else:
            sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", mark, sentence)
    return sentence


def _states(sentence: str) -> bool:
    """Whether a marked sentence states that T is at P, or acts as if it were known."""
    if "P" not in sentence or not re.search("[TS]", sentence):
        return False
    sentence = re.sub(r"\bnot\b.*?\bbut ", "", sentence)
    puts = _PUT.search(sentence)
    fetch = _FETCH_FROM.search(sentence)
    if fetch and not _GUESS.search(_MODAL.sub("", sentence)):
        return not puts and not _PRESUMES.search(sentence[: fetch.start()])
    if _GUESS.search(sentence):
        return False
    if _WHERE.search(sentence):
        return True
    if any(m and not _NEGATION.search(m.group(0)) for m in (pattern.search(sentence) for pattern in _CLAIMS)):
        return not puts and not _GENERAL.search(sentence)
    if _GO_AND_FETCH.search(sentence):
        return not puts and not _PRESUMES.search(sentence)
    there = _THERE.search(sentence)
    return bool(there) and not (puts or _INTENT.search(sentence) or _NEGATION.search(sentence))


def _observed(known: str, thing: str, place: str) -> bool:
    """Whether one sentence of what was seen holds both."""
    kind = re.sub(r" \d+$", "", thing)
    return any(
        has(part, place) and has(part, kind)
        for part in re.split(r"(?<=\.) |\n", known)
        if "you see" in part or "pick up" in part or "move the" in part or " in it" in part
    )
