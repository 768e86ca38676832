"""ALFWorld's experts: what they win, what they may know, and what they call no mistake."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leap_ray.envs.alfworld import inventories
from leap_ray.envs.alfworld.belief import Belief
from leap_ray.envs.alfworld.data import find_games
from leap_ray.envs.alfworld.engine import AlfworldEngine
from leap_ray.envs.alfworld.env import HouseholdsEnv
from leap_ray.envs.alfworld.experts import (
    Demonstrator,
    Oracle,
    Planner,
    SymbolicExpert,
    constrained_advice,
    draw_level,
    open_advice,
    plain_advice,
)
from leap_ray.envs.alfworld.explorer import explore
from leap_ray.envs.alfworld.handcoded import Handcoded
from leap_ray.envs.alfworld.household_files import game_file, trajectory
from leap_ray.envs.alfworld.households import Household, Thing, draw, make_game, solve
from leap_ray.envs.alfworld.planning import Move, plan
from leap_ray.envs.alfworld.world import KINDS, Goal, World
from leap_ray.envs.base import Advice
from leap_ray.errors import PrivilegeError, UserError

IDLE = ("look", "inventory", "help")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> AlfworldEngine:
    return AlfworldEngine(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> HouseholdsEnv:
    return HouseholdsEnv(cache=str(tmp_path_factory.mktemp("homes")))


def start(engine: AlfworldEngine, seed: int, kind: str, size: int = 2) -> AlfworldEngine:
    game = make_game(seed, kind, size)
    engine.load(game.game, game.metadata)
    engine.reset()
    return engine


def disturb(engine: AlfworldEngine, rng: random.Random, count: int, *experts: Any) -> None:
    """Random actions, each expert asked before each as the contract has it."""
    for _ in range(count):
        if engine.won:
            return
        for expert in experts:
            expert.advise()
        engine.step(rng.choice(engine.admissible))


def play(engine: AlfworldEngine, expert: Any, limit: int = 50) -> Iterator[Advice]:
    """The expert's advice before each of its own actions, checked for what always holds."""
    for _ in range(limit):
        if engine.won:
            return
        advice = expert.advise()
        assert advice is not None
        assert advice.action in engine.admissible
        assert advice.action in advice.acceptable <= set(engine.admissible)
        assert not any(a in IDLE or a.startswith("close ") for a in advice.acceptable)
        assert advice.reason
        yield advice
        engine.step(advice.action)


def win(engine: AlfworldEngine, expert: Any, limit: int = 50) -> int:
    steps = sum(1 for _ in play(engine, expert, limit))
    assert engine.won
    return steps


def test_the_handcoded_expert_wins_and_leaves_luck_as_it_was(engine: AlfworldEngine):
    won = []
    random.seed(1)
    luck = random.getstate()
    for seed in (45, 46):
        for kind in KINDS:
            start(engine, seed, kind)
            expert = Handcoded(engine, task=f"{kind}{seed}", seed=0)
            for _ in range(60):
                advice = expert.advise() if not engine.won else None
                if advice is None:
                    break
                assert advice.action in engine.admissible
                engine.step(advice.action)
            won.append(engine.won)
    assert sum(won) >= 11
    assert random.getstate() == luck


class Blindfold:
    """An engine that will not tell its facts."""

    def __init__(self, engine: AlfworldEngine) -> None:
        self.inner = engine

    def __getattr__(self, name: str) -> Any:
        assert name != "facts", "the demonstrator asked for privileged facts"
        return getattr(self.inner, name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_demonstrator_wins_from_what_it_sees(engine: AlfworldEngine, kind: str):
    for seed in range(40, 45):
        start(engine, seed, kind, 3)
        assert win(engine, Demonstrator(Blindfold(engine)), limit=30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("expert", ["demonstrator", "0.25", "0.5", "0.75", "1", "oracle"])
def test_every_expert_recovers_from_random_actions(engine: AlfworldEngine, expert: str, kind: str):
    for seed in (51, 52):
        start(engine, seed, kind)
        made = {"demonstrator": Demonstrator, "oracle": Oracle}.get(expert)
        one = made(engine) if made else SymbolicExpert(engine, privilege=float(expert), seed=seed, task="t")
        disturb(engine, random.Random(f"{seed}{kind}"), 15, one)
        if not engine.won:
            win(engine, one, limit=30)
        assert engine.won


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("privilege", [0.0, 0.5, 1.0])
def test_a_student_that_does_anything_acceptable_wins(engine: AlfworldEngine, privilege: float, kind: str):
    rng = random.Random(f"{privilege}{kind}")
    for seed in range(60, 66):
        start(engine, seed, kind)
        expert = SymbolicExpert(engine, privilege=privilege, seed=0, task="t")
        disturb(engine, rng, 6, expert)
        for _ in range(40):
            if engine.won:
                break
            advice = expert.advise()
            assert advice is not None
            engine.step(rng.choice(sorted(advice.acceptable)))
        assert engine.won, (kind, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_needs_no_more_actions_than_the_planner(engine: AlfworldEngine, kind: str):
    rng = random.Random(kind)
    for seed in (71, 72):
        for disturbed in (0, 12):
            start(engine, seed, kind, 1)
            disturb(engine, rng, disturbed)
            best = engine.plan()
            if not engine.won:
                assert best is not None
                assert win(engine, Oracle(engine)) <= len(best)


def test_the_planner_plays_to_the_end(engine: AlfworldEngine):
    start(engine, 73, "heat", 1)
    planned = len(engine.plan() or ())
    assert win(engine, Planner(engine)) == planned


@pytest.mark.parametrize("kind", KINDS)
def test_advice_changes_nothing(engine: AlfworldEngine, kind: str):
    start(engine, 74, kind)
    before = (engine.observation, engine.admissible, engine.facts())
    for privilege in (0, 0.5, 1):
        SymbolicExpert(engine, privilege=privilege, seed=0, task="t").advise()
    assert before == (engine.observation, engine.admissible, engine.facts())


def hidden_game(engine: AlfworldEngine) -> tuple[Goal, str]:
    """A game whose only target is somewhere the demonstrator would not look first; returns where."""
    for seed in range(200):
        start(engine, seed, "place", 3)
        goal, truth = Goal.of(engine.metadata), World.of(engine.facts())
        belief = Belief()
        belief.see(engine.observation, engine.admissible)
        where = {p for thing, places in truth.inside.items() if thing.split()[0] == goal.thing for p in places}
        guess = explore(belief, goal)
        if len(where) == 1 and guess and guess.place not in where and belief.odds(goal.thing, min(where)) > 0:
            return goal, min(where)
    raise AssertionError("no such game among 200")


def test_the_dial_from_plain_to_revealing(engine: AlfworldEngine):
    goal, where = hidden_game(engine)

    def at(privilege: float) -> Advice:
        advice = SymbolicExpert(engine, privilege=privilege, seed=0, task="t").advise()
        assert advice is not None
        return advice

    plain, middle, full = at(0), at(0.5), at(1)
    assert plain == Demonstrator(engine).advise()
    assert plain.action != middle.action == full.action == f"go to {where}"
    assert plain.acceptable == middle.acceptable, "any plausible place is a legitimate search"
    assert full.acceptable == {full.action}
    assert re.search(rf"{goal.thing.capitalize()} \d+ is at {where}", full.reason)
    assert not re.search(rf"{goal.thing} \d", middle.reason), "the reason must not name what was not seen"
    assert {at(0.25).action, at(0.75).action} <= {plain.action, middle.action}


def test_in_between_decisions_are_drawn_by_a_hash():
    levels = [draw_level(0.25, "task", step, 0) for step in range(400)]
    assert levels == [draw_level(0.25, "task", step, 0) for step in range(400)]
    assert set(levels) == {0.0, 0.5} and 150 < levels.count(0.5) < 250
    assert levels != [draw_level(0.25, "task", step, 1) for step in range(400)]
    assert levels != [draw_level(0.25, "other", step, 0) for step in range(400)]
    assert {draw_level(0.9, "task", step, 0) for step in range(100)} == {0.5, 1.0}
    assert [draw_level(p, "task", 0, 0) for p in (0, 0.5, 1)] == [0, 0.5, 1]


def test_a_thing_nobody_would_look_for_there_is_not_given_away():
    belief, truth, goal = small_home(hidden="garbagecan 1")
    candidates = ("go to countertop 1", "go to drawer 1", "go to garbagecan 1", "look")
    assert belief.odds("knife", "garbagecan 1") == 0 < belief.odds("knife", "drawer 1")
    assert constrained_advice(belief, truth, goal, candidates) == plain_advice(belief, goal, candidates)
    told = open_advice(truth, goal, candidates)
    assert told and told.action == "go to garbagecan 1"


def small_home(hidden: str) -> tuple[Belief, World, Goal]:
    belief = Belief()
    belief.see(
        "You are in the middle of a room. Looking quickly around you, you see a countertop 1, a drawer 1, and a garbagecan 1.\n\n"
    )
    truth = World(spots={p: p for p in belief.spots}, at="middle", inside={"knife 1": {hidden}}, accepts=belief.accepts)
    return belief, truth, Goal("place", "knife", "countertop")


def test_places_that_were_searched_are_no_longer_acceptable():
    belief, _, goal = small_home("drawer 1")
    everywhere = ("go to countertop 1", "go to drawer 1", "go to garbagecan 1", "inventory")
    first = plain_advice(belief, goal, everywhere)
    assert first and first.acceptable == {"go to countertop 1", "go to drawer 1"}
    belief.see(
        "You arrive at countertop 1. On the countertop 1, you see a apple 1, and a spoon 1.", ("examine countertop 1",)
    )
    second = plain_advice(
        belief, goal, ("go to drawer 1", "go to garbagecan 1", "examine countertop 1", "take apple 1 from countertop 1")
    )
    assert second == Advice("go to drawer 1", "No knife here. Try drawer 1.", frozenset({"go to drawer 1"}))
    belief.see(
        "You arrive at drawer 1. The drawer 1 is closed.", ("open drawer 1", "examine drawer 1", "go to countertop 1")
    )
    third = plain_advice(
        belief, goal, ("open drawer 1", "examine drawer 1", "go to countertop 1", "go to garbagecan 1")
    )
    assert third == Advice("open drawer 1", "Drawer 1 is closed. Open it.", frozenset({"open drawer 1"}))
    belief.see(
        "You open the drawer 1. The drawer 1 is open. In it, you see nothing.", ("close drawer 1", "examine drawer 1")
    )
    last = plain_advice(belief, goal, ("close drawer 1", "go to countertop 1", "go to garbagecan 1"))
    assert last and last.acceptable == {"go to garbagecan 1"}


def test_after_an_action_that_did_nothing_the_reason_says_so(engine: AlfworldEngine):
    start(engine, 81, "heat")
    for privilege in (0, 0.5):
        engine.reset()
        expert = SymbolicExpert(engine, privilege=privilege, seed=0, task="t")
        before = expert.advise()
        engine.step("go to the moon")
        after = expert.advise()
        assert before and after and after.action == before.action in engine.admissible
        assert after.reason.startswith("That did nothing. ")
        engine.step(after.action)
        again = expert.advise()
        assert again and not again.reason.startswith("That did nothing.")


@pytest.mark.parametrize("kind", KINDS)
def test_every_acceptable_action_has_a_reason_of_its_own(engine: AlfworldEngine, kind: str):
    rng = random.Random(kind)
    for seed in (83, 84):
        start(engine, seed, kind, 3)
        expert = SymbolicExpert(engine, privilege=0.5, seed=0, task="t")
        while not engine.won:
            advice = expert.advise()
            assert advice is not None
            assert expert.explain(advice.action) == advice.reason
            chosen = rng.choice(sorted(advice.acceptable))
            reason = expert.explain(chosen)
            named = re.findall(r"[a-z]+ \d+", reason.lower())
            assert named and all(
                name in chosen or name in (expert.belief.holds, *expert.belief.inside) for name in named
            )
            engine.step(chosen)


def world(**what: Any) -> World:
    spots = {p: p for p in ("countertop 1", "cabinet 1", "cabinet 2", "microwave 1", "fridge 1", "sinkbasin 1")}
    return World(**{"spots": spots, "at": "countertop 1", "accepts": Belief().accepts, **what})


@pytest.mark.parametrize(
    ("goal", "state", "action"),
    [
        (Goal("heat", "apple", "fridge"), {"holds": "mug 1"}, "move mug 1 to countertop 1"),
        (
            Goal("heat", "apple", "fridge"),
            {"holds": "mug 1", "at": "fridge 1", "closed": {"fridge 1"}},
            "open fridge 1",
        ),
        (Goal("cool", "mug", "cabinet"), {"holds": "mug 1", "treated": {"cool": {"mug 1"}}}, "go to cabinet 1"),
        (Goal("cool", "mug", "cabinet"), {"holds": "mug 1", "treated": {"cool": {"mug 2"}}}, "go to fridge 1"),
        (
            Goal("cool", "mug", "cabinet"),
            {"holds": "mug 1", "at": "fridge 1", "closed": {"fridge 1"}, "treated": {"cool": set()}},
            "cool mug 1 with fridge 1",
        ),
        (
            Goal("cool", "mug", "cabinet"),
            {"inside": {"mug 1": {"countertop 1"}, "mug 2": {"fridge 1"}}, "treated": {"cool": {"mug 2"}}},
            "go to fridge 1",
        ),
        (
            Goal("place", "mug", "cabinet"),
            {
                "holds": "mug 1",
                "at": "cabinet 2",
                "closed": {"cabinet 2"},
                "spots": {"cabinet 1": "far", "cabinet 2": "cabinet 2"},
            },
            "open cabinet 2",
        ),
        (Goal("two", "mug", "cabinet"), {"holds": "mug 1", "inside": {"mug 2": {"cabinet 2"}}}, "go to cabinet 2"),
        (
            Goal("two", "mug", "cabinet"),
            {
                "inside": {"mug 1": {"cabinet 1"}, "mug 2": {"cabinet 2"}, "mug 3": {"cabinet 2"}},
                "closed": {"cabinet 1", "cabinet 2"},
            },
            None,
        ),
        (
            Goal("two", "mug", "cabinet"),
            {"inside": {"mug 1": {"cabinet 1"}, "mug 2": {"cabinet 2"}}},
            "go to cabinet 2",
        ),
        (
            Goal("look", "mug", lamp="desklamp"),
            {
                "holds": "mug 1",
                "inside": {"desklamp 1": {"cabinet 1"}, "desklamp 2": {"cabinet 2"}},
                "lit": {"desklamp 2"},
            },
            "go to cabinet 2",
        ),
        (
            Goal("look", "mug", lamp="desklamp"),
            {"holds": "mug 1", "inside": {"desklamp 1": {"countertop 1"}}},
            "use desklamp 1",
        ),
        (Goal("place", "apple", "cabinet"), {"holds": "apple 1", "accepts": set()}, None),
        (Goal("place", "apple", "fridge"), {"holds": "mug 1", "accepts": {("fridge", "apple")}}, None),
    ],
)
def test_the_next_action_in_awkward_states(goal: Goal, state: dict[str, Any], action: str | None):
    step = plan(world(**state), goal)
    assert (step.action if isinstance(step, Move) else step) == action


@pytest.mark.parametrize("at", ["countertop 1", "cabinet 1", "cabinet 2", "fridge 1"])
def test_two_things_in_two_right_places_are_brought_together(at: str):
    goal = Goal("two", "mug", "cabinet")
    home = world(at=at, inside={"mug 1": {"cabinet 1"}, "mug 2": {"cabinet 2"}}, closed={"cabinet 1", "cabinet 2"})
    for _ in range(6):
        step = plan(home, goal)
        if isinstance(step, Move):
            home.apply(step.action)
    assert home.won(goal)


def test_no_plan_is_an_answer_at_every_degree_of_privilege():
    stuck = world(holds="mug 1", accepts=set())
    goal = Goal("place", "apple", "fridge")
    candidates = ("go to cabinet 1", "inventory", "look")
    assert open_advice(stuck, goal, candidates) is None
    belief = Belief()
    belief.spots, belief.at, belief.holds, belief.accepts = dict(stuck.spots), stuck.at, "mug 1", set()
    assert constrained_advice(belief, stuck, goal, candidates) is None
    assert plain_advice(belief, goal, candidates) is None


def test_a_belief_holds_only_what_was_said(engine: AlfworldEngine):
    rng = random.Random(5)
    for kind in KINDS:
        start(engine, 91, kind)
        belief = Belief()
        said = ""
        for _ in range(40):
            said += engine.observation
            belief.see(engine.observation, engine.admissible)
            truth = World.of(engine.facts())
            for thing, places in belief.inside.items():
                assert thing in said
                assert places <= truth.inside.get(thing, set())
            assert belief.closed <= truth.closed
            assert belief.holds == truth.holds and belief.treated == truth.treated
            if engine.won:
                break
            engine.step(rng.choice(engine.admissible))


def test_experts_with_privileged_facts_are_for_training_tasks_only(homes: HouseholdsEnv):
    valid, train = (homes.panel(name).tasks[0] for name in ("valid", "train"))
    homes.reset(options={"task": valid})
    for kind, privilege in (("teacher", 0.25), ("teacher", 1), ("oracle", 0), ("planner", 0), ("handcoded", 0)):
        with pytest.raises(PrivilegeError, match=valid.id):
            homes.expert(kind, privilege=privilege)
    for kind in ("demonstrator", "teacher"):
        assert homes.expert(kind, privilege=0).advise()
    homes.reset(options={"task": train})
    for kind in ("demonstrator", "teacher", "oracle", "planner", "handcoded"):
        assert homes.expert(kind).advise()
    with pytest.raises(UserError, match=r"'wizard'.*demonstrator, teacher, oracle, planner"):
        homes.expert("wizard")
    with pytest.raises(UserError, match="privilege 2"):
        homes.expert("teacher", privilege=2)


def test_an_expert_needs_an_episode(tmp_path: Path):
    with pytest.raises(UserError, match="before reset"):
        HouseholdsEnv(cache=str(tmp_path)).expert("demonstrator")


@pytest.mark.slow
def test_real_games_are_won_from_the_start_and_after_random_actions(alfworld_data: Path):
    engine = AlfworldEngine(alfworld_data / "cache")
    games = find_games(alfworld_data, alfworld_data / "cache")
    demonstrated, stuck = [], 0
    for number, task in enumerate(games.panel("valid_seen").sample(60, 1).tasks):
        engine.load(games.path(task))
        engine.reset()
        assert win(engine, Oracle(engine)) <= len(engine.walkthrough), "the walkthrough is the planner's"
        engine.reset()
        demonstrated.append(win(engine, Demonstrator(Blindfold(engine))))
        for expert in (Oracle(engine), SymbolicExpert(engine, privilege=0.5, seed=0, task=task.id)):
            engine.reset()
            disturb(engine, random.Random(number), 10 + number % 11, expert)
            if engine.won or expert.advise():
                win(engine, expert)
            else:
                stuck += 1
                assert engine.plan() is None, f"{task.id}: the planner knows a way"
    assert stuck <= 4
    assert sum(steps <= 20 for steps in demonstrated) >= 57
    assert sum(demonstrated) / len(demonstrated) < 10


def renamed(house: Household, kinds: dict[str, str]) -> Household:
    """The household with other types of places and things."""
    new = {t: Thing(kinds.get(t.kind, t.kind), t.number) for t in (*house.places, *house.things)}
    return replace(
        house,
        target=kinds.get(house.target, house.target),
        parent=kinds.get(house.parent, house.parent),
        places=tuple(new[p] for p in house.places),
        opens=frozenset(new[p] for p in house.opens),
        spots={new[p]: spot for p, spot in house.spots.items()},
        things={new[t]: new[p] for t, p in house.things.items()},
    )


def unheard_of(engine: AlfworldEngine, kind: str, seed: int, what: str) -> bool:
    """Load a household that the training inventories know less of than the game; False where this draw has none.

    `what`: "pair", the task's place never holds such a thing in training; "place", "thing" or "both": a type nobody has seen;
    "elsewhere": things can be put down only where the inventories have none.
    """
    tables, rng = inventories.load(), random.Random(f"{kind}/{seed}/{what}")
    house = draw(rng, tables, kind, 2)
    if house is None:
        return False
    accepts = {place: set(things) for place, things in tables.accepts.items()}
    kinds: dict[str, str] = {}
    used = {p.kind for p in house.places}
    if what == "pair":
        free = [p for p in sorted(accepts) if p not in used and house.target not in accepts[p]]
        if kind == "look" or not free:
            return False
        kinds[house.parent] = rng.choice(free)
    if what in ("place", "both") and house.kind != "look":
        kinds[house.parent] = "Hammock"
    if what in ("thing", "both"):
        kinds[house.target] = "Gizmo"
    if what == "elsewhere":
        accepts = {p: {"Gadget"} for p in accepts}
        accepts.setdefault(rng.choice(sorted(used)), set()).update(t.kind for t in house.things)
    traits = {**tables.traits, **{new: tables.traits.get(old, ()) for old, new in kinds.items()}}
    for old, new in kinds.items():
        accepts[new] = accepts.get(new, set()) | accepts.get(old, set())
        for things in accepts.values():
            things |= {new} if old in things else set()
    house = renamed(house, kinds)
    if house.kind != "look":
        accepts.setdefault(house.parent, set()).add(house.target)
    game = replace(tables, accepts={p: tuple(sorted(t)) for p, t in accepts.items()}, traits=traits)
    steps = solve(house, game)
    if not steps:
        return False
    files = game_file(house, game, steps, "unheard", rng)
    engine.load(files, trajectory(house, steps, "unheard", files, seed))
    engine.reset()
    return True


@pytest.mark.parametrize("what", ["pair", "place", "thing", "both", "elsewhere"])
@pytest.mark.parametrize("kind", KINDS)
def test_games_that_the_inventories_do_not_know_are_won_all_the_same(engine: AlfworldEngine, kind: str, what: str):
    """At every degree of privilege, from the start and after anything the student did that left a way."""
    played = 0
    for seed in range(12):
        if played == 2 or not unheard_of(engine, kind, seed, what):
            continue
        played += 1
        for privilege in (0.0, 0.25, 0.5, 0.75, 1.0):
            for slips in (0, 10):
                engine.reset()
                rng = random.Random(f"{seed}{slips}")
                expert = SymbolicExpert(engine, privilege=privilege, seed=0, task="t")
                disturb(engine, rng, slips, expert)
                if Oracle(engine).advise() is not None:
                    win(engine, expert, limit=60)
    assert played or (kind, what) in {("look", "pair"), ("look", "place")}


@pytest.mark.parametrize("kind", ["place", "clean"])
def test_the_demonstrator_wins_games_that_the_inventories_do_not_know(engine: AlfworldEngine, kind: str):
    for seed in range(4):
        for what in ("pair", "both", "elsewhere"):
            if unheard_of(engine, kind, seed, what):
                win(engine, Demonstrator(Blindfold(engine)), limit=40)


def test_a_sink_cleans_as_well_as_its_basin():
    goal = Goal("clean", "mug", "cabinet")
    home = world(holds="mug 1", spots={p: p for p in ("countertop 1", "cabinet 1", "sink 1")})
    step = plan(home, goal)
    assert isinstance(step, Move) and step.action == "go to sink 1"


def test_a_thing_is_carried_to_each_kind_of_place_once_where_the_tables_know_none():
    belief = Belief(Goal("place", "mug", "desk"))
    belief.see(
        "You are in the middle of a room. Looking quickly around you, you see a desk 1, a hammock 1, and a hammock 2."
    )
    belief.see("You arrive at hammock 1. On the hammock 1, you see a gizmo 1.", ("examine hammock 1",))
    belief.see("You pick up the gizmo 1 from the hammock 1.", ("examine hammock 1", "examine gizmo 1", "go to desk 1"))
    assert not belief.takes("hammock 2", "gizmo 1") and belief.takes("desk 1", "gizmo 1")
    belief.see("You arrive at desk 1. On the desk 1, you see nothing.", ("examine desk 1", "go to hammock 1"))
    assert not belief.takes("desk 1", "gizmo 1")
    assert plain_advice(belief, Goal("place", "mug", "desk"), ("go to hammock 1", "go to hammock 2", "look")) is None


@pytest.mark.slow
def test_the_demonstrator_and_the_teacher_win_real_games(alfworld_data: Path, tmp_path: Path):
    engine = AlfworldEngine(tmp_path)
    games = find_games(str(alfworld_data))
    for panel in ("valid_seen", "valid_train"):
        for task in games.panel(panel).sample(18, 0).tasks:
            engine.load(games.path(task))
            for privilege in (0.0, 0.5, 1.0):
                for slips in (0, 12):
                    engine.reset()
                    expert = SymbolicExpert(engine, privilege=privilege, seed=0, task="t")
                    disturb(engine, random.Random(f"{task.id}{slips}"), slips, expert)
                    if Oracle(engine).advise() is not None:
                        win(engine, expert, limit=80)
