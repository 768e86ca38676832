"""What a stage gathers, and what it asks for again when it was interrupted. No Ray: pool and teacher are plain objects."""

import asyncio
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from actors.coordinator import Coordinator, Policy
from actors.environment import TaughtAttempt
from actors.gather import (
    Plan,
    TeacherCalls,
    check_answered,
    correct_all,
    demonstrate_all,
    outcomes,
    repeated,
    taught_all,
)
from leap_ray.config import DomainConfig, RunConfig, TeacherConfig
from leap_ray.envs.base import Traits, make_env
from leap_ray.errors import EnvironmentFault, UserError
from leap_ray.journal import Records, RunDirectory
from leap_ray.progress import Board
from leap_ray.serving import BASE
from leap_ray.tasks import Panel
from leap_ray.types import (
    Correction,
    Episode,
    Finish,
    Intervention,
    Outcome,
    Proposal,
    Sampling,
    Step,
    StepCorrection,
    Task,
)  # fmt: skip

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


# --- rollouts with a teacher at the student's side


class TaughtPool:
    """Plays one step per task, at which the teacher gives this word."""

    def __init__(self, word):
        self.word, self.played = word, []

    async def play_taught(self, taught):
        attempt = taught.attempt
        self.played.append(attempt.task.id)
        own = Proposal("", "stay", True, "", (1, 2), (-0.5, -0.5))
        step = Step("a room", ("go", "stay"), "why", "go", True, 1.0, completion=(3,), proposal=own)
        episode = Episode(attempt.task, attempt.seed, attempt.policy, "", (step,), "", 1.0, True, Finish.SUCCESS)
        return episode, Correction(episode.id, "t", "", (self.word(episode),))


async def teach(folder, pool):
    plan = Plan(pool, Panel.of("d", "train", TASKS), (0,), 5, 0.0)
    with (
        Records(folder / "e.jsonl", Episode, lambda e: e.id) as episodes,
        Records(folder / "c.jsonl", Correction, lambda c: c.episode) as corrections,
        Board() as board,
        board.stage("rollouts", 4) as stage,
    ):
        attempts = [TaughtAttempt(a, Intervention()) for a in plan.attempts("base", Sampling(), 100)]
        await taught_all(plan, attempts, episodes, corrections, stage)
        return outcomes(episodes, corrections, 0.0), {e.id for e in episodes}, {c.episode for c in corrections}


async def test_won_episodes_are_corrected_too_and_nothing_is_played_twice(tmp_path):
    pool = TaughtPool(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    counts, episodes, corrections = await teach(tmp_path, pool)
    assert (counts["failed"], counts["corrected_episodes"], counts["own_action"]) == (
        0,
        4,
        0,
    ) and episodes == corrections
    assert await teach(tmp_path, pool) == (counts, episodes, corrections) and len(pool.played) == 4


@pytest.mark.parametrize("lack", [Outcome.BUDGET, Outcome.FAILED])
async def test_an_episode_whose_teacher_could_not_speak_is_played_again(tmp_path, lack):
    poor = TaughtPool(lambda e: StepCorrection(0, lack if e.task.id == "t1" else Outcome.AGREED))
    await teach(tmp_path, poor)
    rich = TaughtPool(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    counts, episodes, corrections = await teach(tmp_path, rich)
    assert rich.played == ["t1"] and episodes == corrections and len(episodes) == 4
    assert counts["outcomes"] == {"agreed": 3, "corrected": 1}


@pytest.mark.parametrize("lost", ["e.jsonl", "c.jsonl"])
async def test_an_episode_and_its_words_stand_together_or_are_made_anew(tmp_path, lost):
    """A kill between the two files' lines leaves one without the other."""
    pool = TaughtPool(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    await teach(tmp_path, pool)
    lines = (tmp_path / lost).read_bytes().splitlines(keepends=True)
    (tmp_path / lost).write_bytes(b"".join(lines[:-1]))
    _, episodes, corrections = await teach(tmp_path, pool)
    assert len(pool.played) == 5 and episodes == corrections and len(episodes) == 4
    assert len((tmp_path / "c.jsonl").read_bytes().splitlines()) == 4


# --- a stage that lacks answers is not done


def words(*kinds):
    """Episodes of four steps whose steps all have this outcome."""
    return [[(kind, "HTTP 503: down")] * 4 for kind in kinds]


GOOD, LOST, POOR = Outcome.CORRECTED, Outcome.FAILED, Outcome.BUDGET


@pytest.mark.parametrize(
    "answers, settings, done",
    [
        ([], {}, True),
        (words(*[GOOD] * 20), {}, True),
        (words(*[LOST] * 20), {}, False),
        (words(*[GOOD] * 17, *[LOST] * 3), {}, False),
        (words(*[GOOD] * 18, *[LOST] * 2), {}, True),
        (words(*[GOOD] * 18, *[LOST] * 2), {"max_failed": 0.05}, False),
        (words(*[GOOD] * 19, LOST), {"max_failed": 0.0}, False),
        (words(GOOD, GOOD, LOST), {}, True),  # one bad episode costs itself, however few there are
        (words(LOST), {}, False),
        (words(*[GOOD] * 199, POOR), {}, False),
        (words(*[POOR] * 20), {"max_failed": 1.0}, True),
        (words(*[LOST] * 20), {"max_failed": 1.0}, True),
        (words(*[Outcome.REFUSED] * 9, *[Outcome.REVEALS] * 9, *[Outcome.UNPARSED] * 9), {}, True),
        ([[*words(GOOD)[0][:3], (LOST, "x")]] * 20, {}, False),  # a quarter of all steps
        ([[], *words(GOOD)], {}, True),
    ],
)
def test_a_stage_is_done_when_few_answers_are_missing(answers, settings, done):
    config = TeacherConfig(kind="claude", budget_dollars=5.0, **settings)
    if done:
        check_answered(answers, config, Path("runs/x"))
        return
    with pytest.raises(
        UserError, match=r"the stage is not done.*`leap-ray resume runs/x.*--teacher\.max-failed 1"
    ) as caught:
        check_answered(answers, config, Path("runs/x"))
    poor = any(kind is POOR for episode in answers for kind, _ in episode)
    assert ("--teacher.budget-dollars 10" in str(caught.value)) == poor


async def test_a_correction_whose_episode_was_lost_is_made_anew(tmp_path):
    who = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    await gather(tmp_path, Pool(), who)
    journal = tmp_path / "e.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0][:40], *lines[1:]]) + "\n")  # one line was torn
    counts = await gather(tmp_path, Pool(), who)
    assert len(who.asked) == 5 and counts["outcomes"] == {"corrected": 4}
    text = (tmp_path / "c.jsonl").read_text()
    (tmp_path / "c.jsonl").write_text(text.replace('"steps":[', '"steps":[{"t":0,"outcome":"agreed"},', 1))
    assert (await gather(tmp_path, Pool(), who))["steps"] == 4, (
        "a correction of another episode's length is no correction"
    )


# --- limits on the teacher's calls


async def test_a_teacher_that_brings_nothing_back_stops_the_run():
    calls = TeacherCalls(0.2)
    with pytest.raises(UserError, match=r"has not answered for 0 s \(asked for the correction of t1\)"):
        await calls.wait(asyncio.Event().wait(), "the correction of t1")


async def test_a_teacher_with_much_to_do_may_take_its_time():
    """Each waits longer than the limit, but something comes back all the time."""
    calls = TeacherCalls(0.5)

    async def late(seconds):
        await asyncio.sleep(seconds)
        return seconds

    waits = [0.1 * n for n in range(1, 13)]
    assert await asyncio.gather(*(calls.wait(late(seconds), "x") for seconds in waits)) == waits


async def test_a_stuck_teacher_ends_the_stage_and_what_was_played_is_kept(tmp_path):
    async def never(episode, state):
        await asyncio.Event().wait()

    stuck, pool = SimpleNamespace(correct=SimpleNamespace(remote=never)), Pool()
    plan = Plan(pool, Panel.of("d", "train", TASKS), (0,), 5, 0.0)
    with (
        Records(tmp_path / "e.jsonl", Episode, lambda e: e.id) as episodes,
        Records(tmp_path / "c.jsonl", Correction, lambda c: c.episode) as corrections,
        Board() as board,
        board.stage("rollouts", 4) as stage,
    ):
        with pytest.raises(UserError, match=r"teacher\.answer_timeout"):
            attempts = plan.attempts("base", Sampling(), 100)
            await correct_all(plan, attempts, episodes, corrections, stuck, False, stage, 0.2)
    rich = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    await gather(tmp_path, pool, rich)
    assert len(pool.played) == 4 and len(rich.asked) == 4


# --- annotations


class Experts(Pool):
    async def demonstrate(self, task, seed, actions):
        self.played.append(task.id)
        step = Step("a room", ("go",), "old", "go", True, 1.0)
        return Episode(task, seed, "expert:demonstrator", "", (step,), "", 1.0, True, Finish.SUCCESS)

    async def tokenize(self, episode):
        return episode


def annotator(outcome):
    async def annotate(episode):
        kept = outcome if episode.task.id == "t1" else Outcome.CORRECTED
        return dataclasses.replace(episode, annotations=(kept,))

    return SimpleNamespace(annotate=SimpleNamespace(remote=annotate))


async def demonstrations(folder, pool, who):
    plan = Plan(pool, Panel.of("d", "train", TASKS), (0,), 5, 0.0)
    with (
        Records(folder / "e.jsonl", Episode, lambda e: e.id) as episodes,
        Board() as board,
        board.stage("demonstrations", 4) as stage,
    ):
        await demonstrate_all(plan, episodes, who, True, stage)
        episodes.to_parquet()
        return {e.task.id: e.annotations for e in episodes}


@pytest.mark.parametrize(
    "lack, again", [(Outcome.BUDGET, 1), (Outcome.FAILED, 1), (Outcome.REFUSED, 0), (Outcome.REVEALS, 0)]
)
async def test_a_demonstration_without_its_reasons_is_made_once_more(tmp_path, lack, again):
    pool = Experts()
    first = await demonstrations(tmp_path, pool, annotator(lack))
    assert first["t1"] == (lack,) and first["t0"] == (Outcome.CORRECTED,)
    second = await demonstrations(tmp_path, pool, annotator(Outcome.CORRECTED))
    assert len(pool.played) == 4 + again and second["t1"] == ((Outcome.CORRECTED,) if again else (lack,))


# --- the coordinator's stage


class Rollouts(Pool):
    """Loses every game of the lockers."""

    async def privileged(self, task):
        return None


def coordinator(folder, who, **settings):
    """A run's coordinator up to where training data are written; no cluster is started."""
    domain = DomainConfig("experiments.own_environment:Lockers", train_tasks=4, demo_tasks=0)
    config = RunConfig("r", (domain,), teacher=TeacherConfig(kind="claude", budget_dollars=5.0, **settings))
    made = object.__new__(Coordinator)
    made.config, made.run, made.board, made.teacher = config, RunDirectory(folder), Board(), who
    made.prompter = SimpleNamespace(end_id=0)
    made.traits = {domain.name: Traits.of(make_env(domain.name, {}))}
    made.pools = {domain.name: Rollouts()}
    made.panels = {(domain.name, "train"): Panel.of("lockers", "train", TASKS)}
    return made


@pytest.mark.parametrize(
    "lack, remedy", [(Outcome.BUDGET, r"--teacher\.budget-dollars 10"), (Outcome.FAILED, r"most often: HTTP 503")]
)
async def test_a_stage_without_its_answers_stays_undone_and_resume_asks_for_the_rest(tmp_path, lack, remedy):
    poor = teacher(
        lambda e: StepCorrection(0, lack if e.task.id != "t0" else Outcome.CORRECTED, "why", "go", "HTTP 503")
    )
    first = coordinator(tmp_path, poor)
    with pytest.raises(UserError, match=remedy) as caught:
        await first.correct(1, Policy(BASE))
    assert f"leap-ray resume {tmp_path}" in str(caught.value)
    assert not list(tmp_path.rglob("done.json")), "else nothing would ask again"
    first.run.close()

    class Examples(Exception):
        """Reached what comes after the corrections."""

    rich = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    second = coordinator(tmp_path, rich)
    second._examples = lambda *_: (_ for _ in ()).throw(Examples)
    with pytest.raises(Examples):
        await second.correct(1, Policy(BASE))
    assert sorted(rich.asked) == ["t1", "t2", "t3"] and not second.pools[second.config.domains[0].name].played
    second.run.close()


# --- demonstrations of several seeds


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


async def seeded_demonstrations(folder, pool, seeds, annotate=False):
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
    assert (await seeded_demonstrations(tmp_path, Expert(), (0, 1, 2)))[0] == once
    assert (await seeded_demonstrations(tmp_path, Expert(), (0, 1, 2)))[0] == once  # resumed: nothing is added
    other = tmp_path / "other"
    other.mkdir()
    assert (
        len((await seeded_demonstrations(other, Expert(reasons=True), (0, 1)))[0]) == 8
    )  # other reasons are other targets


async def test_nobody_pays_for_the_reasons_of_the_same_demonstration_twice(tmp_path):
    episodes, asked = await seeded_demonstrations(tmp_path, Expert(reasons=True), (0, 1), annotate=True)
    assert asked == episodes == [("t0", 0), ("t0", 1), ("t1", 0), ("t2", 0), ("t2", 1), ("t3", 0)]
    assert await seeded_demonstrations(tmp_path, Expert(reasons=True), (0, 1), annotate=True) == (episodes, [])


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


# --- episodes that faulty machines cost


class Faulty(Pool):
    """Cannot play some of the tasks."""

    def __init__(self, *broken):
        super().__init__()
        self.broken, self.tried = broken, []

    async def play(self, attempt):
        self.tried.append(attempt.task.id)
        if attempt.task.id in self.broken:
            raise EnvironmentFault("the sandbox was killed")
        return await super().play(attempt)


async def test_an_episode_lost_to_a_fault_costs_itself_and_is_not_tried_by_every_resume(tmp_path):
    who = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    pool = Faulty("t1")
    for _ in range(2):
        assert (await gather(tmp_path, pool, who))["outcomes"] == {"corrected": 3}
    assert sorted(pool.tried) == ["t0", "t1", "t2", "t3"]
    (lost,) = (json.loads(line) for line in (tmp_path / "lost.jsonl").read_text().splitlines())
    assert (lost["task"]["id"], lost["reason"]) == ("t1", "the sandbox was killed")


async def test_more_lost_episodes_than_allowed_stop_the_run(tmp_path):
    who = teacher(lambda e: StepCorrection(0, Outcome.CORRECTED, "why", "go"))
    with pytest.raises(
        UserError, match=r"2 episodes were lost .*rollout\.max_lost.*: the sandbox was killed; mend that, delete"
    ):
        await gather(tmp_path, Faulty("t1", "t2", "t3"), who)
    (tmp_path / "lost.jsonl").unlink()
    assert (await gather(tmp_path, Pool(), who))["outcomes"] == {"corrected": 4}
