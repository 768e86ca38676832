"""The desk where calls are paid: each question once, never above the budget, as fast as the provider allows.

One desk owns a teacher folder. A question that was answered before costs nothing; one that is under way is shared; a new one
waits for the budget and for the gate, is written down, sent by the provider's SDK (which alone retries) and written down again.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from leap_ray.teachers.books import Books
from leap_ray.teachers.calls import Answer, Attempts, CallFailed, Provider, Request, Stop, Usage
from leap_ray.teachers.health import Health
from leap_ray.teachers.prices import Prices
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.refusals import Meaning
from leap_ray.teachers.store import Store


class Budget:
    """A hard limit in dollars. What is in flight is reserved at the most it can cost, so the limit is never passed."""

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit = math.inf if limit is None else limit
        self.spent = spent
        self.reserved: dict[int, float] = {}
        self._next = 0
        self._changed = asyncio.Event()

    async def reserve(self, bound: float) -> int | None:
        """A ticket for a call that costs at most `bound`; None if the limit cannot bear it even when all others are back."""
        while self.spent + sum(self.reserved.values()) + bound > self.limit:
            if not self.reserved:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.hold(bound)

    def hold(self, bound: float) -> int:
        """A ticket for a call that is under way already."""
        self._next += 1
        self.reserved[self._next] = bound
        return self._next

    def raise_to(self, ticket: int, bound: float) -> bool:
        """Hold more for a call that is under way; False, and nothing changed, where the limit cannot bear it now."""
        if self.spent + sum(self.reserved.values()) - self.reserved[ticket] + bound > self.limit:
            return False
        self.reserved[ticket] = bound
        return True

    def settle(self, ticket: int, dollars: float) -> None:
        """The call is back and cost this much."""
        self.reserved.pop(ticket, None)
        self.spent += dollars
        self._changed.set()


class Desk:
    """Answers requests in live mode."""

    resumable = False  # calls under way cannot be taken up by another desk

    def __init__(
        self, provider: Provider, store: Store, prices: Prices, gate: Gate, budget: float | None = None
    ) -> None:
        self.provider = provider
        self.store = store
        self.prices = prices
        self.gate = gate
        self.books = Books(store)
        for call in store.lost():
            store.write_off(call["n"], self._guess())
        totals = store.totals()
        self.health = Health(prices.model, answered=totals["calls"].get("done", 0) > 0)
        self.budget = Budget(budget, totals["dollars"] + totals["uncertain"])
        self._open: dict[str, asyncio.Task[Answer]] = {}

    async def ask(self, request: Request) -> Answer:
        """The answer: kept, under way, or paid for now. What went wrong with one request is its `stop` and `detail`.

        Raises UserError for what is wrong with all of them: the key, the credit, the model's name, a provider that does not
        answer, books that cannot be written.
        """
        if kept := self.books.answer(request.key):
            return kept
        self.books.check()
        task = self._open.get(request.key)
        if task is None:
            task = self._open[request.key] = asyncio.create_task(self._buy(request))
            task.add_done_callback(lambda _: self._open.pop(request.key, None))
        return await asyncio.shield(task)  # a caller that goes away does not stop a call that will be charged

    async def totals(self) -> dict[str, Any]:
        """What was asked and spent so far; `open` counts the calls under way."""
        window = {"window": self.gate.window, "in_flight": len(self.gate.flying), "notes": list(self.provider.notes)}
        return {**self.store.totals(), **window, "open": len(self._open), "prices_as_of": self.prices.as_of}

    @property
    def settled(self) -> bool:
        """Whether all that was paid stands in the books; tries once more."""
        return self.books.try_again()

    async def close(self) -> None:
        """Wait for what is under way, then close."""
        await asyncio.gather(*self._open.values(), return_exceptions=True)
        await self.provider.close()
        self.books.try_again()
        self.store.close()

    async def _buy(self, request: Request) -> Answer:
        bound = self.prices.bound(request)
        ticket = await self.budget.reserve(bound)
        if ticket is None:
            return Answer(request.key, stop=Stop.BUDGET, detail=f"the limit of {self.budget.limit:g} dollars")
        attempts, spent = Attempts(), 0.0
        attempts.bearable = lambda: self.budget.raise_to(ticket, bound + attempts.undelivered * self._guess())
        pace: int | None = None
        usage: Usage | None = None
        try:
            pace = await self.gate.enter(request)
            self.health.check()
            row = self.books.open_row(request)
            answer, name, error = await self._call(request, attempts)
            usage = None if error else answer.usage
            uncertain = attempts.undelivered * self._guess()
            spent = answer.dollars + uncertain  # before it is written: what no book shows was paid nevertheless
            self.books.close_row(row, answer, attempts, name, uncertain)
        finally:
            if pace is not None:
                self.gate.leave(pace, request, usage)
            self.budget.settle(ticket, spent)
        if error is None:
            self.health.succeeded()
        else:
            self.health.failed(error)
        return answer

    async def _call(self, request: Request, attempts: Attempts) -> tuple[Answer, str, CallFailed | None]:
        """(the answer, the provider's name for it, why there is none)."""
        try:
            reply = await self.provider.call(request, attempts)
        except CallFailed as error:
            flagged = error.meaning is Meaning.FLAGGED and self.health.answered
            dollars = self.prices.dollars(error.paid)
            stop = Stop.REFUSAL if flagged else Stop.FAILED
            return Answer(request.key, "", stop, error.paid, dollars, error.detail), "", error
        dollars = self.prices.dollars(reply.usage)
        return Answer(request.key, reply.text, reply.stop, reply.usage, dollars, reply.detail), reply.request_id, None

    def _guess(self) -> float:
        """What an attempt that was never answered may have cost: the mean call so far, or a middling one before the first."""
        prompt, output, count = self.store.means()
        usage = Usage(input=round(prompt), output=round(output)) if count else Usage(input=4000, output=1000)
        return self.prices.dollars(usage)
