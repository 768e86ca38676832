"""The reward of a bash task: 0.01 + files + contents + answer, each third worth 0.33 (InterCode, appendix A).

All three compare the student's machine with one on which the gold command ran. Odd corners of the original are kept on purpose,
so that scores can be compared: see `parse_status` and `contents`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

Change = tuple[str, str]  # path, git's two-letter code

BASE = 0.01
THIRD = 0.33
COMPARED = ("A", "??", "C")  # only changes with these codes have their contents compared
TOKEN = re.compile(r"(?u)\b\w\w+\b")


@dataclass(frozen=True)
class State:
    """What is compared: changes under git, hashes of changed files, and the last answer. `answer` None: not readable."""

    changes: tuple[Change, ...]
    hashes: Mapping[str, str]
    answer: str | None


@dataclass(frozen=True)
class Score:
    """The reward and its parts."""

    total: float
    files: float
    contents: float
    answer: float
    missing: tuple[Change, ...]
    extra: tuple[Change, ...]

    @property
    def parts(self) -> dict[str, float]:
        return {"p1": self.files, "p2": self.contents, "p3": self.answer}


def parse_status(text: str) -> tuple[Change, ...]:
    """(path, code) pairs of `git status --short`, split at white space as in the original.

    A path with a space therefore shifts all pairs after it. A word left over at the end has no partner and is left out (the
    original fails there).
    """
    words = text.split()
    return tuple((words[i + 1], words[i]) for i in range(0, len(words) - 1, 2))


def score(student: State, gold: State) -> Score:
    """The student's reward. 1.0 is success."""
    mine, theirs = set(student.changes), set(gold.changes)
    missing, extra = sorted(theirs - mine), sorted(mine - theirs)
    files = round(THIRD * (1 - math.erf(len(missing) + len(extra))), 2)
    same = contents(student, gold)
    answer = round(THIRD * similarity(student.answer, gold.answer), 2)
    return Score(BASE + files + same + answer, files, same, answer, tuple(missing), tuple(extra))


def shared(student: State, gold: State) -> list[Change]:
    """The changes that both made and whose contents are compared."""
    return sorted(c for c in set(student.changes) & set(gold.changes) if c[1] in COMPARED)


def contents(student: State, gold: State) -> float:
    """0.33 × the share of common changes with the same contents.

    The original hashes a path without "." with a program that its image lacks: such a path always counts as right.
    """
    common = shared(student, gold)
    if not common:
        return THIRD
    right = sum("." not in path or student.hashes.get(path) == gold.hashes.get(path) for path, _ in common)
    return round(THIRD * (right / len(common)), 2)


def similarity(one: str | None, other: str | None) -> float:
    """Cosine of the two texts' TF-IDF vectors over just these two; equality where neither holds a word.

    Words are lower-cased runs of two or more word characters; idf is ln(3 / (1 + df)) + 1 (scikit-learn's defaults).
    """
    if one is None or other is None:
        return float(one == other)
    a, b = (Counter(TOKEN.findall(text.lower())) for text in (one, other))
    if not a and not b:
        return float(one == other)
    weight = {word: math.log(3 / (1 + (word in a) + (word in b))) + 1 for word in a | b}
    dot = sum(a[word] * b[word] * weight[word] ** 2 for word in a.keys() & b.keys())
    norms = [math.sqrt(sum((n * weight[word]) ** 2 for word, n in counts.items())) for counts in (a, b)]
    return dot / (norms[0] * norms[1]) if all(norms) else 0.0
