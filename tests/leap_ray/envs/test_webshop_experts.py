"""The demonstrator and the teacher of the shop."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from leap_ray.envs.webshop.env import WebShopEnv
from leap_ray.envs.webshop.reading import Request
from leap_ray.errors import UserError
from leap_ray.rollout import demonstrate
from leap_ray.teachers.actions import fit
from leap_ray.teachers.leaks import find_leaks
from leap_ray.teachers.symbolic import SymbolicTeacher
from leap_ray.types import Episode, Finish, Outcome, Step, Task


@pytest.fixture
def make(shop_cache: Path):
    def environment(**settings: Any) -> WebShopEnv:
        return WebShopEnv(**{"products": 120, "cache": str(shop_cache)} | settings)

    return environment


def played(env: WebShopEnv, expert: str, count: int, **settings: Any) -> list[Episode]:
    tasks = env.panel("train").sample(count, 0).tasks
    return [demonstrate(env, task, seed=0, max_actions=15, expert=expert) for task in tasks]


def recorded(env: WebShopEnv, task: Task, actions: list[str]) -> Episode:
    """A student's episode of the given actions."""
    observation, info = env.reset(seed=3, options={"task": task})
    instruction, steps = info["instruction"], []
    for action in actions:
        candidates = info["candidates"]
        after, *_, info = env.step(action)
        steps.append(Step(observation, candidates, "because", action, info["valid"], info["score"]))
        observation = after
    return Episode(
        task, 3, "p", instruction, tuple(steps), observation, info["score"], info["success"], Finish.TERMINATED
    )


@pytest.mark.parametrize("wrapper", ["leap", "plain"])
def test_experts_shop_well_on_the_generated_shop(make, wrapper: str) -> None:
    env = make(wrapper=wrapper)
    plain, informed = played(env, "demonstrator", 60), played(env, "teacher", 60)
    assert mean(e.score for e in plain) > 0.8
    assert mean(e.score for e in informed) > 0.98
    assert mean(e.score for e in informed) > mean(e.score for e in plain)
    for episode in (*plain, *informed):
        assert all(step.valid and step.reason for step in episode.steps)


def test_experts_shop_well_on_real_products(real_shop, shared: Path, shop_cache: Path) -> None:
    env = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache))
    plain, informed = played(env, "demonstrator", 50), played(env, "teacher", 50)
    assert mean(e.score for e in plain) > 0.7
    assert mean(e.score for e in informed) > 0.95
    for episode in (*plain, *informed):  # also on pages whose labels LEAP's list of candidates leaves out in part
        assert all(fit(step.action, step.candidates) for step in episode.steps)


def test_experts_open_what_is_offered_on_long_pages(real_shop, shared: Path, shop_cache: Path) -> None:
    env = WebShopEnv(str(shared / "data" / "webshop"), cache=str(shop_cache), per_page=40)
    for expert in ("demonstrator", "teacher"):
        for episode in played(env, expert, 20):
            assert all(fit(step.action, step.candidates) for step in episode.steps)


def test_human_goals_too(make) -> None:
    env = make(goals="human")
    assert mean(e.score for e in played(env, "demonstrator", 50)) > 0.7


def test_the_teachers_reasons_reveal_nothing_and_the_dial_lets_it(make) -> None:
    env = make()
    revealed = {0.5: 0, 1.0: 0}
    for privilege in revealed:
        for task in env.panel("train").sample(30, 0).tasks:
            env.reset(options={"task": task})
            privileged, teacher = env.privileged(), env.expert("teacher", privilege=privilege)
            seen = ""
            while (advice := teacher.advise()) is not None:
                assert env.session is not None
                seen += env.session.text_rich()
                revealed[privilege] += bool(find_leaks(advice.reason, seen, privileged))
                env.step(advice.action)
    assert revealed[0.5] == 0
    assert revealed[1.0] >= 30


def test_without_privilege_the_teacher_is_the_demonstrator(make) -> None:
    env = make()
    for task in env.panel("train").sample(20, 1).tasks:
        env.reset(options={"task": task})
        teacher, plain = env.expert("teacher", privilege=0.0), env.expert("demonstrator")
        for _ in range(15):
            advice, other = teacher.advise(), plain.advise()
            assert (advice and advice.action) == (other and other.action)
            if advice is None:
                break
            env.step(advice.action)


def test_advice_accepts_what_is_no_mistake(make) -> None:
    env = make()
    task = env.panel("train").tasks[0]
    env.reset(options={"task": task})
    teacher = env.expert("teacher")
    advice = teacher.advise()
    assert advice is not None
    assert env.session is not None
    thing = Request.read(env.session.goal.instruction).thing
    assert f"search[{thing}]" in advice.acceptable
    assert "search[garden gnome statue]" not in advice.acceptable
    assert "click[buy now]" not in advice.acceptable
    target = env.catalogue.product(env.session.target)
    env.step(f"search[{target.title}]")
    advice = teacher.advise()
    assert advice is not None
    opening = f"click[item - {target.title.lower()}]"
    assert opening in advice.acceptable
    env.step(opening)
    advice = teacher.advise()
    assert advice is not None
    assert advice.acceptable >= {f"click[{value}]" for value in env.session.goal.values}
    assert "click[buy now]" not in advice.acceptable
    for value in env.session.goal.values:
        env.step(f"click[{value}]")
    advice = teacher.advise()
    assert advice is not None
    assert advice.action == "click[buy now]"


def write_frame(folder: Path, name: str, options: dict, instruction: str) -> None:
    """A shop of one product."""
    raw = {
        "asin": "B000000001",
        "name": name,
        "full_description": "",
        "small_description": [],
        "category": "garden",
        "query": "frames",
        "product_category": "Home",
        "pricing": "$5",
        "customization_options": options,
        "ins": {"instruction": instruction, "instruction_attributes": ["easy clean"]},
        "title_nouns": ["frame"],
    }
    (folder / "products.jsonl").write_text(json.dumps(raw) + "\n")


def test_a_label_that_two_options_share_is_selected_once(tmp_path: Path) -> None:
    options = {"color": [{"value": "black"}], "frame": [{"value": "black"}, {"value": "oak"}]}
    write_frame(tmp_path, "Easy Clean Frame", options, "Find me easy clean frames")
    env = WebShopEnv(str(tmp_path), cache=str(tmp_path / "cache"), split="official")
    assert len(env.panel("test")) == 2
    for task in env.panel("test").tasks:
        assert len(demonstrate(env, task, seed=0, max_actions=15).steps) <= 5


@pytest.mark.parametrize("expert", ["demonstrator", "teacher"])
def test_labels_that_no_action_can_name_are_left_alone(tmp_path: Path, expert: str) -> None:
    options = {"color": [{"value": "[new] oak"}, {"value": ""}], "size": [{"value": "small"}]}
    write_frame(tmp_path, "<New> Frame", options, "!")
    env = WebShopEnv(str(tmp_path), cache=str(tmp_path / "cache"), wrapper="plain", split="product_disjoint")
    for task in env.panel("train").tasks:
        episode = demonstrate(env, task, seed=0, max_actions=15, expert=expert)
        assert all(fit(step.action, step.candidates) and step.valid for step in episode.steps)
        assert episode.score > 0


def test_an_instruction_without_a_word_is_searched_for_all_the_same() -> None:
    assert Request.read("!").searches
    assert Request.read("..., and price lower than 40.00 dollars").searches


def test_the_symbolic_teacher_corrects_a_poor_shopper(make) -> None:
    env = make()
    task = env.panel("train").tasks[0]
    episode = recorded(env, task, ["search[garden gnome]", "click[back to search]", "nonsense", "click[buy now]"])
    correction = SymbolicTeacher(make(), correct="all").correct_now(episode)
    outcomes = [step.outcome for step in correction.steps]
    assert outcomes[0] is Outcome.CORRECTED
    assert correction.steps[0].action.startswith("search[")
    assert outcomes[2] is outcomes[3] is Outcome.CORRECTED
    assert not any(outcome is Outcome.FAILED for outcome in outcomes)


def test_the_symbolic_teacher_agrees_with_a_good_shopper(make) -> None:
    env = make()
    for task in env.panel("train").sample(10, 0).tasks:
        good = demonstrate(env, task, seed=0, max_actions=15, expert="teacher")
        correction = SymbolicTeacher(make(), correct="mistakes").correct_now(good)
        assert {step.outcome for step in correction.steps} == {Outcome.AGREED}


@pytest.mark.parametrize(
    ("instruction", "thing", "options", "bound"),
    [
        (
            "Find me hand wash men's lounge with long sleeve for daily wear with color: multi 5, and size: small, "
            "and price lower than 70.00 dollars",
            "hand wash men's lounge with long sleeve for daily wear",
            ("multi 5", "small"),
            70.0,
        ),
        (
            "i need a long clip-in hair extension that looks natural",
            "long clip-in hair extension that looks natural",
            (),
            None,
        ),
        ("Find me easy clean shelves, and price lower than 20.00 dollars", "easy clean shelves", (), 20.0),
    ],
)
def test_reading_an_instruction(instruction: str, thing: str, options: tuple[str, ...], bound: float | None) -> None:
    request = Request.read(instruction)
    assert (request.thing, request.options, request.bound) == (thing, options, bound)
    assert all(request.is_sensible(search) for search in request.searches)


def test_human_demonstrations_are_played_again(make, tmp_path: Path) -> None:
    env = make()
    task = env.panel("train").tasks[0]
    _, info = env.reset(options={"task": task})
    assert env.session is not None
    title = env.catalogue.product(env.session.target).title
    state = f"WebShop\nInstruction: \n{info['instruction'].split(', and price')[0]}\n[button] Search [button_]"
    record = {
        "states": [state] * 4,
        "actions": [f"search[{title}]", "click[x]", "click[y]", "click[z]"],
        "action_idxs": [-1, 1, 0, 0],
        "available_actions": [[], ["a", f"click[item - {title.lower()}]"], ["click[features]"], ["click[< prev]"]],
    }
    path = tmp_path / "trajectories.jsonl"
    path.write_text(json.dumps(record) + "\n")
    episode = demonstrate(make(demonstrations=str(path)), task, seed=0, max_actions=15)
    actions = [step.action for step in episode.steps]
    assert actions[:4] == [f"search[{title}]", f"click[item - {title.lower()}]", "click[features]", "click[< prev]"]
    assert episode.success
    assert all(step.valid and step.reason for step in episode.steps)
    path.write_text('{"no": "trajectory"}\n')
    with pytest.raises(UserError, match="record 1"):
        make(demonstrations=str(path.rename(tmp_path / "other.jsonl")))
