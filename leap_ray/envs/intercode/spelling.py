"""Actions in other spellings: what one language reads alike, and how an action is told in one way."""

from __future__ import annotations

import re
from collections.abc import Iterable

from leap_ray.envs.intercode.data import Language
from leap_ray.envs.intercode.python_tasks import SUBMITTED

SUBMIT = "submit"
TABLES = re.compile(r"SHOW\s+TABLES", re.IGNORECASE)
COLUMNS = re.compile(r"(?:DESC(?:RIBE)?|SHOW\s+(?:COLUMNS|FIELDS)\s+(?:FROM|IN))\s+[`\"]?(\w+)[`\"]?", re.IGNORECASE)
QUOTED = re.compile(r"('(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`)")
SIGNS = re.compile(r"\s*([(),=<>!+*/;])\s*")


def spelling(action: str, language: Language) -> str:
    """The action as this domain writes it: no blanks around it, `submit` alone, one way to ask for tables and columns."""
    if action.startswith(SUBMIT):
        named = SUBMITTED.match(action) if language == "python" else None
        return f"{SUBMIT} {named[1]}" if named else SUBMIT
    text = action.replace("\r\n", "\n").strip()
    if language != "sql":
        return text
    text = text.rstrip("; \t\n")
    if TABLES.fullmatch(text):
        return "SHOW TABLES"
    columns = COLUMNS.fullmatch(text)
    return f"DESC {columns[1]}" if columns else text


def folded(action: str, language: Language) -> str:
    """The same text for actions that the language reads alike: case and blanks outside quotes in SQL, line ends in Python."""
    text = spelling(action, language)
    if language == "python":
        return "\n".join(line.rstrip() for line in text.splitlines())
    if language == "bash":
        return text
    parts = QUOTED.split(text)
    parts[::2] = [SIGNS.sub(r"\1", re.sub(r"\s+", " ", part)).casefold() for part in parts[::2]]
    parts[1::2] = [part.strip("`").casefold() if part.startswith("`") else part for part in parts[1::2]]
    return "".join(parts)


class Alike(frozenset[str]):
    """A set of actions that also holds whatever the language reads as one of them."""

    language: Language = "bash"
    _folded: frozenset[str] = frozenset()

    @classmethod
    def of(cls, actions: Iterable[str], language: Language) -> Alike:
        made = cls(actions)
        made.language = language
        made._folded = frozenset(folded(action, language) for action in made)
        return made

    def __contains__(self, action: object) -> bool:
        if super().__contains__(action):
            return True
        return isinstance(action, str) and folded(action, self.language) in self._folded
