"""Attacks on a sandbox, to see whether it holds on this machine.

    python -m leap_ray.envs.intercode.attacks [--base auto|host|PATH]

Run it as root and as an ordinary user. The limits are looked at first; where they are not in force nothing dangerous is tried.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from leap_ray.envs.intercode import reaper
from leap_ray.envs.intercode.bash import STATUS
from leap_ray.envs.intercode.rootfs import Base, find, skeleton
from leap_ray.envs.intercode.sandbox import MIB, Bubblewrap, Limits, Run
from leap_ray.errors import UserError

LIMITS = Limits(memory=256 * MIB, address=512 * MIB, disk=16 * MIB, file=8 * MIB, files=5_000, seconds=2, output=MIB)
SECRET = "nobody-inside-may-read-this"
LATE = 3.0  # seconds in which an idle host must start a program while an attack goes on


class Escape(Exception):
    """Something got out; the message says what."""


class Target:
    """A sandbox under attack, and what the host looks like from here."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.box = Bubblewrap(base, LIMITS)
        self.box.extract(skeleton(base, 0))
        self.box.settle()

    def sh(self, command: str, seconds: float | None = None) -> Run:
        return self.box.run(["/bin/bash", "-c", command], seconds=seconds)

    def py(self, code: str, seconds: float | None = None) -> Run:
        return self.box.run(["/usr/bin/python3", "-ISc", code], seconds=seconds)

    def alive(self) -> None:
        """The sandbox answers, and no process of an attack is left in it."""
        held(self.sh("echo well").output == b"well\n", "the sandbox no longer answers")
        seen = self.sh("ls -d /proc/[0-9]* | wc -l").output
        held(int(seen) <= 4, f"{int(seen)} processes are left")

    def host_uids(self) -> set[int]:
        """The users, as the host counts them, that processes of the sandbox run as."""
        text = Path(f"/proc/{self.box.pid}/status").read_text()
        return {int(word) for line in text.splitlines() if line.startswith("Uid:") for word in line.split()[1:]}


def held(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Escape(otherwise)


def said(run: Run, *words: str) -> bool:
    return any(word in run.output.decode(errors="replace") for word in words)


def limits_in_force(t: Target) -> None:
    """Limits, user, capabilities and filter are as they should be: everything else builds on this."""
    shown = t.sh("ulimit -Hu; ulimit -Hv; ulimit -Hf; ulimit -Hn").output.split()
    wanted = [LIMITS.processes, LIMITS.address // 1024, LIMITS.file // 1024, LIMITS.descriptors]
    held([int(word) for word in shown] == wanted, f"limits are {shown}, not {wanted}")
    held(0 not in t.host_uids(), "the sandbox runs as the host's root: its processes would be unlimited")
    status = dict(
        line.split(":\t") for line in t.sh("cat /proc/self/status").output.decode().splitlines() if ":\t" in line
    )
    for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
        held(int(status[name], 16) == 0, f"{name} is {status[name]}")
    held(status["NoNewPrivs"] == "1", "new privileges can be gained")
    held(status["Seccomp"] == "2", "no system-call filter")


def fork_bomb(t: Target) -> None:
    """A program that copies itself without end."""
    before = float(subprocess.run([sys.executable, "-c", RESPONSIVE], stdout=subprocess.PIPE, check=True).stdout)
    watched = subprocess.Popen([sys.executable, "-c", RESPONSIVE], stdout=subprocess.PIPE)
    run = t.sh(":(){ :|:& };:; wait; sleep 5")
    out, _ = watched.communicate(timeout=60)
    held(run.broke == "time" or run.code is not None, "no result")
    meanwhile = f"the host needed {float(out):.1f} s to start a program meanwhile, {before:.1f} s before"
    held(float(out) < LATE + 5 * before, meanwhile)
    t.alive()


RESPONSIVE = """
import subprocess, time
worst = 0.0
for _ in range(10):
    began = time.monotonic()
    subprocess.run(["true"])
    worst = max(worst, time.monotonic() - began)
    time.sleep(0.1)
print(worst)
"""


def memory_bomb(t: Target) -> None:
    """One process, then many, that take what they can get."""
    held(t.py("x = bytearray(1 << 30)").code != 0, "one process got 1 GiB")
    many = "import os,time\nfor _ in range(5): os.fork()\nx = bytearray(100 << 20)\ntime.sleep(5)"
    held(t.py(many, 8).broke == "memory", "32 processes got 100 MiB each")
    t.alive()


def hidden_memory(t: Target) -> None:
    """Memory that no process is charged with: memory files, shared segments, /dev/shm."""
    held(t.py("import os; os.memfd_create('x')").code != 0, "memfd_create is allowed")
    for call in ("shmget(0, 1 << 20, 0o1600)", "msgget(0, 0o1600)"):
        code = f"import ctypes; raise SystemExit(0 if ctypes.CDLL(None).{call} == -1 else 9)"
        held(t.py(code).code == 0, f"{call} is allowed")
    held(t.sh("head -c 20000000 /dev/zero > /dev/shm/x").code != 0, "/dev/shm is not limited")
    held(t.sh("head -c 1000 /dev/zero > /dev/x").code != 0, "/dev can be written to")
    held(
        t.py("import mmap; mmap.mmap(-1, 4096)").code != 0,
        "shared mappings, which stay when they are unmapped, are allowed",
    )
    held(
        t.py("import mmap; mmap.mmap(open('/dev/zero', 'r+b').fileno(), 4096)").code != 0,
        "/dev/zero can be mapped shared",
    )
    held(t.py(SOCKETS, 8).broke == "memory", "what sockets hold is not counted")
    t.alive()


SOCKETS = """
import os, socket, time
for _ in range(4): os.fork()
kept = []
try:
    while True:
        pair = socket.socketpair()
        kept += pair
        for end in pair:
            end.setblocking(False)
            try:
                while True: end.send(b'x' * 60000)
            except BlockingIOError: pass
except OSError: pass
time.sleep(9)
"""


def shared_counters(t: Target) -> None:
    """What all processes of the machine, or of the user, share a number of."""
    code = "import ctypes; raise SystemExit(0 if ctypes.CDLL(None).{} == -1 else 9)"
    for call in ("syscall(206, 60000, ctypes.byref(ctypes.c_ulong(0)))", "inotify_init1(0)"):
        held(t.py(code.format(call)).code == 0, f"{call} is allowed")
    t.py("import os, time\nfor _ in range(5): os.fork()\nkept = []\nwhile True: kept.append(os.openpty())")
    for end in os.openpty():
        os.close(end)
    t.alive()


def disk_filler(t: Target) -> None:
    """One large file, many middling ones, very many empty ones."""
    held(
        t.sh("head -c 100000000 /dev/zero > /big; stat -c %s /big").output.split()[-1] <= b"8388608",
        "a file passed its limit",
    )
    t.sh("for i in $(seq 50); do head -c 4000000 /dev/zero > /f$i; done")
    used = int(t.sh("rm -f /big; df --output=used -B1 / | tail -1").output or b"0")
    held(used <= LIMITS.disk, f"{used} bytes were written")
    t.sh("rm -f /f*")
    run = t.sh("i=0; while :; do i=$((i+1)); : > /e$i; done", 10)
    held(run.broke in ("files", "time"), "files without end")
    made = int(t.sh("ls -U / | wc -l").output)
    held(made < 4 * LIMITS.files, f"{made} files were made")
    held(
        t.sh("find / -maxdepth 1 -name 'e*' -type f -delete; ls /", 10).code == 0, "files cannot be cleared away again"
    )
    run = t.sh("i=0; while :; do i=$((i+1)); : > /dev/shm/e$i; done", 10)
    held(run.broke in ("files", "time"), "files without end in /dev/shm")
    swollen = (
        "head -c 8000000 /dev/zero | gzip > /z; for i in $(seq 100); do cat /z; done | gzip -dc > /all; stat -c %s /all"
    )
    held(
        int(t.sh(f"rm -f /dev/shm/*; {swollen}", 10).output.split()[-1]) <= LIMITS.file,
        "an archive grew past its limit",
    )
    held(t.sh("truncate -s 10T /hole").code != 0, "a file of 10 TB was made")


def odd_trees(t: Target) -> None:
    """Folders without end, names that are no text, files that nobody may read, the root itself."""
    deep = "import os\nos.chdir('/')\nwhile True:\n os.mkdir('d')\n os.chdir('d')"
    held(t.py(deep, 10).code != 0, "folders without end")
    held(t.sh("rm -r /d", 10).code == 0, "folders cannot be cleared away again")
    names = [b"/a\nb", b"/\xff\xfe", b"/\x1b[2J", b"/ ", b"/" + b"n" * 255, b"/?? x"]
    held(t.py(f"for name in {names!r}: open(name, 'w').close()").code == 0, "odd names are refused")
    run = t.box.run(STATUS, trusted=True)
    held(run.broke == "", f"the machine cannot be looked at any more: {run.broke}")
    t.alive()
    t.sh("chmod -R 000 /etc /root / 2>/dev/null; rm -rf --no-preserve-root / 2>/dev/null", 10)
    held(t.sh("echo still").code is not None, "the sandbox no longer answers")


def blocking(t: Target) -> None:
    """Commands that wait for what never comes, stop themselves, or say a little for ever."""
    for way in (
        "mkfifo /pipe; cat /pipe",
        "kill -STOP $$",
        "while :; do echo x; sleep 0.1; done",
        "exec sleep 100",
        "wait $PPID; cat <&1",
    ):
        run = t.sh(way, 1)
        held(run.broke == "time" or run.code is not None, f"no result of {way}")
        t.alive()
    held(t.sh("cat; read x; read y < /dev/tty; cat /dev/stdin; exit 7").code == 7, "a reader of standard input waits")
    held(t.sh("exec >&- 2>&-; exit 6").code == 6, "a command that closes its output is lost")


def tampering(t: Target) -> None:
    """Another program in the place of one that judges."""
    for way in (
        "echo /f.so > /etc/ld.so.preload", "mv /lib64 /other; mkdir /lib64", "ln -sfn /f /bin", "rm /lib",
        "mv /etc /elsewhere; mkdir /etc; echo /f.so > /etc/ld.so.preload",
    ):  # fmt: skip
        fresh = Target(t.base)
        try:
            fresh.sh(way)
            run = fresh.box.run(STATUS, trusted=True)
            held(run.broke == "trust" and not run.output, f"after {way} a command of ours was run: {run.output!r}")
        finally:
            fresh.box.close()
    t.sh(
        "echo 'git() { echo fake; }' | tee ~/.bashrc ~/.profile; mkdir ~/bin; echo 'echo fake' > ~/bin/git; chmod +x ~/bin/git"
    )
    t.sh(
        "echo 'echo fake' > /f; chmod +x /f; git init -q /; git config core.fsmonitor /f; touch /f2; export -f git; alias git=/f"
    )
    held(not said(t.box.run(STATUS, trusted=True), "fake"), "a program of the student's spoke for git")


def endless_output(t: Target) -> None:
    """Output without end, and 100 MB of it."""
    run = t.sh("yes")
    held(run.broke == "time" and len(run.output) == LIMITS.output, "endless output was not cut")
    run = t.sh("head -c 100000000 /dev/zero", 10)
    held(run.total == 100_000_000 and len(run.output) == LIMITS.output, f"of 100 MB {run.total} were counted")
    t.alive()


def host_files(t: Target) -> None:
    """A file of the host, by its path, by links, through /proc."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret = Path(folder) / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o644)
        ways = (
            f"cat {secret}", f"ln -s {secret} /link; cat /link", f"cat /proc/1/root{secret}", f"cat /proc/self/root{secret}",
            f"cat /proc/*/root{secret}", f"cat /../../..{secret}", f"cat /proc/1/cwd{secret}", "cat /proc/*/environ",
            f"cat /proc/*/fd/* {secret}", f"ln {secret} /hard && cat /hard", f"cat /usr/../..{secret}",
            f"grep -rs {SECRET} / --include=secret",
        )  # fmt: skip
        for way in ways:
            held(not said(t.sh(way), SECRET), f"the host's file was read: {way.replace(folder, '')}")
    held(
        not Path("/etc/shadow").exists() or not said(t.sh("cat /etc/shadow"), "$6$", "$y$"),
        "the host's passwords were read",
    )


def writing_outside(t: Target) -> None:
    """Programs of the base, settings of the kernel."""
    mark = f"leap-ray-{os.getpid()}"
    for place in (f"/usr/{mark}", f"/usr/bin/{mark}", f"/proc/sys/{mark}", f"/usr/lib/{mark}"):
        held(t.sh(f"touch {place}").code != 0, f"{place} was written")
    for setting in ("kernel/hostname", "kernel/core_pattern", "vm/drop_caches", "kernel/panic"):
        held(t.sh(f"echo 1 > /proc/sys/{setting}").code != 0, f"{setting} was set")
    held(t.sh("echo c > /proc/sysrq-trigger").code != 0, "sysrq-trigger was written")
    t.sh(f"echo {mark} > /tmp-{mark}; echo {mark} > /etc/{mark}; rm -rf --no-preserve-root / 2>/dev/null; true", 10)
    held(not Path(f"/tmp-{mark}").exists() and not Path(f"/etc/{mark}").exists(), "a file appeared on the host")
    held((t.base.path / "usr/bin/bash").exists(), "the base was damaged")


def network(t: Target) -> None:
    """Servers of the host, on the loopback device and on an abstract name; other machines; the hypervisor."""
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as named:
        server.bind(("127.0.0.1", 0))
        server.listen()
        name = f"leap-ray-attack-{os.getpid()}"
        named.bind(f"\0{name}")
        named.listen()
        port = server.getsockname()[1]
        for address in (("127.0.0.1", port), ("10.0.2.2", 53), ("8.8.8.8", 53)):
            run = t.py(f"import socket; s = socket.socket(); s.settimeout(1); s.connect({address!r})")
            held(run.code != 0, f"a connection to {address[0]} was made")
        reached = t.py(f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')")
        held(reached.code != 0, "an abstract socket of the host was reached")
    held(t.py("import socket; socket.socket(40, 1)").code != 0, "a socket to the hypervisor was made")
    devices = {line.split(":")[0].strip() for line in t.sh("cat /proc/net/dev").output.decode().splitlines()[2:]}
    held(devices <= {"lo"}, f"network devices: {devices}")


def signals(t: Target) -> None:
    """Other processes of the host, and the sandbox's own first process."""
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        t.sh(f"kill -9 {other.pid}; kill -9 {os.getpid()}; kill -9 {t.box.pid}; kill -9 1; kill -STOP 1; kill -9 -1")
        held(other.poll() is None, "a process of the host was killed")
    finally:
        other.kill()
        other.wait()
    held(
        t.py("import ctypes; raise SystemExit(ctypes.CDLL(None).ptrace(16, 1, 0, 0) != -1)").code == 0,
        "process 1 was traced",
    )
    t.sh(
        "for fd in $(seq 3 60); do echo '{\"ready\": true}' >&$fd; done 2>/dev/null; echo x > /proc/1/mem; echo x > /proc/1/fd/0"
    )
    t.alive()


def mounts(t: Target) -> None:
    """New mounts, namespaces and roots; old mounts made writable."""
    before = Path("/proc/self/mountinfo").read_text()
    for way in (
        "mount -t tmpfs none /home", "mount -o remount,rw /usr", "mount --bind /usr /home", "umount /proc/1", "umount -l /usr",
        "unshare -U true", "unshare -Ur mount -t tmpfs none /home", "unshare -m true", "chroot / true", "nsenter -t 1 -m true",
    ):  # fmt: skip
        held(t.sh(way).code != 0, f"{way} succeeded")
    clone = "import ctypes; raise SystemExit(0 if ctypes.CDLL(None).unshare(0x10000000) == -1 else 9)"
    held(t.py(clone).code == 0, "a user namespace was made")
    held(Path("/proc/self/mountinfo").read_text() == before, "the host's mounts changed")


def setuid(t: Target) -> None:
    """Programs that would run as another user."""
    run = t.sh("cp /bin/bash /sh; chmod 6755 /sh; /sh -p -c 'grep CapEff /proc/self/status; id -u'")
    held(not said(run, "CapEff") or said(run, "CapEff:\t0000000000000000"), "capabilities were gained")
    for way in ("chown 12345 /sh", "su nobody -s /bin/true", "setpriv --reuid 1 true", "mknod /disk b 254 0"):
        held(t.sh(way).code != 0, f"{way} succeeded")


def outliving(t: Target) -> None:
    """Processes that detach themselves from their command."""
    name = f"leap-ray-late-{os.getpid()}"
    t.sh(
        f"(setsid nohup bash -c 'exec -a {name} sleep 1000' >/dev/null 2>&1 &) ; disown -a; trap '' TERM HUP; sleep 0.2"
    )
    held(not visible_processes(name), "a process outlived its command")
    exec_ = f"os.execv('/bin/sleep', ['{name}', '1000'])"
    daemon = f"import os,time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0: {exec_}\ntime.sleep(.3)"
    t.py(daemon)
    held(not visible_processes(name), "a daemon outlived its command")


def visible_processes(name: str) -> list[int]:
    """Processes of the host with this word in their command line, ours left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            if name.encode() in command:
                found.append(int(entry.name))
    return found


def odd_bytes(t: Target) -> None:
    """Control characters, bytes that are no text, answers that look like ours."""
    raw = b'\x1b[2J\x1b]0;title\x07\x00\xff\xfe{"code": 0, "size": 999999}\n'
    run = t.py(f"import sys; sys.stdout.buffer.write({raw!r})")
    held(run.output == raw and run.code == 0, f"{raw!r} came out as {run.output!r}")
    t.alive()


def clean_start(t: Target) -> None:
    """The next sandbox knows nothing of this one."""
    t.sh("echo mine > /left; echo mine >> /root/.bashrc; mkdir /tmp")
    fresh = Target(t.base)
    try:
        held(
            fresh.sh("ls /left /tmp; grep mine /root/.bashrc").code != 0 and not said(fresh.sh("ls /"), "left"),
            "a file was left over",
        )
    finally:
        fresh.box.close()


def killed_owner(t: Target) -> None:
    """A sandbox whose owner is killed, at moments from before it is made to after it runs a command."""
    code = (
        "import sys; from leap_ray.envs.intercode.attacks import Target; from leap_ray.envs.intercode.rootfs import Base; "
        "from pathlib import Path; print(flush=True)\n"
        "while True: t = Target(Base(Path(sys.argv[1]), sys.argv[2])); t.sh('setsid sleep 600 & sleep 0.05'); t.box.close()"
    )
    for moment in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        owner = subprocess.Popen([sys.executable, "-c", code, str(t.base.path), t.base.kind], stdout=subprocess.PIPE)
        assert owner.stdout is not None
        owner.stdout.readline()
        time.sleep(moment)
        mine = [pid for pid, who in reaper.sandboxes() if f":{owner.pid}:" in who]
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        deadline = time.monotonic() + 10
        while (
            left := [pid for pid, who in reaper.sandboxes() if f":{owner.pid}:" in who]
        ) and time.monotonic() < deadline:
            time.sleep(0.05)
        held(not left, f"sandboxes of an owner killed after {moment} s live on: {left} of {mine}")


Attack = Callable[[Target], None]
ATTACKS: tuple[Attack, ...] = (
    fork_bomb, memory_bomb, hidden_memory, shared_counters, disk_filler, odd_trees, endless_output, blocking, host_files,
    writing_outside, network, signals, mounts, setuid, outliving, odd_bytes, tampering, clean_start, killed_owner,
)  # fmt: skip


def attempt(attack: Attack, base: Base) -> str:
    """'' where the sandbox held, else what got out. Each attack has a sandbox of its own, gone afterwards."""
    target = Target(base)
    pid = target.box.pid
    try:
        attack(target)
    except Escape as escape:
        return str(escape)
    finally:
        target.box.close()
    return "the sandbox could not be closed" if Path(f"/proc/{pid}").exists() else ""


def run_all(base: Base) -> dict[str, str]:
    """Every attack's name with what got out ('' for nothing). Stops after the first where the limits are not in force."""
    results = {limits_in_force.__name__: attempt(limits_in_force, base)}
    if results[limits_in_force.__name__]:
        return results
    return results | {attack.__name__: attempt(attack, base) for attack in ATTACKS}


def main() -> None:
    parser = argparse.ArgumentParser(description="Attack a sandbox on this machine and say what it withstood.")
    parser.add_argument("--base", default="auto", help="auto, host, or the folder of a Debian tree")
    try:
        base = find(parser.parse_args().base)
        results = run_all(base)
    except UserError as error:
        sys.exit(f"error: {error}")
    for name, escape in results.items():
        print(f"{'ESCAPED' if escape else 'held':8} {name:18} {escape}")
    print(json.dumps({"user": os.getuid(), "base": base.kind, "escaped": {k: v for k, v in results.items() if v}}))
    sys.exit(1 if any(results.values()) else 0)


if __name__ == "__main__":
    main()
