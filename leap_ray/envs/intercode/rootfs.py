"""The read-only base of every sandbox: a Debian tree made for the purpose, or this machine's own `/usr`.

    python -m leap_ray.envs.intercode.rootfs TARGET      builds a Debian tree (525 MB, 2 minutes; needs root and debootstrap)

The Debian tree holds the packages of the original's image and no others, so that a command finds what it would find there: use
it for figures that are to be compared. The machine's own `/usr` needs no building and is what `auto` falls back to; packages that
this machine has and the image lacks (or the reverse) then change what some commands print. `Base.note` says which one it is.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from leap_ray.errors import UserError

VARIABLE = "LEAP_RAY_ROOTFS"  # names a Debian tree to use
MODULE = "leap_ray.envs.intercode.rootfs"
SUITE = "bookworm"
PACKAGES = (  # the original image's, and what Debian splits off from them
    "bash", "python3", "psmisc", "bsdmainutils", "cron", "imagemagick", "dnsutils", "git", "tree", "net-tools",
    "iputils-ping", "coreutils", "curl", "cpio", "jq", "procps",
)  # fmt: skip
TOP = ("boot", "home", "media", "opt", "root", "run", "srv", "sys")  # empty folders of every base
PROGRAMS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # folders of, or links to, programs and libraries
ABSENT = ("etc/resolv.conf",)  # files of a base that tell of the machine it was built on
AGE = 10 * 86_400  # seconds by which the base is at least older than the trees laid on it
LARGEST = 1 << 18  # bytes; a bigger file of /etc is left out of the sandbox
ACCOUNTS = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUPS = ("root:x:0:", "daemon:x:1:", "bin:x:2:", "sys:x:3:", "adm:x:4:", "tty:x:5:", "nogroup:x:65534:")
LOGS = (
    "alternatives.log",
    "bootstrap.log",
    "dpkg.log",
    "fontconfig.log",
    "apt/history.log",
    "apt/term.log",
)  # the image's
HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\tintercode\n"
NETWORKS = "# symbolic names for networks, see networks(5) for more information\nlink-local 169.254.0.0\n"


@dataclass(frozen=True)
class Base:
    """Where the sandbox's programs come from. `path` is the tree's root."""

    path: Path
    kind: str  # "debian" | "host"

    @property
    def note(self) -> str:
        """Which base this is and what that means for results, in a sentence."""
        if self.kind == "debian":
            return f"Debian tree {self.path}"
        return "this machine's own /usr: some commands may print other things than in the original's image"

    @property
    def python(self) -> str:
        """Path, inside, of the Python that runs `guest.py`."""
        return "/usr/bin/python3"

    def links(self) -> dict[str, str]:
        """Links in `/` into `/usr`, by name: bin, lib and the like."""
        names = [name for name in PROGRAMS if (self.path / name).is_symlink()]
        return {name: os.readlink(self.path / name).lstrip("/") for name in names}

    def mounts(self) -> list[str]:
        """Arguments of bubblewrap that lay this base out."""
        arguments = ["--ro-bind", str(self.path / "usr"), "/usr"]
        for name, target in self.links().items():
            arguments += ["--symlink", target, f"/{name}"]
        for name in PROGRAMS:
            there = self.path / name
            if there.is_dir() and not there.is_symlink():
                arguments += ["--ro-bind", str(there), f"/{name}"]
        return arguments

    def check(self) -> Base:
        """The base itself. Raises UserError where it lacks what a sandbox needs."""
        needed = ("usr/bin/python3", "usr/bin/git", "usr/bin/bash", "usr/bin/tar", "usr/bin/md5sum")
        if missing := [name for name in needed if not (self.path / name).exists()]:
            raise UserError(f"{self.path} cannot be a sandbox's base: it has no {', '.join('/' + m for m in missing)}")
        return self


def find(setting: str = "auto") -> Base:
    """The base that a setting names: "host", a path, or "auto" (the tree that LEAP_RAY_ROOTFS names, else the host)."""
    if setting == "host":
        return Base(Path("/"), "host").check()
    path = os.environ.get(VARIABLE, "") if setting == "auto" else setting
    if not path:
        return Base(Path("/"), "host").check()
    if not Path(path).is_dir():
        raise UserError(f"there is no sandbox base at {path}: build one with `python -m {MODULE} {path}`")
    return Base(Path(path).resolve(), "debian").check()


@cache
def skeleton(base: Base, when: int) -> bytes:
    """Everything outside `/usr` that a fresh machine has, as a tar archive: `/etc`, `/var`, the empty folders.

    `when` is the time (seconds) of the trees that go with it; what it holds is at least AGE older.
    """
    when -= AGE
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        _add_dir(archive, ".", when)
        for name in TOP:
            _add_dir(archive, name, when)
        for name, target in base.links().items():
            _add_link(archive, name, target, when)
        if base.kind == "debian":
            for part in ("etc", "root", "var/log", "var/spool"):
                _add_tree(archive, base.path, part, when)
        else:
            _add_host_etc(archive, when)
        for name in ("run/lock", "var", "var/cache", "var/lib", "var/log", "var/log/apt", "var/mail", "var/tmp"):
            _add_dir(archive, name, when)
        for name in LOGS:
            if base.kind != "debian" or not (base.path / "var/log" / name).exists():
                _add_file(archive, f"var/log/{name}", "", when)
        _add_file(archive, "etc/hosts", HOSTS, when)
        _add_file(archive, "etc/hostname", "intercode\n", when)
        _add_file(archive, "etc/networks", NETWORKS, when)
    return buffer.getvalue()


def _add_dir(archive: tarfile.TarFile, name: str, when: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, when
    archive.addfile(info)


def _add_file(archive: tarfile.TarFile, name: str, text: str, when: int) -> None:
    info = tarfile.TarInfo(name)
    data = text.encode()
    info.size, info.mode, info.mtime = len(data), 0o644, when
    archive.addfile(info, io.BytesIO(data))


def _add_link(archive: tarfile.TarFile, name: str, target: str, when: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = tarfile.SYMTYPE, target, when
    archive.addfile(info)


def _add_tree(archive: tarfile.TarFile, root: Path, part: str, when: int) -> None:
    """A folder of the base, owned by root; files that we may not read or that are large are left out."""
    made_by_us = partial(_owned_by_root, when)
    for folder, _, names in os.walk(root / part):
        relative = Path(folder).relative_to(root)
        archive.add(folder, str(relative), recursive=False, filter=made_by_us)
        for name in sorted([*names, *(d for d in os.listdir(folder) if (Path(folder) / d).is_symlink())]):
            path = Path(folder) / name
            usable = path.is_symlink() or (
                path.is_file() and path.stat().st_size <= LARGEST and os.access(path, os.R_OK)
            )
            if usable and str(relative / name) not in ABSENT:
                archive.add(path, str(relative / name), recursive=False, filter=made_by_us)


def _owned_by_root(when: int, info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.mtime = min(info.mtime, when)
    info.uname = info.gname = "root"
    return info


def _add_host_etc(archive: tarfile.TarFile, when: int) -> None:
    """Accounts of nobody in particular, and the links by which the host's programs are found."""
    _add_dir(archive, "etc", when)
    _add_file(archive, "etc/passwd", ACCOUNTS, when)
    _add_file(archive, "etc/group", "\n".join(GROUPS) + "\n", when)
    alternatives = Path("/etc/alternatives")
    if alternatives.is_dir():
        _add_dir(archive, "etc/alternatives", when)
        for link in sorted(alternatives.iterdir()):
            if link.is_symlink():
                archive.add(link, str(link).lstrip("/"), recursive=False, filter=partial(_owned_by_root, when))
    for name in ("etc/ld.so.cache", "etc/debian_version", "etc/os-release", "etc/services", "etc/protocols"):
        if (path := Path("/") / name).is_file():
            archive.add(path.resolve(), name, recursive=False, filter=partial(_owned_by_root, when))


def build(target: Path) -> None:
    """Build the Debian tree at `target` from the package mirror that this machine's apt uses."""
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty: name a folder that does not exist yet")
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        raise UserError("building a base needs root and the package debootstrap")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(target), *_mirror()]
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(f"debootstrap failed: its last lines above, and {target}/debootstrap/debootstrap.log, say why")
    shutil.rmtree(target / "var/cache/apt", ignore_errors=True)
    target.chmod(0o755)


def _mirror() -> list[str]:
    """The first Debian mirror that apt knows here; none leaves the choice to debootstrap."""
    for path in (*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")):
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = line.split()
            if words[:1] == ["URIs:"] or words[:1] == ["deb"]:
                return [word for word in words[1:] if "://" in word][:1]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Debian tree that sandboxes use as their read-only base.")
    parser.add_argument("target", type=Path, help="folder to build it in; must be empty or not exist")
    try:
        build(parser.parse_args().target.absolute())
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
