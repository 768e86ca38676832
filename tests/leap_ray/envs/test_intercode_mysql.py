"""SQL tasks on MySQL: what is refused before it is sent, and a real MariaDB server on a socket of its own."""

import json
import os
import pickle
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from leap_ray.envs.intercode import mysql, sql
from leap_ray.envs.intercode.dump import statements
from leap_ray.envs.intercode.env import SqlEnv
from leap_ray.envs.intercode.mysql import LONGEST, checked
from leap_ray.errors import EnvironmentFault, UserError

MARIADB = json.loads(Path(__file__).with_name("intercode_mariadb.json").read_text())
REFUSED = [
    "SELECT 'x' INTO OUTFILE '/x'", "SELECT 'x' INTO/**/OUTFILE '/x'", "SELECT 'x' INTO /*!50000 OUTFILE*/ '/x'",
    "SELECT 1 INTO @a", "SELECT 1 into\ndumpfile '/x'", "SELECT 1 INTO -- x\n OUTFILE '/x'",
    "SELECT 1 INTO # x\n OUTFILE '/x'", "SELECT @a := 1", "SELECT LOAD_FILE('/etc/passwd')",
    "SELECT load_file ('/x')", "SELECT `load_file`('/x')", 'SELECT "load_file"(\'/x\')',
    "SELECT load_file/**/('/x')", "SELECT load_file -- x\n('/x')", "SELECT SLEEP(9)", "SELECT 1 WHERE sleep(9)",
    "SELECT (SELECT `sleep` (9))", "SELECT BENCHMARK(1e9, md5(1))", "SELECT GET_LOCK('a', 9)",
    "SELECT release_all_locks()", "SELECT * FROM part FOR UPDATE", "SELECT * FROM part FOR\n SHARE",
    "SELECT * FROM part LOCK IN SHARE MODE", "SELECT NEXT VALUE FOR s", "SELECT nextval(s)",
    "SELECT 'a\\'' INTO OUTFILE '/x'", "SELECT \"a\\\"\" INTO OUTFILE '/x'", "SELECT 'a''' INTO OUTFILE '/x'",
    "SELECT ''INTO@a", "/*! SELECT */ 1", "/*!SELECT*/ 1", "SELECT /*!99999 1 */ 2", "SELECT /*M! sleep(9) */ 1",
    "TABLE part INTO OUTFILE '/x'", "WITH t AS (SELECT 1) SELECT * INTO OUTFILE '/x' FROM t",
    "EXPLAIN SELECT 1 INTO @a", "VALUES (1) INTO OUTFILE '/x'", "SET GLOBAL a = 1",
    "SET STATEMENT max_statement_time = 0 FOR SELECT 1", "DELETE FROM part", "DO sleep(9)", "CALL p()",
    "LOCK TABLES part READ", "/* x */ INSERT INTO part VALUES (1)", "HANDLER part OPEN",
    "LOAD DATA INFILE '/x' INTO TABLE part", "FLUSH TABLES", "KILL 1", "", "()", "SELECT " + "1" * LONGEST,
]  # fmt: skip
ALLOWED = [
    "SELECT 'go into the outfile', \"sleep(9)\"", "SELECT 'it''s -- no comment', 'nor # this', '/* nor this */'",
    "SELECT 1 -- into", "SELECT 1 # load_file('/x')", "SELECT /* into outfile */ 1", "SELECT 'a\\' INTO OUTFILE'",
    "SELECT `into` FROM t", "SELECT 1--1", "SHOW TABLES", "DESC part", "(SELECT 1)",
    "WITH t AS (SELECT 1) SELECT * FROM t", "SELECT sleep FROM t", "SELECT `sleep`, (1)",
    "SELECT '/*! sleep(9) */'", "SELECT \"into\" FROM t",
]  # fmt: skip


@pytest.mark.parametrize("statement", REFUSED, ids=lambda statement: statement[:50])
def test_what_does_more_than_read_is_refused(statement):
    assert checked(statement)[1]


@pytest.mark.parametrize("statement", ALLOWED)
def test_what_only_reads_is_passed_on(statement):
    plain, why = checked(statement)
    assert not why and "outfile */" not in plain.lower()


def test_hints_and_comments_are_not_passed_on():
    assert checked("SELECT /*+ MAX_EXECUTION_TIME(0) */ 1 -- x")[0].split() == ["SELECT", "1"]


def test_a_backslash_that_escapes_nothing_hides_nothing():
    """In a session with NO_BACKSLASH_ESCAPES the text ends where elsewhere it would go on, and the reverse."""
    assert checked("SELECT 'a\\' INTO OUTFILE '/x'", escapes=False)[1]
    assert checked("SELECT 'a\\' INTO OUTFILE'", escapes=True)[1] == ""


SERVER = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
INSTALL = shutil.which("mariadb-install-db")


class Server:
    """A MariaDB server without network, in a folder of its own."""

    def __init__(self, folder):
        self.socket, self.folder = folder / "s", folder
        user = ["--user=root"] if os.getuid() == 0 else []
        data = [f"--datadir={folder}/data"]
        quick = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--no-defaults"]
        subprocess.run([INSTALL, *quick[-1:], *data, *user, *quick[:-1]], check=True, capture_output=True)
        small = [
            "--skip-networking",
            "--innodb-buffer-pool-size=8M",
            "--innodb-log-file-size=4M",
            f"--pid-file={folder}/pid",
        ]
        self.command = [SERVER, "--no-defaults", *data, *user, f"--socket={self.socket}", *small]
        self.start()

    def start(self):
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        for _ in range(600):
            if self.socket.exists() or self.process.poll() is not None:
                break
            time.sleep(0.1)
        assert self.socket.exists(), (self.folder / "log").read_text()[-2000:]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def url(self, user):
        return f"mysql://{user}@localhost{self.socket}"

    def run(self, *commands):
        import pymysql

        connection = pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)
        with connection.cursor() as cursor:
            for command in commands:
                cursor.execute(command)
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("pymysql", reason="the MySQL client is not installed: pip install leap-ray[mysql]")
    if not (SERVER and INSTALL):
        pytest.skip("no MariaDB server is installed: apt-get install mariadb-server")
    made = Server(tmp_path_factory.mktemp("db"))
    try:
        made.run("SET NAMES utf8mb4 COLLATE utf8mb4_general_ci", *statements(MARIADB["dump"]))
        for user, powers in (("reader", ""), ("filer", "FILE"), ("super", "SUPER"), ("writer", "ALL PRIVILEGES")):
            made.run(f"CREATE USER {user}@localhost", f"GRANT SELECT ON shop.* TO {user}@localhost")
            made.run(*([f"GRANT {powers} ON *.* TO {user}@localhost"] if powers else []))
        yield made
    finally:
        made.stop()


@pytest.fixture
def shop(server):
    database = sql.connect(server.url("reader"), None, "shop")
    yield database
    database.close()


def test_the_recorded_answers_are_mariadbs(server, shop):
    """The records that the SQLite backend is held to, asked again."""
    shop._connection.cursor().execute("SET NAMES utf8mb4 COLLATE utf8mb4_general_ci")
    for recorded in MARIADB["answers"]:
        rows = shop.execute(recorded["statement"]).rows
        same = [[v if v is None or isinstance(v, str) else float(v) for v in row] for row in rows]
        assert same == [[float(v) if isinstance(v, int) else v for v in row] for row in recorded["rows"]], recorded


@pytest.mark.parametrize("user", ["root", "filer", "super", "writer"])
def test_users_with_power_over_the_server_are_refused(server, user):
    with pytest.raises(UserError, match="may SELECT and nothing else"):
        sql.connect(server.url(user), None, "shop")


def test_strangers_and_unknown_databases_are_a_users_error(server):
    with pytest.raises(UserError, match="denied"):
        sql.connect(server.url("nobody"), None, "shop")
    with pytest.raises(UserError, match=r"denied|Unknown"):
        sql.connect(server.url("reader"), None, "nowhere")


def test_answers_have_limits_and_the_connection_goes_on(shop, monkeypatch):
    assert shop.execute("SELECT a.id FROM part a, part b, part c, part d, part e").error == "more than 10000 rows"
    assert "UTF" in shop.execute("SELECT '\ud800'").error.upper()
    assert "denied" in shop.execute("SELECT * FROM mysql.user").error
    assert "syntax" in shop.execute("SELECT 1; SELECT 2").error
    assert shop.execute("SELECT count(*) FROM part").rows == [(11,)]


def test_a_statement_without_end_is_ended_by_the_server(server, monkeypatch):
    monkeypatch.setattr(mysql, "SECONDS", 0.3)
    shop = sql.connect(server.url("reader"), None, "shop")
    tables = ", ".join(f"part {name}" for name in "abcdefghijkl")
    answer = shop.execute(f"SELECT count(*) FROM {tables}")
    assert answer.exhausted and "max_statement_time" in answer.error
    assert shop.execute("SELECT 1").rows == [(1,)]
    shop.close()


def test_nothing_is_written(server, shop, tmp_path):
    target = tmp_path / "out"
    for way in (
        f"SELECT 'x' INTO/**/OUTFILE '{target}'",
        f"SELECT 'x' INTO DUMPFILE '{target}'",
        "WITH t AS (SELECT 1) DELETE FROM part",
    ):
        assert shop.execute(way).error
    assert not target.exists() and shop.execute("SELECT count(*) FROM part").rows == [(11,)]


def test_a_lost_server_is_a_fault_of_the_episode_and_of_the_next_reset(server, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "databases.sql").write_text(MARIADB["dump"])
    task = {"query": "how many parts", "gold": "SELECT count(*) FROM part", "db": "shop", "db_tables": ["part"]}
    (folder / "sql.json").write_text(json.dumps([task, task | {"query": "again"}, task]))
    (folder / "databases.sql").rename(folder / "databases.txt")
    env = SqlEnv(data=str(folder), engine=server.url("reader"))
    options = {"task": env.panel("train").tasks[0]}
    env.reset(options=options)
    env.step("SELECT count(*) FROM part")
    assert env.step("submit")[1] == 1.0
    env.reset(options=options)
    try:
        server.process.kill()
        server.process.wait()
        with pytest.raises(EnvironmentFault, match="lost") as fault:
            env.step("SELECT count(*) FROM part")
        assert str(pickle.loads(pickle.dumps(fault.value))) == str(fault.value)
        with pytest.raises(EnvironmentFault, match="cannot be used"):
            env.reset(options=options)
    finally:
        server.socket.unlink(missing_ok=True)
        server.start()
    env.reset(options=options)
    assert env.step("SELECT count(*) FROM part")[0] == "[(11,)]"
    env.close()
