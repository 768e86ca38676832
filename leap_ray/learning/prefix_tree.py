"""Sequences that begin alike become one tree, and a tree becomes one row in which every shared token stands once.

    a b c|x y        ids        a b c x y z          loss: 4 targets, read at c, x, c (again) and z
    a b c|z w   ──>  positions  0 1 2 3 4 3 4        token j is seen from i  iff  j ≤ i < exit[j]
                     exits      7 7 7 5 5 7 7        (j entered before i and not yet left: an ancestor of i)

Sharing is found in the tokens alone, so one code serves corrections of an episode (a trunk with a leaf per step),
demonstrations (a chain), preference pairs (two leaves on one prompt) and whole iterations (a forest). A row of the tree gives
the same logits, loss and gradients as its sequences one by one: a token attends to its ancestors only, at its own depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]


class Kind(IntEnum):
    """What a sequence is to the objective."""

    CHOSEN = 0  # the response to learn
    REJECTED = 1  # the response to turn away from
    MATE = 2  # another example's response under this prompt: KTO's estimate of the KL divergence


@dataclass(frozen=True)
class Branch:
    """One sequence of tokens, root to leaf: loss on `ids[start:]`, each read from the token before it."""

    ids: Ints
    start: int
    unit: int = 0  # the example it belongs to, by index
    kind: Kind = Kind.CHOSEN
    weight: float = 1.0

    @property
    def length(self) -> int:
        """Tokens that carry loss."""
        return len(self.ids) - self.start


@dataclass
class Row:
    """A packed forest of N tokens with M targets, P (sequence, target) pairs and S sequences. Plain numpy arrays.

    A target is a token whose log-probability is wanted; several sequences may share one. Logits are needed at `sources` only.
    """

    ids: Ints  # N, token ids in depth-first order
    positions: Ints  # N, depth of each token in its own sequence
    exits: Ints  # N, index after the last token below this one
    sources: Ints  # M, index of the token whose logits predict the target
    labels: Ints  # M, the target's token id
    pair_sequence: Ints  # P
    pair_target: Ints  # P
    kinds: Ints  # S, of Kind
    weights: NDArray[np.float32]  # S
    units: Ints  # S, index into `examples`
    examples: list[str] = field(default_factory=list)  # ids of the examples in this row
    plain_tokens: int = 0  # what the sequences would take one by one
    reference: NDArray[np.float32] | None = None  # S, log-probabilities under the reference policy

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def loss_tokens(self) -> int:
        """(sequence, token) pairs that carry loss: what `batch_tokens` counts."""
        return int((self.kinds[self.pair_sequence] != Kind.MATE).sum())

    @property
    def lengths(self) -> Ints:
        """Loss tokens of each sequence, S."""
        return np.bincount(self.pair_sequence, minlength=len(self.kinds)).astype(np.int32)

    def token_weights(self, per_example: bool = False) -> NDArray[np.float32]:
        """Weight of each target under SFT (M): its sequences' weights, each divided by its length if `per_example`."""
        weights = np.where(self.kinds == Kind.CHOSEN, self.weights, 0).astype(np.float64)
        if per_example:
            weights = weights / np.maximum(self.lengths, 1)
        total = np.bincount(self.pair_target, weights[self.pair_sequence], minlength=len(self.labels))
        return total.astype(np.float32)


def common_prefix(a: Ints, b: Ints) -> int:
    """How many leading tokens two sequences share."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def sorted_order(sequences: Sequence[Ints]) -> list[int]:
    """Indices in lexicographic order of tokens, which is depth-first order of their tree."""
    keys = [np.asarray(s).astype(">u4").tobytes() for s in sequences]  # big-endian: bytes compare as the numbers do
    return sorted(range(len(keys)), key=keys.__getitem__)


def neighbour_prefixes(ordered: Sequence[Ints]) -> Ints:
    """Shared prefix of each sequence with the one before it (0 for the first), in sorted order."""
    shared = [0, *(common_prefix(a, b) for a, b in pairwise(ordered))]
    return np.array(shared[: len(ordered)], np.int32)


def tree_tokens(sequences: Sequence[Ints]) -> int:
    """Tokens of the tree of these sequences: what one row of them costs."""
    ordered = [sequences[i] for i in sorted_order(sequences)]
    return sum(map(len, ordered)) - int(neighbour_prefixes(ordered).sum())


def build_row(branches: Sequence[Branch], examples: Sequence[str] = ()) -> Row:
    """Lay the tree of all branches out in depth-first order. Every branch needs 0 < start < len(ids)."""
    for branch in branches:
        if not 0 < branch.start < len(branch.ids):
            raise ValueError(f"a branch of {len(branch.ids)} tokens cannot carry loss from token {branch.start} on")
    order = sorted_order([b.ids for b in branches])
    shared = neighbour_prefixes([branches[i].ids for i in order])
    paths: list[Ints] = [np.empty(0, np.int32)] * len(branches)  # node of every token of every branch
    path, count, closes = np.empty(0, np.int32), 0, []
    for i, keep in zip(order, shared):
        closes.append((path[keep:], count))
        new = np.arange(count, count + len(branches[i].ids) - keep, dtype=np.int32)
        path = paths[i] = np.concatenate([path[:keep], new])
        count += len(new)
    closes.append((path, count))
    exits = np.zeros(count, np.int32)
    for nodes, end in closes:
        exits[nodes] = end
    ids, positions = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for i, nodes in enumerate(paths):
        ids[nodes] = branches[i].ids
        positions[nodes] = np.arange(len(nodes))
    return Row(
        ids=ids,
        positions=positions,
        exits=exits,
        **_targets(branches, paths, ids),
        kinds=np.array([b.kind for b in branches], np.int32),
        weights=np.array([b.weight for b in branches], np.float32),
        units=np.array([b.unit for b in branches], np.int32),
        examples=list(examples),
        plain_tokens=sum(len(b.ids) for b in branches),
    )


def _targets(branches: Sequence[Branch], paths: list[Ints], ids: Ints) -> dict[str, Any]:
    """Each loss token once, with where it is read from; and which sequence has which of them."""
    nodes = np.concatenate([path[b.start :] for b, path in zip(branches, paths)])
    parents = np.concatenate([path[b.start - 1 : -1] for b, path in zip(branches, paths)])
    owners = np.repeat(np.arange(len(branches), dtype=np.int32), [b.length for b in branches])
    targets, first, inverse = np.unique(nodes, return_index=True, return_inverse=True)
    return {
        "sources": parents[first],
        "labels": ids[targets],
        "pair_sequence": owners,
        "pair_target": inverse.astype(np.int32),
    }


def ancestor_mask(exits: Ints) -> NDArray[np.bool_]:
    """N × N, True where row i may attend to column j: j is i or an ancestor of i."""
    index = np.arange(len(exits))
    return (index[None, :] <= index[:, None]) & (index[:, None] < exits[None, :])


def filler_row() -> Row:
    """Two tokens, one target, no loss: what a worker computes when others have more rows than it."""
    zero, none = np.zeros(1, np.int32), np.empty(0, np.int32)
    return Row(
        ids=np.zeros(2, np.int32),
        positions=np.arange(2, dtype=np.int32),
        exits=np.full(2, 2, np.int32),
        sources=zero,
        labels=zero,
        pair_sequence=none,
        pair_target=none,
        kinds=none,
        weights=np.empty(0, np.float32),
        units=none,
    )
