"""Goals: what a shopper is asked to find. Made from the products exactly as WebShop makes them, in its order.

Prices of ranged products and price bounds are drawn one after another from one generator, in file order; then the goals are
shuffled by a generator of seed 233, as WebShop always does. Goals are kept as three numbers each and put together when read.
"""

from __future__ import annotations

import itertools
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from leap_ray.envs.webshop.products import CONTROL, Product
from leap_ray.errors import UserError
from leap_ray.types import digest

GoalKind = Literal["synthetic", "human"]
SHUFFLE_SEED = 233
NO_BOUND = 1_000_000.0  # dollars; the bound of a product dearer than all steps
_STEPS = [10.0 * i for i in range(1, 100)]


@dataclass(frozen=True)
class Goal:
    """One instruction with what a purchase is judged by."""

    asin: str  # the example product
    instruction: str
    attributes: tuple[str, ...]
    options: dict[str, str] | tuple[str, ...]  # synthetic: name → value; human: values
    price_upper: float  # dollars
    weight: float = 1.0

    @cached_property
    def option_items(self) -> tuple[str | tuple[str, str], ...]:
        return tuple(self.options.items()) if isinstance(self.options, dict) else self.options

    @property
    def values(self) -> tuple[str, ...]:
        """The option values asked for."""
        return tuple(self.options.values()) if isinstance(self.options, dict) else self.options

    @property
    def hash(self) -> str:
        """Names what is asked and how it is judged."""
        return digest(self.asin, self.instruction, self.attributes, self.options, self.price_upper, length=8)


def seeded(seed: int) -> random.Random:
    """The generator of prices and bounds as WebShop's process has it when it draws its first price.

    One 32-bit word has gone by then: the engine prints with `rich`, which draws an id when it is first used. Without it no
    price or bound agrees with the original's.
    """
    rng = random.Random(seed)
    rng.getrandbits(32)
    return rng


def draw_prices(products: Iterable[Product], rng: random.Random) -> np.ndarray:
    """One price per product, in dollars: a range's is drawn uniformly."""
    return np.array([rng.uniform(*p.pricing) if len(p.pricing) > 1 else min(p.pricing) for p in products], np.float64)


def draw_bound(price: float, rng: random.Random) -> tuple[float, str]:
    """(upper price, the words that say it): the larger of two of the next four steps of ten dollars."""
    steps = [step for step in _STEPS if step > price][:4]
    if len(steps) < 2:
        return NO_BOUND, ""
    upper = max(rng.sample(steps, 2))
    return upper, f", and price lower than {upper:.2f} dollars"


class GoalTable:
    """The goals of a catalogue by index, from arrays: product, variant (option combination or instruction), bound, weight."""

    def __init__(self, kind: GoalKind, arrays: dict[str, np.ndarray], product: Callable[[int], Product]) -> None:
        self.kind = kind
        self._arrays = arrays
        self._product = product

    def __len__(self) -> int:
        return len(self._arrays["product"])

    def __iter__(self) -> Iterator[Goal]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Goal:
        if not 0 <= index < len(self):
            raise UserError(f"goal {index}: this catalogue has {len(self)} {self.kind} goals")
        product = self._product(self.product_at(index))
        variant = int(self._arrays["variant"][index])
        upper, weight = float(self._arrays["upper"][index]), float(self._arrays["weight"][index])
        words = "" if upper == NO_BOUND else f", and price lower than {upper:.2f} dollars"
        if self.kind == "human":
            said = product.human[variant]
            return Goal(product.asin, said.text.strip(".") + words, said.attributes, said.options, upper, weight)
        options = combination(product.options, variant)
        listed = ", and ".join(f"{name}: {value}" for name, value in options.items())
        text = f"{product.instruction}{' with ' + listed if listed else ''}{words}"
        return Goal(product.asin, text, product.instruction_attributes, options, upper, weight)

    def product_at(self, index: int) -> int:
        """Number of the goal's example product."""
        return int(self._arrays["product"][index])

    @classmethod
    def open(cls, folder: Path, kind: GoalKind, product: Callable[[int], Product]) -> GoalTable:
        names = ("product", "variant", "upper", "weight")
        return cls(kind, {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in names}, product)


class ListedGoals:
    """Goals read from a file, in its order."""

    kind = "listed"

    def __init__(self, goals: list[Goal], find: Callable[[str], int | None], source: str) -> None:
        self._goals = goals
        self._numbers: list[int] = []
        for index, goal in enumerate(goals):
            number = find(goal.asin)
            if number is None:
                raise UserError(
                    f"{source}: goal {index} asks for product {goal.asin}, which the product file does not hold"
                )
            self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._goals)

    def __iter__(self) -> Iterator[Goal]:
        return iter(self._goals)

    def __getitem__(self, index: int) -> Goal:
        if not 0 <= index < len(self):
            raise UserError(f"goal {index}: the goals file has {len(self)}")
        return self._goals[index]

    def product_at(self, index: int) -> int:
        """Number of the goal's example product."""
        return self._numbers[index]


def goal_of(raw: dict[str, Any], where: str) -> Goal:
    """A goal from WebShop's own record of one."""
    try:
        options = raw["goal_options"]
        if not raw["attributes"]:
            raise ValueError("it asks for no attribute")
        goal = Goal(
            asin=raw["asin"].upper(),
            instruction=raw["instruction_text"],
            attributes=tuple(raw["attributes"]),
            options=dict(options) if isinstance(options, dict) else tuple(options),
            price_upper=float(raw["price_upper"]),
            weight=float(raw.get("weight", 1.0)),
        )
        _check_goal(goal, raw)
        return goal
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {type(error).__name__}: {error}: not a WebShop goal") from None


def _check_goal(goal: Goal, raw: dict[str, Any]) -> None:
    if not isinstance(raw["attributes"], list) or not isinstance(raw["goal_options"], (dict, list)):
        raise TypeError("attributes and goal_options must be lists (goal_options: or an object)")
    texts = (goal.instruction, *goal.attributes, *goal.values)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"{wrong[0]!r} is not text")
    if any(map(CONTROL.search, texts)):
        raise ValueError("it holds control characters")
    if not goal.price_upper > 0:
        raise ValueError(f"price_upper {goal.price_upper} is no bound")


def write_goals(
    folder: Path, kind: GoalKind, products: Iterable[Product], prices: np.ndarray, rng: random.Random
) -> None:
    """Draw the bounds in product order, shuffle, and write the arrays that `GoalTable.open` reads."""
    numbers, variants, uppers, weights = array("i"), array("q"), array("d"), array("d")
    counts: Counter[str] = Counter()
    asked: dict[int, tuple[str, ...]] = {}
    for number, product in enumerate(products):
        for upper, many, first, attributes in _goals_of(product, kind, float(prices[number]), rng):
            numbers.extend(itertools.repeat(number, many))
            variants.extend(range(first, first + many))
            uppers.extend(itertools.repeat(upper, many))
            for attribute in attributes:
                counts[attribute] += many
            asked[number] = attributes
    for number in numbers:
        each = asked[number]
        weights.append(1.0 if kind == "human" else sum(1.0 / counts[a] for a in each) / len(each))
    order = list(range(len(numbers)))
    random.Random(SHUFFLE_SEED).shuffle(order)
    columns = {"product": (numbers, np.int32), "variant": (variants, np.int64), "upper": (uppers, float)}
    for name, (values, dtype) in (columns | {"weight": (weights, float)}).items():
        np.save(folder / f"{name}.npy", np.array(values, dtype)[order] if order else np.zeros(0, dtype))


def _goals_of(
    product: Product, kind: GoalKind, price: float, rng: random.Random
) -> Iterable[tuple[float, int, int, tuple[str, ...]]]:
    """(bound, number of goals, first variant, attributes) for each draw of a bound."""
    if kind == "human":
        for variant, said in enumerate(product.human):
            if said.attributes:
                yield draw_bound(price, rng)[0], 1, variant, said.attributes
    elif product.instruction is not None:
        if not product.instruction_attributes:
            raise UserError(
                f"product {product.asin} has an instruction without attributes: another version of items_ins_v2"
            )
        many = 1
        for values in product.options.values():
            many *= len(values)
        yield draw_bound(price, rng)[0], many, 0, product.instruction_attributes


def combination(options: dict[str, list[str]], variant: int) -> dict[str, str]:
    """The variant-th choice of one value per option, names sorted, the last name turning fastest."""
    chosen: dict[str, str] = {}
    for name in reversed(sorted(options)):
        variant, place = divmod(variant, len(options[name]))
        chosen[name] = options[name][place]
    return dict(reversed(chosen.items()))
