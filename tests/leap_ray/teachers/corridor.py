"""A domain of eight lines of rules: a corridor with one coin. Small enough to check a teacher's words by hand."""

from __future__ import annotations

from typing import Any

from leap_ray.envs.base import Advice, PrivilegedState, TextEnv, task_of
from leap_ray.tasks import Panel
from leap_ray.types import Episode, Finish, Step, Task

PLACES = ("desk 1", "desk 2", "drawer 1", "drawer 2", "shelf 1")


class CorridorExpert:
    """Knows where the coin is; a place not yet visited is no mistake to look at unless privilege is 1."""

    def __init__(self, env: Corridor, privilege: float) -> None:
        self.env, self.privilege = env, privilege

    def advise(self) -> Advice | None:
        env = self.env
        if env.stuck:
            return None
        if env.holding:
            return Advice("leave", "I have the coin, so I can leave.", frozenset({"leave"}))
        if env.at == env.coin:
            return Advice("take coin 1", "The coin is here.", frozenset({"take coin 1"}))
        fresh = frozenset(f"go to {p}" for p in PLACES if p not in env.visited)
        acceptable = fresh if self.privilege < 1 else frozenset({f"go to {env.coin}"})
        return Advice(f"go to {env.coin}", "Small things lie in places not looked at yet.", acceptable)


class Corridor(TextEnv):
    """`noise` makes a replay differ from its record, `explode` makes a step raise: the faults a teacher must survive."""

    domain = "corridor"
    max_actions = 8

    def __init__(self, noise: str = "", explode: bool = False) -> None:
        super().__init__()
        self.noise, self.explode, self.closed = noise, explode, False

    def panel(self, name: str) -> Panel:
        return Panel.of("corridor", name, [Task("corridor", str(i), name, "coin") for i in range(len(PLACES))])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.task = task_of(options)
        self.coin = PLACES[int(self.task.id)]
        self.at, self.visited, self.holding, self.stuck, self.won = "", set(), False, False, False
        return "You stand in a corridor.", self._info(True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        valid = action in self._candidates()
        if self.explode:
            raise RuntimeError("the engine fell over")
        observation = self._act(action) if valid else "Nothing happens."
        return observation + self.noise, float(self.won), self.won or self.stuck, False, self._info(valid)

    def close(self) -> None:
        self.closed = True

    def _act(self, action: str) -> str:
        if action.startswith("go to "):
            self.at = action.removeprefix("go to ")
            self.visited.add(self.at)
            return f"At {self.at}, you see {'a coin 1' if self.at == self.coin and not self.holding else 'nothing'}."
        if action == "take coin 1":
            self.holding = True
            return "You take the coin 1."
        if action == "break":
            self.stuck = True
            return "Everything falls apart."
        self.won = self.holding
        return "You leave." if self.won else "You cannot leave without a coin."

    def _candidates(self) -> tuple[str, ...]:
        take = ("take coin 1",) if self.at == self.coin and not self.holding else ()
        return (*(f"go to {p}" for p in PLACES), *take, "leave", "break")

    def _info(self, valid: bool) -> dict[str, Any]:
        return {
            "instruction": "bring a coin",
            "candidates": self._candidates(),
            "score": float(self.won),
            "success": self.won,
            "valid": valid,
        }

    def _privileged(self) -> PrivilegedState:
        assert self.task is not None
        return PrivilegedState("corridor", self.task.id, f"The coin 1 is at {self.coin}.", ("coin 1", self.coin))

    def expert(self, kind: str, *, privilege: float = 0.5, seed: int = 0) -> CorridorExpert:
        return CorridorExpert(self, privilege)


def play(actions: list[str], task: str = "3", seed: int = 0, policy: str = "base", reason: str = "I try.") -> Episode:
    """The episode in which a student does just these actions."""
    env = Corridor()
    observation, info = env.reset(options={"task": Task("corridor", task, "train", "coin")})
    steps = []
    for action in actions:
        before, candidates = observation, info["candidates"]
        observation, _, _, _, info = env.step(action)
        steps.append(Step(before, candidates, reason, action, info["valid"], info["score"], f"{reason} {action}"))
    assert env.task is not None
    finish = Finish.SUCCESS if env.won else Finish.MAX_ACTIONS
    score = float(env.won)
    return Episode(env.task, seed, policy, info["instruction"], tuple(steps), observation, score, env.won, finish)
