"""What a SQL statement came to, and how much of it is taken, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

SECONDS = 5.0  # of one statement
ROWS = 10_000  # of one answer
SIZE = 16 << 20  # bytes of the values of one answer
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Answer:
    """Rows, or None with an error where a statement failed (or gives no rows)."""

    rows: Rows | None
    error: str = ""
    exhausted: bool = False  # it took more time or memory than it may

    @property
    def text(self) -> str:
        """What the student sees, as the original prints it."""
        return f"Error executing query: {self.error}" if self.error else str(self.rows)


class Database(Protocol):
    """A connection to one database, for reading."""

    def execute(self, statement: str) -> Answer: ...

    def close(self) -> None: ...


def collected(cursor: Iterable[tuple[Any, ...]]) -> Answer:
    """The rows that a statement gives, where they are not too many or too large."""
    rows, size = [], 0
    for row in cursor:
        rows.append(tuple(row))
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(rows) > ROWS:
            return Answer(None, f"more than {ROWS} rows")
        if size > SIZE:
            return Answer(None, f"more than {SIZE >> 20} MiB")
    return Answer(rows)
