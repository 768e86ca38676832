"""Prompt templates (Jinja2), a folder a dialect, and the one place that renders them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from leap_ray.types import digest

FOLDER = Path(__file__).parent


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(template: str, **values: Any) -> str:
    """The template (`chat/first.j2`) filled in. A value that it needs and does not get is an error (StrictUndefined)."""
    return _environment().get_template(template).render(**values)


@cache
def folder_hash(name: str) -> str:
    """Hash of all templates of a folder: kept with every result they made."""
    files = sorted((FOLDER / name).rglob("*.j2"))
    return digest([(str(f.relative_to(FOLDER)), f.read_text()) for f in files])
