"""The form of a prompted teacher's answer: its JSON schema, and reading it back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from leap_ray.teachers.actions import has_placeholders
from leap_ray.teachers.calls import printable
from leap_ray.types import Episode

MOST_OBJECTS = 200  # places of an answer's text at which an object is looked for
_THOUGHTS_END = "</think>"
_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')


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

    Models that are not held to the schema put thoughts before the answer, fences and words around it, commas at its end: all
    that is read the same way for one step and for all. An answer that was cut keeps its whole entries; the caller sees from the
    missing ones what to ask again.
    """
    said = _after_thoughts(text)
    wanted = _one_step if step is not None else _all_steps
    for form in (said, _COMMA.sub(lambda match: match.group(1) or "", said)):
        if answers := [answer for plain in _objects(form) if (answer := wanted(plain, step)) is not None]:
            return answers[-1]  # words before the answer may hold an example of it
    if step is None and (entries := _whole_entries(said)):
        return Reading(drafts=_drafts(entries))
    return Reading(trouble=_trouble(said, step))


def _all_steps(plain: Any, _: int | None) -> Reading | None:
    entries = plain.get("steps") if isinstance(plain, dict) else plain
    if not isinstance(entries, list) or (isinstance(plain, list) and not _drafts(entries)):
        return None
    summary = plain.get("summary", "") if isinstance(plain, dict) else ""
    return Reading(printable(summary) if isinstance(summary, str) else "", _drafts(entries))


def _one_step(plain: Any, step: int | None) -> Reading | None:
    """An answer about one step: its reason and action, or the form of all steps with this one in it."""
    assert step is not None
    if isinstance(plain, dict) and isinstance(plain.get("steps"), list):
        draft = _drafts(plain["steps"]).get(step)
        return Reading(drafts={step: draft}) if draft else None
    drafts = _drafts([{**plain, "step": step + 1}]) if isinstance(plain, dict) else {}
    return Reading(drafts=drafts) if drafts else None


def _trouble(text: str, step: int | None) -> str:
    """Why nothing could be read."""
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        return f"it is not JSON ({error.msg} at character {error.pos})."
    except (ValueError, RecursionError):
        return "it is not JSON that can be read."
    if not isinstance(plain, dict):
        return "it is not a JSON object."
    return "it has no list `steps`." if step is None else "it has no strings `reason` and `action`."


def _after_thoughts(text: str) -> str:
    """The answer without the model's thoughts before it; nothing where the thoughts never end."""
    if _parsed(text) is not None:
        return text
    _, mark, after = text.rpartition(_THOUGHTS_END)
    if mark and "{" in after:
        return after
    return "" if text.lstrip().startswith("<think>") and not mark else text


def _objects(text: str) -> Iterator[Any]:
    """The whole text as JSON, else every object in it, in order."""
    if (plain := _parsed(text)) is not None:
        yield plain
        return
    decoder, at = json.JSONDecoder(), 0
    for _ in range(MOST_OBJECTS):
        places = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not places:
            return
        at = min(places)
        try:
            plain, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield plain


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _drafts(entries: list[Any]) -> dict[int, Draft]:
    drafts: dict[int, Draft] = {}
    for entry in entries:
        number = _number(entry.get("step")) if isinstance(entry, dict) else None
        if number is None:
            continue
        reason, action = entry.get("reason"), entry.get("action")
        if isinstance(reason, str) and isinstance(action, str):
            drafts.setdefault(number - 1, Draft(" ".join(printable(reason).split()), printable(action).strip()))
    return drafts


def _number(value: Any) -> int | None:
    """A step's number; some models write it as a string."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
        except (ValueError, RecursionError):
            break
        entries.append(entry)
    return entries
