"""What a thoughtful student would do: the next move from a belief, every other move that is no mistake, and a reason in words."""

from __future__ import annotations

from collections.abc import Iterable

from leap_ray.envs.alfworld.belief import Belief
from leap_ray.envs.alfworld.planning import Move, Want, destination, errand, plan
from leap_ray.envs.alfworld.world import DONE, Goal, World, kind_of


def explore(belief: Belief, goal: Goal) -> Move | None:
    """The next move: along the plan if all it needs was seen, otherwise to the best place not yet searched."""
    step = plan(belief, goal)
    if not isinstance(step, Want):
        return step
    place = belief.best_guess(step.thing)
    return look_into(belief, place, step.thing) if place else None


def look_into(belief: Belief, place: str, thing: str) -> Move:
    """The next step to see a place's contents."""
    if belief.spots[place] != belief.at:
        return Move(f"go to {place}", "search", thing, place)
    verb = "open" if place in belief.closed else "examine"
    return Move(f"{verb} {place}", "search", thing, place)


def acceptable(belief: Belief, goal: Goal, move: Move, candidates: Iterable[str]) -> frozenset[str]:
    """The candidates that are no mistake where `move` is advised, judged by what the student has seen."""
    available = set(candidates)
    if move.purpose == "search":
        good = _searches(belief, move.thing, available) | _lucky(belief, goal, available)
    else:
        good = same_errand(belief, goal, move)
    return frozenset(good & available) | {move.action}


def _searches(belief: Belief, thing: str, available: set[str]) -> set[str]:
    """Every way to look into a plausible unseen place."""
    good: set[str] = set()
    for place in belief.plausible(thing):
        near = belief.spots[place] == belief.at
        if near and f"open {place}" in available:
            good.add(f"open {place}")
        elif near:
            good.add(f"examine {place}")
        else:
            good.add(f"go to {place}")
    return good


def _lucky(belief: Belief, goal: Goal, available: set[str]) -> set[str]:
    """Useful moves that the candidates offer although no observation has told of them yet, and the lamp on the way."""
    good = set()
    settled = destination(belief, goal) if goal.kind == "two" else None
    for action in available:
        if action.startswith(f"take {goal.thing} ") and not (settled and action.endswith(f" from {settled}")):
            good.add(action)
        if goal.lamp and action.startswith(f"use {goal.lamp} ") and action[4:] not in belief.lit:
            good.add(action)
    return good


def same_errand(world: World, goal: Goal, move: Move, *, strict: bool = False) -> set[str]:
    """Actions that serve the same errand as well: another such thing or place, as near (`strict`: no dearer by any step)."""
    ways = list(_ways(world, goal, move))
    near = not move.action.startswith("go to ")
    good = {way.action for way in ways if way.action.startswith("go to ") != near}
    if not strict:
        return good
    cost = _shut(world, move)
    return {way.action for way in ways if way.action in good and _shut(world, way) <= cost}


def _shut(world: World, move: Move) -> bool:
    return move.place in world.closed and move.purpose not in ("treat", "light")


def _ways(world: World, goal: Goal, move: Move) -> Iterable[Move]:
    held = world.holds or ""
    settled = destination(world, goal) if goal.kind == "two" else None
    if move.purpose == "fetch":
        for thing, places in world.inside.items():
            if (
                kind_of(thing) == goal.thing
                and settled not in places
                and world.ready(goal, thing) >= world.ready(goal, move.thing)
            ):
                yield from (errand(world, p, f"take {thing} from {p}", "fetch", thing) for p in places)
    elif move.purpose == "treat":
        for p in world.places(goal.device):
            yield errand(world, p, f"{goal.kind} {held} with {p}", "treat", held, shut=True)
    elif move.purpose == "light":
        for lamp, places in world.inside.items():
            if kind_of(lamp) == goal.lamp:
                yield from (errand(world, p, f"use {lamp}", "light", lamp, shut=True) for p in places)
    else:
        places = (
            ([settled] if settled else world.places(goal.parent)) if move.purpose == "deliver" else list(world.spots)
        )
        yield from (errand(world, p, f"move {held} to {p}", move.purpose, held) for p in places if world.takes(p, held))


def reason_for(belief: Belief, goal: Goal, move: Move) -> str:
    """A short reason in the first person, from what was seen so far."""
    words = _REASONS[move.purpose](belief, goal, move)
    return f"That did nothing. {words}" if belief.refused else words


def _search(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("open "):
        return f"{_cap(move.place)} is closed. Open it."
    if move.action.startswith("examine "):
        return f"{_cap(move.place)} is in reach. Look for a {move.thing} there."
    if belief.last in belief.known and belief.spots.get(belief.last or "") == belief.at:
        return f"No {move.thing} here. Try {move.place}."
    another = goal.kind == "two" and destination(belief, goal)
    return f"I need {'another' if another else 'a'} {move.thing}. Try {move.place}."


def _fetch(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("take "):
        return f"Here is {move.thing}. Take it."
    if move.action.startswith("open "):
        return f"{_cap(move.thing)} is in {move.place}. Open it."
    return f"I saw {move.thing} at {move.place}. Go there."


def _treat(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("go to "):
        return f"I have {move.thing}. To {goal.kind} it, go to {move.place}."
    return f"{_cap(move.place)} is here. {_cap(goal.kind)} {move.thing}."


def _deliver(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("open "):
        return f"{_cap(move.place)} is closed. Open it."
    if move.action.startswith("move "):
        return f"{_cap(move.place)} is here. Put {move.thing} there."
    state = f"{_cap(move.thing)} is {DONE[goal.kind]}" if goal.device else f"I have {move.thing}"
    return f"{state}. Bring it to {move.place}."


def _light(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("use "):
        return f"{_cap(move.thing)} is here. Turn it on."
    return f"I have {belief.holds}. {_cap(move.thing)} is at {move.place}. Go there."


def _rid(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("open "):
        return f"I do not need {move.thing}. Open {move.place} to put it down."
    return (
        f"I do not need {move.thing}. Put it {'down at' if move.action.startswith('move ') else 'away:'} {move.place}."
    )


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


_REASONS = {"search": _search, "fetch": _fetch, "treat": _treat, "deliver": _deliver, "light": _light, "rid": _rid}
