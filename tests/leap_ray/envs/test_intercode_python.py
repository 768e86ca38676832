"""Python tasks in real sandboxes. Needs bubblewrap."""

import random
import shutil

import pytest

from leap_ray.envs.intercode import python_tasks, rootfs
from leap_ray.envs.intercode.data import Item, load
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


FAKE = '[{"output": "", "error": ""}, {"output": "", "error": ""}, {"output": "", "error": ""}]'
CHEATS = {
    "exits": "def f(n):\n    import os\n    os._exit(0)",
    "raises SystemExit": "def f(n):\n    raise SystemExit(0)",
    "prints results": f"def f(n):\n    print({FAKE!r})",
    "writes results everywhere": f"""
def f(n):
    import glob, os
    for name in (*glob.glob('/proc/[0-9]*/fd/*'), *range(64)):
        try:
            os.write(name if isinstance(name, int) else os.open(name, os.O_WRONLY | os.O_NONBLOCK), {FAKE!r}.encode())
        except OSError:
            pass
    os._exit(0)""",
    "equals everything": "class E(list):\n    def __eq__(self, other):\n        return True\n\ndef f(n):\n    return E()",
    "is no plain data": "class E:\n    def __eq__(self, other):\n        return True\n\ndef f(n):\n    return E()",
    "replaces builtins": "import builtins\nbuiltins.AssertionError = builtins.exec = print\ndef f(n):\n    return 0",
    "puts a library first": "open('/etc/ld.so.preload', 'w').write('/f.so')\ndef f(n):\n    return sum(x * x for x in n)",
    "ends the judge": "def f(n):\n    import os\n    os.kill(os.getppid(), 9)",
    "gives more than can be read": "def f(n):\n    x = []\n    for _ in range(100000):\n        x = [x]\n    return x",
}


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_no_answer_decides_its_own_case(env, cheat):
    start(env)
    env.step(cheat)
    assert env.step("submit f")[1] == 0.0


def test_an_answer_does_not_see_its_tests(env):
    start(env)
    env.step(SEARCH)
    found = env.game._session.test("f", env.item)
    assert [result["error"] for result in found] == ["Error: found nothing"] * 3


SEARCH = """
import glob, sys
def f(n):
    frame, seen = sys._getframe(), []
    while frame:
        seen += [repr(value) for value in (*frame.f_globals.values(), *frame.f_locals.values())]
        frame = frame.f_back
    for path in (*glob.glob('/proc/[0-9]*/cmdline'), *glob.glob('/proc/[0-9]*/environ'), *glob.glob('/proc/[0-9]*/fd/0')):
        try:
            seen.append(open(path).read())
        except OSError:
            pass
    raise ValueError('found a test' if any('assert ' + 'sum_squares' in text for text in seen) else 'found nothing')
"""


def test_objects_and_printed_words_pass_between_the_processes(box):
    item = Item(
        "python-1", "q", "class Pair:\n    ...\ndef total(p):\n    return p", "python",
        ("assert total([Pair(1, 2), extra]) == {'sum': 7, 'parts': (3, 4.0, None)}", "assert list(total([])) == [0]",
         "assert total(total) == 1", "assert total(int) == int"),
        "extra = Pair(2, 0)\nextra.b = 2",
    )  # fmt: skip
    session = python_tasks.PythonSession(box)
    session.execute("class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b")
    session.execute(
        "def mine(pairs):\n    print('called')\n    if pairs is int:\n        return int\n"
        "    parts = [p.a + p.b for p in pairs]\n"
        "    return {'sum': sum(parts), 'parts': (*parts[:1], float(parts[1]), None)} if parts else range(1)"
    )
    called = {"output": "called", "error": ""}
    assert session.test("mine", item) == [called, called, {"error": "Error: 'function' object is not iterable"}, called]


def test_the_function_is_the_one_that_the_tests_call():
    gold = "def helper (x):\n    return x\ndef wanted (x):\n    return helper(x)"
    assert python_tasks.function_name(Item("python-1", "q", gold, "python", ("assert wanted(1) == 1",))) == "wanted"
    assert python_tasks.function_name(Item("python-1", "q", "x = 1", "python", ("assert x == 1",))) == ""


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


PIECES = (
    "\ud800", "\udcff", "\0", "x" * 300_000, "1" * 100_000, "(" * 5000, "[" * 90 + "]" * 90, "'", '"""', "\\",
    "#\0", "\t", "\n", ":", "def", "def f(", "lambda", "return", "yield", "await", "import",
    "import os; os.kill(os.getppid(), 9)", "import os; os.kill(os.getpid(), 9)", "raise SystemExit", "exit()",
    "raise KeyboardInterrupt", "1/0", "print('\\ud800')", "'\\ud800'", "b'\\xff'", "print('a', end='')",
    "9 ** 99999", "__import__('sys').exit(3)", "del __builtins__",
    "class A:\n    def __repr__(self): raise ValueError", "A()", "print(*range(30000))", "input()",
    "open('/dev/stdin').read()", "{" * 200, "not " * 5000 + "1",
    "import sys; sys.setrecursionlimit(10**9)\ndef r(): r()\nr()", "x = 'é漢🙂'", "x", "%timeit 1", "!ls", "$", "?",
    "submi",
)  # fmt: skip


def test_no_piece_of_code_raises(env):
    start(env)
    draw = random.Random(10)
    odd = [*PIECES, *("".join(draw.choices(PIECES, k=draw.randint(2, 4))) for _ in range(40))]
    odd += ["".join(chr(draw.randrange(0, 0x11000)) for _ in range(draw.randint(1, 60))) for _ in range(30)]
    for code in odd:
        observation, reward, over, _, info = env.step(code)
        assert reward == 0.0 and not over and not info["failure"], code[:80]
        observation.encode()
        env.game._session.history.clear()  # what one of them did is not done again with the next
    assert env.step("1 + 1")[0].count("2") == 1
    assert env.step("submit nothing")[2]
