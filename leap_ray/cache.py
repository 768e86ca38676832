"""Where everything lies that can be made again: converted students, translated games, built shop indexes."""

from __future__ import annotations

import os
from pathlib import Path

from leap_ray.paths import absolute, check_writable


def cache_folder() -> Path:
    """`$LEAP_RAY_CACHE`, else `~/.cache/leap-ray`. Shared by all runs of a machine; may be deleted at any time."""
    return absolute(os.environ.get("LEAP_RAY_CACHE") or "~/.cache/leap-ray")


def check_cache() -> None:
    """Raise UserError unless the folder can be written to."""
    check_writable(cache_folder(), "the cache folder", "set LEAP_RAY_CACHE to a folder of yours")
