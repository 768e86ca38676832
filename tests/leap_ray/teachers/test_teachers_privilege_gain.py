"""How much privileged state raises the probability of a reason, by a scorer that can be worked out by hand."""

import asyncio
import dataclasses
import math
import random

import pytest
from corridor import play

from leap_ray.config import DomainConfig
from leap_ray.errors import UserError
from leap_ray.policy import Prompter, tokenize
from leap_ray.teachers.privilege_gain import (
    DrawnReason,
    ScoredReason,
    draw_reasons,
    leak_line,
    measure_gain,
    privilege_gain,
    reason_ids,
)
from leap_ray.teachers.self_teacher import Hindsight
from leap_ray.types import Correction, Outcome, StepCorrection

SEEN, SECRET, NEW = [1, 2, 3], [9], [7]


async def copying(prompt, completion):
    """A model that says a token of its prompt with probability 1/2 and any other with 1/8."""
    return [math.log(0.5 if token in prompt else 0.125) for token in completion]


def scored(reason, task="a"):
    return ScoredReason(task, shown=SEEN, hidden=[*SEEN, *SECRET], reason=reason)


def gain(*reasons, score=copying):
    return asyncio.run(privilege_gain(score, reasons))


def test_a_reason_that_repeats_a_secret_gains_and_one_from_what_was_seen_does_not():
    result = gain(scored([1, 9, 2]), scored([1, 2, 7], "b"))
    assert result.gains == pytest.approx((math.log(4), 0.0))
    assert result.mean == pytest.approx(math.log(4) / 2) and result.n == 2


def test_the_interval_draws_whole_tasks_and_holds_the_mean():
    same = gain(*(scored([9], task) for task in "abc"))
    assert same.interval == pytest.approx((math.log(4), math.log(4)))
    mixed = gain(*(scored([9] if task in "ab" else [1], task) for task in "abcdef"))
    low, high = mixed.interval
    assert 0 <= low < mixed.mean < high <= math.log(4)
    assert gain(*(scored([9] if task in "ab" else [1], task) for task in "abcdef")) == mixed
    # Ten reasons of one task tell no more about other tasks than one does.
    crowded = gain(*[scored([9], "a")] * 10, *(scored([1], task) for task in "bcdef"))
    assert crowded.interval[1] - crowded.interval[0] > high - low


def test_one_task_has_no_interval_and_no_reason_no_mean():
    assert gain(scored([9]), scored([1])).interval is None
    empty = gain()
    assert (empty.n, empty.mean, empty.interval) == (0, None, None)


def test_a_scorer_that_loses_tokens_is_named():
    async def short(prompt, completion):
        return [0.0]

    with pytest.raises(UserError, match="2 tokens was scored with 1"):
        gain(scored([1, 9]), score=short)


class Letters:
    """A prompter whose tokens are letters."""

    def completion_ids(self, reason, action):
        return [ord(c) for c in f"THOUGHT: {reason}\nACTION: {action}"] + [0]


def test_the_reason_ends_where_the_action_begins():
    text = "".join(map(chr, reason_ids(Letters(), "a fridge is cold")))
    assert text == "THOUGHT: a fridge is cold\nACTION: "


# ---- the figure of an iteration ----

HIDDEN = "The word is Xylophone Quartz."


@pytest.fixture(scope="module", params=["chat", "leap"])
def prompter(student_folder, request):
    return Prompter.load(str(student_folder), request.param, True)


class Student:
    """Says a token of its prompt with probability 1/2 and any other with 1/8; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    async def score(self, prompt_ids, candidates, policy, key):
        self.asked.append((tuple(prompt_ids), tuple(candidates[0]), policy, key))
        return [await copying(prompt_ids, ids) for ids in candidates]


def rollout(prompter, *actions, seed=0):
    return tokenize(play(list(actions), seed=seed, policy="toy-iter1", reason="I try."), prompter, "")


def measure(prompter, drawn, **settings):
    student = Student()
    hindsight = Hindsight(prompter, [DomainConfig("corridor:Corridor")])
    settings = {"max_length": 4096, **settings}
    return student, asyncio.run(measure_gain(student, hindsight, drawn, "toy-iter1", **settings))


def test_a_reason_that_tells_what_is_hidden_gains_over_one_that_does_not_and_over_the_students_own(prompter):
    episode = rollout(prompter, "go to desk 1", "leave")
    _, leaking = measure(prompter, [DrawnReason(episode, 1, "Xylophone Quartz.", HIDDEN)])
    _, clean = measure(prompter, [DrawnReason(episode, 1, "I try.", HIDDEN)])
    assert leaking["gain"] > clean["gain"] + 1 and clean["gain"] == clean["own"] == leaking["own"]
    assert (leaking["reasons"], leaking["own_reasons"], leaking["left_out"]) == (1, 1, 0)


def test_both_prompts_are_the_students_own_and_the_state_is_their_only_difference(prompter):
    episode = rollout(prompter, "go to desk 1", "leave")
    student, _ = measure(prompter, [DrawnReason(episode, 1, "Quartz.", HIDDEN)])
    prompts = {ids for ids, *_ in student.asked}
    shown = tuple(episode.prompt_ids(1))
    (hidden,) = prompts - {shown}
    assert len(prompts) == 2 and HIDDEN in prompter.tokenizer.decode(hidden)
    begin = next(i for i, (a, b) in enumerate(zip(shown, hidden)) if a != b)
    end = next(i for i, (a, b) in enumerate(zip(shown[::-1], hidden[::-1])) if a != b)
    assert begin + end >= len(shown) - 2, "what stands around the state is token by token the same"
    texts = {prompter.tokenizer.decode(ids) for _, ids, *_ in student.asked}
    assert len(texts) == 2 and not any("leave" in text for text in texts), "the reason alone is scored"
    assert {policy for *_, policy, _ in student.asked} == {"toy-iter1"}


def test_reasons_that_do_not_fit_the_students_context_are_counted(prompter):
    episode = rollout(prompter, "go to desk 1", "leave")
    reasons = [DrawnReason(episode, 0, "Why not.", HIDDEN), DrawnReason(episode, 1, "Why not.", "so long " * 3000)]
    student, result = measure(prompter, reasons, max_length=2048, left_out=2)
    assert (result["reasons"], result["left_out"]) == (1, 3)
    student, result = measure(prompter, reasons, max_length=8)
    assert (result["gain"], result["interval"], result["own"], result["left_out"]) == (None, None, None, 2)
    assert not student.asked


def test_a_step_without_a_reason_of_the_students_is_measured_by_the_teachers(prompter):
    episode = rollout(prompter, "leave")
    silent = dataclasses.replace(episode, steps=(dataclasses.replace(episode.steps[0], reason=""),))
    _, result = measure(prompter, [DrawnReason(silent, 0, "Quartz.", HIDDEN)])
    assert result["reasons"] == 1 and (result["own"], result["own_reasons"]) == (None, 0)


def corrected(episode):
    """A correction of four kinds of words, the first two of them to be trained on."""
    words = (
        StepCorrection(0, Outcome.CORRECTED, "Why not.", "leave"),
        StepCorrection(1, Outcome.CORRECTED, "Or so.", "leave"),
        StepCorrection(2, Outcome.CORRECTED, "", "leave"),
        StepCorrection(3, Outcome.AGREED, "As I said.", "leave"),
        StepCorrection(4, Outcome.REVEALS, action="leave"),
    )
    return Correction(episode.id, "t", "", words)


def test_the_seed_alone_draws_reasons_whatever_the_order_in_which_they_come(prompter):
    episodes = [rollout(prompter, *["leave"] * 5, seed=seed) for seed in range(6)]
    corrections = {episode.id: corrected(episode) for episode in episodes[:5]}  # one was won

    def draw(most, seed=0, order=None):
        given = list(episodes)
        (order or random.Random(0)).shuffle(given)
        shuffled = dict(random.Random(1).sample(sorted(corrections.items()), 5))
        return [(e.id, word.t) for e, word in draw_reasons(given, shuffled, most, seed)]

    assert sorted(draw(100)) == sorted((e.id, t) for e in episodes[:5] for t in (0, 1))
    few = draw(4)
    assert len(set(few)) == 4 and all(draw(4, order=random.Random(i)) == few for i in range(5))
    assert draw(6)[:4] == few, "a larger sample holds the smaller one"
    assert set(draw(4, seed=1)) != set(few) and draw(0) == []


def test_both_opinions_on_leaks_stand_in_one_line():
    outcomes = {"corrected": 30, "reveals privileged state": 2, "agreed": 9}
    result = {"gain": 0.4149, "interval": [0.1, 0.8], "reasons": 16, "own": -0.05, "own_reasons": 16, "left_out": 0}
    line = leak_line(outcomes, result)
    assert line.startswith("2 of 32 reasons left out because they reveal privileged state; ")
    assert "+0.41 [+0.10, +0.80] n=16, the student's own by -0.05" in line and "\n" not in line
    assert "likelier by +0.41 n=16, " in leak_line(outcomes, {**result, "interval": None})
    assert leak_line({}, {"gain": None}) == "0 of 0 reasons left out because they reveal privileged state"
