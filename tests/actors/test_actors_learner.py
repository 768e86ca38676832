"""The learner through Ray Data and Ray Train: a PEFT folder out of examples, kill -9 and resume, a second iteration by DPO."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.learner import FINISHED, PROGRESS, SNAPSHOT, TrainResult, drop_other_rows, train
from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning.checkpoint import check_disk, disk_room
from leap_ray.learning.loop import read_progress
from leap_ray.learning.model import check_model, probe_logprobs
from leap_ray.learning.rows import to_record
from leap_ray.types import Example, Task, to_plain

VOCABULARY, STOP = 64, 2
CONFIG = LearnerConfig(
    rank=4, alpha=8, dropout=0.1, precision="float32", learning_rate=1e-2, dpo_learning_rate=1e-2, beta=0.5,
    batch_tokens=32, row_tokens=64, epochs=8, checkpoint_every=5, threads=1, clip_norm=1.0, warmup_steps=2, window=24,
)  # fmt: skip
DRIVER = """
import json, sys, ray
from pathlib import Path
from actors.learner import train
from leap_ray.config import LearnerConfig
from leap_ray.types import Example, from_plain
told = json.loads(Path(sys.argv[1]).read_text())
ray.init(address=told["address"], log_to_driver=False)
train([from_plain(Example, e) for e in told["examples"]], model=told["model"], init_from=None,
      output=Path(told["output"]), storage=Path(told["storage"]), config=from_plain(LearnerConfig, told["config"]),
      objective="sft", seed=0, adapter_name="toy-iter0")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny random Llama with a tokenizer, as a local folder."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=STOP, bos_token_id=1, pad_token_id=0, initializer_range=0.2,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    core = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(VOCABULARY)}, unk_token="<3>"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<2>", pad_token="<0>").save_pretrained(folder)
    return folder


def examples(iteration: int = 0, episodes: int = 10) -> list[Example]:
    """Corrected episodes of four steps."""
    rng = np.random.default_rng(iteration)
    made = []
    for e in range(episodes):
        history = [1, 5, *map(int, rng.integers(3, VOCABULARY, 6))]
        for t in range(4):
            said, better = ([*map(int, rng.integers(3, VOCABULARY, 3)), STOP] for _ in range(2))
            task = Task("toy", f"task{e}", "train")
            made.append(Example(f"{iteration}-{e}/{t}", task, iteration, tuple(history), tuple(better), tuple(said)))
            history += [*said, *map(int, rng.integers(3, VOCABULARY, 4))]
    return made


def arguments(model: Path, folder: Path, **more) -> dict:
    common = dict(model=str(model), init_from=None, config=CONFIG, objective="sft", seed=0, adapter_name="toy-iter0")
    return common | {"output": folder / "output", "storage": folder / "storage"} | more


@pytest.fixture(scope="module")
def first(ray_session, model, tmp_path_factory) -> tuple[TrainResult, dict]:
    """An undisturbed training, and how to ask for it again."""
    asked = arguments(model, tmp_path_factory.mktemp("first"))
    return train(examples(), **asked), asked


@pytest.mark.slow
def test_the_result_is_a_peft_folder_with_its_card(first, model):
    result, asked = first
    lines = read_progress(asked["output"] / PROGRESS)
    assert [line["step"] for line in lines] == list(range(1, lines[0]["steps"] + 1))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert result.metrics["plain_tokens"] > 1.5 * result.metrics["tokens"] > 0
    folder = Path(result.folder)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    card = (folder / "README.md").read_text()
    assert "toy-iter0" in card and "40 examples" in card and "learning_rate: 0.01" in card
    example = examples()[5]
    before, after = (
        sum(probe_logprobs(model, adapter, [example.prompt], [example.response])[0]) for adapter in (None, folder)
    )
    assert after > before, "the adapter, loaded by peft, must make a trained response likelier"


@pytest.mark.slow
def test_asked_again_it_answers_at_once(first):
    result, asked = first
    assert train([], **asked) == result


def tear(folder: Path) -> None:
    """What a full disk leaves: half of Ray Train's list of checkpoints, and half of a checkpoint further on than all others."""
    newest = max(folder.glob("checkpoint_*/"))
    shutil.copytree(newest, part := folder / "checkpoint_part")
    position = json.loads((part / "position.json").read_text())
    (part / "position.json").write_text(json.dumps({**position, "next_step": position["next_step"] + 1}))
    for path in (folder / SNAPSHOT, next(part.glob("*.distcp"))):
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
def test_killed_and_resumed_equals_undisturbed(first, model, tmp_path, torn):
    result, _ = first
    asked = arguments(model, tmp_path)
    told = {"address": ray.get_runtime_context().gcs_address, "examples": to_plain(examples()), "model": str(model)}
    told |= {"output": str(asked["output"]), "storage": str(asked["storage"]), "config": to_plain(CONFIG)}
    (tmp_path / "told.json").write_text(json.dumps(told))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path / "told.json")], start_new_session=True)
    deadline = time.monotonic() + 200
    ray_train = asked["storage"] / "train"
    while (
        len(read_progress(asked["output"] / PROGRESS)) < 7 or not (ray_train / SNAPSHOT).exists()
    ):  # past the first checkpoint
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (asked["output"] / "result.json").exists(), "the training was over before it could be killed"
    before = read_progress(asked["output"] / PROGRESS)
    if torn:
        tear(ray_train)
    resumed = train(examples(), **asked)
    wanted, found = (load_file(Path(r.folder) / "adapter_model.safetensors") for r in (result, resumed))
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[k], found[k]) for k in wanted)
    lines = read_progress(asked["output"] / PROGRESS)
    assert [line["step"] for line in lines] == list(range(1, lines[0]["steps"] + 1))
    assert lines[: CONFIG.checkpoint_every] == before[: CONFIG.checkpoint_every], "it began anew"


@pytest.mark.slow
def test_a_second_iteration_by_dpo_goes_on_from_the_first(first, model, tmp_path):
    result, _ = first
    config = replace(CONFIG, dropout=0.0, epochs=1, holdout=0.2, on_bad_example="drop")
    pairs = [*examples(), *examples(1)]
    pairs[0] = replace(pairs[0], rejected=())
    pairs[7] = replace(pairs[7], response=pairs[7].response[:-1])
    dataset = ray.data.from_items([to_record(e) for e in pairs])
    asked = arguments(model, tmp_path, config=config, objective="dpo", init_from=Path(result.folder))
    second = train(dataset, **asked)
    lines = read_progress(asked["output"] / PROGRESS)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=2e-2), "the policy begins as its own reference"
    assert "eval_loss" in second.metrics and lines[-1]["steps"] == len(lines)
    reasons = " ".join(second.problems)
    assert "no pair" in reasons and "stop token is not under the loss" in reasons and sum(second.problems.values()) == 2


@pytest.mark.slow
def test_full_weights_leave_a_folder_that_is_a_student_itself(ray_session, model, tmp_path):
    config = replace(CONFIG, method="full", epochs=1)
    result = train(examples(episodes=2), **arguments(model, tmp_path, config=config))
    check_model(result.folder)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (model, result.folder))
    assert after("<5>")["input_ids"] == before("<5>")["input_ids"] == [5]
    trained = AutoModelForCausalLM.from_pretrained(result.folder)
    untuned = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.equal(trained.lm_head.weight.float(), untuned.lm_head.weight.float())


def test_rows_of_another_size_begin_an_unfinished_training_again(tmp_path):
    """Else the row size that a run was resumed with, because memory was short, would wait for the next iteration."""
    storage, output = tmp_path / "storage", tmp_path
    (storage / "rows").mkdir(parents=True)
    index, progress = storage / "rows" / "index.json", output / PROGRESS
    index.write_text(json.dumps({"rows": [], "problems": [], "row_tokens": CONFIG.row_tokens}))
    progress.write_text("")
    drop_other_rows(storage, output, CONFIG)
    assert index.exists() and progress.exists()
    (storage / FINISHED).touch()
    drop_other_rows(storage, output, replace(CONFIG, row_tokens=32))
    assert index.exists(), "what is finished stays"
    (storage / FINISHED).unlink()
    drop_other_rows(storage, output, replace(CONFIG, row_tokens=32))
    assert not storage.exists() and not progress.exists()
    drop_other_rows(storage, output, CONFIG)


def test_bad_input_is_refused_before_anything_starts(model, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        train(examples(), **arguments(tmp_path / "nothing", tmp_path))
    with pytest.raises(UserError, match=r"previous weights .* hold no adapter_config\.json"):
        train(examples(), **arguments(model, tmp_path, init_from=tmp_path))


@pytest.mark.slow
def test_an_example_that_cannot_be_trained_on_is_named(ray_session, model, tmp_path):
    broken = examples(episodes=2)
    broken[3] = replace(broken[3], response=())
    with pytest.raises(UserError, match=r"1 examples cannot be trained on: 0-0/3: its loss mask is empty"):
        train(broken, **arguments(model, tmp_path))
    with pytest.raises(UserError, match="no example to train on"):
        train([], **arguments(model, tmp_path))


def test_more_workers_than_the_cluster_holds_are_refused_before_anything_starts(ray_session, model, tmp_path):
    config = replace(CONFIG, workers=4, cpus_per_worker=3)
    with pytest.raises(UserError, match=r"12\.25 CPU are needed together, 8 are there.*4 learner worker\(s\) of 3 CPU"):
        train(examples(), **arguments(model, tmp_path, config=config))
    assert not (tmp_path / "storage").exists()


NO_ROOM = """
import json, sys, ray
from pathlib import Path
from actors.learner import train
from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.types import Example, from_plain
told = json.loads(Path(sys.argv[1]).read_text())
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=1.25)
class Tenant:
    def here(self):
        return True

tenant = Tenant.remote()
ray.get(tenant.here.remote())
try:
    train([from_plain(Example, e) for e in told["examples"]], model=told["model"], init_from=None,
          output=Path(told["output"]), storage=Path(told["storage"]), config=from_plain(LearnerConfig, told["config"]),
          objective="sft", seed=0, adapter_name="toy-iter0")
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_workers_that_find_no_room_end_in_a_report(model, tmp_path):
    config = replace(CONFIG, workers=2, start_timeout=4)  # they fit the cluster, and not beside its tenant
    told = {"examples": to_plain(examples(episodes=2)), "model": str(model), "config": to_plain(config)}
    told |= {"output": str(tmp_path / "output"), "storage": str(tmp_path / "storage")}
    (tmp_path / "told.json").write_text(json.dumps(told))
    ran = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path / "told.json")], capture_output=True, text=True, timeout=240
    )
    said = ran.stdout.splitlines()[-1]
    assert said.startswith("no room on the cluster after 4 s: learner-0 needs 0.5 CPU + 0 GPU; learner-1 needs"), (
        ran.stderr
    )
    assert "The cluster: 1 node(s) with 2 CPU + 0 GPU" in said


@pytest.mark.slow
def test_full_training_goes_on_from_masters_and_says_what_moved(ray_session, model, tmp_path):
    config = replace(CONFIG, method="full", precision="bfloat16", epochs=1, dpo_learning_rate=1e-7, aggregate="equal")
    first = train(examples(episodes=4), **arguments(model, tmp_path / "sft", config=config))
    masters = tmp_path / "sft" / "output" / "masters"
    assert 0.5 < first.metrics["weights_moved"] <= 1 and not first.warnings
    stored = load_file(masters / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float32}
    assert not list(Path(first.folder).glob("masters*")), "what is served holds the served weights alone"

    demonstrations = [replace(e, id=f"demo-{e.id}", rejected=(), no_pair="a reason") for e in examples(episodes=3)]
    asked = arguments(
        model, tmp_path / "dpo", config=config, objective="dpo", init_from=Path(first.folder), keep_masters=False
    )
    second = train([*demonstrations, *examples(1, episodes=4)], **asked)
    assert 0 < second.metrics["weights_moved"] < 0.05
    assert len(second.warnings) == 1 and "learner.dpo_learning_rate" in second.warnings[0]
    assert second.problems == {"no pair: a reason": 12}
    assert "16 examples" in (Path(second.folder) / "README.md").read_text(), (
        "demonstrations decide no share of the pairs"
    )
    assert not (tmp_path / "dpo" / "output" / "masters").exists(), "no later training needs them"

    (tmp_path / "sft" / "output" / "result.json").unlink()  # as if killed between the weights and the result
    again = train(examples(episodes=4), **arguments(model, tmp_path / "sft", config=config))
    assert again == first
    assert all(torch.equal(t, stored[n]) for n, t in load_file(masters / "model.safetensors").items())


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_at_once_with_a_sentence(ray_session, model, tmp_path):
    config = replace(CONFIG, learning_rate=1e38, clip_norm=1e30, max_failures=2)
    for _ in range(2):  # resumed it says so again
        with pytest.raises(UserError, match=r"training stopped at step \d+ of \d+: its (loss|grad_norm) is (nan|inf)"):
            train(examples(episodes=4), **arguments(model, tmp_path, config=config))
    assert not (tmp_path / "output" / "result.json").exists()


def test_full_training_that_would_fill_the_disk_is_refused(tmp_path):
    config = replace(CONFIG, method="full", checkpoint_every=50)
    assert disk_room(1000, 40, config, False) == 6000 and disk_room(1000, 40, config, True) == 14000
    assert disk_room(1000, 1000, config, True) == 14000 + 3 * 12000
    check_disk(tmp_path, disk_room(1000, 40, config, True))
    with pytest.raises(UserError, match=r"full training writes up to .* GiB more under .*checkpoint_every"):
        check_disk(tmp_path, disk_room(10**15, 40, config, True))
