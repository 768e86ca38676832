"""Numbers that a setting may have, written beside its type: `learning_rate: Annotated[float, Bounds(above=0)] = 3e-5`."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest value; `above` and `under` are bounds that it may not reach itself. Never NaN or infinity."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    under: float = math.inf

    def complaint(self, value: float) -> str | None:
        """What is wrong with the value, in words that follow it; None if nothing is."""
        if not math.isfinite(value):
            return "is no finite number"
        if self.least <= value <= self.most and self.above < value < self.under:
            return None
        low, high = max(self.least, self.above), min(self.most, self.under)
        if math.isfinite(low) and math.isfinite(high):
            return f"is not in {low:g}…{high:g}"
        if value <= low:
            return f"is not above {low:g}" if self.above == low else f"is below {low:g}"
        return f"is not below {high:g}" if self.under == high else f"is above {high:g}"


Count = Annotated[int, Bounds(least=1)]
Whole = Annotated[int, Bounds(least=0)]
Amount = Annotated[float, Bounds(least=0)]
Positive = Annotated[float, Bounds(above=0)]
Share = Annotated[float, Bounds(least=0, most=1)]


def complaints(settings: Any, where: str = "") -> Iterator[str]:
    """Of every number in a dataclass of settings, and in those that it holds, what is wrong: "learner.rank: 0 is below 1"."""
    for name, hint in _hints(type(settings)).items():
        yield from _complaints(hint, getattr(settings, name), f"{where}.{name}" if where else name)


def _complaints(hint: Any, value: Any, where: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [extra for extra in arguments[1:] if isinstance(extra, Bounds)]
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from (f"{where}: {value:g} {said}" for b in bounds if (said := b.complaint(value)))
    elif origin in (typing.Union, types.UnionType):
        matching = [a for a in arguments if _is(a, value)]
        if matching:
            yield from _complaints(matching[0], value, where)
    elif isinstance(value, tuple | list) and arguments:
        for number, item in enumerate(value):
            yield from _complaints(arguments[0], item, f"{where}[{number}]")
    elif isinstance(value, dict) and len(arguments) == 2:
        for key, item in value.items():
            yield from _complaints(arguments[1], item, f"{where}.{key}")
    elif dataclasses.is_dataclass(value):
        yield from complaints(value, where)


def _is(hint: Any, value: Any) -> bool:
    """Whether this member of a union is the value's."""
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else typing.get_origin(hint) or hint
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(plain, type) and isinstance(value, plain)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)
