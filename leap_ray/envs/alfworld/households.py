"""New ALFWorld games, drawn from what the training rooms hold: as many as wanted, of any size, no download.

`make_game(seed, kind, size)` gives what a real game's folder holds, on alfworld's own PDDL domain and grammar. The size dial goes
from 1 (four places, a handful of things) over 2 (the quickstart's) to 5 (as big as the real rooms). The same arguments give the
same game on every machine, and every game is solvable: the plan that is its walkthrough was carried out on the World model,
which the tests hold against the real engine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leap_ray.envs.alfworld import inventories
from leap_ray.envs.alfworld.inventories import Inventories, Room
from leap_ray.envs.alfworld.planning import Move, plan
from leap_ray.envs.alfworld.world import DEVICES, KINDS, SHORT, Goal, World
from leap_ray.errors import UserError
from leap_ray.types import digest

VERSION = 1  # of the generator: raise it when a seed, a task type and a size give another game
SIZES = {1: (4, 6), 2: (6, 10), 3: (10, 18), 4: (16, 30)}  # size → places, things; 5: as many as the real rooms have
REAL = 5
LONGEST = 30  # actions: a game whose plan needs more is drawn anew (real ones need 10 at most)


@dataclass(frozen=True)
class Thing:
    """A place or an object: ALFRED's type name and the number it has in the game."""

    kind: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind.lower()} {self.number}"


@dataclass(frozen=True)
class Household:
    """One drawn household and its task."""

    room: str
    kind: str  # short name of the task type
    target: str  # ALFRED type names from here on
    parent: str  # where the target goes, or the lamp's type
    places: tuple[Thing, ...]
    opens: frozenset[Thing]
    spots: Mapping[Thing, int]  # place → where one stands to reach it; 0 is the middle of the room
    things: Mapping[Thing, Thing]  # object → place

    @property
    def goal(self) -> Goal:
        look = self.kind == "look"
        return Goal(
            self.kind, self.target.lower(), "" if look else self.parent.lower(), self.parent.lower() if look else ""
        )

    def world(self, tables: Inventories) -> World:
        """The household as the experts see it."""
        world = World(spots={p.name: f"loc {spot}" for p, spot in self.spots.items()}, at="loc 0")
        world.openable = {p.name for p in self.opens}
        world.closed = set(world.openable)
        world.inside = {thing.name: {place.name} for thing, place in self.things.items()}
        types = {p.kind for p in self.places}
        world.accepts = {(p.lower(), o.lower()) for p in types for o in tables.accepts.get(p, ())}
        world.fixed = {t.name for t in self.things if "pickupable" not in tables.traits.get(t.kind, ())}
        return world


@dataclass(frozen=True)
class Game:
    """A generated game: the two files of a real game's folder, as dicts."""

    id: str
    kind: str  # task type
    size: int
    game: dict[str, Any]  # game.tw-pddl
    metadata: dict[str, Any]  # traj_data.json


def make_game(seed: int, kind: str, size: int) -> Game:
    """The game of that seed, task type (`heat` or `pick_heat_then_place_in_recep`) and size (1 to 5)."""
    from leap_ray.envs.alfworld.household_files import game_file, trajectory

    short = SHORT.get(kind, kind)
    if short not in KINDS:
        raise UserError(f"households: unknown task type {kind!r}: known are {', '.join(KINDS)}")
    if not 1 <= size <= REAL:
        raise UserError(f"households: size {size} is not one of 1 to {REAL}")
    tables = inventories.load()
    for attempt in range(100):
        rng = random.Random(digest("household", short, size, seed, attempt))
        house = draw(rng, tables, short, size)
        walkthrough = solve(house, tables) if house else None
        if house and walkthrough:
            name = f"{short}-s{size}-{seed:06d}"
            files = game_file(house, tables, walkthrough, name, rng)
            return Game(name, KINDS[short], size, files, trajectory(house, walkthrough, name, files, seed))
    raise UserError(f"households: no solvable game for seed {seed}, {short}, size {size}")


def solve(house: Household, tables: Inventories) -> list[str] | None:
    """The shortest known way to do the task, carried out to the end; None if there is none or nothing is to be done."""
    world, goal, actions = house.world(tables), house.goal, []
    while not world.won(goal):
        step = plan(world, goal)
        if not isinstance(step, Move) or len(actions) == LONGEST:
            return None
        actions.append(step.action)
        world.apply(step.action)
    return actions or None


def draw(rng: random.Random, tables: Inventories, kind: str, size: int) -> Household | None:
    """One household; None where the draw has no room for the task."""
    tasks = tables.tasks[KINDS[kind]]
    name, target, parent, _ = rng.choices(tasks, weights=[n for *_, n in tasks])[0]
    room = tables.rooms[name]
    limits = SIZES.get(size)
    must = _needed_places(rng, room, kind, target, parent)
    if must is None:
        return None
    places = _draw_places(rng, room, must, limits[0] if limits else None)
    limit = limits[1] if limits else None
    wanted = tables.targets[KINDS[kind]]
    copies = int(rng.choices(list(wanted), weights=list(wanted.values()))[0])
    needed = Counter({target: min(copies, limit // 3) if limit else copies})
    if kind == "look":
        needed[parent] = 1
    counts = _draw_counts(rng, room, target, needed, limit)
    types = {p.kind for p in places}
    for thing in [t for t in counts if "pickupable" in tables.traits[t] and not types & tables.accepting.get(t, set())]:
        del counts[thing]  # picked up, it could never be put down again
    things = _put(rng, room, kind, target, parent, places, counts)
    if sum(t.kind == target for t in things) < (2 if kind == "two" else 1):
        return None
    if kind == "look" and not any(t.kind == parent for t in things):
        return None
    opens = frozenset(p for p in places if rng.random() < tables.openable[p.kind])
    return Household(name, kind, target, parent, tuple(places), opens, _draw_spots(rng, room, places), things)


def _homes(room: Room, kind: str, target: str, parent: str, thing: str) -> dict[str, float]:
    """Place types that keep a thing → how many a place of the type holds on average; never where the task wants it."""
    kept = room.kept.get(thing, {})
    away = parent if thing == target and kind in ("place", "two") else ""
    return {place: n / m for place, (n, m) in kept.items() if place != away}


def _needed_places(rng: random.Random, room: Room, kind: str, target: str, parent: str) -> Counter[str] | None:
    """Place types the task cannot do without; None if nothing in this room keeps the target."""
    names = {place.lower(): place for place in room.receptacles}
    needed = set()
    if kind in DEVICES:
        needed.add(names[DEVICES[kind]])
    if kind != "look":
        needed.add(parent)
    for thing in (target, parent) if kind == "look" else (target,):
        homes = _homes(room, kind, target, parent, thing)
        if not homes:
            return None
        needed.add(rng.choices(list(homes), weights=list(homes.values()))[0])
    return Counter(needed)


def _draw_places(rng: random.Random, room: Room, must: Counter[str], limit: int | None) -> list[Thing]:
    """As many places of each type as some floor plan has; with a limit, the needed ones and a sample of the others."""
    counts: Counter[str] = Counter()
    for kind, plans in sorted(room.receptacles.items()):
        options = {int(count): n for count, n in plans.items() if int(count) >= must[kind]} or {must[kind]: 1}
        counts[kind] = rng.choices(list(options), weights=list(options.values()))[0]
    if limit is not None and counts.total() > limit:
        chosen = must.copy()
        while chosen.total() < limit:
            left = {kind: (counts[kind] - chosen[kind]) / (1 + chosen[kind]) for kind in sorted(counts)}
            left = {kind: share for kind, share in left.items() if share > 0}
            chosen[rng.choices(list(left), weights=list(left.values()))[0]] += 1
        counts = chosen
    return [Thing(kind, number) for kind in sorted(counts) for number in range(1, counts[kind] + 1)]


def _draw_counts(rng: random.Random, room: Room, target: str, needed: Counter[str], limit: int | None) -> Counter[str]:
    """How many of each thing; the task's own come first where a limit leaves others out."""
    counts: Counter[str] = Counter()
    for thing, games in sorted(room.objects.items()):
        if rng.random() < sum(games.values()) / room.games:
            counts[thing] = int(rng.choices(list(games), weights=list(games.values()))[0])
    counts |= needed
    counts[target] = needed[target]
    if limit is None or counts.total() <= limit:
        return counts
    others = sorted((counts - needed).elements())
    return needed + Counter(rng.sample(others, limit - needed.total()))


def _put(
    rng: random.Random,
    room: Room,
    kind: str,
    target: str,
    parent: str,
    places: Sequence[Thing],
    counts: Counter[str],
) -> dict[Thing, Thing]:
    """Each thing in a place that keeps such things; things that none of the places keeps are left out."""
    where: dict[Thing, Thing] = {}
    for thing in sorted(counts):
        homes = _homes(room, kind, target, parent, thing)
        options = [p for p in places if homes.get(p.kind)]
        if options:
            chosen = rng.choices(options, weights=[homes[p.kind] for p in options], k=counts[thing])
            where |= {Thing(thing, number): place for number, place in enumerate(chosen, 1)}
    return where


def _draw_spots(rng: random.Random, room: Room, places: Sequence[Thing]) -> dict[Thing, int]:
    """Places of a type side by side are sometimes reached from one spot, as drawers and cabinets are."""
    spots: dict[Thing, int] = {}
    before: Thing | None = None
    for place in places:
        together = before is not None and before.kind == place.kind and rng.random() < room.shared
        spots[place] = spots[before] if together and before else len(spots) + 1
        before = place
    return spots
