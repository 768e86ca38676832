"""What a prompted teacher asks and what comes back, in no provider's words.

PromptedTeacher ──Request──> Desk (cache, budget, pace) ──> Provider (an SDK) ──Reply──> ledger ──Answer──> teacher
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from leap_ray.teachers.refusals import Meaning
from leap_ray.types import digest


class Stop(StrEnum):
    """Why an answer ended."""

    END = "end"
    LENGTH = "length"  # cut at max_tokens
    REFUSAL = "refusal"
    FAILED = "failed"  # no answer: `detail` says why
    BUDGET = "budget"  # not asked


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `cached`: everything up to the end of it will be sent again, and is worth the provider's cache."""

    role: Literal["user", "assistant"]
    text: str
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model. `key` names everything that decides the answer; `purpose` and `episode` are for the ledger."""

    model: str
    system: str
    turns: tuple[Turn, ...]
    max_tokens: int
    schema: dict[str, Any] | None = None  # of the JSON answer; None: free text
    effort: str | None = None
    cache_system: bool = False  # the system prompt will be sent again with this schema
    purpose: str = "correct"
    episode: str = ""

    @property
    def key(self) -> str:
        turns = [(turn.role, turn.text) for turn in self.turns]
        return digest(self.model, self.system, turns, self.schema, self.max_tokens, self.effort, length=32)

    @property
    def text(self) -> str:
        """All that is sent, the schema included."""
        return "\n".join([self.system, *(turn.text for turn in self.turns), str(self.schema or "")])

    @property
    def characters(self) -> int:
        """Length of all that is sent."""
        return len(self.system) + sum(len(turn.text) for turn in self.turns) + len(str(self.schema or ""))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call as the provider counted them. `input` leaves out what was read from or written to its cache."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_read: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's answer to one request. `estimated`: the provider counted no tokens, so `usage` is our estimate."""

    text: str
    stop: Stop
    usage: Usage
    request_id: str = ""
    detail: str = ""
    estimated: bool = False


class CallFailed(Exception):
    """No answer, after the SDK's own retries. `paid`: what was charged nevertheless, where the provider says so."""

    def __init__(self, detail: str, meaning: Meaning = Meaning.LATER, paid: Usage = Usage()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.meaning = meaning
        self.paid = paid
        self.unsure = False  # of a batch's creation: it may have happened

    @property
    def fatal(self) -> bool:
        """Whether no request will be answered: a wrong key, no credit, no such model."""
        return self.meaning is Meaning.EVERY


def without(secret: str, text: str) -> str:
    """The text without a secret: a provider may repeat the key in its error."""
    return text.replace(secret, "[key]") if secret else text


@dataclass(slots=True)
class Attempts:
    """What happened on the wire during one call: filled by the provider, read by the ledger."""

    sent: int = 0
    refused: int = 0  # 429
    undelivered: int = 0  # cut connections and time-outs: the provider may have charged them
    statuses: list[int] = field(default_factory=list)
    bearable: Callable[[], bool] | None = None  # whether the budget bears one more attempt after an undelivered one

    def check_repeat(self) -> None:
        """Raises CallFailed where another attempt could pass the limit on spending."""
        if self.undelivered and self.bearable is not None and not self.bearable():
            raise CallFailed(f"no answer to {self.sent} attempts, and the budget bears no further one")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher gets. `dollars` is what this request cost this run: 0 where the cache had it."""

    key: str
    text: str = ""
    stop: Stop = Stop.FAILED
    usage: Usage = Usage()
    dollars: float = 0.0
    detail: str = ""
    cached: bool = False


def printable(text: str) -> str:
    """The text with halves of surrogate pairs joined, and lone ones replaced: JSON may hold them, UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Provider(Protocol):
    """One SDK. `call` raises CallFailed; it retries as its SDK does and nothing else does."""

    notes: list[str]  # what was adapted to the server, for people

    async def call(self, request: Request, attempts: Attempts) -> Reply: ...

    async def close(self) -> None: ...


class Ask(Protocol):
    """Anything that answers requests: a desk in this process, or the sender process behind a socket."""

    async def ask(self, request: Request) -> Answer: ...

    async def totals(self) -> dict[str, Any]: ...

    async def close(self) -> None: ...
