"""The gate: it finds a limit from the answers, keeps below it, and grows until it is told to slow down."""

import asyncio

import pytest

from experiments.benchmarks.anthropic_books import Limits
from experiments.benchmarks.teacher_throughput import FixedGate, measure
from leap_ray.teachers.calls import Request, Turn, Usage
from leap_ray.teachers.rate import Bucket, Gate

REQUEST = Request("claude-haiku-4-5", "s" * 100, (Turn("user", "u" * 900),), 1000)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def headers(**values):
    return {f"anthropic-ratelimit-{name.replace('_', '-')}": str(value) for name, value in values.items()}


def test_a_bucket_refills_to_its_limit_and_says_how_long_a_cost_takes():
    bucket = Bucket(60, 10, 0.0)
    bucket.refill(20)
    assert bucket.level == 30 and bucket.wait(30) == 0 and bucket.wait(45) == 15
    bucket.refill(1000)
    assert bucket.level == 60 and bucket.wait(500) == 0  # more than it can ever hold: when it is full


def test_costs_are_learnt_without_cached_reads():
    gate = Gate(8)
    for _ in range(30):
        gate.forecast.learn(REQUEST, Usage(input=100, output=80, cache_write=100, cache_read=5000))
    cost = gate.forecast.cost(REQUEST)
    assert cost.input == pytest.approx(200, rel=0.01) and cost.output == pytest.approx(80, rel=0.01)


@pytest.mark.parametrize(
    "value, longest", [("86400", 90), ("inf", 1), ("nan", 1), ("-5", 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)]
)
def test_no_header_can_stop_everybody_for_long(value, longest):
    clock = Clock()
    gate = Gate(8, clock)
    gate.saw(429, {"retry-after": value})
    assert 0 < gate.paused_until <= longest
    gate.saw(
        200,
        headers(requests_limit=value, requests_remaining=value, output_tokens_limit="-1", output_tokens_remaining="0"),
    )
    assert set(gate.buckets) <= {"requests"} and all(bucket.limit == 86400 for bucket in gate.buckets.values())


async def test_it_waits_for_the_bucket_that_is_empty():
    clock = Clock()
    gate = Gate(8, clock)
    gate.saw(
        200, headers(requests_limit=60, requests_remaining=2, output_tokens_limit=6000, output_tokens_remaining=5999)
    )
    gate.leave(await gate.enter(REQUEST), REQUEST, Usage(10, 10))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            for _ in range(3):
                gate.leave(await gate.enter(REQUEST), REQUEST, Usage(10, 10))
    clock.now += 60
    async with asyncio.timeout(1):
        await gate.enter(REQUEST)


async def test_a_refusal_stops_everybody_for_as_long_as_it_says():
    clock = Clock()
    gate = Gate(8, clock)
    gate.saw(429, {"retry-after": "30"})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gate.enter(REQUEST)
    clock.now = 31
    async with asyncio.timeout(2):
        await gate.enter(REQUEST)


def test_a_burst_of_refusals_shrinks_the_window_once_and_answers_grow_it():
    clock = Clock()
    gate = Gate(64, clock)
    gate.window = 32.0
    for _ in range(10):
        gate.saw(429, {"retry-after": "2"})
    assert gate.window == 16
    for ticket in range(1000):
        gate.leave(ticket, REQUEST, Usage(1, 1))
    assert 30 < gate.window <= 64
    gate.saw(200, headers(requests_limit=1000, requests_remaining=900))
    for ticket in range(100):
        gate.leave(ticket, REQUEST, Usage(1, 1))
    assert gate.window == 64


@pytest.mark.parametrize(
    "limits", [Limits(600, 1e9, 1e9, 0.1), Limits(1e6, 200_000, 1e9, 0.1), Limits(1e6, 1e9, 60_000, 0.1)]
)
async def test_it_comes_close_to_a_limit_nobody_told_it_and_is_hardly_refused(limits):
    # How much of the limit is used depends on the machine's speed: the benchmark states it.
    ours = await measure(Gate(12), limits, (0.05, 0.15), 2.0, 200)
    assert ours["refused_share"] < 0.02
    assert 0.1 < ours["of_limit"] <= 1.05


def test_a_response_is_held_against_our_own_reckoning():
    clock = Clock()
    gate = Gate(8, clock)
    gate.saw(200, headers(requests_limit=60, requests_remaining=30), 0.0)
    gate.buckets["requests"].level -= 5  # five left since
    gate._sent.extend((0.5, gate.forecast.cost(REQUEST)) for _ in range(5))
    gate.saw(200, headers(requests_limit=60, requests_remaining=30), 0.0)  # it has not heard of them
    assert gate.buckets["requests"].level == 25
    gate.saw(200, headers(requests_limit=60, requests_remaining=20), 0.0)  # somebody else asks as well
    assert gate.buckets["requests"].level == 20
    gate.saw(200, headers(requests_limit=60, requests_remaining=50), 0.6)  # we had reckoned too much
    assert gate.buckets["requests"].level == 50


async def test_without_the_gate_the_same_calls_are_refused():
    many = await measure(FixedGate(64), Limits(120, 1e9, 1e9, 0.1), (0.1, 0.3), 2.0, 20)
    assert many["refused_share"] > 0.1
