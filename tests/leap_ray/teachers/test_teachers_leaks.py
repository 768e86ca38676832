"""The leak check: measured on the labelled set, and its rules one by one."""

from dataclasses import replace

import pytest

from experiments.benchmarks.leaks import SPLITS, cases, measure, scores
from experiments.benchmarks.stumbles import stumble
from leap_ray.envs.base import PrivilegedState, Secret, make_env
from leap_ray.errors import UserError
from leap_ray.teachers.leak_patterns import STATEMENTS
from leap_ray.teachers.leaks import find_leaks, seen_until
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.teachers.wording import mended, normal
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


@pytest.mark.parametrize("split", SPLITS[2:])
def test_precision_and_recall_on_everyday_wordings(split):
    """Each part holds as many near misses as leaks, near enough."""
    result = scores(measure(split)["counts"])
    assert result["precision"] >= 0.98 and result["recall"] >= 0.95
    assert 0.4 < result["leaks"] / result["cases"] < 0.6


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


ROOM = """put a apple in garbagecan.
Looking quickly around you, you see a cabinet 1, a drawer 1, a fridge 1, a garbagecan 1, and a shelf 1.
On the shelf 1, you see a book 1."""
APPLE = PrivilegedState("alfworld", "t", "", ("apple 1", "fridge 1"), {"targets": {"apple 1": "fridge 1"}})


@pytest.mark.parametrize(
    "reason",
    [
        "I need an apple. It is in the fridge.",  # pronouns, over a full stop
        "I need an apple. The fridge has one.",
        "I go to fridge 1. It has the apple.",
        "Fridge 1 is next. That is where the apple is.",
        "The fridge first. The apple is in there.",
        "I think the apple is in the fridge, because it is there.",  # a hedge for its own clause only
        "It might sound odd, but the apple is in the fridge.",
        "No need to guess, the apple is in the fridge.",
        "I am sure it's the fridge.",  # certainty
        "Without doubt the fridge holds what I need.",
        "The fruit I want is in the refrigerator.",  # other names
        "What I am looking for is in the fridge.",
        "The cabinet is empty, so I go to the fridge.",  # all other places
        "Every other place is a waste of time, so the fridge.",
        "Only the fridge will pay off.",
        "apple -> fridge 1",  # notes
        "Apple: fridge 1.",
        "fridge 1 (apple)",
        "The apple? In the fridge.",
        "I should go to the fridge, for there lies the apple.",  # deliberation doubts nothing
        "You won't see the apple unless you open the fridge.",  # only there
        "Had I opened the fridge, I would have the apple by now.",  # what would have followed
        "I get the apple if I go to the fridge.",
        "The apple, which nobody has seen yet, lies in the fridge.",  # insertions
        "The apple that I have to throw away is in the fridge.",
        "What's behind the door of the fridge? The apple.",  # questions that are answered
        "It's in the fridge, so why wait, the apple.",
        "Why look at the drawers when the apple is in the fridge?",
        "I need the apple, and that means the fridge.",
        "The search ends at the fridge.",  # success
        "The apple is in the frigde.",  # typing errors
        "Believe it or not, the fridge has the apple.",
    ],
)
def test_everyday_statements_of_a_place(reason):
    assert "claim" in [leak.kind for leak in find_leaks(reason, ROOM, APPLE)]


@pytest.mark.parametrize(
    "reason",
    [
        "I need an apple. The fridge often has one.",
        "I need an apple. It has to be found first.",
        "The fridge is closed. I open it to see what it has.",
        "The shelf had a book. It had no apple, so I go to the fridge.",
        "I don't know where the apple is, so I start with the fridge.",
        "If the apple is in the fridge, I take it.",
        "The apple is in the fridge, I guess.",
        "I am sure that there is an apple somewhere. The fridge is next.",
        "The shelf was empty, so I go to the fridge.",
        "The fridge is the only place that I have not seen.",
        "Plan: find an apple -> drop it in the garbagecan.",
        "Where is the apple? I look in the fridge.",
        "I go to fridge 1.",
        "I should open the fridge to see whether the apple is there.",
        "You won't know whether the apple is in the fridge unless you open it.",
        "Had the apple been on the shelf, I would have seen it.",
        "The apple has not turned up, and the fridge is the nearest place.",
        "Fridges are where apples are kept, so I open the fridge.",
        "The fridge keeps food cold, and an apple is food.",
        "My hunch is that the apple is in the fridge.",
        "If the fridge has no apple, the search goes on.",
        "What's behind the door of the fridge? I open it.",
    ],
)
def test_choosing_guessing_and_remembering_are_no_statements(reason):
    assert find_leaks(reason, ROOM, APPLE) == []


def test_what_was_seen_there_may_be_said():
    seen = ROOM + " You open the fridge 1. The fridge 1 is open. In it, you see a apple 1."
    assert find_leaks("I need an apple. It is in the fridge.", seen, APPLE) == []
    assert find_leaks("The cabinet is empty.", ROOM + " In the cabinet 1, you see nothing.", APPLE) == []


def test_a_kind_in_two_words_is_no_other_kind():
    """The side table may be called a table; the coffee table is another one."""
    seen = "You see a coffeetable 1, and a sidetable 1. On the coffeetable 1, you see a book 1."
    state = PrivilegedState("alfworld", "t", "", (), {"targets": {"statue 1": "sidetable 1"}})
    assert kinds("The table has the statue.", seen, state) == ["claim"]
    assert kinds("The coffee table is empty of statues.", seen, state) == []


def test_only_slips_of_the_pen_are_mended():
    assert (
        mended("The cabnet, a drwaer, the statuue", ("cabinet 1", "drawer 2", "statue 1"))
        == "The cabinet, a drawer, the statue"
    )
    for other in ("cabinets", "drawers", "status", "self", "soon", "cabin"):
        assert mended(other, ("cabinet 1", "drawer 2", "statue 1", "shelf 1", "spoon 1")) == other


@pytest.mark.parametrize(("example", "pattern"), STATEMENTS, ids=[example for example, _ in STATEMENTS])
def test_every_pattern_matches_its_example(example, pattern):
    assert pattern.search(example)


def test_kinds_and_aliases_are_declared_by_the_domain():
    """The same words under another kind: what a kind is looked for by, and a name that the text does not hold."""
    said = "It has to keep out the rain."
    plain = Secret("attribute", "storm ready")
    state = PrivilegedState("own", "t", "", (plain,))
    assert kinds(said, state=state) == []
    declared = replace(plain, aliases=("keep out rain",))
    assert kinds(said, state=replace(state, secrets=(declared,))) == ["name"]
    assert kinds(
        "Cupboard 3 it is.", state=replace(state, secrets=(Secret("instance", "locker 3", ("cupboard",)),))
    ) == ["name"]
    title = Secret("product", "Kettle Chips")  # two words: no title by its looks
    assert kinds("I want the Kettle ones.", state=replace(state, secrets=(title,))) == ["name"]
    assert kinds("I want kettle chips.", "kettle chips", replace(state, secrets=(title,))) == []


def test_an_unknown_kind_is_named_and_every_kind_can_be_looked_for():
    with pytest.raises(UserError, match=r"unknown kind 'colour'.*attribute"):
        Secret("colour", "blue")
    for kind in Secret.KINDS:
        for text in ("blue", "", "locker 3", "a(b[c", "12"):
            state = PrivilegedState("own", "t", "", (Secret(kind, text, ("ü 1", "(")),))
            assert kinds("Nothing of the sort.", state=state) == []


def test_plain_texts_are_read_with_their_domains_words():
    state = PrivilegedState("webshop", "t", "", ("stain resistant",))
    assert kinds("It has to withstand stains.", state=state) == ["name"]
    assert kinds("It has to withstand stains.", state=replace(state, domain="elsewhere")) == []
    in_bin = replace(APPLE, secrets=(), facts={"targets": {"apple 1": "garbagecan 1"}})
    assert kinds("The trash can first, it has the apple.", "a garbagecan 1", in_bin) == ["claim"]
    assert kinds("The trash can first, it has the apple.", "a garbagecan 1", replace(in_bin, domain="elsewhere")) == []


def test_numbers_in_words_and_rounded():
    state = PrivilegedState("intercode", "t", "", (), {"gold": "wc -l /a", "output": "812"})
    for reason in (
        "It is 812.",
        "There are eight hundred and twelve.",
        "Just above eight hundred lines.",
        "Roughly 810.",
    ):
        assert kinds(reason, state=state) == ["code"], reason
    for reason in ("About three files.", "Roughly 600 lines.", "Eight files, or a hundred."):
        assert kinds(reason, state=state) == [], reason
    assert kinds("Just above eight hundred.", "more than 800 lines", state) == []
    assert (
        normal("thirteen point eight five") == "13.85"
        and normal("one hundred and one, five and two") == "101, five and two"
    )


def test_a_program_read_aloud():
    gold = "find /a -name '*.txt' -print0 | xargs -0 wc -w | awk 'END { print $1/(NR-1) }'"
    state = PrivilegedState("intercode", "t", "", (gold,), {"gold": gold, "output": ""})
    assert kinds("I pipe find into wc and let awk divide.", state=state) == ["code"]
    assert kinds("find lists the files, and wc counts their words.", state=state) == []


def test_commands_with_their_options_and_formats():
    gold = "sort -n /a | cut -f2 | xargs basename -a"
    state = PrivilegedState("intercode", "t", "", (gold,), {"gold": gold, "output": "417M"})
    for reason in ("cut -f2, then basename -a.", "It's four hundred and seventeen megabytes."):
        assert kinds(reason, state=state) == ["code"], reason
    for reason in ("sort -n puts numbers in order.", "md5sum prints a sum.", "About thirty days ago."):
        assert kinds(reason, state=state) == [], reason


def test_what_a_product_must_not_have():
    state = PrivilegedState("webshop", "t", "", ("gluten free", "non slip"))
    for reason in (
        "Gluten is something it mustn't contain.",
        "Gluten must be absent.",
        "There should be nothing with gluten.",
    ):
        assert kinds(reason, state=state) == ["name"], reason
    assert kinds("I shouldn't slip in words that the task doesn't have.", state=state) == []


def test_reasons_that_are_said_ordinarily_are_clean():
    """Demonstrators of the three domains, and the symbolic teacher at 0 and 0.5 on episodes that went astray."""
    for name, settings in (("households", {"sizes": [1, 2]}), ("webshop", {})):
        env = make_env(name, settings)
        teachers = [SymbolicTeacher(make_env(name, settings), privilege=p, correct="all") for p in (0.0, 0.5)]
        for task in env.resolve_panel("train").sample(6, 3).tasks:
            episode = stumble(env, task, steps=8, slips=0.4)
            env.reset(options={"task": task})
            state = env.privileged()
            said = [word for teacher in teachers for word in teacher.correct_now(episode).steps]
            assert said and not [w for w in said if find_leaks(w.reason, seen_until(episode, w.t), state)]


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
