"""Our WebShop engine's step rate, what 1,000 episodes leave behind, and how the search scales with the shop.

The original (Flask pages, HTML parsing, Lucene) was measured elsewhere at 60 ms a search and 37 ms a click; `ratio` is the time
it would have taken for the same actions over ours, in CPU seconds of this single-threaded process. An episode is a scripted
shopper's: a search, some clicks, wrong turns and invalid actions among them, and a purchase, each step with its observation,
candidate actions and score. Shops of other sizes are the base shop's products multiplied, with descriptions exchanged so that
texts differ.

Left out: running the original here (it needs Java and its own Python), and what a step costs across processes.
"""

from __future__ import annotations

import json
import os
import random
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from leap_ray.envs.webshop.catalogue import Catalogue, build
from leap_ray.envs.webshop.data import GENERATED
from leap_ray.envs.webshop.env import WebShopEnv
from leap_ray.envs.webshop.experts import Demonstrator
from leap_ray.envs.webshop.products import Product
from leap_ray.envs.webshop.search import Index
from leap_ray.errors import UserError
from leap_ray.types import Task

ORIGINAL_SEARCH, ORIGINAL_CLICK = 0.060, 0.037  # seconds, measured with the original engine
INVALID = ("", "click[no such thing]", "buy it", "search[]", "click[item - nothing by that name]")
NEIGHBOUR = Path(__file__).parents[3] / "shared" / "data" / "webshop"


@dataclass
class Args:
    """Measure our WebShop engine."""

    data: str | None = None
    """Folder of WebShop's files, or "generated"; default: $WEBSHOP_DATA, else ../shared/data/webshop, else generated."""
    episodes: int = 1000
    """Episodes that are timed, after having been played once."""
    sizes: tuple[int, ...] = (1_000, 100_000)
    """Shops whose index is built and searched, in products; none: leave this out. A million takes some minutes and 3 GB."""
    queries: int = 300
    """Searches timed in each shop, each for the first time."""
    seed: int = 0


@dataclass
class Played:
    """What a number of episodes took."""

    searches: int = 0
    clicks: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    @property
    def original(self) -> float:
        """Seconds the original would have taken."""
        return self.searches * ORIGINAL_SEARCH + self.clicks * ORIGINAL_CLICK


def script(env: WebShopEnv, task: Task, rng: random.Random) -> list[str]:
    """A shopper's actions: the demonstrator's, with random clicks and invalid actions in between."""
    _, info = env.reset(options={"task": task})
    guide, actions = Demonstrator(env), []
    for _ in range(15):
        advice = guide.advise()
        if advice is None:
            break
        action = advice.action
        chance = rng.random()
        if chance < 0.1:
            action = rng.choice(INVALID)
        elif chance < 0.3 and info["candidates"][0].startswith("click"):
            action = rng.choice([c for c in info["candidates"] if c != "click[buy now]"])
        actions.append(action)
        *_, info = env.step(action)
    return actions


def play(env: WebShopEnv, scripts: list[tuple[Task, list[str]]]) -> Played:
    """Play the scripts; only `reset` and `step` are timed."""
    played = Played()
    for task, actions in scripts:
        began = time.process_time()
        env.reset(options={"task": task})
        played.seconds += time.process_time() - began
        for action in actions:
            before = time.process_time()
            env.step(action)
            took = time.process_time() - before
            played.seconds += took
            played.slowest = max(played.slowest, took)
            played.searches += action.startswith("search")
            played.clicks += not action.startswith("search")
    return played


def multiplied(base: Catalogue, count: int, seed: int) -> Iterator[Product]:
    """`count` products: the base shop's over and over, copies under new codes and with another product's description."""
    rng = random.Random(seed)
    originals = list(base)
    for number in range(count):
        product = originals[number % len(originals)]
        if number >= len(originals):
            other = rng.choice(originals)
            bullets = (
                f"{rng.choice(product.bullets or ('',))} {rng.choice(other.bullets or ('',))}",
                *product.bullets[1:],
            )
            code = f"C{number:09d}"
            product = replace(
                product, asin=code, title=f"{product.title} {number}", description=other.description, bullets=bullets
            )
        yield product


def measure_shop(base: Catalogue, count: int, queries: list[str], seed: int) -> dict[str, float]:
    """Build and search a shop of `count` products."""
    with tempfile.TemporaryDirectory(prefix="webshop-") as name:
        folder = Path(name)
        began = time.perf_counter()
        build(folder, multiplied(base, count, seed), {"name": "multiplied", "files": []})
        built = time.perf_counter() - began
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        texts = (folder / "products.bin").stat().st_size / 2**20
        before = memory()["anonymous"]
        index, times = Index(folder), []
        for query in queries:
            start = time.perf_counter()
            index.scored(query)
            times.append(time.perf_counter() - start)
        times.sort()
        return {
            "products": count,
            "build_s": round(built, 1),
            "index_mb": round(size - texts, 1),
            "texts_mb": round(texts, 1),
            "private_mb": round(memory()["anonymous"] - before, 1),
            "query_ms": round(sum(times) / len(times) * 1e3, 3),
            "query_p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 3),
        }


def memory() -> dict[str, float]:
    """This process's memory in MB: all of it that is resident, and the part that is its own (not mapped from files)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux: the most that was ever resident
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {"resident": peak, "anonymous": peak}
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return {name: int(found[key].split()[0]) / 1024 for name, key in (("resident", "VmRSS"), ("anonymous", "RssAnon"))}


def choose_data(wanted: str | None) -> str:
    """The data folder to measure with."""
    if wanted:
        return wanted
    for folder in (os.environ.get("WEBSHOP_DATA"), NEIGHBOUR):
        if folder and Path(folder).is_dir():
            return str(folder)
    return GENERATED


def main(args: Args) -> None:
    """Measure, print the tables, and one line of JSON."""
    console, rng = Console(), random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="webshop-cache-") as cache:
        data = choose_data(args.data)
        began = time.perf_counter()
        env = WebShopEnv(data, split="product_disjoint", products=1000, cache=cache)
        opened = time.perf_counter() - began
        tasks = env.panel("train").tasks
        scripts = [(task, script(env, task, rng)) for task in rng.choices(tasks, k=args.episodes)]
        play(env, scripts)  # once untimed, to fill the bounded caches; no search is answered from a cache below
        env.catalogue.index.search.cache_clear()
        before, threads = memory()["resident"], threading.active_count()
        played = play(env, scripts)
        growth, more = memory()["resident"] - before, threading.active_count() - threads
        steps = played.searches + played.clicks
        ratio = played.original / played.seconds
        results = {
            "data": "generated" if data == GENERATED else "files",
            "products": len(env.catalogue),
            "open_s": round(opened, 2),
            "episodes": args.episodes,
            "steps": steps,
            "step_ms": round(played.seconds / steps * 1e3, 4),
            "slowest_step_ms": round(played.slowest * 1e3, 2),
            "steps_per_s": round(steps / played.seconds),
            "original_step_ms": round(played.original / steps * 1e3, 1),
            "ratio": round(ratio, 1),
            "rss_growth_mb": round(growth, 2),
            "threads_growth": more,
        }
        _print(console, "Engine", [{"figure": name, "value": value} for name, value in results.items()])
        queries = [
            env.catalogue.goals[n].instruction.lower()
            for n in rng.choices(range(len(env.catalogue.goals)), k=args.queries)
        ]
        shops = [measure_shop(env.catalogue, count, queries, args.seed) for count in args.sizes]
    if shops:
        _print(console, "Search by size of the shop", shops)
    print(json.dumps(results | {"shops": shops}))


def _print(console: Console, title: str, rows: list[dict]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, (int, float)) else str(value) for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except UserError as error:
        raise SystemExit(f"webshop_engine: {error}") from None
