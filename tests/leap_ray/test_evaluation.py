"""Figures over episodes."""

import random

import pytest

from leap_ray.evaluation import clustered_wilson, compare, ends_in_loop, summarize, wilson
from leap_ray.types import Episode, Finish, Proposal, Step, Task


def episode(number, success, actions=4, invalid=0, kind="heat", parts=None):
    steps = tuple(Step("", (), "", "a", t >= invalid, 0.0) for t in range(actions))
    finish = Finish.SUCCESS if success else Finish.MAX_ACTIONS
    task = Task("d", f"t{number}", "valid", kind)
    return Episode(task, 0, "p", "", steps, "", float(success), success, finish, extra=parts or {})


def test_wilson_against_published_values():
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29.
    known = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, count), interval in known.items():
        assert wilson(successes, count) == pytest.approx(interval, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_summary():
    plays = [
        episode(1, True, 4),
        episode(2, False, 10, invalid=5),
        episode(3, True, 6, kind="cool", parts={"att": 0.5}),
    ]
    figures = summarize(plays)
    assert (figures.episodes, figures.success) == (3, pytest.approx(2 / 3))
    assert (figures.actions, figures.actions_success) == (pytest.approx(20 / 3), 5)
    assert figures.invalid == 5 / 20
    assert figures.kinds == {"cool": (1, 1.0), "heat": (2, 0.5)}
    assert figures.finishes == {"max actions": 1, "success": 2}
    assert summarize([]).actions_success is None


def outcomes(*tasks):
    """Outcomes of tasks, each given as its seeds' results: "1" won, "0" lost."""
    return {(f"t{i}", seed): won == "1" for i, seeds in enumerate(tasks) for seed, won in enumerate(seeds)}


def test_comparison_is_paired_by_task():
    before = outcomes(*("1" if i < 2 else "0" for i in range(10)))
    after = outcomes(*("1" if i >= 1 else "0" for i in range(10)))
    result = compare(before, after)
    assert (result.tasks, result.gained, result.lost, result.difference) == (10, 8, 1, pytest.approx(0.7))
    assert result.p == pytest.approx(2 * (1 + 9) / 2**9), "McNemar's exact test"
    assert compare(before, before).p == 1.0


def test_seeds_are_no_further_tasks():
    once = compare(outcomes(*"000" + "1" * 21), outcomes(*"1" * 24))
    thrice = compare(outcomes(*["000"] * 3, *["111"] * 21), outcomes(*["111"] * 24))
    assert once == thrice
    assert once.p == 0.25


def test_tasks_of_unlike_numbers_of_seeds_count_the_same():
    before, after = outcomes("00", "000", "1"), outcomes("01", "001", "1")
    result = compare(before, after)
    assert (result.tasks, result.gained, result.difference) == (3, 2, pytest.approx((1 / 2 + 1 / 3) / 3))
    assert result.p == pytest.approx(0.5)


def test_only_what_both_have_played_is_compared():
    assert compare(outcomes("1", "1"), {("other", 0): True}).tasks == 0
    assert compare({}, {}).p == 1.0
    assert compare(outcomes("10"), {("t0", 0): True}).difference == 0


def test_with_one_seed_the_interval_is_wilsons():
    assert clustered_wilson(outcomes(*"1101000")) == wilson(3, 7)
    assert clustered_wilson({}) == (0.0, 1.0)
    assert clustered_wilson(outcomes("111", "111")) == wilson(2, 2), "three seeds of two tasks that are always won"


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("mean", [0.2, 0.5])
def test_the_interval_covers_the_rate_whatever_the_number_of_seeds(seeds, mean):
    draw = random.Random(seeds)
    covered = 0
    for _ in range(1000):
        rates = [draw.betavariate(2 * mean, 2 * (1 - mean)) for _ in range(24)]  # tasks are easy or hard
        low, high = clustered_wilson(
            {(str(t), s): draw.random() < p for t, p in enumerate(rates) for s in range(seeds)}
        )
        covered += low <= mean <= high
    assert covered >= 920  # 660 with Wilson's interval over all episodes of five seeds


def repeating(*pairs, success=False, proposals=()):
    """An episode of these (observation, action) pairs; at the steps in `proposals` a teacher acted in the place of "wait"."""
    steps = []
    for t, (seen, action) in enumerate(pairs):
        own = Proposal("", "wait", False, "", (1,), (-1.0,), cause="not here") if t in proposals else None
        steps.append(Step(seen, (), "", action, True, 0.0, proposal=own))
    finish = Finish.SUCCESS if success else Finish.MAX_ACTIONS
    return Episode(Task("d", "t", "train"), 0, "base", "", tuple(steps), "", float(success), success, finish)


def test_a_loop_is_a_failed_episode_whose_last_steps_only_repeat():
    search = [("hall", "a"), ("room a", "b"), ("room b", "c")]
    assert ends_in_loop(repeating(*search, ("wall", "x"), ("wall", "x"), ("wall", "x"), ("wall", "x")))
    assert not ends_in_loop(repeating(*search, ("wall", "x"), ("wall", "x"), ("wall", "y")))
    assert not ends_in_loop(repeating(*search, *search, success=True)), "a won episode is none"
    assert not ends_in_loop(repeating(("wall", "x"), ("wall", "x"), ("wall", "x"))), "too short to tell"
    assert ends_in_loop(repeating(*search, *search)), "a loop may have several steps"
    assert not summarize([]).causes and summarize([repeating(*search, *search)]).loops == 1


def test_invalid_actions_are_the_students_also_where_a_teacher_acted():
    figures = summarize([repeating(("hall", "a"), ("room", "b"), success=True, proposals=(1,))])
    assert figures.invalid == 0.5 and figures.causes == {"not here": 1}
