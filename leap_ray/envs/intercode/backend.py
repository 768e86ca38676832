"""Where sandboxes come from: bubblewrap where it is installed, else a Docker engine; one clear error where neither is."""

from __future__ import annotations

import shutil
import time
from typing import Literal

from leap_ray.envs.intercode import docker_backend, rootfs, sandbox
from leap_ray.envs.intercode.rootfs import Base
from leap_ray.envs.intercode.sandbox import Bubblewrap, Limits, Sandbox, SandboxError
from leap_ray.envs.intercode.trees import Tree, archive, built
from leap_ray.errors import UserError

Kind = Literal["auto", "bubblewrap", "docker"]
RETRIES = 2
PAUSE = 1.0  # seconds before a retry
NEITHER = (
    "intercode needs a place to run commands in, and found neither bubblewrap (install the package bubblewrap) "
    "nor a Docker engine ({why})"
)


class Backend:
    """Makes sandboxes with a tree laid out in them. `name` and `note` say what it is, for people."""

    def __init__(self, kind: Kind = "auto", base: str = "auto", limits: Limits | None = None) -> None:
        if kind not in ("auto", "bubblewrap", "docker"):
            raise UserError(f"intercode: backend {kind!r} is none of auto, bubblewrap, docker")
        self.limits = limits or Limits()
        self.name = choose() if kind == "auto" else kind
        self.base: Base | None = None
        if self.name == "bubblewrap":
            self.base = rootfs.find(base)
            if why := sandbox.why_not(self.base):
                raise UserError(f"intercode: {why}")
        else:
            docker_backend.check()

    @property
    def note(self) -> str:
        return self.base.note if self.base else docker_backend.NOTE

    def contents(self, tree: Tree) -> str:
        """Names what a sandbox with this tree starts from today: the key of everything kept about it."""
        return f"{self.name}/{self.base}/{tree.hash}/{built()}"

    def open(self, tree: Tree) -> Sandbox:
        """A fresh sandbox holding the tree. Raises SandboxError where none can be had.

        Tried again where it fails: sandboxes do start here, so this one met a bad moment.
        """
        for _ in range(RETRIES):
            try:
                return self._open(tree)
            except (UserError, SandboxError):
                time.sleep(PAUSE)
        return self._open(tree)

    def _open(self, tree: Tree) -> Sandbox:
        if self.base is None:
            return docker_backend.DockerSandbox(tree, self.limits)
        contents = archive(tree, self.base, built())
        try:
            box = Bubblewrap(self.base, self.limits)
        except UserError as error:  # they start here, as the constructor saw
            raise SandboxError(str(error)) from None
        try:
            box.extract(contents)
            box.settle()
        except BaseException:
            box.close()
            raise
        return box


def choose() -> str:
    """The backend for "auto". Raises UserError naming both where neither is there."""
    if shutil.which("bwrap"):
        return "bubblewrap"
    why = docker_backend.why_not()
    if why:
        raise UserError(NEITHER.format(why=why))
    return "docker"
