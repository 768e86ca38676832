"""Progress of long work: bars with rates and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 15.0  # seconds between lines where there is no terminal


class Stage:
    """One piece of work with a known number of parts."""

    def __init__(self, board: Board, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.note = ""
        self._board = board
        self._began = self._printed = time.monotonic()
        self._bar = board.bars.add_task(title, total=total, note="") if board.bars else None

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more parts are done; `note` is a short figure to show beside the bar."""
        self.done += count
        self.note = self.note if note is None else note
        if self._board.bars is not None and self._bar is not None:
            self._board.bars.update(self._bar, completed=self.done, total=self.total, note=self._rate())
        elif time.monotonic() - self._printed > LINE_EVERY:
            self.print()

    def print(self) -> None:
        """One line saying how far it is."""
        self._printed = time.monotonic()
        self._board.say(f"{self.title}: {self.done}/{self.total}  {self._rate()}")

    def _rate(self) -> str:
        seconds = time.monotonic() - self._began
        rate = f"{self.done / seconds:.2f}/s" if seconds > 1 and self.done else ""
        return "  ".join(part for part in (rate, self.note) if part)


class Board:
    """Where a run says what it is doing."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.bars: Progress | None = None
        if self.console.is_terminal:
            self.bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )

    def __enter__(self) -> Board:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def say(self, text: str) -> None:
        """One line, above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Stage]:
        """A stage on the board for as long as the block lasts."""
        stage = Stage(self, title, total)
        try:
            yield stage
        finally:
            if self.bars is not None and stage._bar is not None:
                self.bars.remove_task(stage._bar)
            stage.print()
