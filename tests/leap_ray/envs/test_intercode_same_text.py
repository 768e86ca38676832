"""The same action shows the same text: in every sandbox, at every time, whatever the host is. Needs bubblewrap."""

import os
import shutil
import time
from pathlib import Path

import pytest

from leap_ray.envs.intercode import emulation, rootfs, seccomp
from leap_ray.envs.intercode.backend import Backend
from leap_ray.envs.intercode.data import load
from leap_ray.envs.intercode.python_tasks import PythonSession
from leap_ray.envs.intercode.sandbox import Bubblewrap, why_not

if not shutil.which("bwrap"):
    pytest.skip("bubblewrap is not installed: apt-get install bubblewrap", allow_module_level=True)
if reason := why_not(rootfs.find("host")):
    pytest.skip(f"no sandbox can be made here: {reason}", allow_module_level=True)

TREE = load("embedded", "bash").trees["fs_2"]
COMMANDS = """
ls -la / /lab
ls -lai /lab
ls -lR --time-style=full-iso /lab /etc /home /var
ls -lc /lab/src
ls -U /lab/src
ls -lS /lab
ls -s /lab
ls -l /dev
ls -ld /proc /dev /sys /usr
find / -maxdepth 1 -ls
find /lab -ls
find /lab -printf '%p %s %b %i %D %n %c %t\\n'
find / -xdev -type d -size +3k
find /lab -size 8
find /lab -ctime -1
find /etc /lab /home /var -cmin -60
find / -maxdepth 1 -newer /etc/passwd -not -name proc
find /lab -links 2
du /lab
du -a /lab
du -sb /lab /etc
du -sh /lab/*
df /
df -i /
df -h /usr
stat -c '%n %s %b %i %d %h %Y %Z %W' /lab /lab/data /lab/notes.md /etc
stat -c '%n %s %b %i %h %Y %Z %W' /proc /usr /dev /proc/meminfo /proc/fs
stat -f /
cat /proc/meminfo /proc/loadavg /proc/uptime /proc/cpuinfo /proc/version /proc/vmstat /proc/partitions
cat /proc/self/maps | cut -d' ' -f1
cat /proc/sys/kernel/random/boot_id /proc/sys/fs/file-nr
free
vmstat
uptime -p
w -h
uname -a
nproc
env
echo $$ $PPID
hostname
ps -eo pid,ppid,vsz,args
python3 -c "print(object(), object)"
python3 -c "print(set('abcdefgh'), hash('a'))"
python3 -c "print(sorted(map(id, (1, 'a', None, print))))"
python3 -c "import random, uuid, os; print(random.random(), uuid.uuid4(), os.urandom(4), os.getpid())"
python3 -c "import os; print(os.cpu_count(), os.getloadavg(), len(os.sched_getaffinity(0)), os.sysconf('SC_PHYS_PAGES'))"
python3 -c "import tempfile; print(tempfile.mkdtemp(dir='/'))"
python3 -c "import platform; print(platform.platform())"
python3 -c "import os; print(os.statvfs('/usr'), os.stat('/lab'))" | sed 's/st_atime=[0-9]*//'
mktemp -u ; mktemp -u
shuf -i 1-10
sort -R /lab/src/main.c
cp -r /lab /lab2; ls -U /lab2/src; du -s /lab2
mkdir /new; stat -c '%s %b %i' /new
tar -cf - /lab | md5sum
git log --format='%H %ct'
git status --short
""".strip().splitlines()


@pytest.fixture(scope="module")
def backend():
    return Backend("bubblewrap", "host")


@pytest.fixture
def box(backend):
    made = backend.open(TREE)
    yield made
    made.close()


def shown(box, command):
    return box.run(["/bin/bash", "-c", command]).output.decode()


def test_everyday_commands_show_the_same_in_every_sandbox(backend):
    seen = []
    others = []
    for _ in range(2):
        box = backend.open(TREE)
        seen.append([shown(box, command) for command in COMMANDS])
        box.close()
        others.append(backend.open(TREE))  # a machine with more sandboxes, mounts and processes on it
        time.sleep(1.1)
    for other in others:
        other.close()
    differing = [(c, *pair) for c, *pair in zip(COMMANDS, *seen) if pair[0] != pair[1]]
    assert not differing, "\n".join(f"{c}\n- {a}\n+ {b}" for c, a, b in differing)


def test_folders_weigh_what_they_do_on_a_disk(box):
    assert shown(box, "stat -c '%s %b' / /lab /lab/src").split("\n")[:3] == ["4096 8"] * 3
    assert shown(box, "find /lab -type d -size +3k | wc -l; find /lab -type d -size 8 | wc -l") == "6\n6\n"
    assert (
        shown(box, "du -s /lab/src/deep/er; du -sb /lab/src/deep/er | cut -f1")
        == "8\t/lab/src/deep/er\n" + str(4096 + int(shown(box, "stat -c %s /lab/src/deep/er/leaf.h"))) + "\n"
    )
    shown(box, "mkdir /many; cd /many; touch $(seq -f 'a-file-with-a-name-%g' 1000); mkdir few; touch few/{a,b}")
    assert shown(box, "stat -c %s /many/few") == "4096\n"
    many = int(shown(box, "stat -c %s /many"))
    assert 32 * 1000 < many < 64 * 1000 and many % 4096 == 0


@pytest.mark.parametrize(
    "way",
    [
        "import os; print(os.stat('/lab').st_size)",
        "import os; print(os.lstat('/lab/').st_size)",
        "import os; os.chdir('/lab/src'); print(os.stat('..').st_size)",
        "import os; os.chdir('/lab'); print(os.stat('.').st_size)",
        "import os; print(os.stat(os.open('/lab', os.O_RDONLY)).st_size)",
        "import os; print(os.stat('lab', dir_fd=os.open('/', os.O_RDONLY)).st_size)",
        "import os; os.symlink('/lab', '/link'); print(os.stat('/link').st_size)",
        "import os; print([e for e in os.scandir('/') if e.name == 'lab'][0].stat().st_size)",
        "import os; print(os.stat(b'/usr/../lab').st_size)",
    ],
)
def test_every_way_to_ask_gives_the_same_size(box, way):
    assert box.run(["/usr/bin/python3", "-c", way]).output == b"4096\n"


def test_what_a_command_changes_is_new(box):
    assert shown(box, "find /lab -cmin -60; find /lab -ctime -1") == ""
    shown(box, "touch /lab/fresh; chmod 600 /lab/notes.md")
    assert shown(box, "find /lab -cmin -60 | sort") == "/lab\n/lab/fresh\n/lab/notes.md\n"
    assert shown(box, "find /lab -mmin -60 | sort") == "/lab\n/lab/fresh\n"
    assert shown(box, "cat /lab/src/main.c >/dev/null; find /lab -type f -amin -60 | sort").split() == [
        "/lab/fresh",
        "/lab/src/main.c",
    ]


def test_the_host_does_not_show(box):
    assert os.uname().release not in shown(box, "uname -a; cat /proc/version /proc/sys/kernel/osrelease")
    assert shown(box, "cat /proc/loadavg").startswith("0.20 0.15 0.10")
    assert shown(box, "nproc; grep -c processor /proc/cpuinfo") == f"{emulation.CPUS}\n{emulation.CPUS}\n"
    total = emulation.MEMORY[0] // 1024
    assert (
        shown(box, "free | awk '/Mem/ {print $2}'; awk '/MemTotal/ {print $2}' /proc/meminfo") == f"{total}\n{total}\n"
    )
    links = int(shown(box, "stat -c %h /proc"))
    assert links == emulation.PROC_LINKS
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "none")
    assert model not in shown(box, "cat /proc/cpuinfo")


def test_calls_the_supervisor_cannot_answer_go_on_in_the_kernel(box):
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(256)
for path in (b"/nowhere", b"", b"x" * 5000, b"/lab/notes.md/x"):
    print(libc.syscall(262, -100, path, buffer, 0), ctypes.get_errno())
print(libc.syscall(262, -100, ctypes.c_void_p(8), buffer, 0), ctypes.get_errno())
print(libc.syscall(262, -100, b"/lab", ctypes.c_void_p(8), 0), ctypes.get_errno())
print(libc.syscall(262, 77, b"lab", buffer, 0), ctypes.get_errno())
print(os.stat("/proc/self/cwd").st_ino == os.stat(".").st_ino, os.path.islink("/proc/self/exe"))
r, w = os.pipe()
print(os.fstat(r).st_ino == os.stat(f"/proc/self/fd/{r}").st_ino)
"""
    if seccomp.MACHINES.get(os.uname().machine, (1,))[0] != 0:
        pytest.skip("call numbers of x86_64")
    out = box.run(["/usr/bin/python3", "-c", code], "/lab").output.decode().split("\n")
    assert out[:4] == ["-1 2", "-1 2", "-1 36", "-1 20"]
    assert out[4:9] == ["-1 14", "-1 14", "-1 9", "True True", "True"]


def test_many_processes_ask_at_once(box):
    assert shown(box, "for i in $(seq 20); do (find /lab -size 8 -type d | wc -l) & done; wait").split() == ["6"] * 20
    run = box.run(["/bin/bash", "-c", "while :; do [ -d /lab ]; done & while :; do stat /lab; done"], seconds=1)
    assert run.broke == "time" and shown(box, "stat -c %s /lab") == "4096\n"


def test_python_sessions_show_the_same(backend):
    seen = []
    for _ in range(2):
        box = backend.open(TREE)
        session = PythonSession(box)
        pieces = (
            "object()",
            "{'a', 'b', 'c', 'd'}",
            "class A: pass\nprint(A(), hash('x'), id(A))",
            "__import__('random').random()",
        )
        seen.append([session.execute(piece) for piece in pieces])
        box.close()
    assert seen[0] == seen[1] and "object at 0x" in seen[0][0]["output"]


def test_a_kernel_that_cannot_ask_us_leaves_a_working_sandbox(monkeypatch):
    monkeypatch.setattr(seccomp, "observed", lambda: (b"", {}))
    box = Bubblewrap(rootfs.find("host"))
    box.extract(rootfs.skeleton(rootfs.find("host"), 0))
    assert box.settle() is False
    assert box.run(["/bin/bash", "-c", "stat -c %F /; cat /proc/loadavg"]).output.startswith(b"directory\n0.20")
    box.close()
