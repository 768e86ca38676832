"""How well the leak check tells a reason that reveals something from one that does not: precision, recall, and every confusion.

The labelled set is `leak_cases.yaml`, written by hand: reasons over all domains, about half of them near misses that touch a
secret's words without revealing it. The contexts marked `held out` were written without the check in view, and the check was
not changed for them, so their figures are the honest ones.

    python experiments/benchmarks/leaks.py
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from leap_ray.envs.base import PrivilegedState
from leap_ray.teachers.leaks import Leak, find_leaks

CASES = Path(__file__).with_name("leak_cases.yaml")


@dataclass(frozen=True)
class Case:
    """One labelled reason."""

    domain: str
    context: str
    seen: str
    privileged: PrivilegedState
    reason: str
    leaks: bool
    held_out: bool = False

    def judged(self) -> list[Leak]:
        return find_leaks(self.reason, self.seen, self.privileged)


def cases() -> Iterator[Case]:
    """The labelled set."""
    for context in yaml.safe_load(CASES.read_text())["contexts"]:
        state = PrivilegedState(context["domain"], "", "", tuple(context["secrets"]), context["facts"])
        for kind in ("leaks", "clean"):
            for reason in context[kind]:
                held_out = context.get("split") == "held out"
                seen, name = context["seen"], context["name"]
                yield Case(context["domain"], name, seen, state, reason, kind == "leaks", held_out)


def measure(held_out: bool | None = None) -> dict[str, Any]:
    """Counts and the confusions, over all cases or one of the two parts."""
    counts: Counter[tuple[str, str]] = Counter()
    confusions = []
    for case in cases():
        if held_out not in (None, case.held_out):
            continue
        found = case.judged()
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


def main() -> None:
    result = measure()
    table = Table(title="The leak check on its labelled set")
    for column in ("domain", "cases", "leaks", "precision", "recall"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    domains = sorted({domain for domain, _ in result["counts"]})
    for domain in [*domains, None]:
        row = scores(result["counts"], domain)
        figures = [str(row["cases"]), str(row["leaks"]), f"{row['precision']:.3f}", f"{row['recall']:.3f}"]
        table.add_row(domain or "all", *figures)
    apart = scores(measure(held_out=True)["counts"])
    held_out = [str(apart["cases"]), str(apart["leaks"]), f"{apart['precision']:.3f}", f"{apart['recall']:.3f}"]
    table.add_row("held out", *held_out)
    console = Console()
    console.print(table)
    for name, case, found in result["confusions"]:
        why = f" [{', '.join(f'{leak.kind}: {leak.words}' for leak in found)}]" if found else ""
        console.print(f"{name}, {case.context}: {case.reason}{why}", highlight=False, markup=False)
    total = scores(result["counts"])
    listed = [{"kind": name, "context": case.context, "reason": case.reason} for name, case, _ in result["confusions"]]
    figures: dict[str, Any] = {"precision": round(total["precision"], 4), "recall": round(total["recall"], 4)}
    figures["held_out"] = [apart["cases"], round(apart["precision"], 4), round(apart["recall"], 4)]
    print(json.dumps({**figures, "cases": total["cases"], "leaks": total["leaks"], "confusions": listed}))


if __name__ == "__main__":
    main()
