"""Rollouts, in environment steps per second: the same games, student and sampling, played in three ways.

- sequential: the way of the authors' code: one game at a time, transformers' `generate`, the paper's prompt (`leap`) computed
  anew at every step. Played for a few episodes only, since it is slow; its figure is per step.
- lockstep: batches of episodes over our engine; every environment waits for the slowest of its batch
- ours: environment actors with interleaved episodes that talk to the student server, as in a run
- limit: the requests of "ours" once more, inside the server's process, with no environments and no Ray between: each
  episode's requests one after another, as many episodes at once

The untuned student plays, and hardly ever wins: all episodes are equally long, which is kind to lockstep; their completions are
not. Left out: training, teachers, and time to start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
import tyro
from rich.console import Console
from rich.table import Table

from actors.environment import Attempt, EnvironmentPool, PromptSettings
from actors.placement import gpus, server_ask, wait
from actors.student import CONCURRENCY, StudentActor
from actors.student_pool import StudentPool
from leap_ray.config import DomainConfig, RolloutConfig, StudentConfig
from leap_ray.envs.base import make_env
from leap_ray.gpus import resolve_server, vllm_uses_gpus
from leap_ray.learning.model import materialize
from leap_ray.policy import Completer, Prompter
from leap_ray.rollout import play
from leap_ray.serving import BASE
from leap_ray.types import Completion, Episode, Sampling, Task


@dataclass
class Args:
    """Compare ways of playing rollouts."""

    domain: str = "households"
    """`households` (generated), `alfworld` (its games must be there: see `leap-ray data`), or your own."""
    panel: str = "train"
    games: int = 64
    """Episodes played by lockstep, ours and the limit."""
    sequential_games: int = 1
    """Episodes played the sequential way."""
    max_actions: int = 6
    at_once: int = 32
    """Episodes at once: interleaved in one environment actor, or in one lockstep batch."""
    max_tokens: int = 96
    """Of one completion (authors: 256)."""
    temperature: float = 0.7
    dialect: Literal["chat", "leap"] = "chat"
    """Of the prompts in lockstep, ours and the limit. Sequential is always `leap`."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_length: int = 2048
    seed: int = 0

    @property
    def student(self) -> StudentConfig:
        return StudentConfig(dtype=self.dtype, max_length=self.max_length, max_sequences=max(8, self.at_once))

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class Played:
    """What one way of playing came to."""

    steps: int
    seconds: float
    tokens: int  # drawn

    @property
    def rate(self) -> float:
        return self.steps / self.seconds


class MeasuredStudent(StudentActor):
    """A student server that can replay what it was asked with nothing around it, and start from an empty cache."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config, max_rank=0)
        self._asked: dict[str, list[tuple[list[int], int, Completion]]] = {}

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str = BASE, request_id: str = ""
    ) -> Completion:
        completion = await super().complete(prompt_ids, sampling, seed, policy, request_id)
        self._asked.setdefault(request_id.rpartition("/")[0], []).append((prompt_ids, seed, completion))
        return completion

    async def forget(self, asked: bool = True) -> None:
        """Empty the prefix cache and the answers kept, and, if `asked`, what is kept for `replay`."""
        self._calls.clear()
        await (await self._started()).reset_prefix_cache()
        if asked:
            self._asked.clear()

    async def replay(self, sampling: Sampling, at_once: int) -> tuple[float, int]:
        """Seconds that the episodes' requests take once more, and how many of the completions came out the same."""
        gate = asyncio.Semaphore(at_once)

        async def one(requests: Sequence[tuple[list[int], int, Completion]]) -> int:
            async with gate:
                return sum([(await self._complete(p, sampling, s, BASE)).ids == c.ids for p, s, c in requests])

        began = time.perf_counter()
        same = await asyncio.gather(*map(one, list(self._asked.values())))
        return time.perf_counter() - began, sum(same)


class Transformers:
    """A completer as the authors' rollouts have it: one prompt at a time, computed whole."""

    def __init__(self, folder: str, dtype: str, end_id: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._end_id = end_id
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str, request_id: str
    ) -> Completion:
        self._torch.manual_seed(seed)
        prompt = self._torch.tensor([prompt_ids])
        with self._torch.inference_mode():
            out: Any = self._model.generate(
                prompt,
                attention_mask=self._torch.ones_like(prompt),
                max_new_tokens=sampling.max_tokens,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                pad_token_id=self._end_id,
            )
        ids = tuple(out[0, len(prompt_ids) :].tolist())
        return Completion(ids, (), "stop" if ids[-1] == self._end_id else "length")


class Lockstep:
    """A completer that answers nobody before everybody has asked and every answer is there."""

    def __init__(self, student: Completer, players: int) -> None:
        self._student = student
        self._players = players
        self._asked: list[tuple[Awaitable[Completion], asyncio.Future[Completion]]] = []

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, policy: str, request_id: str
    ) -> Completion:
        answer: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._asked.append((self._student.complete(prompt_ids, sampling, seed, policy, request_id), answer))
        self._go_if_all()
        return await answer

    def leave(self) -> None:
        """One episode is over: the others no longer wait for it."""
        self._players -= 1
        self._go_if_all()

    def _go_if_all(self) -> None:
        if self._asked and len(self._asked) == self._players:
            asked, self._asked = self._asked, []
            self._round = asyncio.create_task(self._answer(asked))

    async def _answer(self, asked: Sequence[tuple[Awaitable[Completion], asyncio.Future[Completion]]]) -> None:
        completions = await asyncio.gather(*(request for request, _ in asked), return_exceptions=True)
        for (_, answer), completion in zip(asked, completions):
            if isinstance(completion, BaseException):
                answer.set_exception(completion)
            else:
                answer.set_result(completion)


async def play_sequential(args: Args, folder: str, tasks: Sequence[Task]) -> Played:
    """The authors' way."""
    prompter = Prompter.load(folder, "leap", True)
    student = Transformers(folder, args.dtype, prompter.end_id)
    began = time.perf_counter()
    episodes = [await _play(args, task, student, prompter) for task in tasks]
    return _played(episodes, time.perf_counter() - began)


async def play_lockstep(args: Args, folder: str, tasks: Sequence[Task], pool: StudentPool) -> Played:
    """Batches of `at_once` episodes that step together."""
    prompter = Prompter.load(folder, args.dialect, True)

    async def one(task: Task, student: Lockstep) -> Episode:
        try:
            return await _play(args, task, student, prompter)
        finally:
            student.leave()

    began = time.perf_counter()
    episodes: list[Episode] = []
    for start in range(0, len(tasks), args.at_once):
        batch = tasks[start : start + args.at_once]
        student = Lockstep(pool, len(batch))
        episodes += await asyncio.gather(*(one(task, student) for task in batch))
    return _played(episodes, time.perf_counter() - began)


async def play_ours(args: Args, tasks: Sequence[Task], pool: EnvironmentPool) -> Played:
    """As a run does it."""
    attempts = [Attempt(t, args.seed, BASE, args.sampling, args.max_actions, args.max_length) for t in tasks]
    began = time.perf_counter()
    episodes = await asyncio.gather(*(pool.play(attempt) for attempt in attempts))
    return _played(episodes, time.perf_counter() - began)


async def _play(args: Args, task: Task, student: Completer, prompter: Prompter) -> Episode:
    env = make_env(args.domain, {})
    return await play(
        env, task, student, prompter,
        policy=BASE, seed=args.seed, sampling=args.sampling, max_actions=args.max_actions, max_length=args.max_length,
    )  # fmt: skip


def _played(episodes: Sequence[Episode], seconds: float) -> Played:
    tokens = sum(len(step.completion) for episode in episodes for step in episode.steps)
    return Played(sum(len(episode.steps) for episode in episodes), seconds, tokens)


def start_student(args: Args) -> StudentPool:
    """One measured server, started."""
    server: Any = ray.remote(MeasuredStudent)
    config = resolve_server(args.student, gpus(), vllm_uses_gpus())
    options = server_ask(config).options()
    actor = server.options(name="student-0", max_concurrency=CONCURRENCY, **options).remote(config)
    wait({"student-0": actor.ready.remote()}, config.start_timeout)
    return StudentPool([actor], config)


async def compare(args: Args, folder: str, tasks: Sequence[Task], warm: Sequence[Task]) -> dict[str, Played]:
    """Every way in turn, each from an empty prefix cache."""
    pool = start_student(args)
    server: Any = pool.replicas[0]
    say = Console(stderr=True).print
    say("the student server runs; environments start")
    rollout = RolloutConfig(actors=1, episodes_per_actor=args.at_once)
    environments = EnvironmentPool(DomainConfig(args.domain), rollout, PromptSettings(folder, args.dialect, True), pool)
    results: dict[str, Played] = {}
    try:
        await play_ours(args, warm, environments)
        say("ours")
        await server.forget.remote()
        results["ours"] = await play_ours(args, tasks, environments)
        say(f"limit (ours: {results['ours']})")
        await server.forget.remote(asked=False)
        seconds, same = await server.replay.remote(args.sampling, args.at_once)
        steps, tokens = results["ours"].steps, results["ours"].tokens
        results["limit"] = Played(steps, seconds, tokens)
        say(f"lockstep (limit: {results['limit']}; {same} of {steps} completions came out the same as in ours)")
        await server.forget.remote()
        results["lockstep"] = await play_lockstep(args, folder, tasks, pool)
    finally:
        environments.close()
        pool.shutdown()
    say(f"sequential (lockstep: {results['lockstep']})")
    results["sequential"] = await play_sequential(args, folder, tasks[: args.sequential_games])
    return results


def main() -> None:
    """Print a table and, last, one line of JSON."""
    args = tyro.cli(Args, description=__doc__)
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    folder = str(materialize(args.student.model))
    panel = make_env(args.domain, {}).panel(args.panel).tasks
    tasks, warm = panel[: args.games], panel[args.games : args.games + args.at_once]
    results = asyncio.run(compare(args, folder, tasks, warm))
    ours = results["ours"].rate
    table = Table(
        "way", "steps", "seconds", "steps/s", "tokens/s", "ours is", title=f"{args.domain}, {args.at_once} at once"
    )
    for name in ("sequential", "lockstep", "ours", "limit"):
        played = results[name]
        cells = (f"{played.seconds:.1f}", f"{played.rate:.2f}", f"{played.tokens / played.seconds:.0f}")
        table.add_row(name, str(played.steps), *cells, f"{ours / played.rate:.2f} ×")
    Console().print(table)
    figures = {
        "over_sequential": ours / results["sequential"].rate,
        "over_lockstep": ours / results["lockstep"].rate,
        "of_limit": ours / results["limit"].rate,
    }
    figures |= {f"{name}_steps_per_s": played.rate for name, played in results.items()}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
