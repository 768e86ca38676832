"""A pool whose replicas die: every call goes on with those that live. Real actors in place of servers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import save_file

from actors.student_pool import StudentPool
from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.serving import BASE, Load, Probe, fingerprint
from leap_ray.types import Sampling

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import this file


class Server:
    """Answers at once, with its number, and remembers what it was asked."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[tuple] = []

    async def complete(self, prompt_ids, sampling, seed, policy, request_id) -> int:
        return self.number

    async def score(self, prompt_ids, candidates, policy) -> list[list[float]]:
        return [[float(self.number)]] * len(candidates)

    async def probe(self, name, prompts, completions, expected, tolerance) -> Probe:
        return Probe(name, 1, 0.0 if name == "good" else 1.0, float(self.number), None, tolerance)

    async def stats(self) -> Load:
        return Load(running=self.number)

    async def load_adapter(self, *args) -> None:
        self.asked.append(("load_adapter", *args))

    async def unload_adapter(self, *args) -> None:
        self.asked.append(("unload_adapter", *args))

    async def load_weights(self, *args) -> None:
        self.asked.append(("load_weights", *args))

    async def sleep(self) -> None:
        self.asked.append(("sleep",))

    async def wake(self) -> None:
        self.asked.append(("wake",))

    async def shutdown(self) -> None:
        self.asked.append(("shutdown",))

    async def hang(self) -> None:
        await asyncio.sleep(600)

    async def what(self) -> list[tuple]:
        return self.asked


@pytest.fixture
def pool(ray_session):
    server = ray.remote(Server)
    made = StudentPool([server.options(num_cpus=0).remote(i) for i in range(3)], StudentConfig(request_timeout=60))
    ray.get([replica.what.remote() for replica in made.replicas])
    yield made
    made.kill()


async def complete(pool: StudentPool, episode: int) -> int:
    return await pool.complete([1], Sampling(), 0, BASE, f"episode-{episode}/0")


async def test_every_call_leaves_a_dead_replica_out(pool, tmp_path):
    weights = adapter(tmp_path)
    ray.kill(pool.replicas[1])
    await pool.load("good", weights)
    assert await pool.probe("good", [[1]], [[2]], [[0.0]]) == 2.0
    await pool.sleep()
    await pool.wake()
    await pool.unload("good")
    await pool.restore_base()
    assert [load.running for load in await pool.stats()] == [0, 2]
    assert {await complete(pool, e) for e in range(20)} == {0, 2}
    assert {(await pool.score([1], [[2]], BASE, f"e{e}"))[0][0] for e in range(20)} == {0.0, 2.0}
    with pytest.raises(UserError, match=r"does not run the weights just trained: student-0: .*; student-2: "):
        await pool.probe("bad", [[1]], [[2]], [[0.0]])
    content = fingerprint(weights)
    for replica in (pool.replicas[0], pool.replicas[2]):
        assert await replica.what.remote() == [
            ("load_adapter", "good", str(weights), content),
            ("sleep",),
            ("wake",),
            ("unload_adapter", "good"),
            ("load_weights", BASE),
        ]


@pytest.mark.parametrize("call", ["load", "probe", "sleep", "wake", "stats", "complete", "score"])
async def test_whichever_call_meets_the_death_first(pool, call, tmp_path):
    ray.kill(pool.replicas[0])
    calls = {
        "load": lambda: pool.load("good", adapter(tmp_path)),
        "probe": lambda: pool.probe("good", [[1]], [[2]], [[0.0]]),
        "complete": lambda: asyncio.gather(*(complete(pool, e) for e in range(20))),
        "score": lambda: asyncio.gather(*(pool.score([1], [[2]], BASE, f"e{e}") for e in range(20))),
    }
    await calls.get(call, getattr(pool, call))()
    assert {await complete(pool, e) for e in range(20)} == {1, 2}


async def test_a_death_moves_no_other_episode(pool):
    before = [await complete(pool, e) for e in range(40)]
    ray.kill(pool.replicas[2])
    after = [await complete(pool, e) for e in range(40)]
    assert all(now == then for now, then in zip(after, before) if then != 2)


async def test_a_pool_that_is_sent_on_knows_what_the_sender_knew(pool):
    ray.kill(pool.replicas[0])
    await pool.stats()
    again = ray.get(ray.put(pool))
    assert len(await again.stats()) == 2


async def test_when_all_have_died_the_run_ends_with_one_sentence(pool):
    for replica in pool.replicas:
        ray.kill(replica)
    for call in (pool.sleep, pool.stats, lambda: complete(pool, 1), lambda: pool.score([1], [[2]], BASE, "e")):
        with pytest.raises(UserError, match="every student server has died"):
            await call()


async def test_control_calls_have_a_limit_that_allows_for_a_start(pool):
    assert pool.control_timeout == StudentConfig().start_timeout
    with pytest.raises(UserError, match=r"student-\d, asked to hang, did not answer within 1 s"):
        await pool._on_all("hang", seconds=1)


async def test_the_limit_of_loading_grows_with_the_weights(pool, tmp_path, monkeypatch):
    seconds = []

    async def on_all(*_: object, seconds_seen: list[float] = seconds, **options: float) -> None:
        seconds_seen.append(options["seconds"])

    monkeypatch.setattr(pool, "_on_all", on_all)
    for rank in (1, 1024):
        await pool.load("good", adapter(tmp_path, rank))
    assert seconds[1] - seconds[0] == pytest.approx(30 * 1023 * 4096 / 2**30, rel=0.01)


def adapter(folder: Path, rank: int = 1) -> Path:
    """A folder with a few weights."""
    save_file({"a": torch.zeros(rank, 1024)}, folder / "adapter_model.safetensors")
    return folder
