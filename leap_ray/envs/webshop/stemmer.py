"""Porter's stemmer (Porter, 1980) with its author's own later changes (`bli`, `logi`, words of two letters), as Lucene has it.

NLTK's `MARTIN_EXTENSIONS` mode gives the same stems; importing it costs every environment process 1.3 s and 160 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

VOWELS = frozenset("aeiou")
_STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"), ("alli", "al"),
    ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"),
    ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"),
    ("logi", "log"),
)  # fmt: skip
_STEP_3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""),
)  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous",
    "ive", "ize",
)  # fmt: skip


def stem(word: str) -> str:
    """The stem of a word in lower case."""
    if len(word) <= 2:
        return word
    word = _past(_plural(word))
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = f"{word[:-1]}i"
    for rules in (_STEP_2, _STEP_3):
        word = _replaced(word, rules)
    return _tidied(_without_ending(word))


def _plural(word: str) -> str:
    """Step 1a."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    """Step 1b."""
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for ending in ("ed", "ing"):
        start = word[: -len(ending)]
        if word.endswith(ending) and _has_vowel(start):
            break
    else:
        return word
    if start.endswith(("at", "bl", "iz")):
        return f"{start}e"
    if len(start) >= 2 and start[-1] == start[-2] and _forms(start)[-1]:
        return start if start[-1] in "lsz" else start[:-1]
    return f"{start}e" if _measure(start) == 1 and _is_short(start) else start


def _replaced(word: str, rules: Sequence[tuple[str, str]]) -> str:
    """Steps 2 and 3: the first ending that the word has is replaced, if enough of a word stands before it."""
    for ending, new in rules:
        if word.endswith(ending):
            start = word[: -len(ending)]
            return start + new if _measure(start) > 0 else word
    return word


def _without_ending(word: str) -> str:
    """Step 4."""
    for ending in _STEP_4:
        if word.endswith(ending):
            start = word[: -len(ending)]
            drops = _measure(start) > 1 and (ending != "ion" or start[-1] in "st")
            return start if drops else word
    return word


def _tidied(word: str) -> str:
    """Steps 5a and 5b."""
    if word.endswith("e"):
        start = word[:-1]
        measure = _measure(start)
        if measure > 1 or (measure == 1 and not _is_short(start)):
            word = start
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _forms(word: str) -> list[bool]:
    """For each letter, whether it is a consonant; y is one at the start and after a vowel."""
    forms: list[bool] = []
    for letter in word:
        forms.append(letter not in VOWELS and (letter != "y" or not forms or not forms[-1]))
    return forms


def _measure(word: str) -> int:
    """How often a vowel is followed by a consonant."""
    forms = _forms(word)
    return sum(not before and after for before, after in pairwise(forms))


def _has_vowel(word: str) -> bool:
    return not all(_forms(word))


def _is_short(word: str) -> bool:
    """Whether it ends in consonant, vowel, consonant, the last not w, x or y."""
    return len(word) >= 3 and _forms(word)[-3:] == [True, False, True] and word[-1] not in "wxy"
