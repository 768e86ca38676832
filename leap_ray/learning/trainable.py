"""Which students can be trained in prefix trees: by their configuration, and by a trial.

A row holds many sequences. It gives the answers of each alone only if every layer sees other tokens through attention and
nothing else, and attention obeys the mask: recurrent, convolutional and chunked layers would mix branches without an error.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.learning.attention import implementation, model_inputs
from leap_ray.learning.prefix_tree import Branch, Row, build_row
from leap_ray.learning.sources import local_folder

TOLERANCE = 1e-2  # nats, between a token's log-probability in the trial's row and in its sequence alone
TRUNK, LEAF = 96, 48  # tokens of the trial's branches: shared, and each branch's own
TRIAL_GIB = 8.0  # weights up to this size are tried before anything starts, larger ones by the learner
_WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "window_size")
# Fields of configurations that list no layer types: what their layers are made of.
_MIXING = re.compile(
    r"mamba|ssm_|conv|lru_|rwkv|time_step|lsh_|block_types|linear_(attn|num|key|conv)|state_size|chunk(wise|_size$)"
    r"|attention_chunk|keep_window|index_(topk|local)|alibi|full_attn_idxs|attn_logit_softcapping"
)
_ALWAYS = ("attn_logit_softcapping",)  # decides also where layer types are listed
_RECURRENT = re.compile(r"rwkv|mamba|xlstm|reformer|recurrent|retnet|bloom|mpt")  # model types that no field gives away


def check_trainable(model: str, max_length: int | None = None, attention: str = "blocks") -> None:
    """Refuse a student that could not be trained with sequences of this many tokens (None: the default). Raises UserError.

    By its configuration, and by a trial where its weights are on this machine and not large.
    """
    folder = local_folder(model)
    config = read_config(folder or model, model)
    check_config(config, model, max_length or StudentConfig().max_length)
    if max_length:
        check_length(config.to_dict(), model, max_length)
    if folder is not None and 0 < _gib(folder) <= TRIAL_GIB:
        check_tree(folder, attention, model)


def read_config(source: str | Path, model: str) -> Any:
    """The student's configuration. Raises UserError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise UserError(f"student {model!r}: its configuration cannot be read: {error}") from None


def check_config(config: Any, model: str, max_length: int) -> None:
    """Refuse a configuration whose layers prefix trees do not support with sequences of this many tokens. Raises UserError."""
    text = config.get_text_config(decoder=True)
    who = f"student {model!r} (model type {config.model_type})"
    if reason := _unsupported(text, max_length):
        raise UserError(f"{who} {reason}, which prefix trees do not support: choose one with full attention")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    if text is not config or config.model_type not in known:
        raise UserError(
            f"{who} is more or other than a language model (of images, sound, an encoder): choose a student that is a causal "
            "language model alone"
        )


def check_length(config: Mapping[str, Any], model: str, max_length: int) -> None:
    """Refuse sequences longer than the student's `config.json` says it knows. Raises UserError."""
    longest = context_length(config)
    if longest and max_length > longest:
        raise UserError(f"student.max_length: {max_length} is above the {longest} tokens that {model!r} knows")


def _unsupported(text: Any, max_length: int) -> str:
    """What in a language model's configuration mixes tokens otherwise than by full attention; "" if nothing."""
    types: set[str] = set(getattr(text, "layer_types", None) or ())
    if odd := sorted(map(str, types - {"full_attention", "sliding_attention"})):
        return f"has layers of the type {', '.join(odd)}"
    if _RECURRENT.search(text.model_type):
        return f"is of the type {text.model_type}"
    fields = text.to_dict()
    names = _ALWAYS if types else [n for n in fields if _MIXING.search(n) and n != "chunk_size_feed_forward"]
    if name := next((name for name in names if fields.get(name)), None):
        return f"has {name} set"
    return _short_window(text, types, max_length)


def _short_window(text: Any, types: set[str], max_length: int) -> str:
    if "sliding_attention" not in types and (types or not getattr(text, "use_sliding_window", True)):
        return ""
    window = next((size for name in _WINDOWS if (size := getattr(text, name, None))), None)
    if window is None:
        return "attends in sliding windows of unknown size" if types else ""
    if window >= max_length:
        return ""  # no token is further away
    return f"attends in sliding windows of {window} tokens, shorter than student.max_length ({max_length})"


def context_length(config: Mapping[str, Any]) -> int | None:
    """Most tokens of a sequence, by a `config.json`: what rotary scaling adds to the positions included. None: not said."""
    text = config.get("text_config") or config
    longest = text.get("max_position_embeddings") or text.get("n_positions")
    if not longest:
        return None
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    scalings = [r for r in rope.values() if isinstance(r, dict)] or [rope]  # one, or one per layer type
    return max(_scaled(longest, scaling) for scaling in scalings)


def _scaled(longest: int, scaling: Mapping[str, Any]) -> int:
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    kind = scaling.get("rope_type", scaling.get("type"))
    if not factor or kind not in ("yarn", "linear", "dynamic"):
        return longest  # llama3 and longrope say the whole length themselves
    return max(longest, int((original or longest) * factor))


def check_tree(folder: Path, attention: str, model: str) -> None:
    """Refuse a student that answers otherwise in a row of several branches than to each branch alone. Raises UserError.

    In float32 on the CPU, with the student's own weights, of as few layers as show every type of layer that it has.
    """
    import torch

    how = "sdpa" if attention == "flex" else attention  # flex is for GPUs
    with _quiet():
        module = _first_layers(folder)
    size = module.get_input_embeddings().weight.shape[0]
    branches = _branches(np.random.default_rng(0), size)
    row = build_row(branches)
    with torch.no_grad():
        try:
            alone = [_alone(module, branch) for branch in branches]
            module.set_attn_implementation(implementation(how))
            inputs = model_inputs(row, how, "cpu", torch.float32)
            together = torch.log_softmax(module(**inputs).logits[0].float(), -1)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise _unfit(model, module, f"cannot be computed in one row of several sequences ({error})") from None
    worst = max(_distance(together, row, s, alone) for s in range(len(branches)))
    if not worst <= TOLERANCE:  # NaN included
        raise _unfit(model, module, f"answers otherwise in one row of several sequences (by {worst:.2g} nats)")


def _unfit(model: str, module: Any, why: str) -> UserError:
    kind = module.config.model_type
    return UserError(
        f"student {model!r} (model type {kind}) {why}, so prefix trees would train it wrongly: choose another model"
    )


def _branches(rng: np.random.Generator, vocabulary: int) -> list[Branch]:
    """Two branches on one trunk, and a sequence that shares nothing with them."""

    def draw(count: int) -> list[int]:
        return rng.integers(0, vocabulary, count).tolist()

    trunk = draw(TRUNK)
    sequences = [trunk + draw(LEAF), trunk + draw(LEAF), draw(LEAF)]
    starts = [TRUNK, TRUNK, LEAF // 2]
    return [Branch(np.array(s, np.int32), start, unit) for unit, (s, start) in enumerate(zip(sequences, starts))]


def _alone(module: Any, branch: Branch) -> Any:
    """Log-probabilities (M × V) where the branch carries loss, by the model's own plain attention."""
    import torch

    logits = module(input_ids=torch.from_numpy(branch.ids).long()[None], use_cache=False).logits[0]
    return torch.log_softmax(logits[branch.start - 1 : -1].float(), -1)


def _distance(together: Any, row: Row, sequence: int, alone: Sequence[Any]) -> float:
    """Worst difference of one sequence's token log-probabilities, in nats."""
    import torch

    targets = torch.from_numpy(row.pair_target[row.pair_sequence == sequence]).long()
    labels = torch.from_numpy(row.labels).long()[targets][:, None]
    wanted = alone[int(row.units[sequence])].gather(1, labels)
    return float((together[targets].gather(1, labels) - wanted).abs().max())


def _first_layers(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {"dtype": torch.float32, "attn_implementation": "eager"}
    try:
        short = _shortened(AutoConfig.from_pretrained(folder))
        return AutoModelForCausalLM.from_pretrained(folder, config=short, **settings).eval()
    except Exception:  # a configuration whose layers hang together in other ways: all of them, then
        return AutoModelForCausalLM.from_pretrained(folder, **settings).eval()


def _shortened(config: Any) -> Any:
    """The configuration with as many layers as show every layer type, two at least."""
    short = copy.deepcopy(config)
    layers = config.num_hidden_layers
    types = list(getattr(config, "layer_types", None) or ["full_attention"] * layers)
    kept = min(layers, max(2, *(types.index(kind) + 1 for kind in set(types))))
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == layers:
            setattr(short, name, value[:kept])
    short.num_hidden_layers = kept
    return short


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of the weights that the trial leaves out."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _gib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**30
