"""Panels are sorted, hashed, and say so when something does not fit."""

import json

import pytest

from leap_ray.errors import UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task


def panel(count=12, kinds=3):
    return Panel.of("d", "train", [Task("d", f"t{i:02}", "train", f"k{i % kinds}") for i in reversed(range(count))])


def test_order_of_arrival_does_not_matter():
    assert [t.id for t in panel().tasks] == sorted(t.id for t in panel().tasks)
    assert panel().hash == Panel.of("d", "other name", panel().tasks).hash
    assert panel(11).hash != panel(12).hash


def test_a_task_twice_or_unknown_is_an_error():
    with pytest.raises(UserError, match="twice"):
        Panel.of("d", "train", [Task("d", "a", "train"), Task("d", "a", "train")])
    with pytest.raises(UserError, match="'nowhere' is not in panel d/train"):
        panel().choose(["t01", "nowhere"])


def test_a_sample_is_spread_over_kinds_and_repeats_with_its_seed():
    big = Panel.of("d", "train", [Task("d", f"t{i:03}", "train", "rare" if i < 4 else "common") for i in range(100)])
    chosen = big.sample(8, seed=3)
    assert sum(t.kind == "rare" for t in chosen.tasks) == 4
    assert chosen == big.sample(8, seed=3)
    assert chosen != big.sample(8, seed=4)
    assert big.sample(None, 0) is big
    with pytest.raises(UserError, match="has 100 tasks; 101"):
        big.sample(101, 0)


def test_a_panel_file_comes_back_and_a_changed_one_does_not(tmp_path):
    path = tmp_path / "p.json"
    panel().save(path)
    assert Panel.load(path) == panel()
    body = json.loads(path.read_text())
    body["tasks"].pop()
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match="was changed"):
        Panel.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        Panel.load(tmp_path / "absent.json")
