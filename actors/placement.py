"""Time limits on what a cluster is asked for, with a report of what was asked and what there is instead of a silent wait.

`place` waits until actors run, `wait` until calls end. Both raise one UserError that says what to change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from leap_ray.errors import UserError

PLACE_SECONDS = 120.0  # for an actor's process to start; on a cluster that grows, more


@dataclass(frozen=True)
class Ask:
    """What one actor needs of a node."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gib: float = 0.0

    def options(self) -> dict[str, Any]:
        """As keyword arguments of `Actor.options`."""
        memory = {"memory": int(self.memory_gib * 2**30)} if self.memory_gib else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}

    def __str__(self) -> str:
        memory = f" + {self.memory_gib:g} GiB" if self.memory_gib else ""
        return f"{self.cpus:g} CPU + {self.gpus:g} GPU{memory}"


def place(actors: Mapping[str, ActorHandle], asks: Mapping[str, Ask], timeout: float = PLACE_SECONDS) -> None:
    """Wait until every actor's process runs. Raises UserError naming those that found no room, or whose start failed."""
    refs: dict[Any, str] = {handle.__ray_ready__.remote(): name for name, handle in actors.items()}
    done, missing = ray.wait(list(refs), num_returns=len(refs), timeout=timeout)
    for ref in done:
        _get(ref, refs[ref])
    if missing:
        raise UserError(report({refs[ref]: asks.get(refs[ref], Ask()) for ref in missing}, timeout))


def report(missing: Mapping[str, Ask], timeout: float) -> str:
    """What was asked for and what the cluster has, in one paragraph."""
    asked = "; ".join(f"{name} needs {ask}" for name, ask in missing.items())
    return (
        f"no room on the cluster after {timeout:.0f} s: {asked}. The cluster: {describe_cluster()}. "
        "Ask for less (fewer replicas, actors or workers), or add nodes; on a cluster that grows, allow more time."
    )


def describe_cluster() -> str:
    """Each node's resources, and what is free of all, in words."""
    free = ray.available_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    each = ", ".join(f"{n.get('CPU', 0):g} CPU + {n.get('GPU', 0):g} GPU" for n in nodes)
    return f"{len(nodes)} node(s) with {each}; free now {free.get('CPU', 0):g} CPU + {free.get('GPU', 0):g} GPU"


def wait(calls: Mapping[str, ray.ObjectRef], timeout: float) -> dict[str, Any]:
    """The results of calls by name. Raises UserError naming those not ended in time, or a call's own UserError."""
    deadline = time.monotonic() + timeout
    results = {}
    for name, ref in calls.items():
        results[name] = _get(ref, name, max(0.0, deadline - time.monotonic()), timeout)
    return results


async def soon(ref: Any, what: str, seconds: float) -> Any:
    """`await ref` within a time limit. Raises UserError naming `what`, or the call's own UserError."""
    try:
        return await asyncio.wait_for(ref, seconds)
    except TimeoutError:
        raise UserError(f"{what} did not answer within {seconds:.0f} s") from None
    except RayTaskError as error:
        raise unwrap(error) from error


def unwrap(error: Exception) -> Exception:
    """The error as it was raised in the actor, if it is a user's to mend: without Ray's traceback around it."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(error, RayTaskError) and isinstance(cause, UserError) else error


def _get(ref: ray.ObjectRef, name: str, timeout: float | None = None, allowed: float = 0.0) -> Any:
    try:
        return ray.get(ref, timeout=timeout)
    except GetTimeoutError:
        raise UserError(f"{name} did not answer within {allowed:.0f} s; the cluster: {describe_cluster()}") from None
    except RayActorError as error:
        raise UserError(f"{name} died: {_reason(error)}; its log is in the Ray session's folder") from error
    except RayTaskError as error:
        raise unwrap(error) from error


def _reason(error: Exception) -> str:
    """One line of what Ray says: the error itself where the actor could not be made, else how it ended."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if "creation task" in lines[0] else lines[0]
