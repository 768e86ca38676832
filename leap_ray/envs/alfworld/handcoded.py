"""alfworld's own handcoded expert, mended: it looks for the word "put" to know that its hands are empty, games say "move".

It explores in a fixed order, closes what it opened, and needs about twice the actions of our demonstrator: kept to compare with
published results, whose demonstrations it made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from leap_ray.envs.alfworld.belief import action_told
from leap_ray.envs.base import Advice
from leap_ray.types import digest

LONGEST = 200  # actions until it gives up
FAILURES = ("HandCodedAgentTimeout", "HandCodedAgentFailed")


class Handcoded:
    """Wraps one of alfworld's six policies; what its luck decides is decided by the task and the seed."""

    def __init__(self, engine: Any, *, task: str, seed: int) -> None:
        from alfworld.agents.expert.handcoded_expert_tw import HandCodedTWAgent

        data = engine.metadata
        params = {key: value.lower() if isinstance(value, str) else value for key, value in data["pddl_params"].items()}
        params["task_type"] = data["task_type"]
        self.engine, self.task, self.seed = engine, task, seed
        self.time = 0
        self.policy = HandCodedTWAgent().get_task_policy(params)(params, max_steps=LONGEST)

    def advise(self) -> Advice | None:
        self.time += 1
        if self.time == 1:
            self.policy.observe(self.engine.observation)
        with _luck(digest(self.task, self.seed, self.time)):
            action = self._decide()
        return Advice(action, f"Next, {action}.", frozenset({action})) if action else None

    def _decide(self) -> str | None:
        admissible = list(self.engine.admissible)
        last = action_told(self.engine.observation) or "look"
        state = {
            "feedback": self.engine.observation,
            "admissible_commands": admissible,
            "facts": [SimpleNamespace(name=name, names=names) for name, *names in self.engine.facts()],
        }
        try:
            action = self.policy.act(state, last.replace("move ", "put ", 1))
        except (
            NameError,
            IndexError,
            KeyError,
        ) as error:  # its two signals of failure are NameErrors; the others, its slips
            if isinstance(error, NameError) and type(error).__name__ not in FAILURES:
                raise
            action = None if isinstance(error, NameError) else ""
        if action is None or not admissible:
            return None
        return action if action in admissible and action != last else random.choice(admissible)


@contextmanager
def _luck(seed: str) -> Iterator[None]:
    """Seed the global generator that alfworld draws from, and put it back."""
    kept = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(kept)
