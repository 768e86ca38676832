"""How well the leak check tells a reason that reveals something from one that does not: precision, recall, and every confusion.

The labelled sets are written by hand: reasons over all domains, about half of them near misses that touch a secret's words
without revealing it. Their parts, by `split`:

- `first` and `held out` (`leak_cases.yaml`): the rules were written with the first in view, and without the others;
- `everyday` (`leak_cases_everyday.yaml`): everyday wordings, written before the rules for them, then worked on;
- `kept` and `third` to `sixth` (`leak_cases_….yaml`): everyday wordings, each written before the rules were touched (again)
  and judged once they were frozen; then worked on;
- `seventh`: written before the rules were touched again; a hash of the text puts each case into a half that was worked on or
  into one that was judged once (`seventh, kept`), when `eighth` to `eleventh` had been worked on as well;
- `eighth` to `thirteenth`: written to be worked on, each judged before it was;
- `fourteenth` to `sixteenth`, `last`, `final` and `extra`: each written when the rules were frozen, judged once, then worked
  on. `last` and `final` are in plain words; `extra` is in the manner of those that the rules had done worst on.

FIRST_SIGHT holds what the rules made of each part the first time. All parts are of one hand, the rules' own author's, and the
parts differ in how far they go from plain words: a figure of one part says nothing of a teacher's reasons that are worded in
other ways. Not checked: reasons in another language than the environment's text (German, French, Chinese), of which only
names, numbers and code as they are written are found; riddles and roundabout descriptions ("the cold place"); and references
by "the former" or "the latter". `seconds` is what one check takes on the average; a typical reason takes a millisecond or two.

    python experiments/benchmarks/leaks.py
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from leap_ray.envs.base import PrivilegedState
from leap_ray.evaluation import wilson
from leap_ray.teachers.leaks import Leak, find_leaks

# Leaks that were found, false alarms and leaks of each part before any rule was written with it in view; of `everyday` and the
# first half of the seventh by the rules that there were before.
FIRST_SIGHT = {
    "everyday": (21, 1, 84),
    "kept": (67, 0, 75),
    "third": (52, 0, 64),
    "fourth": (57, 1, 61),
    "fifth": (49, 1, 55),
    "sixth": (49, 0, 52),
    "seventh": (26, 1, 44),
    "seventh, kept": (38, 0, 46),
    "eighth": (58, 2, 71),
    "ninth": (53, 1, 66),
    "tenth": (54, 1, 65),
    "eleventh": (44, 4, 52),
    "twelfth": (23, 0, 30),
    "thirteenth": (44, 1, 50),
    "fourteenth": (42, 0, 49),
    "fifteenth": (31, 1, 35),
    "sixteenth": (35, 1, 43),
    "last": (30, 1, 30),
    "final": (48, 0, 50),
    "extra": (20, 1, 26),
}
SPLITS = ("first", "held out", *FIRST_SIGHT)


@dataclass(frozen=True)
class Case:
    """One labelled reason."""

    domain: str
    context: str
    seen: str
    privileged: PrivilegedState
    reason: str
    leaks: bool
    split: str = "first"


def cases() -> Iterator[Case]:
    """All labelled cases."""
    for path in sorted(Path(__file__).parent.glob("leak_cases*.yaml")):
        for context in yaml.safe_load(path.read_text())["contexts"]:
            yield from _cases(context)


def _cases(context: Mapping[str, Any]) -> Iterator[Case]:
    domain = context["domain"]
    state = PrivilegedState(domain, "", "", tuple(context["secrets"]), context["facts"])
    for kind in ("leaks", "clean"):
        for reason in context[kind]:
            split = _split(context.get("split", SPLITS[0]), reason)
            yield Case(domain, context["name"], context["seen"], state, reason, kind == "leaks", split)


def _split(declared: str | list[str], reason: str) -> str:
    """The part that a case belongs to; of several, a hash of the text picks one, so that nobody chooses."""
    if isinstance(declared, str):
        return declared
    return declared[hashlib.sha256(reason.encode()).digest()[0] % len(declared)]


@cache
def _judged() -> tuple[tuple[Case, list[Leak]], ...]:
    return tuple((case, find_leaks(case.reason, case.seen, case.privileged)) for case in cases())


def seconds() -> float:
    """The time of one check, on the average over all cases, patterns compiled."""
    everything = [case for case, _ in _judged()]
    start = time.process_time()
    for case in everything:
        find_leaks(case.reason, case.seen, case.privileged)
    return (time.process_time() - start) / len(everything)


def measure(split: str | None = None) -> dict[str, Any]:
    """Counts and the confusions, over all cases or one part."""
    counts: Counter[tuple[str, str]] = Counter()
    confusions = []
    for case, found in _judged():
        if split not in (None, case.split):
            continue
        cell = {(True, True): "hit", (True, False): "miss", (False, True): "false alarm", (False, False): "clean"}
        name = cell[case.leaks, bool(found)]
        counts[case.domain, name] += 1
        if name in ("miss", "false alarm"):
            confusions.append((name, case, found))
    return {"counts": counts, "confusions": confusions}


def scores(counts: Counter[tuple[str, str]], domain: str | None = None) -> dict[str, Any]:
    """Precision and recall over one domain or all."""
    sums: Counter[str] = Counter()
    for (of, name), count in counts.items():
        if domain in (None, of):
            sums[name] += count
    hits, misses, alarms = sums["hit"], sums["miss"], sums["false alarm"]
    precision, recall = hits / max(1, hits + alarms), hits / max(1, hits + misses)
    return {"cases": sums.total(), "leaks": hits + misses, "precision": precision, "recall": recall}


def _row(name: str, row: Mapping[str, Any]) -> list[str]:
    return [name, str(row["cases"]), str(row["leaks"]), f"{row['precision']:.3f}", f"{row['recall']:.3f}"]


def _first_sight() -> Table:
    """What the rules made of each part before they were worked on with it, with intervals (Wilson, 95 %)."""
    table = Table("part", "leaks", "precision", "recall", title="At first sight")
    for name, (hits, alarms, leaks) in FIRST_SIGHT.items():
        table.add_row(name, str(leaks), _rate(hits, hits + alarms), _rate(hits, leaks))
    return table


def _rate(count: int, of: int) -> str:
    low, high = wilson(count, of)
    return f"{count / of:.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    result = measure()
    table = Table(title="The leak check on its labelled sets")
    for column in ("domain or part", "cases", "leaks", "precision", "recall"):
        table.add_column(column, justify="left" if column == "domain or part" else "right")
    parts = {split: scores(measure(split)["counts"]) for split in SPLITS}
    for domain in sorted({domain for domain, _ in result["counts"]}):
        table.add_row(*_row(domain, scores(result["counts"], domain)))
    total = scores(result["counts"])
    for name, row in {**parts, "all": total}.items():
        table.add_row(*_row(name, row))
    console = Console()
    console.print(table)
    console.print(_first_sight())
    for name, case, found in result["confusions"]:
        why = f" [{', '.join(f'{leak.kind}: {leak.words}' for leak in found)}]" if found else ""
        console.print(f"{name}, {case.split}, {case.context}: {case.reason}{why}", highlight=False, markup=False)
    listed = [{"kind": name, "context": case.context, "reason": case.reason} for name, case, _ in result["confusions"]]
    figures = {name: {key: round(value, 4) for key, value in row.items()} for name, row in parts.items()}
    print(
        json.dumps(
            {
                **{key: round(value, 4) for key, value in total.items()},
                "seconds": round(seconds(), 5),
                "parts": figures,
                "confusions": listed,
            }
        )
    )


if __name__ == "__main__":
    main()
