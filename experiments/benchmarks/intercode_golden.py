"""Our InterCode beside records of the original: gold commands, turns on a real Docker container, rows of MariaDB, MBPP's tests.

    python experiments/benchmarks/intercode_golden.py --base /path/to/debian-tree [--data FOLDER] [--golden FOLDER]

Build the tree with `python -m leap_ray.envs.intercode.rootfs`. Golden files have the records' form: JSON lines, packed.

Figures depend on the clock in one way: turns whose command and gold command both print the date share a word more than the
record's did while the hour (or minute) has the number of the month or the day, as they would on a real container. And on a busy
machine `bash-102`, which prints the second, and `bash-030`, which counts its own pipeline's files in /proc, may miss.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from leap_ray.envs.intercode import python_tasks, sql
from leap_ray.envs.intercode.backend import Backend
from leap_ray.envs.intercode.bash import GoldResults, Session, judge
from leap_ray.envs.intercode.data import Item, TaskSet, load
from leap_ray.envs.intercode.games import NOTHING

SHARED = Path(__file__).parents[3] / "shared"
CLOSE = 0.05 + 1e-9  # of two rewards
GOLD = GoldResults()
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="auto", help="auto, host, or the folder of a Debian tree")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "intercode")
    parser.add_argument("--golden", type=Path, default=SHARED / "golden" / "intercode")
    parser.add_argument(
        "--workers", type=int, default=6, help="sandboxes at once: many commands only wait for their limit"
    )
    args = parser.parse_args()
    console = Console(stderr=True)
    backend = Backend("bubblewrap", args.base)
    console.print(backend.note)
    figures: dict[str, Any] = {"base": backend.base.kind if backend.base else ""}
    with ThreadPoolExecutor(args.workers) as pool:
        bash = load(str(args.data), "bash")
        figures |= gold_commands(bash, backend, pool, console)
        figures |= docker_turns(bash, backend, pool, read(args.golden / "docker_turns.jsonl.gz"), console)
        figures |= python_solutions(load(str(args.data), "python"), backend, pool, console)
    figures |= sql_statements(
        load(str(args.data), "sql"), read(args.golden / "sql_gold_results_mariadb.jsonl.gz"), console
    )
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
    print(json.dumps(figures))


def read(path: Path) -> list[Record]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def gold_commands(tasks: TaskSet, backend: Backend, pool: ThreadPoolExecutor, console: Console) -> dict[str, Any]:
    """Bar 1, first half: a student that gives the gold command in the faithful mode."""

    def play(item: Item) -> float:
        turn = {"action": item.gold, "gold": item.gold}
        return replay(tasks, backend, item.kind, [turn])[0][1]

    scores = list(pool.map(play, tasks.items))
    for item, score in zip(tasks.items, scores):
        if score != 1.0:
            console.print(f"{item.id} scores {score:.2f}: {item.gold}", highlight=False, markup=False)
    return {"gold_commands": len(scores), "gold_commands_at_1": sum(score == 1.0 for score in scores)}


def docker_turns(
    tasks: TaskSet, backend: Backend, pool: ThreadPoolExecutor, records: list[Record], console: Console
) -> dict[str, Any]:
    """Bar 1, second half: conversations with a real container, replayed turn by turn; every turn was followed by a submit."""
    groups: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in records:
        groups[record["fs"], record["idx"]].append(record)
    played = pool.map(lambda group: replay(tasks, backend, f"fs_{group[0][0]}", group[1]), groups.items())
    close = agree = same = 0
    for (place, turns), results in zip(groups.items(), played):
        for turn, (text, score) in zip(turns, results):
            near = abs(score - turn["reward"]) <= CLOSE
            close, same = close + near, same + (text == turn["observation"])
            agree += (score == 1.0) == (turn["reward"] == 1.0)
            if not near:
                where = f"fs_{place[0]} {place[1]} turn {turn['turn']}"
                line = f"{where}: {score:.2f}, recorded {turn['reward']:.2f}: {turn['action'][:90]}"
                console.print(line, highlight=False, markup=False)
    count = len(records)
    return {
        "docker_turns": count,
        "reward_within_0.05": close / count,
        "success_agrees": agree / count,
        "same_observation": same / count,
    }


def replay(tasks: TaskSet, backend: Backend, kind: str, turns: Iterable[Record]) -> list[tuple[str, float]]:
    """What each turn shows, and the reward of a submit after it, in one session on a fresh tree."""
    tree = tasks.trees[kind]
    session = Session(backend.open(tree))
    results = []
    for turn in turns:
        text = session.execute(turn["action"]).text
        gold = GOLD.get(turn["gold"], backend.contents(tree), "docker", lambda: backend.open(tree))
        results.append((text, judge(session, text, gold).total))
    session.sandbox.close()
    return results


def sql_statements(tasks: TaskSet, records: list[Record], console: Console) -> dict[str, Any]:
    """Bar 2: every gold statement against itself, and its rows against MariaDB's."""
    ran = perfect = same = usable = 0
    answers = []
    for item in tasks.items:
        database = sql.connect("sqlite", tasks.dump, item.kind)
        answers.append(database.execute(item.gold))
        database.close()
        ran += not answers[-1].error
        perfect += sql.score(answers[-1], answers[-1]) == 1.0
    for record in records:
        mine = answers[record["idx"]].rows
        if record["rows"] is None or mine is None:  # did not run there, or here
            continue
        usable += 1
        ours, theirs = (Counter(tuple(map(plain, row)) for row in rows) for rows in (mine, record["rows"]))
        whole = len(record["rows"]) == record["n"]  # long answers are recorded in part
        equal = ours == theirs if whole else ours.total() == record["n"] and not theirs - ours
        same += equal
        if not equal:
            console.print(
                f"sql-{record['idx']:04d} gives other rows: {record['gold'][:110]}", highlight=False, markup=False
            )
    return {
        "sql_statements": len(answers),
        "sql_ran": ran,
        "sql_at_1": perfect,
        "mariadb_compared": usable,
        "mariadb_same_rows": same / usable,
    }


def plain(value: Any) -> str:
    """A value as a text that both engines agree on: decimals and floats to four digits."""
    value = next(iter(value.values())) if isinstance(value, dict) else value
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def python_solutions(tasks: TaskSet, backend: Backend, pool: ThreadPoolExecutor, console: Console) -> dict[str, Any]:
    """Bar 2: MBPP's reference solutions against MBPP's tests."""

    def passes(item: Item) -> bool:
        box = backend.open(NOTHING)
        try:
            return python_tasks.passed(python_tasks.gold_results(box, item))
        finally:
            box.close()

    passed = list(pool.map(passes, tasks.items))
    for item, good in zip(tasks.items, passed):
        if not good:
            console.print(f"{item.id} does not pass its tests", highlight=False)
    return {"mbpp_solutions": len(passed), "mbpp_passed": sum(passed)}


if __name__ == "__main__":
    main()
