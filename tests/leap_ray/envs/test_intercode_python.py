"""Python tasks in real sandboxes. Needs bubblewrap."""

import shutil

import pytest

from leap_ray.envs.intercode import python_tasks, rootfs
from leap_ray.envs.intercode.data import load
from leap_ray.envs.intercode.env import InterCodeEnv, PythonEnv
from leap_ray.envs.intercode.sandbox import Bubblewrap, Limits, why_not
from leap_ray.rollout import demonstrate

if not shutil.which("bwrap"):
    pytest.skip("bubblewrap is not installed: apt-get install bubblewrap", allow_module_level=True)
if reason := why_not(rootfs.find("host")):
    pytest.skip(f"no sandbox can be made here: {reason}", allow_module_level=True)


@pytest.fixture(scope="module")
def env():
    made = PythonEnv(data="embedded", base="host")
    yield made
    made.close()


@pytest.fixture(scope="module")
def box():
    made = Bubblewrap(rootfs.find("host"), Limits(seconds=10))
    yield made
    made.close()


def start(env, words="squares"):
    found = next(task for task in env.panel("train").tasks if words in env._items[task.id].query)
    env.reset(options={"task": found})


def test_the_demonstrator_solves_the_embedded_tasks(env):
    for task in env.panel("train").tasks[:4]:
        assert demonstrate(env, task, seed=0, max_actions=10).success
    assert env.multiline and InterCodeEnv(language="python", data="embedded", base="host").multiline


def test_a_session_remembers_and_prints_expressions(env):
    start(env)
    assert env.step("x = 20")[0] == "{'output': '', 'error': ''}"
    assert env.step("x + 22")[0] == "{'output': '42', 'error': ''}"
    assert env.step("print(x); x")[0] == "{'output': '20', 'error': ''}"
    assert env.step("def f(n):\n    return n * x")[4]["executed"]
    assert env.step("f(3)")[0] == "{'output': '60', 'error': ''}"
    observation, _, _, _, info = env.step("1 / 0")
    assert observation == "{'error': 'Error: division by zero'}" and not info["executed"] and info["valid"]


def test_only_the_tests_decide(env):
    start(env)
    env.step("def wrong(numbers):\n    return 14")
    assert env.step("submit wrong")[1] == pytest.approx(1 / 3)  # right for the first of the three by luck
    start(env)
    env.step("def mine(numbers):\n    return sum(n ** 2 for n in numbers)")
    _, reward, over, _, info = env.step("submit mine")
    assert over and reward == 1.0 and info["score_parts"] == {"tests": 1.0}
    start(env)
    env.step("def mine(numbers):\n    return sum(n ** 2 for n in numbers)")
    assert env.step("submit")[1] == 1.0  # the last function, where no name is given
    start(env)
    assert env.step("submit nothing_of_the_kind")[1] == 0.0


@pytest.mark.parametrize(
    "code", ["import os; os._exit(0)", "raise SystemExit", "import sys; sys.exit(3)", "[0] * (1 << 40)"]
)
def test_a_program_that_breaks_out_is_an_error(box, code):
    session = python_tasks.PythonSession(box)
    assert session.execute(code)["error"].startswith("Error:")
    assert session.execute("6 * 7") == {"output": "42", "error": ""}


def test_a_program_without_end_is_ended():
    made = Bubblewrap(rootfs.find("host"), Limits(seconds=0.7))
    session = python_tasks.PythonSession(made)
    assert session.execute("while True: pass") == python_tasks.TIMED_OUT
    assert session.execute("1") == {"output": "1", "error": ""}  # it is not run again
    made.close()


def test_golden_solutions_pass_their_tests(shared, box):
    items = load(str(shared / "data" / "intercode"), "python").items
    for item in items[::40]:
        results = python_tasks.gold_results(box, item)
        assert len(results) == len(item.tests) and python_tasks.passed(results), (item.id, results)
