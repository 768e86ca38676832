"""What was asked and paid for, on disk: a SQLite file (WAL) that is both cache and book, and a ledger people can read.

A call has one row, keyed by model, prompt and parameters. It is written as `sent` before the request leaves, and becomes `done`
with its answer and its cost in one transaction: no answer without its cost, no cost without its answer. `ledger.jsonl` is
a copy of the finished rows, appended and synced; rows it lacks after a crash are added when the store is opened.
A shared folder may hold a second such file, read where this run has no answer and written where it got one: another run
that asks the same question gets it for nothing.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leap_ray.teachers.calls import Answer, Attempts, Request, Stop, Usage
from leap_ray.teachers.disks import Place, check_local
from leap_ray.types import digest

log = logging.getLogger(__name__)
_SCHEMA = """
create table if not exists calls (
  n integer primary key autoincrement, key text, state text, model text, purpose text, episode text, mode text,
  characters integer default 0, sent_at real, done_at real, text text, stop text,
  input integer default 0, output integer default 0, cache_write integer default 0, cache_read integer default 0,
  dollars real default 0, uncertain real default 0,
  attempts integer default 0, refused integer default 0, undelivered integer default 0, request_id text, detail text,
  batch text);
create index if not exists calls_key on calls (key, state);
create table if not exists batches (intent text primary key, id text, state text, planned_at real, size integer);
"""
_SUMS = ("input", "output", "cache_write", "cache_read", "dollars", "uncertain", "attempts", "refused", "undelivered")
_LEDGER = (
    *("n", "key", "state", "model", "purpose", "episode", "mode", "characters", "sent_at", "done_at", "stop"),
    *(*_SUMS, "request_id", "detail"),
)  # fmt: skip


class Store:
    """One run's calls. Owned by one process at a time; every write is on disk when the method returns."""

    def __init__(self, folder: Path, shared: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._place = Place(folder)
        self.db = _open(self._place.path)
        if shared:
            check_local(shared, "teacher.cache_dir")
        self.shared = _open(shared / "answers.sqlite") if shared else None
        self._torn = False
        self._ledger = _appender(folder / "ledger.jsonl")
        self._written = self._catch_up(folder / "ledger.jsonl")

    def answer(self, key: str) -> Answer | None:
        """The answer that was paid for earlier, here or by another run."""
        query = "select * from calls where key = ? and state = 'done' and stop != 'failed' limit 1"
        if (row := self.db.execute(query, (key,)).fetchone()) is not None:
            return _answer(row)
        with self._beside() as shared:
            row = shared.execute(query, (key,)).fetchone() if shared else None
            return _answer(row) if row is not None else None
        return None

    @contextmanager
    def _beside(self) -> Iterator[sqlite3.Connection | None]:
        """The shared file. It is a help only: when it is locked, full or broken, this run goes on without it."""
        try:
            yield self.shared
        except sqlite3.Error as error:
            log.warning("the shared answers cannot be used now: %s", error)

    def sent(self, request: Request, mode: str) -> int:
        """Record that the request is about to leave. Returns its row."""
        with self.db:
            cursor = self.db.execute(
                "insert into calls (key, state, model, purpose, episode, mode, characters, sent_at) "
                "values (?, 'sent', ?, ?, ?, ?, ?, ?)",
                (request.key, request.model, request.purpose, request.episode, mode, request.characters, time.time()),
            )
        return int(cursor.lastrowid or 0)

    def done(self, row: int, answer: Answer, attempts: Attempts, request_id: str = "", uncertain: float = 0.0) -> None:
        """Record an answer and its cost, once."""
        usage = asdict(answer.usage)
        values = {
            "state": "done", "done_at": time.time(), "text": answer.text, "stop": str(answer.stop), **usage,
            "dollars": answer.dollars, "detail": answer.detail, "request_id": request_id,
        }  # fmt: skip
        self._finish(row, values, attempts, uncertain)
        self._share(row)

    def failed(
        self, row: int, detail: str, attempts: Attempts, uncertain: float = 0.0, paid: Answer | None = None
    ) -> None:
        """Record that no answer came. `uncertain`: dollars that may have been charged for attempts never answered.

        `paid`: usage and dollars of a failure that the provider charged.
        """
        values = {"state": "failed", "done_at": time.time(), "stop": str(Stop.FAILED), "detail": detail}
        if paid is not None:
            values |= {**asdict(paid.usage), "dollars": paid.dollars}
        self._finish(row, values, attempts, uncertain)

    def lost(self) -> list[dict[str, Any]]:
        """Live calls that were under way when their process died: whether they were charged cannot be known."""
        rows = self.db.execute("select n, model from calls where state = 'sent' and mode = 'live'").fetchall()
        return [dict(row) for row in rows]

    def write_off(self, row: int, uncertain: float) -> None:
        """Count a lost call: it may be asked again, and `uncertain` dollars of it may have been charged."""
        values = {"state": "lost", "done_at": time.time(), "detail": "its process died before the answer came"}
        self._finish(row, values, Attempts(sent=1, undelivered=1), uncertain)

    def totals(self) -> dict[str, Any]:
        """Sums over the run: calls by state, tokens, dollars, and the dollars that may have been charged besides."""
        sums = ", ".join(f"coalesce(sum({name}), 0) as {name}" for name in _SUMS)
        total = dict(self.db.execute(f"select {sums} from calls where state != 'sent'").fetchone())
        states = self.db.execute("select state, count(*) as n from calls group by state").fetchall()
        total["calls"] = {row["state"]: row["n"] for row in states}
        return total

    def means(self) -> tuple[float, float, int]:
        """(mean prompt tokens, mean output tokens, calls they are from) of the answered calls."""
        row = self.db.execute(
            "select avg(input + cache_write + cache_read) as i, avg(output) as o, count(*) as n from calls where state = 'done'"
        ).fetchone()
        return float(row["i"] or 0), float(row["o"] or 0), int(row["n"])

    # --- batches: `planned` (may or may not have reached the provider), `sent` (has an id), `ended`

    def plan_batch(self, requests: Sequence[Request], bounds: Sequence[float]) -> str:
        """Record that these requests are about to leave together. Returns the name of the intent.

        Until it has an answer, a row's `uncertain` is the most that its request can cost: the `bounds`, in dollars.
        """
        now = time.time()
        intent = digest([request.key for request in requests], now, length=16)
        rows = [(r.key, r.model, r.purpose, r.episode, r.characters, now, intent, b) for r, b in zip(requests, bounds)]
        with self.db:
            self.db.execute("insert into batches values (?, null, 'planned', ?, ?)", (intent, now, len(rows)))
            self.db.executemany(
                "insert into calls (key, state, model, purpose, episode, mode, characters, sent_at, batch, uncertain) "
                "values (?, 'sent', ?, ?, ?, 'batch', ?, ?, ?, ?)",
                rows,
            )
        return intent

    def set_batch(self, intent: str, state: str, name: str | None) -> None:
        """Its state, and the provider's name for it."""
        with self.db:
            self.db.execute("update batches set state = ?, id = ? where intent = ?", (state, name, intent))

    def batches(self, *states: str) -> list[dict[str, Any]]:
        """Batches in these states, oldest first."""
        marks = ", ".join("?" * len(states))
        rows = self.db.execute(f"select * from batches where state in ({marks}) order by planned_at", states).fetchall()
        return [dict(row) for row in rows]

    def batch_rows(self, intent: str) -> dict[str, int]:
        """Rows of a batch's calls that have no answer yet, by key."""
        rows = self.db.execute("select key, n from calls where batch = ? and state = 'sent'", (intent,)).fetchall()
        return {row["key"]: row["n"] for row in rows}

    def outstanding(self) -> dict[str, float]:
        """Keys that are in a batch which has not been collected, with the most each can cost, in dollars."""
        rows = self.db.execute("select key, uncertain from calls where state = 'sent' and mode = 'batch'").fetchall()
        return {row["key"]: row["uncertain"] for row in rows}

    def batch_tries(self, key: str) -> int:
        """How many batches have come back without an answer to this request."""
        query = "select count(*) from calls where key = ? and mode = 'batch' and state = 'failed'"
        return int(self.db.execute(query, (key,)).fetchone()[0])

    def close(self) -> None:
        self.db.close()
        self._place.leave()
        if self.shared:
            self.shared.close()
        os.close(self._ledger)

    def _finish(self, row: int, values: dict[str, Any], attempts: Attempts, uncertain: float) -> None:
        values |= {
            "attempts": attempts.sent, "refused": attempts.refused, "undelivered": attempts.undelivered,
            "uncertain": uncertain,
        }  # fmt: skip
        columns = ", ".join(f"{name} = ?" for name in values)
        with self.db:
            self.db.execute(f"update calls set {columns} where n = ? and state = 'sent'", (*values.values(), row))
        self._append(self.db.execute("select * from calls where n = ?", (row,)).fetchone())

    def _share(self, row: int) -> None:
        names = ["key", "state", "model", "purpose", "text", "stop", "input", "output", "cache_write", "cache_read"]
        values = self.db.execute(f"select {', '.join(names)} from calls where n = ?", (row,)).fetchone()
        marks = ", ".join("?" * len(names))
        with self._beside() as shared:
            if shared is not None:
                with shared:
                    shared.execute(f"insert into calls ({', '.join(names)}) values ({marks})", tuple(values))

    def _append(self, row: sqlite3.Row) -> None:
        if row["n"] in self._written:
            return
        line = json.dumps({name: row[name] for name in _LEDGER}, separators=(",", ":")) + "\n"
        data = (b"\n" if self._torn else b"") + line.encode()
        self._torn = True  # until all of it is there: a full disk takes a part
        while data:
            data = data[os.write(self._ledger, data) :]
        os.fsync(self._ledger)
        self._torn = False
        self._written.add(row["n"])

    def _catch_up(self, path: Path) -> set[int]:
        self._written = _read_ledger(path)
        for row in self.db.execute("select * from calls where state != 'sent' order by n").fetchall():
            self._append(row)
        return self._written


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The rows of a teacher folder's ledger, a torn last line left out. Empty where there is none."""
    path = folder / "ledger.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _read_ledger(path: Path) -> set[int]:
    return {int(row["n"]) for row in read_ledger(path.parent)}


def _appender(path: Path) -> int:
    """A descriptor that appends; a line torn by a crash is closed with a newline so that the next one is whole."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=30)
    db.row_factory = sqlite3.Row
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    db.executescript(_SCHEMA)
    return db


def _answer(row: sqlite3.Row) -> Answer:
    usage = Usage(row["input"], row["output"], row["cache_write"], row["cache_read"])
    return Answer(row["key"], row["text"], Stop(row["stop"]), usage, 0.0, row["detail"] or "", True)
