"""Teachers at the student's side: they judge an action before it is carried out.

The word on each step is there when the episode ends, so nothing is replayed, and where the teacher acts in the student's place
(`rollout.intervention`) one episode shows mistakes at every stage of a task, in place of one mistake and a loop (DAgger's mixture
policy, Ross et al. 2011; takeover as in HG-DAgger, Kelly et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from leap_ray.envs.base import Expert, TextEnv, call
from leap_ray.errors import UserError
from leap_ray.teachers.choose import Verdict
from leap_ray.teachers.symbolic import explained, judge
from leap_ray.types import Episode, Outcome


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one step, and what it cost."""

    verdict: Verdict
    dollars: float = 0.0


class LiveTeacher(Protocol):
    """Follows one episode as it is played."""

    async def judge(self, episode: Episode) -> Judgement:
        """On the last step of this unfinished episode, which the student has proposed and nobody has carried out.

        Called once before every action, whoever acts. Never raises for one episode's sake.
        """
        ...


class LiveExpert:
    """A domain's own expert, asked in the environment that the student plays in."""

    def __init__(self, env: TextEnv, expert: Expert) -> None:
        self._env, self._expert = env, expert

    async def judge(self, episode: Episode) -> Judgement:
        step = episode.steps[-1]
        try:
            advice = await call(self._env, self._expert.advise)
            return Judgement(judge(step, explained(self._expert, advice, step)))
        except UserError:
            raise
        except Exception as error:  # an expert's fault costs this step, never the run
            return Judgement(Verdict(Outcome.FAILED, detail=f"the expert failed: {type(error).__name__}: {error}"))
