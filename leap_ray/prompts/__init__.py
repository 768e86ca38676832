"""Prompt templates (Jinja2), a folder a dialect, and the one place that renders them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from leap_ray.types import digest

FOLDER = Path(__file__).parent
_OWN_TAG = re.compile(  # the tags between which a teacher is shown an attempt
    r"<(?=\s*/?\s*(?:task|privileged_state|attempt|step|observation|available_actions|student_reason|student_action|action|"
    r"final_observation)\b)",
    re.IGNORECASE,
)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data"] = data
    return environment


def data(text: str) -> str:
    """A text that an environment or a model wrote, as it stands between our tags: it can neither close nor open one of them."""
    return _OWN_TAG.sub("&lt;", text)


def render(template: str, **values: Any) -> str:
    """The template (`chat/first.j2`) filled in. A value that it needs and does not get is an error (StrictUndefined)."""
    return _environment().get_template(template).render(**values)


@cache
def folder_hash(name: str) -> str:
    """Hash of all templates of a folder: kept with every result they made."""
    files = sorted((FOLDER / name).rglob("*.j2"))
    return digest([(str(f.relative_to(FOLDER)), f.read_text()) for f in files])
