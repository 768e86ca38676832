"""Gathering: demonstrations, rollouts with their corrections, evaluations. Every record is on disk before it is acted on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from actors.environment import Attempt, EnvironmentPool
from leap_ray.journal import Records
from leap_ray.learning.examples import same_action
from leap_ray.progress import Stage
from leap_ray.tasks import Panel
from leap_ray.teachers.constrained import kl_used
from leap_ray.types import Correction, Episode, Outcome, Sampling, Task, digest, episode_id

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """The episodes of one stage in one domain."""

    pool: EnvironmentPool
    panel: Panel
    seeds: tuple[int, ...]
    max_actions: int
    threshold: float

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

    async def one(attempt: Attempt) -> None:
        if episode_id(attempt.task, attempt.seed, attempt.policy) not in episodes:
            episodes.append(await plan.pool.play(attempt))
        stage.advance(note=success_note(episodes))

    await all_of(attempts, one)


async def demonstrate_all(plan: Plan, episodes: Records[Episode], teacher: Any, annotate: bool, stage: Stage) -> None:
    """Expert episodes of every task, their reasons written by the teacher if `annotate`, tokenised.

    A seed whose episode is step by step that of an earlier one (an expert need not depend on the seed) is left out, before
    anybody is paid for its reasons: `repeated` counts them.
    """

    async def one(task: Task) -> None:
        contents: set[str] = set()
        for seed in plan.seeds:
            key = episode_id(task, seed, "expert:demonstrator")
            episode = episodes.by_key.get(key) or await plan.pool.demonstrate(task, seed, plan.max_actions)
            content = _content(episode, annotate)
            if key not in episodes and content not in contents:
                if annotate:
                    episode = await teacher.annotate.remote(episode)
                episodes.append(await plan.pool.tokenize(episode))
            contents.add(content)
            stage.advance(note=success_note(episodes))

    await all_of(plan.panel.tasks, one)


def repeated(plan: Plan, episodes: Records[Episode]) -> int:
    """How many of a finished plan's demonstrations were left out as the same over again."""
    return len(plan.panel) * len(plan.seeds) - len(episodes)


def _content(episode: Episode, annotate: bool) -> str:
    """Names what a demonstration teaches; the expert's own reasons are no part of it where the teacher writes others."""
    return digest([(s.observation, s.candidates, s.action, "" if annotate else s.reason) for s in episode.steps])


async def correct_all(
    plan: Plan,
    attempts: Sequence[Attempt],
    episodes: Records[Episode],
    corrections: Records[Correction],
    teacher: Any,
    privileged: bool,
    stage: Stage,
) -> None:
    """Rollouts, each failed one corrected while others still play (`privileged`: the teacher is sent privileged state).

    Corrections of an interrupted stage that lack a word for want of money or of an answer are asked for once more.
    """
    corrections.drop(unanswered)

    async def one(attempt: Attempt) -> None:
        key = episode_id(attempt.task, attempt.seed, attempt.policy)
        if key not in episodes:
            episodes.append(await plan.pool.play(attempt))
        episode = episodes.by_key[key]
        if episode.score <= plan.threshold and key not in corrections:
            state = await plan.pool.privileged(attempt.task) if privileged else None
            corrections.append(await teacher.correct.remote(episode, state))
        stage.advance(note=f"{success_note(episodes)}, {len(corrections)} corrected")

    await all_of(attempts, one)


def unanswered(correction: Correction) -> bool:
    """Whether the teacher was not asked, or could not be reached, about a step: another time it may be."""
    return any(word.outcome in (Outcome.BUDGET, Outcome.FAILED) for word in correction.steps)


def outcomes(episodes: Iterable[Episode], corrections: Iterable[Correction], threshold: float) -> dict[str, Any]:
    """What became of every failed episode and of each of its steps; `kl`: the constrained expert's mean, in nats.

    `own_action`: how many of the corrected steps keep the student's action, with the teacher's reason; they are no pairs.
    """
    failed = [e for e in episodes if e.score <= threshold]
    words = {c.episode: c for c in corrections}
    steps = Counter(str(word.outcome) for e in failed for word in words[e.id].steps)
    spent = kl_used(word.detail for e in failed for word in words[e.id].steps)
    corrected = sum(any(word.outcome == "corrected" for word in words[e.id].steps) for e in failed)
    own = sum(
        word.outcome is Outcome.CORRECTED and same_action(e.steps[word.t], word.action)
        for e in failed
        for word in words[e.id].steps
    )
    return {
        "failed": len(failed),
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
