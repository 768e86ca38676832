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
FUNCTION = re.compile(r"def (\w+)\(")
SUBMITTED = re.compile(r"submit\s+(\w+)\s*$")
LONGEST = 100_000  # characters of a session: it travels as one argument of a program
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
        wanted = function_name(item.gold)
        aliased = [*self.history, item.setup, *([f"{wanted} = {name}"] if wanted else [])]
        return run(self.sandbox, aliased, "", item.tests)


def run(sandbox: Sandbox, history: Sequence[str], code: str, tests: Sequence[str] = ()) -> list[dict[str, str]]:
    """One result for the code, if any, and one for each test: {"output", "error"}, or only {"error"} where it raised."""
    wanted = max(1, len(tests) + bool(code))
    request = json.dumps({"history": [piece for piece in history if piece], "code": code, "tests": list(tests)})
    if len(request) > LONGEST:
        return [TOO_LONG] * wanted
    done = sandbox.run(["/usr/bin/python3", "-ISBc", RUNNER, request])
    if done.broke:
        return [TIMED_OUT] * wanted
    try:
        results = json.loads(done.output)
    except ValueError:
        return [BROKEN] * wanted
    return results if isinstance(results, list) and len(results) == wanted else [BROKEN] * wanted


def function_name(gold: str) -> str:
    """The name of the function that the gold solution defines first (the one that tests call, in the original's rule)."""
    found = FUNCTION.search(gold)
    return found[1] if found else ""


def gold_results(sandbox: Sandbox, item: Item) -> list[dict[str, str]]:
    """What the tests give with the gold solution.

    The set-up code runs before and after it: some sets up imports, some builds values from the solution's own classes. (The
    original runs it only before, which leaves two tasks without a passing solution.)
    """
    return run(sandbox, [item.setup, item.gold, item.setup], "", item.tests)


def score(results: Sequence[Any], gold: Sequence[Any]) -> float:
    """The share of tests that give what they give with the gold solution."""
    return sum(mine == theirs for mine, theirs in zip(results, gold)) / len(gold) if gold else 0.0


def passed(results: Sequence[dict[str, str]]) -> bool:
    """Whether every test ran without an error."""
    return all(not result.get("error") for result in results)
