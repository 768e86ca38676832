"""The engine says what stock says, keeps games apart, and does not grow."""

import gc
import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from textworld.generator.game import EntityInfo

from leap_ray.envs.alfworld.data import TYPES, find_games
from leap_ray.envs.alfworld.engine import NOTHING, AlfworldEngine, compiled_game, forget_games
from leap_ray.envs.alfworld.expressions import Expression
from leap_ray.envs.alfworld.households import Game, make_game
from leap_ray.errors import UserError

INVALID = ("fly to the moon", "", "put apple 1 in/on fridge 1", "take apple 99 from nowhere 1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def households() -> list[Game]:
    return [make_game(seed, kind, 2) for seed, kind in enumerate(TYPES)]


class Stock:
    """TextWorld's PDDL environment behind alfworld's demangler: what alfworld itself plays."""

    def __init__(self, payload) -> None:
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl import PddlEnv

        self.env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True, facts=True)))
        self.env.load(payload)

    def answer(self, action: str | None):
        state = self.env.reset() if action is None else self.env.step(action)[0]
        inner = self.env.unwrapped
        facts = frozenset(
            (fact.name, *(inner._entity_infos[v.name].name.strip() for v in fact.arguments))
            for fact in inner._pddl_state.facts
            if not fact.name.startswith(("not_", "new-axiom@"))
        )
        return state["feedback"], tuple(state["admissible_commands"]), bool(state["won"]), facts


def answer(engine: AlfworldEngine, action: str | None):
    observation = engine.reset() if action is None else engine.step(action)
    assert observation == engine.observation
    return observation, engine.admissible, engine.won, engine.facts()


def compare(payload, engine: AlfworldEngine, seed: int, count: int = 14) -> int:
    """Random, invalid and expert actions on both engines: every answer equal. Returns the number of steps."""
    rng, stock = random.Random(seed), Stock(payload)
    assert answer(engine, None) == stock.answer(None)
    steps = 0
    for turn in range(count):
        action = rng.choice(INVALID) if turn % 5 == 4 else rng.choice(engine.admissible)
        for _ in range(2 if action.startswith("use ") else 1):  # a lamp used twice
            assert answer(engine, action) == stock.answer(action), action
            steps += 1
    assert answer(engine, None) == stock.answer(None)
    for action in engine.walkthrough:
        assert answer(engine, f" {action} ") == stock.answer(f" {action} "), action
        steps += 1
    assert engine.won
    return steps


@pytest.mark.parametrize("place", range(6))
def test_households_equal_stock(households, cache, place):
    engine = AlfworldEngine(cache)
    engine.load(households[place].game, households[place].metadata)
    assert engine.metadata["task_type"] == TYPES[place]
    assert compare(households[place].game, engine, place) > 14


def real_games(folder: Path, per_kind: int) -> list[Path]:
    games = find_games(folder, folder / "cache")
    ids = [sorted(i for i, k in games.kinds.items() if k == kind)[:per_kind] for kind in TYPES]
    return [folder / "json_2.1.1" / i for group in ids for i in group]


def compare_real(paths: list[Path], cache: Path) -> list[int]:
    """Steps compared in each game."""
    import json

    engine = AlfworldEngine(cache)
    steps = []
    for seed, path in enumerate(paths):
        engine.load(path)
        steps.append(compare(json.loads((path / "game.tw-pddl").read_bytes()), engine, seed, count=8))
    return steps


def test_two_real_games_equal_stock(alfworld_data, cache):
    paths = real_games(alfworld_data, 1)
    assert min(compare_real([paths[1], paths[3]], cache)) > 8


@pytest.mark.slow
def test_real_games_of_all_types_equal_stock(alfworld_data, cache):
    steps = compare_real(real_games(alfworld_data, 1), cache)
    assert len(steps) == len(TYPES) and min(steps) > 8


def test_lamp_is_used_over_and_over(households, cache):
    game = households[TYPES.index("look_at_obj_in_light")]
    engine = AlfworldEngine(cache)
    engine.load(game.game)
    engine.reset()
    stock = Stock(game.game)
    stock.answer(None)
    lamp = next(a for a in engine.walkthrough if a.startswith("use "))
    way = engine.walkthrough[: engine.walkthrough.index(lamp)]
    for action in [*way, lamp, lamp, lamp, lamp.replace("use", "examine"), "look", "inventory", "help"]:
        assert answer(engine, action) == stock.answer(action), action


def transcript(engine: AlfworldEngine, game: Game, seed: int) -> list:
    rng = random.Random(seed)
    engine.load(game.game, game.metadata)
    heard = [answer(engine, None)]
    for _ in range(15):
        heard.append(answer(engine, rng.choice(engine.admissible)))
    return heard


def test_engines_on_one_game_do_not_meet(households, cache):
    first, second = AlfworldEngine(cache), AlfworldEngine(cache)
    alone = transcript(first, households[0], 1)
    first.load(households[0].game)
    second.load(households[0].game)
    rng, interleaved = random.Random(1), [answer(first, None)]
    second.reset()
    for _ in range(15):
        interleaved.append(answer(first, rng.choice(first.admissible)))
        second.step(random.choice(second.admissible))
    assert interleaved == alone


def test_threads_match_a_serial_run(households, tmp_path):
    """Cold caches on purpose: translation, parsing and play happen on eight threads at once."""
    work = [(households[i % 6], i) for i in range(16)]
    forget_games()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda item: transcript(AlfworldEngine(tmp_path), *item), work))
    forget_games()
    engine = AlfworldEngine(tmp_path)
    assert together == [transcript(engine, *item) for item in work]


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growth(games: list[Game], cache: Path) -> tuple[int, int]:
    """Bytes and objects that 500 resets leave behind, after 300 that fill the caches."""

    def play(resets: int) -> None:
        for number in range(resets):
            engine = AlfworldEngine(cache) if number % 10 else kept
            engine.load(games[number % 6].game)
            engine.reset()
            for _ in range(3):
                engine.step(rng.choice(engine.admissible))

    rng, kept = random.Random(0), AlfworldEngine(cache)
    play(300)
    gc.collect()
    before, objects = memory(), len(gc.get_objects())
    play(500)
    gc.collect()
    return memory() - before, len(gc.get_objects()) - objects


def test_500_resets_do_not_grow(households, cache):
    # In a process of its own: other tests' threads allocate while this one measures.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        grown, objects = alone.submit(growth, households, cache).result()
    assert grown < 4_000_000
    assert objects < 1500  # memos of ground operators met for the first time


def test_close_gives_the_library_back(households, cache):
    from leap_ray.envs.alfworld import engine as module

    engine = AlfworldEngine(cache)
    engine.load(households[0].game)
    engine.reset()
    idle = len(module._IDLE_LIBRARIES)
    engine.close()
    engine.close()
    assert len(module._IDLE_LIBRARIES) == idle + 1
    with pytest.raises(UserError, match="load"):
        engine.reset()
    engine.load(households[0].game)
    assert engine.reset().startswith("-= Welcome")
    assert len(module._IDLE_LIBRARIES) == idle


def test_a_game_is_played_only_after_reset(households, cache):
    engine = AlfworldEngine(cache)
    engine.load(households[0].game)
    engine.reset()
    engine.load(households[1].game)
    for call in (lambda: engine.step("look"), engine.facts, engine.plan):
        with pytest.raises(UserError, match=r"reset\(\)"):
            call()


def test_planner_solves_from_the_middle_and_knows_the_end(households, cache):
    engine = AlfworldEngine(cache)
    engine.load(households[0].game)
    engine.reset()
    engine.step(engine.walkthrough[0])
    plan = engine.plan()
    assert plan
    for action in plan:
        assert engine.step(action) != NOTHING
    assert engine.won
    assert engine.plan() == []


def test_naming_by_changing_facts_is_refused(households, cache):
    grammar = (
        households[0]
        .game["grammar"]
        .replace("examine {o}", "examine [{o.name | inreceptacle(o:object, r:receptacle)}]")
    )
    assert grammar != households[0].game["grammar"]
    engine = AlfworldEngine(cache)
    engine.load({**households[0].game, "grammar": grammar})
    with pytest.raises(UserError, match="examineobject"):
        engine.reset()


def test_payload_without_grammar_is_refused(households, cache):
    with pytest.raises(UserError, match="grammar"):
        compiled_game({k: v for k, v in households[0].game.items() if k != "grammar"}, cache)


def test_grammar_is_the_newer_dialect(households):
    """The class constant, the households and alfworld's own grammar say the same."""
    from leap_ray.envs.alfworld.env import AlfworldEnv

    assert AlfworldEnv.grammar_dialect == "move X to Y"
    engine = AlfworldEngine()
    for game in households:
        engine.load(game.game)
        moves = [a for a in engine.walkthrough if a.startswith(("move ", "put "))]
        assert all(a.startswith("move ") and " to " in a for a in moves)
    assert 'template :: "move {o} to {r}"' in households[0].game["grammar"]


def test_real_grammar_is_the_newer_dialect(alfworld_data):
    path = real_games(alfworld_data, 1)[0]
    assert 'template :: \\"move {o} to {r}\\"' in (path / "game.tw-pddl").read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Your task is to: ", "Your task is to: caf\\u00e9, "),  # an escape in the task line
        ("Your task is to: ", "Your task is to:   "),  # blanks, which the parser treats in its own way
        ('"task": [\n            {\n', '"task": [\n            {"weight": 1,\n'),  # a task line in another form
    ],
)
def test_other_task_lines_equal_stock(households, cache, old, new):
    grammar = households[0].game["grammar"].replace(old, new)
    assert grammar != households[0].game["grammar"]
    payload = {**households[0].game, "grammar": grammar}
    engine = AlfworldEngine(cache)
    engine.load(payload)
    assert answer(engine, None) == Stock(payload).answer(None)


def test_games_with_one_grammar_share_it(households, cache):
    first, second = (compiled_game(game.game, cache) for game in households[:2])
    assert first.grammar.rules["look.feedback"] is second.grammar.rules["look.feedback"]
    assert first.grammar.rules["task"] != second.grammar.rules["task"]
    assert compiled_game(households[0].game, cache) is first


PROGRAMS = [
    "__import__('os').popen('touch TARGET').read()",
    "r.name.__class__",
    "r.__class__",
    "r.name.upper()",
    "r.synonyms",
    "(lambda: r.name)()",
    "r.name if r.name else r.id",
    "r.name + ",
    "or r.name",
    "r.name r.id",
    "1 + 1",
    "open",
    "'a' * 9",
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_grammar_holds_no_program(households, cache, tmp_path, program):
    """A game file may come from anywhere: what its grammar says in braces is looked up, never run."""
    mark = tmp_path / "mark"
    rooms = '"You arrive at {r.name}. '
    grammar = households[0].game["grammar"].replace(rooms, rooms + "{" + program.replace("TARGET", str(mark)) + "}")
    assert grammar != households[0].game["grammar"]
    folder = tmp_path / "game"
    folder.mkdir()
    (folder / "game.tw-pddl").write_text(json.dumps({**households[0].game, "grammar": grammar}))
    (folder / "traj_data.json").write_text(json.dumps(households[0].metadata))
    engine = AlfworldEngine(cache)
    with pytest.raises(UserError) as caught:
        engine.load(folder)
        engine.reset()
        engine.step(next(a for a in engine.admissible if a.startswith("go to ")))
    assert not mark.exists()
    assert str(folder) in str(caught.value) or "'open'" in str(caught.value)


ODD = ["[c for c in r.name]", "f'{r.name}'", "r['name']", "", " ", "r.name;r.id", "'"]


@pytest.mark.parametrize("program", [*(p for p in PROGRAMS if p != "open"), *ODD])
def test_an_expression_is_attributes_and_texts(program):
    with pytest.raises(UserError, match="other programs are not run"):
        Expression.read(program)


def test_expressions_say_what_they_say_in_python():
    infos = {"r": EntityInfo("r_1", "receptacle"), "o": EntityInfo("o_1", "object")}
    infos["r"].name, infos["o"].name, infos["o"].indefinite = "drawer 1", "", "an"
    for text in (
        "r.name",
        " r.name ",
        "r",
        "o.indefinite + ' ' + r.name",
        "o.name or o.id",
        "r.name or o.id",
        'r.name+"!"',
    ):
        assert Expression.read(text).value(infos) == str(eval(text.strip(), {}, infos)), text


def test_a_program_in_the_task_line_is_not_run(households, cache, tmp_path):
    mark = tmp_path / "mark"
    task = "Your task is to: " + f"{{__import__('pathlib').Path('{mark}').touch()}} "
    grammar = households[0].game["grammar"].replace("Your task is to: ", task)
    with pytest.raises(UserError, match="other programs are not run"):
        AlfworldEngine(cache).load({**households[0].game, "grammar": grammar})
    assert not mark.exists()


def test_a_broken_grammar_is_one_sentence(households, cache):
    for old, new in [
        ("grammar ::", "grammar :"),
        ('"rhs": "TODO"', '"rhs": "TODO'),
        ("holds(a:agent,", "holds((a:agent,"),
    ]:
        grammar = households[0].game["grammar"].replace(old, new)
        assert grammar != households[0].game["grammar"]
        with pytest.raises(UserError, match="cannot be read"):
            AlfworldEngine(cache).load({**households[0].game, "grammar": grammar})
