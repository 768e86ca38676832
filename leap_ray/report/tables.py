"""Tables of a run for the terminal: one row per evaluation, one per gathering, one per training."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pandas
from rich.table import Table

from leap_ray.errors import UserError
from leap_ray.evaluation import Outcomes, compare
from leap_ray.journal import read_json
from leap_ray.teachers.privilege_gain import gain_words, leak_counts
from leap_ray.teachers.store import read_ledger

COMPARED = "over tasks that both played; gained, lost: tasks won more, less often; p: exact sign-flip test (one seed: McNemar's)"


def results(run: Path, stage: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(iteration, domain, result) of every finished stage of that kind, in order."""
    found = []
    for done in run.glob(f"*/{stage}/*/done.json" if stage != "train" else "*/train/done.json"):
        parts = done.relative_to(run).parts
        found.append((parts[0], "" if stage == "train" else parts[2], read_json(done)))
    return sorted(found, key=lambda row: (row[1], -1 if row[0] == "base" else int(row[0].removeprefix("iter-"))))


def evaluation_table(run: Path) -> Table:
    """Success with its 95 % Wilson interval, actions, invalid actions, and the parts of the score."""
    rows = _evaluations(run)
    parts = list(dict.fromkeys(part for _, _, r in rows for part in r["parts"]))
    table = Table(title=f"{run.name}: evaluation", caption="success %: with its 95 % interval (Wilson's, over tasks)")
    for title in ("policy", "domain", "n", "success %", "score", "actions", "when won", "invalid %", *parts):
        table.add_column(title, justify="left" if title in ("policy", "domain") else "right", no_wrap=True)
    for iteration, domain, r in rows:
        low, high = r["interval"]
        table.add_row(
            iteration, domain.split(":")[-1], f"{r['episodes']}" + (f" ({r['lost']} lost)" if r.get("lost") else ""),
            f"{100 * r['success']:.1f} [{100 * low:.0f}–{100 * high:.0f}]",
            f"{r['score_scale'] * r['score']:.1f}", f"{r['actions']:.1f}", _number(r["actions_success"]),
            f"{100 * r['invalid']:.0f}",
            *(f"{100 * r['parts'][p]:.1f}" if p in r["parts"] else "" for p in parts),
        )  # fmt: skip
    return table


def failure_table(run: Path) -> Table:
    """Why the student fails: of every panel it played, loops, and its invalid actions by cause."""
    rows = [(*row, stage) for stage in ("evaluate", "rollouts") for row in results(run, stage) if "causes" in row[2]]
    causes = list(dict.fromkeys(cause for _, _, r, _ in rows for cause in r["causes"]))
    table = Table(
        title="why episodes fail",
        caption="% of the episodes, or of the student's actions; in a loop: the last steps only repeat earlier ones",
    )
    for title in ("panel", "domain", "failed", "in a loop", "invalid", *causes, "the teacher acted"):
        table.add_column(title, justify="left" if title in ("panel", "domain") else "right")
    for iteration, domain, r, stage in sorted(rows, key=lambda row: (row[1], row[3], row[0] != "base", row[0])):
        count, actions = r["episodes"], r["episodes"] * r["actions"]
        table.add_row(
            f"{iteration} {'evaluation' if stage == 'evaluate' else stage}", domain.split(":")[-1],
            *(f"{100 * share:.0f}" for share in (1 - r["success"], r["loops"] / count if count else 0.0, r["invalid"])),
            *(f"{100 * r['causes'].get(cause, 0) / actions:.0f}" if actions else "" for cause in causes),
            f"{100 * r['intervened']:.0f}" if "intervened" in r else "",
        )  # fmt: skip
    return table


def comparison_table(run: Path) -> Table | None:
    """Each policy beside the one before it, and the last beside the first trained; None before there are two."""
    table = Table(title="comparisons", caption=COMPARED)
    for title in ("domain", "policies", "tasks", "difference %", "gained", "lost", "p"):
        table.add_column(title, justify="left" if title in ("domain", "policies") else "right", no_wrap=True)
    rows = _evaluations(run)
    for domain in dict.fromkeys(domain for _, domain, _ in rows):
        names = [name for name, d, _ in rows if d == domain]
        pairs = list(itertools.pairwise(names))
        if len(names) > 3:
            pairs.append((names[1], names[-1]))
        for before, after in pairs:
            c = compare(*(outcomes(run / name / "evaluate" / domain) for name in (before, after)))
            table.add_row(
                domain.split(":")[-1], f"{before} → {after}", str(c.tasks), f"{100 * c.difference:+.1f}",
                str(c.gained), str(c.lost), f"{c.p:.2g}",
            )  # fmt: skip
    return table if table.row_count else None


def outcomes(stage: Path) -> Outcomes:
    """Success by task and seed of a finished evaluation."""
    rows = pandas.read_parquet(stage / "episodes.parquet", columns=["task", "seed", "success"], partitioning=None)
    return {(task["id"], int(seed)): bool(won) for task, seed, won in zip(rows.task, rows.seed, rows.success)}


def kinds_tables(run: Path) -> list[Table]:
    """Of each domain, success per kind of task in %, with the number of episodes; and the panel's hash, which names the tasks."""
    rows = _evaluations(run)
    return [
        _kinds_table(d, [(i, r) for i, domain, r in rows if domain == d]) for d in dict.fromkeys(d for _, d, _ in rows)
    ]


def _kinds_table(domain: str, rows: list[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(title=f"{domain.split(':')[-1]}: success % by kind of task (episodes)")
    for title in ("kind", *(iteration for iteration, _ in rows)):
        table.add_column(title, justify="left" if title == "kind" else "right")
    for kind in sorted({kind for _, r in rows for kind in r["kinds"]}):
        found = [r["kinds"].get(kind) for _, r in rows]
        table.add_row(kind, *(f"{100 * rate[1]:.0f} ({rate[0]})" if rate else "" for rate in found))
    table.add_row("panel", *(r["panel"] for _, r in rows))
    return table


def _evaluations(run: Path) -> list[tuple[str, str, dict[str, Any]]]:
    rows = results(run, "evaluate")
    if not rows:
        raise UserError(f"{run} holds no finished evaluation yet")
    return rows


def gathering_table(run: Path) -> Table:
    """What each iteration's data came from, what became of every failed episode's steps, and how realizable the teacher was."""
    gaps = {(iteration, domain): r for iteration, domain, r in results(run, "realizability")}
    table = Table(
        title="data",
        caption="gap: total variation between teacher and student on n steps of the student's rollouts, with its 95 % interval "
        "(Definition 3.1)",
    )
    for title in (
        "iteration",
        "domain",
        "episodes",
        "success %",
        "failed",
        "corrected",
        "examples",
        "gap",
        "steps by outcome",
    ):
        table.add_column(title, justify="left" if title in ("iteration", "domain", "steps by outcome") else "right")
    for stage in ("demonstrations", "rollouts"):
        for iteration, domain, r in results(run, stage):
            words = [f"{name}: {count}" for name, count in r["outcomes"].items()] if "outcomes" in r else [stage]
            words += (
                [f"of the corrected with the student's own action: {r['own_action']}"] if r.get("own_action") else []
            )
            words += [f"the teacher acted at {100 * r['intervened']:.0f} % of the steps"] if "intervened" in r else []
            words += [f"mean KL {r['kl']:.3g} nats"] if "kl" in r else []
            words += [f"the same over again: {r['repeated']}"] if r.get("repeated") else []
            words += [f"left out, {why}: {count}" for why, count in r.get("left_out", {}).items()]
            table.add_row(
                iteration, domain, str(r["episodes"]), f"{100 * r['success']:.1f}",
                str(r.get("failed", r["episodes"] - r.get("kept", r["episodes"]))),
                str(r.get("corrected_episodes", "")), str(r["examples"]),
                _gap(gaps.get((iteration, domain))), ", ".join(words),
            )  # fmt: skip
    return table


def leaks_table(run: Path) -> Table | None:
    """Two opinions on leaks: the leak check's, by words, and what privileged state adds to the log-probability of reasons."""
    gains = {(iteration, domain): r for iteration, domain, r in results(run, "privilege_gain")}
    table = Table(
        title="leaks",
        caption="revealing: left out by the leak check; gain: nats by which privileged state raises the log-probability of a "
        "sample of the others, with its 95 % interval over tasks; own: the same of the student's own reasons there",
    )
    for title in ("iteration", "domain", "reasons", "revealing", "revealing %", "gain", "own"):
        table.add_column(title, justify="left" if title in ("iteration", "domain") else "right", no_wrap=True)
    for iteration, domain, r in results(run, "rollouts"):
        revealing, reasons = leak_counts(r["outcomes"])
        share = f"{100 * revealing / reasons:.1f}" if reasons else ""
        gain = gains.get((iteration, domain), {})
        own = "" if gain.get("own") is None else f"{gain['own']:+.2f}"
        table.add_row(iteration, domain, str(reasons), str(revealing), share, gain_words(gain), own)
    return table if table.row_count else None


def spending_table(run: Path) -> Table | None:
    """What a paid teacher was asked for and what it cost, by purpose, out of the run's ledger; None if there is none."""
    rows = read_ledger(run / "teacher")
    if not rows:
        return None
    table = Table(title="teacher's calls", caption="the ledger: teacher/ledger.jsonl")
    for title in ("purpose", "calls", "answered", "input", "from cache", "output", "dollars"):
        table.add_column(title, justify="left" if title == "purpose" else "right")
    for purpose in sorted({row["purpose"] for row in rows}):
        asked = [row for row in rows if row["purpose"] == purpose]
        prompt, read, written = (sum(row[name] for row in asked) for name in ("input", "cache_read", "output"))
        prompt += read + sum(row["cache_write"] for row in asked)
        table.add_row(
            purpose, str(len(asked)), str(sum(row["state"] == "done" for row in asked)),
            f"{prompt:,}", f"{read:,}", f"{written:,}", f"{math.fsum(row['dollars'] for row in asked):.2f}",
        )  # fmt: skip
    return table


def _gap(result: dict[str, Any] | None) -> str:
    if not result or "interval" not in result:
        return ""
    low, high = result["interval"]
    return f"{result['tv']:.2f} [{low:.2f}–{high:.2f}] n={result['states']}"


def training_table(run: Path) -> Table:
    """One row per training: objective, examples, tokens before and after sharing prefixes, loss, time."""
    rows = results(run, "train")
    names = list(dict.fromkeys(name for _, _, r in rows for name in r if name != "policy"))
    table = Table(title="training")
    for title in ("iteration", *names):
        table.add_column(title.replace("_", " "), justify="right")
    for iteration, _, r in rows:
        table.add_row(iteration, *(_number(r.get(name)) for name in names))
    return table


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
