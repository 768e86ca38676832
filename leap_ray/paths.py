"""Paths from the root on, and folders that can be written to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from leap_ray.errors import UserError

# Environment variables that name folders of ours, or of the model hub: processes started from this one read them too.
VARIABLES = (
    "ALFWORLD_DATA", "HF_HOME", "INTERCODE_DATA", "LEAP_RAY_CACHE", "LEAP_RAY_ROOTFS", "LEAP_RAY_RUNS", "WEBSHOP_DATA",
)  # fmt: skip


def absolute(path: str | Path) -> Path:
    """The path from the root on, `~` expanded. Symbolic links stay: other nodes may reach the folder by them alone."""
    return Path(os.path.abspath(Path(path).expanduser()))


def absolute_environment() -> None:
    """Make the folders that environment variables name absolute, for every process started from here."""
    for name in VARIABLES:
        if value := os.environ.get(name):
            os.environ[name] = str(absolute(value))


def check_writable(folder: Path, what: str, remedy: str) -> None:
    """Raise UserError unless files can be made in that folder (which is made if need be)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {folder} cannot be written to ({reason}): {remedy}") from None
