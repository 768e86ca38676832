"""The run directory: append, fsync, resume.

    runs/<name>/
      config.yaml  manifest.json          what this run is; only a configuration of the same hash may continue it
      panels/<domain>-<panel>-<use>.json  the tasks it plays
      <stage>/<kind>.jsonl                records, one a line, on disk before anyone acts on them
      <stage>/<kind>.parquet              the same, once the stage is done
      <stage>/done.json                   the stage's result: its presence ends the stage
      metrics.jsonl  tensorboard/         figures per stage

A record counts once its line is on disk (fsync). Records carry an `id`; an id that is there already is not written again, so
a stage can be run again from its start at any time. A line that cannot be read is set aside in `<kind>.jsonl.corrupt`, named in
a warning, and its record is made again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from leap_ray.config import NO_URL, OPERATIONAL, REPLACEABLE, URL
from leap_ray.errors import UserError
from leap_ray.paths import absolute, check_writable
from leap_ray.types import RecordError, from_json, to_json
from leap_ray.yaml_files import parse_yaml, read_yaml

log = logging.getLogger(__name__)
R = TypeVar("R")


class Records(Generic[R]):
    """An append-only file of records of one type, each known by a key."""

    def __init__(self, path: Path, cls: type[R], key: Callable[[R], str]) -> None:
        self.path = path
        self.cls = cls
        self.key = key
        path.parent.mkdir(parents=True, exist_ok=True)
        self.by_key: dict[str, R] = {}
        self._read()
        self._file: BinaryIO | None = None  # opened with the first record: a stage without any has no file

    def __contains__(self, key: str) -> bool:
        return key in self.by_key

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self):
        return iter(self.by_key.values())

    def append(self, record: R) -> bool:
        """Write the record and wait until it is on disk. False if its key was there already (nothing is written)."""
        key = self.key(record)
        if key in self.by_key:
            return False
        self._file = self._file or open(self.path, "ab")
        write_line(self._file, to_json(record))
        self.by_key[key] = record
        return True

    def drop(self, unwanted: Callable[[R], bool]) -> int:
        """Take records out of the file, so that they are made again. Returns how many."""
        dropped = [key for key, record in self.by_key.items() if unwanted(record)]
        for key in dropped:
            del self.by_key[key]
        if dropped:
            self.close()
            write_atomically(self.path, b"".join(to_json(record).encode() + b"\n" for record in self))
        return len(dropped)

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def __enter__(self) -> Records[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def to_parquet(self) -> Path:
        """Write the records, in the order of their keys, as Parquet beside the lines."""
        import pandas

        target = self.path.with_suffix(".parquet")
        rows = [json.loads(to_json(self.by_key[key])) for key in sorted(self.by_key)]
        for row in rows:  # an empty mapping has no Parquet type
            for name in [n for n, v in row.items() if isinstance(v, dict) and n not in ("task",)]:
                row[name] = json.dumps(row[name])
        part = target.with_suffix(".parquet.part")
        pandas.DataFrame(rows).to_parquet(part, index=False)
        os.replace(part, target)
        return target

    def _read(self) -> None:
        if not self.path.exists():
            return
        good, bad = [], []
        content = self.path.read_bytes()
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                record = from_json(self.cls, line.decode())
            except (RecordError, UnicodeDecodeError) as error:
                bad.append((number, line, error))
                continue
            good.append(line)
            self.by_key[self.key(record)] = record
        if bad:
            self._set_aside(good, bad)
        elif content and not content.endswith(b"\n"):  # killed between a line and its end
            write_atomically(self.path, content + b"\n")

    def _set_aside(self, good: list[bytes], bad: list[tuple[int, bytes, Exception]]) -> None:
        aside = self.path.with_name(self.path.name + ".corrupt")
        with open(aside, "ab") as file:
            for _, line, _ in bad:
                write_line(file, line)
        write_atomically(self.path, b"".join(line + b"\n" for line in good))
        for number, _, error in bad:
            log.warning("%s line %d cannot be read and was set aside in %s (%s); its record will be made again",
                        self.path, number, aside.name, str(error)[:200])  # fmt: skip


class RunDirectory:
    """One run's folder, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        check_folder(path)
        self.path = path = absolute(path)
        check_writable(path, "the run directory", "choose another --run-dir")
        self._lock = open(path / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"run directory {path} is in use by another process: wait for it or stop it") from None

    def close(self) -> None:
        self._lock.close()

    def bind(self, config_hash: str, config_yaml: str, facts: dict[str, Any]) -> None:
        """Make this the directory of that configuration. Raises UserError if it is another's.

        The hash decides; settings that it leaves out are replaced by the new ones, and so are REPLACEABLE ones, which is said
        and kept in the manifest's `changes`. Facts: `prompts`, the prompts' hash, must be what it was, for no prompt is made
        anew; `versions` of packages, `data` that the domains stand on and `servers` that have changed are said.
        """
        manifest, stored = self.path / "manifest.json", self.path / "config.yaml"
        if manifest.exists():
            made = read_json(manifest)
            changes = _changes(self.path, made, config_hash, config_yaml)
            _check_facts(self.path, made, facts)
            if changes:  # first: killed in between, the change is said once more rather than never
                write_atomically(manifest, json.dumps({**made, "changes": changes}, indent=1).encode())
            if stored.read_text() != config_yaml:
                write_atomically(stored, config_yaml.encode())
            return
        write_atomically(stored, config_yaml.encode())
        write_atomically(manifest, json.dumps({"config_hash": config_hash, **facts}, indent=1).encode())

    @property
    def config_hash(self) -> str:
        """Hash of the configuration that the run was made with: it names the run's weights, whatever was replaced since."""
        return read_json(self.path / "manifest.json")["config_hash"]

    def records(self, stage: str, kind: str, cls: type[R], key: Callable[[R], str]) -> Records[R]:
        """The records of that kind in that stage: those on disk, ready for more."""
        return Records(self.path / stage / f"{kind}.jsonl", cls, key)

    def result(self, stage: str) -> dict[str, Any] | None:
        """The stage's result if it is done."""
        path = self.path / stage / "done.json"
        return read_json(path) if path.exists() else None

    def finish(self, stage: str, result: dict[str, Any]) -> dict[str, Any]:
        """Mark the stage done."""
        (self.path / stage).mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / stage / "done.json", json.dumps(result, indent=1, default=str).encode())
        return result


def _check_facts(run: Path, made: dict[str, Any], now: dict[str, Any]) -> None:
    if made.get("prompts", now.get("prompts")) != now.get("prompts"):
        raise UserError(
            f"run {run} was made with other prompts ({made['prompts']}; now {now['prompts']}): the chat template or "
            "leap-ray's own have changed since; go on with the versions that made it (manifest.json), or choose another --run-dir"
        )
    for kind in made.keys() & now.keys() & {"versions", "data", "servers"}:
        before, after = made[kind], now[kind]
        names = [name for name in sorted(before | after) if before.get(name) != after.get(name)]
        if names:
            words = ", ".join(f"{name} {before.get(name)} → {after.get(name)}" for name in names)
            log.warning(
                "run %s was made with other %s: %s; what it gave before and gives now may not compare", run, kind, words
            )


def _changes(run: Path, made: dict[str, Any], config_hash: str, config_yaml: str) -> list[dict[str, Any]]:
    """The manifest's changes of REPLACEABLE settings and this configuration's, said; none if this one brings no new one.

    Raises UserError if the run is of another configuration. A hash that was there once is this run's.
    """
    before: list[dict[str, Any]] = made.get("changes", [])
    known = [made.get("config_hash"), *(change["config_hash"] for change in before)]
    different = _differences(run / "config.yaml", config_yaml)
    replaced = {name: values for name, values in different.items() if _is_one_of(REPLACEABLE, name)}
    others = {name: values for name, values in different.items() if name not in replaced}
    if config_hash not in known and (others or not replaced):
        raise _another_configuration(run, known[0], config_hash, others)
    if not replaced:
        return []
    words = ", ".join(f"{name} {old} → {new}" for name, (old, new) in replaced.items())
    log.warning(
        "run %s goes on with other settings that decide results: %s; manifest.json keeps the change", run, words
    )
    more = [{"setting": n, "before": o, "after": a, "config_hash": config_hash} for n, (o, a) in replaced.items()]
    return [*before, *more]


def _another_configuration(run: Path, made: str, given: str, different: dict[str, tuple[Any, Any]]) -> UserError:
    words = [f"{name} is {old} there, {new} here" for name, (old, new) in different.items()]
    settings = f"{', '.join(words[:5])}{', and more' if len(words) > 5 else ''}; " if words else ""
    return UserError(
        f"run directory {run} belongs to another configuration ({made}; this one is {given}): {settings}"
        "choose another --run-dir, or continue that run with `leap-ray resume`"
    )


def _differences(stored: Path, config_yaml: str) -> dict[str, tuple[Any, Any]]:
    """The settings that make a stored configuration another one: by their names, what they are there and here."""
    old, new = _flat(read_yaml(stored, "configuration")), _flat(parse_yaml(config_yaml, "configuration"))
    names = [name for name in sorted({*old, *new}) if not _is_one_of(OPERATIONAL, name)]
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _is_one_of(settings: Mapping[str, Sequence[str]], name: str) -> bool:
    """Whether a dotted name is that of one of these settings, by section, or of a part of it (`teacher.prices.input`)."""
    wholes = (f"{section}.{setting}".lstrip(".") for section, names in settings.items() for setting in names)
    return any(name == whole or name.startswith(f"{whole}.") for whole in wholes)


def _flat(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names, as on the command line."""
    if isinstance(plain, list) and all(isinstance(item, dict) for item in plain):
        plain = {str(i): item for i, item in enumerate(plain)}
    if not isinstance(plain, dict):
        return {prefix: plain}
    return {
        k: v for name, item in plain.items() for k, v in _flat(item, f"{prefix}.{name}" if prefix else name).items()
    }


def check_folder(path: str | Path, option: str = "run directory") -> None:
    """Refuse a URL (`s3://bucket/run`, `file:///run`) for a run directory. Give it the path before it is made absolute."""
    if URL.match(str(path)):
        raise UserError(f"{option} {path} is a URL: {NO_URL}")


def check_room(path: Path, gib: float) -> None:
    """Raise UserError unless the disk that holds `path` has that many GiB free."""
    existing = next(p for p in [path, *path.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < gib:
        raise UserError(
            f"no room for {path}: {free:.1f} GiB free, {gib:g} GiB wanted (min_free_gib): free some space or choose "
            "another --run-dir"
        )


def open_lines(path: Path) -> BinaryIO:
    """A file of lines, to be appended to. A last line that a crash cut off is ended, so that the next one stands alone."""
    file = open(path, "a+b")
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file


def write_line(file: Any, line: str | bytes) -> None:
    """Append one line and wait until it is on disk. An OSError names the file."""
    data = line if isinstance(line, bytes) else line.encode()
    with named(file.name):
        file.write(data + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """An OSError of a write says which file it was: the system itself says that of opening alone."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file so that a reader, or a crash, sees the old content or the new, never a part."""
    part = path.with_name(path.name + ".part")
    with named(part), open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """The JSON file's content. Raises UserError naming the file if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
