"""The vLLM engine inside a student server: its settings on a CPU and on GPUs, and the full-weight reload.

The GPU settings follow vLLM's documented interfaces and have not been run yet; the CPU ones are measured (see
`experiments/benchmarks/rollouts.py`).
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.gpus import check_server, vllm_uses_gpus
from leap_ray.journal import read_json
from leap_ray.learning.trainable import check_length, context_length
from leap_ray.serving import folder_gib, linear_modules, tensor_shapes

if TYPE_CHECKING:
    import torch
    from vllm.v1.engine.async_llm import AsyncLLM

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
BLOCK = 32  # tokens of a KV block on a CPU: the prefix cache's grain; vLLM's own default there is 128
BATCHED_TOKENS = 2048  # prompt tokens that one step of a CPU server takes in
GPU_EXTRA_GIB = 2.0  # of a GPU, for CUDA itself and for activations: less than any server needs
_GIB = 2**30


def start(config: StudentConfig, folder: Path, max_rank: int) -> AsyncLLM:
    """An engine on this machine, ready to generate. Raises UserError if it cannot start.

    `max_rank` is the largest LoRA rank it will serve; 0: full weights only.
    """
    check(config, folder, max_rank)
    os.environ.update(environment(config))  # read by the engine's own process, which is started below
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings(config, folder, max_rank)))
    except Exception as error:
        raise UserError(
            f"the student server for {config.model!r} did not start: {type(error).__name__}: {_brief(error)} "
            "The lines above in its log say why; less memory is taken with a smaller student.max_length, "
            "student.kv_cache_gib or student.gpu_memory"
        ) from error


def settings(config: StudentConfig, folder: Path, max_rank: int) -> dict[str, Any]:
    """Keyword arguments of vLLM's AsyncEngineArgs."""
    return {
        "model": str(folder),
        "dtype": config.dtype,
        "max_model_len": config.max_length,
        "hf_overrides": _length_override(folder),
        "max_num_seqs": config.max_sequences,
        "enable_prefix_caching": True,
        "seed": config.seed,
        "disable_log_stats": True,  # the actor keeps its own tally
        "worker_extension_cls": "actors.engine.WeightReloader",
        **_lora_settings(config, folder, max_rank),
        **(_gpu_settings(config) if on_gpu(config) else _cpu_settings(config)),
    }


def _length_override(folder: Path) -> dict[str, int]:
    """The context with its rotary scaling, where `config.json` names the one without: vLLM does not multiply YaRN's factor."""
    said = read_json(folder / "config.json")
    longest, written = context_length(said), said.get("max_position_embeddings")
    return {"max_position_embeddings": longest} if longest and written and longest > written else {}


def environment(config: StudentConfig) -> dict[str, str]:
    """Environment variables of the engine's process."""
    common = {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    common["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
    if on_gpu(config):
        return common
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // config.replicas)
    return common | {
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(config.kv_cache_gib))),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # lets "uni" stand: one engine process instead of two
        "TORCHDYNAMO_DISABLE": "1",  # else the first log-probability is a compilation, of many seconds
        "OMP_NUM_THREADS": str(threads),  # Ray sets it to the actor's CPUs, which is about scheduling
    }


def on_gpu(config: StudentConfig) -> bool:
    """Whether this server runs on GPUs; "auto" outside of a run is what the installed vLLM computes on."""
    return vllm_uses_gpus() if config.gpus_per_replica == "auto" else config.gpus_per_replica > 0


def check(config: StudentConfig, folder: Path, max_rank: int = 0) -> None:
    """Refuse what would make the engine fail minutes later with a traceback: a context too long, memory that is not there."""
    check_server(config, vllm_uses_gpus())
    check_length(read_json(folder / "config.json"), config.model, config.max_length)
    weights = _weights_gib(config, folder)
    if on_gpu(config):
        check_gpu(config, folder, weights, max_rank, _gpu_gib())
        return
    needed = weights + max(1, round(config.kv_cache_gib)) + 1.0  # and the process itself
    if needed > (free := _free_gib()):
        raise UserError(
            f"not enough memory for the student server: {needed:.1f} GiB are needed ({weights:.1f} of weights, "
            f"{config.kv_cache_gib:g} of KV cache), {free:.1f} GiB are free; lower student.kv_cache_gib or free memory"
        )


def check_gpu(config: StudentConfig, folder: Path, weights: float, max_rank: int, device: float) -> None:
    """Refuse a server that cannot fit its GPUs: weights, room for adapters and one whole sequence (figures in GiB)."""
    adapters = (config.adapters + 1) * _adapter_gib(folder, max_rank)
    sequence = _sequence_gib(folder, config.max_length)
    needed = (weights + adapters + sequence) / config.tensor_parallel + GPU_EXTRA_GIB
    if needed > (allowed := config.gpu_memory * device):
        raise UserError(
            f"the student server does not fit its GPU: {needed:.1f} GiB of each are needed (together {weights:.1f} of weights, "
            f"{adapters:.1f} of adapters, {sequence:.1f} for one sequence of student.max_length), {allowed:.1f} may be taken "
            f"(student.gpu_memory: {config.gpu_memory:g} of {device:.1f}): raise student.tensor_parallel or student.gpu_memory, "
            "lower student.adapters, learner.rank or student.max_length, or choose a smaller student"
        )


def _weights_gib(config: StudentConfig, folder: Path) -> float:
    """In the server's precision; quantised ones as they lie in their files."""
    size = 4 if config.dtype == "float32" else 2
    numbers = sum(math.prod(shape) for shape in tensor_shapes(folder).values())
    return min(numbers * size / _GIB, folder_gib(folder) * size / 2)


def _adapter_gib(folder: Path, rank: int) -> float:
    """Of one adapter on all linear modules, in 16 bits."""
    modules = set(linear_modules(folder)) if rank else set()
    shapes = [s for n, s in tensor_shapes(folder).items() if ".layers." in n and n.split(".")[-2] in modules]
    return sum(sum(shape) for shape in shapes if len(shape) == 2) * rank * 2 / _GIB


def _sequence_gib(folder: Path, tokens: int) -> float:
    """Of the KV cache of one sequence, in 16 bits; 0 where the configuration does not say."""
    config = json.loads((folder / "config.json").read_text())
    if "kv_lora_rank" in config:  # compressed
        return 0.0
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads") or 0
    size = config.get("head_dim") or config.get("hidden_size", 0) // max(1, config.get("num_attention_heads", 1))
    return 2 * config.get("num_hidden_layers", 0) * heads * size * tokens * 2 / _GIB


def _lora_settings(config: StudentConfig, folder: Path, max_rank: int) -> dict[str, Any]:
    if not max_rank:
        return {}
    room = next((rank for rank in RANKS if rank >= max_rank), None)
    if room is None:
        raise UserError(f"learner.rank: {max_rank} is above {RANKS[-1]}, the largest that the student server takes")
    return {
        "enable_lora": True,
        "max_lora_rank": room,
        "max_loras": config.adapters + 1,  # and the empty one: see StudentActor._empty_adapter
        "max_cpu_loras": config.adapters + 3,
        # Without the output layer: vLLM's log-probabilities of prompts fail where an adapter may touch it (vllm#29955).
        "lora_target_modules": linear_modules(folder),
    }


def _cpu_settings(config: StudentConfig) -> dict[str, Any]:
    return {
        "enforce_eager": True,  # compilation takes minutes and gains nothing here
        "block_size": BLOCK,  # fine, so that a growing prompt hits the prefix cache
        "distributed_executor_backend": "uni",
        # A prompt that is taken in parts kills the engine if its request has a seed: vLLM 0.32 would set back the random
        # generator after each part, which CPU generators cannot do.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(BATCHED_TOKENS, config.max_length),
    }


def _gpu_settings(config: StudentConfig) -> dict[str, Any]:
    return {
        "gpu_memory_utilization": config.gpu_memory,
        "tensor_parallel_size": config.tensor_parallel,
        "distributed_executor_backend": "mp" if config.tensor_parallel > 1 else "uni",
        "enable_sleep_mode": config.shares_gpu,
    }


def _gpu_gib() -> float:
    """Memory of one of this actor's GPUs, asked of the driver: a CUDA context in this process would take some of it."""
    from vllm.platforms import current_platform

    return current_platform.get_device_total_memory() / _GIB


def _free_gib() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return float("inf")


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 400 else text[:400] + "…"


class WeightReloader:
    """What the engine's worker learns beside vLLM's own methods (vLLM mixes this class into it)."""

    def reload_from(self, folder: str) -> int:
        """Put a folder's full weights in place of the running ones, one tensor at a time. Returns how many there were."""
        count = 0

        def counted() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal count
            for count, tensor in enumerate(checkpoint_tensors(Path(folder)), 1):  # noqa: B007
                yield tensor

        self.reload_weights(weights_iterator=counted())  # type: ignore[attr-defined]
        return count

    def free_memory(self) -> int:
        """Bytes that are free on this worker's GPU."""
        import torch

        return torch.cuda.mem_get_info()[0]

    def die_with(self, actor: int) -> None:
        """Have this process end when the actor (a process id) that started the engine ends in whatever way.

        The kernel sees to it where the actor is the parent. With several workers the parent is the engine's own process, which
        nothing else would end: it would hold its GPUs, and the actor could not start again.
        """
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
        if os.getppid() != actor:
            threading.Thread(target=_end_parent_after, args=(actor, os.getppid()), daemon=True).start()


def _end_parent_after(process: int, parent: int) -> None:
    """Wait until a process ends, then kill this one's parent."""
    try:
        watched = os.pidfd_open(process)
        select.select([watched], [], [])
    except ProcessLookupError:
        pass  # it has ended already
    os.kill(parent, signal.SIGKILL)


def checkpoint_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a model folder, the output layer always among them.

    Where it is tied to the embeddings a checkpoint leaves it out, and vLLM's reload would then keep the old one.
    """
    from safetensors import safe_open

    tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", False)
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)
                if tied and name == "model.embed_tokens.weight":
                    yield "lm_head.weight", tensors.get_tensor(name)
