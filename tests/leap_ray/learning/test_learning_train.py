"""The loop: what a step sees, learning, best weights, interrupted equals undisturbed, bfloat16 with float32 masters."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning import checkpoint
from leap_ray.learning.aggregate import Header, select
from leap_ray.learning.checkpoint import Position
from leap_ray.learning.loop import Outside, ProgressFile, fit, read_progress
from leap_ray.learning.rows import RowInfo, pack_window, read_record, row_from_record
from leap_ray.learning.schedule import deal, learning_rate, plan_steps
from leap_ray.learning.train import Trainer

CONFIG = LearnerConfig(
    method="full", precision="float32", learning_rate=2e-2, warmup_steps=1, batch_tokens=24, row_tokens=64, epochs=3,
    checkpoint_every=2, clip_norm=1.0,
)  # fmt: skip


class ListFeed:
    """One worker's rows straight from the stored files."""

    def __init__(self, folder: Path, plan, held_out, worker: int = 0) -> None:
        self.folder, self.plan, self.held_out, self.worker = folder, plan, held_out, worker
        self.evaluates = any(held_out)

    def named(self, info: RowInfo):
        return info.id, row_from_record(read_record(self.folder, info.file, info.index))

    def steps(self, start):
        for step in self.plan[start:]:
            yield [info and self.named(info) for info in step.rows[self.worker]]

    def evaluation(self):
        return (info and self.named(info) for info in self.held_out[self.worker])

    def everything(self):
        return (self.named(info) for step in self.plan for info in step.rows[self.worker] if info)


def stored(folder: Path, config: LearnerConfig, objective="sft", workers: int = 1):
    examples = tiny.episodes(count=10, steps=4)
    headers = [Header.of(e.task.domain, e.iteration, e.task.id, e.id, seed=0) for e in examples]
    infos, problems = pack_window(
        examples, folder=folder, selection=select(headers, config, 0), config=config, objective=objective,
        stop_ids=[tiny.STOP],
    )  # fmt: skip
    assert not problems
    plan = plan_steps([i for i in infos if i.split == "train"], config, 0, workers)
    held_out = deal([i for i in infos if i.split == "eval"], workers)
    return plan, ListFeed(folder, plan, held_out)


class Killed(Exception):
    """Stands for kill -9: nothing after it is run."""


def training(
    folder: Path, config: LearnerConfig, *, dies_after: int | None = None, model=None, change=lambda feed: None
):
    """Train from the folder's last checkpoint, if it has one, perhaps to be killed; the final weights."""
    folder.mkdir(exist_ok=True)
    plan, feed = stored(folder, config)
    change(feed)
    trainer = Trainer(model or tiny.model(), config, "sft", len(plan), seed=0)
    latest = folder / "latest"
    position = checkpoint.load(latest, trainer) if latest.exists() else Position()
    progress = ProgressFile(folder / "progress.jsonl", position.next_step)

    def keep(position: Position) -> None:
        checkpoint.save(folder / "new", trainer, position)
        checkpoint.replace_folder(folder / "new", latest)

    def line(values) -> None:
        progress.append(values)
        if dies_after is not None and values["step"] > dies_after:
            raise Killed

    outside = Outside(True, folder / "best", "tiny", line, keep)
    fit(trainer, plan, feed, outside, position)
    return {n: t.clone() for n, t in trainer.trained().items()}, read_progress(folder / "progress.jsonl")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return training(tmp_path_factory.mktemp("undisturbed"), CONFIG)


def test_it_learns(undisturbed):
    _, lines = undisturbed
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


@pytest.mark.parametrize("dies_after", [1, 2, 5])
def test_interrupted_equals_undisturbed(undisturbed, tmp_path, dies_after):
    with pytest.raises(Killed):
        training(tmp_path, CONFIG, dies_after=dies_after)
    weights, lines = training(tmp_path, CONFIG)
    wanted, wanted_lines = undisturbed
    assert all(torch.equal(weights[n], wanted[n]) for n in wanted)
    assert [line["loss"] for line in lines] == [line["loss"] for line in wanted_lines]


def test_interrupted_equals_undisturbed_with_dropout_and_lora(tmp_path):
    def lora():
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(tiny.model(), settings)

    config = dataclasses.replace(CONFIG, method="lora", dropout=0.3)
    wanted, _ = training(tmp_path / "a", config, model=lora())
    with pytest.raises(Killed):
        training(tmp_path / "b", config, dies_after=3, model=lora())
    weights, _ = training(tmp_path / "b", config, model=lora())
    assert all(torch.equal(weights[n], wanted[n]) for n in wanted)


def test_the_best_weights_on_held_out_tasks_are_kept(tmp_path):
    from transformers import AutoModelForCausalLM

    # So high a rate that random answers are learnt by heart and held-out tasks suffer.
    config = dataclasses.replace(CONFIG, holdout=0.3, learning_rate=5e-2, epochs=6, checkpoint_every=1)
    _, lines = training(tmp_path, config)
    losses = [line["eval_loss"] for line in lines]
    assert len(losses) == len(lines) and losses.index(min(losses)) < len(losses) - 1
    best = AutoModelForCausalLM.from_pretrained(tmp_path / "best", dtype=torch.float32)
    best = tiny.with_attention(best, config.attention)
    plan, feed = stored(tmp_path, config)
    found = Trainer(best, config, "sft", len(plan)).evaluate(item and item[1] for item in feed.evaluation())
    assert found["eval_loss"] == pytest.approx(min(losses), rel=0.02)  # stored in bfloat16


def spoil_evaluations(feed: ListFeed, rounds: set[int]) -> None:
    """In these rounds of evaluation (from 1 on) the held-out rows hold a weight that is not a number."""
    whole, count = feed.evaluation, 0

    def evaluation():
        nonlocal count
        count += 1
        for name, row in whole():
            yield name, dataclasses.replace(row, weights=row.weights * np.nan) if count in rounds else row

    feed.evaluation = evaluation


def test_an_evaluation_loss_that_is_not_a_number_is_never_the_best(tmp_path):
    config = dataclasses.replace(CONFIG, holdout=0.3, epochs=1, checkpoint_every=1)
    _, lines = training(tmp_path / "a", config, change=lambda feed: spoil_evaluations(feed, {1, 3}))
    losses = [line["eval_loss"] for line in lines]
    assert [math.isnan(loss) for loss in losses[:4]] == [True, False, True, False]
    assert (tmp_path / "a" / "best" / "config.json").exists()
    only_second = dataclasses.replace(config, learning_rate=1e-2)
    everything_else = {1, *range(3, 100)}
    training(tmp_path / "b", only_second, change=lambda feed: spoil_evaluations(feed, everything_else))
    kept = load_file(tmp_path / "b" / "best" / "model.safetensors")
    with pytest.raises(Killed):
        training(tmp_path / "d", only_second, dies_after=1)
    at_second = load_file(tmp_path / "d" / "best" / "model.safetensors")
    assert all(torch.equal(kept[name], at_second[name]) for name in kept)


def test_a_training_whose_evaluation_is_never_a_number_says_so(tmp_path):
    config = dataclasses.replace(CONFIG, holdout=0.3, epochs=1)
    with pytest.raises(UserError, match="the evaluation loss was never a number"):
        training(tmp_path, config, change=lambda feed: spoil_evaluations(feed, set(range(100))))
    assert not (tmp_path / "best").exists()


def test_a_training_loss_that_is_not_a_number_stops_with_a_sentence(tmp_path):
    config = dataclasses.replace(CONFIG, learning_rate=1e38, clip_norm=1e30)
    with pytest.raises(
        UserError, match=r"stopped at step \d+ of \d+: its (loss|grad_norm) is (nan|inf)\. Lower the learning"
    ):
        training(tmp_path, config)
    assert not (tmp_path / "best").exists()


def test_bfloat16_weights_have_float32_masters(tmp_path):
    config = dataclasses.replace(CONFIG, precision="bfloat16", learning_rate=1e-4)
    model = tiny.model().to(torch.bfloat16)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    masters, _ = training(tmp_path, config, model=model)
    for name, p in model.named_parameters():
        assert p.dtype == torch.bfloat16 and masters[name].dtype == torch.float32
        assert torch.equal(masters[name].to(torch.bfloat16), p)
    moved = [(masters[n] - before[n].float()).abs().max() for n in masters]
    assert min(moved) > 0, "steps smaller than bfloat16 resolves must not be lost"


def test_a_step_is_the_same_rows_whatever_the_number_of_workers(tmp_path):
    plans = [stored(tmp_path, CONFIG, workers=n)[0] for n in (1, 2, 3)]
    for steps in zip(*plans, strict=True):
        rows = [{r.id for hand in step.rows for r in hand if r} for step in steps]
        assert rows[0] == rows[1] == rows[2]
        assert len({step.mass for step in steps}) == 1
        assert all(len({len(hand) for hand in step.rows}) == 1 for step in steps)


def test_every_epoch_sees_every_row_once_in_an_order_of_its_own(tmp_path):
    plan, _ = stored(tmp_path, CONFIG)
    epochs = [[r.id for s in plan if s.epoch == e for r in s.rows[0] if r] for e in range(CONFIG.epochs)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(set(epochs[2]))
    assert epochs[0] != epochs[1]


def test_steps_hold_about_batch_tokens(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1, row_tokens=48)
    plan, _ = stored(tmp_path, config)
    assert sum(s.loss_tokens for s in plan) == 10 * 4 * 4
    assert all(config.batch_tokens * 0.5 <= s.loss_tokens <= config.batch_tokens * 1.5 for s in plan)


def test_learning_rate_warms_up_and_falls_to_nothing():
    config = LearnerConfig(learning_rate=1.0, dpo_learning_rate=0.5, warmup_steps=10)
    rates = [learning_rate(s, 100, config, "sft") for s in range(100)]
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == rates[10] == 1.0 and rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(learning_rate(s, 100, config, "dpo") for s in range(100)) == 0.5
    assert max(learning_rate(s, 4, config, "sft") for s in range(4)) == 1.0  # a short training still reaches the peak


def test_a_progress_line_cut_off_by_a_crash_is_not_read(tmp_path):
    path = tmp_path / "progress.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in read_progress(path)] == [1, 2]
    ProgressFile(path, next_step=1).append({"step": 2, "again": True})
    assert read_progress(path) == [{"step": 1}, {"step": 2, "again": True}]
