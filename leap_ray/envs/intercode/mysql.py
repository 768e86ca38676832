"""MySQL or MariaDB, the original's engine, as a database for SQL tasks (`pip install leap-ray[mysql]`).

Every statement runs in a read-only transaction of its own. That alone keeps no file, lock or second of the server's safe, so a
statement is refused before it is sent where it names what writes files, takes locks or waits (`refusal`), and a user who may do
such things is refused when the connection is made. The password comes from the environment variable MYSQL_PWD.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from leap_ray.envs.intercode.answers import SECONDS, Answer, collected
from leap_ray.errors import EnvironmentFault, UserError

PATIENCE = 15  # seconds beyond a statement's own limit until a silent server is given up
LONGEST = 1_000_000  # characters of a statement
READS = re.compile(r"[\s(]*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXPLAIN|TABLE|VALUES)\b", re.IGNORECASE)
EXECUTABLE = re.compile(r"/\*M?!", re.IGNORECASE)
# Comments and quoted text, in a session where a backslash escapes inside quotes, and in one where it does not.
COMMENT = r"(?P<comment>/\*.*?(?:\*/|\Z)|\#[^\n]*|--(?=[\s\x00-\x1f]|\Z)[^\n]*)"
ESCAPING = re.compile(COMMENT + r"""|'(?:[^'\\]|\\.|'')*'?|"(?:[^"\\]|\\.|"")*"?|`[^`]*`?""", re.DOTALL)
LITERAL = re.compile(COMMENT + r"""|'[^']*'?|"[^"]*"?|`[^`]*`?""", re.DOTALL)
FORBIDDEN = re.compile(r"\b(INTO|FOR\s+UPDATE|FOR\s+SHARE|LOCK\s+IN|PROCEDURE\s+ANALYSE)\b|:=", re.IGNORECASE)
CALLS = (
    "load_file", "sleep", "benchmark", "get_lock", "release_lock", "release_all_locks", "is_free_lock", "is_used_lock",
    "master_pos_wait", "master_gtid_wait", "source_pos_wait", "wait_for_executed_gtid_set", "nextval", "setval", "lastval",
    "wait_until_sql_thread_after_gtids", "sys_exec", "sys_eval", "sys_get", "sys_set", "last_insert_id",
)  # fmt: skip
CALL = re.compile(rf"(?<![\w$@])[`\"]?({'|'.join(CALLS)})[`\"]?\s*\(", re.IGNORECASE)
NEXT_VALUE = re.compile(r"\b(NEXT|PREVIOUS)\s+VALUE\s+FOR\b", re.IGNORECASE)
POWERS = ("FILE", "SUPER", "ALL", "ALL PRIVILEGES")
USERS_FAULT = {1044, 1045, 1049, 1130, 1698, 1251, 2059}  # access denied, unknown database, host or plug-in
GONE = {
    1040,
    1053,
    1080,
    1129,
    1152,
    1159,
    1160,
    1161,
    1184,
    1203,
    1317,
    1927,
    2002,
    2003,
    2006,
    2013,
    2014,
    2026,
    2027,
    2055,
    4031,
}
TIMED_OUT = {1969, 3024}  # MariaDB's limit on a statement, and MySQL's


class MysqlDatabase:
    """A session with one database of a server. Raises UserError where the URL or its user cannot be used, EnvironmentFault where
    the server cannot be reached or is lost.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = urlsplit(url), name
        if self._url.password:  # the configuration is written to the run directory
            raise UserError(
                "intercode: put MySQL's password into the environment variable MYSQL_PWD, not into `engine`"
            )
        try:
            import pymysql
            import pymysql.cursors
        except ImportError:
            raise UserError("intercode: MySQL needs its client: pip install leap-ray[mysql]") from None
        self._pymysql, self._connection = pymysql, None
        self._connect()

    def _connect(self) -> None:
        try:
            self._connection = self._pymysql.connect(
                **_address(self._url), user=unquote(self._url.username or "root"), password=os.environ.get("MYSQL_PWD", ""),
                database=self._name, autocommit=True, charset="utf8mb4", cursorclass=self._pymysql.cursors.SSCursor,
                connect_timeout=PATIENCE, read_timeout=SECONDS + PATIENCE, write_timeout=SECONDS + PATIENCE, local_infile=False,
            )  # fmt: skip
            with self._connection.cursor() as cursor:
                cursor.execute(_time_limit(self._connection.get_server_info()))
                cursor.execute("SHOW GRANTS")
                self._refuse_powers([str(row[0]) for row in cursor.fetchall()])
                cursor.execute("SELECT @@SESSION.sql_mode")
                self._escapes = "NO_BACKSLASH_ESCAPES" not in str(cursor.fetchone())
        except self._pymysql.MySQLError as error:
            where = f"{self._url.hostname or '127.0.0.1'}:{self._url.port or 3306}"
            if _code(error) in USERS_FAULT:
                raise UserError(f"intercode: {where}: {error.args[-1]}") from None
            raise EnvironmentFault(f"the MySQL server {where} cannot be used: {error.args[-1:]}") from None

    def _refuse_powers(self, grants: list[str]) -> None:
        for grant in grants:
            found = re.match(r"GRANT (.*?) ON \*\.\* TO", grant, re.IGNORECASE | re.DOTALL)
            powers = {power.strip().upper() for power in found[1].split(",")} if found else set()
            if taken := sorted(powers & set(POWERS)):
                self.close()
                raise UserError(
                    f"intercode: MySQL's user {self._url.username or 'root'!r} has the privilege {taken[0]}, with which a "
                    "student reaches the server's files: name a user who may SELECT and nothing else"
                )

    def execute(self, statement: str) -> Answer:
        """Run one statement. Raises EnvironmentFault where the server was lost."""
        statement, why = checked(statement, self._escapes)
        if why:
            return Answer(None, why)
        assert self._connection is not None
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("START TRANSACTION READ ONLY")
                cursor.execute(statement)
                answer = collected(iter(cursor.fetchone, None)) if cursor.description is not None else Answer(None)
                if answer.error:
                    cursor._result.unbuffered_active = False  # else the client reads the rest of the rows, however many
                    self._renew()
                return answer
        except self._pymysql.MySQLError as error:
            code = _code(error)
            if code in GONE or code is None:
                self.close()
                raise EnvironmentFault(f"the MySQL server was lost: {error.args[-1:]}") from None
            return Answer(None, str(error.args[-1]), exhausted=code in TIMED_OUT)
        except (UnicodeError, ValueError, OverflowError) as error:
            self._renew()
            return Answer(None, str(error))
        finally:
            with contextlib.suppress(self._pymysql.MySQLError, OSError):
                self._connection.rollback()

    def _renew(self) -> None:
        assert self._connection is not None
        self._connection._force_close()
        self._connect()

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(self._pymysql.MySQLError, OSError):
                self._connection._force_close()


def checked(statement: str, escapes: bool = True) -> tuple[str, str]:
    """The statement without comments, and why it is refused ('' where it is not).

    `escapes`: whether a backslash escapes the character behind it inside quotes, as in MySQL's usual mode.
    """
    if len(statement) > LONGEST:
        return "", f"a statement has at most {LONGEST} characters"
    quoted = ESCAPING if escapes else LITERAL
    if any(EXECUTABLE.match(found[0]) for found in quoted.finditer(statement) if found["comment"]):
        return "", "comments that the server runs are not allowed"
    plain = quoted.sub(lambda found: " " if found["comment"] else found[0], statement)
    return plain, refusal(quoted.sub(_without_text, plain))


def _without_text(found: re.Match[str]) -> str:
    """Quoted text left out; a quoted name stays, for a function may be called by it."""
    return found[0] if found[0].startswith("`") or re.fullmatch(r'"\w+"', found[0]) else "''"


def refusal(bare: str) -> str:
    """Why a statement without comments and texts is refused, '' where it is not."""
    if not READS.match(bare):
        return "only statements that read are allowed"
    if found := FORBIDDEN.search(re.sub(r"`[^`]*`|\"\w+\"", "x", bare)) or NEXT_VALUE.search(bare):
        return f"{' '.join(found[0].upper().split())} is not allowed"
    if found := CALL.search(bare):
        return f"{found[1].upper()} is not allowed"
    return ""


def _address(url: SplitResult) -> dict[str, Any]:
    socket = url.path if url.path.strip("/") else None
    return {"host": url.hostname or "127.0.0.1", "port": url.port or 3306, "unix_socket": socket}


def _code(error: Exception) -> int | None:
    """A MySQL error's number; None for one of the client's own, which has none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) and error.args[0] else None


def _time_limit(server: str) -> str:
    if "mariadb" in server.lower():
        return f"SET SESSION max_statement_time = {SECONDS}"
    return f"SET SESSION max_execution_time = {int(SECONDS * 1000)}"
