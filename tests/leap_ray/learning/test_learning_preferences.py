"""Preferences end to end: an iteration by SFT, then one by DPO or KTO, held against TRL on the same pairs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from leap_ray.config import LearnerConfig
from leap_ray.learning.aggregate import Selection
from leap_ray.learning.checkpoint import move_masters, share_moved, write_student
from leap_ray.learning.model import load_trainable, masters_beside, row_logprobs, sequence_logprobs
from leap_ray.learning.objectives import branches_of
from leap_ray.learning.prefix_tree import Kind, Row, build_row
from leap_ray.learning.rows import mate_of, pack_window, read_record, row_from_record
from leap_ray.learning.schedule import plan_steps
from leap_ray.learning.train import StepRows, Trainer

PAIRS = tiny.episodes(count=8, steps=4)
CONFIG = LearnerConfig(
    method="full", precision="bfloat16", beta=0.1, warmup_steps=0, batch_tokens=10**6, row_tokens=4096, clip_norm=1e9,
    desirable_weight=1.25, undesirable_weight=0.75,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<{i}>": i for i in range(tiny.VOCABULARY)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<3>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<2>", pad_token="<0>", bos_token="<1>")


def packed(folder: Path, config: LearnerConfig, objective: str, examples=PAIRS) -> tuple[list, dict[str, Row]]:
    """All examples, each once: the planned steps and the rows by id."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = {(e.task.domain, e.iteration): 1 for e in examples}
    infos, problems = pack_window(
        examples, folder=folder, selection=Selection(0, groups), config=config, objective=objective,
        stop_ids=[tiny.STOP],
    )  # fmt: skip
    assert not problems
    rows = {i.id: row_from_record(read_record(folder, i.file, i.index)) for i in infos}
    return plan_steps(infos, config, 0, 1), rows


def with_reference(trainer: Trainer, rows: dict[str, Row]) -> dict[str, Row]:
    known = dict(trainer.reference(rows.items()))
    return {name: dataclasses.replace(row, reference=known[name]) for name, row in rows.items()}


def iteration(folder: Path, base: Path, objective: str, *, init_from: Path | None = None, **settings) -> Path:
    """One iteration of full training; its weights, with the masters beside them."""
    config = dataclasses.replace(CONFIG, **settings)
    plan, rows = packed(folder / "rows", config, objective)
    trainer = Trainer(load_trainable(base, config, init_from=init_from), config, objective, len(plan))
    if objective != "sft":
        rows = with_reference(trainer, rows)
    for step in plan:
        chosen = [(info.id, rows[info.id]) for info in step.rows[0]]
        trainer.step(StepRows(step.index, step.epoch, step.mass, chosen))
    write_student(folder / "best", trainer, config, "tiny", masters=True)
    move_masters(folder / "best", folder / "weights")
    return (folder / "best").rename(folder / "weights")


def pair_logprobs(folder: Path) -> torch.Tensor:
    """Mean over the pairs of log p(chosen) - log p(rejected), computed in float32."""
    model = tiny.with_attention(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), "blocks").eval()
    row = build_row([b for i, e in enumerate(PAIRS) for b in branches_of(e, "dpo", i)])
    with torch.no_grad():
        found = sequence_logprobs(row_logprobs(model, row, "blocks", "cpu", torch.float32), row)
    kinds = torch.from_numpy(row.kinds)
    return found[kinds == Kind.CHOSEN].mean() - found[kinds == Kind.REJECTED].mean()


def margin(after: Path, before: Path) -> float:
    return float(pair_logprobs(after) - pair_logprobs(before))


def dpo_by_trl(start: Path, folder: Path, tokenizer, rate: float, steps: int) -> Path:
    """The same pairs in full batches through TRL's loss, in float32, at the same learning rates."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = (AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32) for _ in range(2))
    arguments = DPOConfig(
        output_dir=str(folder), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False, max_length=None,
        beta=CONFIG.beta,
    )  # fmt: skip
    text = Dataset.from_list([{"prompt": "<5>", "chosen": "<6><2>", "rejected": "<7><2>"}])
    trainer = DPOTrainer(policy, reference, arguments, train_dataset=text, processing_class=tokenizer)
    fields = (("prompt_ids", "prompt"), ("chosen_ids", "response"), ("rejected_ids", "rejected"))
    batch = trainer.data_collator([{name: list(getattr(e, ours)) for name, ours in fields} for e in PAIRS])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        trainer.compute_loss(policy, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        falling.step()
    policy.save_pretrained(folder / "policy")
    return folder / "policy"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cloned(base, tmp_path_factory) -> Path:
    """The weights after an iteration by SFT."""
    return iteration(tmp_path_factory.mktemp("sft"), base, "sft", learning_rate=5e-3, epochs=10)


def test_sft_then_dpo_moves_the_served_margin_as_trl_does(base, cloned, tokenizer, tmp_path):
    """At a rate below half of bfloat16's spacing, where training from the served weights would move next to nothing."""
    rate, steps = 1e-5, 20
    tuned = iteration(tmp_path / "dpo", base, "dpo", init_from=cloned, dpo_learning_rate=rate, epochs=steps)
    wanted = margin(
        dpo_by_trl(masters_beside(cloned), tmp_path / "trl", tokenizer, rate, steps), masters_beside(cloned)
    )
    assert wanted > 0.05
    assert margin(masters_beside(tuned), masters_beside(cloned)) == pytest.approx(wanted, rel=0.02)
    assert margin(tuned, cloned) == pytest.approx(wanted, rel=0.2)
    assert 0.1 < share_moved(tuned, cloned) < 0.6


def test_the_masters_hold_what_bfloat16_rounds_away(base, cloned, tmp_path):
    served, masters = (
        AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32).state_dict()
        for f in (cloned, masters_beside(cloned))
    )
    assert all(torch.equal(masters[n].to(torch.bfloat16).float(), served[n]) for n in served)
    assert any(not torch.equal(masters[n], served[n]) for n in served)
    trainer = Trainer(load_trainable(base, CONFIG, init_from=cloned), CONFIG, "dpo", 1)
    assert all(torch.equal(tensor, masters[name]) for name, tensor in trainer.trained().items())
    assert {p.dtype for p in trainer.model.parameters()} == {torch.bfloat16}


def test_without_masters_training_goes_on_from_what_was_served(base, cloned, tmp_path):
    alone = shutil.copytree(cloned, tmp_path / "weights")
    served = AutoModelForCausalLM.from_pretrained(cloned, dtype=torch.float32).state_dict()
    trainer = Trainer(load_trainable(base, CONFIG, init_from=alone), CONFIG, "dpo", 1)
    assert all(torch.equal(tensor, served[name]) for name, tensor in trainer.trained().items())


def test_moving_the_masters_again_after_a_kill_changes_nothing(tmp_path):
    best, weights = tmp_path / "best", tmp_path / "weights"
    (best / "masters").mkdir(parents=True)
    (best / "masters" / "model.safetensors").write_text("whole")
    (tmp_path / ".masters.part").mkdir()  # what a kill in the middle of copying leaves
    move_masters(best, weights)
    move_masters(best, weights)
    assert (tmp_path / "masters" / "model.safetensors").read_text() == "whole"
    assert not (best / "masters").exists() and not (tmp_path / ".masters.part").exists()


@pytest.mark.parametrize(
    "rate,steps,method,words",
    [
        (
            5e-7,
            12,
            "full",
            ["learner.dpo_learning_rate 5e-07 over 12 steps", "bfloat16 weights", "learner.method: lora"],
        ),
        (1e-12, 12, "full", ["below what float32 resolves", "Raise it to"]),
        (1e-12, 12, "lora", ["below what float32 resolves", "Raise it to"]),
        (1e-5, 20, "full", []),
        (5e-7, 12, "lora", []),
    ],
)
def test_a_learning_rate_that_the_weights_cannot_show_is_a_warning(base, rate, steps, method, words):
    config = dataclasses.replace(CONFIG, method=method, dpo_learning_rate=rate, rank=4, learning_rate=1.0)
    warning = Trainer(load_trainable(base, config), config, "dpo", steps).warning()
    assert bool(warning) == bool(words)
    assert all(part in warning for part in words)


def kto_step(folder: Path, row_tokens: int) -> tuple[dict[str, float], int]:
    """One optimiser step over all pairs, packed into rows of that size; policy and reference are different models."""
    config = dataclasses.replace(CONFIG, precision="float32", beta=0.3, row_tokens=row_tokens)
    (step,), rows = packed(folder, config, "kto")
    rows = with_reference(Trainer(tiny.model(seed=1), config, "kto", 1), rows)
    trainer = Trainer(tiny.model(seed=0), config, "kto", 1)
    evaluated = trainer.evaluate(rows.values())
    metrics = trainer.step(StepRows(0, 0, step.mass, list(rows.items())))
    assert evaluated["eval_loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert evaluated["eval_kl"] == pytest.approx(metrics["kl"], rel=1e-5)
    return metrics, len(rows)


def test_kto_does_not_depend_on_how_a_step_was_laid_out(tmp_path):
    found = [kto_step(tmp_path / str(size), size) for size in (64, 256, 4096)]
    assert [count for _, count in found] == sorted({count for _, count in found}, reverse=True), "three layouts"
    (first, _), *others = found
    assert first["kl"] > 0
    for metrics, _ in others:
        for name in ("loss", "kl", "grad_norm", "margin", "accuracy"):
            assert metrics[name] == pytest.approx(first[name], rel=1e-4)


def test_kto_over_several_rows_is_trls(tokenizer, tmp_path):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    metrics, rows = kto_step(tmp_path / "rows", 64)
    assert rows > 3
    model, reference = tiny.model(seed=0), tiny.model(seed=1)
    arguments = KTOConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False, max_length=None,
        beta=0.3, desirable_weight=CONFIG.desirable_weight, undesirable_weight=CONFIG.undesirable_weight,
        per_device_train_batch_size=8,
    )  # fmt: skip
    text = Dataset.from_list([{"prompt": "<5>", "completion": "<6><2>", "label": label} for label in (True, False)])
    trainer = KTOTrainer(model, reference, arguments, train_dataset=text, processing_class=tokenizer)
    samples = []
    for e in PAIRS:
        mate = {"prompt_ids": list(e.prompt), "KL_completion_ids": list(mate_of(e, PAIRS, 0, 64))}
        samples += [mate | {"completion_ids": list(e.response), "label": True}]
        samples += [mate | {"completion_ids": list(e.rejected), "label": False}]
    tiny.with_attention(reference, "sdpa")
    loss = trainer.compute_loss(tiny.with_attention(model, "sdpa").train(), trainer.data_collator(samples))
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_preference_training_has_no_dropout(tmp_path, objective):
    """A policy that is its own reference has a margin of exactly 0 in its first step, dropout in the adapter or not."""
    from peft import LoraConfig, get_peft_model

    config = dataclasses.replace(CONFIG, method="lora", precision="float32", dropout=0.3)
    settings = LoraConfig(
        r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    (step,), rows = packed(tmp_path, config, objective)
    trainer = Trainer(get_peft_model(tiny.model(), settings), config, objective, 1)
    rows = with_reference(trainer, rows)
    metrics = trainer.step(StepRows(0, 0, step.mass, list(rows.items())))
    assert metrics["margin"] == pytest.approx(0, abs=1e-5)
