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
from leap_ray.envs.intercode.sandbox import MARK, started
from leap_ray.errors import UserError


def orphans() -> list[int]:
    """Process ids of sandboxes of ours whose owner is gone."""
    return [pid for pid, owner in sandboxes() if not _lives(owner)]


def sandboxes() -> list[tuple[int, str]]:
    """(process id, owner) of every bubblewrap sandbox of this machine that we may see."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            first = (entry / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except OSError:
            continue  # ended while we looked
        name, _, owner = first.partition(":")
        if name == MARK:
            found.append((int(entry.name), owner))
    return found


def _lives(owner: str) -> bool:
    """Whether the process that `sandbox.owner` named is still the same one."""
    pid, _, start = owner.partition(":")
    return pid.isdigit() and started(int(pid)) == start


def reap() -> int:
    """End every sandbox and container whose owner is gone; how many there were."""
    gone = orphans()
    for pid in gone:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # ended by itself, or another user's
    return len(gone) + _reap_containers()


def _reap_containers() -> int:
    try:
        engine: Any = docker_backend.client()
    except UserError:
        return 0  # no engine, so no containers
    left = engine.containers.list(all=True, filters={"label": docker_backend.LABEL})
    here = platform.node()
    gone = []
    for box in left:
        host, _, owner = box.labels[docker_backend.LABEL].rpartition("/")
        if host == here and not _lives(owner):
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
