"""Errors that say in one clear sentence what is wrong, without a traceback: for a user to mend, or to be tried again."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What libraries say of a full disk, where they keep no error number: Python, Arrow, safetensors, SQLite.
_FULL = re.compile(r"No space left on device|Disk quota exceeded|StorageFull|database or disk is full", re.IGNORECASE)
# The end of a traceback in text.
_RAISED = re.compile(rf"^{re.escape(__name__)}\.(?:User|Privilege)Error: (.+)\Z", re.MULTILINE | re.DOTALL)


class UserError(Exception):
    """Something outside the program is wrong. The message names the thing and the remedy."""


class PrivilegeError(UserError):
    """Privileged state was asked for where it must not exist (any task outside training)."""


class EnvironmentFault(Exception):
    """What an environment stands on failed: a sandbox, a server, a machine too busy to judge. Raised by reset() and step().

    Not the student's doing and no result of its episode, which is over: play it again from reset. The message is one sentence.
    """


def user_error(error: BaseException) -> UserError | None:
    """The UserError that an exception is, wraps or was caused by; None if there is none.

    Distributed libraries wrap what their workers raise: in `cause` (a remote task), in a mapping of failures by worker (a
    training), in an exception group, or as `__cause__`. The innermost one is the plain error as it was raised. Of an actor's
    constructor they keep the text alone. A full disk is the user's to mend, too.
    """
    chain = list(_chain(error, set()))
    matches = [e for e in chain if isinstance(e, UserError)]
    texts = [match[1] for e in chain if (match := _RAISED.search(str(e)))]
    if matches or texts:
        return matches[-1] if matches else UserError(texts[-1])
    full = [line for e in chain for line in str(e).splitlines() if _FULL.search(line)]
    return no_space(full[-1]) if full else None


def no_space(words: str) -> UserError:
    """The sentence of a full disk. `words`: the system's or a library's, which name the file if they can."""
    return UserError(f"no space left on a disk ({words.strip()[:300]}): make room, then `leap-ray resume RUN` goes on")


def _chain(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """The exception and all that it carries, outer ones first."""
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    workers = getattr(error, "worker_failures", None)
    carried = [
        *getattr(error, "exceptions", ()),
        *(workers.values() if isinstance(workers, dict) else ()),
        getattr(error, "controller_failure", None),
        getattr(error, "cause", None),
        error.__cause__,
        None if error.__suppress_context__ else error.__context__,
    ]
    for inner in carried:
        if isinstance(inner, BaseException):
            yield from _chain(inner, seen)
