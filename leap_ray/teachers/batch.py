"""Batch mode: requests are gathered, sent as one Message Batch at half price, and collected, whatever dies in between.

A batch lives at the provider, so its collection survives everything here. The dangerous moment is its creation, which knows no
idempotency key: it is written down first (`planned`), sent without retries, and where no answer comes, looked for among the
provider's recent batches by time and size, and recognised by its requests' names once it has ended.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from leap_ray.errors import UserError
from leap_ray.teachers.calls import Answer, Attempts, CallFailed, Reply, Request, Stop
from leap_ray.teachers.claude import ClaudeProvider
from leap_ray.teachers.desk import Budget
from leap_ray.teachers.prices import Prices
from leap_ray.teachers.store import Store

MOST = 10_000  # requests of one batch
TRIES = 2  # batches a request may be in, where it expires or fails on the provider's side
CLOCK_SKEW = 120.0  # seconds between the provider's clock and ours
PERMANENT = ("invalid_request_error", "request_too_large", "not_found_error", "permission_error")


class BatchDesk:
    """Answers requests through batches. `quiet`: seconds without a new request after which what has gathered is sent."""

    def __init__(
        self,
        provider: ClaudeProvider,
        store: Store,
        prices: Prices,
        *,
        budget: float | None = None,
        quiet: float = 30.0,
        poll: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        self.provider = provider
        self.store = store
        self.prices = prices
        self.quiet = quiet
        self.poll = poll
        totals = store.totals()
        self.budget = Budget(budget, totals["dollars"] + totals["uncertain"])
        self._futures: dict[str, asyncio.Future[Answer]] = {}
        self._requests: dict[str, Request] = {}
        self._tickets: dict[str, int] = {}
        self._gathered: dict[str, Request] = {}
        self._last = time.monotonic()
        self._looking: dict[str, list[str]] = {}  # intent -> batches that may be it
        self._work = asyncio.create_task(self._run())

    async def ask(self, request: Request) -> Answer:
        """The answer: kept, or out of a batch. Raises UserError for what is wrong with all requests."""
        if kept := self.store.answer(request.key):
            return kept
        if self._work.done():
            self._work.result()
        future = self._futures.get(request.key)
        if future is None:
            future = self._futures[request.key] = asyncio.get_running_loop().create_future()
            self._requests[request.key] = request
            if request.key in self.store.waiting():  # sent by the desk before us
                self._tickets[request.key] = self.budget.hold(self.prices.bound(request, batch=True))
            else:
                await self._gather(request)
        return await asyncio.shield(future)

    async def totals(self) -> dict[str, Any]:
        """What was asked and spent so far."""
        open_batches = self.store.batches("planned", "sent")
        waiting = {"batches": len(open_batches), "open": len(self._futures), "prices_as_of": self.prices.as_of}
        return {**self.store.totals(), **waiting}

    async def close(self) -> None:
        """Stop polling. Batches under way stay where they are, to be collected by the next desk."""
        self._work.cancel()
        with suppress(asyncio.CancelledError, UserError):
            await self._work
        await self.provider.close()
        self.store.close()

    async def _gather(self, request: Request) -> None:
        ticket = await self.budget.reserve(self.prices.bound(request, batch=True))
        if ticket is None:
            detail = f"the limit of {self.budget.limit:g} dollars"
            self._resolve(request.key, Answer(request.key, stop=Stop.BUDGET, detail=detail))
            return
        self._tickets[request.key] = ticket
        self._gathered[request.key] = request
        self._last = time.monotonic()

    async def _run(self) -> None:
        delay = self.poll[0]
        try:
            while True:
                full = len(self._gathered) >= MOST
                if self._gathered and (full or time.monotonic() - self._last >= self.quiet):
                    await self._submit()
                    delay = self.poll[0]
                collected = await self._collect()
                delay = self.poll[0] if collected else min(self.poll[1], delay * 1.5)
                await asyncio.sleep(min(delay, self.quiet) if self._gathered else delay)
        except UserError as error:
            for key in list(self._futures):
                future = self._futures.pop(key)
                if not future.done():
                    future.set_exception(UserError(str(error)))
            raise

    async def _submit(self) -> None:
        requests = list(self._gathered.values())[:MOST]
        for request in requests:
            del self._gathered[request.key]
        intent = self.store.plan_batch(requests)
        while True:
            try:
                self.store.set_batch(intent, "sent", await self.provider.create_batch(requests))
                return
            except CallFailed as error:
                if error.fatal:
                    self._give_up(intent, error.detail)
                    raise UserError(f"the teacher cannot be asked in batches: {error.detail}") from None
                if error.unsure:
                    return  # `planned`: to be looked for
                if not error.detail.startswith(("HTTP 429", "HTTP 529")):
                    self._give_up(intent, error.detail, final=True)
                    return
                await asyncio.sleep(self.poll[0])

    async def _collect(self) -> bool:
        """Collect the batches that have ended; whether there was one."""
        collected = False
        for batch in self.store.batches("planned", "sent"):
            try:
                name = batch["id"] or await self._find(batch)
                if name is None:
                    self._give_up(batch["intent"], "the batch never reached the provider")
                elif name and await self.provider.batch_ended(name):
                    collected |= self._take(batch, name, await self.provider.batch_results(name))
            except CallFailed as error:
                if error.fatal:
                    raise UserError(f"batch {batch['id']} cannot be collected: {error.detail}") from None
        return collected

    async def _find(self, batch: dict[str, Any]) -> str | None:
        """The name of a batch whose creation brought no answer: None if it does not exist."""
        intent = batch["intent"]
        if intent not in self._looking:
            known = {other["id"] for other in self.store.batches("sent", "ended")}
            recent = await self.provider.batches_since(batch["planned_at"] - CLOCK_SKEW)
            self._looking[intent] = [name for name, size in recent if size == batch["size"] and name not in known]
        return self._looking[intent][0] if self._looking[intent] else None

    def _take(self, batch: dict[str, Any], name: str, results: dict[str, Reply | str]) -> bool:
        rows = self.store.batch_rows(batch["intent"])
        if rows and not set(rows) & set(results):  # somebody else's batch of the same size
            self._looking.get(batch["intent"], [name]).pop(0)
            return False
        for key, row in rows.items():
            self._settle(key, row, results.get(key, "missing from the results"))
        self.store.set_batch(batch["intent"], "ended", name)
        return True

    def _settle(self, key: str, row: int, result: Reply | str) -> None:
        attempts = Attempts(sent=1)
        if isinstance(result, Reply):
            dollars = self.prices.dollars(result.usage, batch=True)
            answer = Answer(key, result.text, result.stop, result.usage, dollars, result.detail)
            self.store.done(row, answer, attempts, result.request_id)
            self._resolve(key, answer)
            return
        self.store.failed(row, result, attempts)
        request = self._requests.get(key)
        again = self.store.batch_tries(key) < TRIES and not result.startswith(PERMANENT)
        if request is not None and again:
            self._gathered[key] = request  # its reservation stays
            self._last = time.monotonic()
        else:
            self._resolve(key, Answer(key, stop=Stop.FAILED, detail=result))

    def _give_up(self, intent: str, detail: str, *, final: bool = False) -> None:
        """A batch that does not exist: its requests are gathered anew, or failed."""
        for key, row in self.store.batch_rows(intent).items():
            if final:
                self.store.failed(row, detail, Attempts(sent=1))
                self._resolve(key, Answer(key, stop=Stop.FAILED, detail=detail))
            else:
                self._settle(key, row, detail)
        self.store.set_batch(intent, "ended", None)

    def _resolve(self, key: str, answer: Answer) -> None:
        self._requests.pop(key, None)
        ticket = self._tickets.pop(key, None)
        if ticket is not None:
            self.budget.settle(ticket, answer.dollars)
        else:
            self.budget.spent += answer.dollars
        future = self._futures.pop(key, None)
        if future is not None and not future.done():
            future.set_result(answer)
