"""How MySQL compares and reckons with texts and numbers, for statements that run on SQLite.

MySQL compares a text with a number as numbers, the text by its longest prefix that is one: `'5abc' = 5` is true, `'abc' = 0` too.
SQLite compares a text column with a number as texts, and two literals by their types. `statement.py` reads a statement into parts
and finds out which are texts and which are numbers; the functions here write the SQL that gives MySQL's answer where they meet.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leap_ray.envs.intercode.dump import COLLATION, compare_texts

Kind = str  # "text", "number", "null", "row", or "" for what is not known before it runs
NUMBER, TEXT, COMPARE = "mysql_number", "mysql_text", "mysql_compare"  # functions that `install` adds
PREFIX = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
NUMERIC = {  # functions that give a number
    "count", "sum", "avg", "abs", "length", "char_length", "instr", "round", "ceil", "ceiling", "floor", "sign", "total", "rank",
    "dense_rank", "row_number", "ntile", "mod", "power", "pow", "sqrt", "exp", "ln", "log", "log10", "log2", "julianday",
    "unicode", "random", "percent_rank", "cume_dist", "strcmp", "locate", "year", "month", "day", "hour", "minute", "second",
}  # fmt: skip
TEXTUAL = {  # functions that give a text
    "upper", "lower", "substr", "substring", "replace", "trim", "ltrim", "rtrim", "group_concat", "hex", "char", "printf",
    "format", "quote", "date", "time", "datetime", "strftime", "typeof", "left", "right",
}  # fmt: skip
OF_ARGUMENTS = ("max", "min", "ifnull", "coalesce")  # functions that give one of their arguments
OF_TEXT = (
    "upper",
    "lower",
    "trim",
    "ltrim",
    "rtrim",
    "length",
    "substr",
    "substring",
    "replace",
)  # whose first argument is one
OF_FIRST = ("first_value", "last_value", "lag", "lead", "nth_value")


@dataclass(frozen=True)
class Part:
    """An expression: its text, rewritten, and what it is. `parts`: those of a list in brackets."""

    text: str
    kind: Kind = ""
    parts: tuple[Part, ...] = ()


@dataclass
class Scope:
    """Names that an expression may use: sources (tables by alias, with their columns), names of results, the query around."""

    sources: dict[str, Mapping[str, Kind]] = field(default_factory=dict)
    names: dict[str, Kind] = field(default_factory=dict)
    outer: Scope | None = None

    def kind(self, path: list[str]) -> Kind | None:
        """The kind of a column, None where there is no such column."""
        *owner, name = path
        if owner:
            columns = self.sources.get(owner[-1])
            here = None if columns is None else columns.get(name)
        else:
            here = next((columns[name] for columns in self.sources.values() if name in columns), self.names.get(name))
        return here if here is not None or self.outer is None else self.outer.kind(path)


def install(connection: sqlite3.Connection) -> None:
    """Add the functions that rewritten statements call."""
    connection.create_function(NUMBER, 1, number, deterministic=True)
    connection.create_function(TEXT, 1, text, deterministic=True)
    connection.create_function(COMPARE, 2, compare, deterministic=True)


def number(value: Any) -> Any:
    """A value as the number that MySQL takes it for; None stays None."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        return value
    found = PREFIX.match(value)
    return float(found[1]) if found else 0.0


def text(value: Any) -> Any:
    """A value as the text that MySQL takes it for; None stays None."""
    return f"{value:.15g}" if isinstance(value, float) else str(value) if isinstance(value, int) else value


def compare(one: Any, other: Any) -> int | None:
    """Below, at or above 0 as `one` is before, at or behind `other`; None where one of them is."""
    if one is None or other is None:
        return None
    if isinstance(one, str) and isinstance(other, str):
        return compare_texts(one, other)
    a, b = number(one), number(other)
    return (a > b) - (a < b)


def plain(name: str) -> str:
    """A name without quotes, in lower case."""
    return name.strip('`" ').lower()


def numeric(part: Part) -> str:
    """The text of an expression that gives a number."""
    if part.kind == "text":
        return f"CAST({part.text} AS REAL)"
    return part.text if part.kind in ("number", "null", "row") else f"{NUMBER}({part.text})"


def textual(part: Part) -> str:
    """The text of an expression that gives a text, where `part` is one or a number."""
    return f"{TEXT}({part.text})" if part.kind == "number" else part.text


def alike(parts: list[Part]) -> tuple[list[str], Kind]:
    """The texts of expressions one of which is the result, and its kind: one of texts and numbers is a text."""
    kinds = {part.kind for part in parts} - {"null"}
    if kinds == {"text", "number"}:
        return [textual(part) for part in parts], "text"
    return [part.text for part in parts], kinds.pop() if len(kinds) == 1 else ""


def comparable(*parts: Part) -> list[str]:
    """The texts of expressions that are compared with one another: as numbers if one of them is a number."""
    kinds = {part.kind for part in parts}
    if "number" in kinds and "row" not in kinds:
        return [numeric(part) for part in parts]
    texts = [part.text for part in parts]
    return [f"{texts[0]} COLLATE {COLLATION}", *texts[1:]] if kinds == {"text"} else texts


def compared(left: Part, operator: str, right: Part) -> Part:
    """A comparison as MySQL makes it."""
    operator = {"<=>": "IS", "==": "="}.get(operator, operator)
    if {left.kind, right.kind} == {"text", ""} and operator != "IS":
        return Part(f"{COMPARE}({left.text}, {right.text}) {operator} 0", "number")
    one, other = comparable(left, right)
    return Part(f"{one} {operator} {other}", "number")


def calculated(left: Part, operator: str, right: Part) -> Part:
    """Arithmetic as MySQL makes it: on numbers, and without cutting off what a division leaves."""
    one, other = numeric(left), numeric(right)
    if operator == "/":
        return Part(f"CAST({one} AS REAL) / {other}", "number")
    if operator == "DIV":
        return Part(f"CAST(CAST({one} AS REAL) / {other} AS INTEGER)", "number")
    return Part(f"{one} {'%' if operator == 'MOD' else operator} {other}", "number")


def called(name: str, parts: list[Part], head: str = "") -> Part:
    """A function's call, for those that SQLite lacks or takes otherwise in its words. `head`: "DISTINCT " or nothing."""
    texts = [part.text for part in parts]
    if name in ("if", "iif") and len(parts) == 3:
        results, kind = alike(parts[1:])
        return Part("CASE WHEN {} THEN {} ELSE {} END".format(texts[0], *results), kind)
    if name == "nullif" and len(parts) == 2:
        return Part(f"CASE WHEN {compared(parts[0], '=', parts[1]).text} THEN NULL ELSE {texts[0]} END", parts[0].kind)
    if name == "concat" and parts:
        return Part(f"({' || '.join(f'({textual(part)})' for part in parts)})", "text")
    if name in ("greatest", "least") and len(parts) > 1:
        kind = "number" if any(part.kind == "number" for part in parts) else alike(parts)[1]
        return Part(f"{'max' if name == 'greatest' else 'min'}({', '.join(comparable(*parts))})", kind)
    kind = "number" if name in NUMERIC else "text" if name in TEXTUAL else ""
    if name in OF_ARGUMENTS:
        texts, kind = alike(parts)
    elif name in OF_FIRST:
        kind = parts[0].kind if parts else ""
    elif name in OF_TEXT and parts:
        texts[0] = textual(parts[0])
    return Part(f"{name}({head}{', '.join(texts)})", kind)
