"""What a provider says it counted, read with care: gateways send nulls, strings, negative numbers, or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leap_ray.teachers.calls import Request, Stop, Usage

CHARACTERS_PER_TOKEN = 2.5  # fewer than any tokenizer makes of English text: an estimate errs on the dear side
OVERHEAD = 500  # tokens of a chat's template and of what a provider adds to a prompt


def count(value: Any) -> int | None:
    """A count of tokens, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value >= 0 and value == value and value != float("inf") else None


def part(value: Any, name: str) -> Any:
    """A field of a mapping that may be missing or something else."""
    return value.get(name) if isinstance(value, Mapping) else None


def complete(
    request: Request, text: str, stop: Stop, prompt: int | None, output: int | None, write: int | None, read: int | None
) -> tuple[Usage, bool]:
    """(usage, whether some of it is estimated). `prompt`: tokens neither written to nor read from the provider's cache.

    A prompt of no tokens, or an answer of none that has text, was not counted.
    """
    write, read = write or 0, read or 0
    no_prompt = prompt is None or prompt + write + read == 0
    no_output = output is None or (output == 0 and bool(text))
    if no_prompt:
        prompt = estimated(request.text)
    if no_output:  # an answer that was cut at its limit has as many tokens as the limit, thinking included
        output = request.max_tokens if stop is Stop.LENGTH else estimated(text)
    assert prompt is not None and output is not None
    return Usage(prompt, output, write, read), no_prompt or no_output


def estimated(text: str) -> int:
    """Tokens of a text that nobody counted: rare characters and digits count for as many as their bytes."""
    rare = sum(len(character.encode(errors="replace")) for character in text if not character.isascii())
    digits = sum(character.isdigit() and character.isascii() for character in text)
    plain = sum(character.isascii() for character in text) - digits
    return rare + digits + round(plain / CHARACTERS_PER_TOKEN) + 1


def most(text: str) -> int:
    """More tokens than any tokenizer makes of a text: each of them stands for a byte at least."""
    return len(text.encode(errors="replace"))
