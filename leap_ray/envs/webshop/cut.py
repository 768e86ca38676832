"""What is left out of an observation that is too long for the prompt, and how that is shown."""

from __future__ import annotations

from typing import Literal

Cut = Literal["end", "middle"]


def shorten(text: str, max_text: int | None, max_line: int | None, cut: Cut) -> tuple[str, int]:
    """(the text with every line at most `max_line` and all of it at most `max_text` characters, how many are left out).

    A limit of null is none. What is left out is marked by "…" in a line and "[… N characters cut]" in the text; the mark comes
    on top of the limit.
    """
    left_out = 0
    if max_line is not None:
        short = [line[:max_line].rstrip() if len(line) > max_line + 1 else line for line in text.split("\n")]
        left_out = len(text) - len("\n".join(short))
        text = "\n".join(a if a == b else f"{a}…" for a, b in zip(short, text.split("\n")))
    if max_text is None or len(text) <= max_text:
        return text, left_out
    excess = len(text) - max_text
    head = max_text if cut == "end" else (max_text + 1) // 2
    tail = text[head + excess :]
    return f"{text[:head]}\n[… {excess} characters cut]\n{tail}", left_out + excess


def without_instruction(text: str, instruction: str) -> str:
    """A page without its repeated instruction, in either observation mode."""
    for head in (
        f"Instruction: \n{instruction}\n",
        f"Instruction:\n{instruction}\n",
        f"Instruction: [SEP] {instruction} [SEP] ",
    ):
        text = text.replace(head, "", 1)
    return text
