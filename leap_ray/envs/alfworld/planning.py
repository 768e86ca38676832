"""The next best action towards a goal, from any state of a household, in well under a millisecond.

No search is needed: ALFWorld's tasks are chains of fetch, treat, deliver, and every errand is "go there, open it if closed, act".
It works on the truth and on a belief alike; on a belief it may answer `Want`: what must be found first.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

from leap_ray.envs.alfworld.world import Goal, World, kind_of, number_of


@dataclass(frozen=True)
class Move:
    """The next action of an errand, with what it is for: the words of its reason are made from this."""

    action: str
    purpose: str  # "fetch", "treat", "deliver", "light", "rid" (of a thing nobody asked for), or an explorer's "search"
    thing: str = ""
    place: str = ""
    cost: int = 0  # actions that the errand still takes, and what it leaves to be done


@dataclass(frozen=True)
class Want:
    """Something of this type must be found before the plan can go on."""

    thing: str


def plan(world: World, goal: Goal) -> Move | Want | None:
    """The next move; `Want` if no such thing is known of; None if there is no way (a dead end), or nothing left to do."""
    if world.won(goal):
        return None
    ways = errands(world, goal)
    if isinstance(ways, Want):
        return ways
    return min(ways, key=_preference, default=None)


def _preference(move: Move) -> tuple[int, bool, int, int, str, str]:
    """Cheapest first, then what can be done here (elsewhere there may be one more thing to open), then low numbers."""
    going = move.action.startswith("go to ")
    return move.cost, going, number_of(move.thing), number_of(move.place), move.thing, move.place


def errands(world: World, goal: Goal) -> list[Move] | Want:
    """Every way of doing what comes next: one move for each thing or place that would serve."""
    held = world.holds
    if held and kind_of(held) != goal.thing:
        return _rid(world, goal, held)
    if held and goal.kind == "look":
        return _light(world, goal)
    if held and not world.ready(goal, held):
        return [
            _errand(
                world, p, f"{goal.kind} {held} with {p}", "treat", held, shut=True, more=_carry(world, goal, held, p)
            )
            for p in world.devices(goal)
        ]
    if held:
        settled = destination(world, goal)
        places = [settled] if settled else [p for p in world.places(goal.parent) if world.takes(p, held)]
        return [_errand(world, p, f"move {held} to {p}", "deliver", held) for p in places]
    return _fetch(world, goal)


def destination(world: World, goal: Goal) -> str | None:
    """The one place that already holds a thing of a "two" task (the most of them); None while no place does.

    Of equals it is the one here for a full hand, and another one for an empty hand: the thing here is the one to carry there.
    """
    if goal.kind != "two":
        return None
    counts = {p: len(world.within(p, goal.thing)) for p in world.places(goal.parent)}
    full = world.holds is not None
    best = max(counts, key=lambda p: (counts[p], (world.spots[p] == world.at) == full, -number_of(p)), default=None)
    return best if best and counts[best] else None


def _rid(world: World, goal: Goal, held: str) -> list[Move]:
    """Towards a free hand, best where the way to the next errand is short from."""
    ways = []
    for place in world.spots:
        if world.takes(place, held):
            after = copy(world)
            after.at, after.holds, after.closed = world.spots[place], None, world.closed - {place}
            rest = _fetch(after, goal)
            more = 0 if isinstance(rest, Want) else min(move.cost for move in rest)
            ways.append(_errand(world, place, f"move {held} to {place}", "rid", held, more=more))
    return ways


def _fetch(world: World, goal: Goal) -> list[Move] | Want:
    """Towards a thing of the goal's type that is not yet where it belongs."""
    settled = destination(world, goal)
    lamps = {world.spots[p] for lamp, places in world.inside.items() if kind_of(lamp) == goal.lamp for p in places}
    found = []
    for thing, places in world.inside.items():
        if kind_of(thing) == goal.thing and thing not in world.fixed and settled not in places:
            for place in places:
                more = _left_to_do(world, goal, thing, place, lamps)
                found.append(_errand(world, place, f"take {thing} from {place}", "fetch", thing, more=more))
    return found or Want(goal.thing)


def _left_to_do(world: World, goal: Goal, thing: str, place: str, lamps: set[str]) -> int:
    """Actions after the thing was taken from the place."""
    if goal.kind == "look":
        return world.spots[place] not in lamps
    # Games of the real data hold things that count as being in two places: taken from one, they still are in the other.
    stays = any(kind_of(p) == goal.parent for p in world.inside[thing] if p != place)
    if world.ready(goal, thing):
        return 0 if stays else _carry(world, goal, thing, place, place)
    devices = world.devices(goal)
    trips = [
        (world.spots[d] != world.spots[place]) + 1 + (0 if stays else _carry(world, goal, thing, d, place))
        for d in devices
    ]
    return min(trips, default=0)


def _carry(world: World, goal: Goal, thing: str, start: str, opened: str = "") -> int:
    """Actions from a place to having put the thing where it belongs; `opened` is a place no longer closed by then."""
    settled = destination(world, goal)
    ends = [settled] if settled else [p for p in world.places(goal.parent) if world.takes(p, thing)]
    trips = [(world.spots[p] != world.spots[start]) + (p in world.closed and p != opened) + 1 for p in ends]
    return min(trips, default=0)


def _light(world: World, goal: Goal) -> list[Move] | Want:
    """Towards a lamp, with the thing in hand. One that was used before only needs to be reached."""
    lamps = [
        _errand(world, place, f"use {lamp}", "light", lamp, shut=True, more=lamp not in world.lit)
        for lamp, places in world.inside.items()
        if kind_of(lamp) == goal.lamp
        for place in places
    ]
    return lamps or Want(goal.lamp)


def _errand(
    world: World, place: str, action: str, purpose: str, thing: str, *, shut: bool = False, more: int = 0
) -> Move:
    """The next step of an errand to `place`; `shut` if its last action also works on a closed place."""
    away = world.spots[place] != world.at
    opening = place in world.closed and not shut
    step = f"go to {place}" if away else f"open {place}" if opening else action
    return Move(step, purpose, thing, place, away + opening + more)
