"""The dense mask and FlexAttention's mask are the same relation. FlexAttention has no backward on CPU: forward only."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention

from leap_ray.learning.attention import FLEX_BLOCK, ancestor_rule, block_mask, dense_mask, model_inputs
from leap_ray.learning.objectives import branches_of
from leap_ray.learning.packing import rows_of
from leap_ray.learning.prefix_tree import ancestor_mask


@pytest.fixture(scope="module")
def row():
    examples = tiny.episodes(count=4, steps=6)
    (made,) = rows_of([branches_of(e, "dpo") for e in examples], [e.id for e in examples], 4096)
    return made


def test_the_flex_mask_equals_the_dense_mask(row):
    rule = ancestor_rule(torch.from_numpy(row.exits))
    flex = create_mask(rule, None, None, row.tokens, row.tokens, device="cpu")[0, 0]
    assert np.array_equal(flex.numpy(), ancestor_mask(row.exits))
    assert torch.equal(torch.isfinite(dense_mask(row.exits, "cpu", torch.float32))[0, 0], flex)


def test_no_block_that_holds_an_ancestor_is_skipped_and_some_are(row):
    padded = model_inputs(row, "flex", "cpu", torch.float32)
    blocks = padded["attention_mask"].to_dense()[0, 0].bool()
    n = padded["input_ids"].shape[1]
    assert n % FLEX_BLOCK == 0 and n >= row.tokens
    wanted = torch.zeros(n, n, dtype=torch.bool)
    wanted[: row.tokens, : row.tokens] = torch.from_numpy(ancestor_mask(row.exits))
    wanted[range(row.tokens, n), range(row.tokens, n)] = True  # padding sees only itself
    tiles = wanted.reshape(n // FLEX_BLOCK, FLEX_BLOCK, n // FLEX_BLOCK, FLEX_BLOCK).any(3).any(1)
    assert torch.equal(blocks, tiles)
    assert not blocks.all()


def test_flex_attention_gives_what_the_dense_mask_gives(row):
    n = row.tokens - row.tokens % FLEX_BLOCK
    exits = np.minimum(row.exits[:n], n)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 16) for _ in range(3))
    with torch.no_grad():
        flex = flex_attention(q, k, v, block_mask=block_mask(exits, "cpu"))
        dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, dense_mask(exits, "cpu", torch.float32))
    torch.testing.assert_close(flex, dense, atol=1e-5, rtol=1e-5)
