"""Teachers that are asked in words: Claude, or any model behind an OpenAI-compatible server (LEAP, section 3.2).

One call for a whole episode, or one for each step. What comes back is checked step by step: present, an available action,
no leak. What fails the check is asked again, once, with what was wrong; what fails it again is left out under its reason.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from leap_ray.config import TeacherConfig
from leap_ray.envs.base import PrivilegedState
from leap_ray.prompts import folder_hash, render
from leap_ray.teachers.actions import canonical, fit, has_placeholders, meaning
from leap_ray.teachers.answers import Draft, Reading, enumerable, read, schema
from leap_ray.teachers.calls import Answer, Ask, Request, Stop, Turn, printable
from leap_ray.teachers.choose import Verdict, choose
from leap_ray.teachers.leaks import find_leaks, seen_until
from leap_ray.teachers.live import Judgement
from leap_ray.types import Correction, Episode, Outcome

MOST_SECRETS = 200  # of later observations, the nearest first
TELLING_LINE = re.compile(
    r"\d{2}|[\w.]+/\w|\b\w+\.[a-z]{1,4}\b|(?:\b[A-Z][a-z]+\b.*){4}"
)  # an id, a path, a file, a product's title
TELLING = 0.75  # from this much privilege on a reason may say what it knows: leaks are not looked for
_OUTCOMES = {Stop.REFUSAL: Outcome.REFUSED, Stop.FAILED: Outcome.FAILED, Stop.BUDGET: Outcome.BUDGET}


@dataclasses.dataclass(frozen=True)
class Checked:
    """Verdicts of the steps that passed, problems (step → what was wrong, for the repair; with its outcome) of the others."""

    verdicts: dict[int, Verdict]
    problems: dict[int, Verdict]


@dataclasses.dataclass
class Talk:
    """One conversation about an episode: what is sent, what came back, what it cost."""

    system: str
    turns: tuple[Turn, ...]
    steps: tuple[int, ...]  # the steps it is to correct
    step: int | None = None  # the one step of a per-step call
    dollars: float = 0.0
    summary: str = ""


class PromptedTeacher:
    """Asks a model through a desk. `facts` are sentences about each domain, by name."""

    def __init__(self, ask: Ask, config: TeacherConfig, facts: Mapping[str, str]) -> None:
        self.desk = ask
        self.config = config
        self.facts = dict(facts)
        self.name = config.label

    async def correct(self, episode: Episode, privileged: PrivilegedState) -> Correction:
        """One StepCorrection per step of the episode."""
        began = time.perf_counter()
        text = render_episode(episode, privileged)
        talks = self._talks(episode, [text] * len(episode.steps), self._system(episode, "system.j2"))
        check = Check(episode, privileged, self.config.privilege < TELLING)
        verdicts = await self._hold(episode, talks, check, "correct")
        steps = choose(
            [verdicts[t] for t in range(len(episode.steps))],
            episode.steps,
            correct=self.config.correct,
            repeats=self.config.repeats,
        )
        return Correction(
            episode.id,
            self.name,
            " ".join(talk.summary for talk in talks if talk.summary),
            steps,
            prompt_hash=folder_hash("teacher"),
            seconds=time.perf_counter() - began,
            dollars=sum(talk.dollars for talk in talks),
        )

    async def judge(self, episode: Episode, privileged: PrivilegedState) -> Judgement:
        """The verdict on the last step, which is not carried out yet, by a call of its own; see `live.LiveTeacher`."""
        text = render_episode(episode, privileged, unfinished=True)
        talk = _step_talk(self._system(episode, "system.j2", live=True), text, len(episode.steps) - 1)
        check = Check(episode, privileged, self.config.privilege < TELLING)
        verdicts = await self._talk(episode, talk, check, "correct")
        return Judgement(verdicts[len(episode.steps) - 1], talk.dollars)

    async def annotate(self, episode: Episode) -> Episode:
        """The demonstration with a reason for each step; where none could be had the demonstrator's own stays.

        One step at a time the model is shown nothing later than the step; in one call for all steps it sees the whole
        demonstration. What only later observations show is a secret: a reason that knows the future is asked for again.
        """
        seen = [episode.steps[: t + 1] for t in range(len(episode.steps))]
        texts = [render("teacher/demonstration.j2", instruction=episode.instruction, steps=steps) for steps in seen]
        talks = self._talks(episode, texts, self._system(episode, "annotate_system.j2"))
        verdicts = await self._hold(episode, talks, AnnotationCheck(episode), "annotate")
        return with_reasons(episode, [verdicts[t] for t in range(len(episode.steps))])

    async def totals(self) -> dict[str, Any]:
        """The desk's sums: calls, tokens, dollars."""
        return await self.desk.totals()

    async def close(self) -> None:
        await self.desk.close()

    def _system(self, episode: Episode, template: str, live: bool = False) -> str:
        """What the model is told to do. `live`: the episode is being played, and its last step is asked about."""
        return render(
            f"teacher/{template}",
            live=live,
            per_step=live or self.config.per == "step",
            privilege=self.config.privilege,
            domain_facts=self.facts.get(episode.task.domain, ""),
            placeholders=any(has_placeholders(step.candidates) for step in episode.steps),
        ).strip()

    def _talks(self, episode: Episode, texts: Sequence[str], system: str) -> list[Talk]:
        """The conversations to hold. `texts`: what is shown for each step; the last of them is for all."""
        count = len(texts)
        if not count:
            return []
        if self.config.per != "step":
            ask = render("teacher/ask_all.j2", count=count)
            return [Talk(system, (Turn("user", f"{texts[-1]}\n{ask}".strip()),), tuple(range(count)))]
        return [_step_talk(system, text, t, cached=text == texts[0]) for t, text in enumerate(texts)]

    async def _hold(self, episode: Episode, talks: list[Talk], check: Check, purpose: str) -> dict[int, Verdict]:
        """Hold all talks. Live, the first goes ahead alone, so that the others find its prompt in the provider's cache."""
        verdicts: dict[int, Verdict] = {}
        ahead = 1 if self.config.mode == "live" else 0
        for talk in talks[:ahead]:
            verdicts |= await self._talk(episode, talk, check, purpose)
        for more in await asyncio.gather(*(self._talk(episode, talk, check, purpose) for talk in talks[ahead:])):
            verdicts |= more
        return verdicts

    async def _talk(self, episode: Episode, talk: Talk, check: Check, purpose: str) -> dict[int, Verdict]:
        """Ask, check, and ask once more for what did not pass."""
        answer = await self._ask(episode, talk, purpose)
        if answer.stop in _OUTCOMES:
            return {t: Verdict(_OUTCOMES[answer.stop], detail=answer.detail) for t in talk.steps}
        reading = read(answer.text, step=talk.step)
        talk.summary = reading.summary
        checked = check(reading, talk.steps)
        if not checked.problems:
            return checked.verdicts
        readable = not reading.trouble
        numbered = [(t + 1, verdict.detail) for t, verdict in checked.problems.items()]
        complaint = render("teacher/repair.j2", readable=readable, trouble=reading.trouble, problems=numbered).strip()
        talk.turns = (*talk.turns, Turn("assistant", answer.text or "(nothing)"), Turn("user", complaint))
        return checked.verdicts | await self._repair(episode, talk, check, checked.problems)

    async def _repair(
        self, episode: Episode, talk: Talk, check: Check, problems: dict[int, Verdict]
    ) -> dict[int, Verdict]:
        answer = await self._ask(episode, talk, "repair")
        if answer.stop in _OUTCOMES:
            return problems
        reading = read(answer.text, step=talk.step)
        talk.summary = talk.summary or reading.summary
        checked = check(reading, tuple(problems))
        return checked.problems | checked.verdicts

    async def _ask(self, episode: Episode, talk: Talk, purpose: str) -> Answer:
        actions = tuple(printable(action) for action in enumerable(episode, self.config.enumerate_up_to))
        request = Request(
            model=self.config.model,
            system=printable(talk.system),
            turns=tuple(dataclasses.replace(turn, text=printable(turn.text)) for turn in talk.turns),
            max_tokens=self.config.max_tokens,
            schema=schema(actions, per_step=talk.step is not None),
            effort=self.config.effort,
            cache_system=talk.step is not None or not actions,
            purpose=purpose,
            episode=episode.id,
        )
        answer = await self.desk.ask(request)
        talk.dollars += answer.dollars
        return answer


def _step_talk(system: str, text: str, t: int, cached: bool = False) -> Talk:
    """The conversation about one step. `cached`: other steps' begin with the same text."""
    ask = render("teacher/ask_step.j2", number=t + 1).strip()
    return Talk(system, (Turn("user", text.strip(), cached=cached), Turn("user", ask)), (t,), t)


def with_reasons(episode: Episode, verdicts: Sequence[Verdict]) -> Episode:
    """The demonstration with the reasons of AGREED verdicts, and what became of every step's reason."""
    pairs = list(zip(episode.steps, verdicts, strict=True))
    written = [verdict.outcome is Outcome.AGREED and bool(verdict.reason) for _, verdict in pairs]
    steps = [dataclasses.replace(s, reason=v.reason) if new else s for (s, v), new in zip(pairs, written)]
    outcomes = (
        Outcome.CORRECTED if new else Outcome.UNPARSED if v.outcome is Outcome.AGREED else v.outcome
        for (_, v), new in zip(pairs, written)
    )
    return dataclasses.replace(episode, steps=tuple(steps), annotations=tuple(outcomes))


class Check:
    """Judges a correction's words on each step: read, available, clean of leaks."""

    def __init__(self, episode: Episode, privileged: PrivilegedState, look_for_leaks: bool) -> None:
        self.episode = episode
        self.privileged = privileged
        self.look_for_leaks = look_for_leaks

    def __call__(self, reading: Reading, steps: tuple[int, ...]) -> Checked:
        verdicts, problems = {}, {}
        for t in steps:
            verdict = self._verdict(t, reading.drafts.get(t), reading.trouble)
            (verdicts if verdict.outcome in (Outcome.CORRECTED, Outcome.AGREED) else problems)[t] = verdict
        return Checked(verdicts, problems)

    def _verdict(self, t: int, draft: Draft | None, trouble: str) -> Verdict:
        if draft is None:
            return Verdict(Outcome.UNPARSED, detail=trouble or "it is missing from your answer.")
        if not draft.reason:
            return Verdict(Outcome.UNPARSED, detail="its reason is empty.")
        step = self.episode.steps[t]
        action = meaning(draft.action, step)
        if action is None:
            shown = repr(draft.action[:100])
            return Verdict(Outcome.UNAVAILABLE, detail=f"{shown} is not one of the actions available at this step.")
        if action == canonical(step) and not step.valid:
            return Verdict(Outcome.UNAVAILABLE, detail=f"{action!r} was tried at this step and not understood.")
        if detail := self._revealed(t, draft.reason, action):
            return Verdict(Outcome.REVEALS, action=action, detail=detail)
        return Verdict(Outcome.AGREED if action == canonical(step) else Outcome.CORRECTED, draft.reason, action)

    def _revealed(self, t: int, reason: str, action: str) -> str:
        """What the reason gives away, or the words that fill an action's placeholder (a hidden product's name)."""
        step = self.episode.steps[t]
        filled = has_placeholders(step.candidates) and action not in step.candidates
        for what, text in (("reason", reason), ("action", action if filled else "")):
            if self.look_for_leaks and (leaks := find_leaks(text, seen_until(self.episode, t), self.privileged)):
                named = "; ".join(repr(leak.words) for leak in leaks)
                return f"its {what} says what the student cannot know at this step: {named}."
        return ""


class AnnotationCheck(Check):
    """Judges a demonstration's reasons: the action is the one taken, and nothing is named that is seen only later."""

    def __init__(self, episode: Episode) -> None:
        super().__init__(episode, PrivilegedState(episode.task.domain, episode.task.id, ""), True)
        self._shown = [*(step.observation for step in episode.steps), episode.final_observation]

    def _verdict(self, t: int, draft: Draft | None, trouble: str) -> Verdict:
        self.privileged = future(self.privileged, self._shown[t + 1 :])
        verdict = super()._verdict(t, draft, trouble)
        taken = canonical(self.episode.steps[t])
        if verdict.outcome is Outcome.CORRECTED and fit(verdict.action, (taken,)) is None:
            return Verdict(Outcome.UNAVAILABLE, detail=f"the action was {taken!r} and does not change.")
        return Verdict(Outcome.AGREED, verdict.reason, taken) if verdict.reason else verdict


def future(state: PrivilegedState, observations: Sequence[str]) -> PrivilegedState:
    """The state with what these observations show as its secrets: instances (`apple 3`), where they lie, and telling lines."""
    secrets: dict[str, None] = {}
    targets: dict[str, str] = {}
    for text in observations:
        names = re.findall(r"\b[a-z]+ \d+\b", text.casefold())
        lines = (line.strip() for line in text.splitlines())
        secrets |= dict.fromkeys([*names, *(line for line in lines if TELLING_LINE.search(line))])
        for place, things in re.findall(r"\b(?:on|in) the ([a-z]+ \d+), you see ([^.]*)", text.casefold()):
            targets |= dict.fromkeys(re.findall(r"\b[a-z]+ \d+\b", things), place)
    return dataclasses.replace(state, secrets=tuple(secrets)[:MOST_SECRETS], facts={"targets": targets})


def render_episode(episode: Episode, privileged: PrivilegedState, unfinished: bool = False) -> str:
    """The attempt and the privileged state, as a teacher reads them. `unfinished`: its last step is not carried out yet."""
    return render(
        "teacher/episode.j2",
        instruction=episode.instruction,
        privileged=privileged.rendering,
        steps=episode.steps,
        outcome="unfinished" if unfinished else "success" if episode.success else "failure",
        final_observation=episode.final_observation,
    )
