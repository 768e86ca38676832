"""The replicas of the student server as one thing to talk to: starting them, requests, changes of weights.

A pool is a plain object that travels to other actors and satisfies `leap_ray.policy.Completer`. An episode stays on one
replica, where its prompts share a cached prefix; every replica gets every adapter, and is probed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from actors.placement import Ask, place, soon, wait
from actors.student import CONCURRENCY, StudentActor
from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.learning.model import check_model
from leap_ray.serving import BASE, TOLERANCE, Load, Probe, replica_of
from leap_ray.types import Completion, Sampling

CONTROL_SECONDS = 300.0  # for loading, probing and the like
SHUTDOWN_SECONDS = 20.0

logger = logging.getLogger(__name__)


class StudentPool:
    """Handles of the replicas, by number. `start` makes one; the object can be sent to any actor."""

    def __init__(self, replicas: Sequence[ActorHandle], config: StudentConfig) -> None:
        self.replicas = list(replicas)
        self.request_timeout = config.request_timeout
        self.dtype = config.dtype
        self._dead: set[int] = set()

    @classmethod
    def start(
        cls, config: StudentConfig, *, lora_rank: int, registry: str | Path | None = None, max_restarts: int = 3
    ) -> StudentPool:
        """Start the replicas and wait until they serve. `lora_rank` 0: only full weights will be loaded.

        Raises UserError if the student does not exist, if there is no room for it on the cluster (naming what was asked and
        what there is), or if an engine does not start.
        """
        check_model(config.model)
        gpus = max(config.gpus_per_replica, config.tensor_parallel) if config.gpus_per_replica else 0
        ask = Ask(cpus=config.cpus_per_replica, gpus=gpus)
        server: Any = ray.remote(StudentActor)
        names = [f"student-{i}" for i in range(config.replicas)]
        replicas = [
            server.options(
                max_concurrency=CONCURRENCY,
                name=name,
                max_restarts=max_restarts,
                max_task_retries=max_restarts,
                **ask.options(),
            ).remote(config, lora_rank, registry and str(registry), i)
            for i, name in enumerate(names)
        ]
        pool = cls(replicas, config)
        try:
            place(dict(zip(names, replicas)), dict.fromkeys(names, ask), config.start_timeout)
            wait({name: r.ready.remote() for name, r in zip(names, replicas)}, config.start_timeout)
        except UserError:
            pool.kill()
            raise
        return pool

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str, request_id: str
    ) -> Completion:
        """Continue a prompt on the replica of its episode: the part of `request_id` before its last "/"."""
        replica = self._replica(request_id)
        ref = replica.complete.remote(prompt_ids, sampling, seed, policy, request_id)
        try:
            return await soon(ref, f"the student server (request {request_id})", self.request_timeout)
        except ActorDiedError as error:
            self._mark_dead(replica, error)
            return await self.complete(prompt_ids, sampling, seed, policy, request_id)

    async def score(
        self, prompt_ids: list[int], candidates: Sequence[Sequence[int]], policy: str, key: str
    ) -> list[list[float]]:
        """Log-probabilities in nats of continuations of one prompt; `key` is the episode (or request) it belongs to."""
        ref = self._replica(key).score.remote(prompt_ids, candidates, policy)
        return await soon(ref, f"the student server (scores for {key})", self.request_timeout)

    async def logprobs(self, prompt_ids: list[int], completion_ids: list[int], policy: str, key: str) -> list[float]:
        """Log-probability in nats of each token of one continuation."""
        return (await self.score(prompt_ids, [completion_ids], policy, key))[0]

    async def load(self, name: str, path: str | Path, method: Literal["lora", "full"] = "lora") -> None:
        """Load trained weights on every replica under a new name. Raises UserError if one cannot, or if the name is in use."""
        await self._on_all("load_adapter" if method == "lora" else "load_weights", name, str(path))

    async def unload(self, name: str) -> None:
        """Forget an adapter on every replica."""
        await self._on_all("unload_adapter", name)

    async def restore_base(self) -> None:
        """Put the untuned student's full weights back on every replica."""
        await self._on_all("load_weights", BASE)

    async def probe(
        self,
        name: str,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        expected: Sequence[Sequence[float]],
        tolerance: float | None = None,
    ) -> float:
        """Have every replica prove that it runs the weights just trained: see `StudentActor.probe`.

        Returns the largest difference of one token, in nats. `tolerance` bounds the mean difference; None: what the
        server's precision warrants. Raises UserError naming the replicas that failed.
        """
        allowed = TOLERANCE[self.dtype] if tolerance is None else tolerance
        probes: list[Probe] = await self._on_all("probe", name, prompts, completions, expected, allowed)
        for i, probe in enumerate(probes):
            doubtful = probe.passed and probe.moved is not None and not probe.conclusive
            note = "; the weights are too close to the base model's for this to prove much" if doubtful else ""
            logger.log(logging.WARNING if doubtful else logging.INFO, "student-%d: %s%s", i, probe, note)
        if failed := [f"student-{i}: {probe}" for i, probe in enumerate(probes) if not probe.passed]:
            raise UserError("the student server does not run the weights just trained: " + "; ".join(failed))
        return max(probe.worst for probe in probes)

    async def stats(self) -> list[Load]:
        """Every replica's load."""
        return await self._on_all("stats")

    async def sleep(self) -> None:
        """Free GPU memory for the learner between stages."""
        await self._on_all("sleep")

    async def wake(self) -> None:
        """Undo `sleep`."""
        await self._on_all("wake")

    def shutdown(self) -> None:
        """End the servers and their processes."""
        calls = {f"student-{i}": replica.shutdown.remote() for i, replica in enumerate(self.replicas)}
        try:
            wait(calls, SHUTDOWN_SECONDS)
        except UserError as error:
            logger.warning("ending the student servers by force: %s", error)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the actors at once."""
        for replica in self.replicas:
            ray.kill(replica)

    async def _on_all(self, method: str, *args: Any) -> list[Any]:
        calls = [getattr(replica, method).remote(*args) for replica in self.replicas]
        whats = (f"student-{i}, asked for {method}," for i in range(len(calls)))
        return list(await asyncio.gather(*(soon(c, w, CONTROL_SECONDS) for c, w in zip(calls, whats))))

    def _replica(self, request_id: str) -> ActorHandle:
        alive = [i for i in range(len(self.replicas)) if i not in self._dead]
        if not alive:
            raise UserError(
                "every student server has died, restarts included; their logs are in the Ray session's folder"
            )
        return self.replicas[alive[replica_of(request_id.rpartition("/")[0] or request_id, len(alive))]]

    def _mark_dead(self, replica: ActorHandle, error: Exception) -> None:
        number = self.replicas.index(replica)
        if number not in self._dead:
            logger.warning("student-%d died for good; its episodes go on elsewhere: %s", number, error)
            self._dead.add(number)
