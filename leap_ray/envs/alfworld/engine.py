"""ALFWorld's text engine: one game, one household, played by text commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class AlfworldEngine:
    """Plays one ALFWorld game at a time: `load`, `reset`, then `step` until `won`.

    After `reset` and every `step`:

    - `observation` (str): what the game said
    - `admissible` (tuple[str, ...]): commands it accepts now, sorted as stock sorts them
    - `won` (bool)
    - `facts()`: the simulator's facts in game names, e.g. ("inreceptacle", "apple 1", "fridge 1"), ("opened", "fridge 1"),
      ("holds", "agent1", "mug 1"), ("atlocation", "agent1", "loc 3"). Predicate names are lower-case; negations are left out.

    After `load`: `walkthrough` (tuple[str, ...]) and `metadata` (traj_data.json as a dict; {} where there is none).
    """

    def __init__(self) -> None:
        self.observation = ""
        self.admissible: tuple[str, ...] = ()
        self.won = False
        self.walkthrough: tuple[str, ...] = ()
        self.metadata: dict[str, Any] = {}
        self._env: Any = None

    def load(self, game: Path | str | Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Load a game from its folder, its game.tw-pddl file, or the payload of one (then with `metadata`)."""
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl import PddlEnv

        if isinstance(game, Mapping):
            payload, self.metadata = dict(game), dict(metadata or {})
        else:
            folder = Path(game) if Path(game).is_dir() else Path(game).parent
            payload = json.loads((folder / "game.tw-pddl").read_text())
            self.metadata = json.loads((folder / "traj_data.json").read_text())
        self.walkthrough = tuple(payload.get("walkthrough") or ())
        self._env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)))
        self._env.load(payload)

    def reset(self) -> str:
        """Start the loaded game from its beginning; returns the first observation."""
        return self._take(self._env.reset())

    def step(self, action: str) -> str:
        """Do one command; an unknown one answers "Nothing happens." and changes nothing."""
        return self._take(self._env.step(action)[0])

    def _take(self, state: Any) -> str:
        self.observation, self.won = state["feedback"], bool(state["won"])
        self.admissible = tuple(state["admissible_commands"])
        return self.observation

    def facts(self) -> frozenset[tuple[str, ...]]:
        """Every true fact of the present state, in game names."""
        inner = self._env.unwrapped
        names = {key: info.name.strip() for key, info in inner._entity_infos.items()}
        return frozenset(
            (f.name, *(names[v.name] for v in f.arguments))
            for f in inner._pddl_state.facts
            if not f.name.startswith(("not_", "new-axiom@"))
        )

    def close(self) -> None:
        """Give back the engine's memory. The engine may be loaded again."""
        self._env = None
