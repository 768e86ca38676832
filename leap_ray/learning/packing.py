"""Examples into rows: which trees share a row, so that no row passes the token budget and few tokens are computed twice.

Examples that begin alike are kept together; a tree too large for one row is cut into parts that each repeat the trunk; parts
and small trees are then packed by best fit, largest first. Sizes are exact: what two parts share is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from leap_ray.learning.prefix_tree import Branch, Ints, Row, build_row, neighbour_prefixes, sorted_order


class _Sizes:
    """Tokens of the tree of any set of units, from one sort of all sequences."""

    def __init__(self, units: Sequence[Sequence[Branch]]) -> None:
        sequences = [(u, b.ids) for u, unit in enumerate(units) for b in unit]
        order = sorted_order([ids for _, ids in sequences])
        ordered = [sequences[i][1] for i in order]
        self.lengths = np.array([len(s) for s in ordered])
        self.shared = np.append(neighbour_prefixes(ordered), 0)  # with the previous in sorted order
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

    def order(self) -> list[int]:
        """Units in depth-first order, each at its first sequence."""
        return sorted(range(len(self.places)), key=lambda u: self.places[u][0])


def pack(units: Sequence[Sequence[Branch]], budget: int) -> list[list[int]]:
    """Partition units (each one or more branches that must stay together) into rows of at most `budget` tree tokens.

    Raises ValueError naming a unit that alone is larger than the budget.
    """
    if not units:
        return []
    sizes = _Sizes(units)
    for u in range(len(units)):
        if (size := sizes.of([u])) > budget:
            raise ValueError(f"unit {u} takes {size} tokens, more than the row's {budget}")
    order = sizes.order()
    first = [units[u][0].ids for u in order]
    shared = neighbour_prefixes(first)
    return _divide(order, shared, sizes, budget)


def _divide(order: list[int], shared: Ints, sizes: _Sizes, budget: int) -> list[list[int]]:
    """Parts of a run of units in sorted order; `shared[k]` is what unit k has in common with unit k - 1."""
    pending = [(0, len(order))]
    parts: list[list[int]] = []
    bundles: list[list[int]] = []
    while pending:  # from the root of the tree towards the leaves, until everything below fits a row
        lo, hi = pending.pop()
        if hi - lo == 1 or sizes.of(order[lo:hi]) <= budget:
            parts.append(order[lo:hi])
            continue
        inner = shared[lo + 1 : hi]
        cuts = [lo, *(lo + 1 + np.flatnonzero(inner == inner.min())), hi]
        pending += [(int(a), int(b)) for a, b in pairwise(cuts)]
    parts.sort(key=lambda part: (-sizes.of(part), part))
    for part in parts:
        _place(part, bundles, sizes, budget)
    return bundles


def _place(part: list[int], bundles: list[list[int]], sizes: _Sizes, budget: int) -> None:
    """Add a part to the row where it costs fewest new tokens, then leaves least room; open a new row if none fits."""
    best, best_key = None, None
    for bundle in bundles:
        total = sizes.of(bundle + part)
        key = (total - sizes.of(bundle), -total)
        if total <= budget and (best_key is None or key < best_key):
            best, best_key = bundle, key
    if best is None:
        bundles.append(list(part))
    else:
        best.extend(part)


def rows_of(units: Sequence[Sequence[Branch]], names: Sequence[str], budget: int) -> list[Row]:
    """Pack and lay out: one Row per part, with `examples` and `units` numbered within the row."""
    rows = []
    for members in pack(units, budget):
        local = [Branch(b.ids, b.start, index, b.kind, b.weight) for index, u in enumerate(members) for b in units[u]]
        rows.append(build_row(local, [names[u] for u in members]))
    return rows
