"""Names of weights, their register, the probe's comparison, and what adapters are refused: without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from actors.engine import checkpoint_tensors
from leap_ray.errors import UserError
from leap_ray.serving import (
    Register,
    check_adapter,
    compare,
    completion_logprobs,
    fingerprint,
    linear_modules,
    replica_of,
    tensor_shapes,
)


def adapter(folder: Path, value: float = 1.0, rank: int = 4, module: str = "layers.0.self_attn.q_proj") -> Path:
    """A PEFT adapter folder with one matrix."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    save_file(
        {f"base_model.model.model.{module}.lora_A.weight": torch.full((rank, 8), value)}, folder / "a.safetensors"
    )
    return folder


def test_a_fingerprint_is_made_from_the_content(tmp_path):
    one, same, other = adapter(tmp_path / "1"), adapter(tmp_path / "2"), adapter(tmp_path / "3", value=2.0)
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) != fingerprint(other)


def test_the_configuration_is_part_of_the_content(tmp_path):
    folder = adapter(tmp_path / "1")
    before = fingerprint(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 32}))
    assert fingerprint(folder) != before


def test_a_folder_without_weights_has_no_name(tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        fingerprint(tmp_path)


def test_a_name_stays_with_its_content(tmp_path):
    register = Register(tmp_path / "register")
    one, other = adapter(tmp_path / "1"), adapter(tmp_path / "2", value=2.0)
    register.add(register.check("a", one, "adapter"))
    register.add(register.check("a", one, "adapter"))
    with pytest.raises(UserError, match="already names other weights"):
        register.check("a", other, "adapter")
    with pytest.raises(UserError, match="already names other weights"):
        register.check("a", one, "weights")


def test_another_process_finds_the_register(tmp_path):
    folder = adapter(tmp_path / "1")
    register = Register(tmp_path / "register")
    register.add(register.check("a", folder, "adapter"))
    later = Register(tmp_path / "register")
    found = later.find("a")
    assert found is not None
    assert found.path == str(folder)
    with pytest.raises(UserError, match="already names other weights"):
        later.check("a", adapter(tmp_path / "2", value=2.0), "adapter")
    assert later.find("b") is None


@pytest.mark.parametrize("name", ["base", "", "a/b", "../a", "a b"])
def test_names_that_cannot_be_given(tmp_path, name):
    with pytest.raises(UserError, match="cannot name weights"):
        Register().check(name, adapter(tmp_path / "1"), "adapter")


def test_the_probe_compares_token_by_token():
    probe = compare("a", [[-1.0, -2.0], [-3.0]], [[-1.0, -2.1], [-3.0]], [[-2.0, -3.0], [-4.0]], tolerance=0.05)
    assert (probe.tokens, probe.passed, probe.conclusive) == (3, True, True)
    assert probe.worst == pytest.approx(0.1)
    assert probe.mean == pytest.approx(0.1 / 3)
    assert probe.moved == pytest.approx(1.0)


def test_the_probe_fails_on_other_weights_on_nan_and_on_nothing():
    assert not compare("a", [[-1.0]], [[-2.0]], None, tolerance=0.05).passed
    assert not compare("a", [[-1.0, -1.0]], [[float("nan"), -1.0]], None, tolerance=0.05).passed
    assert not compare("a", [], [], None, tolerance=0.05).passed
    with pytest.raises(UserError, match="expected"):
        compare("a", [[-1.0, -2.0]], [[-1.0]], None, tolerance=0.05)


def test_a_probe_of_weights_that_hardly_moved_says_so():
    close = compare("a", [[-1.0]], [[-1.0]], [[-1.01]], tolerance=0.05)
    assert (close.passed, close.conclusive) == (True, False)
    unknown = compare("a", [[-1.0]], [[-1.0]], None, tolerance=0.05)
    assert (unknown.moved, unknown.conclusive) == (None, False)
    assert "base model" not in str(unknown)


def test_adapters_a_server_cannot_run_are_refused(tmp_path):
    check_adapter("a", adapter(tmp_path / "1"), max_rank=4)
    with pytest.raises(UserError, match="rank 8"):
        check_adapter("a", adapter(tmp_path / "2", rank=8), max_rank=4)
    with pytest.raises(UserError, match="decoder layers only"):
        check_adapter("a", adapter(tmp_path / "3", module="lm_head"), max_rank=4)
    with pytest.raises(UserError, match="no PEFT adapter"):
        check_adapter("a", tmp_path / "nowhere", max_rank=4)


def test_linear_modules_are_those_of_the_layers(tmp_path):
    tensors = {
        "model.embed_tokens.weight": torch.zeros(10, 4),
        "model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4),
        "model.layers.1.mlp.up_proj.weight": torch.zeros(8, 4),
        "model.layers.0.input_layernorm.weight": torch.zeros(4),
        "lm_head.weight": torch.zeros(10, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert linear_modules(tmp_path) == ["q_proj", "up_proj"]
    assert tensor_shapes(tmp_path)["model.layers.1.mlp.up_proj.weight"] == (8, 4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_output_layer_is_reloaded_too(tmp_path, tied):
    embeddings = torch.arange(8.0).reshape(4, 2)
    save_file({"model.embed_tokens.weight": embeddings}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    tensors = dict(checkpoint_tensors(tmp_path))
    assert ("lm_head.weight" in tensors) is tied
    if tied:
        assert torch.equal(tensors["lm_head.weight"], embeddings)


class Scored(NamedTuple):
    """What vLLM says of one token."""

    logprob: float


@pytest.mark.parametrize("cached", [0, 16, 96])
@pytest.mark.parametrize("whole", [True, False])
def test_a_completion_is_scored_whatever_the_cache_held(cached, whole):
    prompt, completion = list(range(100)), [7, 8, 9]
    ids = [*prompt, *completion]
    scored = [None, *({token: Scored(-float(place))} for place, token in enumerate(ids[1:], 1))]
    if not whole:  # of the computed tokens alone: vLLM's second model runner
        scored = [None, *scored[cached + 1 :]]
    assert completion_logprobs(scored, completion) == [-100.0, -101.0, -102.0]


@pytest.mark.parametrize(
    "scored", [None, [], [None], [None, {9: Scored(-1.0)}], [None, None, *({n: Scored(-1.0)} for n in (8, 9))]]
)
def test_a_completion_that_was_not_scored_whole_is_an_error(scored):
    with pytest.raises(RuntimeError, match="of a completion's 3 tokens"):
        completion_logprobs(scored, [7, 8, 9])


def test_a_known_fingerprint_is_not_computed_again(tmp_path):
    entry = Register().check("a", tmp_path / "on another disk", "weights", "0123")
    assert entry.fingerprint == "0123"


def test_episodes_spread_over_replicas_and_stay():
    places = [replica_of(f"episode-{i}", 4) for i in range(400)]
    assert places == [replica_of(f"episode-{i}", 4) for i in range(400)]
    assert all(60 < places.count(i) < 140 for i in range(4))
