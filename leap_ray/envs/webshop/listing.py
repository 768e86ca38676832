"""Products by an exact text (their category, their query): what `search[<c> …]` and `search[<q> …]` list.

Written once, when the catalogue is built; looked up by bisection. A list is read from the memory map page by page, so a category
of half a million products opens as fast as an empty one.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from leap_ray.envs.webshop.search import SortedTexts, map_array


class Numbers(Sequence[int]):
    """Product numbers in a memory-mapped array, unpacked where they are looked at."""

    def __init__(self, held: np.ndarray) -> None:
        self._held = held

    def __len__(self) -> int:
        return len(self._held)

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[int, ...]: ...

    def __getitem__(self, at: int | slice) -> int | tuple[int, ...]:
        return tuple(self._held[at].tolist()) if isinstance(at, slice) else int(self._held[at])


class ListingBuilder:
    """Collects one text per product, in the order of the products' numbers, then writes the listing."""

    def __init__(self) -> None:
        self._numbers: dict[str, array[int]] = {}
        self._count = 0

    def add(self, text: str) -> None:
        """The next product's text."""
        self._numbers.setdefault(text, array("i")).append(self._count)
        self._count += 1

    def write(self, folder: Path, name: str) -> None:
        """The listing's files."""
        texts = SortedTexts.write(folder, name, self._numbers)
        lists = [self._numbers[text] for text in texts]
        np.save(folder / f"{name}_starts.npy", np.cumsum([0, *map(len, lists)], dtype=np.int64))
        np.save(folder / f"{name}_numbers.npy", np.concatenate([np.frombuffer(held, np.int32) for held in lists]))


class Listing:
    """A listing opened for looking up."""

    def __init__(self, folder: Path, name: str) -> None:
        self._texts = SortedTexts(folder, name)
        self._starts = map_array(folder / f"{name}_starts.npy")
        self._numbers = map_array(folder / f"{name}_numbers.npy")

    def find(self, text: str) -> Numbers:
        """The numbers of the products with exactly this text, in the file's order."""
        at = self._texts.find(text)
        low, high = (self._starts[at], self._starts[at + 1]) if at >= 0 else (0, 0)
        return Numbers(self._numbers[low:high])
