"""Catalogues of the WebShop tests, each built once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from leap_ray.envs.webshop.catalogue import Catalogue
from leap_ray.envs.webshop.data import open_catalogue


@pytest.fixture(scope="session")
def shop_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for built catalogues, used by no one else."""
    return tmp_path_factory.mktemp("shop-cache")


@pytest.fixture(scope="session")
def real_shop(shared: Path, shop_cache: Path) -> Catalogue:
    """WebShop's 1,000 products with their synthetic goals."""
    return open_catalogue(str(shared / "data" / "webshop"), cache=str(shop_cache))
