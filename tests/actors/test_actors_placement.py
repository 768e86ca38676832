"""What is asked of a cluster that cannot give it ends in a report, not in a wait."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray._private.state import state

from actors.placement import Ask, fit_cluster, gpus, place, resolved, server_ask, soon, teacher_ask, wait
from leap_ray import config as configuration
from leap_ray.config import DomainConfig, RolloutConfig, RunConfig, StudentConfig
from leap_ray.errors import UserError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import this file


class Sleeper:
    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    async def time_out(self) -> None:
        raise TimeoutError("the database is busy")

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


async def test_a_timeout_inside_a_call_is_not_taken_for_its_own(sleeper):
    with pytest.raises(TimeoutError, match="the database is busy"):
        await soon(sleeper.time_out.remote(), "sleeper", 30)


@pytest.mark.parametrize(
    ("asks", "named"),
    [
        ({"a": (3, Ask(cpus=4))}, "12 CPU are needed together, 8 are there. Asked for: 3 a(s) of 4 CPU + 0 GPU"),
        ({"a": (1, Ask(cpus=8)), "b": (2, Ask(cpus=0.1))}, "8.2 CPU are needed together, 8 are there"),
        ({"a": (1, Ask(cpus=1)), "b": (1, Ask(gpus=0.5))}, "0.5 GPU are needed together, 0 are there"),
        ({"a": (1, Ask(memory_gib=1e6))}, "1e+06 GiB of memory are needed together"),
    ],
)
def test_what_no_cluster_of_this_size_can_hold_is_reported_at_once(ray_session, asks, named):
    with pytest.raises(UserError) as caught:
        fit_cluster(asks)
    assert named in str(caught.value)
    assert "The cluster: 1 node(s) with 8 CPU + 0 GPU" in str(caught.value)


def test_what_no_single_node_holds_is_reported(ray_session, monkeypatch):
    node = ray.nodes()[0]
    nodes = [node | {"Resources": have} for have in ({"CPU": 32.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 2.0})]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    fit_cluster({"server": (2, Ask(cpus=4, gpus=2)), "worker": (3, Ask(cpus=8))})
    for ask in (Ask(cpus=1, gpus=4), Ask(cpus=8, gpus=1)):
        with pytest.raises(UserError, match=rf"no node has {ask.cpus} CPU \+ {ask.gpus} GPU for one server"):
            fit_cluster({"server": (1, ask)})


def test_what_fits_passes(ray_session):
    fit_cluster({"a": (4, Ask(cpus=2)), "b": (100, Ask()), "c": (0, Ask(gpus=1))})


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_configuration_fits_a_machine_or_says_why_not(ray_session, path):
    config = configuration.load(path)
    if path.stem == "paper":
        with pytest.raises(UserError, match=r"student\.gpus_per_replica: 1\.0 is for GPUs"):
            resolved(config)
    else:
        run = resolved(config)
        assert (run.student.gpus_per_replica, run.learner.gpus_per_worker) == (0, 0)
        assert run.hash == config.hash


def test_a_run_with_more_actors_than_there_is_room_for_is_refused(ray_session):
    config = RunConfig("a", (DomainConfig("households"),), rollout=RolloutConfig(actors=200))
    with pytest.raises(UserError, match=r"are needed together, 8 are there.*200 environment actor\(s\) of 0\.1 CPU"):
        resolved(config)


@pytest.mark.parametrize(
    ("limits", "labels", "total"),
    [
        ({}, {}, 0),
        ({"GPU": 16, "CPU": 64}, {}, 16),
        ({}, {"ray.io/node-group": "workers"}, math.inf),
    ],
)
def test_a_cluster_that_grows_is_not_judged_by_what_it_has_now(ray_session, monkeypatch, limits, labels, total):
    nodes = [node | {"Labels": labels} for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: limits)
    assert gpus().total == total
    if total:
        fit_cluster({"a": (1, Ask(cpus=1000))})
    else:
        with pytest.raises(UserError, match="1000 CPU are needed together"):
            fit_cluster({"a": (1, Ask(cpus=1000))})


def test_shares_of_a_gpu_stay_shares():
    assert server_ask(StudentConfig(gpus_per_replica=0.5)).gpus == 0.5
    assert server_ask(StudentConfig(gpus_per_replica=4, tensor_parallel=4)).gpus == 4
    assert teacher_ask("claude") == teacher_ask("self") == Ask() and teacher_ask("symbolic").cpus == 1


GPUS = """
import json, os, ray
from actors.environment import EnvironmentPool, PromptSettings
from actors.placement import ENVIRONMENT, Ask, resolved, server_ask, worker_ask
from leap_ray.config import DomainConfig, LearnerConfig, RolloutConfig, RunConfig, StudentConfig
from leap_ray.errors import UserError
from leap_ray.gpus import Installation

ray.init(num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
Installation.here = classmethod(lambda cls: cls(vllm=True, torch=True))

class Actor:
    def sees(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES")

def run(**student):
    workers = student.pop("workers", 2)
    return resolved(RunConfig("a", (DomainConfig("households"),), student=StudentConfig(**student),
                              learner=LearnerConfig(workers=workers)))

config = run(replicas=2)
asks = [server_ask(config.student)] * 2 + [worker_ask(config.learner)] * 2 + [ENVIRONMENT]
actors = [ray.remote(Actor).options(**ask.options()).remote() for ask in asks]
seen = ray.get([actor.sees.remote() for actor in actors])

def refusal(call):
    try:
        call()
    except UserError as error:
        return str(error)

too_many = refusal(lambda: run(replicas=1, workers=4))
tenant = ray.remote(Actor).options(**Ask(cpus=7.95 - sum(ask.cpus for ask in asks)).options()).remote()  # leaves 0.05
ray.get(tenant.sees.remote())
pool = EnvironmentPool(DomainConfig("households"), RolloutConfig(), PromptSettings("any", "chat", False), None)
no_room = refusal(lambda: pool.place(2))
told = {"servers": sorted(seen[:2]), "workers": sorted(seen[2:4]), "environment": seen[4], "too_many": too_many}
shares = [config.student.gpus_per_replica, config.learner.gpus_per_worker]
print(json.dumps({**told, "no_room": no_room, "shares": shares}))
"""


@pytest.mark.slow
def test_servers_and_workers_share_gpus_nobody_else_sees_one_and_a_full_cluster_is_reported():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0,1"}
    ran = subprocess.run(
        [sys.executable, "-c", GPUS], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["shares"] == [0.6, 0.4]
    assert (told["servers"], told["workers"]) == (["0", "1"], ["0", "1"])
    assert told["environment"] == ""
    assert "the cluster's 2 GPUs (the largest node has 2) are too few" in told["too_many"]
    assert "no room on the cluster after 2 s: households environment 0 needs 0.1 CPU" in told["no_room"]
