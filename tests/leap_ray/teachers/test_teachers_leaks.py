"""The leak check: measured on the labelled set, and its rules one by one."""

from experiments.benchmarks.leaks import cases, measure, scores
from experiments.benchmarks.stumbles import stumble
from leap_ray.envs.base import PrivilegedState, make_env
from leap_ray.teachers.leaks import find_leaks, seen_until
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.teachers.wording import normal
from leap_ray.types import Episode, Finish, Step, Task

STATE = PrivilegedState("d", "t", "", ("apple 3", "garbagecan 1"), {"targets": {"apple 3": "garbagecan 1"}})


def kinds(reason, seen="", state=STATE):
    return [leak.kind for leak in find_leaks(reason, seen, state)]


def test_precision_and_recall_on_the_labelled_set():
    everything = list(cases())
    assert len(everything) >= 120 and {case.domain for case in everything} == {"alfworld", "webshop", "intercode"}
    assert 0.4 < sum(case.leaks for case in everything) / len(everything) < 0.6
    assert len({(case.context, case.reason) for case in everything}) == len(everything)
    for split in (None, "held out"):
        result = scores(measure(split)["counts"])
        assert result["precision"] >= 0.9 and result["recall"] >= 0.9
    for domain in ("alfworld", "webshop", "intercode"):
        result = scores(measure()["counts"], domain)
        assert result["precision"] >= 0.9 and result["recall"] >= 0.9


def test_what_was_seen_is_no_secret():
    assert kinds("I take apple 3.") == ["name"]
    assert kinds("I take apple 3.", "You see a apple 3.") == []
    assert kinds("I take apple 30.") == [] and kinds("I take pineapple 3.") == []


def test_a_claim_is_a_leak_and_a_guess_is_not():
    seen = "a garbagecan 1 is here"
    assert kinds("The apple is in the garbage can.", seen) == ["claim"]
    assert kinds("The apple is often in the garbage can.", seen) == []
    assert kinds("The apple is in the garbage can.", "On the garbagecan 1, you see a apple 3.") == []


def test_names_are_found_in_other_spellings():
    for name in ("the third apple", "the 3rd apple", "Apple #3", "apple_3", "Apple3", "apple three", "apples 1 and 3"):
        assert kinds(f"I take {name} now.") == ["name"], name
    assert kinds("I take apple 13, apple 30 or the thirteenth apple.") == []
    assert normal("Fifty-two thousand, five hundred and 1,250") == "52 thousand, 500 and 1250".replace(
        "52 thousand", "52000"
    )


def test_the_dial_of_the_symbolic_teacher_is_what_the_check_says():
    """At 0.5 no reason of the households' expert reveals anything; at 1 those that tell a place do."""
    env = make_env("households", {"sizes": [1]})
    revealing = {}
    for privilege in (0.5, 1.0):
        teacher = SymbolicTeacher(make_env("households", {"sizes": [1]}), privilege=privilege, correct="all")
        revealing[privilege] = 0
        for task in env.resolve_panel("train").sample(6, 0).tasks:
            episode = stumble(env, task, steps=8, slips=0.4)
            env.reset(options={"task": task})
            state = env.privileged()
            words = teacher.correct_now(episode).steps
            revealing[privilege] += sum(bool(find_leaks(w.reason, seen_until(episode, w.t), state)) for w in words)
    assert revealing[0.5] == 0 < revealing[1.0]


def test_a_step_has_seen_all_that_came_before_it():
    steps = tuple(Step(f"o{t}", (f"c{t}",), "", f"a{t}", True, 0.0) for t in range(3))
    episode = Episode(Task("d", "t", "train"), 0, "base", "do it", steps, "end", 0.0, False, Finish.MAX_ACTIONS)
    assert seen_until(episode, 1).split() == ["do", "it", "o0", "c0", "a0", "o1", "c1"]


def test_secrets_with_special_characters_do_not_break_it():
    odd = PrivilegedState("d", "t", "", ("", "a(b[c", "   ", "x\\d+", "ü 1", "*"), {"targets": {"(": ")"}})
    assert find_leaks("anything (goes) [here] \\d+ *", "seen", odd) is not None
