"""Whole runs through the command line: undisturbed, and killed in the middle of every stage.

The real student, served by vLLM, plays real games and is trained; only the sizes are small.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
CONFIG = """
name: tiny
iterations: 2
domains:
  - {name: households, eval_panel: valid, demo_tasks: 3, train_tasks: 5, eval_tasks: 2, max_actions: 4}
student: {dtype: float32, max_length: 1024, max_tokens: 24, max_sequences: 8, kv_cache_gib: 1}
rollout: {episodes_per_actor: 3}
teacher: {correct: all, gap_steps: 2, gain_reasons: 3}
learner:
  {rank: 8, alpha: 16, learning_rate: 1.0e-3, precision: float32, batch_tokens: 64, row_tokens: 1024, warmup_steps: 1,
   checkpoint_every: 1}
"""
ROLLOUTS = "iter-1/rollouts/households"


def start(config, run, log):
    command = [sys.executable, "-m", "experiments", "run", str(config), "--run-dir", str(run)]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finish(config, run, log_path):
    """The command to its end; its output goes into the assertion's message."""
    with open(log_path, "ab") as log:
        code = start(config, run, log).wait(timeout=900)
    assert code == 0, log_path.read_text()[-3000:]


def kill_when(config, run, log_path, ready, number=signal.SIGKILL):
    """Start the command and signal the driver as soon as `ready()`; its Ray processes go with it. Returns its exit status."""
    with open(log_path, "ab") as log:
        driver = start(config, run, log)
        deadline = time.monotonic() + 600
        while not ready():
            assert driver.poll() is None, f"ended before it was to be killed: {log_path.read_text()[-3000:]}"
            assert time.monotonic() < deadline, log_path.read_text()[-3000:]
            time.sleep(0.02)
        os.kill(driver.pid, number)
        return driver.wait(timeout=120)


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def episode_keys(run):
    found = []
    for path in run.rglob("episodes.jsonl"):
        for line in path.read_text().splitlines():
            e = json.loads(line)
            found.append((str(path.parent.relative_to(run)), e["task"]["id"], e["seed"], e["policy"]))
    return sorted(found)


def examples(run):
    import ray.data  # noqa: F401  # registers the type in which it wrote the tokens, whichever test ran before

    tables = [pandas.read_parquet(folder) for folder in sorted(run.rglob("examples"))]
    table = pandas.concat(tables)
    tokens = {name: [np.asarray(ids).tolist() for ids in table[name]] for name in ("prompt", "response")}
    return sorted(zip(table.id, tokens["prompt"], tokens["response"]))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(config, folder / "run", folder / "log")
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


def test_killed_at_every_stage_it_ends_as_if_undisturbed(config, undisturbed, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    # Iteration 0 is taken over as it is: what is killed here is iteration 1, three times.
    shutil.copytree(undisturbed, run, ignore=shutil.ignore_patterns("iter-1", "served"))
    kill_when(config, run, log, lambda: lines(run / ROLLOUTS / "episodes.jsonl") >= 1)
    kill_when(config, run, log, lambda: lines(run / ROLLOUTS / "corrections.jsonl") >= 2)
    kill_when(config, run, log, lambda: lines(run / "iter-1/train/progress.jsonl") >= 1)
    assert not (run / "iter-1/train/done.json").exists()
    # Ctrl-C works after a training, too: Ray Train would leave a handler of its own behind.
    trained = (run / "iter-1/train/done.json").exists
    assert kill_when(config, run, log, trained, signal.SIGINT) == 130
    assert "goes on from there" in log.read_text().splitlines()[-1]
    assert not (run / "iter-1/evaluate/households/done.json").exists()
    finish(config, run, log)
    assert episode_keys(run) == episode_keys(undisturbed)
    assert examples(run) == examples(undisturbed)
    before, *more = gains(
        run
    )  # the copy's own metrics hold the undisturbed run's; killed in training, it was not done again
    assert [e["reasons"] for e in more] == [before["reasons"]] and more[0]["gain"] == pytest.approx(
        before["gain"], abs=0.05
    )
