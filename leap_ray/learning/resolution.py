"""Whether a learning rate can be seen in the weights: how far a training may move them, beside what a number format resolves.

AdamW moves a weight by about the learning rate in one step, by the sum of all learning rates at most. A float32 master keeps
what is above half its own spacing; the served bfloat16 copy changes where the master crosses a rounding boundary, which of
masters that lie anywhere between two boundaries is the share total/spacing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from leap_ray.config import LearnerConfig, Objective

if TYPE_CHECKING:
    import torch

LEAST = 0.05  # share of the served weights that a training should be able to change
SAMPLE = 1_000_000  # weights looked at of one tensor


def resolution_warning(
    weights: Iterable[torch.Tensor], rates: Sequence[float], config: LearnerConfig, objective: Objective
) -> str:
    """What is lost at these learning rates (one per step), and the remedy; empty if they can be seen.

    `weights` are the float32 masters or adapters. Adapters are served as they are, full weights in bfloat16.
    """
    import torch

    name = "learner.learning_rate" if objective == "sft" else "learner.dpo_learning_rate"
    peak, total = max(rates), sum(rates)
    sample = torch.cat([_sampled(w) for w in weights])
    lost = float((peak < _spacing(sample, torch.float32) / 2).double().mean())
    if lost > 0.5:
        least = float(_spacing(sample, torch.float32).median())
        return (
            f"{name} {peak:.1g} is below what float32 resolves in {100 * lost:.0f} % of the trained weights: "
            f"steps are lost. Raise it to {least:.0e} or more"
        )
    served = float((total / _spacing(sample, torch.bfloat16)).clamp(max=1).mean())
    if config.method == "lora" or served >= LEAST:
        return ""
    return (
        f"{name} {peak:.1g} over {len(rates)} steps moves a weight by {total:.1g} at most: about {100 * served:.1g} % of the "
        f"bfloat16 weights that are served can change. Raise it to about {peak * LEAST / served:.0e}, train longer "
        "(learner.epochs), or train an adapter (learner.method: lora), which is served in float32"
    )


def _sampled(weights: torch.Tensor) -> torch.Tensor:
    """Up to `SAMPLE` of a tensor's values other than 0, evenly spread; of a sharded one this worker's."""
    local: Any = getattr(weights, "to_local", lambda: weights)()
    flat = local.detach().flatten()
    values = flat[:: max(1, len(flat) // SAMPLE)].float().cpu()
    return values[values != 0]


def _spacing(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance from each value to the next larger one of the format."""
    import torch

    return torch.exp2(torch.floor(torch.log2(values.abs()))) * torch.finfo(dtype).eps
