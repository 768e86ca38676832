"""SFT, DPO and KTO: three functions of the target log-probabilities of one forward pass over a row.

Each returns a *sum* over the row. The learner divides it by the same sum of weights for the whole optimiser step, so the
result does not depend on how the step's rows were laid out over workers or gradient accumulation. KTO's estimate of the KL
divergence belongs to the whole step for the same reason: the learner asks every row for its part first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from leap_ray.config import LearnerConfig, Objective
from leap_ray.learning.prefix_tree import Branch, Kind, Row
from leap_ray.types import Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Loss:
    """What one row adds to a step: `value` to be divided by the step's total `objective_mass`, and sums for the metrics."""

    value: torch.Tensor
    sums: dict[str, float]


def objective_of(config: LearnerConfig, iteration: int) -> Objective:
    """The objective of an iteration: the schedule's entry, the last one repeated.

    The paper's schedules: `(sft,)`; `(sft, dpo)` for SFT → DPO → DPO; `(sft, dpo, sft, dpo)` interleaved; `(sft, kto)`.
    """
    return config.objectives[min(iteration, len(config.objectives) - 1)]


def has_pair(example: Example) -> bool:
    """Whether the example holds two answers to prefer between."""
    return bool(example.rejected) and example.rejected != example.response


def branches_of(example: Example, objective: Objective, unit: int = 0, mate: Sequence[int] = ()) -> list[Branch]:
    """The sequences an objective wants of one example: the response, for preferences the rejected one, for KTO a mate.

    `mate` is another example's response: under this prompt its log-probability estimates the policy's KL divergence.
    """
    answers: list[tuple[Kind, Sequence[int]]] = [(Kind.CHOSEN, example.response)]
    if objective != "sft" and has_pair(example):
        answers.append((Kind.REJECTED, example.rejected))
    if objective == "kto" and len(mate):
        answers.append((Kind.MATE, mate))
    start = len(example.prompt)
    return [
        Branch(np.array([*example.prompt, *answer], np.int32), start, unit, kind, example.weight)
        for kind, answer in answers
    ]


def example_mass(example: Example, config: LearnerConfig, objective: Objective) -> float:
    """What one example adds to the divisor of a step, before its weight: see `mass`."""
    if objective == "sft":
        return 1.0 if config.weighting == "example" else float(len(example.response))
    return 2.0 if objective == "kto" and has_pair(example) else 1.0


def mass(row: Row, objective: Objective, weighting: Literal["token", "example"] = "token") -> float:
    """The row's share of the divisor: weighted tokens or examples (SFT), pairs (DPO), responses (KTO)."""
    if objective == "sft":
        return float(row.token_weights(per_example=weighting == "example").sum())
    counted = row.kinds == Kind.CHOSEN if objective == "dpo" else row.kinds != Kind.MATE
    return float(row.weights[counted].sum())


def target_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label (M) under its logits (M × V), in float32."""
    import torch.nn.functional as F

    return -F.cross_entropy(logits.float(), labels.long(), reduction="none")


def sequence_logprobs(logprobs: torch.Tensor, row: Row) -> torch.Tensor:
    """Sum of the target log-probabilities of each sequence (S)."""
    import torch

    sequence = torch.from_numpy(row.pair_sequence).to(logprobs.device).long()
    target = torch.from_numpy(row.pair_target).to(logprobs.device).long()
    return logprobs.new_zeros(len(row.kinds)).index_add(0, sequence, logprobs[target])


def sft(logprobs: torch.Tensor, row: Row, config: LearnerConfig, divergence: float | None = None) -> Loss:
    """Negative log-likelihood of the responses, weighted by token or by example."""
    import torch

    weights = torch.from_numpy(row.token_weights(config.weighting == "example")).to(logprobs)
    value = -(weights * logprobs).sum()
    return Loss(value, {"loss": float(value.detach())})


def dpo(logprobs: torch.Tensor, row: Row, config: LearnerConfig, divergence: float | None = None) -> Loss:
    """Direct preference optimisation (Rafailov et al., 2023), sigmoid loss; reference: the previous iteration's policy."""
    import torch
    import torch.nn.functional as F

    rewards = config.beta * (sequence_logprobs(logprobs, row) - _reference(row, logprobs))
    chosen, rejected = _of_kind(row, Kind.CHOSEN), _of_kind(row, Kind.REJECTED)
    if not np.array_equal(row.units[chosen], row.units[rejected]):
        raise ValueError("a preference pair lacks one of its two responses")
    margin = rewards[chosen] - rewards[rejected]
    weights = torch.from_numpy(row.weights[chosen]).to(margin)
    value = -(weights * F.logsigmoid(margin)).sum()
    return Loss(value, _preference_sums(value, rewards, weights, margin > 0, margin))


def kto(logprobs: torch.Tensor, row: Row, config: LearnerConfig, divergence: float | None = None) -> Loss:
    """Kahneman-Tversky optimisation (Ethayarajh et al., 2024).

    `divergence` is the KL estimate z0 of the whole optimiser step, in nats; None: this row is the whole step.
    """
    import torch

    if divergence is None:
        divergence = kl_estimate(*mate_sums(logprobs, row))
    ratios = sequence_logprobs(logprobs, row) - _reference(row, logprobs)
    chosen, rejected = _of_kind(row, Kind.CHOSEN), _of_kind(row, Kind.REJECTED)
    weights = torch.from_numpy(row.weights).to(ratios)
    good = config.desirable_weight * (1 - torch.sigmoid(config.beta * (ratios[chosen] - divergence)))
    bad = config.undesirable_weight * (1 - torch.sigmoid(config.beta * (divergence - ratios[rejected])))
    value = (weights[chosen] * good).sum() + (weights[rejected] * bad).sum()
    right = torch.cat([ratios[chosen] > divergence, ratios[rejected] < divergence])
    both = torch.cat([weights[chosen], weights[rejected]])
    signs = torch.cat([ratios[chosen], -ratios[rejected]])
    sums = _preference_sums(value, ratios, both, right, config.beta * signs)
    return Loss(value, sums | {"kl": divergence * float(both.sum())})


def mate_sums(logprobs: torch.Tensor, row: Row) -> tuple[float, float]:
    """A row's part of KTO's KL estimate: the weighted sum of its mates' log-ratios (nats), and the sum of their weights."""
    mates = _of_kind(row, Kind.MATE)
    ratios = (sequence_logprobs(logprobs.detach(), row) - _reference(row, logprobs))[mates].double().cpu().numpy()
    weights = row.weights[mates].astype(np.float64)
    return float((weights * ratios).sum()), float(weights.sum())


def kl_estimate(ratios: float, weights: float) -> float:
    """KTO's z0 from the sums over a whole step: the mean log-ratio of mismatched answers, at least 0; 0 without any."""
    return max(0.0, ratios / weights) if weights else 0.0


OBJECTIVES = {"sft": sft, "dpo": dpo, "kto": kto}


def _reference(row: Row, like: torch.Tensor) -> torch.Tensor:
    import torch

    if row.reference is None:
        raise ValueError("this row has no reference log-probabilities; they are computed before training begins")
    return torch.from_numpy(row.reference).to(like)


def _of_kind(row: Row, kind: Kind) -> np.ndarray:
    """Indices of the row's sequences of one kind, in the order of their examples."""
    at = np.flatnonzero(row.kinds == kind)
    return at[np.argsort(row.units[at], kind="stable")]


def _preference_sums(value, rewards, weights, right, margin) -> dict[str, float]:
    """Weighted sums that the learner divides by the step's mass: loss, share of pairs told apart, mean margin."""
    return {
        "loss": float(value.detach()),
        "accuracy": float((weights * right).sum()),
        "margin": float((weights * margin.detach()).sum()),
    }
