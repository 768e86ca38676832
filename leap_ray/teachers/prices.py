"""What a call costs: a dated table, overridden by the configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from leap_ray.errors import UserError
from leap_ray.teachers.calls import Request, Usage
from leap_ray.teachers.usage import OVERHEAD, most

KINDS = ("input", "output", "cache_write", "cache_read")
TABLE = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True)
class Rates:
    """Dollars per million tokens."""

    input: float
    output: float
    cache_write: float
    cache_read: float

    def dollars(self, usage: Usage) -> float:
        parts = (usage.input * self.input, usage.output * self.output)
        cache = (usage.cache_write * self.cache_write, usage.cache_read * self.cache_read)
        return sum((*parts, *cache)) / 1e6


@dataclass(frozen=True)
class Prices:
    """Prices of one model. `long` are the rates of a request whose prompt is above `long_above` tokens."""

    model: str
    as_of: str
    rates: Rates
    batch_factor: float = 0.5
    long_above: int | None = None
    long: Rates | None = None

    def dollars(self, usage: Usage, *, batch: bool = False) -> float:
        """Cost of one call."""
        prompt = usage.input + usage.cache_write + usage.cache_read
        rates = self.long if self.long and self.long_above is not None and prompt > self.long_above else self.rates
        return rates.dollars(usage) * (self.batch_factor if batch else 1.0)

    def bound(self, request: Request, *, batch: bool = False) -> float:
        """The most that the request can cost: a token for every byte, all of it written to the cache, and the longest answer."""
        tokens = most(request.text) + OVERHEAD
        return self.dollars(Usage(cache_write=tokens, output=request.max_tokens), batch=batch)


@cache
def _table() -> dict[str, Any]:
    return yaml.safe_load(TABLE.read_text())


def prices_of(model: str, overrides: Mapping[str, float] | None = None) -> Prices:
    """Prices of a model: the configuration's, else the table's (a dated snapshot name finds its model).

    Raises UserError where neither knows the model, or an override has a name that is no kind of token.
    """
    overrides = dict(overrides or {})
    if unknown := sorted(set(overrides) - {*KINDS, "batch_factor"}):
        raise UserError(f"teacher.prices: unknown {', '.join(unknown)}; known are {', '.join(KINDS)} and batch_factor")
    table = _table()
    entry = dict(table["models"].get(model) or table["models"].get(re.sub(r"-20\d{6}$", "", model)) or {})
    if "input" in overrides or "output" in overrides:
        entry = {}  # the user's own price list: nothing of the table mixes into it
    merged = {**entry, **overrides}
    if "input" not in merged or "output" not in merged:
        raise UserError(
            f"no price is known for model {model!r} (table of {table['as_of']}): set teacher.prices with at least input "
            "and output, in dollars per million tokens"
        )
    long = merged.pop("long", None)
    return Prices(
        model=model,
        as_of="configuration" if overrides else str(table["as_of"]),
        rates=_rates(merged),
        batch_factor=float(merged.get("batch_factor", table["batch_factor"])),
        long_above=int(long["above"]) if long else None,
        long=_rates(long) if long else None,
    )


def _rates(entry: Mapping[str, Any]) -> Rates:
    price = float(entry["input"])
    write, read = entry.get("cache_write", 1.25 * price), entry.get("cache_read", 0.1 * price)
    return Rates(price, float(entry["output"]), float(write), float(read))
