"""A program as one would read it aloud: the commands of a pipeline in order, and each line in words."""

from __future__ import annotations

import re

_SQL = re.compile(r"^\s*(?:select|with)\b", re.I)
_SIGNS = (
    *((r"-print0", " null "), (r"\+=", " add "), (r"-=", " minus "), (r"==|=", " "), (r"!=|<>", " not ")),
    *(
        (r">=?", " more "),
        (r"<=?", " less "),
        (r"%", " remainder "),
        (r"\*\*", " power "),
        (r"(?<=\w)/(?=\()|(?<=[\w)]) / (?=\w)", " divide "),
    ),
    *((r"(?<=[\w)\]])-(?=\w)|(?<=[\w)\]]) - (?=\w)", " minus "), (r"(?<=\s)\+(?=\s)", " plus ")),
)
_SQL_WORDS = {
    **{
        "avg": "average",
        "max": "maximum",
        "min": "minimum",
        "desc": "descending",
        "asc": "ascending",
        "distinct": "different",
    },
    **dict.fromkeys(("as", "on", "by", "from", "and", "select"), ""),
}
_COMMAND = re.compile(r"(?:^|[|;&(`]|-exec)\s*(?:(?:xargs|sudo)(?: -\S+)*\s+)?([a-z][a-z0-9]*)", re.M)


def readings(code: str) -> tuple[str, ...]:
    """Ways to read a program aloud: its commands (where they are three or more), and it or its lines in words."""
    if _SQL.match(code):
        return (_sql(code),)
    chain = _COMMAND.findall(code)
    commands = (" ".join(chain),) if len(chain) >= 3 and "\n" not in code else ()
    return (*commands, *(_in_words(line) for line in code.splitlines()))


def _sql(code: str) -> str:
    plain = re.sub(r"\bas t\d+\b|\bt\d+\.", "", code, flags=re.I)
    spelled = " ".join(identifier_words(word) for word in re.findall(r"\w+", plain))
    return " ".join(word for part in spelled.split() if (word := _SQL_WORDS.get(part, part)))


def _in_words(line: str) -> str:
    for sign, word in _SIGNS:
        line = re.sub(sign, word, line)
    return " ".join(re.findall(r"[a-z0-9]+", line.casefold()))


def identifier_words(name: str) -> str:
    """`Net_Worth_Millions` and `netWorthMillions` as words."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).casefold()
