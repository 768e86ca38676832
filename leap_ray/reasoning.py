"""Marks that models put around their thoughts: what opens them, what closes them, and where the answer begins.

Known are tags (`<think>`, `[THINK]`, `<|START_THINKING|>`, `<|begin_of_thought|>`, `<|inner_prefix|>`), channels
(`<|channel|>analysis<|message|>`, `<|channel>thought`) and message headers (`<|start|>assistant … <|message|>`).
"""

from __future__ import annotations

import re

_WORD = "(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad|inner_monologue)"
_OPENS = (
    rf"<(?:\w+:)?{_WORD}(?:\s[^<>]*)?>|\[{_WORD}\]|<\|{_WORD}\|>|<\|(?:start|begin)(?:_of)?_{_WORD}\|>|\u25c1{_WORD}\u25b7"
    r"|<\|inner_prefix\|>|<\|channel>|<\|start\|>|<\|channel\|>\s*\w*(?:\s*<\|message\|>)?"
)
_CLOSES = (
    rf"</(?:\w+:)?{_WORD}>|\[/{_WORD}\]|<\|/{_WORD}\|>|<\|end(?:_of)?_{_WORD}\|>|\u25c1/{_WORD}\u25b7"
    r"|<\|inner_suffix\|>|<channel\|>"
)
_HEADER = (
    r"<\|channel\|>\s*(?:final|response|answer)\s*<\|message\|>"
    r"|<\|start\|>(?:(?!<\|channel\|>|<\|start\|>).)*?<\|message\|>"
)
_FINAL = "<|channel|>final<|message|>"  # the header of an answer, where channels have names
_MARKS = re.compile(rf"(?P<closes>{_CLOSES}|{_HEADER}|<\|end\|>)|(?P<opens>{_OPENS})", re.IGNORECASE | re.DOTALL)
_ANSWERS = re.compile(rf"{_CLOSES}|<\|message\|>", re.IGNORECASE)


def left_open(text: str) -> str:
    """The mark after which this text's end is thoughts or a header; "" if an answer can follow the text."""
    mark = ""
    for found in _MARKS.finditer(text):
        mark = found["opens"] or ""
    return mark


def closing_of(mark: str) -> str:
    """Text that ends the thoughts, or completes the header, which the mark opened."""
    if mark.startswith("<|channel|>"):
        return (
            _FINAL.removeprefix(mark)
            if _FINAL.startswith(mark)
            else _completed(mark) + "<|end|><|start|>assistant" + _FINAL
        )
    if mark == "<|start|>":
        return _FINAL
    if mark == "<|channel>":
        return "<channel|>"
    name = mark.strip("<>[]|\u25c1\u25b7")
    for begin, end in (("START", "END"), ("start", "end"), ("begin", "end"), ("inner_prefix", "inner_suffix")):
        if mark.startswith("<|") and name.startswith(begin):
            return mark.replace(begin, end, 1)
    return "\n" + mark.replace(name, "/" + name.split()[0], 1) + "\n\n"


def _completed(header: str) -> str:
    return "" if header.endswith("<|message|>") else "<|message|>"


def ends_thoughts(text: str) -> bool:
    """Whether the text's last characters are a mark after which the answer begins."""
    return any(found.end() == len(text) for found in _ANSWERS.finditer(text))


def after_thoughts(text: str, begins: str) -> str:
    """The text after the last mark that closes thoughts. An answer that only names such a mark is not cut there: after a
    mark stand spaces, nothing, or the words (`begins`) with which answers begin."""
    start = 0
    for found in _ANSWERS.finditer(text):
        rest = text[found.end() :]
        if not rest or rest[0].isspace() or rest.startswith(begins):
            start = found.end()
    return text[start:]
