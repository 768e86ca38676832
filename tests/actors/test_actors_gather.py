"""What a stage gathers, and what it asks for again when it was interrupted. No Ray: pool and teacher are plain objects."""

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest

from actors.gather import Plan, correct_all, demonstrate_all, outcomes, repeated
from leap_ray.journal import Records
from leap_ray.progress import Board
from leap_ray.tasks import Panel
from leap_ray.types import Correction, Episode, Finish, Outcome, Sampling, Step, StepCorrection, Task

TASKS = [Task("d", f"t{i}", "train") for i in range(4)]


class Pool:
    """Plays one lost step per task, and counts."""

    def __init__(self):
        self.played = []

    async def play(self, attempt):
        self.played.append(attempt.task.id)
        step = Step("a room", ("go",), "", "go", True, 0.0)
        return Episode(attempt.task, attempt.seed, attempt.policy, "", (step,), "", 0.0, False, Finish.MAX_ACTIONS)


def teacher(word):
    """An actor's handle of a teacher that gives each episode `word(episode)` on its one step."""
    asked = []

    async def correct(episode, state):
        await asyncio.sleep(0)
        asked.append(episode.task.id)
        return Correction(episode.id, "t", "", (word(episode),))

    return SimpleNamespace(correct=SimpleNamespace(remote=correct), asked=asked)


async def gather(folder, pool, who):
    plan = Plan(pool, Panel.of("d", "train", TASKS), (0,), 5, 0.0)
    with (
        Records(folder / "e.jsonl", Episode, lambda e: e.id) as episodes,
        Records(folder / "c.jsonl", Correction, lambda c: c.episode) as corrections,
        Board() as board,
        board.stage("rollouts", 4) as stage,
    ):
        attempts = plan.attempts("base", Sampling(), 100)
        await correct_all(plan, attempts, episodes, corrections, who, False, stage)
        return outcomes(episodes, corrections, 0.0)


@pytest.mark.parametrize("lack", [Outcome.BUDGET, Outcome.FAILED])
async def test_what_lacked_money_or_an_answer_is_asked_again_and_nothing_else(tmp_path, lack):
    pool = Pool()
    poor = teacher(lambda e: StepCorrection(0, Outcome.REVEALS if e.task.id == "t2" else lack))
    assert (await gather(tmp_path, pool, poor))["outcomes"] == {str(lack): 3, "reveals privileged state": 1}
    rich = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    counts = await gather(tmp_path, pool, rich)
    assert sorted(rich.asked) == ["t0", "t1", "t3"] and len(pool.played) == 4
    assert counts["outcomes"] == {"corrected": 3, "reveals privileged state": 1}
    assert (counts["failed"], counts["corrected_episodes"], counts["steps"]) == (4, 3, 4)


async def test_the_kl_that_was_used_is_averaged(tmp_path):
    who = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go", f"KL 0.{e.task.id[1]} nats, beta 0.5"))
    assert (await gather(tmp_path, Pool(), who))["kl"] == pytest.approx(0.15)


class Expert:
    """A pool whose expert acts by the seed on even tasks, and always alike on odd ones."""

    def __init__(self, reasons=False):
        self.played, self.reasons = [], reasons

    async def demonstrate(self, task, seed, max_actions):
        self.played.append((task.id, seed))
        action = f"go {seed}" if int(task.id[1]) % 2 == 0 else "go"
        step = Step("a room", ("go",), f"reason {seed}" if self.reasons else "", action, True, 1.0)
        return Episode(task, seed, "expert:demonstrator", "", (step,), "", 1.0, True, Finish.SUCCESS)

    async def tokenize(self, episode):
        return episode


async def demonstrations(folder, pool, seeds, annotate=False):
    asked = []

    async def annotated(episode):
        asked.append((episode.task.id, episode.seed))
        step = dataclasses.replace(episode.steps[0], reason=f"because {len(asked)}")
        return dataclasses.replace(episode, steps=(step,))

    who = SimpleNamespace(annotate=SimpleNamespace(remote=annotated))
    plan = Plan(pool, Panel.of("d", "train", TASKS), seeds, 5, 0.0)
    with Records(folder / "d.jsonl", Episode, lambda e: e.id) as episodes, Board() as board:
        with board.stage("demonstrations", len(TASKS) * len(seeds)) as stage:
            await demonstrate_all(plan, episodes, who, annotate, stage)
            assert stage.done == len(TASKS) * len(seeds)
        return sorted((e.task.id, e.seed) for e in episodes), sorted(asked)


async def test_demonstrations_that_say_the_same_count_once(tmp_path):
    once = [("t0", 0), ("t0", 1), ("t0", 2), ("t1", 0), ("t2", 0), ("t2", 1), ("t2", 2), ("t3", 0)]
    assert (await demonstrations(tmp_path, Expert(), (0, 1, 2)))[0] == once
    assert (await demonstrations(tmp_path, Expert(), (0, 1, 2)))[0] == once  # resumed: nothing is added
    other = tmp_path / "other"
    other.mkdir()
    assert len((await demonstrations(other, Expert(reasons=True), (0, 1)))[0]) == 8  # other reasons are other targets


async def test_nobody_pays_for_the_reasons_of_the_same_demonstration_twice(tmp_path):
    episodes, asked = await demonstrations(tmp_path, Expert(reasons=True), (0, 1), annotate=True)
    assert asked == episodes == [("t0", 0), ("t0", 1), ("t1", 0), ("t2", 0), ("t2", 1), ("t3", 0)]
    assert await demonstrations(tmp_path, Expert(reasons=True), (0, 1), annotate=True) == (episodes, [])


class Demonstrators:
    """An expert that minds the seed on task t0 alone."""

    def __init__(self):
        self.annotated = []

    async def demonstrate(self, task, seed, max_actions):
        action = f"go {seed}" if task.id == "t0" else "go"
        step = Step("a room", (), "because", action, True, 1.0)
        return Episode(task, seed, "expert:demonstrator", "", (step,), "", 1.0, True, Finish.SUCCESS)

    async def tokenize(self, episode):
        return episode

    async def annotate(self, episode):
        self.annotated.append((episode.task.id, episode.seed))
        return dataclasses.replace(episode, steps=(dataclasses.replace(episode.steps[0], reason="a better one"),))


async def test_a_demonstration_that_comes_out_the_same_under_another_seed_counts_once(tmp_path):
    pool = Demonstrators()
    plan = Plan(pool, Panel.of("d", "train", TASKS), (0, 1, 2), 5, 0.0)
    who = SimpleNamespace(annotate=SimpleNamespace(remote=pool.annotate))
    for _ in range(2):  # the second time as after a kill: nothing is made or paid again
        with (
            Records(tmp_path / "e.jsonl", Episode, lambda e: e.id) as episodes,
            Board() as board,
            board.stage("demonstrations", 12) as stage,
        ):
            await demonstrate_all(plan, episodes, who, True, stage)
            kept = sorted((e.task.id, e.seed) for e in episodes)
            assert stage.done == 12 and repeated(plan, episodes) == 6
    assert kept == sorted([("t0", 0), ("t0", 1), ("t0", 2), ("t1", 0), ("t2", 0), ("t3", 0)])
    assert sorted(pool.annotated) == kept
