"""A teacher at the student's side: who acts, what stands in the history, what is kept of the student, what is trained on."""

import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "teachers"))
from corridor import Corridor, CorridorExpert

from leap_ray.config import build
from leap_ray.envs.alfworld.env import HouseholdsEnv
from leap_ray.envs.base import make_env
from leap_ray.errors import PrivilegeError, UserError
from leap_ray.learning.examples import from_correction
from leap_ray.policy import Prompter
from leap_ray.rollout import play, play_taught
from leap_ray.teachers.choose import choose
from leap_ray.teachers.live import LiveExpert
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import (
    Completion,
    Correction,
    Episode,
    Intervention,
    Outcome,
    Sampling,
    Task,
    from_json,
    to_json,
)  # fmt: skip

COIN = Task("corridor", "3", "train", "coin")  # in drawer 2
ALWAYS = Intervention()
SAMPLING = Sampling(0.3, max_tokens=64)


def step_of(request_id):
    """The step's number in a request's name: "<episode>/<step>-<hash of the prompt>"."""
    return int(request_id.rpartition("/")[2].partition("-")[0])


class Recorded:
    """A student whose completions are written down beforehand; it keeps the prompts that it was given."""

    def __init__(self, prompter, said):
        self.prompter, self.said, self.prompts = prompter, said, []

    async def complete(self, prompt_ids, sampling, seed, policy, request_id):
        word = self.said[step_of(request_id) % len(self.said)]
        ids = self.prompter.answer_ids(word) if isinstance(word, str) else self.prompter.completion_ids(*word)
        self.prompts.append(list(prompt_ids))
        return Completion(tuple(ids), tuple(-0.1 * i for i in range(len(ids))), "stop")


@pytest.fixture(scope="module", params=["chat", "leap"])
def prompter(request, student_folder):
    return Prompter.load(str(student_folder), request.param, True)


async def taught(prompter, said, env=None, task=COIN, intervention=ALWAYS, max_actions=8):
    env, student = env or Corridor(), Recorded(prompter, said)

    async def join():
        return LiveExpert(env, env.expert("teacher", privilege=0.5, seed=0))

    result = await play_taught(
        env, task, student, prompter, join=join, intervention=intervention, policy="base", seed=0, sampling=SAMPLING,
        max_actions=max_actions, max_length=4096,
    )  # fmt: skip
    return result, student


async def alone(prompter, said, env, task, max_actions=8):
    return await play(
        env, task, Recorded(prompter, said), prompter, policy="base", seed=0, sampling=SAMPLING, max_actions=max_actions,
        max_length=4096,
    )  # fmt: skip


def correction_of(result, **settings):
    words = choose(result.verdicts, [s.own for s in result.episode.steps], correct="all", **settings)
    return Correction(result.episode.id, "symbolic/0.5", "", words)


SAID = [
    ("I look.", "go to desk 1"),
    ("Again.", "go to desk 1"),
    "no action at all",
    ("Out.", "leave"),
    ("Out.", "leave"),
]


async def test_history_targets_and_pairs_token_by_token(prompter):
    """What was done stands in the history, the teacher's word is the target, the student's proposal the rejected answer."""
    result, student = await taught(prompter, SAID)
    episode = result.episode
    done = ["go to desk 1", "go to drawer 2", "take coin 1", "leave"]
    assert [s.action for s in episode.steps] == done and episode.success
    assert [s.proposal is not None for s in episode.steps] == [False, True, True, False]
    assert [s.own.action for s in episode.steps] == ["go to desk 1", "go to desk 1", "", "leave"]

    conversation = prompter.start("bring a coin")
    for t, step in enumerate(episode.steps):
        expected = conversation.prompt(step.observation, step.candidates)
        assert student.prompts[t] == expected == episode.prompt_ids(t)
        acted = step.proposal is not None
        said = prompter.completion_ids(step.reason, step.action) if acted else list(step.completion)
        assert list(step.completion) == said and bool(step.logprobs) == (not acted)
        conversation.reply(tuple(said), step.action)
    own = episode.steps[1].proposal
    assert list(own.completion) == prompter.completion_ids(*SAID[1]) and len(own.logprobs) == len(own.completion)
    assert own.reason == "Again." and own.text.strip() and own.valid

    examples = list(from_correction(episode, correction_of(result), prompter, 1))
    assert [e.id.rpartition("/")[2] for e in examples] == ["0", "1", "2", "3"]
    search, leave = "Small things lie in places not looked at yet.", "I have the coin, so I can leave."
    reasons = ["I look.", search, "The coin is here.", leave]
    for t, (example, reason) in enumerate(zip(examples, reasons)):
        assert list(example.prompt) == episode.prompt_ids(t)
        assert list(example.response) == prompter.completion_ids(reason, done[t])
    rejected = [[], list(own.completion), list(episode.steps[2].proposal.completion), []]
    assert [list(e.rejected) for e in examples] == rejected
    assert from_json(Episode, to_json(episode)) == episode


async def test_own_right_steps_weigh_what_the_configuration_says(prompter):
    result, _ = await taught(prompter, SAID)
    weights = [
        e.weight for e in from_correction(result.episode, correction_of(result), prompter, 1, agreed_weight=0.25)
    ]
    assert weights == [0.25, 1.0, 1.0, 0.25]
    ids = [e.id[-1] for e in from_correction(result.episode, correction_of(result), prompter, 1, agreed_weight=0.0)]
    assert ids == ["1", "2"]


async def test_takeover_acts_from_the_first_mistake_to_the_end(prompter):
    result, _ = await taught(prompter, SAID, intervention=Intervention(takeover=True))
    steps = result.episode.steps
    assert [s.proposal is not None for s in steps] == [False, True, True, True]
    assert steps[3].reason == "I have the coin, so I can leave." and steps[3].own.reason == "Out."


async def test_a_coin_leaves_some_mistakes_to_the_student(prompter):
    half = Intervention(0.5)
    result, _ = await taught(prompter, [("I stay.", "leave")], intervention=half)
    mistakes = [t for t, v in enumerate(result.verdicts) if v.outcome is Outcome.CORRECTED]
    acted = [t for t, s in enumerate(result.episode.steps) if s.proposal]
    assert acted == [t for t in mistakes if half.acts(result.episode.id, t)] and 0 < len(acted) < len(mistakes)
    rate = sum(half.acts(f"episode {i}", t) for i in range(400) for t in range(10)) / 4000
    assert abs(rate - 0.5) < 0.03
    assert not Intervention(0.0).acts("any", 0) and Intervention(1.0).acts("any", 0)


@pytest.mark.parametrize("seed", range(4))
async def test_judged_live_a_students_own_episode_gets_the_words_of_a_replay(prompter, seed):
    """With probability 0 nothing changes for the student, and the teacher's words are those of `intervention: 0`."""
    rng = random.Random(seed)
    env = HouseholdsEnv()
    task = env.panel("train").tasks[seed]
    _, info = env.reset(options={"task": task})
    places = [a for a in info["candidates"] if a.startswith("go to")]
    ways = [*places, f"Go to {places[0][6:]}.", "inventory", "take mug 9 from desk 9"]
    said = [("I try.", rng.choice(ways)) for _ in range(8)]
    result, _ = await taught(prompter, said, HouseholdsEnv(), task, Intervention(0.0))
    played = await alone(prompter, said, HouseholdsEnv(), task)
    assert [(s.observation, s.action, s.valid, s.cause) for s in result.episode.steps] == [
        (s.observation, s.action, s.valid, s.cause) for s in played.steps
    ]
    replayed = SymbolicTeacher(HouseholdsEnv()).correct_now(played)
    assert correction_of(result).steps == replayed.steps


async def test_a_household_is_won_where_the_teacher_acts_at_every_mistake(prompter):
    env = HouseholdsEnv()
    task = env.panel("train").tasks[1]
    result, _ = await taught(prompter, ["mumble"], env, task, max_actions=20)
    assert result.episode.success
    assert {s.own.cause for s in result.episode.steps} == {"unparsed"}


EMBEDDED = {"data": "embedded", "base": "host"}
OTHERS = [("webshop", {"products": 60})] + [
    ("intercode", {"language": name, **EMBEDDED}) for name in ("bash", "sql", "python")
]


@pytest.mark.parametrize("name, settings", OTHERS, ids=lambda v: v if isinstance(v, str) else v.get("language", ""))
async def test_in_every_domain_a_teacher_that_always_acts_wins(prompter, name, settings):
    if settings.get("language") in ("bash", "python") and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    env = make_env(name, settings)
    try:
        for task in env.panel("train").tasks[:2]:
            result, _ = await taught(prompter, ["mumble"], env, task, max_actions=env.max_actions)
            episode = result.episode
            assert episode.success, [(s.action, s.valid) for s in episode.steps]
            assert all(s.proposal and s.valid and s.own.cause == "unparsed" for s in episode.steps)
            examples = list(from_correction(episode, correction_of(result), prompter, 1))
            assert len(examples) == len(episode.steps)
            assert all(prompter.text(e.response) == s.text for e, s in zip(examples, episode.steps))
    finally:
        env.close()


async def test_no_teacher_sits_beside_an_evaluation(prompter):
    for panel in ("valid", "test"):
        task = Task("corridor", "3", panel, "coin")
        with pytest.raises(PrivilegeError, match=f"'{panel}'"):
            await taught(prompter, SAID, task=task)


async def test_an_experts_fault_costs_its_step(prompter):
    class Faulty(CorridorExpert):
        def advise(self):
            if self.env.visited:
                raise RuntimeError("lost its map")
            return super().advise()

    class Env(Corridor):
        def expert(self, kind, *, privilege=0.5, seed=0):
            return Faulty(self, privilege)

    result, _ = await taught(prompter, [("I look.", "go to desk 1")], Env(), max_actions=3)
    assert [v.outcome for v in result.verdicts] == [Outcome.AGREED, Outcome.FAILED, Outcome.FAILED]
    assert "lost its map" in result.verdicts[1].detail and not any(s.proposal for s in result.episode.steps)


def config(**rollout):
    return build({"name": "t", "domains": [{"name": "households"}], "rollout": rollout})


def test_the_schedule_of_a_configuration():
    assert config().intervention(1) is None
    assert config(intervention=1).intervention(3) == Intervention(1.0)
    schedule = config(intervention=[1, 0.5, 0])
    assert [schedule.intervention(i) for i in (1, 2, 3, 4)] == [Intervention(1.0), Intervention(0.5), None, None]
    assert config(intervention="takeover").intervention(1) == Intervention(1.0, takeover=True)


@pytest.mark.parametrize("setting", [1.5, -0.1, [], [0.5, 2], "always", float("nan")])
def test_schedules_that_mean_nothing_are_refused(setting):
    with pytest.raises(UserError, match="intervention"):
        config(intervention=setting)


def test_batches_cannot_sit_beside_a_student():
    plain = {"name": "t", "domains": [{"name": "households"}], "teacher": {"kind": "claude", "mode": "batch"}}
    with pytest.raises(UserError, match="ask live"):
        build(plain | {"rollout": {"intervention": 1}})
