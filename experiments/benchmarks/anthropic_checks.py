"""What the Messages API checks and counts, for the local protocol server."""

from __future__ import annotations

import hashlib
import json
from typing import Any

MIN_CACHED = 1024  # tokens; shorter prefixes are not cached
_SUPPORTED = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "description",
    "minItems",
    "anyOf",
}


class BadRequest(Exception):
    """A request that the API refuses, with its status and error type."""

    def __init__(self, message: str, status: int = 400, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def count_tokens(text: str) -> int:
    """A stand-in for the tokenizer: about 3.2 characters a token."""
    return (len(text) * 10 + 31) // 32


def check_request(body: Any) -> None:
    """Raise BadRequest for what the API would refuse."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be an object")
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if not isinstance(body.get(name), kind):
            raise BadRequest(f"{name}: Field required")
    if body["max_tokens"] < 1 or not body["messages"]:
        raise BadRequest("max_tokens and messages must not be empty")
    if body["messages"][0].get("role") != "user" or body["messages"][-1].get("role") != "user":
        raise BadRequest("messages: the first and the last must be of the user")
    blocks = list(_blocks(body))
    if any(block.get("type") == "text" and not block.get("text") for block in blocks):
        raise BadRequest("messages: text content blocks must be non-empty")
    if sum("cache_control" in block for block in blocks) > 4:
        raise BadRequest("A maximum of 4 blocks with cache_control may be provided")
    config = body.get("output_config") or {}
    if config.get("effort") not in (None, "low", "medium", "high", "xhigh", "max"):
        raise BadRequest("output_config.effort: unknown value")
    if "temperature" in body:
        raise BadRequest("temperature: not supported by this model")
    if form := config.get("format"):
        if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
            raise BadRequest("output_config.format: a json_schema is needed")
        _check_schema(form["schema"])


def _check_schema(schema: dict[str, Any]) -> None:
    if unknown := set(schema) - _SUPPORTED:
        raise BadRequest(f"output_config.format.schema: {', '.join(sorted(unknown))} not supported")
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            raise BadRequest("output_config.format.schema: 'additionalProperties' must be false for objects")
        for inner in schema.get("properties", {}).values():
            _check_schema(inner)
    if schema.get("type") == "array":
        _check_schema(schema["items"])
        if schema.get("minItems", 0) not in (0, 1):
            raise BadRequest("output_config.format.schema: minItems must be 0 or 1")


def _blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    system = body.get("system") or []
    parts = [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
    for message in body["messages"]:
        content = message["content"]
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


def prefixes(body: dict[str, Any]) -> tuple[list[tuple[str, int]], int]:
    """([(name, tokens) of the prefix up to each cache breakpoint], tokens of the whole prompt).

    A schema stands before the prompt, so another schema is another prefix.
    """
    form = (body.get("output_config") or {}).get("format")
    head = json.dumps([body["model"], form], sort_keys=True)
    running, total = hashlib.sha256(head.encode()), 10 + (count_tokens(json.dumps(form)) if form else 0)
    marks = []
    for block in _blocks(body):
        running.update(block.get("text", "").encode())
        total += count_tokens(block.get("text", "")) + 3
        if "cache_control" in block and total >= MIN_CACHED:
            marks.append((running.hexdigest(), total))
    return marks, total
