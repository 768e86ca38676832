"""The student as a PyTorch module: load it, put LoRA on it, shard it, write it out, and ask it for log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leap_ray.chat_template import ChatTemplate
from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning.attention import implementation, model_inputs
from leap_ray.learning.objectives import sequence_logprobs, target_logprobs
from leap_ray.learning.prefix_tree import Branch, Row, build_row
from leap_ray.learning.sources import check_model, materialize
from leap_ray.learning.trainable import check_config, check_trainable, check_tree, read_config

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

__all__ = [
    "check_init",
    "check_model",
    "check_trainable",
    "load_trainable",
    "materialize",
    "probe_logprobs",
    "stop_ids",
]

ADAPTER_FILE = "adapter_config.json"
MASTERS = "masters"  # folder of float32 weights


def check_init(init_from: Path | None, method: str) -> None:
    """Refuse previous weights that the method cannot go on from. Raises UserError."""
    if init_from is None:
        return
    wanted = ADAPTER_FILE if method == "lora" else "config.json"
    if not (init_from / wanted).is_file():
        raise UserError(
            f"previous weights {init_from} hold no {wanted}, which learner.method = {method!r} goes on from; "
            "train every iteration of a run by the same method"
        )


def stop_ids(folder: Path) -> list[int]:
    """Token ids that end a turn, of a student's folder: the chat template's, the tokenizer's, the generation configuration's."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = [tokenizer.eos_token_id]
    with suppress(UserError):  # no chat template, or one that preflight refuses
        found.append(ChatTemplate(tokenizer).parts.end_id)
    if (folder / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
        found += eos if isinstance(eos, list) else [eos]
    return sorted({int(i) for i in found if i is not None})


def load_trainable(
    folder: Path,
    config: LearnerConfig,
    *,
    init_from: Path | None = None,
    seed: int = 0,
    max_length: int | None = None,
    trial: bool = True,
) -> Any:
    """The student ready to be trained: with a new adapter, the previous adapter, or the previous full weights.

    Frozen weights are in the computation's precision, trained ones in float32 (the trainer lets full weights compute in
    lower precision). Full weights go on from the float32 masters beside `init_from`, where those are. Refuses a student that
    rows would train wrongly: by its configuration, for sequences of `max_length` tokens (None: of a whole row), and with
    `trial` by `check_tree`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_init(init_from, config.method)
    check_config(read_config(folder, folder.name), folder.name, max_length or config.row_tokens)
    if trial:
        check_tree(folder, config.attention, folder.name)
    full = config.method == "full"
    dtype = torch.float32 if full else getattr(torch, config.precision)
    source = previous_weights(init_from) if full and init_from else folder
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, attn_implementation=implementation(config.attention)
    )
    if not full:
        torch.manual_seed(seed)
        model = _with_lora(model, config, init_from)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if not full:
            model.enable_input_require_grads()
    return model


def masters_beside(weights: Path) -> Path:
    """Where the float32 masters of fully trained weights are kept, as long as a later training may go on from them."""
    return weights.with_name(MASTERS)


def previous_weights(init_from: Path) -> Path:
    """The folder that full training goes on from: the masters, or the served bfloat16 weights where there are none."""
    masters = masters_beside(init_from)
    return masters if (masters / "config.json").is_file() else init_from


def _with_lora(model: Any, config: LearnerConfig, init_from: Path | None) -> Any:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

    if init_from is not None:
        earlier: Any = PeftConfig.from_pretrained(str(init_from))
        earlier.lora_dropout = config.dropout  # a setting of this training, not of the weights
        return PeftModel.from_pretrained(model, str(init_from), is_trainable=True, config=earlier)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def shard(model: Any, config: LearnerConfig, mesh: DeviceMesh) -> Any:
    """FSDP2: each decoder layer, then the rest. Gradients are summed in float32 whatever the computation's precision."""
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    dtype = getattr(torch, config.precision)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers = [module for name, module in model.named_modules() if name.rsplit(".", 2)[-2:-1] == ["layers"]]
    if not layers:
        raise UserError(f"{type(model).__name__} has no `layers`: more than one learner worker is not supported for it")
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def save_student(
    model: Any, folder: Path, tensors: dict[str, torch.Tensor], config: LearnerConfig, base: str, masters: bool = False
) -> None:
    """Write trained weights as a standard folder: a PEFT adapter, or a whole model in bfloat16.

    `tensors` holds the full trained parameters under the names of `model.named_parameters()`; `base` is the student's name.
    `masters`: a whole model is written in float32 as well, into a folder of its own inside.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    if config.method == "lora":
        peft_config = model.peft_config["default"]
        peft_config.base_model_name_or_path = base
        plain = {k: v.to(torch.float32).contiguous() for k, v in tensors.items()}
        model.save_pretrained(folder, state_dict=plain, safe_serialization=True, save_embedding_layers=False)
    else:
        _save_whole(model, folder, tensors, torch.bfloat16)
        if masters:
            _save_whole(model, folder / MASTERS, tensors, torch.float32)


def _save_whole(model: Any, folder: Path, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    plain = {k: v.to(dtype).contiguous() for k, v in tensors.items()}
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=plain, safe_serialization=True)


def row_logprobs(model: Any, row: Row, attention: str, device: Any, dtype: torch.dtype) -> torch.Tensor:
    """Log-probability of each of the row's targets (M), float32: the one forward pass under every objective."""
    import torch

    logits = model(**model_inputs(row, attention, device, dtype)).logits[0]
    return target_logprobs(logits, torch.from_numpy(row.labels).to(device))


def probe_logprobs(
    model: str | Path,
    adapter: Path | None,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    dtype: str = "float32",
) -> list[list[float]]:
    """Log-probabilities, in nats, of each completion's tokens after its prompt, by transformers and peft.

    What the serving engine's own answer is compared with. `adapter` may be a PEFT folder, or a folder of full weights that
    takes the model's place. Each sequence is computed alone and unpadded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    full = adapter is not None and not (adapter / ADAPTER_FILE).is_file()
    source = adapter if adapter and full else materialize(str(model))
    torch_dtype = getattr(torch, dtype)
    module: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch_dtype, attn_implementation="sdpa")
    if adapter is not None and not full:
        from peft import PeftModel

        module = PeftModel.from_pretrained(module, str(adapter))
    module.eval()
    answers = []
    with torch.no_grad():
        for prompt, completion in zip(prompts, completions, strict=True):
            row = build_row([Branch(np.array([*prompt, *completion], np.int32), len(prompt))])
            answers.append(row_logprobs(module, row, "sdpa", "cpu", torch_dtype).tolist())
    return answers


__all__ += ["row_logprobs", "save_student", "sequence_logprobs", "shard"]
