"""The teacher on the cluster: one async actor, many episodes at once.

The coordinator hands it failed episodes as they finish. Calls are idempotent: an episode's correction depends on the episode and
the configuration only, and what was paid for lies on disk, so Ray may restart the actor and repeat its calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState
from leap_ray.teachers.build import build_teacher
from leap_ray.types import Correction, Episode, Outcome


class TeacherMetrics:
    """What the Ray dashboard shows of a teacher."""

    def __init__(self, teacher: str) -> None:
        tags = {"Teacher": teacher}
        self.episodes = Counter("leap_teacher_episodes", "Episodes corrected", ("Teacher",))
        self.steps = Counter("leap_teacher_steps", "Steps by outcome", ("Teacher", "Outcome"))
        self.leaks = Counter("leap_teacher_leaks", "Steps left out because a reason revealed something", ("Teacher",))
        self.waiting = Gauge("leap_teacher_waiting", "Episodes in the teacher's hands", ("Teacher",))
        self.dollars = Gauge("leap_teacher_dollars", "Dollars spent in this run", ("Teacher",))
        self.seconds = Histogram(
            "leap_teacher_seconds", "Seconds per episode", [0.1, 1, 10, 60, 600, 3600], ("Teacher",)
        )
        self.all = (self.episodes, self.steps, self.leaks, self.waiting, self.dollars, self.seconds)
        for metric in self.all:
            metric.set_default_tags(tags)

    def count(self, correction: Correction, seconds: float) -> None:
        """One more episode, and each of its steps under its outcome."""
        self.episodes.inc()
        self.seconds.observe(max(seconds, 1e-6))
        for step in correction.steps:
            self.steps.inc(tags={"Outcome": step.outcome.name.lower()})
            if step.outcome is Outcome.REVEALS:
                self.leaks.inc()


@ray.remote
class TeacherActor:
    """Corrects episodes of a run. Make it with `start_teacher`."""

    def __init__(
        self,
        config: TeacherConfig,
        domains: Sequence[DomainConfig],
        folder: str,
        seed: int = 0,
        student: Any = None,
    ) -> None:
        self.teacher: Any = build_teacher(config, domains, Path(folder), seed=seed, student=student)
        self.metrics = TeacherMetrics(self.teacher.name)
        self.open = 0

    async def ready(self) -> str:
        """The teacher's name, once it can teach."""
        return self.teacher.name

    async def correct(self, episode: Episode, privileged: PrivilegedState | None = None) -> Correction:
        """One StepCorrection per step of the episode, in order. Safe to repeat."""
        began = time.perf_counter()
        self.open += 1
        self.metrics.waiting.set(self.open)
        try:
            correction = await self.teacher.correct(episode, privileged)
        finally:
            self.open -= 1
            self.metrics.waiting.set(self.open)
        self.metrics.count(correction, time.perf_counter() - began)
        return correction

    async def annotate(self, episode: Episode) -> Episode:
        """The demonstration with a reason for each step; actions never change. Safe to repeat."""
        return await self.teacher.annotate(episode)

    async def close(self) -> None:
        """Give back what the teacher holds."""
        await self.teacher.close()


def start_teacher(
    config: TeacherConfig,
    domains: Sequence[DomainConfig],
    folder: Path,
    *,
    seed: int = 0,
    student: Any = None,
    max_restarts: int = 3,
    name: str | None = None,
) -> Any:
    """The handle of a teacher that Ray restarts after a crash, repeating the calls it had not answered.

    `folder` is the run directory's teacher folder; `student` the StudentPool, for teachers that are the student itself.
    """
    options: dict[str, Any] = {
        "num_cpus": 1 if config.kind == "symbolic" else 0.1,
        "max_restarts": max_restarts,
        "max_task_retries": max_restarts,
        "max_concurrency": 1000,
    }
    if name:
        options["name"] = name
    return TeacherActor.options(**options).remote(config, tuple(domains), str(folder), seed, student)
