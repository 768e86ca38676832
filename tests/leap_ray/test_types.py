"""Records survive the trip through a line of JSON, and a line that is wrong says where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap_ray.types import (
    Correction,
    Episode,
    Finish,
    Outcome,
    RecordError,
    Step,
    StepCorrection,
    Task,
    episode_id,
    from_json,
    to_json,
)

ids = st.lists(st.integers(0, 50_000), max_size=6).map(tuple)
steps = st.builds(
    Step,
    observation=st.text(max_size=20),
    candidates=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    reason=st.text(max_size=20),
    action=st.text(max_size=20),
    valid=st.booleans(),
    score=st.floats(0, 1),
    text=st.text(max_size=20),
    new=ids,
    completion=ids,
    logprobs=st.lists(st.floats(-20, 0), max_size=3).map(tuple),
)
episodes = st.builds(
    Episode,
    task=st.builds(
        Task, domain=st.text(max_size=5), id=st.text(max_size=9), panel=st.just("train"), kind=st.text(max_size=5)
    ),
    seed=st.integers(0, 99),
    policy=st.text(max_size=8),
    instruction=st.text(max_size=9),
    steps=st.lists(steps, max_size=3).map(tuple),
    final_observation=st.text(max_size=9),
    score=st.floats(0, 1),
    success=st.booleans(),
    finish=st.sampled_from(Finish),
    extra=st.dictionaries(st.text(max_size=4), st.floats(0, 1), max_size=2),
)


@given(episodes)
def test_episode_round_trip(episode):
    line = to_json(episode)
    assert "\n" not in line
    assert from_json(Episode, line) == episode


def test_correction_round_trip_keeps_outcomes():
    words = tuple(StepCorrection(t, outcome) for t, outcome in enumerate(Outcome))
    back = from_json(Correction, to_json(Correction("e", "symbolic", "", words)))
    assert [w.outcome for w in back.steps] == list(Outcome)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not JSON"),
        ('{"domain": "a", "id": "b"}', "missing 'panel'"),
        ('{"domain": "a", "id": "b", "panel": "c", "colour": 1}', "unknown 'colour'"),
        ('{"domain": "a", "id": 3, "panel": "c"}', "Task.id: str is needed"),
        ("[1]", "a mapping is needed"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line, named):
    with pytest.raises(RecordError, match=named.replace("[", r"\[")):
        from_json(Task, line)


def test_an_episode_is_the_same_attempt_on_any_panel():
    a, b = (Task("alfworld", "x", panel) for panel in ("train", "valid_seen"))
    assert episode_id(a, 1, "p") == episode_id(b, 1, "p")
    assert len({episode_id(a, seed, policy) for seed in (1, 2) for policy in ("p", "q")}) == 4


def test_prompts_are_put_together_from_what_each_step_adds():
    def step(keep, new, completion):
        return Step("", (), "", "", True, 0.0, keep=keep, new=new, completion=completion)

    task = Task("d", "t", "train")
    parts = (step(0, (1, 2), (3,)), step(3, (4,), (5, 6)), step(1, (9,), ()))
    episode = Episode(task, 0, "p", "", parts, "", 0.0, False, Finish.MAX_ACTIONS)
    assert [episode.prompt_ids(t) for t in range(3)] == [[1, 2], [1, 2, 3, 4], [1, 9]]
    broken = Episode(task, 0, "p", "", (step(5, (), ()),), "", 0.0, False, Finish.MAX_ACTIONS)
    with pytest.raises(RecordError, match="keeps 5"):
        broken.prompt_ids(0)
