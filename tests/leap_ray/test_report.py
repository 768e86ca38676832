"""The tables of a run, read from its directory alone."""

import io
import json

from rich.console import Console

from leap_ray.report.tables import (
    comparison_table,
    evaluation_table,
    failure_table,
    gathering_table,
    kinds_tables,
    leaks_table,
    spending_table,
)


def printed(table):
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def call(purpose, state="done", **figures):
    row = {
        "purpose": purpose,
        "state": state,
        "input": 0,
        "cache_read": 0,
        "cache_write": 0,
        "output": 0,
        "dollars": 0.0,
    }
    return json.dumps({**row, **figures}) + "\n"


def test_the_ledger_is_summed_by_purpose(tmp_path):
    assert spending_table(tmp_path) is None
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "ledger.jsonl").write_text(
        call("correct", input=1000, cache_write=200, output=50, dollars=0.125)
        + call("correct", input=300, cache_read=900, output=70, dollars=0.25)
        + call("correct", "failed")
        + call("repair", input=10, output=5, dollars=0.5)
        + '{"purpose": "corr'  # torn by a crash
    )
    rows = [line.replace("│", " ").split() for line in printed(spending_table(tmp_path)).splitlines()]
    assert ["correct", "3", "2", "2,400", "900", "120", "0.38"] in rows
    assert ["repair", "1", "1", "10", "0", "5", "0.50"] in rows


def evaluated(run, domain, **figures):
    folder = run / "iter-0" / "evaluate" / domain
    folder.mkdir(parents=True)
    figures = {"episodes": 2, "success": 0.5, "interval": [0.1, 0.9], "score": 0.5, "score_scale": 100, **figures}
    figures |= {"actions": 3.0, "actions_success": None, "invalid": 0.0, "panel": f"hash-{domain}"}
    (folder / "done.json").write_text(json.dumps(figures))


def test_several_domains_stand_in_one_table_and_their_kinds_in_one_each(tmp_path):
    evaluated(tmp_path, "webshop", parts={"att": 0.25}, kinds={"beauty": [2, 0.5]})
    evaluated(tmp_path, "intercode", parts={"p1": 0.33}, kinds={"fs_1": [2, 0.5]})
    rows = [line.split("│")[1:-1] for line in printed(evaluation_table(tmp_path)).splitlines() if "iter-0" in line]
    assert [[cell.strip() for cell in row][-2:] for row in rows] == [["33.0", ""], ["", "25.0"]]
    first, second = map(printed, kinds_tables(tmp_path))
    assert "fs_1" in first and "hash-intercode" in first and "beauty" not in first
    assert "50 (2)" in second and "hash-webshop" in second


def play(run, policy, wins):
    """An evaluation of households with those results, as a run leaves it."""
    from leap_ray.journal import RunDirectory
    from leap_ray.types import Episode, Finish, Task

    directory = RunDirectory(run)
    with directory.records(f"{policy}/evaluate/households", "episodes", Episode, lambda e: e.id) as episodes:
        for i, won in enumerate(wins):
            task = Task("households", f"t{i}", "valid")
            finish = Finish.SUCCESS if won == "1" else Finish.MAX_ACTIONS
            episodes.append(Episode(task, 0, policy, "", (), "", float(won), won == "1", finish))
        episodes.to_parquet()
    directory.finish(f"{policy}/evaluate/households", {"domain": "households"})
    directory.close()


def test_each_policy_is_compared_with_the_one_before_and_the_last_with_the_first_trained(tmp_path):
    play(tmp_path, "base", "000000")
    assert comparison_table(tmp_path) is None
    for number, wins in enumerate(("110000", "101000", "111111")):
        play(tmp_path, f"iter-{number}", wins)
    lines = printed(comparison_table(tmp_path)).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "→" in line]
    assert [row[1:] for row in rows] == [
        ["base → iter-0", "6", "+33.3", "2", "0", "0.5"],
        ["iter-0 → iter-1", "6", "+0.0", "1", "1", "1"],
        ["iter-1 → iter-2", "6", "+66.7", "4", "0", "0.12"],
        ["iter-0 → iter-2", "6", "+66.7", "4", "0", "0.12"],
    ]


def test_the_gap_stands_with_its_interval_and_number_of_steps(tmp_path):
    for stage, result in (
        (
            "rollouts",
            {"episodes": 8, "success": 0.5, "failed": 4, "corrected_episodes": 4, "examples": 9, "outcomes": {}},
        ),
        ("realizability", {"tv": 0.057, "interval": [0.01, 0.14], "states": 20, "episodes": 7, "unknown": 0}),
    ):
        (tmp_path / "iter-1" / stage / "toy").mkdir(parents=True)
        (tmp_path / "iter-1" / stage / "toy" / "done.json").write_text(json.dumps(result))
    assert "0.06 [0.01–0.14] n=20" in printed(gathering_table(tmp_path))


def test_the_students_opinion_on_leaks_stands_beside_the_leak_checks(tmp_path):
    assert leaks_table(tmp_path) is None
    outcomes = {"corrected": 30, "reveals privileged state": 2, "agreed": 9}
    gain = {"gain": 0.4149, "interval": [0.1, 0.8], "reasons": 16, "own": -0.05, "own_reasons": 15, "left_out": 0}
    for iteration in (1, 2):
        for stage, result in (("rollouts", {"outcomes": outcomes}), ("privilege_gain", gain)):
            folder = tmp_path / f"iter-{iteration}" / stage / "toy"
            folder.mkdir(parents=True)
            if iteration == 1 or stage == "rollouts":  # the second iteration is not measured yet
                (folder / "done.json").write_text(json.dumps(result))
    lines = printed(leaks_table(tmp_path)).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "toy" in line]
    assert rows == [
        ["iter-1", "toy", "32", "2", "6.2", "+0.41 [+0.10, +0.80] n=16", "-0.05"],
        ["iter-2", "toy", "32", "2", "6.2", "", ""],
    ]


def test_what_an_environment_calls_its_kinds_is_no_markup(tmp_path):
    """`[/x]` would be a closing tag that was never opened."""
    from experiments import cli

    evaluated(tmp_path, "mine", parts={"[bold]p": 0.5}, kinds={"[/x]": [2, 0.5], "[red]y": [1, 1.0]})
    console = Console(width=200, file=io.StringIO(), markup=cli.out._markup)
    for table in (evaluation_table(tmp_path), *kinds_tables(tmp_path)):
        console.print(table)
    shown = console.file.getvalue()
    assert "[/x]" in shown and "[red]y" in shown and "[bold]p" in shown


def test_why_a_student_fails_is_counted_by_cause(tmp_path):
    plays = {"episodes": 10, "actions": 8.0, "score_scale": 100.0, "score": 0.5}
    won = {"success": 0.4, "loops": 3, "invalid": 0.25, "causes": {"not here": 12, "unparsed": 8}}
    taught = {"success": 1.0, "loops": 0, "invalid": 0.5, "causes": {"unparsed": 40}, "intervened": 0.3}
    for stage, figures in {"iter-1/evaluate": won, "iter-1/rollouts": taught}.items():
        (tmp_path / stage / "households").mkdir(parents=True)
        (tmp_path / stage / "households" / "done.json").write_text(json.dumps(plays | figures))
    rows = [line.replace("│", " ").split() for line in printed(failure_table(tmp_path)).splitlines()]
    assert ["iter-1", "evaluation", "households", "60", "30", "25", "15", "10"] in rows
    assert ["iter-1", "rollouts", "households", "0", "0", "50", "0", "50", "30"] in rows
