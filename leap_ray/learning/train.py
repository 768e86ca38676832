"""The training loop, in plain PyTorch: rows in, optimiser steps, evaluation, best weights out. Knows nothing of Ray.

One process trains alone; several shard with FSDP2 over the process group that is already initialised. Every random draw is
seeded by what it is for (the seed, the epoch, the row), never by what came before: hence an interrupted training equals an
undisturbed one, and two workers equal one.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from leap_ray.config import LearnerConfig, Objective
from leap_ray.learning.model import row_logprobs, sequence_logprobs, shard
from leap_ray.learning.objectives import OBJECTIVES, kl_estimate, mass, mate_sums
from leap_ray.learning.prefix_tree import Row, filler_row
from leap_ray.learning.resolution import resolution_warning
from leap_ray.learning.schedule import learning_rate

if TYPE_CHECKING:
    import torch


Sums = defaultdict[str, float]


@dataclass(frozen=True)
class StepRows:
    """One optimiser step as one worker sees it. A row of None keeps pace with the other workers."""

    index: int
    epoch: int
    mass: float
    rows: Sequence[tuple[str, Row] | None]  # row id, row


@dataclass
class Masters:
    """The parameters that the optimiser sees: float32, while the weights themselves may compute in lower precision.

    Adapters, sharded weights and weights that compute in float32 are their own masters.
    """

    names: list[str]
    working: list[torch.nn.Parameter]
    masters: list[torch.nn.Parameter] = field(default_factory=list)
    cleared: bool = True  # the masters hold nothing of the step to come, whatever their gradients' memory says

    @classmethod
    def of(cls, model: Any, lower: torch.dtype | None = None) -> Masters:
        """The masters of a model's trained weights, which compute in the precision `lower` from now on (None: as they are)."""
        import torch

        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        made = cls([n for n, _ in trained], [p for _, p in trained])
        for _, p in trained:
            if p.dtype == (lower or torch.float32) == torch.float32:
                made.masters.append(p)
                continue
            made.masters.append(torch.nn.Parameter(p.detach().float()))
            p.data = p.data.to(lower or p.dtype)
        return made

    def gather_gradients(self) -> None:
        """After each row's backward: add the working gradients to the masters', in float32.

        The masters' gradients keep their memory from step to step: new pages for all of it cost more than the additions.
        """
        for work, master in zip(self.working, self.masters):
            if work is master:
                continue
            if master.grad is None:
                master.grad = None if work.grad is None else work.grad.float()
            elif self.cleared:
                master.grad.zero_() if work.grad is None else master.grad.copy_(work.grad)
            elif work.grad is not None:
                master.grad += work.grad
            work.grad = None
        self.cleared = False

    def clear_gradients(self) -> None:
        """After an optimiser step."""
        self.cleared = True
        for work, master in zip(self.working, self.masters):
            if work is master:
                work.grad = None

    def publish(self) -> None:
        """After an optimiser step: copy the masters into the working weights."""
        for work, master in zip(self.working, self.masters):
            if work is not master:
                work.data.copy_(master.data)


class Trainer:
    """A model under training on one worker: `step`, `evaluate`, `reference`, and its state for checkpoints."""

    def __init__(
        self,
        model: Any,
        config: LearnerConfig,
        objective: Objective,
        total_steps: int,
        *,
        seed: int = 0,
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        import torch

        self.config = config
        self.objective: Objective = objective
        self.seed = seed
        self.total_steps, self.device, self.workers = total_steps, device, workers
        self.dtype = getattr(torch, config.precision)
        self.model = model.to(device)
        if objective != "sft":
            disable_dropout(self.model)
        if workers > 1:
            from torch.distributed.device_mesh import init_device_mesh

            self.model = shard(self.model, config, init_device_mesh(device.split(":")[0], (workers,)))
        alone = config.method == "full" and workers == 1  # FSDP2 casts the weights that it shards itself
        self.weights = Masters.of(self.model, self.dtype if alone else None)
        self.optimizer = torch.optim.AdamW(
            self.weights.masters,
            lr=config.learning_rate,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=workers == 1 or None,
        )
        self._step_device = self.device if workers == 1 else "cpu"  # where AdamW counts its steps

    def step(self, batch: StepRows) -> dict[str, float]:
        """One optimiser step over this worker's rows. Returns the step's metrics, summed over all workers."""
        import torch

        divergence = self._divergence(batch.rows)
        self.model.train()
        sums: Sums = defaultdict(float)
        for item in batch.rows:
            name, row = item or ("", filler_row())
            self._seed(batch.epoch, name)
            logprobs = self._logprobs(row)
            if item is None:
                value = logprobs.sum() * 0
            else:
                loss = OBJECTIVES[self.objective](logprobs, row, self.config, divergence)
                _add(sums, loss.sums)
                value = loss.value / batch.mass
            (value * self.workers).backward()  # FSDP2 averages gradients over workers; the step's loss is their sum
            self.weights.gather_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.weights.masters, self.config.clip_norm)
        rate = learning_rate(batch.index, self.total_steps, self.config, self.objective)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.weights.clear_gradients()
        self.weights.publish()
        totals = self._sum_over_workers(sums)
        metrics = {k: v / batch.mass for k, v in totals.items() if k != "mass"}
        return metrics | {"grad_norm": float(whole(norm)), "learning_rate": rate}

    def evaluate(self, rows: Iterable[Row | None]) -> dict[str, float]:
        """The objective's mean metrics over held-out rows, all workers together; no gradients, no dropout."""
        import torch

        sums: Sums = defaultdict(float)
        self.model.eval()
        with torch.no_grad():
            scored = [(self._logprobs(row or filler_row()), row) for row in rows]
        real = [(logprobs, row) for logprobs, row in scored if row is not None]
        divergence = self._kl_of(real) if self.objective == "kto" else None
        for logprobs, row in real:
            _add(sums, OBJECTIVES[self.objective](logprobs, row, self.config, divergence).sums)
            sums["mass"] += mass(row, self.objective, self.config.weighting)
        sums = self._sum_over_workers(sums)
        return {f"eval_{k}": v / sums["mass"] for k, v in sums.items() if k != "mass"}

    def reference(self, rows: Iterable[tuple[str, Row] | None]) -> Iterator[tuple[str, np.ndarray]]:
        """Log-probability of every sequence of each row under the weights as they are now: the reference policy."""
        import torch

        self.model.eval()
        with torch.no_grad():
            for item in rows:
                row = item[1] if item else filler_row()
                logprobs = self._logprobs(row)
                if item is not None:
                    yield item[0], sequence_logprobs(logprobs, row).cpu().numpy()

    def state(self) -> dict[str, Any]:
        """Masters and optimiser moments by parameter name: what a checkpoint holds. Tensors may be sharded."""
        self._ready_moments()
        moments = {n: self.optimizer.state[p] for n, p in zip(self.weights.names, self.weights.masters)}
        return {"weights": self.trained(), "moments": moments}

    def restored(self, state: dict[str, Any]) -> None:
        """To be called after the tensors of `state()` were overwritten in place by a checkpoint's."""
        for name, p in zip(self.weights.names, self.weights.masters):
            self.optimizer.state[p].update(state["moments"][name])
        self.weights.publish()

    def trained(self) -> dict[str, torch.Tensor]:
        """The masters by name."""
        return {n: p.detach() for n, p in zip(self.weights.names, self.weights.masters)}

    def warning(self) -> str:
        """What the schedule's learning rates cannot change in these weights, and the remedy; empty if all is well."""
        rates = [learning_rate(s, self.total_steps, self.config, self.objective) for s in range(self.total_steps)]
        return resolution_warning(self.weights.masters, rates, self.config, self.objective)

    def _logprobs(self, row: Row) -> torch.Tensor:
        return row_logprobs(self.model, row, self.config.attention, self.device, self.dtype)

    def _divergence(self, rows: Sequence[tuple[str, Row] | None]) -> float | None:
        """KTO's KL estimate over all rows of a step and all workers, by a forward pass before the step's own.

        None where no such pass is needed: for other objectives, and where one row is the whole step.
        """
        import torch

        if self.objective != "kto" or (self.workers == 1 and len(rows) == 1):
            return None
        with torch.no_grad():
            scored = [(self._logprobs(item[1] if item else filler_row()), item) for item in rows]
        return self._kl_of([(logprobs, item[1]) for logprobs, item in scored if item])

    def _kl_of(self, scored: Iterable[tuple[torch.Tensor, Row]]) -> float:
        """KTO's KL estimate from the log-probabilities of this worker's rows; every worker must call."""
        parts = [mate_sums(logprobs, row) for logprobs, row in scored]
        ratios, weights = (sum(part) for part in zip(*parts)) if parts else (0.0, 0.0)
        return kl_estimate(*self._over_workers([ratios, weights]))

    def _seed(self, epoch: int, name: str) -> None:
        import torch

        torch.manual_seed(zlib.crc32(f"{self.seed}/{epoch}/{name}".encode()))

    def _ready_moments(self) -> None:
        """AdamW makes its moments at the first step; a checkpoint needs them before."""
        import torch

        for p in self.weights.masters:
            if not self.optimizer.state[p]:
                self.optimizer.state[p].update(
                    step=torch.zeros((), device=self._step_device),
                    exp_avg=torch.zeros_like(p),
                    exp_avg_sq=torch.zeros_like(p),
                )

    def _sum_over_workers(self, sums: Sums) -> Sums:
        """Sums of all workers. They agree on the names by the objective, since one may have had no row at all."""
        if self.workers == 1:
            return sums
        more = {"sft": [], "dpo": ["accuracy", "margin"], "kto": ["accuracy", "margin", "kl"]}
        names = ["loss", "mass", *more[self.objective]]
        return defaultdict(float, zip(names, self._over_workers([sums[n] for n in names])))

    def _over_workers(self, values: list[float]) -> list[float]:
        """Each value summed over all workers."""
        if self.workers == 1:
            return values
        import torch
        import torch.distributed as dist

        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


def disable_dropout(model: Any) -> None:
    """No dropout from now on: preferences compare log-probabilities with the reference policy's, which are without it.

    The model stays in training mode, which activation checkpointing needs.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("attention_dropout", "dropout", "attn_dropout", "resid_dropout"):  # rates passed to functions
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _add(sums: Sums, more: dict[str, float]) -> None:
    for name, value in more.items():
        sums[name] += value


def whole(tensor: Any) -> torch.Tensor:
    """A sharded tensor put together (every worker must ask); any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
