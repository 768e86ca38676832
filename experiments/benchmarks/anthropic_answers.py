"""What the local protocol server answers: well-formed corrections made from the words of our own prompts, and spoilt ones.

No model stands behind it. For every step it keeps an action that was understood and is new, else it takes the available action
that shares most words with the task and the privileged state and was tried least. That is enough to carry a whole run.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

_STEP = re.compile(r'<step number="(\d+)">(.*?)</step>', re.DOTALL)
_TAG = {
    "actions": re.compile(r"<available_actions>\n(.*?)\n</available_actions>", re.DOTALL),
    "student": re.compile(r'<student_action understood="(yes|no)">(.*?)</student_action>', re.DOTALL),
    "action": re.compile(r"<action>(.*?)</action>", re.DOTALL),
    "task": re.compile(r"<task>\n(.*?)\n</task>", re.DOTALL),
    "privileged": re.compile(r"<privileged_state>\n(.*?)\n</privileged_state>", re.DOTALL),
}


def plausible(body: dict[str, Any]) -> str:
    """An answer in the asked form."""
    texts = _texts(body)
    first = texts[0]
    wanted = _words(" ".join(_found("task", first) + _found("privileged", first)))
    tried: Counter[str] = Counter()
    entries = [_entry(int(n), inside, wanted, tried) for n, inside in _STEP.findall(first)]
    asked = re.search(r"Correct step (\d+) only", texts[1]) if len(texts) > 1 else None
    if asked:
        entry = entries[int(asked.group(1)) - 1]
        return json.dumps({"reason": entry["reason"], "action": entry["action"]})
    if again := re.findall(r"^- step (\d+):", texts[-1], re.MULTILINE):
        entries = [entry for entry in entries if str(entry["step"]) in again]
    form = (body.get("output_config") or {}).get("format") or {}
    if "steps" not in form.get("schema", {}).get("properties", {}) and entries:
        return json.dumps({"reason": entries[-1]["reason"], "action": entries[-1]["action"]})
    summary = "The student searched without a plan and repeated actions that had failed."
    return json.dumps({"summary": summary, "steps": entries})


def _entry(number: int, inside: str, wanted: set[str], tried: Counter[str]) -> dict[str, Any]:
    taken = _found("action", inside)
    actions = "\n".join(_found("actions", inside)).split("\n")
    understood, own = (_TAG["student"].findall(inside) or [("no", "")])[0]
    if taken:
        action = taken[0]
    elif understood == "yes" and not tried[own]:
        action = own
    else:
        action = min(actions, key=lambda a: (tried[a] - 0.4 * len(_words(a) & wanted), a)) or "look"
    tried[own or action] += 1
    action = action.replace("<search query>", "a fitting product")
    return {"step": number, "reason": "This is still open and may bring the task forward.", "action": action}


def spoil(text: str, fault: str | None, body: dict[str, Any]) -> tuple[str, str]:
    """(text, stop_reason) of an answer with this fault."""
    rng = random.Random(text)
    if fault == "refusal":
        return "", "refusal"
    if fault == "malformed":
        return text.replace('"', "'", 7), "end_turn"
    if fault in ("truncated", "max_tokens"):
        return text[: rng.randint(len(text) // 3, len(text) - 2)], "end_turn" if fault == "truncated" else "max_tokens"
    if fault is None:
        return text, "end_turn"
    plain = json.loads(text)
    steps = plain.get("steps") or []
    if fault == "short" and len(steps) > 1:
        plain["steps"] = rng.sample(steps, len(steps) // 2)
    if fault == "unavailable":
        for entry in rng.sample(steps, min(2, len(steps))) or [plain]:
            entry["action"] = "fly to the moon"
    return json.dumps(plain), "end_turn"


def _texts(body: dict[str, Any]) -> list[str]:
    texts = []
    for message in body["messages"]:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [block["text"] for block in content]
    return texts


def _found(tag: str, text: str) -> list[str]:
    return _TAG[tag].findall(text)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 2 or word.isdigit()}
