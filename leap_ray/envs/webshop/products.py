"""Raw product files to products, by WebShop's own rules of cleaning.

Reads the files WebShop publishes (`items_shuffle*.json` with `items_ins_v2*.json` and `items_human_ins.json`), or one
`products*.jsonl[.gz]` that carries all of it per line. A record of another version of the files is one UserError naming it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Any

from leap_ray.errors import UserError

NEEDED = ("asin", "name", "full_description", "small_description", "category", "query", "product_category")
NO_PRICE = 100.0  # dollars, where a product has no price
NO_ATTRIBUTE = "DUMMY_ATTR"
ASIN_LENGTH = 10
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not tab and line breaks; half characters too
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
    if not any(CONTROL.search(text) for text in _texts(product)):
        return product
    return replace(product, **{name: _blanked(getattr(product, name)) for name in Product.__dataclass_fields__})


def _blanked(value: Any) -> Any:
    """The value with every text in it blanked."""
    match value:
        case str():
            return CONTROL.sub(" ", value)
        case tuple() | list():
            return type(value)(map(_blanked, value))
        case dict():
            return {_blanked(name): _blanked(held) for name, held in value.items()}
        case HumanInstruction():
            return HumanInstruction(_blanked(value.text), _blanked(value.attributes), _blanked(value.options))
        case _:
            return value


def _texts(product: Product) -> Iterator[str]:
    """Everything of the product that must be text."""
    yield from (product.asin, product.title, product.description, product.category, product.query)
    yield product.product_category
    yield from (*product.bullets, *product.attributes, *product.instruction_attributes, *(product.nouns or ()))
    yield product.instruction or ""
    for name, values in product.options.items():
        yield from (name, *values)
    for said in product.human:
        yield from (said.text, *said.attributes, *said.options)


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
    nouns = dict(_read_nouns(files.nouns)) if files.nouns else {}
    seen: set[str] = set()
    for number, raw in enumerate(read_records(files.products)):
        if limit is not None and number >= limit:
            break
        where = f"{files.products.name}, record {number + 1}"
        _check(raw, where)
        asin = raw["asin"]
        if asin == "nan" or len(asin) > ASIN_LENGTH or asin.upper() in seen:
            continue
        seen.add(asin.upper())
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
        product = Product(
            asin=raw["asin"].upper(),
            title=raw["name"],
            description=raw["full_description"],
            bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
            pricing=pricing,
            tag=price_tag(pricing),
            options=_options(raw.get("customization_options")),
            category=raw["category"],
            query=raw["query"].lower().strip(),
            product_category=raw["product_category"],
            attributes=_listed(ins.get("attributes", [NO_ATTRIBUTE])),
            nouns=None if nouns is None else _listed(nouns),
            instruction=ins.get("instruction"),
            instruction_attributes=_listed(ins.get("instruction_attributes") or []),
            human=tuple(
                HumanInstruction(
                    h["instruction"], _listed(h["instruction_attributes"]), _listed(h["instruction_options"])
                )
                for h in human
            ),
        )
        _check_texts(product)
        return product
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


def _listed(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{values!r} is not a list")
    return tuple(values)


def _check_texts(product: Product) -> None:
    wrong = [text for text in _texts(product) if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"{wrong[0]!r} is not text")
    if not (product.asin.isascii() and product.asin.isprintable() and product.asin.strip()):
        raise ValueError(f"asin {product.asin!r} is no product code")


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
    with _readable(path) as file:
        table = json.load(file)
    if not isinstance(table, dict):
        raise UserError(f"{path} must hold an object keyed by ASIN")
    return table


def _read_nouns(path: Path) -> Iterator[tuple[str, Any]]:
    for number, raw in enumerate(read_records(path)):
        if not (isinstance(raw, dict) and isinstance(raw.get("asin"), str) and isinstance(raw.get("nouns"), list)):
            raise UserError(f'{path.name}, record {number + 1} is not of the form {{"asin": text, "nouns": [text]}}')
        yield raw["asin"], raw["nouns"]


def read_records(path: Path) -> Iterator[Any]:
    """The records of a `.jsonl` file or of a JSON array, one at a time, gzipped or not; memory does not grow with the file."""
    with _readable(path) as file:
        yield from (json.loads(line) for line in file if line.strip()) if ".jsonl" in path.name else _array(file, path)


def _array(file: IO[str], path: Path) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    text = file.read(_CHUNK).lstrip()
    if not text.startswith("["):
        raise UserError(f"{path} must hold a JSON array")
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


@contextmanager
def _readable(path: Path) -> Iterator[IO[str]]:
    """The file's text. Whatever keeps it from being read as JSON is a UserError that names it."""
    try:
        opened = (
            gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")
        )
        with opened as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: {error}: it is damaged, cut short, or no JSON; fetch it again"
        ) from None
