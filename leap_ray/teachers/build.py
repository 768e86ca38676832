"""A teacher from its configuration: one object for all domains of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leap_ray.config import DomainConfig, StudentConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, make_env, traits_of
from leap_ray.errors import UserError
from leap_ray.teachers.base import Teacher
from leap_ray.teachers.disks import check_local
from leap_ray.teachers.keys import SERVICES, check_key, endpoint, read_key, server_of
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import Correction, Episode, digest

STREAMING = 21_333  # tokens of an answer above which Anthropic's SDK refuses a request that does not stream
PAID = ("claude", "openai")


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


def build_teacher(
    config: TeacherConfig,
    domains: Sequence[DomainConfig],
    folder: Path,
    *,
    seed: int = 0,
    student: Any = None,
    student_config: StudentConfig | None = None,
    key: str | None = None,
) -> Teacher:
    """The configured teacher. `folder` keeps its ledger and cache; `student` is the student's server, where it teaches.

    `key`: of the paid API; None: this process's environment holds it. Raises UserError for what is missing: a key, a price, a
    domain without experts, a student for the teachers that need one.
    """
    check_teacher(config, key)
    if config.kind == "symbolic":
        return _symbolic(config, domains, seed)
    if config.kind in PAID:
        from leap_ray.teachers.prompted import PromptedTeacher
        from leap_ray.teachers.sender import SenderClient

        key = check_key(config, read_key(config) if key is None else key)
        facts = {name: traits.domain_facts for name, traits in traits_of(domains).items()}
        return PromptedTeacher(SenderClient(config, folder, key), config, facts)
    if student is None or student_config is None:
        raise UserError(f"teacher.kind {config.kind!r} needs the student's server")
    from leap_ray.teachers.constrained import ConstrainedTeacher
    from leap_ray.teachers.self_teacher import SelfTeacher

    kind = SelfTeacher if config.kind == "self" else ConstrainedTeacher
    limits = {"max_length": student_config.max_length, "max_tokens": student_config.max_tokens}
    return kind(student, load_prompter(student_config), config, domains, seed=seed, **limits)


def build_desk(config: TeacherConfig, folder: Path, key: str) -> Any:
    """The desk of a paid teacher, over its folder's store. Called inside a running event loop."""
    from leap_ray.teachers.batch import BatchDesk
    from leap_ray.teachers.claude import ClaudeProvider
    from leap_ray.teachers.desk import Desk
    from leap_ray.teachers.openai_compatible import OpenAIProvider
    from leap_ray.teachers.prices import prices_of
    from leap_ray.teachers.rate import Gate
    from leap_ray.teachers.store import Store

    store = Store(folder, shared_answers(config))
    prices, gate = prices_of(config.model, config.prices), Gate(config.concurrency)
    limits: Any = {"timeout": config.timeout, "max_retries": config.max_retries}
    settings: Any = {"key": check_key(config, key), "base_url": endpoint(config), **limits}
    if config.kind == "openai":
        return Desk(OpenAIProvider(gate, **settings), store, prices, gate, config.budget_dollars)
    provider = ClaudeProvider(gate, **settings)
    if config.mode == "batch":
        return BatchDesk(provider, store, prices, budget=config.budget_dollars, quiet=config.batch_quiet)
    return Desk(provider, store, prices, gate, config.budget_dollars)


def shared_answers(config: TeacherConfig) -> Path | None:
    """The folder of answers that runs share, None without one. Each server has its own: two may call other models alike."""
    if not config.cache_dir:
        return None
    folder, server = Path(config.cache_dir).expanduser(), server_of(config)
    return folder if server == SERVICES[config.kind].url else folder / digest(server)


def check_teacher(config: TeacherConfig, key: str | None = None) -> None:
    """What can be found wrong before anything starts. `key`: None: this process's environment holds it. Raises UserError."""
    if config.kind not in PAID:
        return
    from leap_ray.teachers.prices import prices_of

    if config.kind == "openai" and config.mode == "batch":
        raise UserError("teacher.mode: batch is for kind claude; an OpenAI-compatible server is asked live")
    if config.kind == "openai" and config.model == TeacherConfig.model:
        raise UserError(
            f"teacher.model is still {config.model!r}, the default of kind claude: name a model of {endpoint(config)}"
        )
    if config.cache_dir:
        check_local(Path(config.cache_dir).expanduser(), "teacher.cache_dir")
    prices_of(config.model, config.prices)
    check_key(config, read_key(config) if key is None else key)
    if config.kind == "claude" and config.mode == "live" and config.max_tokens > STREAMING:
        raise UserError(f"teacher.max_tokens: {config.max_tokens} is above {STREAMING}, the most of a live call")


def load_prompter(config: StudentConfig) -> Any:
    """The student's own prompts, for teachers that are the student."""
    from leap_ray.policy import Prompter

    return Prompter.of(config)


def _symbolic(config: TeacherConfig, domains: Sequence[DomainConfig], seed: int) -> SymbolicFaculty:
    teachers = {}
    for domain in domains:
        env = make_env(domain.name, domain.settings)
        teachers[env.domain] = SymbolicTeacher(
            env,
            privilege=config.privilege,
            correct=config.correct,
            repeats=config.repeats,
            seed=seed,
        )
    return SymbolicFaculty(teachers)
