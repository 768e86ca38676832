"""How well the leak check tells a reason that reveals something from one that does not: precision, recall, and every confusion.

The labelled sets are written by hand: reasons over all domains, about half of them near misses that touch a secret's words
without revealing it. Their parts, by `split`:

- `first` and `held out` (`leak_cases.yaml`): the rules were written with the first in view, and without the others;
- `everyday` (`leak_cases_everyday.yaml`): everyday wordings, written before the rules for them, then worked on;
- `kept` and `third` to `sixth` (`leak_cases_….yaml`): everyday wordings, each written before the rules were touched (again)
  and judged once they were frozen; then worked on. FIRST_SIGHT holds what the rules made of each at that moment.

    python experiments/benchmarks/leaks.py
"""

from __future__ import annotations

import hashlib
import json
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
from leap_ray.teachers.leaks import Leak, find_leaks

FILES = (
    "leak_cases.yaml",
    "leak_cases_everyday.yaml",
    "leak_cases_kept.yaml",
    "leak_cases_third.yaml",
    "leak_cases_fourth.yaml",
    "leak_cases_fifth.yaml",
    "leak_cases_sixth.yaml",
    "leak_cases_seventh.yaml",
    "leak_cases_eighth.yaml",
    "leak_cases_ninth.yaml",
    "leak_cases_tenth.yaml",
    "leak_cases_eleventh.yaml",
    "leak_cases_twelfth.yaml",
    "leak_cases_thirteenth.yaml",
    "leak_cases_fourteenth.yaml",
    "leak_cases_fifteenth.yaml",
    "leak_cases_sixteenth.yaml",
    "leak_cases_last.yaml",
    "leak_cases_final.yaml",
)
# (precision, recall) of each part before any rule was written with it in view; `everyday` by the rules there were before.
FIRST_SIGHT = {
    "everyday": (0.955, 0.250),
    "kept": (1.0, 0.893),
    "third": (1.0, 0.813),
    "fourth": (0.983, 0.934),
    "fifth": (0.98, 0.891),
    "sixth": (1.0, 0.942),
}
SPLITS = ("first", "held out", "everyday", "kept", "third", "fourth", "fifth", "sixth", "seventh", "seventh, kept", "eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "last", "final")


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
    for name in FILES:
        for context in yaml.safe_load(Path(__file__).with_name(name).read_text())["contexts"]:
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
    seen_first = "; ".join(f"{name} {precision:.3f}/{recall:.3f}" for name, (precision, recall) in FIRST_SIGHT.items())
    console.print(f"At first sight (precision/recall): {seen_first}", highlight=False)
    for name, case, found in result["confusions"]:
        why = f" [{', '.join(f'{leak.kind}: {leak.words}' for leak in found)}]" if found else ""
        console.print(f"{name}, {case.split}, {case.context}: {case.reason}{why}", highlight=False, markup=False)
    listed = [{"kind": name, "context": case.context, "reason": case.reason} for name, case, _ in result["confusions"]]
    figures = {name: {key: round(value, 4) for key, value in row.items()} for name, row in parts.items()}
    print(
        json.dumps({**{key: round(value, 4) for key, value in total.items()}, "parts": figures, "confusions": listed})
    )


if __name__ == "__main__":
    main()
