"""The next best action towards a goal, from any state of a household, in well under a millisecond.

No search is needed: ALFWorld's tasks are chains of fetch, treat, deliver, and every errand is "go there, open it if closed, act".
`plan` works on the truth and on a belief alike; on a belief it may answer `Want`: what must be found first.
"""

from __future__ import annotations

from dataclasses import dataclass

from leap_ray.envs.alfworld.world import Goal, World, kind_of, number_of


@dataclass(frozen=True)
class Move:
    """One action, with what it is for: the words of its reason are made from this."""

    action: str
    purpose: str  # "fetch", "treat", "deliver", "light", "rid": the errand; its last action does what it names
    thing: str = ""
    place: str = ""


@dataclass(frozen=True)
class Want:
    """Something of this type must be found before the plan can go on."""

    thing: str


def plan(world: World, goal: Goal) -> Move | Want | None:
    """The next move; `Want` if no such thing is known of; None if there is no way (a dead end), or nothing left to do."""
    if world.won(goal):
        return None
    held = world.holds
    if held and kind_of(held) != goal.thing:
        return put_down(world, held)
    if held and goal.kind == "look":
        return light(world, goal)
    if held and not world.ready(goal, held):
        return treat(world, goal, held)
    if held:
        return deliver(world, goal, held)
    return fetch(world, goal)


def nearest(world: World, places: list[str]) -> str:
    """The place that costs fewest actions to get at: within reach before elsewhere, open before closed, low numbers first."""
    return min(places, key=lambda p: ((world.spots[p] != world.at) + (p in world.closed), number_of(p), p))


def errand(world: World, place: str, action: str, purpose: str, thing: str, *, shut: bool = False) -> Move:
    """The next step of an errand to `place`; `shut` if its last action also works on a closed place."""
    if world.spots[place] != world.at:
        return Move(f"go to {place}", purpose, thing, place)
    if place in world.closed and not shut:
        return Move(f"open {place}", purpose, thing, place)
    return Move(action, purpose, thing, place)


def fetch(world: World, goal: Goal) -> Move | Want:
    """Towards a thing of the goal's type that is not yet where it belongs."""
    settled = destination(world, goal) if goal.kind == "two" else None
    found = [
        (thing, place)
        for thing, places in world.inside.items()
        for place in places
        if kind_of(thing) == goal.thing and thing not in world.fixed and settled not in places
    ]
    if not found:
        return Want(goal.thing)
    spots, at, closed = world.spots, world.at, world.closed
    thing, place = min(
        found,
        key=lambda tp: (
            (not world.ready(goal, tp[0])) * 2 + (spots[tp[1]] != at) + (tp[1] in closed),
            number_of(tp[0]),
            tp,
        ),
    )
    return errand(world, place, f"take {thing} from {place}", "fetch", thing)


def treat(world: World, goal: Goal, held: str) -> Move | None:
    """Towards cleaning, heating or cooling what is held. The devices work closed."""
    devices = world.places(goal.device)
    if not devices:
        return None
    place = min(devices, key=lambda p: (world.spots[p] != world.at, number_of(p)))
    return errand(world, place, f"{goal.kind} {held} with {place}", "treat", held, shut=True)


def destination(world: World, goal: Goal) -> str | None:
    """The one place that already holds a thing of a "two" task (the most of them); None while no place does."""
    counts = {p: len(world.within(p, goal.thing)) for p in world.places(goal.parent)}
    best = max(counts, key=lambda p: (counts[p], world.spots[p] == world.at, -number_of(p)), default=None)
    return best if best and counts[best] else None


def deliver(world: World, goal: Goal, held: str) -> Move | None:
    """Towards putting what is held where the goal wants it; both things of a "two" task go into one place."""
    places = [p for p in world.places(goal.parent) if world.takes(p, held)]
    if not places:
        return None
    settled = destination(world, goal) if goal.kind == "two" else None
    place = settled or nearest(world, places)
    return errand(world, place, f"move {held} to {place}", "deliver", held)


def light(world: World, goal: Goal) -> Move | Want:
    """Towards a lamp, with the thing in hand. One that was used before only needs to be reached."""
    lamps = [(t, p) for t, places in world.inside.items() for p in places if kind_of(t) == goal.lamp]
    if not lamps:
        return Want(goal.lamp)
    lamp, place = min(lamps, key=lambda lp: ((world.spots[lp[1]] != world.at) + (lp[0] not in world.lit), lp))
    return errand(world, place, f"use {lamp}", "light", lamp, shut=True)


def put_down(world: World, held: str) -> Move | None:
    """Towards a free hand: the nearest place that can hold what nobody asked for."""
    places = [p for p in world.spots if world.takes(p, held)]
    if not places:
        return None
    place = nearest(world, places)
    return errand(world, place, f"move {held} to {place}", "rid", held)
