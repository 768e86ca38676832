"""The shop's pages as lists of pieces, and the two ways WebShop turns them into an observation.

A piece is what an HTML text node was: a text with its part on the page. Blank pieces behave as they did there: a run of white
space that holds a line break vanishes, any other becomes one blank.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from leap_ray.envs.webshop.products import Product

BACK, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews")
_BLANKS = " \n\t\f\r"


class Part(Enum):
    TEXT = "text"
    BUTTON = "button"
    OPTION = "option"
    PRODUCT = "product"


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    part: Part = Part.TEXT
    option: str = ""  # the option's name, of an OPTION piece


@dataclass(frozen=True, slots=True)
class Click:
    """Something that can be clicked: a button, a product, or a value of the named option."""

    part: Part
    option: str = ""


def search_page(instruction: str) -> list[Piece]:
    return [Piece("WebShop"), Piece("Instruction: "), Piece(instruction), Piece("Search", Part.BUTTON)]


def results_page(instruction: str, page: int, total: int, products: Sequence[Product]) -> list[Piece]:
    pieces = [*_head(instruction), Piece(f"Page {page} (Total results: {total})")]
    pieces += [Piece(PREVIOUS, Part.BUTTON)] if page > 1 else []
    pieces.append(Piece(NEXT, Part.BUTTON))
    for product in products:
        pieces += [Piece(product.asin, Part.PRODUCT), Piece(product.title), Piece(product.tag)]
    return pieces


def item_page(instruction: str, product: Product) -> list[Piece]:
    pieces = [*_head(instruction), Piece(PREVIOUS, Part.BUTTON)]
    for name, values in product.options.items():
        pieces += [Piece(name), *(Piece(value, Part.OPTION, name) for value in values)]
    pieces += [Piece(product.title), Piece(f"Price: {product.tag}"), Piece("Rating: N.A.")]
    return [*pieces, *(Piece(name, Part.BUTTON) for name in SUB_PAGES), Piece(BUY, Part.BUTTON)]


def sub_page(instruction: str, product: Product, name: str) -> list[Piece]:
    """The description, the features, or (where an option is called so) the attributes; reviews are empty in the data."""
    pieces = [*_head(instruction), Piece(PREVIOUS, Part.BUTTON)]
    if name == "Description":
        pieces.append(Piece(product.description))
    elif name == "Features":
        pieces += [Piece(f" {bullet}") for bullet in product.bullets]
    elif name == "Attributes":
        pieces += [Piece(f" {attribute}") for attribute in product.attributes]
        pieces += map(Piece, (product.category, product.query, product.product_category))
    return pieces


def done_page(asin: str, options: Mapping[str, str], reward: float) -> list[Piece]:
    chosen = json.dumps(options, sort_keys=True)
    for sign, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("'", "\\u0027")):
        chosen = chosen.replace(sign, escape)
    texts = [
        "Thank you for shopping with us!",
        "Your code: ",
        "None",
        " (Paste it in your MTurk interface.)",
        "Purchased",
    ]
    texts += ["asin", asin, "options", chosen]
    for name in ("attrs", "category", "query", "product category"):
        texts += [name, "None"]
    texts += [
        "Target",
        "asin",
        "options",
        "attrs",
        "price upper",
        "instuction text",
        "category",
        "product category",
        "query",
    ]
    texts += ["Goal ", "None", "Reward", "Your score (min 0.0, max 1.0)", repr(reward), "Reward Details ", "None"]
    return [Piece(text) for text in texts]


def _head(instruction: str) -> list[Piece]:
    return [Piece("Instruction:"), Piece(instruction), Piece(BACK, Part.BUTTON)]


def clickables(pieces: Sequence[Piece]) -> dict[str, Click]:
    """What can be clicked, by its lower-case label: buttons, products, then options; a later one of the same label wins."""
    found: dict[str, Click] = {}
    for part in (Part.BUTTON, Part.PRODUCT):
        found |= {piece.text.lower(): Click(part) for piece in pieces if piece.part is part}
    options = (piece for piece in pieces if piece.part is Part.OPTION and piece.text)
    return found | {piece.text: Click(Part.OPTION, piece.option) for piece in options}


def plain_text(pieces: Sequence[Piece]) -> str:
    """WebShop's `text` mode."""
    return " [SEP] ".join(text.strip() for text, _ in _visible(pieces))


def rich_text(pieces: Sequence[Piece], url: str, visited: Collection[str]) -> str:
    """WebShop's `text_rich` mode. An option counts as clicked if its quoted label stands in the page's address."""
    lines, notes = [], []
    for text, part in _visible(pieces):
        if part is Part.BUTTON:
            lines.append(f"[button] {text} [button_]")
        elif part is Part.OPTION:
            clicked = f'"{text}"' in url
            lines.append(f"  [clicked button] {text} [clicked button_]" if clicked else f"  [button] {text} [button_]")
            notes += [f"You have clicked {text}.\n"] if clicked else []
        elif part is Part.PRODUCT:
            button = "clicked button" if text in visited else "button"
            lines.append(f"\n[{button}] {text} [{button}_]")
        else:
            lines.append(text)
    return "".join(reversed(notes)) + "".join(f"{line}\n" for line in lines)


def _visible(pieces: Sequence[Piece]) -> Iterator[tuple[str, Part]]:
    for piece in pieces:
        text = piece.text
        if text and not text.strip(_BLANKS):
            text = "\n" if "\n" in text else " "
        if text and text != "\n":
            yield text, piece.part
