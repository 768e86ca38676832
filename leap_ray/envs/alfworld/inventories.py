"""What rooms hold and where things are kept: counts over ALFWorld's training games.

The numbers lie in `inventories.json`, which `python -m leap_ray.envs.alfworld.inventories <json_2.1.1/train>` computes anew. The
generator of households draws from them; the exploring expert ranks places by them. They are frequencies, not games.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("inventories.json")
ROOMS = {0: "kitchen", 2: "living room", 3: "bedroom", 4: "bathroom"}  # by the hundreds of ALFRED's scene number
TRAITS = ("pickupable", "cleanable", "heatable", "coolable", "sliceable", "toggleable", "isReceptacleObject")
FACT = re.compile(r"\((\w+)([^()]*)\)")
SELDOM = 0.002  # a place that keeps less than this share of a kind of object is left out of the tables


@dataclass(frozen=True)
class Room:
    """One kind of room. Names are ALFRED's ("SideTable")."""

    games: int
    receptacles: Mapping[str, Mapping[str, int]]  # receptacle type → {how many: in how many floor plans}
    objects: Mapping[str, Mapping[str, int]]  # object type → {how many within reach: in how many games}
    kept: Mapping[
        str, Mapping[str, tuple[int, int]]
    ]  # object type → receptacle type → (objects there, receptacles seen)
    shared: float  # share of receptacles that are reached from the same spot as another one


@dataclass(frozen=True)
class Inventories:
    """The tables of all rooms, and what each type of thing is."""

    games: int
    rooms: Mapping[str, Room]
    openable: Mapping[str, float]  # receptacle type → share of its instances that open
    accepts: Mapping[str, tuple[str, ...]]  # receptacle type → object types it can hold
    traits: Mapping[str, tuple[str, ...]]  # object type → which of TRAITS it has
    tasks: Mapping[str, tuple[tuple[str, str, str, int], ...]]  # kind → (room, object, parent or lamp, games)
    targets: Mapping[str, Mapping[str, int]]  # kind → {how many things of the wanted type: in how many games}

    @cached_property
    def odds(self) -> dict[str, dict[str, float]]:
        """Lower-case object type → receptacle type → objects of the type per receptacle, in games that have both."""
        there: dict[tuple[str, str], int] = Counter()
        seen: dict[tuple[str, str], int] = Counter()
        for room in self.rooms.values():
            for thing, places in room.kept.items():
                for place, (count, chances) in places.items():
                    there[thing.lower(), place.lower()] += count
                    seen[thing.lower(), place.lower()] += chances
        odds: dict[str, dict[str, float]] = defaultdict(dict)
        for (thing, place), count in there.items():
            odds[thing][place] = count / seen[thing, place]
        return dict(odds)

    @cached_property
    def accepting(self) -> dict[str, set[str]]:
        """Object type → receptacle types that can hold it."""
        accepting: dict[str, set[str]] = defaultdict(set)
        for place, things in self.accepts.items():
            for thing in things:
                accepting[thing].add(place)
        return dict(accepting)

    @cached_property
    def openable_kinds(self) -> dict[str, float]:
        """`openable` under lower-case names."""
        return {kind.lower(): share for kind, share in self.openable.items()}


@cache
def load() -> Inventories:
    """The tables that come with the package."""
    plain = json.loads(DATA.read_text())
    rooms = {
        name: Room(
            games=room["games"],
            receptacles=room["receptacles"],
            objects=room["objects"],
            kept={o: {r: (n, m) for r, (n, m) in places.items()} for o, places in room["kept"].items()},
            shared=room["shared"],
        )
        for name, room in plain["rooms"].items()
    }
    return Inventories(
        games=plain["games"],
        rooms=rooms,
        openable=plain["openable"],
        accepts={k: tuple(v) for k, v in plain["accepts"].items()},
        traits={k: tuple(v) for k, v in plain["traits"].items()},
        targets=plain["targets"],
        tasks={k: tuple((r, o, p, n) for r, o, p, n in v) for k, v in plain["tasks"].items()},
    )


def type_of(identifier: str) -> str:
    """The type in a PDDL identifier: `Sink_bar_…_bar_SinkBasin` → `SinkBasin`, `Mug_bar_…` → `Mug`."""
    name = identifier.split("_bar_")[0]
    return name + "Basin" if "Basin" in identifier else name


def read_init(problem: str) -> dict[str, list[tuple[str, ...]]]:
    """Facts of a PDDL problem's initial state, by predicate (as spelt there)."""
    start, end = problem.index("(:init"), problem.index("(:goal")
    facts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name, arguments in FACT.findall(problem[start:end]):
        facts[name].append(tuple(arguments.split()))
    return facts


class _Tally:
    """Adds games up; `plain()` is what inventories.json holds."""

    def __init__(self) -> None:
        self.games = 0
        self.counted: Counter[str] = Counter()
        self.plans: dict[str, dict[int, Counter[str]]] = {room: {} for room in ROOMS.values()}
        self.objects: dict[str, dict[str, Counter[str]]] = {room: defaultdict(Counter) for room in ROOMS.values()}
        self.kept: dict[str, dict[str, Counter[str]]] = {room: defaultdict(Counter) for room in ROOMS.values()}
        self.chances: dict[str, dict[str, Counter[str]]] = {room: defaultdict(Counter) for room in ROOMS.values()}
        self.spots: dict[str, Counter[bool]] = {room: Counter() for room in ROOMS.values()}
        self.opens: dict[str, Counter[bool]] = defaultdict(Counter)
        self.accepts: dict[str, set[str]] = defaultdict(set)
        self.traits: dict[str, Counter[str]] = defaultdict(Counter)
        self.seen: Counter[str] = Counter()
        self.tasks: dict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
        self.targets: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, game: Mapping[str, Any], traj: Mapping[str, Any]) -> None:
        facts = read_init(game["pddl_problem"])
        scene, params = traj["scene"]["scene_num"], traj["pddl_params"]
        room = ROOMS[scene // 100]
        self.games += 1
        self.counted[room] += 1
        self.tasks[traj["task_type"]][
            room, params["object_target"], params["parent_target"] or params["toggle_target"]
        ] += 1
        targets = {thing for thing, _ in facts["inReceptacle"] if type_of(thing) == params["object_target"]}
        self.targets[traj["task_type"]][str(len(targets))] += 1
        places = {r: type_of(r) for r, _ in facts["receptacleType"]}
        self.plans[room][scene] = Counter(places.values())
        self._add_places(room, places, facts)
        self._add_objects(room, places, facts)

    def _add_places(self, room: str, places: dict[str, str], facts: dict[str, list[tuple[str, ...]]]) -> None:
        openable = {r for (r,) in facts["openable"]}
        spots = Counter(spot for _, spot in facts["receptacleAtLocation"])
        for place, kind in places.items():
            self.opens[kind][place in openable] += 1
        for _, spot in facts["receptacleAtLocation"]:
            self.spots[room][spots[spot] > 1] += 1
        for place_type, object_type in facts["canContain"]:
            self.accepts[place_type.removesuffix("Type")].add(object_type.removesuffix("Type"))

    def _add_objects(self, room: str, places: dict[str, str], facts: dict[str, list[tuple[str, ...]]]) -> None:
        within = {thing for thing, _ in facts["inReceptacle"]}
        counts = Counter(type_of(thing) for thing in within)
        have = Counter(places.values())
        for kind, count in counts.items():
            self.objects[room][kind][str(count)] += 1
            self.chances[room][kind].update(have)
        for thing, place in facts["inReceptacle"]:
            self.kept[room][type_of(thing)][places[place]] += 1
        for thing, _ in facts["objectType"]:
            self.seen[type_of(thing)] += 1
        for trait in TRAITS:
            self.traits[trait].update(type_of(thing) for (thing,) in facts[trait])

    def plain(self) -> dict[str, Any]:
        return {
            "games": self.games,
            "rooms": {room: self._room(room) for room in self.plans},
            "openable": {k: round(c[True] / c.total(), 3) for k, c in sorted(self.opens.items())},
            "accepts": {k: sorted(v) for k, v in sorted(self.accepts.items())},
            "traits": {k: [t for t in TRAITS if self.traits[t][k] * 2 > self.seen[k]] for k in sorted(self.seen)},
            "targets": {k: _sorted(c) for k, c in sorted(self.targets.items())},
            "tasks": {k: [[*what, n] for what, n in sorted(c.items())] for k, c in sorted(self.tasks.items())},
        }

    def _room(self, room: str) -> dict[str, Any]:
        plans, games = self.plans[room].values(), self.objects[room]
        types = sorted({kind for plan in plans for kind in plan})
        kept = {o: {r: [n, self.chances[room][o][r]] for r, n in _often(c)} for o, c in sorted(self.kept[room].items())}
        return {
            "games": self.counted[room],
            "receptacles": {t: _sorted(Counter(str(plan[t]) for plan in plans)) for t in types},
            "objects": {o: _sorted(c) for o, c in sorted(games.items())},
            "kept": kept,
            "shared": round(self.spots[room][True] / self.spots[room].total(), 3),
        }


def _often(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted((k, n) for k, n in counts.items() if n >= SELDOM * counts.total())


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: int(item[0])))


def measure(games: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Tables, as inventories.json holds them, over (game.tw-pddl, traj_data.json) pairs."""
    tally = _Tally()
    for game, traj in games:
        tally.add(game, traj)
    return tally.plain()


def main(folder: Path) -> None:
    """Write inventories.json from the training games below `folder`."""
    paths = sorted(folder.rglob("game.tw-pddl"))
    pairs = ((json.loads(p.read_text()), json.loads(p.with_name("traj_data.json").read_text())) for p in paths)
    DATA.write_text(json.dumps(measure(pairs), separators=(",", ":")) + "\n")
    print(f"{DATA}: {len(paths)} games")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
