"""A Ray session and one piece of work in it: what the command line calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray

from actors.coordinator import Coordinator, Policy
from leap_ray.config import DomainConfig, RunConfig
from leap_ray.errors import UserError
from leap_ray.evaluation import summarize
from leap_ray.journal import RunDirectory
from leap_ray.progress import Board
from leap_ray.serving import BASE
from leap_ray.tasks import Panel
from leap_ray.teachers.keys import withheld

# One machine runs every actor, most of them waiting for others: it offers more CPUs than it has, or they would not fit.
LOCAL_CPUS = 8


@contextmanager
def ray_session(verbose: bool) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names (set inside `ray job submit`), or start Ray on this machine."""
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": max(LOCAL_CPUS, os.cpu_count() or 1)}
    try:
        with withheld(os.environ):
            ray.init(address=address, log_to_driver=verbose, logging_level=logging.WARNING, **local)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        raise UserError(f"Ray could not be reached or started ({address or 'on this machine'}): {error}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    for name in ("ray.data", "ray.train"):  # their own lines about every small data set would bury ours
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    context.execution_options.preserve_order = True  # the same records give the same examples in the same order
    try:
        yield
    finally:
        ray.shutdown()


async def run(config: RunConfig, directory: RunDirectory) -> None:
    """A whole run, or what is left of it."""
    with Board() as board:
        url = _dashboard()
        board.say(f"run {directory.path} · configuration {config.hash}" + (f" · dashboard {url}" if url else ""))
        async with Coordinator(config, directory, board) as coordinator:
            await coordinator.run_all()


async def evaluate(
    config: RunConfig,
    directory: RunDirectory,
    domain: DomainConfig,
    panel: Panel,
    policy: str | None,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Play a panel with one policy of the run. Returns the summary, also kept below `evaluations/`."""
    with Board() as board:
        async with Coordinator(config, directory, board, teaching=False) as coordinator:
            chosen = find_policy(coordinator, policy)
            await coordinator.deploy(chosen)
            plan = coordinator.plan(domain, panel, tuple(seeds))
            stage = f"evaluations/{chosen.name}-{panel.hash}-{'.'.join(map(str, seeds))}"
            episodes = await coordinator.play_panel(plan, chosen, stage, f"{chosen.name} on {panel.name}")
            result = {"policy": chosen.name, "panel": panel.hash, **asdict(summarize(episodes))}
            return directory.finish(stage, result)


def find_policy(coordinator: Coordinator, wanted: str | None) -> Policy:
    """The policy of that name ("base", "iter-N", or a policy's own name); None: the last one trained."""
    trained = {}
    for iteration in range(coordinator.config.iterations):
        if coordinator.run.result(f"iter-{iteration}/train"):
            trained[f"iter-{iteration}"] = coordinator.policy(iteration)
    if wanted is None and trained:
        return list(trained.values())[-1]
    if wanted in (None, BASE):
        return Policy(BASE)
    for name, policy in trained.items():
        if wanted in (name, policy.name):
            return policy
    raise UserError(f"policy {wanted!r} is not in this run: it has {', '.join([BASE, *trained])}")


def _dashboard() -> str:
    url = getattr(ray._private.worker._global_node, "webui_url", "")
    return f"http://{url}" if url else ""
