"""Programs, outputs and figures in a reason that the student has not seen. Part of the leak check.

A program leaks by a run of its tokens, by its literals and identifiers, or read aloud; an output by its values; a number also
in words and roughly ("just above eight hundred" of 812).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from leap_ray.envs.base import Secret
from leap_ray.teachers.wording import all_digits, common_run, has, normal, stem, words

CODE = re.compile(
    r"[|/$*{}()<>;=\\`]|\s-{1,2}[a-zA-Z]|^-|\b(select|from|where|def|return|import|grep|awk|sed|find)\b", re.I
)
_TOKEN = re.compile(r"[A-Za-z0-9_./*+~%@-]+|\S")
_ENDS = ".,;:!?\"'`()[]{}"
_ANSWER = (
    r"\b(answer|output|result|count|total|prints?|returns?|expected|submit|there (?:are|is|should be"
    r"|must be|will be))\b"
)
_DIGIT = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MAYBE = re.compile(
    r"\b(may|might|maybe|perhaps|could|probably|presumably|likely|possibly|such as|like|for example|e\.g|if|whether"
    r"|there should be|i guess|i expect a table)\b"
)
_GIVES = re.compile(
    r"\b(gives?|giving|results?|returns?|leads? to|comes? to|becomes?|is called|feeds?|calls?|expects?|must"
    r"|should|has to|supposed|equals?)\b"
)
_ROUGHLY = (
    r"(?:(?:just|slightly|somewhat|a (?:little|bit|touch|shade|hair|tad)(?: more| less)?|little|barely|not quite"
    r"|well|some"
    r"|roughly|about|around|approximately|nearly|almost|close to|near|or so|circa|in the region of|upwards of"
    r"|more or less"
    r"|over|under|above|below|north|south|shy|short|more|less|than|of) )+"
)
_AMOUNT = re.compile(r"(?<![\w.-])\$?(\d+(?:\.\d+)?)(?! ?(?:st|nd|rd|th)\b)(?![\w-]|\.\d)")
_SQL = re.compile(r"^\s*(?:select|with)\b", re.I)
_PROGRAM = re.compile(r"(?:md|sha|base|bzip|python)\d+(?:sum)?")
_SMALL = frozenset(
    ("a", "an", "the", "of", "in", "to", "and", "it", "is", "by", "on", "for", "with", "from", "as", "that")
)


def code(secret: Secret, reason: str, seen: str) -> str:
    """What the reason gives away of a program or its output: the words; "" if nothing."""
    return _run(secret.text, reason, seen) or _literals(secret.text, reason, seen) or _aloud(secret, reason, seen)


def output(secret: Secret, reason: str, seen: str) -> str:
    """The same of a program's output, whose words are its values where it is a short list of them."""
    said, known = normal(reason), normal(seen)
    return code(secret, reason, seen) or _listed(secret.text, said, known) or roughly(secret.text, said, known)


def _listed(text: str, said: str, known: str) -> str:
    """A word of a short list that the reason names, and not as an example."""
    lines = [words(normal(line)) for line in text.splitlines()]
    if len(lines) > MOST_LINES or any(len(line) > 3 for line in lines) or _MAYBE.search(said):
        return ""
    told = (word for line in lines for word in line if len(word) >= 4 and word.isalpha() and word not in _COMMON)
    return next((word for word in told if has(said, word) and not has(known, word)), "")


MOST_LINES = 8  # of an output that is a list of values
_COMMON = frozenset(
    [
        "total",
        "root",
        "file",
        "files",
        "directory",
        "folder",
        "lines",
        "line",
        "words",
        "true",
        "false",
        "none",
        "null",
        "error",
        "name",
        "size",
    ]
)


# --- as written


def _run(secret: str, reason: str, seen: str) -> str:
    """A long run of one of its lines' tokens, or several of its harder tokens, that was not seen."""
    said, known = _tokens(reason), _tokens(seen)
    for line in secret.splitlines():
        tokens = _tokens(line)
        plain = _wordy(tokens)
        run = common_run(plain, _wordy(said), max(3, (len(plain) + 1) // 2))
        if run and not common_run(run, _wordy(known), len(run)):
            return " ".join(run)
        run = common_run(tokens, said, 5)  # signs included: nobody writes those by chance
        if any(len(token) == 1 and not token.isalnum() for token in run) and not common_run(run, known, len(run)):
            return " ".join(run)
        hard = {token for token in tokens if re.fullmatch(r"-{1,2}\w[\w-]*|[a-z]\w*\.[a-z]\w*|\{\}", token)}
        if len((hard - set(known)) & set(said)) >= 3:
            return " ".join(sorted((hard - set(known)) & set(said)))
        pairs = set(pairwise(tokens)) & set(pairwise(said))
        options = [pair for pair in pairs if pair[1].startswith("-") and pair[1] not in known]
        if len({pair[0] for pair in options}) >= 2:  # two commands, each with its option
            return " ".join(sorted(map(" ".join, options)))
    return ""


def _wordy(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The tokens without single signs."""
    return tuple(token for token in tokens if token[0].isalnum() or len(token) > 1)


@lru_cache(maxsize=256)
def _tokens(text: str) -> tuple[str, ...]:
    """Words, paths, flags and single signs; a sentence's own punctuation at the end of a word is left out."""
    found = (token.strip(_ENDS) if len(token) > 1 else token for token in _TOKEN.findall(text.casefold()))
    return tuple(token for token in found if token and token not in ".,;:!?\"'`")


# --- literals, identifiers, values


def _literals(secret: str, reason: str, seen: str) -> str:
    """A path, a file name, a number, a quoted text, an identifier or a value of the secret that the reason names."""
    inside, said, known = normal(secret), normal(reason), normal(seen)
    if CODE.search(secret):  # "about 30 days" is no literal of a program
        said = re.sub(r"\b(?:about|around|roughly|approximately) \d+\b", " ", said)
    for token in _tokens(said):
        core = token.strip("*./")
        if _literal(token) and has(inside, token) and not has(known, token) and not has(known, core):
            return token
    quoted = {
        text.strip() for pair in re.findall(r"\"([^\"]{3,})\"|'([^']{3,})'", secret) for text in pair if text.strip()
    }
    for text in sorted(quoted):
        spoken = has(said, text.casefold()) and (
            inside.startswith("assert") or re.search(rf"[\"'`]{re.escape(text)}", reason)
        )
        core = text.casefold().strip("*./ ")
        if text.casefold() in _SMALL:
            continue
        if spoken and core and not has(known, text.casefold()) and not has(known, core):
            return text
    return (
        _digit(secret, said)
        or _value(secret, reason, known)
        or _identifier(secret, said, known)
        or _call(secret, said, known)
        or ("" if CODE.search(secret) and secret.lstrip()[:1] not in "[(" else roughly(secret, said, known))
    )


def _literal(token: str) -> bool:
    """A token that one does not simply guess: a path, a file name, a number of two digits or more. No flag, no plain word."""
    if token.startswith("-") or len(token) < 2 or _PROGRAM.fullmatch(token):
        return False
    path = r"[/~.]?[\w.*-]*(/[\w.*-]*)+"
    name = r"[\w*-]+\.[a-z]\w{0,4}|[a-z]+_\w+|\w*\d\w*[a-z]\w*"
    return bool(re.fullmatch(rf"{path}|{name}|\d[\d.,:-]+[a-z]{{0,2}}|%\w@?", token))


def _digit(secret: str, said: str) -> str:
    """An output that is one digit, said of the answer and not of something else."""
    digit = re.fullmatch(r"\W*(\d)\W*", secret)
    if digit and re.search(rf"{_ANSWER}[^.]*\b({digit.group(1)}|{_DIGIT[int(digit.group(1))]})\b", said):
        return digit.group(1)
    if digit and re.search(rf"\b{digit.group(1)}\b[^.]*\b(is|as) the (answer|output|result|count|total)\b", said):
        return digit.group(1)
    return ""


def _value(secret: str, reason: str, known: str) -> str:
    """A name out of an output: a word with a capital in both, or, out of a table, any of its values in any spelling."""
    table = secret.lstrip().startswith(("[", "("))
    names = set(re.findall(r"(?<![\w.])[A-Z][a-z]{2,}(?![\w.])", secret)) if not CODE.search(secret) or table else set()
    for match in re.finditer(r"(?<![\w.])[A-Z][a-z]{2,}(?![\w])", reason):
        first = re.search(r"(^|[.!?:] )$", reason[: match.start()])
        if match.group(0) in names and (table or not first) and not has(known, match.group(0).casefold()):
            return match.group(0)
    return _cell(secret, normal(reason), known) if table else ""


def _cell(table: str, said: str, known: str) -> str:
    """A table's value of one or two words, or one of the two, that the reason names in lower case and not as an example."""
    for text in {pair[0] or pair[1] for pair in re.findall(r"\"([^\"]+)\"|'([^']+)'", table)}:
        for word in words(normal(text)) if len(text.split()) <= 2 else ():
            match = re.search(rf"(?<!\w){re.escape(word)}n?s?(?!\w)", said)
            if len(word) >= 4 and match and not has(known, word) and not _MAYBE.search(said):
                return match.group(0)
    return ""


def _identifier(secret: str, said: str, known: str) -> str:
    """A table's or column's name that the student has not seen: as written, in words, or called a table or a column."""
    if not _SQL.match(secret):
        return ""
    heard = {stem(word) for word in words(known)}
    for name in dict.fromkeys(re.findall(r"[A-Za-z_]\w{2,}", re.sub(r"'[^']*'|\"[^\"]*\"", "", secret))):
        parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
        plain, spoken = name.casefold(), " ".join(parts).casefold()
        if plain in known or has(known, spoken) or plain in _KEYWORDS or _MAYBE.search(said):
            continue
        if len(parts) > 1 and (has(said, plain) or re.search(rf"\b{re.escape(spoken)}s?\b", said)):
            return name
        called = (
            rf"\b(?:tables?|columns?|fields?)(?: called| named| is| are)?(?: the)?(?: \w+ and)? {plain}\b"
            rf"|\b{plain} (?:table|column|field)\b"
        )
        if stem(plain) not in heard and re.search(called, said):
            return name
    return ""


_KEYWORDS = frozenset(
    [
        "select",
        "from",
        "where",
        "join",
        "inner",
        "left",
        "outer",
        "group",
        "order",
        "having",
        "limit",
        "distinct",
        "count",
        "avg",
        "sum",
        "min",
        "max",
        "and",
        "not",
        "like",
        "between",
        "union",
        "intersect",
        "except",
        "desc",
        "asc",
        "exists",
        "null",
        "case",
        "when",
        "then",
        "else",
        "end",
    ]
)


def _call(secret: str, said: str, known: str) -> str:
    """The numbers of a test, `assert f(10) == 190`, in this order: "for ten it must give 190"."""
    if not secret.lstrip().startswith("assert"):
        return ""
    wanted = _numbers(re.sub(r"^\s*assert\s+[\w.]+", "", normal(secret)))
    for sentence in re.split(r"(?<=[.!?])\s+", said):
        run = _numbers(all_digits(sentence))
        if len(wanted) < 2 or not _GIVES.search(sentence):
            continue
        if wanted[-2:] == run[-2:] and not common_run(wanted[-2:], _numbers(all_digits(known)), 2):
            return " ".join(run)
        if common_run(wanted[:-1], run, max(2, len(wanted) - 1)):
            return " ".join(run)
    return ""


def _numbers(text: str) -> list[str]:
    text = re.sub(r"\bminus (?=\d)", "-", text)
    return re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)", text)


# --- read aloud, and roughly


def _aloud(secret: Secret, reason: str, seen: str) -> str:
    """Most of a reading's words in the reading's order, several of them unheard of so far."""
    said = [stem(word) for word in words(all_digits(normal(reason)))]
    known = {stem(word) for word in words(normal(seen))}
    for reading in secret.aliases:
        wanted = [stem(word) for word in words(reading)]
        if len(wanted) < 3:
            continue
        common = _in_order(wanted, said)
        least = len(wanted) if len(wanted) <= 4 else max(4, round(0.6 * len(wanted)))
        new = [word for word in common if word not in known and word not in _SMALL]
        if len(common) >= least and len(new) >= max(2, min(4, len(wanted) - 1)):
            return " ".join(common)
        in_part = len(common) >= 6 and len(new) >= 5
        if in_part and not _SQL.match(secret.text):  # of a pipeline; SQL's words are everybody's
            return " ".join(common)
    return ""


def _in_order(wanted: Sequence[str], said: Sequence[str]) -> list[str]:
    """The longest common subsequence."""
    rows: list[list[list[str]]] = [[[] for _ in range(len(said) + 1)]]
    for word in wanted:
        above, row = rows[-1], [[]]
        for j, spoken in enumerate(said):
            row.append([*above[j], word] if word == spoken else max(above[j + 1], row[j], key=len))
        rows.append(row)
    return rows[-1][-1]


def roughly(secret: str, said: str, known: str) -> str:
    """A number of the secret that the reason gives exactly, or within a twentieth after "about", "just above" and the like."""
    plain = re.sub(r"(?<=\d)[kmgt]i?b?\b", "", normal(secret))  # 417M
    values = [float(n) for n in _AMOUNT.findall(plain) if float(n) >= 10]
    shown = [float(n) for n in _AMOUNT.findall(all_digits(known))]
    for match, amount, rough in _amounts(said):
        digits = len(str(amount).partition(".")[2]) if amount % 1 else 0
        near = [v for v in values if _near(amount, v, rough) or (digits and round(v, digits) == amount)]
        if near and not any(abs(amount - other) <= 0.05 * max(other, 1) for other in shown):
            return match
    return ""


def _near(amount: float, value: float, rough: bool) -> bool:
    """Whether one number stands for the other: the same, or within a twentieth (of small ones, within what tens round off)."""
    return abs(value - amount) <= (max(0.05 * value, 4 if value >= 20 else 1) if rough else 0)


def _amounts(said: str) -> Iterator[tuple[str, float, bool]]:
    """(the words, the number, whether it is a rough one) for each number."""
    for match in _AMOUNT.finditer(said):
        before = re.search(rf"\b{_ROUGHLY}$", said[: match.start()])
        after = re.match(r"(?: \w+)? (?:or so|or thereabouts|give or take|more or less)\b|ish\b", said[match.end() :])
        yield (before.group(0) if before else "") + match.group(0), float(match.group(1)), bool(before or after)
