"""Packing: everything placed once, nothing over the budget, what is shared kept together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leap_ray.learning.packing import pack, rows_of
from leap_ray.learning.prefix_tree import Branch, Kind, tree_tokens


def unit(*sequences: list[int]) -> list[Branch]:
    return [Branch(np.array(s, np.int32), len(s) - 1, kind=Kind(min(k, 1))) for k, s in enumerate(sequences)]


def corrected_episode(first: int, steps: int, turn: int, leaf: int) -> list[list[Branch]]:
    """A trunk that grows by `turn` tokens a step and a leaf of `leaf` tokens at each, with token ids of its own."""
    trunk = list(range(first, first + steps * turn))
    leaves = [[first + 10_000 + 100 * t + i for i in range(leaf)] for t in range(steps)]
    return [unit(trunk[: (t + 1) * turn] + leaves[t]) for t in range(steps)]


tokens = st.lists(st.integers(0, 3), min_size=2, max_size=12)


@settings(max_examples=60)
@given(st.lists(st.lists(tokens, min_size=1, max_size=2), min_size=1, max_size=14), st.integers(24, 60))
def test_every_unit_is_placed_once_within_the_budget(sequences, budget):
    units = [unit(*s) for s in sequences]
    parts = pack(units, budget)
    assert sorted(u for part in parts for u in part) == list(range(len(units)))
    for part in parts:
        assert tree_tokens([b.ids for u in part for b in units[u]]) <= budget


def test_an_episode_that_fits_is_one_tree():
    units = corrected_episode(0, steps=10, turn=8, leaf=5)
    (row,) = rows_of(units, [str(u) for u in range(10)], 200)
    assert row.tokens == 10 * 8 + 10 * 5
    assert row.plain_tokens == sum((t + 1) * 8 + 5 for t in range(10))


def test_a_tree_too_large_repeats_its_trunk():
    units = corrected_episode(0, steps=10, turn=8, leaf=5)
    rows = rows_of(units, [str(u) for u in range(10)], 110)
    assert len(rows) == 2
    assert sum(r.tokens for r in rows) < 130 + 80  # less than one more trunk
    assert sorted(name for r in rows for name in r.examples) == sorted(str(u) for u in range(10))


def test_small_trees_share_rows():
    units = [u for e in range(8) for u in corrected_episode(100_000 * e, steps=3, turn=10, leaf=5)]
    rows = rows_of(units, [str(u) for u in range(len(units))], 100)
    assert [r.tokens for r in rows] == [90] * 4


def test_a_row_takes_no_more_trees_than_a_step_wants_loss():
    units = [u for e in range(8) for u in corrected_episode(100_000 * e, steps=3, turn=10, leaf=5)]
    loss = [sum(b.length for b in u) for u in units]
    parts = pack(units, 1000, loss_budget=2 * sum(loss[:3]))
    assert sorted(len(part) for part in parts) == [6] * 4
    assert all(sum(loss[u] for u in part) <= 2 * sum(loss[:3]) for part in parts)


def test_one_tree_stays_whole_whatever_its_loss():
    units = corrected_episode(0, steps=10, turn=8, leaf=5)
    assert len(pack(units, 200, loss_budget=1)) == 1


def test_a_shared_beginning_is_stored_once_in_a_row():
    system = list(range(50))
    units = [unit([*system, 100 + e, 200 + e]) for e in range(10)]
    (row,) = rows_of(units, [str(e) for e in range(10)], 70)
    assert row.tokens == 50 + 10 * 2


def test_a_unit_larger_than_the_budget_is_named():
    with pytest.raises(ValueError, match="unit 1 takes 6 tokens"):
        pack([unit([1, 2]), unit([1, 2, 3, 4, 5, 6])], 5)


def test_nothing_packs_into_nothing():
    assert pack([], 10) == []
