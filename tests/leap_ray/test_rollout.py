"""One episode, as it is played and written down."""

from typing import Any

from leap_ray.envs.base import Advice, TextEnv
from leap_ray.policy import Prompter, tokenize
from leap_ray.rollout import demonstrate, play
from leap_ray.tasks import Panel
from leap_ray.types import Completion, Episode, Sampling, Task, from_json, to_json

HALF = "\ud83d"  # half of a pair: no tokenizer takes it, nor does a UTF-8 file
TASK = Task("torn", "0", "train")


class Torn(TextEnv):
    """An environment whose every text holds half a character."""

    domain = "torn"
    max_actions = 2

    def panel(self, name: str) -> Panel:
        return Panel.of("torn", name, [TASK])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return f"You see {HALF}.", self._info() | {"instruction": f"Take {HALF}."}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return f"Taken {HALF}.", 1.0, True, False, self._info()

    def expert(self, name: str, seed: int = 0, **settings: Any) -> Any:
        return self

    def advise(self) -> Advice:
        return Advice("take it", "It is there.", frozenset({"take it"}))

    def _info(self) -> dict[str, Any]:
        return {"candidates": (f"take {HALF}", "take it"), "valid": True, "score": 1.0, "success": True}


class Student:
    def __init__(self, prompter: Prompter) -> None:
        self.prompter = prompter

    async def complete(self, prompt_ids, sampling, seed, policy, request_id) -> Completion:
        ids = tuple(self.prompter.completion_ids("It is there.", "take it"))
        return Completion(ids, (0.0,) * len(ids), "stop")


async def test_half_a_character_ends_no_episode(student_folder):
    prompter = Prompter.load(str(student_folder), "chat", True)
    settings = dict(policy="base", seed=0, sampling=Sampling(0.3, max_tokens=32), max_actions=2, max_length=1024)
    played = await play(Torn(), TASK, Student(prompter), prompter, **settings)
    shown = tokenize(demonstrate(Torn(), TASK, seed=0, max_actions=2), prompter)
    for episode in (played, shown):
        assert from_json(Episode, to_json(episode).encode().decode()) == episode
        assert episode.instruction == "Take \ufffd." and episode.final_observation == "Taken \ufffd."
        assert episode.steps[0].candidates[0] == "take \ufffd"
