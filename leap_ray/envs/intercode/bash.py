"""A bash session as InterCode has it: each action in a new shell, `cd` kept outside, the answer judged on `submit`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from leap_ray.envs.intercode.bash_reward import COMPARED, Change, Score, State, parse_status, score, shared
from leap_ray.envs.intercode.sandbox import Run, Sandbox, SandboxError, Unjudgeable
from leap_ray.types import digest

Quoting = Literal["docker", "plain"]
SHELL = "/bin/bash"
MALFORMED = "Malformed command"
TIMED_OUT = "Command timed out"
# As the original, but for settings by which a student could hide changes, or have a program of its own run here.
STATUS = [
    "/usr/bin/git", "-c", "core.fsmonitor=false", "-c", "core.excludesFile=/dev/null", "-c", "core.hooksPath=/dev/null",
    "-c", "core.quotePath=true", "-c", "status.showUntrackedFiles=normal", "-c", "status.relativePaths=true",
    "-c", "color.ui=never", "status", "--short",
]  # fmt: skip
LONGEST = (
    1 << 17
)  # bytes of an argument from which on Linux refuses it; splitting one of a megabyte takes half a minute
PATIENT = 30.0  # seconds for the gold command and for git, which the original does not limit at all
# Commands whose output changes by itself: their gold result is made at each submit, as the original does, and not kept.
VOLATILE = re.compile(r"\b(date|uptime|w|who|ps|pstree|top|free|vmstat|df|cal|ping|dig|mktemp)\b|RANDOM|\$\$|/proc")


@dataclass(frozen=True)
class Outcome:
    """What the student sees of one action. `text` None: output that is no UTF-8 or bad quoting, shown as "Malformed command"."""

    text: str
    ran: bool  # it was a command that could be started
    succeeded: bool  # exit code 0
    dropped: int = 0  # bytes of output beyond the sandbox's cap


class Session:
    """The student's side of one episode in one sandbox."""

    def __init__(self, sandbox: Sandbox, quoting: Quoting = "docker") -> None:
        self.sandbox, self.folder = sandbox, "/"
        self.quoting: Quoting = quoting

    def execute(self, action: str) -> Outcome:
        """Run one action. `cd` at its beginning moves the session (and must name a folder), anything else leaves it."""
        if not action.startswith("cd"):
            return self._outcome(action, self.folder)
        _, found, argument = action.partition("cd ")
        if not found:
            return Outcome(MALFORMED, ran=False, succeeded=False)
        target = resolve(self.folder, argument.strip())
        outcome = self._outcome(f"cd {target}", "/")
        if outcome.succeeded:
            self.folder = target
        return outcome

    def _outcome(self, command: str, folder: str) -> Outcome:
        try:
            argv = words(command, self.quoting)
            run = self.sandbox.run(argv, folder)
            text = run.output.decode()
        except UnicodeDecodeError:
            return Outcome(MALFORMED, ran=True, succeeded=False)
        except ValueError:  # quotes that do not close, a zero byte, too long
            return Outcome(MALFORMED, ran=False, succeeded=False)
        if run.broke:
            text = TIMED_OUT if run.broke == "time" else f"Command stopped: it used more {run.broke} than allowed"
        return Outcome(text, True, run.code == 0, run.total - len(run.output))

    def state(self, answer: str | None, paths: Callable[[tuple[Change, ...]], list[str]]) -> State:
        """Changes under git, with the hashes of those of their paths that `paths` chooses."""
        status = self._quietly(STATUS)
        changes = parse_status(status.output.decode(errors="replace"))
        return State(changes, {path: self._hash(path) for path in paths(changes)}, answer)

    def _hash(self, path: str) -> str:
        try:
            argv = shlex.split(f"/usr/bin/md5sum {path}")
        except ValueError:
            return ""
        return self._quietly(argv).output.decode(errors="replace")

    def _quietly(self, argv: list[str]) -> Run:
        """Run a command of ours. Raises Unjudgeable where it cannot be relied on: such a machine has no reward.

        It is tried again where time ran out, for this machine may be busy. Twice half a minute for what takes milliseconds on a
        fresh tree (the gold command's machine was looked at within that limit) is the tree's fault, and so the student's.
        """
        run = self.sandbox.run(argv, "/", seconds=PATIENT, trusted=True)
        if run.broke == "time":
            run = self.sandbox.run(argv, "/", seconds=PATIENT, trusted=True)
        if run.broke:
            raise Unjudgeable(f"the machine cannot be judged: {argv[0]} was stopped ({run.broke})")
        return run


def words(command: str, quoting: Quoting) -> list[str]:
    """The argument list that runs a command. Raises ValueError where it cannot be split.

    "docker" puts it between double quotes and splits the whole as the original's Docker client does, so double quotes inside
    end the string, a word after them becomes $0, and so on. "plain" hands the command to the shell as it is.
    """
    if "\0" in command:
        raise ValueError("a zero byte")
    if len(command) >= LONGEST:
        raise ValueError("no program takes so long an argument")
    if quoting == "plain":
        return [SHELL, "-c", command.strip()]
    return shlex.split(f'{SHELL} -c "{command.strip()}"')


def resolve(folder: str, target: str) -> str:
    """Where `cd target` leads from `folder`, without looking: "." and ".." are worked out on the text."""
    path: list[str] = []
    for part in (target if target.startswith("/") else f"{folder}/{target}").split("/"):
        if part == "..":
            path = path[:-1]
        elif part not in ("", "."):
            path.append(part)
    return "/" + "/".join(path)


def compared(changes: tuple[Change, ...]) -> list[str]:
    """Paths whose contents count in the reward."""
    return [path for path, code in changes if code in COMPARED and "." in path]


class GoldResults:
    """What gold commands do to their trees: each is run once in a fresh sandbox and kept by content."""

    def __init__(self) -> None:
        self._kept: dict[str, State] = {}

    def get(self, command: str, tree: str, quoting: Quoting, fresh: Callable[[], Sandbox]) -> State:
        """The machine after `command`; `tree` names the contents it starts from, `fresh` makes a sandbox with them."""
        key = digest(command, tree, quoting, length=24)
        if key in self._kept:
            return self._kept[key]
        sandbox = fresh()
        try:
            state = run_gold(command, sandbox, quoting)
        finally:
            sandbox.close()
        if not VOLATILE.search(command):
            self._kept[key] = state
        return state


def run_gold(command: str, sandbox: Sandbox, quoting: Quoting) -> State:
    """Run a gold command, always in `/`, and look at what it left. Raises SandboxError where it was not let finish."""
    session = Session(sandbox, quoting)
    try:
        run = sandbox.run(words(command, quoting), "/", seconds=PATIENT)
        if run.broke:
            raise SandboxError(f"the gold command used more {run.broke} than allowed")
        answer = run.output.decode()
    except ValueError:  # includes UnicodeDecodeError: the original then has no gold answer
        answer = None
    try:
        return session.state(answer, compared)
    except Unjudgeable as error:
        raise SandboxError(f"the gold command's machine is too busy: {error}") from None


def judge(session: Session, answer: str, gold: State) -> Score:
    """The reward of a session whose last observation is `answer`."""
    state = session.state(answer, lambda changes: [p for p, _ in shared(State(changes, {}, None), gold) if "." in p])
    return score(state, gold)
