"""The symbolic teacher: one word on every step, judged by an expert on a replay that must equal the record."""

import asyncio

import pytest
from corridor import Corridor, CorridorExpert, play

from leap_ray.errors import PrivilegeError, UserError
from leap_ray.teachers.choose import Verdict, choose
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import Outcome, Step, Task

WANDER = ["go to desk 1", "go to desk 1", "", "go to drawer 2", "leave", "take coin 1"]  # the coin is in drawer 2
O = Outcome  # noqa: E741


def outcomes(correction):
    return [step.outcome for step in correction.steps]


def correct(episode, env=None, **settings):
    return SymbolicTeacher(env or Corridor(), **settings).correct_now(episode)


def test_mistakes_are_corrected_and_legitimate_search_is_agreed():
    correction = correct(play(WANDER), correct="mistakes")
    assert outcomes(correction) == [O.AGREED, O.CORRECTED, O.CORRECTED, O.AGREED, O.CORRECTED, O.AGREED]
    assert [s.action for s in correction.steps] == ["", "go to drawer 2", "go to drawer 2", "", "take coin 1", ""]
    assert correction.steps[4].reason == "The coin is here."
    assert [s.t for s in correction.steps] == list(range(6))


def test_all_trains_every_step_and_an_agreed_action_stays_the_students():
    correction = correct(play(["go to desk 2", "go to drawer 2"], "3"), correct="all")
    assert [s.action for s in correction.steps] == ["go to desk 2", "go to drawer 2"]
    # The expert argues for drawer 2: that reason must not stand beside "go to desk 2".
    assert [s.reason for s in correction.steps] == ["I try.", "Small things lie in places not looked at yet."]


def test_an_expert_that_can_explain_gives_the_reason_for_the_students_choice():
    class Explaining(CorridorExpert):
        def explain(self, action):
            return f"{action} is as good as any."

    class Env(Corridor):
        def expert(self, kind, *, privilege=0.5, seed=0):
            return Explaining(self, privilege)

    correction = correct(play(["go to desk 2"]), Env(), correct="all")
    assert correction.steps[0].reason == "go to desk 2 is as good as any."


def test_privilege_one_counts_search_as_a_mistake():
    assert outcomes(correct(play(["go to desk 2"]), privilege=1.0, correct="mistakes")) == [O.CORRECTED]
    assert outcomes(correct(play(["go to desk 2"]), privilege=0.5, correct="mistakes")) == [O.AGREED]


def test_no_plan_is_an_answer():
    assert outcomes(correct(play(["break", "leave"]))) == [O.CORRECTED, O.NO_PLAN]


def test_an_action_not_among_the_candidates_is_left_out():
    class Env(Corridor):
        def expert(self, kind, *, privilege=0.5, seed=0):
            expert = CorridorExpert(self, privilege)
            expert.env = type(
                "Elsewhere", (), {"stuck": False, "holding": False, "at": "x", "coin": "x", "visited": ()}
            )()
            return expert

    correction = correct(play(["leave"]), Env())
    assert outcomes(correction) == [O.UNAVAILABLE]
    assert "take coin 1" in correction.steps[0].detail


@pytest.mark.parametrize(
    "env, said", [(Corridor(noise=" A clock ticks."), "differs"), (Corridor(explode=True), "fell over")]
)
def test_a_replay_that_goes_astray_fails_the_steps_it_cannot_judge(env, said):
    correction = correct(play(WANDER), env, correct="mistakes")
    assert outcomes(correction) == [O.AGREED] + [O.FAILED] * 5
    assert all(said in step.detail for step in correction.steps[1:])


def test_evaluation_tasks_are_refused():
    class Env(Corridor):
        def expert(self, kind, *, privilege=0.5, seed=0):
            self.privileged()
            return super().expert(kind, privilege=privilege, seed=seed)

    episode = play(["leave"])
    outside = type(episode)(
        **{f: getattr(episode, f) for f in episode.__slots__} | {"task": Task("corridor", "3", "valid")}
    )
    with pytest.raises(PrivilegeError):
        correct(outside, Env())


def test_repeats_of_one_mistake_are_skipped_beyond_the_limit():
    episode = play(["go to desk 1", "dance", "dance", "dance", "dance"])
    assert outcomes(correct(episode, repeats=1, correct="mistakes")) == [
        O.AGREED,
        O.CORRECTED,  # at the desk
        O.CORRECTED,  # at "Nothing happens.": another state
        O.SKIPPED,
        O.SKIPPED,
    ]


def test_every_verdict_has_exactly_one_word():
    step = Step("o", (), "", "a", True, 0.0)
    verdicts = [Verdict(outcome, "r", "b") for outcome in Outcome]
    chosen = choose(verdicts, [step] * len(verdicts), correct="all")
    assert [c.outcome for c in chosen] == [O.CORRECTED if v.outcome is O.AGREED else v.outcome for v in verdicts]
    with pytest.raises(ValueError):
        choose(verdicts, [step], correct="all")


async def test_calls_overlap_and_close_closes_the_environment():
    env = Corridor()
    teacher = SymbolicTeacher(env, correct="mistakes")
    both = await asyncio.gather(teacher.correct(play(WANDER)), teacher.correct(play(["leave"])))
    assert outcomes(both[0])[1:3] == [O.CORRECTED, O.CORRECTED] and outcomes(both[1]) == [O.CORRECTED]
    await teacher.close()
    assert env.closed


async def test_annotate_gives_the_demonstrators_reasons_and_never_changes_actions():
    demonstration = play(
        ["go to desk 1", "go to drawer 2", "take coin 1", "leave"], policy="expert:demonstrator", reason=""
    )
    annotated = await SymbolicTeacher(Corridor()).annotate(demonstration)
    assert [s.action for s in annotated.steps] == [s.action for s in demonstration.steps]
    assert annotated.steps[0].reason == ""  # the expert would have gone elsewhere
    assert annotated.steps[2].reason == "The coin is here."
    assert annotated.annotations[0] is Outcome.SKIPPED and annotated.annotations[2] is Outcome.CORRECTED
    with pytest.raises(UserError, match="differs"):
        await SymbolicTeacher(Corridor(noise="!")).annotate(demonstration)
