"""WebShop's reward: r = r_type · (attributes + options + price) / (their number), with its parts.

The string ratio is thefuzz 0.22's, which rapidfuzz gives after dropping code points 128…255 and its default processing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz import fuzz
from rapidfuzz.utils import default_process

from leap_ray.envs.webshop.goals import Goal
from leap_ray.envs.webshop.products import Product

SIMILAR = 85  # a ratio above this is a match
_COLORS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo caramel
champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal dark denim
eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki
lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom mustard
natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell silver
skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
COLORS = tuple(_COLORS.split())  # the first one contained in a value is its colour
_LATIN1 = {code: None for code in range(128, 256)}

Nouns = Callable[[Product], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Reward:
    """A purchase's reward and what it is made of. Shares (`w_*`) and matches as in WebShop's own breakdown."""

    total: float
    r_type: float
    r_att: float
    w_att: float
    query_match: bool
    category_match: bool
    title_score: float
    r_price: bool
    w_price: float
    r_option: float | None  # None where the goal asks for no option
    w_option: float | None

    @property
    def parts(self) -> dict[str, float]:
        """The columns of LEAP's tables; like its tables, a goal without options counts 0 in `option`."""
        return {"att": self.r_att, "option": self.r_option or 0.0, "type": self.r_type, "price": float(self.r_price)}

    @property
    def breakdown(self) -> dict[str, float | bool]:
        """WebShop's own `verbose_info`: option entries are absent where the goal asks for none."""
        names = ("r_type", "r_att", "w_att", "query_match", "category_match", "title_score")
        out = {name: getattr(self, name) for name in names}
        if self.r_option is not None:
            out |= {"r_option": self.r_option, "w_option": self.w_option}
        return out | {"r_price": self.r_price, "w_price": self.w_price}


NOTHING_BOUGHT = {"att": 0.0, "option": 0.0, "type": 0.0, "price": 0.0}


def reward(
    product: Product, wanted: Product, goal: Goal, price: float, options: Mapping[str, str], nouns: Nouns
) -> Reward:
    """The reward of buying `product` at `price` with `options` selected; `wanted` is the goal's own product."""
    query_match, category_match, title_score, r_type = type_match(product, wanted, nouns)
    attributes = sum(has_attribute(product, attribute) for attribute in goal.attributes)
    matched = matched_options(options.values(), goal.option_items)
    affordable = price <= goal.price_upper
    asked = len(goal.option_items)
    parts = len(goal.attributes) + asked + 1
    return Reward(
        total=(attributes + matched + affordable) / parts * r_type,
        r_type=r_type,
        r_att=attributes / len(goal.attributes),
        w_att=len(goal.attributes) / parts,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        r_price=affordable,
        w_price=1 / parts,
        r_option=matched / asked if asked else None,
        w_option=asked / parts if asked else None,
    )


def type_match(product: Product, wanted: Product, nouns: Nouns) -> tuple[bool, bool, float, float]:
    """(same query, two shared categories, share of the goal title's nouns, r_type)."""
    query_match = product.query == wanted.query
    category_match = len(_categories(product.product_category) & _categories(wanted.product_category)) >= 2
    have, need = nouns(product), nouns(wanted)
    title_score = len(set(have) & set(need)) / len(need) if need else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1 if title_score else 0.0
    return query_match, category_match, title_score, r_type


def has_attribute(product: Product, attribute: str) -> bool:
    """Whether the product carries the attribute: by its own list, else in its texts."""
    if any(ratio(own, attribute) > SIMILAR for own in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(attribute in text.lower() for text in texts)


def matched_options(chosen: Iterable[str], asked: Iterable[str | tuple[str, str]]) -> int:
    """How many of the goal's options are met by the chosen values.

    A synthetic goal's option is a (name, value) pair: it becomes a colour only if name or value *is* one, else the pair's
    Python text is compared. That is the original's doing, and scores depend on it.
    """
    have = [color_of(value) for value in chosen]
    return sum(any(ratio(value, want) > SIMILAR for value in have) for want in map(color_of, asked))


@lru_cache(maxsize=100_000)
def color_of(value: str | tuple[str, str]) -> str:
    """The first known colour in the value, else the value itself (a pair as its Python text)."""
    return next((color for color in COLORS if color in value), value if isinstance(value, str) else str(value))


@lru_cache(maxsize=200_000)
def ratio(left: str, right: str) -> int:
    """thefuzz 0.22's token_set_ratio, 0…100."""
    return round(fuzz.token_set_ratio(_processed(left), _processed(right)))


@lru_cache(maxsize=100_000)
def _processed(text: str) -> str:
    return default_process(text.translate(_LATIN1))


@lru_cache(maxsize=100_000)
def _categories(path: str) -> frozenset[str]:
    return frozenset(part.strip() for part in path.split("›"))
