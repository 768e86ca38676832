"""Product files: WebShop's own forms, and files that are not what they should be."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from leap_ray.envs.webshop import data as webshop_data
from leap_ray.envs.webshop.catalogue import Catalogue, make_folder
from leap_ray.envs.webshop.data import find_files, open_catalogue, prepare
from leap_ray.envs.webshop.env import WebShopEnv
from leap_ray.envs.webshop.generator import generate
from leap_ray.envs.webshop.products import Product, parse_price, product_of, read_products, read_records
from leap_ray.errors import UserError


def raw(asin: str = "B000000001", **changes: Any) -> dict[str, Any]:
    record = {
        "asin": asin,
        "name": f"Red Lamp {asin}",
        "full_description": "A lamp.",
        "small_description": ["Bright.", "Red."],
        "category": "garden",
        "query": " Table Lamps ",
        "product_category": "Home › Lamps",
        "pricing": "$10.50 - $12",
        "customization_options": {"Color": [{"value": "Red/Blue", "image": None}, {"value": "green"}], "Size": None},
        "images": ["x"],
    }
    return {name: value for name, value in (record | changes).items() if value is not ...}


INS = {
    "attributes": ["easy clean"],
    "instruction": "Find me easy clean lamps",
    "instruction_attributes": ["easy clean"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder in the form that WebShop publishes."""
    records = [raw(), raw("B000000002", pricing=None), raw(), raw("nan"), raw("B00000000000003")]
    (tmp_path / "items_shuffle_1000.json").write_text(json.dumps(records))
    (tmp_path / "items_ins_v2_1000.json").write_text(json.dumps({r["asin"]: INS for r in records}))
    human = [
        {"instruction": "i want a lamp.", "instruction_attributes": ["easy clean"], "instruction_options": ["green"]}
    ]
    (tmp_path / "items_human_ins.json").write_text(json.dumps({"B000000001": human}))
    (tmp_path / "title_nouns.jsonl").write_text(
        "".join(json.dumps({"asin": r["asin"], "nouns": ["lamp"]}) + "\n" for r in records)
    )
    return tmp_path


def opened(folder: Path, goals: str = "synthetic") -> Catalogue:
    return open_catalogue(str(folder), goals, cache=str(folder / "cache"))


def test_published_files(folder: Path) -> None:
    shop = opened(folder)
    assert [product.asin for product in shop] == ["B000000001", "B000000002"]
    lamp = shop.product(0)
    assert (lamp.pricing, lamp.tag, lamp.query) == ((10.5, 12.0), "$10.5 to $12.0", "table lamps")
    assert lamp.options == {"color": ["red | blue", "green"]}
    assert shop.product(1).tag == "$100.0"
    assert 10.5 <= shop.price(0) <= 12.0
    assert shop.price(1) == 100.0
    assert len(shop.goals) == 4
    (goal,) = opened(folder, "human").goals
    assert goal.instruction.startswith("i want a lamp, and price lower than ")
    assert goal.values == ("green",)


def test_products_survive_packing() -> None:
    for product in generate(20, 0):
        assert Product.unpack(product.pack()) == product


def test_the_generated_shop_is_a_function_of_its_seed() -> None:
    assert list(generate(50, 0)) == list(generate(50, 0)) != list(generate(50, 1))
    products = list(generate(500, 3))
    assert len({p.asin for p in products}) == len({p.title for p in products}) == 500


@pytest.mark.parametrize("text", [json.dumps([raw()] * 3), json.dumps([raw()], indent=2), "[]", " [ ] "])
def test_arrays_are_read_record_by_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("leap_ray.envs.webshop.products._CHUNK", 7)
    path = tmp_path / "items.json"
    path.write_text(text)
    assert list(read_records(path)) == json.loads(text)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (raw(name=...), "has no name"),
        (raw(name=5), "name must be text"),
        (raw(pricing="cheap"), "dollar"),
        (raw(customization_options={"Color": [{"label": "x"}]}), "value"),
        (["not", "a", "product"], "not a product"),
    ],
)
def test_products_of_another_version(tmp_path: Path, record: Any, named: str) -> None:
    path = tmp_path / "products.jsonl"
    path.write_text(json.dumps(raw("B000000009")) + "\n" + json.dumps(record) + "\n")
    with pytest.raises(UserError, match=named) as raised:
        list(read_products(find_files(path)))
    assert "record 2" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ['{"asin": 1}', "[{", "not json", '[{"asin": "B1"'])
def test_broken_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "items_shuffle.json"
    path.write_text(text)
    (tmp_path / "items_ins_v2.json").write_text("{}")
    with pytest.raises(UserError, match=r"items_shuffle\.json"):
        opened(tmp_path)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_broken_archive(tmp_path: Path) -> None:
    path = tmp_path / "products.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(raw()).encode() * 100)[:-20])
    with pytest.raises(UserError, match=r"products\.jsonl\.gz"):
        opened(tmp_path)


def test_missing_files_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"items_shuffle_1000\.json"):
        find_files(tmp_path / "nowhere")
    (folder / "items_ins_v2_1000.json").unlink()
    with pytest.raises(UserError, match=r"items_ins_v2_1000\.json is missing"):
        opened(folder)


def test_an_index_older_than_its_products_is_refused(folder: Path) -> None:
    opened(folder)
    webshop_data._open.cache_clear()
    products = folder / "items_shuffle_1000.json"
    os.utime(products)  # only touched: the same content
    opened(folder)
    webshop_data._open.cache_clear()
    products.write_text(json.dumps([raw("B000000002")]))
    with pytest.raises(
        UserError, match=r"older than .*items_shuffle_1000\.json: rebuild it with `leap-ray data webshop`"
    ):
        opened(folder)
    summary = prepare(folder, cache=folder / "cache")
    assert summary.products == 1
    assert [product.asin for product in opened(folder)] == ["B000000002"]


def test_prepare_says_what_it_found(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    summary = prepare(folder, target, cache=tmp_path / "cache")
    assert (summary.products, summary.synthetic_goals, summary.human_goals, summary.title_nouns) == (2, 4, 1, True)
    assert {path.name for path in target.iterdir()} == {path.name for path in summary.files}
    assert "synthetic goals   4" in str(summary)
    assert prepare(None, target, cache=tmp_path / "cache").products == 2


def test_control_characters_become_blanks_and_are_counted(folder: Path) -> None:
    odd = raw(
        name="Red\x00 Lamp\x1b[31m",
        small_description=["a\x07b", "tab\tstays"],
        customization_options={"C\x01": [{"value": "x\x02"}]},
    )
    (folder / "items_shuffle_1000.json").write_text(json.dumps([odd, raw("B000000002")]))
    assert prepare(folder, cache=folder / "cache").cleaned == 1
    lamp = opened(folder).product(0)
    assert (lamp.title, lamp.bullets, lamp.options) == ("Red  Lamp [31m", ("a b", "tab\tstays"), {"c ": ["x "]})


def goal(**changes: Any) -> dict[str, Any]:
    record = {
        "asin": "B000000001",
        "instruction_text": "find a lamp",
        "attributes": ["x"],
        "price_upper": 20,
        "goal_options": [],
    }
    return {name: value for name, value in (record | changes).items() if value is not ...}


def test_goals_from_a_file(folder: Path) -> None:
    path = folder / "goals.jsonl"
    path.write_text(json.dumps(goal()) + "\n" + json.dumps(goal(goal_options={"color": "green"})) + "\n")
    env = WebShopEnv(str(folder), goals=str(path), cache=str(folder / "cache"))
    assert len(env.panel("test")) == 2
    _, info = env.reset(options={"task": env.panel("test").tasks[1]})
    assert info["instruction"] == "find a lamp"


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (goal(asin="B00NOWHERE"), "goal 0 asks for product B00NOWHERE, which the product file does not hold"),
        (goal(attributes=[]), "asks for no attribute"),
        (goal(price_upper=...), "price_upper"),
    ],
)
def test_goals_that_cannot_be_judged(folder: Path, record: dict[str, Any], named: str) -> None:
    path = folder / "goals.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=named):
        opened(folder, str(path))


def test_titles_without_nouns_need_spacy_or_a_choice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    (folder / "title_nouns.jsonl").unlink()
    with pytest.raises(UserError, match="nouns: words"):
        opened(folder)
    shop = open_catalogue(str(folder), cache=str(folder / "cache"), nouns="words")
    assert shop.nouns(shop.product(0)) == ("red", "lamp")


def test_builders_do_not_meet(tmp_path: Path) -> None:
    """Many builders of one folder: all find it whole, whoever came first."""
    begun = threading.Barrier(4)

    def write(folder: Path) -> None:
        begun.wait()
        (folder / "part").write_text("whole")

    workers = [threading.Thread(target=make_folder, args=(tmp_path / "made", write)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "part").read_text() == "whole"


@pytest.mark.parametrize(("text", "prices"), [("$9.90", (9.9,)), ("$1,234.50 - $2", (1234.5, 2.0)), ("", (100.0,))])
def test_prices(text: str, prices: tuple[float, ...]) -> None:
    assert parse_price(text) == prices


def test_a_single_bullet_is_a_list_of_one() -> None:
    assert product_of(raw(small_description="Bright."), {}, (), None).bullets == ("Bright.",)
