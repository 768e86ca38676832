"""ALFWorld's games on disk: found or fetched, unpacked, indexed once, and listed as panels.

A data folder holds `json_2.1.1/<split>/<task>/<trial>/{game.tw-pddl,traj_data.json}`, as alfworld's own downloader leaves it.
A game's id is the path of its trial folder below `json_2.1.1`, with "/" on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from leap_ray.cache import cache_folder
from leap_ray.envs.alfworld.translation import write_atomically
from leap_ray.envs.alfworld.world import KINDS
from leap_ray.errors import UserError
from leap_ray.tasks import Panel
from leap_ray.types import Task

SPLITS = ("train", "valid_seen", "valid_unseen", "valid_train")
TYPES = tuple(KINDS.values())  # task types, as traj_data.json names them
LAYOUT = "json_2.1.1"
FILES = ("game.tw-pddl", "traj_data.json")  # of a game
REMEDY = "`leap-ray data alfworld` finds, fetches and unpacks the games"


@dataclass(frozen=True)
class Summary:
    """What a data folder holds."""

    folder: str
    counts: Mapping[str, Mapping[str, int]]  # split -> task type -> games
    skipped: Mapping[str, int] = field(default_factory=dict)  # reason -> games not playable as text, as in stock
    unpacked: tuple[str, ...] = ()  # archives unpacked by this call

    @property
    def missing(self) -> tuple[str, ...]:
        """Splits with no game."""
        return tuple(split for split in SPLITS if not self.counts.get(split))

    def __str__(self) -> str:
        lines = [f"ALFWorld games in {self.folder}"]
        lines += [f"  unpacked {name}" for name in self.unpacked]
        for split in SPLITS:
            kinds = self.counts.get(split, {})
            detail = ", ".join(f"{short} {kinds[kind]}" for short, kind in KINDS.items() if kind in kinds)
            lines.append(f" {split:<12}{sum(kinds.values()):>5}  {detail or 'none here'}")
        lines += [f"  skipped {count}: {reason}" for reason, count in sorted(self.skipped.items())]
        return "\n".join(lines)


class Games:
    """The playable games of one data folder."""

    def __init__(self, folder: Path, kinds: Mapping[str, str], skipped: Mapping[str, int]) -> None:
        self.folder, self.kinds, self.skipped = folder, dict(kinds), dict(skipped)  # kinds: id -> task type
        self._panels: dict[str, Panel] = {}

    def panel(self, name: str) -> Panel:
        """The split of that name. Raises UserError if there is no such split, or if it has no games here."""
        if name not in SPLITS:
            raise UserError(f"alfworld has no panel {name!r}: known are {', '.join(SPLITS)}")
        if name not in self._panels:
            ids = [i for i in self.kinds if i.startswith(f"{name}/")]
            if not ids:
                raise UserError(f"no {name} games in {self.folder / LAYOUT}; {REMEDY}")
            self._panels[name] = Panel.of("alfworld", name, [Task("alfworld", i, name, self.kinds[i]) for i in ids])
        return self._panels[name]

    def path(self, task: Task) -> Path:
        """The game's folder. Raises UserError if its panel does not hold the task or its files are gone."""
        if task.id not in self.kinds or not task.id.startswith(f"{task.panel}/"):
            self.panel(task.panel).task(task.id)  # raises, naming the panel
        folder = self.folder / LAYOUT / task.id
        if not (folder / "game.tw-pddl").is_file():
            raise UserError(f"ALFWorld game file {folder / 'game.tw-pddl'} is missing; {REMEDY}")
        return folder

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every playable game, by id."""
        return tuple(Task("alfworld", i, i.partition("/")[0], kind) for i, kind in sorted(self.kinds.items()))

    def content(self, tasks: Iterable[Task]) -> str:
        """Names what these tasks' games hold: a hash of each one's id and of both its files. A process reads them once."""
        whole = hashlib.sha256()
        for task in sorted(tasks, key=lambda task: task.id):
            folder = self.path(task)
            hashes = " ".join(_content(folder / name) for name in FILES)
            whole.update(f"{task.id} {hashes}\n".encode())
        return whole.hexdigest()[:12]

    def summary(self, unpacked: tuple[str, ...] = ()) -> Summary:
        counts = {split: Counter(k for i, k in self.kinds.items() if i.startswith(f"{split}/")) for split in SPLITS}
        return Summary(
            str(self.folder), {s: dict(sorted(c.items())) for s, c in counts.items()}, self.skipped, unpacked
        )


def data_folder(setting: str | Path | None = None) -> Path:
    """Where the games should be: the setting, then $ALFWORLD_DATA, then alfworld's default folder."""
    folder = Path(setting or os.environ.get("ALFWORLD_DATA") or Path.home() / ".cache" / "alfworld").expanduser()
    return folder.parent if folder.name == LAYOUT else folder


def find_games(setting: str | Path | None = None, cache: Path | None = None) -> Games:
    """The games of the data folder; looked through once per process. Raises UserError if there are none."""
    return _games_of(data_folder(setting).resolve(), cache or cache_folder())


def prepare(
    source: str | Path | None = None, target: str | Path | None = None, *, cache: Path | None = None
) -> Summary:
    """Get the games ready and say what was found.

    `source` may be a folder that holds the games already or archives of them (*.tar.xz, *.zip), which are unpacked into
    `target`. Without a source, games already in `target` are used, else alfworld's own downloader fetches them there.
    `target` defaults to $ALFWORLD_DATA, then ~/.cache/alfworld. Raises UserError if no game is there in the end.
    """
    folder = data_folder(target)
    unpacked: tuple[str, ...] = ()
    if source is not None:
        given = Path(source).expanduser()
        if _has_games(data_folder(given)):
            folder = data_folder(given)
        else:
            unpacked = _unpack_all(given, folder)
    elif not _has_games(folder):
        _download(folder)
    _games_of.cache_clear()
    return find_games(folder, cache).summary(unpacked)


def _has_games(folder: Path) -> bool:
    return any((folder / LAYOUT / split).is_dir() for split in SPLITS)


def _unpack_all(source: Path, target: Path) -> tuple[str, ...]:
    archives = sorted([*source.glob("*.tar.xz"), *source.glob("*.zip")]) if source.is_dir() else [source]
    if not archives or not all(a.is_file() for a in archives):
        raise UserError(f"{source} holds neither {LAYOUT}/ nor archives (*.tar.xz, *.zip) of ALFWorld games")
    return tuple(archive.name for archive in archives if _unpack(archive, target))


def _unpack(archive: Path, target: Path) -> bool:
    """Unpack one archive unless a mark says that this very file was unpacked here before."""
    stat = archive.stat()
    mark = target / LAYOUT / f".unpacked-{archive.name}"
    stamp = f"{stat.st_size} {stat.st_mtime_ns}"
    if mark.is_file() and mark.read_text() == stamp:
        return False
    try:
        target.mkdir(parents=True, exist_ok=True)
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                file.extractall(target)
        else:
            with tarfile.open(archive) as file:
                file.extractall(target, filter="data")
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked into {target}: {error}") from None
    if not _has_games(target):
        raise UserError(f"{archive} holds no {LAYOUT}/ folder of ALFWorld games")
    mark.write_text(stamp)
    return True


def _download(folder: Path) -> None:
    """Run alfworld's own downloader, which comes with the package."""
    script = _downloader()
    if script is None:
        raise UserError(f"no ALFWorld games in {folder} and no `alfworld-download` to fetch them: install alfworld")
    done = subprocess.run([sys.executable, script, "--data-dir", str(folder)], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"no ALFWorld games in {folder}, and alfworld-download failed: {reason}. Run it where the network is open, "
            "then set ALFWORLD_DATA or the domain's setting `data` to its folder"
        )


def _downloader() -> str | None:
    beside = Path(sys.executable).with_name("alfworld-download")
    return str(beside) if beside.is_file() else shutil.which("alfworld-download")


@lru_cache(maxsize=8)
def _games_of(folder: Path, cache: Path) -> Games:
    if not _has_games(folder):
        raise UserError(f"no ALFWorld games in {folder} (no {LAYOUT}/ there); {REMEDY}")
    path = cache / "alfworld" / "index" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"
    before = _read_index(path)
    now = {
        i: before[i] if before.get(i, [None])[0] == stamp else [stamp, _judge(folder, i)] for i, stamp in _scan(folder)
    }
    if now != before:
        write_atomically(path, json.dumps(now).encode())
    kinds = {i: verdict for i, (_, verdict) in now.items() if verdict in TYPES}
    return Games(folder, kinds, Counter(verdict for _, verdict in now.values() if verdict not in TYPES))


def _read_index(path: Path) -> dict[str, list[str]]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _scan(folder: Path) -> list[tuple[str, str]]:
    """Every trial folder's id, with a stamp that changes when one of its two files does."""
    found = []
    for split in SPLITS:
        for trial in sorted((folder / LAYOUT / split).glob("*/*/")):
            stats = [_stat(trial / name) for name in FILES]
            found.append((f"{split}/{trial.parent.name}/{trial.name}", " ".join(stats)))
    return found


def _content(path: Path) -> str:
    """Hash of the file, read again only when it has changed. Raises UserError if it cannot be read."""
    try:
        stat = path.stat()
        return _sha256(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        raise UserError(f"ALFWorld game file {path} cannot be read ({error.strerror}); {REMEDY}") from None


@lru_cache(maxsize=20_000)  # all games there are, both files
def _sha256(path: Path, stamp: tuple[int, ...]) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stat(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "-"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _judge(folder: Path, task_id: str) -> str:
    """The game's task type, or why it is left out: stock's own filters, and a file that cannot be read."""
    trial = folder / LAYOUT / task_id
    if "movable" in task_id or "Sliced" in task_id:
        return "movable or sliced objects: no text game"
    try:
        kind = json.loads((trial / "traj_data.json").read_bytes())["task_type"]
        solvable = json.loads((trial / "game.tw-pddl").read_bytes()).get("solvable")
    except FileNotFoundError as error:
        return f"no {Path(error.filename).name}"
    except (OSError, ValueError, KeyError):
        return "unreadable files"
    if not solvable:
        return "not known to be solvable"
    return kind if kind in TYPES else f"unknown task type {kind!r}"
