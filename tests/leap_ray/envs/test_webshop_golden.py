"""Our shop against records made with the original engine: no difference allowed."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from leap_ray.envs.webshop.catalogue import Catalogue
from leap_ray.envs.webshop.data import open_catalogue
from leap_ray.envs.webshop.reward import reward
from leap_ray.envs.webshop.session import Session
from leap_ray.envs.webshop.wrapper import TITLE, LeapShop


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden" / "webshop"


@pytest.fixture(scope="session")
def human_shop(shared: Path, shop_cache: Path) -> Catalogue:
    return open_catalogue(str(shared / "data" / "webshop"), "human", cache=str(shop_cache))


def begin(shop: Catalogue, number: int) -> Session:
    return Session(shop, shop.goals[number], shop.goals.product_at(number), str(number))


def differences(session: Session, record: dict[str, Any]) -> list[str]:
    seen = {
        "text_rich": session.text_rich(),
        "text": session.text(),
        "url": session.url,
        "has_search_bar": session.has_search_bar,
        "clickables": list(session.clickables),
        "reward": session.bought.total if session.bought else 0.0,
        "done": session.bought is not None,
    }
    return [name for name, value in seen.items() if name in record and record[name] != value]


def replay(shop: Catalogue, path: Path) -> int:
    steps = 0
    for record in lines(path):
        session = begin(shop, record["goal_idx"])
        assert not differences(session, record["initial"])
        for step in record["steps"]:
            session.act(step["action"])
            assert not differences(session, step), (record["goal_idx"], step["action"])
            steps += 1
        if session.bought is not None:
            assert session.bought.breakdown == record["verbose_info"]
    return steps


def test_episodes_of_synthetic_goals(real_shop: Catalogue, golden: Path) -> None:
    assert replay(real_shop, golden / "episodes_synthetic.jsonl.gz") == 565


def test_episodes_of_human_goals(human_shop: Catalogue, golden: Path) -> None:
    assert replay(human_shop, golden / "episodes_human.jsonl.gz") == 116


def test_rewards_and_their_breakdowns(real_shop: Catalogue, golden: Path) -> None:
    for record in lines(golden / "rewards_synthetic.jsonl.gz"):
        number = record["goal_idx"]
        bought = real_shop.find(record["asin"])
        assert bought is not None
        product, wanted = real_shop.product(bought), real_shop.product(real_shop.goals.product_at(number))
        got = reward(product, wanted, real_shop.goals[number], record["price"], record["options"], real_shop.nouns)
        assert (got.total, got.breakdown) == (record["reward"], record["info"]), record


def test_search_orders_and_scores(real_shop: Catalogue, golden: Path) -> None:
    for record in lines(golden / "search_top50.jsonl.gz"):
        numbers, scores = real_shop.index.scored(record["query"])
        assert [real_shop.product(n).asin for n in numbers.tolist()] == [asin for asin, _ in record["hits"]]
        # The original rounds to four places, and takes 0.0001 off where scores are equal.
        assert scores.tolist() == pytest.approx([score for _, score in record["hits"]], abs=1e-3)


def test_goals_and_prices(real_shop: Catalogue, human_shop: Catalogue, shared: Path, golden: Path) -> None:
    for shop, goals, prices in (
        (real_shop, shared / "data" / "webshop" / "goals_synthetic_seed233.jsonl.gz", "prices_synthetic_seed233.json"),
        (human_shop, golden / "goals_human_seed233.jsonl.gz", "prices_human_seed233.json"),
    ):
        records = lines(goals)
        assert len(records) == len(shop.goals)
        for record in records:
            goal = shop.goals[record["idx"]]
            options = dict(goal.options) if isinstance(goal.options, dict) else list(goal.options)
            wanted = [record[n] for n in ("asin", "instruction_text", "price_upper", "goal_options", "weight")]
            assert [goal.asin, goal.instruction, goal.price_upper, options, goal.weight] == wanted
            assert list(goal.attributes) == record["attributes"]
        for asin, price in json.loads((golden / prices).read_text()).items():
            number = shop.find(asin)
            assert number is not None
            assert shop.price(number) == price


def test_leaps_wrapper(real_shop: Catalogue, golden: Path) -> None:
    """Candidates follow the record's generator: LEAP draws anew each time that it lists them."""
    steps = 0
    for record in lines(golden / "leap_webenv_episodes.jsonl.gz"):
        session = begin(real_shop, record["goal_idx"])
        shop, rng = LeapShop(session), random.Random(record["rng_seed_at_reset"])
        assert (shop.candidates(rng), session.text_rich()) == (record["initial"]["valid"], record["initial"]["obs"])
        shop.candidates(rng)  # for its estimate of the score
        for step in record["steps"]:
            assert shop.candidates(rng) == step["candidates"]
            action = step["action"]
            if action.startswith(TITLE) and real_shop.by_title(action[len(TITLE) : -1]) is not None:
                shop.candidates(rng)  # for the rank of the item
            _, observation = shop.visit(action)
            assert observation == step["obs"]
            assert shop.candidates(rng) == step["valid_after"]
            shop.candidates(rng)
            score = session.bought.total if session.bought else 0.0
            assert (score * 10, session.bought is not None) == (step["score10"], step["done"])
            steps += 1
    assert steps == 66
