"""Ctrl-C and SIGTERM: the first ends a run in order, the second at once, whatever blocks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.threads import in_thread

ROOT = Path(__file__).parents[2]
SCRIPT = """
import asyncio, sys, time
from actors.threads import in_thread, run_until_stopped

async def work():
    try:
        print("begun", flush=True)
        await in_thread(time.sleep, 600)
    finally:
        print("ended in order", flush=True)
        if "stuck" in sys.argv:
            time.sleep(600)

try:
    run_until_stopped(work(), 1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.fixture
def begun():
    """Start the script with arguments and wait until its work is under way."""
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_in_order_though_a_thread_blocks(begun, number):
    process = begun()
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.split("\n")[1:] == [
        "stopping: the actors are ended (once more: at once)",
        "ended in order",
        "interrupted",
        "",
    ]


def test_the_second_signal_ends_at_once(begun):
    process = begun("stuck")
    os.kill(process.pid, signal.SIGINT)
    while "ended in order" not in process.stdout.readline():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130


async def test_a_threads_error_is_the_callers():
    def fail():
        raise ValueError("from the thread")

    with pytest.raises(ValueError, match="from the thread"):
        await in_thread(fail)
    assert await in_thread(max, 1, 2) == 2
