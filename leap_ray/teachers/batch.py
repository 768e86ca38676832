"""Batch mode: requests are gathered, sent as one Message Batch at half price, and collected, whatever dies in between.

A batch lives at the provider, so its collection survives everything here. The dangerous moment is its creation, which knows no
idempotency key: it is written down first (`planned`), sent without retries, and where no answer comes, looked for among the
provider's recent batches by time and size, and recognised by its requests' names once it has ended.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from leap_ray.errors import UserError
from leap_ray.teachers.books import FAULTS, books_error
from leap_ray.teachers.calls import Answer, Attempts, CallFailed, Reply, Request, Stop
from leap_ray.teachers.claude import ClaudeProvider
from leap_ray.teachers.desk import Budget
from leap_ray.teachers.forms import Form
from leap_ray.teachers.health import Health, cannot_be_asked
from leap_ray.teachers.prices import Prices
from leap_ray.teachers.refusals import Meaning, refusal_of
from leap_ray.teachers.store import Store

MOST = 10_000  # requests of one batch
MOST_CHARACTERS = 100_000_000  # of one batch's prompts; the API takes 256 MB, JSON and all
TRIES = 2  # batches a request may be in, where it expires or fails on the provider's side
CLOCK_SKEW = 900.0  # seconds that the provider's clock and ours may differ
GRACE = 60.0  # seconds after which a creation without an answer, that nobody finds, is taken not to have happened
KEPT = 86_400.0  # seconds for which a batch exists for certain
OUTAGE = 900.0  # seconds without an answer of the provider after which the run stops; the batches wait there
PERMANENT = ("invalid_request_error", "request_too_large", "not_found_error", "permission_error")


@dataclass
class _Search:
    """For a batch whose creation brought no answer: since when, and which batches turned out to be somebody else's."""

    began: float  # by the monotonic clock
    others: set[str] = field(default_factory=set)


class _Outage:
    """How long the provider has not been reached."""

    def __init__(self, model: str, limit: float) -> None:
        self.model, self.limit = model, limit
        self.began: float | None = None

    def over(self) -> None:
        self.began = None

    def goes_on(self, detail: str) -> None:
        """Raises UserError once it has lasted too long."""
        self.began = self.began or time.monotonic()
        if time.monotonic() - self.began >= self.limit:
            raise cannot_be_asked(self.model, f"no answer for {self.limit:.0f} s: {detail}")


class BatchDesk:
    """Answers requests through batches. `quiet`: seconds without a new request after which what has gathered is sent."""

    resumable = True  # what is under way is collected by the next desk

    def __init__(
        self,
        provider: ClaudeProvider,
        store: Store,
        prices: Prices,
        *,
        budget: float | None = None,
        quiet: float = 30.0,
        poll: tuple[float, float] = (1.0, 60.0),
        grace: float = GRACE,
        outage: float = OUTAGE,
    ) -> None:
        self.provider = provider
        self.store = store
        self.prices = prices
        self.quiet = quiet
        self.poll = poll
        self.grace = grace
        totals = store.totals()
        self.budget = Budget(budget, totals["dollars"] + totals["uncertain"])
        self.health = Health(prices.model, answered=totals["calls"].get("done", 0) > 0)
        self._forms: dict[str, Form] = {}  # in which a request under way was sent, by its key
        self._outage = _Outage(prices.model, outage)
        self._futures: dict[str, asyncio.Future[Answer]] = {}
        self._requests: dict[str, Request] = {}
        # What the desk before us sent may still cost its most, whether it is asked for again or not.
        self._tickets = {key: self.budget.hold(bound) for key, bound in store.outstanding().items()}
        self._gathered: dict[str, Request] = {}
        self._last = time.monotonic()
        self._looking: dict[str, _Search] = {}  # by intent
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
            if request.key not in self.store.outstanding():
                await self._gather(request)
        return await asyncio.shield(future)

    async def totals(self) -> dict[str, Any]:
        """What was asked and spent so far."""
        open_batches = self.store.batches("planned", "sent")
        waiting = {"batches": len(open_batches), "open": len(self._futures), "prices_as_of": self.prices.as_of}
        return {**self.store.totals(), **waiting, "notes": list(self.provider.notes)}

    @property
    def settled(self) -> bool:
        """Whether all that was paid stands in the books: a batch's results stay at the provider until they do."""
        return True

    async def close(self) -> None:
        """Stop polling. Batches under way stay where they are, to be collected by the next desk."""
        self._work.cancel()
        with suppress(asyncio.CancelledError, Exception):
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
        except Exception as fault:  # nobody else would tell those who wait
            error = books_error(self.store.folder, fault) if isinstance(fault, FAULTS) else fault
            for key in list(self._futures):
                future = self._futures.pop(key)
                if not future.done():
                    future.set_exception(error)
            raise error from None

    async def _submit(self) -> None:
        requests, size = [], 0
        for request in list(self._gathered.values())[:MOST]:
            size += request.characters
            if requests and size > MOST_CHARACTERS:
                break
            requests.append(self._gathered.pop(request.key))
        bounds = [self.prices.bound(request, batch=True) for request in requests]
        intent = self.store.plan_batch(requests, bounds)
        self._forms |= {request.key: self.provider.form for request in requests}
        while True:
            try:
                self.store.set_batch(intent, "sent", await self.provider.create_batch(requests))
                self._outage.over()
                return
            except CallFailed as error:
                if error.fatal or error.meaning is Meaning.FORBIDDEN:
                    self._give_up(intent, error.detail)
                    raise cannot_be_asked(self.prices.model, error.detail) from None
                if error.unsure:
                    return  # `planned`: to be looked for
                if error.meaning is not Meaning.LATER:
                    self._give_up(intent, error.detail, final=True)
                    return
                try:
                    self._outage.goes_on(error.detail)
                except UserError:
                    self._give_up(intent, error.detail)
                    raise
                await asyncio.sleep(self.poll[0])

    async def _collect(self) -> bool:
        """Collect the batches that have ended; whether there was one."""
        collected = False
        for batch in self.store.batches("planned", "sent"):
            try:
                for name in [batch["id"]] if batch["id"] else await self._candidates(batch):
                    if await self.provider.batch_ended(name):
                        results = await self.provider.batch_results(name, self._requests)
                        collected |= self._take(batch, name, results)
                self._outage.over()
            except CallFailed as error:
                if error.detail.startswith("HTTP 404") and time.time() - batch["planned_at"] > KEPT:
                    self._give_up(batch["intent"], "the provider has the batch no longer")
                elif error.fatal or error.meaning is Meaning.FORBIDDEN:
                    raise cannot_be_asked(self.prices.model, f"batch {batch['id']}: {error.detail}") from None
                else:
                    self._outage.goes_on(error.detail)
        return collected

    async def _candidates(self, batch: dict[str, Any]) -> list[str]:
        """Batches that may be this one, whose creation brought no answer.

        A batch may appear at the provider after its maker gave up waiting, so it is looked for again and again; where nothing is
        left that it could be, it is taken not to exist.
        """
        search = self._looking.setdefault(batch["intent"], _Search(time.monotonic()))
        known = {other["id"] for other in self.store.batches("sent", "ended")} | search.others
        recent = await self.provider.batches_since(batch["planned_at"] - CLOCK_SKEW)
        names = [name for name, size in recent if size == batch["size"] and name not in known]
        if not names and time.monotonic() - search.began >= self.grace:
            self._give_up(batch["intent"], "the batch never reached the provider")
        return names

    def _take(self, batch: dict[str, Any], name: str, results: dict[str, Reply | str]) -> bool:
        rows = self.store.batch_rows(batch["intent"])
        if rows and not set(rows) & set(results):  # somebody else's batch of the same size
            if search := self._looking.get(batch["intent"]):
                search.others.add(name)
            return False
        replies = {key: result for key, result in results.items() if isinstance(result, Reply)}
        for key in [key for key in rows if key in replies]:
            self._answer(key, rows.pop(key), replies[key])
        details = {key: str(results.get(key, "missing from the results")) for key in rows}
        failures = {key: failure for key, row in rows.items() if (failure := self._fail(key, row, details[key]))}
        self.store.set_batch(batch["intent"], "ended", name)
        for failure in failures.values():  # all of it is in the books, and nobody was told: a failure may end the run
            self.health.failed(failure)
        for key, failure in failures.items():
            self._resolve(key, Answer(key, stop=Stop.FAILED, detail=failure.detail))
        return True

    def _answer(self, key: str, row: int, reply: Reply) -> None:
        dollars = self.prices.dollars(reply.usage, batch=True)
        answer = Answer(key, reply.text, reply.stop, reply.usage, dollars, reply.detail)
        self.store.done(row, answer, Attempts(sent=1), reply.request_id)
        self.health.succeeded()
        self._resolve(key, answer)

    def _fail(self, key: str, row: int, detail: str) -> CallFailed | None:
        """Book a request without an answer, and gather it for another batch; else its failure, which nobody was told yet."""
        permanent, request = detail.startswith(PERMANENT), self._requests.get(key)
        meaning = refusal_of(400, detail).meaning if permanent else Meaning.THIS
        if meaning is Meaning.FLAGGED and self.health.answered:
            answer = Answer(key, stop=Stop.REFUSAL, detail=detail)
            self.store.done(row, answer, Attempts(sent=1))
            self._resolve(key, answer)
            return None
        self.store.failed(row, detail, Attempts(sent=1))
        again = self.store.batch_tries(key) < TRIES
        if permanent and request is not None:  # in another form it may be taken
            again = self.provider.adapt(detail, request, self._forms.get(key, self.provider.form))
        if request is not None and again:
            self._gathered[key] = request  # its reservation stays
            self._last = time.monotonic()
            return None
        return CallFailed(detail, meaning)

    def _give_up(self, intent: str, detail: str, *, final: bool = False) -> None:
        """A batch that does not exist: its requests are gathered anew, or failed."""
        for key, row in self.store.batch_rows(intent).items():
            if final:
                self.store.failed(row, detail, Attempts(sent=1))
                self._resolve(key, Answer(key, stop=Stop.FAILED, detail=detail))
            elif failure := self._fail(key, row, detail):
                self._resolve(key, Answer(key, stop=Stop.FAILED, detail=failure.detail))
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
