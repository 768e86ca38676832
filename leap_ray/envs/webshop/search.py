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
        lengths = np.frombuffer(self._lengths, np.int64) if self._lengths else np.zeros(0, np.int64)
        order = sorted(self._ids, key=lambda term: term.encode("utf-8", "surrogatepass"))
        renumber = np.empty(len(order), np.uint32)
        renumber[[self._ids[term] for term in order]] = np.arange(len(order), dtype=np.uint32)
        self._write_terms(folder, order)
        self._write_postings(folder, renumber)
        np.save(folder / "norms.npy", np.array([encode_length(n) for n in lengths.tolist()], np.uint8))
        rank = np.empty(len(asins), np.int32)
        rank[np.argsort(np.array(asins, "S"), kind="stable")] = np.arange(len(asins), dtype=np.int32)
        np.save(folder / "rank.npy", rank)
        facts = {"documents": int((lengths > 0).sum()), "length": int(lengths.sum())}
        (folder / "index.json").write_text(json.dumps(facts))

    def _write_terms(self, folder: Path, order: list[str]) -> None:
        encoded = [term.encode("utf-8", "surrogatepass") for term in order]
        (folder / "terms.bin").write_bytes(b"".join(encoded) or b"\0")
        np.save(folder / "term_ends.npy", np.cumsum([0, *map(len, encoded)], dtype=np.int64))

    def _write_postings(self, folder: Path, renumber: np.ndarray) -> None:
        """Counting sort by term, a slice of the postings at a time."""
        total = len(self._terms)
        flat = np.frombuffer(self._terms, np.uint32) if total else np.zeros(0, np.uint32)
        frequency = np.frombuffer(self._frequencies, np.uint16) if total else np.zeros(0, np.uint16)
        ends = np.frombuffer(self._ends, np.int64) if self._ends else np.zeros(0, np.int64)
        counts = np.zeros(len(renumber), np.int64)
        np.add.at(counts, renumber[flat], 1) if total < _SCATTER else self._count(counts, flat, renumber)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        np.save(folder / "starts.npy", starts)
        shape = (max(total, 1),)
        documents_out = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.int32, shape)
        frequencies_out = np.lib.format.open_memmap(folder / "frequencies.npy", "w+", np.uint16, shape)
        cursor = starts[:-1].copy()
        for low in range(0, total, _SCATTER):
            part = renumber[flat[low : low + _SCATTER]]
            order = np.argsort(part, kind="stable")
            ordered = part[order]
            first = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1])
            sizes = np.diff(np.concatenate([first, [len(ordered)]]))
            within = np.arange(len(ordered)) - np.repeat(first, sizes)
            target = cursor[ordered] + within
            documents_out[target] = np.searchsorted(ends, low + order, side="right")
            frequencies_out[target] = frequency[low : low + _SCATTER][order]
            cursor[ordered[first]] += sizes
        documents_out.flush()
        frequencies_out.flush()

    @staticmethod
    def _count(counts: np.ndarray, flat: np.ndarray, renumber: np.ndarray) -> None:
        for low in range(0, len(flat), _SCATTER):
            counts += np.bincount(renumber[flat[low : low + _SCATTER]], minlength=len(counts))


class Index:
    """An index opened for searching. Safe to open in many processes; and to use from many threads."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "index.json").read_text())
        self._terms = np.asarray(np.memmap(folder / "terms.bin", np.uint8, "r"))
        self._term_ends = map_array(folder / "term_ends.npy")
        self._starts = map_array(folder / "starts.npy")
        self._documents = map_array(folder / "documents.npy")
        self._frequencies = map_array(folder / "frequencies.npy")
        self._norms = map_array(folder / "norms.npy")
        self._rank = map_array(folder / "rank.npy")
        self._count = facts["documents"]
        average = np.float32(facts["length"] / max(self._count, 1)) or _ONE
        lengths = np.array([decode_length(code) for code in range(256)], np.float32)
        self._inverse = _ONE / (K1 * ((_ONE - B) + B * lengths / average))
        self._local = threading.local()
        self.search = lru_cache(maxsize=4096)(self._search)
        self._find = lru_cache(maxsize=50_000)(self._find_term)

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
            self._local.sums = np.zeros(len(self._norms))
        return self._local.sums

    def _add(self, sums: np.ndarray, number: int, count: np.float32) -> None:
        low, high = int(self._starts[number]), int(self._starts[number + 1])
        documents = self._documents[low:high]
        held = high - low
        weight = count * np.float32(math.log(1 + (self._count - held + 0.5) / (held + 0.5)))
        inverse = self._inverse[self._norms[documents]]
        frequencies = self._frequencies[low:high].astype(np.float32)
        sums[documents] += weight - weight / (_ONE + frequencies * inverse)

    def _find_term(self, term: str) -> int:
        """The term's number by bisection in the sorted list; -1 if no document has it."""
        wanted, low, high = term.encode("utf-8", "surrogatepass"), 0, len(self._term_ends) - 1
        while low < high:
            middle = (low + high) // 2
            here = self._terms[self._term_ends[middle] : self._term_ends[middle + 1]].tobytes()
            if here == wanted:
                return middle
            low, high = (middle + 1, high) if here < wanted else (low, middle)
        return -1


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
