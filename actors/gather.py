"""Gathering: demonstrations, rollouts with their corrections, evaluations. Every record is on disk before it is acted on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayTaskError

from actors.environment import Attempt, EnvironmentPool, TaughtAttempt
from actors.placement import soon, unwrap
from leap_ray.config import TeacherConfig
from leap_ray.errors import EnvironmentFault, UserError
from leap_ray.journal import Records
from leap_ray.learning.examples import same_action
from leap_ray.progress import Stage
from leap_ray.tasks import Panel
from leap_ray.teachers.constrained import kl_used
from leap_ray.types import Correction, Episode, LostEpisode, Outcome, Sampling, Task, digest, episode_id

T = TypeVar("T")
DEMONSTRATOR = "expert:demonstrator"  # the policy of demonstrations
ANSWER_SECONDS = 3600.0
BATCH_SECONDS = 25 * 3600.0  # a Message Batch may take a day
LACKING = (Outcome.BUDGET, Outcome.FAILED)  # what asking another time may mend


@dataclass(frozen=True)
class Plan:
    """The episodes of one stage in one domain."""

    pool: EnvironmentPool
    panel: Panel
    seeds: tuple[int, ...]
    max_actions: int
    threshold: float
    max_lost: float = 0.05  # as RolloutConfig.max_lost

    def attempts(self, policy: str, sampling: Sampling, max_length: int) -> list[Attempt]:
        """One attempt per task and seed, longest-lived resources first: in panel order."""
        return [
            Attempt(task, seed, policy, sampling, self.max_actions, max_length)
            for seed in self.seeds
            for task in self.panel.tasks
        ]


async def all_of(items: Iterable[T], work: Callable[[T], Awaitable[Any]]) -> None:
    """`work` on every item at once. The first error ends the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(work(item))  # type: ignore[arg-type]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def play_all(plan: Plan, attempts: Sequence[Attempt], episodes: Records[Episode], stage: Stage) -> None:
    """Play the attempts that are not in the journal yet."""
    with Losses(plan, episodes) as losses:

        async def one(attempt: Attempt) -> None:
            await losses.played(attempt)
            stage.advance(note=success_note(episodes))

        await all_of(attempts, one)


class Losses:
    """The episodes of a stage that faulty machines cost: kept beside the others, counted, not tried again by every resume.

    Raises UserError where they are more than `max_lost` of the plan's.
    """

    def __init__(self, plan: Plan, episodes: Records[Episode]) -> None:
        self.plan = plan
        self.episodes = episodes
        self.records = lost_episodes(episodes)

    def __enter__(self) -> Losses:
        return self

    def __exit__(self, *_: object) -> None:
        self.records.close()

    async def played(self, attempt: Attempt) -> Episode | None:
        """The attempt's episode, played now if it is in no journal yet; None if it is lost."""
        key = episode_id(attempt.task, attempt.seed, attempt.policy)
        if key not in self.episodes:
            episode = await self.kept(partial(self.plan.pool.play, attempt), attempt.task, attempt.seed, attempt.policy)
            if episode:
                self.episodes.append(episode)
        return self.episodes.by_key.get(key)

    async def kept(self, work: Callable[[], Awaitable[T]], task: Task, seed: int, policy: str) -> T | None:
        """What the work gives, or None where the episode was, or is now, lost."""
        key = episode_id(task, seed, policy)
        if key in self.records:
            return None
        try:
            return await work()
        except EnvironmentFault as fault:
            self.records.append(LostEpisode(key, task, seed, policy, str(fault)))
            self._check(fault)
            return None

    def _check(self, fault: EnvironmentFault) -> None:
        count, most = len(self.records), self.plan.max_lost * len(self.plan.panel) * len(self.plan.seeds)
        if count > max(1.0, most):
            raise UserError(
                f"{count} episodes were lost to faults that are not the student's (rollout.max_lost: {self.plan.max_lost:g}), "
                f"the last one: {fault}; mend that, delete {self.records.path} to try them again, and `leap-ray resume` goes on"
            )


def lost_episodes(episodes: Records[Episode]) -> Records[LostEpisode]:
    """The journal of lost episodes beside that of the others."""
    return Records(episodes.path.with_name("lost.jsonl"), LostEpisode, lambda lost: lost.episode)


class TeacherCalls:
    """Waits for a teacher's calls for as long as some of them come back.

    A limit on one call would count the time that it waits for its turn. `seconds` without any of them coming back is the limit.
    """

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    async def wait(self, call: Awaitable[T], what: str) -> T:
        """The call's result. Raises UserError where the teacher is stuck or dead, or the call's own UserError."""
        task, began = asyncio.ensure_future(call), time.monotonic()
        try:
            while not (await asyncio.wait({task}, timeout=max(0.0, self._left(began))))[0]:
                if self._left(began) <= 0:
                    raise UserError(
                        f"the teacher has not answered for {self.seconds:.0f} s (asked for {what}): it is stuck, or needs a "
                        "larger teacher.answer_timeout; `leap-ray resume RUN` goes on"
                    )
            self._last = time.monotonic()
            return task.result()
        except RayTaskError as error:
            raise unwrap(error) from error
        except RayActorError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"the teacher died and could not be started again: {reason}; `leap-ray resume RUN` goes on"
            ) from error
        finally:
            task.cancel()

    def _left(self, began: float) -> float:
        return max(self._last, began) + self.seconds - time.monotonic()


def answer_seconds(config: TeacherConfig) -> float:
    """The limit on the time in which a teacher brings nothing back."""
    return config.answer_timeout + (BATCH_SECONDS if config.kind == "claude" and config.mode == "batch" else 0.0)


async def demonstrate_all(
    plan: Plan,
    episodes: Records[Episode],
    teacher: Any,
    annotate: bool,
    stage: Stage,
    seconds: float = ANSWER_SECONDS,
) -> None:
    """Expert episodes of every task, their reasons written by the teacher if `annotate`, tokenised.

    A seed whose episode is step by step that of an earlier one (an expert need not depend on the seed) is left out, before
    anybody is paid for its reasons: `repeated` counts them. Those of an interrupted stage whose reasons the teacher was not
    asked for, or could not be, are made once more.
    """
    calls = TeacherCalls(seconds)
    if annotate:
        episodes.drop(lambda episode: any(outcome in LACKING for outcome in episode.annotations))

    with Losses(plan, episodes) as losses:

        async def one(task: Task) -> None:
            contents: set[str] = set()
            for seed in plan.seeds:
                key = episode_id(task, seed, DEMONSTRATOR)
                play = partial(plan.pool.demonstrate, task, seed, plan.max_actions)
                episode = episodes.by_key.get(key) or await losses.kept(play, task, seed, DEMONSTRATOR)
                content = _content(episode, annotate) if episode else ""
                if episode and key not in episodes and content not in contents:
                    if annotate:
                        episode = await calls.wait(teacher.annotate.remote(episode), f"the reasons of {task.id}")
                    episodes.append(await plan.pool.tokenize(episode))
                contents.add(content)
                stage.advance(note=success_note(episodes))

        await all_of(plan.panel.tasks, one)


def repeated(plan: Plan, episodes: Records[Episode]) -> int:
    """How many of a finished plan's demonstrations were left out as the same over again."""
    with lost_episodes(episodes) as lost:
        return len(plan.panel) * len(plan.seeds) - len(episodes) - len(lost)


def _content(episode: Episode, annotate: bool) -> str:
    """Names what a demonstration teaches; the expert's own reasons are no part of it where the teacher writes others."""
    return digest([(s.observation, s.candidates, s.action, "" if annotate else s.reason) for s in episode.steps])


async def taught_all(
    plan: Plan,
    attempts: Sequence[TaughtAttempt],
    episodes: Records[Episode],
    corrections: Records[Correction],
    stage: Stage,
) -> None:
    """Rollouts with a teacher at the student's side: each comes back with its correction.

    The correction is written first: an episode that is there has one. Episodes of an interrupted stage where the teacher's word
    is lacking for want of money or of an answer are played once more, since it would have acted there.
    """
    lacking = {c.episode for c in corrections if unanswered(c)}
    episodes.drop(lambda episode: episode.id in lacking or episode.id not in corrections)
    corrections.drop(lambda correction: not _belongs(correction, episodes))

    with Losses(plan, episodes) as losses:

        async def one(taught: TaughtAttempt) -> None:
            attempt = taught.attempt
            if episode_id(attempt.task, attempt.seed, attempt.policy) not in episodes:
                play = partial(plan.pool.play_taught, taught)
                if found := await losses.kept(play, attempt.task, attempt.seed, attempt.policy):
                    episode, correction = found
                    corrections.append(correction)
                    episodes.append(episode)
            stage.advance(note=f"{success_note(episodes)}, {100 * intervened(episodes):.0f} % of steps by the teacher")

        await all_of(attempts, one)


def intervened(episodes: Iterable[Episode]) -> float:
    """Share of the steps at which a teacher acted in the student's place."""
    steps = [step for episode in episodes for step in episode.steps]
    return sum(step.proposal is not None for step in steps) / len(steps) if steps else 0.0


async def correct_all(
    plan: Plan,
    attempts: Sequence[Attempt],
    episodes: Records[Episode],
    corrections: Records[Correction],
    teacher: Any,
    privileged: bool,
    stage: Stage,
    seconds: float = ANSWER_SECONDS,
) -> None:
    """Rollouts, each failed one corrected while others still play (`privileged`: the teacher is sent privileged state).

    Corrections of an interrupted stage that lack a word for want of money or of an answer are asked for once more, and those
    of an episode whose record was lost. `seconds`: limit on the time in which the teacher brings nothing back.
    """
    calls = TeacherCalls(seconds)
    corrections.drop(lambda correction: unanswered(correction) or not _belongs(correction, episodes))

    with Losses(plan, episodes) as losses:

        async def one(attempt: Attempt) -> None:
            task, episode = attempt.task, await losses.played(attempt)
            if episode and episode.score <= plan.threshold and episode.id not in corrections:
                state = None
                if privileged:
                    state = await soon(plan.pool.privileged(task), f"privileged state of {task.id}", seconds)
                call = teacher.correct.remote(episode, state)
                corrections.append(await calls.wait(call, f"the correction of {task.id}"))
            stage.advance(note=f"{success_note(episodes)}, {len(corrections)} corrected")

        await all_of(attempts, one)


def unanswered(correction: Correction) -> bool:
    """Whether the teacher was not asked, or could not be reached, about a step: another time it may be."""
    return any(word.outcome in LACKING for word in correction.steps)


def _belongs(correction: Correction, episodes: Records[Episode]) -> bool:
    """Whether it is of an episode that is there: one that was set aside is played again, and may be another."""
    episode = episodes.by_key.get(correction.episode)
    return episode is not None and len(episode.steps) == len(correction.steps)


def check_answered(answers: Sequence[Sequence[tuple[Outcome, str]]], config: TeacherConfig, run: Path) -> None:
    """Raises UserError where a stage lacks so many of the teacher's answers that it is not done.

    `answers`: of each episode that the teacher was given, the outcome of every step and its detail. One episode without an answer
    is never too many, unless it is all there are; a budget that was reached always is. With `max_failed` 1 any stage is done.
    """
    lost = [sum(outcome in LACKING for outcome, _ in words) / len(words) for words in answers if words]
    if not any(lost) or config.max_failed >= 1:
        return
    lacking = [word for words in answers for word in words if word[0] in LACKING]
    count = f"{sum(share > 0 for share in lost)} of {len(lost)} episodes have no answer of the teacher"
    again = f"`leap-ray resume {run}"
    if any(outcome is Outcome.BUDGET for outcome, _ in lacking):
        budget = config.budget_dollars or 0.0
        raise UserError(
            f"teacher.budget_dollars is spent ({budget:g} dollars): {count}, and the stage is not done. {again} "
            f"--teacher.budget-dollars {max(1.0, 2 * budget):g}` asks for those alone; --teacher.max-failed 1 does without them"
        )
    allowed = max(1.0, config.max_failed * len(lost)) if config.max_failed and len(lost) > 1 else 0.0
    if sum(lost) > allowed:
        most = Counter(detail for _, detail in lacking).most_common(1)[0][0]
        raise UserError(
            f"{count} (most often: {most[:200]}), more than teacher.max_failed allows ({config.max_failed:g}), and the stage is "
            f"not done. Once this is mended, {again}` asks for those alone; --teacher.max-failed 1 does without them"
        )


def outcomes(episodes: Iterable[Episode], corrections: Iterable[Correction], threshold: float) -> dict[str, Any]:
    """What became of every episode that a teacher was given and of each of its steps; `kl`: the constrained expert's mean, nats.

    `own_action`: how many of the corrected steps keep the student's action, with the teacher's reason; they are no pairs.
    """
    episodes, words = list(episodes), {c.episode: c for c in corrections}
    given = [e for e in episodes if e.id in words]
    steps = Counter(str(word.outcome) for e in given for word in words[e.id].steps)
    spent = kl_used(word.detail for e in given for word in words[e.id].steps)
    corrected = sum(any(word.outcome == "corrected" for word in words[e.id].steps) for e in given)
    own = sum(
        word.outcome is Outcome.CORRECTED and same_action(e.steps[word.t].own, word.action)
        for e in given
        for word in words[e.id].steps
    )
    return {
        "failed": sum(e.score <= threshold for e in episodes),
        "corrected_episodes": corrected,
        "steps": sum(steps.values()),
        "outcomes": dict(sorted(steps.items())),
        "own_action": own,
        "dollars": sum(c.dollars for c in words.values()),
        **({"kl": fmean(spent)} if spent else {}),
    }


def success_note(episodes: Records[Episode]) -> str:
    """How many of the episodes so far succeeded, in words."""
    won = sum(e.success for e in episodes)
    return f"{won}/{len(episodes)} won"
