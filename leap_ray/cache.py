"""Where everything lies that can be made again: converted students, translated games, built shop indexes."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$LEAP_RAY_CACHE`, else `~/.cache/leap-ray`. Shared by all runs of a machine; may be deleted at any time."""
    return Path(os.environ.get("LEAP_RAY_CACHE") or "~/.cache/leap-ray").expanduser()
