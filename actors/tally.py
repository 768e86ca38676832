"""What a student server has done and is doing, for its `stats()` and for the dashboard's metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Counter, Gauge

from leap_ray.serving import Load

WINDOW = 10.0  # seconds over which rates are taken


class Tally:
    """Counts of a server's work: for `stats()` and, as `ray_leap_student_*`, for the dashboard's metrics."""

    def __init__(self, replica: int, max_sequences: int) -> None:
        self._max_sequences = max_sequences
        self._open = 0
        self._answered = 0
        self._prompt = 0
        self._cached = 0
        self._recent: deque[tuple[float, int, int]] = deque()  # (when, prompt tokens, generated tokens)
        self._published = 0.0
        tags = {"replica": str(replica)}
        self._running, self._waiting = (
            _tagged(Gauge(f"leap_student_{name}_requests", text, tag_keys=("replica",)), tags)
            for name, text in (("running", "requests being decoded"), ("waiting", "requests in the queue"))
        )
        self._tokens = {
            kind: _tagged(Counter(f"leap_student_{kind}_tokens", f"{kind} tokens", tag_keys=("replica",)), tags)
            for kind in ("prompt", "generation")
        }
        self._rate = _tagged(
            Gauge("leap_student_tokens_per_second", "generated tokens per second", tag_keys=("replica",)), tags
        )
        self._unpublished = [0, 0]

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around one request, whatever becomes of it."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def count(self, prompt: int, cached: int, generated: int) -> None:
        """One answered request, in tokens."""
        self._answered += 1
        self._prompt += prompt
        self._cached += cached
        self._unpublished[0] += prompt
        self._unpublished[1] += generated
        self._recent.append((time.monotonic(), prompt, generated))
        self._publish()

    def load(self, policies: tuple[str, ...]) -> Load:
        """The figures now."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - WINDOW:
            self._recent.popleft()
        running = min(self._open, self._max_sequences)
        return Load(
            running=running,
            waiting=self._open - running,
            prompt_tokens_per_s=sum(p for _, p, _ in self._recent) / WINDOW,
            generation_tokens_per_s=sum(g for _, _, g in self._recent) / WINDOW,
            prefix_hit_rate=self._cached / self._prompt if self._prompt else 0.0,
            requests=self._answered,
            policies=policies,
        )

    def _publish(self) -> None:
        now = time.monotonic()
        if now - self._published < 1.0:
            return
        self._published = now
        load = self.load(())
        self._running.set(load.running)
        self._waiting.set(load.waiting)
        self._rate.set(load.generation_tokens_per_s)
        for counter, amount in zip(self._tokens.values(), self._unpublished, strict=True):
            if amount:
                counter.inc(amount)
        self._unpublished = [0, 0]


def _tagged(metric: Any, tags: dict[str, str]) -> Any:
    metric.set_default_tags(tags)
    return metric
