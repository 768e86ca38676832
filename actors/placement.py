"""What a run asks of a cluster, and time limits on it: a report of what was asked and what there is instead of a silent wait.

`fit_cluster` compares a whole run with the cluster before anything starts, `place` waits until actors run, `wait` until calls
end. Each raises one UserError that says what to change.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.state import state
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from leap_ray.config import LearnerConfig, RunConfig, StudentConfig
from leap_ray.errors import UserError
from leap_ray.gpus import Gpus, Installation, resolve

# Since 2.50 Ray leaves CUDA_VISIBLE_DEVICES as it is for an actor that asked for no GPU, which then sees all of them.
HIDE_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
NODE_GROUP = "ray.io/node-group"  # label of a node that an autoscaler or an operator started
PLACE_SECONDS = 120.0  # for an actor's process to start; on a cluster that grows, more


@dataclass(frozen=True)
class Ask:
    """What one actor needs of a node, or what a node has."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gib: float = 0.0

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> Ask:
        """All that a node has (of Ray's `Resources`)."""
        return cls(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0) / 2**30)

    def fits(self, node: Ask) -> bool:
        """Whether an empty node has room for it."""
        return self.cpus <= node.cpus and self.gpus <= node.gpus and self.memory_gib <= node.memory_gib

    def options(self) -> dict[str, Any]:
        """As keyword arguments of `Actor.options`. Without a GPU asked for, the actor sees none."""
        memory = {"memory": int(self.memory_gib * 2**30)} if self.memory_gib else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "runtime_env": {"env_vars": HIDE_GPUS}, **memory}

    def __str__(self) -> str:
        memory = f" + {self.memory_gib:g} GiB" if self.memory_gib else ""
        return f"{self.cpus:g} CPU + {self.gpus:g} GPU{memory}"


ENVIRONMENT = Ask(cpus=0.1)  # an environment actor: its episodes wait for the student most of the time
DATA_TASK = Ask(cpus=0.25)  # a task that packs or reads rows: it must find room beside workers that hold the CPUs
PROBE = Ask(cpus=0.1)


def server_ask(config: StudentConfig) -> Ask:
    """What one student server needs, its "auto" resolved."""
    return Ask(cpus=config.cpus_per_replica, gpus=float(config.gpus_per_replica))


def worker_ask(config: LearnerConfig) -> Ask:
    """What one learner worker needs, its "auto" resolved."""
    return Ask(cpus=config.cpus_per_worker, gpus=float(config.gpus_per_worker))


def teacher_ask(kind: str) -> Ask:
    """What a teacher needs: the symbolic one computes, the others wait for answers."""
    return Ask(cpus=1) if kind == "symbolic" else Ask()


def resolved(config: RunConfig, training: bool = True) -> RunConfig:
    """The configuration with numbers for "auto". Raises UserError if the cluster has no room for all of it at once.

    `training` False: for a run that only plays, without a learner.
    """
    learner = config.learner if training else replace(config.learner, gpus_per_worker=0.0)
    student, learner = resolve(config.student, learner, gpus(), Installation.here())
    fit_cluster(
        {
            "student server": (student.replicas, server_ask(student)),
            "learner worker": (learner.workers if training else 0, worker_ask(learner)),
            "environment actor": (len(config.domains) * config.rollout.actors, ENVIRONMENT),
            "teacher": (1, teacher_ask(config.teacher.kind)),
            "data task": (int(training), DATA_TASK),
        }
    )
    return replace(config, student=student, learner=learner) if training else replace(config, student=student)


def gpus() -> Gpus:
    """The cluster's GPUs, those that an autoscaler may still add included as far as they are known."""
    each = [node.get("GPU", 0.0) for node in _nodes()] or [0.0]
    if limits := _limits():
        return Gpus(max(sum(each), limits.get("GPU", 0)), math.inf)
    if grows() and not any(each):
        return Gpus(math.inf, math.inf)
    return Gpus(sum(each), max(each))


def grows() -> bool:
    """Whether an autoscaler may add nodes: it has told Ray how many, or has started nodes that are there."""
    labels = [node.get("Labels") or {} for node in ray.nodes() if node["Alive"]]
    return bool(_limits()) or any(NODE_GROUP in each for each in labels)


def _limits() -> dict[str, float]:
    """The most that an autoscaler would make of the cluster; empty where none has told."""
    limits: Any = state.get_max_resources_from_cluster_config()
    return limits or {}


def fit_cluster(asks: Mapping[str, tuple[int, Ask]]) -> None:
    """Compare what is asked for (how many, of what) with the nodes: the sum with all, each with one. UserError if too much."""
    asked = {name: (count, ask) for name, (count, ask) in asks.items() if count}
    short = _shortages(asked, [Ask.of(node) for node in _nodes()])
    if short and not grows():
        each = "; ".join(f"{count} {name}(s) of {ask}" for name, (count, ask) in asked.items())
        raise UserError(f"no room on the cluster: {'; '.join(short)}. Asked for: {each}. {_remedy()}")


def _shortages(asked: Mapping[str, tuple[int, Ask]], nodes: list[Ask]) -> list[str]:
    short = []
    for unit, word in (("cpus", "CPU"), ("gpus", "GPU"), ("memory_gib", "GiB of memory")):
        total = sum(count * getattr(ask, unit) for count, ask in asked.values())
        there = sum(getattr(node, unit) for node in nodes)
        if round(total - there, 4) > 0:
            short.append(f"{total:g} {word} are needed together, {there:g} are there")
    return short or [
        f"no node has {ask} for one {name}" for name, (_, ask) in asked.items() if not any(ask.fits(n) for n in nodes)
    ]


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
        f"no room on the cluster after {timeout:.0f} s: {asked}. {_remedy()}; on a cluster that grows, allow more time"
    )


def _remedy() -> str:
    return (
        f"The cluster: {describe_cluster()}. Ask for less (student.replicas, learner.workers, rollout.actors, and the CPUs and "
        "GPUs of each), or add nodes"
    )


def describe_cluster() -> str:
    """Each node's resources, and what is free of all, in words."""
    free = ray.available_resources()
    nodes = _nodes()
    each = ", ".join(f"{n.get('CPU', 0):g} CPU + {n.get('GPU', 0):g} GPU" for n in nodes)
    return f"{len(nodes)} node(s) with {each}; free now {free.get('CPU', 0):g} CPU + {free.get('GPU', 0):g} GPU"


def _nodes() -> list[dict[str, float]]:
    """Each living node's resources."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


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
    except RayTaskError as error:  # first: one that the call itself ended with may be a TimeoutError, too
        raise unwrap(error) from error
    except TimeoutError:
        raise UserError(f"{what} did not answer within {seconds:.0f} s") from None


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
