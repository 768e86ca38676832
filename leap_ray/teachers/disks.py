"""Where SQLite files may lie: on a local disk. Locks and shared memory of network file systems lose or break them.

The ledger (appended lines) stays in the run's folder wherever that is. Its SQLite file, if that folder is on a network file
system, lies on this machine, with a pointer beside the ledger; a copy is put back whenever it is closed, for a run that goes on
elsewhere.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path

from leap_ray.cache import cache_folder
from leap_ray.errors import UserError
from leap_ray.types import digest

log = logging.getLogger(__name__)
NETWORK = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "ceph", "lustre", "gpfs",
        "mmfs", "beegfs", "fhgfs", "glusterfs", "ocfs2", "gfs2", "pvfs2", "orangefs", "panfs", "wekafs", "vastfs", "davfs",
        "efs", "virtiofs", "vboxsf", "prl_fs", "acfs", "dlm", "quobyte", "moosefs", "curlftpfs",
    }
)  # fmt: skip
LOCAL_FUSE = frozenset(
    {"fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs-3g", "fuse.lxcfs", "fuse.portal", "fuse.ext2fs"}
)
POINTER = "calls.place.json"


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds a path, as the kernel names it; "" where it cannot be told."""
    real = Path(os.path.realpath(path))
    best, kind = -1, ""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = Path(parts[1].encode().decode("unicode_escape"))
        if len(point.parts) >= best and (real == point or point in real.parents):
            best, kind = len(point.parts), parts[2]
    return kind


def on_network(path: Path) -> str:
    """The network file system that holds a path, or ""."""
    kind = file_system(path)
    remote = kind in NETWORK or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)
    if kind in ("9p", "virtiofs") and kind == file_system(Path("/")):
        return ""  # the disk of a sandbox or virtual machine
    return kind if remote else ""


def check_local(path: Path, setting: str) -> None:
    """Raises UserError for a folder in which several processes would share a SQLite file over the network."""
    if kind := on_network(path):
        raise UserError(
            f"{setting}: {path} is on a network file system ({kind}), where SQLite loses data: name a local folder"
        )


class Place:
    """Where a teacher folder's SQLite file is: in the folder, or on this machine's disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "calls.sqlite"
        self.copy: Path | None = None
        if on_network(folder):
            self.copy, self.path = self.path, _local(folder) / "calls.sqlite"
            self._come()

    def _come(self) -> None:
        """Take up the file here: ours, or the copy that was put back from elsewhere."""
        assert self.copy is not None
        pointer = self.folder / POINTER
        here = {"host": socket.gethostname(), "path": str(self.path), "clean": False}
        last = json.loads(pointer.read_text()) if pointer.exists() else None
        if last and {**last, "clean": False} != here:
            if not last.get("clean"):
                raise UserError(
                    f"the teacher's answers of this run are on {last['host']} in {last['path']}: go on there, or copy that file "
                    f"to {self.copy} and remove {pointer}"
                )
            last = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if last is None and self.copy.exists():
            shutil.copyfile(self.copy, self.path)
        _write(pointer, here)

    def leave(self) -> None:
        """Put a copy back beside the ledger, once the file is closed."""
        if self.copy is None:
            return
        part = self.copy.with_suffix(".part")
        try:
            shutil.copyfile(self.path, part)
            os.replace(part, self.copy)
            _write(self.folder / POINTER, {"host": socket.gethostname(), "path": str(self.path), "clean": True})
        except OSError as error:
            log.warning("the teacher's answers stay on this machine, in %s: %s", self.path, error)


def _local(folder: Path) -> Path:
    """A folder of this machine's own disk for that run."""
    name = f"teacher-{digest(str(folder.resolve()))}"
    for root in (
        cache_folder() / "teachers",
        Path(tempfile.gettempdir()) / f"leap-ray-{os.getuid()}",
        Path("/var/tmp"),
    ):
        if not on_network(root):
            return root / name
    raise UserError(
        f"{folder} and this machine's caches are on network file systems, where SQLite loses data: set LEAP_RAY_CACHE to a "
        "local folder"
    )


def _write(path: Path, plain: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(plain))
    os.replace(part, path)
