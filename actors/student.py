"""The student on the cluster: a vLLM engine in an actor. Everyone talks to it through the pool of its replicas.

Token ids in, token ids and log-probabilities out. Nothing here renders prompts or reads completions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors import engine
from actors.tally import Tally
from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.learning.model import materialize
from leap_ray.serving import (
    BASE,
    Load,
    Probe,
    Register,
    Weights,
    check_adapter,
    compare,
    completion_logprobs,
    write_empty_adapter,
)
from leap_ray.types import Completion, Sampling

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

KEPT = 2048  # answered requests remembered, so that a repeated call gets the same answer at once
CONCURRENCY = 1024  # calls that one actor holds at once: far above what the engine decodes together
PAUSE_SECONDS = 0.2  # between attempts of a request that a paused engine refuses
WAKE_SECONDS = 30.0  # that the learner's processes may take to give their GPU memory back
SLACK_BYTES = 2**29  # of a GPU's memory, that others may hold at waking beyond what they held at falling asleep

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
        self._empty: LoRARequest | None = None
        self._unloaded: set[str] = set()
        self._weights: str = BASE  # the name of the full weights in the engine
        self._asleep: int | None = None  # bytes that were free on its GPU when it fell asleep
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

    async def load_adapter(self, name: str, path: str, fingerprint: str) -> None:
        """Load a PEFT adapter folder under a new name; `fingerprint` is of its content (`serving.fingerprint`).

        Raises UserError for a name in use, a bad folder, or too high a rank.
        """
        await self._started()
        entry = self._register.check(name, path, "adapter", fingerprint)
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

    async def load_weights(self, name: str, path: str = "", fingerprint: str = "") -> None:
        """Put full weights in place of the running ones; requests under way finish first. "base" brings the first back."""
        await self._started()
        if name == BASE:
            entry = Weights(BASE, str(await asyncio.to_thread(materialize, self._config.model)), "", "weights")
        else:
            entry = self._register.check(name, path, "weights", fingerprint)
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
        """Give a GPU's memory to the learner that shares it; on a CPU, or a GPU of its own, there is nothing to give."""
        if self._engine and self._config.shares_gpu and self._asleep is None:
            await self._engine.sleep(level=1)
            self._asleep = min(await self._engine.collective_rpc("free_memory"))

    async def wake(self) -> None:
        """Undo `sleep`, once the learner's processes have given the memory back: they end a little after their training."""
        if not self._engine or self._asleep is None:
            return
        deadline = time.monotonic() + WAKE_SECONDS
        while min(await self._engine.collective_rpc("free_memory")) < self._asleep - SLACK_BYTES:
            if time.monotonic() > deadline:
                break  # the engine's own error says what is missing
            await asyncio.sleep(PAUSE_SECONDS)
        await self._engine.wake_up()
        await self._engine.reset_prefix_cache()
        self._asleep = None

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
                await self._engine.collective_rpc("die_with", args=(os.getpid(),))
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
        return completion_logprobs(output.prompt_logprobs, completion)

    async def _generate(self, prompt_ids: Sequence[int], params: SamplingParams, policy: str) -> RequestOutput:
        """The engine's answer. From vLLM 0.33 on an engine refuses requests while its weights change: then once it goes on."""
        from vllm.exceptions import RetryableRequestError

        deadline = time.monotonic() + self._config.request_timeout
        while True:
            try:
                return await self._attempt(prompt_ids, params, policy)
            except RetryableRequestError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)

    async def _attempt(self, prompt_ids: Sequence[int], params: SamplingParams, policy: str) -> RequestOutput:
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
        if policy not in (self._weights, *self._adapters, *self._unloaded):
            await self._recall(policy)
        if policy == self._weights:
            return await self._empty_adapter() if self._adapters else None
        if policy not in self._adapters:
            loaded = ", ".join((self._weights, *self._adapters))
            raise UserError(f"student-{self._replica} has no policy {policy!r}; it has {loaded}")
        return self._adapters[policy]

    async def _empty_adapter(self) -> LoRARequest:
        """What the weights themselves are served as beside adapters: an adapter that changes nothing.

        On a CPU, vLLM 0.32 gives wrong answers (0.1 nats a token) to requests without an adapter that share a batch with others.
        """
        if self._empty is None:
            folder = tempfile.mkdtemp(prefix="leap-empty-adapter-")
            try:
                await asyncio.to_thread(write_empty_adapter, Path(folder), materialize(self._config.model))
                self._empty = await self._add("none", folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        return self._empty

    async def _add(self, name: str, path: str) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        async with self._changing:
            request = LoRARequest(name, next(self._ids), path)
            await self._engine.add_lora(request)
            return request

    async def _recall(self, policy: str) -> None:
        """Load what another replica, or this one before a restart, had under this name."""
        entry = self._register.find(policy)
        if entry and entry.kind == "adapter":
            await self._load(entry)
        elif entry and self._weights == BASE and not self._adapters:
            await self._reload(entry)

    async def _load(self, entry: Weights) -> None:
        check_adapter(entry.name, entry.path, self._max_rank)
        if entry.name in self._adapters:
            return
        try:
            self._adapters[entry.name] = await self._add(entry.name, entry.path)
        except Exception as error:
            raise UserError(f"adapter {entry.name!r} at {entry.path} could not be loaded: {error}") from error

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
