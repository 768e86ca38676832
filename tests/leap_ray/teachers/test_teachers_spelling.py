"""Actions that the environment accepts in other spellings: what a student said counts as what the environment read."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from corridor import Corridor

from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, TextEnv, make_env
from leap_ray.learning.examples import from_correction
from leap_ray.policy import Prompter
from leap_ray.rollout import demonstrate, play
from leap_ray.teachers.actions import canonical, fit
from leap_ray.teachers.answers import Draft, Reading
from leap_ray.teachers.choose import Verdict, choose
from leap_ray.teachers.constrained import ConstrainedTeacher
from leap_ray.teachers.prompted import AnnotationCheck, Check
from leap_ray.teachers.self_teacher import SelfTeacher
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import (
    Completion,
    Correction,
    Episode,
    Outcome,
    Sampling,
    Step,
    StepCorrection,
    Task,
    from_json,
    to_json,
)

Spell = Callable[[str], str]
INTERCODE = {"data": "embedded", "base": "host"}


def in_brackets(change: Spell) -> Spell:
    """Change what stands in the brackets of `click[…]`; an item's title is known by its own letters only."""
    return lambda a: (
        a if a.startswith("click[item - ") else f"{a[: a.index('[') + 1]}{change(a[a.index('[') + 1 : -1])}]"
    )


HOUSEHOLD: dict[str, Spell] = {
    "full stop": "{}.".format,
    "bold": "**{}**".format,
    "title case": str.title,
    "upper case": str.upper,
    "code": "`{}`".format,
    "quotes": '"{}"'.format,
    "curly quotes": "\u201c{}\u201d!".format,
    "bold inside": lambda a: a.replace(" ", " **", 1) + "**",
    "two lines": "{}\nand then look".format,
    "mixed": lambda a: f"  *{a.capitalize()}*. ",
}
SHOP: dict[str, Spell] = {
    "title case": in_brackets(str.title),
    "upper case": in_brackets(str.upper),
    "words after it": lambda a: a if a.startswith("click[item - ") else f"{a} please",
    "full stop": lambda a: a if a.startswith("click[item - ") else f"{a}.",
}
SQL: dict[str, Spell] = {
    "semicolon": lambda a: a if a == "submit" else f"{a};",
    "blanks": lambda a: f" {a.replace(' ', '  ')} " if "'" not in a and a != "submit" else a,
    "lower case": lambda a: a.lower() if "'" not in a and '"' not in a else a,
    "describe": lambda a: a.replace("DESC ", "DESCRIBE ") if a.startswith("DESC ") else a,
    "words after submit": lambda a: "submit the answer." if a == "submit" else a,
}
CODE: dict[str, Spell] = {"blanks": lambda a: f"{a}  ", "words after submit": lambda a: f"{a}!" if a == "submit" else a}
CASES = [
    pytest.param(name, settings, spell, id=f"{name}-{settings.get('language', '')}-{how}")
    for name, settings, spellings in (
        ("households", {"sizes": [1, 2]}, HOUSEHOLD),
        ("webshop", {"products": 120}, SHOP),
        ("webshop", {"products": 120, "wrapper": "plain"}, SHOP),
        ("intercode", {"language": "sql", **INTERCODE}, SQL),
        ("intercode", {"language": "bash", **INTERCODE}, CODE),
        ("intercode", {"language": "python", **INTERCODE}, {"blanks": CODE["blanks"]}),
        ("experiments.own_environment:Lockers", {}, {"itself": str}),
    )
    for how, spell in spellings.items()
]


class Saying:
    """A student that says given actions, as the environment is to read them."""

    def __init__(self, prompter: Prompter, actions: list[str]) -> None:
        self.prompter, self.left = prompter, list(actions)

    async def complete(self, prompt_ids, sampling, seed, policy, request_id) -> Completion:
        ids = tuple(self.prompter.completion_ids("I try this.", self.left.pop(0)))
        return Completion(ids, (0.0,) * len(ids), "stop")

    async def score(self, prompt_ids, candidates, policy, key) -> list[list[float]]:
        """Finds the wanted action likely, and every other one not."""
        texts = [self.prompter.text(tuple(ids)) for ids in candidates]
        return [[0.0 if text.endswith(f": {self.left[0]}") else -9.0] for text in texts]


@pytest.fixture(scope="module")
def prompter(student_folder) -> Prompter:
    return Prompter.load(str(student_folder), "chat", True)


async def said(env: TextEnv, task: Task, prompter: Prompter, actions: list[str]) -> Episode:
    return await play(
        env, task, Saying(prompter, actions), prompter, policy="base", seed=0, sampling=Sampling(max_tokens=2000),
        max_actions=len(actions), max_length=10**6,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "spell"), CASES)
async def test_right_steps_in_another_spelling_are_agreed_with(
    prompter: Prompter, name: str, settings: Any, spell: Spell
):
    if settings.get("language") in ("bash", "python") and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    env = make_env(name, settings)
    teacher = SymbolicTeacher(make_env(name, settings), correct="all")
    changed = 0
    for task in env.panel("train").sample(6 if "language" not in settings else 2, 0).tasks:
        expert = "teacher" if name == "webshop" else "demonstrator"  # the shop's demonstrator errs now and then
        shown = demonstrate(env, task, seed=0, max_actions=15, expert=expert)
        episode = await said(env, task, prompter, [spell(step.action) for step in shown.steps])
        changed += sum(spell(step.action) != step.action for step in shown.steps)
        assert [step.valid for step in episode.steps] == [step.valid for step in shown.steps]
        assert episode.success == shown.success and len(episode.steps) == len(shown.steps)
        correction = teacher.correct_now(episode)
        outcomes = [(s.outcome, s.detail) for s in correction.steps]
        assert all("agreed" in (str(outcome), detail) for outcome, detail in outcomes), list(
            zip(outcomes, episode.steps)
        )
        check = Check(episode, PrivilegedState(env.domain, task.id, ""), False)
        for t, (step, own) in enumerate(zip(episode.steps, shown.steps)):
            for answer in (step.action, canonical(step), own.action):
                verdict = check(Reading(drafts={t: Draft("So it is.", answer)}), (t,)).verdicts.get(t)
                if name == "intercode" and answer == own.action != canonical(step):
                    continue  # a text in words of its own: no list of actions says that it is the same
                assert verdict == Verdict(Outcome.AGREED, "So it is.", canonical(step)), (answer, step)
        env.close()
    assert changed or name.endswith("Lockers")


@pytest.mark.parametrize("spelling", ["{}.", "**{}**", "`{}`", "- {}", '"{}"', "{}!", "  {}  "])
@pytest.mark.parametrize("change", [str, str.upper, str.title])
def test_a_teachers_answer_is_read_in_any_spelling(spelling: str, change: Spell):
    candidates = ("go to desk 1", "take mug 1 from desk 1", "look", "click[buy now]", "click[3.5 x 4]", "click[35 x 4]")
    for candidate in candidates:
        assert fit(spelling.format(change(candidate)), candidates) == candidate
    for other in ("go to desk", "go to desk 2", "click[3.5 x]", "click[3 5 x 4]", "desk 1", ""):
        assert fit(spelling.format(change(other)), candidates) is None


def test_a_placeholder_is_filled_in_the_environments_form():
    candidates = ("search[<search query>]", "click[buy now]")
    assert fit("**Search[Red Shoes].**", candidates) == "search[Red Shoes]"
    assert fit("search[<search query>]", candidates) is None and fit("search[]", candidates) is None
    step = Step("o", candidates, "", "search[RED shoes]!", True, 0.0, spelling="search[red shoes]")
    check = Check(episode_of(step), PrivilegedState("d", "0", ""), False)
    verdict = check(Reading(drafts={0: Draft("Why.", "search[Red Shoes]")}), (0,)).verdicts[0]
    assert verdict == Verdict(Outcome.AGREED, "Why.", "search[red shoes]")


def test_code_is_read_without_the_marks_around_it_and_otherwise_as_it_is():
    assert fit("```bash\nls *\n```", ()) == "ls *" and fit("`ls`", ()) == "ls"
    for code in ("echo `date`", "ls *", 'echo "a"', "rm _x_", "SELECT 'a.'", "`a` `b`"):
        assert fit(code, ()) == code


def episode_of(*steps: Step) -> Episode:
    plain = {"score": 0.0, "success": False, "finish": "max actions", "seed": 0, "policy": "base"}
    task = {"domain": "households", "id": "0", "panel": "train"}
    body = {
        "task": task,
        "instruction": "",
        "steps": [dataclasses.asdict(s) for s in steps],
        "final_observation": "",
        **plain,
    }
    return from_json(Episode, json.dumps(body))


MUG = Step("At desk 1.", ("take mug 1 from desk 1", "look"), "It is here.", "**Take mug 1 from desk 1**", True, 0.0,
           spelling="take mug 1 from desk 1", completion=(1, 2), text="think: It is here.")  # fmt: skip


@pytest.mark.parametrize("kind", [SelfTeacher, ConstrainedTeacher])
async def test_teachers_that_are_the_student_compare_what_was_read(prompter: Prompter, kind: Any):
    env = make_env("households", {"sizes": [1]})
    task = env.panel("train").tasks[0]
    shown = demonstrate(env, task, seed=0, max_actions=1)
    action = shown.steps[0].action
    episode = await said(env, task, prompter, [f"**{action.title()}**."])
    for answer in (action, f"{action.capitalize()}.", f"`{action}`"):
        student = Saying(prompter, [action if kind is ConstrainedTeacher else answer] * 9)
        config = TeacherConfig(kind="self", correct="all", privilege=1.0)
        teacher = kind(student, prompter, config, [DomainConfig("households")], max_length=10**6)
        (word,) = (await teacher.correct(episode, env.privileged())).steps
        assert (word.outcome, word.action) == (Outcome.CORRECTED, action) and word.detail.startswith("agreed")


def test_a_demonstrations_action_in_another_spelling_is_annotated():
    for answer in ("Take mug 1 from desk 1.", MUG.action, MUG.spelling):
        checked = AnnotationCheck(episode_of(MUG))(Reading(drafts={0: Draft("It is here.", answer)}), (0,))
        assert checked.verdicts[0].reason == "It is here."


def test_one_mistake_in_two_spellings_is_one_mistake():
    steps = [dataclasses.replace(MUG, action=a, spelling="look") for a in ("Look.", "**look**", "LOOK")]
    verdicts = [Verdict(Outcome.CORRECTED, "r", "take mug 1 from desk 1")] * 3
    words = choose(verdicts, steps, correct="mistakes", repeats=1)
    assert [word.outcome for word in words] == [Outcome.CORRECTED, Outcome.SKIPPED, Outcome.SKIPPED]


def test_two_answers_that_do_the_same_are_no_preference(prompter: Prompter):
    episode = episode_of(dataclasses.replace(MUG, new=(5, 6)))
    for action, pairs in (("take mug 1 from desk 1", 0), ("look", 1)):
        correction = Correction(episode.id, "t", "", (StepCorrection(0, Outcome.CORRECTED, "Why.", action),))
        (example,) = from_correction(episode, correction, prompter, 1)
        assert bool(example.rejected) == bool(pairs)
        assert prompter.text(example.response).endswith(f"act: {action}")


def test_records_without_a_spelling_are_read():
    plain = json.loads(to_json(MUG))
    del plain["spelling"]
    old = from_json(Step, json.dumps(plain))
    assert canonical(old) == MUG.spelling and not old.spelling
    assert from_json(Step, to_json(MUG)) == MUG


class Lenient(Corridor):
    """A corridor that reads actions without case and full stops, and does not say how it read them."""

    def step(self, action: str):
        return super().step(action.lower().rstrip("."))


def test_an_environment_that_does_not_tell_how_it_read_an_action_is_understood_too():
    """The candidate that an accepted action means stands for it: in environments of one's own, and in older records."""
    env = Lenient()
    actions = ["Go to drawer 2.", "TAKE COIN 1", "Leave."]
    observation, info = env.reset(options={"task": env.panel("train").tasks[3]})
    steps = []
    for action in actions:
        before, candidates = observation, info["candidates"]
        observation, *_, info = env.step(action)
        steps.append(Step(before, candidates, "I try.", action, info["valid"], info["score"]))
    episode = dataclasses.replace(episode_of(*steps), task=env.task)
    correction = SymbolicTeacher(Lenient(), correct="all").correct_now(episode)
    assert [(s.detail, s.action) for s in correction.steps] == [
        ("agreed", "go to drawer 2"), ("agreed", "take coin 1"), ("agreed", "leave")
    ]  # fmt: skip
    check = Check(episode, PrivilegedState("corridor", "3", ""), False)
    assert check(Reading(drafts={0: Draft("Why.", "Go to drawer 2.")}), (0,)).verdicts[0].outcome is Outcome.AGREED


@pytest.mark.parametrize("spelling", HOUSEHOLD)
def test_a_record_that_lacks_the_spelling_is_judged_by_the_replay(spelling: str):
    env, teacher = (make_env("households", {"sizes": [1]}) for _ in range(2))
    shown = demonstrate(env, env.panel("train").tasks[1], seed=0, max_actions=20)
    steps = [dataclasses.replace(step, action=HOUSEHOLD[spelling](step.action)) for step in shown.steps]
    correction = SymbolicTeacher(teacher, correct="mistakes").correct_now(
        dataclasses.replace(shown, steps=tuple(steps))
    )
    assert {step.outcome for step in correction.steps} == {Outcome.AGREED}
