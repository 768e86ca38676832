"""Books that cannot be written: full and locked disks, and network file systems."""

import asyncio
import json
import sqlite3

import pytest
from desks import KEY, claude, privileged, wandering

from experiments.benchmarks.anthropic_server import AnthropicServer
from leap_ray.config import TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers import disks
from leap_ray.teachers.build import check_teacher
from leap_ray.teachers.calls import Answer, Attempts, Request, Stop, Turn, Usage
from leap_ray.teachers.store import Store, read_ledger
from leap_ray.types import Outcome

REQUEST = Request("claude-haiku-4-5", "system", (Turn("user", "hello"),), 100)


def outcomes(corrections):
    return {step.outcome for c in corrections if not isinstance(c, BaseException) for step in c.steps}


def fill(store):
    """No page can be added to the file, as on a full disk."""
    pages = store.db.execute("pragma page_count").fetchone()[0]
    store.db.execute(f"pragma max_page_count = {pages}")


def make_room(store):
    store.db.execute("pragma max_page_count = 1000000")


async def test_what_was_paid_counts_before_it_is_written_and_a_full_disk_ends_the_stage(tmp_path):
    episodes, limit = wandering(40), 2.0
    async with AnthropicServer(key=KEY, latency=(0.02, 0.04)) as server:
        async with claude(tmp_path, server, budget_dollars=limit) as teacher:
            desk = teacher.desk
            fill(desk.store)
            results = await asyncio.gather(
                *(teacher.correct(e, privileged(e)) for e in episodes), return_exceptions=True
            )
            errors = [result for result in results if isinstance(result, BaseException)]
            assert errors and {type(error) for error in errors} == {UserError}
            assert "cannot be written" in str(errors[0]) and "leap-ray resume" in str(errors[0])
            paid = server.books.stats()
            assert desk.budget.spent == pytest.approx(paid["dollars"]), "every paid call is counted"
            make_room(desk.store)
            assert desk.settled, "and is written once there is room"
            assert desk.store.totals()["dollars"] == pytest.approx(paid["dollars"])
        async with claude(tmp_path, server, budget_dollars=limit) as teacher:
            assert teacher.desk.budget.spent == pytest.approx(paid["dollars"])
            corrections = [await teacher.correct(e, privileged(e)) for e in episodes[:12]]
        assert server.books.stats()["paid_twice"] == 0
    assert Outcome.FAILED not in outcomes(corrections)
    assert sum(row["dollars"] for row in read_ledger(tmp_path)) == pytest.approx(server.books.stats()["dollars"])


async def test_a_store_that_takes_no_answer_stops_before_the_budget_is_passed(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server, budget_dollars=2.0) as teacher:
        monkeypatch.setattr(teacher.desk.store, "done", broken)
        first = await teacher.correct(*(lambda e: (e, privileged(e)))(wandering(1)[0]))
        assert {step.outcome for step in first.steps} == {Outcome.CORRECTED} and first.dollars > 0, "paid, so given"
        with pytest.raises(UserError, match="disk is full"):
            for episode in wandering(9)[1:]:
                await teacher.correct(episode, privileged(episode))
        assert len(server.books.billed) == 1
        assert teacher.desk.budget.spent == pytest.approx(server.books.stats()["dollars"])


async def test_a_call_that_cannot_be_written_down_does_not_leave(tmp_path):
    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server) as teacher:
        teacher.desk.store.db.execute("pragma query_only = on")
        for episode in wandering(6):
            with pytest.raises(UserError, match="cannot be written"):
                await teacher.correct(episode, privileged(episode))
        assert not server.books.attempts and not teacher.desk.gate.flying and not teacher.desk.budget.reserved


async def test_a_locked_or_broken_shared_file_stops_nobody(tmp_path):
    shared = tmp_path / "shared"
    async with AnthropicServer(key=KEY) as server:
        async with claude(tmp_path / "run", server, cache_dir=str(shared)) as teacher:
            teacher.desk.store.shared.execute("pragma busy_timeout = 50")
            other = sqlite3.connect(shared / "answers.sqlite", isolation_level=None)
            other.execute("begin exclusive")
            corrections = [await teacher.correct(e, privileged(e)) for e in wandering(2)]
            other.execute("rollback")
            other.execute("drop table calls")
            corrections += [await teacher.correct(e, privileged(e)) for e in wandering(4)[2:]]
        assert len(server.books.billed) == 4
    assert Outcome.FAILED not in outcomes(corrections)


def test_a_ledger_line_that_a_full_disk_cut_is_written_again(tmp_path, monkeypatch):
    store = Store(tmp_path)
    rows = [store.sent(REQUEST, "live") for _ in range(2)]
    write = disks.os.write
    monkeypatch.setattr("os.write", lambda fd, data: write(fd, data[:20]) if len(data) > 20 else _full())
    with pytest.raises(OSError, match="No space"):
        store.done(rows[0], Answer(REQUEST.key, "text", Stop.END, Usage(10, 5), 0.5), Attempts(sent=1))
    monkeypatch.undo()
    store.done(rows[1], Answer(REQUEST.key, "text", Stop.END, Usage(10, 5), 0.25), Attempts(sent=1))
    store.close()
    Store(tmp_path).close()
    assert sorted(row["dollars"] for row in read_ledger(tmp_path)) == [0.25, 0.5]


def _full():
    raise OSError(28, "No space left on device")


# --- network file systems


@pytest.fixture
def network(monkeypatch):
    """Folders named `net` are on NFS."""
    monkeypatch.setattr(disks, "file_system", lambda path: "nfs4" if "net" in path.parts else "ext4")


@pytest.mark.parametrize(
    "kind, remote",
    [
        ("nfs4", True),
        ("lustre", True),
        ("fuse.sshfs", True),
        ("fuse.gcsfuse", True),
        ("ext4", False),
        ("fuse.mergerfs", False),
    ],
)
def test_network_file_systems_are_known_by_their_mounts(tmp_path, monkeypatch, kind, remote):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"rootfs / ext4 rw 0 0\nserver:/x {tmp_path}/with\\040space {kind} rw 0 0\n")
    folder = tmp_path / "with space" / "run"
    found = disks.file_system(folder, mounts)
    assert found == kind and disks.file_system(tmp_path / "with", mounts) == "ext4"
    monkeypatch.setattr(disks, "file_system", lambda path: found if path == folder else "ext4")
    assert bool(disks.on_network(folder)) == remote


def test_a_shared_folder_on_a_network_file_system_is_refused(tmp_path, network, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(UserError, match=r"teacher\.cache_dir: .*net.*nfs4.*local folder"):
        check_teacher(TeacherConfig(kind="claude", cache_dir=str(tmp_path / "net")))
    with pytest.raises(UserError, match=r"teacher\.cache_dir"):
        Store(tmp_path / "run", tmp_path / "net")


def test_a_run_on_a_network_file_system_keeps_its_answers_on_this_machine(tmp_path, network, monkeypatch):
    monkeypatch.setenv("LEAP_RAY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "net" / "teacher"

    def answers(cost):
        store = Store(folder)
        kept = store.answer(REQUEST.key)
        if kept is None:
            row = store.sent(REQUEST, "live")
            store.done(row, Answer(REQUEST.key, "text", Stop.END, Usage(10, 5), cost), Attempts(sent=1))
        return store, kept

    store, _ = answers(0.5)
    assert not (folder / "calls.sqlite").exists() and list((tmp_path / "cache").rglob("calls.sqlite"))
    assert [row["dollars"] for row in read_ledger(folder)] == [0.5], "the ledger is where the run is"
    monkeypatch.setattr(disks.socket, "gethostname", lambda: "another")
    with pytest.raises(UserError, match=r"answers of this run are on .* go on there, or copy"):
        Store(folder)
    monkeypatch.undo()
    monkeypatch.setenv("LEAP_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(disks, "file_system", lambda path: "nfs4" if "net" in path.parts else "ext4")
    store.close()
    assert json.loads((folder / disks.POINTER).read_text())["clean"]
    monkeypatch.setattr(disks.socket, "gethostname", lambda: "another")
    monkeypatch.setenv("LEAP_RAY_CACHE", str(tmp_path / "cache of another"))
    store, kept = answers(0.5)
    assert kept is not None and kept.text == "text", "what was closed can be taken up on another machine"
    store.close()
