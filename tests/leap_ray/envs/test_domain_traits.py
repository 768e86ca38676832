"""What a domain says of itself reaches every prompt: demonstrations, rollouts, and all teachers, whatever its settings are."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leap_ray.config import DomainConfig, RunConfig, TeacherConfig
from leap_ray.envs.base import DOMAINS, Advice, PrivilegedState, TextEnv, make_env, read_traits, task_of
from leap_ray.envs.intercode.env import ACTIONS, FACTS
from leap_ray.policy import Prompter, tokenize
from leap_ray.rollout import demonstrate, play
from leap_ray.tasks import Panel
from leap_ray.teachers.build import build_teacher
from leap_ray.teachers.calls import Answer, Stop
from leap_ray.teachers.constrained import ConstrainedTeacher
from leap_ray.teachers.estimate import _thresholds
from leap_ray.teachers.self_teacher import SelfTeacher
from leap_ray.types import Completion, Episode, Finish, Outcome, Sampling, Step, Task

LANGUAGES = ("bash", "sql", "python")


class Editor(TextEnv):
    """A domain whose settings decide all that it says of itself: a text is to be typed, in one or several lines."""

    domain = "editor"

    def __init__(self, text: str = "a") -> None:
        super().__init__()
        self.text = text
        self.domain_facts = f"Type a text of {len(text)} characters."
        self.multiline = "\n" in text
        self.max_actions, self.threshold, self.score_scale = len(text), 0.25, 10.0
        self.typed = ""

    def panel(self, name: str) -> Panel:
        return Panel.of(self.domain, name, [Task(self.domain, "0", name)])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.task, self.typed = task_of(options), ""
        return "An empty page.", self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.typed = action
        done = self.typed == self.text
        return f"The page says {action!r}.", float(done), done, False, {**self._info(), "valid": True}

    def _info(self) -> dict[str, Any]:
        done = self.typed == self.text
        return {"instruction": "Type the text.", "candidates": (), "score": float(done), "success": done}

    def _privileged(self):
        return PrivilegedState(self.domain, "0", f"It is {self.text!r}.")

    def expert(self, kind: str, *, privilege: float = 0.5, seed: int = 0):
        return self

    def advise(self) -> Advice:
        return Advice(self.text, "That is the text.", frozenset({self.text}))


EDITOR = f"{__name__}:Editor"


def cases() -> list[Any]:
    """Every registered domain, every language of InterCode, and two domains of one's own."""
    embedded = {"data": "embedded", "base": "host"}
    intercode = [("intercode", {"language": name, **embedded}) for name in LANGUAGES]
    own = [(f"leap_ray.envs.intercode.env:{name}", embedded) for name in ("SqlEnv", "PythonEnv")]
    plain = [(name, {}) for name in DOMAINS if name != "intercode"]
    yours = [("experiments.own_environment:Lockers", {}), (EDITOR, {"text": "one\ntwo"})]
    return [pytest.param(DomainConfig(n, settings=s), id=f"{n.split(':')[-1]}-{s.get('language', '')}")
            for n, s in (*plain, *intercode, *own, *yours)]  # fmt: skip


@pytest.fixture(params=cases())
def domain(request: pytest.FixtureRequest) -> DomainConfig:
    config: DomainConfig = request.param
    if config.name == "alfworld":
        return replace(config, settings={"data": str(request.getfixturevalue("alfworld_data"))})
    needs_sandbox = config.settings.get("language", "") in ("bash", "python") or config.name.endswith("PythonEnv")
    if needs_sandbox and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    return config


@pytest.fixture(params=[("chat", True), ("chat", False), ("leap", True)], ids=lambda p: f"{p[0]}-{p[1]}")
def prompter(request: pytest.FixtureRequest, student_folder) -> Prompter:
    return Prompter.load(str(student_folder), *request.param)


class Repeating:
    """A student that says what a demonstration says, step by step."""

    def __init__(self, prompter: Prompter, episode: Episode) -> None:
        self.prompter, self.left = prompter, list(episode.steps)

    async def complete(self, prompt_ids, sampling, seed, policy, request_id) -> Completion:
        step = self.left.pop(0)
        ids = tuple(self.prompter.completion_ids(step.reason, step.action))
        return Completion(ids, (0.0,) * len(ids), "stop")


async def test_a_demonstration_has_the_prompts_of_a_rollout_that_acts_alike(domain: DomainConfig, prompter: Prompter):
    env = make_env(domain.name, domain.settings)
    task = env.panel("train").tasks[0]
    traits = read_traits(domain)
    shown = demonstrate(env, task, seed=0, max_actions=traits.max_actions)
    demonstration = tokenize(shown, prompter, traits.domain_facts)
    rollout = await play(
        env, task, Repeating(prompter, shown), prompter, policy="base", seed=0, sampling=Sampling(max_tokens=2000),
        max_actions=traits.max_actions, max_length=10**6,
    )  # fmt: skip
    env.close()
    assert [s.action for s in rollout.steps] == [s.action for s in demonstration.steps]
    for t in range(len(rollout.steps)):
        assert demonstration.prompt_ids(t) == rollout.prompt_ids(t), f"step {t}"
    assert traits.domain_facts and traits.domain_facts in prompter.tokenizer.decode(rollout.prompt_ids(0))


@pytest.mark.parametrize("kind", [SelfTeacher, ConstrainedTeacher])
@pytest.mark.parametrize("prompter", [("chat", False), ("leap", True)], indirect=True, ids=["chat", "leap"])
async def test_what_a_self_teacher_reads_differs_from_the_students_prompt_by_what_is_hidden(
    domain: DomainConfig, prompter: Prompter, kind: Any
):
    env = make_env(domain.name, domain.settings)
    task = env.panel("train").tasks[0]
    episode = tokenize(demonstrate(env, task, seed=0, max_actions=env.max_actions), prompter, env.domain_facts)
    episode = replace(episode, steps=episode.steps[:4])
    env.reset(options={"task": task})
    state = env.privileged()
    env.close()
    student = Listening(prompter)
    teacher = kind(student, prompter, TeacherConfig(kind="self", correct="all"), [domain], max_length=10**6)
    await teacher.correct(episode, state)
    decode = prompter.tokenizer.decode
    hidden = [ids for ids in student.prompts if state.rendering.strip() in decode(ids)]
    plain = [episode.prompt_ids(t) for t in range(len(episode.steps))]
    for own in plain:
        told = min(hidden, key=lambda ids: (-shared(own, ids), len(ids)))
        same = shared(own, told)
        rest = shared(own[same:][::-1], told[same:][::-1])
        added = decode(told[same : len(told) - rest])
        lost = decode(own[same : len(own) - rest])
        assert state.rendering.strip() in added and lost.strip() == "" and len(lost) <= 2


def shared(left: list[int], right: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))


class Listening:
    """A student's server that keeps every prompt. It always answers the same, and finds all actions equally likely."""

    def __init__(self, prompter: Prompter) -> None:
        self.prompter, self.prompts = prompter, []

    async def complete(self, prompt_ids, sampling, seed, policy, request_id) -> Completion:
        self.prompts.append(prompt_ids)
        ids = tuple(self.prompter.completion_ids("I try this.", "look"))
        return Completion(ids, (0.0,) * len(ids), "stop")

    async def score(self, prompt_ids, candidates, policy, key) -> list[list[float]]:
        self.prompts.append(prompt_ids)
        return [[-1.0] for _ in candidates]


class Asked:
    """A desk that keeps what is asked and refuses to answer."""

    def __init__(self) -> None:
        self.systems: list[str] = []

    async def ask(self, request) -> Answer:
        self.systems.append(request.system)
        return Answer(request.key, stop=Stop.REFUSAL)


@pytest.mark.parametrize("per", ["episode", "step"])
async def test_a_prompted_teacher_is_told_the_facts(domain: DomainConfig, per: Any, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    teacher: Any = build_teacher(TeacherConfig(kind="claude", per=per), [domain], tmp_path)
    teacher.desk = desk = Asked()
    traits = read_traits(domain)
    step = Step("You see a room.", ("look",), "I look.", "look", True, 0.0)
    task = Task(traits.domain, "0", "train")
    episode = Episode(task, 0, "base", "Do it.", (step,), "", 0.0, False, Finish.MAX_ACTIONS)
    correction = await teacher.correct(episode, PrivilegedState(traits.domain, "0", "It is here."))
    await teacher.annotate(episode)
    assert [s.outcome for s in correction.steps] == [Outcome.REFUSED]
    assert desk.systems and all(traits.domain_facts in system for system in desk.systems)


async def test_actions_of_several_lines_are_read_whole_where_the_settings_say_so(student_folder):
    prompter = Prompter.load(str(student_folder), "chat", True)
    domain = DomainConfig(EDITOR, settings={"text": "one\ntwo"})
    env = make_env(domain.name, domain.settings)
    shown = demonstrate(env, env.panel("train").tasks[0], seed=0, max_actions=1)
    rollout = await play(
        env, shown.task, Repeating(prompter, shown), prompter, policy="base", seed=0, sampling=Sampling(),
        max_actions=1, max_length=10**6,
    )  # fmt: skip
    assert rollout.success and rollout.steps[0].action == "one\ntwo"
    teacher = SelfTeacher(Repeating(prompter, shown), prompter, TeacherConfig(kind="self", correct="all"), [domain])
    (step,) = (await teacher.correct(rollout, PrivilegedState("editor", "0", ""))).steps
    assert step.action == "one\ntwo"


@pytest.mark.parametrize("language", LANGUAGES)
def test_intercode_says_what_its_language_setting_makes_of_it(language: Any):
    if language != "sql" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    traits = read_traits(DomainConfig("intercode", settings={"language": language, "data": "embedded", "base": "host"}))
    assert (traits.domain_facts, traits.max_actions) == (FACTS[language], ACTIONS[language])
    assert traits.multiline == (language == "python")


def test_intercodes_privileged_state_names_its_own_domain_and_language():
    for name, settings in [("intercode", {"language": "sql"}), ("leap_ray.envs.intercode.env:SqlEnv", {})]:
        env = make_env(name, {"data": "embedded", **settings})
        env.reset(options={"task": env.panel("train").tasks[0]})
        state = env.privileged()
        assert state.domain == env.domain and "bash" not in state.rendering and " SQL" in state.rendering


def test_thresholds_are_the_settings_own():
    domains = [DomainConfig(EDITOR), DomainConfig("households", threshold=0.5)]
    assert _thresholds(domains) == {"editor": 0.25, "households": 0.5}
    assert RunConfig("x", tuple(domains)).domains[0].threshold is None


def test_provenance_names_content_and_not_places(tmp_path: Path):
    """InterCode's ids are positions: other questions in another folder would be the same evaluation by the panel's hash alone."""
    from leap_ray.envs.intercode.data import SHIPPED

    copies = {name: shutil.copytree(SHIPPED, tmp_path / name) for name in ("same", "other")}
    questions = copies["other"] / "sql.json"
    questions.write_text(questions.read_text().replace("How many", "How few", 1))
    made = {n: make_env("intercode", {"language": "sql", "data": str(f)}) for n, f in copies.items()}
    assert made["same"].panel("test").hash == made["other"].panel("test").hash
    shipped = make_env("intercode", {"language": "sql"}).provenance()
    assert made["same"].provenance() == shipped != made["other"].provenance()
    assert shipped["runs on"] == "sqlite"
    households = [make_env("households", settings).provenance() for settings in ({}, {"counts": {"valid": 3}})]
    assert households[0] == households[1] and households[0]["games"].startswith("generator ")
    shops = [make_env("webshop", {"products": count}).provenance() for count in (50, 50, 60)]
    assert shops[0] == shops[1] != shops[2]


def written(action: str, rng: random.Random) -> str:
    """The action as a model may write it."""
    return rng.choice([action, action.upper(), f"{action}.", f"  {action} ", f"{action} now", action[:-1], "dance", ""])


def test_what_an_environment_says_of_an_action_beforehand_is_what_its_step_says(domain: DomainConfig):
    rng = random.Random(7)
    env = make_env(domain.name, domain.settings)
    try:
        for task in env.panel("train").tasks[:2]:
            _, info = env.reset(seed=0, options={"task": task})
            guide = env.expert("demonstrator")
            for _ in range(12):
                advice = guide.advise()
                listed = [c for c in info["candidates"] if "<" not in c]
                ways = [rng.choice(listed)] if listed else []
                action = written(rng.choice([*ways, advice.action if advice else "look"]), rng)
                spelling, known = env.spelling(action), env.knows(action)
                cause = "" if known else env.cause(action)
                _, _, over, _, info = env.step(action)
                assert spelling == info.get("action", action), action
                assert known is None or known == info["valid"], action
                assert known or (cause and len(cause.split()) <= 6)
                if over:
                    break
    finally:
        env.close()
