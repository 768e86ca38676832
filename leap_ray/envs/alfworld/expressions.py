"""The expressions in a game's grammar, `{o.indefinite + ' ' + o.name}`: a language of their own, of which no word runs a program.

    expression := sum ("or" sum)*        the first that is not empty
    sum        := term ("+" term)*
    term       := name | name.attribute | 'text'

TextWorld gives them to Python's `eval`; a game file may come from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leap_ray.errors import UserError

ATTRIBUTES = ("id", "type", "name", "noun", "adj", "desc", "room", "definite", "indefinite")  # TextWorld's EntityInfo
LONGEST = 200  # characters of an expression, for a message
_TOKEN = re.compile(r"\s*(?:([A-Za-z]\w*)(?:\.([a-z]+))?(?![\w.(\[])|'([^'\\]*)'|\"([^\"\\]*)\"|(\+))\s*")


@dataclass(frozen=True)
class Term:
    """A text, or an object with or without an attribute; an object alone is its name."""

    text: str = ""
    name: str = ""
    attribute: str = ""

    def value(self, infos: Mapping[str, Any]) -> str:
        if not self.name:
            return self.text
        if self.name not in infos:
            raise UserError(f"the game's grammar names {self.name!r}, which is no object of that sentence")
        info = infos[self.name]
        return str((getattr(info, self.attribute) if self.attribute else info) or "")


Sum = tuple[Term, ...]


@dataclass(frozen=True)
class Expression:
    """Alternatives; the first that says something counts."""

    sums: tuple[Sum, ...]

    @classmethod
    def read(cls, text: str) -> Expression:
        """Raises UserError for anything that is not of the grammar above."""
        sums: list[list[Term]] = [[]]
        joined = True  # a term may follow: at the beginning, after "or", and after "+"
        for token in _tokens(text):
            if token in ("or", "+"):
                if joined:
                    raise _refused(text)
                joined = True
                if token == "or":
                    sums.append([])
            elif not isinstance(token, Term) or not joined:
                raise _refused(text)
            else:
                sums[-1].append(token)
                joined = False
        if joined:
            raise _refused(text)
        return cls(tuple(map(tuple, sums)))

    def value(self, infos: Mapping[str, Any]) -> str:
        """The expression's text; `infos`: the objects that its names stand for."""
        return next(filter(None, ("".join(term.value(infos) for term in terms) for terms in self.sums)), "")


def _tokens(text: str) -> list[Term | str]:
    tokens: list[Term | str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _refused(text)
        at = found.end()
        name, attribute, single, double, plus = found.groups()
        if plus or (name == "or" and attribute is None):
            tokens.append(plus or name)
        elif name:
            if attribute is not None and attribute not in ATTRIBUTES:
                raise _refused(text)
            tokens.append(Term(name=name, attribute=attribute or ""))
        else:
            tokens.append(Term(text=single if single is not None else double))
    return tokens


def _refused(text: str) -> UserError:
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return UserError(
        f"its grammar holds {{{shown}}}, which is not an object's attribute ({', '.join(ATTRIBUTES)}) or texts and attributes "
        "joined by + and or; other programs are not run: take the game from where alfworld-download gets it"
    )
