"""Figures of a run: every event on disk as it was, and every number in the tracker, nested ones too."""

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leap_ray.metrics import Metrics


def test_an_event_is_written_whole_and_its_numbers_are_drawn(tmp_path):
    metrics = Metrics(tmp_path, ["tensorboard"], "run", {})
    metrics.log("evaluate/webshop", -1, {"success": 0.0, "parts": {"att": 0.25}, "panel": "4f2a", "interval": [0, 1]})
    metrics.log("rollouts/webshop", 1, {"outcomes": {"reveals privileged state": 3}, "actions_success": None})
    metrics.close()
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in events] == [("evaluate/webshop", -1), ("rollouts/webshop", 1)]
    assert events[0]["interval"] == [0, 1] and events[1]["actions_success"] is None
    drawn = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {tag: [(e.step, e.value) for e in drawn.Scalars(tag)] for tag in drawn.Tags()["scalars"]}
    assert found == {
        "evaluate/webshop/success": [(-1, 0.0)],
        "evaluate/webshop/parts/att": [(-1, 0.25)],
        "rollouts/webshop/outcomes/reveals_privileged_state": [(1, 3.0)],
    }


def test_a_line_that_a_crash_cut_off_stands_alone(tmp_path):
    """Else the next event is glued to it, and both are lost."""
    (tmp_path / "metrics.jsonl").write_text('{"event": "a", "step": 0}\n{"event": "b", "st')
    for number in range(2):
        metrics = Metrics(tmp_path, [], "run", {})
        metrics.log("c", number, {})
        metrics.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [line[:12] for line in lines[:2]] == ['{"event": "a', '{"event": "b']
    assert [json.loads(line)["event"] for line in lines[2:]] == ["c", "c"]


def test_the_same_figures_of_an_event_are_written_once_whoever_logs_them_again(tmp_path):
    """A kill between a stage's figures and its end makes the next process log them again."""
    figures = {"loss": 0.1, "parts": {"a": (1, 2.0)}, "none": None, "nan": float("nan")}
    for _ in range(3):
        metrics = Metrics(tmp_path, [], "run", {})
        metrics.log("train", 0, figures)
        metrics.log("train", 1, figures)
        metrics.close()
    metrics = Metrics(tmp_path, [], "run", {})
    metrics.log("train", 1, {**figures, "loss": 0.2})
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(e["step"], e["loss"]) for e in events] == [(0, 0.1), (1, 0.1), (1, 0.2)]
