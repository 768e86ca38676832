"""Python tasks: a session of code turns, judged by the task's own tests inside the same sandbox (InterCode, appendix A)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap_ray.envs.intercode.data import Item
from leap_ray.envs.intercode.sandbox import Sandbox

RUNNER = Path(__file__).with_name("interpreter.py").read_text()
FUNCTION = re.compile(r"^[ \t]*def\s+(\w+)\s*\(", re.MULTILINE)
SUBMITTED = re.compile(r"submit\s+(\w+)\s*$")
PATIENT = 30.0  # seconds for the gold solution, which the original does not limit
LONGEST = 1_000_000  # characters of a session
TOO_LONG = {"error": "Error: the session has become too long"}
TIMED_OUT = {"error": "Error: timed out"}
BROKEN = {"error": "Error: the interpreter ended"}


class PythonSession:
    """The student's side of one episode."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.history: list[str] = []

    def execute(self, code: str) -> dict[str, str]:
        """Run a piece of code after those before it; one that fails is still kept, as an interpreter keeps what it did."""
        result = run(self.sandbox, self.history, code)[0]
        if result not in (TOO_LONG, TIMED_OUT, BROKEN):  # these would end every later turn as well
            self.history.append(code)
        return result

    def test(self, name: str, item: Item) -> list[dict[str, str]]:
        """The results of the task's tests with the function `name` in the place of the task's own."""
        wanted = function_name(item)
        aliased = [*self.history, item.setup, *([f"{wanted} = {name}"] if wanted else [])]
        return run(self.sandbox, aliased, item=item)


def run(
    sandbox: Sandbox,
    history: Sequence[str],
    code: str = "",
    item: Item | None = None,
    seconds: float | None = None,
) -> list[dict[str, str]]:
    """One result for the code, if any, and one for each test of the item: {"output", "error"}, or only {"error"} where it raised.

    See `interpreter.py` for what keeps the code from deciding what its tests say.
    """
    setup, tests, names = (item.setup, item.tests, defined(item.gold)) if item else ("", (), [])
    wanted = max(1, len(tests) + bool(code))
    request = {
        "history": [piece for piece in history if piece],
        "code": code,
        "setup": setup,
        "tests": tests,
        "names": names,
    }
    given = json.dumps(request)
    if len(given) > LONGEST:
        return [TOO_LONG] * wanted
    done = sandbox.run(["/usr/bin/python3", "-ISBc", RUNNER], seconds=seconds, stdin=given.encode(), trusted=True)
    if done.broke:
        return [TIMED_OUT if done.broke == "time" else BROKEN] * wanted
    try:
        results = json.loads(done.output)
    except ValueError:
        return [BROKEN] * wanted
    return results if isinstance(results, list) and len(results) == wanted else [BROKEN] * wanted


def defined(code: str) -> list[str]:
    """The names of functions and classes that code defines, in order."""
    return re.findall(r"^(?:def|class)\s+(\w+)", code, re.MULTILINE)


def function_name(item: Item) -> str:
    """The name of the function that the tests call: of those that the gold solution defines, the first that a test names."""
    functions = FUNCTION.findall(item.gold)
    called = set(re.findall(r"\w+", " ".join(item.tests)))
    return next((name for name in functions if name in called), (functions or [""])[0])


def gold_results(sandbox: Sandbox, item: Item) -> list[dict[str, str]]:
    """What the tests give with the gold solution.

    The set-up code runs before and after it: some sets up imports, some builds values from the solution's own classes. (The
    original runs it only before, which leaves two tasks without a passing solution.)
    """
    return run(sandbox, [item.setup, item.gold, item.setup], item=item, seconds=PATIENT)


def score(results: Sequence[Any], gold: Sequence[Any]) -> float:
    """The share of tests that give what they give with the gold solution, and no error."""
    right = (mine == theirs and not mine["error"] for mine, theirs in zip(results, gold))
    return sum(right) / len(gold) if gold else 0.0


def passed(results: Sequence[dict[str, str]]) -> bool:
    """Whether every test ran without an error."""
    return all(not result.get("error") for result in results)
