"""SQL tasks: the dump, the connection that may only read, the golden rows."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from leap_ray.envs.intercode import answers, sql
from leap_ray.envs.intercode.data import load
from leap_ray.envs.intercode.dump import databases, statements, values
from leap_ray.envs.intercode.env import InterCodeEnv, SqlEnv
from leap_ray.envs.intercode.statement import LONGEST, as_mysql
from leap_ray.errors import EnvironmentFault, UserError
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
    monkeypatch.setattr(answers, "SECONDS", 0.3)
    endless = library.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
    assert "more than 0.3 seconds" in endless.text
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT i FROM n"
    monkeypatch.setattr(answers, "SECONDS", 300)  # the other limits are met first, however busy the machine is
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


MARIADB = json.loads(Path(__file__).with_name("intercode_mariadb.json").read_text())


def alike(rows):
    """Rows as MariaDB's were recorded: all numbers are doubles."""
    return None if rows is None else [[float(v) if isinstance(v, int | float) else v for v in row] for row in rows]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("shop") / "dump.sql"
    path.write_text(MARIADB["dump"])
    database = sql.connect("sqlite", path, "shop")
    yield database
    database.close()


@pytest.mark.parametrize("recorded", MARIADB["answers"], ids=lambda recorded: recorded["statement"][:60])
def test_texts_meet_numbers_as_on_mariadb(shop, recorded):
    answer = shop.execute(recorded["statement"])
    assert alike(answer.rows) == alike(recorded["rows"]), answer.error


def test_statements_that_nobody_understands_stay_as_they_are(shop):
    for statement in (
        "SELEC 1",
        "SELECT (",
        "SELECT 'x",
        "SELECT ?",
        "VALUES (1)",
        "PRAGMA x",
        "",
        "SELECT a.b.c.d FROM",
    ):
        assert as_mysql(statement, {}) == statement
    long = f"SELECT {'1 + ' * LONGEST}1"
    assert as_mysql(long, {}) is long
    nested = f"SELECT {'(' * 3000}1{')' * 3000}"
    assert as_mysql(nested, {}) is nested


def test_columns_of_one_kind_are_compared_as_before(shop):
    """Their indices are of use, and a join of two large tables stays a matter of milliseconds."""
    columns = {"a": {"i": "number", "t": "text"}, "b": {"i": "number", "t": "text"}}
    assert "a.i = b.i" in as_mysql("SELECT 1 FROM a JOIN b ON a.i = b.i WHERE a.i > 5", columns)
    assert "a.i > 5" in as_mysql("SELECT 1 FROM a JOIN b ON a.i = b.i WHERE a.i > 5", columns)
    assert "CAST" not in as_mysql("SELECT 1 FROM a, b WHERE a.t = b.t AND a.t = 'x' AND a.i IN (1, 2)", columns)


@pytest.mark.parametrize(
    "statement",
    ["DESC json_each", "DESC pragma_table_info", "DESC sqlite_schema", "SHOW COLUMNS FROM json_tree", "DESC x"],
)
def test_tables_that_are_not_the_databases_do_not_exist(library, statement):
    assert "doesn't exist" in library.execute(statement).error
    assert library.execute("DELETE FROM book").error == "not authorized"
    assert "not authorized" in library.execute("ATTACH DATABASE ':memory:' AS x").error


PIECES = [
    "SELECT", "DESC", "DESCRIBE", "SHOW", "TABLES", "COLUMNS FROM", "FROM", "book", "author", "`book`", "json_each",
    "(", ")", "((", ",", "'", '"', "`", "''", ";", "--", "/*", "*/", "/*!", "#", "*", "=", "<=>", "1", "1e999",
    "-9223372036854775809", "0x", "x''", "NULL", "\ud800", "\udcff", "\0", "\x1b[2J", "é", "WITH RECURSIVE n(i) AS",
    "UNION ALL", "VALUES", "PRAGMA table_info(book)", "ATTACH ':memory:'", "BEGIN", "ROLLBACK", "EXPLAIN",
    "EXPLAIN QUERY PLAN", "pragma_table_info('book')", "sqlite_schema", "generate_series(1,9)", "CASE", "WHEN",
    "END", "BETWEEN", "IN", "LIKE", "GLOB", "MATCH", "REGEXP", "COLLATE nocase", "CAST(", "AS", "OVER (", "GROUP BY",
    "ORDER BY", "LIMIT -1", "?", ":name", "@x", "$y", "randomblob(9)", "zeroblob(99999999)", "printf('%s', x'ff')",
    "load_extension('x')", "char(0)", "cast(x'ff' as text)", "\n", "\t", "()" * 200, "(" * 500, "9" * 500,
    "x" * 5000,
]  # fmt: skip


def odd_statements():
    """A thousand odd statements, the same every time."""
    draw = random.Random(12)
    yield from (
        "",
        " ",
        ";",
        "\0",
        "\ud800",
        "'" * 9999,
        "(" * 99_999,
        "SELECT '" + "x" * 1_000_000,
        "SELECT 1 -- " + "x" * 1_000_000,
    )
    yield from (
        "DESC " * 100_000,
        "SHOW TABLES" + " " * 1_000_000,
        "SELECT " + "-" * 5001 + "1",
        "SELECT " + "1," * 5000 + "1",
    )
    for _ in range(1000):
        yield draw.choice((" ", "")).join(draw.choices(PIECES, k=draw.randint(1, 9)))
    for _ in range(100):
        yield "".join(chr(draw.randrange(1, 0x11000)) for _ in range(draw.randint(1, 60)))


def test_no_statement_raises_or_changes_what_may_be_done(monkeypatch):
    monkeypatch.setattr(answers, "SECONDS", 1.0)
    env = SqlEnv(data="embedded")
    task = next(t for t in env.panel("train").tasks if t.kind == "library")
    env.reset(options={"task": task})
    for statement in odd_statements():
        observation, reward, over, _, info = env.step(statement)
        assert isinstance(observation, str) and reward == 0.0 and not info["failure"], statement[:80]
        observation.encode()
        assert not over or statement.startswith(("submit", "skip"))
    assert env.step("SELECT count(*), sum(pages) FROM book")[0] == "[(6, 1432)]"
    assert "not authorized" in env.step("DELETE FROM book")[0]
    env.close()


def test_a_gold_statement_that_is_too_slow_is_a_fault_and_not_kept(monkeypatch):
    env = SqlEnv(data="embedded")
    env.reset(options={"task": env.panel("train").tasks[0]})
    monkeypatch.setattr(answers, "SECONDS", -1.0)
    monkeypatch.setattr(sql, "TICK", 1)
    with pytest.raises(EnvironmentFault, match="took more than it may"):
        env.step("submit")
    with pytest.raises(UserError, match="call reset first"):
        env.step("submit")
    monkeypatch.undo()
    env.reset(options={"task": env.panel("train").tasks[0]})
    env.step(env.item.gold)
    assert env.step("submit")[1] == 1.0


def test_a_password_has_no_place_in_the_configuration():
    with pytest.raises(UserError, match="MYSQL_PWD") as refused:
        sql.connect("mysql://reader:hunter2@127.0.0.1:3306", None, "library")
    assert "hunter2" not in str(refused.value)
