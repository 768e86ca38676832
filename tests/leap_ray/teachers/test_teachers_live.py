"""Teachers that are asked before an action is carried out: what they are shown, what they cost, what is asked twice (nothing)."""

import dataclasses

import pytest
from corridor import Corridor, play
from desks import KEY, claude

from experiments.benchmarks.anthropic_server import AnthropicServer
from leap_ray.policy import Prompter
from leap_ray.rollout import play_taught
from leap_ray.teachers.prompted import render_episode
from leap_ray.types import Completion, Intervention, Outcome, Sampling, Task

SAID = [("I look.", "go to desk 1"), ("Again.", "go to desk 1"), ("Hm.", "dance"), ("Out.", "leave")]


class AtSide:
    """A teacher at one student's side, in this process."""

    def __init__(self, teacher, state):
        self.teacher, self.state, self.shown = teacher, state, []

    async def judge(self, episode):
        self.shown.append(episode)
        return await self.teacher.judge(episode, self.state)


def step_of(request_id):
    """The step's number in a request's name: "<episode>/<step>-<hash of the prompt>"."""
    return int(request_id.rpartition("/")[2].partition("-")[0])


class Recorded:
    def __init__(self, prompter):
        self.prompter = prompter

    async def complete(self, prompt_ids, sampling, seed, policy, request_id):
        ids = tuple(self.prompter.completion_ids(*SAID[step_of(request_id) % len(SAID)]))
        return Completion(ids, (-0.5,) * len(ids), "stop")


@pytest.fixture(scope="module")
def student(student_folder):
    return Recorded(Prompter.load(str(student_folder), "chat", True))


async def beside(student, teacher, max_actions=4):
    env, sides = Corridor(), []

    async def join():
        sides.append(AtSide(teacher, env.privileged()))
        return sides[0]

    result = await play_taught(
        env, Task("corridor", "3", "train", "coin"), student, student.prompter, join=join, intervention=Intervention(),
        policy="base", seed=0, sampling=Sampling(0.3, max_tokens=40), max_actions=max_actions, max_length=4096,
    )  # fmt: skip
    return result, sides[0].shown


async def test_one_call_a_step_on_what_has_happened_so_far(tmp_path, student):
    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server) as teacher:
        result, shown = await beside(student, teacher)
        stats = server.books.stats()
    episode = result.episode
    assert len(shown) == len(episode.steps) == len(result.verdicts)
    assert result.dollars == pytest.approx(stats["dollars"], abs=1e-9) and result.dollars > 0
    for t, seen in enumerate(shown):
        assert [s.action for s in seen.steps[:-1]] == [s.action for s in episode.steps[:t]], (
            "what was done, whoever did it"
        )
        assert seen.steps[-1].action == episode.steps[t].own.action, "and what the student proposes"
        assert not seen.success
    for step, verdict in zip(episode.steps, result.verdicts):
        assert (step.proposal is not None) == (verdict.outcome is Outcome.CORRECTED)
        if step.proposal:
            assert (step.reason, step.action) == (verdict.reason, verdict.action)


async def test_an_episode_killed_on_the_way_pays_nothing_twice(tmp_path, student):
    async with AnthropicServer(key=KEY) as server:
        async with claude(tmp_path, server) as teacher:
            await beside(student, teacher, max_actions=2)
        paid = server.books.stats()["dollars"]
        async with claude(tmp_path, server) as teacher:
            again, _ = await beside(student, teacher, max_actions=2)
            assert server.books.stats()["dollars"] == paid and again.dollars == 0
            whole, _ = await beside(student, teacher)
        assert server.books.stats()["dollars"] == pytest.approx(paid + whole.dollars)
    assert [s.action for s in whole.episode.steps[:2]] == [s.action for s in again.episode.steps]


async def test_a_budget_that_is_reached_is_a_word_on_the_step(tmp_path, student):
    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server, budget_dollars=0.0) as teacher:
        result, _ = await beside(student, teacher)
    assert {v.outcome for v in result.verdicts} == {Outcome.BUDGET}
    assert not any(step.proposal for step in result.episode.steps)


def test_an_unfinished_attempt_is_shown_without_an_end():
    env = Corridor()
    env.reset(options={"task": Task("corridor", "3", "train", "coin")})
    episode = dataclasses.replace(play(["go to desk 1", "dance"]), success=False)
    text = render_episode(episode, env.privileged(), unfinished=True)
    assert 'outcome="unfinished"' in text and "final_observation" not in text
    assert '<student_action understood="no">dance' in text
    assert "final_observation" in render_episode(episode, env.privileged())
