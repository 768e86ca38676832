"""From a MySQL dump to SQLite databases, in memory.

Only what such a dump holds is understood: CREATE DATABASE, USE, CREATE TABLE with columns and a primary key, INSERT. Text
columns compare as MySQL's `utf8mb4_general_ci` does: no regard to case, accents and spaces at the end.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from leap_ray.errors import UserError

DATABASE = re.compile(r"CREATE DATABASE[^`]*`([^`]+)`|USE `([^`]+)`", re.IGNORECASE)
TABLE = re.compile(r"CREATE TABLE `([^`]+)` \((.*)\)[^)]*$", re.IGNORECASE | re.DOTALL)
COLUMN = re.compile(r"`([^`]+)` (\w+)")
PRIMARY = re.compile(r"PRIMARY KEY \(([^)]*)\)")
INSERT = re.compile(r"INSERT INTO `([^`]+)`(?: \([^)]*\))? VALUES (.*)$", re.IGNORECASE | re.DOTALL)
TOKEN = re.compile(r"'((?:[^'\\]|\\.|'')*)'|(NULL)\b|(-?[0-9.]+(?:[eE][-+]?\d+)?)|([(),])", re.DOTALL)
STATEMENT = re.compile(r"((?:[^;'`]|'(?:[^'\\]|\\.|'')*'|`[^`]*`)*);", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "Z": "\x1a", "b": "\b"}
AFFINITY = {
    "int": "INTEGER", "bigint": "INTEGER", "smallint": "INTEGER", "tinyint": "INTEGER", "mediumint": "INTEGER",
    "double": "REAL", "float": "REAL", "decimal": "REAL", "bit": "INTEGER",
}  # fmt: skip
COLLATION = "general_ci"
SHORT = 200  # characters of a text that is kept folded for further comparisons
Value = str | int | float | None


@cache
def databases(path: Path) -> dict[str, bytes]:
    """Every database of a dump, by lower-case name, as the bytes of a SQLite file. UserError names what is not understood."""
    from leap_ray.envs.intercode.data import open_text

    open_ones: dict[str, sqlite3.Connection] = {}
    now: sqlite3.Connection | None = None
    for statement in statements(open_text(path)):
        if found := DATABASE.match(statement):
            name = (found[1] or found[2]).lower()
            if name not in open_ones:
                open_ones[name] = collating(sqlite3.connect(":memory:"))
            now = open_ones[name]
        elif now is not None:
            try:
                _take(now, statement)
            except (sqlite3.Error, ValueError, IndexError) as error:
                raise UserError(f"intercode: {path}: {statement[:80]!r} cannot be taken over: {error}") from None
    files = {}
    for name, connection in open_ones.items():
        connection.commit()
        files[name] = connection.serialize()
        connection.close()
    return files


def collating(connection: sqlite3.Connection) -> sqlite3.Connection:
    """The connection, able to compare the text columns that `databases` makes."""
    connection.create_collation(COLLATION, compare_texts)
    return connection


def compare_texts(one: str, other: str) -> int:
    """Below, at or above 0 as `one` comes before, with or after `other`."""
    a, b = (_kept(text) if len(text) <= SHORT else _folded(text) for text in (one, other))
    return (a > b) - (a < b)


def _folded(text: str) -> str:
    letters = unicodedata.normalize("NFD", text.rstrip(" "))
    return "".join(c for c in letters if not unicodedata.combining(c)).upper()


_kept = lru_cache(maxsize=65_536)(_folded)


def statements(text: str) -> Iterator[str]:
    """The statements of a dump, without comments. (MySQL's /*! … */ are for MySQL only.)"""
    lines = (line for line in text.splitlines() if not line.startswith(("--", "/*!")))
    for found in STATEMENT.finditer("\n".join(lines)):
        if statement := found[1].strip():
            yield statement


def _take(connection: sqlite3.Connection, statement: str) -> None:
    if found := TABLE.match(statement):
        connection.execute(_create(found[1], found[2]))
    elif found := INSERT.match(statement):
        rows = list(values(found[2]))
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f'INSERT INTO "{found[1]}" VALUES ({marks})', rows)


def _create(table: str, body: str) -> str:
    """The table for SQLite: columns in order, types by affinity, the primary key; other keys and constraints are left out."""
    parts = []
    for line in body.splitlines():
        if found := COLUMN.match(line.strip()):
            kind = AFFINITY.get(found[2].lower(), f"TEXT COLLATE {COLLATION}")
            parts.append(f'"{found[1]}" {kind}')
    if found := PRIMARY.search(body):
        columns = ", ".join(f'"{name}"' for name in re.findall(r"`([^`]+)`", found[1]))
        parts.append(f"PRIMARY KEY ({columns})")
    return f'CREATE TABLE "{table}" ({", ".join(parts)})'


def values(text: str) -> Iterator[tuple[Value, ...]]:
    """The rows of an INSERT's VALUES list. Raises ValueError at text that is none."""
    row: list[Value] = []
    depth = position = 0
    for found in TOKEN.finditer(text):
        if text[position : found.start()].strip():
            raise ValueError(f"not understood: {text[position : position + 40]!r}")
        position = found.end()
        string, null, number, mark = found.groups()
        if mark == "(":
            depth, row = 1, []
        elif mark == ")":
            depth = 0
            yield tuple(row)
        elif depth and mark is None:
            row.append(_value(string, null, number))
    if text[position:].strip():
        raise ValueError(f"not understood: {text[position : position + 40]!r}")


def _value(string: str | None, null: str | None, number: str | None) -> Value:
    if string is not None:
        plain = re.sub(r"\\(.)", lambda m: ESCAPES.get(m[1], m[1]), string, flags=re.DOTALL)
        return plain.replace("''", "'")
    if null is not None or number is None:
        return None
    return float(number) if re.search(r"[.eE]", number) else int(number)
