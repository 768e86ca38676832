"""The student on the cluster: a vLLM engine in an actor, and the pool of its replicas that everyone else talks to.

Token ids in, token ids and log-probabilities out. Nothing here renders prompts or reads completions. A pool is a plain object
that travels to other actors and satisfies `leap_ray.policy.Completer`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from actors import engine
from actors.placement import Ask, place, soon, wait
from actors.tally import Tally
from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.learning.model import check_model, materialize
from leap_ray.serving import BASE, TOLERANCE, Load, Probe, Register, Weights, check_adapter, compare, replica_of
from leap_ray.types import Completion, Sampling

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

KEPT = 2048  # answered requests remembered, so that a repeated call gets the same answer at once
CONCURRENCY = 1024  # calls that one actor holds at once: far above what the engine decodes together
CONTROL_SECONDS = 300.0  # for loading, probing and the like
SHUTDOWN_SECONDS = 20.0

logger = logging.getLogger(__name__)


class StudentActor:
    """One replica of the student server.

    `max_rank` is the largest LoRA rank it will be given (0: full weights only). `register` is a folder that all replicas see;
    it keeps which weights carry which name, and a restarted replica finds there what it is asked for. The engine starts at
    `ready()`, or at the first request after a restart.
    """

    def __init__(
        self, config: StudentConfig, max_rank: int = 16, register: str | None = None, replica: int = 0
    ) -> None:
        self._config = config
        self._max_rank = max_rank
        self._register = Register(register)
        self._replica = replica
        self._engine: Any = None
        self._starting = asyncio.Lock()
        self._changing = asyncio.Lock()  # one change of weights at a time
        self._adapters: dict[str, LoRARequest] = {}
        self._unloaded: set[str] = set()
        self._weights: str = BASE  # the name of the full weights in the engine
        self._ids = itertools.count(1)  # of adapters: an id given twice would silently keep the first one's weights
        self._numbers = itertools.count()
        self._calls: OrderedDict[str, tuple[int, asyncio.Task[Completion]]] = OrderedDict()
        self._tally = Tally(replica, config.max_sequences)

    async def ready(self) -> float:
        """Start the engine if it is not running. Returns the seconds this took. Raises UserError if it cannot start."""
        began = time.perf_counter()
        await self._started()
        return time.perf_counter() - began

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str = BASE, request_id: str = ""
    ) -> Completion:
        """Continue a prompt. The completion ends with the end-of-turn token if its `finish` is "stop".

        Repeating a call with the same `request_id` gives the same answer: it joins the first, or finds it answered.
        Log-probabilities are of the model itself, before temperature. Raises UserError for a policy that is not loaded.
        """
        key = hash((tuple(prompt_ids), sampling, seed, policy))
        known = self._calls.get(request_id) if request_id else None
        if known and known[0] != key:
            raise ValueError(f"request {request_id!r} was made before with another prompt, sampling, seed or policy")
        task = known[1] if known else asyncio.create_task(self._complete(prompt_ids, sampling, seed, policy))
        if request_id and not known:
            self._remember(request_id, key, task)
        return await asyncio.shield(task)

    async def logprobs(self, prompt_ids: list[int], completion_ids: list[int], policy: str = BASE) -> list[float]:
        """Log-probability in nats of each token of a given completion."""
        return (await self.score(prompt_ids, [completion_ids], policy))[0]

    async def score(
        self, prompt_ids: list[int], candidates: Sequence[Sequence[int]], policy: str = BASE
    ) -> list[list[float]]:
        """Log-probabilities of several continuations of one prompt, one list each. The prompt is computed once."""
        first = [await self._score(prompt_ids, c, policy) for c in candidates[:1]]
        rest = await asyncio.gather(*(self._score(prompt_ids, c, policy) for c in candidates[1:]))
        return first + list(rest)

    async def load_adapter(self, name: str, path: str) -> None:
        """Load a PEFT adapter folder under a new name. Raises UserError for a name in use, a bad folder, or too high a rank."""
        await self._started()
        entry = self._register.check(name, path, "adapter")
        self._unloaded.discard(name)
        await self._load(entry)
        self._register.add(entry)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Its name stays taken; loading the same content under it again is allowed."""
        async with self._changing:
            request = self._adapters.pop(name, None)
            self._unloaded.add(name)
            if request:
                await self._engine.remove_lora(request.lora_int_id)

    async def load_weights(self, name: str, path: str | None = None) -> None:
        """Put full weights in place of the running ones; requests under way finish first. "base" brings the first back."""
        await self._started()
        if name == BASE:
            entry = Weights(BASE, str(materialize(self._config.model)), "", "weights")
        else:
            entry = self._register.check(name, path or "", "weights")
        await self._reload(entry)
        if name != BASE:
            self._register.add(entry)

    async def probe(
        self,
        name: str,
        prompts: Sequence[list[int]],
        completions: Sequence[list[int]],
        expected: Sequence[Sequence[float]],
        tolerance: float,
    ) -> Probe:
        """Compare the learner's log-probabilities of some completions with what this server gives for the policy `name`."""
        pairs = list(zip(prompts, completions, strict=True))
        served = await asyncio.gather(*(self._score(p, c, name) for p, c in pairs))
        base = None
        if self._weights == BASE and name != BASE:
            base = await asyncio.gather(*(self._score(p, c, BASE) for p, c in pairs))
        return compare(name, expected, served, base, tolerance)

    async def stats(self) -> Load:
        """What the server is doing now."""
        return self._tally.load((self._weights, *self._adapters))

    async def sleep(self) -> None:
        """Give a GPU's memory to the learner between stages; on a CPU there is nothing to give."""
        if self._engine and self._config.gpus_per_replica:
            await self._engine.sleep(level=1)

    async def wake(self) -> None:
        """Undo `sleep`."""
        if self._engine and self._config.gpus_per_replica:
            await self._engine.wake_up()
            await self._engine.reset_prefix_cache()

    async def shutdown(self) -> None:
        """End the engine and its process. The actor itself can be killed after this."""
        if self._engine:
            self._engine.shutdown()
            self._engine = None

    async def _started(self) -> Any:
        async with self._starting:
            if self._engine is None:
                folder = await asyncio.to_thread(materialize, self._config.model)
                self._engine = engine.start(self._config, folder, self._max_rank)
                await self._engine.collective_rpc("die_with_parent")
        return self._engine

    async def _complete(self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop),
            seed=seed,
            logprobs=0,  # of the drawn token alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = (await self._generate(prompt_ids, params, policy)).outputs[0]
        chances: Any = output.logprobs
        drawn = [at[token].logprob for at, token in zip(chances, output.token_ids, strict=True)]
        return Completion(tuple(output.token_ids), tuple(drawn), output.finish_reason or "stop")

    async def _score(self, prompt_ids: list[int], completion: Sequence[int], policy: str) -> list[float]:
        from vllm import SamplingParams

        if not prompt_ids or not completion:
            raise UserError("log-probabilities need a prompt and a completion of at least one token each")
        ids = [*prompt_ids, *completion]
        for fresh in (False, True):
            params = SamplingParams(
                max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, skip_reading_prefix_cache=fresh
            )
            output = await self._generate(ids, params, policy)
            # The engine gives none for tokens it found in its prefix cache: then once more, without the cache.
            if (output.num_cached_tokens or 0) < len(prompt_ids):
                break
        scored = (output.prompt_logprobs or [])[len(prompt_ids) :]
        return [at[token].logprob for at, token in zip(scored, completion, strict=True) if at is not None]

    async def _generate(self, prompt_ids: Sequence[int], params: SamplingParams, policy: str) -> RequestOutput:
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        server = await self._started()
        adapter = await self._adapter(policy)
        prompt = TokensPrompt(prompt_token_ids=list(prompt_ids))
        last = None
        try:
            with self._tally.request():
                async for output in server.generate(prompt, params, str(next(self._numbers)), lora_request=adapter):
                    last = output
        except EngineDeadError:
            logger.exception(
                "student-%d: the engine's process died; ending the actor, for Ray to restart it", self._replica
            )
            os._exit(1)
        if adapter is None and policy != self._weights:  # it waited in the queue while they were replaced
            raise UserError(
                f"student-{self._replica}: the weights {policy!r} were replaced before a request got its turn"
            )
        if last is None or not last.outputs:
            raise RuntimeError(f"the engine gave no answer to a request of {len(prompt_ids)} tokens for {policy!r}")
        self._tally.count(len(prompt_ids), last.num_cached_tokens or 0, len(last.outputs[0].token_ids))
        return last

    async def _adapter(self, policy: str) -> LoRARequest | None:
        if policy == self._weights:
            return None
        if policy not in self._adapters and policy not in self._unloaded:
            await self._recall(policy)
        if policy == self._weights:
            return None
        if policy not in self._adapters:
            loaded = ", ".join((self._weights, *self._adapters))
            raise UserError(f"student-{self._replica} has no policy {policy!r}; it has {loaded}")
        return self._adapters[policy]

    async def _recall(self, policy: str) -> None:
        """Load what another replica, or this one before a restart, had under this name."""
        entry = self._register.find(policy)
        if entry and entry.kind == "adapter":
            await self._load(entry)
        elif entry and self._weights == BASE and not self._adapters:
            await self._reload(entry)

    async def _load(self, entry: Weights) -> None:
        from vllm.lora.request import LoRARequest

        check_adapter(entry.name, entry.path, self._max_rank)
        async with self._changing:
            if entry.name in self._adapters:
                return
            request = LoRARequest(entry.name, next(self._ids), entry.path)
            try:
                await self._engine.add_lora(request)
            except Exception as error:
                raise UserError(f"adapter {entry.name!r} at {entry.path} could not be loaded: {error}") from error
            self._adapters[entry.name] = request

    async def _reload(self, entry: Weights) -> None:
        async with self._changing:
            if self._weights == entry.name:
                return
            server = self._engine
            await server.pause_generation(mode="wait", clear_cache=True)
            try:
                await server.collective_rpc("reload_from", args=(entry.path,))
                self._weights = entry.name
                await server.reset_prefix_cache()
            finally:
                await server.resume_generation()

    def _remember(self, request_id: str, key: int, task: asyncio.Task[Completion]) -> None:
        self._calls[request_id] = (key, task)
        task.add_done_callback(lambda done: self._forget_failure(request_id, done))
        while len(self._calls) > KEPT and next(iter(self._calls.values()))[1].done():
            self._calls.popitem(last=False)

    def _forget_failure(self, request_id: str, done: asyncio.Task[Completion]) -> None:
        if done.cancelled() or done.exception():
            self._calls.pop(request_id, None)


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
