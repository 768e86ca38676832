"""The file systems that bash tasks are set in: from a manifest to an archive that a sandbox unpacks in a few milliseconds.

A tree is made once a process: laid out in a sandbox, put under git there as the original does (its ignore list, `git clean -fd`,
which also removes empty folders, `/tmp` among them), and read back as a tar archive. An episode only unpacks that archive.
All files without a time of their own bear the same one, nine days ago, and those with one keep their distance to it ("recent"
stays recent): what `find -mtime` and `ls -l` show then neither depends on how long a process has run nor differs between the
student's sandbox and the gold command's.
"""

from __future__ import annotations

import base64
import io
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leap_ray.envs.intercode.rootfs import Base, skeleton
from leap_ray.envs.intercode.sandbox import MIB, Bubblewrap, Limits
from leap_ray.errors import UserError
from leap_ray.types import digest

DAY = 86_400
AGE = 9  # days; the original's recorded outputs come from trees more than a week old
RECORDED = (
    1_685_059_200  # 26 May 2023: the day on which the original's images stood, to which the manifests' times relate
)
# Folders of the base, which git does not look into (as in the original's image).
IGNORED = (
    "bin", "boot", "dev", "etc", "home", "lib", "media", "opt", "proc", "root", "run", "sbin", "srv", "sys", "usr", "var",
    ".dockerenv",
)  # fmt: skip
PUT_UNDER_GIT = """
set -e
touch /run/began
export GIT_AUTHOR_DATE="$BUILT +0000" GIT_COMMITTER_DATE="$BUILT +0000"
git config --global user.email "student@example.org"
git config --global user.name "student"
git init -q --template= -b master
git config core.trustctime false
git config core.checkStat minimal
git add -A
git commit -q --allow-empty -m "initial commit"
git clean -fdq
git status --short >&2
# What all this touched would bear the time of this minute, and so differ between the student's machine and another's.
for top in .git root/.gitconfig {names}; do
    test ! -e $top || find $top -newer /run/began ! -type l -exec touch -d @$BUILT {{}} +
done
rm /run/began
"""
PACK = """
present=$(for top in .git .gitignore root/.gitconfig {names}; do test ! -e $top || echo $top; done)
tar --format=gnu -cf - $present
"""


@dataclass(frozen=True)
class Tree:
    """A file system as data. `entries`: mappings with path, mode, type and text or b64, and mtime where it has one."""

    name: str
    entries: tuple[Mapping[str, Any], ...]

    @property
    def hash(self) -> str:
        return digest([dict(entry) for entry in self.entries])

    @property
    def tops(self) -> list[str]:
        """Names in `/` that the tree adds."""
        return sorted({entry["path"].split("/")[1] for entry in self.entries})


def built(now: float | None = None) -> int:
    """The time that files bear, in seconds: midnight (UTC) AGE days before today. The same all day."""
    return int((time.time() if now is None else now) // DAY - AGE) * DAY


_archives: dict[tuple[str, Base, int], bytes] = {}


def archive(tree: Tree, base: Base, when: int) -> bytes:
    """Everything of a fresh machine that is not in `/usr`, as one tar archive (to be read with --ignore-zeros)."""
    key = (tree.hash, base, when)
    if key not in _archives:
        _archives[key] = skeleton(base, when) + _under_git(tree, base, when)
    return _archives[key]


def _under_git(tree: Tree, base: Base, when: int) -> bytes:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/root", "BUILT": str(when), "LC_ALL": "C"}
    sandbox = Bubblewrap(base, Limits(disk=256 * MIB, seconds=60), environment)
    try:
        sandbox.extract(skeleton(base, when))
        sandbox.extract(pack(tree.entries, when))
        script = put_under_git(tree) + PACK.format(names=" ".join(tree.tops))
        # The archive goes to a file first: it must not be mixed with what git says.
        run = sandbox.run(["/bin/bash", "-c", f"({script}) >/run/tree.tar"])
        if run.code != 0 or run.output:
            raise UserError(f"tree {tree.name} could not be put under git: {run.output.decode(errors='replace')[:500]}")
        return sandbox.run(["/bin/cat", "/run/tree.tar"], cap=128 * MIB).output
    finally:
        sandbox.close()


def put_under_git(tree: Tree) -> str:
    """The script that makes a tree laid out in `/` a git repository; BUILT in its environment is the time of its files."""
    return PUT_UNDER_GIT.format(names=" ".join(tree.tops))


def pack(entries: Sequence[Mapping[str, Any]], when: int) -> bytes:
    """The manifest's files and folders, and the ignore list, as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive_:
        ignore = {"path": "/.gitignore", "mode": "644", "type": "file", "text": "\n".join(IGNORED) + "\n"}
        for entry in (*entries, ignore):
            info = tarfile.TarInfo(entry["path"].lstrip("/"))
            info.mode = int(entry["mode"], 8)
            info.mtime = when + int(entry.get("mtime", RECORDED)) - RECORDED
            if entry["type"] == "dir":
                info.type = tarfile.DIRTYPE
                archive_.addfile(info)
                continue
            data = base64.b64decode(entry["b64"]) if "b64" in entry else entry["text"].encode()
            info.size = len(data)
            archive_.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
