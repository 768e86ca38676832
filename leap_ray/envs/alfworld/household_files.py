"""A household written down as ALFWorld's two files: game.tw-pddl and traj_data.json."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from leap_ray.envs.alfworld.inventories import DATA, Inventories
from leap_ray.envs.alfworld.world import DEVICES, KINDS

if TYPE_CHECKING:
    from leap_ray.envs.alfworld.households import Household, Thing

# Types that alfred.pddl names in its actions: a problem must declare them whether it has such things or not.
ALWAYS = {"rtype": ("SinkBasin", "Microwave", "Fridge"), "otype": ("Knife", "ButterKnife")}


@cache
def domain_and_grammar() -> tuple[str, str]:
    """alfworld's own alfred.pddl and alfred.twl2."""
    data = resources.files("alfworld") / "data"
    return (data / "alfred.pddl").read_text(), (data / "alfred.twl2").read_text()


@cache
def generator_files() -> dict[str, str]:
    """Hashes of the files that games are made from: the tables of rooms, and alfworld's domain, grammar and task wordings."""
    package = resources.files("alfworld")
    sources = [package / "data" / "alfred.pddl", package / "data" / "alfred.twl2", package / "gen" / "goal_library.py"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in [DATA, *sources]}


def game_file(
    house: Household, tables: Inventories, walkthrough: Sequence[str], name: str, rng: random.Random
) -> dict[str, Any]:
    """The game.tw-pddl of a household; the task's wording is one of alfworld's own templates, drawn by `rng`."""
    from alfworld.gen.goal_library import gdict

    words = {"obj": house.target.lower(), "recep": house.parent.lower(), "toggle": house.parent.lower()}
    sentence = rng.choice(gdict[KINDS[house.kind]]["templates"]).format(**words)
    goal = gdict[KINDS[house.kind]]["pddl"].format(obj=house.target, recep=house.parent, toggle=house.parent)
    domain, grammar = domain_and_grammar()
    return {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", sentence),
        "pddl_problem": problem(house, tables, name, goal.replace("#", "-")),
        "walkthrough": list(walkthrough),
        "solvable": True,
    }


def identifiers(things: Iterable[Thing]) -> dict[Thing, str]:
    """THOR-like ids ("Mug|01") such that alfworld's renaming, which counts backwards, gives each thing its own number."""
    things = list(things)
    most = Counter(thing.kind for thing in things)
    ids = {}
    for thing in things:
        kind, _, basin = thing.kind.partition("Basin")
        count = f"{most[thing.kind] - thing.number:02d}"
        ids[thing] = f"{kind}|{count}|{thing.kind}" if thing.kind.endswith("Basin") else f"{kind + basin}|{count}"
    return ids


def problem(house: Household, tables: Inventories, name: str, goal: str) -> str:
    """The PDDL problem. `goal` is the goal's text together with the parentheses that close the problem."""
    ids = {t: i.replace("|", "_bar_") for t, i in identifiers([*house.places, *house.things]).items()}
    place_types = sorted({p.kind for p in house.places} | set(ALWAYS["rtype"]))
    thing_types = sorted({t.kind for t in house.things} | set(ALWAYS["otype"]))
    spots = [f"loc_bar_{n:02d}" for n in sorted({0, *house.spots.values()})]
    objects = [
        "agent1 - agent",
        *(f"{t}Type - otype" for t in thing_types),
        *(f"{t}Type - rtype" for t in place_types),
        *(f"{ids[t]} - object" for t in house.things),
        *(f"{ids[p]} - receptacle" for p in house.places),
        *(f"{spot} - location" for spot in spots),
    ]
    facts = [*_place_facts(house, ids), *_thing_facts(house, tables, ids)]
    facts += [f"canContain {p}Type {t}Type" for p in place_types for t in thing_types if t in tables.accepts.get(p, ())]
    lines = [f"(define (problem {name})", "(:domain alfred)", "(:objects", *objects, ")", "(:init"]
    return "\n".join([*lines, *(f"({fact})" for fact in facts), ")", goal])


def _place_facts(house: Household, ids: dict[Thing, str]) -> list[str]:
    facts = ["atLocation agent1 loc_bar_00"]
    for place in house.places:
        facts.append(f"receptacleType {ids[place]} {place.kind}Type")
        facts.append(f"receptacleAtLocation {ids[place]} loc_bar_{house.spots[place]:02d}")
        if place in house.opens:
            facts.append(f"openable {ids[place]}")
    return facts


def _thing_facts(house: Household, tables: Inventories, ids: dict[Thing, str]) -> list[str]:
    facts = []
    for thing, place in house.things.items():
        facts.append(f"objectType {ids[thing]} {thing.kind}Type")
        facts.append(f"inReceptacle {ids[thing]} {ids[place]}")
        facts.append(f"objectAtLocation {ids[thing]} loc_bar_{house.spots[place]:02d}")
        facts += [f"{trait} {ids[thing]}" for trait in tables.traits.get(thing.kind, ())]
    return facts


def trajectory(
    house: Household, walkthrough: Sequence[str], name: str, game: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The traj_data.json of a household: the task's parameters and the walkthrough as ALFRED's subgoals."""
    look = house.kind == "look"
    sentence = game["grammar"].split("Your task is to: ", 1)[1].split('"', 1)[0]
    goals = [goal for action in walkthrough if (goal := _subgoal(house, action))]
    goals.append({"discrete_action": {"action": "NoOp", "args": []}, "planner_action": {"action": "End", "value": 1}})
    return {
        "task_id": name,
        "task_type": KINDS[house.kind],
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": house.target,
            "parent_target": "" if look else house.parent,
            "toggle_target": house.parent if look else "",
        },
        "turk_annotations": {
            "anns": [{"task_desc": sentence, "high_descs": list(walkthrough), "votes": [1]}],
        },
        "plan": {"high_pddl": [{**goal, "high_idx": i} for i, goal in enumerate(goals)]},
        "scene": {"floor_plan": f"Household-{name}", "room": house.room, "random_seed": seed, "object_toggles": []},
    }


def _subgoal(house: Household, action: str) -> dict[str, Any] | None:
    """A walkthrough action as an ALFRED subgoal; None for opening, which ALFRED counts as part of the next one."""
    ids = {t.name: i for t, i in identifiers([*house.places, *house.things]).items()}
    verb, _, rest = action.partition(" ")
    if verb == "go":
        place = rest.removeprefix("to ")
        return _step("GotoLocation", [place], {"location": f"loc|{house.spots[_of(house, place)]:02d}"})
    if verb == "take":
        return _step("PickupObject", [rest.partition(" from ")[0]], {"objectId": ids[rest.partition(" from ")[0]]})
    if verb == "move":
        thing, _, place = rest.partition(" to ")
        return _step("PutObject", [thing, place], {"objectId": ids[thing], "receptacleObjectId": ids[place]})
    if verb == "use":
        return _step("ToggleObject", [rest], {"objectId": ids[rest]})
    if verb in DEVICES:
        thing, _, device = rest.partition(" with ")
        more = {"cleanObjectId": ids[thing]} if verb == "clean" else {}
        return _step(f"{verb.capitalize()}Object", [thing], {**more, "objectId": ids[device]})
    return None


def _of(house: Household, name: str) -> Thing:
    return next(place for place in house.places if place.name == name)


def _step(action: str, things: list[str], more: dict[str, str]) -> dict[str, Any]:
    kinds = [thing.split(" ")[0] for thing in things]
    return {
        "discrete_action": {"action": action, "args": kinds},
        "planner_action": {"action": action, **more},
    }
