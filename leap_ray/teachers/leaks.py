"""Does a reason say what only the privileged state holds? (LEAP: a correction must be realizable by the student.)

Four kinds of leak are looked for, by the shape of the privileged state's secrets:

- *name*: an instance, attribute, option or product that the student has not seen ("apple 3", "stain resistant");
- *code*: a gold command or output: a long run of its tokens, or one of its literals (a path, a number, a file name);
- *claim*: where something is, stated as a fact, before the student has seen it there ("the apple is in the fridge");
- *source*: words that give away where the knowledge comes from ("according to the privileged state").

What the student has seen (task, observations, candidate actions so far) is no secret. A guess is no claim: "mugs are often near
the sink" is what a teacher should say. The check reads words, not meaning: `experiments/benchmarks/leaks.py` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from leap_ray.envs.base import PrivilegedState
from leap_ray.types import Episode

LOCATIONS = ("locations", "targets", "lights")  # entries of a privileged state's facts that map a thing to its place
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
)
_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SOURCE = re.compile(
    r"\b(privileged|hidden (state|information|info|facts?|tests?|attributes?|goal|criteria)|ground[- ]truth"
    r"|gold(en)? (command|query|answer|output|solution|standard|label)"
    r"|reference (command|query|answer|solution)|(answer|solution) key|simulator('s)? (state|facts?)|oracle|cheat ?sheet"
    r"|(i|we) (was|were|am|have been) (told|given|shown|informed) (that|where|the)|secretly|behind the scenes"
    r"|target (product|item|command|location) is|expected output (is|of)|according to the (state|facts|teacher|coach|notes))\b"
)
_HEDGE = re.compile(
    r"\b(might|may|maybe|could|perhaps|likely|probably|possibl[ey]|often|usual(ly)?|typical(ly)?|common(ly)?|tends?"
    r"|sometimes|generally|normally|whether|if|unless|would|should be|expect|guess|hope|looks? like|see if|check|search"
    r"|look(ing)? (for|in|into|at)|haven't|have not|not yet|unsearched|unexplored|plausible|sensible|natural"
    r"|good (place|spot)|try|find out|where|belongs?|supposed|needs? to|has to|have to|must|want|plan|will|then|once|after"
    r"|ready to)\b"
)
_PUT = re.compile(r"\b(put|place|move|bring|leave|drop|set|return|carry|store|heat|cool|clean|wash|rinse)\b")
_STATES = re.compile(
    r"\b(is|are|'s|lies|lie|sits|sit|waits|rests|stands|was|were|located|stored|kept|hidden|waiting|contains?|holds?|has|have"
    r"|there(?: is|'s| are)|inside|empty|left|lying|sitting|resting|standing)\b"
)
_FETCH = re.compile(r"\b(take|grab|get|fetch|collect|retrieve|pick(ing)? up|taking|getting|grabbing)\b")
_PRESUMES = re.compile(r"\b(check|search|see|look(ing)?|find|need|might|may|could|if|whether|then|once|after)\b")
_CODE = re.compile(
    r"[|/$*{}()<>;=\\`]|\s-{1,2}[a-zA-Z]|^-|\b(select|from|where|def|return|import|grep|awk|sed|find)\b", re.I
)
_TOKEN = re.compile(r"[A-Za-z0-9_./*+~%@-]+|\S")
_ENDS = ".,;:!?\"'`()[]{}"
_STOPWORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "for",
        "with",
        "and",
        "or",
        "to",
        "in",
        "on",
        "at",
        "by",
        "from",
        "is",
        "are",
        "pack",
        "set",
        "size",
        "color",
        "x",
        "inch",
        "inches",
        "count",
        "piece",
        "pieces",
        "new",
    ]
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
    for secret in privileged.secrets:
        if leak := _secret(secret, reason, seen, said, known):
            found.append(leak)
    found += _claims(said, known, privileged)
    return list(dict.fromkeys(found))


def seen_until(episode: Episode, t: int) -> str:
    """All that the student has seen when it chooses action t."""
    parts = [episode.instruction]
    for step in episode.steps[: t + 1]:
        parts += [step.observation, "\n".join(step.candidates)]
    return "\n".join(parts)


def normal(text: str) -> str:
    """Lower case, one space, number words and ordinals as digits, `apple #3` as `apple 3`."""
    text = text.casefold().replace("’", "'").replace("‘", "'")
    text = re.sub(r"(?<=[a-z]) ?(?:#|no\. ?|number )(\d+)\b", r" \1", text)
    text = re.sub(r"\b([a-z]+)[_-](\d+)\b", r"\1 \2", text)
    text = re.sub(rf"(?<=[a-z] )({'|'.join(_NUMBERS)})\b", lambda m: str(_NUMBERS.index(m.group(1))), text)
    ordinal = rf"\b({'|'.join(_ORDINALS)}) ([a-z]+)\b"
    text = re.sub(ordinal, lambda m: f"{m.group(2)} {_ORDINALS.index(m.group(1))} {m.group(0)}", text)
    return " ".join(text.split())


def _secret(secret: str, reason: str, seen: str, said: str, known: str) -> Leak | None:
    plain = normal(secret)
    if not plain or _has(known, plain):
        return None
    if _CODE.search(secret) or (any(c.isdigit() for c in plain) and not re.fullmatch(r"[a-z ]+ \d+", plain)):
        return _code(secret, reason, seen)
    if len(plain.split()) >= 4:
        return _title(plain, said, known) or _proper(plain, reason, known)
    if _flexible(plain).search(said) or _has(_loose(said), _loose(plain)):
        return Leak("name", secret)
    return None


def _has(text: str, phrase: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(phrase)}(?![\w])", text) is not None


@lru_cache(maxsize=4096)
def _flexible(name: str) -> re.Pattern[str]:
    """A name in one word or in several: `garbagecan 1` is also "garbage can 1"."""
    letters = ["[ -]?".join(map(re.escape, word)) for word in name.split()]
    return re.compile(rf"(?<!\w){' '.join(letters)}(?!\w)")


@lru_cache(maxsize=4096)
def _kind(name: str) -> re.Pattern[str]:
    """The kind of an instance, named without a number."""
    letters = "[ -]?".join(map(re.escape, re.sub(r" \d+$", "", name).replace(" ", "")))
    return re.compile(rf"(?<!\w){letters}(?:s|es)?(?!\w)(?! \d)")


def _loose(text: str) -> str:
    """Without hyphens and plural s: "stain-resistant shirts" is "stain resistant shirt"."""
    return re.sub(r"(?<=[a-z]{3})s\b", "", text.replace("-", " "))


def _code(secret: str, reason: str, seen: str) -> Leak | None:
    """A long run of one of its lines' tokens, or a literal out of it, that was not seen."""
    for line in secret.splitlines():
        tokens, said, known = _tokens(line), _tokens(reason), _tokens(seen)
        plain = [token for token in tokens if token[0].isalnum() or len(token) > 1]
        spoken = [token for token in said if token[0].isalnum() or len(token) > 1]
        run = _common_run(plain, spoken, max(3, (len(plain) + 1) // 2))
        raw = _common_run(tokens, said, 5)  # signs included: nobody writes those by chance
        run = run or (raw if any(not token[0].isalnum() and len(token) == 1 for token in raw) else [])
        if run and not _common_run(run, known, len(run)):
            return Leak("code", " ".join(run))
    return _literals(secret, reason, seen)


def _literals(secret: str, reason: str, seen: str) -> Leak | None:
    """A path, a file name, a number of the secret that the reason names and the student has not seen."""
    inside, known = secret.casefold(), seen.casefold()
    for token in _tokens(reason):
        if _literal(token) and _has(inside, token) and not _has(known, token):
            return Leak("code", token)
    digit = re.fullmatch(r"\W*(\d)\W*", secret)
    saying = r"\b(answer|output|result|count|total|prints?|returns?)\b[^.]*"
    if digit and re.search(rf"{saying}\b{digit.group(1)}\b", reason.casefold()):
        return Leak("code", digit.group(1))
    return None


def _tokens(text: str) -> list[str]:
    """Words, paths, flags and single signs; a sentence's own punctuation at the end of a word is left out."""
    found = (token.strip(_ENDS) if len(token) > 1 else token for token in _TOKEN.findall(text.casefold()))
    return [token for token in found if token and token not in ".,;:!?\"'`"]


def _literal(token: str) -> bool:
    """A token that one does not simply guess: a path, a file name, a number of two digits or more. No flag, no plain word."""
    if token.startswith("-") or len(token) < 2:
        return False
    path = r"[/~.]?[\w.*-]*(/[\w.*-]*)+"
    return bool(re.fullmatch(rf"{path}|[\w*-]+\.[a-z]\w{{0,4}}|\d[\d.,:]+|[a-z]+_\w+|\w*\d\w*[a-z]\w*", token))


def _common_run(tokens: list[str], said: list[str], need: int) -> list[str]:
    """The longest run of `tokens` that stands in `said`, if it has at least `need`."""
    best: list[str] = []
    for i in range(len(tokens)):
        for j in range(len(said)):
            k = 0
            while i + k < len(tokens) and j + k < len(said) and tokens[i + k] == said[j + k]:
                k += 1
            if k > len(best):
                best = tokens[i : i + k]
    return best if len(best) >= need else []


def _title(title: str, said: str, known: str) -> Leak | None:
    """A product's title: four of its words in a row, or most of those that say something, beyond what was seen."""
    words, spoken = re.findall(r"[\w']+", title), re.findall(r"[\w']+", said)
    if (run := _common_run(words, spoken, 4)) and not _has(" ".join(re.findall(r"[\w']+", known)), " ".join(run)):
        return Leak("name", " ".join(run))
    telling = {word for word in words if word not in _STOPWORDS and not _has(known, word)}
    named = telling & set(spoken)
    if len(named) >= 2 and len(named) >= 0.4 * len(telling):
        return Leak("name", " ".join(sorted(named)))
    return None


def _proper(title: str, reason: str, known: str) -> Leak | None:
    """A word of the title that the reason writes as a name: with a capital in the middle of a sentence."""
    words = set(re.findall(r"[\w']+", title))
    for name in re.findall(r"(?<=[\w,;] )[A-Z][a-z]{2,}\b", reason):
        if name.casefold() in words and not _has(known, name.casefold()):
            return Leak("name", name)
    return None


def _claims(said: str, known: str, privileged: PrivilegedState) -> Iterable[Leak]:
    """Sentences that state where a thing is, which is true, and which nothing seen so far shows."""
    maps = [privileged.facts.get(key) for key in LOCATIONS]
    where = {str(k): str(v) for entry in maps if isinstance(entry, Mapping) for k, v in entry.items()}
    sentences = re.split(r"(?<=[.!?;])\s+|, (?:so|and|but) ", said)
    for thing, place in where.items():
        thing, place = normal(thing), normal(place)
        for sentence in sentences:
            if _states(sentence, thing, place) and not _observed(known, thing, place):
                yield Leak("claim", sentence.strip())


def _states(sentence: str, thing: str, place: str) -> bool:
    at, there = _mention(sentence, thing), _mention(sentence, place)
    if at is None or there is None or at == there:
        return False
    if _FETCH.search(sentence) and not _PRESUMES.search(sentence):
        return not _PUT.search(sentence)
    return bool(_STATES.search(sentence)) and not _HEDGE.search(sentence) and not _PUT.search(sentence)


def _mention(sentence: str, name: str) -> int | None:
    """Where the sentence names it: the instance, or its kind without a number."""
    found = _flexible(name).search(sentence) or _kind(name).search(sentence)
    return found.start() if found else None


def _observed(known: str, thing: str, place: str) -> bool:
    """Whether one sentence of what was seen holds both."""
    kind = re.sub(r" \d+$", "", thing)
    return any(
        re.search(rf"\b{re.escape(place)}\b", part) and re.search(rf"\b{re.escape(kind)}\b", part)
        for part in re.split(r"(?<=\.) |\n", known)
        if "you see" in part or "pick up" in part or "move the" in part or " in it" in part
    )
