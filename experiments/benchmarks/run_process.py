"""A run's surroundings, for what must not be gentle to it: the command and its descendants, its disk, its API, a fast student."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks.anthropic_server import AnthropicServer

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.02
GONE_SECONDS = 30.0  # that a run's processes may outlive its driver
LATER_SECONDS = 120.0  # the same, for those in LATER
# These end by themselves, later: the sender when it has finished the calls under way, Ray's agents a minute after a killed node.
LATER = ("leap_ray.teachers.sender", "DashboardAgent", "RuntimeEnvAgent")
MARGIN = 2**20  # bytes


class Driver:
    """A `leap-ray` command in a process group of its own, as a terminal starts it. Its output is appended to `log`."""

    def __init__(self, arguments: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log, self._from = log, log.stat().st_size if log.exists() else 0
        self._family: dict[int, tuple[str, str]] = {}
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment, "COLUMNS": "250"},
            )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        """What this command has printed."""
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def until(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait for a moment. False if the command ends before it comes; raises TimeoutError if neither happens."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.ended:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing for {seconds:.0f} s; the output ends:\n{self.output[-3000:]}")
            time.sleep(POLL_SECONDS)
        return True

    def interrupt(self) -> None:
        """Ctrl-C: a terminal sends SIGINT to the whole group."""
        self._family = family(self._process.pid)
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL for the driver alone."""
        self._family = family(self._process.pid)
        self._process.kill()

    def kill_member(self, title: str) -> int | None:
        """SIGKILL for the newest process whose title begins so; its process id, None where there is none."""
        members = [pid for pid, (_, name) in family(self._process.pid).items() if name.startswith(title)]
        if not members:
            return None
        os.kill(max(members), signal.SIGKILL)
        return max(members)

    def end(self, seconds: float) -> int:
        """Its exit status, once it has ended (by force after `seconds`)."""
        self._family |= family(self._process.pid)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise TimeoutError(f"not ended after {seconds:.0f} s; the output ends:\n{self.output[-3000:]}") from None

    def left(self, seconds: float, later: bool = False) -> list[str]:
        """Titles of the descendants that outlive the command by so many seconds; they are killed.

        `later`: of those that may take longer than the others (LATER) instead of the others.
        """
        deadline = time.monotonic() + seconds
        while (alive := self._alive(later)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return sorted(alive.values())

    def _alive(self, later: bool) -> dict[int, str]:
        # By its present title: one that was just being started had none yet, and one that has given back its memory has none.
        members = {pid: _title(pid) for pid, (start, _) in self._family.items() if _started(pid) == start}
        members = {pid: title for pid, title in members.items() if title}
        return {pid: name for pid, name in members.items() if any(title in name for title in LATER) == later}


def family(root: int) -> dict[int, tuple[str, str]]:
    """A process's descendants, without itself: when each was started, and its title."""
    parents = {
        int(entry): parent for entry in os.listdir("/proc") if entry.isdigit() and (parent := _parent(int(entry)))
    }
    found, border = {}, {root}
    while border := {pid for pid, parent in parents.items() if parent in border and pid not in found}:
        found |= {pid: (_started(pid), _title(pid)) for pid in border}
    return found


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty for a process that is gone, or waits to be taken note of."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return [] if fields[0] == "Z" else fields
    return []


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["", "0"])[1])


def _started(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


class Api:
    """The local protocol server in a thread of this process, which can go away and come back at the same address."""

    def __init__(self, **settings: Any) -> None:
        self.server = AnthropicServer(**settings)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = self._do(self.server.start())

    def leave(self) -> None:
        """Refuse every connection from now on."""
        self._do(self.server.stop())

    def come_back(self) -> None:
        self._do(self.server.start(int(self.url.rpartition(":")[2])))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


class SmallDisk:
    """A file system of its own (tmpfs) that can be filled to the last byte."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder, self._mib = folder, mib
        self._ballast = folder / "ballast"

    def mount(self) -> str:
        """Why it cannot be had; "" once it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._mib}m", "leap-ray", str(self.folder)]
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            return str(error)
        return result.stderr.strip() if result.returncode else ""

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Take all the room there is."""
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(MARGIN))
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def make_room(self) -> None:
        self._ballast.unlink()


def shallow_student(folder: Path, layers: int = 2) -> Path:
    """The default student's first layers as a model of its own: as real as any, and a run of it takes a fraction of the time."""
    from safetensors.torch import load_file, save_file

    from leap_ray.config import SMOLLM2
    from leap_ray.learning.model import materialize

    whole = materialize(SMOLLM2)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    tensors = {name: tensor for file in whole.glob("*.safetensors") for name, tensor in load_file(file).items()}
    left_out = tuple(f"model.layers.{number}." for number in range(layers, config["num_hidden_layers"]))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder
