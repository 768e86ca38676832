"""Tiny random models and examples for the learning tests: real architectures, a few thousand parameters, float32."""

from __future__ import annotations

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from leap_ray.learning.attention import implementation
from leap_ray.types import Example, Task

VOCABULARY = 64
STOP = 2
_SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=STOP,
    initializer_range=0.2,
)
CONFIGS = {
    "llama": lambda: LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**_SHAPE, tie_word_embeddings=False),
    "qwen3": lambda: Qwen3Config(**_SHAPE, head_dim=8, tie_word_embeddings=True),
}


def model(kind: str = "llama", lora: bool = False, seed: int = 0, attention: str = "blocks"):
    """A random model; with `lora`, an adapter whose two factors are both random, so that all its gradients are alive."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(
        CONFIGS[kind](), attn_implementation=implementation(attention), dtype=torch.float32
    )
    if lora:
        settings = LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        made = get_peft_model(made, settings)
    return made


def with_attention(made, attention: str):
    """The same model computing its attention another way."""
    inner = made.get_base_model() if hasattr(made, "get_base_model") else made
    inner.set_attn_implementation(implementation(attention))
    return made


def example(name: str, prompt, response, rejected=(), task: str = "t", **more) -> Example:
    return Example(
        name,
        Task("toy", task, "train"),
        more.pop("iteration", 0),
        tuple(prompt),
        tuple(response),
        tuple(rejected),
        **more,
    )


def episodes(count: int = 6, steps: int = 4, seed: int = 0, **more) -> list[Example]:
    """Corrected episodes: a growing history, at each step a correction and what the student said instead."""
    rng = np.random.default_rng(seed)

    def draw(n):
        return [int(i) for i in rng.integers(3, VOCABULARY, n)]

    made = []
    for e in range(count):
        history = [1, 5, 6, *draw(6)]
        for t in range(steps):
            said = [*draw(3), STOP]
            made.append(example(f"e{e}/{t}", history, [*draw(3), STOP], said, f"task{e}", **more))
            history = [*history, *said, *draw(4)]
    return made
