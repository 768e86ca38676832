"""The form in which requests are sent, adapted to what a server refuses: once, for the rest of the process, and said.

Servers that call themselves compatible differ in how they name the limit of an answer, which structured output they know, whether
they take a system prompt, and how long a prompt and an answer may be together. None of it decides what is asked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from leap_ray.teachers.calls import CallFailed, Request, Turn
from leap_ray.teachers.refusals import Meaning, Refusal

LEAST_ANSWER = 256  # tokens below which an answer is not worth asking for
SPARE = 64  # tokens between an estimated prompt and its answer, and of a chat's template
GUESS = 0.4  # tokens a character of a prompt, until a server has counted one
STRUCTURES = ("schema", "no enum", "json object", "text")  # each asks less of the server than the one before

_UNKNOWN = (
    r"(not[ _]supported|unsupported|not[ _]support|unrecogni[sz]ed|unknown|not permitted|not allowed|unexpected|"
    r"extra|invalid)"
)
_STRUCTURE = re.compile(
    r"response_?format|json_?schema|json[ _]object|output_config|output_format|structured[ _]output|guided|grammar|\benum\b|"
    r"schema|too many states|json mode|requested parameters",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"grammar|\benum\b|too many states|too complex|complexity|too large|exceeds?\b", re.IGNORECASE)
_SCHEMA_UNKNOWN = re.compile(
    r"(response_?format|json_?schema).{0,80}(unavailable|unsupported|not[ _]support|must be|should be|expected|unknown)|"
    r"(unsupported|unknown|unavailable|not support|invalid).{0,60}(response_?format|json_?schema|structured[ _]output)",
    re.IGNORECASE | re.DOTALL,
)
_SYSTEM = re.compile(
    r"system role|role.{0,40}system|system.{0,30}(not[ _]supported|unsupported|not[ _]support|not enabled)|developer instruction|"
    r"does not support.{0,20}system|roles must alternate|only (supports? )?user and (assistant|model)",
    re.IGNORECASE,
)
_LIMIT_NAME = re.compile(
    r"max_completion_tokens.{0,20}instead|max_tokens.{0,60}" + _UNKNOWN + "|" + _UNKNOWN + r".{0,60}max_tokens",
    re.IGNORECASE | re.DOTALL,
)
_EFFORT = re.compile(r"effort", re.IGNORECASE)
_STRICT = re.compile(
    r"\bstrict\b.{0,60}" + _UNKNOWN + r"|" + _UNKNOWN + r".{0,60}\bstrict\b", re.IGNORECASE | re.DOTALL
)
_CACHE = re.compile(r"cache_control.{0,80}" + _UNKNOWN, re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(
    r"context[ _](length|window|size|limit)|max_(completion_|new_|output_|total_)?tokens`?'?.{0,60}"
    r"(too large|too big|exceed|at most|less than|greater|range|maximum|must be|>)|requested token count|inputs` tokens|"
    r"prompt is too long|maximum allowed number of output tokens|too large for model|reduce (the length|your message)|"
    r"request too large|max_tokens > \d",
    re.IGNORECASE | re.DOTALL,
)
_LENGTH_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "max_tokens_exceeded"})
_CONTEXT = (  # the particular before the general
    r"\+ \d+ > (\d+)",
    r"<= ?`?(\d+)`?\. given",
    r"limit:? (\d+), requested",
    r"with (\d+) maximum context",
    r"tokens > (\d+) maximum",
    r"(?:context (?:length|window|size|limit)|max_total_tokens|n_ctx)\D{0,40}?(\d+)",
)
_PROMPT = (
    r"(\d+) (?:tokens )?(?:in|of|from) the (?:messages|prompt|input)",
    r"(\d+) (?:`inputs`|input|prompt|text input) tokens",
    r"(\d+) tokens from the input",
    r"(\d+) of text input",
    r"prompt (?:contains|has|is)\D{0,20}(\d+)",
    r"messages resulted in (\d+)",
    r"request has (\d+)",
    r"\"n_prompt_tokens\": ?(\d+)",
    r"exceed context limit: (\d+) \+",
    r"too long: (\d+) tokens",
)
_ANSWER = (
    r"at most `?(\d+)`? (?:completion|output) tokens",
    r"range of max_\w*tokens is \[\d+, ?(\d+)\]",
    r"range \[\d+, ?(\d+)\]",
    r"max_\w*tokens`?'? must be (?:less than or equal to|at most|<=) `?(\d+)`?",
    r"max_\w*tokens:? \d+ > (\d+)",
    r"max_tokens > (\d+)",
)


@dataclass(frozen=True)
class Form:
    """How a server wants its requests. `most`: tokens of an answer; `context`: of prompt and answer together."""

    structure: str = STRUCTURES[0]
    limit: str = "max_tokens"
    system: bool = True
    effort: bool = True
    strict: bool = True
    cache: bool = True
    most: int | None = None
    context: int | None = None
    per_character: float = GUESS  # tokens of a prompt

    def room(self, request: Request) -> int:
        """Tokens that the answer to this request may have. Below LEAST_ANSWER: the prompt does not fit."""
        room = request.max_tokens if self.most is None else min(request.max_tokens, self.most)
        if self.context is not None:
            room = min(room, self.context - math.ceil(self.per_character * request.characters) - SPARE)
        return room

    def check_room(self, request: Request) -> None:
        """Raises CallFailed where the prompt leaves no room for an answer."""
        if self.room(request) < min(LEAST_ANSWER, request.max_tokens):
            raise CallFailed(f"the prompt does not fit the server's context of {self.context} tokens", Meaning.THIS)

    def schema(self, request: Request) -> dict[str, Any] | None:
        """The schema as it is sent in this form; None where structure is asked for in words."""
        if request.schema is None or self.structure not in STRUCTURES[:2]:
            return None
        return request.schema if self.structure == STRUCTURES[0] else without_enum(request.schema)

    def instruction(self, request: Request) -> str:
        """What stands in for a schema that the server does not take."""
        if request.schema is None or self.structure in STRUCTURES[:2]:
            return ""
        form = json.dumps(without_enum(request.schema), ensure_ascii=False)
        return f"\n\n# Form\nAnswer with one JSON object of this JSON Schema, and with nothing else:\n{form}"

    def messages(self, request: Request) -> tuple[str, list[Turn]]:
        """(system prompt, turns): the system prompt goes before the first turn where the server takes none."""
        system, turns = request.system + self.instruction(request), list(request.turns)
        if self.system or not turns:
            return system, turns
        return "", [dataclasses.replace(turns[0], text=f"{system}\n\n{turns[0].text}"), *turns[1:]]


def without_enum(schema: Any) -> Any:
    """The schema without its enumerations."""
    if isinstance(schema, dict):
        return {name: without_enum(inner) for name, inner in schema.items() if name != "enum"}
    return [without_enum(inner) for inner in schema] if isinstance(schema, list) else schema


def has_enum(schema: Any) -> bool:
    """Whether an enumeration stands anywhere in it."""
    return schema is not None and without_enum(schema) != schema


def adapted(form: Form, refusal: Refusal, request: Request, *, chat: bool = True) -> tuple[Form, str] | None:
    """(a form that avoids what was refused, what is different in it), or None where the form is not to blame.

    Each change asks less than before, so that asking again and again comes to an end. `chat`: the chat-completions API, whose
    servers differ in more than Anthropic's own.
    """
    text = f"{refusal.param} {refusal.text}"
    too_large = "request too large" in text.lower()  # larger than a minute's whole limit: waiting does not help
    if refusal.status in (401, 402, 408, 409) or (refusal.status == 429 and not too_large):
        return None
    if refusal.meaning is Meaning.FLAGGED or (refusal.meaning is Meaning.EVERY and "parameter" not in text):
        return None
    too_long = bool(_LENGTH.search(text) or refusal.codes & _LENGTH_CODES)
    if chat and form.limit == "max_tokens" and _names_limit(refusal, text, too_long):
        return dataclasses.replace(form, limit="max_completion_tokens"), "max_completion_tokens in place of max_tokens"
    if form.effort and request.effort is not None and _EFFORT.search(text):
        return dataclasses.replace(form, effort=False), f"no effort ({request.effort})"
    if chat and form.system and request.system and _SYSTEM.search(text):
        return dataclasses.replace(form, system=False), "the system prompt inside the first message"
    if form.cache and _CACHE.search(text):
        return dataclasses.replace(form, cache=False), "no marks for the prompt cache"
    if request.schema is not None and _STRUCTURE.search(text) and not refusal.codes & _LENGTH_CODES:
        return _less_structure(form, text, request, chat)
    return _shorter(form, text, request) if too_long else None


def _names_limit(refusal: Refusal, text: str, too_long: bool) -> bool:
    if refusal.param and ("unsupported" in " ".join(refusal.codes) or "extra_forbidden" in text):
        return refusal.param.endswith("max_tokens")
    return bool(_LIMIT_NAME.search(text)) and (not too_long or ("max_completion_tokens" in text and "instead" in text))


def _less_structure(form: Form, text: str, request: Request, chat: bool) -> tuple[Form, str] | None:
    at = STRUCTURES.index(form.structure)
    if chat and at < 2 and form.strict and _STRICT.search(text) and not _TOO_LARGE.search(text):
        return dataclasses.replace(form, strict=False), "a schema that is not `strict`"
    if at == 0 and has_enum(request.schema) and not _SCHEMA_UNKNOWN.search(text) and _TOO_LARGE.search(text):
        return dataclasses.replace(form, structure="no enum"), "a schema that does not list the actions"
    if at < 2 and chat:
        return dataclasses.replace(
            form, structure="json object"
        ), "a JSON object without a schema; the prompt tells its form"
    if at < 3:
        return dataclasses.replace(form, structure="text"), "no structured output; the prompt tells the form"
    return None


def _shorter(form: Form, text: str, request: Request) -> tuple[Form, str] | None:
    """A form with a shorter answer, from the server's own numbers where it tells any."""
    plain = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text.lower())
    sent = form.room(request)
    context, prompt, most = (_number(patterns, plain) for patterns in (_CONTEXT, _PROMPT, _ANSWER))
    if most and most < sent and not (context and prompt):
        return dataclasses.replace(form, most=most), f"answers of at most {most} tokens"
    if context is not None:
        counted = max(form.per_character, 1.05 * prompt / max(1, request.characters)) if prompt else form.per_character
        changed = dataclasses.replace(form, context=context, per_character=counted)
        if changed.room(request) < sent:
            words = f"answers that fit the server's context of {context} tokens"
            return (changed, words) if changed.room(request) >= LEAST_ANSWER else None
    if sent // 2 < LEAST_ANSWER:
        return None
    return dataclasses.replace(form, most=sent // 2), f"answers of at most {sent // 2} tokens"


def _number(patterns: tuple[str, ...], text: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, text):
            return int(match.group(1)[:12])
    return None
