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


class Moody(Torn):
    """A machine that answers otherwise each time."""

    times = 0

    def reset(self, *, seed=None, options=None):
        Moody.times += 1
        return f"The clock says {Moody.times}.", self._info() | {"instruction": "Take it."}


class Strict(Student):
    """A server to which a request's name stands for one prompt, as the student's own does."""

    def __init__(self, prompter):
        super().__init__(prompter)
        self.asked = {}

    async def complete(self, prompt_ids, sampling, seed, policy, request_id):
        assert self.asked.setdefault(request_id, prompt_ids) == prompt_ids, "another prompt under the same name"
        return await super().complete(prompt_ids, sampling, seed, policy, request_id)


async def test_an_episode_played_again_may_have_other_prompts(student_folder):
    """After a fault an episode is played once more, and what it stands on need not say the same."""
    prompter = Prompter.load(str(student_folder), "chat", True)
    settings = dict(policy="base", seed=0, sampling=Sampling(0.3, max_tokens=32), max_actions=2, max_length=1024)
    student = Strict(prompter)
    first, again = [await play(Moody(), TASK, student, prompter, **settings) for _ in range(2)]
    assert first.id == again.id and first.steps[0].observation != again.steps[0].observation
    names = [name.rpartition("/")[0] for name in student.asked]
    assert len(names) == 2 and set(names) == {first.id}, "an episode stays on one server"
