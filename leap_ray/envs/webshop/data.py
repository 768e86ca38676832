"""WebShop's files: finding them, checking them, building the catalogue from them.

The product texts belong to others and come with no copy here. WebShop's own set-up publishes them as

- `items_shuffle_1000.json` and `items_ins_v2_1000.json` (1,000 products), or `items_shuffle.json` and `items_ins_v2.json`
  (1.18 million), and
- `items_human_ins.json` (people's instructions), and, if wanted, its human demonstrations.

Put them in one folder and name it, as `leap-ray data webshop --source FOLDER` and as the environment's `data`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from leap_ray.cache import cache_folder
from leap_ray.envs.webshop.catalogue import (
    GOAL_SEED,
    Catalogue,
    open_files,
    open_products,
    remove_catalogues,
)
from leap_ray.envs.webshop.generator import VERSION, generate
from leap_ray.envs.webshop.goals import GoalKind, ListedGoals, goal_of
from leap_ray.envs.webshop.products import Files, read_records
from leap_ray.errors import UserError

GENERATED = "generated"
_PRODUCTS = ("items_shuffle.json", "items_shuffle_1000.json", "items_shuffle_100000.json")
_HUMAN = "items_human_ins.json"
PUBLISHED = (
    "WebShop publishes items_shuffle_1000.json with items_ins_v2_1000.json (1,000 products), items_shuffle.json with "
    "items_ins_v2.json (all), and items_human_ins.json: see `setup.sh` and the README of princeton-nlp/WebShop"
)


def find_files(data: Path) -> Files:
    """The product files of a data folder, or around the product file named. Raises UserError saying what is missing."""
    if data.is_file():
        return _around(data)
    if not data.is_dir():
        raise UserError(f"webshop: {data} does not exist. {PUBLISHED}; put them there")
    names = [data / name for name in _PRODUCTS] + [data / f"{name}.gz" for name in _PRODUCTS]
    found = [path for path in names if path.exists()] + sorted(data.glob("products*.jsonl*"))
    if not found:
        raise UserError(f"webshop: {data} holds no product file. {PUBLISHED}; put them there")
    return _around(found[0])


def _around(products: Path) -> Files:
    folder = products.parent
    nouns = next(iter(sorted(folder.glob("title_nouns*.jsonl*"))), None)
    if ".jsonl" in products.name:
        return Files(products, nouns=nouns)
    wanted = products.name.replace("items_shuffle", "items_ins_v2")
    attributes = next((p for p in _either(folder, wanted) + _either(folder, "items_ins_v2.json") if p.exists()), None)
    if attributes is None:
        raise UserError(
            f"webshop: {folder / wanted} is missing: it holds the attributes of {products.name}. {PUBLISHED}"
        )
    human = next((p for p in _either(folder, _HUMAN) if p.exists()), None)
    return Files(products, attributes, human, nouns)


def _either(folder: Path, name: str) -> list[Path]:
    return [folder / name, folder / f"{name.removesuffix('.gz')}.gz"]


def open_catalogue(
    data: str = GENERATED,
    goals: str = "synthetic",
    *,
    limit: int | None = None,
    goal_seed: int = GOAL_SEED,
    nouns: str = "auto",
    cache: str | None = None,
    products: int = 300,
    generator_seed: int = 0,
) -> Catalogue:
    """The catalogue that an environment's settings name, opened once per process and built once per node.

    `goals` is "synthetic", "human", or a file of goals in WebShop's own form (JSON lines).
    """
    return _open(data, goals, limit, goal_seed, nouns, cache, products, generator_seed)


@lru_cache(maxsize=8)
def _open(
    data: str,
    goals: str,
    limit: int | None,
    goal_seed: int,
    nouns: str,
    cache: str | None,
    products: int,
    generator_seed: int,
) -> Catalogue:
    kind: GoalKind = "human" if goals == "human" else "synthetic"
    place = Path(cache).expanduser() if cache else cache_folder() / "webshop"
    if data == GENERATED:
        name = f"generated/{VERSION}/{products}/{generator_seed}"
        catalogue = open_products(name, lambda: generate(products, generator_seed), kind, goal_seed, nouns, place)
    else:
        catalogue = open_files(find_files(Path(data).expanduser()), limit, kind, goal_seed, nouns, place)
    if goals not in ("human", "synthetic"):
        catalogue.goals = _listed(Path(goals).expanduser(), catalogue.find)
    if not len(catalogue.goals):
        raise UserError(f"webshop: {data} holds no {goals} goals: is items_human_ins.json or items_ins_v2 missing?")
    return catalogue


def _listed(path: Path, find: Callable[[str], int | None]) -> ListedGoals:
    if not path.exists():
        raise UserError(f"webshop: goals {str(path)!r} is neither synthetic, human, nor a file of goals")
    goals = [goal_of(raw, f"{path.name}, goal {i}") for i, raw in enumerate(read_records(path))]
    return ListedGoals(goals, find, path.name)


@dataclass(frozen=True)
class Summary:
    """What was found in a data folder and built from it."""

    files: tuple[Path, ...]
    index: Path
    products: int
    title_nouns: bool  # whether every product brings the nouns of its title
    cleaned: int  # products whose texts held control characters, which became blanks
    synthetic_goals: int
    human_goals: int

    def __str__(self) -> str:
        nouns = "with the data" if self.title_nouns else "not with the data: spaCy finds them, or set nouns: words"
        lines = [
            *(f"{path}  {path.stat().st_size / 2**20:,.1f} MiB" for path in self.files),
            f"products          {self.products:,}",
            *([f"cleaned           {self.cleaned:,} with control characters, now blanks"] if self.cleaned else []),
            f"synthetic goals   {self.synthetic_goals:,}",
            f"human goals       {self.human_goals:,}",
            f"nouns of titles   {nouns}",
            f"index             {self.index}",
            f"use it with       settings: {{data: {self.files[0].parent.resolve()}}}",
        ]
        return "\n".join(lines)


def data_folder(target: str | Path | None = None) -> Path:
    """Where WebShop's files are looked for: `target`, else $WEBSHOP_DATA, else ~/.cache/webshop."""
    return Path(target or os.environ.get("WEBSHOP_DATA") or "~/.cache/webshop").expanduser()


def prepare(
    source: str | Path | None = None, target: str | Path | None = None, *, cache: Path | None = None
) -> Summary:
    """Check the product files, build the index anew, and say what was found.

    The files are taken from `source`, and copied to `target` if one is named; without a source they are looked for in
    `target` (see `data_folder`). Raises UserError naming the file that is missing or of another version.
    """
    files = find_files(Path(source).expanduser() if source else data_folder(target))
    if source is not None and target is not None:
        files = _copy(files, Path(target).expanduser())
    place = cache or cache_folder() / "webshop"
    remove_catalogues(files, place)
    _open.cache_clear()
    made = {kind: open_files(files, None, kind, GOAL_SEED, "words", place) for kind in ("synthetic", "human")}
    one = made["synthetic"]
    return Summary(
        files=files.all,
        index=one.folder,
        products=len(one),
        title_nouns=one.manifest["nouns"],
        cleaned=one.manifest["cleaned"],
        synthetic_goals=len(one.goals),
        human_goals=len(made["human"].goals),
    )


def _copy(files: Files, target: Path) -> Files:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in files.all:
            if (target / path.name).resolve() != path.resolve():
                shutil.copyfile(path, target / path.name)
    except OSError as error:
        raise UserError(f"webshop: the files cannot be copied to {target}: {error.strerror or error}") from None
    return find_files(target / files.products.name)
