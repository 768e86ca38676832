"""Students that prefix trees can train, and those that they would train wrongly: by configuration and by trial."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning import trainable
from leap_ray.learning.model import load_trainable
from leap_ray.learning.trainable import check_config, check_length, check_trainable, check_tree, context_length

SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
)  # fmt: skip
HEADS = dict(head_dim=8)
LINEAR = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8)
MAMBA = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=16)
GRANITE = dict(**MAMBA, num_local_experts=0, shared_intermediate_size=48)
VISION = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
)


def config(name, **changes):
    return getattr(transformers, f"{name}Config")(**changes)


RIGHT = {
    "llama": lambda: config("Llama", **SHAPE),
    "qwen3": lambda: config("Qwen3", **SHAPE, **HEADS),
    "olmo2": lambda: config("Olmo2", **SHAPE),
    "smollm3": lambda: config("SmolLM3", **SHAPE),
    "qwen3 experts": lambda: config(
        "Qwen3Moe", **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "granite, attention alone": lambda: config("GraniteMoeHybrid", **SHAPE, **GRANITE, layer_types=["attention"] * 4),
    "phi 4 mini": lambda: config("Phi3", **SHAPE, sliding_window=262144),
    "mistral 4096": lambda: config("Mistral", **SHAPE, sliding_window=4096),
    "gemma 3 text, wide": lambda: config("Gemma3Text", **SHAPE, **HEADS, sliding_window=4096),
}
WRONG = {
    "qwen3.5 text": (lambda: config("Qwen3_5Text", **SHAPE, **HEADS, **LINEAR), "linear_attention"),
    "qwen3.5": (lambda: config("Qwen3_5", text_config={**SHAPE, **HEADS, **LINEAR}), "linear_attention"),
    "qwen3-next": (
        lambda: config(
            "Qwen3Next", **SHAPE, **HEADS, **LINEAR, num_experts=4, moe_intermediate_size=16,
            shared_expert_intermediate_size=16, num_experts_per_tok=2,
        ),
        "linear_attention",
    ),
    "lfm2": (lambda: config("Lfm2", **SHAPE, layer_types=["conv", "full_attention"] * 2), "type conv"),
    "granite hybrid": (
        lambda: config("GraniteMoeHybrid", **SHAPE, **GRANITE, layer_types=["mamba", "attention"] * 2),
        "linear_attention",
    ),
    "falcon h1": (lambda: config("FalconH1", **SHAPE, **MAMBA, mamba_d_ssm=64, mamba_chunk_size=16), "type hybrid"),
    "llama 4": (
        lambda: config("Llama4Text", **SHAPE, **HEADS, attention_chunk_size=32, num_local_experts=2, intermediate_size_mlp=48),
        "chunked_attention",
    ),
    "mamba": (lambda: config("Mamba", vocab_size=64, hidden_size=32, num_hidden_layers=2), "linear_attention"),
    "recurrent gemma": (
        lambda: config(
            "RecurrentGemma", vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, lru_width=32,
            intermediate_size=48,
        ),
        "recurrent_gemma",
    ),
    "mistral 16": (lambda: config("Mistral", **SHAPE, sliding_window=16), "sliding windows of 16 tokens"),
    "gemma 3 text": (lambda: config("Gemma3Text", **SHAPE, **HEADS, sliding_window=16), "sliding windows of 16"),
    "gemma 3": (
        lambda: config("Gemma3", text_config={**SHAPE, **HEADS, "sliding_window": 16}, vision_config=VISION),
        "sliding windows of 16",
    ),
}  # fmt: skip


def saved(made, folder, dtype=torch.float32):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(made, dtype=dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("attention", ["blocks", "sdpa"])
def test_full_attention_is_right(name, attention, tmp_path):
    saved(RIGHT[name](), tmp_path)
    check_trainable(str(tmp_path), 4096, attention)
    load_trainable(tmp_path, LearnerConfig(attention=attention, precision="float32", dropout=0.0))


@pytest.mark.parametrize("name", WRONG)
def test_what_mixes_branches_is_refused_by_name(name, tmp_path):
    made, named = WRONG[name]
    saved(made(), tmp_path)
    for check in (lambda: check_trainable(str(tmp_path)), lambda: load_trainable(tmp_path, LearnerConfig())):
        with pytest.raises(UserError, match=named) as error:
            check()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", set(WRONG) - {"mamba", "recurrent gemma"})
@pytest.mark.parametrize("attention", ["blocks", "sdpa"])
def test_the_trial_finds_them_without_any_list(name, attention, tmp_path):
    made, _ = WRONG[name]
    saved(made(), tmp_path)
    with pytest.raises(UserError, match=r"model type \w+\) (answers otherwise|cannot be computed) in one row"):
        check_tree(tmp_path, attention, name)


def test_loading_tries_what_the_configuration_does_not_give_away(tmp_path, monkeypatch):
    monkeypatch.setattr(trainable, "_unsupported", lambda text, max_length: "")
    saved(WRONG["lfm2"][0](), tmp_path)
    with pytest.raises(UserError, match="answers otherwise in one row"):
        load_trainable(tmp_path, LearnerConfig())


def test_bfloat16_weights_are_tried_in_float32(tmp_path):
    saved(RIGHT["llama"](), tmp_path, torch.bfloat16)
    load_trainable(tmp_path, LearnerConfig(precision="bfloat16"))


def test_a_window_has_to_hold_what_a_sequence_can_reach(tmp_path):
    made = config("Mistral", **SHAPE, sliding_window=1024)
    check_config(made, "student", 1024)
    with pytest.raises(UserError, match=r"windows of 1024 tokens, shorter than student\.max_length \(1025\)"):
        check_config(made, "student", 1025)


def test_a_model_of_images_and_text_is_refused_also_with_wide_windows():
    made = config("Gemma3", text_config={**SHAPE, **HEADS, "sliding_window": 8192}, vision_config=VISION)
    with pytest.raises(UserError, match="more or other than a language model"):
        check_config(made, "student", 4096)
    with pytest.raises(UserError, match="attn_logit_softcapping"):
        check_config(config("Gemma2", **SHAPE, **HEADS, sliding_window=8192), "student", 4096)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("written", "longest"),
    [
        ({}, None),
        ({"max_position_embeddings": 8192}, 8192),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 32768, "rope_scaling": YARN}, 131072),
        ({"max_position_embeddings": 32768, "rope_parameters": {**YARN, "rope_theta": 1e6}}, 131072),
        ({"max_position_embeddings": 131072, "rope_parameters": YARN}, 131072),
        ({"max_position_embeddings": 40960, "rope_scaling": {"type": "yarn", "factor": 2.0}}, 81920),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 8}}, 32768),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({"text_config": {"max_position_embeddings": 32768, "rope_parameters": {"full_attention": YARN}}}, 131072),
        ({"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 8192),
    ],
)
def test_rotary_scaling_counts_in_the_context(written, longest):
    assert context_length(written) == longest
    check_length(written, "student", longest or 10**6)
    if longest:
        with pytest.raises(UserError, match=rf"max_length: {longest + 1} is above the {longest} tokens"):
            check_length(written, "student", longest + 1)


def test_a_context_too_long_is_refused_before_anything_starts(tmp_path):
    saved(RIGHT["llama"](), tmp_path)
    with pytest.raises(UserError, match="4097 is above the 4096 tokens"):
        check_trainable(str(tmp_path), 4097)
