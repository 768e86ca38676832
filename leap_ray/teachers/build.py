"""A teacher from its configuration: one object for all domains of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, load_domain
from leap_ray.errors import UserError
from leap_ray.teachers.base import Teacher
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import Correction, Episode


class SymbolicFaculty:
    """A symbolic teacher for each domain, behind one name."""

    def __init__(self, teachers: Mapping[str, SymbolicTeacher]) -> None:
        self.teachers = dict(teachers)
        self.name = next(iter(self.teachers.values())).name

    async def correct(self, episode: Episode, privileged: PrivilegedState | None = None) -> Correction:
        return await self._of(episode).correct(episode, privileged)

    async def annotate(self, episode: Episode) -> Episode:
        return await self._of(episode).annotate(episode)

    async def close(self) -> None:
        for teacher in self.teachers.values():
            await teacher.close()

    def _of(self, episode: Episode) -> SymbolicTeacher:
        try:
            return self.teachers[episode.task.domain]
        except KeyError:
            known = ", ".join(self.teachers)
            raise UserError(f"the teacher knows {known}; an episode of {episode.task.domain!r} was given") from None


def symbolic(config: TeacherConfig, domains: Sequence[DomainConfig], seed: int = 0) -> SymbolicFaculty:
    """The symbolic teacher of these domains, each with an environment of its own."""
    teachers = {}
    for domain in domains:
        env = load_domain(domain.name)(**domain.settings)
        teachers[env.domain] = SymbolicTeacher(
            env,
            privilege=config.privilege,
            correct=config.correct,
            recovery=config.recovery,
            repeats=config.repeats,
            seed=seed,
        )
    return SymbolicFaculty(teachers)


def build_teacher(
    config: TeacherConfig, domains: Sequence[DomainConfig], folder: Path, *, seed: int = 0, student: Any = None
) -> Teacher:
    """The configured teacher. `folder` keeps its ledger and cache; `student` is the student's server, where it teaches.

    Raises UserError for what is missing: a key, a domain without experts, a student for the teachers that need one.
    """
    if config.kind == "symbolic":
        return symbolic(config, domains, seed)
    raise UserError(f"teacher.kind: {config.kind!r} is not known")
