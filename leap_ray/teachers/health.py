"""Whether it is still worth asking: refusals that are all alike, and a provider that does not answer any more."""

from __future__ import annotations

import re

from leap_ray.errors import UserError
from leap_ray.teachers.calls import CallFailed
from leap_ray.teachers.refusals import Meaning

ALIKE = 5  # first calls that fail with the same words, after which every other one would
SILENT = 20  # calls in a row without an answer, each after all of its retries
_PARTICULAR = re.compile(r"[0-9a-f]{8,}|\d+|req_\w+", re.IGNORECASE)  # numbers and names that differ from call to call


class Health:
    """Of one desk's provider. `answered`: an earlier desk of this run had an answer."""

    def __init__(self, model: str, *, answered: bool) -> None:
        self.model = model
        self.answered = answered
        self.hopeless: UserError | None = None  # why nothing more is asked
        self._alike: dict[str, int] = {}
        self._silent = 0

    def succeeded(self) -> None:
        """One call was answered."""
        self.answered = True
        self._silent = 0

    def check(self) -> None:
        """Raises the UserError that an earlier call ended with, for those that wait for their turn."""
        if self.hopeless is not None:
            raise UserError(str(self.hopeless))

    def failed(self, error: CallFailed) -> None:
        """One call was not. Raises UserError where no other one can be expected to be."""
        self.hopeless = self.hopeless or self._judged(error)
        self.check()

    def _judged(self, error: CallFailed) -> UserError | None:
        words = _PARTICULAR.sub("#", error.detail)
        self._alike[words] = self._alike.get(words, 0) + 1
        self._silent = self._silent + 1 if error.meaning is Meaning.LATER else 0
        if error.fatal or (error.meaning is Meaning.FORBIDDEN and not self.answered):
            return cannot_be_asked(self.model, error.detail)
        if not self.answered and self._alike[words] >= ALIKE:
            return cannot_be_asked(self.model, f"the first {ALIKE} calls all failed alike: {error.detail}")
        if self._silent >= SILENT:
            return cannot_be_asked(self.model, f"{SILENT} calls in a row had no answer, the last one: {error.detail}")
        return None


def cannot_be_asked(model: str, detail: str) -> UserError:
    """The sentence that ends a stage which no request can finish."""
    return UserError(
        f"the teacher {model!r} cannot be asked: {detail.rstrip('.')}. Every answer so far is kept; once this is mended, "
        "`leap-ray resume RUN` asks for the rest"
    )
