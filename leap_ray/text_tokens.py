"""Text → tokens, such that no control token can come out of text that somebody else wrote.

A tokenizer finds its added tokens (`<|im_end|>`) anywhere in a text. In a prompt they may come from the chat template alone: the
same characters in an observation, an instruction or a reason stay ordinary text. Other text gets the tokens it always got.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

_GUARD = "\n"  # encoded before a piece of text, then dropped: a piece is not the beginning of a text
_SPACES = str.maketrans("", "", "\u2581 \t\r\n\u0120\u010a")  # as texts and as vocabularies write them


def unicode_text(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD: tokenizers and UTF-8 files refuse them."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TextTokens:
    """A tokenizer that tells a template's text from text put into it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._expected = lru_cache(maxsize=64)(self._controls_of_template)

    @cached_property
    def controls(self) -> dict[int, str]:
        """Control tokens: every special token, and every added one that is no plain word (such as `<think>`)."""
        found = {}
        for token_id, token in getattr(self.tokenizer, "added_tokens_decoder", {}).items():
            text = str(token.content).translate(_SPACES)
            if token.special or (len(text) > 1 and not text.isalnum()):
                found[int(token_id)] = str(token.content)
        found.update(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens))
        return found

    @cached_property
    def special(self) -> set[int]:
        """Those of the control tokens that decoding leaves out."""
        marked = (i for i, t in getattr(self.tokenizer, "added_tokens_decoder", {}).items() if t.special)
        return {int(i) for i in (*self.tokenizer.all_special_ids, *marked)}

    def encode(self, before: str, text: str = "", after: str = "") -> list[int]:
        """Tokens of `before + text + after`, where `text` is somebody else's and the rest is the template's."""
        text = unicode_text(text)
        ids = self._plain(before + text + after)
        expected = self._expected(before, after)
        if self._controls_in(ids, text) == expected:
            return ids
        for places in (self._written_controls(text), range(1, len(text))):
            ids = self._in_pieces(before, text, after, places)
            if [i for i in ids if i in self._counted] == expected:
                break
        return ids

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        """The text of tokens, exactly: nothing is tidied around punctuation."""
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)

    @cached_property
    def _counted(self) -> set[int]:
        """Control tokens that no ordinary text gives: `<unk>` stands for any character that the vocabulary lacks."""
        unknown = self.tokenizer.unk_token_id
        ends = {self.tokenizer.eos_token_id, self.tokenizer.bos_token_id}
        return set(self.controls) - ({unknown} - ends)

    def _controls_in(self, ids: list[int], text: str) -> list[int]:
        found = [i for i in ids if i in self._counted]
        unknown = self.tokenizer.unk_token
        return [*found, -1] if unknown and unknown in text and self.tokenizer.unk_token_id in ids else found

    def _controls_of_template(self, before: str, after: str) -> list[int]:
        return [i for i in self._plain(before + "x" + after) if i in self._counted]

    def _written_controls(self, text: str) -> list[int]:
        """Where to cut the text so that no piece holds a control token's text as a whole."""
        lowered = text.lower()
        written = [c for c in set(self.controls.values()) if len(c) > 1 and c.lower() in lowered]
        return sorted({m.start() + 1 for c in written for m in re.finditer(f"(?={re.escape(c)})", text, re.IGNORECASE)})

    def _in_pieces(self, before: str, text: str, after: str, places: Any) -> list[int]:
        cuts = [0, *places, len(text)]
        pieces = [text[a:b] for a, b in pairwise(cuts)]
        pieces[0], pieces[-1] = before + pieces[0], pieces[-1] + after
        return self._plain(pieces[0]) + [i for piece in pieces[1:] for i in self._continued(piece)]

    def _continued(self, piece: str) -> list[int]:
        """Tokens of a piece that is not the beginning of a text: without the space that some tokenizers put there."""
        guard, ids = self._plain(_GUARD), self._plain(_GUARD + piece)
        return ids[len(guard) :] if ids[: len(guard)] == guard else self._plain(piece)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
