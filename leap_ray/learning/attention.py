"""What each token of a row may attend to, in the form an attention kernel wants.

Three forms of one relation, from the same enter and exit times. `blocks` (the default, `blocks.py`): exact attention in blocks
of queries, anywhere. `sdpa`: one dense mask. `flex`: FlexAttention with a block mask, on GPUs; its backward does not exist on
CPU, where the tests compare masks and forward passes, and the GPU path itself has not been run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from leap_ray.learning.prefix_tree import Row, ancestor_mask

if TYPE_CHECKING:
    import torch

FLEX_BLOCK = 128  # tokens of one block of the block mask; rows are padded to a multiple of it


def model_inputs(row: Row, attention: str, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of a Hugging Face causal model for one row: ids, positions, mask, and where logits are wanted."""
    import torch

    ids, positions, exits = row.ids, row.positions, row.exits
    if attention == "flex":
        ids, positions, exits = _padded(ids, positions, exits)
    as_tensor = {"input_ids": ids, "position_ids": positions}
    inputs: dict[str, Any] = {k: torch.from_numpy(v).long()[None].to(device) for k, v in as_tensor.items()}
    if attention == "blocks":
        from leap_ray.learning.blocks import make_blocks

        inputs["tree_blocks"] = make_blocks(exits, positions, device, dtype)
    else:
        dense = attention == "sdpa"
        inputs["attention_mask"] = dense_mask(exits, device, dtype) if dense else block_mask(exits, device)
    inputs["logits_to_keep"] = torch.from_numpy(row.sources).long().to(device)
    return inputs | {"use_cache": False}


def implementation(attention: str) -> str:
    """The name by which transformers knows an attention of the configuration."""
    if attention == "blocks":
        from leap_ray.learning.blocks import register

        return register()
    return {"sdpa": "sdpa", "flex": "flex_attention"}[attention]


def dense_mask(exits: np.ndarray, device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """1 × 1 × N × N additive mask: 0 on ancestors, -inf elsewhere. Additive, so that no layer has to convert it."""
    import torch

    allowed = torch.from_numpy(ancestor_mask(exits)).to(device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, float("-inf"))[None, None]


def block_mask(exits: np.ndarray, device: torch.device | str) -> Any:
    """FlexAttention's BlockMask of the same relation; N must be a multiple of FLEX_BLOCK."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    n = len(exits)
    exits_N = torch.from_numpy(exits).to(device)
    return create_block_mask(ancestor_rule(exits_N), None, None, n, n, device=str(device), BLOCK_SIZE=FLEX_BLOCK)


def ancestor_rule(exits_N: torch.Tensor) -> Any:
    """FlexAttention's mask function: query i sees key j if j entered no later than i and has not been left."""

    def visible(batch, head, i, j):
        return (j <= i) & (i < exits_N[j])

    return visible


def _padded(ids: np.ndarray, positions: np.ndarray, exits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The row with tokens that see only themselves, up to a whole number of blocks."""
    n = len(ids)
    more = -n % FLEX_BLOCK
    zeros = np.zeros(more, np.int32)
    alone = np.arange(n + 1, n + more + 1, dtype=np.int32)
    return np.concatenate([ids, zeros]), np.concatenate([positions, zeros]), np.concatenate([exits, alone])
