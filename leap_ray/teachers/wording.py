"""How people write the names, numbers and attributes that a privileged state holds: spellings, plurals, synonyms, stems.

Used by the leak check. All functions expect or return `normal` text: lower case, one space, numbers in digits.
"""

from __future__ import annotations

import re
from functools import lru_cache

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {**{word: i for i, word in enumerate(_UNITS)}, **{word: 10 * i for i, word in enumerate(_TENS, 2)}}
_SCALES = {"hundred": 100, "thousand": 1000}
_NUMBER_WORD = "|".join([*sorted(_VALUES, key=len, reverse=True), *_SCALES])
_NUMERAL = re.compile(rf"\b(?:{_NUMBER_WORD})(?:[ -](?:and )?(?:{_NUMBER_WORD}))*\b")
_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
INSTANCE = re.compile(r"[a-z][a-z ]* \d+")

# What people call the things that the household simulator names in one word.
_SYNONYMS = {
    "armchair": ("chair",),
    "bathtubbasin": ("bathtub", "tub"),
    "butterknife": ("butter knife",),
    "cellphone": ("phone",),
    "coffeemachine": ("coffee maker",),
    "coffeetable": ("table",),
    "countertop": ("counter",),
    "creditcard": ("card",),
    "desklamp": ("lamp",),
    "diningtable": ("table",),
    "dishsponge": ("sponge",),
    "floorlamp": ("lamp",),
    "fridge": ("refrigerator",),
    "garbagecan": ("trash can", "trash", "garbage", "bin", "garbage bin", "waste bin"),
    "handtowelholder": ("towel holder",),
    "peppershaker": ("pepper",),
    "remotecontrol": ("remote",),
    "saltshaker": ("salt",),
    "sidetable": ("nightstand", "table"),
    "sinkbasin": ("sink", "basin"),
    "soapbar": ("soap", "bar of soap"),
    "soapbottle": ("soap", "bottle of soap"),
    "sofa": ("couch",),
    "spraybottle": ("spray",),
    "stoveburner": ("stove", "burner"),
    "television": ("tv",),
    "toiletpaper": ("roll",),
    "toiletpaperhanger": ("hanger", "toilet paper holder"),
    "wateringcan": ("can",),
}


@lru_cache(maxsize=1024)
def normal(text: str) -> str:
    """Lower case, plain quotes, one space, no separators in large numbers, and numbers from ten on in digits."""
    text = text.casefold().replace("’", "'").replace("‘", "'")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = _NUMERAL.sub(_in_digits, text)
    return " ".join(text.split())


def _in_digits(match: re.Match[str]) -> str:
    """The numeral's value; a single word below ten stays: it may be no number ("the other one")."""
    spoken = [word for word in re.findall(r"[a-z]+", match.group(0)) if word != "and"]
    if len(spoken) < 2 and _VALUES.get(spoken[0], 0) < 10:
        return match.group(0)
    total = part = 0
    for word in spoken:
        if word == "thousand":
            total, part = total + max(1, part) * 1000, 0
        else:
            part = max(1, part) * 100 if word == "hundred" else part + _VALUES[word]
    return str(total + part)


def has(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


@lru_cache(maxsize=4096)
def _kind(kind: str) -> str:
    """Pattern of a kind of thing: in one word or several, in the singular or plural, or by what people call it."""
    spellings = []
    for name in (kind, *_SYNONYMS.get(kind.replace(" ", ""), ())):
        letters = "[ -]?".join(map(re.escape, name.replace(" ", "")))
        spellings.append(rf"{letters}(?:e?s)?")
        if name.endswith(("f", "fe")):
            spellings.append(rf"{'[ -]?'.join(name.rstrip('e')[:-1])}ves")
    return f"(?:{'|'.join(spellings)})"


@lru_cache(maxsize=4096)
def numbered(name: str) -> re.Pattern[str]:
    """An instance such as `drawer 3`: also "drawer3", "drawer #3", "drawer three", "drawers 1 and 3", "the third drawer"."""
    kind, number = name.rsplit(" ", 1)
    value = int(number)
    said = [number, *([_UNITS[value]] if value < len(_UNITS) else [])]
    ordinal = [rf"{number}(?:st|nd|rd|th)", *([_ORDINALS[value]] if value < len(_ORDINALS) else [])]
    thing = _kind(kind)
    after = rf"{thing}(?:[ _#-]|no\.?|number)*(?:\d+(?:, (?:and |or )?|,| and | or | & ))*(?:{'|'.join(said)})"
    before = rf"(?:{'|'.join(ordinal)}) {thing}(?! \d)"
    return re.compile(rf"(?<!\w)(?:{after}|{before})(?!\w)(?! of the)")


@lru_cache(maxsize=4096)
def unnumbered(name: str) -> re.Pattern[str]:
    """The kind of an instance, named without a number."""
    kind = re.sub(r" \d+$", "", name)
    return re.compile(rf"(?<!\w){_kind(kind)}(?![\w#])(?!-\w)(?! #?\d)")


def stem(word: str) -> str:
    """The word without the endings that a paraphrase changes: washable, washed and washing are `wash`."""
    word = word.removesuffix("'s").strip("'")
    for ending in ("able", "ible", "ing", "ed", "es", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def words(text: str) -> list[str]:
    """Words and numbers, hyphens and signs left out."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text)
