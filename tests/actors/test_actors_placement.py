"""What is asked of a cluster that cannot give it ends in a report, not in a wait."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
import ray

from actors.placement import Ask, place, soon, wait
from leap_ray.errors import UserError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import this file


class Sleeper:
    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    async def complain(self) -> None:
        raise UserError("the thing is wrong: do that")


class Broken:
    def __init__(self) -> None:
        raise UserError("it cannot start: do this")


@pytest.fixture(scope="module")
def sleeper(ray_session):
    actor = ray.remote(Sleeper).options(num_cpus=0).remote()
    yield actor
    ray.kill(actor)


def test_no_room_is_reported_with_what_was_asked_and_what_there_is(ray_session):
    ask = Ask(cpus=1000, gpus=3)
    actor = ray.remote(Sleeper).options(**ask.options()).remote()
    with pytest.raises(UserError, match=r"student-7 needs 1000 CPU \+ 3 GPU.*1 node\(s\) with 8 CPU \+ 0 GPU"):
        place({"student-7": actor}, {"student-7": ask}, timeout=1)
    ray.kill(actor)


def test_actors_with_room_are_placed(sleeper):
    place({"sleeper": sleeper}, {"sleeper": Ask()}, timeout=60)
    assert wait({"sleeper": sleeper.sleep.remote(0)}, timeout=30) == {"sleeper": "slept"}


def test_an_actor_that_cannot_start_gives_its_reason(ray_session):
    actor = ray.remote(Broken).options(num_cpus=0).remote()
    with pytest.raises(UserError, match=r"broken died.*it cannot start: do this"):
        place({"broken": actor}, {}, timeout=60)


def test_wait_names_the_call_that_took_too_long(sleeper):
    with pytest.raises(UserError, match="slow did not answer within 1 s"):
        wait({"quick": sleeper.sleep.remote(0), "slow": sleeper.sleep.remote(20)}, timeout=1)


def test_wait_gives_results_by_name(sleeper):
    assert wait({"a": sleeper.sleep.remote(0)}, timeout=30) == {"a": "slept"}


async def test_soon_has_a_limit_and_passes_a_users_error_on(sleeper):
    assert await soon(sleeper.sleep.remote(0), "sleeper", 30) == "slept"
    began = time.monotonic()
    with pytest.raises(UserError, match="sleeper did not answer within 1 s"):
        await soon(sleeper.sleep.remote(20), "sleeper", 1)
    assert time.monotonic() - began < 15
    with pytest.raises(UserError, match=r"^the thing is wrong: do that$"):
        await soon(sleeper.complain.remote(), "sleeper", 30)
