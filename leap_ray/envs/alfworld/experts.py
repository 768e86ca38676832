"""ALFWorld's experts. Each follows one live episode and answers, before every action, what would be best and what is no mistake.

- demonstrator: explores; knows what was seen and where things are usually kept (iteration 0 imitates it)
- teacher: uses privileged facts to the degree `privilege` (LEAP, section 3.3): 0 is the demonstrator's word; 0.5 prefers the
  hidden thing's own place where a student could have thought of it, with a reason a student could have given; 1 walks straight
  to it and says so; between them every decision is drawn from the two neighbours
- oracle: the next best action from the facts alone; planner: textworld's fast-downward, a slow cross-check
- handcoded: alfworld's own exploring expert, for comparison with published results
"""

from __future__ import annotations

from typing import Any

from leap_ray.envs.alfworld.belief import Belief
from leap_ray.envs.alfworld.explorer import acceptable, explore, look_into, move_of, reason_for, same_errand
from leap_ray.envs.alfworld.planning import Move, Want, plan
from leap_ray.envs.alfworld.world import Goal, World, kind_of
from leap_ray.envs.base import Advice, Expert, TextEnv
from leap_ray.errors import PrivilegeError, UserError
from leap_ray.types import digest

KNOWN = ("demonstrator", "teacher", "oracle", "planner", "handcoded")
LEVELS = (0.0, 0.5, 1.0)  # degrees of privilege that have a behaviour of their own


class Demonstrator:
    """Explores by belief only; never asks for the simulator's facts."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.goal = Goal.of(engine.metadata)
        self.belief = Belief(self.goal)

    def advise(self) -> Advice | None:
        self.belief.see(self.engine.observation, self.engine.admissible)
        return plain_advice(self.belief, self.goal, self.engine.admissible)

    def explain(self, action: str) -> str:
        """A reason for an acceptable action other than the advised one, in the state `advise` was last asked about."""
        return reason_for(self.belief, self.goal, move_of(self.belief, self.goal, action))


class Oracle:
    """The next best action from any state, straight from the simulator's facts."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.goal = Goal.of(engine.metadata)

    def advise(self) -> Advice | None:
        return open_advice(World.of(self.engine.facts()), self.goal, self.engine.admissible)


class Planner:
    """The first action of fast-downward's plan. Seconds, sometimes a minute, per question."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def advise(self) -> Advice | None:
        steps = self.engine.plan()
        return Advice(steps[0], f"The shortest plan goes on with {steps[0]}.", frozenset(steps[:1])) if steps else None


class SymbolicExpert(Demonstrator):
    """The teacher's judgement on one state, with a dial for how much privileged state it uses."""

    def __init__(self, engine: Any, *, privilege: float, seed: int, task: str) -> None:
        super().__init__(engine)
        self.privilege, self.seed, self.task = privilege, seed, task

    def advise(self) -> Advice | None:
        self.belief.see(self.engine.observation, self.engine.admissible)
        level = draw_level(self.privilege, self.task, self.belief.time, self.seed)
        if level == 0:
            return plain_advice(self.belief, self.goal, self.engine.admissible)
        truth = World.of(self.engine.facts())
        if level == 1:
            return open_advice(truth, self.goal, self.engine.admissible)
        return constrained_advice(self.belief, truth, self.goal, self.engine.admissible)


def draw_level(privilege: float, task: str, step: int, seed: int) -> float:
    """One of LEVELS: the two around `privilege`, each as often as it is near, decided by a hash."""
    below = max(level for level in LEVELS if level <= privilege)
    above = min(level for level in LEVELS if level >= privilege)
    if below == above:
        return below
    chance = int(digest("privilege", task, step, seed, length=8), 16) / 16**8
    return above if chance < (privilege - below) / (above - below) else below


def plain_advice(belief: Belief, goal: Goal, candidates: tuple[str, ...]) -> Advice | None:
    """Advice from what was seen only."""
    return _advice(belief, goal, explore(belief, goal), candidates)


def constrained_advice(belief: Belief, truth: World, goal: Goal, candidates: tuple[str, ...]) -> Advice | None:
    """Privileged where a student could have had the same idea: of the plausible unseen places, the one that has the thing."""
    if not isinstance(plan(truth, goal), Move):
        return None
    step = plan(belief, goal)
    move = _hidden(belief, truth, step.thing) if isinstance(step, Want) else step
    return _advice(belief, goal, move or explore(belief, goal), candidates)


def open_advice(truth: World, goal: Goal, candidates: tuple[str, ...]) -> Advice | None:
    """Advice from all of the truth, with a reason that says where the hidden thing is."""
    move = plan(truth, goal)
    if not isinstance(move, Move) or move.action not in candidates:
        return None
    good = same_errand(truth, goal, move, strict=True) & set(candidates)
    return Advice(move.action, _secret_reason(move), frozenset(good | {move.action}))


def _advice(belief: Belief, goal: Goal, move: Move | None, candidates: tuple[str, ...]) -> Advice | None:
    if move is None or move.action not in candidates:
        return None
    return Advice(move.action, reason_for(belief, goal, move), acceptable(belief, goal, move, candidates))


def _hidden(belief: Belief, truth: World, thing: str) -> Move | None:
    """Towards a plausible unseen place that does hold such a thing; None if no such place does."""
    places = {p for t, where in truth.inside.items() if kind_of(t) == thing for p in where}
    plausible = [p for p in belief.plausible(thing) if p in places]
    if not plausible:
        return None
    place = min(plausible, key=lambda p: (belief.effort(p), -belief.odds(thing, p), p))
    return look_into(belief, place, thing)


def _secret_reason(move: Move) -> str:
    because = {
        "fetch": f"{move.thing} is at {move.place}",
        "treat": f"{move.thing} must be treated at {move.place}",
        "deliver": f"{move.thing} goes to {move.place}",
        "light": f"{move.thing} is at {move.place}",
        "rid": f"{move.thing} is not needed",
    }[move.purpose]
    return f"{because.capitalize()}. {move.action.capitalize()}."


def make(kind: str, env: TextEnv, *, privilege: float = 0.5, seed: int = 0) -> Expert:
    """An expert for the environment's present episode: demonstrator, teacher, oracle, planner or handcoded.

    Raises UserError for another kind, and PrivilegeError where one that uses privileged facts is asked for on a task that is
    not of a training panel.
    """
    if kind not in KNOWN:
        raise UserError(f"{env.domain} has no {kind!r} expert: known are {', '.join(KNOWN)}")
    if not 0 <= privilege <= 1:
        raise UserError(f"{env.domain}: privilege {privilege} is not in 0…1")
    if env.task is None:
        raise UserError(f"{env.domain}: a {kind} was asked for before reset()")
    plain = kind == "demonstrator" or (kind == "teacher" and privilege == 0)
    if not plain and env.task.panel not in env.train_panels:
        raise PrivilegeError(
            f"{env.domain}: a {kind} that uses privileged facts was asked for on task {env.task.id!r} of panel "
            f"{env.task.panel!r}; only training panels ({', '.join(sorted(env.train_panels))}) have it"
        )
    engine: Any = getattr(env, "engine")  # noqa: B009 -- only ALFWorld's environments have one
    if kind == "teacher":
        return SymbolicExpert(engine, privilege=privilege, seed=seed, task=env.task.id)
    if kind == "handcoded":
        from leap_ray.envs.alfworld.handcoded import Handcoded

        return Handcoded(engine, task=env.task.id, seed=seed)
    return {"demonstrator": Demonstrator, "oracle": Oracle, "planner": Planner}[kind](engine)
