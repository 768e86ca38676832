"""Whole runs through the command line: undisturbed, and killed in the middle of every stage.

The first layers of the real student, served by vLLM, play real games and are trained; only the sizes are small.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from experiments.benchmarks.interruptions import Moment
from experiments.benchmarks.run_data import differences
from experiments.benchmarks.run_process import GONE_SECONDS, Driver, shallow_student

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CONFIG = """
name: tiny
iterations: 2
domains:
  - {name: households, eval_panel: valid, demo_tasks: 3, train_tasks: 4, eval_tasks: 2, max_actions: 4}
student: {dtype: float32, max_length: 1024, max_tokens: 24, max_sequences: 8, kv_cache_gib: 1}
rollout: {episodes_per_actor: 2}
teacher: {correct: all, gap_steps: 2, gain_reasons: 3}
learner:
  {rank: 8, alpha: 16, learning_rate: 1.0e-3, precision: float32, batch_tokens: 64, row_tokens: 1024, warmup_steps: 1,
   checkpoint_every: 1}
"""
ROLLOUTS = "iter-1/rollouts/households"


def finish(driver):
    """The command to its end; its output goes into the assertion's message."""
    driver.until(lambda: False, 900)
    assert driver.end(60) == 0, driver.output[-3000:]


def come(driver, run, moment):
    """Wait for the moment; the command must not end before."""
    assert driver.until(moment.watch(run), 600), f"ended before {moment.words}: {driver.output[-3000:]}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.yaml").write_text(CONFIG)
    settings = ["--run-dir", str(folder / "run"), "--student.model", str(shallow_student(folder / "student"))]
    finish(Driver(["run", str(folder / "tiny.yaml"), *settings], folder / "log", {}))
    return folder / "run"


def test_every_failed_episode_is_corrected_or_counted(undisturbed):
    episodes = pandas.read_json(undisturbed / ROLLOUTS / "episodes.jsonl", lines=True)
    corrections = pandas.read_json(undisturbed / ROLLOUTS / "corrections.jsonl", lines=True)
    failed = episodes[episodes.score <= 0]
    assert len(failed) > 0
    assert len(corrections) == len(failed)
    result = json.loads((undisturbed / ROLLOUTS / "done.json").read_text())
    assert result["failed"] == len(failed)
    assert sum(result["outcomes"].values()) == sum(len(steps) for steps in failed.steps)


def test_every_adapter_passed_the_probe_and_evaluations_name_it(undisturbed):
    events = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    probes = [e for e in events if e["event"] == "probe"]
    assert len({p["policy"] for p in probes}) == 2
    assert all(0 < p["worst"] < 1e-2 for p in probes)
    gap = json.loads((undisturbed / "iter-1/realizability/households/done.json").read_text())
    assert 0 < gap["states"] <= 2
    assert 0 <= gap["tv"] <= 1
    for iteration in range(2):
        evaluation = json.loads((undisturbed / f"iter-{iteration}/evaluate/households/done.json").read_text())
        train = json.loads((undisturbed / f"iter-{iteration}/train/done.json").read_text())
        assert evaluation["policy"] == train["policy"]


def gains(run):
    """What metrics.jsonl holds of the gain of privileged state."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [e for e in events if e["event"] == "privilege_gain/households"]


def test_privileged_state_changes_the_probability_of_reasons_and_each_iteration_says_by_how_much(undisturbed):
    (gain,) = gains(undisturbed)
    assert (gain["step"], gain["reasons"], gain["left_out"]) == (1, 3, 0)
    assert gain["gain"] != 0 and 0 <= gain["own_reasons"] <= 3
    assert gain["interval"] is None or gain["interval"][0] <= gain["gain"] <= gain["interval"][1]
    (line,) = [text for text in (undisturbed.parent / "log").read_text().splitlines() if "privileged state;" in text]
    assert line.startswith("iteration 1 (households): 0 of ") and f"{gain['gain']:+.2f}" in line


def test_an_episodes_prompts_begin_with_what_was_said(undisturbed):
    from leap_ray.types import Episode, from_json

    for line in (undisturbed / ROLLOUTS / "episodes.jsonl").read_text().splitlines():
        episode = from_json(Episode, line)
        for t, step in enumerate(episode.steps[:-1]):
            so_far = [*episode.prompt_ids(t), *step.completion]
            assert episode.prompt_ids(t + 1)[: len(so_far)] == so_far


def test_show_prints_the_tables(undisturbed):
    command = [sys.executable, "-m", "experiments", "show", str(undisturbed)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert shown.returncode == 0, shown.stderr
    for word in ("evaluation", "base", "iter-0", "iter-1", "training", "invalid %", "revealing %"):
        assert word in shown.stdout
    (gain,) = gains(undisturbed)
    assert f"{gain['gain']:+.2f}" in shown.stdout


def test_killed_and_interrupted_it_ends_as_if_undisturbed(undisturbed, tmp_path):
    """The stages of iteration 1; `experiments/benchmarks/interruptions.py` disturbs every stage in more ways."""
    run, log = tmp_path / "run", tmp_path / "log"
    shutil.copytree(undisturbed, run, ignore=shutil.ignore_patterns("iter-1", "served"))
    events = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in events if json.loads(line)["step"] < 1))

    driver = Driver(["resume", str(run)], log, {})
    come(driver, run, Moment("the first correction", f"{ROLLOUTS}/corrections.jsonl"))
    driver.kill()
    assert driver.end(60) == -9
    assert driver.left(GONE_SECONDS) == []

    driver = Driver(["resume", str(run)], log, {})
    come(driver, run, Moment("training's first step", "iter-1/train/progress.jsonl"))
    driver.interrupt()
    assert driver.end(120) == 130
    assert driver.left(GONE_SECONDS) == []
    assert f"`leap-ray resume {run}` goes on from there" in driver.output.splitlines()[-1]
    assert not (run / "iter-1/train/done.json").exists()

    # Ctrl-C works after a training, too: Ray Train would leave a handler of its own behind.
    driver = Driver(["resume", str(run)], log, {})
    come(driver, run, Moment("the end of training", "iter-1/train/done.json"))
    driver.interrupt()
    assert driver.end(120) == 130
    assert not (run / "iter-1/evaluate/households/done.json").exists()

    finish(Driver(["resume", str(run)], log, {}))
    assert not any(differences(run, undisturbed).values()), differences(run, undisturbed)
