"""Raw product files to products, by WebShop's own rules of cleaning.

Reads the files WebShop publishes (`items_shuffle*.json` with `items_ins_v2*.json` and `items_human_ins.json`), or one
`products*.jsonl[.gz]` that carries all of it per line. A record of another version of the files is one UserError naming it.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import IO, Any

from leap_ray.errors import UserError

NEEDED = ("asin", "name", "full_description", "small_description", "category", "query", "product_category")
NO_PRICE = 100.0  # dollars, where a product has no price
NO_ATTRIBUTE = "DUMMY_ATTR"
ASIN_LENGTH = 10
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # control characters other than tab and line breaks
_CHUNK = 1 << 20  # characters read at once from a JSON array


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """A person's instruction for a product, with what it asks for."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product as the shop shows and judges it."""

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    pricing: tuple[float, ...]  # one price, or the two ends of a range; empty: none given
    tag: str  # the price as shown
    options: dict[str, list[str]]  # option name → values, in the file's order
    category: str
    query: str
    product_category: str
    attributes: tuple[str, ...]
    nouns: tuple[str, ...] | None = None  # common and proper nouns of the title, lower case; None: to be found by spaCy
    instruction: str | None = None  # synthetic
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = field(default=())

    @property
    def contents(self) -> str:
        """What the search index holds of it."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join([self.title, self.description, self.bullets[0] if self.bullets else "", options]).lower()

    def pack(self) -> str:
        """One line of JSON, read by `unpack`."""
        human = [[h.text, h.attributes, h.options] for h in self.human]
        values = [getattr(self, name) for name in _PACKED]
        return json.dumps([*values, human], separators=(",", ":"))

    @classmethod
    def unpack(cls, text: str | bytes) -> Product:
        *values, human = json.loads(text)
        product = dict(zip(_PACKED, values))
        for name in ("bullets", "pricing", "attributes", "instruction_attributes"):
            product[name] = tuple(product[name])
        if product["nouns"] is not None:
            product["nouns"] = tuple(product["nouns"])
        return cls(**product, human=tuple(HumanInstruction(t, tuple(a), tuple(o)) for t, a, o in human))


def without_controls(product: Product) -> Product:
    """The product with a blank for each control character (line breaks and tabs stay); itself if it has none."""
    if not CONTROL.search("".join(_texts(product))):
        return product
    blank = partial(CONTROL.sub, " ")
    return replace(
        product,
        title=blank(product.title),
        description=blank(product.description),
        bullets=tuple(map(blank, product.bullets)),
        options={blank(name): [blank(value) for value in values] for name, values in product.options.items()},
        attributes=tuple(map(blank, product.attributes)),
        human=tuple(replace(said, text=blank(said.text)) for said in product.human),
    )


def _texts(product: Product) -> Iterator[str]:
    yield from (product.title, product.description, *product.bullets, *product.attributes)
    for name, values in product.options.items():
        yield from (name, *values)
    yield from (said.text for said in product.human)


_PACKED = tuple(name for name in Product.__dataclass_fields__ if name != "human")


@dataclass(frozen=True)
class Files:
    """The product files of one data folder."""

    products: Path
    attributes: Path | None = None
    human: Path | None = None
    nouns: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.products, self.attributes, self.human, self.nouns) if path)


def read_products(files: Files, limit: int | None = None) -> Iterator[Product]:
    """The shop's products in the file's order; repeated and malformed ASINs are left out, as WebShop does.

    `limit` counts records of the file. Raises UserError naming the record where a file is not of the known version.
    """
    attributes = _table(files.attributes)
    human = _table(files.human)
    nouns = {r["asin"]: r["nouns"] for r in read_records(files.nouns)} if files.nouns else {}
    seen: set[str] = set()
    for number, raw in enumerate(read_records(files.products)):
        if limit is not None and number >= limit:
            break
        where = f"{files.products.name}, record {number + 1}"
        _check(raw, where)
        asin = raw["asin"]
        if asin == "nan" or len(asin) > ASIN_LENGTH or asin in seen:
            continue
        seen.add(asin)
        ins = raw.get("ins") or attributes.get(asin) or {}
        people = raw.get("human_instructions") or human.get(asin) or ()
        yield product_of(raw, ins, people, raw.get("title_nouns", nouns.get(asin)), where)


def product_of(
    raw: Mapping[str, Any], ins: Mapping[str, Any], human: Any, nouns: Any, where: str = "product"
) -> Product:
    """A product from its raw record, its attribute record and its people's instructions."""
    bullets = raw["small_description"]
    try:
        pricing = parse_price(raw.get("pricing"))
        return Product(
            asin=raw["asin"],
            title=raw["name"],
            description=raw["full_description"],
            bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
            pricing=pricing,
            tag=price_tag(pricing),
            options=_options(raw.get("customization_options")),
            category=raw["category"],
            query=raw["query"].lower().strip(),
            product_category=raw["product_category"],
            attributes=tuple(ins.get("attributes", (NO_ATTRIBUTE,))),
            nouns=None if nouns is None else tuple(nouns),
            instruction=ins.get("instruction"),
            instruction_attributes=tuple(ins.get("instruction_attributes") or ()),
            human=tuple(
                HumanInstruction(h["instruction"], tuple(h["instruction_attributes"]), tuple(h["instruction_options"]))
                for h in human
            ),
        )
    except (KeyError, TypeError, AttributeError, ValueError, InvalidOperation) as error:
        raise UserError(
            f"{where} ({raw['asin']}): {type(error).__name__}: {error}: not a record of WebShop's product files"
        ) from None


def parse_price(text: str | None) -> tuple[float, ...]:
    """("$9.90 - $12") as (9.9, 12.0); the price of a product without one is $100. Raises ValueError if it is no price."""
    if not text:
        return (NO_PRICE,)
    prices = tuple(float(Decimal(re.sub(r"[^\d.]", "", part))) for part in text.split("$")[1:])
    if not prices:
        raise ValueError(f"pricing {text!r} holds no dollar amount")
    return prices[:2]


def price_tag(pricing: tuple[float, ...]) -> str:
    """A price, or a range of them, as the shop shows it."""
    return " to ".join(f"${price}" for price in pricing)


def _options(raw: Mapping[str, Any] | None) -> dict[str, list[str]]:
    return {
        name.lower(): [content["value"].strip().replace("/", " | ").lower() for content in contents]
        for name, contents in (raw or {}).items()
        if contents is not None
    }


def _check(raw: Any, where: str) -> None:
    if not isinstance(raw, dict):
        raise UserError(f"{where} is a {type(raw).__name__}, not a product: is this WebShop's items_shuffle file?")
    missing = [name for name in NEEDED if name not in raw]
    if missing:
        raise UserError(
            f"{where} has no {', '.join(missing)}: the file is of another version than WebShop's items_shuffle*.json"
        )
    wrong = [n for n in NEEDED if n != "small_description" and not isinstance(raw[n], str)]
    if wrong:
        raise UserError(f"{where}: {', '.join(wrong)} must be text: the file is of another version than WebShop's")


def _table(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    with _open(path) as file:
        try:
            table = json.load(file)
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(table, dict):
        raise UserError(f"{path} must hold an object keyed by ASIN")
    return table


def read_records(path: Path) -> Iterator[Any]:
    """The records of a `.jsonl` file or of a JSON array, one at a time, gzipped or not; memory does not grow with the file."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    with _open(path) as file:
        try:
            yield from (
                (json.loads(line) for line in file if line.strip()) if ".jsonl" in path.name else _array(file, path)
            )
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None


def _array(file: IO[str], path: Path) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    text = file.read(_CHUNK).lstrip()
    if not text.startswith("["):
        raise UserError(f"{path} must hold a JSON array of products")
    text = text[1:]
    while True:
        text = text.lstrip(" \r\n\t,")
        try:
            record, end = decode(text)
        except ValueError:
            if text.startswith("]"):
                return
            more = file.read(max(_CHUNK, len(text)))
            if not more:
                raise
            text += more
            continue
        yield record
        text = text[end:]


def _open(path: Path) -> IO[str]:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
