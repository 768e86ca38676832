"""The environment's contract, on the generated shop."""

from __future__ import annotations

import copy
import itertools
import json
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from leap_ray.envs.webshop.cut import shorten
from leap_ray.envs.webshop.env import WebShopEnv
from leap_ray.envs.webshop.session import Session
from leap_ray.envs.webshop.wrapper import FINISH, SEARCH
from leap_ray.errors import PrivilegeError, UserError
from leap_ray.teachers.actions import fit
from leap_ray.types import Task


@pytest.fixture
def make(shop_cache: Path):
    def environment(**settings: Any) -> WebShopEnv:
        return WebShopEnv(**{"products": 60, "cache": str(shop_cache)} | settings)

    return environment


def first(env: WebShopEnv, panel: str = "train") -> Task:
    return env.panel(panel).tasks[0]


def to_item(env: WebShopEnv, task: Task) -> tuple[str, dict[str, Any]]:
    """Search for the task's own product and open it."""
    env.reset(options={"task": task})
    assert env.session is not None
    target = env.catalogue.product(env.session.target)
    env.step(f"search[{target.title}]")
    observation, *_, info = env.step(f"click[item - {target.title.lower()}]")
    assert info["valid"]
    return observation, info


def test_a_purchase_that_meets_everything(make) -> None:
    env = make()
    to_item(env, first(env))
    assert env.session is not None
    for label in env.session.goal.values:
        observation, *_, info = env.step(f"click[{label}]")
        assert info["valid"]
        assert f"You have clicked {label}." in observation
    observation, reward, terminated, truncated, info = env.step("click[buy now]")
    assert (reward, terminated, truncated, info["success"], info["score"]) == (1.0, True, False, True, 1.0)
    assert info["score_parts"] == {"att": 1.0, "option": 1.0, "type": 1.0, "price": 1.0}
    assert "Thank you for shopping" in observation
    again = env.step("click[buy now]")
    assert (again[1], again[2], again[4]["valid"]) == (0.0, True, False)


def test_options_left_out_cost_their_share(make) -> None:
    env = make()
    to_item(env, first(env))
    assert env.session is not None
    goal = env.session.goal
    _, reward, *_, info = env.step("click[buy now]")
    parts = len(goal.attributes) + len(goal.values) + 1
    assert reward == pytest.approx((parts - len(goal.values)) / parts)
    assert not info["success"]
    assert info["score_parts"]["option"] == 0.0


def test_nothing_bought_scores_nothing(make) -> None:
    env = make()
    _, info = env.reset(options={"task": first(env)})
    assert (info["score"], info["success"], set(info["score_parts"].values())) == (0.0, False, {0.0})
    assert info["candidates"] == ("search[<search query>]",)
    assert fit("search[red shirt]", info["candidates"])


@pytest.mark.parametrize(
    "action",
    [
        "",
        "buy",
        "click[no such thing]",
        "click[]",
        "search[]",
        "click[search]",
        "search[" + "x" * 100_000 + "]",
        "[" * 100_000,
        "click[" * 20_000 + "]",
        "search[red\x00shirt]",
        "search[\x1b[31mred]",
        "click[item - \x07]",
        "finish",
    ],
)
@pytest.mark.parametrize("wrapper", ["leap", "plain"])
def test_what_is_no_action_changes_nothing(make, wrapper: str, action: str) -> None:
    env = make(wrapper=wrapper)
    observation, info = env.reset(options={"task": first(env)})
    after, reward, terminated, truncated, told = env.step(action)
    assert (after, reward, terminated, truncated) == (observation, 0.0, False, False)
    assert not told["valid"]
    assert told["candidates"] == info["candidates"]


def test_odd_texts_are_searched_for_or_refused_but_never_raise(make) -> None:
    env = make()
    for action in (
        "search[\ud800]",
        "search[the of]",
        "search[🎄 ½ İ]",
        "search[<q>]",
        "search[<a> x]",
        "search[ ]",
        "search[a\nb]",
    ):
        env.reset(options={"task": first(env)})
        _, reward, terminated, _, info = env.step(action)
        assert (reward, terminated, info["score"]) == (0.0, False, 0.0)


def test_plain_wrapper_shows_codes_and_leap_shows_titles(make) -> None:
    plain, leap = make(wrapper="plain"), make(wrapper="leap")
    task = first(plain)
    shown = {}
    for env in (plain, leap):
        env.reset(options={"task": task})
        shown[env.leap] = env.step("search[shirts for men]")[4]["candidates"]
    assert shown[False][:2] == shown[True][:2] == ("click[back to search]", "click[next >]")
    for code, title in zip(shown[False][2:], shown[True][2:], strict=True):
        number = plain.catalogue.find(code[len("click[") : -1].upper())
        assert number is not None
        assert title == f"click[item - {plain.catalogue.product(number).title.lower()}]"


def test_text_mode(make) -> None:
    env = make(observation="text")
    observation, info = env.reset(options={"task": first(env)})
    assert observation == f"WebShop [SEP] Instruction: [SEP] {info['instruction']} [SEP] Search"


def test_candidates_past_the_limit_are_drawn_from_task_seed_and_step(real_shop, shared: Path, shop_cache: Path) -> None:
    env = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache))
    whole = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache), candidates=None)
    task = next(t for t in env.panel("train").tasks if len(env.catalogue.goals[int(t.id[:5])].values) == 2)

    def offered(env: WebShopEnv, seed: int) -> tuple[str, ...]:
        env.reset(seed=seed, options={"task": task})
        assert env.session is not None
        title = env.catalogue.product(env.session.target).title
        env.step(f"search[{title}]")
        return env.step(f"click[item - {title.lower()}]")[4]["candidates"]

    everything, drawn = offered(whole, 0), offered(env, 0)
    assert len(everything) > 20 >= len(drawn) >= 16
    assert drawn[:6] == everything[:6]
    assert set(drawn) < set(everything)
    assert offered(env, 0) == drawn
    assert env.candidates() == drawn
    assert offered(env, 1) != drawn


def test_panels_of_the_official_split(real_shop, shared: Path, shop_cache: Path) -> None:
    env = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache))
    assert [len(env.panel(name)) for name in ("test", "eval", "train")] == [500, 1000, 5410]
    assert env.panel("test").tasks[0].id.startswith("00000-")
    assert env.panel("train").tasks[0].id.startswith("01500-")
    assert {task.kind for task in env.panel("test").tasks} == {"beauty", "electronics", "fashion", "garden", "grocery"}


@pytest.mark.parametrize("data", ["real", "generated"])
def test_the_disjoint_split_shares_no_product(make, shared: Path, data: str) -> None:
    env = make(split="product_disjoint", **({"data": str(shared / "data" / "webshop")} if data == "real" else {}))
    products = {}
    for name in ("train", "eval", "test"):
        numbers = [int(task.id[:5]) for task in env.panel(name).tasks]
        products[name] = {env.catalogue.goals.product_at(number) for number in numbers}
    assert not products["train"] & products["eval"]
    assert not products["train"] & products["test"]
    assert not products["eval"] & products["test"]
    assert len(products["train"]) > 2 * len(products["test"]) > 0


def test_panels_are_the_same_everywhere(make) -> None:
    assert make().panel("train").hash == make().panel("train").hash
    assert make(generator_seed=1).panel("train").hash != make().panel("train").hash


def test_a_task_of_another_shop_is_refused(make) -> None:
    task = first(make())
    with pytest.raises(UserError, match="another catalogue"):
        make(generator_seed=1).reset(options={"task": task})
    with pytest.raises(UserError, match="goal index"):
        make().reset(options={"task": Task("webshop", "nonsense", "train")})
    with pytest.raises(UserError, match="known are train, eval, test"):
        make().panel("valid_seen")


def test_the_official_split_needs_enough_goals(make) -> None:
    with pytest.raises(UserError, match="product_disjoint"):
        make(split="official").panel("train")


def test_privileged_state_is_served_for_training_only(make) -> None:
    env = make()
    env.reset(options={"task": first(env)})
    state = env.privileged()
    assert env.session is not None
    goal, product = env.session.goal, env.catalogue.product(env.session.target)
    assert {goal.asin, product.title} <= {secret.text for secret in state.secrets}
    for said in (goal.instruction, *goal.attributes, *goal.values, f"{goal.price_upper:.2f}", product.title):
        assert said in state.rendering
    for panel in ("eval", "test"):
        env.reset(options={"task": first(env, panel)})
        with pytest.raises(PrivilegeError):
            env.privileged()
        with pytest.raises(PrivilegeError):
            env.expert("teacher", privilege=0.5)
        assert env.expert("teacher", privilege=0.0).advise() is not None


def test_long_observations_are_cut_and_counted(make) -> None:
    task = first(make())
    whole, short = make(), make(max_observation=120, max_line=30, cut="middle", show_instruction=False, per_page=3)
    for env in (whole, short):
        env.reset(options={"task": task})
    full, *_, uncut = whole.step("search[shirts]")
    seen, *_, told = short.step("search[shirts]")
    assert uncut["observation_cut"] == 0
    assert told["observation_cut"] > 0
    assert "characters cut]" in seen
    assert uncut["instruction"] == told["instruction"]
    assert uncut["instruction"] in full
    assert uncut["instruction"] not in seen
    assert sum(action.startswith("click[item - ") for action in told["candidates"]) == 3


def test_cutting() -> None:
    assert shorten("abcdef\nxy", None, 3, "end") == ("abc…\nxy", 3)
    assert shorten("abcdefgh", 4, None, "end") == ("abcd\n[… 4 characters cut]\n", 4)
    assert shorten("abcdefgh", 5, None, "middle") == ("abc\n[… 3 characters cut]\ngh", 3)
    assert shorten("abcdefgh\nab", 5, 3, "end") == ("abc…\n\n[… 2 characters cut]\n", 7)
    assert shorten("abc", 3, 3, "middle") == ("abc", 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"observation": "html"}, "html"),
        ({"wrapper": "x"}, "wrapper"),
        ({"split": "x"}, "split"),
        ({"cut": "start"}, "cut"),
        ({"candidates": 3}, "candidates"),
        ({"max_observation": 0}, "max_observation"),
        ({"goals": "/no/such/goals.jsonl"}, "goals"),
        ({"data": "/no/such/folder"}, "/no/such/folder"),
        ({"nouns": "guess"}, "nouns"),
        ({"products": 0}, "no product"),
    ],
)
def test_wrong_settings_name_themselves(make, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(**settings)


ODD_ACTIONS = (
    "", "finish", "click[", "click[]]", "[x]", "search[<c> garden]", "search[<q> tea]", "search[<c>]", "search[<r>]", "search[ ]",
    "search[item_page search_results]", "click[next >]", "click[< prev]", "click[back to search]", "CLICK[BUY NOW]",
    "click[Features]", "click[attributes]", "click[item - ]", "click[item - x", "click[b000000000]", "search[小 한글 🎄 'x']",
)  # fmt: skip


def wander(env: WebShopEnv, task: Task, seed: int, most: int = 25) -> list[tuple]:
    """A random shopper's steps: candidates, searches for words of products, and odd actions."""
    rng = random.Random(seed)
    observation, info = env.reset(seed=seed, options={"task": task})
    seen: list[tuple] = [(observation, info)]
    for _ in range(most):
        action = rng.choice(info["candidates"]) if rng.random() < 0.7 else rng.choice(ODD_ACTIONS)
        listed = action in info["candidates"]
        if action == "search[<search query>]":
            title = env.catalogue.product(rng.randrange(len(env.catalogue))).title
            action = f"search[{' '.join(rng.sample(title.split(), 2))}]"
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((action, observation, reward, terminated, info))
        assert info["valid"] or not listed, action
        assert 0.0 <= reward <= 1.0
        assert reward == (info["score"] if terminated else 0.0)
        assert not truncated
        if terminated:
            break
    return seen


@pytest.mark.parametrize("wrapper", ["leap", "plain"])
@pytest.mark.parametrize("observation", ["text", "text_rich"])
def test_wandering_breaks_no_promise(make, wrapper: str, observation: str) -> None:
    """Every candidate is an action, rewards come at the end and in 0…1, and a task and seed are the same episode anywhere."""
    env, other = (make(wrapper=wrapper, observation=observation, max_line=60) for _ in range(2))
    threads = threading.active_count()
    for seed, task in enumerate(env.panel("train").sample(15, 0).tasks):
        assert wander(env, task, seed) == wander(other, task, seed)
    env.close()
    assert threading.active_count() == threads


def test_wandering_among_real_products(real_shop, shared: Path, shop_cache: Path) -> None:
    env = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache))
    tasks = env.panel("train").sample(20, 0).tasks
    assert sum(len(wander(env, task, seed)) for seed, task in enumerate(tasks)) > 100


def state(session: Session) -> dict[str, Any]:
    """All that a session is, without what it has put into words already."""
    kept = {name: value for name, value in vars(session).items() if name not in ("pieces", "clickables")}
    return kept | {"options": dict(session.options), "visited": set(session.visited)}


def copy_of(session: Session) -> Session:
    made = copy.copy(session)
    made.__dict__.update(state(session))
    return made


def check_page(env: WebShopEnv, observation: str, info: dict[str, Any]) -> None:
    """What is shown is the session's page, and all that is offered can be done there, under the name it is offered by."""
    session = env.session
    assert session is not None
    assert observation == (session.text_rich() if env.rich else session.text())
    for offered in info["candidates"]:
        if offered not in (SEARCH, FINISH):
            env.session = copy_of(session)
            *_, after = env.step(offered)
            assert after["valid"] and after["action"] == offered
            env.steps -= 1
    env.session = session


def paging(env: WebShopEnv, task: Task, rng: random.Random, steps: int) -> None:
    """A shopper who turns pages, names products that are not there, and searches for words that addresses are made of."""
    observation, info = env.reset(seed=1, options={"task": task})
    codes = [product.asin.lower() for product in itertools.islice(env.catalogue, 40)]
    titles = [f"item - {product.title.lower()}" for product in itertools.islice(env.catalogue, 40)]
    turns = ["next >", "next >", "< prev", "back to search", "description", "features", "reviews", "attributes"]
    words = [
        "black",
        "dress",
        "search_results",
        "item_page",
        "item_sub_page",
        "done",
        "<c>",
        "<q>",
        "garden",
        "case",
        "the",
    ]
    for _ in range(steps):
        check_page(env, observation, info)
        assert env.session is not None
        before = state(env.session), observation
        label = rng.choice([rng.choice(codes), rng.choice(titles), rng.choice(turns), rng.choice(turns)])
        offered = [c for c in info["candidates"] if c not in (SEARCH, FINISH, "click[buy now]")]
        search = f"search[{' '.join(rng.choices(words, k=rng.randint(1, 3)))}]"
        action = rng.choice([f"click[{label}]", search, *(offered and [rng.choice(offered)] * 2)])
        observation, *_, info = env.step(action)
        assert info["valid"] or (state(env.session), observation) == before, action
    check_page(env, observation, info)


@pytest.mark.parametrize("wrapper", ["leap", "plain"])
@pytest.mark.parametrize("observation", ["text", "text_rich"])
def test_observation_candidates_and_session_are_of_one_page(make, wrapper: str, observation: str) -> None:
    env = make(wrapper=wrapper, observation=observation, per_page=4)
    for seed, task in enumerate(env.panel("train").sample(12, 0).tasks):
        paging(env, task, random.Random(seed), 25)


def test_observation_candidates_and_session_among_real_products(real_shop, shared: Path, shop_cache: Path) -> None:
    env = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache))
    for seed, task in enumerate(env.panel("train").sample(10, 0).tasks):
        paging(env, task, random.Random(seed), 20)


def test_a_product_that_is_not_on_the_page_cannot_be_opened_and_turns_no_page(make) -> None:
    env = make(per_page=4)
    env.reset(options={"task": first(env)})
    env.step("search[black dress case speaker]")
    observation, *_, info = env.step("click[next >]")
    assert env.session is not None and "Page 2 " in observation
    shown = {env.catalogue.find(label.upper()) for label in env.session.clickables}
    absent = next(product for number, product in enumerate(env.catalogue) if number not in shown)
    for action in (f"click[{absent.asin.lower()}]", f"click[item - {absent.title.lower()}]"):
        again, *_, after = env.step(action)
        assert not after["valid"]
        assert (again, env.session.results, env.session.page) == (observation, 2, "search_results")
        assert after["candidates"] == info["candidates"] or len(info["candidates"]) > 15


def write_twins(folder: Path, count: int, options: list[str]) -> None:
    """A shop of products that all have one title."""
    plain = {"name": "Oak Frame", "full_description": "", "small_description": [], "category": "garden", "query": "frames",
             "product_category": "Home", "pricing": "$5", "title_nouns": ["frame"],
             "customization_options": {"color": [{"value": value} for value in options]},
             "ins": {"instruction": "Find me frames", "instruction_attributes": ["oak"]}}  # fmt: skip
    rows = [json.dumps({"asin": f"B00000000{number}", **plain}) for number in range(count)]
    (folder / "products.jsonl").write_text("\n".join(rows))


def test_of_products_with_one_title_the_one_on_the_page_opens(tmp_path: Path) -> None:
    write_twins(tmp_path, 5, ["black"])
    env = WebShopEnv(str(tmp_path), cache=str(tmp_path / "cache"), per_page=2, split="product_disjoint")
    task = env.panel("train").tasks[0]
    for page in range(3):
        env.reset(options={"task": task})
        env.step("search[oak frame]")
        for _ in range(page):
            env.step("click[next >]")
        assert env.session is not None
        shown = {label for label in env.session.clickables if label.startswith("b0")}
        *_, info = env.step("click[item - oak frame]")
        assert info["valid"] and env.session.product.asin.lower() in shown


def test_labels_with_brackets_can_be_clicked(tmp_path: Path) -> None:
    labels = ["[new] oak", "size [us] 8", "oak]", "a[", ""]
    write_twins(tmp_path, 1, labels)
    for wrapper in ("leap", "plain"):
        env = WebShopEnv(str(tmp_path), cache=str(tmp_path / "cache"), split="official", wrapper=wrapper)
        observation, info = env.reset(options={"task": env.panel("test").tasks[0]})
        observation, *_, info = env.step("search[oak frame]")
        opening = "click[item - oak frame]" if wrapper == "leap" else "click[b000000000]"
        observation, *_, info = env.step(opening)
        assert {f"click[{label}]" for label in labels[:-1]} <= set(info["candidates"]) and "click[]" not in info[
            "candidates"
        ]
        check_page(env, observation, info)
        for label in labels[:-1]:
            observation, *_, info = env.step(f"click[{label}]")
            assert info["valid"] and f"You have clicked {label}." in observation


@pytest.mark.parametrize(
    ("wrapper", "said", "read"),
    [
        ("leap", "search[Oak FRAME] please", "search[oak frame]"),
        ("leap", "click[B000000000]", "click[item - oak frame]"),
        ("leap", "click[b000000000] ", "click[item - oak frame]"),
        ("leap", "click[Next >].", "click[next >]"),
        ("plain", "click[B000000000]", "click[b000000000]"),
        ("plain", "click[Back to Search]!", "click[back to search]"),
    ],
)
def test_an_action_is_told_as_it_is_offered(tmp_path: Path, wrapper: str, said: str, read: str) -> None:
    write_twins(tmp_path, 1, ["black"])
    env = WebShopEnv(str(tmp_path), cache=str(tmp_path / "cache"), wrapper=wrapper, split="official")
    env.reset(options={"task": env.panel("test").tasks[0]})
    env.step("search[oak]")
    *_, info = env.step(said)
    assert info["valid"] and info["action"] == read


def test_the_page_of_attributes_opens_where_an_option_is_called_so(tmp_path: Path) -> None:
    raw = {
        "asin": "B000000001",
        "name": "Frame",
        "full_description": "",
        "small_description": [],
        "category": "garden",
        "query": "Frames",
        "product_category": "Home › Frames",
        "pricing": "$5",
        "customization_options": {"shows": [{"value": "Attributes"}, {"value": "B000000001"}]},
        "ins": {"attributes": ["easy clean"], "instruction": "x", "instruction_attributes": ["easy clean"]},
        "title_nouns": ["frame"],
    }
    (tmp_path / "products.jsonl").write_text(json.dumps(raw))
    env = WebShopEnv(str(tmp_path), cache=str(tmp_path / "cache"))
    env.reset(options={"task": env.panel("test").tasks[0]})
    env.step("search[frame]")
    *_, info = env.step("click[item - frame]")
    assert info["candidates"][-2:] == (
        "click[attributes]",
        "click[item - frame]",
    )  # LEAP shows any label that is an ASIN so
    observation, *_ = env.step("click[attributes]")
    assert observation.endswith("[button] < Prev [button_]\n easy clean\ngarden\nframes\nHome › Frames\n")


def test_nothing_before_reset(make) -> None:
    with pytest.raises(UserError, match="reset"):
        make().step("search[x]")
    with pytest.raises(UserError, match=r'options=\{"task"'):
        make().reset()
