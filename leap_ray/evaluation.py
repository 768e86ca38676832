"""What a set of episodes shows: success with its confidence interval, actions, invalid actions, per task kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from leap_ray.types import Episode

LOOP = 3  # steps that repeat earlier ones
Outcomes = Mapping[tuple[str, int], bool]  # (task id, seed) → success


@dataclass(frozen=True)
class Summary:
    """Figures over episodes. Rates are 0…1; `interval` is the success rate's (95 %, `clustered_wilson`)."""

    episodes: int
    success: float
    interval: tuple[float, float]
    score: float  # mean
    actions: float  # mean over all episodes
    actions_success: float | None  # mean over successful episodes; None if there are none
    invalid: float  # share of actions that did not parse or were not known there
    finishes: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, tuple[int, float]] = field(default_factory=dict)  # kind -> (episodes, success rate)
    parts: dict[str, float] = field(default_factory=dict)  # means of the score's components
    causes: dict[str, int] = field(default_factory=dict)  # why invalid actions were none -> how many of them
    loops: int = 0  # failed episodes that ended in a loop (`ends_in_loop`)


def wilson(successes: float, count: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default); (0, 1) without data."""
    if count == 0:
        return 0.0, 1.0
    rate = successes / count
    scale = 1 + z * z / count
    centre = (rate + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered_wilson(outcomes: Outcomes) -> tuple[float, float]:
    """95 % interval of the success rate where a task may have been played with several seeds.

    Wilson's, at the number of independent episodes that would vary as much as the tasks' means do: between the number of tasks
    and that of episodes (the design effect of cluster samples; Kish, Survey Sampling, 1965).
    """
    tasks: dict[str, list[bool]] = {}
    for (task, _), success in outcomes.items():
        tasks.setdefault(task, []).append(success)
    count, rate = len(outcomes), _mean([float(s) for s in outcomes.values()]) or 0.0
    effective = float(len(tasks))
    if count > len(tasks) > 1:
        spread = sum((sum(s) - rate * len(s)) ** 2 for s in tasks.values()) * len(tasks) / (len(tasks) - 1) / count**2
        effective = min(count, max(effective, rate * (1 - rate) / spread)) if spread else effective
    return wilson(rate * effective, effective)


def outcomes_of(episodes: Iterable[Episode]) -> Outcomes:
    """Success by (task id, seed)."""
    return {(e.task.id, e.seed): e.success for e in episodes}


def ends_in_loop(episode: Episode) -> bool:
    """Whether the episode failed, and each of its last LOOP steps was a (observation, action) that it had had before."""
    pairs = [(s.observation, s.own.action) for s in episode.steps]
    last = range(max(0, len(pairs) - LOOP), len(pairs))
    return not episode.success and len(pairs) > LOOP and all(pairs[t] in pairs[:t] for t in last)


def summarize(episodes: Iterable[Episode]) -> Summary:
    """The figures of these episodes. Invalid actions are the student's, also where a teacher acted in its place."""
    plays = list(episodes)
    won = [e for e in plays if e.success]
    steps = [s.own for e in plays for s in e.steps]
    kinds = {k: [e for e in plays if e.task.kind == k] for k in sorted({e.task.kind for e in plays})}
    return Summary(
        episodes=len(plays),
        success=len(won) / len(plays) if plays else 0.0,
        interval=clustered_wilson(outcomes_of(plays)),
        score=_mean([e.score for e in plays]) or 0.0,
        actions=_mean([len(e.steps) for e in plays]) or 0.0,
        actions_success=_mean([len(e.steps) for e in won]),
        invalid=sum(not s.valid for s in steps) / len(steps) if steps else 0.0,
        finishes={f: sum(e.finish == f for e in plays) for f in sorted({e.finish for e in plays})},
        causes=dict(Counter(s.cause for s in steps if not s.valid).most_common()),
        loops=sum(map(ends_in_loop, plays)),
        kinds={k: (len(es), sum(e.success for e in es) / len(es)) for k, es in kinds.items()},
        parts={
            p: _mean([e.extra.get(p, 0.0) for e in plays]) or 0.0 for p in sorted({p for e in plays for p in e.extra})
        },
    )


@dataclass(frozen=True)
class Comparison:
    """Two policies on the tasks that both have played. Differences are after minus before, rates 0…1."""

    tasks: int
    difference: float  # mean over tasks
    gained: int  # tasks won more often than before
    lost: int
    p: float  # two-sided


def compare(before: Outcomes, after: Outcomes) -> Comparison:
    """Pair two evaluations by task, and test the difference exactly.

    Seeds of one task are no further tasks: each task counts once, by its mean over the seeds that both have. Under the null
    hypothesis the sign of each task's difference is a coin; with one seed a task this is McNemar's exact test.
    """
    shared: dict[str, list[int]] = {}
    for key in before.keys() & after.keys():
        shared.setdefault(key[0], []).append(int(after[key]) - int(before[key]))
    scale = math.lcm(*(len(seeds) for seeds in shared.values())) if shared else 1
    moves = [sum(seeds) * scale // len(seeds) for seeds in shared.values()]  # in units of 1/scale: whole numbers
    return Comparison(
        tasks=len(moves),
        difference=sum(moves) / (scale * len(moves)) if moves else 0.0,
        gained=sum(move > 0 for move in moves),
        lost=sum(move < 0 for move in moves),
        p=_sign_flip(moves),
    )


def _sign_flip(moves: Sequence[int]) -> float:
    """Probability that random signs give a sum at least as far from 0. Exact: the sum's distribution by convolution."""
    distribution = {0: 1.0}
    for move in filter(None, moves):
        halves: dict[int, float] = {}
        for total, share in distribution.items():
            for signed in (total - move, total + move):
                halves[signed] = halves.get(signed, 0.0) + share / 2
        distribution = halves
    return min(1.0, math.fsum(share for total, share in distribution.items() if abs(total) >= abs(sum(moves))))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
