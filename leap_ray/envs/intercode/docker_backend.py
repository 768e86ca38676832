"""The same sandbox from a Docker engine, through its Python SDK (`pip install leap-ray[docker]`).

One container an episode: no network, no capability, limits on memory, processes and the size of a file, and a label that names
its owner, by which `reaper.py` finds containers whose owner is gone. Programs belong to another user than the student, who as
root without capabilities cannot change them; before a trusted command the engine is asked whether anything that the judging
programs are found or linked by was changed. What this backend does not do: the disk has a limit only where the engine's storage
driver can set one (`note` says so), and folders, `/proc` and the rest show the host's figures (see `emulation.py`).

Written to the SDK and tested against exchanges of the engine's protocol; figures in the README come from bubblewrap.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from leap_ray.envs.intercode.rootfs import PACKAGES
from leap_ray.envs.intercode.sandbox import ENVIRONMENT, Limits, Run, SandboxError, started
from leap_ray.envs.intercode.trees import Tree, built, pack, put_under_git
from leap_ray.errors import UserError

NOTE = "Docker containers (their disk is limited only where the engine's storage driver can do it)"
IMAGE = "leap-ray-intercode:2"
LABEL = "leap-ray-sandbox"  # its value: host name, and the owner's process id and start time
WAITING = (
    "/bin/sh",
    "-c",
    "while :; do sleep 1000; done",
)  # process 1: no kill from inside ends it, and it buries the dead
GIVEN = ".leap-ray-given"  # file in `/` that holds a command's standard input, until the command has opened it
GRACE = 1.0  # seconds beyond a command's limit until what it left behind, and holds its output, is ended
STORAGE = re.compile(r"storage.?opt|pquota|quota", re.IGNORECASE)  # in the words of an engine that cannot limit a disk
PATIENCE = 15.0  # seconds beyond a command's limit until a container that does not answer is ended
# What the judging programs are, are found by and are linked by.
JUDGES = re.compile(r"/(usr|bin|sbin|lib[^/]*|etc/ld\.so[^/]*|etc/alternatives)(/|$)")
KILLED = 137  # exit status of a command that `timeout -s KILL` ended
DOCKERFILE = f"""FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends {" ".join(PACKAGES)} && rm -rf /var/lib/apt/lists/*
RUN chown -R -h daemon:daemon /usr
"""


def label() -> str:
    """This process as the owner of a container; containers of other hosts may share an engine."""
    return f"{platform.node()}/{os.getpid()}:{started(os.getpid())}"


def client() -> Any:
    """A client of the engine that the environment names. Raises UserError if there is none."""
    try:
        import docker
        import docker.errors
    except ImportError:
        raise UserError("the Docker SDK is not installed: pip install leap-ray[docker]") from None
    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException as error:
        raise UserError(f"no Docker engine answers: {str(error)[:200]}") from None
    return engine


def why_not() -> str:
    """Why Docker cannot be used here, '' if it can."""
    try:
        client().close()
    except UserError as error:
        return str(error)
    return ""


def check() -> None:
    """Raises UserError where Docker cannot be used."""
    if why := why_not():
        raise UserError(f"intercode: {why}")


class DockerSandbox:
    """A running container with a tree laid out in it."""

    def __init__(self, tree: Tree, limits: Limits, engine: Any = None) -> None:
        self.limits = limits
        self._engine = engine or client()
        with faults():
            self._container = _container(self._engine, limits)
        try:
            self._lay_out(tree)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, tree: Tree) -> None:
        when = built()
        with faults():
            self._container.put_archive("/", io.BytesIO(pack(tree.entries, when)))
        run = self.run(["/bin/bash", "-c", f"cd / && export BUILT={when}\n{put_under_git(tree)}"], seconds=60)
        if run.code != 0:
            raise SandboxError(f"tree {tree.name} could not be laid out: {run.output.decode(errors='replace')[:500]}")

    def run(
        self,
        argv: Sequence[str],
        cwd: str = "/",
        *,
        seconds: float | None = None,
        stdin: bytes = b"",
        cap: int | None = None,
        trusted: bool = False,
    ) -> Run:
        """Run `argv` in `cwd`; every process it started is gone when this returns. Raises SandboxError where that cannot be had.

        `trusted`: not run where the engine says that the judging programs may be others than the image's.
        """
        seconds = self.limits.seconds if seconds is None else seconds
        cap = self.limits.output if cap is None else cap
        with faults():
            if trusted and self._tampered():
                return Run(b"", None, "trust", 0, 0.0)
            if stdin:
                self._container.put_archive("/", _as_file(GIVEN, stdin))
                argv = reading(f"/{GIVEN}", argv)
            return self._execute(["timeout", "-s", "KILL", str(seconds), *argv], cwd, seconds, cap)

    def _execute(self, limited: Sequence[str], cwd: str, seconds: float, cap: int) -> Run:
        began = time.monotonic()
        api = self._engine.api
        execution = api.exec_create(self._container.id, list(limited), workdir=cwd)["Id"]
        kept, total = bytearray(), 0
        with self._deadline(seconds):
            for chunk in api.exec_start(execution, stream=True):
                total += len(chunk)
                kept += chunk[: max(0, cap - len(kept))]
        code = api.exec_inspect(execution)["ExitCode"]
        took = time.monotonic() - began
        if code is None:
            raise SandboxError(f"a command in the container did not end within {seconds + PATIENCE:g} seconds")
        broke = "time" if code == KILLED and took >= seconds else ""
        self._end_all()
        return Run(bytes(kept), None if broke else code, broke, total, took)

    def _tampered(self) -> bool:
        """Whether the engine knows of a change to what judges; it looks at the container's layer, out of the student's reach."""
        return any(JUDGES.match(change["Path"]) for change in self._container.diff() or ())

    def _end_all(self) -> None:
        """End what commands left behind; process 1 is not touched."""
        self._container.exec_run(["/bin/sh", "-c", "kill -9 -1"])

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Ends what holds a command's output after its time: its processes first, the container where that does not help."""
        ways = ((seconds + GRACE, self._end_all), (seconds + PATIENCE, self._container.kill))
        timers = [threading.Timer(after, _quietly, (way,)) for after, way in ways]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def close(self) -> None:
        """Remove the container and everything in it."""
        _quietly(lambda: self._container.remove(force=True, v=True))  # one that is left is the reaper's


def _container(engine: Any, limits: Limits) -> Any:
    """A started container; its disk is limited where the engine can do that."""
    import docker.errors

    settings: dict[str, Any] = {
        "detach": True, "network_disabled": True, "network_mode": "none", "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"], "mem_limit": limits.memory, "memswap_limit": limits.memory,
        "pids_limit": limits.processes, "hostname": ENVIRONMENT["HOSTNAME"], "environment": ENVIRONMENT, "working_dir": "/",
        "labels": {LABEL: label()}, "ulimits": [
            {"Name": "fsize", "Soft": limits.file, "Hard": limits.file}, {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": limits.descriptors, "Hard": limits.descriptors},
        ],
    }  # fmt: skip
    image = _image(engine)
    try:
        return engine.containers.run(image, list(WAITING), storage_opt={"size": str(limits.disk)}, **settings)
    except docker.errors.APIError as error:
        if not STORAGE.search(str(error)):
            raise
    return engine.containers.run(image, list(WAITING), **settings)


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Errors of the engine, or of the way to it, as SandboxError."""
    import docker.errors
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise SandboxError(f"the Docker engine failed: {' '.join(str(error).split())[:200]}") from None


def _quietly(way: Callable[[], Any]) -> None:
    with contextlib.suppress(SandboxError), faults():
        way()


def reading(path: str, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` with a file as its standard input, and removes the file before that."""
    return ["/bin/sh", "-c", 'exec < "$0"; rm "$0"; exec "$@"', path, *argv]


def _as_file(name: str, data: bytes) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _image(engine: Any) -> Any:
    """The image, built at first use from Debian and the original's list of packages."""
    import docker.errors

    try:
        return engine.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        return engine.images.build(fileobj=io.BytesIO(DOCKERFILE.encode()), tag=IMAGE, rm=True)[0]
