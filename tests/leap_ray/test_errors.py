"""A user's error is found in whatever a library wraps around it."""

import errno
import os

import pytest

from leap_ray.errors import PrivilegeError, UserError, user_error


class Carrier(Exception):
    def __init__(self, **carried):
        super().__init__("something failed")
        self.__dict__.update(carried)


def chained(inner):
    try:
        try:
            raise inner
        except Exception as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        return error


INNER = UserError("the sentence")


@pytest.mark.parametrize(
    "error",
    [
        INNER,
        Carrier(cause=INNER),
        Carrier(cause=Carrier(cause=INNER)),
        Carrier(worker_failures={0: Carrier(cause=INNER)}),
        Carrier(controller_failure=INNER),
        ExceptionGroup("several", [ValueError("x"), Carrier(cause=INNER)]),
        chained(INNER),
        chained(Carrier(worker_failures={1: INNER})),
    ],
    ids=["itself", "task", "task in task", "training", "controller", "group", "chain", "chained training"],
)
def test_the_plain_error_is_found(error):
    assert user_error(error) is INNER


def test_of_an_actors_constructor_only_the_text_is_left():
    text = "died in its creation task, ray::A.__init__()\n  File x\nleap_ray.errors.PrivilegeError: the sentence"
    assert str(user_error(RuntimeError(text))) == "the sentence"


def test_a_fault_of_the_program_is_none():
    loop = ValueError("x")
    loop.__cause__ = Carrier(cause=loop)
    assert user_error(loop) is None
    assert user_error(RuntimeError("it said UserError: in the middle of a line")) is None
    assert user_error(PrivilegeError("p")) is not None


@pytest.mark.parametrize(
    "words",
    [
        str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a/x.jsonl")),
        str(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))),
        'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
        "database or disk is full",
        "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device",
    ],
)
def test_a_full_disk_is_the_users_to_mend(words):
    for error in (
        OSError(words),
        Carrier(cause=OSError(words)),
        Carrier(worker_failures={0: RuntimeError(f"a\n{words}\n")}),
    ):
        assert (
            str(user_error(error))
            == f"no space left on a disk ({words}): make room, then `leap-ray resume RUN` goes on"
        )
    assert user_error(chained(Carrier(cause=INNER))) is INNER  # who knows better has said so
    assert user_error(OSError(errno.EACCES, os.strerror(errno.EACCES))) is None
