"""Self-improvement: the student's own weights, shown the privileged state, correct the student, one step at a time.

The teacher is served by the student's own server. It reads what the student read, up to the step, then the privileged state, and
answers in the student's own form. A first answer that cannot be used is drawn again, once, with another seed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, traits_of
from leap_ray.policy import Completer, Parsed, Prompter, View, parse
from leap_ray.prompts import folder_hash, render
from leap_ray.teachers.actions import canonical, meaning
from leap_ray.teachers.answers import Draft, Reading
from leap_ray.teachers.choose import Verdict, choose
from leap_ray.teachers.live import Judgement
from leap_ray.teachers.prompted import TELLING, AnnotationCheck, Check, with_reasons
from leap_ray.types import Correction, Episode, Outcome, Sampling, digest

TRIES = 2
LEAST_ANSWER = 64  # tokens that an answer needs room for


class TooLong(Exception):
    """A prompt that does not fit the student's context: privileged state makes it longer than the student's own."""


class Hindsight:
    """Prompts of the student's own conversation with something added to its last message."""

    def __init__(self, prompter: Prompter, domains: Sequence[DomainConfig]) -> None:
        self.prompter = prompter
        self.domains = traits_of(domains)

    def messages(self, episode: Episode, t: int) -> list[str | tuple[int, ...]]:
        """Step t's prompt: user messages as text, and what the student said between them, as the tokens it sampled."""
        steps, facts = episode.steps, self.domains[episode.task.domain].domain_facts
        past = tuple((step.observation, step.action) for step in steps[:t])
        if self.prompter.dialect != "chat":
            view = View(episode.instruction, past, steps[t].observation, steps[t].candidates, facts)
            return [self.prompter.first_message(view)]
        view = View(episode.instruction, (), steps[0].observation, steps[0].candidates, facts)
        messages: list[str | tuple[int, ...]] = [self.prompter.first_message(view)]
        for before, step in pairwise(steps[: t + 1]):
            said = before.completion or self.prompter.completion_ids(before.reason, before.action)
            messages += [tuple(said), self.prompter.turn_message(step.observation, step.candidates)]
        return messages

    def ids(self, messages: Sequence[str | tuple[int, ...]]) -> list[int]:
        """Token ids of a chat whose next turn is the model's."""
        ids: list[int] = []
        for message in messages:
            if isinstance(message, tuple):
                ids += self.prompter.closed(message)
            else:
                ids += self.prompter.next_ids(message, ended=True) if ids else self.prompter.first_ids(message)
        return ids

    def with_last(self, episode: Episode, t: int, template: str, **values: Any) -> list[int]:
        """Step t's prompt with a template of `prompts/teacher` after its last message, and no other difference."""
        *before, last = self.messages(episode, t)
        added = render(f"teacher/{template}", **values).strip()
        return self.ids([*before, f"{last}\n\n{added}"])

    def parse(self, episode: Episode, ids: tuple[int, ...]) -> Parsed:
        """Reason and action of a completion."""
        text = self.prompter.text(ids)
        return parse(text, self.prompter.dialect, self.domains[episode.task.domain].multiline)


@dataclass(frozen=True)
class Said(Parsed):
    """A completion of the student's. Not `whole`: it was cut off within its reason."""

    whole: bool = True


class Bounded:
    """A student's server that is asked so many things at once: what waits here does not use up a request's time there."""

    def __init__(self, student: Any, most: int) -> None:
        self._student = student
        self._room = asyncio.Semaphore(most)

    async def complete(self, *args: Any, **named: Any) -> Any:
        """One completion; see `policy.Completer`."""
        async with self._room:
            return await self._student.complete(*args, **named)

    async def score(self, *args: Any, **named: Any) -> Any:
        """Scores of one prompt's candidates; see `constrained.Scorer`."""
        async with self._room:
            return await self._student.score(*args, **named)


class SelfTeacher:
    """The student as its own teacher (LEAP, self-improvement)."""

    def __init__(
        self,
        student: Completer,
        prompter: Prompter,
        config: TeacherConfig,
        domains: Sequence[DomainConfig],
        *,
        seed: int = 0,
        max_length: int = 4096,
        max_tokens: int = 256,
    ) -> None:
        self.student: Any = Bounded(student, config.concurrency)
        self.max_length = max_length  # tokens of the server's context
        self.max_tokens = min(config.max_tokens, max_tokens)  # of an answer: the student could not give a longer one
        self.config = config
        self.hindsight = Hindsight(prompter, domains)
        self.seed = seed
        self.name = config.label

    async def correct(self, episode: Episode, privileged: PrivilegedState) -> Correction:
        """One StepCorrection per step; the policy that played the episode corrects it."""
        began = time.perf_counter()
        check = Check(episode, privileged, self.config.privilege < TELLING)
        steps = range(len(episode.steps))
        verdicts = await asyncio.gather(*(self._if_it_fits(episode, t, privileged, check) for t in steps))
        chosen = choose(
            verdicts,
            episode.steps,
            correct=self.config.correct,
            repeats=self.config.repeats,
        )
        seconds = time.perf_counter() - began
        return Correction(
            episode.id, self.name, self.summary(verdicts), chosen, folder_hash("teacher"), seconds=seconds
        )

    async def judge(self, episode: Episode, privileged: PrivilegedState) -> Judgement:
        """The verdict on the last step, which is not carried out yet; see `live.LiveTeacher`."""
        check = Check(episode, privileged, self.config.privilege < TELLING)
        return Judgement(await self._if_it_fits(episode, len(episode.steps) - 1, privileged, check))

    async def annotate(self, episode: Episode) -> Episode:
        """The demonstration with the base student's reason for each action, asked from what was seen up to it."""
        check = AnnotationCheck(episode)
        return with_reasons(
            episode, await asyncio.gather(*(self._reason(episode, t, check) for t in range(len(episode.steps))))
        )

    async def close(self) -> None:
        """The student's server belongs to the run."""

    def summary(self, verdicts: Sequence[Verdict]) -> str:
        """A sentence on the episode, for people."""
        wrong = sum(verdict.outcome is Outcome.CORRECTED for verdict in verdicts)
        return f"The student, told what is hidden, would act otherwise at {wrong} of {len(verdicts)} steps."

    async def _if_it_fits(self, episode: Episode, t: int, privileged: PrivilegedState, check: Check) -> Verdict:
        try:
            return await self._verdict(episode, t, privileged, check)
        except TooLong as error:
            return Verdict(Outcome.FAILED, detail=str(error))

    async def _verdict(self, episode: Episode, t: int, privileged: PrivilegedState, check: Check) -> Verdict:
        # A correction must be one of the candidate actions: the teacher is told them where the student is not.
        told = () if self.hindsight.prompter.show_candidates else episode.steps[t].candidates
        prompt = self.hindsight.with_last(
            episode, t, "self.j2", privileged=privileged.rendering, privilege=self.config.privilege, candidates=told
        )
        problem = Verdict(Outcome.UNPARSED)
        for attempt in range(TRIES):
            said = await self._say(episode, t, prompt, f"self/{attempt}")
            checked = check(_reading(t, said), (t,))
            if t in checked.verdicts:
                return checked.verdicts[t]
            problem = checked.problems[t]
        return problem

    async def _reason(self, episode: Episode, t: int, check: Check) -> Verdict:
        try:
            reason = await self._why(episode, t, check)
        except TooLong as error:
            return Verdict(Outcome.FAILED, detail=str(error))
        return Verdict(Outcome.AGREED if reason else Outcome.UNPARSED, reason)

    async def _why(self, episode: Episode, t: int, check: Check, action: str | None = None) -> str:
        """The reason for a given action, from what was seen; "" if none passes the check."""
        action = canonical(episode.steps[t]) if action is None else action
        prompt = self.hindsight.with_last(episode, t, "why.j2", action=action)
        for attempt in range(TRIES):
            said = await self._say(episode, t, prompt, f"why/{attempt}")
            if said.reason and said.whole and t in check(_reading(t, Parsed(said.reason, action)), (t,)).verdicts:
                return said.reason
        return ""

    async def _say(self, episode: Episode, t: int, prompt: list[int], what: str) -> Said:
        self._check_length(prompt)
        policy = "base" if episode.policy.startswith("expert:") else episode.policy
        name = f"{episode.id}-teacher/{t}-{what.replace('/', '-')}"
        sampling = Sampling(
            temperature=self.config.temperature,
            max_tokens=min(self.max_tokens, self.max_length - len(prompt)),
            stop=(self.hindsight.prompter.end_id,),
        )
        seed = int(digest(self.seed, name, length=7), 16)
        request = (
            f"{name}-{digest(prompt, length=8)}"  # the same step of an episode that was played again may have another
        )
        completion = await self.student.complete(prompt, sampling, seed, policy, request)
        said = self.hindsight.parse(episode, completion.ids)
        ended = completion.finish != "length"
        text = self.hindsight.prompter.text(completion.ids).rstrip()
        action = said.action if ended or not text.endswith(said.action) else ""  # half an action may be another one
        return Said(said.reason, action, whole=ended or bool(said.action))

    def _check_length(self, prompt: Sequence[int]) -> None:
        room = self.max_length - len(prompt)
        if room < min(self.max_tokens, LEAST_ANSWER):
            raise TooLong(f"the teacher's prompt has {len(prompt)} tokens, the student's context {self.max_length}")


def _reading(t: int, said: Parsed) -> Reading:
    if not said.action:
        return Reading(trouble="the answer held no action.")
    return Reading(drafts={t: Draft(said.reason, said.action)})


def candidates_of(episode: Episode, t: int, actions: Sequence[str]) -> tuple[str, ...]:
    """Those of the actions that are available at step t, each once, in the candidates' spelling."""
    fitting = (meaning(action, episode.steps[t]) for action in actions if action)
    return tuple(dict.fromkeys(action for action in fitting if action))
