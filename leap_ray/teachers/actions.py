"""What a teacher's action means at a step: which candidate it is, in the environment's own spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from leap_ray.types import Step

PLACEHOLDER = re.compile(r"<[^<>]+>")
MARKUP = re.compile(r"[*`]+|(?<!\w)_{2,}|_{2,}(?!\w)")  # emphasis and code marks of Markdown
FENCE = re.compile(r"(```|`)(?:(?<=```)\w*\n)?([^`]+)\1")  # all of an answer as a piece of code
AROUND = " \t\r\n.,;:!?()>_-\"'\u2018\u2019\u201c\u201d\u00ab\u00bb"  # what may stand around an action in a sentence


def fit(action: str, candidates: Sequence[str]) -> str | None:
    """The candidate that this action means, or None. Any text but itself fills a `<placeholder>`.

    Spaces and case do not matter, and neither do Markdown's marks, quotes and full stops around the action where no candidate is
    meant by the words as they stand, and one alone without them. Where there are no candidates, any action that says something
    fits.
    """
    if not candidates:
        return _unfenced(action) or None
    action = action.strip()
    if action in candidates and not PLACEHOLDER.search(action):
        return action
    for plain in (_plain, _bare):
        if named := _named(action, candidates, plain):
            return named[0] if plain is _plain or len(named) == 1 else None
    for text in (action, _undressed(action)):
        for candidate in candidates:
            if PLACEHOLDER.search(candidate) and (filled := _fill(candidate, text)):
                return filled
    return None


def canonical(step: Step) -> str:
    """The student's action in the environment's spelling: what is compared, and trained on.

    Where neither the environment nor the record says it, it is the candidate that the action means.
    """
    if step.spelling or not (step.valid and step.action and step.candidates):
        return step.spelling or step.action
    return fit(step.action, step.candidates) or step.action


def meaning(action: str, step: Step) -> str | None:
    """What this action would be at the step, in the environment's spelling, or None if it is not available there.

    An action that the environment has read is known by what it was read as, also where it is not listed. Where actions are
    listed, case and spaces do not tell two of them apart.
    """
    own = canonical(step)
    if step.valid and own and _code(action) in (_code(step.action), _code(own)):
        return own
    meant = fit(action, step.candidates)
    if meant and step.valid and step.candidates and _plain(meant) == _plain(own):
        return own
    return meant


def has_placeholders(candidates: Sequence[str]) -> bool:
    """Whether one of the candidates stands for many actions."""
    return any(PLACEHOLDER.search(candidate) for candidate in candidates)


def _named(action: str, candidates: Sequence[str], plain: Callable[[str], str]) -> list[str]:
    """The candidates without a placeholder that are this action, each once."""
    wanted = plain(action)
    return list(dict.fromkeys(c for c in candidates if plain(c) == wanted and not PLACEHOLDER.search(c)))


def _code(text: str) -> str:
    """An action without the marks of code around it, or the semicolon that may end a statement."""
    return _unfenced(text).rstrip("; \t\r\n")


def _unfenced(text: str) -> str:
    """The text inside a fence or backticks that enclose all of it."""
    text = text.strip()
    found = FENCE.fullmatch(text)
    return found[2].strip() if found else text


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _undressed(text: str) -> str:
    return MARKUP.sub("", text).strip(AROUND)


def _bare(text: str) -> str:
    return _plain(_undressed(text))


def _fill(candidate: str, action: str) -> str:
    """The candidate with its placeholders filled as in the action; "" if the action is no such one."""
    found = _pattern(candidate).fullmatch(action)
    if not found:
        return ""
    fixed, words = PLACEHOLDER.split(candidate), iter(found.groups())
    return fixed[0] + "".join(next(words) + part for part in fixed[1:])


@lru_cache(maxsize=256)
def _pattern(candidate: str) -> re.Pattern[str]:
    parts = [re.escape(part) for part in PLACEHOLDER.split(candidate)]
    return re.compile(r"([^<>]+?)".join(parts), re.IGNORECASE)
