"""Translations: once per game, whole on disk, and with no trace in the process."""

import gzip
import subprocess
import sys
import threading

import pytest

from leap_ray.envs.alfworld import translation
from leap_ray.envs.alfworld.households import make_game
from leap_ray.envs.alfworld.translation import translate, write_atomically


@pytest.fixture(scope="module")
def game():
    return make_game(1, "heat", 1).game


def files(cache):
    return sorted(cache.rglob("*.json.gz"))


def test_same_sas_as_fast_downward(game, tmp_path):
    import fast_downward

    _, stock = fast_downward.pddl2sas(game["pddl_domain"], game["pddl_problem"])
    assert translate(game["pddl_domain"], game["pddl_problem"], tmp_path).sas == stock
    _, stock = fast_downward.pddl2sas(game["pddl_domain"], game["pddl_problem"], optimize=True)
    assert translation.optimised_sas(game["pddl_domain"], game["pddl_problem"]) == stock


def test_translated_once_by_many_threads(game, tmp_path, monkeypatch):
    made = []
    original = translation._translate
    monkeypatch.setattr(translation, "_translate", lambda *a: made.append(1) or original(*a))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(translate(game["pddl_domain"], game["pddl_problem"], tmp_path)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(found) == 6 and all(f == found[0] for f in found)
    assert len(files(tmp_path)) == 1


def test_other_game_other_file(game, tmp_path):
    translate(game["pddl_domain"], game["pddl_problem"], tmp_path)
    other = make_game(2, "heat", 1).game
    translate(other["pddl_domain"], other["pddl_problem"], tmp_path)
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("damage", [b"", b"not gzip", gzip.compress(b"{}"), gzip.compress(b'{"sas": 1')])
def test_damaged_file_is_made_again(game, tmp_path, damage):
    whole = translate(game["pddl_domain"], game["pddl_problem"], tmp_path)
    (path,) = files(tmp_path)
    sound = path.read_bytes()
    path.write_bytes(damage)
    assert translate(game["pddl_domain"], game["pddl_problem"], tmp_path) == whole
    assert path.read_bytes() == sound


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(translation.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a" / "file", b"body")
    assert list((tmp_path / "a").iterdir()) == []


def test_leaves_argv_and_other_threads_output_alone(game, tmp_path):
    """In a fresh process, because the translator reads argv when it is first imported."""
    script = f"""
import sys, threading, time
from pathlib import Path
from leap_ray.envs.alfworld.households import make_game
from leap_ray.envs.alfworld.translation import translate
game, stop, out = make_game(1, "heat", 1).game, threading.Event(), sys.stdout
said = 0
def talk():
    global said
    while not stop.is_set():
        print("spoken")
        said += 1
        time.sleep(0.002)
thread = threading.Thread(target=talk)
thread.start()
translate(game["pddl_domain"], game["pddl_problem"], Path({str(tmp_path)!r}))
stop.set(); thread.join()
assert sys.argv == ["-c", "--mine"], sys.argv
assert sys.stdout is out
print(said, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script, "--mine"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split("\n")) == {"spoken", ""}
    assert done.stdout.count("spoken") == int(done.stderr) > 1
