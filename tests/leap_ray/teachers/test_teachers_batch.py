"""Batch mode: half price, and a batch that is collected whatever happened to the one who sent it."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from aiohttp import web
from desks import KEY, claude, privileged, wandering

from experiments.benchmarks.anthropic_server import AnthropicServer, Batch, Faults
from leap_ray.errors import UserError
from leap_ray.teachers.store import read_ledger
from leap_ray.types import Outcome


async def correct_all(teacher, episodes):
    return await asyncio.gather(*(teacher.correct(episode, privileged(episode)) for episode in episodes))


def outcomes(corrections):
    return Counter(step.outcome for correction in corrections for step in correction.steps)


async def test_one_batch_at_half_price(tmp_path):
    episodes = wandering(12)
    async with AnthropicServer(key=KEY, batch_seconds=0.2) as server:
        async with claude(tmp_path / "batch", server, mode="batch") as teacher:
            corrections = await correct_all(teacher, episodes)
        assert len(server.batches) == 1 and outcomes(corrections)[Outcome.CORRECTED] > 0
        half = server.books.stats()["dollars"]
        async with claude(tmp_path / "live", server) as teacher:
            live = await correct_all(teacher, episodes)
        assert server.books.stats()["dollars"] - half == pytest.approx(2 * half)
    assert [c.steps for c in corrections] == [c.steps for c in live]
    assert sum(row["dollars"] for row in read_ledger(tmp_path / "batch")) == pytest.approx(half, abs=1e-9)


async def test_a_desk_that_leaves_while_the_batch_is_processed_is_followed_by_one_that_collects_it(tmp_path):
    episodes = wandering(6)
    async with AnthropicServer(key=KEY, batch_seconds=1.5) as server:
        async with claude(tmp_path, server, mode="batch") as teacher:
            work = asyncio.create_task(correct_all(teacher, episodes))
            while not server.batches:  # noqa: ASYNC110  polls a process
                await asyncio.sleep(0.02)
            work.cancel()
        async with claude(tmp_path, server, mode="batch") as teacher:
            corrections = await correct_all(teacher, episodes)
        assert len(server.batches) == 1 and len(server.books.billed) == 6
    assert outcomes(corrections)[Outcome.FAILED] == 0


async def test_a_batch_whose_making_was_cut_off_is_found_again(tmp_path):
    class CutCreation(Faults):
        def of(self, key, attempt):
            return "cut" if key.startswith("msgbatch") and len(server.batches) == 1 else None

    async with AnthropicServer(key=KEY, batch_seconds=0.3, faults=CutCreation()) as server:
        async with claude(tmp_path, server, mode="batch") as teacher:
            corrections = await correct_all(teacher, wandering(5))
        assert len(server.batches) == 1, "the creation must not be repeated"
        assert server.books.stats()["paid_twice"] == 0
    assert outcomes(corrections)[Outcome.FAILED] == 0


class Unanswered(AnthropicServer):
    """The first creation brings no answer; its batch exists `late` seconds later, or (None) never."""

    late: float | None = None
    creations = 0

    async def _create_batch(self, request):
        self.creations += 1
        if self.creations > 1:
            return await super()._create_batch(request)
        body = await request.json()
        request.transport.close()
        if self.late is not None:

            def appear():
                now = datetime.now(UTC)
                self.batches["msgbatch_late"] = Batch("msgbatch_late", body["requests"], now, time.monotonic() + 0.1)

            asyncio.get_running_loop().call_later(self.late, appear)
        return web.Response(status=500)


@pytest.mark.parametrize("late, made", [(0.8, 0), (None, 1)])
async def test_a_batch_that_appears_late_is_collected_and_one_that_never_does_is_made_again(tmp_path, late, made):
    async with Unanswered(key=KEY, batch_seconds=0.1) as server:
        server.late = late
        async with claude(tmp_path, server, mode="batch", grace=2.0) as teacher:
            corrections = await correct_all(teacher, wandering(5))
        assert server.creations == 1 + made and server.books.stats()["paid_twice"] == 0
        assert sum(row["dollars"] for row in read_ledger(tmp_path)) == pytest.approx(server.books.stats()["dollars"])
    assert outcomes(corrections)[Outcome.FAILED] == 0


async def test_what_a_batch_may_still_cost_counts_after_a_restart_whatever_is_asked_first(tmp_path):
    episodes, limit = wandering(16), 1.0
    async with AnthropicServer(key=KEY, batch_seconds=2.0) as server:
        async with claude(tmp_path, server, mode="batch", budget_dollars=limit) as teacher:
            work = asyncio.create_task(correct_all(teacher, episodes[:5]))
            while not server.batches:  # noqa: ASYNC110  polls a process
                await asyncio.sleep(0.02)
            bound = sum(teacher.desk.budget.reserved.values())
            work.cancel()
        async with claude(tmp_path, server, mode="batch", budget_dollars=limit) as teacher:
            assert sum(teacher.desk.budget.reserved.values()) == pytest.approx(bound) and 0.5 < bound < limit
            others = asyncio.create_task(correct_all(teacher, episodes[5:]))  # nobody asks for the first five again
            await asyncio.sleep(0.5)
            assert sum(len(batch.requests) for batch in server.batches.values()) * bound / 5 <= limit
            await others
            assert teacher.desk.budget.spent == pytest.approx(server.books.stats()["dollars"])
        assert server.books.stats()["paid_twice"] == 0 and server.books.stats()["dollars"] <= limit


async def test_a_large_gathering_is_sent_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("leap_ray.teachers.batch.MOST_CHARACTERS", 40_000)
    async with AnthropicServer(key=KEY, batch_seconds=0.1) as server:
        async with claude(tmp_path, server, mode="batch") as teacher:
            corrections = await correct_all(teacher, wandering(20))
        assert len(server.batches) > 2 and server.books.stats()["calls"] == 20
    assert outcomes(corrections)[Outcome.FAILED] == 0


async def test_per_step_requests_go_into_one_batch(tmp_path):
    async with AnthropicServer(key=KEY, batch_seconds=0.1) as server:
        async with claude(tmp_path, server, mode="batch", per="step", quiet=0.3) as teacher:
            await correct_all(teacher, wandering(2))
        assert len(server.batches) == 1


async def test_somebody_elses_batch_is_not_taken_for_ours(tmp_path):
    class CutCreation(Faults):
        def of(self, key, attempt):
            return "cut" if key.startswith("msgbatch") and len(server.batches) == 2 else None

    async with AnthropicServer(key=KEY, batch_seconds=0.3, faults=CutCreation()) as server:
        async with claude(tmp_path / "other", server, mode="batch") as other:
            async with claude(tmp_path / "ours", server, mode="batch") as ours:
                theirs = asyncio.create_task(correct_all(other, wandering(10)[5:]))
                while not server.batches:  # noqa: ASYNC110  polls a process
                    await asyncio.sleep(0.02)
                corrections = await correct_all(ours, wandering(5))
                await theirs
        assert len(server.batches) == 2 and server.books.stats()["paid_twice"] == 0
    assert outcomes(corrections)[Outcome.FAILED] == 0


async def test_expired_and_failed_requests_go_into_one_more_batch(tmp_path):
    async with AnthropicServer(key=KEY, batch_seconds=0.1, batch_faults=0.4) as server:
        async with claude(tmp_path, server, mode="batch") as teacher:
            corrections = await correct_all(teacher, wandering(20))
        stats = server.books.stats()
        assert len(server.batches) >= 2 and stats["paid_twice"] == 0
    counted = outcomes(corrections)
    assert counted[Outcome.CORRECTED] > counted[Outcome.FAILED] > 0
    assert {s.detail for c in corrections for s in c.steps if s.outcome is Outcome.FAILED} <= {
        "expired",
        "api_error: Internal server error",
    }
    states = Counter(row["state"] for row in read_ledger(tmp_path))
    assert states["done"] == stats["calls"] and max(Counter(r["key"] for r in read_ledger(tmp_path)).values()) == 2


async def test_spoilt_answers_are_repaired_in_a_second_batch(tmp_path):
    faults = Faults(0.5, ("malformed", "short", "refusal", "max_tokens", "unavailable"))
    async with AnthropicServer(key=KEY, batch_seconds=0.1, faults=faults) as server:
        async with claude(tmp_path, server, mode="batch") as teacher:
            corrections = await correct_all(teacher, wandering(20))
            totals = await teacher.totals()
        assert totals["dollars"] == pytest.approx(server.books.stats()["dollars"], abs=1e-9)
    assert outcomes(corrections)[Outcome.CORRECTED] > 0 and outcomes(corrections)[Outcome.REFUSED] > 0


async def test_the_budget_bounds_what_is_in_batches(tmp_path):
    async with AnthropicServer(key=KEY, batch_seconds=0.1) as server:
        async with claude(tmp_path, server, mode="batch", budget_dollars=0.4) as teacher:
            corrections = await correct_all(teacher, wandering(60))
        assert 0.1 < server.books.stats()["dollars"] <= 0.4
    assert outcomes(corrections)[Outcome.BUDGET] > 0


async def test_a_wrong_key_stops_the_run(tmp_path):
    async with AnthropicServer(key="another") as server, claude(tmp_path, server, mode="batch") as teacher:
        with pytest.raises(UserError, match="HTTP 401"):
            await correct_all(teacher, wandering(2))
