"""Figures over episodes."""

import pytest

from leap_ray.evaluation import compare, summarize, wilson
from leap_ray.types import Episode, Finish, Step, Task


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


def test_comparison_is_paired_by_task():
    before = [episode(i, i < 2) for i in range(10)]
    after = [episode(i, i >= 1) for i in range(10)]
    result = compare(before, after)
    assert (result["gained"], result["lost"]) == (8, 1)
    assert result["p"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert compare(before, before)["p"] == 1.0
