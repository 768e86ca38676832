"""Finds sandboxes whose owner is gone, and ends them.

    python -m leap_ray.envs.intercode.reaper

A bubblewrap sandbox ends by itself with its owner, in two ways (its standard input closes; the kernel signals it), so this finds
nothing as a rule. It stays as a net for what no rule foresees, and for Docker containers, which nobody ends but their owner.
"""

from __future__ import annotations

import os
import platform
import signal
from functools import cache
from pathlib import Path
from typing import Any

from leap_ray.envs.intercode import docker_backend
from leap_ray.envs.intercode.sandbox import MARK, namespace, started
from leap_ray.errors import UserError


def orphans() -> list[int]:
    """Process ids of sandboxes of ours whose owner is gone."""
    return [pid for pid, owner in sandboxes() if not lives(owner)]


def sandboxes() -> list[tuple[int, str]]:
    """(process id, owner) of every bubblewrap sandbox of this machine that we may see."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (owner := _owner(int(entry.name))):
            found.append((int(entry.name), owner))
    return found


def _owner(pid: int) -> str:
    """The owner that a sandbox's command line names, '' for any other process."""
    try:
        first = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""  # ended while we looked
    name, _, owner = first.partition(":")
    return owner if name == MARK else ""


def lives(owner: str) -> bool:
    """Whether the process that `sandbox.owner` named is still the same one. One of another container's is not ours to judge."""
    where, _, rest = owner.partition(":")
    pid, _, start = rest.partition(":")
    return where != namespace() or (pid.isdigit() and started(int(pid)) == start)


def reap() -> int:
    """End every sandbox and container whose owner is gone; how many there were."""
    return sum(map(_end, orphans())) + _reap_containers()


def _end(pid: int) -> bool:
    """Kill an orphan, unless its number has meanwhile become another process's."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False  # ended by itself
    try:
        if (owner := _owner(pid)) and not lives(owner):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return True
    except (ProcessLookupError, PermissionError):
        pass  # ended by itself, or another user's
    finally:
        os.close(handle)
    return False


def _reap_containers() -> int:
    try:
        engine: Any = docker_backend.client()
    except UserError:
        return 0  # no engine, so no containers
    left = engine.containers.list(all=True, filters={"label": docker_backend.LABEL})
    here = platform.node()
    gone = []
    for box in left:
        host, _, process = box.labels[docker_backend.LABEL].rpartition("/")
        if host == here and not lives(f"{namespace()}:{process}"):
            gone.append(box)
    for box in gone:
        box.remove(force=True, v=True)
    return len(gone)


@cache
def reap_once() -> int:
    """`reap`, at the first call in this process only."""
    return reap()


def main() -> None:
    print(f"ended {reap()} sandboxes whose owner was gone")


if __name__ == "__main__":
    main()
