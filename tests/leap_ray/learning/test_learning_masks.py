"""What carries loss, shown token by token for three chat templates; and the examples that are refused."""

from __future__ import annotations

import dataclasses

import jinja2
import numpy as np
import pytest
import tiny

from leap_ray.config import OPERATIONAL, REPLACEABLE, LearnerConfig
from leap_ray.learning.aggregate import Header, select
from leap_ray.learning.objectives import branches_of
from leap_ray.learning.prefix_tree import Kind, Row, build_row
from leap_ray.learning.rows import (
    NO_MATE,
    from_record,
    mate_of,
    pack_window,
    problem_of,
    read_record,
    row_from_record,
    to_record,
)
from leap_ray.learning.schedule import plan_steps
from leap_ray.types import Example

# Templates in the manner of three families, and the token that ends a turn in each.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }} <|im_end|> \n {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
HEADERS = (
    "<|begin|> {% for m in messages %}<|head|> {{ m.role }} <|/head|> {{ m.content }} <|eot|> {% endfor %}"
    "{% if add_generation_prompt %}<|head|> assistant <|/head|> {% endif %}"
)
INST = (
    "<s> {% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST] "
    "{% else %}{{ m.content }} </s> {% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": (CHATML, "<|im_end|>"), "headers": (HEADERS, "<|eot|>"), "inst": (INST, "</s>")}

MESSAGES = [
    {"role": "user", "content": "find mug"},
    {"role": "assistant", "content": "go shelf"},
    {"role": "user", "content": "no mug"},
]

# Two examples of one episode: the student said "go shelf", then "go shelf" again; the teacher wants "go desk", "take mug".
# Loss on the marked tokens: [chosen], (rejected), {both}. The rest of the first turn is the second turn's history.
GOLDEN = {
    "chatml": "<|im_start|>user find mug <|im_end|> <|im_start|>assistant {go} [desk] [<|im_end|>] (shelf) (<|im_end|>) "
    "<|im_start|>user no mug <|im_end|> <|im_start|>assistant (go) (shelf) (<|im_end|>) [take] [mug] [<|im_end|>]",
    "headers": "<|begin|> <|head|> user <|/head|> find mug <|eot|> <|head|> assistant <|/head|> {go} [desk] [<|eot|>] "
    "(shelf) (<|eot|>) <|head|> user <|/head|> no mug <|eot|> <|head|> assistant <|/head|> (go) (shelf) (<|eot|>) "
    "[take] [mug] [<|eot|>]",
    "inst": "<s> [INST] find mug [/INST] {go} [desk] [</s>] (shelf) (</s>) [INST] no mug [/INST] (go) (shelf) (</s>) "
    "[take] [mug] [</s>]",
}


class Words:
    """A tokenizer of words, numbered as they come, in an order that keeps the goldens readable."""

    def __init__(self) -> None:
        self.words = ["<pad>", "go", "desk", "shelf"]

    def ids(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
        return [self.words.index(word) for word in text.split()]


def corrected(template: str, end: str, words: Words) -> list[Example]:
    made = []
    for t, wanted in enumerate(("go desk", "take mug")):
        history = MESSAGES[: 2 * t + 1]
        prompt = jinja2.Template(template).render(messages=history, add_generation_prompt=True)
        answers = [words.ids(f"{said} {end}") for said in (wanted, "go shelf")]
        made.append(tiny.example(f"e/{t}", words.ids(prompt), answers[0], answers[1]))
    return made


def marked(row: Row, words: Words) -> str:
    """The row's tokens, those under the loss in brackets that say for whom."""
    marks: dict[int, set[int]] = {}
    for s, t in zip(row.pair_sequence, row.pair_target):
        (node,) = (
            n for n in range(row.sources[t] + 1, row.tokens)
            if row.positions[n] == row.positions[row.sources[t]] + 1 and row.ids[n] == row.labels[t]
            and n < row.exits[row.sources[t]]
        )  # fmt: skip
        marks.setdefault(node, set()).add(int(row.kinds[s]))
    brackets = {(Kind.CHOSEN,): "[{}]", (Kind.REJECTED,): "({})", (Kind.CHOSEN, Kind.REJECTED): "{{{}}}", (): "{}"}
    return " ".join(brackets[tuple(sorted(marks.get(n, ())))].format(words.words[i]) for n, i in enumerate(row.ids))


@pytest.mark.parametrize("name", TEMPLATES)
def test_golden_masks(name):
    words = Words()
    examples = corrected(*TEMPLATES[name], words)
    row = build_row([b for i, e in enumerate(examples) for b in branches_of(e, "dpo", i)])
    assert marked(row, words) == GOLDEN[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_end_of_the_turn_must_be_under_the_loss(name):
    words = Words()
    first, _ = corrected(*TEMPLATES[name], words)
    (stop,) = words.ids(TEMPLATES[name][1])
    assert problem_of(first, "sft", [stop], 100) is None
    for cut in (first.response[:-1], (*first.response, words.ids("\\n")[0])):
        problem = problem_of(dataclasses.replace(first, response=cut), "sft", [stop], 100)
        assert problem and problem.fatal and "stop token is not under the loss" in problem.reason


GOOD = tiny.example("good", [1, 5, 6], [7, tiny.STOP], [8, tiny.STOP])


@pytest.mark.parametrize(
    "change,objective,reason",
    [
        ({"response": ()}, "sft", "loss mask is empty"),
        ({"prompt": ()}, "sft", "prompt is empty"),
        ({"weight": 0.0}, "sft", "weight is 0"),
        ({"weight": float("nan")}, "sft", "weight is nan"),
        ({"prompt": tuple(range(3, 40))}, "sft", "takes 39 tokens and would be cut at row_tokens = 32"),
        ({"prompt": tuple(range(3, 33))}, "dpo", "takes 34 tokens"),
    ],
)
def test_examples_that_cannot_be_trained_on(change, objective, reason):
    problem = problem_of(dataclasses.replace(GOOD, **change), objective, [tiny.STOP], 32)
    assert problem and problem.example == "good" and problem.fatal and reason in problem.reason


def test_an_example_without_a_pair_is_no_mistake_but_of_no_use_to_dpo():
    for rejected in ((), GOOD.response):
        lonely = dataclasses.replace(GOOD, rejected=rejected)
        problem = problem_of(lonely, "dpo", [tiny.STOP], 32)
        assert problem and not problem.fatal and "no pair" in problem.reason
        assert problem_of(lonely, "kto", [tiny.STOP], 32) is None


def test_records_come_back_whole():
    lonely = dataclasses.replace(GOOD, rejected=(), no_pair="a reason")
    assert from_record(to_record(GOOD)) == GOOD and from_record(to_record(lonely)) == lonely
    assert "no pair: a reason" in problem_of(lonely, "dpo", [tiny.STOP], 32).reason


def test_a_mismatched_answer_comes_from_another_episode_and_is_none_of_the_two():
    examples = tiny.episodes(count=6)
    examples += [dataclasses.replace(e, id=f"again-{e.id}") for e in examples]  # the same answers in other episodes
    by_response = {e.response: e.id.split("/")[0].removeprefix("again-") for e in examples}
    mates = {e.id: mate_of(e, examples, 0, 64) for e in examples}
    for e in examples:
        assert mates[e.id] not in ((), e.response, e.rejected)
    assert any(by_response[mates[e.id]] != e.id.split("/")[0].removeprefix("again-") for e in examples)
    for e in tiny.episodes(count=6):
        assert by_response[mate_of(e, tiny.episodes(count=6), 0, 64)] != e.id.split("/")[0]
    assert mates == {e.id: mate_of(e, examples, 0, 4096) for e in examples}, "the size of rows decides nothing"
    assert mates != {e.id: mate_of(e, examples, 1, 64) for e in examples}, "another seed draws others"


def test_examples_without_a_mismatched_answer_are_counted(tmp_path):
    alone = tiny.episodes(count=1)
    same = [tiny.example(f"e{i}/0", [1, 5, 6 + i], [7, tiny.STOP], [8, tiny.STOP]) for i in range(3)]
    for folder, examples in (("alone", alone), ("same", same)):
        (tmp_path / folder).mkdir()
        headers = [Header.of("toy", 0, e.task.id, e.id, seed=0) for e in examples]
        config = LearnerConfig(row_tokens=64)
        infos, problems = pack_window(
            examples, folder=tmp_path / folder, selection=select(headers, config, 0), config=config, objective="kto",
            stop_ids=[tiny.STOP],
        )  # fmt: skip
        assert [(p.example, p.reason) for p in problems] == [(e.id, NO_MATE) for e in examples]
        assert all(p.trained and not p.fatal for p in problems)
        assert sum(i.examples for i in infos) == len(examples)


def test_kto_counts_examples_that_have_only_a_desirable_answer(tmp_path):
    examples = [dataclasses.replace(e, rejected=(), no_pair="why not") for e in tiny.episodes(count=2)]
    config = LearnerConfig(row_tokens=64)
    headers = [Header.of("toy", 0, e.task.id, e.id, seed=0) for e in examples]
    _, problems = pack_window(
        examples, folder=tmp_path, selection=select(headers, config, 0), config=config, objective="kto",
        stop_ids=[tiny.STOP],
    )  # fmt: skip
    assert {p.reason for p in problems} == {"desirable answer only: why not"} and len(problems) == len(examples)


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto"])
def test_a_window_is_stored_and_read_back(tmp_path, objective):
    examples = [*tiny.episodes(count=5), dataclasses.replace(GOOD, response=())]
    config = LearnerConfig(row_tokens=64, holdout=0.3)
    headers = [Header.of(e.task.domain, e.iteration, e.task.id, e.id, seed=0) for e in examples]
    arguments = dict(
        folder=tmp_path, selection=select(headers, config, 0), config=config, objective=objective, stop_ids=[tiny.STOP]
    )
    infos, problems = pack_window(examples, **arguments)
    assert [p.example for p in problems] == ["good"]
    again, _ = pack_window(examples[::-1], **arguments)
    assert sorted(again, key=lambda i: i.id) == sorted(infos, key=lambda i: i.id), "order of arrival changes nothing"
    rows = {i.id: row_from_record(read_record(tmp_path, i.file, i.index)) for i in infos}
    assert sorted(n for row in rows.values() for n in row.examples) == sorted(e.id for e in examples[:-1])
    assert {i.split for i in infos} == {"train", "eval"}
    for info in infos:
        row = rows[info.id]
        assert (info.tokens, info.loss_tokens, info.plain_tokens) == (row.tokens, row.loss_tokens, row.plain_tokens)
        assert row.tokens <= config.row_tokens and row.ids.dtype == np.int32
        assert sorted(set(row.kinds.tolist())) == {"sft": [0], "dpo": [0, 1], "kto": [0, 1, 2]}[objective]


OTHERS = {
    "activation_checkpointing": True, "attention": "sdpa", "workers": 3, "gpus_per_worker": 0.5, "cpus_per_worker": 2.0,
    "threads": 7, "start_timeout": 1.0, "max_failures": 0, "checkpoint_every": 1,
}  # fmt: skip


def steps_of(folder, **settings):
    """Which examples every optimiser step of a training holds."""
    config = LearnerConfig(**{"row_tokens": 64, "batch_tokens": 24, "epochs": 2, **settings})
    examples, folder = tiny.episodes(count=8), folder / str(len(list(folder.iterdir())))
    folder.mkdir()
    headers = [Header.of("toy", 0, e.task.id, e.id, seed=0) for e in examples]
    infos, _ = pack_window(
        examples,
        folder=folder,
        selection=select(headers, config, 0),
        config=config,
        objective="sft",
        stop_ids=[tiny.STOP],
    )
    names = {i.id: row_from_record(read_record(folder, i.file, i.index)).examples for i in infos}
    plan = plan_steps(infos, config, 0, config.workers)
    return [sorted(name for hand in step.rows for row in hand if row for name in names[row.id]) for step in plan]


def test_no_operational_setting_changes_which_examples_a_step_holds(tmp_path):
    base = steps_of(tmp_path)
    assert set(OTHERS) == set(OPERATIONAL["learner"])
    for name, value in OTHERS.items():
        assert steps_of(tmp_path, **{name: value}) == base, name
    assert len(base) > 2 and steps_of(tmp_path, row_tokens=32) != base, "hence row_tokens is none of them"
    assert "row_tokens" in REPLACEABLE["learner"]
