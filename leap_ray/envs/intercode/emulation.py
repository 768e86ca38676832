"""Answers some system calls of a sandbox's commands in the kernel's place: the same command shows the same text everywhere.

The text of this file is sent into the sandbox in front of that of `guest.py`. The kernel hands the calls that `seccomp.observed`
names to this process (seccomp user notification, Linux 5.5) and waits. What is answered here:

- stat and its kin, for files of the root: a folder has a size in blocks of 4,096 bytes, as on a disk; access, change and birth
  times of what was there from the start are its modification time; the device number is fixed. `/proc` has a fixed link count.
- uname, sysinfo, sched_getaffinity, statfs: fixed figures instead of the host's.
- getrandom: bytes that follow from the process id and the number of the call; Python's hash secret is the same for all.

Everything else, and every call that is not understood, goes on in the kernel as if nobody had looked. The supervisor has no right
that the commands lack, and decides nothing about what is allowed: `seccomp.program` does that, and wins where both speak.
"""

import _thread
import ctypes
import errno
import fcntl
import hashlib
import os
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)
RECEIVE, SEND, VALID, SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082102, 0x40082104  # SECCOMP_IOCTL_NOTIF_*
SYNC_WAKE_UP = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, Linux 6.6: four times faster
AT_FOLDER = ("newfstatat", "statx", "fstat")  # calls whose first argument is a descriptor
CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
NOTICE, REPLY = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
SECCOMP, OPENAT2 = {"x86_64": 317, "aarch64": 277}, 437
HERE, EMPTY_PATH, NO_FOLLOW = -100, 0x1000, 0x100  # AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
O_PATH, NO_MAGIC_LINKS = 0x200000, 2
COARSE = 5  # CLOCK_REALTIME_COARSE, which the times of files come from
NO_RANDOMIZE = 0x40000  # ADDR_NO_RANDOMIZE
SECRET = 24  # bytes that Python asks for its hash secret
BLOCK = 4096
MINOR = 0x7FFFF  # of the root's device, whose major number is 0: higher than any that a mount is given
PROC_ROOT, PROC_LINKS = 1, 120  # inode and link count of /proc
SECTORS = BLOCK // 512
OWN = (b"/usr/", b"/lib/", b"/lib64/")  # paths where the kernel's answer stands
CPUS, UPTIME, LOADS = 2, 500 * 86_400, (13_107, 9_830, 6_553)  # loads are in 1/65,536
MEMORY = (2048 << 20, 1024 << 20, 0, 64 << 20)  # bytes: total, free, shared, buffers
RELEASE, VERSION = "6.1.0-18-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)"
DIRECTORY, FORMAT = 0o040000, 0o170000  # S_IFDIR, S_IFMT
# Where a field lies in struct stat and struct statx, and how wide it is.
STAT = {
    "dev": (0, "Q"), "ino": (8, "Q"), "size": (48, "q"), "blocks": (64, "q"), "atime": (72, "qQ"), "mtime": (88, "qQ"),
    "ctime": (104, "qQ"),
}  # fmt: skip
LAYOUTS = {
    "x86_64": STAT | {"length": 144, "nlink": (16, "Q"), "mode": (24, "I")},
    "aarch64": STAT | {"length": 128, "nlink": (20, "I"), "mode": (16, "I")},
    "statx": {
        "length": 256, "nlink": (16, "I"), "mode": (28, "H"), "ino": (32, "Q"), "size": (40, "Q"), "blocks": (48, "Q"),
        "atime": (64, "qI"), "btime": (80, "qI"), "ctime": (96, "qI"), "mtime": (112, "qI"), "dev": (136, "II"),
    },
}  # fmt: skip


class Declined(Exception):
    """The kernel is to answer this call itself."""


class Record:
    """One struct stat or statx: `record[name]` reads a field (times as seconds and nanoseconds), assignment writes it."""

    def __init__(self, layout, data):
        self.layout, self.data = layout, data

    def __getitem__(self, name):
        offset, form = self.layout[name]
        values = struct.unpack_from("=" + form, self.data, offset)
        return values if len(form) > 1 else next(iter(values))

    def __setitem__(self, name, value):
        offset, form = self.layout[name]
        struct.pack_into("=" + form, self.data, offset, *(value if isinstance(value, tuple) else (value,)))


class Supervisor:
    """Receives the calls and answers them. `calls`: names by number; `machine`: as uname says."""

    def __init__(self, calls, machine):
        self.calls, self.machine = {int(number): name for number, name in calls.items()}, machine
        self.numbers = {name: number for number, name in self.calls.items()}
        self.random = {}  # process id -> calls of getrandom
        self.root, self.began = os.stat("/"), time.time() - 60
        self.settled = time.time_ns()
        while time.clock_gettime_ns(COARSE) <= self.settled:
            time.sleep(0.001)
        self.limited = {self.root.st_dev, os.stat("/dev/shm").st_dev}
        self.proc = os.stat("/proc").st_dev
        programs = os.stat("/usr")
        self.programs = programs.st_dev, programs.st_ino
        self.files = {os.stat(path).st_dev for path in ("/dev", "/dev/null", "/dev/shm", "/dev/pts")}
        names = [name for name in os.listdir("/proc") if not name.isdigit() or name == "1"]
        self.covered = {os.lstat(f"/proc/{name}").st_dev for name in names} - {self.proc}
        self.ours = {self.root.st_dev} | self.covered | self.files

    def serve(self, listener):
        """Answer calls for as long as the sandbox lives. (A call fails with ENOENT where its process has ended meanwhile.)"""
        try:  # noqa: SIM105 - contextlib would cost every reset its import
            fcntl.ioctl(listener, SET_FLAGS, struct.pack("=Q", SYNC_WAKE_UP))
        except OSError:
            pass
        while True:
            try:
                self.serve_one(listener)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    os._exit(1)  # the listener is lost: commands would wait for ever

    def serve_one(self, listener):
        notice = bytearray(NOTICE.size)
        fcntl.ioctl(listener, RECEIVE, notice)
        ident, pid, _, number, _, _, *args = NOTICE.unpack(notice)
        try:
            reply = REPLY.pack(ident, self.answer(listener, ident, pid, number, args), 0, 0)
        except Exception:  # whatever went wrong: the kernel's own answer is never a wrong one
            reply = REPLY.pack(ident, 0, 0, CONTINUE)
        fcntl.ioctl(listener, SEND, reply)

    def answer(self, listener, ident, pid, number, args):
        name = self.calls[number]
        if name in AT_FOLDER and self.foreign(pid, ctypes.c_int(args[0] & 0xFFFFFFFF).value):
            raise Declined
        memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(listener, VALID, struct.pack("=Q", ident))  # raises where `pid` is another process by now
            address, data, value = getattr(self, name)(pid, memory, args)
            if os.pwrite(memory, data, address) != len(data):
                raise Declined
            return value
        finally:
            os.close(memory)

    def foreign(self, pid, folder):
        """Whether an open folder (or file) is one in which nothing is ours: a short way for where most files are."""
        if folder < 0:
            return False
        st = os.stat(f"/proc/{pid}/fd/{folder}")
        if st.st_dev == self.proc:
            return st.st_ino != PROC_ROOT
        return st.st_dev not in self.ours

    # One method for each call: (address, bytes to write there, value to return).

    def stat(self, pid, memory, args):
        return args[1], self.looked(pid, memory, HERE, args[0], 0), 0

    def lstat(self, pid, memory, args):
        return args[1], self.looked(pid, memory, HERE, args[0], NO_FOLLOW), 0

    def fstat(self, pid, memory, args):
        return args[1], self.looked(pid, memory, args[0], None, EMPTY_PATH), 0

    def newfstatat(self, pid, memory, args):
        return args[2], self.looked(pid, memory, args[0], args[1], args[3]), 0

    def statx(self, pid, memory, args):
        return args[4], self.looked(pid, memory, args[0], args[1], args[2], mask=args[3]), 0

    def looked(self, pid, memory, folder, path, flags, mask=None):
        """The patched record of a file. Raises Declined for one that is not ours."""
        fd = opened(pid, ctypes.c_int(folder & 0xFFFFFFFF).value, text(memory, path) if path else b"", flags)
        try:
            record = self.record(fd, flags, mask)
            st = os.stat(fd)
            if st.st_dev == self.root.st_dev:
                self.as_on_disk(record, fd)
            elif st.st_dev in self.covered:
                record["size"], record["blocks"], record["nlink"] = 0, 0, 1 + is_folder(record)
                self.date(record, always=True)
            elif st.st_dev == self.proc and st.st_ino == PROC_ROOT:
                record["nlink"] = PROC_LINKS
                self.date(record, always=True)
            elif (st.st_dev, st.st_ino) == self.programs:
                record["size"], record["blocks"] = BLOCK, SECTORS
                self.date(record, always=True)
            elif st.st_dev in self.files:
                self.date(record, always=stamp(record["mtime"]) <= self.settled)
            else:
                raise Declined
            return bytes(record.data)
        finally:
            os.close(fd)

    def record(self, fd, flags, mask):
        layout = LAYOUTS[self.machine if mask is None else "statx"]
        buffer = ctypes.create_string_buffer(layout["length"])
        if mask is None:
            done = LIBC.syscall(self.numbers["newfstatat"], fd, b"", buffer, EMPTY_PATH)
        else:
            flags = flags & ~NO_FOLLOW | EMPTY_PATH
            done = LIBC.syscall(self.numbers["statx"], fd, b"", flags, ctypes.c_uint(mask), buffer)
        if done:
            raise Declined
        return Record(layout, bytearray(buffer.raw))

    def as_on_disk(self, record, fd):
        record["dev"] = (0, MINOR) if record.layout["dev"][1] == "II" else os.makedev(0, MINOR)
        if is_folder(record):
            size = weight(fd, record["size"])
            record["size"], record["blocks"] = size, size // BLOCK * SECTORS
        self.date(record, always=False)

    def date(self, record, always):
        """What is from the start bears the time of its contents, or of the root where that is the minute of the start."""
        contents = record["mtime"]
        if always or self.began * 1e9 <= stamp(contents) <= self.settled:
            contents = record["mtime"] = divmod(self.root.st_mtime_ns, 10**9)
        for name in ("atime", "ctime", "btime"):
            if name in record.layout and (always or 0 < stamp(record[name]) <= self.settled):
                record[name] = contents

    def uname(self, pid, memory, args):
        names = os.uname()
        release = RELEASE if names.machine == "x86_64" else RELEASE.replace("amd64", "arm64")
        fields = (names.sysname, names.nodename, release, VERSION, names.machine, "(none)")
        return args[0], b"".join(struct.pack("65s", field.encode()) for field in fields), 0

    def sysinfo(self, pid, memory, args):
        return args[0], struct.pack("=10QHxxxxxxQQIxxxx", UPTIME, *LOADS, *MEMORY, 0, 0, 8, 0, 0, 1), 0

    def sched_getaffinity(self, pid, memory, args):
        if args[1] < 8 or args[1] % 8:
            raise Declined
        return args[2], struct.pack("=Q", (1 << CPUS) - 1), 8

    def statfs(self, pid, memory, args):
        return args[1], self.space(opened(pid, HERE, text(memory, args[0]), 0)), 0

    def fstatfs(self, pid, memory, args):
        return args[1], self.space(opened(pid, ctypes.c_int(args[0] & 0xFFFFFFFF).value, b"", EMPTY_PATH)), 0

    def space(self, fd):
        """A file system's figures: those of the host's disks are fixed ones; the id that a mount draws is 0."""
        try:
            buffer = ctypes.create_string_buffer(120)
            if LIBC.syscall(self.numbers["fstatfs"], fd, buffer):
                raise Declined
            data = bytearray(buffer.raw)
            struct.pack_into("=Q", data, 56, 0)
            if os.stat(fd).st_dev not in self.limited:
                struct.pack_into("=QQQQQQ", data, 8, BLOCK, 1 << 22, 1 << 21, 1 << 21, 1 << 20, 1 << 19)
                struct.pack_into("=Q", data, 72, BLOCK)
            return bytes(data)
        finally:
            os.close(fd)

    def getrandom(self, pid, memory, args):
        address, size, _ = args[:3]
        if size == SECRET:
            return address, bytes(range(1, SECRET + 1)), size
        size = min(size, 4096)  # a caller asks again for the rest
        self.random[pid] = count = self.random.get(pid, 0) + 1
        return address, hashlib.shake_128(f"{pid}/{count}".encode()).digest(size), size


def text(memory, address):
    """The path at an address of the caller."""
    found, end, _ = os.pread(memory, 4096, address).partition(b"\0")
    if not end or (found.startswith(OWN) and b".." not in found):
        raise Declined
    return found


def opened(pid, folder, path, flags):
    """A descriptor of the caller's file, that does nothing but name it."""
    if not path:
        if not flags & EMPTY_PATH:
            raise Declined
        return os.open(f"/proc/{pid}/cwd" if folder == HERE else f"/proc/{pid}/fd/{folder}", O_PATH | os.O_CLOEXEC)
    base = HERE
    if not path.startswith(b"/"):
        base = os.open(f"/proc/{pid}/cwd" if folder == HERE else f"/proc/{pid}/fd/{folder}", O_PATH | os.O_CLOEXEC)
    how = O_PATH | os.O_CLOEXEC | (os.O_NOFOLLOW if flags & NO_FOLLOW else 0)
    asked = struct.pack("=QQQ", how, 0, NO_MAGIC_LINKS)  # a link such as /proc/self/cwd would lead to our own
    try:
        fd = LIBC.syscall(OPENAT2, base, path, asked, len(asked))
    finally:
        if base != HERE:
            os.close(base)
    if fd < 0:
        raise Declined
    return fd


def is_folder(record):
    return int(record["mode"]) & FORMAT == DIRECTORY


def stamp(time_):
    return time_[0] * 10**9 + time_[1]


def weight(fd, held):
    """Bytes that a folder weighs on ext4: one block, or for a larger one a root and leaves that are three quarters full.

    `held`: its size here, 20 bytes an entry.
    """
    if held < 20 * 100:  # 100 entries with short names fit into one block, and so do few with long ones
        return BLOCK
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        entries = sum(8 + (len(os.fsencode(name)) + 3) // 4 * 4 for name in os.listdir(folder)) + 24
    finally:
        os.close(folder)
    return BLOCK if entries <= BLOCK - 12 else BLOCK * (1 + max(2, -(-entries * 4 // (BLOCK * 3))))


def listen(program):
    """Put the filter on this thread and what it starts; returns the descriptor that calls come from, -1 for none."""
    asked = struct.pack("=QQQ", O_PATH | os.O_CLOEXEC, 0, 0)
    fd = LIBC.syscall(OPENAT2, HERE, b"/", asked, len(asked))
    if not program or fd < 0:  # Linux before 5.6, part of which also cannot be told to go on by itself
        return -1
    os.close(fd)
    kept = ctypes.create_string_buffer(program, len(program))
    asked = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(kept))
    return LIBC.syscall(SECCOMP[os.uname().machine], 1, 8, asked)  # SET_MODE_FILTER, FLAG_NEW_LISTENER


class Forks:
    """Starts processes whose calls are answered here. A thread of its own does it, for this process's own calls must not wait."""

    def __init__(self, program, calls):
        self.go, self.done, self.started = (_thread.allocate_lock() for _ in range(3))
        for lock in (self.go, self.done, self.started):
            lock.acquire()
        self.supervisor = Supervisor(calls, os.uname().machine)
        self.work, self.pid, self.listener = os.abort, 0, -1
        LIBC.personality(NO_RANDOMIZE)  # addresses of what is started are the same every time
        _thread.stack_size(256 << 10)
        _thread.start_new_thread(self.serve, (program,))
        self.started.acquire()
        if self.listener >= 0:  # not from the other thread, whose filter it would inherit
            _thread.start_new_thread(self.supervisor.serve, (self.listener,))

    def serve(self, program):
        self.listener = listen(program)
        self.started.release()
        while True:
            self.go.acquire()
            try:
                self.pid = os.fork()
            except OSError:
                self.pid = -1
            if self.pid == 0:
                self.work()
            self.done.release()

    def fork(self, work):
        """The process id of a new process that does `work`, which never returns."""
        self.supervisor.random.clear()
        self.work = work
        self.go.release()
        self.done.acquire()
        if self.pid < 0:
            raise OSError("no process can be started")
        return self.pid
