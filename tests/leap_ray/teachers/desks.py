"""What the tests of paid teachers share: wandering episodes, and a teacher in front of the protocol server."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from corridor import Corridor, play

from experiments.benchmarks.anthropic_server import AnthropicServer
from leap_ray.config import TeacherConfig
from leap_ray.envs.base import PrivilegedState
from leap_ray.teachers.batch import BatchDesk
from leap_ray.teachers.claude import ClaudeProvider
from leap_ray.teachers.desk import Desk
from leap_ray.teachers.prices import prices_of
from leap_ray.teachers.prompted import PromptedTeacher
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.store import Store
from leap_ray.types import Episode

ACTIONS = ["go to desk 1", "go to desk 2", "go to drawer 1", "go to shelf 1", "", "leave", "dance", "take coin 1"]
KEY = "sk-test-3f9c"


def wandering(count: int, steps: int = 8) -> list[Episode]:
    """Failed episodes of a student that acts at random."""
    rng = random.Random(0)
    return [play([rng.choice(ACTIONS) for _ in range(steps)], str(i % 5), seed=i) for i in range(count)]


def privileged(episode: Episode) -> PrivilegedState:
    env = Corridor()
    env.reset(options={"task": episode.task})
    return env.privileged()


@asynccontextmanager
async def claude(
    folder: Path,
    server: AnthropicServer,
    *,
    timeout: float = 20.0,  # noqa: ASYNC109
    quiet: float = 0.05,
    grace: float = 60.0,
    **settings: Any,
):
    """A Claude teacher with its desk in this process."""
    config = TeacherConfig(kind="claude", **settings)
    gate = Gate(config.concurrency)
    provider = ClaudeProvider(gate, key=KEY, base_url=server.url, timeout=timeout, max_retries=4)
    shared = Path(config.cache_dir) if config.cache_dir else None
    store, prices = Store(folder, shared), prices_of(config.model, config.prices)
    if config.mode == "batch":
        limits: Any = {"budget": config.budget_dollars, "quiet": quiet, "poll": (0.05, 0.2), "grace": grace}
        desk: Any = BatchDesk(provider, store, prices, **limits)
    else:
        desk = Desk(provider, store, prices, gate, config.budget_dollars)
    teacher = PromptedTeacher(desk, config, {"corridor": "A corridor with a coin."})
    try:
        yield teacher
    finally:
        await teacher.close()
