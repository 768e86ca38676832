"""A row of a prefix tree is its sequences: same tokens, same logits, same loss, same gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leap_ray.config import LearnerConfig
from leap_ray.learning import blocks
from leap_ray.learning.attention import model_inputs
from leap_ray.learning.model import row_logprobs
from leap_ray.learning.objectives import sft, target_logprobs
from leap_ray.learning.prefix_tree import Branch, Kind, ancestor_mask, build_row, tree_tokens


def branch(*ids: int, start: int = 1, **more) -> Branch:
    return Branch(np.array(ids, np.int32), start, **more)


def test_the_picture_in_the_module_is_true():
    row = build_row([branch(10, 11, 12, 20, 21, start=3), branch(10, 11, 12, 30, 31, start=3)])
    assert row.ids.tolist() == [10, 11, 12, 20, 21, 30, 31]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert row.exits.tolist() == [7, 7, 7, 5, 5, 7, 7]
    assert row.sources.tolist() == [2, 3, 2, 5]
    assert row.labels.tolist() == [20, 21, 30, 31]
    assert (row.tokens, row.plain_tokens, row.loss_tokens) == (7, 10, 4)


def test_a_token_shared_by_two_responses_counts_for_both():
    row = build_row([branch(1, 2, 3, start=1, weight=1.0), branch(1, 2, 4, start=1, weight=0.5)])
    assert dict(zip(row.labels.tolist(), row.token_weights().tolist())) == {2: 1.5, 3: 1.0, 4: 0.5}
    assert dict(zip(row.labels.tolist(), row.token_weights(per_example=True).tolist())) == {2: 0.75, 3: 0.5, 4: 0.25}


def test_rejected_responses_carry_no_weight_under_sft():
    row = build_row([branch(1, 2, 3), branch(1, 4, kind=Kind.REJECTED)])
    assert dict(zip(row.labels.tolist(), row.token_weights().tolist())) == {2: 1.0, 3: 1.0, 4: 0.0}


@pytest.mark.parametrize("start", [0, 3])
def test_a_branch_without_prompt_or_response_is_refused(start):
    with pytest.raises(ValueError, match="cannot carry loss"):
        build_row([branch(1, 2, 3, start=start)])


@st.composite
def forests(draw):
    """Branches that share much: each goes on from a random cut of an earlier one, over a small alphabet."""
    branches: list[Branch] = []
    for _ in range(draw(st.integers(1, 7))):
        stem = draw(st.sampled_from(branches)).ids.tolist() if branches and draw(st.booleans()) else []
        stem = stem[: draw(st.integers(0, len(stem)))]
        ids = stem + draw(st.lists(st.integers(3, 6), min_size=2, max_size=12))
        weight = draw(st.sampled_from([0.5, 1.0, 2.0]))
        branches.append(branch(*ids, start=draw(st.integers(1, len(ids) - 1)), weight=weight))
    return branches


@given(forests())
def test_every_sequence_can_be_read_back(branches):
    row = build_row(branches)
    mask = ancestor_mask(row.exits)
    assert row.tokens == tree_tokens([b.ids for b in branches])
    assert row.tokens == len({tuple(b.ids[: n + 1]) for b in branches for n in range(len(b.ids))})
    for s, b in enumerate(branches):
        targets = row.pair_target[row.pair_sequence == s]
        assert row.labels[targets].tolist() == b.ids[b.start :].tolist()
        for source, depth in zip(row.sources[targets], range(b.start, len(b.ids))):
            seen = np.flatnonzero(mask[source])
            assert row.ids[seen].tolist() == b.ids[:depth].tolist()
            assert row.positions[seen].tolist() == list(range(depth))


def plain_loss(model, branches: list[Branch]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The weighted loss of the examples one by one, by the model's own causal attention; and each one's logits."""
    total, logits = torch.zeros(()), []
    for b in branches:
        ids = torch.from_numpy(b.ids).long()
        out = model(input_ids=ids[None], use_cache=False).logits[0]
        total = total - b.weight * target_logprobs(out[b.start - 1 : -1], ids[b.start :]).sum()
        logits.append(out[b.start - 1 : -1].detach())
    return total, logits


def gradients(model) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Rows of a test are short: blocks must be, too, to have borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 4)
        yield


MODELS = {(k, lora, a): None for k in tiny.CONFIGS for lora in (False, True) for a in ("blocks", "sdpa")}


@pytest.mark.parametrize("kind,lora,attention", MODELS)
@settings(max_examples=10, deadline=None)
@given(branches=forests())
def test_logits_loss_and_gradients_equal_those_of_the_plain_examples(kind, lora, attention, branches):
    key = kind, lora, attention
    model = MODELS[key] = MODELS[key] or tiny.model(kind, lora, attention=attention).train()
    row = build_row(branches)
    wanted, plain_logits = plain_loss(tiny.with_attention(model, "sdpa"), branches)
    wanted.backward()
    plain = gradients(model)
    with torch.no_grad():
        logits = tiny.with_attention(model, attention)(**model_inputs(row, attention, "cpu", torch.float32)).logits[0]
    for s, expected in enumerate(plain_logits):
        torch.testing.assert_close(logits[row.pair_target[row.pair_sequence == s]], expected, atol=1e-4, rtol=1e-4)
    loss = sft(row_logprobs(model, row, attention, "cpu", torch.float32), row, LearnerConfig()).value
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert float((gradients(model) - plain).norm() / plain.norm()) <= 1e-5
