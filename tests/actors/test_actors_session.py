"""Ray is started or joined as RAY_ADDRESS says; what cannot be is one sentence, at once."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from actors import session
from leap_ray.errors import UserError
from leap_ray.output import CapturedOutput

ROOT = Path(__file__).parents[2]
SCRIPT = """
import ray
from pathlib import Path
from actors.session import ray_session
from leap_ray.output import CapturedOutput
with CapturedOutput() as output:
    output.move_to(Path("logs"))
    with ray_session(output) as where:
        output.console.print(where, len(ray.nodes()), soft_wrap=True)
"""


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("127.0.0.1:1", "refused"),
        ("no-such-host.invalid:6379", "no-such-host.invalid:6379 (RAY_ADDRESS)"),
        ("head:notaport", "notaport"),
        (":", "check RAY_ADDRESS"),
        ("ray://head:10001", "use `ray job submit`"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, named, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as caught, session.ray_session(CapturedOutput()):
        pass
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_cluster_left_behind_and_a_port_in_use_do_not_matter(tmp_path):
    """What `ray start` leaves on a machine, after a crash too, is not joined unless RAY_ADDRESS says so."""
    ray_folder = Path(tempfile.mkdtemp(prefix="lr-"))  # sockets are made in it: pytest's own folders are too long
    (ray_folder / "ray").mkdir()
    (ray_folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:26379")
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(ray_folder), "PYTHONPATH": str(ROOT)}
    with socket.socket() as dashboard:
        dashboard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            dashboard.bind(("127.0.0.1", 8265))
            dashboard.listen()
        except OSError:
            pass  # it is in use already, which serves as well
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
    shutil.rmtree(ray_folder, ignore_errors=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Ray on this machine") and result.stdout.endswith(" 1\n")
    assert result.stdout.count("\n") == 1 and result.stderr == "", "nothing else on the terminal"
    assert (tmp_path / "logs" / "ray").is_symlink()
