"""The shop's search: Lucene's BM25 over product texts, in memory-mapped arrays that every process on a node shares.

k1 = 0.9, b = 0.4 (Anserini's defaults), document lengths quantised as Lucene's SmallFloat, scores of single terms in float32,
ties by ascending ASIN. Built once into a folder, opened read-only.
"""

from __future__ import annotations

import json
import math
import threading
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from leap_ray.envs.webshop.analysis import terms

K1, B = np.float32(0.9), np.float32(0.4)
TOP = 50  # hits of one search
_ONE = np.float32(1)
_MAX_FREQUENCY = 65_535
_SCATTER = 4_000_000  # postings moved at once while building


class IndexBuilder:
    """Collects documents in the order of their numbers, then writes the inverted index."""

    def __init__(self) -> None:
        self._ids: defaultdict[str, int] = defaultdict()
        self._ids.default_factory = self._ids.__len__  # a new term gets the next number
        self._terms = array("I")
        self._frequencies = array("H")
        self._ends = array("q")
        self._lengths = array("q")

    def add(self, text: str) -> None:
        """The next document."""
        found = terms(text)
        counts = Counter(found)
        self._terms.extend(map(self._ids.__getitem__, counts))
        self._frequencies.extend([min(count, _MAX_FREQUENCY) for count in counts.values()])
        self._ends.append(len(self._terms))
        self._lengths.append(len(found))

    def write(self, folder: Path, asins: list[str]) -> None:
        """The index files; `asins` in document order, for breaking ties."""
        lengths = np.array(self._lengths, np.int64)
        order = SortedTexts.write(folder, "term", self._ids)
        renumber = np.empty(len(order), np.uint32)
        renumber[[self._ids[term] for term in order]] = np.arange(len(order), dtype=np.uint32)
        self._write_postings(folder, renumber, inverse_norms(lengths))
        rank = np.empty(len(asins), np.int32)
        rank[np.argsort(np.array(asins, "S"), kind="stable")] = np.arange(len(asins), dtype=np.int32)
        np.save(folder / "rank.npy", rank)
        (folder / "index.json").write_text(json.dumps({"documents": int((lengths > 0).sum())}))

    def _write_postings(self, folder: Path, renumber: np.ndarray, inverse: np.ndarray) -> None:
        """Counting sort by term, a slice of the postings at a time.

        A posting keeps its document and 1 + frequency · inverse norm: all of its score that is not the term's.
        """
        total = len(self._terms)
        flat, frequency = _view(self._terms, np.uint32), _view(self._frequencies, np.uint16)
        ends = _view(self._ends, np.int64)
        starts = np.concatenate([[0], np.cumsum(_counts(flat, renumber))]).astype(np.int64)
        np.save(folder / "starts.npy", starts)
        documents = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.int32, (max(total, 1),))
        denominators = np.lib.format.open_memmap(folder / "denominators.npy", "w+", np.float32, (max(total, 1),))
        cursor = starts[:-1].copy()
        for low in range(0, total, _SCATTER):
            part = renumber[flat[low : low + _SCATTER]]
            order = np.argsort(part, kind="stable")
            ordered = part[order]
            first = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1])
            sizes = np.diff(np.concatenate([first, [len(ordered)]]))
            target = cursor[ordered] + np.arange(len(ordered)) - np.repeat(first, sizes)
            of = np.searchsorted(ends, low + order, side="right")
            documents[target] = of
            denominators[target] = _ONE + frequency[low : low + _SCATTER][order].astype(np.float32) * inverse[of]
            cursor[ordered[first]] += sizes
        documents.flush()
        denominators.flush()


def _view(values: array, dtype: type) -> np.ndarray:
    """The array's own memory; numpy cannot look at an empty one."""
    return np.frombuffer(values, dtype) if values else np.zeros(0, dtype)


def _counts(flat: np.ndarray, renumber: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(renumber), np.int64)
    for low in range(0, len(flat), _SCATTER):
        counts += np.bincount(renumber[flat[low : low + _SCATTER]], minlength=len(counts))
    return counts


def inverse_norms(lengths: np.ndarray) -> np.ndarray:
    """1 / (k1 · (1 − b + b · length / average)) of each document, float32, its length as the index keeps it."""
    average = np.float32(lengths.sum() / max((lengths > 0).sum(), 1)) or _ONE
    kept = np.array([decode_length(code) for code in range(256)], np.float32)
    table = _ONE / (K1 * ((_ONE - B) + B * kept / average))
    return table[[encode_length(length) for length in lengths.tolist()]]


class Index:
    """An index opened for searching. Safe to open in many processes; and to use from many threads."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "index.json").read_text())
        self._terms = SortedTexts(folder, "term")
        self._starts = map_array(folder / "starts.npy")
        self._documents = map_array(folder / "documents.npy")
        self._denominators = map_array(folder / "denominators.npy")
        self._rank = map_array(folder / "rank.npy")
        self._count = facts["documents"]
        self._local = threading.local()
        self.search = lru_cache(maxsize=4096)(self._search)
        self._find = lru_cache(maxsize=50_000)(self._terms.find)

    def _search(self, text: str, top: int = TOP) -> tuple[int, ...]:
        """Numbers of the best documents for the text, best first."""
        positions, _ = self.scored(text, top)
        return tuple(positions.tolist())

    def scored(self, text: str, top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
        """(document numbers, float32 scores) of the best documents, best first."""
        sums = self._sums()
        for term, count in Counter(terms(text)).items():
            number = self._find(term)
            if number >= 0:
                self._add(sums, number, np.float32(count))
        found = np.flatnonzero(sums)
        scores = sums[found].astype(np.float32)
        sums[found] = 0.0
        if len(found) > top:
            best = scores >= np.partition(scores, len(scores) - top)[len(scores) - top]
            found, scores = found[best], scores[best]
        order = np.lexsort((self._rank[found], -scores))[:top]
        return found[order], scores[order]

    def _sums(self) -> np.ndarray:
        """This thread's row of zeros, one score per document."""
        if not hasattr(self._local, "sums"):
            self._local.sums = np.zeros(len(self._rank))
        return self._local.sums

    def _add(self, sums: np.ndarray, number: int, count: np.float32) -> None:
        low, high = int(self._starts[number]), int(self._starts[number + 1])
        held = high - low
        weight = count * np.float32(math.log(1 + (self._count - held + 0.5) / (held + 0.5)))
        sums[self._documents[low:high]] += weight - weight / self._denominators[low:high]


class SortedTexts:
    """Distinct texts on disk, numbered in the order of their bytes, found by bisection."""

    def __init__(self, folder: Path, name: str) -> None:
        self._bytes = np.asarray(np.memmap(folder / f"{name}s.bin", np.uint8, "r"))
        self._ends = map_array(folder / f"{name}_ends.npy")

    @classmethod
    def write(cls, folder: Path, name: str, texts: Iterable[str]) -> list[str]:
        """The files; returns the texts in order."""
        order = sorted(texts, key=_encoded)
        encoded = [_encoded(text) for text in order]
        (folder / f"{name}s.bin").write_bytes(b"".join(encoded) or b"\0")
        np.save(folder / f"{name}_ends.npy", np.cumsum([0, *map(len, encoded)], dtype=np.int64))
        return order

    def find(self, text: str) -> int:
        """The text's number; -1 if it is none of them."""
        wanted, low, high = _encoded(text), 0, len(self._ends) - 1
        while low < high:
            middle = (low + high) // 2
            here = self._bytes[self._ends[middle] : self._ends[middle + 1]].tobytes()
            if here == wanted:
                return middle
            low, high = (middle + 1, high) if here < wanted else (low, middle)
        return -1


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def build_index(folder: Path, texts: Iterable[tuple[str, str]]) -> None:
    """Write an index of (asin, text) pairs; documents are numbered in their order."""
    builder, asins = IndexBuilder(), []
    for asin, text in texts:
        asins.append(asin)
        builder.add(text)
    builder.write(folder, asins)


def encode_length(length: int) -> int:
    """A document's length as Lucene's SmallFloat.intToByte4: exact up to 40, then three significant bits."""
    return length if length < _EXACT else _EXACT + _to_small(length - _EXACT)


def decode_length(code: int) -> int:
    """The length that a norm byte stands for."""
    return code if code < _EXACT else _EXACT + _from_small(code - _EXACT)


def _to_small(value: int) -> int:
    bits = value.bit_length()
    if bits < 4:
        return value
    shift = bits - 4
    return ((value >> shift) & 7) | ((shift + 1) << 3)


def _from_small(code: int) -> int:
    shift = (code >> 3) - 1
    return code & 7 if shift < 0 else ((code & 7) | 8) << shift


_EXACT = 255 - _to_small(2**31 - 1)


def map_array(path: Path) -> np.ndarray:
    """An array that stays in its file; as a plain array, because numpy's memmap type is slow to index."""
    return np.asarray(np.load(path, mmap_mode="r"))
