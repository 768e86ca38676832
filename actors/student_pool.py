"""The replicas of the student server as one thing to talk to: starting them, requests, changes of weights.

A pool is a plain object that travels to other actors and satisfies `leap_ray.policy.Completer`. An episode stays on one
replica, where its prompts share a cached prefix; every replica gets every adapter, and is probed. A replica that died for good
(Ray restarts it a few times first) is left out of every call from then on: see `_ask`.
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

from actors.placement import gpus, place, server_ask, soon, wait
from actors.student import CONCURRENCY, StudentActor
from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.gpus import resolve_server, vllm_uses_gpus
from leap_ray.learning.model import check_model
from leap_ray.serving import BASE, TOLERANCE, Load, Probe, fingerprint, folder_gib, replica_of
from leap_ray.types import Completion, Sampling

CONTROL_SECONDS = 300.0  # for loading, probing and the like, where a server runs; it may have to start again first
SECONDS_PER_GIB = 30.0  # more for weights to load: a slow shared disk, read by several replicas at once
SHUTDOWN_SECONDS = 20.0

logger = logging.getLogger(__name__)


class StudentPool:
    """Handles of the replicas, by number. `start` makes one; the object can be sent to any actor."""

    def __init__(self, replicas: Sequence[ActorHandle], config: StudentConfig) -> None:
        self.replicas = list(replicas)
        self.request_timeout = config.request_timeout
        self.control_timeout = max(CONTROL_SECONDS, config.start_timeout)
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
        config = resolve_server(config, gpus(), vllm_uses_gpus())
        ask = server_ask(config)
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
        args = (prompt_ids, sampling, seed, policy, request_id)
        return await self._on_one(request_id, "complete", *args)

    async def score(
        self, prompt_ids: list[int], candidates: Sequence[Sequence[int]], policy: str, key: str
    ) -> list[list[float]]:
        """Log-probabilities in nats of continuations of one prompt; `key` is the episode (or request) it belongs to."""
        return await self._on_one(key, "score", prompt_ids, candidates, policy)

    async def logprobs(self, prompt_ids: list[int], completion_ids: list[int], policy: str, key: str) -> list[float]:
        """Log-probability in nats of each token of one continuation."""
        return (await self.score(prompt_ids, [completion_ids], policy, key))[0]

    async def load(self, name: str, path: str | Path, method: Literal["lora", "full"] = "lora") -> None:
        """Load trained weights on every replica under a new name. Raises UserError if one cannot, or if the name is in use."""
        content = await asyncio.to_thread(fingerprint, path)  # once, not in each replica
        seconds = self.control_timeout + SECONDS_PER_GIB * folder_gib(path)
        call = "load_adapter" if method == "lora" else "load_weights"
        await self._on_all(call, name, str(path), content, seconds=seconds)

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
        probes: dict[int, Probe] = await self._on_all("probe", name, prompts, completions, expected, allowed)
        for i, probe in probes.items():
            doubtful = probe.passed and probe.moved is not None and not probe.conclusive
            note = "; the weights are too close to the base model's for this to prove much" if doubtful else ""
            logger.log(logging.WARNING if doubtful else logging.INFO, "student-%d: %s%s", i, probe, note)
        if failed := [f"student-{i}: {probe}" for i, probe in probes.items() if not probe.passed]:
            raise UserError("the student server does not run the weights just trained: " + "; ".join(failed))
        return max(probe.worst for probe in probes.values())

    async def stats(self) -> list[Load]:
        """Every living replica's load."""
        return list((await self._on_all("stats")).values())

    async def sleep(self) -> None:
        """Free GPU memory for the learner between stages."""
        await self._on_all("sleep")

    async def wake(self) -> None:
        """Undo `sleep`."""
        await self._on_all("wake")

    def shutdown(self) -> None:
        """End the servers and their processes."""
        calls = {f"student-{i}": self.replicas[i].shutdown.remote() for i in self._alive()}
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

    async def _on_one(self, request: str, method: str, *args: Any) -> Any:
        """Call the replica that an episode (`request` before its last "/") stays on, or, if that one died, one that lives."""
        episode = request.rpartition("/")[0] or request
        while True:
            alive = self._alive()
            place = replica_of(episode, len(self.replicas))
            number = place if place in alive else alive[replica_of(episode, len(alive))]
            answered, answer = await self._ask(number, method, args, self.request_timeout, f" for {request}")
            if answered:
                return answer

    async def _on_all(self, method: str, *args: Any, seconds: float | None = None) -> dict[int, Any]:
        """Call every living replica. Returns their answers by number; raises UserError if none is left."""
        limit = seconds or self.control_timeout
        alive = self._alive()
        answers = await asyncio.gather(*(self._ask(number, method, args, limit) for number in alive))
        self._alive()
        return {number: answer for number, (answered, answer) in zip(alive, answers) if answered}

    async def _ask(self, number: int, method: str, args: Any, seconds: float, what: str = "") -> tuple[bool, Any]:
        """Whether a replica lives, and its answer. The one place where a replica is found dead, and remembered as such."""
        try:
            call = getattr(self.replicas[number], method).remote(*args)
            return True, await soon(call, f"student-{number}, asked to {method}{what},", seconds)
        except ActorDiedError as error:
            if number not in self._dead:
                logger.warning("student-%d died for good; its episodes go on elsewhere: %s", number, error)
                self._dead.add(number)
            return False, None

    def _alive(self) -> list[int]:
        """Numbers of the replicas that are not known to have died. Raises UserError if there is none."""
        alive = [i for i in range(len(self.replicas)) if i not in self._dead]
        if not alive:
            raise UserError(
                "every student server has died, restarts included; their logs are in the Ray session's folder"
            )
        return alive
