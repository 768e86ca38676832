"""Nothing that was paid for is lost or paid again, whichever process is killed with -9."""

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from desks import KEY, wandering

from experiments.benchmarks.anthropic_server import AnthropicServer, Faults
from leap_ray.config import TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.calls import Request, Turn
from leap_ray.teachers.sender import SenderClient
from leap_ray.teachers.store import read_ledger

HERE = Path(__file__).parent


@asynccontextmanager
async def asking(folder, server, count, mode="live"):
    """The driver process; killed at the end if it still lives."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[2])])
    env = {**os.environ, "ANTHROPIC_API_KEY": KEY, "PYTHONPATH": path}
    command = [sys.executable, str(HERE / "asking.py"), str(folder), server.url, str(count), mode]
    process = await asyncio.create_subprocess_exec(*command, env=env, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(condition, seconds=300):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  polls a process
            await asyncio.sleep(0.02)


async def to_the_end(folder, server, count, mode="live"):
    async with asking(folder, server, count, mode) as process:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()[-2000:]


def corrections(folder):
    lines = (folder.parent / "corrections.jsonl").read_text().splitlines()
    return {json.loads(line)["episode"]: json.loads(line) for line in lines if line.endswith("}")}


async def test_a_killed_driver_loses_and_repeats_nothing(tmp_path):
    folder, count = tmp_path / "teacher", 40
    faults = Faults(0.3, ("429", "529", "500", "cut", "malformed", "short", "max_tokens", "refusal"))
    async with AnthropicServer(key=KEY, latency=(0.2, 0.4), faults=faults) as server:
        for calls in (5, 20):
            async with asking(folder, server, count) as driver:
                await until(lambda calls=calls: len(server.books.billed) >= calls)
                driver.kill()  # -9, with calls under way
        await to_the_end(folder, server, count)
        stats = server.books.stats()
    assert stats["paid_twice"] == 0
    assert set(corrections(folder)) == {episode.id for episode in wandering(count)}
    ledger = read_ledger(folder)
    assert {row["state"] for row in ledger} <= {"done", "failed"}
    assert round(sum(row["dollars"] for row in ledger), 2) == round(stats["dollars"], 2)
    assert sum(row["dollars"] for row in ledger) == pytest.approx(stats["dollars"], abs=1e-9)
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


async def test_a_killed_sender_is_replaced_and_its_open_calls_are_counted_as_lost(tmp_path):
    folder, count = tmp_path / "teacher", 20
    async with AnthropicServer(key=KEY, latency=(0.3, 0.5)) as server:
        async with asking(folder, server, count) as driver:
            await until(lambda: len(server.books.billed) >= 4)
            os.kill(json.loads((folder / "sender.json").read_text())["pid"], signal.SIGKILL)
            _, errors = await driver.communicate()  # the driver goes on with a new sender
            assert driver.returncode == 0, errors.decode()[-2000:]
        charged = server.books.stats()["dollars"]
    ledger = read_ledger(folder)
    assert set(corrections(folder)) == {episode.id for episode in wandering(count)}
    lost = [row for row in ledger if row["state"] == "lost"]
    assert lost and all(row["uncertain"] > 0 and row["dollars"] == 0 for row in lost)
    sure = sum(row["dollars"] for row in ledger)
    assert sure <= charged + 1e-9 <= sure + 1.5 * sum(row["uncertain"] for row in ledger) + 1e-9


async def test_a_batch_outlives_driver_and_sender(tmp_path):
    folder = tmp_path / "teacher"
    async with AnthropicServer(key=KEY, batch_seconds=4.0) as server:
        async with asking(folder, server, 8, "batch") as driver:
            await until(lambda: server.batches)
            driver.kill()
            os.kill(json.loads((folder / "sender.json").read_text())["pid"], signal.SIGKILL)
        await to_the_end(folder, server, 8, "batch")
        assert len(server.batches) == 1 and server.books.stats()["calls"] == 8
    assert len(corrections(folder)) == 8


async def test_other_settings_get_another_sender_and_a_wrong_key_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    request = Request("claude-haiku-4-5", "s", (Turn("user", "<task>\nx\n</task>"),), 100)
    async with AnthropicServer(key=KEY) as server:
        pids = []
        for budget in (1.0, 2.0):
            config = TeacherConfig(kind="claude", model="claude-haiku-4-5", base_url=server.url, budget_dollars=budget)
            client = SenderClient(config, tmp_path)
            await client.ask(request)
            pids.append(json.loads((tmp_path / "sender.json").read_text())["pid"])
            await client.close()
        assert pids[0] != pids[1] and len(server.books.billed) == 1
        monkeypatch.setenv("ANTHROPIC_API_KEY", "wrong")
        config = TeacherConfig(kind="claude", model="claude-haiku-4-5", base_url=server.url, budget_dollars=3.0)
        client = SenderClient(config, tmp_path)
        with pytest.raises(UserError, match="HTTP 401"):
            await client.ask(Request("claude-haiku-4-5", "other", (Turn("user", "y"),), 100))
        monkeypatch.delenv("ANTHROPIC_API_KEY")
        client = SenderClient(TeacherConfig(kind="claude", base_url=server.url, budget_dollars=4.0), tmp_path)
        with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
            await client.ask(request)


async def test_a_mended_key_works_at_once(tmp_path, monkeypatch):
    """A sender that was refused makes room for one with the key of whoever comes next."""
    async with AnthropicServer(key=KEY) as server:
        config = TeacherConfig(kind="claude", model="claude-haiku-4-5", base_url=server.url)
        request = Request("claude-haiku-4-5", "s", (Turn("user", "<task>\nx\n</task>"),), 100)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "wrong")
        client = SenderClient(config, tmp_path)
        with pytest.raises(UserError, match="HTTP 401"):
            await client.ask(request)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        again = SenderClient(config, tmp_path)
        assert (await again.ask(request)).text
        await client.close()
        await again.close()


def test_a_report_for_which_the_disk_had_no_room_is_a_sentence_too(tmp_path):
    """Of `sender.error` on a full disk the name alone is left."""
    client = SenderClient(TeacherConfig(kind="claude"), tmp_path, KEY)
    (tmp_path / "sender.error").touch()
    with pytest.raises(UserError, match=r"cannot be written .* make room there, then `leap-ray resume RUN` goes on"):
        client._raise_reported()


@pytest.mark.slow
async def test_a_batch_sender_makes_room_while_its_batch_is_processed(tmp_path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    request = Request("claude-haiku-4-5", "s", (Turn("user", "<task>\nx\n</task>"),), 100)
    async with AnthropicServer(key=KEY, batch_seconds=600.0) as server:
        base = TeacherConfig(
            kind="claude",
            model="claude-haiku-4-5",
            base_url=server.url,
            mode="batch",
            batch_quiet=0.1,
            budget_dollars=1.0,
        )
        first = SenderClient(base, tmp_path)
        asked = asyncio.create_task(first.ask(request))
        await until(lambda: server.batches)
        asked.cancel()
        await first.close()
        raised = SenderClient(dataclasses.replace(base, budget_dollars=2.0), tmp_path)
        totals = await raised.totals()
        assert totals["batches"] == 1 and not server.books.billed, "it must not wait for the batch's end"
        (batch,) = server.batches.values()
        batch.ends_at = 0.0
        assert (await raised.ask(request)).text and len(server.batches) == 1
        await raised.close()
