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
from collections.abc import Sequence
from dataclasses import dataclass

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
class Gap:
    """Average realizability gap over a student's states (Definition 3.1).

    `tv`: total-variation distance, 0 to 1 (half the L1 distance of the definition), between teacher and student over the
    candidate actions; `nll`: -log of the student's probability of the teacher's action, nats; `agreed`: share of states
    whose most probable action is the teacher's.
    """

    tv: float
    nll: float
    agreed: float
    states: int


def gap(student: Sequence[Array], teacher: Sequence[Array]) -> Gap:
    """The gap from log-distributions of the student and distributions of the teacher, one pair a state."""
    if not student:
        return Gap(0.0, 0.0, 0.0, 0)
    tv = [0.5 * np.abs(np.exp(s) - t).sum() for s, t in zip(student, teacher, strict=True)]
    nll = [-float(s[int(t.argmax())]) for s, t in zip(student, teacher)]
    agreed = [int(s.argmax()) == int(t.argmax()) for s, t in zip(student, teacher)]
    return Gap(float(np.mean(tv)), float(np.mean(nll)), float(np.mean(agreed)), len(student))
