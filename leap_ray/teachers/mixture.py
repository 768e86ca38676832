"""The constrained privileged expert as mathematics (LEAP, Definition B.5, Theorem B.6), and the realizability gap.

Among all policies within δ nats of the expert without privileged state (`plain`), the one nearest to the privileged expert
(`priv`) is the geometric mixture  π ∝ priv^(1-β) · plain^β,  β ∈ [0, 1], with β set so that KL(π‖plain) = δ, or β = 0 where
priv lies within δ already. KL(π‖plain) falls as β grows, so bisection finds it.

Log-probabilities are natural logarithms over one set of candidate actions, shape (n,); -inf is an action that is never taken. A
mixture can only take what both experts can take: where they share no action, or δ is too small for any policy on the shared ones,
the plain expert is what is left.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TOLERANCE = 1e-4  # relative, of the KL


@dataclass(frozen=True)
class Mixture:
    """The expert's distribution over the candidates, the β it was made with, and its KL to the plain expert in nats."""

    probabilities: Array
    beta: float
    kl: float


def normalised(scores: Sequence[float] | Array) -> Array:
    """Log-probabilities over the candidates from their unnormalised scores. Raises ValueError where none is finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
        raise ValueError("scores of one or more candidates are needed, and none may be NaN")
    top = scores.max()
    if not math.isfinite(top):
        raise ValueError("a finite score is needed, and none may be +inf")
    return scores - (top + math.log(np.exp(scores - top).sum()))


def kl(p: Array, q: Array) -> float:
    """KL(p‖q) in nats of two log-distributions; inf where p takes what q never does."""
    taken = p > -np.inf
    return max(0.0, float((np.exp(p[taken]) * (p[taken] - q[taken])).sum()))


def constrained(plain: Sequence[float] | Array, privileged: Sequence[float] | Array, delta: float) -> Mixture:
    """The constrained expert of Definition B.5 over one set of candidates.

    δ = 0 gives the plain expert (β = 1), δ = ∞ the privileged one (β = 0). Raises ValueError for a negative δ or useless scores.
    """
    if not delta >= 0:
        raise ValueError(f"delta is {delta}, below 0")
    low, high = normalised(plain), normalised(privileged)
    if delta == 0:
        return Mixture(np.exp(low), 1.0, 0.0)
    if (whole := kl(high, low)) <= delta:
        return Mixture(np.exp(high), 0.0, whole)
    shared = (low > -np.inf) & (high > -np.inf)
    if not shared.any():
        return Mixture(np.exp(low), 1.0, 0.0)
    if (whole := kl(_mix(low, high, 0.0, shared), low)) <= delta:
        return Mixture(np.exp(_mix(low, high, 0.0, shared)), 0.0, whole)
    if kl(_mix(low, high, 1.0, shared), low) > delta:
        return Mixture(np.exp(low), 1.0, 0.0)
    return _bisect(low, high, delta, shared)


def _bisect(low: Array, high: Array, delta: float, shared: NDArray[np.bool_]) -> Mixture:
    """The mixture whose KL to `low` is δ."""
    left, right = 0.0, 1.0  # KL at left is above delta, at right below
    for _ in range(200):
        beta = (left + right) / 2
        mixed = _mix(low, high, beta, shared)
        spent = kl(mixed, low)
        if abs(spent - delta) <= TOLERANCE * delta:
            return Mixture(np.exp(mixed), beta, spent)
        left, right = (beta, right) if spent > delta else (left, beta)
    mixed = _mix(low, high, right, shared)
    return Mixture(np.exp(mixed), right, kl(mixed, low))


def _mix(plain: Array, privileged: Array, beta: float, shared: NDArray[np.bool_]) -> Array:
    mixed = np.full_like(plain, -np.inf)
    mixed[shared] = (1 - beta) * privileged[shared] + beta * plain[shared]
    return normalised(mixed)


@dataclass(frozen=True)
class Play:
    """What the constrained expert does in one state: an action, and the KL of the policy that does it, in nats."""

    index: int
    kl: float  # to the plain expert


def play(
    mixture: Mixture,
    plain: Sequence[float] | Array,
    privileged: Sequence[float] | Array,
    delta: float,
    choice: Literal["best", "sample"],
    rng: random.Random,
) -> Play:
    """An action of the constrained expert, by a policy inside the ball.

    "sample" draws from the mixture. "best" is the deterministic policy nearest to the privileged expert: of the actions a with
    -log plain(a) ≤ δ, which is that policy's KL, the one that the privileged expert likes best. Where no single action lies
    inside, it draws from the mixture too.
    """
    low, high = normalised(plain), normalised(privileged)
    inside = [i for i in range(len(low)) if -low[i] <= delta and high[i] > -np.inf]
    if choice == "best" and inside:
        best = max(inside, key=lambda i: float(high[i]))
        return Play(best, max(0.0, -float(low[best])))
    drawn = rng.choices(range(len(low)), mixture.probabilities.tolist())[0]
    return Play(drawn, mixture.kl)


def averaged(scores: Sequence[Sequence[float] | Array]) -> Array:
    """Log of the mean distribution over the candidates, from the scores under each of several reasons."""
    return normalised(np.logaddexp.reduce([normalised(row) for row in scores]))


@dataclass(frozen=True)
class Gap:
    """Average realizability gap over a student's states (Definition 3.1).

    `tv`: total-variation distance, 0 to 1 (half the L1 distance of the definition), between teacher and student over the
    candidate actions; `interval`: its 95 % interval, by a bootstrap over episodes; `nll`: -log of the student's probability of
    the teacher's action, nats, that probability taken as `FLOOR` at least; `agreed`: share of states whose most probable action
    is the teacher's; `unknown`: states drawn beside these in which the teacher named no action.
    """

    tv: float
    nll: float
    agreed: float
    states: int
    episodes: int = 0
    interval: tuple[float, float] = (0.0, 1.0)
    unknown: int = 0


FLOOR = 1e-9  # of a probability


def gap(student: Sequence[Array], teacher: Sequence[Array], episodes: Sequence[str] = (), unknown: int = 0) -> Gap:
    """The gap from log-distributions of the student and distributions of the teacher, one pair a state.

    What a student's distribution lacks to 1 is the chance that it names no action at all. `episodes`: the one that each state is
    from; without them every state counts as drawn by itself.
    """
    if not student:
        return Gap(0.0, 0.0, 0.0, 0, unknown=unknown)
    chances = [np.exp(s) for s in student]
    tv = np.array([0.5 * (np.abs(p - t).sum() + max(0.0, 1 - p.sum())) for p, t in zip(chances, teacher, strict=True)])
    nll = [-math.log(max(FLOOR, float(p[int(t.argmax())]))) for p, t in zip(chances, teacher)]
    agreed = [float(p.any() and p.argmax() == t.argmax()) for p, t in zip(chances, teacher)]
    groups = list(episodes) or [str(i) for i in range(len(tv))]
    return Gap(
        float(tv.mean()), float(np.mean(nll)), float(np.mean(agreed)), len(tv), len(set(groups)),
        bootstrap_interval(tv, groups), unknown,
    )  # fmt: skip


def bootstrap_interval(values: Array, groups: Sequence[str], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean of values in [0, 1] that come in groups: whole groups are drawn again, with a fixed seed.

    One group alone says nothing about others: (0, 1).
    """
    names = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    if len(names) < 2:
        return 0.0, 1.0
    at = np.array([names[group] for group in groups])
    sums, sizes = np.bincount(at, values), np.bincount(at)
    drawn = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)
