"""Whether two run directories hold the same data: what a run that was disturbed must share with one that was not.

Left out is what a clock decides (times, rates), the dollars of single corrections (an answer that was bought before a stop costs
nothing after it; `accounts` compares their sum), and log-probabilities, whose last digits depend on who else was in the batch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from experiments.benchmarks.anthropic_books import Books
from leap_ray.teachers.store import read_ledger

VARYING = frozenset({"seconds", "tokens_per_second", "dollars", "logprobs", "eval_seconds"})
REPEATED = frozenset({"probe"})  # events of a deployment: a run that goes on proves its weights once more
KINDS = ("episodes", "corrections", "examples", "stages", "metrics", "weights")


def contents(run: Path) -> dict[str, dict[str, Any]]:
    """What a run holds, by kind (KINDS) and by the name of each thing."""
    events = _lines(run / "metrics.jsonl")
    return {
        "episodes": _records(run, "episodes", lambda e: f"{e['task']['id']} {e['seed']} {e['policy']}"),
        "corrections": _records(run, "corrections", lambda c: c["episode"]),
        "examples": _examples(run),
        "stages": {_stage(run, path): _settled(json.loads(path.read_text())) for path in run.rglob("done.json")},
        "metrics": Counter(f"{e['event']} {e['step']}" for e in events if e["event"] not in REPEATED),
        "weights": {_stage(run, path): _hash(path) for path in run.glob("iter-*/train/weights/*.safetensors")},
    }


def differences(run: Path, undisturbed: Path) -> dict[str, list[str]]:
    """By kind, the names of what one of the two lacks, or holds otherwise."""
    left, right = contents(run), contents(undisturbed)
    return {kind: sorted(_unlike(left[kind], right[kind])) for kind in KINDS}


def accounts(run: Path, server: Books) -> dict[str, Any]:
    """The run's ledger beside the books of the server that answered it."""
    rows = read_ledger(run / "teacher")
    answered = Counter(row["key"] for row in rows if row["state"] == "done")
    stats = server.stats()
    return {
        "calls": stats["calls"],
        "paid_twice": stats["paid_twice"],
        "ledger_twice": sum(answered.values()) - len(answered) + len(rows) - len({row["n"] for row in rows}),
        "dollars": round(stats["dollars"], 6),
        "ledger_minus_server": round(sum(row["dollars"] for row in rows) - stats["dollars"], 6),
    }


def _unlike(left: Mapping[str, Any], right: Mapping[str, Any]) -> set[str]:
    return {name for name in {*left, *right} if not _same(left.get(name), right.get(name))}


def _same(left: Any, right: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-3, abs_tol=1e-5) or (math.isnan(left) and math.isnan(right))
    return left == right


def _records(run: Path, kind: str, name: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Records by stage and name; one that was written twice stands twice."""
    found: dict[str, list[Any]] = {}
    for path in run.rglob(f"{kind}.jsonl"):
        for record in _lines(path):
            found.setdefault(f"{_stage(run, path)}: {name(record)}", []).append(_settled(record))
    return found


def _examples(run: Path) -> dict[str, list[Any]]:
    import ray.data  # noqa: F401  # registers the type in which it wrote the tokens

    found: dict[str, list[Any]] = {}
    for folder in run.rglob("examples"):
        for example in pandas.read_parquet(folder).to_dict("records"):
            tokens = [np.asarray(example[name]).tolist() for name in ("prompt", "response", "rejected")]
            found.setdefault(f"{_stage(run, folder)}: {example['id']}", []).append(tokens)
    return found


def _settled(value: Any) -> Any:
    """Without what varies."""
    if isinstance(value, Mapping):
        return {name: _settled(inner) for name, inner in value.items() if name not in VARYING}
    return [_settled(inner) for inner in value] if isinstance(value, list) else value


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def _stage(run: Path, path: Path) -> str:
    return str(path.parent.relative_to(run))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
