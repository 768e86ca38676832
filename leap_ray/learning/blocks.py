"""Exact attention over a prefix tree in blocks of queries, each with only the keys that some query of it may see.

In depth-first order the keys of a block are the tokens entered before its end and not left before its beginning: the path to
the block and the block itself, not the leaves in between. Scores are recomputed in the backward pass, so memory stays linear
in the row. Plain matrix products: on CPU about three times as fast as SDPA with a dense mask, and it runs anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from leap_ray.learning.prefix_tree import Ints

BLOCK = 128  # queries
NAME = "leap_blocks"  # under which transformers knows this attention


@dataclass(frozen=True)
class Block:
    """Queries [first, end), the indices of their keys, and the additive mask between them (queries × keys)."""

    first: int
    end: int
    keys: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True)
class TreeBlocks:
    """A row's blocks, and how many tokens its longest sequence has."""

    blocks: list[Block]
    depth: int


def make_blocks(exits: Ints, positions: Ints, device: torch.device | str, dtype: torch.dtype) -> TreeBlocks:
    """Cut a row into blocks of `BLOCK` queries."""
    blocks, size = [], BLOCK
    for first in range(0, len(exits), size):
        end = min(first + size, len(exits))
        keys = np.flatnonzero(exits[:end] > first)
        queries = np.arange(first, end)[:, None]
        seen = torch.from_numpy((keys[None] <= queries) & (queries < exits[keys][None]))
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        blocks.append(Block(first, end, torch.from_numpy(keys).to(device), mask.to(device)))
    return TreeBlocks(blocks, int(positions.max()) + 1)


class TreeAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale + mask) v per block. q: H × N × D; k: G × N × D; v: G × N × E, H a multiple of G (grouped queries)."""

    @staticmethod
    def forward(ctx: Any, q, k, v, blocks: list[Block], scale: float) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.blocks, ctx.scale = blocks, scale
        out = q.new_empty(*q.shape[:2], v.shape[-1])
        for block in blocks:
            keys, values = k.index_select(1, block.keys), v.index_select(1, block.keys)
            weights = _weights(_grouped(q, block, len(k)), keys, block, scale)
            out[:, block.first : block.end] = torch.bmm(weights, values).view(len(q), -1, v.shape[-1])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        dout = gradients[0].contiguous()
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for block in ctx.blocks:
            keys, values = k.index_select(1, block.keys), v.index_select(1, block.keys)
            queries, d = _grouped(q, block, len(k)), _grouped(dout, block, len(k))
            weights = _weights(queries, keys, block, ctx.scale)
            dv.index_add_(1, block.keys, torch.bmm(weights.transpose(1, 2), d).float())
            dscores = torch.ops.aten._softmax_backward_data(
                torch.bmm(d, values.transpose(1, 2)).float(), weights.float(), -1, torch.float32
            )
            dscores = dscores.mul_(ctx.scale).to(q.dtype)
            dq[:, block.first : block.end] = torch.bmm(dscores, keys).view(len(q), -1, q.shape[-1])
            dk.index_add_(1, block.keys, torch.bmm(dscores.transpose(1, 2), queries).float())
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def _grouped(x: torch.Tensor, block: Block, groups: int) -> torch.Tensor:
    """The block's rows of x (H × N × D), heads that share keys laid end to end: G × (H/G · block) × D."""
    return x[:, block.first : block.end].reshape(groups, -1, x.shape[-1])


def _weights(queries: torch.Tensor, keys: torch.Tensor, block: Block, scale: float) -> torch.Tensor:
    """Softmax over the block's keys (in float32), in the queries' precision."""
    scores = torch.bmm(queries * scale, keys.transpose(1, 2))
    by_head = scores.view(-1, block.end - block.first, scores.shape[-1]).add_(block.mask)
    return torch.softmax(by_head, -1, dtype=torch.float32).to(queries.dtype).view_as(scores)


def attend(module: Any, query, key, value, attention_mask, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it; `tree_blocks` comes from the model call's keyword arguments."""
    tree: TreeBlocks | None = kwargs.get("tree_blocks")
    if tree is None or len(query) != 1:
        raise ValueError(f"{type(module).__name__} does not hand a row's blocks to its attention")
    if (kwargs.get("sliding_window") or tree.depth) < tree.depth:
        raise ValueError(
            f"{type(module).__name__} attends in windows of {kwargs['sliding_window']} tokens, fewer than the {tree.depth} of "
            "a sequence"
        )
    if unknown := [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]:
        raise ValueError(
            f"{type(module).__name__} attends with {', '.join(unknown)}, which rows of branches do not support"
        )
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    out = TreeAttention.apply(query[0], key[0], value[0], tree.blocks, scale)
    return out.transpose(0, 1)[None].contiguous(), None


def register() -> str:
    """Make the attention known to transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    return NAME
