"""Episodes to Parquet by Ray Data: what is kept, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.dataset import read_examples, write_examples
from actors.environment import PromptSettings
from leap_ray.config import StudentConfig
from leap_ray.envs.base import make_env
from leap_ray.errors import UserError
from leap_ray.policy import tokenize
from leap_ray.rollout import demonstrate

pytestmark = pytest.mark.slow


def test_steps_that_the_student_could_not_reach_are_counted_and_left_out(
    ray_session, prompter, student_folder, tmp_path
):
    env = make_env("households", {"sizes": [1]})
    task = env.panel("train").tasks[0]
    episode = tokenize(demonstrate(env, task, seed=0, max_actions=20), prompter, env.domain_facts)
    env.close()
    prompts = PromptSettings(str(student_folder), "chat", True)
    lengths = [len(episode.prompt_ids(t)) for t in range(len(episode.steps))]
    wide = StudentConfig(max_length=4096, max_tokens=64)
    narrow = replace(wide, max_length=lengths[-1] + 63)  # the last prompt leaves no room for an action
    pairs = [(episode, None)]
    assert write_examples(pairs, prompts, wide, 0, tmp_path / "wide") == (len(lengths), {})
    kept = len(lengths) - 1
    assert write_examples(pairs, prompts, narrow, 0, tmp_path / "narrow") == (kept, {"beyond student.max_length": 1})
    found = read_examples([tmp_path / "narrow"])
    assert "left_out" not in found.schema().names
    assert sorted(row["id"] for row in found.iter_rows()) == sorted(f"{episode.id}/{t}" for t in range(kept))
    nothing = replace(wide, max_tokens=1)
    assert write_examples(pairs, prompts, nothing, 0, tmp_path / "nothing")[0] == 0
    with pytest.raises(UserError, match="no example to train on"):
        read_examples([tmp_path / "nothing"])
