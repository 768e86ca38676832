"""What a sandbox's `/proc` says of the machine: the same small computer everywhere, instead of the host.

Contents of files that bubblewrap lays over the kernel's (those that this kernel has), in agreement with what `emulation.py`
answers. The time of the last start stays the host's: the start times of processes count from there.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from leap_ray.envs.intercode.emulation import CPUS, MEMORY, RELEASE, UPTIME, VERSION

KIB = 1024
FLAGS = "fpu tsc msr pae cx8 apic sep cmov clflush mmx fxsr sse sse2 syscall nx lm constant_tsc nopl pni ssse3 cx16 sse4_1 sse4_2"
PROCESSOR = """processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) CPU @ 2.00GHz
stepping\t: 3
microcode\t: 0x1
cpu MHz\t\t: 2000.000
cache size\t: 39424 KB
physical id\t: 0
siblings\t: {count}
core id\t\t: {number}
cpu cores\t: {count}
apicid\t\t: {number}
fpu\t\t: yes
fpu_exception\t: yes
cpuid level\t: 13
wp\t\t: yes
flags\t\t: {flags}
bogomips\t: 4000.00
clflush size\t: 64
cache_alignment\t: 64
address sizes\t: 46 bits physical, 48 bits virtual
power management:

"""
# Folders of /proc that describe the host's devices.
HIDDEN = ("acpi", "asound", "bus", "driver", "fs", "irq", "scsi", "tty/driver")
KERNEL = ("sysrq-trigger",)  # files of /proc that stay the kernel's own
FILE_SYSTEMS = ("sysfs", "tmpfs", "bdev", "proc", "cgroup2", "devtmpfs", "devpts", "mqueue", "overlay")
BTIME = re.compile(r"^btime (\d+)$", re.MULTILINE)


def figures() -> dict[str, str]:
    """Contents by path, of files that this machine has. What else describes the host is empty."""
    others = {str(path): "" for path in Path("/proc").iterdir() if path.name not in KERNEL and not path.is_symlink()}
    return {path: text for path, text in (others | _all(_started())).items() if Path(path).is_file()}


def hidden() -> list[str]:
    """Folders of /proc to cover: process 1 is nobody's business, and neither are the host's devices."""
    return [path for path in ("/proc/1", *(f"/proc/{name}" for name in HIDDEN)) if Path(path).is_dir()]


def _started() -> str:
    """When the host was started, in seconds."""
    found = BTIME.search(Path("/proc/stat").read_text())
    return found[1] if found else "0"


@cache
def _all(started: str) -> dict[str, str]:
    version = f"Linux version {RELEASE} (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0) {VERSION}\n"
    pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    return {
        "/proc/buddyinfo": "Node 0, zone   Normal" + "      0" * 11 + "\n",
        "/proc/cmdline": f"BOOT_IMAGE=/boot/vmlinuz-{RELEASE} root=/dev/vda1 ro quiet\n",
        "/proc/cpuinfo": "".join(PROCESSOR.format(number=i, count=CPUS, flags=FLAGS) for i in range(CPUS)),
        "/proc/devices": "Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n254 virtblk\n",
        "/proc/filesystems": "".join(f"nodev\t{name}\n" for name in FILE_SYSTEMS) + "\text4\n",
        "/proc/interrupts": "".join(["     ", *(f"      CPU{i}" for i in range(CPUS)), "\n"]),
        "/proc/loadavg": "0.20 0.15 0.10 1/2 2\n",
        "/proc/meminfo": _memory(),
        "/proc/partitions": "major minor  #blocks  name\n\n 254        0   67108864 vda\n 254        1   67107840 vda1\n",
        "/proc/pressure/cpu": pressure,
        "/proc/pressure/io": pressure,
        "/proc/pressure/memory": pressure,
        "/proc/schedstat": "version 15\ntimestamp 0\n",
        "/proc/softirqs": "".join(["     ", *(f"      CPU{i}" for i in range(CPUS)), "\n"]),
        "/proc/stat": _activity(started),
        "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        "/proc/sys/fs/dentry-state": "10000\t5000\t45\t0\t0\t0\n",
        "/proc/sys/fs/file-nr": "1024\t0\t65536\n",
        "/proc/sys/fs/inode-nr": "10000\t0\n",
        "/proc/sys/fs/inode-state": "10000\t0\t0\t0\t0\t0\t0\n",
        "/proc/sys/kernel/osrelease": f"{RELEASE}\n",
        "/proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000001\n",
        "/proc/sys/kernel/random/entropy_avail": "256\n",
        "/proc/sys/kernel/threads-max": "15000\n",
        "/proc/sys/kernel/version": f"{VERSION}\n",
        "/proc/uptime": f"{UPTIME}.00 {UPTIME * CPUS}.00\n",
        "/proc/version": version,
        "/proc/vmstat": f"nr_free_pages {MEMORY[1] // 4096}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault 0\npgmajfault 0\n",
    }


def _memory() -> str:
    total, free, _, buffers = (size // KIB for size in MEMORY)
    cached = total // 4
    rows = {
        "MemTotal": total, "MemFree": free, "MemAvailable": free + cached, "Buffers": buffers, "Cached": cached, "SwapCached": 0,
        "Active": cached, "Inactive": cached // 2, "Unevictable": 0, "Mlocked": 0, "SwapTotal": 0, "SwapFree": 0, "Dirty": 0,
        "Writeback": 0, "AnonPages": cached // 4, "Mapped": cached // 8, "Shmem": 0, "Slab": cached // 8,
        "SReclaimable": cached // 16, "SUnreclaim": cached // 16, "KernelStack": 2048, "PageTables": 4096,
        "CommitLimit": total // 2, "Committed_AS": total // 4, "VmallocTotal": 34_359_738_367, "VmallocUsed": 0,
    }  # fmt: skip
    return "".join(f"{name + ':':<16}{size:>8} kB\n" for name, size in rows.items())


def _activity(started: str) -> str:
    ticks = UPTIME * 100
    rows = [f"cpu  {CPUS * ticks // 100} 0 {CPUS * ticks // 100} {CPUS * ticks} 0 0 0 0 0 0"]
    rows += [f"cpu{i} {ticks // 100} 0 {ticks // 100} {ticks} 0 0 0 0 0 0" for i in range(CPUS)]
    rows += ["intr 0", "ctxt 0", f"btime {started}", "processes 2", "procs_running 1", "procs_blocked 0", "softirq 0"]
    return "\n".join(rows) + "\n"
