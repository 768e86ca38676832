"""The form of a prompted teacher's answer: its JSON schema, and reading it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leap_ray.teachers.actions import has_placeholders
from leap_ray.types import Episode


@dataclass(frozen=True, slots=True)
class Draft:
    """The teacher's words on one step, not yet checked."""

    reason: str
    action: str


@dataclass(frozen=True)
class Reading:
    """What an answer says. `drafts` by step (0-based); `trouble` says why nothing could be read."""

    summary: str = ""
    drafts: Mapping[int, Draft] = field(default_factory=dict)
    trouble: str = ""


def enumerable(episode: Episode, most: int) -> tuple[str, ...]:
    """All candidate actions of an episode, where an enumeration fits: every step has some, none stands for many, at most `most`.

    One list for the whole episode, so that all its calls send the same schema and share the provider's prompt cache.
    """
    if not all(step.candidates and not has_placeholders(step.candidates) for step in episode.steps):
        return ()
    actions = sorted({candidate for step in episode.steps for candidate in step.candidates})
    return tuple(actions) if len(actions) <= most else ()


def schema(actions: tuple[str, ...], *, per_step: bool) -> dict[str, Any]:
    """JSON schema of an answer, within what structured outputs support; `actions` become an enumeration."""
    action: dict[str, Any] = {"type": "string", "enum": list(actions)} if actions else {"type": "string"}
    words = {"reason": {"type": "string"}, "action": action}
    if per_step:
        return _object(words)
    step = _object({"step": {"type": "integer"}, **words})
    return _object({"summary": {"type": "string"}, "steps": {"type": "array", "items": step}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read(text: str, *, step: int | None = None) -> Reading:
    """The answer's content. `step`: the one step (0-based) that a per-step answer is about.

    An answer that was cut keeps its whole entries; the caller sees from the missing ones what to ask again.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        if step is None and (entries := _whole_entries(text)):
            return Reading(drafts=_drafts(entries))
        return Reading(trouble=f"it is not JSON ({error.msg} at character {error.pos}).")
    if not isinstance(plain, dict):
        return Reading(trouble="it is not a JSON object.")
    if step is not None:
        return Reading(drafts=_drafts([{**plain, "step": step + 1}]))
    entries = plain.get("steps")
    if not isinstance(entries, list):
        return Reading(trouble="it has no list `steps`.")
    return Reading(str(plain.get("summary", "")), _drafts(entries))


def _drafts(entries: list[Any]) -> dict[int, Draft]:
    drafts: dict[int, Draft] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            continue
        reason, action = entry.get("reason"), entry.get("action")
        if isinstance(reason, str) and isinstance(action, str):
            drafts.setdefault(entry["step"] - 1, Draft(" ".join(reason.split()), action.strip()))
    return drafts


def _whole_entries(text: str) -> list[Any]:
    """The complete objects of a `steps` list that ends in the middle."""
    start = text.find("[", text.find('"steps"'))
    if '"steps"' not in text or start < 0:
        return []
    decoder, entries, at = json.JSONDecoder(), [], start + 1
    while at < len(text):
        at += len(text[at:]) - len(text[at:].lstrip(", \t\r\n"))
        try:
            entry, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            break
        entries.append(entry)
    return entries
