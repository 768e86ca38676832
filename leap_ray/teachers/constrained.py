"""The constrained privileged expert as a teacher, and the realizability gap of any teacher.

For each step the student's server scores every candidate action with and without privileged state, under reasons that the student
itself gives on either side. The mixture of `mixture.py` gives the action; the reason is then asked for from what the student had
seen, given that action, so it cannot know more than the student.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from leap_ray.envs.base import PrivilegedState
from leap_ray.policy import Completer, Parsed, Prompter
from leap_ray.teachers.actions import canonical, has_placeholders
from leap_ray.teachers.choose import Verdict
from leap_ray.teachers.mixture import Array, Gap, averaged, constrained, gap, normalised, play
from leap_ray.teachers.prompted import Check
from leap_ray.teachers.self_teacher import SelfTeacher, candidates_of
from leap_ray.types import Correction, Episode, Outcome, Step, digest

REASONS = 2  # completions drawn per side, for their reasons
DRAWS = 4  # the same where an environment lists no candidate actions, for their actions too
_KL = re.compile(r"\bKL (\S+) nats")


class Scorer(Completer, Protocol):
    """A student's server that also scores continuations of a prompt."""

    async def score(
        self, prompt_ids: list[int], candidates: Sequence[Sequence[int]], policy: str, key: str
    ) -> list[list[float]]: ...


class ConstrainedTeacher(SelfTeacher):
    """The expert of Definition B.5, over the student's own weights.

    Each step's detail tells the KL of the policy that was played, in nats, and the correction's summary their mean.
    """

    student: Scorer

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
        shown, step = episode.prompt_ids(t), episode.steps[t]
        said, told = await asyncio.gather(
            self._drawn(episode, t, shown, "plain"), self._drawn(episode, t, hidden, "privileged")
        )
        said.append(Parsed(step.reason, canonical(step)))  # what the student said in the episode is a draw as well
        actions = _candidates(episode, t, [*said, *told])
        if not actions:
            return Verdict(Outcome.NO_PLAN, detail="no candidate action was found")
        try:
            plain, priv = await asyncio.gather(
                self._scores(episode, shown, actions, _reasoned(said, told)),
                self._scores(episode, hidden, actions, _reasoned(told, said)),
            )
            mixture = constrained(plain, priv, self.config.delta)
        except NoReason:
            return Verdict(Outcome.UNPARSED, detail="the student gave no reason under which to score actions")
        except ValueError as error:  # the server gave none of the actions a probability
            return Verdict(Outcome.FAILED, detail=str(error))
        rng = random.Random(digest(self.seed, episode.id, t))
        played = play(mixture, plain, priv, self.config.delta, self.config.choice, rng)
        chance = mixture.probabilities[played.index]
        detail = f"KL {played.kl:.6g} nats, beta {mixture.beta:.4g}, probability {chance:.3g}"
        return await self._judged(episode, t, check, actions[played.index], detail)

    async def _judged(self, episode: Episode, t: int, check: Check, action: str, detail: str) -> Verdict:
        """The verdict on the step once the expert's action is known."""
        step = episode.steps[t]
        own = action == canonical(step)
        if own and not step.valid:
            return Verdict(Outcome.UNAVAILABLE, detail=f"{detail}; {action!r} was tried and not understood")
        reason = step.reason if own and step.reason else await self._why(episode, t, check, action)
        if not reason:
            return Verdict(Outcome.UNPARSED, "", action, f"{detail}; no usable reason was given for {action!r}")
        return Verdict(Outcome.AGREED if own else Outcome.CORRECTED, reason, action, detail)

    async def _drawn(self, episode: Episode, t: int, prompt: list[int], side: str) -> list[Parsed]:
        """Completions of the student at this prompt."""
        listed = episode.steps[t].candidates
        count = REASONS if listed and not has_placeholders(listed) else DRAWS
        whats = (f"draw/{side}/{i}" for i in range(count))
        return list(await asyncio.gather(*(self._say(episode, t, prompt, what) for what in whats)))

    async def _scores(
        self, episode: Episode, prompt: list[int], actions: Sequence[str], said: Sequence[Parsed]
    ) -> Array:
        """Log-probabilities of the actions at this prompt: the mean over the reasons that the student gives there."""
        reasons = Counter(parsed.reason for parsed in said if parsed.reason)
        if not reasons:
            raise NoReason
        prompter, policy = self.hindsight.prompter, _policy(episode)
        found = await asyncio.gather(
            *(action_scores(self.student, prompter, prompt, actions, policy, episode.id, why) for why in reasons)
        )
        return averaged([scores for scores, count in zip(found, reasons.values()) for _ in range(count)])


def _reasoned(own: Sequence[Parsed], other: Sequence[Parsed]) -> Sequence[Parsed]:
    """What was said on this side, or, where none of it held a reason, on the other: an untuned student may miss the format."""
    return own if any(parsed.reason for parsed in own) else other


class NoReason(Exception):
    """None of the student's completions held a reason."""


def _candidates(episode: Episode, t: int, said: Sequence[Parsed]) -> tuple[str, ...]:
    """The step's own, or, where any text is an action, those that were said on either side."""
    listed = episode.steps[t].candidates
    if listed and not has_placeholders(listed):
        return tuple(dict.fromkeys(listed))
    return candidates_of(episode, t, [parsed.action for parsed in said])


def kl_used(details: Iterable[str]) -> list[float]:
    """The KL to the plain expert that each step tells in its detail, in nats."""
    return [float(found.group(1)) for detail in details if (found := _KL.search(detail))]


async def action_scores(
    student: Scorer,
    prompter: Prompter,
    prompt: list[int],
    actions: Sequence[str],
    policy: str,
    key: str,
    reason: str = "",
) -> list[float]:
    """Log-probability of each action at this prompt, nats, after this reason.

    All completions begin alike, so that their differences are the actions' own.
    """
    completions = [prompter.completion_ids(reason, action) for action in actions]
    return [sum(tokens) for tokens in await student.score(prompt, completions, policy, key)]


# ---- the realizability gap ----


@dataclass(frozen=True, slots=True)
class State:
    """One step of a student's own rollout, with all that its gap needs and no more: it is sent to the teacher's process."""

    episode: str
    prompt: tuple[int, ...]
    reason: str  # the student's own, sampled there
    acted: bool  # whether its completion named an action
    actions: tuple[str, ...]
    action: str  # the teacher's


def draw_steps(episodes: Sequence[Episode], most: int, seed: int = 0) -> list[tuple[Episode, int]]:
    """Up to `most` steps, drawn from all that the student took, whatever became of its episodes."""
    steps = [(e, t) for e in sorted(episodes, key=lambda e: e.id) for t, step in enumerate(e.steps) if step.new]
    return steps if len(steps) <= most else random.Random(seed).sample(steps, most)


def state_of(episode: Episode, t: int, correction: Correction | None) -> State | None:
    """The state of step t beside the teacher's action there; None where the teacher named none."""
    word = next((w for w in correction.steps if w.t == t), None) if correction else None
    if word is None:
        return None
    step = episode.steps[t].own
    action = word.action or (canonical(step) if word.outcome is Outcome.AGREED else "")
    if not action:
        return None
    prompt, acted = tuple(episode.prompt_ids(t)), bool(step.action)
    return State(episode.id, prompt, step.reason, acted, _choices(step, action), action)


async def measure_gap(
    student: Scorer, prompter: Prompter, states: Sequence[State], policy: str, *, unknown: int = 0
) -> Gap:
    """The average realizability gap of Definition 3.1 on the states of a student's own rollouts, `policy` being that student.

    The definition's best student policy cannot be computed: the student that played stands for it, so the figure is the distance
    between teacher and student, which holds what the student could still learn beside what no student can. The states should be
    ones that the student was not trained on. A teacher's word is one action, where it agreed the student's own, so all its mass
    lies there; the student's distribution is over the candidate actions, after the reason that it sampled in that state. A
    completion that named no action is at distance 1. `unknown`: see `Gap`.
    """

    async def one(state: State) -> Array:
        if not state.acted:
            return np.full(len(state.actions), -np.inf)
        prompt = list(state.prompt)
        return normalised(
            await action_scores(student, prompter, prompt, state.actions, policy, state.episode, state.reason)
        )

    students = await asyncio.gather(*map(one, states))
    teachers = [np.array([float(candidate == state.action) for candidate in state.actions]) for state in states]
    return gap(students, teachers, [state.episode for state in states], unknown)


async def realizability_gap(
    student: Scorer,
    prompter: Prompter,
    pairs: Iterable[tuple[Episode, Correction]],
    policy: str,
    *,
    most: int = 64,
    seed: int = 0,
) -> Gap:
    """`measure_gap` on at most `most` steps of these episodes, drawn with `seed` from all of them."""
    corrections = {episode.id: (episode, correction) for episode, correction in pairs}
    drawn = draw_steps([episode for episode, _ in corrections.values()], most, seed)
    states = [state_of(episode, t, corrections[episode.id][1]) for episode, t in drawn]
    known = [state for state in states if state]
    return await measure_gap(student, prompter, known, policy, unknown=len(states) - len(known))


def _choices(step: Step, action: str) -> tuple[str, ...]:
    """The actions between which a state is measured: those listed, or, where any text may be one, those that were said too."""
    listed = [candidate for candidate in step.candidates if not has_placeholders((candidate,))]
    open_ended = not step.candidates or len(listed) < len(step.candidates)
    said = [action, canonical(step)] if open_ended or action not in listed else []
    return tuple(dict.fromkeys(filter(None, [*listed, *said])))


def _policy(episode: Episode) -> str:
    return "base" if episode.policy.startswith("expert:") else episode.policy
