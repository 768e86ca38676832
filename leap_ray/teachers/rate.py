"""How fast to ask: a gate that finds the provider's limit from its answers, without being told.

Every response says how much of each limit remains (requests, input tokens, output tokens a minute). The gate keeps a copy of
those token buckets, lets a request through when all of them hold enough, and lets the number of calls in flight grow with
every answer until it is told to slow down. A refusal (429) stops everybody for as long as it says. Where a provider sends no such
headers, refusals alone steer: the window halves at each burst of them and grows back slowly.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from leap_ray.teachers.calls import Request, Usage

MARGIN = 0.002  # of a minute's limit, left untouched in each bucket
LONGEST_PAUSE = 90.0  # seconds for which one refusal can stop everybody: what lasts longer is no rate limit
DIMENSIONS = {"requests": "requests", "input": "input-tokens", "output": "output-tokens"}


@dataclass
class Bucket:
    """Our copy of one of the provider's token buckets: `level` of `limit`, refilled at `limit` a minute."""

    limit: float
    level: float
    at: float

    def refill(self, now: float) -> None:
        self.level = min(self.limit, self.level + self.limit / 60 * (now - self.at))
        self.at = now

    def wait(self, cost: float) -> float:
        """Seconds until `cost` can be taken. A cost above the whole bucket waits for a full one."""
        missing = min(cost, self.limit) - self.level
        return max(0.0, missing / (self.limit / 60))


@dataclass(frozen=True)
class Cost:
    """What a call is expected to take from each bucket."""

    requests: float = 1.0
    input: float = 0.0
    output: float = 0.0


class Forecast:
    """Expected tokens of a call, learnt from the calls before it. Cached reads do not count against limits."""

    def __init__(self) -> None:
        self.input_per_character = 0.3
        self.output = 500.0
        self.seen = 0

    def cost(self, request: Request) -> Cost:
        return Cost(1.0, request.characters * self.input_per_character, min(self.output, request.max_tokens))

    def learn(self, request: Request, usage: Usage) -> None:
        """Running means, quick at first."""
        self.seen += 1
        step = max(1 / self.seen, 0.1)
        per_character = (usage.input + usage.cache_write) / max(1, request.characters)
        self.input_per_character += step * (per_character - self.input_per_character)
        self.output += step * (usage.output - self.output)


class Gate:
    """Lets calls through in the order they came. `most` bounds the calls in flight."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.window = float(min(4, most))
        self.flying: dict[int, Cost] = {}
        self.buckets: dict[str, Bucket] = {}
        self.paused_until = 0.0
        self.forecast = Forecast()
        self._clock = clock
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._next = 0
        self._sent: deque[tuple[float, Cost]] = deque(maxlen=4 * most)
        self._calm_until = 0.0  # a burst of refusals shrinks the window once

    async def enter(self, request: Request) -> int:
        """Wait until this request may leave. Returns the ticket that `leave` takes back."""
        cost = self.forecast.cost(request)
        async with self._turn:
            while (delay := self._delay(cost)) > 0:
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), min(delay, 1.0))
            self._next += 1
            self.flying[self._next] = cost
            self._sent.append((self._clock(), cost))
            for name, bucket in self.buckets.items():
                if name != "output":  # output is taken when it has been written
                    bucket.level -= getattr(cost, name)
            return self._next

    def leave(self, ticket: int, request: Request, usage: Usage | None) -> None:
        """The call ended; `usage` where it brought an answer, from which the forecast learns."""
        self.flying.pop(ticket, None)
        if usage is not None:
            self.forecast.learn(request, usage)
            self.window = min(self.most, self.window + (2.0 if self.buckets else 0.5 / self.window**0.5))
        self._changed.set()

    def saw(self, status: int, headers: Mapping[str, str], sent_at: float | None = None) -> None:
        """Learn from one HTTP response, a refused or failed one too. `sent_at`: when its request left, on the gate's clock."""
        now = self._clock()
        for name, header in DIMENSIONS.items():
            limit = _number(headers.get(f"anthropic-ratelimit-{header}-limit"))
            remaining = _number(headers.get(f"anthropic-ratelimit-{header}-remaining"))
            if limit and remaining is not None:
                self.buckets[name] = Bucket(limit, self._level(name, remaining, now, sent_at), now)
        if status == 429:
            self._slow_down(now, _number(headers.get("retry-after")))
        self._changed.set()

    async def calm(self) -> None:
        """Wait out a refusal: of one call, all are told."""
        await asyncio.sleep(max(0.0, self.paused_until - self._clock()))

    def now(self) -> float:
        """The gate's clock."""
        return self._clock()

    def _level(self, name: str, remaining: float, now: float, sent_at: float | None) -> float:
        """What the bucket holds, from what the provider says and what we reckon ourselves.

        The provider cannot know of requests that are still on their way to it: it may say too much, by at most what left after
        the request that this response answers. Between those two bounds our own reckoning stands.
        """
        bucket = self.buckets.get(name)
        if bucket is None or name == "output" or sent_at is None:
            return remaining
        bucket.refill(now)
        later = sum(getattr(cost, name) for moment, cost in self._sent if moment > sent_at)
        return min(remaining, max(bucket.level, remaining - later))

    def _slow_down(self, now: float, retry_after: float | None) -> None:
        wait = min(1.0 if retry_after is None else retry_after, LONGEST_PAUSE)
        self.paused_until = max(self.paused_until, now + wait)
        if now >= self._calm_until:
            self.window = max(1.0, self.window * (0.8 if self.buckets else 0.5))
            self._calm_until = now + max(wait, 1.0)

    def _delay(self, cost: Cost) -> float:
        """Seconds until a call of this cost may leave; 0 if now."""
        now = self._clock()
        if len(self.flying) >= int(self.window):
            return 1.0  # woken earlier by the next call that ends
        waits = [self.paused_until - now]
        for name, bucket in self.buckets.items():
            bucket.refill(now)
            owed = sum(c.output for c in self.flying.values()) if name == "output" else 0.0
            waits.append(bucket.wait(getattr(cost, name) + owed + MARGIN * bucket.limit))
        return max(0.0, *waits)


def _number(text: str | None) -> float | None:
    """A header's number; None for what is none, negative or without end."""
    try:
        number = None if text is None else float(text)
    except ValueError:
        return None
    return number if number is not None and 0 <= number < math.inf else None
