"""What a set of episodes shows: success with its confidence interval, actions, invalid actions, per task kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leap_ray.types import Episode


@dataclass(frozen=True)
class Summary:
    """Figures over episodes. Rates are 0…1; `interval` is the 95 % Wilson interval of the success rate."""

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


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default); (0, 1) without data."""
    if count == 0:
        return 0.0, 1.0
    rate = successes / count
    scale = 1 + z * z / count
    centre = (rate + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def summarize(episodes: Iterable[Episode]) -> Summary:
    """The figures of these episodes."""
    plays = list(episodes)
    won = [e for e in plays if e.success]
    steps = [s for e in plays for s in e.steps]
    kinds = {k: [e for e in plays if e.task.kind == k] for k in sorted({e.task.kind for e in plays})}
    return Summary(
        episodes=len(plays),
        success=len(won) / len(plays) if plays else 0.0,
        interval=wilson(len(won), len(plays)),
        score=_mean([e.score for e in plays]) or 0.0,
        actions=_mean([len(e.steps) for e in plays]) or 0.0,
        actions_success=_mean([len(e.steps) for e in won]),
        invalid=sum(not s.valid for s in steps) / len(steps) if steps else 0.0,
        finishes={f: sum(e.finish == f for e in plays) for f in sorted({e.finish for e in plays})},
        kinds={k: (len(es), sum(e.success for e in es) / len(es)) for k, es in kinds.items()},
        parts={
            p: _mean([e.extra.get(p, 0.0) for e in plays]) or 0.0 for p in sorted({p for e in plays for p in e.extra})
        },
    )


def compare(before: Sequence[Episode], after: Sequence[Episode]) -> dict[str, float]:
    """McNemar's exact test on the tasks both have played: wins gained and lost, two-sided p."""
    old = {(e.task.id, e.seed): e.success for e in before}
    pairs = [(old[e.task.id, e.seed], e.success) for e in after if (e.task.id, e.seed) in old]
    gained = sum(not a and b for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return {"tasks": len(pairs), "gained": gained, "lost": lost, "p": min(1.0, 2 * tail)}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
