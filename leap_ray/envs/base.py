"""The contract between an environment and everything else.

A domain is one class: a `gymnasium.Env` over text, made from its settings, that knows its tasks. It may also offer privileged
state (for prompted teachers) and experts (for demonstrations and the symbolic teacher). `experiments/` and the README show one
in under 40 lines. A run names it as a registered domain (`alfworld`) or as `module:Class`.
"""

from __future__ import annotations

import asyncio
import importlib
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import gymnasium

from leap_ray.errors import PrivilegeError, UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task

if TYPE_CHECKING:
    from leap_ray.config import DomainConfig

DOMAINS = {
    "alfworld": "leap_ray.envs.alfworld.env:AlfworldEnv",
    "households": "leap_ray.envs.alfworld.env:HouseholdsEnv",
    "webshop": "leap_ray.envs.webshop.env:WebShopEnv",
    "intercode": "leap_ray.envs.intercode.env:InterCodeEnv",
}


@dataclass(frozen=True)
class Secret:
    """One thing that a reason must not name before the student has seen it.

    `kind` says how the leak check looks for it: `instance` ("apple 3"), `attribute` ("stain resistant"), `option` ("size 8"),
    `product` (a title), `price` (an amount of money), `code` (a program), `output` (what it prints) or `text`, whose kind is
    read off the text. `aliases` are other wordings: synonyms of an instance's kind, paraphrases of an attribute, a program read
    aloud. Raises UserError for another kind.
    """

    KINDS: ClassVar[tuple[str, ...]] = ("instance", "attribute", "option", "product", "price", "code", "output", "text")

    kind: str
    text: str
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise UserError(f"secret {self.text!r} is of unknown kind {self.kind!r}: known are {', '.join(self.KINDS)}")


@dataclass(frozen=True)
class PrivilegedState:
    """What a teacher may know and a student may not, for one training task.

    `rendering` goes into a teacher's prompt. `secrets` are what a reason must not name before the student has seen it (object
    and place instances, gold commands, target products); the leak check reads them. A plain string is Secret("text", string).
    Of the facts it reads `targets` and `lights` (thing -> place), `gold`, `output`, `product` and `price_upper`.
    """

    domain: str
    task_id: str
    rendering: str
    secrets: tuple[Secret | str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # the same, as plain values, for programs


@dataclass(frozen=True)
class Advice:
    """An expert's word on the state an environment is in.

    `acceptable` are the actions that are no mistake here (always including `action`): a teacher counts them as agreement.
    """

    action: str
    reason: str
    acceptable: frozenset[str] = frozenset()


class Expert(Protocol):
    """Follows one episode in a live environment. Made anew for every episode by `TextEnv.expert`."""

    def advise(self) -> Advice | None:
        """Advice for the environment's present state; None if there is no plan. Does not change the environment.

        Called once before every action of the episode, whoever chooses the action: the expert may keep its own memory of
        what the student has seen so far.
        """
        ...


class TextEnv(gymnasium.Env[str, str], ABC):
    """Base class of every domain.

    `reset(options={"task": Task})` and `step(action)` return the observation and an `info` with

    - `instruction` (str): the task in words
    - `candidates` (tuple[str, ...]): actions available now; empty where any text is an action
    - `score` (float): of the episode so far; `success` (bool)
    - `valid` (bool, after `step`): whether the action was one the environment knows here
    - `score_parts` (dict[str, float], optional): the score's components, for the domain's tables
    - `action` (str, after `step`, optional): the action in the environment's own spelling, as it would stand among the
      candidates ("go to desk 1" for "Go to desk 1."); the action itself if left out

    An unknown action is never an exception: it changes nothing and comes back with `valid=False`.

    The attributes below may be set on the class or, where settings decide, on the instance: they are read from an instance made
    with the run's settings.
    """

    domain: ClassVar[str]
    train_panels: ClassVar[frozenset[str]] = frozenset({"train"})
    threshold: float = 0.0  # an episode failed if its score is at or below this (paper, section 4)
    max_actions: int = 20  # of a rollout, unless the configuration says otherwise
    score_scale: float = 100.0  # tables show score × this
    domain_facts: str = ""  # a few sentences about the domain, for prompts
    multiline: bool = False  # True where an action may have several lines (programs); else its first line counts
    blocking: ClassVar[bool] = False  # True where a step may wait (a subprocess): played on a thread
    # Settings that are files or folders, each with the values that are not: they are made absolute, as actors work elsewhere.
    path_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    task: Task | None = None

    @classmethod
    def aliases(cls, text: str) -> tuple[str, ...]:
        """Other wordings of a secret of this domain, for the leak check: none unless the domain declares some."""
        return ()

    def __init__(self) -> None:
        printable = frozenset(string.printable)
        self.observation_space = gymnasium.spaces.Text(max_length=1_000_000, min_length=0, charset=printable)
        self.action_space = gymnasium.spaces.Text(max_length=100_000, min_length=0, charset=printable)

    @abstractmethod
    def panel(self, name: str) -> Panel:
        """The named panel of tasks. Raises UserError naming the panels there are."""

    def resolve_panel(self, name: str) -> Panel:
        """The named panel, or the one of a panel file (`….json`), whose ids must all be in the panel it names."""
        if not name.endswith(".json"):
            return self.panel(name)
        written = Panel.load(Path(name))
        if written.domain != self.domain:
            raise UserError(f"panel file {name} is of domain {written.domain!r}, not {self.domain!r}")
        return self.panel(written.name).choose([task.id for task in written.tasks])

    def provenance(self, panel: Panel | None = None) -> dict[str, str]:
        """What decides results beside the tasks' ids (the data's content, the machine that commands run on), in plain words.

        `panel`: the tasks in question; None: all that the environment has.
        """
        return {}

    @abstractmethod
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]: ...

    @abstractmethod
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]: ...

    def spelling(self, action: str) -> str:
        """What `info["action"]` would be after `step(action)`: the action as this environment writes it. Changes nothing."""
        return action

    def knows(self, action: str) -> bool | None:
        """Whether `step(action)` would find it valid now; None where only doing it tells. Changes nothing.

        Where it is None an action counts as known if it is a candidate, or if there are none.
        """
        return None

    def cause(self, action: str) -> str:
        """Why an action is not valid in the present state, in two or three words of the domain, which results count."""
        return "not available"

    def privileged(self) -> PrivilegedState:
        """Privileged state of the current task, as of its reset. Raises PrivilegeError outside training panels."""
        if self.task is None:
            raise PrivilegeError(f"{self.domain}: privileged state was asked for before reset")
        if self.task.panel not in self.train_panels:
            raise PrivilegeError(
                f"{self.domain}: task {self.task.id!r} is of panel {self.task.panel!r}; privileged state is served for "
                f"training panels only ({', '.join(sorted(self.train_panels))})"
            )
        return self._privileged()

    def _privileged(self) -> PrivilegedState:
        raise UserError(f"{self.domain} offers no privileged state: write _privileged() in {type(self).__name__}")

    def expert(self, kind: str, *, privilege: float = 0.5, seed: int = 0) -> Expert:
        """An expert bound to this environment's present episode, to be asked from its first step on.

        `kind` is "demonstrator" (explores; iteration 0 imitates it) or "teacher" (corrects, using privileged state to the
        degree `privilege`: 0 plain, 0.5 realizable, 1 reveals everything). Raises UserError where the domain has none, and
        PrivilegeError for a teacher with privilege > 0 outside training panels.
        """
        raise UserError(f"{self.domain} has no {kind!r} expert: write expert() in {type(self).__name__}")


@dataclass(frozen=True)
class Traits:
    """What a domain says of itself, once its settings are known. The fields are `TextEnv`'s attributes of the same names."""

    domain: str
    domain_facts: str
    multiline: bool
    max_actions: int
    threshold: float
    score_scale: float

    @classmethod
    def of(cls, env: TextEnv) -> Traits:
        return cls(**{field.name: getattr(env, field.name) for field in fields(cls)})


async def call(env: TextEnv, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A method of the environment's, or of one of its experts, on a thread where it may wait."""
    if env.blocking:
        return await asyncio.to_thread(method, *args, **kwargs)
    return method(*args, **kwargs)


def task_of(options: Mapping[str, Any] | None) -> Task:
    """The task that a `reset` was given. Raises UserError if there is none."""
    task = (options or {}).get("task")
    if not isinstance(task, Task):
        raise UserError('reset needs options={"task": Task(...)}')
    return task


def load_domain(name: str) -> type[TextEnv]:
    """The environment class of a registered domain or of `module:Class`. Raises UserError naming what was wrong."""
    path = DOMAINS.get(name, name)
    module_name, _, class_name = path.partition(":")
    if not class_name:
        raise UserError(f"unknown domain {name!r}: known are {', '.join(DOMAINS)}; your own is named module:Class")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise UserError(f"domain {name!r}: {error}") from None
    except AttributeError:
        raise UserError(f"domain {name!r}: {module_name} has no {class_name}") from None
    if not (isinstance(cls, type) and issubclass(cls, TextEnv)):
        raise UserError(f"domain {name!r}: {class_name} is not a subclass of leap_ray.envs.base.TextEnv")
    return cls


def make_env(name: str, settings: Mapping[str, Any]) -> TextEnv:
    """The domain's environment. Raises UserError for an unknown domain or a setting that it does not take."""
    cls = load_domain(name)
    try:
        return cls(**settings)
    except TypeError as error:
        raise UserError(f"domain {name!r}: settings: {error}") from None


def read_traits(domain: DomainConfig) -> Traits:
    """The domain's traits under its settings, from an environment made with them. Raises UserError as `make_env` does."""
    env = make_env(domain.name, domain.settings)
    try:
        return Traits.of(env)
    finally:
        env.close()


def read_provenance(domain: DomainConfig, panel: Panel) -> dict[str, str]:
    """What decides results on that panel under the domain's settings: see `TextEnv.provenance`."""
    env = make_env(domain.name, domain.settings)
    try:
        return env.provenance(panel)
    finally:
        env.close()


def traits_of(domains: Iterable[DomainConfig]) -> dict[str, Traits]:
    """Each domain's traits, by the domain's name in tasks."""
    return {traits.domain: traits for traits in map(read_traits, domains)}
