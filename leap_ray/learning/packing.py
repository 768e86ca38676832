"""Examples into rows: which trees share a row, so that no row passes the token budget and few tokens are computed twice.

Examples that begin alike are kept together; a tree too large for one row is cut into parts that each repeat the trunk; parts
and small trees are then packed by best fit, largest first. Sizes are exact: what two parts share is counted once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from leap_ray.learning.prefix_tree import Branch, Row, build_row, neighbour_prefixes, sorted_order

FEW = 0.5  # trees that share no more than this part of their tokens count as two


class _Sizes:
    """Tokens of the tree of any set of units, from one sort of all sequences."""

    def __init__(self, units: Sequence[Sequence[Branch]]) -> None:
        sequences = [(u, b.ids) for u, unit in enumerate(units) for b in unit]
        order = sorted_order([ids for _, ids in sequences])
        ordered = [sequences[i][1] for i in order]
        self.lengths = np.array([len(s) for s in ordered])
        self.shared = np.append(neighbour_prefixes(ordered), 0)  # with the previous in sorted order
        self.losses = [sum(b.length for b in unit) for unit in units]
        self.places: list[list[int]] = [[] for _ in units]
        for place, i in enumerate(order):
            self.places[sequences[i][0]].append(place)

    def of(self, units: Sequence[int]) -> int:
        at = np.array(sorted(p for u in units for p in self.places[u]))
        if len(at) == 1:
            return int(self.lengths[at[0]])
        # Shared prefix of two sequences that are not neighbours: the least of those between.
        between = np.minimum.reduceat(self.shared, np.column_stack([at[:-1] + 1, at[1:] + 1]).ravel())[::2]
        return int(self.lengths[at].sum() - between.sum())

    def loss(self, units: Sequence[int]) -> int:
        """Their loss tokens."""
        return sum(self.losses[u] for u in units)

    def order(self) -> list[int]:
        """Units in depth-first order, each at its first sequence."""
        return sorted(range(len(self.places)), key=lambda u: self.places[u][0])


def pack(units: Sequence[Sequence[Branch]], budget: int, loss_budget: float = math.inf) -> list[list[int]]:
    """Partition units (each one or more branches that must stay together) into rows of at most `budget` tree tokens.

    Trees that share little are not put together beyond `loss_budget` loss tokens: a row is never divided between optimiser
    steps, so it should be no larger than a step is to be. Raises ValueError naming a unit that is larger than the budget.
    """
    if not units:
        return []
    sizes = _Sizes(units)
    for u in range(len(units)):
        if (size := sizes.of([u])) > budget:
            raise ValueError(f"unit {u} takes {size} tokens, more than the row's {budget}")
    return _bundle(_divide(units, sizes, budget, loss_budget), sizes, budget, loss_budget)


def _divide(units: Sequence[Sequence[Branch]], sizes: _Sizes, budget: int, loss_budget: float) -> list[list[int]]:
    """Runs of units in sorted order: whole trees, and parts of those that are too large."""
    order = sizes.order()
    shared = neighbour_prefixes([units[u][0].ids for u in order])  # by each unit and the one before it
    pending = [(0, len(order))]
    parts: list[list[int]] = []
    while pending:  # from the root of the tree towards the leaves, until everything below fits a row
        lo, hi = pending.pop()
        run = order[lo:hi]
        if len(run) == 1:
            parts.append(run)
            continue
        common = shared[lo + 1 : hi].min()
        cuts = [lo, *(lo + 1 + np.flatnonzero(shared[lo + 1 : hi] == common)), hi]
        pieces = [(int(a), int(b)) for a, b in pairwise(cuts)]
        one_tree = sum(common <= FEW * sizes.of(order[a:b]) for a, b in pieces) < 2
        if sizes.of(run) <= budget and (one_tree or sizes.loss(run) <= loss_budget):
            parts.append(run)
        else:
            pending += pieces
    return parts


def _bundle(parts: list[list[int]], sizes: _Sizes, budget: int, loss_budget: float) -> list[list[int]]:
    """Parts into rows by best fit, the largest first."""
    bundles: list[list[int]] = []
    for part in sorted(parts, key=lambda part: (-sizes.of(part), part)):
        best = _best(part, [b for b in bundles if sizes.loss(b + part) <= loss_budget], sizes, budget)
        if best is None:
            bundles.append(list(part))
        else:
            best.extend(part)
    return bundles


def _best(part: list[int], bundles: list[list[int]], sizes: _Sizes, budget: int) -> list[int] | None:
    """The row where a part costs fewest new tokens, then leaves least room; None if it fits nowhere."""
    best, best_key = None, None
    for bundle in bundles:
        total = sizes.of(bundle + part)
        key = (total - sizes.of(bundle), -total)
        if total <= budget and (best_key is None or key < best_key):
            best, best_key = bundle, key
    return best


def rows_of(
    units: Sequence[Sequence[Branch]], names: Sequence[str], budget: int, loss_budget: float = math.inf
) -> list[Row]:
    """Pack and lay out: one Row per part, with `examples` and `units` numbered within the row."""
    rows = []
    for members in pack(units, budget, loss_budget):
        local = [Branch(b.ids, b.start, index, b.kind, b.weight) for index, u in enumerate(members) for b in units[u]]
        rows.append(build_row(local, [names[u] for u in members]))
    return rows
