"""The words and marks of a SQL statement, taken one after another."""

from __future__ import annotations

import re

TOKEN = re.compile(
    r"""(?P<space>\s+|/\*.*?\*/|--[^\n]*|\#[^\n]*)|(?P<string>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")
    |(?P<name>`(?:[^`]|``)*`|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    |(?P<number>0x[0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<mark><=>|<<|>>|<>|<=|>=|!=|==|\|\||[-+*/%(),.;=<>~&|!])""",
    re.VERBOSE | re.DOTALL,
)
KEYWORDS = {  # words that name nothing
    "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL", "OUTER", "UNION", "INTERSECT", "EXCEPT", "BETWEEN", "IN",
    "LIKE", "REGEXP", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "WINDOW", "ON", "USING", "AS", "AND",
    "OR", "XOR", "THEN", "WHEN", "ELSE", "END", "ASC", "DESC", "IS", "NOT", "OFFSET", "SET", "ESCAPE", "RLIKE", "GLOB", "COLLATE",
    "SEPARATOR", "DIV", "MOD", "NULLS", "OVER", "FILTER", "ISNULL", "NOTNULL", "CASE", "SELECT", "VALUES", "WITH",
}  # fmt: skip


class Unread(Exception):
    """A statement, or a part of one, that this file does not understand."""


class Tokens:
    """A statement's tokens, comments left out, and the place up to which they are read. Raises Unread for what is none."""

    def __init__(self, statement: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        end = 0
        for found in TOKEN.finditer(statement):
            if found.start() != end:
                break
            end = found.end()
            if found.lastgroup != "space":
                self.tokens.append((str(found.lastgroup), found[0]))
        if end != len(statement):
            raise Unread
        self.at = 0

    @property
    def now(self) -> str | None:
        """The present token, words in upper case; None at the end."""
        return self.ahead(0)

    def ahead(self, count: int) -> str | None:
        if self.at + count >= len(self.tokens):
            return None
        kind, text = self.tokens[self.at + count]
        return text.upper() if kind == "name" and not text.startswith("`") else text

    def next(self) -> str:
        if self.at >= len(self.tokens):
            raise Unread
        self.at += 1
        return self.tokens[self.at - 1][1]

    def take(self, *words: str, optional: bool = False) -> str:
        """The words, if they come next: '' where they do not and may be left out."""
        if all(self.ahead(i) == word for i, word in enumerate(words)):
            self.at += len(words)
            return " ".join(words)
        if optional:
            return ""
        raise Unread

    def is_name(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        kind, text = self.tokens[self.at]
        return kind == "quoted" or (kind == "name" and (text.startswith("`") or text.upper() not in KEYWORDS))

    def name(self) -> str:
        if not self.is_name():
            raise Unread
        return self.next()

    def brackets(self) -> str:
        """Everything from a bracket to the one that closes it, unread."""
        start, depth = self.at, 0
        while True:
            depth += {"(": 1, ")": -1}.get(self.next(), 0)
            if depth == 0:
                return " ".join(text for _, text in self.tokens[start : self.at])
