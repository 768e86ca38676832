"""Blocking work beside the event loop, and what Ctrl-C does to a run."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STOPPED = b"\nstopping: the actors are ended (once more: at once)\n"


async def in_thread(work: Callable[..., T], *args: Any, **settings: Any) -> T:
    """The result of blocking work. Unlike asyncio's own threads, these never keep a cancelled program from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(setter: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            setter(value)

    def target() -> None:
        try:
            outcome = (future.set_result, work(*args, **settings))
        except BaseException as error:  # whatever it is, it is the caller's
            outcome = (future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=target, daemon=True, name=getattr(work, "__name__", "work")).start()
    return await future


def run_until_stopped(work: Coroutine[Any, Any, T], terminal: int) -> T:
    """`asyncio.run` in which the first SIGINT or SIGTERM cancels the work, and the second ends the process at once.

    terminal: file descriptor on which the first one is acknowledged. Raises KeyboardInterrupt after the first; the exit status
    after the second is 128 + the signal's number.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        received: list[int] = []

        def stop(number: int, frame: Any) -> None:
            received.append(number)
            if len(received) > 1:
                os._exit(128 + number)
            os.write(terminal, STOPPED)
            loop.call_soon_threadsafe(task.cancel)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
