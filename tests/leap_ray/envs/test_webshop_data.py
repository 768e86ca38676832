"""Product files: WebShop's own forms, and files that are not what they should be."""

from __future__ import annotations

import errno
import fcntl
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


def raw(asin: Any = "B000000001", **changes: Any) -> dict[str, Any]:
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
        (raw(customization_options={"Color": [{"value": 5}]}), "strip"),
        (raw(customization_options=[1]), "items"),
        (raw(small_description=None), "None is not text"),
        (raw(small_description=["a", 5]), "5 is not text"),
        (raw(pricing=9.9), "split"),
        (raw(pricing=float("nan")), "split"),
        (raw(pricing="$"), "InvalidOperation"),
        (raw("Ü000000001"), "no product code"),
        (raw(""), "no product code"),
        (raw(None), "asin must be text"),
        (raw(ins={"attributes": "easy clean"}), "not a list"),
        (raw(ins={"attributes": [1]}), "1 is not text"),
        (raw(ins=["easy clean"]), "get"),
        (raw(title_nouns="lamp"), "not a list"),
        (raw(human_instructions=[{"instruction": "x"}]), "instruction_attributes"),
        (None, "not a product"),
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items_shuffle_1000.json", b""),
        ("items_shuffle_1000.json", b"\xff\xfe["),
        ("items_shuffle_1000.json", b"{}"),
        ("items_ins_v2_1000.json", b""),
        ("items_ins_v2_1000.json", b"[]"),
        ("items_human_ins.json", b'{"B000000001": '),
        ("title_nouns.jsonl", b'{"B000000001": ["lamp"]}'),
        ("title_nouns.jsonl", b"[" * 100_000),
    ],
)
def test_files_that_are_not_what_their_names_say(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as raised:
        opened(folder)
    assert "\n" not in str(raised.value)


def test_archives_beside_plain_files(folder: Path) -> None:
    """Either form of any file; a damaged archive is named."""
    for name in ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json"):
        path = folder / name
        (folder / f"{name}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
        path.unlink()
    assert [product.asin for product in opened(folder)] == ["B000000001", "B000000002"]
    webshop_data._open.cache_clear()
    broken = bytearray((folder / "items_ins_v2_1000.json.gz").read_bytes())
    broken[12:20] = b"\xff" * 8
    (folder / "items_ins_v2_1000.json.gz").write_bytes(broken)
    with pytest.raises(UserError, match=r"items_ins_v2_1000\.json\.gz cannot be read"):
        prepare(folder, cache=folder / "cache")


def test_codes_in_small_letters_are_codes(folder: Path) -> None:
    (folder / "products.jsonl").write_text(json.dumps(raw("b00000000a") | {"ins": INS, "title_nouns": ["lamp"]}))
    env = WebShopEnv(str(folder / "products.jsonl"), split="official", wrapper="plain", cache=str(folder / "cache"))
    env.reset(options={"task": env.panel("test").tasks[0]})
    env.step("search[lamp]")
    observation, *_, info = env.step("click[b00000000a]")
    assert info["valid"]
    assert "Red Lamp" in observation


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
        name="Red\x00 Lamp\x1b[31m \ud83d",
        small_description=["a\x07b", "tab\tstays"],
        customization_options={"C\x01": [{"value": "x\x02"}]},
    )
    (folder / "items_shuffle_1000.json").write_text(json.dumps([odd, raw("B000000002")]))
    assert prepare(folder, cache=folder / "cache").cleaned == 1
    lamp = opened(folder).product(0)
    assert (lamp.title, lamp.bullets, lamp.options) == ("Red  Lamp [31m  ", ("a b", "tab\tstays"), {"c ": ["x "]})


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
        (goal(price_upper=float("nan")), "no bound"),
        (goal(price_upper="cheap"), "cheap"),
        (goal(asin=5), "not a WebShop goal"),
        (goal(attributes="easy clean"), "must be lists"),
        (goal(goal_options="red"), "must be lists"),
        (goal(goal_options=[["color", "red"]]), "is not text"),
        (goal(instruction_text=None), "is not text"),
        (goal(instruction_text="a \x1b[31mlamp"), "control characters"),
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


@pytest.mark.parametrize("locks", [True, False])
def test_builders_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool) -> None:
    """Many builders of one folder: one builds while the others wait; without locks all do, and all find it whole."""
    begun, writers = threading.Barrier(4), []
    if not locks:
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError("no locks here")))

    def write(folder: Path) -> None:
        writers.append(folder)
        if not locks:
            begun.wait()
        (folder / "part").write_text("whole")

    workers = [threading.Thread(target=make_folder, args=(tmp_path / "made", write)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(writers) == (1 if locks else 4)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made" / "part").read_text() == "whole"


def test_a_killed_builder_is_cleaned_up_after(tmp_path: Path) -> None:
    (tmp_path / ".made-killed").mkdir()
    (tmp_path / ".other-busy").mkdir()
    make_folder(tmp_path / "made", lambda folder: None)
    assert {path.name for path in tmp_path.iterdir()} == {"made", ".other-busy"}


def test_no_room_for_an_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("leap_ray.envs.webshop.search.IndexBuilder.write", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\).*`cache`"):
        opened(folder)
    assert not list((folder / "cache").glob("*"))


def test_a_place_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(UserError, match="name another folder with `cache`"):
        open_catalogue(str(folder), cache=str(folder / "file" / "cache"))


@pytest.mark.parametrize("part", ["manifest.json", "documents.npy", "terms.bin", "goals-synthetic-233/prices.npy"])
def test_a_damaged_index_says_how_to_mend_it(folder: Path, part: str) -> None:
    path = opened(folder).folder / part
    webshop_data._open.cache_clear()
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged .*`leap-ray data webshop`"):
        opened(folder)
    assert prepare(folder, cache=folder / "cache").products == 2
    assert len(opened(folder)) == 2


def test_making_the_index_anew_reaches_limited_ones(folder: Path) -> None:
    limited = open_catalogue(str(folder), limit=1, cache=str(folder / "cache")).folder
    (folder / "items_shuffle_1000.json").write_text(json.dumps([raw("B000000002")]))
    webshop_data._open.cache_clear()
    with pytest.raises(UserError, match=f"{limited} is older than"):
        open_catalogue(str(folder), limit=1, cache=str(folder / "cache"))
    prepare(folder, cache=folder / "cache")
    assert len(open_catalogue(str(folder), limit=1, cache=str(folder / "cache"))) == 1


@pytest.mark.parametrize(("text", "prices"), [("$9.90", (9.9,)), ("$1,234.50 - $2", (1234.5, 2.0)), ("", (100.0,))])
def test_prices(text: str, prices: tuple[float, ...]) -> None:
    assert parse_price(text) == prices


def test_a_single_bullet_is_a_list_of_one() -> None:
    assert product_of(raw(small_description="Bright."), {}, (), None).bullets == ("Bright.",)
