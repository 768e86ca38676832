"""The environment contract, on households (always) and on real games (where they are)."""

import pytest

from leap_ray.envs.alfworld.env import AlfworldEnv, HouseholdsEnv, normalise
from leap_ray.envs.alfworld.privileged import GameSecrets
from leap_ray.envs.base import make_env
from leap_ray.errors import PrivilegeError, UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def env(cache):
    env = HouseholdsEnv(cache=cache)
    yield env
    env.close()


def start(env, panel="train", kind="pick_heat_then_place_in_recep"):
    task = next(t for t in env.panel(panel).tasks if t.kind == kind)
    observation, info = env.reset(options={"task": task})
    return task, observation, info


@pytest.mark.parametrize(
    ("said", "done"),
    [
        ("Go To Fridge 1.", "go to fridge 1"),
        ("  take 'mug 1' from desk 1\nand then leave", "take mug 1 from desk 1"),
        ("`look`", "look"),
        ("put mug 1 in/on desk 1!", "put mug 1 in/on desk 1"),
        ("", ""),
        ("\n \n", ""),
        ("日本", ""),
    ],
)
def test_actions_are_normalised(said, done):
    assert normalise(said) == done


def test_reset_and_play_to_the_end(env):
    task, observation, info = start(env)
    assert env.task == task
    assert observation.startswith("-= Welcome to TextWorld, ALFRED! =-")
    assert observation.endswith(f"Your task is to: {info['instruction']}") or info["instruction"] in observation
    assert info["instruction"] and "Your task" not in info["instruction"]
    assert info["candidates"] == tuple(sorted(info["candidates"]))
    assert {"help", "inventory", "look"} <= set(info["candidates"])
    assert (info["score"], info["success"]) == (0.0, False)
    rewards = []
    for action in env.engine.walkthrough:
        observation, reward, terminated, truncated, info = env.step(action.upper() + ".")
        assert info["valid"] and not truncated and terminated == info["success"]
        rewards.append(reward)
    assert terminated and info["score"] == 1.0
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_unknown_action_changes_nothing(env):
    _, _, before = start(env)
    facts = env.engine.facts()
    for action in ("fly to the moon", "", "take apple 99 from moon 1"):
        observation, reward, terminated, _, info = env.step(action)
        assert observation == "Nothing happens."
        assert (reward, terminated, info["valid"]) == (0.0, False, False)
        assert info["candidates"] == before["candidates"]
    assert env.engine.facts() == facts


def test_step_and_reset_need_a_task(cache):
    env = HouseholdsEnv(cache=cache)
    with pytest.raises(UserError, match="before reset"):
        env.step("look")
    with pytest.raises(UserError, match="Task"):
        env.reset()
    with pytest.raises(PrivilegeError, match="before reset"):
        env.privileged()


def test_same_task_same_game(env, cache):
    task, observation, _ = start(env)
    other = HouseholdsEnv(cache=cache, counts={"train": 30}, sizes=[2, 3])
    assert other.reset(options={"task": task})[0] == observation
    assert other.engine.facts() == env.engine.facts()


def test_panels_never_share_a_game(cache):
    env = HouseholdsEnv(cache=cache, counts={"train": 24, "valid": 24, "test": 24}, sizes=(1, 3))
    seen = set()
    for name in env.SEEDS:
        panel = env.panel(name)
        assert len(panel) == 24
        assert {task.id.split("/")[0] for task in panel.tasks} == {name}
        assert {sum(t.kind == kind for t in panel.tasks) for kind in {t.kind for t in panel.tasks}} == {4}
        for task in panel.tasks[::4]:
            env.reset(options={"task": task})
            seen.add(env.engine.facts())
    assert len(seen) == 18


def test_household_ids_are_checked(env):
    task, _, _ = start(env)
    number = task.id.rsplit("-", 1)[-1]
    for wrong in ("valid/heat-s2-000003", f"train/heat-s4-{number}", "train/heat-s2-999999", "train/nonsense", ""):
        with pytest.raises(UserError, match="not in panel households/train"):
            env.reset(options={"task": Task("households", wrong, "train")})
    with pytest.raises(UserError, match="no panel 'valid_seen'"):
        env.reset(options={"task": Task("households", "valid_seen/heat-s2-000003", "valid_seen")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [0]}, "sizes must be"),
        ({"sizes": [99]}, "sizes must be"),
        ({"sizes": []}, "sizes must be"),
        ({"counts": {"valid_seen": 3}}, "unknown panel valid_seen"),
        ({"counts": {"train": 0}}, "counts must be"),
        ({"data": "x"}, "unexpected keyword"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        make_env("households", settings)


def test_missing_games_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no ALFWorld games in .*leap-ray data alfworld"):
        make_env("alfworld", {"data": str(tmp_path), "cache": str(tmp_path)})


def test_privileged_state_in_training_only(env):
    task, observation, _ = start(env)
    state = env.privileged()
    assert (state.domain, state.task_id) == ("households", task.id)
    secrets = GameSecrets(**state.facts)
    target = env.engine.metadata["pddl_params"]["object_target"].lower()
    assert secrets.targets and all(name.split()[0] == target for name in secrets.targets)
    facts = env.engine.facts()
    assert all(("inreceptacle", thing, place) in facts for thing, place in secrets.targets.items())
    assert set(secrets.closed) == {f[1] for f in facts if f[0] == "openable" and ("opened", f[1]) not in facts}
    assert {secret.text for secret in state.secrets} == {*secrets.targets, *secrets.targets.values()}
    assert all(f"- {thing}: {place}" in state.rendering for thing, place in secrets.targets.items())
    assert not any(thing in observation for thing in secrets.targets)
    start(env, "valid")
    with pytest.raises(PrivilegeError, match="'valid'"):
        env.privileged()


def test_privileged_state_is_as_of_reset(env):
    start(env)
    before = env.privileged()
    for action in env.engine.walkthrough:
        env.step(action)
    assert env.privileged() == before


def test_subgoals_name_what_the_walkthrough_does(env):
    start(env)
    walkthrough = env.engine.walkthrough
    subgoals = GameSecrets(**env.privileged().facts).subgoals
    taken = next(a.split(" from ")[0].removeprefix("take ") for a in walkthrough if a.startswith("take "))
    assert f"pick up {taken}" in subgoals
    assert any(goal.startswith(f"heat {taken} with microwave") for goal in subgoals)
    assert subgoals[-1] == walkthrough[-1]  # the same dialect as the game's: move X to Y


def test_expert_of_an_evaluation_task_may_only_explore(env):
    start(env, "valid")
    assert env.expert("demonstrator").advise() is not None
    with pytest.raises(PrivilegeError):
        env.expert("teacher", privilege=0.5)


@pytest.fixture(scope="module")
def real(alfworld_data):
    env = AlfworldEnv(data=str(alfworld_data), cache=str(alfworld_data / "cache"))
    yield env
    env.close()


def test_real_games_of_every_type(real):
    for task in real.panel("train").sample(6, seed=3).tasks:
        _, info = real.reset(options={"task": task})
        state = real.privileged()
        assert state.facts["targets"] and state.facts["subgoals"]
        assert "move " in state.rendering or task.kind == "look_at_obj_in_light"
        assert bool(state.facts["lights"]) == (task.kind == "look_at_obj_in_light")
        for action in real.engine.walkthrough:
            assert action in info["candidates"]
            *_, info = real.step(action)
        assert info["success"], task.id


def test_only_the_train_panel_is_training(real):
    for name in ("valid_seen", "valid_train"):
        real.reset(options={"task": real.panel(name).tasks[0]})
        with pytest.raises(PrivilegeError, match=name):
            real.privileged()


def test_a_panel_file_cannot_smuggle_an_evaluation_game_into_training(real):
    smuggled = Panel.of("alfworld", "train", [Task("alfworld", real.panel("valid_seen").tasks[0].id, "train")])
    with pytest.raises(UserError, match="not in panel alfworld/train"):
        real.reset(options={"task": smuggled.tasks[0]})


def test_why_an_action_is_none_here():
    env = HouseholdsEnv()
    task = next(t for t in env.panel("train").tasks if t.kind == "pick_and_place_simple")
    _, info = env.reset(options={"task": task})
    place = next(c for c in info["candidates"] if c.startswith("go to")).removeprefix("go to ")
    elsewhere = next(name for name in sorted(env.engine.names) if not any(name in c for c in info["candidates"]))
    expected = {
        "dance": "no such command",
        "go to moon 7": "no such thing or place",
        f"take {elsewhere.split()[0]} from {place}": "no such thing or place",  # no number, no name
        f"take {elsewhere} from {place}": "not here",
        f"open {place} with {place}": "wrong order",
    }
    assert {action: env.cause(action) for action in expected} == expected
    env.step(f"go to {place}")
    assert env.cause(f"go to {place}") == "wrong order"
