"""The student as its own teacher, and the constrained expert over its weights."""

import asyncio
import dataclasses
import math

import pytest
from corridor import play
from desks import privileged

from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.policy import MARKERS, Prompter, tokenize
from leap_ray.teachers.constrained import (
    ConstrainedTeacher,
    action_scores,
    draw_steps,
    measure_gap,
    realizability_gap,
    state_of,
)
from leap_ray.teachers.self_teacher import Hindsight, SelfTeacher
from leap_ray.types import Completion, Correction, Outcome, StepCorrection

CORRIDOR = [DomainConfig("corridor:Corridor")]
HIDDEN = "The coin 1 is at drawer 2."


class Scripted:
    """Says its lines in turn, scores an action by a table: what a server would answer, decided by the test."""

    def __init__(self, prompter, *lines, scores=None):
        self.prompter, self.lines, self.scores, self.asked = prompter, list(lines), scores or {}, []
        self.scored = []  # (whether the prompt told what is hidden, completion)

    async def complete(self, prompt_ids, sampling, seed, policy, request_id):
        self.asked.append((self.prompter.tokenizer.decode(prompt_ids), seed, policy, request_id))
        reason, action = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
        ids = tuple(self.prompter.completion_ids(reason, action))
        return Completion(ids, (0.0,) * len(ids), "stop")

    async def score(self, prompt_ids, candidates, policy, key):
        told = HIDDEN in self.prompter.tokenizer.decode(prompt_ids)
        table = self.scores["privileged" if told else "plain"]
        texts = [self.prompter.text(tuple(ids)) for ids in candidates]
        self.scored += [(told, text) for text in texts]
        return [[-0.5, next(s for action, s in table.items() if text.endswith(action))] for text in texts]


@pytest.fixture(scope="module", params=["chat", "leap"])
def prompter(student_folder, request):
    return Prompter.load(str(student_folder), request.param, True)


def episode_of(prompter, *actions):
    episode = play(list(actions), policy="corridor-iter1-ab")
    return tokenize(episode, prompter, "")


def self_teacher(prompter, *lines, kind=SelfTeacher, scores=None, max_length=4096, **settings):
    student = Scripted(prompter, *lines, scores=scores)
    return student, kind(student, prompter, TeacherConfig(kind="self", **settings), CORRIDOR, max_length=max_length)


async def test_it_reads_what_the_student_read_and_what_is_hidden(prompter):
    episode = episode_of(prompter, "go to desk 1", "dance")
    student, teacher = self_teacher(prompter, ("Drawers hold small things.", "go to drawer 2"), correct="all")
    correction = await teacher.correct(episode, privileged(episode))
    assert [s.action for s in correction.steps] == ["go to drawer 2"] * 2
    assert {s.outcome for s in correction.steps} == {Outcome.CORRECTED}
    first, second = sorted(student.asked, key=lambda asked: len(asked[0]))
    assert HIDDEN in first[0] and HIDDEN in second[0]
    assert "At desk 1" not in first[0] and "At desk 1" in second[0]  # nothing of what came later
    assert {asked[2] for asked in student.asked} == {"corridor-iter1-ab"}
    assert HIDDEN not in prompter.tokenizer.decode(episode.prompt_ids(1))


@pytest.mark.parametrize("dialect", ["chat", "leap"])
async def test_it_is_told_the_possible_actions_where_the_student_is_not(student_folder, dialect):
    prompter = Prompter.load(str(student_folder), dialect, False)
    episode = episode_of(prompter, "go to desk 1", "dance")
    student, teacher = self_teacher(prompter, ("Drawers hold small things.", "go to drawer 2"), correct="all")
    await teacher.correct(episode, privileged(episode))
    for t, (asked, *_) in enumerate(sorted(student.asked, key=lambda asked: len(asked[0]))):
        wanted = ", ".join(episode.steps[t].candidates)
        assert f"The actions possible now: {wanted}" in asked
        assert wanted not in prompter.tokenizer.decode(episode.prompt_ids(t))


async def test_the_student_prompt_is_rebuilt_word_for_word(prompter):
    episode = episode_of(prompter, "go to desk 1", "go to shelf 1", "leave")
    hindsight = Hindsight(prompter, CORRIDOR)
    for t in range(3):
        rebuilt = prompter.tokenizer.decode(hindsight.ids(hindsight.messages(episode, t)))
        assert rebuilt == prompter.tokenizer.decode(episode.prompt_ids(t))


async def test_the_students_words_stay_the_tokens_it_sampled(prompter):
    """Also those with thoughts, or cut short, which no text would give back."""
    episode = episode_of(prompter, "go to desk 1", "go to shelf 1", "leave")
    first, second = MARKERS[prompter.dialect]
    text = f"<think>\nHm.\n</think>\n\n{first} a\n{second} g"
    said = prompter.tokenizer(text, add_special_tokens=False)["input_ids"]
    odd = (*said, *prompter.tokenizer("o to desk 1", add_special_tokens=False)["input_ids"])
    conversation, steps = prompter.start(episode.instruction), []
    for step in episode.steps:
        conversation.prompt(step.observation, step.candidates)
        keep, new = conversation.delta
        conversation.reply(odd, step.action)
        steps.append(dataclasses.replace(step, keep=keep, new=new, completion=odd, text=prompter.text(odd)))
    episode = dataclasses.replace(episode, steps=tuple(steps))
    hindsight = Hindsight(prompter, CORRIDOR)
    for t in range(3):
        assert hindsight.ids(hindsight.messages(episode, t)) == episode.prompt_ids(t)
        assert hindsight.parse(episode, odd).action == "go to desk 1"


async def test_an_answer_that_cannot_be_used_is_drawn_once_more(prompter):
    episode = episode_of(prompter, "dance")
    student, teacher = self_teacher(prompter, ("I fly.", "fly"), ("A shelf it is.", "go to shelf 1"))
    correction = await teacher.correct(episode, privileged(episode))
    assert correction.steps[0].action == "go to shelf 1"
    assert len(student.asked) == 2 and student.asked[0][1] != student.asked[1][1]
    for line, outcome in [
        (("I fly.", "fly"), Outcome.UNAVAILABLE),
        (("The coin 1 is in drawer 2.", "go to drawer 2"), Outcome.REVEALS),
        (("", ""), Outcome.UNPARSED),
    ]:
        student, teacher = self_teacher(prompter, line)
        correction = await teacher.correct(episode, privileged(episode))
        assert correction.steps[0].outcome is outcome and len(student.asked) == 2


async def test_a_prompt_that_does_not_fit_costs_its_step(prompter):
    episode = episode_of(prompter, "go to desk 1", "dance")
    student, teacher = self_teacher(prompter, ("x", "leave"), max_length=150)
    correction = await teacher.correct(episode, privileged(episode))
    assert {s.outcome for s in correction.steps} == {Outcome.FAILED} and "150" in correction.steps[0].detail
    assert not student.asked


@pytest.mark.parametrize("kind", [SelfTeacher, ConstrainedTeacher])
async def test_answers_of_both_kinds_are_cut_where_the_configuration_says(prompter, kind):
    episode = episode_of(prompter, "dance")
    table = dict.fromkeys(episode.steps[0].candidates, -2.0)
    limits = set()

    class Watched(Scripted):
        async def complete(self, prompt_ids, sampling, seed, policy, request_id):
            limits.add(sampling.max_tokens)
            return await super().complete(prompt_ids, sampling, seed, policy, request_id)

    for config, tokens, wanted in (
        (TeacherConfig(), 40, 40),
        (TeacherConfig(), 300, 300),
        (TeacherConfig(max_tokens=90), 300, 90),
    ):
        student = Watched(prompter, ("A shelf.", "go to shelf 1"), scores={"plain": table, "privileged": table})
        limits.clear()
        await kind(student, prompter, config, CORRIDOR, max_tokens=tokens).correct(episode, privileged(episode))
        assert limits == {wanted}


class Crowd(Scripted):
    """Counts how many requests are with it at once."""

    now = most = 0

    async def complete(self, *args):
        return await self._among_others(super().complete(*args))

    async def score(self, *args):
        return await self._among_others(super().score(*args))

    async def _among_others(self, work):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return await work


@pytest.mark.parametrize("kind", [SelfTeacher, ConstrainedTeacher])
async def test_no_more_is_asked_at_once_than_the_configuration_says(prompter, kind):
    episode = episode_of(prompter, *["go to desk 1", "dance", "leave"] * 3)
    table = {a: -1.0 for step in episode.steps for a in step.candidates}
    student = Crowd(prompter, ("A shelf it is.", "go to shelf 1"), scores={"plain": table, "privileged": table})
    config = TeacherConfig(kind="self", concurrency=3, correct="all")
    teacher = kind(student, prompter, config, CORRIDOR)
    await asyncio.gather(*(teacher.correct(episode, privileged(episode)) for _ in range(3)))
    assert student.most == 3


class Sampled(Scripted):
    """Keeps the samplings, and ends every answer at its limit."""

    finish = "stop"

    async def complete(self, prompt_ids, sampling, seed, policy, request_id):
        self.samplings = [*getattr(self, "samplings", ()), sampling]
        completion = await super().complete(prompt_ids, sampling, seed, policy, request_id)
        ids = (
            completion.ids[:-2] if self.finish == "length" else completion.ids
        )  # without the end of the turn and a digit
        return dataclasses.replace(completion, ids=ids, finish=self.finish)


@pytest.mark.parametrize(
    "student_tokens, teacher_tokens, expected", [(200, 16000, 200), (500, 90, 90), (256, 256, 256)]
)
async def test_answers_are_cut_where_the_configuration_says(prompter, student_tokens, teacher_tokens, expected):
    episode = episode_of(prompter, "dance")
    student = Sampled(prompter, ("A shelf it is.", "go to shelf 1"))
    config = TeacherConfig(kind="self", max_tokens=teacher_tokens)
    teacher = SelfTeacher(student, prompter, config, CORRIDOR, max_tokens=student_tokens)
    await teacher.correct(episode, privileged(episode))
    assert {sampling.max_tokens for sampling in student.samplings} == {expected}


async def test_half_an_action_is_not_taken_for_a_whole_one(prompter):
    episode = episode_of(prompter, "dance")
    steps = [dataclasses.replace(s, candidates=(*s.candidates, "go to desk")) for s in episode.steps]
    episode = dataclasses.replace(episode, steps=tuple(steps))
    student = Sampled(prompter, ("A desk it is.", "go to desk 1"))
    student.finish = "length"
    teacher = SelfTeacher(student, prompter, TeacherConfig(kind="self"), CORRIDOR)
    correction = await teacher.correct(episode, privileged(episode))
    assert correction.steps[0].outcome is Outcome.UNPARSED


async def test_it_annotates_with_the_base_student(prompter):
    demonstration = dataclasses.replace(episode_of(prompter, "go to desk 1", "dance"), policy="expert:demonstrator")
    student, teacher = self_teacher(prompter, ("Start with the desk.", "go to desk 1"))
    annotated = await teacher.annotate(demonstration)
    assert [s.action for s in annotated.steps] == ["go to desk 1", "dance"]
    assert annotated.steps[0].reason == "Start with the desk."
    assert annotated.annotations == (
        Outcome.CORRECTED,
        Outcome.UNPARSED,
    )  # nobody explains an action that does not exist
    _, shy = self_teacher(prompter, ("", ""))
    assert set((await shy.annotate(demonstration)).annotations) == {Outcome.UNPARSED}
    assert {asked[2] for asked in student.asked} == {"base"} and HIDDEN not in student.asked[0][0]


@pytest.mark.parametrize("delta, expected", [(0.0, "go to desk 1"), (0.3, None), (math.inf, "go to drawer 2")])
async def test_the_constrained_expert_and_its_ends(prompter, delta, expected):
    episode = episode_of(prompter, "leave")
    others = dict.fromkeys(episode.steps[0].candidates, -6.0)
    scores = {
        "plain": {**others, "go to desk 1": -1.0, "go to drawer 2": -2.5},
        "privileged": {**others, "go to desk 1": -4.0, "go to drawer 2": -0.5},
    }
    _, teacher = self_teacher(
        prompter, ("It is a place like any other.", "x"), kind=ConstrainedTeacher, scores=scores, delta=delta
    )
    correction = await teacher.correct(episode, privileged(episode))
    (step,) = correction.steps
    assert step.outcome is Outcome.CORRECTED and step.reason == "It is a place like any other."
    assert expected is None or step.action == expected
    spent = float(step.detail.split()[1])
    assert spent == pytest.approx(delta, rel=0.01) if delta < 1 else spent > 0.5
    assert f"delta {delta:g}" in correction.summary


class Reasoning(Scripted):
    """Gives one reason to who is told what is hidden, another to who is not."""

    async def complete(self, prompt_ids, sampling, seed, policy, request_id):
        told = HIDDEN in self.prompter.tokenizer.decode(prompt_ids)
        ids = tuple(self.prompter.completion_ids("Drawers are good." if told else "Desks are good.", "go to desk 1"))
        return Completion(ids, (0.0,) * len(ids), "stop")


async def test_actions_are_scored_under_the_reasons_that_the_student_gives_on_either_side(prompter):
    episode = episode_of(prompter, "leave")
    table = dict.fromkeys(episode.steps[0].candidates, -2.0)
    student = Reasoning(prompter, scores={"plain": table, "privileged": table})
    teacher = ConstrainedTeacher(student, prompter, TeacherConfig(kind="constrained"), CORRIDOR)
    await teacher.correct(episode, privileged(episode))
    sides = {told: {text.split("\n")[0] for where, text in student.scored if where is told} for told in (False, True)}
    assert all("Drawers are good." in reason for reason in sides[True]) and len(sides[True]) == 1
    said = sorted(reason.split(": ")[-1] for reason in sides[False])
    assert [reason.rpartition(":")[2].strip() for reason in said] == ["Desks are good.", "I try."]


@pytest.mark.parametrize("choice", ["best", "sample"])
async def test_the_action_played_lies_within_delta_and_its_kl_is_told(prompter, choice):
    others = {"desk 1": 0.9, "drawer 2": 0.02}
    for number in range(12):
        episode = dataclasses.replace(episode_of(prompter, "leave"), seed=number)
        rest = 0.08 / (len(episode.steps[0].candidates) - 2)
        plain = {a: math.log(others.get(a.removeprefix("go to "), rest)) for a in episode.steps[0].candidates}
        told = {**dict.fromkeys(plain, -9.0), "go to drawer 2": -0.01}
        _, teacher = self_teacher(
            prompter, ("A place.", "x"), kind=ConstrainedTeacher, scores={"plain": plain, "privileged": told},
            delta=1.0, choice=choice,
        )  # fmt: skip
        (step,) = (await teacher.correct(episode, privileged(episode))).steps
        spent = float(step.detail.split()[1])
        if choice == "best":
            assert step.action == "go to desk 1" and spent == pytest.approx(-math.log(0.9), rel=1e-3)
        else:
            assert spent == pytest.approx(1.0, rel=0.01)


async def test_the_gap_is_over_all_steps_the_agreed_ones_with_the_students_own_action(prompter):
    """Near the teacher on most of its steps, far on one: the average says so, whatever was corrected."""
    episode = episode_of(prompter, *["go to desk 1"] * 9, "leave")
    words = [StepCorrection(t, Outcome.AGREED) for t in range(9)]
    words.append(StepCorrection(9, Outcome.CORRECTED, "Why not.", "go to shelf 1"))
    others = dict.fromkeys(episode.steps[0].candidates, -30.0)
    table = {**others, "go to desk 1": math.log(0.95), "go to shelf 1": math.log(0.05)}
    student, _ = self_teacher(prompter, ("x", "y"), scores={"plain": table})
    found = await realizability_gap(
        student, prompter, [(episode, Correction(episode.id, "t", "", tuple(words)))], "base"
    )
    assert found.states == 10 and found.tv == pytest.approx((9 * 0.05 + 0.95) / 10, abs=1e-4)
    assert all(text.splitlines()[0].endswith("I try.") for _, text in student.scored), "after its own reasons"
    assert not student.asked


async def test_states_without_an_action_of_the_teacher_are_counted_and_loops_are_not_left_out(prompter):
    episode = episode_of(prompter, "leave", "leave", "dance", "", "go to desk 1")
    words = (
        StepCorrection(0, Outcome.CORRECTED, "Why not.", "go to shelf 1"),
        StepCorrection(1, Outcome.SKIPPED, action="go to shelf 1"),
        StepCorrection(2, Outcome.REVEALS, action="go to shelf 1"),
        StepCorrection(3, Outcome.CORRECTED, "Why not.", "go to shelf 1"),
        StepCorrection(4, Outcome.FAILED),
    )
    correction = Correction(episode.id, "t", "", words)
    table = {**dict.fromkeys(episode.steps[0].candidates, -30.0), "go to shelf 1": -0.1}
    student, _ = self_teacher(prompter, ("x", "y"), scores={"plain": table})
    found = await realizability_gap(student, prompter, [(episode, correction)], "base")
    assert (found.states, found.unknown) == (4, 1)
    assert found.tv == pytest.approx(1 / 4, abs=1e-4), "the completion that named no action is at distance 1"
    assert state_of(episode, 0, None) is None
    (lonely,) = [await measure_gap(student, prompter, [], "base", unknown=2)]
    assert (lonely.states, lonely.unknown) == (0, 2)


def test_steps_are_drawn_from_every_rollout_whatever_became_of_it(prompter):
    lost = [dataclasses.replace(episode_of(prompter, "leave", "leave"), seed=i) for i in range(3)]
    won = [dataclasses.replace(e, seed=10 + i, success=True, score=1.0) for i, e in enumerate(lost)]
    everything = draw_steps([*lost, *won], 100)
    assert sorted((e.id, t) for e, t in everything) == sorted((e.id, t) for e in [*lost, *won] for t in range(2))
    some = draw_steps([*lost, *won], 7, seed=1)
    assert some == draw_steps([*won, *lost], 7, seed=1) and len({(e.id, t) for e, t in some}) == 7
    assert some != draw_steps([*lost, *won], 7, seed=2)


def test_a_mistake_made_again_keeps_the_teachers_action(prompter):
    from leap_ray.teachers.choose import Verdict, choose

    steps = episode_of(prompter, "leave", "leave").steps
    steps = [dataclasses.replace(steps[0], observation="o"), dataclasses.replace(steps[1], observation="o")]
    verdicts = [Verdict(Outcome.CORRECTED, "Why not.", "go to shelf 1")] * 2
    _, again = choose(verdicts, steps, correct="mistakes", repeats=1)
    assert (again.outcome, again.action, again.reason) == (Outcome.SKIPPED, "go to shelf 1", "")


async def test_the_gap_of_a_teacher_on_the_students_states(prompter):
    episode = episode_of(prompter, "leave", "dance")
    others = dict.fromkeys(episode.steps[0].candidates, -9.0)
    student, teacher = self_teacher(
        prompter, ("Why not.", "go to drawer 2"), scores={"plain": {**others, "go to drawer 2": -0.1}}
    )
    correction = await teacher.correct(episode, privileged(episode))
    near = await realizability_gap(student, prompter, [(episode, correction)], "base")
    assert near.states == 2 and near.tv < 0.01 and near.agreed == 1
    student.scores = {"plain": {**others, "go to shelf 1": -0.1}}
    far = await realizability_gap(student, prompter, [(episode, correction)], "base")
    assert far.tv > 0.99 and far.agreed == 0


async def test_the_gap_where_any_text_is_an_action(prompter):
    """Steps without a list, or with a place to fill in, are measured between what the teacher and what the student said."""
    episode = episode_of(prompter, "leave", "dance")
    steps = [dataclasses.replace(s, candidates=c) for s, c in zip(episode.steps, [(), ("look", "search[<query>]")])]
    episode = dataclasses.replace(episode, steps=tuple(steps))
    words = tuple(StepCorrection(t, Outcome.CORRECTED, "Why not.", "search[coin]") for t in range(2))
    student, _ = self_teacher(
        prompter, ("x", "y"), scores={"plain": {"search[coin]": -1.0, "leave": -1.0, "dance": -9.0, "look": -9.0}}
    )
    gap = await realizability_gap(student, prompter, [(episode, Correction(episode.id, "t", "", words))], "base")
    assert gap.states == 2 and gap.tv == pytest.approx(0.25, abs=0.01) and gap.agreed == 1


async def test_a_server_that_scores_nothing_costs_the_step(prompter):
    episode = episode_of(prompter, "leave")
    nothing = dict.fromkeys(episode.steps[0].candidates, -math.inf)
    _, teacher = self_teacher(
        prompter, ("x", "y"), kind=ConstrainedTeacher, scores={"plain": nothing, "privileged": nothing}
    )
    (step,) = (await teacher.correct(episode, privileged(episode))).steps
    assert step.outcome is Outcome.FAILED and "finite score" in step.detail


@pytest.mark.slow
async def test_the_constrained_expert_over_the_real_student(student_folder):
    from served import InProcessStudent

    student = InProcessStudent(str(student_folder))
    episode = tokenize(play(["go to desk 1"]), student.prompter, "")
    for delta in (0.0, 0.05, math.inf):
        config = TeacherConfig(kind="constrained", delta=delta, correct="all")
        teacher = ConstrainedTeacher(student, student.prompter, config, CORRIDOR)
        (step,) = (await teacher.correct(episode, privileged(episode))).steps
        spent = float(step.detail.split("KL ")[1].split()[0])
        assert spent == pytest.approx(delta, rel=0.01) if math.isfinite(delta) else spent > 0
    actions = episode.steps[0].candidates
    scores = await action_scores(student, student.prompter, episode.prompt_ids(0), actions, "base", "k")
    assert len(scores) == len(actions) and all(-200 < score < 0 for score in scores)


@pytest.mark.parametrize("kind", [SelfTeacher, ConstrainedTeacher])
async def test_it_judges_a_step_that_is_only_proposed_as_it_would_in_the_whole_episode(prompter, kind):
    episode = episode_of(prompter, "go to desk 1", "go to desk 1", "leave")
    plain = {
        "desk 1": -1.0,
        "desk 2": -2.0,
        "drawer 1": -2.0,
        "drawer 2": -1.5,
        "shelf 1": -3.0,
        "leave": -4.0,
        "break": -9.0,
    }
    scores = {"plain": plain, "privileged": plain | {"desk 1": -3.0, "drawer 2": -0.1}}
    _, teacher = self_teacher(prompter, ("Drawers hold small things.", "go to drawer 2"), kind=kind, scores=scores)
    words = (await teacher.correct(episode, privileged(episode))).steps
    for t in range(len(episode.steps)):
        so_far = dataclasses.replace(episode, steps=episode.steps[: t + 1], final_observation="")
        judgement = await teacher.judge(so_far, privileged(episode))
        verdict = judgement.verdict
        assert judgement.dollars == 0 and (verdict.reason, verdict.action) == (words[t].reason, words[t].action)
