"""How much likelier privileged state makes a teacher's reasons: a second opinion on leaks that needs no labels and no words.

A reason that says what only the privileged state holds is likelier to the student where it is told that state. For each reason
the student scores its tokens twice, after the prompt with the state and after the same prompt without it; the gain is the
difference of the log-probabilities, in nats. A reason that a student could have given gains little or nothing. The reasons that
the student gave itself (steps where the teacher agreed) are the yardstick, as any state may steer what one talks about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leap_ray.errors import UserError
from leap_ray.policy import Prompter

Score = Callable[
    [list[int], list[int]], Awaitable[Sequence[float]]
]  # (prompt, completion) -> nats of each completion token
RESAMPLES = 2000


@dataclass(frozen=True)
class ScoredReason:
    """One reason to be scored: token ids of both prompts, which differ by the privileged state alone, and of the reason."""

    task: str  # reasons of one task hang together: the interval resamples tasks
    shown: list[int]
    hidden: list[int]
    reason: list[int]


@dataclass(frozen=True)
class PrivilegeGain:
    """Gains in nats: one per reason, their mean, the 95 % interval of the mean over tasks (None for fewer than two tasks)."""

    gains: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None

    @property
    def n(self) -> int:
        return len(self.gains)


async def privilege_gain(score: Score, reasons: Sequence[ScoredReason], seed: int = 0) -> PrivilegeGain:
    """The gain of each reason. Raises UserError if `score` gives another number of values than the reason has tokens."""
    gains = tuple(await asyncio.gather(*(_gain(score, reason) for reason in reasons)))
    mean = float(np.mean(gains)) if gains else None
    return PrivilegeGain(gains, mean, _interval(gains, [reason.task for reason in reasons], seed))


async def _gain(score: Score, reason: ScoredReason) -> float:
    hidden, shown = await asyncio.gather(score(reason.hidden, reason.reason), score(reason.shown, reason.reason))
    for values in (hidden, shown):
        if len(values) != len(reason.reason):
            raise UserError(f"a reason of {len(reason.reason)} tokens was scored with {len(values)} log-probabilities")
    return float(np.sum(hidden) - np.sum(shown))


def _interval(gains: Sequence[float], tasks: Sequence[str], seed: int) -> tuple[float, float] | None:
    """Percentile bootstrap of the mean, drawing whole tasks with replacement (Cameron et al. 2008, pairs cluster bootstrap)."""
    names = sorted(set(tasks))
    if len(names) < 2:
        return None
    sums = np.array([sum(gain for gain, task in zip(gains, tasks) if task == name) for name in names])
    counts = np.array([tasks.count(name) for name in names])
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return float(low), float(high)


def reason_ids(prompter: Prompter, reason: str) -> list[int]:
    """Token ids of a completion up to where its action begins: what completions of one reason and two actions share."""
    first, second = (prompter.completion_ids(reason, action) for action in ("go", "wait"))
    same = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
    return list(first[:same])
