"""The symbolic teacher: a domain's own expert, asked before every action of a replayed episode. Free, fast, deterministic.

It serves every domain whose `TextEnv.expert("teacher")` exists. The episode is replayed in the teacher's own environment, and
the replay is held against the record: where an observation differs, no later step is judged, because the state is not the
student's. `privilege` is the dial of Definition B.5 in rule form: 0 plain, 0.5 realizable, 1 reveals everything.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from leap_ray.envs.base import Advice, Expert, PrivilegedState, TextEnv
from leap_ray.errors import UserError
from leap_ray.teachers.actions import canonical, fit
from leap_ray.teachers.choose import Correct, Verdict, choose
from leap_ray.types import Correction, Episode, Outcome, Step


class SymbolicTeacher:
    """Corrects and annotates the episodes of one domain.

    The environment is used by one thread, one episode at a time; calls may overlap and wait for each other.
    `env` belongs to the teacher from now on; `close` closes it.
    """

    def __init__(
        self,
        env: TextEnv,
        *,
        privilege: float = 0.5,
        correct: Correct = "all",
        repeats: int | None = None,
        seed: int = 0,
    ) -> None:
        self.env = env
        self.privilege = privilege
        self.name = f"symbolic/{privilege:g}"
        self.seed = seed
        self._choice: dict[str, Any] = {"correct": correct, "repeats": repeats}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="symbolic-teacher")

    async def correct(self, episode: Episode, privileged: PrivilegedState | None = None) -> Correction:
        """One StepCorrection per step. `privileged` is not read: the environment's own expert holds what it needs.

        Raises PrivilegeError for an episode outside training; every other trouble is an outcome of the steps.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.correct_now, episode)

    async def annotate(self, episode: Episode) -> Episode:
        """The demonstration with its demonstrator's reasons; a step where the demonstrator would do otherwise keeps its own."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.annotate_now, episode)

    async def close(self) -> None:
        """Close the environment, on the thread that used it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.env.close)
        self._thread.shutdown(wait=False)

    def correct_now(self, episode: Episode) -> Correction:
        """`correct`, in the calling thread."""
        started = time.perf_counter()
        advices, steps, trouble = self._replay(episode, "teacher", self.seed)
        verdicts = [judge(step, advice) for step, advice in zip(steps, advices)]
        verdicts += [Verdict(Outcome.FAILED, detail=trouble)] * (len(episode.steps) - len(verdicts))
        words = choose(verdicts, [*steps, *episode.steps[len(steps) :]], **self._choice)
        seconds = time.perf_counter() - started
        return Correction(episode.id, self.name, summarise(verdicts), words, seconds=seconds)

    def annotate_now(self, episode: Episode) -> Episode:
        """`annotate`, in the calling thread. Raises UserError if the demonstration cannot be replayed."""
        advices, read, trouble = self._replay(episode, "demonstrator", episode.seed)
        if trouble:
            raise UserError(f"demonstration of {episode.task.id!r}: {trouble}")
        steps, outcomes = [], []
        for step, advice in zip(read, advices):
            same = advice is not None and advice.action == canonical(step) and bool(advice.reason)
            steps.append(dataclasses.replace(step, reason=advice.reason) if advice and same else step)
            outcomes.append(Outcome.CORRECTED if same else Outcome.SKIPPED if advice else Outcome.NO_PLAN)
        return dataclasses.replace(episode, steps=tuple(steps), annotations=tuple(outcomes))

    def _replay(self, episode: Episode, kind: str, seed: int) -> tuple[list[Advice | None], list[Step], str]:
        """(the expert's advice before each step, the steps as the environment read them, "").

        Where something stops the replay: as many as could be had, and what it was.
        """
        words: list[Advice | None] = []
        read: list[Step] = []
        try:
            observation, _ = self.env.reset(seed=episode.seed, options={"task": episode.task})
            privilege = self.privilege if kind == "teacher" else 0.5
            expert = self.env.expert(kind, privilege=privilege, seed=seed)
            for t, step in enumerate(episode.steps):
                if observation != step.observation:
                    trouble = f"the replay differs from the record at step {t}: {_difference(observation, step)}"
                    return words, read, trouble
                words.append(explained(expert, expert.advise(), step))
                read.append(step)
                observation, _, _, _, info = self.env.step(step.action)
                read[t] = dataclasses.replace(step, spelling=step.spelling or info.get("action", ""))
        except UserError:
            raise
        except Exception as error:  # an expert's or engine's fault costs this episode's steps, never the run
            return words, read, f"the replay stopped at step {len(words)}: {type(error).__name__}: {error}"
        return words, read, ""


def judge(step: Step, advice: Advice | None) -> Verdict:
    """The verdict on one step from the expert's advice on the state before it."""
    if advice is None:
        return Verdict(Outcome.NO_PLAN)
    if is_agreed(step, advice):
        return Verdict(Outcome.AGREED, advice.reason, canonical(step))
    if fit(advice.action, step.candidates) is None:
        return Verdict(Outcome.UNAVAILABLE, detail=f"{advice.action!r} is none of the step's candidate actions")
    if canonical(step) == advice.action:
        return Verdict(Outcome.UNAVAILABLE, detail=f"the environment did not accept {advice.action!r}")
    return Verdict(Outcome.CORRECTED, advice.reason, advice.action)


def is_agreed(step: Step, advice: Advice) -> bool:
    """Whether the student's action was understood and is no mistake here."""
    own = canonical(step)
    return bool(own) and step.valid and (own == advice.action or own in advice.acceptable)


def explained(expert: Expert, advice: Advice | None, step: Step) -> Advice | None:
    """The advice with the reason that fits the student's own acceptable action, where it chose otherwise.

    An expert may offer `explain(action) -> str`; without it the student's own words stand, because the expert's reason
    argues for another action.
    """
    if advice is None or canonical(step) == advice.action or not is_agreed(step, advice):
        return advice
    explain = getattr(expert, "explain", None)
    return dataclasses.replace(advice, reason=explain(canonical(step)) if explain else step.reason)


def _difference(observation: str, step: Step) -> str:
    at = next((i for i, (a, b) in enumerate(zip(observation, step.observation)) if a != b), None)
    at = min(len(observation), len(step.observation)) if at is None else at
    start = max(0, at - 20)
    return f"{observation[start : at + 40]!r} in place of {step.observation[start : at + 40]!r}"


def summarise(verdicts: list[Verdict]) -> str:
    """The mistakes in one sentence, for people."""
    wrong = [t for t, v in enumerate(verdicts) if v.outcome is Outcome.CORRECTED]
    if not wrong:
        return f"No mistake among {len(verdicts)} steps that the expert could better."
    return f"{len(wrong)} of {len(verdicts)} steps were mistakes, the first at step {wrong[0] + 1}."
