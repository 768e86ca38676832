"""Corrected episodes without a model: the domain's demonstrator plays, and often does something else than it should.

Actions, observations and corrections are real: the slips are drawn from the candidate actions, and the symbolic teacher
corrects every step. Serves the learner's benchmarks, which need token streams like a run's and no student.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice
from typing import Any

from leap_ray.envs.base import TextEnv
from leap_ray.learning.examples import from_correction
from leap_ray.policy import Prompter, tokenize
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import Episode, Example, Finish, Step, Task

SLIP = "The task may need it, so I try this next."


def stumble(env: TextEnv, task: Task, *, steps: int, slips: float, seed: int = 0) -> Episode:
    """An episode of at most `steps` actions in which each is, with probability `slips`, a random candidate."""
    rng = random.Random(f"{seed}/{task.id}")
    observation, info = env.reset(seed=seed, options={"task": task})
    guide, done, made = env.expert("demonstrator", seed=seed), False, []
    while len(made) < steps and not done:
        advice = guide.advise()
        reason, action = (advice.reason, advice.action) if advice else (SLIP, rng.choice(info["candidates"]))
        if rng.random() < slips:
            reason, action = SLIP, rng.choice(info["candidates"])
        candidates, instruction = info["candidates"], info["instruction"]
        after, _, ended, cut, info = env.step(action)
        made.append(
            Step(observation, candidates, reason, action, info["valid"], info["score"], spelling=info.get("action", ""))
        )
        observation, done = after, ended or cut
    return Episode(
        task, seed, "stumbler", instruction, tuple(made), observation, float(info["score"]), bool(info["success"]),
        Finish.SUCCESS if info["success"] else Finish.MAX_ACTIONS,
    )  # fmt: skip


def corrected(
    env: TextEnv,
    teacher: SymbolicTeacher,
    prompter: Prompter,
    tasks: Iterable[Task],
    *,
    count: int,
    steps: int,
    slips: float,
) -> list[list[Example]]:
    """Examples of the first `count` episodes that failed (others are not corrected), one per step that the teacher corrects."""
    failed = (e for e in (stumble(env, task, steps=steps, slips=slips) for task in tasks) if not e.success)
    tokenised = (tokenize(e, prompter, env.domain_facts) for e in islice(failed, count))
    return [list(from_correction(e, teacher.correct_now(e), prompter, 0)) for e in tokenised]


def shape(examples: list[list[Example]]) -> dict[str, Any]:
    """What the episodes look like, for the report."""
    flat = [e for episode in examples for e in episode]
    return {
        "episodes": len(examples),
        "examples": len(flat),
        "pairs": sum(bool(e.rejected) for e in flat),
        "longest": max(len(e.prompt) + len(e.response) for e in flat),
    }
