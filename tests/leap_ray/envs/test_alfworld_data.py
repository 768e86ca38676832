"""Finding, unpacking and indexing games, on a small data folder made of households."""

import json
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from leap_ray.envs.alfworld import data
from leap_ray.envs.alfworld.data import TYPES, find_games, prepare
from leap_ray.envs.alfworld.households import make_game
from leap_ray.errors import UserError
from leap_ray.types import Task


def write_game(folder: Path, split: str, seed: int, kind: str, **changes) -> str:
    """One game in alfworld's layout; returns its id."""
    made = make_game(seed, kind, 1)
    task_id = f"{split}/{kind}-Thing-None-Place-{seed}/trial_{seed:04d}"
    trial = folder / "json_2.1.1" / task_id
    trial.mkdir(parents=True)
    (trial / "game.tw-pddl").write_text(json.dumps({**made.game, **changes}))
    (trial / "traj_data.json").write_text(json.dumps(made.metadata))
    return task_id


@pytest.fixture
def folder(tmp_path):
    """Two games of each type in train, one of each in valid_seen."""
    root = tmp_path / "games"
    for place, kind in enumerate(TYPES):
        write_game(root, "train", place, kind)
        write_game(root, "train", 10 + place, kind)
        write_game(root, "valid_seen", 20 + place, kind)
    return root


@pytest.fixture
def look(folder, tmp_path):
    """Looks through the folder as a new process would, with the index of earlier ones."""

    def look():
        data._games_of.cache_clear()
        return find_games(folder, tmp_path / "cache")

    return look


def test_panels_are_sorted_with_kinds(look):
    panel = look().panel("train")
    assert len(panel) == 12
    ids = [task.id for task in panel.tasks]
    assert ids == sorted(ids) and ids[0] == "train/look_at_obj_in_light-Thing-None-Place-1/trial_0001"
    assert all(task.kind == task.id.split("/")[1].split("-")[0] and task.panel == "train" for task in panel.tasks)
    assert look().panel("train").hash == panel.hash != look().panel("valid_seen").hash


def test_summary_counts_and_names_what_is_missing(look):
    summary = look().summary()
    assert summary.counts["train"] == dict.fromkeys(TYPES, 2)
    assert summary.missing == ("valid_unseen", "valid_train")
    assert "valid_unseen" in str(summary) and "none here" in str(summary)


def test_index_is_used_and_follows_changes(look, folder, monkeypatch):
    judged = []
    original = data._judge
    monkeypatch.setattr(data, "_judge", lambda root, i: judged.append(i) or original(root, i))
    games = look()
    assert len(judged) == 18
    look()
    assert len(judged) == 18  # nothing is read again

    new = write_game(folder, "valid_train", 30, TYPES[0])
    gone = games.panel("valid_seen").tasks[0]
    shutil.rmtree(folder / "json_2.1.1" / gone.id)
    spoilt = games.panel("train").tasks[0]
    (folder / "json_2.1.1" / spoilt.id / "game.tw-pddl").write_text("{")
    games = look()
    assert sorted(judged[18:]) == sorted([new, spoilt.id])
    assert [task.id for task in games.panel("valid_train").tasks] == [new]
    assert len(games.panel("valid_seen")) == 5 and len(games.panel("train")) == 11
    assert games.skipped == {"unreadable files": 1}


def test_damaged_index_is_made_again(look, tmp_path):
    look()
    (path,) = (tmp_path / "cache" / "alfworld" / "index").iterdir()
    path.write_text("{ not json")
    assert len(look().panel("train")) == 12
    assert len(json.loads(path.read_text())) == 18


def test_unplayable_games_are_counted_by_reason(look, folder):
    write_game(folder, "train", 40, TYPES[1], solvable=False)
    no_game = write_game(folder, "train", 41, TYPES[1])
    (folder / "json_2.1.1" / no_game / "game.tw-pddl").unlink()
    sliced = folder / "json_2.1.1" / "train" / "pick_heat_then_place_in_recep-AppleSliced-None-Fridge-1" / "trial_1"
    shutil.copytree(folder / "json_2.1.1" / look().panel("train").tasks[0].id, sliced)
    games = look()
    assert len(games.panel("train")) == 12
    assert games.skipped == {
        "not known to be solvable": 1,
        "no game.tw-pddl": 1,
        "movable or sliced objects: no text game": 1,
    }
    assert all(reason in str(games.summary()) for reason in games.skipped)


def test_unknown_and_empty_panels_are_named(look):
    with pytest.raises(UserError, match=r"'valid'.*valid_seen"):
        look().panel("valid")
    with pytest.raises(UserError, match=r"no valid_unseen games in .*leap-ray data alfworld"):
        look().panel("valid_unseen")


def test_task_must_be_of_its_panel_and_on_disk(look, folder):
    games = look()
    task = games.panel("valid_seen").tasks[0]
    assert games.path(task) == folder / "json_2.1.1" / task.id
    with pytest.raises(UserError, match=r"not in panel alfworld/train"):
        games.path(Task("alfworld", task.id, "train", task.kind))
    with pytest.raises(UserError, match=r"'valid_seen/nothing' is not in panel"):
        games.path(Task("alfworld", "valid_seen/nothing", "valid_seen"))
    (folder / "json_2.1.1" / task.id / "game.tw-pddl").unlink()
    with pytest.raises(UserError, match=r"game.tw-pddl is missing; .leap-ray data alfworld"):
        games.path(task)


def test_where_games_are_looked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(folder))
    assert data.data_folder() == folder
    assert data.data_folder(tmp_path) == tmp_path
    assert data.data_folder(folder / "json_2.1.1") == folder
    monkeypatch.delenv("ALFWORLD_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.data_folder() == tmp_path / ".cache" / "alfworld"
    with pytest.raises(UserError, match=r"no ALFWorld games in .*alfworld.*leap-ray data alfworld"):
        find_games(None, tmp_path / "cache")


def test_prepare_unpacks_archives_once(folder, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    with tarfile.open(source / "train.tar.xz", "w:xz") as file:
        file.add(folder / "json_2.1.1" / "train", "json_2.1.1/train")
    with zipfile.ZipFile(source / "seen.zip", "w") as file:
        for path in (folder / "json_2.1.1" / "valid_seen").rglob("*.*"):
            file.write(path, path.relative_to(folder))
    summary = prepare(source, target, cache=tmp_path / "cache")
    assert summary.unpacked == ("seen.zip", "train.tar.xz")
    assert (summary.folder, summary.missing) == (str(target), ("valid_unseen", "valid_train"))
    assert summary.counts["train"] == dict.fromkeys(TYPES, 2)
    again = prepare(source, target, cache=tmp_path / "cache")
    assert again.unpacked == () and again.counts == summary.counts
    with tarfile.open(source / "train.tar.xz", "w:xz") as file:  # another release of the archive
        file.add(folder / "json_2.1.1" / "valid_seen", "json_2.1.1/valid_train")
    assert prepare(source, target, cache=tmp_path / "cache").unpacked == ("train.tar.xz",)


def test_prepare_takes_a_folder_as_it_is(folder, tmp_path):
    summary = prepare(folder, tmp_path / "target", cache=tmp_path / "cache")
    assert summary.folder == str(folder) and summary.unpacked == ()
    assert not (tmp_path / "target").exists()


def test_prepare_names_bad_sources(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for source in (empty, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="holds neither"):
            prepare(source, tmp_path / "target")
    broken = tmp_path / "broken.tar.xz"
    broken.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"broken.tar.xz cannot be unpacked"):
        prepare(broken, tmp_path / "target")
    other = tmp_path / "other.tar.xz"
    with tarfile.open(other, "w:xz") as file:
        file.add(broken, "something/else")
    with pytest.raises(UserError, match=r"other.tar.xz holds no json_2.1.1"):
        prepare(other, tmp_path / "target")


def downloader(tmp_path: Path, body: str) -> str:
    """A program in the place of alfworld's downloader, which needs the network."""
    script = tmp_path / "download.py"
    script.write_text(f"import shutil, sys\nassert sys.argv[1] == '--data-dir'\n{body}\n")
    return str(script)


def test_prepare_downloads_where_nothing_is(folder, tmp_path, monkeypatch):
    script = downloader(tmp_path, f"shutil.copytree({str(folder)!r}, sys.argv[2])")
    monkeypatch.setattr(data, "_downloader", lambda: script)
    summary = prepare(None, tmp_path / "fetched", cache=tmp_path / "cache")
    assert summary.counts["valid_seen"] == dict.fromkeys(TYPES, 1)


def test_failed_download_is_one_sentence(tmp_path, monkeypatch):
    script = downloader(tmp_path, "sys.exit('no route to host')")
    monkeypatch.setattr(data, "_downloader", lambda: script)
    with pytest.raises(UserError, match=r"alfworld-download failed: no route to host"):
        prepare(None, tmp_path / "fetched")
    monkeypatch.setattr(data, "_downloader", lambda: None)
    with pytest.raises(UserError, match=r"no .alfworld-download."):
        prepare(None, tmp_path / "fetched")


def test_alfworlds_downloader_is_installed():
    assert data._downloader() is not None
    assert Path(sys.executable).exists()


def test_real_games_are_as_the_data_says(alfworld_data):
    """The counts that the data's own description gives."""
    summary = find_games(alfworld_data, alfworld_data / "cache").summary()
    assert {split: sum(kinds.values()) for split, kinds in summary.counts.items()} == {
        "train": 3553,
        "valid_seen": 140,
        "valid_unseen": 0,
        "valid_train": 200,
    }
    assert [summary.counts["valid_seen"][kind] for kind in TYPES] == [35, 13, 27, 16, 25, 24]
    assert summary.skipped == {}


def test_a_panels_content_is_its_own_games_both_files_of_them_wherever_they_lie(look, folder, tmp_path):
    def content(games, *splits):
        return [games.content(games.panel(split).tasks) for split in splits]

    train, seen = content(look(), "train", "valid_seen")
    copy = shutil.copytree(folder, tmp_path / "copy")
    copied = find_games(copy, tmp_path / "cache")
    assert content(copied, "train", "valid_seen") == [train, seen] and train != seen
    assert copied.content(copied.panel("train").tasks[::-1]) == train
    assert copied.content(copied.panel("train").tasks[1:]) != train != copied.content(copied.tasks)
    for name in ("game.tw-pddl", "traj_data.json"):
        path = copy / "json_2.1.1" / copied.panel("valid_seen").tasks[3].id / name
        whole, stat = path.read_bytes(), path.stat()
        path.write_bytes(whole.replace(b"a", b"b", 1))  # one byte: neither size nor, below, time of change
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert content(copied, "valid_seen") != [seen] and content(copied, "train") == [train]
        path.write_bytes(whole)
        assert content(copied, "valid_seen") == [seen]
    path.unlink()
    with pytest.raises(UserError, match=r"traj_data\.json cannot be read \(No such file"):
        content(copied, "valid_seen")
