"""What is left out of an observation that is too long for the prompt, and how that is shown."""

from __future__ import annotations

from typing import Literal

Cut = Literal["end", "middle"]


def shorten(text: str, max_text: int | None, max_line: int | None, cut: Cut) -> str:
    """The text with every line at most `max_line` and all of it at most `max_text` characters; null: no limit.

    What is left out is marked by "…" in a line and "[… N characters cut]" in the text; the mark comes on top of the limit.
    """
    if max_line is not None:
        text = "\n".join(
            f"{line[:max_line].rstrip()}…" if len(line) > max_line + 1 else line for line in text.split("\n")
        )
    if max_text is None or len(text) <= max_text:
        return text
    mark = f"[… {len(text) - max_text} characters cut]"
    if cut == "end":
        return f"{text[:max_text]}\n{mark}\n"
    head = (max_text + 1) // 2
    tail = max_text - head
    return f"{text[:head]}\n{mark}\n{text[len(text) - tail :]}"


def without_instruction(text: str, instruction: str) -> str:
    """A page without its repeated instruction, in either observation mode."""
    for head in (
        f"Instruction: \n{instruction}\n",
        f"Instruction:\n{instruction}\n",
        f"Instruction: [SEP] {instruction} [SEP] ",
    ):
        text = text.replace(head, "", 1)
    return text
