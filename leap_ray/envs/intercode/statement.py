"""From a statement for MySQL to one that gives the same on SQLite, where texts meet numbers: see `coercion.py`.

A statement is read once from left to right by recursive descent; FROM is read before what stands in front of it, so that the
kinds of columns are known. What is not understood raises Unread, and the statement stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from leap_ray.envs.intercode.coercion import (
    Kind,
    Part,
    Scope,
    alike,
    calculated,
    called,
    comparable,
    compared,
    numeric,
    plain,
)
from leap_ray.envs.intercode.tokens import Tokens, Unread

Columns = Mapping[str, Mapping[str, Kind]]  # table -> column -> kind, all in lower case
LONGEST = 20_000  # characters of a statement that is rewritten
COMPARISONS = {"=", "==", "<>", "!=", "<", ">", "<=", ">=", "<=>"}
MATCHES = {"BETWEEN", "IN", "LIKE", "GLOB", "REGEXP"}
OPERATORS = COMPARISONS | MATCHES | {"IS", "ISNULL", "NOTNULL", "NOT"}
JOINS = {"JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL", "OUTER"}
SETS = {"UNION", "INTERSECT", "EXCEPT"}
BEHIND_RESULTS = {None, "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", ")", ";"} | SETS
CONSTANTS = {
    "NULL": "null", "TRUE": "number", "FALSE": "number",
    "CURRENT_DATE": "text", "CURRENT_TIME": "text", "CURRENT_TIMESTAMP": "text",
}  # fmt: skip
NUMERIC_TYPE = re.compile(r"INT|REAL|FLOA|DOUB|DEC|NUM|SIGNED", re.IGNORECASE)


def as_mysql(statement: str, columns: Columns) -> str:
    """The statement for SQLite, giving what MySQL gives where a text meets a number."""
    if len(statement) > LONGEST:
        return statement
    try:
        reader = Reader(statement, columns)
        text, _ = reader.query(None)
        reader.take(";", optional=True)
        return text if reader.now is None else statement
    except (Unread, RecursionError):
        return statement


class Reader(Tokens):
    """Reads a statement from left to right. Each method takes what its name says and returns it rewritten."""

    def __init__(self, statement: str, columns: Columns) -> None:
        super().__init__(statement)
        self.columns = dict(columns)

    # Queries.

    def query(self, outer: Scope | None) -> tuple[str, list[tuple[str, Kind]]]:
        """A whole query: its text, and its results' names and kinds."""
        kept = dict(self.columns)
        head = self.common_tables(outer) if self.now == "WITH" else ""
        text, results, scope = self.core(outer)
        while self.now in SETS:
            words = [self.next(), self.take("ALL", optional=True) or self.take("DISTINCT", optional=True)]
            more, others, _ = self.core(outer)
            text += " ".join(["", *words, more])
            results = [(name, kind if kind == other else "") for (name, kind), (_, other) in zip(results, others)]
        if self.take("ORDER", "BY", optional=True):
            text += " ORDER BY " + self.sorting(scope)
        if self.take("LIMIT", optional=True):
            text += " LIMIT " + self.expression(scope).text
            while self.now in (",", "OFFSET"):
                text += f" {self.next()} {self.expression(scope).text}"
        self.columns = kept
        return head + text, results

    def common_tables(self, outer: Scope | None) -> str:
        text = self.take("WITH") + " " + self.take("RECURSIVE", optional=True)
        while True:
            name = self.name()
            names = self.brackets() if self.now == "(" else ""
            self.take("AS")
            self.take("(")
            self.columns.pop(plain(name), None)  # a recursive one: what it holds is not known yet
            inner, results = self.query(outer)
            self.take(")")
            listed = [plain(part) for part in names.strip("( )").split(",")] if names else [n for n, _ in results]
            self.columns[plain(name)] = {n: kind for n, (_, kind) in zip(listed, results)}
            text += f" {name} {names} AS ({inner})"
            if not self.take(",", optional=True):
                return text + " "
            text += ","

    def core(self, outer: Scope | None) -> tuple[str, list[tuple[str, Kind]], Scope]:
        """One SELECT. FROM is read before what stands in front of it."""
        scope = Scope(outer=outer)
        if self.now == "VALUES":
            raise Unread
        text = self.take("SELECT") + " " + (self.take("DISTINCT", optional=True) or self.take("ALL", optional=True))
        start = self.at
        self.skip_to_from()
        sources = " FROM " + self.sources(scope) if self.take("FROM", optional=True) else ""
        behind, self.at = self.at, start
        items, results = self.results(scope)
        if sources and self.now != "FROM":
            raise Unread
        self.at = behind if sources else self.at
        scope.names.update({name: kind for name, kind in results if name})
        text += f" {items}{sources}"
        if self.take("WHERE", optional=True):
            text += " WHERE " + self.expression(scope).text
        if self.take("GROUP", "BY", optional=True):
            text += " GROUP BY " + self.sorting(scope)
        if self.take("HAVING", optional=True):
            text += " HAVING " + self.expression(scope).text
        return text, results, scope

    def skip_to_from(self) -> None:
        while self.now not in BEHIND_RESULTS:
            if self.now == "(":
                self.brackets()
            else:
                self.next()

    def results(self, scope: Scope) -> tuple[str, list[tuple[str, Kind]]]:
        texts, results = [], []
        while True:
            if self.now == "*" or (self.ahead(1) == "." and self.ahead(2) == "*"):
                words = [self.next()] if self.now == "*" else [self.next(), self.next(), self.next()]
                texts.append("".join(words))
                chosen = [scope.sources.get(plain(words[0]), {})] if len(words) == 3 else list(scope.sources.values())
                results += [pair for columns in chosen for pair in columns.items()]
            else:
                part = self.expression(scope)
                name = self.alias()
                texts.append(f"{part.text} AS {name}" if name else part.text)
                results.append((plain(name or part.text.rpartition(".")[2]), part.kind))
            if not self.take(",", optional=True):
                return ", ".join(texts), results

    def alias(self) -> str:
        if self.take("AS", optional=True):
            return self.next()
        if self.at < len(self.tokens) and (self.is_name() or self.tokens[self.at][0] == "string"):
            return self.next()
        return ""

    def sources(self, scope: Scope) -> str:
        text = self.source(scope)
        while True:
            joined = [self.next() for _ in iter(lambda: self.now in JOINS, False)]
            if not joined and self.now != ",":
                return text
            text += f" {' '.join(joined) or self.next()} {self.source(scope)}"
            if self.take("ON", optional=True):
                text += " ON " + self.expression(scope).text
            elif self.take("USING", optional=True):
                text += " USING " + self.brackets()

    def source(self, scope: Scope) -> str:
        if self.take("(", optional=True):
            if self.now not in ("SELECT", "WITH"):
                inner = self.sources(scope)
                self.take(")")
                return f"({inner})"
            inner, results = self.query(scope.outer)
            self.take(")")
            name = self.alias()
            scope.sources[plain(name) or f" {len(scope.sources)}"] = dict(results)
            return f"({inner})" + (f" AS {name}" if name else "")
        table = self.name()
        if self.take(".", optional=True):
            raise Unread
        name = self.alias()
        scope.sources[plain(name or table)] = self.columns.get(plain(table), {})
        return f"{table} AS {name}" if name else table

    def sorting(self, scope: Scope) -> str:
        """Expressions with their directions, as they are: an order of texts stays one."""
        texts = []
        while True:
            words = [self.expression(scope).text]
            while self.now in ("ASC", "DESC", "NULLS") or (words[-1] == "NULLS" and self.now in ("FIRST", "LAST")):
                words.append(self.next().upper())
            texts.append(" ".join(words))
            if not self.take(",", optional=True):
                return ", ".join(texts)

    # Expressions, from those that bind least.

    def expression(self, scope: Scope) -> Part:
        return self.chain(scope, "OR", self.exclusion)

    def exclusion(self, scope: Scope) -> Part:
        part = self.conjunction(scope)
        while self.take("XOR", optional=True):
            part = Part(f"((NOT ({part.text})) <> (NOT ({self.conjunction(scope).text})))", "number")
        return part

    def conjunction(self, scope: Scope) -> Part:
        return self.chain(scope, "AND", self.negation)

    def chain(self, scope: Scope, word: str, operand: Callable[[Scope], Part]) -> Part:
        part = operand(scope)
        while self.take(word, optional=True):
            part = Part(f"{part.text} {word} {operand(scope).text}", "number")
        return part

    def negation(self, scope: Scope) -> Part:
        if self.take("NOT", optional=True):
            return Part(f"NOT {self.negation(scope).text}", "number")
        return self.comparison(scope)

    def comparison(self, scope: Scope) -> Part:
        left, first = self.sum(scope), True
        while self.now in OPERATORS:
            left, first = (left if first else Part(f"({left.text})", left.kind)), False
            if self.now in COMPARISONS:
                operator = self.next()
                if self.now in ("ALL", "ANY", "SOME"):
                    raise Unread
                left = compared(left, operator, self.sum(scope))
            elif self.now == "IS":
                words = [self.next()] + ([self.next()] if self.now == "NOT" else [])
                left = Part(f"{left.text} {' '.join(words)} {self.sum(scope).text}", "number")
            elif self.now in ("ISNULL", "NOTNULL"):
                left = Part(f"{left.text} {self.next()}", "number")
            else:
                left = self.match(left, scope)
        return left

    def match(self, left: Part, scope: Scope) -> Part:
        """BETWEEN, IN and LIKE, with NOT before them or not."""
        negated = f"{self.take('NOT', optional=True)} ".lstrip()
        word = self.next().upper()
        if word not in MATCHES:
            raise Unread
        if word == "BETWEEN":
            low = self.sum(scope)
            self.take("AND")
            sides = comparable(left, low, self.sum(scope))
            return Part("{} {}BETWEEN {} AND {}".format(sides[0], negated, *sides[1:]), "number")
        if word == "IN":
            return self.member(left, negated, scope)
        text = f"{left.text} {negated}{word} {self.sum(scope).text}"
        if self.take("ESCAPE", optional=True):
            text += f" ESCAPE {self.sum(scope).text}"
        return Part(text, "number")

    def member(self, left: Part, negated: str, scope: Scope) -> Part:
        self.take("(")
        if self.now in ("SELECT", "WITH"):
            inner, results = self.query(scope)
            self.take(")")
            kind = results[0][1] if len(results) == 1 else "row"
            if {left.kind, kind} == {"text", "number"} and kind == "text":
                inner = f"WITH listed(value) AS ({inner}) SELECT CAST(value AS REAL) FROM listed"
            own = comparable(left, Part("", kind))[0]
            return Part(f"{own} {negated}IN ({inner})", "number")
        parts = self.list(scope)
        self.take(")")
        if all(part.kind in (left.kind, "null") or "row" in (part.kind, left.kind) for part in parts):
            own, *others = comparable(left, *parts) if left.kind == "text" else [part.text for part in (left, *parts)]
            return Part(f"{own} {negated}IN ({', '.join(others)})", "number")
        return Part(f"{negated}({' OR '.join(compared(left, '=', part).text for part in parts)})", "number")

    def list(self, scope: Scope) -> list[Part]:
        parts = [self.expression(scope)]
        while self.take(",", optional=True):
            parts.append(self.expression(scope))
        return parts

    def sum(self, scope: Scope) -> Part:
        return self.arithmetic(scope, {"+", "-", "&", "|", "<<", ">>"}, self.product)

    def product(self, scope: Scope) -> Part:
        return self.arithmetic(scope, {"*", "/", "%", "DIV", "MOD"}, self.joined)

    def arithmetic(self, scope: Scope, operators: set[str], operand: Callable[[Scope], Part]) -> Part:
        part = operand(scope)
        while self.now in operators:
            part = calculated(part, self.next().upper(), operand(scope))
        return part

    def joined(self, scope: Scope) -> Part:
        part = self.unary(scope)
        while self.now == "||":
            part = Part(f"{part.text} {self.next()} {self.unary(scope).text}", "text")
        return part

    def unary(self, scope: Scope) -> Part:
        if self.now in ("-", "+", "~", "!"):
            sign = {"!": "NOT"}.get(mark := self.next(), mark)
            return Part(f"{sign} {numeric(self.unary(scope))}", "number")  # the space keeps `- -1` from being a comment
        part = self.primary(scope)
        while self.take("COLLATE", optional=True):
            part = Part(f"{part.text} COLLATE {self.next()}", part.kind)
        return part

    def primary(self, scope: Scope) -> Part:
        if self.at >= len(self.tokens):
            raise Unread
        kind, text = self.tokens[self.at]
        if kind in ("string", "number"):
            if self.next()[:2].lower() == "0x":
                raise Unread  # MySQL takes it for a text or a number as the place wants
            return Part(text, "text" if kind == "string" else "number")
        if self.now == "(":
            return self.bracketed(scope)
        if self.now == "CASE":
            return self.case(scope)
        if self.now == "EXISTS" and self.ahead(1) == "(":
            self.next()
            return Part(f"EXISTS {self.bracketed(scope).text}", "number")
        if self.now == "BINARY" and self.ahead(1) != "(":
            raise Unread
        if self.ahead(1) == "(" and kind == "name":
            return self.call(scope)
        if self.now in CONSTANTS:
            return Part(self.next(), CONSTANTS[text.upper()])
        return self.column(scope)

    def bracketed(self, scope: Scope) -> Part:
        self.take("(")
        if self.now in ("SELECT", "WITH"):
            inner, results = self.query(scope)
            self.take(")")
            return Part(f"({inner})", results[0][1] if len(results) == 1 else "row")
        parts = self.list(scope)
        self.take(")")
        kind = parts[0].kind if len(parts) == 1 else "row"
        return Part(f"({', '.join(part.text for part in parts)})", kind)

    def case(self, scope: Scope) -> Part:
        text = self.take("CASE")
        subject = None if self.now == "WHEN" else self.expression(scope)
        conditions, results = [], []
        while self.take("WHEN", optional=True):
            when = self.expression(scope)
            conditions.append((compared(subject, "=", when) if subject else when).text)
            self.take("THEN")
            results.append(self.expression(scope))
        if self.take("ELSE", optional=True):
            results.append(self.expression(scope))
        texts, kind = alike(results)
        text += "".join(f" WHEN {condition} THEN {value}" for condition, value in zip(conditions, texts))
        text += f" ELSE {texts[-1]}" if len(texts) > len(conditions) else ""
        return Part(f"{text} {self.take('END')}", kind)

    def call(self, scope: Scope) -> Part:
        name = self.next()
        self.take("(")
        if name.upper() == "CAST":
            return self.cast(scope)
        head = "DISTINCT " if self.take("DISTINCT", optional=True) else ""
        parts = []
        if self.take("*", optional=True):
            parts = [Part("*")]
        elif self.now != ")":
            parts = self.list(scope)
        self.take(")")
        part = called(name.lower(), parts, head)
        text = part.text
        if self.take("FILTER", optional=True):
            text += f" FILTER {self.brackets()}"
        if self.take("OVER", optional=True):
            text += " OVER " + (self.brackets() if self.now == "(" else self.name())
        return Part(text, part.kind)

    def cast(self, scope: Scope) -> Part:
        part = self.expression(scope)
        self.take("AS")
        words = [self.next()]
        while self.now != ")":
            words.append(self.brackets() if self.now == "(" else self.next())
        self.take(")")
        kind = "number" if NUMERIC_TYPE.search(words[0]) else "text"
        return Part(f"CAST({part.text} AS {' '.join(words)})", kind)

    def column(self, scope: Scope) -> Part:
        quoted = self.tokens[self.at][0] == "quoted"
        words = [self.name()]
        while self.take(".", optional=True):
            words.append(self.next())
        found = scope.kind([plain(word) for word in words])
        if found is None and quoted and len(words) == 1:
            return Part(words[0], "text")  # SQLite takes what names no column for a text, as MySQL does
        return Part(".".join(words), found or "")
