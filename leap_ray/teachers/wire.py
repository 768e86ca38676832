"""What both SDKs' providers share: responses looked at before the SDK does, errors as CallFailed, and the adapted form."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from leap_ray.teachers.calls import Attempts, CallFailed, Reply, Request, without
from leap_ray.teachers.forms import Form, adapted
from leap_ray.teachers.keys import FILLER
from leap_ray.teachers.refusals import LONGEST, Meaning, Refusal, error_status, refusal_of

log = logging.getLogger(__name__)
FORMS = 16  # more than there are changes of form
BACKOFF = 90.0  # seconds that the SDK may wait between two attempts


class Unreadable(Exception):
    """An answer came, was perhaps charged, and could not be read."""


class Adapter:
    """Sends requests in the form that the server takes. `notes` says what was changed, once each."""

    def __init__(self, sdk: Any, key: str, *, chat: bool) -> None:
        self.form = Form()
        self.notes: list[str] = []
        self._sdk, self._chat = sdk, chat
        self._secret = "" if key == FILLER else key

    async def send(self, request: Request, once: Callable[[Form], Awaitable[Reply]]) -> Reply:
        """The reply, after as many changes of form as the server's refusals ask for. Raises CallFailed."""
        for _ in range(FORMS):
            form = self.form
            try:
                return await once(form)
            except CallFailed:
                raise
            except Exception as error:
                refusal = self.refusal(error)
                if refusal is None or not self.adapt(form, refusal, request):
                    raise self.failure(error) from None
        raise CallFailed("the server refuses every form of the request", Meaning.THIS)

    def adapt(self, form: Form, refusal: Refusal, request: Request) -> bool:
        """Whether asking again in another form may help; the form is changed, unless another call has changed it already."""
        if form != self.form:
            return True
        change = adapted(form, refusal, request, chat=self._chat)
        if change is None:
            return False
        self.form, words = change
        self.note(
            f"{request.model}: from now on {words} (the server said: {without(self._secret, refusal.detail)[:200]})"
        )
        return True

    def note(self, words: str) -> None:
        """Say it, once."""
        if words not in self.notes:
            self.notes.append(words)
            log.warning("%s", words)

    async def heed(self, response: Any, request: Request, form: Form) -> None:
        """Look at a response before the SDK does.

        An error inside an answer of status 200 gets the status that it names, so that the SDK treats it as one. What another
        attempt cannot change is not tried again.
        """
        await response.aread()
        if response.status_code == 200 and (status := error_status(response.text)):
            response.status_code = status
        if response.status_code < 400:
            return
        refusal = _refusal(response)
        settled = refusal.meaning in (Meaning.EVERY, Meaning.FLAGGED)
        if settled or form != self.form or adapted(form, refusal, request, chat=self._chat):
            response.headers["x-should-retry"] = "false"

    def refusal(self, error: Exception) -> Refusal | None:
        """The refusal that an SDK's error stands for, if the server answered at all."""
        response = getattr(error, "response", None)
        return _refusal(response) if response is not None and isinstance(error, self._sdk.APIStatusError) else None

    def failure(self, error: Exception) -> CallFailed:
        """The SDK's error in one line, without headers and without the key, which they hold."""
        if refusal := self.refusal(error):
            return CallFailed(without(self._secret, refusal.detail), refusal.meaning)
        words = str(error) if isinstance(error, Unreadable) else f"{type(error).__name__}: {error}"
        later = isinstance(error, self._sdk.APIConnectionError | Unreadable)
        return CallFailed(without(self._secret, words)[:LONGEST], Meaning.LATER if later else Meaning.THIS)

    def body(self, text: str) -> dict[str, Any]:
        """The JSON object of a response of status 200.

        Raises Unreadable where it is no JSON, and CallFailed with the provider's words where it is an error.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError):
            raise Unreadable(f"{refusal_of(200, text).detail[:200]} (this is no JSON)") from None
        if isinstance(plain, dict) and error_status(text) is None:
            return plain
        refusal = refusal_of(200, text)
        meaning = Meaning.LATER if refusal.meaning is Meaning.THIS else refusal.meaning
        raise CallFailed(without(self._secret, refusal.detail), meaning)

    @asynccontextmanager
    async def limit(self, seconds: float, attempts: Attempts) -> AsyncIterator[None]:
        """A limit on a whole call with all its attempts: the SDK's own is on the silence between two bytes."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            attempts.undelivered = max(attempts.undelivered, attempts.sent - len(attempts.statuses))
            raise CallFailed(f"no answer within {seconds:.0f} s, all attempts together") from None


def _refusal(response: Any) -> Refusal:
    if 300 <= response.status_code < 400:
        place = response.headers.get("location", "another address")
        words = f"the server redirects to {place}: give teacher.base_url that address"
        return Refusal(response.status_code, words, words)
    return refusal_of(response.status_code, response.text, retry_hint="retry-after" in response.headers)
