"""The first process of a sandbox: runs one command at a time and lets nothing of it live on.

This file is not imported by the program: its text is sent into the sandbox, behind that of `emulation.py`, and run there, by the
base's own Python, as process 1 of a fresh process namespace. Requests come as lines of JSON on standard input, answers go out as
a line of JSON followed by raw bytes. When standard input closes (the owner is gone, however it died) this process ends, and the
kernel ends all others with it.
"""

import json
import os
import resource
import select
import signal
import sys
import time

CHUNK = 1 << 16
TICK = 50  # milliseconds between two looks at memory, files and the deadline
GRACE = 0.2  # seconds that a finished command's background processes may still write
PAGE = os.sysconf("SC_PAGE_SIZE")
OPEN = 16  # descriptors of a process that are free
HELD = 212_992  # bytes that the kernel may hold for each further one, were it a socket (net.core.wmem_default)
ROOT, PROC, SHM = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in ("/", "/proc", "/dev/shm"))
NOTHING = os.open("/dev/null", os.O_RDWR)  # kept open, as those above: a command may close `/` to its own user


def main():
    if os.getpid() != 1:  # the kill of everything, below, would reach processes that are none of ours
        sys.exit("this file only runs as process 1 of a sandbox")
    control = sys.stdin.buffer
    answers = os.dup(1)
    os.dup2(NOTHING, 1)
    limits = json.loads(control.readline())
    enter(limits)
    answer(answers, {"ready": True}, b"")
    for line in iter(control.readline, b""):
        request = json.loads(line)
        if "settled" in request:
            answer(answers, {"emulates": settle(**request["settled"])}, b"")
            continue
        given = control.read(request["stdin"])
        header, output = run(request, given, limits)
        answer(answers, header, output)


def enter(limits):
    """Put the limits on this process, and so on all that follow; none of them can be raised again."""
    for name in ("AS", "FSIZE", "NPROC", "NOFILE", "CORE", "MEMLOCK", "MSGQUEUE", "SIGPENDING"):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limits[name.lower()],) * 2)
    unreadable()
    os.nice(limits["nice"])
    os.umask(0o022)


forks = None  # who starts processes, once the sandbox is laid out


def settle(program, calls):
    """From now on commands are shown what `emulation.py` says. False where this kernel cannot do it."""
    global forks
    forks = Forks(bytes.fromhex(program), calls)  # noqa: F821  # pyright: ignore[reportUndefinedVariable] - of emulation.py
    return forks.listener >= 0


def unreadable():
    """Close this process's memory and descriptors to the commands, which run as the same user (PR_SET_DUMPABLE)."""
    import ctypes

    if ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_DUMPABLE) failed")


def answer(fd, header, output):
    data = json.dumps({**header, "size": len(output)}).encode() + b"\n" + output
    while data:
        data = data[os.write(fd, data) :]


def run(request, given, limits):
    """One command: its header (exit code, what limit it broke, bytes written) and its output up to `cap` bytes."""
    began = time.monotonic()
    if request["trusted"] is not None and tampered(request["trusted"]):
        return {"code": None, "broke": "trust", "total": 0, "seconds": 0.0}, b""
    reader, pid = spawn(request, given)
    os.set_blocking(reader, False)
    output = Output(reader, request["cap"])
    # Earlier commands may have left more files than there may be: those that clear them away must be able to run.
    allowed = {"memory": limits["memory"], "files": max(limits["files"], files())}
    broke = watch(output, pid, began + request["timeout"], allowed)
    statuses = end_all(pid)
    while output.read():
        pass
    os.close(reader)
    code = None if broke else statuses
    return {"code": code, "broke": broke, "total": output.total, "seconds": time.monotonic() - began}, bytes(
        output.kept
    )


def tampered(links):
    """Whether programs of the base would not be what runs: their links in `/` are others, or a library goes before theirs."""
    for name, target in links.items():
        try:
            if os.readlink(name, dir_fd=ROOT) != target:
                return True
        except OSError:
            return True
    return os.path.exists("/etc/ld.so.preload")


class Output:
    """What a command writes: the first `cap` bytes are kept, the rest is counted and dropped."""

    def __init__(self, fd, cap):
        self.fd, self.cap, self.kept, self.total, self.open = fd, cap, bytearray(), 0, True

    def read(self):
        """Take what is there now; False when there is nothing (more)."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return False
        self.total += len(data)
        self.kept += data[: max(0, self.cap - len(self.kept))]
        self.open = bool(data)
        return self.open


exits = {}  # process id -> wait status of what has ended


def spawn(request, given):
    """Start the command in its own session, both outputs into one pipe."""
    reader, writer = os.pipe()
    stdin = os.open("/", os.O_TMPFILE | os.O_RDWR, 0o600) if given else os.dup(NOTHING)
    if given:
        rest = memoryview(given)
        while rest:
            rest = rest[os.write(stdin, rest) :]
        os.lseek(stdin, 0, os.SEEK_SET)
    exits.clear()
    pid = fork(lambda: child(request, stdin, writer))
    os.close(writer)
    os.close(stdin)
    return reader, pid


def fork(work):
    if forks:
        return forks.fork(work)
    pid = os.fork()
    if pid == 0:
        work()
    return pid


def child(request, stdin, writer):
    try:
        os.setsid()
        die_first()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for fd, target in ((stdin, 0), (writer, 1), (writer, 2)):
            os.dup2(fd, target)
        os.closerange(3, 64)
        os.chdir(request["cwd"])
        os.execvpe(request["argv"][0], request["argv"], request["env"])
    except OSError as error:
        os.write(1, f"cannot start in {request['cwd']!r}: {error.strerror}\n".encode())
    finally:
        os._exit(126)


def die_first():
    """Where the machine runs out of memory all the same, these processes go before any other."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # a kernel built without that killer


def watch(output, pid, deadline, allowed):
    """Collect output until the command is over; returns the limit that it broke, or ''."""
    poll = select.poll()
    poll.register(output.fd, select.POLLIN)
    poll.register(0, 0)  # standard input hangs up when the owner is gone
    over = None
    checked = 0.0
    while True:
        for fd, event in poll.poll(TICK if output.open else 5):
            if fd == 0 and event & (select.POLLHUP | select.POLLERR):
                os._exit(0)
            if fd == output.fd and not output.read() and not output.open:
                poll.unregister(output.fd)
        reap()
        now = time.monotonic()
        if pid in exits:
            over = over or now + GRACE
            if not output.open or now > over:
                return ""
        if now > deadline:
            return "time"
        if now - checked > TICK / 1000:
            checked = now
            if broke := breaks(allowed):
                return broke


def breaks(allowed):
    """The total that is beyond what is allowed now: number of files, or memory of all processes."""
    if files() > allowed["files"]:
        return "files"
    held = sum(memory(name) for name in os.listdir(PROC) if name.isdigit() and name != "1")
    return "memory" if held > allowed["memory"] else ""


def files():
    """Number of files, wherever some can be made."""
    return sum(disk.f_files - disk.f_ffree for disk in map(os.fstatvfs, (ROOT, SHM)))


def memory(process):
    """Bytes of memory that a process holds, its own and the kernel's on its behalf; 0 for one that has ended."""
    try:
        resident = int(content(process + "/statm").split()[1])
    except (OSError, IndexError):
        return 0  # ended while we looked
    if not resident:
        return 0
    try:
        descriptors = os.open(process + "/fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=PROC)
        count = len(os.listdir(descriptors))
        os.close(descriptors)
    except OSError:
        count = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # it hides them
    return resident * PAGE + max(0, count - OPEN) * HELD


def content(name):
    fd = os.open(name, os.O_RDONLY, dir_fd=PROC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def reap():
    """Collect what has ended; True while processes are left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        exits[pid] = status


def end_all(pid):
    """Kill every process of the sandbox but this one; returns the command's own exit code."""
    while reap():
        try:  # noqa: SIM105 - contextlib would cost every reset its import
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(exits[pid]) if pid in exits else None


main()
