"""What a thoughtful student would do: the next move from a belief, every other move that is no mistake, and a reason in words."""

from __future__ import annotations

from collections.abc import Iterable

from leap_ray.envs.alfworld.belief import Belief
from leap_ray.envs.alfworld.planning import Move, Want, destination, errands, plan
from leap_ray.envs.alfworld.world import DONE, Goal, World


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
    good = same_errand(belief, goal, move)
    if move.purpose == "search":
        good = _searches(belief, move.thing, available) | _lucky_finds(belief, goal, available)
    if move.purpose in ("search", "fetch"):
        good |= {f"use {lamp}" for lamp in _unlit(belief, goal, available)}
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


def _lucky_finds(belief: Belief, goal: Goal, available: set[str]) -> set[str]:
    """Things wanted that the candidates offer although no observation has told of them yet."""
    settled = destination(belief, goal) if goal.kind == "two" else None
    finds = {action for action in available if action.startswith(f"take {goal.thing} ")}
    return {action for action in finds if not (settled and action.endswith(f" from {settled}"))}


def _unlit(belief: Belief, goal: Goal, available: set[str]) -> set[str]:
    """Lamps of the goal within reach that were not used yet: once used, a lamp stays so, and only needs to be reached again."""
    lamps = {action[4:] for action in available if goal.lamp and action.startswith(f"use {goal.lamp} ")}
    return lamps - belief.lit


def same_errand(world: World, goal: Goal, move: Move, *, strict: bool = False) -> set[str]:
    """Actions that serve the same errand as well: another such thing or place, as near (`strict`: as cheap to the last step)."""
    ways = errands(world, goal)
    if isinstance(ways, Want):
        return set()
    if strict:
        return {way.action for way in ways if way.cost <= move.cost}
    going = move.action.startswith("go to ")
    return {way.action for way in ways if way.action.startswith("go to ") == going}


def move_of(belief: Belief, goal: Goal, action: str) -> Move:
    """What an acceptable action is for, so that it can be given a reason."""
    step = errands(belief, goal)
    for way in step if isinstance(step, list) else ():
        if way.action == action:
            return way
    verb, _, rest = action.partition(" ")
    if verb == "take":
        thing, _, place = rest.partition(" from ")
        return Move(action, "fetch", thing, place)
    if verb == "use":
        return Move(action, "light", rest)
    wanted = step.thing if isinstance(step, Want) else goal.thing
    return Move(action, "search", wanted, rest.removeprefix("to "))


def reason_for(belief: Belief, goal: Goal, move: Move) -> str:
    """A short reason in the first person, from what was seen so far."""
    words = _REASONS[move.purpose](belief, goal, move)
    return f"That did nothing. {words}" if belief.refused else words


def _search(belief: Belief, goal: Goal, move: Move) -> str:
    if move.action.startswith("open "):
        return f"{_cap(move.place)} is closed. Open it."
    if move.action.startswith("examine "):
        return f"{_cap(move.place)} is in reach. Look there for {_a(move.thing)}."
    if destination(belief, goal):
        return f"I need another {move.thing}. Try {move.place}."
    if belief.last in belief.known and belief.spots[belief.last] == belief.at:
        return f"No {move.thing} here. Try {move.place}."
    return f"I need {_a(move.thing)}. Try {move.place}."


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


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


_REASONS = {"search": _search, "fetch": _fetch, "treat": _treat, "deliver": _deliver, "light": _light, "rid": _rid}
