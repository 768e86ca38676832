"""The same sandbox from a Docker engine, through its Python SDK (`pip install leap-ray[docker]`).

One container an episode: no network, no capability, limits on memory, processes and disk, and a label that names its owner, by
which `reaper.py` finds containers whose owner is gone. Written to the SDK and tested against recorded exchanges of the engine's
protocol; figures in the README come from bubblewrap.
"""

from __future__ import annotations

import io
import os
import platform
import tarfile
import time
from collections.abc import Sequence
from typing import Any

from leap_ray.envs.intercode.rootfs import PACKAGES
from leap_ray.envs.intercode.sandbox import ENVIRONMENT, Limits, Run, SandboxError, started
from leap_ray.envs.intercode.trees import Tree, built, pack, put_under_git
from leap_ray.errors import UserError

NOTE = "Docker containers"
IMAGE = "leap-ray-intercode:1"
LABEL = "leap-ray-sandbox"  # its value: host name, and the owner's process id and start time
WAITING = (
    "/bin/sh",
    "-c",
    "while :; do sleep 1000; done",
)  # process 1: no kill from inside ends it, and it buries the dead
GIVEN = ".leap-ray-given"  # file in `/` that holds a command's standard input, until the command has opened it
KILLED = 137  # exit status of a command that `timeout -s KILL` ended
DOCKERFILE = f"""FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends {" ".join(PACKAGES)} && rm -rf /var/lib/apt/lists/*
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
        self._container = self._engine.containers.run(
            _image(self._engine), list(WAITING), detach=True, network_disabled=True, network_mode="none",
            cap_drop=["ALL"], cap_add=["DAC_OVERRIDE", "FOWNER", "CHOWN", "KILL"], security_opt=["no-new-privileges"],
            mem_limit=limits.memory, memswap_limit=limits.memory, pids_limit=limits.processes, hostname=ENVIRONMENT["HOSTNAME"],
            environment=ENVIRONMENT, labels={LABEL: label()}, working_dir="/",
            ulimits=[{"Name": "fsize", "Soft": limits.file, "Hard": limits.file}, {"Name": "core", "Soft": 0, "Hard": 0}],
        )  # fmt: skip
        try:
            self._lay_out(tree)
        except BaseException:
            self.close()
            raise

    def _lay_out(self, tree: Tree) -> None:
        when = built()
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
        """Run `argv` in `cwd`; every process it started is gone when this returns. `trusted` changes nothing here."""
        if stdin:
            self._container.put_archive("/", _as_file(GIVEN, stdin))
            argv = reading(f"/{GIVEN}", argv)
        seconds = self.limits.seconds if seconds is None else seconds
        cap = self.limits.output if cap is None else cap
        began = time.monotonic()
        api = self._engine.api
        limited = ["timeout", "-s", "KILL", str(seconds), *argv]
        execution = api.exec_create(self._container.id, limited, workdir=cwd)["Id"]
        kept, total = bytearray(), 0
        for chunk in api.exec_start(execution, stream=True):
            total += len(chunk)
            kept += chunk[: max(0, cap - len(kept))]
        code = api.exec_inspect(execution)["ExitCode"]
        took = time.monotonic() - began
        broke = "time" if code == KILLED and took >= seconds else ""
        self._container.exec_run(["/bin/sh", "-c", "kill -9 -1"])  # what it left behind; process 1 is not touched
        return Run(bytes(kept), None if broke else code, broke, total, took)

    def close(self) -> None:
        """Remove the container and everything in it."""
        self._container.remove(force=True, v=True)


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
