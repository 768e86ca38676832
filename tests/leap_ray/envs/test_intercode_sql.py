"""SQL tasks: the dump, the connection that may only read, the golden rows."""

import gzip
import json
from collections import Counter

import pytest

from leap_ray.envs.intercode import sql
from leap_ray.envs.intercode.data import load
from leap_ray.envs.intercode.dump import databases, statements, values
from leap_ray.envs.intercode.env import InterCodeEnv, SqlEnv
from leap_ray.errors import UserError
from leap_ray.rollout import demonstrate
from leap_ray.types import Task


@pytest.fixture
def library():
    database = sql.connect("sqlite", load("embedded", "sql").dump, "library")
    yield database
    database.close()


def test_strings_of_a_dump_are_read_as_mysql_writes_them():
    rows = list(values(r"(1,'Tom O\'Reed',NULL),(-2,'a;b (c), d''e\\',1.50e1)"))
    assert rows == [(1, "Tom O'Reed", None), (-2, "a;b (c), d'e\\", 15.0)]
    with pytest.raises(ValueError, match="UNHEX"):
        list(values("(UNHEX('00'))"))
    assert list(statements("-- a\n/*!40101 SET x */;\nUSE `a;b`;\nSELECT ';'; ")) == ["USE `a;b`", "SELECT ';'"]


def test_a_broken_dump_names_the_statement(tmp_path):
    path = tmp_path / "dump.sql"
    path.write_text("USE `d`;\nCREATE TABLE `t` (\n  `a` int\n) ENGINE=x;\nINSERT INTO `t` VALUES (1,2);\n")
    with pytest.raises(UserError, match="INSERT INTO `t`"):
        databases(path)


def test_text_compares_as_in_mysql(library):
    assert library.execute("SELECT name FROM author WHERE name = 'ada finch  '").rows == [("Ada Finch",)]
    assert library.execute("SELECT count(*) FROM author WHERE country = 'NÓRWAY'").rows == [(2,)]


def test_a_student_can_look_around(library):
    assert library.execute("SHOW TABLES;").rows == [("author",), ("book",)]
    assert library.execute("describe book").rows[0] == ("book_id", "integer", "NO", "PRI")
    assert library.execute("SHOW COLUMNS FROM `author`").rows[1] == ("name", "text", "YES", "")
    assert "doesn't exist" in library.execute("DESC nothing").text


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM book", "INSERT INTO book VALUES (9, 'x', 1, 1, 1)", "DROP TABLE book", "CREATE TABLE x (a)",
        "PRAGMA query_only = 0", "ATTACH DATABASE '/etc/passwd' AS p", "VACUUM INTO '/tmp/x.db'", "SELECT load_extension('x')",
        "UPDATE book SET pages = 1", "SELECT 1; SELECT 2", "BEGIN", "SELECT * FROM nowhere", "", "SELECT '\ud800'",
    ],
)  # fmt: skip
def test_only_reading_is_possible(library, statement):
    answer = library.execute(statement)
    assert answer.rows is None
    assert library.execute("SELECT count(*), sum(pages) FROM book").rows == [(6, 1432)]


def test_a_statement_has_limits(library, monkeypatch):
    monkeypatch.setattr(sql, "SECONDS", 0.3)
    endless = library.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
    assert "more than 0.3 seconds" in endless.text
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i FROM n"
    monkeypatch.setattr(sql, "SECONDS", 300)  # the other limits are met first, however busy the machine is
    assert "rows" in library.execute(rows).error
    assert "big" in library.execute("SELECT length(zeroblob(100000000))").error
    wide = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n {}"
    assert library.execute(wide.format("zeroblob(90000)", "")).error == "more than 16 MiB"
    assert library.execute(wide.format("randomblob(90000)", "ORDER BY 1")).error == "out of memory"
    assert "complex" in library.execute("SELECT 'a' LIKE replace(hex(zeroblob(900)), '0', '%a')").error
    assert library.execute("SELECT count(*) FROM book").rows == [(6,)]


def test_every_embedded_task_is_solved_by_the_demonstrator():
    env = InterCodeEnv(language="sql", data="embedded", split="apart")
    kinds = [{task.kind for task in env.panel(name).tasks} for name in ("train", "test")]
    assert kinds == [{"library"}, {"railway"}]
    for task in env.panel("train").tasks:
        episode = demonstrate(env, task, seed=0, max_actions=15)
        assert episode.success and episode.extra == {"rows": 1.0}
    assert env.max_actions == SqlEnv.max_actions == 15


def test_errors_are_observations_and_the_last_rows_are_the_answer():
    env = SqlEnv(data="embedded")
    task = next(t for t in env.panel("train").tasks if "average price" in env._items[t.id].query)
    env.reset(options={"task": task})
    observation, _, _, _, info = env.step("SELECT colour FROM book")
    assert observation.startswith("Error executing query: no such column") and info["valid"] and not info["executed"]
    assert env.step("submit")[1] == 0.0
    env.reset(options={"task": task})
    env.step("SELECT avg(price) FROM book")
    assert env.step("submit")[1] == 1.0


def test_unknown_engines_and_databases_are_named():
    dump = load("embedded", "sql").dump
    with pytest.raises(UserError, match="oracle"):
        sql.connect("oracle", dump, "library")
    with pytest.raises(UserError, match="'nothing'"):
        sql.connect("sqlite", dump, "nothing")
    with pytest.raises(UserError, match="no sql task"):
        SqlEnv(data="embedded").reset(options={"task": Task("intercode-sql", "sql-9999", "train")})


def plain(value):
    """A value as a text that both engines agree on: MariaDB's decimals and SQLite's floats to four digits."""
    value = next(iter(value.values())) if isinstance(value, dict) else value
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def test_golden_statements(shared):
    """Every recorded gold statement scores 1.0, and MariaDB's recorded rows are ours, as multisets, in at least 95 %."""
    tasks = load(str(shared / "data" / "intercode"), "sql")
    with gzip.open(shared / "golden/intercode/sql_gold_results_mariadb.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    same = usable = 0
    for record in records:
        item = tasks.items[record["idx"]]
        database = sql.connect("sqlite", tasks.dump, item.kind)
        answer = database.execute(item.gold)
        database.close()
        assert sql.score(answer, answer) == 1.0
        if record["rows"] is None:  # did not run on MariaDB
            continue
        usable += 1
        mine, theirs = (Counter(tuple(map(plain, row)) for row in rows) for rows in (answer.rows, record["rows"]))
        whole = len(record["rows"]) == record["n"]
        same += mine == theirs if whole else mine.total() == record["n"] and not theirs - mine
    assert usable > 500 and same / usable >= 0.95


def test_a_password_has_no_place_in_the_configuration():
    with pytest.raises(UserError, match="MYSQL_PWD") as refused:
        sql.connect("mysql://reader:hunter2@127.0.0.1:3306", None, "library")
    assert "hunter2" not in str(refused.value)
