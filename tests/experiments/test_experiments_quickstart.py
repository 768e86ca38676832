"""The README's first command, as a newcomer gives it: a relative folder, wherever they are; the terminal shows progress only."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SIZES = "--iterations 2 --domains.0.demo-tasks 4 --domains.0.train-tasks 2 --domains.0.eval-tasks 2 --domains.0.max-actions 4"
OURS = re.compile(
    r"run /|\d+ student server|student package:|base: |demonstrations |iteration \d|"
    r"households-iter\d-\w+(: evaluation| is served)|"
    r"\s+\S.*: evaluation$|[ │┃┏┡┗└┌├━─].*|$"
)


def leap_ray(folder, *arguments, log):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", "from experiments.cli import main; main()", *arguments]
    with open(log, "w") as output:
        code = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=900
        )
    assert code.returncode == 0, log.read_text()
    return log.read_text()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of an awkward name in which `runs` is a link to another one."""
    base = tmp_path_factory.mktemp("newcomer")
    folder, elsewhere = base / "a ü #1 iteration=7 %20 [x]", base / "other disk"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "runs").symlink_to(elsewhere)
    (base / "link").symlink_to(folder)
    return base / "link", elsewhere / "quickstart", base


def test_the_quickstart_runs_in_its_own_relative_folder(places):
    folder, run, base = places
    words = re.search(r"leap-ray (run \S+)\n", (ROOT / "README.md").read_text())[1].split()
    shown = leap_ray(folder, words[0], str(ROOT / words[1]), *shlex.split(SIZES), log=base / "log")
    strange = [line for line in shown.splitlines() if not OURS.match(line)]
    assert strange == [], "lines on the terminal that are not ours"
    for iteration in range(2):
        assert (run / f"iter-{iteration}/train/weights/config.json").is_file()
        assert json.loads((run / f"iter-{iteration}/evaluate/households/done.json").read_text())["episodes"] == 2
    assert (run / "logs" / "driver.log").stat().st_size > 0


def test_its_examples_carry_the_iteration_that_they_are_of(places):
    """A folder called `iteration=7` in the path was once read as a column."""
    import pandas

    table = pandas.read_parquet(places[1] / "iter-0/demonstrations/households/examples", partitioning=None)
    assert set(table.iteration) == {0}
    index = json.loads((places[1] / "iter-0/train/ray-train/rows/index.json").read_text())
    assert sum(row["examples"] for row in index["rows"]) == len(table)


def test_it_is_shown_from_anywhere_else(places, tmp_path):
    shown = leap_ray(tmp_path, "show", os.path.relpath(places[1], tmp_path), log=tmp_path / "log")
    assert "iter-1" in shown
