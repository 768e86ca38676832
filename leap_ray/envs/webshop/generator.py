"""A small made-up shop: the default catalogue of tests and of the quickstart, where nothing has to be downloaded.

Products, their attributes, options and instructions are drawn from word lists with one seed. Every instruction can be met in
full by its own product, titles are short, and some products differ in one attribute or in price only, so that choosing matters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from leap_ray.envs.webshop.products import HumanInstruction, Product, price_tag

VERSION = 2  # of the lists and rules: another number is another shop


@dataclass(frozen=True)
class Line:
    """A line of products: what they are, how shops file them, what they may have and what can be chosen."""

    noun: str
    query: str
    category: str
    path: str
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    prices: tuple[int, int]  # dollars


_COLORS = ("black", "white", "navy", "red", "green", "grey")
_WEAR = ("machine wash", "long sleeve", "short sleeve", "slim fit", "elastic waist", "cotton spandex", "quick drying")
_FOOD = ("gluten free", "sugar free", "non gmo", "low calorie", "plant based", "dairy free")
_SKIN = ("paraben free", "cruelty free", "long lasting", "fragrance free", "alcohol free", "dry skin")
_HOME = ("easy clean", "easy assemble", "space saving", "solid wood", "machine washable", "double sided")
_TECH = ("fast charging", "noise cancelling", "high speed", "water resistant", "easy carry", "hands free")
_SIZES = ("small", "medium", "large", "x-large")

_COLOR = {"color": _COLORS}
_WORN = {"color": _COLORS, "size": _SIZES}
_CUSHION = {"color": _COLORS, "size": ("16 inch", "20 inch", "24 inch")}
_FLAVOR = {"flavor": ("vanilla", "cocoa", "ginger", "sea salt")}
_SCENT = {"scent": ("rose", "citrus", "plain")}
_PACK = {"style": ("1 pack", "2 pack")}
_WEIGHT = {"size": ("8 ounce", "16 ounce", "24 ounce")}
_MEN, _WOMEN, _SNACKS, _AUDIO = "Clothing › Men", "Clothing › Women", "Grocery › Snacks", "Electronics › Audio"

LINES = (
    Line("shirt", "men's shirts", "fashion", f"{_MEN} › Shirts", _WEAR, _WORN, (12, 48)),
    Line("dress", "women's dresses", "fashion", f"{_WOMEN} › Dresses", _WEAR, _WORN, (18, 70)),
    Line("pants", "men's pants", "fashion", f"{_MEN} › Pants", _WEAR, _WORN, (15, 60)),
    Line("cookie", "cookies", "grocery", f"{_SNACKS} › Cookies", _FOOD, _FLAVOR, (4, 25)),
    Line("cracker", "crackers", "grocery", f"{_SNACKS} › Crackers", _FOOD, _FLAVOR, (4, 22)),
    Line("tea", "tea", "grocery", "Grocery › Beverages › Tea", _FOOD, _PACK, (5, 30)),
    Line("lotion", "body lotion", "beauty", "Beauty › Skin Care › Body", _SKIN, _SCENT, (6, 40)),
    Line("shampoo", "shampoo", "beauty", "Beauty › Hair Care › Shampoo", _SKIN, _WEIGHT, (7, 35)),
    Line("lipstick", "lipstick", "beauty", "Beauty › Makeup › Lips", _SKIN, _COLOR, (5, 28)),
    Line("shelf", "shelf units", "garden", "Home › Furniture › Shelves", _HOME, _COLOR, (25, 180)),
    Line("pillow", "throw pillows", "garden", "Home › Bedding › Pillows", _HOME, _CUSHION, (8, 45)),
    Line("curtain", "curtains", "garden", "Home › Decor › Curtains", _HOME, _COLOR, (14, 75)),
    Line("headphones", "headphones", "electronics", f"{_AUDIO} › Headphones", _TECH, _COLOR, (15, 190)),
    Line("charger", "chargers", "electronics", "Electronics › Power › Chargers", _TECH, _PACK, (8, 60)),
    Line("speaker", "speakers", "electronics", f"{_AUDIO} › Speakers", _TECH, _COLOR, (18, 140)),
)
_BRAND_NAMES = "Alder Birchly Corvo Dunmore Everly Fennick Garnet Hollis Ivoro Juniper Kestrel Lumen"
_BRANDS = _BRAND_NAMES.split()
_MANNERS = ("classic", "modern", "everyday", "premium", "vintage", "basic", "deluxe", "casual")


_DISTINCT = 4_000  # titles of one series; a larger shop numbers its series


def generate(count: int, seed: int) -> Iterator[Product]:
    """`count` products of the shop with that seed."""
    rng = random.Random(f"shop/{VERSION}/{seed}")
    codes: set[str] = set()
    titles: set[str] = set()
    while len(codes) < count:
        asin = f"B{rng.randrange(36**9):09X}"[:10]
        product = _product(rng.choice(LINES), asin, rng, len(titles) // _DISTINCT)
        if asin not in codes and product.title not in titles:
            codes.add(asin)
            titles.add(product.title)
            yield product


def _product(line: Line, asin: str, rng: random.Random, series: int) -> Product:
    attributes = tuple(rng.sample(line.attributes, 3))
    brand, manner = rng.choice(_BRANDS), rng.choice(_MANNERS)
    options = {name: rng.sample(values, rng.randint(2, min(4, len(values)))) for name, values in line.options.items()}
    low = rng.randint(*line.prices)
    pricing = (low - 0.01, low + rng.randint(3, 15) - 0.01) if rng.random() < 0.2 else (low - 0.01,)
    asked = tuple(sorted(rng.sample(attributes, 2)))
    title = f"{brand} {manner.title()} {line.noun.title()}, {attributes[0].title()}{f' {series}' if series else ''}"
    said = f"i need {line.query} that are {' and '.join(asked)}"
    chosen = tuple(rng.choice(values) for values in options.values())
    if chosen:
        said += f", {', '.join(chosen)} please"
    return Product(
        asin=asin,
        title=title,
        description=f"A {manner} {line.noun} by {brand}: {', '.join(attributes)}.",
        bullets=tuple(f"{attribute.capitalize()}." for attribute in attributes),
        pricing=pricing,
        tag=price_tag(pricing),
        options=options,
        category=line.category,
        query=line.query,
        product_category=line.path,
        attributes=attributes,
        nouns=(brand.lower(), line.noun),
        instruction=f"Find me {', '.join(asked)} {line.query}",
        instruction_attributes=asked,
        human=(HumanInstruction(said, asked, chosen),),
    )
