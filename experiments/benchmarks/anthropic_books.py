"""The protocol server's books: faults it was told to make, limits it enforces, calls it bills."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TRANSPORT = ("429", "529", "500", "timeout", "cut", "garbled")
CONTENT = ("malformed", "truncated", "refusal", "max_tokens", "short", "unavailable")
BATCH = ("expired", "errored")


@dataclass
class Faults:
    """Share of attempts that fail. Which ones depends on seed, request and attempt only; `kinds` take turns."""

    share: float = 0.0
    kinds: tuple[str, ...] = TRANSPORT + CONTENT
    seed: int = 0
    drawn: int = 0

    def of(self, key: str, attempt: int) -> str | None:
        """The fault of this attempt, if it has one."""
        if not self.kinds or random.Random(f"{self.seed}/{key}/{attempt}").random() >= self.share:
            return None
        self.drawn += 1
        return self.kinds[self.drawn % len(self.kinds)]


@dataclass(frozen=True)
class Limits:
    """Per minute, each with a bucket that holds `burst` minutes' worth and is refilled continuously."""

    requests: float = 4000
    input: float = 2_000_000
    output: float = 400_000
    burst: float = 1.0


@dataclass
class Meter:
    """One token bucket."""

    limit: float
    burst: float
    level: float = 0.0
    at: float = 0.0
    taken: float = 0.0

    def __post_init__(self) -> None:
        self.level, self.at = self.limit * self.burst, time.monotonic()

    def refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.limit * self.burst, self.level + self.limit / 60 * (now - self.at))
        self.at = now

    def short(self, amount: float) -> float:
        """Seconds until `amount` is there."""
        self.refill()
        return max(0.0, (min(amount, self.limit * self.burst) - self.level) / (self.limit / 60))

    def take(self, amount: float) -> None:
        self.refill()
        self.level -= amount
        self.taken += amount


@dataclass
class Books:
    """What the server counted: the other side of the ledger."""

    attempts: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    billed: list[dict[str, Any]] = field(default_factory=list)
    undelivered: list[dict[str, Any]] = field(default_factory=list)

    def stats(self) -> dict[str, Any]:
        keys = Counter(bill["key"] for bill in self.billed)
        return {
            "attempts": self.attempts,
            "refused": self.refused,
            "failures": dict(self.failures),
            "calls": len(self.billed),
            "dollars": sum(bill["dollars"] for bill in self.billed),
            "undelivered": sum(bill["dollars"] for bill in self.undelivered),
            "paid_twice": sum(count - 1 for count in keys.values()),
            "output_tokens": sum(bill["output_tokens"] for bill in self.billed),
        }


def body_key(body: dict[str, Any]) -> str:
    """Names a request by its content."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]


def table_price(model: str, usage: dict[str, int], batch: bool) -> float:
    """Dollars by the built-in price table."""
    from leap_ray.teachers.calls import Usage
    from leap_ray.teachers.prices import prices_of

    counted = Usage(
        usage["input_tokens"],
        usage["output_tokens"],
        usage["cache_creation_input_tokens"],
        usage["cache_read_input_tokens"],
    )
    return prices_of(model).dollars(counted, batch=batch)
