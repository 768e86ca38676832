"""The Docker backend with the real SDK over a Unix socket.

The exchanges of whole episodes were recorded from a real engine (20.10; only the image's name was changed since). What was not
recorded, refusals and commands that do not end, is answered in the same form by `Script`.
"""

import base64
import io
import json
import re
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("docker", reason="the Docker SDK is not installed: pip install leap-ray[docker]")

from leap_ray.envs.intercode import docker_backend, reaper
from leap_ray.envs.intercode.data import load
from leap_ray.envs.intercode.docker_backend import DockerSandbox
from leap_ray.envs.intercode.sandbox import Limits, SandboxError
from leap_ray.errors import EnvironmentFault

EXCHANGES = json.loads(Path(__file__).with_name("intercode_docker_exchanges.json").read_text())
FIRST = next(i for i, e in enumerate(EXCHANGES) if e["method"] == "DELETE") + 1  # exchanges of the first container


class Engine(threading.Thread):
    """Answers one connection after another with the recorded exchanges, in order; anything else is refused and remembered."""

    def __init__(self, path, exchanges):
        super().__init__(daemon=True)
        self.left, self.asked, self.surprises = list(exchanges), [], []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()

    def run(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                self.answer(connection)

    def answer(self, connection):
        head, body = read_request(connection)
        method, path, _ = head.split("\r\n")[0].split(" ")
        path = re.sub(r"^/v[\d.]+", "", path)
        expected = self.left[0] if self.left else {"method": "", "path": ""}
        if (method, path.split("?")[0]) != (expected["method"], expected["path"].split("?")[0]):
            self.surprises.append((method, path, expected["path"]))
            connection.sendall(b"HTTP/1.1 500 Unexpected\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        self.asked.append((method, path, body))
        head, stream = response(self.left.pop(0))
        connection.sendall(head)
        if stream:
            time.sleep(0.05)  # the SDK takes the socket over after the head, as the engine lets it
            connection.sendall(stream)


def read_request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    text = head.decode()
    length = re.search(r"(?i)content-length: (\d+)", text)
    while length and len(body) < int(length[1]):
        body += connection.recv(65536)
    while "chunked" in text.lower() and not body.endswith(b"0\r\n\r\n"):
        body += connection.recv(65536)
    return text, body


def response(exchange):
    if "raw" in exchange:
        upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if exchange["upgrade"] else "Connection: close\r\n"
        head = f"HTTP/1.1 {exchange['status']} Recorded\r\nContent-Type: {exchange['type']}\r\n{upgrade}\r\n"
        return head.encode(), base64.b64decode(exchange["raw"])
    body = exchange["body"].encode()
    length = "" if exchange["status"] == 204 else f"Content-Length: {len(body)}\r\n"
    head = f"HTTP/1.1 {exchange['status']} Recorded\r\nContent-Type: {exchange['type']}\r\n{length}Connection: close\r\n\r\n"
    return head.encode() + body, b""


@pytest.fixture
def engine(tmp_path, monkeypatch, request):
    made = Engine(tmp_path / "engine.sock", request.param)
    made.start()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    return made


def recorded_start():
    return next(json.loads(e["body"]) for e in EXCHANGES if e["path"].startswith("/containers/json"))


@pytest.mark.parametrize("engine", [EXCHANGES[:FIRST]], indirect=True)
def test_an_episode_as_recorded(engine):
    box = DockerSandbox(load("embedded", "bash").trees["fs_2"], Limits(seconds=1, output=20))
    run = box.run(["/bin/bash", "-c", "cat /lab/data/hosts.txt >&2; exit 3"])
    assert (run.output, run.total, run.code, run.broke) == (b"alpha 10.0.0.1\nbeta ", 44, 3, "")
    assert box.run(["/bin/bash", "-c", "pwd"], "/lab/src").output == b"/lab/src\n"
    box.run(["/bin/bash", "-c", "sleep 60"])
    assert box.run(["/bin/bash", "-c", "touch /new; git status --short"]).output == b"?? new\n"
    box.close()
    assert engine.surprises == [] and engine.left == []
    created = next(json.loads(body) for _, path, body in engine.asked if path.startswith("/containers/create"))
    host = created["HostConfig"]
    assert (created["NetworkDisabled"], host["NetworkMode"], host["CapDrop"]) == (True, "none", ["ALL"])
    assert not host.get("CapAdd") and host["StorageOpt"] == {"size": str(Limits().disk)}
    assert host["Memory"] == host["MemorySwap"] == Limits().memory and host["PidsLimit"] == Limits().processes
    assert (
        host["SecurityOpt"] == ["no-new-privileges"]
        and created["Labels"][docker_backend.LABEL] == docker_backend.label()
    )
    commands = [json.loads(body) for _, path, body in engine.asked if path.endswith("/exec")]
    assert commands[-2]["Cmd"] == ["timeout", "-s", "KILL", "1", "/bin/bash", "-c", "touch /new; git status --short"]
    assert commands[-1]["Cmd"][-1] == "kill -9 -1"
    assert commands[-6]["WorkingDir"] == "/lab/src"


@pytest.mark.parametrize("engine", [EXCHANGES[FIRST + 12 :]], indirect=True)
def test_containers_of_a_dead_owner_are_removed(engine, monkeypatch):
    listed = recorded_start()
    label = listed[0]["Labels"][docker_backend.LABEL]
    assert label.endswith("/1:0")  # process 1 of another time
    while engine.left[0]["path"] != "/version":
        engine.left.pop(0)
    monkeypatch.setattr("platform.node", lambda: label.split("/")[0])
    assert reaper._reap_containers() == 1
    assert engine.surprises == [] and engine.asked[-1][0] == "DELETE"


@pytest.mark.parametrize("engine", [EXCHANGES[FIRST + 12 :]], indirect=True)
def test_containers_of_other_hosts_are_left_alone(engine, monkeypatch):
    while engine.left[0]["path"] != "/version":
        engine.left.pop(0)
    monkeypatch.setattr("platform.node", lambda: "another-host")
    assert reaper._reap_containers() == 0
    assert all(method == "GET" for method, _, _ in engine.asked)


def test_standard_input_is_a_file_that_is_gone_once_opened(tmp_path):
    given = io.BytesIO(docker_backend._as_file(docker_backend.GIVEN, b"some words"))
    with tarfile.open(fileobj=given) as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / docker_backend.GIVEN
    done = subprocess.run(docker_backend.reading(str(path), ["cat"]), capture_output=True, check=True)
    assert done.stdout == b"some words" and not path.exists()


def test_no_engine_is_one_clear_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert "no Docker engine answers" in docker_backend.why_not()


class Script(threading.Thread):
    """An engine that answers by what is asked: `answers` maps the end of "METHOD path" to a status and a body, or a function."""

    def __init__(self, path, answers):
        super().__init__(daemon=True)
        self.answers, self.asked, self.ended = STANDARD | answers, [], threading.Event()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()

    def run(self):
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            head, body = read_request(connection)
            method, path, _ = head.split("\r\n")[0].split(" ")
            asked = f"{method} {path.split('?')[0]}"
            self.asked.append((asked, body))
            given = next(answer for end, answer in self.answers.items() if asked.endswith(end))
            status, answer = given(self, body) if callable(given) else given
            if status == 101:
                connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
                time.sleep(0.05)
                connection.sendall(answer)
                return
            text = json.dumps(answer).encode()
            length = f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            connection.sendall(f"HTTP/1.1 {status} x\r\n{length}".encode() + (b"" if status == 204 else text))


def started(script, body):
    """A started command: the one that kills ends what waits, any other says hello."""
    script.commands = [json.loads(b)["Cmd"] for a, b in script.asked if a.endswith("/exec")]
    if script.commands[-1][-1] == "kill -9 -1":
        script.ended.set()
        return 101, b""
    return 101, b"\x01\0\0\0\0\0\0\x06hello\n"


def waiting(script, body):
    """A command whose output somebody holds open until everything is killed."""
    answer = started(script, body)
    if script.commands[-1][-1] == "hold":
        assert script.ended.wait(20)
    return answer


def deaf(script, body):
    """A command that no kill inside the container ends."""
    answer = started(script, body)
    if script.commands[-1][-1] == "hold":
        assert script.killed.wait(20)
    return answer


def killed(script, body):
    script.killed.set()
    return 204, None


STANDARD = {
    "/version": (200, {"ApiVersion": "1.41"}),
    "/_ping": (200, "OK"),
    "GET /v1.41/images/leap-ray-intercode:2/json": (200, {"Id": "sha256:1"}),
    "/containers/create": (201, {"Id": "c1"}),
    "GET /v1.41/containers/c1/json": (200, {"Id": "c1"}),
    "/containers/c1/start": (204, None),
    "/containers/c1/archive": (200, None),
    "/containers/c1/changes": (
        200,
        [{"Path": "/lab", "Kind": 1}, {"Path": "/etc", "Kind": 0}, {"Path": "/etc/x", "Kind": 1}],
    ),
    "/containers/c1/exec": (201, {"Id": "e1"}),
    "/exec/e1/start": started,
    "/exec/e1/json": (200, {"ExitCode": 0}),
    "/containers/c1/kill": killed,
    "DELETE /v1.41/containers/c1": (204, None),
}


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/script.sock")

    def start(**answers):
        script = Script(tmp_path / "script.sock", answers)
        script.killed = threading.Event()
        script.start()
        return script

    return start


def sandbox(**limits):
    return DockerSandbox(load("embedded", "bash").trees["fs_2"], Limits(**limits))


def test_a_trusted_command_runs_where_the_engine_knows_of_no_change_to_what_judges(scripted):
    scripted()
    assert sandbox().run(["/usr/bin/git", "status"], trusted=True).output == b"hello\n"


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/git",
        "/bin",
        "/lib64",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/etc/ld.so.preload",
        "/etc/ld.so.cache",
        "/usr",
    ],
)
def test_nothing_is_judged_where_what_judges_was_changed(scripted, path):
    script = scripted(**{"/containers/c1/changes": (200, [{"Path": "/lab", "Kind": 1}, {"Path": path, "Kind": 0}])})
    box = sandbox()
    before = len(script.asked)
    run = box.run(["/usr/bin/git", "status"], trusted=True)
    assert (run.broke, run.output, run.code) == ("trust", b"", None)
    assert [asked for asked, _ in script.asked[before:]] == ["GET /v1.41/containers/c1/changes"]
    assert box.run(["/bin/ls"]).output == b"hello\n"  # the student may go on


def test_a_command_whose_output_is_held_open_ends_at_its_limit(scripted, monkeypatch):
    script = scripted(**{"/exec/e1/start": waiting})
    monkeypatch.setattr(docker_backend, "GRACE", 0.2)
    run = sandbox().run(["hold"], seconds=0.1)
    assert run.output == b"hello\n" and run.code == 0 and not script.killed.is_set()


def test_a_container_that_does_not_answer_is_ended_and_is_a_fault(scripted, monkeypatch):
    script = scripted(
        **{"/exec/e1/start": deaf, "/exec/e1/json": lambda s, b: (200, {"ExitCode": None if s.killed.is_set() else 0})}
    )
    box = sandbox()
    monkeypatch.setattr(docker_backend, "GRACE", 0.1)
    monkeypatch.setattr(docker_backend, "PATIENCE", 0.3)
    with pytest.raises(EnvironmentFault, match="did not end"):
        box.run(["hold"], seconds=0.1)
    assert script.killed.is_set()


def test_an_engine_that_cannot_limit_a_disk_is_asked_without(scripted):
    def create(script, body):
        if json.loads(body)["HostConfig"].get("StorageOpt"):
            return 500, {"message": "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"}
        return 201, {"Id": "c1"}

    script = scripted(**{"/containers/create": create})
    assert sandbox().run(["/bin/ls"]).output == b"hello\n"
    assert sum(asked.endswith("/containers/create") for asked, _ in script.asked) == 2


@pytest.mark.parametrize(
    "place", ["/containers/create", "/containers/c1/archive", "/containers/c1/exec", "/containers/c1/changes"]
)
def test_an_engine_that_fails_is_no_result_of_the_student(scripted, place):
    scripted(**{place: (500, {"message": "no space left on device"})})
    with pytest.raises(SandboxError, match="no space left"):
        sandbox().run(["/bin/ls"], trusted=True)


def test_programs_belong_to_another_user_than_the_student():
    assert "chown -R -h daemon:daemon /usr" in docker_backend.DOCKERFILE
