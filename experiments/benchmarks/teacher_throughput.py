"""How close the live teacher comes to a provider's rate limit that nobody told it, and how seldom it is refused.

A local server with the real API's protocol enforces limits of requests, input and output tokens a minute. The teacher starts
not knowing them. `of_limit`: of the limit that binds, how much was used, over what the token bucket let through in that time
(its first filling included). `refused_share`: requests answered 429. Compared in the same run: a fixed number of calls at
once, too few and too many, with the SDK's own retries alone.

    python experiments/benchmarks/teacher_throughput.py --rpm 1200 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.benchmarks.anthropic_server import AnthropicServer, Limits
from leap_ray.teachers.calls import Request, Turn
from leap_ray.teachers.claude import ClaudeProvider
from leap_ray.teachers.desk import Desk
from leap_ray.teachers.prices import prices_of
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.store import Store

MODEL = "claude-opus-5-5"


class FixedGate(Gate):
    """A given number of calls at once, whatever the provider says: the comparison."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.window = float(most)

    def saw(self, status: int, headers: Any, sent_at: float | None = None) -> None:
        """Learn nothing."""


def request(number: int, words: int) -> Request:
    """A question of about `words` words, unlike any other."""
    text = f"question {number}: " + " ".join(f"w{(number * 31 + i) % 997}" for i in range(words))
    return Request(MODEL, "Answer in one word.", (Turn("user", text),), 4000)


def answer(body: dict[str, Any]) -> str:
    """About as long as a correction of one episode, in proportion to the question."""
    return "word " * (len(body["messages"][0]["content"][0]["text"]) // 12)


async def measure(
    gate: Gate, limits: Limits, latency: tuple[float, float], seconds: float, words: int
) -> dict[str, Any]:
    """Ask without end for `seconds`, and count at the server."""
    async with AnthropicServer(limits=limits, latency=latency, answer=answer) as server:
        provider = ClaudeProvider(gate, key="test", base_url=server.url, timeout=60, max_retries=8)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            store.db.execute("pragma synchronous = off")  # the disk is not what is measured
            desk = Desk(provider, store, prices_of(MODEL), gate)
            counter = iter(range(10**9))
            stop = time.monotonic() + seconds

            async def worker() -> None:
                while time.monotonic() < stop:
                    await desk.ask(request(next(counter), words))

            began = time.monotonic()
            workers = [asyncio.create_task(worker()) for _ in range(gate.most)]
            await asyncio.sleep(seconds)
            wall = time.monotonic() - began
            taken = {name: meter.taken for name, meter in server.meters.items()}
            books = server.books.stats()
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await desk.close()
    return {**shares(taken, limits, wall), "refused_share": books["refused"] / max(1, books["attempts"]), **taken}


def shares(taken: dict[str, float], limits: Limits, wall: float) -> dict[str, Any]:
    """Use of each limit: what was taken over what its bucket let through."""
    allowed = {n: getattr(limits, n) * (limits.burst + wall / 60) for n in taken}
    used = {n: taken[n] / allowed[n] for n in taken}
    binding = max(used, key=lambda name: used[name])
    return {"binding": binding, "of_limit": used[binding]}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    latency = (arguments.latency * 0.5, arguments.latency * 1.5)
    limits = {
        "requests": Limits(arguments.rpm, 1e9, 1e9, arguments.burst),
        "input tokens": Limits(1e6, arguments.itpm, 1e9, arguments.burst),
        "output tokens": Limits(1e6, 1e9, arguments.otpm, arguments.burst),
    }
    rows = []
    for name, limit in limits.items():
        rows.append(
            (f"ours, {name} limited", await measure(Gate(arguments.most), limit, latency, arguments.seconds, 200))
        )
    for most in (4, arguments.most):
        limit = limits["requests"]
        label = f"{most} at once, SDK retries only"
        rows.append((label, await measure(FixedGate(most), limit, latency, arguments.seconds, 200)))
    table = Table(title="A rate limit nobody told the teacher")
    for column in ("way", "binding limit", "of limit", "refused", "requests"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, row in rows:
        share, refused = f"{row['of_limit']:.1%}", f"{row['refused_share']:.2%}"
        table.add_row(name, row["binding"], share, refused, f"{row['requests']:.0f}")
    Console().print(table)
    ours = [row for _, row in rows[:3]]
    return {
        "of_limit": round(min(row["of_limit"] for row in ours), 4),
        "refused_share": round(max(row["refused_share"] for row in ours), 4),
        "by_limit": {row["binding"]: [round(row["of_limit"], 4), round(row["refused_share"], 4)] for row in ours},
        "fixed_few": [round(rows[3][1]["of_limit"], 4), round(rows[3][1]["refused_share"], 4)],
        "fixed_many": [round(rows[4][1]["of_limit"], 4), round(rows[4][1]["refused_share"], 4)],
        "seconds": arguments.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of the live teacher against a rate-limited server.")
    parser.add_argument("--rpm", type=float, default=1200, help="requests a minute")
    parser.add_argument("--itpm", type=float, default=400_000, help="input tokens a minute")
    parser.add_argument("--otpm", type=float, default=120_000, help="output tokens a minute")
    parser.add_argument("--burst", type=float, default=0.1, help="minutes' worth that a bucket holds")
    parser.add_argument("--latency", type=float, default=1.0, help="mean seconds of an answer")
    parser.add_argument("--most", type=int, default=128, help="most calls at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    os.environ.setdefault("ANTHROPIC_LOG", "warn")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
