"""Generated games: the same everywhere, solvable on the real engine, and like real games where it matters."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from leap_ray.envs.alfworld import env, household_files, households, inventories
from leap_ray.envs.alfworld.engine import AlfworldEngine
from leap_ray.envs.alfworld.env import HouseholdsEnv
from leap_ray.envs.alfworld.households import Game, make_game
from leap_ray.envs.alfworld.world import KINDS, Goal, World
from leap_ray.errors import UserError
from leap_ray.types import digest


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> AlfworldEngine:
    return AlfworldEngine(tmp_path_factory.mktemp("households"))


def started(engine: AlfworldEngine, game: Game) -> AlfworldEngine:
    engine.load(game.game, game.metadata)
    engine.reset()
    return engine


def test_same_arguments_same_game_and_other_seeds_other_games():
    first = [make_game(5, kind, 2) for kind in KINDS]
    again = [make_game(5, task_type, 2) for task_type in KINDS.values()]
    assert first == again
    problems = {make_game(seed, "heat", 2).game["pddl_problem"] for seed in range(30)}
    assert len(problems) == 30


def test_the_generator_keeps_no_state_and_leaves_global_randomness_alone():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    make_game(1, "two", 3)
    assert random.random() == expected


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_walkthroughs_win_on_the_real_engine_and_not_sooner(engine: AlfworldEngine, kind: str, size: int):
    for seed in (11, 12, 13):
        game = make_game(seed, kind, size)
        started(engine, game)
        for action in game.game["walkthrough"]:
            assert not engine.won
            assert action in engine.admissible, (game.id, action)
            engine.step(action)
        assert engine.won, game.id


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_dial_sets_places_and_things(kind: str):
    for size, (places, things) in households.SIZES.items():
        for seed in range(8):
            facts = inventories.read_init(make_game(seed, kind, size).game["pddl_problem"])
            found = len(facts["receptacleType"])
            assert found == places or (size > 2 and places / 2 < found < places), "a small room may have no more"
            assert 1 <= len(facts["objectType"]) <= things
    real = [inventories.read_init(make_game(seed, kind, 5).game["pddl_problem"]) for seed in range(8)]
    assert sum(len(facts["receptacleType"]) for facts in real) / 8 > 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_the_world_follows_the_engine_step_by_step(engine: AlfworldEngine, kind: str):
    rng = random.Random(kind)
    for seed in (21, 22):
        started(engine, make_game(seed, kind, 2))
        goal, world = Goal.of(engine.metadata), World.of(engine.facts())
        for _ in range(60):
            helpful = [a for a in engine.admissible if not a.startswith(("examine", "help", "look", "inventory"))]
            action = rng.choice(helpful)
            engine.step(action)
            world.apply(action)
            told = World.of(engine.facts())
            world.inside = {thing: places for thing, places in world.inside.items() if places}
            assert world == told, action
            assert world.won(goal) == engine.won, action


def test_metadata_is_that_of_real_games(engine: AlfworldEngine):
    for kind, task_type in KINDS.items():
        game = make_game(31, kind, 2)
        assert json.loads(json.dumps(game.metadata)) == game.metadata
        assert game.metadata["task_type"] == task_type
        assert game.game["solvable"] is True
        started(engine, game)
        params, goal = game.metadata["pddl_params"], Goal.of(game.metadata)
        assert set(params) == {"mrecep_target", "object_sliced", "object_target", "parent_target", "toggle_target"}
        assert goal.thing in engine.observation.rpartition("Your task is to:")[2]
        assert game.metadata["turk_annotations"]["anns"][0]["task_desc"] in engine.observation
        for subgoal in game.metadata["plan"]["high_pddl"]:
            planner = subgoal["planner_action"]
            for key in ("objectId", "receptacleObjectId", "cleanObjectId"):
                if key in planner:
                    assert engine.name_of(planner[key]), (game.id, subgoal)


def test_subgoals_name_the_walkthrough_in_the_games_own_words(tmp_path: Path):
    env = HouseholdsEnv(cache=str(tmp_path))
    task = env.panel("train").task("train/clean-s2-000002")
    env.reset(options={"task": task})
    rendering = env.privileged().rendering
    taken = next(a for a in env.engine.walkthrough if a.startswith("take ")).split(" ", 1)[1].partition(" from ")[0]
    assert f"pick up {taken}" in rendering and f"clean {taken}" in rendering


def test_panels_share_no_game():
    env = HouseholdsEnv(counts={"train": 60, "valid": 60, "test": 60})
    seen: dict[str, str] = {}
    for panel in ("train", "valid", "test"):
        for task in env.panel(panel).tasks[::4]:
            number = int(task.id.rsplit("-", 1)[1])
            problem = make_game(env.SEEDS[panel] + number, task.kind, 2).game["pddl_problem"].partition("\n")[2]
            assert seen.setdefault(problem, task.id) == task.id


@pytest.mark.parametrize(("kind", "size", "word"), [("bake", 2, "bake"), ("heat", 0, "size 0"), ("heat", 9, "size 9")])
def test_what_cannot_be_made_is_one_clear_error(kind: str, size: int, word: str):
    with pytest.raises(UserError, match=word):
        make_game(1, kind, size)


def test_tables_are_counts_of_what_they_are_given():
    games = [make_game(seed, kind, 3) for seed in range(4) for kind in KINDS]
    scenes = {"kitchen": 1, "living room": 201, "bedroom": 301, "bathroom": 401}
    pairs = [(g.game, {**g.metadata, "scene": {"scene_num": scenes[g.metadata["scene"]["room"]]}}) for g in games]
    plain = inventories.measure(pairs)
    assert plain["games"] == len(games)
    assert sum(room["games"] for room in plain["rooms"].values()) == len(games)
    assert sum(n for rows in plain["tasks"].values() for *_, n in rows) == len(games)
    kept = sum(n for room in plain["rooms"].values() for places in room["kept"].values() for n, _ in places.values())
    assert kept == sum(len(inventories.read_init(g.game["pddl_problem"])["inReceptacle"]) for g in games)
    accepts = inventories.load().accepts
    assert all(set(things) <= set(accepts[place]) for place, things in plain["accepts"].items())


@pytest.mark.slow
def test_the_tables_are_those_of_the_training_games(alfworld_data: Path):
    paths = sorted((alfworld_data / "json_2.1.1" / "train").rglob("game.tw-pddl"))
    pairs = ((json.loads(p.read_text()), json.loads(p.with_name("traj_data.json").read_text())) for p in paths)
    assert json.loads(inventories.DATA.read_text()) == inventories.measure(pairs)


GAMES = {1: "df85cada0eb6"}  # the generator's version: what its games are


def test_another_game_from_the_same_arguments_is_another_version_of_the_generator():
    """Households' results name the version: where this fails, raise households.VERSION and add a line."""
    games = [make_game(seed, kind, size) for seed, kind, size in zip(range(12), [*KINDS] * 2, [1, 2, 3, 4] * 3)]
    assert (
        digest([[g.game["pddl_problem"], g.game["walkthrough"], g.metadata] for g in games])
        == GAMES[households.VERSION]
    )


def test_what_games_are_made_from_is_part_of_their_name(monkeypatch):
    before = HouseholdsEnv().provenance()
    assert HouseholdsEnv(sizes=[1, 2]).provenance() == before, "a task's id says the size"
    monkeypatch.setattr(env, "VERSION", households.VERSION + 1)
    assert HouseholdsEnv().provenance() != before
    monkeypatch.undo()
    monkeypatch.setattr(env, "generator_files", lambda: {**household_files.generator_files(), "alfred.pddl": "other"})
    assert HouseholdsEnv().provenance() != before
