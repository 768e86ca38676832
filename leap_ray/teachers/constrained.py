"""The constrained privileged expert as a teacher, and the realizability gap of any teacher.

For each step the student's server scores every candidate action twice, with and without privileged state. The mixture of
`mixture.py` gives the action; the reason is then asked for from what the student had seen, given that action, so it cannot know
more than the student.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from leap_ray.envs.base import PrivilegedState
from leap_ray.policy import Completer, Prompter
from leap_ray.teachers.actions import canonical, has_placeholders
from leap_ray.teachers.choose import Verdict
from leap_ray.teachers.mixture import Array, Gap, Mixture, constrained, gap, normalised
from leap_ray.teachers.prompted import Check
from leap_ray.teachers.self_teacher import SelfTeacher, candidates_of
from leap_ray.types import Correction, Episode, Outcome, Step, digest

DRAWS = 4  # completions drawn per side where an environment lists no candidate actions
_KL = re.compile(r"\bKL (\S+) nats")
NEUTRAL = "Next."  # the reason under which actions are scored: the same for all, so that only the action counts


class Scorer(Completer, Protocol):
    """A student's server that also scores continuations of a prompt."""

    async def score(
        self, prompt_ids: list[int], candidates: Sequence[Sequence[int]], policy: str, key: str
    ) -> list[list[float]]: ...


class ConstrainedTeacher(SelfTeacher):
    """The expert of Definition B.5, over the student's own weights.

    Each step's detail tells the KL that was used, in nats, and the correction's summary their mean.
    """

    student: Scorer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.name = f"constrained/{self.config.delta:g}"

    def summary(self, verdicts: Sequence[Verdict]) -> str:
        """Mean KL of the episode's steps."""
        spent = kl_used(v.detail for v in verdicts)
        mean = f"{np.mean(spent):.4g}" if spent else "none"
        return f"Mean KL to the plain expert {mean} nats (delta {self.config.delta:g})."

    async def _verdict(self, episode: Episode, t: int, privileged: PrivilegedState, check: Check) -> Verdict:
        hidden = self.hindsight.with_last(  # differs from what is shown by the privileged state alone
            episode, t, "self.j2", privileged=privileged.rendering, privilege=self.config.privilege, candidates=()
        )
        self._check_length(hidden)
        shown = episode.prompt_ids(t)
        actions = await self._candidates(episode, t, shown, hidden)
        if not actions:
            return Verdict(Outcome.NO_PLAN, detail="no candidate action was found")
        plain, priv = await asyncio.gather(
            action_scores(self.student, self.hindsight.prompter, shown, actions, _policy(episode), episode.id),
            action_scores(self.student, self.hindsight.prompter, hidden, actions, _policy(episode), episode.id),
        )
        try:
            mixture = constrained(plain, priv, self.config.delta)
        except ValueError as error:  # the server gave none of the actions a probability
            return Verdict(Outcome.FAILED, detail=str(error))
        action = actions[self._choice(mixture, episode, t)]
        detail = f"KL {mixture.kl:.6g} nats, beta {mixture.beta:.4g}, probability {mixture.probabilities.max():.3g}"
        step = episode.steps[t]
        agreed = action == canonical(step) and step.valid
        reason = step.reason if agreed and step.reason else await self._why(episode, t, check, action)
        if not reason:
            return Verdict(Outcome.UNPARSED, detail=f"{detail}; no usable reason was given for {action!r}")
        if action == canonical(step) and not step.valid:
            return Verdict(Outcome.UNAVAILABLE, detail=f"{detail}; {action!r} was tried and not understood")
        return Verdict(Outcome.AGREED if agreed else Outcome.CORRECTED, reason, action, detail)

    async def _candidates(self, episode: Episode, t: int, shown: list[int], hidden: list[int]) -> tuple[str, ...]:
        """The step's own, or, where any text is an action, what is drawn from both sides."""
        listed = episode.steps[t].candidates
        if listed and not has_placeholders(listed):
            return tuple(dict.fromkeys(listed))
        draws = [(prompt, f"draw/{i}") for i, prompt in enumerate([shown] * DRAWS + [hidden] * DRAWS)]
        said = await asyncio.gather(*(self._say(episode, t, prompt, what) for prompt, what in draws))
        own = canonical(episode.steps[t])
        return candidates_of(episode, t, [*(parsed.action for parsed in said), own])

    def _choice(self, mixture: Mixture, episode: Episode, t: int) -> int:
        if self.config.choice == "best":
            return int(mixture.probabilities.argmax())
        rng = random.Random(digest(self.seed, episode.id, t))
        return rng.choices(range(len(mixture.probabilities)), mixture.probabilities.tolist())[0]


def kl_used(details: Iterable[str]) -> list[float]:
    """The KL to the plain expert that each step tells in its detail, in nats."""
    return [float(found.group(1)) for detail in details if (found := _KL.search(detail))]


async def action_scores(
    student: Scorer, prompter: Prompter, prompt: list[int], actions: Sequence[str], policy: str, key: str
) -> list[float]:
    """Log-probability of each action at this prompt, nats, under one neutral reason.

    All completions begin alike, so that their differences are the actions' own.
    """
    completions = [prompter.completion_ids(NEUTRAL, action) for action in actions]
    return [sum(tokens) for tokens in await student.score(prompt, completions, policy, key)]


async def realizability_gap(
    student: Scorer,
    prompter: Prompter,
    pairs: Iterable[tuple[Episode, Correction]],
    policy: str,
    *,
    most: int = 64,
    seed: int = 0,
) -> Gap:
    """How far a teacher is from what the student can do, on the student's own states (Definition 3.1).

    The best student policy is approximated by `policy`, best the one trained on these corrections. A correction is one action, so
    the teacher's distribution puts all its mass there. At most `most` corrected steps are scored, drawn with `seed`.
    """
    states = [(e, w) for e, c in pairs for w in c.steps if w.outcome is Outcome.CORRECTED and e.steps[w.t].new]
    if len(states) > most:
        states = random.Random(seed).sample(states, most)
    choices = [_choices(episode.steps[word.t], word.action) for episode, word in states]

    async def one(episode: Episode, t: int, actions: Sequence[str]) -> Array:
        prompt = episode.prompt_ids(t)
        return normalised(await action_scores(student, prompter, prompt, actions, policy, episode.id))

    students = await asyncio.gather(*(one(e, word.t, actions) for (e, word), actions in zip(states, choices)))
    teachers = [_one_hot(actions, word.action) for (_, word), actions in zip(states, choices)]
    return gap(students, teachers)


def _choices(step: Step, action: str) -> tuple[str, ...]:
    """The actions between which a state is measured: those listed, or, where any text may be one, those that were said too."""
    listed = [candidate for candidate in step.candidates if not has_placeholders((candidate,))]
    open_ended = not step.candidates or len(listed) < len(step.candidates)
    said = [action, canonical(step)] if open_ended or action not in listed else []
    return tuple(dict.fromkeys(filter(None, [*listed, *said])))


def _one_hot(actions: Sequence[str], action: str) -> Array:
    return np.array([float(candidate == action) for candidate in actions])


def _policy(episode: Episode) -> str:
    return "base" if episode.policy.startswith("expert:") else episode.policy
