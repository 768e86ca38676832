"""Prompts as golden files, tokens that are never re-tokenised, and a parser that never raises."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.learning.examples import from_correction, from_demonstration, out_of_reach
from leap_ray.policy import Parsed, Prompter, View, parse, tokenize
from leap_ray.types import Correction, Episode, Finish, Outcome, Step, StepCorrection, Task

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
FACTS = "You are in a house and use text commands."
TURNS = [
    ("You are in a room. You see a desk 1.\nYour task is to: find a mug.", ("go to desk 1", "look")),
    ("On the desk 1, you see a mug 1.", ("take mug 1 from desk 1", "look")),
    ("You pick up the mug 1.", ()),
]
SAID = [("The desk is near.", "go to desk 1"), ("There is the mug.", "take mug 1 from desk 1")]


@pytest.fixture(params=["chat", "leap"])
def prompter(request, student_folder):
    return Prompter.load(str(student_folder), request.param, True)


def play(prompter, turns=TURNS):
    """The prompts of a conversation in which the student says SAID."""
    conversation = prompter.start("find a mug", FACTS)
    prompts = []
    for (observation, candidates), said in zip(turns, [*SAID, None]):
        prompts.append(conversation.prompt(observation, candidates))
        if said:
            conversation.reply(tuple(prompter.completion_ids(*said)), said[1])
    return prompts


def test_prompts_are_the_golden_ones(prompter):
    for number, ids in enumerate(play(prompter)):
        golden = GOLDEN / f"{prompter.dialect}-{number}.txt"
        assert prompter.tokenizer.decode(ids) == golden.read_text(), f"{golden.name} differs"


def test_chat_prompts_only_ever_grow(student_folder):
    prompter = Prompter.load(str(student_folder), "chat", True)
    prompts = play(prompter)
    for before, after, said in zip(prompts, prompts[1:], SAID):
        whole = before + prompter.completion_ids(*said)
        assert after[: len(whole)] == whole


def test_a_completion_cut_short_is_closed_in_the_next_prompt(student_folder):
    prompter = Prompter.load(str(student_folder), "chat", True)
    closed, cut = (prompter.start("find a mug", FACTS) for _ in range(2))
    completion = tuple(prompter.completion_ids(*SAID[0]))
    prompts = []
    for conversation, said in ((closed, completion), (cut, completion[:-1])):
        conversation.prompt(*TURNS[0])
        conversation.reply(said, "")
        prompts.append(conversation.prompt(*TURNS[1]))
    assert prompts[0] == prompts[1]
    assert prompter.closed(completion[:-1]) == completion == prompter.closed(completion)


def test_candidates_can_be_left_out(student_folder):
    prompter = Prompter.load(str(student_folder), "chat", False)
    assert "Actions:" not in prompter.tokenizer.decode(play(prompter)[-1])


def test_a_students_view_has_no_privileged_field():
    assert {f.name for f in dataclasses.fields(View)} == {
        "instruction", "history", "observation", "candidates", "domain_facts",
    }  # fmt: skip


def demonstration(prompter):
    steps = tuple(Step(o, c, *said, True, 0.0) for (o, c), said in zip(TURNS, SAID))
    task = Task("d", "t", "train")
    plain = Episode(task, 0, "expert:demonstrator", "find a mug", steps, TURNS[2][0], 1.0, True, Finish.SUCCESS)
    return tokenize(plain, prompter, FACTS)


def test_an_episode_keeps_each_token_once_and_gives_every_prompt_back(prompter):
    episode = demonstration(prompter)
    assert [episode.prompt_ids(t) for t in range(2)] == play(prompter)[:2]
    assert [e.response for e in from_demonstration(episode)] == [tuple(prompter.completion_ids(*s)) for s in SAID]


def test_a_correction_is_trained_at_the_students_own_prompt(prompter):
    episode = demonstration(prompter)
    words = (
        StepCorrection(0, Outcome.AGREED),
        StepCorrection(1, Outcome.CORRECTED, "Look first.", "look"),
    )
    (example,) = from_correction(episode, Correction(episode.id, "t", "", words), prompter, iteration=1)
    assert example.prompt == tuple(episode.prompt_ids(1))
    assert prompter.text(example.response) in ("think: Look first.\nact: look", "REASON: Look first.\nACTION: look")
    assert example.response[-1] == prompter.end_id
    assert example.rejected == episode.steps[1].completion
    assert example.id == f"{episode.id}/1"


def test_what_the_student_could_not_say_is_out_of_reach(prompter):
    example = list(from_demonstration(demonstration(prompter)))[1]
    prompt, response = len(example.prompt), len(example.response)
    fits = StudentConfig(max_length=prompt + response, max_tokens=response)
    assert out_of_reach(example, fits) == ""
    assert out_of_reach(example, replace(fits, max_length=prompt + response - 1)) == "beyond student.max_length"
    assert out_of_reach(example, replace(fits, max_tokens=response - 1)) == "longer than student.max_tokens"


def test_what_a_student_says_is_read_back(prompter):
    text = prompter.text(tuple(prompter.completion_ids("Because\nof  this.", "go to desk 1")))
    parsed = parse(text, prompter.dialect)
    assert (parsed.reason, parsed.action) == ("Because of this.", "go to desk 1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go to desk 1",
        "think: a",
        "act: b",
        "think: a act: b",
        "Sure!\nthink: a\nact: b",
        "think: a\nact:   ",
        "THINK: a\nACT: b",
    ],
)
def test_other_forms_are_no_action(text):
    assert parse(text, "chat").action == ""


@pytest.mark.parametrize(
    "thoughts",
    [
        "<think>\nI could go.\nact: stay\n</think>\n\n",
        "I could go.\n</think>\n\n",
        "think: x\nact: stay\n</think>\n",
        "<think>a</think> <think>b</think>",
        "<think></think>",
        "<thought>a</thought>\n",
        "<|channel>thought\na<channel|>",
        "[THINK]a[/THINK]",
        "<|START_THINKING|>a<|END_THINKING|>",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>",
        " to=self<|message|>a<|eot|><|start|>assistant to=user<|message|>",
        "\u25c1think\u25b7a\u25c1/think\u25b7",
    ],
)
def test_what_follows_the_last_thoughts_is_read(thoughts):
    assert parse(f"{thoughts}think: a\nact: go to desk 1", "chat") == Parsed("a", "go to desk 1")
    assert parse(f"{thoughts}REASON: a\nACTION: ls", "leap", multiline=True) == Parsed("a", "ls")
    assert parse(f"think: x\nact: stay\n{thoughts}", "chat").action in ("", "stay")


def test_thoughts_alone_are_no_action():
    assert parse("<think>\nthink: a\nact: b\n</think>\n", "chat").action == ""
    assert parse("<think>\nthink: a\nact: b", "chat").action == ""


def test_an_action_may_write_what_closes_thoughts():
    assert parse("think: a\nact: echo '</think>'", "chat").action == "echo '</think>'"


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<think>", "</think>")])
@pytest.mark.parametrize("special", [True, False])
def test_marks_of_thoughts_are_read_also_where_they_are_special_tokens(student_folder, marks, special):
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    tokenizer.add_tokens([AddedToken(mark, special=special) for mark in marks], special_tokens=special)
    prompter = Prompter(tokenizer)
    said = f"{marks[0]}act: stay{marks[1]}\nthink: a\nact: go<|im_end|>"
    ids = tuple(tokenizer(said, add_special_tokens=False)["input_ids"])
    assert parse(prompter.text(ids), "chat") == Parsed("a", "go")
    assert prompter.text(ids[-4:]).endswith("go") and "<|im_end|>" not in prompter.text(ids)


def test_an_action_is_one_line_unless_programs_are_written():
    text = "REASON: a\nb\nACTION: ls -l\nrm x"
    assert parse(text, "leap") == parse("REASON: a\nb\nACTION: ls -l", "leap")
    assert parse(text, "leap", multiline=True).action == "ls -l\nrm x"


@given(st.text(max_size=200), st.sampled_from(["chat", "leap"]), st.booleans())
def test_parsing_never_raises(text, dialect, multiline):
    assert isinstance(parse(text, dialect, multiline).action, str)


def test_a_tokenizer_without_a_chat_template_is_refused():
    class Bare:
        chat_template = None
        name_or_path = "base-model"

    with pytest.raises(UserError, match="'base-model' has no chat template"):
        Prompter(Bare())
