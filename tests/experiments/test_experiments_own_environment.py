"""The README's environment of one's own: shown as it is, short, and good for every part of a run."""

from pathlib import Path

import pytest

from experiments.own_environment import Lockers
from leap_ray.errors import PrivilegeError
from leap_ray.rollout import demonstrate

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_file_as_it_is_in_under_40_lines():
    code = (ROOT / "experiments" / "own_environment.py").read_text()
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text()
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40


def test_its_expert_wins_every_task():
    env = Lockers()
    played = [demonstrate(env, task, seed=0, max_actions=8) for task in env.panel("train").tasks]
    assert all(episode.success for episode in played)
    assert 2 <= sum(len(episode.steps) for episode in played) / len(played) <= 7


def test_an_unknown_action_changes_nothing():
    env = Lockers()
    _, before = env.reset(options={"task": env.panel("train").tasks[0]})
    _, reward, terminated, _, after = env.step("take the lockers apart")
    assert not after.pop("valid")
    assert (after, reward, terminated) == (before, 0.0, False)


def test_privileged_state_is_for_training_tasks():
    env = Lockers()
    env.reset(options={"task": env.panel("train").tasks[0]})
    assert f"locker {env.place}" in env.privileged().rendering
    env.reset(options={"task": env.panel("valid").tasks[0]})
    with pytest.raises(PrivilegeError, match="valid"):
        env.privileged()
