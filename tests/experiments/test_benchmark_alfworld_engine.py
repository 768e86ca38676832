"""The engine benchmark on a small scale: it runs as a person would run it, and its last line is JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "alfworld_engine.py"


@pytest.mark.slow
def test_benchmark_on_six_games(alfworld_data):
    command = [sys.executable, str(SCRIPT), "--data", str(alfworld_data), "--games", "6", "--random-actions", "6"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["games"], figures["task_types"], figures["mismatches"]) == (6, 6, 0)
    assert figures["steps"] > 30
    assert {"ratio", "ratio_cold"} <= figures.keys()
    assert all(name in done.stdout for name in ("stock", "cold", "cached", "memory"))
