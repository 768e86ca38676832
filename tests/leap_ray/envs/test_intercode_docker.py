"""The Docker backend against exchanges recorded from a real engine (20.10), replayed over a Unix socket by the real SDK."""

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
from leap_ray.envs.intercode.sandbox import Limits

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
