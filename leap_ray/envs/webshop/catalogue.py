"""A shop's products, index and goals on disk: built once per node, memory-mapped by every environment there.

A catalogue folder holds packed products, the search index, and, for each kind of goals and seed, prices and goals. One process
builds it while the others wait; it is written beside and then renamed, so that nobody ever finds half of it. Its manifest names
the product files it was built from, and a folder whose files have changed since is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from leap_ray.envs.webshop.goals import GoalKind, GoalTable, draw_prices, seeded, write_goals
from leap_ray.envs.webshop.listing import Listing, ListingBuilder
from leap_ray.envs.webshop.nouns import noun_finder
from leap_ray.envs.webshop.products import Files, Product, read_products, without_controls
from leap_ray.envs.webshop.search import Index, IndexBuilder, map_array
from leap_ray.errors import UserError
from leap_ray.types import digest

FORMAT = 5  # of the folder; another number is another folder
GOAL_SEED = 233  # of prices and bounds, as the goals of LEAP's splits were drawn


class Catalogue:
    """A built shop, opened. Products are unpacked when asked for; nothing grows with the catalogue."""

    def __init__(self, folder: Path, kind: GoalKind = "synthetic", seed: int = GOAL_SEED, nouns: str = "auto") -> None:
        self.folder = folder
        with _undamaged(folder):
            self._map()
        self.product = functools.lru_cache(maxsize=8192)(self._unpack)
        self.find = functools.lru_cache(maxsize=65_536)(self._find)
        self.nouns = noun_finder(nouns, complete=self.manifest["nouns"])
        goal_folder = self._goal_folder(kind, seed)
        with _undamaged(folder):
            self.prices = map_array(goal_folder / "prices.npy")
            self.goals: Any = GoalTable.open(goal_folder, kind, self.product)

    def _map(self) -> None:
        folder = self.folder
        self.manifest = _manifest(folder)
        self._blob = np.asarray(np.memmap(folder / "products.bin", np.uint8, "r"))
        self._ends = map_array(folder / "product_ends.npy")
        self._asins = map_array(folder / "asins.npy")
        self._asin_order = map_array(folder / "asin_order.npy")
        self._title_hashes = map_array(folder / "title_hashes.npy")
        self._title_numbers = map_array(folder / "title_numbers.npy")
        self.index = Index(folder)
        self.by_category = Listing(folder, "category").find
        self.by_query = Listing(folder, "query").find

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _unpack(self, number: int) -> Product:
        return Product.unpack(self._blob[self._ends[number] : self._ends[number + 1]].tobytes())

    def __iter__(self) -> Iterator[Product]:
        """Every product in the file's order, without filling the cache."""
        return (self._unpack(number) for number in range(len(self)))

    def _find(self, asin: str) -> int | None:
        """A product's number by its ASIN."""
        wanted = asin.encode("utf-8", "surrogatepass")
        at = int(np.searchsorted(self._asins, wanted, sorter=self._asin_order))
        if at == len(self._asins) or self._asins[self._asin_order[at]] != wanted:
            return None
        return int(self._asin_order[at])

    def by_title(self, title: str) -> int | None:
        """The number of the last product in the file with that lower-cased title."""
        wanted = _title_hash(title)
        at = int(np.searchsorted(self._title_hashes, wanted, side="right")) - 1
        while at >= 0 and self._title_hashes[at] == wanted:
            number = int(self._title_numbers[at])
            if self.product(number).title.lower() == title:
                return number
            at -= 1
        return None

    def price(self, number: int) -> float:
        """The price that a purchase is judged by, in dollars."""
        return float(self.prices[number])

    def _goal_folder(self, kind: GoalKind, seed: int) -> Path:
        target = self.folder / f"goals-{kind}-{seed}"

        def write(folder: Path) -> None:
            rng = seeded(seed)
            prices = draw_prices(self, rng)
            np.save(folder / "prices.npy", prices)
            write_goals(folder, kind, self, prices, rng)

        make_folder(target, write)
        return target


def build(folder: Path, products: Iterable[Product], source: dict[str, Any]) -> None:
    """Write products and index into `folder`; `source` goes into the manifest. Raises UserError if there is no product."""
    builder, asins, ends, titles, nouns, cleaned = IndexBuilder(), [], [0], [], True, 0
    categories, queries = ListingBuilder(), ListingBuilder()
    with (folder / "products.bin").open("wb") as file:
        for given in products:
            product = without_controls(given)
            cleaned += product is not given
            ends.append(ends[-1] + file.write(product.pack().encode()))
            builder.add(product.contents)
            categories.add(product.category)
            queries.add(product.query)
            asins.append(product.asin)
            titles.append(_title_hash(product.title.lower()))
            nouns = nouns and product.nouns is not None
    if not asins:
        raise UserError(f"{source.get('name', 'catalogue')}: no product was found")
    builder.write(folder, asins)
    categories.write(folder, "category")
    queries.write(folder, "query")
    np.save(folder / "product_ends.npy", np.array(ends, np.int64))
    codes = np.array(asins, "S")
    np.save(folder / "asins.npy", codes)
    np.save(folder / "asin_order.npy", np.argsort(codes, kind="stable").astype(np.int32))
    hashes = np.array(titles, np.uint64)
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    np.save(folder / "title_hashes.npy", hashes[order])
    np.save(folder / "title_numbers.npy", order)
    manifest = {"format": FORMAT, "products": len(asins), "nouns": nouns, "cleaned": cleaned, **source}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def open_files(files: Files, limit: int | None, kind: GoalKind, seed: int, nouns: str, cache: Path) -> Catalogue:
    """The catalogue of a data folder's files, built into `cache` the first time.

    Raises UserError where a file has changed since the catalogue was built from it.
    """
    folder = catalogue_folder(files, limit, cache)

    def write(path: Path) -> None:
        stamps = [_stamp(file) for file in files.all]
        build(path, read_products(files, limit), {"name": str(files.products), "files": stamps})

    make_folder(folder, write)
    _check_fresh(folder, files)
    return Catalogue(folder, kind, seed, nouns)


def catalogue_folder(files: Files, limit: int | None, cache: Path) -> Path:
    """Where the catalogue of these files lies in a cache."""
    return cache / f"catalogue-{digest([str(path.resolve()) for path in files.all], limit, FORMAT)}"


def remove_catalogues(files: Files, cache: Path) -> None:
    """Remove what was built from these files, in whole or up to a limit, damaged or not."""
    remove_folder(catalogue_folder(files, None, cache))
    for folder in cache.glob("catalogue-*"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if Path(_manifest(folder)["name"]).resolve() == files.products.resolve():
                remove_folder(folder)


def open_products(
    name: str, products: Callable[[], Iterable[Product]], kind: GoalKind, seed: int, nouns: str, cache: Path
) -> Catalogue:
    """The catalogue of products that a program makes; `name` must name exactly these products."""
    folder = cache / f"catalogue-{digest(name, FORMAT)}"
    make_folder(folder, lambda path: build(path, products(), {"name": name, "files": []}))
    return Catalogue(folder, kind, seed, nouns)


def make_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then put it in its place at once; whoever comes second waits, and finds it there.

    Raises UserError where it cannot be written: no permission, no space.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target.parent) as alone:
            if alone:
                _remove_drafts(target)
            if not target.exists():
                _fill(target, write)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): make room there, or name another folder with `cache`"
        ) from None


def remove_folder(target: Path) -> None:
    """Remove a built folder at once: nobody finds half of it; who has it open keeps it. Raises UserError if it must stay."""
    if not target.exists():
        return
    try:
        grave = target.rename(_draft(target))
        shutil.rmtree(grave, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{target} cannot be removed to be built anew: {error.strerror or error}") from None


def _fill(target: Path, write: Callable[[Path], None]) -> None:
    draft = _draft(target)
    try:
        write(draft)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():  # someone was faster, where folders cannot be locked
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _draft(target: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))


def _remove_drafts(target: Path) -> None:
    """Remove what killed builders have left."""
    for left in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Wait until no other process or thread builds in the folder. False where the file system knows no locks: all build then."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _undamaged(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"the index in {folder} is damaged ({error}): rebuild it with `leap-ray data webshop`, or remove that folder"
        ) from None


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def _check_fresh(folder: Path, files: Files) -> None:
    with _undamaged(folder):
        held = {stamp["name"]: stamp for stamp in _manifest(folder)["files"]}
    for path in files.all:
        if not _is_stamped(path, held.get(path.name)):
            raise UserError(
                f"the index in {folder} is older than {path}: rebuild it with `leap-ray data webshop`, or remove that folder"
            )


def _is_stamped(path: Path, stamp: dict[str, Any] | None) -> bool:
    """Whether the file is the one stamped: by size and time, or else by content."""
    stat = path.stat()
    if stamp is None or stat.st_size != stamp["bytes"]:
        return False
    return stat.st_mtime_ns == stamp["modified"] or _file_hash(path) == stamp["sha256"]


def _stamp(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"name": path.name, "bytes": stat.st_size, "modified": stat.st_mtime_ns, "sha256": _file_hash(path)}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _title_hash(title: str) -> int:
    return int.from_bytes(hashlib.blake2b(title.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
