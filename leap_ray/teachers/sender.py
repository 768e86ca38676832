"""A small process of its own that makes paid calls, so that no answer is lost that was paid for.

The API knows no idempotency key: a call whose caller dies while it is under way is charged, and its answer is gone. So the desk
lives in a process that neither the teacher's actor nor the driver takes down with it. They speak to it over a local socket;
when they are killed, it finishes what is under way, writes answer and cost to the store, and leaves after a while of quiet.
The actor that Ray starts in their place finds the same sender, or a new one over the same store, and asks again: for nothing.

What remains uncertain is a `kill -9` of this process itself (or of the machine): its calls under way are written off as *lost*
at the next start, counted in the ledger as dollars that may have been charged, and asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from leap_ray.config import TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.books import FAULTS, books_error
from leap_ray.teachers.calls import Answer, Request
from leap_ray.teachers.keys import read_key, without_keys
from leap_ray.types import digest, from_plain, to_plain

LIMIT = 256 * 1024**2  # bytes of one message on the socket
WRITING = 300.0  # seconds for which a process with unwritten answers waits for room on the disk
LINGER = 20.0  # seconds without a client and without a call before the process ends
START = 180.0  # seconds that a sender may take to start or to make room for its successor


def config_id(config: TeacherConfig) -> str:
    """Names the settings that a desk is made of: another budget or model needs another desk."""
    plain = to_plain(config)
    return digest(to_plain(from_plain(TeacherConfig, plain)))  # as it comes back from JSON: 600 and 600.0 are one


# --- the process


class Sender:
    """Serves one desk to any number of local clients."""

    def __init__(self, desk: Any, folder: Path, config: TeacherConfig) -> None:
        self.desk = desk
        self.address = folder / "sender.json"
        self.id = config_id(config)
        self.token = secrets.token_hex(16)
        self.clients = 0
        self.calls = 0
        self.retired = False
        self._quiet_since = time.monotonic()

    async def serve(self) -> None:
        """Until there has been no client and no call for a while, or a client with other settings wants our place."""
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=LIMIT)
        where = {"port": server.sockets[0].getsockname()[1], "token": self.token, "pid": os.getpid()}
        _write_private(self.address, json.dumps(where))
        while not self._may_go():  # noqa: ASYNC110  half of what it looks at is a clock
            await asyncio.sleep(0.1)
        self.address.unlink(missing_ok=True)
        server.close()

    def _may_go(self) -> bool:
        if self.calls or (self.clients and not self.retired):
            self._quiet_since = time.monotonic()
        quiet = time.monotonic() - self._quiet_since
        ready = self.desk.resumable or not self.calls  # a batch waits at the provider for whoever comes next
        leaving = (self.retired and ready) or quiet > LINGER
        return leaving and (self.desk.settled or quiet > WRITING)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        tasks: set[asyncio.Task[None]] = set()
        try:
            hello = json.loads(await reader.readline() or "{}")
            if hello.get("token") != self.token:
                return
            fits = hello.get("config") == self.id and not self.retired
            self.retired = not fits
            await _send(writer, {"fits": fits})
            while fits and (line := await reader.readline()):
                task = asyncio.create_task(self._handle(json.loads(line), writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (ConnectionError, asyncio.IncompleteReadError, json.JSONDecodeError):
            pass  # a client that was killed: its calls go on
        finally:
            self.clients -= 1
            writer.close()

    async def _handle(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        try:
            reply: dict[str, Any] = {"id": message["id"]}
            try:
                if message["op"] == "ask":
                    reply["answer"] = to_plain(await self.desk.ask(from_plain(Request, message["request"])))
                else:
                    reply["answer"] = await self.desk.totals()
            except UserError as error:
                reply["user_error"] = str(error)
                self.retired = True  # a wrong key, for instance: who comes next may have mended it
            except Exception as error:
                reply["error"] = f"{type(error).__name__}: {error}"
            if not writer.is_closing():  # else a client that was killed: the store has its answer
                with contextlib.suppress(ConnectionError):
                    await _send(writer, reply)
        finally:
            self.calls -= 1


def main() -> None:
    """Run a sender: `python -m leap_ray.teachers.sender FOLDER`, its configuration and key as JSON on standard input."""
    from leap_ray.teachers.build import build_desk

    folder = Path(sys.argv[1])
    lock = os.open(folder / "sender.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another one serves this folder
    told = json.load(sys.stdin)  # the key comes this way too: it is in no environment and in no list of processes
    config, key = from_plain(TeacherConfig, told["config"]), str(told["key"])

    async def run() -> None:
        desk = build_desk(config, folder, key)
        await Sender(desk, folder, config).serve()
        await desk.close()

    try:
        asyncio.run(run())
    except (UserError, *FAULTS) as error:
        error = error if isinstance(error, UserError) else books_error(folder, error)
        with contextlib.suppress(OSError):
            (folder / "sender.error").write_text(str(error))
        raise SystemExit(f"error: {error}") from None


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


# --- the client


class SenderClient:
    """The desk of a teacher, reached through its folder's sender, which is started if there is none."""

    def __init__(self, config: TeacherConfig, folder: Path, key: str | None = None) -> None:
        self.config = config
        self._key = read_key(config) if key is None else key
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, request: Request) -> Answer:
        """The answer. A sender that dies is started again, and asked again: its store has what was answered."""
        return from_plain(Answer, await self._call({"op": "ask", "request": to_plain(request)}))

    async def totals(self) -> dict[str, Any]:
        """The desk's sums."""
        return await self._call({"op": "totals"})

    async def close(self) -> None:
        """Leave. The sender ends by itself once it has nothing to do."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _call(self, message: dict[str, Any]) -> Any:
        for _ in range(3):
            connection = await self._connected()
            try:
                return await connection.call(message)
            except ConnectionError:
                continue
        raise UserError(f"the process that asks the teacher died three times: see {self.folder / 'sender.log'}")

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is not None and self._connection.alive:
                return self._connection
            deadline = time.monotonic() + START + self.config.timeout
            (self.folder / "sender.error").unlink(missing_ok=True)
            process = None
            while time.monotonic() < deadline:
                if connection := await self._try():
                    self._connection = connection
                    return connection
                self._raise_reported()
                if process is None or process.poll() is not None:
                    process = self._start()
                await asyncio.sleep(0.1)
        raise UserError(
            f"the process that asks the teacher did not start: see {self.folder / 'sender.log'}; one that hangs is named in "
            "sender.json (pid): end it"
        )

    async def _try(self) -> _Connection | None:
        try:
            where = json.loads((self.folder / "sender.json").read_text())
            reader, writer = await asyncio.open_connection("127.0.0.1", where["port"], limit=LIMIT)
            await _send(writer, {"token": where["token"], "config": config_id(self.config)})
            hello = json.loads(await asyncio.wait_for(reader.readline(), 10) or "{}")
        except (OSError, json.JSONDecodeError, TimeoutError):
            return None
        if not hello.get("fits"):
            writer.close()
            return None
        return _Connection(reader, writer)

    def _raise_reported(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            told = (self.folder / "sender.error").read_text()
            raise UserError(told) if told else books_error(self.folder, "no room even for the reason")

    def _start(self) -> subprocess.Popen[bytes]:
        """Start a sender in a session of its own: signals to the actor's or the driver's group do not reach it."""
        command = [sys.executable, "-m", "leap_ray.teachers.sender", str(self.folder)]
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with open(self.folder / "sender.log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=without_keys({**os.environ, "PYTHONPATH": path}, self.config),
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"config": to_plain(self.config), "key": self._key}).encode())
            process.stdin.close()
        return process


class _Connection:
    """One socket, many calls at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        self.alive = True
        self._listener = asyncio.create_task(self._listen())

    async def call(self, message: dict[str, Any]) -> Any:
        """Raises ConnectionError if the sender goes away before it answers."""
        if not self.alive:
            raise ConnectionError
        self._next += 1
        number = self._next
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await _send(self._writer, {**message, "id": number})
            return await future
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        self._listener.cancel()
        self._writer.close()

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                reply = json.loads(line)
                future = self._waiting.get(reply["id"])
                if future is None or future.done():
                    continue
                if "user_error" in reply:
                    future.set_exception(UserError(reply["user_error"]))
                elif "error" in reply:
                    future.set_exception(RuntimeError(reply["error"]))
                else:
                    future.set_result(reply["answer"])
        except (OSError, json.JSONDecodeError):
            pass
        finally:
            self.alive = False
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError("the sender went away"))


if __name__ == "__main__":
    main()
