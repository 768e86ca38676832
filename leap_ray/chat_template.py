"""What a tokenizer's chat template writes around the turns of a conversation, taken apart once.

    head  user message  opening  answer  end  next  user message  opening  answer  end  …

A conversation is put together from these parts and the tokens that were sampled. So it only ever grows, and what a student is
trained on is what it read and said. A template for which that would be wrong is refused in one sentence.
"""

from __future__ import annotations

import datetime
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leap_ray.errors import UserError
from leap_ray.reasoning import closing_of, left_open
from leap_ray.text_tokens import TextTokens

DATE = "2026-01-01"  # that a template prints where the configuration names none
THINKING = ("enable_thinking", "thinking")  # template arguments that turn thinking on and off
_MESSAGES = tuple(f"\u241eMESSAGE {i}\u241e" for i in range(5))  # stand for messages while the template is taken apart
# What a template must show as it is: quotes, markup, spaces inside, other scripts.
_VERBATIM = "a\n\n  b  \"c\" 'd' <e> & {{ f }} \u00e9 \u6c34\tg"
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # tags that transformers adds to Jinja


@dataclass(frozen=True)
class Parts:
    """The template's text around turns. `lead` and `trail` are spaces at an answer's edges: they belong to the answer."""

    head: str  # before the first user message
    opening: str  # from the first user message to the answer
    next: str  # from the end token, included, to a later user message
    reopening: str  # from a later user message to the answer
    lead: str
    trail: str
    end: str  # the end token's text
    end_id: int
    strips: tuple[bool, bool]  # whether user messages lose the spaces at their beginning, at their end


class ChatTemplate:
    """A tokenizer's chat template with its arguments, as parts. Raises UserError for one that cannot be taken apart."""

    def __init__(
        self, tokenizer: Any, arguments: Mapping[str, Any] | None = None, date: str | None = None, prefill: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: an instruct model is needed"
            )
        self.source = _source(tokenizer)
        self.date = date or DATE
        self.prefill = prefill
        self.tokens = TextTokens(tokenizer)
        self._names, self._sets = self._variables()
        self._given = dict(arguments or {})
        self.arguments = self._all_arguments()
        self.parts = self._take_apart()

    @property
    def is_dated(self) -> bool:
        """Whether the template asks for the date."""
        return "strftime_now" in self._names or "date_string" in self._names - self._sets

    @property
    def identity(self) -> list[Any]:
        """All that decides what the template writes: for the prompts' hash."""
        plain = {name: value for name, value in self.arguments.items() if name != "strftime_now"}
        return [self.source, sorted(plain.items()), self.date if self.is_dated else "", self.prefill]

    def check(self) -> None:
        """Refuse a template after whose prompt the student would go on with thoughts or a header. Raises UserError."""
        for opening in (self.parts.opening, self.parts.reopening):
            mark = left_open(opening)
            begins_turn = mark == "<|start|>" and "<|message|>" not in self.source  # it begins no header, then
            if mark and not begins_turn:
                raise UserError(
                    f"the chat template of {self.tokenizer.name_or_path!r} leaves {mark!r} open at the end of a prompt, so "
                    f"that a student's answer would be part of its thoughts: {self._remedy(mark)}"
                )

    def _remedy(self, mark: str) -> str:
        if name := next((name for name in THINKING if self._given.get(name) and name in self._names), None):
            return f"set student.template: {{{name}: false}}"
        return (
            f"set student.prefill: {json.dumps(closing_of(mark), ensure_ascii=False)}, which is put at the prompt's end"
        )

    def _variables(self) -> tuple[set[str], set[str]]:
        """Names that the template reads, and those that it sets. Refuses one that draws random values."""
        import jinja2
        from jinja2 import nodes

        try:
            tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION.sub("", self.source))
        except jinja2.TemplateSyntaxError as error:
            raise self._refused(f"is not valid Jinja ({error})") from None
        names = list(tree.find_all(nodes.Name))
        read = {name.name for name in names if name.ctx == "load"}
        if "lipsum" in read or any(f.name == "random" for f in tree.find_all(nodes.Filter)):
            raise self._refused("writes random text, so that no two prompts would be alike")
        return read, {name.name for name in names if name.ctx == "store"}

    def _all_arguments(self) -> dict[str, Any]:
        """The user's arguments over ours: thinking off, and a clock that stands still."""
        from transformers import PreTrainedTokenizerBase

        reserved = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}
        if taken := sorted(reserved & set(self._given)):
            raise UserError(f"student.template: {', '.join(taken)} cannot be set: prompts need it for themselves")
        day = day_of(self.date)
        values: dict[str, Any] = {name: False for name in THINKING if name in self._names}
        if "strftime_now" in self._names:
            values["strftime_now"] = day.strftime
        elif self.is_dated:
            values["date_string"] = day.strftime("%d %b %Y")
        return values | self._given

    def _take_apart(self) -> Parts:
        first, asked, said, later, *more = _MESSAGES[0], *_MESSAGES
        head, own_opening = self._around(first)
        _, header, tail, own_reopening = self._around(asked, said, later)
        if self._around(asked, said, later, *more)[-2:] != [tail, own_reopening]:
            raise self._refused("writes later turns in other ways than earlier ones")
        lead = header.removeprefix(own_opening) if header.startswith(own_opening) else ""
        written = self.prefill
        if lead.strip():
            # A header that stands before every answer (a channel, a recipient, an empty block of thoughts) is the
            # prompt's part, unless the user wants the student to write its thoughts there.
            written, lead = written or ("" if self._wants_thoughts(lead) else lead), ""
        end, end_id = self._end_of_turn(tail)
        trail, _, after = tail.partition(end)
        strips = self._strips(head, own_opening)
        opening, reopening = own_opening + written, own_reopening + written
        return Parts(head, opening, end + after, reopening, lead, trail, end, end_id, strips)

    def _wants_thoughts(self, lead: str) -> bool:
        return "think" in lead and any(self._given.get(name) for name in THINKING)

    def _around(self, *messages: str) -> list[str]:
        """The template's text before, between and after these messages, the first of which is the user's."""
        text = self._render(*messages)
        parts = []
        for message in messages:
            before, found, text = text.partition(message)
            if not found or message in text:
                raise self._refused("does not show every message once, in order and as it is")
            parts.append(before)
        return [*parts, text]

    def _render(self, *messages: str) -> str:
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(messages)]
        try:
            return self.tokenizer.apply_chat_template(
                turns, chat_template=self.source, tokenize=False, add_generation_prompt=True, **self.arguments
            )
        except Exception as error:  # a template may raise anything, and call `raise_exception` with words of its own
            raise self._refused(f"fails on a conversation of plain text ({type(error).__name__}: {error})") from None

    def _end_of_turn(self, tail: str) -> tuple[str, int]:
        """The first special token after an answer, as text and id. Nothing but spaces may stand before it."""
        controls = self.tokens.controls
        end_id = next((i for i in self.tokens.encode(tail) if i in controls), None)
        if end_id is None or (trail := tail.partition(controls[end_id])[0]).strip():
            shown = tail[:30] if end_id is None else trail
            raise self._refused(
                f"ends an answer with {shown!r}, which is no special token: nothing would stop the student"
            )
        return controls[end_id], end_id

    def _strips(self, head: str, opening: str) -> tuple[bool, bool]:
        shown = self._render(f" \n{_VERBATIM}\n ").removeprefix(head).removesuffix(opening)
        left, found, right = shown.partition(_VERBATIM)
        if not found or (left, right) not in {(a, b) for a in (" \n", "") for b in ("\n ", "")}:
            raise self._refused("does not show every message once, in order and as it is")
        return not left, not right

    def _refused(self, why: str) -> UserError:
        return UserError(
            f"the chat template of {self.tokenizer.name_or_path!r} {why}; choose another student, or put another "
            "chat_template.jinja into its folder"
        )


def day_of(date: str) -> datetime.date:
    """The day that a configuration names. Raises UserError."""
    try:
        return datetime.date.fromisoformat(date)
    except ValueError:
        raise UserError(f"student.date: {date!r} is no date; write it as 2026-01-31") from None


def _source(tokenizer: Any) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:  # several templates and none is the default
        raise UserError(f"the tokenizer of {tokenizer.name_or_path!r}: {error}") from None
