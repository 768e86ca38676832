"""The nouns of product titles, which the reward's type part compares.

They come with the data where they were computed before; else from spaCy's small English model, as in WebShop. Without either,
`words` takes every content word of the title: runs anywhere, and its r_type is not WebShop's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from leap_ray.envs.webshop.analysis import STOP_WORDS
from leap_ray.envs.webshop.products import Product
from leap_ray.errors import UserError

SPACY_MODEL = "en_core_web_sm"
MODES = ("auto", "spacy", "words")


def noun_finder(mode: str, complete: bool) -> Callable[[Product], Sequence[str]]:
    """A function from product to title nouns.

    auto: those of the data, and spaCy for products that have none; spacy: always spaCy; words: the data's, else all words.
    Raises UserError where spaCy is needed and not there.
    """
    if mode not in MODES:
        raise UserError(f"webshop: nouns {mode!r} is none of {', '.join(MODES)}")
    if mode == "words":
        return lambda product: product.nouns if product.nouns is not None else _words(product.title)
    if mode == "auto" and complete:
        return lambda product: product.nouns or ()
    tagger = _spacy()
    if mode == "spacy":
        return lambda product: _tagged(tagger, product.title)
    return lambda product: product.nouns if product.nouns is not None else _tagged(tagger, product.title)


def _spacy() -> Any:
    try:
        import spacy  # pyright: ignore[reportMissingImports]

        return spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise UserError(
            "webshop: some products come without the nouns of their titles, which the reward needs, and spaCy cannot find "
            f"them ({error}): install leap-ray[webshop-nouns] and the model {SPACY_MODEL}, put a title_nouns.jsonl "
            '({"asin", "nouns"}) beside the products, or set nouns: words (its r_type is not the original\'s)'
        ) from None


@lru_cache(maxsize=50_000)
def _tagged(tagger: Any, title: str) -> tuple[str, ...]:
    return tuple(token.text.lower() for token in tagger(title) if token.pos_ in ("NOUN", "PROPN"))


@lru_cache(maxsize=50_000)
def _words(title: str) -> tuple[str, ...]:
    return tuple(word for word in re.findall(r"[a-z][a-z'-]+", title.lower()) if word not in STOP_WORDS)
