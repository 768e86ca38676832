"""The contract of a teacher: an episode and its privileged state in, one word on every step out."""

from __future__ import annotations

from typing import Protocol

from leap_ray.envs.base import PrivilegedState
from leap_ray.types import Correction, Episode


class Teacher(Protocol):
    """Corrects failed episodes. Never raises for one episode's sake: what went wrong is an Outcome of its steps."""

    name: str  # kind and model, kept with every correction

    async def correct(self, episode: Episode, privileged: PrivilegedState) -> Correction:
        """One StepCorrection per step, in order (LEAP, section 3.2)."""
        ...

    async def annotate(self, episode: Episode) -> Episode:
        """The demonstration with a reason for each step, from what was seen up to it; actions never change.

        `Episode.annotations` tells what became of each step's reason: CORRECTED where it was written, else why the demonstrator's
        own stands.
        """
        ...
