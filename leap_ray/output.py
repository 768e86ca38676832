"""The terminal shows what a run does; what libraries and actors print goes to a log file of the run.

with CapturedOutput() as output:        # everything written to standard output and error from here on is captured
    output.move_to(run / "logs")        # …into driver.log of that folder, what came before included
    output.console.print("progress")    # this alone reaches the terminal
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO

from rich.console import Console

LOG = "driver.log"
OURS = ("leap_ray", "actors", "experiments")  # loggers whose warnings are meant for the person at the terminal


class CapturedOutput:
    """File descriptors 1 and 2 of this process lead to a file while this context is open.

    Descriptors, not Python's streams: Ray's core and other native code write to them directly. `verbose` captures nothing.
    """

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self.folder: Path | None = None
        self.console = Console()
        self._saved: dict[int, int] = {}
        self._log: IO[bytes] | None = None
        self._handler = _ConsoleHandler(self)

    def __enter__(self) -> CapturedOutput:
        for name in OURS:
            logging.getLogger(name).addHandler(self._handler)
            logging.getLogger(name).propagate = False
        if not self.verbose:
            self._capture()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and self._log:
            with suppress(OSError):  # the log's disk is full
                traceback.print_exception(error)
        if isinstance(error, Exception) and self.folder:
            error.add_note(f"The whole of it and the actors' logs are in {self.folder}")
        for name in OURS:
            logging.getLogger(name).removeHandler(self._handler)
            logging.getLogger(name).propagate = True
        self._flush()
        for number, saved in self._saved.items():
            os.dup2(saved, number)
            os.close(saved)
        if self._saved:
            self.console.file.close()
        self._saved.clear()
        self.console = Console()
        if self._log:
            self._log.close()

    @property
    def descriptor(self) -> int:
        """The file descriptor that leads to the terminal."""
        return self._saved.get(1, 1)

    def move_to(self, folder: Path) -> None:
        """Keep the log in that folder from now on, together with what was captured so far."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        if self._log is None:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        self._log.seek(0)
        before, self._log = self._log, open(folder / LOG, "ab", buffering=0)
        self._log.write(before.read())
        before.close()
        self._lead_to(self._log)

    def _capture(self) -> None:
        if not _is_standard(sys.stdout):
            return  # somebody else has replaced the streams (a test, a notebook) and decides where they go
        sys.stdout.flush()
        sys.stderr.flush()
        self._log = tempfile.TemporaryFile(buffering=0)
        self._saved = {number: os.dup(number) for number in (1, 2)}
        terminal = open(os.dup(self._saved[1]), "w", encoding=sys.stdout.encoding, errors="replace")
        self.console = Console(file=terminal)
        self._lead_to(self._log)

    def _flush(self) -> None:
        """What Python's streams still hold goes to the log; where that takes no more, nowhere: not to the terminal."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                with open(os.devnull, "wb") as nowhere:
                    self._lead_to(nowhere)
                stream.flush()

    def _lead_to(self, log: IO[bytes]) -> None:
        for number in self._saved:
            os.dup2(log.fileno(), number)


class _ConsoleHandler(logging.Handler):
    """Our own warnings, one line each, above the progress bars."""

    def __init__(self, output: CapturedOutput) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


def _is_standard(stream: object) -> bool:
    try:
        return stream.fileno() == 1  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
