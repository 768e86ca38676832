"""A small run that is interrupted again and again, and goes on each time: does it end in an undisturbed run's data?

First one run is left alone. Then another of the same configuration meets, one after the other in the order of its stages:

- `ctrl-c`: SIGINT to the whole process group, as a terminal sends it, at ten moments, and once twice. Exit status 130, and a
  last line that says how to go on; twice: at once.
- `kill`: SIGKILL for the driver, or for the process of one actor, which must be replaced while the run goes on.
- `disk`: the run directory's file system (a tmpfs; without the right to mount one this is skipped) has no byte left. The run ends
  with one sentence; so does `resume` before there is room.
- `outage`: the teacher's API is away for two minutes, refusing connections for one and overloaded (529) for the other; the run is
  resumed as often as it stops meanwhile.

After each the run goes on by `leap-ray resume`. In the end episodes, corrections, examples, weights, stages and metrics must be
those of the first run, and no prompt may have been paid twice, in the run's ledger and in the books of the local server that
speaks the API's protocol. The student (two layers of the default one) is served and trained as any; only the sizes are small.

    python -m experiments.benchmarks.interruptions --only ctrl-c kill
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.anthropic_books import Faults
from experiments.benchmarks.run_data import accounts, contents, differences
from experiments.benchmarks.run_process import GONE_SECONDS, LATER_SECONDS, Api, Driver, SmallDisk, shallow_student

CONFIG = """
name: interruptions
iterations: 2
min_free_gib: 0
domains:
  - {name: households, eval_panel: valid, demo_tasks: 4, train_tasks: 8, eval_tasks: 3, max_actions: 4}
student: {dtype: float32, max_length: 1024, max_tokens: 24, max_sequences: 8, kv_cache_gib: 1}
rollout: {episodes_per_actor: 2}
teacher: {kind: claude, correct: all, gap_steps: 2, annotate: true, timeout: 20}
learner:
  {rank: 8, alpha: 16, learning_rate: 1.0e-3, precision: float32, batch_tokens: 64, row_tokens: 1024, warmup_steps: 1,
   checkpoint_every: 1}
"""
KEY = "interruptions"
LATENCY = (0.3, 0.9)  # seconds of one answer: long enough to be interrupted
MOMENT_SECONDS = 300.0  # in which a moment must come
END_SECONDS = 240.0  # in which a command must end; a learner whose disk is full is tried three times
DISK_MIB = 1024
ROLLOUTS = "iter-1/rollouts/households"
Group = Literal["ctrl-c", "kill", "disk", "outage"]


@dataclass
class Args:
    """Interrupt a run, and compare what it ends in with an undisturbed one."""

    only: tuple[Group, ...] = ("ctrl-c", "kill", "disk", "outage")
    folder: Path | None = None
    """Where the runs lie; default: a temporary folder. An undisturbed run that is there already is used."""
    outage_seconds: float = 120.0
    result: Path | None = None
    """Where to put the JSON object, too."""


@dataclass(frozen=True)
class Moment:
    """The moment at which a file of the run directory is made, or gets another line, while its stage lasts."""

    words: str
    path: str

    def watch(self, run: Path) -> Callable[[], bool]:
        """Whether it has come since now. A file that gets shorter meanwhile (a step taken back) counts from there."""
        path = run / self.path
        least = _state(path)

        def ready() -> bool:
            nonlocal least
            now = _state(path)
            least = min(least, now)
            return now > least

        return ready

    def passed(self, run: Path) -> bool:
        """Whether it cannot come any more: its stage is done."""
        return self.path.endswith(".jsonl") and (run / self.path).with_name("done.json").exists()


@dataclass
class Row:
    """What became of one disturbance."""

    group: str
    disturbance: str
    moment: str
    status: int | None = None  # of the command's exit; None: it went on
    seconds: float = 0.0  # until it had ended, or was let go on
    said: str = ""  # its last line
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Disturbance:
    """One thing that is done to a run, and when."""

    group: Group
    words: str
    moment: Moment
    act: Callable[[Interrupted, Row], None]


class Interrupted:
    """A run that goes on by `resume` after whatever has ended it."""

    def __init__(
        self, folder: Path, log: Path, student: Path, *, disk: SmallDisk | None = None, outage_seconds: float = 0.0
    ) -> None:
        self.run, self.log, self.student, self.disk, self.outage_seconds = folder, log, student, disk, outage_seconds
        self.api = Api(latency=LATENCY, key=KEY)
        self._driver: Driver | None = None
        self._ended: list[Driver] = []
        self._config = log.with_suffix(".yaml")
        self._config.write_text(CONFIG)

    @property
    def driver(self) -> Driver:
        """The command that is running; one is started where none is."""
        if self._driver is None:
            self._driver = self.command()
        return self._driver

    def command(self, *options: str) -> Driver:
        """`resume`, or `run` before there is anything to resume."""
        if (self.run / "config.yaml").exists():
            arguments = ["resume", str(self.run)]
        else:
            settings = ["--student.model", str(self.student), "--teacher.base-url", self.api.url]
            arguments = ["run", str(self._config), "--run-dir", str(self.run), *settings]
        return Driver([*arguments, *options], self.log, {"ANTHROPIC_API_KEY": KEY})

    def disturb(self, disturbance: Disturbance) -> Row:
        """Wait for the moment, then do it."""
        row = Row(disturbance.group, disturbance.words, disturbance.moment.words)
        ready = disturbance.moment.watch(self.run)
        moment = disturbance.moment
        running = self.driver.until(lambda: ready() or moment.passed(self.run), MOMENT_SECONDS)
        came, began = running and not moment.passed(self.run), time.monotonic()
        if came:
            disturbance.act(self, row)
        else:
            row.problems.append("the moment did not come")
        if not running:
            self.ended(row, -1)
        row.seconds = round(time.monotonic() - began, 1)
        return row

    def ended(self, row: Row, status: int, *words: str) -> None:
        """Wait for the command's end, and note what is not as it should be: its status, these words in its last line."""
        row.status = self.driver.end(END_SECONDS)
        row.said = ([line for line in self.driver.output.splitlines() if line.strip()] or [""])[-1]
        if row.status != status:
            row.problems.append(f"exit status {row.status}")
        row.problems += [f"its last line lacks {word!r}" for word in words if word not in row.said]
        if "Traceback" in self.driver.output:
            row.problems.append("a traceback was printed")
        row.problems += [f"still running: {title}" for title in self.driver.left(GONE_SECONDS)]
        self._ended.append(self.driver)
        self._driver = None

    def abandon(self) -> None:
        """End what still runs."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.end(END_SECONDS)
            self._driver.left(GONE_SECONDS)

    def finish(self) -> Row:
        """To the run's end, undisturbed."""
        row = Row("", "", "to the end")
        began = time.monotonic()
        self.driver.until(lambda: False, 3 * MOMENT_SECONDS)
        self.ended(row, 0)
        row.seconds, row.said = round(time.monotonic() - began, 1), ""
        late = [title for driver in self._ended for title in driver.left(LATER_SECONDS, later=True)]
        row.problems += [f"still running: {title}" for title in late]
        return row


# What is done to a run ------------------------------------------------------------------------------------------------


def ctrl_c(run: Interrupted, row: Row) -> None:
    run.driver.interrupt()
    run.ended(row, 130, f"leap-ray resume {run.run}")


def ctrl_c_twice(run: Interrupted, row: Row) -> None:
    """Again as soon as the first one is acknowledged."""
    run.driver.interrupt()
    run.driver.until(lambda: "once more: at once" in run.driver.output, END_SECONDS)
    run.driver.interrupt()
    run.ended(row, 130)


def kill_driver(run: Interrupted, row: Row) -> None:
    run.driver.kill()
    run.ended(row, -9)


def kill_actor(title: str) -> Callable[[Interrupted, Row], None]:
    """Of the newest process with that title; the run must go on."""

    def act(run: Interrupted, row: Row) -> None:
        if run.driver.kill_member(title) is None:
            row.problems.append(f"there is no process {title}")

    return act


def fill_disk(run: Interrupted, row: Row) -> None:
    assert run.disk is not None
    run.disk.fill()
    run.ended(row, 1, "no space left", "resume")
    early = run.command("--min-free-gib", "0.1")
    if early.end(END_SECONDS) != 1 or "free some space" not in early.output or "Traceback" in early.output:
        row.problems.append(f"resumed on a full disk: {early.output[-300:]}")
    run.disk.make_room()


def outage(run: Interrupted, row: Row) -> None:
    """Two equal parts: nobody listens, then everybody is told that the API is overloaded."""
    began, server = time.monotonic(), run.api.server
    run.api.leave()
    stops = 0
    for until, back in ((0.5, ("529",)), (1.0, ())):
        while not run.driver.until(lambda: time.monotonic() - began > until * run.outage_seconds, MOMENT_SECONDS):  # noqa: B023
            run.ended(row, 1, "resume")
            stops += 1
        server.faults = Faults(float(bool(back)), back)
        if back:
            run.api.come_back()
    row.moment += f"; stopped {stops} times"


# When -----------------------------------------------------------------------------------------------------------------

CONFIGURED = Moment("before Ray starts", "config.yaml")
STARTING = Moment("the student starts", "logs/ray")
BASE = Moment("base evaluation", "base/evaluate/households/episodes.jsonl")
DEMONSTRATIONS = Moment("demonstrations", "iter-0/demonstrations/households/episodes.jsonl")
FIRST_STEP = Moment("training's first step", "iter-0/train/progress.jsonl")
TRAINED = Moment("just after a training", "iter-0/train/done.json")
DEPLOYMENT = Moment("deployment", "served")
EVALUATION = Moment("evaluation", "iter-0/evaluate/households/episodes.jsonl")
ROLLOUT = Moment("rollouts", f"{ROLLOUTS}/episodes.jsonl")
CORRECTION = Moment("rollouts, corrections", f"{ROLLOUTS}/corrections.jsonl")
GAP = Moment("realizability gap", f"{ROLLOUTS}/done.json")
SECOND_TRAINING = Moment("second training", "iter-1/train/progress.jsonl")
LAST_EVALUATION = Moment("last evaluation", "iter-1/evaluate/households/episodes.jsonl")

PLAN = (
    Disturbance("ctrl-c", "Ctrl-C", CONFIGURED, ctrl_c),
    Disturbance("ctrl-c", "Ctrl-C", STARTING, ctrl_c),
    Disturbance("kill", "kill -9 of the driver", BASE, kill_driver),
    Disturbance("ctrl-c", "Ctrl-C", BASE, ctrl_c),
    Disturbance("ctrl-c", "Ctrl-C", DEMONSTRATIONS, ctrl_c),
    Disturbance("kill", "kill -9 of the driver", DEMONSTRATIONS, kill_driver),
    Disturbance("ctrl-c", "Ctrl-C", FIRST_STEP, ctrl_c),
    Disturbance("ctrl-c", "Ctrl-C", TRAINED, ctrl_c),
    Disturbance("ctrl-c", "Ctrl-C", DEPLOYMENT, ctrl_c),
    Disturbance("disk", "disk full", EVALUATION, fill_disk),
    Disturbance("kill", "kill -9 of the student", EVALUATION, kill_actor("ray::StudentActor")),
    Disturbance("kill", "kill -9 of the environments", ROLLOUT, kill_actor("ray::EnvironmentActor")),
    Disturbance("ctrl-c", "Ctrl-C", CORRECTION, ctrl_c),
    Disturbance("kill", "kill -9 of the teacher", CORRECTION, kill_actor("ray::TeacherActor")),
    Disturbance("outage", "API away", CORRECTION, outage),
    Disturbance("disk", "disk full", CORRECTION, fill_disk),
    Disturbance("kill", "kill -9 of the driver", CORRECTION, kill_driver),
    Disturbance("ctrl-c", "Ctrl-C", GAP, ctrl_c),
    Disturbance("kill", "kill -9 of the learner", SECOND_TRAINING, kill_actor("ray::RayTrainWorker")),
    Disturbance("disk", "disk full", SECOND_TRAINING, fill_disk),
    Disturbance("kill", "kill -9 of the driver", SECOND_TRAINING, kill_driver),
    Disturbance("ctrl-c", "Ctrl-C", SECOND_TRAINING, ctrl_c),
    Disturbance("ctrl-c", "Ctrl-C twice", SECOND_TRAINING, ctrl_c_twice),
    Disturbance("ctrl-c", "Ctrl-C", LAST_EVALUATION, ctrl_c),
)


# The whole ------------------------------------------------------------------------------------------------------------


def main(args: Args) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        say = Console(stderr=True, width=160, markup=False, highlight=False).print
        undisturbed = leave_alone(folder, say)
        rows, result = interrupt(args, folder, undisturbed, say)
    Console(width=160).print(table(rows))
    figures = {"machine": f"{os.cpu_count()} cores", "minutes": round((time.monotonic() - began) / 60, 1), **result}
    line = {**figures, "disturbances": [asdict(row) for row in rows]}
    if args.result:
        args.result.write_text(json.dumps(line, indent=1) + "\n")
    print(json.dumps(line))
    if not result["as_undisturbed"]:
        raise SystemExit(1)


def leave_alone(folder: Path, say: Callable[[str], Any]) -> Path:
    """The run that nothing happens to."""
    run = folder / "undisturbed" / "run"
    if not (run / "iter-1/evaluate/households/done.json").exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        row = Interrupted(run, folder / "undisturbed.log", shallow_student(folder / "student")).finish()
        say(f"undisturbed: {row}")
        if row.problems:
            raise SystemExit(f"the undisturbed run failed: see {folder / 'undisturbed.log'}")
    return run


def interrupt(
    args: Args, folder: Path, undisturbed: Path, say: Callable[[str], Any]
) -> tuple[list[Row], dict[str, Any]]:
    """The run to which everything happens, and how it compares."""
    rows: list[Row] = []
    disk = SmallDisk(folder / "small", DISK_MIB)
    groups = set(args.only)
    if "disk" in groups and (reason := disk.mount()):
        groups.remove("disk")
        rows.append(Row("disk", "disk full", "", said=f"skipped: no file system could be mounted ({reason})"))
    place = disk.folder if "disk" in groups else folder
    log, student, seconds = folder / "interrupted.log", folder / "student", args.outage_seconds
    run = Interrupted(place / "run", log, student, disk=disk, outage_seconds=seconds)
    try:
        for disturbance in (d for d in PLAN if d.group in groups):
            rows.append(run.disturb(disturbance))
            say(str(rows[-1]))
        rows.append(run.finish())
        say(str(rows[-1]))
        unlike = differences(run.run, undisturbed)
        books = accounts(run.run, run.api.server.books)
    finally:
        run.abandon()
        if "disk" in groups:
            disk.unmount()
    result = {
        "compared": {kind: len(things) for kind, things in contents(undisturbed).items()},
        "different": unlike,
        **books,
    }
    clean = not any(row.problems for row in rows) and not any(unlike.values())
    return rows, {"as_undisturbed": clean and not books["paid_twice"] and not books["ledger_twice"], **result}


def table(rows: list[Row]) -> Table:
    made = Table("disturbance", "moment", "exit", "seconds", "last line, and problems")
    for row in rows:
        status = "went on" if row.status is None and not row.said else str(row.status)
        said = "\n".join([row.said[:90], *row.problems])
        made.add_row(row.disturbance, row.moment, status, f"{row.seconds:.1f}", said)
    return made


def _state(path: Path) -> int:
    """Lines of a `.jsonl` file; of anything else, when it was made (0: not yet)."""
    if path.suffix != ".jsonl":
        return path.lstat().st_mtime_ns if os.path.lexists(path) else 0
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
