"""Which examples of all iterations are trained on, how much each counts, and which tasks are held out.

Everything is decided by hashes of ids, so it is the same on every machine, in every order and after a resume, and only a few
numbers travel to the processes that read the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.types import Example

Group = tuple[str, int]  # domain, iteration


def rank(*parts: object) -> float:
    """A number in [0, 1) drawn from the hash of what it names."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


@dataclass(frozen=True)
class Header:
    """What aggregation needs to know of one example that the objective can use. See `rows.header_of`."""

    domain: str
    iteration: int
    task: str
    rank: float
    mass: float = 1.0  # what it adds to a step's divisor: loss tokens (SFT), pairs (DPO), answers (KTO)

    @classmethod
    def of(cls, domain: str, iteration: int, task: str, example: str, *, seed: int, mass: float = 1.0) -> Header:
        """The header of the example with this id."""
        return cls(str(domain), int(iteration), str(task), rank(seed, example), float(mass))


@dataclass(frozen=True)
class Selection:
    """The decision. An example of group g counts floor(m) times, once more if its rank is below g's threshold."""

    seed: int
    copies: dict[Group, int] = field(default_factory=dict)
    thresholds: dict[Group, float] = field(default_factory=dict)
    domain_weights: dict[str, float] = field(default_factory=dict)
    held_out: frozenset[tuple[str, str]] = frozenset()  # (domain, task id)

    def split(self, example: Example) -> str:
        return "eval" if (example.task.domain, example.task.id) in self.held_out else "train"

    def choose(self, example: Example) -> Example | None:
        """The example with the weight it is to have; None if it is not chosen."""
        group = (example.task.domain, example.iteration)
        times = self.copies.get(group, 0) + (rank(self.seed, example.id) < self.thresholds.get(group, 0.0))
        if self.split(example) == "eval":
            times = 1  # held-out tasks are all looked at, whatever training draws
        weight = example.weight * times * self.domain_weights.get(example.task.domain, 1.0)
        return dataclasses.replace(example, weight=weight) if times else None


def select(headers: Iterable[Header], config: LearnerConfig, seed: int) -> Selection:
    """Decide from the headers of every example that the objective can use. Raises UserError if nothing is left to train on."""
    headers = list(headers)
    held_out = hold_out({(h.domain, h.task) for h in headers}, config.holdout)
    groups: dict[Group, list[Header]] = defaultdict(list)
    for header in headers:
        if (header.domain, header.task) not in held_out:
            groups[header.domain, header.iteration].append(header)
    if not groups:
        raise UserError("there is no example to train on; every task is held out or no episode gave one")
    copies, thresholds, masses = {}, {}, Counter[str]()
    for group, wanted in _shares({g: len(found) for g, found in groups.items()}, config).items():
        ordered = sorted(groups[group], key=lambda h: h.rank)
        copies[group], rest = divmod(round(wanted * len(ordered)), len(ordered))
        thresholds[group] = ordered[rest].rank if rest else 0.0
        masses[group[0]] += copies[group] * sum(h.mass for h in ordered) + sum(h.mass for h in ordered[:rest])
    if not sum(masses.values()):
        raise UserError(f"learner.aggregate = {config.aggregate} leaves no example to train on")
    balance = _balance(masses) if config.balance_domains else {}
    return Selection(seed, copies, thresholds, balance, frozenset(held_out))


def hold_out(tasks: set[tuple[str, str]], share: float) -> set[tuple[str, str]]:
    """Tasks kept for evaluation loss: about `share` of each domain's, at least one of two or more.

    By the hash of the task alone: a task held out in one iteration is held out in all.
    """
    held: set[tuple[str, str]] = set()
    for domain in {d for d, _ in tasks} if share else ():
        ranked = sorted((rank("hold out", d, task), d, task) for d, task in tasks if d == domain)
        below = [r for r in ranked if r[0] < share]
        if len(ranked) > 1:
            held |= {(d, task) for _, d, task in (below or ranked[:1])[: len(ranked) - 1]}
    return held


def _shares(sizes: dict[Group, int], config: LearnerConfig) -> dict[Group, float]:
    """How often an example of each group is to count, on average."""
    if config.aggregate == "all":
        return dict.fromkeys(sizes, 1.0)
    if config.aggregate == "equal":  # the authors': as many of each iteration as the smallest has, within a domain
        least = {d: min(n for (domain, _), n in sizes.items() if domain == d) for d, _ in sizes}
        return {group: least[group[0]] / n for group, n in sizes.items()}
    weights, newest = config.aggregate, max(iteration for _, iteration in sizes)
    return {group: float(weights[min(newest - group[1], len(weights) - 1)]) for group in sizes}


def _balance(masses: Counter[str]) -> dict[str, float]:
    """Weights that give every domain the same share of the loss and leave the mean weight (of a loss token, a pair) at 1."""
    present = {domain: n for domain, n in masses.items() if n}
    return {domain: sum(present.values()) / len(present) / n for domain, n in present.items()}
