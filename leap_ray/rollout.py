"""Playing one episode: by a student, or by an expert that demonstrates."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

from leap_ray.envs.base import TextEnv
from leap_ray.policy import Completer, Prompter, parse
from leap_ray.text_tokens import unicode_text
from leap_ray.types import Episode, Finish, Sampling, Step, Task, digest, episode_id


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
    began = time.perf_counter()
    name = episode_id(task, seed, policy)
    observation, info = _in_unicode(*await _call(env, env.reset, seed=seed, options={"task": task}))
    conversation = prompter.start(info["instruction"], env.domain_facts)
    instruction, steps, finish = info["instruction"], [], Finish.MAX_ACTIONS
    while len(steps) < max_actions:
        t = len(steps)
        prompt = conversation.prompt(observation, info["candidates"])
        if len(prompt) + sampling.max_tokens > max_length:
            finish = Finish.CONTEXT
            break
        keep, new = conversation.delta
        completion = await student.complete(prompt, sampling, _step_seed(name, t), policy, f"{name}/{t}")
        text = prompter.text(completion.ids)
        parsed = parse(text, prompter.dialect, env.multiline)
        conversation.reply(completion.ids, parsed.action)
        candidates = info["candidates"]
        after, _, terminated, truncated, info = await _call(env, env.step, parsed.action)
        after, info = _in_unicode(after, info)
        steps.append(
            Step(
                observation=observation,
                candidates=candidates,
                reason=parsed.reason,
                action=parsed.action,
                valid=bool(parsed.action) and info["valid"],
                score=info["score"],
                text=text,
                keep=keep,
                new=new,
                completion=completion.ids,
                logprobs=completion.logprobs,
                spelling=_spelling(parsed.action, info),
            )
        )
        observation = after
        if terminated or truncated:
            finish = Finish.TERMINATED
            break
    return _episode(
        task, seed, policy, instruction, steps, observation, info, finish,
        seconds=time.perf_counter() - began, dialect=prompter.dialect, prompt_hash=prompter.hash,
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


async def _call(env: TextEnv, method: Any, *args: Any, **kwargs: Any) -> Any:
    if env.blocking:
        return await asyncio.to_thread(method, *args, **kwargs)
    return method(*args, **kwargs)


def _step_seed(episode: str, t: int) -> int:
    return int(digest(episode, t, length=7), 16)
