"""A household in plain Python: what is where, what an action changes, when a task is done.

It follows alfworld's alfred.pddl. The experts plan on it and the generator of households checks its games on it; the tests hold
it against the real engine step by step. A `World` may be all of the truth (`World.of(facts)`) or a student's belief.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "place": "pick_and_place_simple",
    "look": "look_at_obj_in_light",
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "two": "pick_two_obj_and_place",
}
SHORT = {long: short for short, long in KINDS.items()}
DEVICES = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
TREATS = {"sink": "sinkbasin"}  # places that do what another type does (alfred.pddl, CleanObject)
DONE = {"clean": "clean", "heat": "hot", "cool": "cool"}  # what an object is after the treatment


def kind_of(name: str) -> str:
    """The type in a game name: "mug 2" → "mug" (types are single words, "sidetable" too)."""
    return name.split(" ", 1)[0]


def number_of(name: str) -> int:
    """The number in a game name ("mug 2" → 2; 0 without one)."""
    tail = name.rpartition(" ")[2]
    return int(tail) if tail.isdigit() else 0


@dataclass(frozen=True)
class Goal:
    """What a task asks for, in lower-case type names."""

    kind: str  # place, look, clean, heat, cool, two
    thing: str
    parent: str = ""  # receptacle type that the thing belongs in; "" for look
    lamp: str = ""  # type of the lamp; look only

    @classmethod
    def of(cls, traj: Mapping[str, Any]) -> Goal:
        """The goal in a game's traj_data."""
        params = traj["pddl_params"]
        kind = SHORT[traj["task_type"]]
        names = (params["object_target"].lower(), params["parent_target"].lower(), params["toggle_target"].lower())
        return cls(kind, names[0], names[1] if kind != "look" else "", names[2] if kind == "look" else "")

    @property
    def device(self) -> str:
        """Receptacle type that treats the thing; "" where the goal needs none."""
        return DEVICES.get(self.kind, "")

    @property
    def needed(self) -> int:
        """How many of the thing must be brought."""
        return 2 if self.kind == "two" else 1


@dataclass
class World:
    """Places, things and the agent, under game names ("drawer 2", "mug 1")."""

    spots: dict[str, str] = field(default_factory=dict)  # place → where one stands to reach it
    at: str | None = None  # the spot the agent stands at
    closed: set[str] = field(default_factory=set)  # places
    openable: set[str] = field(default_factory=set)  # places
    inside: dict[str, set[str]] = field(default_factory=dict)  # thing → places it is in (seldom more than one)
    holds: str | None = None
    treated: dict[str, set[str]] = field(default_factory=lambda: {"clean": set(), "heat": set(), "cool": set()})
    lit: set[str] = field(default_factory=set)  # lamps that were used
    accepts: set[tuple[str, str]] = field(default_factory=set)  # (place type, thing type)
    fixed: set[str] = field(default_factory=set)  # things that cannot be picked up

    @classmethod
    def of(cls, facts: Iterable[tuple[str, ...]]) -> World:
        """The whole truth, from the simulator's facts."""
        world, opened, loose, things = cls(), set(), set(), set()
        readers = {
            "receptacleatlocation": lambda place, spot: world.spots.__setitem__(place, spot),
            "atlocation": lambda _, spot: setattr(world, "at", spot),
            "openable": world.openable.add,
            "opened": opened.add,
            "inreceptacle": lambda thing, place: world.inside.setdefault(thing, set()).add(place),
            "holds": lambda _, thing: setattr(world, "holds", thing),
            "isclean": world.treated["clean"].add,
            "ishot": world.treated["heat"].add,
            "iscool": world.treated["cool"].add,
            "istoggled": world.lit.add,
            "cancontain": lambda place, thing: world.accepts.add((_untyped(place), _untyped(thing))),
            "pickupable": loose.add,
            "objecttype": lambda thing, _: things.add(thing),
        }
        for name, *arguments in facts:
            if name in readers:
                readers[name](*arguments)
        world.closed = world.openable - opened
        world.fixed = things - loose
        return world

    def places(self, kind: str) -> list[str]:
        """Places of a type, by number."""
        return sorted((p for p in self.spots if kind_of(p) == kind), key=number_of)

    def devices(self, goal: Goal) -> list[str]:
        """Places that treat the goal's thing."""
        return sorted(
            (p for p in self.spots if TREATS.get(kind_of(p), kind_of(p)) == goal.device),
            key=lambda p: (kind_of(p) != goal.device, number_of(p)),
        )

    def here(self) -> list[str]:
        """Places within reach."""
        return sorted(p for p, spot in self.spots.items() if spot == self.at)

    def within(self, place: str, kind: str) -> list[str]:
        """Things of a type in a place."""
        return sorted(t for t, places in self.inside.items() if place in places and kind_of(t) == kind)

    def takes(self, place: str, thing: str) -> bool:
        """Whether the place can hold such a thing."""
        return (kind_of(place), kind_of(thing)) in self.accepts

    def apply(self, action: str) -> None:
        """Change the world by an admissible action; `look`, `examine`, `inventory` and `help` change nothing."""
        verb, _, rest = action.partition(" ")
        if verb == "go":
            self.at = self.spots[rest.removeprefix("to ")]
        elif verb == "open":
            self.closed.discard(rest)
        elif verb == "close":
            self.closed.add(rest)
        elif verb == "take":
            thing, _, place = rest.partition(" from ")
            self.inside.get(thing, set()).discard(place)
            self.holds = thing
        elif verb == "move":
            thing, _, place = rest.partition(" to ")
            self.inside.setdefault(thing, set()).add(place)
            self.holds = None
        elif verb == "use":
            self.lit.add(rest)
        elif verb in DEVICES:
            self._treat(verb, rest.partition(" with ")[0])

    def _treat(self, treatment: str, thing: str) -> None:
        self.treated[treatment].add(thing)
        if undone := {"heat": "cool", "cool": "heat"}.get(treatment):
            self.treated[undone].discard(thing)

    def ready(self, goal: Goal, thing: str) -> bool:
        """Whether the thing needs no (further) treatment before it is put where it belongs."""
        return not goal.device or thing in self.treated[goal.kind]

    def won(self, goal: Goal) -> bool:
        """Whether the task is done."""
        if goal.kind == "look":
            near = set(self.here())
            lamps = (t for t in self.lit if kind_of(t) == goal.lamp and self.inside.get(t, set()) & near)
            return self.holds is not None and kind_of(self.holds) == goal.thing and any(lamps)
        counts = (sum(self.ready(goal, t) for t in self.within(p, goal.thing)) for p in self.places(goal.parent))
        return any(count >= goal.needed for count in counts)


def _untyped(name: str) -> str:
    return name.strip().removesuffix("type")
