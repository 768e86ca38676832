"""Environment actors with the real student: whole episodes, privileged state for training alone, and a crash in the middle."""

import asyncio
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from actors.environment import (
    Attempt,
    EnvironmentActor,
    EnvironmentPool,
    PromptSettings,
    TaughtAttempt,
    Teaching,
)  # fmt: skip
from actors.teacher import start_teacher
from experiments.benchmarks.anthropic_server import AnthropicServer
from leap_ray.config import DomainConfig, RolloutConfig, StudentConfig, TeacherConfig
from leap_ray.envs.base import make_env
from leap_ray.errors import EnvironmentFault, PrivilegeError, UserError
from leap_ray.types import Intervention, Outcome, Sampling

pytestmark = pytest.mark.slow
DOMAIN = DomainConfig("households", settings={"sizes": [1]})


@pytest.fixture(scope="module")
def tasks():
    env = make_env(DOMAIN.name, DOMAIN.settings)
    return {name: env.panel(name).tasks[:4] for name in ("train", "valid")}


@pytest.fixture
def pool(student, student_folder):
    config = RolloutConfig(actors=1, episodes_per_actor=2, recycle_after=3)
    pool = EnvironmentPool(DOMAIN, config, PromptSettings(str(student_folder), "chat", False), student)
    yield pool
    pool.close()


def test_students_travel_by_name_and_are_found_on_each_node(student_folder, tmp_path):
    """Another node has another cache, which lacks the folders of the driver's."""
    settings = PromptSettings.of(StudentConfig(template={"enable_thinking": True}, date="2026-01-31"))
    assert str(student_folder).encode() not in pickle.dumps(settings)
    code = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).load().hash)"
    there = {**os.environ, "LEAP_RAY_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(settings).hex()],
        env=there, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == settings.load().hash
    assert list((tmp_path / "cache" / "models").glob("SmolLM2*"))


def attempt(task, seed=0):
    return Attempt(task, seed, "base", Sampling(0.3, max_tokens=8), max_actions=3, max_length=1024)


async def test_the_same_attempt_gives_the_same_episode(pool, tasks):
    first, again = [await pool.play(attempt(tasks["train"][0])) for _ in range(2)]
    assert len(first.steps) == 3
    assert [s.completion for s in first.steps] == [s.completion for s in again.steps]
    other = await pool.play(attempt(tasks["train"][0], seed=1))
    assert other.id != first.id


async def test_privileged_state_is_served_for_training_tasks_alone(pool, tasks):
    state = await pool.privileged(tasks["train"][0])
    assert state.rendering
    assert state.secrets
    with pytest.raises(PrivilegeError, match="valid"):
        await pool.privileged(tasks["valid"][0])


async def test_an_actor_that_dies_plays_its_episodes_anew(pool, tasks):
    actor = pool._actors[0]
    pid = await actor.pid.remote()
    playing = [asyncio.create_task(pool.play(attempt(task, seed=5))) for task in tasks["train"]]
    await asyncio.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    episodes = await asyncio.gather(*playing)
    assert [e.task for e in episodes] == list(tasks["train"])
    assert ray.is_initialized()


@pytest.fixture
def pool_with_expert(student, student_folder):
    config, teaching = RolloutConfig(actors=1, episodes_per_actor=2), Teaching(TeacherConfig(), seed=0)
    pool = EnvironmentPool(DOMAIN, config, PromptSettings(str(student_folder), "chat", False), student, teaching)
    yield pool
    pool.close()


def taught(task, **how):
    return TaughtAttempt(dataclasses.replace(attempt(task), max_actions=16), Intervention(**how))


async def test_an_expert_at_the_students_side_wins_and_tells_every_step(pool_with_expert, tasks):
    for task in tasks["train"][:2]:
        episode, correction = await pool_with_expert.play_taught(taught(task))
        assert episode.success and correction.episode == episode.id and correction.teacher == "symbolic/0.5"
        assert [word.t for word in correction.steps] == list(range(len(episode.steps)))
        assert {word.outcome for word in correction.steps} == {Outcome.CORRECTED}, "every visited step is a target"
        assert all(step.own.completion and step.own.logprobs for step in episode.steps)
        assert "The teacher acted at" in correction.summary
    again, words = await pool_with_expert.play_taught(taught(task))
    assert [s.completion for s in again.steps] == [
        s.completion for s in episode.steps
    ] and words.steps == correction.steps
    with pytest.raises(PrivilegeError, match="valid"):
        await pool_with_expert.play_taught(taught(tasks["valid"][0]))


async def test_a_paid_teacher_sits_beside_the_student_and_is_paid_once(
    student, student_folder, tasks, tmp_path, monkeypatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-1")
    async with AnthropicServer(key="sk-test-1") as server:
        config = TeacherConfig(kind="claude", base_url=server.url)
        teacher = await asyncio.to_thread(start_teacher, config, [DOMAIN], tmp_path)
        prompts, teaching = PromptSettings(str(student_folder), "chat", False), Teaching(config, 0, teacher)
        pool = EnvironmentPool(DOMAIN, RolloutConfig(episodes_per_actor=2), prompts, student, teaching)
        try:
            attempts = [TaughtAttempt(attempt(task), Intervention()) for task in tasks["train"][:2]]
            played = await asyncio.gather(*map(pool.play_taught, attempts))
            paid = server.books.stats()["dollars"]
            assert sum(c.dollars for _, c in played) == pytest.approx(paid) and paid > 0
            again = await asyncio.gather(*map(pool.play_taught, attempts))
            assert server.books.stats()["dollars"] == paid and all(c.dollars == 0 for _, c in again)
            assert [c.steps for _, c in again] == [c.steps for _, c in played]
        finally:
            pool.close()
            ray.kill(teacher)


async def test_demonstrations_are_tokenised_with_the_facts_of_the_domains_settings(ray_session, student_folder):
    settings = {"language": "sql", "data": "embedded"}
    actor = EnvironmentActor(
        DomainConfig("intercode", settings=settings), PromptSettings(str(student_folder), "chat", True), None
    )
    env = make_env("intercode", settings)
    episode = await actor.tokenize(await actor.demonstrate(env.panel("train").tasks[0], 0, 15))
    assert env.domain_facts in actor._prompter.tokenizer.decode(episode.prompt_ids(0))


async def test_an_actor_is_replaced_after_its_share_of_episodes(pool, tasks):
    first = pool._actors[0]
    for task in tasks["train"]:
        await pool.demonstrate(task, 0, 10)
    assert pool._actors[0] is not first


async def test_faults_are_tried_again_and_then_said_in_a_sentence(ray_session, tmp_path):
    """A fault that passes costs nothing; a bug of the environment ends its episode alone; what the user must mend is said."""
    domain = DomainConfig("tests.actors.faulty_environment:Faulty", settings={"folder": str(tmp_path)})
    pool = EnvironmentPool(domain, RolloutConfig(episodes_per_actor=1), PromptSettings.of(StudentConfig()), None)
    tasks = make_env(domain.name, domain.settings).panel("train").tasks
    try:
        assert (await pool.demonstrate(tasks[0], 0, 8)).success
        with pytest.raises(EnvironmentFault, match=r"demonstrate of train/001 failed: ZeroDivisionError: a bug"):
            await pool.demonstrate(tasks[1], 0, 8)
        assert (tmp_path / "001").read_text() == "xxx"
        assert (await pool.demonstrate(tasks[2], 0, 8)).success
        with pytest.raises(UserError, match=r"^no such shop$"):
            await pool.demonstrate(tasks[3], 0, 8)
        assert (tmp_path / "003").read_text() == "x", "what the user must mend is not tried again"
    finally:
        pool.close()
