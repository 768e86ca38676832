"""How people write the names, numbers and attributes that a privileged state holds: spellings, plurals, numerals, stems.

Used by the leak check; synonyms come with the secrets, from the domain. All functions expect or return `normal` text: lower
case, one space, numbers in digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {**{word: i for i, word in enumerate(_UNITS)}, **{word: 10 * i for i, word in enumerate(_TENS, 2)}}
_ONES = "|".join(sorted(_UNITS, key=len, reverse=True))
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_UNITS[1:10])})\b)?|{_ONES})"
_BELOW_1000 = rf"(?:(?:{_BELOW_100}[ -]|an? )?hundred(?:[ -](?:and )?{_BELOW_100}\b)?|{_BELOW_100})"
_BELOW_MILLION = rf"(?:(?:{_BELOW_1000}[ -])?thousand(?: (?:and )?{_BELOW_1000}\b)?|{_BELOW_1000})"
_NUMERAL = re.compile(rf"\b(?:(?:{_BELOW_1000} )?million(?: (?:and )?{_BELOW_MILLION}\b)?|{_BELOW_MILLION})\b")
_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
INSTANCE = re.compile(r"[a-z][a-z ]* \d+")
_POINT = re.compile(rf"\b(\d+|{_BELOW_1000}) point ((?:(?:{'|'.join(_UNITS[:10])}|\d)\b ?)+)")


@lru_cache(maxsize=1024)
def normal(text: str) -> str:
    """Lower case, plain quotes, one space, no separators in large numbers, and numbers from ten on in digits."""
    text = text.casefold().replace("’", "'").replace("‘", "'")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d) ?(?:x|by|×) ?(?=\d)", "x", text)
    text = _POINT.sub(_with_point, text)
    text = _NUMERAL.sub(_in_digits, text)
    return " ".join(text.split())


def _with_point(match: re.Match[str]) -> str:
    """ "thirteen point eight five" as 13.85."""
    whole = match.group(1) if match.group(1).isdigit() else all_digits(match.group(1))
    return f"{whole}.{all_digits(match.group(2)).replace(' ', '')}" + (" " if match.group(0).endswith(" ") else "")


def all_digits(text: str) -> str:
    """The text with every numeral in digits, small ones too."""
    return _NUMERAL.sub(lambda match: str(_value(match.group(0))), text)


def _in_digits(match: re.Match[str]) -> str:
    """The numeral's value; a single word below ten stays: it may be no number ("the other one")."""
    value = _value(match.group(0))
    return match.group(0) if value < 10 else str(value)


def _value(numeral: str) -> int:
    spoken = [word for word in re.findall(r"[a-z]+", numeral) if word not in ("and", "a")]
    total = part = 0
    for word in spoken:
        if scale := {"thousand": 1000, "million": 1_000_000}.get(word):
            total, part = total + max(1, part) * scale, 0
        else:
            part = max(1, part) * 100 if word == "hundred" else part + _VALUES[word]
    return total + part


def has(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


@lru_cache(maxsize=4096)
def _kind(kind: str, aliases: tuple[str, ...]) -> str:
    """Pattern of a kind of thing: in one word or several, in the singular or plural, or by what people call it."""
    spellings = []
    for name in (kind, *aliases):
        letters = "[ -]?".join(map(re.escape, name.replace(" ", "")))
        spellings.append(rf"{letters}(?:e?s)?")
        if name.endswith(("f", "fe")):
            spellings.append(rf"{'[ -]?'.join(name.rstrip('e')[:-1])}ves")
    return f"(?:{'|'.join(spellings)})"


@lru_cache(maxsize=4096)
def numbered(name: str, aliases: tuple[str, ...] = ()) -> re.Pattern[str]:
    """An instance such as `drawer 3`: also "drawer3", "drawer #3", "drawer three", "drawers 1 and 3", "the third drawer"."""
    kind, number = name.rsplit(" ", 1)
    value = int(number)
    said = [number, *([_UNITS[value]] if value < len(_UNITS) else [])]
    ordinal = [rf"{number}(?:st|nd|rd|th)", *([_ORDINALS[value]] if value < len(_ORDINALS) else [])]
    thing = _kind(kind, aliases)
    more = r"(?:(?:, (?:and |or )?| and | or | & )\d+(?! \w+s\b))*"
    after = rf"{thing}(?:[ _#-]|no\.?|number)*(?:\d+(?:, (?:and |or )?|,| and | or | & ))*(?:{'|'.join(said)}){more}"
    before = rf"(?<!\ba )(?<!another )(?:{'|'.join(ordinal)}) {thing}(?! \d)"
    return re.compile(rf"(?<!\w)(?:{after}|{before})(?!\w)(?! of the)")


@lru_cache(maxsize=4096)
def unnumbered(name: str, aliases: tuple[str, ...] = ()) -> re.Pattern[str]:
    """The kind of an instance, named without a number."""
    kind = re.sub(r" \d+$", "", name)
    return re.compile(rf"(?<!\w){_kind(kind, aliases)}(?![\w#])(?!-\w)(?! #?\d)")


def mended(text: str, names: Iterable[str]) -> str:
    """The text with typing errors in these names mended: a letter left out, put in or swapped, in words of six letters."""
    known = {word for name in names for word in re.findall(r"[a-z]{6,}", name.casefold())}
    return re.sub(r"[A-Za-z]{5,}", lambda match: _meant(match.group(0), known), text) if known else text


def _meant(word: str, known: set[str]) -> str:
    """The one of the known words that this must be an error in, or the word itself."""
    said = word.casefold()
    if said in known:
        return word
    return next((name for name in known if said[0] == name[0] and _one_slip(said, name)), word)


def _one_slip(said: str, name: str) -> bool:
    """Whether one letter was left out or put in, not at the end (that would be an ending), or two neighbours change places."""
    if abs(len(said) - len(name)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(said, name, strict=False)) if a != b), min(len(said), len(name)))
    one, other = said[start:], name[start:]
    if len(one) == len(other):
        return one[:2] == other[1::-1] and one[2:] == other[2:]
    longer, shorter = sorted((one, other), key=len, reverse=True)
    return bool(shorter) and longer[1:] == shorter


def stem(word: str) -> str:
    """The word without the endings that a paraphrase changes: washable, washed and washing are `wash`."""
    word = word.removesuffix("'s").strip("'")
    for ending in ("able", "ible", "ing", "ily", "ed", "es", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    return re.sub(r"(.)\1$", r"\1", word.rstrip("ei")) if len(word) > 3 else word


def words(text: str) -> list[str]:
    """Words and numbers, hyphens and signs left out."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text)


def common_run(tokens: Sequence[str], said: Sequence[str], need: int) -> Sequence[str]:
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
