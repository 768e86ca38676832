"""Whether an action is one of a step's candidates, in the candidates' own spelling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

PLACEHOLDER = re.compile(r"<[^<>]+>")


def fit(action: str, candidates: Sequence[str]) -> str | None:
    """The candidate that this action means, or None. Spaces and case do not matter; any text but itself fills a `<placeholder>`.

    Where there are no candidates, any action that says something fits.
    """
    action = action.strip()
    if not candidates:
        return action or None
    wanted = _plain(action)
    for candidate in candidates:
        if _plain(candidate) == wanted and not PLACEHOLDER.search(candidate):
            return candidate
    for candidate in candidates:
        if PLACEHOLDER.search(candidate) and _pattern(candidate).fullmatch(action):
            return action
    return None


def has_placeholders(candidates: Sequence[str]) -> bool:
    """Whether one of the candidates stands for many actions."""
    return any(PLACEHOLDER.search(candidate) for candidate in candidates)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


@lru_cache(maxsize=256)
def _pattern(candidate: str) -> re.Pattern[str]:
    parts = [re.escape(part) for part in PLACEHOLDER.split(candidate)]
    return re.compile(r"[^<>]+?".join(parts), re.IGNORECASE)
