"""Corrections into examples: what stands as the rejected answer, and where there is no pair."""

from __future__ import annotations

import dataclasses

import pytest

from leap_ray.learning.examples import SAME_ACTION, from_correction, from_demonstration, same_action
from leap_ray.learning.objectives import branches_of
from leap_ray.learning.prefix_tree import Kind
from leap_ray.policy import Prompter, tokenize
from leap_ray.types import Correction, Episode, Finish, Outcome, Step, StepCorrection, Task

CANDIDATES = ("go to fridge 1", "go to desk 2", "search[<query>]")


@pytest.fixture(scope="module")
def prompter(student_folder) -> Prompter:
    return Prompter.load(str(student_folder), "chat", True)


def episode(prompter: Prompter, *actions: str) -> Episode:
    steps = tuple(Step("You see a room.", CANDIDATES, "I look around.", action, True, 0.0) for action in actions)
    task = Task("toy", "t", "train")
    return tokenize(Episode(task, 0, "p", "find a mug", steps, "", 0.0, False, Finish.MAX_ACTIONS), prompter)


def examples_of(played: Episode, prompter: Prompter, *actions: str):
    words = tuple(StepCorrection(t, Outcome.CORRECTED, "A mug is cold.", action) for t, action in enumerate(actions))
    return list(from_correction(played, Correction(played.id, "t", "", words), prompter, 1))


def test_an_answer_that_was_cut_off_gets_no_end_token(prompter):
    played = episode(prompter, "go to desk 2", "go to desk 2")
    cut = dataclasses.replace(played.steps[1], completion=played.steps[1].completion[:-1])
    played = dataclasses.replace(played, steps=(played.steps[0], cut))
    first, second = examples_of(played, prompter, "go to fridge 1", "go to fridge 1")
    assert second.rejected == cut.completion and prompter.end_id not in second.rejected
    assert first.rejected[-1] == prompter.end_id
    for example in (first, second):
        assert example.response[-1] == prompter.end_id
        _, rejected = branches_of(example, "dpo")
        assert rejected.kind is Kind.REJECTED
        assert tuple(rejected.ids[rejected.start :]) == example.rejected, "what was sampled is under the loss, no more"


@pytest.mark.parametrize(
    "said,better,pair",
    [
        ("go to fridge 1", "go to fridge 1", False),
        ("Go to  Fridge 1", "go to fridge 1", False),  # the environment reads it as the candidate
        ("go to desk 2", "go to fridge 1", True),
        ("search[red mug]", "search[red mug]", False),
        ("search[Red mug]", "search[red mug]", True),  # a free text may mean something else in other letters
        ("fly away", "go to fridge 1", True),
        ("", "go to fridge 1", True),
    ],
)
def test_two_answers_that_do_the_same_action_are_no_pair(prompter, said, better, pair):
    (example,) = examples_of(episode(prompter, said), prompter, better)
    assert bool(example.rejected) == pair
    assert example.no_pair == ("" if pair else SAME_ACTION)
    assert example.response, "it is still an example"


def test_without_candidates_only_the_same_text_is_the_same_action():
    step = Step("", (), "", "ls -R", True, 0.0)
    assert same_action(step, "ls -R") and not same_action(step, "ls -r")


def test_a_demonstration_says_why_it_has_no_pair(prompter):
    (example,) = from_demonstration(episode(prompter, "go to desk 2"))
    assert not example.rejected and "demonstration" in example.no_pair
