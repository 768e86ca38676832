"""What a teacher may know of an ALFWorld game: where the targets are, what is closed, and how the task was meant to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from leap_ray.envs.alfworld.names import in_order
from leap_ray.envs.base import PrivilegedState, Secret
from leap_ray.types import Task, to_plain

Fact = tuple[str, ...]

_WORDS = {
    "GotoLocation": "go to {0}",
    "PickupObject": "pick up {0}",
    "PutObject": "move {0} to {1}",
    "CleanObject": "clean {0} with {1}",
    "HeatObject": "heat {0} with {1}",
    "CoolObject": "cool {0} with {1}",
    "ToggleObject": "use {0}",
    "OpenObject": "open {0}",
    "CloseObject": "close {0}",
    "SliceObject": "slice {0}",
}
# Where a subgoal keeps the THOR ids of what it is about, in the order of _WORDS; the arguments' kinds fill what is missing.
_IDS = {
    "PickupObject": ("objectId",),
    "PutObject": ("objectId", "receptacleObjectId"),
    "CleanObject": ("cleanObjectId", "objectId"),
    "HeatObject": (None, "objectId"),
    "CoolObject": (None, "objectId"),
    "ToggleObject": ("objectId",),
    "OpenObject": ("objectId",),
    "CloseObject": ("objectId",),
    "SliceObject": ("objectId",),
}


@dataclass(frozen=True)
class GameSecrets:
    """Privileged state of one game at its reset, in the names the game uses."""

    targets: dict[str, str]  # object that would serve -> receptacle it is in or on
    lights: dict[str, str]  # the same for the lamp to be used, in look_at_obj_in_light
    destinations: tuple[str, ...]  # receptacles that would serve
    closed: tuple[str, ...]  # receptacles that must be opened before anything in them is seen
    subgoals: tuple[str, ...]  # the recorded solution's steps, in order

    @classmethod
    def of(
        cls, facts: Iterable[Fact], metadata: Mapping[str, Any], name_of: Callable[[str], str | None]
    ) -> GameSecrets:
        """From the simulator's facts and traj_data.json; `name_of` turns a THOR id into a game name."""
        facts = frozenset(facts)
        params = metadata.get("pddl_params", {})
        opened = {fact[1] for fact in facts if fact[0] == "opened"}
        return cls(
            targets=_places(facts, params.get("object_target", "")),
            lights=_places(facts, params.get("toggle_target", "")),
            destinations=_of_kind(facts, "receptacletype", params.get("parent_target", "")),
            closed=in_order(fact[1] for fact in facts if fact[0] == "openable" and fact[1] not in opened),
            subgoals=_subgoals(metadata.get("plan", {}).get("high_pddl", ()), name_of),
        )

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Instances that a reason must not name before they were seen: targets, lamps, and the places they are at."""
        names = in_order({*self.targets, *self.targets.values(), *self.lights, *self.lights.values()})
        return tuple(Secret("instance", name) for name in names)

    @property
    def rendering(self) -> str:
        """For a teacher's prompt."""
        lines = ["Objects that would serve, and where they are:"]
        lines += [f"- {thing}: {place}" for thing, place in self.targets.items()] or ["- none"]
        if self.lights:
            lines += ["Lamps that would serve, and where they are:"]
            lines += [f"- {thing}: {place}" for thing, place in self.lights.items()]
        if self.destinations:
            lines.append(f"Destinations that would serve: {', '.join(self.destinations)}")
        lines.append(f"Closed at the start: {', '.join(self.closed) or 'nothing'}")
        if self.subgoals:
            lines.append(f"One way to do it: {'; '.join(self.subgoals)}")
        return "\n".join(lines)

    def state(self, task: Task) -> PrivilegedState:
        """As the contract has it."""
        return PrivilegedState(task.domain, task.id, self.rendering, self.secrets, to_plain(self))


def _subgoals(goals: Iterable[Mapping[str, Any]], name_of: Callable[[str], str | None]) -> tuple[str, ...]:
    """The steps of `plan.high_pddl` in words, naming instances where their THOR ids are known."""
    steps: list[str] = []
    held: str | None = None  # heating and cooling do not say which object
    for goal in goals:
        action, things = goal["discrete_action"]["action"], list(goal["discrete_action"]["args"])
        if action not in _WORDS:  # the closing no-op
            continue
        for place, key in enumerate(_IDS.get(action, ())):
            if name := name_of(goal["planner_action"].get(key, "")) if key else held:
                things[place : place + 1] = [name]
        if action == "PickupObject":
            held = things[0]
        missing = _WORDS[action].count("{") - len(things)
        steps.append(_WORDS[action].format(*things, *["it"] * missing))
    return tuple(steps)


def _of_kind(facts: frozenset[Fact], predicate: str, kind: str) -> tuple[str, ...]:
    return in_order(f[1] for f in facts if f[0] == predicate and f[2] == f"{kind.lower()}type")


def _places(facts: frozenset[Fact], kind: str) -> dict[str, str]:
    where = {f[1]: f[2] for f in facts if f[0] == "inreceptacle"}
    return {thing: where[thing] for thing in _of_kind(facts, "objecttype", kind) if thing in where}
