"""How much privileged state raises the probability of a reason, by a scorer that can be worked out by hand."""

import asyncio
import math

import pytest

from leap_ray.errors import UserError
from leap_ray.teachers.privilege_gain import ScoredReason, privilege_gain, reason_ids

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
