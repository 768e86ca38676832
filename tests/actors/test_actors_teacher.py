"""The teacher as an actor: restarted by Ray, asked again, and nothing paid twice."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
import ray

from actors.teacher import start_teacher
from experiments.benchmarks.anthropic_server import AnthropicServer, Faults
from experiments.own_environment import Lockers
from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.store import read_ledger
from leap_ray.types import Episode, Finish, Outcome, Step

KEY_VARIABLE = "LEAP_RAY_TEST_KEY"  # set before Ray starts: see conftest.py
LOCKERS = [DomainConfig("experiments.own_environment:Lockers")]
ACTIONS = ["take coin", "open locker 3", "open locker 3", "", "open locker 0", "open locker 1"]


def played(number: int) -> tuple[Episode, object]:
    """A failed episode of the lockers, and its privileged state."""
    env = Lockers()
    task = env.panel("train").tasks[number]
    observation, info = env.reset(options={"task": task})
    steps = []
    for action in ACTIONS:
        before, candidates = observation, info["candidates"]
        if "take coin" in candidates:
            break
        observation, _, _, _, info = env.step(action)
        steps.append(Step(before, candidates, "I try.", action, info["valid"], 0.0, f"I try. {action}"))
    episode = Episode(task, 0, "base", info["instruction"], tuple(steps), observation, 0.0, False, Finish.MAX_ACTIONS)
    return episode, env.privileged()


async def test_the_symbolic_teacher_corrects_and_annotates(ray_session, tmp_path):
    teacher = start_teacher(TeacherConfig(correct="mistakes"), LOCKERS, tmp_path)
    assert await teacher.ready.remote() == "symbolic/0.5"
    episode, _ = played(0)
    correction = await teacher.correct.remote(episode)
    assert len(correction.steps) == len(episode.steps)
    assert correction.steps[0].outcome is Outcome.CORRECTED and correction.steps[1].outcome is Outcome.AGREED
    assert (await teacher.correct.remote(episode)).steps == correction.steps
    assert await teacher.ledger.remote() == {}
    assert (await teacher.annotate.remote(episode)).steps[0].action == episode.steps[0].action
    ray.kill(teacher)


async def test_an_actor_killed_with_calls_under_way_loses_and_repeats_nothing(ray_session, tmp_path):
    async with AnthropicServer(
        key=os.environ[KEY_VARIABLE], latency=(0.3, 0.6), faults=Faults(0.2, ("500", "short", "429"))
    ) as server:
        config = TeacherConfig(kind="claude", base_url=server.url, timeout=20.0, api_key_env=KEY_VARIABLE)
        teacher = start_teacher(config, LOCKERS, tmp_path)
        await teacher.ready.remote()
        pid = await teacher.process.remote()
        episodes = [played(number) for number in range(30)]
        refs = [teacher.correct.remote(episode, state) for episode, state in episodes]
        async with asyncio.timeout(300):
            while len(server.books.billed) < 6:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        corrections = await asyncio.gather(*refs)
        totals = await teacher.ledger.remote()
        stats = server.books.stats()
    assert [c.episode for c in corrections] == [episode.id for episode, _ in episodes]
    assert all(len(c.steps) == len(e.steps) for c, (e, _) in zip(corrections, episodes))
    assert stats["paid_twice"] == 0
    assert totals["dollars"] == pytest.approx(stats["dollars"], abs=1e-9)
    assert sum(row["dollars"] for row in read_ledger(tmp_path)) == pytest.approx(stats["dollars"], abs=1e-9)
    os.kill(json.loads((tmp_path / "sender.json").read_text())["pid"], signal.SIGTERM)
    ray.kill(teacher)


async def test_a_paid_teacher_needs_no_cpu_and_has_the_key_to_itself(ray_session, tmp_path, monkeypatch):

    class Guest:
        """Takes CPUs. Defined here, so that it travels by value."""

        async def ready(self) -> None:
            """Once it has them."""

    monkeypatch.setenv("DRIVERS_OWN_KEY", "sk-test-only-here")  # set after Ray: no process of Ray's has it
    async with AnthropicServer(key="sk-test-only-here") as server:
        config = TeacherConfig(kind="claude", base_url=server.url, api_key_env="DRIVERS_OWN_KEY")
        guest = ray.remote(num_cpus=ray.available_resources()["CPU"])(Guest).remote()
        await guest.ready.remote()  # no CPU is free now, as on a head that has none
        teacher = start_teacher(config, LOCKERS, tmp_path)
        episode, state = played(0)
        async with asyncio.timeout(120):
            correction = await teacher.correct.remote(episode, state)
        ray.kill(guest)
        pid = await teacher.process.remote()
        environment = Path(f"/proc/{pid}/environ").read_bytes()  # noqa: ASYNC240
    assert Outcome.FAILED not in {step.outcome for step in correction.steps}
    assert b"sk-test-only-here" not in environment
    os.kill(json.loads((tmp_path / "sender.json").read_text())["pid"], signal.SIGTERM)
    ray.kill(teacher)


async def test_a_fault_costs_its_episode_alone(ray_session, tmp_path):
    teacher = start_teacher(TeacherConfig(kind="claude", api_key_env=KEY_VARIABLE), LOCKERS, tmp_path)
    episode, _ = played(0)
    correction = await teacher.correct.remote(episode, None)  # a prompted teacher cannot do without privileged state
    assert {step.outcome for step in correction.steps} == {Outcome.FAILED} and len(correction.steps) == len(
        episode.steps
    )
    assert "AttributeError" in correction.steps[0].detail
    assert await teacher.ready.remote()
    ray.kill(teacher)


async def test_what_is_wrong_reaches_the_driver_as_one_sentence(ray_session, tmp_path):
    config = TeacherConfig(kind="claude", api_key_env="NO_SUCH_KEY")
    teacher = start_teacher(config, LOCKERS, tmp_path, max_restarts=0)
    with pytest.raises(ray.exceptions.RayError, match="environment variable NO_SUCH_KEY"):
        await teacher.ready.remote()
    symbolic = start_teacher(TeacherConfig(), LOCKERS, tmp_path)
    with pytest.raises(UserError, match="needs the student's server"):
        await symbolic.realizability.remote([], "base")
    with pytest.raises(UserError, match="gain of privileged state needs the student's server"):
        await symbolic.privilege_gain.remote([], "base")
    ray.kill(symbolic)
