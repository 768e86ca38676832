"""SQL tasks: one statement an action, its rows judged against the gold statement's (InterCode, appendix A).

SQLite by default: each episode reads its own copy of the database in memory, through a connection that may only read, with a
limit on time, rows and the size of a value. MySQL or MariaDB, the original's engine, is an option (`engine`).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from leap_ray.envs.intercode import coercion
from leap_ray.envs.intercode.coercion import Kind
from leap_ray.envs.intercode.dump import collating, databases
from leap_ray.envs.intercode.statement import as_mysql
from leap_ray.errors import UserError

SECONDS = 5.0  # of one statement
ROWS = 10_000  # of one answer
VALUE = 100_000  # bytes of one value: what a function makes of two of them stays a matter of seconds
ANSWER = 16 << 20  # bytes of the values of one answer
HEAP = 64 << 20  # bytes that SQLite may hold in this process, all databases together
PATTERN = 1_000  # bytes of a LIKE pattern, whose match may take their number times the value's length
TICK = 10_000  # SQLite instructions between two looks at the clock
SHOW = re.compile(r"\s*SHOW\s+(?:FULL\s+)?TABLES\b.*", re.IGNORECASE | re.DOTALL)
DESCRIBE = re.compile(
    r"\s*(?:DESC(?:RIBE)?|SHOW\s+(?:FULL\s+)?(?:COLUMNS|FIELDS)\s+(?:FROM|IN))\s+[`\"]?(\w+)[`\"]?\s*;?\s*$",
    re.IGNORECASE,
)
READS = re.compile(r"[\s(]*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|TABLE|VALUES)\b", re.IGNORECASE)
WRITES_FILE = re.compile(r"\bINTO\s+(OUTFILE|DUMPFILE|@)", re.IGNORECASE)
DESCRIPTION = (
    "SELECT name, lower(substr(type || ' ', 1, instr(type || ' ', ' ') - 1)), "
    "CASE WHEN \"notnull\" OR pk THEN 'NO' ELSE 'YES' END, CASE WHEN pk THEN 'PRI' ELSE '' END FROM pragma_table_info(?)"
)
MAY = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Answer:
    """Rows, or None with an error where a statement failed (or gives no rows)."""

    rows: Rows | None
    error: str = ""
    exhausted: bool = False  # it took more time or memory than it may

    @property
    def text(self) -> str:
        """What the student sees, as the original prints it."""
        return f"Error executing query: {self.error}" if self.error else str(self.rows)


class Database(Protocol):
    """A connection to one database, for reading."""

    def execute(self, statement: str) -> Answer: ...

    def close(self) -> None: ...


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
        deadline = time.monotonic() + SECONDS
        self._connection.set_progress_handler(lambda: int(time.monotonic() > deadline), TICK)
        try:
            cursor = self._connection.execute(statement)
            return _answer(cursor) if cursor.description is not None else Answer(None)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, ValueError) as error:
            if time.monotonic() > deadline:
                return Answer(None, f"more than {SECONDS:g} seconds", exhausted=True)
            return Answer(None, str(error) or "out of memory", exhausted=not str(error))
        finally:
            self._connection.set_progress_handler(None, 0)

    def close(self) -> None:
        self._connection.close()


def _answer(cursor: Iterable[tuple[Any, ...]]) -> Answer:
    """The rows that a statement gives, where they are not too many or too large."""
    rows, size = [], 0
    for row in cursor:
        rows.append(tuple(row))
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(rows) > ROWS:
            return Answer(None, f"more than {ROWS} rows")
        if size > ANSWER:
            return Answer(None, f"more than {ANSWER >> 20} MiB")
    return Answer(rows)


def _only_reading(action: int, first: str | None, second: str | None, *_: Any) -> int:
    """SQLite's authorizer: reading and functions; no writing, no other files, no settings, no extensions."""
    if action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "readfile", "writefile", "fts3_tokenizer"):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in MAY else sqlite3.SQLITE_DENY


class MysqlDatabase:
    """A session on a MySQL or MariaDB server that holds the dump's databases (`pip install leap-ray[mysql]`).

    Every statement runs in a read-only transaction of its own, and only statements that read are passed on. Give the URL of a
    user who may SELECT and nothing else all the same: the server's own files are its administrator's to protect. The password
    comes from the environment variable MYSQL_PWD.
    """

    def __init__(self, url: str, name: str) -> None:
        parts = urlsplit(url)
        if parts.password:  # the configuration is written to the run directory
            raise UserError(
                "intercode: put MySQL's password into the environment variable MYSQL_PWD, not into `engine`"
            )
        try:
            import pymysql
        except ImportError:
            raise UserError("intercode: MySQL needs its client: pip install leap-ray[mysql]") from None
        try:
            self._connection = pymysql.connect(
                host=parts.hostname or "127.0.0.1", port=parts.port or 3306, user=unquote(parts.username or "root"),
                password=os.environ.get("MYSQL_PWD", ""),
                unix_socket=parts.path if parts.path.strip("/") else None, database=name,
                autocommit=True,
            )  # fmt: skip
            with self._connection.cursor() as cursor:
                cursor.execute(_time_limit(self._connection.get_server_info()))
        except pymysql.MySQLError as error:
            raise UserError(f"intercode: {parts.hostname}:{parts.port}: {error}") from None
        self._failed = pymysql.MySQLError

    def execute(self, statement: str) -> Answer:
        """Run one statement."""
        if not READS.match(statement) or WRITES_FILE.search(statement):
            return Answer(None, "only statements that read are allowed")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("START TRANSACTION READ ONLY")
                cursor.execute(statement)
                return _answer(cursor) if cursor.description is not None else Answer(None)
        except self._failed as error:
            return Answer(None, str(error.args[-1]))
        finally:
            with contextlib.suppress(self._failed):
                self._connection.rollback()

    def close(self) -> None:
        with contextlib.suppress(self._failed):
            self._connection.close()


def _time_limit(server: str) -> str:
    if "mariadb" in server.lower():
        return f"SET SESSION max_statement_time = {SECONDS}"
    return f"SET SESSION max_execution_time = {int(SECONDS * 1000)}"


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
