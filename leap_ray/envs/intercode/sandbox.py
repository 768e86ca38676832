"""A place where a command may do what it likes and nothing comes of it: bubblewrap, one sandbox an episode.

A sandbox is one tree of processes. Its root is a tmpfs of bounded size that exists in its own mount namespace only, so closing
it, or losing its owner in any way, leaves no file, mount or process behind: there is nothing to clean up. Inside, process 1
(`guest.py`) runs commands one at a time. Isolation: own user, process, mount, network, IPC, host-name and cgroup namespaces; no
capability; no new privileges; no nested user namespaces; the base's `/usr` read-only; a system-call filter (`seccomp.py`). Where
we are root, each sandbox gets an ordinary uid of its own first: the kernel holds root to no limit on processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from leap_ray.envs.intercode import seccomp
from leap_ray.envs.intercode.figures import figures, hidden
from leap_ray.envs.intercode.rootfs import Base
from leap_ray.errors import EnvironmentFault, UserError

MIB = 1 << 20
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOSTNAME": "intercode",
    "HOME": "/root",
}
MARK = "leap-ray-sandbox"  # first word of every sandbox's command line, for `reaper.py`
UIDS = range(61200, 65000)  # ordinary, below 65536 so that they exist inside containers too, and given to no account
GUEST = "".join(Path(__file__).with_name(name).read_text() for name in ("emulation.py", "guest.py"))
PATIENCE = 15  # seconds beyond a command's own limit until a silent sandbox is given up


class SandboxError(EnvironmentFault):
    """The sandbox itself ended or does not answer: the episode in it is over, by no doing of the student's."""


class Unjudgeable(Exception):
    """The student left a machine that cannot be judged: it has no reward."""


@dataclass(frozen=True)
class Limits:
    """What one sandbox may take. Byte counts, unless a comment says otherwise."""

    memory: int = 768 * MIB  # of all processes together
    address: int = 1024 * MIB  # of one process
    disk: int = 64 * MIB  # of everything written
    file: int = 32 * MIB  # of one file
    files: int = 50_000  # number of files
    processes: int = 64  # number, threads included
    descriptors: int = 128  # number, of one process
    output: int = 1 * MIB  # kept of one command's output
    seconds: float = 10  # of one command (authors)
    nice: int = 5


@dataclass(frozen=True)
class Run:
    """What came of one command. `code` is None where a limit ended it; `broke` then names the limit."""

    output: bytes
    code: int | None
    broke: str  # "", "time", "memory", "files"; "trust" where a trusted command was not run
    total: int  # bytes written; more than len(output) where some were dropped
    seconds: float


class Sandbox(Protocol):
    """One running sandbox, whatever provides it."""

    def run(
        self,
        argv: Sequence[str],
        cwd: str = "/",
        *,
        seconds: float | None = None,
        stdin: bytes = b"",
        cap: int | None = None,
        trusted: bool = False,
    ) -> Run: ...

    def close(self) -> None: ...


class Bubblewrap:
    """A running sandbox. Raises UserError where none can be made here, SandboxError when it ends before its time."""

    def __init__(self, base: Base, limits: Limits | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.base, self.limits = base, limits or Limits()
        self.environment = dict(environment or ENVIRONMENT)
        self._claim, self._uid = _claim_uid() if os.getuid() == 0 else (None, None)
        self._errors = tempfile.TemporaryFile()
        self._process = _spawner().submit(self._start).result()
        try:
            self._send(_limits_for_guest(self.limits), first=GUEST)
            self._receive(time.monotonic() + PATIENCE)
        except SandboxError:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            self.close()
            raise UserError(
                f"no sandbox could be started with bubblewrap: {said or 'it gave no reason'}. {REMEDY}"
            ) from None

    def _start(self) -> subprocess.Popen[bytes]:
        filter_fd = _as_fd(seccomp.program())
        contents = {path: _as_fd(text.encode()) for path, text in figures().items()}
        passed = [fd for fd in (filter_fd, *contents.values()) if fd is not None]
        command = _command(self.base, self.limits, self.environment, filter_fd, contents)
        who: dict[str, Any] = {} if self._uid is None else {"user": self._uid, "group": self._uid, "extra_groups": []}
        try:
            process = subprocess.Popen(
                [f"{MARK}:{owner()}", *command], executable=bwrap(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._errors, pass_fds=passed, cwd="/", bufsize=0, **who,
            )  # fmt: skip
            return process  # pyright: ignore[reportReturnType] - the keywords in `who` hide that it speaks bytes
        finally:
            for fd in passed:
                os.close(fd)

    @property
    def pid(self) -> int:
        """Process id of the outermost process, as the host sees it."""
        return self._process.pid

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
        """Run `argv` in `cwd`; every process it started is gone when this returns.

        `trusted`: what it says is to be relied on, so it runs only where earlier commands left the base's programs in place.
        """
        seconds = self.limits.seconds if seconds is None else seconds
        request = {
            "argv": list(argv), "cwd": cwd, "timeout": seconds, "cap": self.limits.output if cap is None else cap,
            "stdin": len(stdin), "env": self.environment, "trusted": self.base.links() if trusted else None,
        }  # fmt: skip
        self._send(request, stdin)
        header, output = self._receive(time.monotonic() + seconds + PATIENCE)
        return Run(output, header["code"], header["broke"], header["total"], header["seconds"])

    def extract(self, archive: bytes) -> None:
        """Unpack a tar archive into the root. Folders bear the archive's times, whatever is put into them later in it."""
        run = self.run(
            ["/usr/bin/tar", "-xpif", "-", "--delay-directory-restore", "-C", "/"], stdin=archive, seconds=60
        )
        if run.code != 0:
            raise SandboxError(f"the tree could not be laid out: {run.output.decode(errors='replace')[:500]}")

    def settle(self) -> bool:
        """Everything is laid out: what commands are shown from now on is the same on every machine (see `emulation.py`).

        False where this kernel cannot do that: the sandbox holds all the same, and shows some of the host's figures.
        """
        program, calls = seccomp.observed()
        self._send({"settled": {"program": program.hex(), "calls": calls}})
        header, _ = self._receive(time.monotonic() + PATIENCE)
        return header["emulates"]

    def close(self) -> None:
        """End every process of the sandbox, and with them its files and mounts."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()
        if self._claim:
            self._claim.close()

    def _send(self, header: dict, data: bytes = b"", first: str = "") -> None:
        lines = (f"{first!r}\n" if first else "") + json.dumps(header) + "\n"
        try:
            _write(self._process.stdin, lines.encode())
            _write(
                self._process.stdin, data
            )  # on its own: a copy of a whole tree for every reset would only be thrown away
        except OSError:
            raise SandboxError("the sandbox ended") from None

    def _receive(self, deadline: float) -> tuple[dict, bytes]:
        pipe = self._process.stdout
        buffer = bytearray()
        while b"\n" not in buffer:
            buffer += _read(pipe, deadline)
        line, _, rest = bytes(buffer).partition(b"\n")
        header, body = json.loads(line), bytearray(rest)
        while len(body) < header["size"]:
            body += _read(pipe, deadline)
        return header, bytes(body)


REMEDY = (
    "It needs unprivileged user namespaces (sysctl user.max_user_namespaces above 0, and on Ubuntu "
    "kernel.apparmor_restrict_unprivileged_userns=0); inside Docker run with --security-opt seccomp=unconfined, "
    'or set the domain\'s setting backend: "docker"'
)


def owner() -> str:
    """This process, told from a later one of the same number by its start time, and from one of another container."""
    return f"{namespace()}:{os.getpid()}:{started(os.getpid())}"


def namespace() -> str:
    """Names the set of processes among which a process id of ours means something (its inode)."""
    return os.readlink("/proc/self/ns/pid").strip("pid:[]")


def started(pid: int) -> str:
    """Start time of a living process in clock ticks since boot, '' if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def bwrap() -> str:
    """Path of bubblewrap. Raises UserError where it is not installed."""
    if path := shutil.which("bwrap"):
        return path
    raise UserError('bubblewrap ("bwrap") is not installed: install the package bubblewrap, or use Docker')


@cache
def why_not(base: Base) -> str:
    """Why no sandbox can be made here, '' if one can: tried once a process."""
    try:
        sandbox = Bubblewrap(base)
    except UserError as error:
        return str(error)
    sandbox.close()
    return ""


def _command(
    base: Base,
    limits: Limits,
    environment: Mapping[str, str],
    filter_fd: int | None,
    contents: Mapping[str, int | None],
) -> list[str]:
    """Bubblewrap's arguments. `contents`: descriptors of what is laid over files, by path."""
    command = [
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
    ]
    command += ["--cap-drop", "ALL", "--uid", "0", "--gid", "0", "--hostname", environment.get("HOSTNAME", "intercode")]
    command += ["--size", str(limits.disk), "--tmpfs", "/", *base.mounts(), "--proc", "/proc", "--dev", "/dev"]
    command += ["--size", str(MIB), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    # (What a user without capabilities may not list would make every `find /` complain.)
    for folder in hidden():
        command += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    for path, fd in contents.items():
        command += ["--perms", "0444", "--ro-bind-data", str(fd), path]
    if filter_fd is not None:
        command += ["--seccomp", str(filter_fd)]
    command += ["--clearenv", "--setenv", "PATH", environment["PATH"], "--chdir", "/"]
    return [*command, base.python, "-ISBWignore", "-c", "import sys; exec(eval(sys.stdin.buffer.readline()))"]


def _limits_for_guest(limits: Limits) -> dict:
    """The names that `guest.py` knows: those of the resource module, and its own totals."""
    own = {name: value for name, value in asdict(limits).items() if name in ("memory", "files", "nice")}
    return own | {
        "as": limits.address, "fsize": limits.file, "nproc": limits.processes, "nofile": limits.descriptors,
        "core": 0, "memlock": 1 << 16, "msgqueue": 0, "sigpending": 1024,
    }  # fmt: skip


@cache
def _spawner() -> ThreadPoolExecutor:
    """One thread that lives as long as the process: bubblewrap ends its sandbox when the *thread* that began it ends."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-spawner")


def _claim_uid() -> tuple[socket.socket, int]:
    """An ordinary uid that no other sandbox of this machine has: claimed by a socket name, which dies with its holder."""
    first = os.getpid() * 7919 % len(UIDS)
    for i in range(len(UIDS)):
        uid = UIDS[(first + i) % len(UIDS)]
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0{MARK}-uid-{uid}")
        except OSError:
            claim.close()
            continue
        return claim, uid
    raise UserError(f"all {len(UIDS)} uids for sandboxes are taken on this machine: close some")


def _as_fd(data: bytes | None) -> int | None:
    """A descriptor from which `data` (less than a pipe holds) can be read."""
    if data is None:
        return None
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def _write(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None
    view = memoryview(data)
    while view:
        view = view[os.write(pipe.fileno(), view) :]


def _read(pipe: IO[bytes] | None, deadline: float) -> bytes:
    """What has come, waiting until `deadline` at most."""
    assert pipe is not None
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    # At least a moment, also past the deadline: this process itself may have been paused meanwhile.
    ready = poll.poll(max(2.0, deadline - time.monotonic()) * 1000)
    if not ready:
        raise SandboxError("the sandbox does not answer")
    data = os.read(pipe.fileno(), 1 << 16)
    if not data:
        raise SandboxError("the sandbox ended")
    return data
