"""Playing one episode: by a student, by a student with a teacher at its side, or by an expert that demonstrates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from leap_ray.envs.base import TextEnv, call
from leap_ray.errors import PrivilegeError
from leap_ray.policy import Completer, Prompter, parse
from leap_ray.teachers.actions import PLACEHOLDER, fit
from leap_ray.teachers.choose import Verdict
from leap_ray.teachers.live import LiveTeacher
from leap_ray.text_tokens import unicode_text
from leap_ray.types import (
    Episode,
    Finish,
    Intervention,
    Outcome,
    Proposal,
    Sampling,
    Step,
    Task,
    digest,
    episode_id,
)  # fmt: skip

UNPARSED = "unparsed"  # the cause of an action that the student's words did not hold


@dataclass(frozen=True)
class Taught:
    """An episode that a teacher followed as it was played, and the teacher's word on each of its steps."""

    episode: Episode
    verdicts: tuple[Verdict, ...]
    dollars: float = 0.0  # what the teacher's answers cost


async def play(
    env: TextEnv,
    task: Task,
    student: Completer,
    prompter: Prompter,
    *,
    policy: str,
    seed: int,
    sampling: Sampling,
    max_actions: int,
    max_length: int,
) -> Episode:
    """One attempt of a student at a task. The same arguments give the same requests: every seed comes from the episode's id.

    `max_length` is the student's context in tokens; an episode whose next prompt leaves no room for an action ends.
    """
    game = _Game(env, task, student, prompter, policy, seed, sampling, max_actions, max_length)
    await game.start()
    while step := await game.propose():
        await game.carry_out(step)
    return game.episode()


async def play_taught(
    env: TextEnv,
    task: Task,
    student: Completer,
    prompter: Prompter,
    *,
    join: Callable[[], Awaitable[LiveTeacher]],
    intervention: Intervention,
    policy: str,
    seed: int,
    sampling: Sampling,
    max_actions: int,
    max_length: int,
) -> Taught:
    """As `play`, with a teacher that judges every action before it is carried out, and acts in the student's place at mistakes.

    `join` makes the teacher of this episode, once its environment is reset. The student is asked at every step, whoever acts.
    Raises PrivilegeError for a task outside the environment's training panels.
    """
    if task.panel not in env.train_panels:
        raise PrivilegeError(
            f"{env.domain}: task {task.id!r} is of panel {task.panel!r}; a teacher sits at the student's side in training alone"
        )
    game = _Game(env, task, student, prompter, policy, seed, sampling, max_actions, max_length)
    await game.start()
    teacher, verdicts, dollars, taken_over = await join(), [], 0.0, False
    while step := await game.propose():
        judgement = await teacher.judge(game.episode(step))
        verdict, t = judgement.verdict, len(verdicts)
        verdicts.append(verdict)
        dollars += judgement.dollars
        mistake = verdict.outcome is Outcome.CORRECTED
        acts = mistake and (taken_over or intervention.acts(game.id, t))
        taken_over = taken_over or (acts and intervention.takeover)
        if acts or (taken_over and verdict.outcome is Outcome.AGREED and verdict.reason and verdict.action):
            step = game.replaced(step, verdict)
        await game.carry_out(step)
    return Taught(game.episode(), tuple(verdicts), dollars)


class _Game:
    """An episode while it is played: the student proposes a step, and that or another one is carried out."""

    def __init__(
        self,
        env: TextEnv,
        task: Task,
        student: Completer,
        prompter: Prompter,
        policy: str,
        seed: int,
        sampling: Sampling,
        max_actions: int,
        max_length: int,
    ) -> None:
        self.id = episode_id(task, seed, policy)
        self._env, self._task, self._policy, self._seed = env, task, policy, seed
        self._student, self._prompter, self._sampling = student, prompter, sampling
        self._max_actions, self._max_length = max_actions, max_length
        self._began = time.perf_counter()
        self._steps: list[Step] = []
        self._finish = Finish.MAX_ACTIONS
        self._over = False

    async def start(self) -> None:
        env = self._env
        options = {"task": self._task}
        self._observation, self._info = _in_unicode(*await call(env, env.reset, seed=self._seed, options=options))
        self._instruction = self._info["instruction"]
        self._conversation = self._prompter.start(self._instruction, env.domain_facts)

    async def propose(self) -> Step | None:
        """What the student says next; None where the episode is over. `valid` is not known before it is carried out."""
        t = len(self._steps)
        if self._over or t >= self._max_actions:
            return None
        candidates, prompter = self._info["candidates"], self._prompter
        prompt = self._conversation.prompt(self._observation, candidates)
        if len(prompt) + self._sampling.max_tokens > self._max_length:
            self._finish = Finish.CONTEXT
            return None
        keep, new = self._conversation.delta
        # Named by its prompt, too: where an episode is played again, a machine or a teacher may have answered otherwise before.
        request = f"{self.id}/{t}-{digest(prompt, length=8)}"
        seed = _step_seed(self.id, t)
        completion = await self._student.complete(prompt, self._sampling, seed, self._policy, request)
        text = prompter.text(completion.ids)
        said = parse(text, prompter.dialect, self._env.multiline)
        step = Step(
            observation=self._observation,
            candidates=candidates,
            reason=said.reason,
            action=said.action,
            valid=False,
            score=self._info["score"],
            text=text,
            keep=keep,
            new=new,
            completion=completion.ids,
            logprobs=completion.logprobs,
        )
        return _read(self._env, step)

    def replaced(self, step: Step, verdict: Verdict) -> Step:
        """The step with the teacher's reason and action in the place of the student's, which become its proposal."""
        completion = tuple(self._prompter.completion_ids(verdict.reason, verdict.action))
        proposal = Proposal(**{f.name: getattr(step, f.name) for f in dataclasses.fields(Proposal)})
        return dataclasses.replace(
            step,
            reason=verdict.reason,
            action=verdict.action,
            text=self._prompter.text(completion),
            completion=completion,
            logprobs=(),
            proposal=proposal,
        )

    async def carry_out(self, step: Step) -> None:
        """Do the step's action and keep the step with what came of it."""
        self._conversation.reply(step.completion, step.action)
        after, _, terminated, truncated, info = await call(self._env, self._env.step, step.action)
        self._observation, self._info = _in_unicode(after, info)
        valid = bool(step.action) and info["valid"]
        spelling, cause = _spelling(step.action, info), "" if valid else _cause(self._env, step.action)
        self._steps.append(dataclasses.replace(step, valid=valid, score=info["score"], spelling=spelling, cause=cause))
        if terminated or truncated:
            self._over, self._finish = True, Finish.TERMINATED

    def episode(self, proposed: Step | None = None) -> Episode:
        """What there is of the episode, with one more step that has been proposed and not carried out."""
        steps = [*self._steps, proposed] if proposed else self._steps
        return _episode(
            self._task, self._seed, self._policy, self._instruction, steps, self._observation, self._info, self._finish,
            seconds=time.perf_counter() - self._began, dialect=self._prompter.dialect, prompt_hash=self._prompter.hash,
        )  # fmt: skip


def demonstrate(env: TextEnv, task: Task, *, seed: int, max_actions: int, expert: str = "demonstrator") -> Episode:
    """One episode played by a domain's expert, with its reasons. It has no tokens yet: see `policy.tokenize`."""
    began = time.perf_counter()
    observation, info = _in_unicode(*env.reset(seed=seed, options={"task": task}))
    guide = env.expert(expert, seed=seed)
    instruction, steps, finish = info["instruction"], [], Finish.MAX_ACTIONS
    while len(steps) < max_actions:
        advice = guide.advise()
        if advice is None:
            finish = Finish.TERMINATED
            break
        candidates = info["candidates"]
        after, _, terminated, truncated, info = env.step(advice.action)
        after, info = _in_unicode(after, info)
        step = Step(observation, candidates, advice.reason, advice.action, info["valid"], info["score"])
        steps.append(dataclasses.replace(step, spelling=_spelling(advice.action, info)))
        observation = after
        if terminated or truncated:
            finish = Finish.TERMINATED
            break
    return _episode(
        task, seed, f"expert:{expert}", instruction, steps, observation, info, finish,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _episode(
    task: Task,
    seed: int,
    policy: str,
    instruction: str,
    steps: list[Step],
    observation: str,
    info: dict[str, Any],
    finish: Finish,
    **rest: Any,
) -> Episode:
    success = bool(info["success"])
    return Episode(
        task=task,
        seed=seed,
        policy=policy,
        instruction=instruction,
        steps=tuple(steps),
        final_observation=observation,
        score=float(info["score"]),
        success=success,
        finish=Finish.SUCCESS if success else finish,
        extra={name: float(value) for name, value in info.get("score_parts", {}).items()},
        **rest,
    )


def _in_unicode(observation: str, info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What an environment says, without the lone surrogates that neither a tokenizer nor a UTF-8 file takes."""
    said: dict[str, Any] = {"candidates": tuple(unicode_text(candidate) for candidate in info["candidates"])}
    if "instruction" in info:
        said["instruction"] = unicode_text(info["instruction"])
    return unicode_text(observation), {**info, **said}


def _spelling(action: str, info: dict[str, Any]) -> str:
    """The action as the environment spells it, "" where it does so as given."""
    spelling = info.get("action", action) if action else ""
    return spelling if spelling != action else ""


def _read(env: TextEnv, step: Step) -> Step:
    """A proposed step with what the environment can say of its action beforehand: spelling, validity, cause."""
    if not step.action:
        return dataclasses.replace(step, cause=UNPARSED)
    spelling = env.spelling(step.action)
    known = env.knows(step.action)
    if known is None:
        listed = [c for c in step.candidates if not PLACEHOLDER.search(c)]
        known = len(listed) < len(step.candidates) or not listed or fit(spelling, listed) is not None
    spelling = spelling if spelling != step.action else ""
    return dataclasses.replace(step, valid=known, spelling=spelling, cause="" if known else env.cause(step.action))


def _cause(env: TextEnv, action: str) -> str:
    return env.cause(action) if action else UNPARSED


def _step_seed(episode: str, t: int) -> int:
    return int(digest(episode, t, length=7), 16)
