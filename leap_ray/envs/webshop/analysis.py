"""Text to index terms, the way Lucene's English analyser does it.

UAX #29 words as Lucene's StandardTokenizer cuts them (plus its emoji tokens), possessive `'s` off, lower case, Lucene's 33 stop
words out, Porter's stemmer with Martin Porter's own extensions. Snowball's "porter" and `\\b` words rank otherwise.
"""

from __future__ import annotations

from functools import lru_cache

import regex

from leap_ray.envs.webshop.stemmer import stem

_REMEMBERED = 40  # characters; a longer piece of text is seldom seen again
MAX_TOKEN = 255  # characters; Lucene cuts a longer word into pieces of this length

_STOP = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
STOP_WORDS = frozenset(_STOP.split())

# UAX #29 rule WB4: whatever extends a character belongs to it. Skin tones do not, in the Unicode that Lucene was built with.
_EXTENDS = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]--[\U0001F3FB-\U0001F3FF"  # an open set
_EXT = rf"[{_EXTENDS}]]*+"
_HEBREW = rf"\p{{WB=Hebrew_Letter}}{_EXT}"
_LETTER = rf"[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{_EXT}"
_DIGIT = rf"[\p{{WB=Numeric}}[\p{{Block=Halfwidth_And_Fullwidth_Forms}}&&\p{{Nd}}]]{_EXT}"
_KATAKANA = rf"\p{{WB=Katakana}}{_EXT}"
_JOINS = (
    r"(?:\p{WB=ExtendNumLet}[[\p{WB=ExtendNumLet}\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]--[\U0001F3FB-\U0001F3FF]]*+)"
)
_SINGLE, _DOUBLE = rf"\p{{WB=Single_Quote}}{_EXT}", rf"\p{{WB=Double_Quote}}{_EXT}"
_MID_LETTER = rf"[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_EXT}(?={_LETTER})"
_MID_NUMBER = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{_EXT}(?={_DIGIT})"
_PART = (
    rf"(?:{_KATAKANA}(?:{_JOINS}?{_KATAKANA})*"
    rf"|(?:{_HEBREW}(?:{_DOUBLE}{_HEBREW}|{_SINGLE})|{_LETTER}(?:{_MID_LETTER})?|{_DIGIT}(?:{_MID_NUMBER})?)++)"
)
_WORD = rf"{_JOINS}?+{_PART}(?:{_JOINS}{_PART})*{_JOINS}?"
# Extended_Pictographic as of the Unicode that Lucene was built with; later ones dropped ★ ☞ ♡ and the like.
_PICTURE = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa\u24c2"
    "\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d\u2721"
    "\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935\u2b05-\u2b07"
    "\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171"
    "\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f\U0001f21a\U0001f22f"
    "\U0001f232-\U0001f23a\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa\U0001f400-\U0001f53d\U0001f546-\U0001f64f"
    "\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff\U0001f80c-\U0001f80f\U0001f848-\U0001f84f"
    "\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff\U0001f90c-\U0001f93a\U0001f93c-\U0001f945"
    "\U0001f947-\U0001faff\U0001fc00-\U0001fffd]"
)
_SOFT = rf"[{_EXTENDS}\uFE0E\uFE0F]]*"
_TONE = rf"[\U0001F3FB-\U0001F3FF]{_SOFT}"
_FACE = rf"(?:(?:\p{{Emoji_Modifier_Base}}{_SOFT})?{_TONE}|{_PICTURE}{_SOFT}\uFE0F?)"
_EMOJI = (
    rf"\u200D*+{_FACE}(?:(?:(?<=\u200D)|\u200D++){_FACE})*+"
    rf"|[#*]{_SOFT}\uFE0F?\u20E3{_SOFT}|(?:\p{{Regional_Indicator}}{_EXT}){{2}}"
)
_TOKEN = regex.compile(
    rf"{_WORD}|(?:\p{{LB=SA}}{_EXT})+|{_EMOJI}|\p{{Script=Han}}{_EXT}|\p{{Script=Hiragana}}{_EXT}", regex.V1
)
_ASCII_TOKEN = regex.compile(
    r"_*+(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[A-Za-z]+(?:(?:_+|[.:'])[A-Za-z]+)*)+"
    r"(?:_+(?:[0-9]+(?:(?:_*|[.,;'])[0-9]+)*|[A-Za-z]+(?:(?:_+|[.:'])[A-Za-z]+)*)+)*_*"
)


def words(text: str) -> list[str]:
    """The text's words, as written. Words beyond 255 characters come in pieces."""
    pattern = _ASCII_TOKEN if text.isascii() else _TOKEN
    found = pattern.findall(text)
    return found if all(len(word) <= MAX_TOKEN for word in found) else _pieces(pattern, text)


def _pieces(pattern: regex.Pattern[str], text: str) -> list[str]:
    """The words where a word ends after 255 characters at the latest, and the next begins there; in linear time."""
    found, at = [], 0
    while at < len(text):
        begun = pattern.search(text, at, at + 2 * MAX_TOKEN)
        word = begun and pattern.match(text, begun.start(), begun.start() + MAX_TOKEN)
        if word:
            found.append(word[0])
        at = word.end() if word else begun.start() + 1 if begun else at + MAX_TOKEN
    return found


def terms(text: str) -> list[str]:
    """The text's index terms, in order, repeated as often as they occur."""
    found: list[str] = []
    for chunk in text.split(" "):  # no word crosses a blank
        found += _known_terms(chunk) if len(chunk) <= _REMEMBERED else _terms_of(chunk)
    return found


def _terms_of(chunk: str) -> tuple[str, ...]:
    return tuple(term for word in words(chunk) if (term := term_of(word)))


_known_terms = lru_cache(maxsize=400_000)(_terms_of)


def term_of(word: str) -> str:
    """The index term of one word; "" for a stop word."""
    if len(word) >= 2 and word[-2] in "'’＇" and word[-1] in "sS":
        word = word[:-2]
    word = word.lower()
    return "" if word in STOP_WORDS else stem(word)
