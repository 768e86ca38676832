"""SQL tasks: one statement an action, its rows judged against the gold statement's (InterCode, appendix A).

SQLite by default: each episode reads its own copy of the database in memory, through a connection that may only read, with a
limit on time, rows and the size of a value. MySQL or MariaDB, the original's engine, is an option (`engine`, see `mysql.py`).
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from leap_ray.envs.intercode import answers, coercion
from leap_ray.envs.intercode.answers import Answer, Database, collected
from leap_ray.envs.intercode.coercion import Kind
from leap_ray.envs.intercode.dump import collating, databases
from leap_ray.envs.intercode.mysql import MysqlDatabase
from leap_ray.envs.intercode.statement import as_mysql
from leap_ray.errors import UserError

VALUE = 100_000  # bytes of one value: what a function makes of two of them stays a matter of seconds
HEAP = 64 << 20  # bytes that SQLite may hold in this process, all databases together
PATTERN = 1_000  # bytes of a LIKE pattern, whose match may take their number times the value's length
TICK = 10_000  # SQLite instructions between two looks at the clock
SHOW = re.compile(r"\s*SHOW\s+(?:FULL\s+)?TABLES\b.*", re.IGNORECASE | re.DOTALL)
DESCRIBE = re.compile(
    r"\s*(?:DESC(?:RIBE)?|SHOW\s+(?:FULL\s+)?(?:COLUMNS|FIELDS)\s+(?:FROM|IN))\s+[`\"]?(\w+)[`\"]?\s*;?\s*$",
    re.IGNORECASE,
)
DESCRIPTION = (
    "SELECT name, lower(substr(type || ' ', 1, instr(type || ' ', ' ') - 1)), "
    "CASE WHEN \"notnull\" OR pk THEN 'NO' ELSE 'YES' END, CASE WHEN pk THEN 'PRI' ELSE '' END FROM pragma_table_info(?)"
)
MAY = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


@lru_cache(maxsize=256)
def _schema(content: bytes) -> dict[str, list[tuple[str, str, str, str]]]:
    """What DESC says of each table of a database, by lower-case name: column, type, whether it may be null, key."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(content)
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {name.lower(): connection.execute(DESCRIPTION, (name,)).fetchall() for (name,) in names}
    finally:
        connection.close()


def _kind(declared: str) -> Kind:
    return "text" if declared == "text" else "number"


class SqliteDatabase:
    """One episode's copy of a database."""

    def __init__(self, content: bytes) -> None:
        self._tables = _schema(content)
        self._columns = {
            table: {name.lower(): _kind(declared) for name, declared, _, _ in columns}
            for table, columns in self._tables.items()
        }
        self._connection = collating(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
        self._connection.deserialize(content)
        coercion.install(self._connection)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN)
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute(f"PRAGMA hard_heap_limit = {HEAP}")
        self._connection.set_authorizer(_only_reading)  # for good: nothing of ours is run after this

    def execute(self, statement: str) -> Answer:
        """Run one statement. Errors, time and row limits come back as the answer's error."""
        if SHOW.fullmatch(statement):
            return Answer([(name,) for name in sorted(self._tables)])
        if found := DESCRIBE.fullmatch(statement):
            rows = self._tables.get(found[1].lower())
            return Answer(list(rows)) if rows else Answer(None, f"Table '{found[1]}' doesn't exist")
        statement = as_mysql(statement, self._columns)
        deadline = time.monotonic() + answers.SECONDS
        self._connection.set_progress_handler(lambda: int(time.monotonic() > deadline), TICK)
        try:
            cursor = self._connection.execute(statement)
            return collected(cursor) if cursor.description is not None else Answer(None)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, ValueError) as error:
            if time.monotonic() > deadline:
                return Answer(None, f"more than {answers.SECONDS:g} seconds", exhausted=True)
            return Answer(None, str(error) or "out of memory", exhausted=not str(error))
        finally:
            self._connection.set_progress_handler(None, 0)

    def close(self) -> None:
        self._connection.close()


def _only_reading(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """SQLite's authorizer: reading and functions; no writing, no other files, no settings, no extensions."""
    if action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "readfile", "writefile", "fts3_tokenizer"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in MAY else sqlite3.SQLITE_DENY


def connect(engine: str, dump: Path | None, name: str) -> Database:
    """A database of the dump on `engine`. Raises UserError where it is not there."""
    if engine.startswith("mysql://"):
        return MysqlDatabase(engine, name)
    if engine != "sqlite":
        raise UserError(f"intercode: engine {engine!r} is neither sqlite nor mysql://user@host:port")
    files = databases(dump) if dump else {}
    if name.lower() not in files:
        raise UserError(f"intercode: {dump} holds no database {name!r}")
    return SqliteDatabase(files[name.lower()])


def score(answer: Answer, gold: Answer) -> float:
    """Shared rows over all rows, as multisets of texts, times Kendall's tau of the shared rows' orders where that is a number."""
    if answer.rows is None or gold.rows is None:
        return 0.0
    mine, theirs = [str(row) for row in answer.rows], [str(row) for row in gold.rows]
    shared, union = Counter(mine) & Counter(theirs), Counter(mine) | Counter(theirs)
    if not union:
        return 1.0
    overlap = shared.total() / union.total()
    if not shared:
        return overlap
    tau = kendall(_in_order(mine, shared), _in_order(theirs, shared))
    return overlap if math.isnan(tau) else round(tau * overlap, 2)


def _in_order(rows: Sequence[str], shared: Counter[str]) -> list[str]:
    """The first occurrences of the shared rows, in the order of `rows`."""
    left = Counter(shared)
    kept = []
    for row in rows:
        if left[row] > 0:
            left[row] -= 1
            kept.append(row)
    return kept


def kendall(one: Sequence[str], other: Sequence[str]) -> float:
    """Kendall's tau-b of two sequences of texts, ranked in the order of their characters; NaN where one holds a single value."""
    from scipy.stats import kendalltau

    if len(one) < 2:
        return math.nan
    ranks = {text: rank for rank, text in enumerate(sorted({*one, *other}))}
    result: Any = kendalltau([ranks[text] for text in one], [ranks[text] for text in other])
    return float(result.statistic)
