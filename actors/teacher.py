"""The teacher on the cluster: one async actor, many episodes at once.

The coordinator hands it failed episodes as they finish. Calls are idempotent: an episode's correction depends on the episode and
the configuration only, and what was paid for lies on disk, so Ray may restart the actor and repeat its calls.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.placement import teacher_ask
from leap_ray.config import DomainConfig, StudentConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState
from leap_ray.errors import UserError
from leap_ray.teachers.build import PAID, build_teacher, load_prompter
from leap_ray.teachers.choose import Verdict
from leap_ray.teachers.keys import read_key
from leap_ray.teachers.live import Judgement
from leap_ray.teachers.self_teacher import Bounded
from leap_ray.types import Correction, Episode, Outcome, StepCorrection

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from leap_ray.teachers.constrained import State
    from leap_ray.teachers.privilege_gain import DrawnReason


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
            self.step(step.outcome)

    def step(self, outcome: Outcome) -> None:
        """One more step."""
        self.steps.inc(tags={"Outcome": outcome.name.lower()})
        if outcome is Outcome.REVEALS:
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
        student_config: StudentConfig | None = None,
        key: str | None = None,
    ) -> None:
        self.teacher: Any = build_teacher(
            config, domains, Path(folder), seed=seed, student=student, student_config=student_config, key=key
        )
        self.student, self.student_config = student and Bounded(student, config.concurrency), student_config
        self.domains, self.seed = domains, seed
        self.metrics = TeacherMetrics(self.teacher.name)
        self.open = 0
        self.spent = 0.0  # by this incarnation of the actor; the ledger has the run's

    async def ready(self) -> str:
        """The teacher's name, once it can teach."""
        return self.teacher.name

    async def process(self) -> int:
        """Process id, for those who want to see it die."""
        return os.getpid()

    async def correct(self, episode: Episode, privileged: PrivilegedState | None = None) -> Correction:
        """One StepCorrection per step of the episode, in order. Safe to repeat.

        A fault costs this episode alone. Raises UserError for what is wrong with every episode.
        """
        began = time.perf_counter()
        self.open += 1
        self.metrics.waiting.set(self.open)
        try:
            correction = await self.teacher.correct(episode, privileged)
        except UserError:
            raise
        except Exception as error:
            log.exception("episode %s could not be corrected", episode.id)
            words = [StepCorrection(t, Outcome.FAILED, detail=_fault(error)) for t in range(len(episode.steps))]
            correction = Correction(episode.id, self.teacher.name, "", tuple(words))
        finally:
            self.open -= 1
            self.metrics.waiting.set(self.open)
        self.metrics.count(correction, time.perf_counter() - began)
        self._spend(correction.dollars)
        return correction

    def _spend(self, dollars: float) -> None:
        if dollars:
            self.spent += dollars
            self.metrics.dollars.set(self.spent)

    async def judge(self, episode: Episode, privileged: PrivilegedState) -> Judgement:
        """The verdict on an unfinished episode's last step, before it is carried out. Safe to repeat; faults as in `correct`."""
        try:
            judgement = await self.teacher.judge(episode, privileged)
        except UserError:
            raise
        except Exception as error:
            log.exception("a step of %s could not be judged", episode.task.id)
            judgement = Judgement(Verdict(Outcome.FAILED, detail=_fault(error)))
        self.metrics.step(judgement.verdict.outcome)
        self._spend(judgement.dollars)
        return judgement

    async def annotate(self, episode: Episode) -> Episode:
        """The demonstration with a reason for each step; actions never change. Safe to repeat; faults as in `correct`."""
        try:
            return await self.teacher.annotate(episode)
        except UserError:
            raise
        except Exception:
            log.exception("demonstration %s could not be annotated", episode.id)
            return replace(episode, annotations=(Outcome.FAILED,) * len(episode.steps))

    async def ledger(self) -> dict[str, Any]:
        """What was asked and spent in this run so far; empty for teachers that cost nothing."""
        return await self.teacher.totals() if hasattr(self.teacher, "totals") else {}

    async def realizability(self, states: Sequence[State], policy: str, unknown: int = 0) -> dict[str, Any]:
        """The average realizability gap on these states of rollouts that `policy` played: see `constrained.measure_gap`.

        Needs the student's server and its configuration. No figures but the counts where there is no state.
        """
        from leap_ray.teachers.constrained import measure_gap

        if self.student is None or self.student_config is None:
            raise UserError("the realizability gap needs the student's server")
        prompter = load_prompter(self.student_config)
        gap = await measure_gap(self.student, prompter, states, policy, unknown=unknown)
        return asdict(gap) if gap.states else {"states": 0, "unknown": gap.unknown}

    async def privilege_gain(self, drawn: Sequence[DrawnReason], policy: str, left_out: int = 0) -> dict[str, Any]:
        """How much likelier privileged state makes these reasons to `policy`: see `privilege_gain.measure_gain`.

        Needs the student's server and its configuration.
        """
        from leap_ray.teachers.privilege_gain import measure_gain
        from leap_ray.teachers.self_teacher import Hindsight

        if self.student is None or self.student_config is None:
            raise UserError("the gain of privileged state needs the student's server")
        hindsight = Hindsight(load_prompter(self.student_config), self.domains)
        limit = self.student_config.max_length
        return await measure_gain(
            self.student, hindsight, drawn, policy, max_length=limit, seed=self.seed, left_out=left_out
        )

    async def close(self) -> None:
        """Give back what the teacher holds."""
        await self.teacher.close()


def _fault(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def start_teacher(
    config: TeacherConfig,
    domains: Sequence[DomainConfig],
    folder: Path,
    *,
    seed: int = 0,
    student: Any = None,
    student_config: StudentConfig | None = None,
    max_restarts: int = 3,
    name: str | None = None,
) -> Any:
    """The handle of a teacher that Ray restarts after a crash, repeating the calls it had not answered.

    `folder` is the run directory's teacher folder; `student` the StudentPool and `student_config` its configuration, for
    teachers that are the student itself and for the figures that the student scores. A paid teacher stays on this node, where
    its books are; it only waits for HTTP, so it needs no CPU, which a cluster's head may not have. Its key goes from this
    process to the actor alone.
    """
    options: dict[str, Any] = {
        **teacher_ask(config.kind).options(),
        "max_restarts": max_restarts,
        "max_task_retries": max_restarts,
        "max_concurrency": 10_000,
    }
    if name:
        options["name"] = name
    if config.kind in PAID:
        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    key = (read_key(config) or None) if config.kind in PAID else None
    return TeacherActor.options(**options).remote(
        config, tuple(domains), str(folder.absolute()), seed, student, student_config, key
    )
