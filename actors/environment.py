"""Environment instances on the cluster: actors that each play K whole episodes at once, and the pool that hands episodes out.

An episode talks to the student server directly, step by step; only finished episodes come back. The unit of retry is the
episode: an actor that dies is restarted by Ray and plays its episodes anew, from (task, seed, policy).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.metrics import Counter, Gauge

from actors.placement import ENVIRONMENT, place
from leap_ray.config import DomainConfig, RolloutConfig, StudentConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, TextEnv, call, make_env
from leap_ray.errors import EnvironmentFault, UserError, user_error
from leap_ray.policy import Completer, Prompter, tokenize
from leap_ray.prompts import folder_hash
from leap_ray.rollout import demonstrate, play, play_taught
from leap_ray.teachers.choose import choose
from leap_ray.teachers.live import Judgement, LiveExpert, LiveTeacher
from leap_ray.types import Correction, Episode, Intervention, Sampling, Task

log = logging.getLogger(__name__)
TRIES = 3  # of an episode, before it is given up


@dataclass(frozen=True)
class PromptSettings:
    """What a process needs to make a Prompter of its own. The student goes by its name: each node has a folder of its own."""

    model: str  # as StudentConfig.model
    dialect: str
    candidates: bool
    template: tuple[tuple[str, Any], ...] = ()
    date: str | None = None
    prefill: str = ""

    @classmethod
    def of(cls, student: StudentConfig) -> PromptSettings:
        """Those of a run's student."""
        template = tuple(sorted(student.template.items()))
        return cls(student.model, student.dialect, student.candidates, template, student.date, student.prefill)

    def load(self) -> Prompter:
        """The Prompter, from the tokenizer as this node finds it."""
        settings = {"template": dict(self.template), "date": self.date, "prefill": self.prefill}
        return Prompter.load(self.model, self.dialect, self.candidates, **settings)


@dataclass(frozen=True)
class Attempt:
    """One episode to be played."""

    task: Task
    seed: int
    policy: str
    sampling: Sampling
    max_actions: int
    max_length: int


@dataclass(frozen=True)
class TaughtAttempt:
    """One episode to be played with a teacher at the student's side. No kind of `Attempt`: no evaluation takes one."""

    attempt: Attempt
    intervention: Intervention


@dataclass(frozen=True)
class Teaching:
    """The teacher that sits at a student's side: a domain's expert is asked in the environment's own process (`actor` None)."""

    config: TeacherConfig
    seed: int
    actor: Any = None  # of the other kinds, a TeacherActor


class RemoteTeacher:
    """A teacher in a process of its own, at one student's side (`teachers.live.LiveTeacher`)."""

    def __init__(self, actor: Any, privileged: PrivilegedState) -> None:
        self._actor, self._privileged = actor, privileged

    async def judge(self, episode: Episode) -> Judgement:
        try:
            return await self._actor.judge.remote(episode, self._privileged)
        except RayActorError as error:  # not this environment's fault, so not to be tried again as one
            raise UserError(f"the teacher died: {str(error).splitlines()[0]}; `leap-ray resume RUN` goes on") from error


class EnvironmentActor:
    """Hosts instances of one domain's environment, as many as there are calls at once, and plays an episode in each."""

    def __init__(
        self, domain: DomainConfig, prompts: PromptSettings, student: Completer | None, teaching: Teaching | None = None
    ) -> None:
        self._teaching = teaching
        self._make = lambda: make_env(domain.name, domain.settings)
        self._student = student
        self._prompter = prompts.load()
        self._free: list[TextEnv] = []
        self._playing = 0
        tags = {"domain": domain.name}
        self._episodes = Counter("leap_episodes", "Episodes finished", tag_keys=("domain", "finish"))
        self._steps = Counter("leap_steps", "Environment steps", tag_keys=("domain",))
        self._busy = Gauge("leap_episodes_playing", "Episodes being played now", tag_keys=("domain",))
        for metric in (self._episodes, self._steps, self._busy):
            metric.set_default_tags(tags)

    async def pid(self) -> int:
        """The process this actor runs in."""
        return os.getpid()

    async def play(self, attempt: Attempt) -> Episode:
        """Play one whole episode of the student."""
        if self._student is None:
            raise UserError("these environment actors were made without a student")
        async with self._environment() as env:
            episode = await play(env, attempt.task, self._student, self._prompter, **_how(attempt))
        self._count(episode)
        return episode

    async def play_taught(self, taught: TaughtAttempt) -> tuple[Episode, Correction]:
        """Play one whole episode of the student with the teacher at its side. Raises PrivilegeError outside training."""
        attempt, teaching, began = taught.attempt, self._teaching, time.perf_counter()
        if self._student is None or teaching is None:
            raise UserError("these environment actors were made without a student or without a teacher")
        async with self._environment() as env:
            found = await play_taught(
                env,
                attempt.task,
                self._student,
                self._prompter,
                join=partial(_join, env, teaching),
                intervention=taught.intervention,
                **_how(attempt),
            )
        episode, config = found.episode, teaching.config
        words = choose(
            found.verdicts, [step.own for step in episode.steps], correct=config.correct, repeats=config.repeats
        )
        acted = sum(step.proposal is not None for step in episode.steps)
        self._count(episode)
        return episode, Correction(
            episode.id,
            config.label,
            f"The teacher acted at {acted} of {len(episode.steps)} steps.",
            words,
            prompt_hash=folder_hash("teacher") if teaching.actor is not None else "",
            seconds=time.perf_counter() - began,
            dollars=found.dollars,
        )

    def _count(self, episode: Episode) -> None:
        self._episodes.inc(1, tags={"finish": str(episode.finish)})
        self._steps.inc(max(1, len(episode.steps)))

    async def demonstrate(self, task: Task, seed: int, max_actions: int) -> Episode:
        """Play one whole episode of the domain's demonstrating expert."""
        async with self._environment() as env:
            return await asyncio.to_thread(demonstrate, env, task, seed=seed, max_actions=max_actions)

    async def tokenize(self, episode: Episode) -> Episode:
        """The demonstration with the tokens a student would have seen and said."""
        async with self._environment() as env:
            return await asyncio.to_thread(tokenize, episode, self._prompter, env.domain_facts)

    async def privileged(self, task: Task) -> PrivilegedState:
        """Privileged state of a training task; raises PrivilegeError for any other."""
        async with self._environment() as env:
            return await asyncio.to_thread(_privileged, env, task)

    @asynccontextmanager
    async def _environment(self) -> AsyncIterator[TextEnv]:
        env = self._free.pop() if self._free else await asyncio.to_thread(self._make)
        self._playing += 1
        self._busy.set(self._playing)
        try:
            yield env
        except BaseException:
            env.close()  # its state is unknown: the next episode gets a new one
            raise
        else:
            self._free.append(env)
        finally:
            self._playing -= 1
            self._busy.set(self._playing)


def _how(attempt: Attempt) -> dict[str, Any]:
    """How `play` is to play the attempt."""
    return {
        "policy": attempt.policy,
        "seed": attempt.seed,
        "sampling": attempt.sampling,
        "max_actions": attempt.max_actions,
        "max_length": attempt.max_length,
    }


async def _join(env: TextEnv, teaching: Teaching) -> LiveTeacher:
    """The teacher of the episode that this environment has just begun."""
    if teaching.actor is not None:
        return RemoteTeacher(teaching.actor, await call(env, env.privileged))
    privilege = teaching.config.privilege
    return LiveExpert(env, await call(env, env.expert, "teacher", privilege=privilege, seed=teaching.seed))


def _privileged(env: TextEnv, task: Task) -> PrivilegedState:
    env.reset(options={"task": task})
    return env.privileged()


def _task_of(given: TaughtAttempt | Attempt | Episode | Task) -> Task:
    """The task that a call of an environment actor is about."""
    given = given.attempt if isinstance(given, TaughtAttempt) else given
    return given if isinstance(given, Task) else given.task


class EnvironmentPool:
    """The environment actors of one domain, seen from the coordinator."""

    def __init__(
        self,
        domain: DomainConfig,
        config: RolloutConfig,
        prompts: PromptSettings,
        student: Completer | None,
        teaching: Teaching | None = None,
    ) -> None:
        self.domain = domain
        self.config = config
        # As plain arguments: what lay in the object store could be gone when Ray restarts an actor.
        self._make_args = (domain, prompts, student, teaching)
        self._made = [0] * config.actors
        self._played = [0] * config.actors
        self._actors: list[Any] = [self._new(i) for i in range(config.actors)]
        self._seats: asyncio.Queue[int] = asyncio.Queue()
        for _ in range(config.episodes_per_actor):  # seats of all actors in turn, so that load spreads
            for index in range(config.actors):
                self._seats.put_nowait(index)

    @property
    def seats(self) -> int:
        """Episodes that can be played at once."""
        return self.config.actors * self.config.episodes_per_actor

    async def play(self, attempt: Attempt) -> Episode:
        return await self._call("play", attempt)

    async def play_taught(self, taught: TaughtAttempt) -> tuple[Episode, Correction]:
        return await self._call("play_taught", taught)

    async def demonstrate(self, task: Task, seed: int, max_actions: int) -> Episode:
        return await self._call("demonstrate", task, seed, max_actions)

    async def tokenize(self, episode: Episode) -> Episode:
        return await self._call("tokenize", episode)

    async def privileged(self, task: Task) -> PrivilegedState:
        """Needs no seat: a failed episode's correction does not wait for others to end."""
        index = hash(task.id) % self.config.actors
        try:
            return await self._tried(index, lambda: self._actors[index], "privileged", task)
        except EnvironmentFault as fault:
            raise UserError(f"{self.domain.name}: {fault}; `leap-ray resume RUN` asks again") from fault

    def place(self, timeout: float) -> None:
        """Wait until every actor runs. Raises UserError naming those that found no room, or whose start failed."""
        actors = {f"{self.domain.name} environment {i}": actor for i, actor in enumerate(self._actors)}
        place(actors, dict.fromkeys(actors, ENVIRONMENT), timeout)

    def close(self) -> None:
        """End the actors, so that their CPUs are free for what follows."""
        for actor in self._actors:
            ray.kill(actor)

    async def _call(self, method: str, *args: Any) -> Any:
        index = await self._seats.get()
        try:
            return await self._tried(index, lambda: self._actor(index), method, *args)
        finally:
            self._seats.put_nowait(index)

    async def _tried(self, index: int, actor: Callable[[], Any], method: str, *args: Any) -> Any:
        """A call of the actor in that place, made again after a fault. Raises the last one's EnvironmentFault."""
        for attempt in range(1, TRIES + 1):
            try:
                return await self._try(actor(), method, *args)
            except EnvironmentFault as fault:
                log.warning("%s: %s (try %d of %d)", self.domain.name, fault, attempt, TRIES)
                if not isinstance(fault.__cause__, RayTaskError):  # the actor itself is stuck or gone
                    self._replace(index)
                if attempt == TRIES:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _try(self, actor: Any, method: str, *args: Any) -> Any:
        """One call. Raises the user's own errors as they are, and EnvironmentFault for whatever else goes wrong."""
        what = f"{method} of {_task_of(args[0]).id}"
        try:
            ref = getattr(actor, method).remote(*args)
            return await asyncio.wait_for(asyncio.wrap_future(ref.future()), self.config.episode_timeout)
        except RayTaskError as error:  # first: what the environment itself raised may be a TimeoutError, too
            if known := user_error(error):
                raise known from error
            cause = error.cause
            reason = str(cause) if isinstance(cause, EnvironmentFault) else f"{type(cause).__name__}: {cause}"
            raise EnvironmentFault(f"{what} failed: {reason}") from error
        except TimeoutError:
            seconds = self.config.episode_timeout
            raise EnvironmentFault(f"{what} took over rollout.episode_timeout = {seconds:g} s") from None
        except RayActorError as error:
            raise EnvironmentFault(f"{what} ended with its actor: {str(error).splitlines()[0]}") from error

    def _actor(self, index: int) -> Any:
        if self._played[index] >= self.config.recycle_after:
            self._replace(index)
        self._played[index] += 1
        return self._actors[index]

    def _replace(self, index: int) -> None:
        """A fresh actor in that place. The old one ends when its last episode has: Ray counts its handle's users."""
        self._actors[index] = self._new(index)
        self._played[index] = 0

    def _new(self, index: int) -> Any:
        name = f"{self.domain.name.split(':')[-1]}-env-{index}" + (f".{self._made[index]}" if self._made[index] else "")
        self._made[index] += 1
        return (
            ray.remote(EnvironmentActor)
            .options(
                name=name,
                **ENVIRONMENT.options(),
                max_concurrency=self.config.episodes_per_actor + 4,
                max_restarts=self.config.max_restarts,
                max_task_retries=self.config.max_restarts,
            )
            .remote(*self._make_args)
        )
