"""Every record that crosses a process or is written to disk.

    Task ──play──> Episode(Step, …) ──correct──> Correction(StepCorrection, …) ──> Example ──> learner

All are frozen dataclasses of plain values: they pickle, turn into one line of JSON (`to_json`) and come back (`from_json`).
An identifier is made from what a record is *of*, never from a clock or a counter, so that repeating a call is safe.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class RecordError(ValueError):
    """A record that cannot be read: it names the type and the field."""


class Outcome(StrEnum):
    """What became of one step in a teacher's hands. Every step of a corrected episode has exactly one."""

    CORRECTED = "corrected"  # a better reason and action, to be trained on
    AGREED = "agreed"  # the student's own action is no mistake; nothing to train on unless the configuration says so
    SKIPPED = "skipped"  # outside what this teacher was told to correct (e.g. only wrong steps)
    NO_PLAN = "no plan"  # the teacher knows no way to the goal from this state
    UNAVAILABLE = "action not available"  # the corrected action is not among the step's candidate actions
    REVEALS = "reveals privileged state"  # the reason names what only the privileged state holds
    UNPARSED = "did not parse"  # nothing usable came back
    REFUSED = "refused"  # the teacher declined to answer
    FAILED = "request failed"  # the teacher could not be reached, after its client's own retries
    BUDGET = "budget reached"  # not asked: the limit on spending would have been passed


class Finish(StrEnum):
    """Why an episode ended."""

    SUCCESS = "success"
    TERMINATED = "terminated"  # the environment ended it without success
    MAX_ACTIONS = "max actions"
    CONTEXT = "context full"  # the next prompt would not fit the student's context


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a domain, by an id that means the same everywhere."""

    domain: str
    id: str
    panel: str  # the panel it was taken from: decides whether privileged state may be served
    kind: str = ""  # task type, the rows of result tables


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    temperature: float = 0.3
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[int, ...] = ()  # token ids that end a completion (and are part of it), beside the model's own


@dataclass(frozen=True, slots=True)
class Completion:
    """What the student server returns for one prompt. `logprobs` are of the drawn tokens, in nats, one per id."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str  # "stop" | "length"


@dataclass(frozen=True)
class Intervention:
    """When a teacher at the student's side acts in its place: at a mistake, with this probability.

    With `takeover` the teacher also acts at every later step of the episode.
    """

    probability: float = 1.0
    takeover: bool = False

    def acts(self, episode: str, t: int) -> bool:
        """The coin for a mistake at step t, drawn by hash: the same wherever and whenever the episode is played."""
        return seed_of("intervention", episode, t) < self.probability * 2**31


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the student said at a step where a teacher acted in its place; the fields are those of `Step`.

    It was never carried out: `valid` and `spelling` are what the environment said of it beforehand.
    """

    reason: str
    action: str
    valid: bool
    text: str
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]
    spelling: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision: what was seen, what was said, what was done, what came of it.

    The prompt is kept once: step t's prompt is the first `keep` tokens of step t-1's (prompt + completion), then `new`.
    `Episode.prompt_ids(t)` puts it together. Expert demonstrations have no tokens until they are rendered.

    Where a teacher acted in the student's place, reason, action and completion are the teacher's, since they were carried out
    and stand in later prompts, there are no `logprobs`, and `proposal` keeps what the student said; else that is None.
    """

    observation: str
    candidates: tuple[str, ...]
    reason: str
    action: str  # as the student said it, and as given to the environment; "" if the completion did not parse
    valid: bool  # parsed, and accepted by the environment as an action it knows
    score: float  # the environment's score after this action
    text: str = ""  # the completion as text, for people
    keep: int = 0
    new: tuple[int, ...] = ()
    completion: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    spelling: str = ""  # `action` as the environment spells it, if otherwise (see `teachers.actions.canonical`)
    proposal: Proposal | None = None
    cause: str = ""  # why an action that is not `valid` was none, in the domain's words

    @property
    def own(self) -> Step:
        """The step as the student would have had it: its proposal in the place of what the teacher did."""
        if self.proposal is None:
            return self
        said = {f.name: getattr(self.proposal, f.name) for f in dataclasses.fields(Proposal)}
        return dataclasses.replace(self, proposal=None, **said)


@dataclass(frozen=True, slots=True)
class Episode:
    """One attempt at a task by a policy, from reset to end. Failed when `score` ≤ the domain's threshold."""

    task: Task
    seed: int
    policy: str  # adapter name, "base", or "expert:<name>"
    instruction: str  # the task in words, as the student saw it
    steps: tuple[Step, ...]
    final_observation: str
    score: float
    success: bool
    finish: Finish
    seconds: float = 0.0  # wall time of the episode
    dialect: str = ""
    prompt_hash: str = ""  # hash of the prompt templates that made the prompts
    extra: dict[str, float] = field(default_factory=dict)  # parts of the score, for the domain's own tables
    annotations: tuple[
        Outcome, ...
    ] = ()  # of a demonstration's steps, where a teacher wrote reasons: CORRECTED, or why not

    @property
    def id(self) -> str:
        return episode_id(self.task, self.seed, self.policy)

    def prompt_ids(self, t: int) -> list[int]:
        """Token ids of the whole prompt at step t (0-based)."""
        ids: list[int] = []
        for step in self.steps[: t + 1]:
            if step.keep > len(ids):
                raise RecordError(f"episode {self.id}: step keeps {step.keep} of {len(ids)} tokens")
            ids = [*ids[: step.keep], *step.new]
            if step is not self.steps[t]:
                ids += step.completion
        return ids


@dataclass(frozen=True, slots=True)
class LostEpisode:
    """An attempt that could not be played: what its environment stands on failed, each time it was tried."""

    episode: str  # Episode.id
    task: Task
    seed: int
    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepCorrection:
    """The teacher's word on step t: a training target only when `outcome` is CORRECTED, and only then with a `reason`.

    `action` may also be what a teacher would do whose word is no target (SKIPPED, REVEALS): the realizability gap asks for it.
    """

    t: int
    outcome: Outcome
    reason: str = ""
    action: str = ""
    detail: str = ""  # why, for people: e.g. which words revealed something


@dataclass(frozen=True, slots=True)
class Correction:
    """The teacher's answer to one episode: one StepCorrection per step, in order."""

    episode: str  # Episode.id
    teacher: str
    summary: str
    steps: tuple[StepCorrection, ...]
    prompt_hash: str = ""
    seconds: float = 0.0
    dollars: float = 0.0


@dataclass(frozen=True, slots=True)
class Example:
    """One training example in tokens: loss on `response` only, which ends with the end-of-turn token.

    `rejected` is the student's own completion at the same prompt, for preference objectives (DPO, KTO), as it was sampled: one
    that was cut off has no end-of-turn token. Where it is empty there is no pair, and `no_pair` says why.
    """

    id: str  # "<episode id>/<t>"
    task: Task
    iteration: int
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    rejected: tuple[int, ...] = ()
    weight: float = 1.0
    no_pair: str = ""


def digest(*parts: Any, length: int = 12) -> str:
    """Short stable hash of plain values: the same on every machine and in every process."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=to_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def seed_of(*parts: Any) -> int:
    """A seed (0 ≤ seed < 2^31) out of what it is for: sums of seeds collide (run 0, iteration 1 and run 1, iteration 0)."""
    return int(digest(*parts, length=8), 16) >> 1


def episode_id(task: Task, seed: int, policy: str) -> str:
    """Identifier of one attempt. The panel is left out: the same game is the same game on any list."""
    return digest(task.domain, task.id, seed, policy, length=16)


def to_plain(value: Any) -> Any:
    """A dataclass (or a structure of them) as dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    return value


def to_json(record: Any) -> str:
    """One line of JSON."""
    return json.dumps(to_plain(record), ensure_ascii=False, separators=(",", ":"))


def from_json(cls: type[T], text: str) -> T:
    """The record back from its line. Raises RecordError naming the type and what is wrong with it."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{cls.__name__}: not JSON: {error}") from None
    return from_plain(cls, plain)


def from_plain(cls: Any, value: Any, where: str = "") -> Any:
    """Build `cls` from plain values, checking every field's type. Unknown and missing fields are errors."""
    where = where or getattr(cls, "__name__", str(cls))
    origin, args = typing.get_origin(cls), typing.get_args(cls)
    if cls is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _from_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise RecordError(f"{where}: {value!r} is none of {', '.join(map(repr, args))}")
        return value
    if dataclasses.is_dataclass(cls):
        return _from_fields(typing.cast(type, cls), value, where)
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise RecordError(f"{where}: a list is needed, got {type(value).__name__}")
        return origin(from_plain(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise RecordError(f"{where}: a mapping is needed, got {type(value).__name__}")
        return {k: from_plain(args[1], v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(cls, value, where)


def _scalar(cls: type, value: Any, where: str) -> Any:
    if issubclass(cls, StrEnum):
        if value not in list(cls):
            raise RecordError(f"{where}: {value!r} is none of {', '.join(cls)}")
        return cls(value)
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, cls) or (isinstance(value, bool) and cls is not bool):
        raise RecordError(f"{where}: {cls.__name__} is needed, got {value!r:.80}")
    return value


def _from_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    errors = []
    for arg in args:
        if arg is type(None):
            continue
        try:
            return from_plain(arg, value, where)
        except RecordError as error:
            errors.append(str(error))
    raise RecordError("; or ".join(errors))


def _from_fields(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where}: a mapping is needed, got {type(value).__name__}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise RecordError(f"{where}: {odd[0]!r} is no setting's name")
    fields, hints = _fields_of(cls)
    if unknown := sorted(set(value) - set(fields)):
        raise RecordError(f"{where}: unknown {', '.join(map(repr, unknown))}; known are {', '.join(fields)}")
    if missing := [n for n, f in fields.items() if n not in value and not _has_default(f)]:
        raise RecordError(f"{where}: missing {', '.join(map(repr, missing))}")
    return cls(**{name: from_plain(hints[name], v, f"{where}.{name}") for name, v in value.items()})


@cache
def _fields_of(cls: type) -> tuple[dict[str, dataclasses.Field], dict[str, Any]]:
    return {f.name: f for f in dataclasses.fields(cls)}, typing.get_type_hints(cls)


def _has_default(f: dataclasses.Field) -> bool:
    return f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
