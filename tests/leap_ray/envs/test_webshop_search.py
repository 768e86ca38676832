"""The search index and the analysis of text, on made-up texts."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leap_ray.envs.webshop import analysis
from leap_ray.envs.webshop.catalogue import Catalogue
from leap_ray.envs.webshop.pages import Part
from leap_ray.envs.webshop.search import Index, SortedTexts, build_index, decode_length, encode_length
from leap_ray.envs.webshop.session import Session
from leap_ray.envs.webshop.stemmer import stem

TEXTS = {
    "B2": "red cotton shirt, machine wash",
    "B1": "red cotton shirt, machine wash",
    "B3": "blue cotton shirts for men",
    "B4": "wooden table",
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    build_index(tmp_path, TEXTS.items())
    return Index(tmp_path)


def found(index: Index, text: str) -> list[str]:
    return [list(TEXTS)[number] for number in index.search(text)]


def test_equal_scores_are_ordered_by_asin(index: Index) -> None:
    assert found(index, "red shirt") == ["B1", "B2", "B3"]


def test_words_are_stemmed_and_stop_words_say_nothing(index: Index) -> None:
    assert found(index, "tables") == ["B4"]
    assert found(index, "for the") == []
    assert found(index, "nothing here matches") == []
    assert found(index, "") == []


def test_score_is_bm25(index: Index) -> None:
    _, scores = index.scored("tables")
    lengths = [len(analysis.terms(text)) for text in TEXTS.values()]
    idf = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    norm = 0.9 * (1 - 0.4 + 0.4 * 2 / (sum(lengths) / 4))
    assert scores.tolist() == pytest.approx([idf * 1 / (1 + norm)], rel=1e-6)


def test_a_word_said_twice_counts_twice(index: Index) -> None:
    (once,), (twice,) = index.scored("table")[1].tolist(), index.scored("table table")[1].tolist()
    assert twice == pytest.approx(2 * once)


def test_a_search_leaves_no_trace(index: Index) -> None:
    first = index.scored("red cotton shirt")[1]
    index.scored("blue shirts wooden")
    assert np.array_equal(first, index.scored("red cotton shirt")[1])


def test_ties_at_the_fiftieth_place(tmp_path: Path) -> None:
    names = [f"B{number:03d}" for number in range(80)]
    build_index(tmp_path, ((name, "lamp") for name in reversed(names)))
    hits = Index(tmp_path).search("lamp")
    assert [list(reversed(names))[number] for number in hits] == names[:50]


def test_texts_without_a_word(tmp_path: Path) -> None:
    build_index(tmp_path, [("B1", "the of"), ("B2", "")])
    assert Index(tmp_path).search("the lamp") == ()


def test_large_build_moves_postings_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [(f"B{n:04d}", " ".join(f"w{n * k % 97}" for k in range(1, 30))) for n in range(200)]
    (tmp_path / "whole").mkdir()
    (tmp_path / "sliced").mkdir()
    build_index(tmp_path / "whole", texts)
    monkeypatch.setattr("leap_ray.envs.webshop.search._SCATTER", 333)
    build_index(tmp_path / "sliced", texts)
    for query in ("w3", "w5 w7 w90", "w0 w1"):
        assert Index(tmp_path / "whole").search(query) == Index(tmp_path / "sliced").search(query)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("it's x.y 1,000 a_b 3.5-inch", ["it's", "x.y", "1,000", "a_b", "3.5", "inch"]),
        ("★ ☞ ❤ ✿ → ™", ["★", "☞", "❤", "™"]),
        ("👨‍👩‍👧 🇩🇪 3️⃣", ["👨‍👩‍👧", "🇩🇪", "3️⃣"]),
        ("小米 ひら カタカナ", ["小", "米", "ひ", "ら", "カタカナ"]),
        ("note：please 【abc】", ["note：please", "abc"]),
        ("x" * 300, ["x" * 255, "x" * 45]),
        ("a" * 254 + ".b" + "c" * 300, ["a" * 254, "b" + "c" * 254, "c" * 46]),
        ("é" * 255 + "." + "é" * 2, ["é" * 255, "é" * 2]),
        ("_" * 600 + "é" + "é" * 300, ["_" * 254 + "é", "é" * 255, "é" * 45]),
        ("." * 600 + "a" * 256, ["a" * 255, "a"]),
        ("한글abc 삼성9 갓ß", ["한글abc", "삼성9", "갓ß"]),
        ('אב\' א"ב"ג', ["אב'", 'א"ב', "ג"]),
        ("3️⃣abc *⃣ 👍🏽 🎄🏽 a🏽 ☺︎ ❤️‍🔥", ["3️⃣abc", "*⃣", "👍🏽", "🎄", "🏽", "a", "🏽", "☺", "❤️‍🔥"]),
        ("กขค ไทย々 ｶﾞｰ １２．３", ["กขค", "ไทย", "々", "ｶﾞｰ", "１２．３"]),
        ("it’s it＇s cafe\u0301s", ["it’s", "it＇s", "cafe\u0301s"]),
    ],
)
def test_words_are_cut_as_lucene_cuts_them(text: str, words: list[str]) -> None:
    assert analysis.words(text) == words


@given(st.text(st.characters(max_codepoint=127), max_size=40))
@example("a_1.b'2__c")
@settings(deadline=None)
def test_the_short_way_for_ascii_finds_the_same_words(text: str) -> None:
    assert analysis.words(text) == analysis._TOKEN.findall(text)


@pytest.mark.parametrize(
    ("word", "term"), [("Men's", "men"), ("the", ""), ("ponies", "poni"), ("flies", "fli"), ("Generously", "gener")]
)
def test_terms(word: str, term: str) -> None:
    assert analysis.term_of(word) == term


_ENDINGS = """
sses ies ss s eed ed ing at bl iz y ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness
fulness ousness aliti iviti biliti logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent
ion sion tion ou ism ate iti ous ive ize e ll l
"""
ENDINGS = _ENDINGS.split()


@given(st.text("abceilnostuvwxyz'1é", max_size=8), st.lists(st.sampled_from(ENDINGS), max_size=3))
@example("a", ["logi"])
@example("archeo", ["logi"])
@settings(max_examples=300, deadline=None)
def test_stems_are_those_of_nltk(start: str, endings: list[str]) -> None:
    from nltk.stem.porter import PorterStemmer

    word = start + "".join(endings)
    assert stem(word) == PorterStemmer(PorterStemmer.MARTIN_EXTENSIONS).stem(word)


def test_stems_of_every_word_in_the_products(real_shop: Catalogue) -> None:
    from nltk.stem.porter import PorterStemmer

    nltk = PorterStemmer(PorterStemmer.MARTIN_EXTENSIONS)
    vocabulary = {word.lower() for product in real_shop for word in analysis.words(product.contents)}
    assert len(vocabulary) > 10_000
    assert [word for word in vocabulary if stem(word) != nltk.stem(word)] == []


def test_lengths_are_kept_in_a_byte() -> None:
    codes = [encode_length(length) for length in range(0, 5000)]
    assert max(codes) < 256
    assert codes == sorted(codes)
    assert all(decode_length(codes[length]) == length for length in range(40))
    assert all(decode_length(code) <= length for length, code in enumerate(codes))
    assert Counter(codes)[encode_length(1000)] > 1


def walked(catalogue: Catalogue, search: str) -> tuple[int, ...] | None:
    """What a search of a placeholder lists, found by looking at every product."""
    first, *rest = search.split(" ")
    if first in ("<r>", "<a>") or not rest:
        return None
    if first == "<c>":
        return tuple(n for n, p in enumerate(catalogue) if p.category == rest[0].strip())
    return tuple(n for n, p in enumerate(catalogue) if p.query == " ".join(rest).strip())


def test_categories_and_queries_are_listed_as_by_walking_the_shop(real_shop: Catalogue) -> None:
    products = list(real_shop)
    categories, queries = {p.category for p in products}, {p.query for p in products}
    searches = [
        f"<c> {text}" for text in (*categories, "beauty ", "Beauty", "beaut", "beautyy", "", "\u00e9", "beauty x")
    ]
    searches += [f"<q> {text}" for text in (*queries, "", " ", "x" * 3000, "men's", "\u00e9\u00e8")]
    for search in [*searches, "<c>", "<q>", "<r>", "<r> x", "<a>", "<a> x"]:
        session = Session(real_shop, real_shop.goals[0], real_shop.goals.product_at(0), "0")
        done, wanted = session.act(f"search[{search}]"), walked(real_shop, search.lower())
        assert done == (wanted is not None), search
        assert tuple(session.hits) == (wanted or ()), search
        for _ in range(3):
            start = (session.results - 1) * session.per_page
            shown = [real_shop.product(n).asin for n in (wanted or ())[start : start + session.per_page]]
            labels = [piece.text for piece in session.pieces if piece.part is Part.PRODUCT]
            assert labels == shown
            session.act("click[next >]")


def test_no_search_looks_at_more_products_than_it_shows(real_shop: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    unpack = Catalogue._unpack
    monkeypatch.setattr(Catalogue, "_unpack", lambda self, number: unpacked.append(number) or unpack(self, number))
    fresh = Catalogue(real_shop.folder)
    goal, number = fresh.goals[0], fresh.goals.product_at(0)
    texts = ["<c> beauty", "<c> nothing", "<q> men's t-shirts & tanks", "<r> x", "the", "a", "b", "women men black", "x" * 3000,
             "shirt " * 600, "\u00e9" * 3000, "\U0001f600", "* ? ~ +shirt -dress \"a b\" shirt^2 AND OR NOT"]  # fmt: skip
    for text in texts:
        session = Session(fresh, goal, number, "0")
        unpacked.clear()
        session.act(f"search[{text}]")
        session.text_rich()
        assert len(unpacked) <= session.per_page, text


def test_sorted_texts_are_found_and_others_are_not(tmp_path: Path) -> None:
    texts = ["", "a", "ab", "b", "\u00e9", "\U0001f600", "\ud800"]
    assert SortedTexts.write(tmp_path, "word", reversed(texts)) == [*texts[:5], texts[6], texts[5]]
    opened = SortedTexts(tmp_path, "word")
    assert sorted(opened.find(text) for text in texts) == list(range(7))
    assert {opened.find(text) for text in ("aa", "c", "\u00e8", " ")} == {-1}
