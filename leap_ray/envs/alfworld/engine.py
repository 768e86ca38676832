"""ALFWorld's text engine, fast: Fast Downward's C library underneath, and nothing computed twice.

It says what TextWorld's `PddlEnv` behind alfworld's demangler says, word for word (experiments/benchmarks/alfworld_engine.py
compares them), and leaves out what cost the time there: the translation comes from a disk cache, the grammar is compiled once,
a ground operator's command is written once, and a game already played in this process keeps all of that.
"""

from __future__ import annotations

import ctypes
import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap_ray.envs.alfworld.grammar import Binding, Grammar, Signature, Writer, forget_grammars, load_grammar
from leap_ray.envs.alfworld.names import pddl_name
from leap_ray.envs.alfworld.translation import Translation, optimised_sas, translate, translation_key
from leap_ray.errors import UserError

NOTHING = "Nothing happens."
GAMES_KEPT = 64  # compiled games a process keeps, 1 to 3 MB each
HIDDEN = ("not_", "new-axiom@")  # predicates that are bookkeeping, not facts about the household


@dataclass(frozen=True)
class Operator:
    """One ground operator: an action with all its arguments."""

    id: int
    action: str
    command: str
    binding: Binding
    effects: int


class FactBase:
    """True facts by signature, with each signature's sorted list kept until it changes."""

    def __init__(self, facts: Mapping[Signature, frozenset[tuple[str, ...]]]) -> None:
        self._facts: dict[Signature, frozenset[tuple[str, ...]]] = dict(facts)
        self._sorted: dict[Signature, list[tuple[str, ...]]] = {}

    def sorted(self, signature: Signature) -> Sequence[tuple[str, ...]]:
        found = self._sorted.get(signature)
        if found is None:
            facts = self._facts.get(signature)
            if facts is None:
                return ()
            found = self._sorted[signature] = sorted(facts)
        return found

    def has(self, signature: Signature, arguments: tuple[str, ...]) -> bool:
        return arguments in self._facts.get(signature, ())

    def add(self, signature: Signature, arguments: tuple[str, ...]) -> None:
        self._facts[signature] = self._facts.get(signature, frozenset()) | {arguments}
        self._sorted.pop(signature, None)

    def remove(self, signature: Signature, arguments: tuple[str, ...]) -> None:
        if signature in self._facts:
            self._facts[signature] -= {arguments}
            self._sorted.pop(signature, None)

    def snapshot(self) -> dict[Signature, frozenset[tuple[str, ...]]]:
        return dict(self._facts)


class Game:
    """A compiled game, shared by every engine of the process that plays it; what it learns later are memos only."""

    def __init__(self, payload: Mapping[str, Any], translation: Translation) -> None:
        self.domain, self.problem = payload["pddl_domain"], payload["pddl_problem"]
        self.sas = translation.sas.encode()
        self._problem_facts, self._parameters = translation.initial, translation.parameters
        self.types = translation.objects
        self.walkthrough = tuple(payload.get("walkthrough") or ())
        types = tuple((name, tuple(supertypes)) for name, supertypes in translation.types)
        self.grammar: Grammar = load_grammar(payload["grammar"], types)
        self.initial: dict[Signature, frozenset[tuple[str, ...]]] | None = None
        self.opening: tuple[str, tuple[str, ...], dict[str, Operator]] | None = None
        self.infos: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self._operators: dict[int, Operator] = {}

    def signature(self, predicate: str, arguments: Sequence[str]) -> Signature:
        return predicate, tuple(self.types[a] for a in arguments)

    def begin(self, atoms: Sequence[str]) -> None:
        """Take the initial facts: the problem's own, then the C library's state."""
        facts: dict[Signature, set[tuple[str, ...]]] = {}
        for predicate, *arguments in self._problem_facts:
            facts.setdefault(self.signature(predicate, arguments), set()).add(tuple(arguments))
        changing = set()
        for atom in atoms:
            positive, predicate, arguments = parse_atom(atom)
            changing.add(predicate)
            if positive:
                facts.setdefault(self.signature(predicate, arguments), set()).add(arguments)
        for action, template in self.grammar.templates.items():
            if moving := self.grammar.queried(template) & changing:
                raise UserError(f"the game's grammar names {action} by what changes during play: {', '.join(moving)}")
        self._name({a for group in facts.values() for arguments in group for a in arguments})
        initial = {signature: frozenset(group) for signature, group in facts.items()}
        self._writer = Writer(self.grammar, FactBase(initial), self.infos)
        self.initial = initial

    def _name(self, ids: set[str]) -> None:
        """Give every object its name in the game ("apple 1"), by alfworld's own counting."""
        from alfworld.agents.utils.misc import Demangler
        from textworld.generator.game import EntityInfo

        infos: dict[str, Any] = {key: EntityInfo(key, self.types[key]) for key in ids}
        demangler = Demangler(game_infos=infos)
        for key, info in infos.items():
            info.name, info.definite, info.indefinite = demangler.demangle_alfred_name(key), "the", "a"
        self.names = {key: info.name.strip() for key, info in infos.items()}
        self.infos = infos

    def operator(self, raw: Any) -> Operator:
        """The ground operator of a record of the C library's own task."""
        found = self._operators.get(raw.id)
        if found is None:
            found = self._operators[raw.id] = self.ground(raw)
        return found

    def ground(self, raw: Any) -> Operator:
        """What a record of the C library says by its name, whatever its id: the planner's task counts ids anew."""
        action, *arguments = raw.name.split()
        binding = {(name, type_): argument for (name, type_), argument in zip(self._parameters[action], arguments)}
        command = self._writer.join(self.grammar.templates[action], binding)
        return Operator(raw.id, action, command, binding, raw.nb_effect_atoms)


def parse_atom(text: str) -> tuple[bool, str, tuple[str, ...]]:
    """An atom of the C library ("Atom holds(agent1, apple)") as (positive, predicate, arguments)."""
    kind, _, rest = text.partition(" ")
    predicate, _, arguments = rest.partition("(")
    return kind != "NegatedAtom", predicate, tuple(a for a in arguments[:-1].split(", ") if a)


_IDLE_LIBRARIES: list[Any] = []


def borrow_library() -> Any:
    """A copy of Fast Downward's C library that no other engine uses; about 1 MB each, loaded only if none is idle."""
    try:
        return _IDLE_LIBRARIES.pop()
    except IndexError:
        import fast_downward

        return fast_downward.load_lib()


def return_library(library: Any) -> None:
    """Keep the library for the next engine. It is never unloaded: once it has planned, that crashes the process at exit."""
    library.cleanup()
    _IDLE_LIBRARIES.append(library)


class AlfworldEngine:
    """Plays one ALFWorld game at a time: `load`, `reset`, then `step` until `won`. Not shared between threads.

    After `reset` and every `step`:

    - `observation` (str): what the game said
    - `admissible` (tuple[str, ...]): commands it accepts now, sorted as stock sorts them
    - `won` (bool)
    - `facts()`: the simulator's facts in game names, e.g. ("inreceptacle", "apple 1", "fridge 1"), ("opened", "fridge 1"),
      ("holds", "agent1", "mug 1"), ("atlocation", "agent1", "loc 3"). Predicate names are lower-case; negations are left out.

    After `load`: `walkthrough` (tuple[str, ...]) and `metadata` (traj_data.json as a dict; {} where there is none).
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.observation = ""
        self.admissible: tuple[str, ...] = ()
        self.won = False
        self.walkthrough: tuple[str, ...] = ()
        self.metadata: dict[str, Any] = {}
        self._game: Game | None = None
        self._playing = False
        self._base = FactBase({})
        self._commands: dict[str, Operator] = {}
        self._named: frozenset[tuple[str, ...]] | None = None
        self._library: Any = None
        self._finalizer: weakref.finalize | None = None

    def load(self, game: Path | str | Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Load a game from its folder, its game.tw-pddl file, or the payload of one (then with `metadata`).

        Raises UserError if the files are missing or are not a game's.
        """
        given = isinstance(game, Mapping)
        payload, self.metadata = (game, dict(metadata or {})) if given else read_game(Path(game))
        try:
            self._game = compiled_game(payload, self.cache)
        except UserError as error:
            raise error if given else UserError(f"ALFWorld game {game}: {error}") from None
        self.walkthrough = self._game.walkthrough
        self.observation, self.admissible, self.won, self._playing = "", (), False, False

    def reset(self) -> str:
        """Start the loaded game from its beginning; returns the first observation."""
        game = self._loaded()
        library = self._open()
        library.load_sas(game.sas)
        if game.initial is None:
            game.begin(self._atoms(library.get_state_size(), library.get_state))
        assert game.initial is not None
        self._base, self._named = FactBase(game.initial), None
        if game.opening is None:
            observation = Writer(game.grammar, self._base, game.infos).text("intro", {})
            game.opening = (observation, *self._look_up())
        self.observation, self.admissible, self._commands = game.opening
        self.won, self._playing = bool(library.check_goal()), True
        return self.observation

    def step(self, action: str) -> str:
        """Do one command; an unknown one answers "Nothing happens." and changes nothing."""
        game, operator = self._started(), self._commands.get(action.strip())
        if operator is None:
            self.observation = NOTHING
            return NOTHING
        self._apply(operator)
        writer = Writer(game.grammar, self._base, game.infos)
        self.observation = writer.join(game.grammar.feedback[operator.action], operator.binding)
        self.admissible, self._commands = self._look_up()
        self.won = bool(self._library.check_goal())
        return self.observation

    def facts(self) -> frozenset[tuple[str, ...]]:
        """Every true fact of the present state, in game names."""
        names = self._started().names
        if self._named is None:
            self._named = frozenset(
                (predicate, *(names[a] for a in arguments))
                for (predicate, _), group in self._base.snapshot().items()
                if not predicate.startswith(HIDDEN)
                for arguments in group
            )
        return self._named

    @property
    def names(self) -> frozenset[str]:
        """The game's names of all its things and places ("apple 1")."""
        return frozenset(self._loaded().names.values())

    def name_of(self, thor_id: str) -> str | None:
        """The game's name of a THOR object id of traj_data.json; None if the game has no such object."""
        return self._loaded().names.get(pddl_name(thor_id))

    def plan(self) -> list[str] | None:
        """Fast Downward's plan from the present state as commands; None if there is none. Seconds to a minute."""
        from fast_downward import Operator as RawOperator

        game, library = self._started(), self._library
        library.load_sas_replan(optimised_sas(game.domain, game.problem).encode())
        if not library.replan(False):
            return None
        operators = (RawOperator * library.get_last_plan_length())()
        library.get_last_plan(operators)
        return [game.ground(raw).command for raw in operators]

    def close(self) -> None:
        """Give back the engine's memory. The engine may be loaded again."""
        if self._finalizer is not None:
            self._finalizer()
        self._library = self._finalizer = self._game = None
        self._base, self._commands, self._named, self._playing = FactBase({}), {}, None, False

    def _loaded(self) -> Game:
        if self._game is None:
            raise UserError("no game is loaded: call load() first")
        return self._game

    def _started(self) -> Game:
        if not self._playing:
            raise UserError("the game has not begun: call reset() first")
        return self._loaded()

    def _open(self) -> Any:
        """This engine's own copy of the C library: its state is global, so engines cannot share one."""
        if self._library is None:
            self._library = borrow_library()
            self._finalizer = weakref.finalize(self, return_library, self._library)
            self._finalizer.atexit = False
        return self._library

    def _look_up(self) -> tuple[tuple[str, ...], dict[str, Operator]]:
        """The commands the present state accepts: sorted, and each with the first operator it stands for."""
        from fast_downward import Operator as RawOperator

        game = self._loaded()
        raws = (RawOperator * self._library.get_applicable_operators_count())()
        self._library.get_applicable_operators(raws)
        commands: dict[str, Operator] = {}
        for raw in raws:
            operator = game.operator(raw)
            commands.setdefault(operator.command, operator)
        return tuple(sorted(commands)), commands

    def _apply(self, operator: Operator) -> None:
        game = self._loaded()
        library = self._library
        for atom in self._atoms(operator.effects, lambda atoms: library.apply_operator(operator.id, atoms)):
            positive, predicate, arguments = parse_atom(atom)
            true, false = (predicate, f"not_{predicate}") if positive else (f"not_{predicate}", predicate)
            self._base.remove(game.signature(false, arguments), arguments)
            self._base.add(game.signature(true, arguments), arguments)
        self._named = None

    @staticmethod
    def _atoms(count: int, fill: Any) -> list[str]:
        from fast_downward import Atom

        atoms = (Atom * count)()
        fill(atoms)
        return [ctypes.string_at(ctypes.addressof(atom)).decode("cp1252") for atom in atoms]


def read_game(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A game's two files: game.tw-pddl and, beside it, traj_data.json. Raises UserError naming what is wrong."""
    folder = path.parent if path.name == "game.tw-pddl" else path
    try:
        payload = json.loads((folder / "game.tw-pddl").read_bytes())
        metadata = json.loads((folder / "traj_data.json").read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"ALFWorld game file {error.filename} is missing; `leap-ray data alfworld` gets the games"
        ) from None
    except ValueError as error:
        raise UserError(
            f"ALFWorld game in {folder} cannot be read: {error}; `leap-ray data alfworld` gets it again"
        ) from None
    return payload, metadata


_GAMES: OrderedDict[str, Game] = OrderedDict()
_GAMES_LOCK = threading.Lock()


def compiled_game(payload: Mapping[str, Any], cache: Path | None = None) -> Game:
    """The compiled form of a game, from this process's memory if it was played lately."""
    try:
        key = translation_key(payload["pddl_domain"], payload["pddl_problem"] + payload["grammar"])
    except KeyError as error:
        raise UserError(f"an ALFWorld game needs {error} in its payload") from None
    with _GAMES_LOCK:
        if key in _GAMES:
            _GAMES.move_to_end(key)
            return _GAMES[key]
    game = Game(payload, translate(payload["pddl_domain"], payload["pddl_problem"], cache))
    with _GAMES_LOCK:
        game = _GAMES.setdefault(key, game)
        while len(_GAMES) > GAMES_KEPT:
            _GAMES.popitem(last=False)
    return game


def forget_games() -> None:
    """Drop every compiled game and grammar of this process, as if it had just started."""
    with _GAMES_LOCK:
        _GAMES.clear()
    forget_grammars()
