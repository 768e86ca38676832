"""How much likelier privileged state makes a teacher's reasons: a second opinion on leaks that needs no labels and no words.

A reason that says what only the privileged state holds is likelier to the student where it is told that state. For each reason
the student scores its tokens twice, after the prompt with the state and after the same prompt without it; the gain is the
difference of the log-probabilities, in nats. A reason that a student could have given gains little or nothing. The reasons that
the student gave itself at the same steps are the yardstick, as any state may steer what one talks about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leap_ray.errors import UserError
from leap_ray.policy import Prompter
from leap_ray.teachers.constrained import Scorer
from leap_ray.teachers.self_teacher import Hindsight
from leap_ray.types import Correction, Episode, Outcome, StepCorrection, digest

Score = Callable[
    [list[int], list[int]], Awaitable[Sequence[float]]
]  # (prompt, completion) -> nats of each completion token
RESAMPLES = 2000
EXPLAINS = 1.0  # the student is asked to explain with the state, whatever the teacher's own freedom: figures compare


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


# ---- the figure of an iteration ----


@dataclass(frozen=True, slots=True)
class DrawnReason:
    """The teacher's reason for step `t` of an episode, and its task's privileged state in the words that teachers read."""

    episode: Episode
    t: int
    reason: str
    privileged: str


def draw_reasons(
    episodes: Iterable[Episode], corrections: Mapping[str, Correction], most: int, seed: int = 0
) -> list[tuple[Episode, StepCorrection]]:
    """Up to `most` of the steps whose reasons are trained on. The seed alone draws them, not the order in which they come.

    `corrections`: by the episode's id.
    """
    words = [
        (episode, word)
        for episode in episodes
        for word in (corrections[episode.id].steps if episode.id in corrections else ())
        if word.outcome is Outcome.CORRECTED and word.reason and episode.steps[word.t].new
    ]
    return sorted(words, key=lambda drawn: digest(seed, drawn[0].id, drawn[1].t, length=32))[:most]


async def measure_gain(
    student: Scorer,
    hindsight: Hindsight,
    drawn: Sequence[DrawnReason],
    policy: str,
    *,
    max_length: int,
    seed: int = 0,
    left_out: int = 0,
) -> dict[str, Any]:
    """The gain of drawn reasons, nats, scored by `policy`, beside that of the student's own reasons at the same steps.

    Returns `gain` (mean; None without any reason), its `interval`, `reasons` (how many), `own` and `own_reasons` (the same of
    the student's), and `left_out`: reasons whose prompt and state do not fit `max_length` tokens, with those given.
    """
    pairs = [_scored(hindsight, reason) for reason in drawn]
    fitting = [pair for pair in pairs if max(len(s.hidden) + len(s.reason) for s in pair) < max_length]

    async def score(prompt: list[int], completion: list[int]) -> Sequence[float]:
        return (await student.score(prompt, [completion], policy, digest(prompt)))[0]

    taught = await privilege_gain(score, [first for first, *_ in fitting], seed)
    own = await privilege_gain(score, [second for _, *more in fitting for second in more], seed)
    return {
        "gain": taught.mean,
        "interval": taught.interval and list(taught.interval),
        "reasons": taught.n,
        "own": own.mean,
        "own_reasons": own.n,
        "left_out": left_out + len(pairs) - len(fitting),
    }


def _scored(hindsight: Hindsight, drawn: DrawnReason) -> list[ScoredReason]:
    """The teacher's reason, and the student's own there if it gave one."""
    episode, t = drawn.episode, drawn.t
    told = {"privileged": drawn.privileged, "privilege": EXPLAINS, "candidates": ()}
    hidden, shown = hindsight.with_last(episode, t, "self.j2", **told), episode.prompt_ids(t)
    reasons = filter(None, (drawn.reason, episode.steps[t].reason))
    return [ScoredReason(episode.task.id, shown, hidden, reason_ids(hindsight.prompter, reason)) for reason in reasons]


def gain_words(result: Mapping[str, Any]) -> str:
    """A figure of `measure_gain` in short: "+0.41 [+0.10, +0.80] n=16"; "" without any reason."""
    if result.get("gain") is None:
        return ""
    low_high = "[{:+.2f}, {:+.2f}] ".format(*result["interval"]) if result["interval"] else ""
    return f"{result['gain']:+.2f} {low_high}n={result['reasons']}"


def leak_counts(outcomes: Mapping[str, int]) -> tuple[int, int]:
    """(reasons left out because they reveal privileged state, these and the reasons trained on), from counts of steps."""
    revealing = outcomes.get(Outcome.REVEALS, 0)
    return revealing, revealing + outcomes.get(Outcome.CORRECTED, 0)


def leak_line(outcomes: Mapping[str, int], result: Mapping[str, Any]) -> str:
    """Both opinions on an iteration's leaks in one line: the leak check's count and the figure of `measure_gain`."""
    line = "{} of {} reasons left out because they reveal privileged state".format(*leak_counts(outcomes))
    if gain := gain_words(result):
        own = "" if result["own"] is None else f", the student's own by {result['own']:+.2f}"
        line += f"; in nats, that state makes a sample of the others likelier by {gain}{own}"
    return line
