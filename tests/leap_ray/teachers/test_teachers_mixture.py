"""The constrained privileged expert of Definition B.5, as mathematics."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leap_ray.teachers.mixture import averaged, bootstrap_interval, constrained, gap, kl, normalised, play

# Recorded from SmolLM2-135M-Instruct: log-probabilities of seven actions in the corridor, without and with privileged state
# ("The coin 1 is at drawer 2."), at the first two steps of an episode. Sums over the tokens of each completion, nats.
RECORDED = [
    (
        [-37.9979, -38.4975, -38.688, -38.9642, -39.4231, -34.2479, -32.3897],
        [-36.78, -36.2175, -35.9955, -34.8683, -38.019, -40.322, -38.5506],
    ),
    (
        [-18.1905, -17.5199, -21.1758, -20.0157, -22.0708, -25.5613, -24.18],
        [-21.1441, -20.0908, -21.2083, -19.7651, -22.7128, -30.4751, -25.8817],
    ),
]
PLAIN, PRIVILEGED = RECORDED[0]

scores = st.lists(st.floats(-30, 0), min_size=6, max_size=6)


@pytest.mark.parametrize("plain, privileged", RECORDED)
@pytest.mark.parametrize("delta", [0.001, 0.01, 0.1, 0.25, 0.5])
def test_the_kl_used_is_delta_within_one_percent(plain, privileged, delta):
    mixture = constrained(plain, privileged, delta)
    spent = kl(np.log(mixture.probabilities), normalised(plain))
    assert spent == pytest.approx(delta, rel=0.01) and mixture.kl == pytest.approx(spent, rel=1e-6)
    assert 0 < mixture.beta < 1


def test_the_two_ends():
    plain, privileged = np.exp(normalised(PLAIN)), np.exp(normalised(PRIVILEGED))
    assert constrained(PLAIN, PRIVILEGED, 0.0).probabilities == pytest.approx(plain)
    free = constrained(PLAIN, PRIVILEGED, math.inf)
    assert free.probabilities == pytest.approx(privileged) and free.beta == 0
    assert constrained(PLAIN, PRIVILEGED, 100).probabilities == pytest.approx(privileged)  # inside the ball already


@given(scores, scores, st.floats(1e-3, 3))
@settings(max_examples=150, deadline=None)
def test_it_is_a_geometric_mixture_inside_the_ball(plain, privileged, delta):
    mixture = constrained(plain, privileged, delta)
    low, high = normalised(plain), normalised(privileged)
    assert mixture.probabilities.sum() == pytest.approx(1)
    assert kl(np.log(np.maximum(mixture.probabilities, 1e-300)), low) <= delta * 1.01 + 1e-9
    expected = normalised((1 - mixture.beta) * high + mixture.beta * low)
    assert np.log(mixture.probabilities + 1e-300) == pytest.approx(expected, abs=1e-6)
    if mixture.beta > 0:
        assert mixture.kl == pytest.approx(delta, rel=0.01)


def test_no_policy_in_the_ball_is_nearer_to_the_privileged_expert():
    """Theorem B.6, against random policies inside the ball."""
    delta, rng = 0.5, np.random.default_rng(0)
    low, high = normalised(PLAIN), normalised(PRIVILEGED)
    best = kl(np.log(constrained(PLAIN, PRIVILEGED, delta).probabilities), high)
    inside = 0
    for _ in range(4000):
        other = normalised(low + rng.normal(0, 1, 7) + rng.uniform(0, 0.5) * (high - low))
        if kl(other, low) <= delta:
            inside += 1
            assert kl(other, high) >= best - 1e-6
    assert inside > 500


INF = math.inf


@pytest.mark.parametrize(
    "plain, privileged, delta, expected, beta",
    [
        ([0.0], [-3.0], 0.5, [1], 0),  # one candidate: both experts are the same
        ([-1.0, -1, -1], [-1.0, -1, -1], 0.1, [1 / 3] * 3, 0),  # the same distribution is inside any ball
        ([-INF, 0.0], [0.0, -INF], 1.0, [0, 1], 1),  # nothing in common: the plain expert
        ([-INF, 0.0], [0.0, -INF], INF, [1, 0], 0),  # … unless everything is allowed
        (
            [-INF, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            1.0,
            [0, math.e / (1 + math.e), 1 / (1 + math.e)],
            0,
        ),  # its shared part is inside
        (
            [0.0, 0.0, -1.0],
            [1.0, -INF, 0.0],
            0.01,
            [0.4223, 0.4223, 0.1554],
            1,
        ),  # too narrow for the shared actions alone
        ([-1e5, -2e5], [-3e5, -1e5], 1e9, [0, 1], 0),
    ],
)
def test_edges(plain, privileged, delta, expected, beta):
    mixture = constrained(plain, privileged, delta)
    assert mixture.probabilities == pytest.approx(expected, abs=1e-4) and mixture.beta == beta
    assert mixture.kl <= delta


def test_actions_that_one_side_never_takes_get_no_mass_and_the_kl_is_still_delta():
    mixture = constrained([-INF, -1.0, -2.0, -3.0], [-1.0, -6.0, -1.0, -0.5], 0.3)
    assert mixture.probabilities[0] == 0 and mixture.kl == pytest.approx(0.3, rel=0.01) and 0 < mixture.beta < 1


def test_values_that_make_no_sense_are_refused():
    for bad in ([], [float("nan"), 0.0], [-INF, -INF], [INF, 0.0]):
        with pytest.raises(ValueError):
            normalised(bad)
    with pytest.raises(ValueError, match="below 0"):
        constrained(PLAIN, PRIVILEGED, -1)
    with pytest.raises(ValueError):
        constrained(PLAIN, PRIVILEGED, float("nan"))


def test_the_gap_of_a_teacher():
    student = normalised([math.log(0.7), math.log(0.2), math.log(0.1)])
    same, other = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    near, far = gap([student], [same]), gap([student], [other])
    assert (near.tv, near.agreed, near.states) == (pytest.approx(0.3), 1, 1)
    assert (far.tv, far.nll, far.agreed) == (pytest.approx(0.9), pytest.approx(-math.log(0.1)), 0)
    assert gap([], []).states == 0


def played(plain, privileged, delta, choice, seed=0):
    return play(constrained(plain, privileged, delta), plain, privileged, delta, choice, random.Random(seed))


@given(scores, scores, st.floats(0, 3), st.sampled_from(["best", "sample"]), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_what_is_played_is_inside_the_ball_and_its_kl_is_the_one_told(plain, privileged, delta, choice, seed):
    found = played(plain, privileged, delta, choice, seed)
    low, high = normalised(plain), normalised(privileged)
    assert found.kl <= delta * 1.01 + 1e-9
    inside = [i for i in range(len(low)) if -low[i] <= delta]
    if choice == "best" and inside:
        assert found.index in inside and found.kl == pytest.approx(-low[found.index])
        assert high[found.index] == max(high[i] for i in inside)
    else:
        assert found.kl == constrained(plain, privileged, delta).kl


def test_the_best_action_outside_the_ball_is_not_played():
    """The mixture's most probable action costs 3.9 nats as a policy of its own, the mixture 1.5."""
    plain, privileged = np.log([0.9, 0.08, 0.02]), np.log([0.001, 0.001, 0.998])
    mixture = constrained(plain, privileged, 1.5)
    assert int(mixture.probabilities.argmax()) == 2 and -normalised(plain)[2] > 3.9
    best = played(plain, privileged, 1.5, "best")
    assert best.index == 0 and best.kl == pytest.approx(-math.log(0.9))
    assert played(plain, privileged, 4.0, "best").index == 2
    counts = Counter(played(plain, privileged, 1.5, "sample", seed).index for seed in range(2000))
    assert [counts[i] / 2000 for i in range(3)] == pytest.approx(mixture.probabilities, abs=0.04)


def test_where_no_action_lies_inside_the_ball_the_mixture_is_drawn_from():
    plain, privileged = np.log([0.5, 0.5]), np.log([0.1, 0.9])
    drawn = [played(plain, privileged, 0.1, "best", seed) for seed in range(50)]
    assert {p.index for p in drawn} == {0, 1} and {p.kl for p in drawn} == {constrained(plain, privileged, 0.1).kl}


def test_scores_under_several_reasons_are_averaged_as_probabilities():
    mean = averaged([np.log([0.9, 0.1]), np.log([0.1, 0.9]) - 7.0])  # a reason's own probability is no matter
    assert np.exp(mean) == pytest.approx([0.5, 0.5])
    assert np.exp(averaged([np.log([0.2, 0.8])])) == pytest.approx([0.2, 0.8])
    with pytest.raises(ValueError):
        averaged([[-INF, -INF]])


def test_the_gap_is_an_average_over_states_with_an_interval_over_episodes():
    near, far = normalised(np.log([0.99, 0.01])), normalised(np.log([0.05, 0.95]))
    teacher = np.array([1.0, 0.0])
    found = gap([near] * 19 + [far], [teacher] * 20, [f"e{i // 4}" for i in range(20)])
    assert found.tv == pytest.approx((19 * 0.01 + 0.95) / 20) and (found.states, found.episodes) == (20, 5)
    low, high = found.interval
    assert low < found.tv < high < 0.3 and low == pytest.approx(0.01)
    assert gap([near], [teacher], ["e"]).interval == (0.0, 1.0), "one episode says nothing about others"
    assert gap([near, far], [teacher] * 2, ["a", "b"], unknown=3).unknown == 3


def test_the_interval_is_wider_where_states_come_from_few_episodes():
    values = np.array([0.0] * 20 + [1.0] * 20)
    wide, narrow = (
        bootstrap_interval(values, groups)
        for groups in ([str(i // 10) for i in range(40)], [str(i) for i in range(40)])
    )
    assert wide[1] - wide[0] > narrow[1] - narrow[0] and narrow == bootstrap_interval(
        values, [str(i) for i in range(40)]
    )


def test_a_student_that_names_no_action_is_at_distance_one():
    found = gap([np.array([-INF, -INF])], [np.array([1.0, 0.0])])
    assert (found.tv, found.agreed) == (1, 0) and math.isfinite(found.nll)
