"""Which share of the cluster's GPUs a student server and a learner worker get: what "auto" comes to, and what cannot work.

vLLM and PyTorch are each built for CPUs or for GPUs: the build decides whether they use GPUs, the cluster how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata

from leap_ray.config import LearnerConfig, StudentConfig
from leap_ray.errors import UserError

SERVER_SHARE = 0.6  # of a GPU shared with a worker: above a half, so that Ray never puts two servers on one GPU
FOR_CPU = "install for CPUs (bash cluster/setup.sh)"
FOR_GPU = "install for GPUs (bash cluster/setup.sh gpu)"


@dataclass(frozen=True)
class Installation:
    """Whether vLLM and PyTorch compute on GPUs in this environment."""

    vllm: bool
    torch: bool

    @classmethod
    def here(cls) -> Installation:
        import torch

        return cls(vllm_uses_gpus(), bool(torch.version.cuda or torch.version.hip))


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a cluster: of all nodes, and of the node with the most. Infinite where it grows as asked."""

    total: float = 0
    largest: float = 0


def vllm_uses_gpus() -> bool:
    """Whether the installed vLLM is a GPU build: by its distribution's name and version, as vLLM itself tells."""
    try:
        return "cpu" not in metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return False


def resolve(
    student: StudentConfig, learner: LearnerConfig, gpus: Gpus, installed: Installation
) -> tuple[StudentConfig, LearnerConfig]:
    """Both with numbers for "auto". Raises UserError for what cannot work on these GPUs.

    In this order: GPUs of their own for servers and workers; GPUs shared by a server and a worker each; fewer servers, which
    changes the speed and not the result. Numbers that were given stay.
    """
    check_server(student, installed.vllm)
    check_worker(learner, installed.torch)
    if installed.vllm and not gpus.total:
        raise UserError(
            f"the installed vLLM computes on GPUs and the Ray cluster has none: add a node with GPUs, or {FOR_CPU}"
        )
    replica = student.gpus_per_replica if installed.vllm else 0.0
    worker = learner.gpus_per_worker if installed.torch and gpus.total else _number(learner.gpus_per_worker)
    for replicas in range(student.replicas, 0 if replica == "auto" else student.replicas - 1, -1):
        for shares in _shares(replica, worker, student.tensor_parallel):
            if _fits(replicas, shares[0], learner.workers, shares[1], gpus):
                served = replace(student, replicas=replicas, gpus_per_replica=shares[0])
                return served, replace(learner, gpus_per_worker=shares[1])
    raise UserError(
        f"the cluster's {gpus.total:g} GPUs (the largest node has {gpus.largest:g}) are too few for student.replicas: "
        f"{student.replicas} with student.gpus_per_replica: {replica} and student.tensor_parallel: {student.tensor_parallel}, "
        f"and learner.workers: {learner.workers} with learner.gpus_per_worker: {worker}: lower replicas, workers or "
        f"tensor_parallel, set both shares to auto (one GPU is then shared as {SERVER_SHARE:g} and {1 - SERVER_SHARE:g}; "
        "several, if there is a replica for each), or add nodes"
    )


def resolve_server(config: StudentConfig, gpus: Gpus, vllm: bool) -> StudentConfig:
    """`resolve` for servers without a learner."""
    return resolve(config, LearnerConfig(gpus_per_worker=0), gpus, Installation(vllm, torch=vllm))[0]


def resolve_worker(config: LearnerConfig, gpus: Gpus, torch: bool) -> LearnerConfig:
    """`resolve` for a learner without servers."""
    check_worker(config, torch)
    wanted = config.gpus_per_worker
    return replace(config, gpus_per_worker=float(torch and gpus.total > 0) if wanted == "auto" else wanted)


def check_server(config: StudentConfig, vllm: bool) -> None:
    """Refuse settings for another build of vLLM than the installed one (`vllm`: it uses GPUs). Raises UserError."""
    share = config.gpus_per_replica
    if vllm and share == 0:
        raise UserError(
            "student.gpus_per_replica: 0 is for CPUs and the installed vLLM computes on GPUs: give auto, "
            f"{config.tensor_parallel}, or a share below 1, or {FOR_CPU}"
        )
    if not vllm and share not in ("auto", 0):
        raise UserError(
            f"student.gpus_per_replica: {share} is for GPUs and the installed vLLM computes on CPUs: give auto or 0, or {FOR_GPU}"
        )
    if not vllm and config.tensor_parallel > 1:
        raise UserError(
            f"student.tensor_parallel: {config.tensor_parallel} is for GPUs and the installed vLLM computes on CPUs: give 1, or "
            f"{FOR_GPU}"
        )


def check_worker(config: LearnerConfig, torch: bool) -> None:
    """Refuse GPUs for a PyTorch that has none (`torch`: it uses GPUs). Raises UserError."""
    if not torch and config.gpus_per_worker not in ("auto", 0):
        raise UserError(
            f"learner.gpus_per_worker: {config.gpus_per_worker} is for GPUs and the installed PyTorch computes on CPUs: give "
            f"auto or 0, or {FOR_GPU}"
        )


def describe(student: StudentConfig, learner: LearnerConfig, asked: StudentConfig) -> str:
    """What servers and workers run on, in words; `asked` is the student as configured."""
    each = (
        ("student server", student.replicas, student.gpus_per_replica),
        ("learner worker", learner.workers, learner.gpus_per_worker),
    )
    text = ", ".join(f"{count} {what}(s) on {f'{share:g} GPU each' if share else 'CPU'}" for what, count, share in each)
    fewer = f"; student.replicas: {asked.replicas} would take more GPUs than there are"
    return text + (fewer if student.replicas < asked.replicas else "")


def _number(share: float | str) -> float:
    return 0.0 if share == "auto" else float(share)


def _shares(replica: float | str, worker: float | str, spread: int) -> Iterator[tuple[float, float]]:
    """Shares of a server and of a worker, the best first; more than one where something is "auto"."""
    yield (spread if replica == "auto" else float(replica)), (1.0 if worker == "auto" else float(worker))
    if spread > 1 or "auto" not in (replica, worker):
        return
    if replica == worker == "auto":
        yield SERVER_SHARE, _rest(SERVER_SHARE)
    elif replica == "auto" and 0 < float(worker) < 1:
        yield _rest(float(worker)), float(worker)
    elif worker == "auto" and 0 < float(replica) < 1:
        yield float(replica), _rest(float(replica))


def _rest(share: float) -> float:
    return round(1 - share, 4)  # Ray counts in ten-thousandths


def _fits(replicas: int, replica: float, workers: int, worker: float, gpus: Gpus) -> bool:
    """Whether every server and every worker finds its share, no two servers and no two workers on one GPU."""
    if replica > gpus.largest or (0 < replica <= 0.5 and replicas > 1):
        return False
    pairs = workers > 1 and 0 < worker <= 0.5  # two workers would fit on one GPU without a server
    if 0 < replica < 1 and 0 < worker <= _rest(replica):
        beside = replicas == gpus.total and replica + 2 * worker > 1
        return max(replicas, workers) <= gpus.total and (beside or not pairs)
    return not pairs and replicas * math.ceil(replica) + workers * math.ceil(worker) <= gpus.total
