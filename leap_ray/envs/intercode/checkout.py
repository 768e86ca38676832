"""From a checkout of princeton-nlp/intercode to the files that `data.py` reads.

Its file systems exist there only as shell scripts. Each is run in a sandbox, and what it leaves is written down as a manifest.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

from leap_ray.errors import UserError

BASH = "data/nl2bash/nl2bash_fs_{}.json"
SCRIPT = "docker/bash_scripts/setup_nl2b_fs_{}.sh"
SPIDER, DUMP, MBPP = (
    "data/sql/spider/ic_spider_dev.json",
    "data/sql/spider/ic_spider_dbs.sql",
    "data/python/mbpp/ic_mbpp.json",
)


def is_checkout(folder: Path) -> bool:
    """Whether the folder looks like a checkout of the original."""
    return (folder / BASH.format(1)).is_file() and (folder / SCRIPT.format(1)).is_file()


def convert(checkout: Path, target: Path) -> None:
    """Write the bash tasks with their manifests, the SQL tasks with their databases, and the Python tasks."""
    records: list[dict[str, Any]] = []
    for number in range(1, 5):
        for i, record in enumerate(_read(checkout / BASH.format(number))):
            row = {"idx": len(records), "fs": number, "fs_idx": i, "query": record["query"], "gold": record["gold"]}
            records.append(row)
        manifest = manifest_of((checkout / SCRIPT.format(number)).read_text())
        (target / f"fs_{number}.manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    _write(target / "nl2bash.jsonl", records)
    for name, path in (("spider_dev.jsonl", SPIDER), ("mbpp.jsonl", MBPP)):
        if (checkout / path).is_file():
            _write(target / name, _read(checkout / path))
    if (checkout / DUMP).is_file():
        shutil.copyfile(checkout / DUMP, target / "spider_dbs.sql")


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"intercode: {path} cannot be read: {error}") from None


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def manifest_of(script: str) -> list[dict[str, Any]]:
    """What a set-up script lays out in an empty root, as manifest entries. Runs it in a sandbox."""
    from leap_ray.envs.intercode.rootfs import find, skeleton
    from leap_ray.envs.intercode.sandbox import MIB, Bubblewrap

    sandbox = Bubblewrap(find())
    try:
        sandbox.extract(skeleton(find(), 0))
        sandbox.run(["/bin/mkdir", "/tmp"])
        before = _names(sandbox.run(["/bin/ls", "-A", "/"]).output)
        run = sandbox.run(["/bin/bash", "-c", script], seconds=60)
        if run.code is None:
            raise UserError(f"intercode: a set-up script used more {run.broke} than allowed")
        tops = _names(sandbox.run(["/bin/ls", "-A", "/"]).output) - before
        if not tops:
            return []
        archive = sandbox.run(["/bin/tar", "-cf", "-", "-C", "/", *sorted(tops)], cap=64 * MIB).output
    finally:
        sandbox.close()
    return _entries(archive)


def _names(listing: bytes) -> set[str]:
    return set(listing.decode().split("\n")) - {""}


def _entries(archive: bytes) -> list[dict[str, Any]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        newest = max(member.mtime for member in members)
        return [_entry(tar, member, newest) for member in sorted(members, key=lambda m: m.name)]


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, newest: float) -> dict[str, Any]:
    """One manifest entry; a time that the script set itself (hours or more before it ran) is kept."""
    entry: dict[str, Any] = {
        "path": f"/{member.name}",
        "mode": f"{member.mode:o}",
        "type": "dir" if member.isdir() else "file",
    }
    file = tar.extractfile(member)
    if file is not None:
        data = file.read()
        try:
            entry["text"] = data.decode()
        except UnicodeDecodeError:
            entry["b64"] = base64.b64encode(data).decode()
        if newest - member.mtime > 3600:
            entry["mtime"] = int(member.mtime)
    return entry
