"""Which rows make up which optimiser step, on which worker, and at what learning rate: a pure function of the data and seed.

Steps are planned over all rows before they are dealt out to workers, so a step is the same loss tokens whatever the number of
workers, and a run that was interrupted knows where it was.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from leap_ray.config import LearnerConfig, Objective
from leap_ray.learning.rows import RowInfo


@dataclass(frozen=True)
class PlannedStep:
    """One optimiser step: rows per worker (every list as long as the longest, None where a worker only keeps pace)."""

    index: int
    epoch: int
    rows: tuple[tuple[RowInfo | None, ...], ...]
    mass: float  # divisor of the step's summed loss
    loss_tokens: int
    tokens: int
    plain_tokens: int


def plan_steps(infos: Sequence[RowInfo], config: LearnerConfig, seed: int, workers: int) -> list[PlannedStep]:
    """All optimiser steps of a training, epoch after epoch, each of about `batch_tokens` loss tokens."""
    ordered = sorted(infos, key=lambda info: info.id)
    planned: list[PlannedStep] = []
    for epoch in range(config.epochs):
        for rows in _groups(ordered, config.batch_tokens, random.Random(f"{seed}/{epoch}")):
            planned.append(
                PlannedStep(
                    index=len(planned),
                    epoch=epoch,
                    rows=deal(rows, workers),
                    mass=sum(r.mass for r in rows),
                    loss_tokens=sum(r.loss_tokens for r in rows),
                    tokens=sum(r.tokens for r in rows),
                    plain_tokens=sum(r.plain_tokens for r in rows),
                )
            )
    return planned


def _groups(infos: Sequence[RowInfo], batch_tokens: int, rng: random.Random) -> list[list[RowInfo]]:
    """Rows dealt into steps of like numbers of loss tokens: the largest first, each to the emptiest step."""
    total = sum(info.loss_tokens for info in infos)
    count = max(1, min(len(infos), round(total / batch_tokens)))
    shuffled = rng.sample(list(infos), len(infos))
    groups: list[list[RowInfo]] = [[] for _ in range(count)]
    filled = [0] * count
    for info in sorted(shuffled, key=lambda i: -i.loss_tokens):  # a stable sort: equals stay shuffled
        step = filled.index(min(filled))
        groups[step].append(info)
        filled[step] += info.loss_tokens
    rng.shuffle(groups)
    return groups


def deal(rows: Sequence[RowInfo], workers: int) -> tuple[tuple[RowInfo | None, ...], ...]:
    """Rows to workers so that their tokens are alike and every worker computes the same number of rows."""
    hands: list[list[RowInfo | None]] = [[] for _ in range(workers)]
    load = [0] * workers
    for row in sorted(rows, key=lambda r: (-r.tokens, r.id)):
        worker = load.index(min(load))
        hands[worker].append(row)
        load[worker] += row.tokens
    longest = max(map(len, hands))
    return tuple(tuple(hand + [None] * (longest - len(hand))) for hand in hands)


def learning_rate(step: int, total: int, config: LearnerConfig, objective: Objective) -> float:
    """Linear warm-up, then cosine to 0. `step` counts from 0; the warm-up never takes more than half of a short training."""
    peak = config.learning_rate if objective == "sft" else config.dpo_learning_rate
    warmup = min(config.warmup_steps, total // 2)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
