"""SFT, DPO and KTO: the loss and its gradients are TRL's on the same batch; schedules are the paper's."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch

from leap_ray.config import LearnerConfig
from leap_ray.learning.model import row_logprobs, sequence_logprobs
from leap_ray.learning.objectives import OBJECTIVES, branches_of, mass, objective_of
from leap_ray.learning.prefix_tree import Row, build_row

CONFIG = LearnerConfig(beta=0.3, desirable_weight=1.25, undesirable_weight=0.75)


@pytest.fixture(scope="module")
def examples():
    return tiny.episodes(count=2, steps=3)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<{i}>": i for i in range(tiny.VOCABULARY)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<3>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<2>", pad_token="<0>", bos_token="<1>")


def ours(model, reference, examples, objective, config=CONFIG) -> tuple[float, torch.Tensor]:
    """Mean loss and gradients by one prefix tree."""
    mates = [examples[i - 1].response for i in range(len(examples))]
    row = build_row([b for i, (e, m) in enumerate(zip(examples, mates)) for b in branches_of(e, objective, i, m)])
    if objective != "sft":
        with torch.no_grad():
            row.reference = sequence_logprobs(logprobs(reference, row), row).numpy()
    loss = OBJECTIVES[objective](logprobs(model, row), row, config).value / mass(row, objective, config.weighting)
    return backward(model, loss)


def logprobs(model, row: Row) -> torch.Tensor:
    return row_logprobs(tiny.with_attention(model, "blocks"), row, "blocks", "cpu", torch.float32)


def backward(model, loss) -> tuple[float, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def trl(trainer, batch) -> tuple[float, torch.Tensor]:
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is not None:
            tiny.with_attention(model, "sdpa").train()
    return backward(trainer.model, trainer.compute_loss(trainer.model, batch))


def arguments(kind, tmp_path, **more):
    common = dict(output_dir=str(tmp_path), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False)
    return kind(**common, per_device_train_batch_size=8, max_length=None, **more)


def assert_same(a: tuple[float, torch.Tensor], b: tuple[float, torch.Tensor]) -> None:
    assert a[0] == pytest.approx(b[0], rel=1e-5)
    assert a[1].norm() > 0
    assert float((a[1] - b[1]).norm() / b[1].norm()) <= 1e-4


def test_sft_is_trls(examples, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = tiny.model()
    samples = [
        {"input_ids": [*e.prompt, *e.response], "completion_mask": [0] * len(e.prompt) + [1] * len(e.response)}
        for e in examples
    ]
    trainer = SFTTrainer(
        model,
        arguments(SFTConfig, tmp_path, completion_only_loss=True),
        train_dataset=Dataset.from_list(samples),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert_same(ours(model, None, examples, "sft"), trl(trainer, batch))


def test_dpo_is_trls(examples, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, reference = tiny.model(seed=0), tiny.model(seed=1)
    text = Dataset.from_list([{"prompt": "<5>", "chosen": "<6><2>", "rejected": "<7><2>"}])
    trainer = DPOTrainer(
        model,
        reference,
        arguments(DPOConfig, tmp_path, beta=CONFIG.beta),
        train_dataset=text,
        processing_class=tokenizer,
    )
    batch = trainer.data_collator(
        [
            {"prompt_ids": list(e.prompt), "chosen_ids": list(e.response), "rejected_ids": list(e.rejected)}
            for e in examples
        ]
    )
    assert_same(ours(model, reference, examples, "dpo"), trl(trainer, batch))


def test_kto_is_trls(examples, tokenizer, tmp_path):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    model, reference = tiny.model(seed=0), tiny.model(seed=1)
    text = Dataset.from_list([{"prompt": "<5>", "completion": "<6><2>", "label": label} for label in (True, False)])
    weights = {"desirable_weight": CONFIG.desirable_weight, "undesirable_weight": CONFIG.undesirable_weight}
    trainer = KTOTrainer(
        model, reference, arguments(KTOConfig, tmp_path, beta=CONFIG.beta, **weights), train_dataset=text,
        processing_class=tokenizer,
    )  # fmt: skip
    samples = []
    for i, e in enumerate(examples):
        mate = {"prompt_ids": list(e.prompt), "KL_completion_ids": list(examples[i - 1].response)}
        samples += [mate | {"completion_ids": list(e.response), "label": True}]
        samples += [mate | {"completion_ids": list(e.rejected), "label": False}]
    assert_same(ours(model, reference, examples, "kto"), trl(trainer, trainer.data_collator(samples)))


def test_kto_takes_unpaired_examples(examples):
    lonely = [dataclasses.replace(e, rejected=()) if i % 2 else e for i, e in enumerate(examples)]
    loss, gradients = ours(tiny.model(seed=0), tiny.model(seed=1), lonely, "kto")
    assert 0 < loss < 1.25 and gradients.norm() > 0


def test_the_reference_policy_itself_has_no_margin(examples):
    model = tiny.model()
    loss, _ = ours(model, model, examples, "dpo")
    assert loss == pytest.approx(0.6931472, rel=1e-5)


def test_example_weighting_counts_every_example_the_same(examples):
    long = tiny.example("long", [1, 5], [7] * 30 + [tiny.STOP])
    config = dataclasses.replace(CONFIG, weighting="example")
    model = tiny.model()
    singles = [ours(model, None, [e], "sft", config)[0] for e in [long, *examples]]
    assert ours(model, None, [long, *examples], "sft", config)[0] == pytest.approx(
        sum(singles) / len(singles), rel=1e-5
    )


def test_weights_are_relative(examples):
    doubled = [dataclasses.replace(e, weight=2.0) for e in examples]
    model = tiny.model()
    for objective in ("sft", "dpo", "kto"):
        assert ours(model, model, doubled, objective)[0] == pytest.approx(ours(model, model, examples, objective)[0])


@pytest.mark.parametrize(
    "schedule,wanted",
    [
        (("sft",), ["sft", "sft", "sft", "sft"]),
        (("sft", "dpo"), ["sft", "dpo", "dpo", "dpo"]),
        (("sft", "dpo", "sft", "dpo"), ["sft", "dpo", "sft", "dpo"]),
        (("sft", "kto"), ["sft", "kto", "kto", "kto"]),
    ],
)
def test_the_schedules_of_the_paper(schedule, wanted):
    config = LearnerConfig(objectives=schedule)
    assert [objective_of(config, i) for i in range(4)] == wanted


def test_a_pair_that_lost_its_half_is_an_error(examples):
    broken = [dataclasses.replace(examples[0], rejected=()), examples[1]]
    with pytest.raises(ValueError, match="lacks one of its two"):
        ours(tiny.model(), tiny.model(), broken, "dpo")
