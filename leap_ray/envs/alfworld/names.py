"""How ALFWorld's objects are called: in THOR, in PDDL, and in what the game says."""

from __future__ import annotations

import re
from collections.abc import Iterable


def pddl_name(thor_id: str) -> str:
    """The PDDL name of a THOR object id: "Apple|-03.39|+00.96" is "apple_bar__minus_03_dot_39_bar__plus_00_dot_96"."""
    text = thor_id.lower()
    for sign, word in (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_"), (",", "_comma_")):
        text = text.replace(sign, word)
    return text


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names sorted as people count: "drawer 2" before "drawer 10"."""
    return tuple(sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]))
