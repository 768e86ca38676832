"""What a careful shopper reads off an instruction and a page, knowing nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from leap_ray.envs.webshop.analysis import term_of, terms, words
from leap_ray.envs.webshop.pages import Part
from leap_ray.envs.webshop.products import Product
from leap_ray.envs.webshop.session import Session

_PRICE = re.compile(r",? and price lower than (\d+(?:\.\d+)?) dollars")
_OPTIONS = re.compile(r" with (?=(?:(?! with )[^:,]){1,40}: )")
_POLITE = re.compile(
    r"^(?:please |can you |could you )*(?:find|show|get|buy|help)? ?(?:me |us )?(?:i(?:'m| am|'d| would)? ?"
    r"(?:like|need|want|looking for|am looking for|interested in)? ?(?:to (?:buy|find|get|have) ?)?)?(?:an? |some |the )?",
    re.IGNORECASE,
)
_POLITE_WORDS = "find me i need want look looking would like please show that have has"
_FILLER = frozenset(map(term_of, _POLITE_WORDS.split()))


ANYTHING = "product"  # searched for where an instruction holds no word


@dataclass(frozen=True)
class Request:
    """An instruction taken apart: the thing, the options, the price bound in dollars (None: none said)."""

    instruction: str
    thing: str
    options: tuple[str, ...]
    bound: float | None

    @classmethod
    def read(cls, instruction: str) -> Request:
        """A synthetic instruction names its options; in a person's own words they are part of the thing."""
        price = _PRICE.search(instruction)
        text = instruction[: price.start()] if price else instruction
        thing, *rest = _OPTIONS.split(text, maxsplit=1)
        named = re.split(r", and (?=[^:,]{1,40}: )", rest[0]) if rest else []
        options = tuple(part.split(": ", 1)[1] for part in named if ": " in part)
        return cls(
            instruction, _POLITE.sub("", thing, count=1).strip(" .,"), options, float(price[1]) if price else None
        )

    @cached_property
    def terms(self) -> frozenset[str]:
        """The content terms of what is asked for."""
        return frozenset(terms_of(f"{self.thing} {' '.join(self.options)}")) - _FILLER

    @property
    def searches(self) -> tuple[str, ...]:
        """Searches in the instruction's own words, the fullest first. Prices cannot be searched for."""
        plain = plain_words(self.thing)
        full = plain_words(f"{self.thing} {' '.join(self.options)}")
        head = plain_words(re.split(r" with | for | that | which |, ", self.thing)[0])
        return tuple(dict.fromkeys(text for text in (full, plain, head) if text)) or (ANYTHING,)

    def wants(self, label: str) -> bool:
        """Whether an option's label is among what was asked for."""
        if self.options:
            return label in self.options
        own = terms_of(label)
        return bool(own) and own <= self.terms

    def is_sensible(self, search: str) -> bool:
        """Whether a search is in the instruction's words: at least half of its terms are asked for."""
        own = terms_of(search) - _FILLER
        return bool(own) and 2 * len(own & self.terms) >= len(own)


def terms_of(text: str) -> set[str]:
    """The set of a text's index terms."""
    return set(terms(text))


def plain_words(text: str) -> str:
    """The text in lower case without punctuation that a search box has no use for."""
    return re.sub(r"\s+", " ", re.sub(r"[,;:<>\[\]\"]", " ", text.lower())).strip()


def wanted_labels(session: Session, request: Request) -> dict[str, str]:
    """option name → label, for the asked-for labels on the present item page; the longest label of a name wins."""
    chosen: dict[str, str] = {}
    for piece in session.pieces:
        if piece.part is Part.OPTION and piece.text and request.wants(piece.text):
            chosen[piece.option] = max(chosen.get(piece.option, ""), piece.text, key=len)
    return chosen


def missing_options(session: Session, request: Request) -> list[str]:
    """The named options that the present item page does not offer."""
    offered = {piece.text for piece in session.pieces if piece.part is Part.OPTION}
    return [option for option in request.options if option not in offered]


def shown_products(session: Session) -> list[Product]:
    """The products on the present page of results, in order."""
    catalogue = session.catalogue
    found = (catalogue.find(piece.text) for piece in session.pieces if piece.part is Part.PRODUCT)
    return [catalogue.product(number) for number in found if number is not None]


def fits_price(product: Product, request: Request) -> bool:
    """Whether the lowest price shown is within the bound."""
    return request.bound is None or min(product.pricing) <= request.bound


def likeness(product: Product, request: Request) -> float:
    """How much of the request the title shows, 0…1."""
    return len(terms_of(product.title) & request.terms) / max(len(request.terms), 1)


def shared_words(product: Product, request: Request, most: int = 4) -> Sequence[str]:
    """Words of the title that were asked for, for a reason's sake."""
    return list(dict.fromkeys(w.lower() for w in words(product.title) if term_of(w) in request.terms))[:most]
