"""A Ray session and one piece of work in it: what the command line calls."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import ray

from actors import placement
from actors.coordinator import Coordinator, Policy
from actors.threads import run_until_stopped
from leap_ray.config import DomainConfig, RunConfig
from leap_ray.errors import UserError
from leap_ray.evaluation import summarize
from leap_ray.gpus import describe
from leap_ray.journal import RunDirectory
from leap_ray.output import CapturedOutput
from leap_ray.progress import Board
from leap_ray.serving import BASE
from leap_ray.tasks import Panel
from leap_ray.teachers.keys import withheld

# One machine runs every actor, most of them waiting for others: it offers more CPUs than it has, or they would not fit.
LOCAL_CPUS = 8


@contextmanager
def ray_session(output: CapturedOutput) -> Iterator[str]:
    """Connect to the cluster that RAY_ADDRESS names (set inside `ray job submit`), or start Ray on this machine.

    A cluster that merely runs on this machine is left alone: only RAY_ADDRESS chooses one. Yields what was chosen, in words.
    """
    address = os.environ.get("RAY_ADDRESS", "").removeprefix("local")
    if address.startswith("ray://"):
        raise UserError(f"RAY_ADDRESS={address} is Ray Client, which runs do not support: use `ray job submit`")
    local: dict[str, Any] = {} if address else {"num_cpus": max(LOCAL_CPUS, os.cpu_count() or 1)}
    where = f"the cluster at {address} (RAY_ADDRESS)" if address else "this machine"
    try:
        _knock(address)
        with withheld(os.environ):
            context: Any = ray.init(
                address=address or "local", log_to_driver=True, logging_level=logging.WARNING, **local
            )
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        remedy = "; check RAY_ADDRESS, or unset it to start Ray here" if address else ""
        raise UserError(f"Ray could not be reached or started on {where}: {_first_line(error)}{remedy}") from error
    _link_logs(output, context.address_info["session_dir"])
    _configure_data(output.verbose)
    url = f" · dashboard http://{context.dashboard_url}" if context.dashboard_url else ""
    where = f"the cluster at {context.address_info['gcs_address']}" if address else where
    try:
        yield f"Ray on {where}{url}"
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _configure_data(verbose: bool) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.raise_original_map_exception = True  # a UserError of a task stays one
    for name in ("ray.data", "ray.train"):  # their own lines about every small data set would bury the others
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)
    context.execution_options.preserve_order = True  # the same records give the same examples in the same order


def _link_logs(output: CapturedOutput, session: str) -> None:
    """`logs/ray` leads to what every process of Ray has written on this node."""
    if output.folder:
        link = output.folder / "ray"
        with suppress(OSError):  # a folder without symbolic links does without
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.join(session, "logs"))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def run(config: RunConfig, directory: RunDirectory, output: CapturedOutput) -> None:
    """A whole run, or what is left of it."""

    async def work(config: RunConfig, board: Board) -> None:
        async with Coordinator(config, directory, board) as coordinator:
            await coordinator.run_all()

    with ray_session(output) as where, Board(output.console) as board:
        board.say(f"run {directory.path} · configuration {config.hash} · {where}")
        placed = placement.resolved(config)
        board.say(describe(placed.student, placed.learner, config.student))
        run_until_stopped(work(placed, board), output.descriptor)


def evaluate(
    config: RunConfig,
    directory: RunDirectory,
    domain: DomainConfig,
    panel: Panel,
    policy: str | None,
    seeds: Sequence[int],
    output: CapturedOutput,
) -> dict[str, Any]:
    """Play a panel with one policy of the run. Returns the summary, also kept below `evaluations/`."""

    async def work(config: RunConfig, board: Board) -> dict[str, Any]:
        async with Coordinator(config, directory, board, teaching=False) as coordinator:
            chosen = find_policy(coordinator, policy)
            await coordinator.deploy(chosen)
            plan = coordinator.plan(domain, panel, tuple(seeds))
            stage = f"evaluations/{chosen.name}-{panel.hash}-{'.'.join(map(str, seeds))}"
            episodes = await coordinator.play_panel(plan, chosen, stage, f"{chosen.name} on {panel.name}")
            result = {"policy": chosen.name, "panel": panel.hash, **asdict(summarize(episodes))}
            result["evaluated_with"] = coordinator.decided_by(domain, plan)
            return directory.finish(stage, result)

    with ray_session(output), Board(output.console) as board:
        placed = placement.resolved(config, training=False)
        return run_until_stopped(work(placed, board), output.descriptor)


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
