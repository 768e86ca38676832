"""The store as a desk uses it: what cannot be written is held and tried again, and meanwhile nothing new is paid for."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path

from leap_ray.errors import UserError
from leap_ray.teachers.calls import Answer, Attempts, Request, Stop
from leap_ray.teachers.store import Store

FAULTS = (sqlite3.Error, OSError)  # a full disk, a locked or broken file


class Books:
    """Rows of one desk's calls. A paid answer whose row cannot be written is still given to whoever asked."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._held: list[Callable[[], None]] = []
        self._answers: dict[str, Answer] = {}
        self._fault = ""

    def answer(self, key: str) -> Answer | None:
        """The answer that was paid for earlier."""
        if key in self._answers:
            return self._answers[key]
        try:
            return self.store.answer(key)
        except FAULTS as error:
            self._fault = str(error)
            raise self._error() from None

    def open_row(self, request: Request) -> int:
        """Record that the request is about to leave. Raises UserError where it cannot be: then it must not."""
        try:
            return self.store.sent(request, "live")
        except FAULTS as error:
            self._fault = str(error)
            raise self._error() from None

    def close_row(self, row: int, answer: Answer, attempts: Attempts, request_id: str, uncertain: float) -> None:
        """Record what came of the call."""

        def write() -> None:
            if answer.stop is Stop.FAILED:
                self.store.failed(row, answer.detail, attempts, uncertain, answer)
            else:
                self.store.done(row, answer, attempts, request_id, uncertain)

        try:
            write()
        except FAULTS as error:
            self._fault = str(error)
            self._held.append(write)
            if answer.stop is not Stop.FAILED:
                self._answers[answer.key] = dataclasses.replace(answer, dollars=0.0, cached=True)

    def check(self) -> None:
        """Raises UserError while something paid for stands in no book."""
        if not self.try_again():
            raise self._error()

    def try_again(self) -> bool:
        """Write what is held; whether nothing is left."""
        while self._held:
            try:
                self._held[0]()
            except FAULTS as error:
                self._fault = str(error)
                return False
            self._held.pop(0)
        self._answers.clear()
        return True

    def _error(self) -> UserError:
        held = f"; {len(self._held)} paid answers are held until then" if self._held else ""
        return books_error(self.store.folder, self._fault, held)


def books_error(folder: Path, fault: Exception | str, held: str = "") -> UserError:
    """The sentence of a teacher folder that cannot be written."""
    return UserError(
        f"the teacher's books in {folder} cannot be written ({fault}): make room there, then `leap-ray resume RUN` goes on{held}"
    )
