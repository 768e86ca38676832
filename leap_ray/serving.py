"""What a student server knows that has nothing to do with its engine: names of weights, the register of them, and the probe.

A policy is "base", an adapter, or a full set of weights, under a name that is never given to another content. An engine that
is handed new weights under an old name may silently keep the old ones, in its weights or in its prefix cache; a name made from
the content cannot do that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from leap_ray.errors import UserError
from leap_ray.types import from_json, to_json

BASE = "base"
Kind = Literal["adapter", "weights"]
# Mean difference in nats a token that two right implementations may have, by the server's precision: about three times what
# SmolLM2 shows (7e-6 in float32; 0.034 between bfloat16 and float32). Training moves its tokens by far more.
TOLERANCE = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}
_WEIGHT_FILES = ("*.safetensors", "adapter_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class Weights:
    """One set of trained weights that a server was given: a folder under a name that stays with its content."""

    name: str
    path: str
    fingerprint: str
    kind: Kind = "adapter"


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a server runs the weights just trained: its log-probabilities beside the learner's, token by token, in nats.

    `moved` is how far those weights are from the base model at the same tokens. Where it is not above `tolerance` the
    comparison cannot tell the trained weights from untrained ones: `conclusive` is then False.
    """

    name: str
    tokens: int
    mean: float  # mean absolute difference between server and learner
    worst: float
    moved: (
        float | None
    )  # mean absolute difference between the learner and the server's base model, where that still runs
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.tokens > 0 and self.mean <= self.tolerance

    @property
    def conclusive(self) -> bool:
        return self.moved is not None and self.moved > 2 * self.tolerance

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        moved = "" if self.moved is None else f", which is {self.moved:.2g} from the base model"
        return (
            f"probe of {self.name}: {verdict}: {self.mean:.2g} nats a token from the learner (worst {self.worst:.2g}, "
            f"allowed {self.tolerance:.2g}){moved}, over {self.tokens} tokens"
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is doing. Rates are over the last seconds, per second of wall time."""

    running: int = 0  # requests being decoded
    waiting: int = 0  # requests in the queue
    prompt_tokens_per_s: float = 0.0  # of the prompts, those found in the prefix cache included
    generation_tokens_per_s: float = 0.0
    prefix_hit_rate: float = 0.0  # share of prompt tokens found in the prefix cache, since the server's start
    requests: int = 0  # answered since the server's start
    policies: tuple[str, ...] = field(default=(BASE,))


def fingerprint(path: str | Path) -> str:
    """Hash of the weights and their configuration in a folder. Raises UserError where there are none."""
    folder = Path(path)
    files = sorted({file for pattern in _WEIGHT_FILES for file in folder.glob(pattern)})
    if not any(file.suffix == ".safetensors" for file in files):
        raise UserError(f"no weights at {folder}: a folder with .safetensors files is needed")
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def check_adapter(name: str, path: str | Path, max_rank: int) -> None:
    """Refuse an adapter that a server could not run: one of too high a rank, or on the output layer or the embeddings."""
    try:
        rank = int(json.loads((Path(path) / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"no PEFT adapter at {path}: adapter_config.json cannot be read ({error})") from None
    if rank > max_rank:
        raise UserError(f"adapter {name!r} has rank {rank}; this server was started for {max_rank}")
    outside = sorted(t for t in tensor_shapes(path) if "lm_head" in t or "embed" in t)
    if outside:
        raise UserError(
            f"adapter {name!r} changes {outside[0]}: adapters are served for the decoder layers only; "
            "train full weights (learner.method: full) instead"
        )


def tensor_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a folder's .safetensors files, from their headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def linear_modules(folder: str | Path) -> list[str]:
    """Names of the decoder layers' linear modules (`q_proj`, …): what an adapter of "all linear layers" is on."""
    shapes = tensor_shapes(folder)
    inside = (
        n.split(".") for n, shape in shapes.items() if ".layers." in n and n.endswith(".weight") and len(shape) == 2
    )
    return sorted({parts[-2] for parts in inside})


def write_empty_adapter(folder: Path, model: str | Path) -> None:
    """A LoRA adapter of rank 1 that changes nothing, for the model in a folder: its second factor is zero."""
    import torch
    from safetensors.torch import save_file

    modules = linear_modules(model)
    tensors = {}
    for name, shape in tensor_shapes(model).items():
        if ".layers." in name and len(shape) == 2 and name.split(".")[-2] in modules:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = torch.zeros(1, shape[1])
            tensors[f"{stem}.lora_B.weight"] = torch.zeros(shape[0], 1)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": modules, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


class Register:
    """Which weights carry which name, kept in a folder: one small file a name, so that replicas and restarts agree.

    The folder lies where every replica sees it (the run directory). Without a folder the register lives in memory alone.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else None
        self._known: dict[str, Weights] = {}

    def check(self, name: str, path: str | Path, kind: Kind, content: str | None = None) -> Weights:
        """The entry that `name` would have. Raises UserError if the name belongs to another content.

        `content` is the folder's fingerprint where it is known: it takes seconds a GiB.
        """
        if name == BASE or not re.fullmatch(r"[A-Za-z0-9_.\-]{1,120}", name):
            raise UserError(f"{name!r} cannot name weights: letters, digits and ._- are allowed, and {BASE!r} is taken")
        entry = Weights(name, str(Path(path).resolve()), content or fingerprint(path), kind)
        known = self.find(name)
        if known and (known.fingerprint, known.kind) != (entry.fingerprint, kind):
            raise UserError(f"{name!r} already names other weights ({known.path}): every training needs a new name")
        return entry

    def add(self, entry: Weights) -> None:
        """Keep an entry, on disk where there is a folder. Repeating it is harmless."""
        self._known[entry.name] = entry
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".{entry.name}.{os.getpid()}"
            part.write_text(to_json(entry) + "\n")
            part.replace(self.folder / f"{entry.name}.json")

    def find(self, name: str) -> Weights | None:
        """The entry of a name; read from the folder if another process wrote it."""
        if name not in self._known and self.folder:
            file = self.folder / f"{name}.json"
            if file.is_file():
                self._known[name] = from_json(Weights, file.read_text())
        return self._known.get(name)


def completion_logprobs(
    prompt_logprobs: Sequence[Mapping[int, Any] | None] | None, completion: Sequence[int]
) -> list[float]:
    """Log-probabilities, in nats, of a completion at the end of a scored prompt (vLLM's `RequestOutput.prompt_logprobs`).

    Counted from the end: the list is as long as the prompt, or, from vLLM's second model runner, shorter by the tokens that
    were found in the prefix cache. Raises RuntimeError if a token of the completion was not scored.
    """
    scored = list(prompt_logprobs or ())[-len(completion) :]
    if len(scored) < len(completion) or None in scored:
        raise RuntimeError(f"the engine scored {len(scored)} of a completion's {len(completion)} tokens")
    return [at[token].logprob for at, token in zip(scored, completion, strict=True) if at is not None]


def folder_gib(path: str | Path) -> float:
    """Size of a folder's weights."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors")) / 2**30


def compare(
    name: str,
    expected: Sequence[Sequence[float]],
    served: Sequence[Sequence[float]],
    base: Sequence[Sequence[float]] | None,
    tolerance: float,
) -> Probe:
    """Put the learner's log-probabilities beside the server's, one list a completion. Raises UserError on unlike shapes."""
    shapes = [[len(row) for row in rows] for rows in (expected, served, base if base is not None else served)]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise UserError(f"probe of {name}: {shapes[0]} log-probabilities expected, {shapes[1]} served")
    gaps = _gaps(expected, served)
    moved = _mean(_gaps(expected, base)) if base is not None else None
    return Probe(name, len(gaps), _mean(gaps), max(gaps, default=0.0), moved, tolerance)


def _gaps(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[float]:
    return [abs(a - b) for row_a, row_b in zip(left, right) for a, b in zip(row_a, row_b)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def replica_of(episode: str, replicas: int) -> int:
    """The replica an episode stays on (its prompts share a prefix): the same in every process."""
    return int.from_bytes(hashlib.sha256(episode.encode()).digest()[:8], "big") % replicas
