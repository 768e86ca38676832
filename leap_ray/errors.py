"""Errors that are a user's to mend: one clear sentence, no traceback, a non-zero exit."""

from __future__ import annotations

from collections.abc import Iterator


class UserError(Exception):
    """Something outside the program is wrong. The message names the thing and the remedy."""


class PrivilegeError(UserError):
    """Privileged state was asked for where it must not exist (any task outside training)."""


def user_error(error: BaseException) -> UserError | None:
    """The UserError that an exception is, wraps or was caused by; None if there is none.

    Distributed libraries wrap what their workers raise: in `cause` (a remote task), in a mapping of failures by worker (a
    training), in an exception group, or as `__cause__`. The innermost one is the plain error as it was raised.
    """
    matches = [e for e in _chain(error, set()) if isinstance(e, UserError)]
    return matches[-1] if matches else None


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
