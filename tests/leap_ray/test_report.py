"""The tables of a run, read from its directory alone."""

import io
import json

from rich.console import Console

from leap_ray.report.tables import spending_table


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
