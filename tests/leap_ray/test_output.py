"""The terminal gets what is meant for it; everything else stands in the log."""

import os
import subprocess
import sys

SCRIPT = """
import logging, os, sys
from pathlib import Path
from leap_ray.output import CapturedOutput

logging.basicConfig(level=logging.WARNING, format="%(message)s")
print("before")
try:
    with CapturedOutput(verbose=len(sys.argv) > 2) as output:
        print("library")
        os.write(2, b"native code\\n")
        output.move_to(Path(sys.argv[1]))
        output.console.print("progress")
        logging.getLogger("leap_ray.x").warning("our [warning]")
        logging.getLogger("other").warning("their warning")
        os.system("echo child")
        raise ValueError("a fault")
except ValueError as error:
    print("note:", error.__notes__[0])
print("after")
"""


def ran(*arguments):
    result = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_only_progress_and_our_warnings_reach_the_terminal(tmp_path):
    result = ran(tmp_path / "logs")
    note = f"note: The whole of it and the actors' logs are in {tmp_path / 'logs'}"
    assert result.stdout.splitlines() == ["before", "progress", "our [warning]", note, "after"]
    assert result.stderr == ""
    log = (tmp_path / "logs" / "driver.log").read_text()
    for text in ("library", "native code", "their warning", "child", "ValueError: a fault"):
        assert text in log


def test_a_second_session_appends(tmp_path):
    ran(tmp_path)
    ran(tmp_path)
    assert (tmp_path / "driver.log").read_text().count("native code") == 2


def test_verbose_captures_nothing(tmp_path):
    result = ran(tmp_path, "verbose")
    assert "library" in result.stdout and "native code" in result.stderr
    assert not (tmp_path / "driver.log").exists()


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
FULL = """
import os, sys
from pathlib import Path
from leap_ray.output import CapturedOutput

try:
    with CapturedOutput() as output:
        output.move_to(Path(sys.argv[1]))
        print("library")
        full = os.open("/dev/full", os.O_WRONLY)
        for number in (1, 2):  # from now on the log's disk has no room
            os.dup2(full, number)
        raise ValueError("a fault")
except ValueError as error:
    print("seen:", error, flush=True)
"""


def test_the_error_reaches_the_terminal_when_the_logs_disk_is_full(tmp_path):
    """What could not be written to the log kept the terminal from being given back: nothing was shown at all."""
    result = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env=BUFFERED)
    assert (result.returncode, result.stdout, result.stderr) == (0, "seen: a fault\n", "")
