"""InterCode's tasks: finding them, checking them, splitting them.

`embedded` is a small set of our own that comes with the package, for a first run and for tests. The real sets belong to others
(NL2Bash tasks with their file systems, Spider, MBPP) and are read from a folder: as the files `leap-ray data intercode` writes,
or from a checkout of princeton-nlp/intercode, which it converts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from leap_ray.cache import cache_folder
from leap_ray.envs.intercode.checkout import convert, is_checkout
from leap_ray.envs.intercode.trees import Tree
from leap_ray.errors import UserError
from leap_ray.types import digest, to_plain

Language = Literal["bash", "sql", "python"]
Split = Literal["index", "apart"]
LANGUAGES: tuple[Language, ...] = ("bash", "sql", "python")
EMBEDDED = "embedded"
SHIPPED = Path(__file__).parent / "embedded"
TRAIN = 0.7  # share of the tasks that is for training (authors)
FILES = {  # names of the task files, the published sets' and ours
    "bash": ("nl2bash*.jsonl*", "bash.json"),
    "sql": ("spider_dev*.jsonl*", "sql.json"),
    "python": ("mbpp*.jsonl*", "python.json"),
}
MANIFESTS, DUMPS = ("fs_*.manifest.json",), ("spider_dbs*.sql*", "databases.txt")
WHERE = (
    "clone princeton-nlp/intercode and run `leap-ray data intercode --source <checkout>`, or set data: embedded for the "
    "small set that comes with the package"
)


@dataclass(frozen=True)
class Item:
    """One task. `kind` is what it is set in: a file system, a database, or "python"."""

    id: str
    query: str
    gold: str
    kind: str
    tests: tuple[str, ...] = ()
    setup: str = ""
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskSet:
    """All tasks of one language in the order of their indices, with what they are set in."""

    language: Language
    items: tuple[Item, ...]
    trees: dict[str, Tree] = field(default_factory=dict)  # bash: by kind
    dump: Path | None = None  # sql: the databases, as a MySQL dump

    @property
    def digest(self) -> str:
        """Names the content: of the tasks, and of the file systems or databases that they are set in."""
        dump = hashlib.sha256(self.dump.read_bytes()).hexdigest() if self.dump else ""
        trees = {kind: tree.hash for kind, tree in self.trees.items()}
        return digest([to_plain(item) for item in self.items], trees, dump)

    def split(self, how: Split) -> dict[str, tuple[Item, ...]]:
        """Panels "train" and "test".

        "index": the first 70 % by index train (authors). "apart": no file system or database stands on both sides.
        """
        if how == "index":
            border = round(TRAIN * len(self.items))
            return {"train": self.items[:border], "test": self.items[border:]}
        kinds = sorted({item.kind for item in self.items})
        if len(kinds) < 2:
            raise UserError(
                f"intercode: {self.language} tasks cannot be kept apart: all are set in {kinds[0]!r}; use split: index"
            )
        training = _kinds_for_training(self.items, kinds)
        return {
            "train": tuple(item for item in self.items if item.kind in training),
            "test": tuple(item for item in self.items if item.kind not in training),
        }


def _kinds_for_training(items: Sequence[Item], kinds: Sequence[str]) -> set[str]:
    """Kinds in order of name, as many as fit into the training share; at least one on each side."""
    room = TRAIN * len(items)
    chosen: set[str] = set()
    for kind in kinds:
        count = sum(item.kind == kind for item in items)
        if (count <= room or not chosen) and len(chosen) < len(kinds) - 1:
            chosen.add(kind)
            room -= count
    return chosen


def default_folder() -> Path:
    """Where the real data are looked for: $INTERCODE_DATA, else ~/.cache/leap-ray/intercode/data."""
    return Path(os.environ.get("INTERCODE_DATA") or cache_folder() / "intercode" / "data").expanduser()


def load(data: str | None, language: Language) -> TaskSet:
    """The tasks of one language: of `data` ("embedded" or a folder; None: the default folder where it exists, else embedded)."""
    if language not in LANGUAGES:
        raise UserError(f"intercode: language {language!r} is none of {', '.join(LANGUAGES)}")
    if data is None:
        data = str(default_folder()) if default_folder().is_dir() else EMBEDDED
    folder = SHIPPED if data == EMBEDDED else Path(data).expanduser()
    return _load(folder, language)


@cache
def _load(folder: Path, language: Language) -> TaskSet:
    path = _find(folder, FILES[language])
    items = tuple(_item(language, i, record, path) for i, record in enumerate(read_records(path)))
    if not items:
        raise UserError(f"intercode: {path} holds no task")
    if language == "bash":
        kinds = sorted({item.kind for item in items})
        published = path.name != FILES["bash"][-1]
        return TaskSet(language, items, trees={kind: _tree(folder, kind, published) for kind in kinds})
    return TaskSet(language, items, dump=_find(folder, DUMPS) if language == "sql" else None)


def _find(folder: Path, patterns: Sequence[str]) -> Path:
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if not found:
        raise UserError(f"intercode: there is no {patterns[0]} in {folder}: {WHERE}")
    return found[0]


def _item(language: Language, index: int, record: dict[str, Any], path: Path) -> Item:
    try:
        query, gold = _text(record["query"]), _text(record["gold"])
        if language == "bash":
            return Item(f"bash-{index:03d}", query, gold, f"fs_{record['fs']}")
        if language == "sql":
            return Item(f"sql-{index:04d}", query, gold, _text(record["db"]), tables=_texts([*record["db_tables"]]))
        setup = _text(record.get("test_setup_code", ""))
        return Item(f"python-{record['task_id']:04d}", query, gold, "python", _texts(record["tests"]), setup)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"intercode: {path}, line {index + 1}, is no {language} task: {error!r}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(_text, value))


def _tree(folder: Path, name: str, published: bool) -> Tree:
    """The file system of a manifest. `published`: with the set-up script that the original's images keep in `/`.

    (Not for its contents, which nobody asks for, but its name: it is what an unquoted *.sh stands for there.)
    """
    path = _find(folder, [f"{name}.manifest.json"])
    try:
        entries = tuple(map(_entry, json.loads(open_text(path))))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"intercode: {path} is no manifest of a file system: {error!r}") from None
    script = {"path": f"/setup_nl2b_{name}.sh", "mode": "755", "type": "file", "text": "#!/bin/bash\n"}
    return Tree(name, (*entries, script) if published else entries)


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A manifest's entry. Raises KeyError, TypeError or ValueError where `trees.pack` could not use it."""
    if not entry["path"].startswith("/") or ".." in entry["path"].split("/"):
        raise ValueError(f"path {entry['path']!r}")
    int(entry["mode"], 8)
    int(entry.get("mtime", 0))
    if entry["type"] == "file" and not isinstance(entry.get("text", entry.get("b64")), str):
        raise ValueError(f"{entry['path']} has neither text nor b64")
    return entry


def open_text(path: Path) -> str:
    """The text of a file, unpacked where its name ends in .gz."""
    try:
        return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"intercode: {path} cannot be read: {error}") from None


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, or of one JSON list."""
    try:
        if path.suffix == ".json":
            return json.loads(open_text(path))
        return [json.loads(line) for line in open_text(path).splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"intercode: {path} is not JSON: {error}") from None


def prepare(source: Path | None, target: Path | None = None) -> dict[str, Any]:
    """Check the data in `source` (a checkout or a folder of prepared files; None: `target` itself), put them in `target`, and
    say what was found.

    `target` defaults to `default_folder()`. Raises UserError naming what is missing.
    """
    target = (target or default_folder()).expanduser()
    if source is not None and not source.is_dir():
        raise UserError(f"intercode: there is no folder {source}: {WHERE}")
    if source is not None and is_checkout(source):
        target.mkdir(parents=True, exist_ok=True)
        convert(source, target)
    elif source is not None and source.resolve() != target.resolve():
        target.mkdir(parents=True, exist_ok=True)
        for pattern in (*(p for patterns in FILES.values() for p in patterns), *MANIFESTS, *DUMPS):
            for path in source.glob(pattern):
                shutil.copyfile(path, target / path.name)
    _load.cache_clear()
    return {"folder": str(target)} | {language: _summary(target, language) for language in LANGUAGES}


def _summary(folder: Path, language: Language) -> dict[str, Any] | str:
    try:
        tasks = _load(folder, language)
    except UserError as error:
        if any(path for pattern in FILES[language] for path in folder.glob(pattern)):
            raise
        return f"not there ({error})"
    kinds = sorted({item.kind for item in tasks.items})
    return {"tasks": len(tasks.items), "set in": kinds if len(kinds) < 8 else len(kinds)}
