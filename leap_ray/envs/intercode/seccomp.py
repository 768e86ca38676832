"""The system calls a sandbox refuses, as a classic BPF program for `bwrap --seccomp`.

Namespaces already hide the machine. What is refused here are ways around the limits on memory (memory files, System V segments
and queues are counted against no process; neither are the pages of a shared mapping once all but one of them are unmapped
again), calls that draw on what all the machine or all of a user's processes share (asynchronous input and output, inotify),
calls with a long history of kernel bugs, and sockets that no network namespace covers (AF_VSOCK reaches the hypervisor).
Refused calls fail with EPERM; nothing is killed.
"""

from __future__ import annotations

import platform
import struct

# Numbers from the kernel's tables: (x86_64, aarch64); None where an architecture lacks the call.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190),
    "mq_open": (240, 180), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "open_tree": (428, 428), "mount_setattr": (442, 442), "setns": (308, 268), "unshare": (272, 97),
    "chroot": (161, 51), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "quotactl": (179, 60), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262), "io_setup": (206, 0), "syslog": (103, 116), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "inotify_init": (253, None), "inotify_init1": (294, 26),
}  # fmt: skip
# Calls that `emulation.py` may answer, by the name of its method.
OBSERVED: dict[str, tuple[int | None, int | None]] = {
    "stat": (4, None), "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "uname": (63, 160),
    "sysinfo": (99, 179), "statfs": (137, 43), "fstatfs": (138, 44), "sched_getaffinity": (204, 123), "getrandom": (318, 278),
}  # fmt: skip
SOCKET = (41, 198)
SOCKETPAIR = (53, 199)
MMAP = (9, 222)
# MAP_SHARED (also a bit of MAP_SHARED_VALIDATE, not of MAP_PRIVATE), MAP_DROPPABLE: the C library keeps random numbers there,
# and asks the kernel for each where it cannot.
NOT_PRIVATE = 1 | 8
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: confined by the network namespace
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
X32 = 0x40000000  # x86_64's second table of calls begins here

LOAD, RETURN = 0x20, 0x06  # BPF_LD|W|ABS, BPF_RET|K
EQUAL, AT_LEAST, HAS_BIT = 0x15, 0x35, 0x45  # BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_JMP|JSET|K
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
ASK = 0x7FC00000  # SECCOMP_RET_USER_NOTIF
NUMBER, ARCH, ARGUMENT_0, ARGUMENT_3 = 0, 4, 16, 40  # offsets in struct seccomp_data


def program(machine: str | None = None) -> bytes | None:
    """The filter for this machine (or `machine`), or None for one whose call numbers are not known here."""
    known = MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    column, arch = known
    numbers = [row[column] for row in REFUSED.values() if row[column] is not None]
    head = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, arch), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, NUMBER)]
    tests = [(AT_LEAST, "refuse", "", X32), *((EQUAL, "refuse", "", n) for n in numbers)]
    tests += [
        (EQUAL, "mapping", "", MMAP[column]),
        *((EQUAL, "family", "", row[column]) for row in (SOCKET, SOCKETPAIR)),
    ]
    count = len(FAMILIES)
    tail = [(RETURN, 0, 0, ALLOW)]
    tail += [(LOAD, 0, 0, ARGUMENT_3), (HAS_BIT, count + 1, count + 2, NOT_PRIVATE)]
    tail += [(LOAD, 0, 0, ARGUMENT_0), *((EQUAL, count - i, 0, family) for i, family in enumerate(FAMILIES))]
    tail += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    targets = {"mapping": 1, "family": 3, "refuse": 4 + count}  # places within the tail
    body = [(code, len(tests) - i - 1 + targets[str(to)], 0, k) for i, (code, to, _, k) in enumerate(tests)]
    return _packed([*head, *body, *tail])


def observed(machine: str | None = None) -> tuple[bytes, dict[int, str]]:
    """The filter that hands calls to `emulation.py`, and the calls' names; both empty for a machine not known here."""
    known = MACHINES.get(machine or platform.machine())
    if known is None:
        return b"", {}
    column, arch = known
    calls = {number: name for name, row in OBSERVED.items() if (number := row[column]) is not None}
    head = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, arch), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, NUMBER)]
    tests = [(EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    return _packed([*head, *tests, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ASK)]), calls


def _packed(program: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *map(int, instruction)) for instruction in program)
