"""What the journal acknowledges is there after a crash at any byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from leap_ray.errors import UserError
from leap_ray.journal import Records, RunDirectory, check_folder, check_room
from leap_ray.types import Task


def records(folder):
    return Records(folder / "tasks.jsonl", Task, lambda task: task.id)


def task(number):
    return Task("d", f"t{number}", "train", "kind")


def test_a_record_is_written_once(tmp_path):
    journal = records(tmp_path)
    assert journal.append(task(1))
    assert not journal.append(task(1))
    assert journal.path.read_text().count("\n") == 1
    assert list(records(tmp_path)) == [task(1)]


def test_a_file_cut_at_any_byte_keeps_every_whole_line(tmp_path):
    journal = records(tmp_path)
    for number in range(3):
        journal.append(task(number))
    whole = journal.path.read_bytes()
    for cut in range(len(whole) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "tasks.jsonl").write_bytes(whole[:cut])
        again = records(folder)
        # A last line that lacks only its newline is whole.
        lines = sum(line.endswith(b"}") for line in whole[:cut].split(b"\n"))
        assert [t.id for t in again] == [f"t{i}" for i in range(lines)]
        for number in range(3):
            again.append(task(number))
        assert list(records(folder)) == [task(0), task(1), task(2)]


def test_a_full_disk_names_the_file(tmp_path):
    """Of a failed write the system says no name, and a run writes many files."""
    journal = records(tmp_path)
    journal.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/tasks\.jsonl'"):
        journal.append(task(1))
    assert task(1).id not in journal


def test_a_corrupt_line_is_named_and_set_aside(tmp_path, caplog):
    journal = records(tmp_path)
    for number in range(3):
        journal.append(task(number))
    lines = journal.path.read_bytes().split(b"\n")
    lines[1] = b'{"domain": "d", "id": 7}\xff'
    journal.path.write_bytes(b"\n".join(lines))
    assert [t.id for t in records(tmp_path)] == ["t0", "t2"]
    assert "tasks.jsonl line 2 cannot be read" in caplog.text
    assert (tmp_path / "tasks.jsonl.corrupt").read_bytes() == lines[1] + b"\n"
    assert b"\xff" not in journal.path.read_bytes()


def test_parquet_holds_the_same_records(tmp_path):
    journal = records(tmp_path)
    journal.append(task(2))
    journal.append(task(1))
    table = pandas.read_parquet(journal.to_parquet())
    assert list(table.id) == ["t1", "t2"]


def test_a_directory_belongs_to_one_configuration_and_one_process(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.bind("abc", "name: x\na: [{b: 1}]\n", {})
    run.bind("abc", "name: x\na: [{b: 1}]\n", {})
    with pytest.raises(UserError, match=r"another configuration \(abc; this one is def\): a.0.b is 1 there, 2 here; "):
        run.bind("def", "name: y\na: [{b: 2}]\n", {})
    run.bind("abc", "name: y\n", {})
    assert (tmp_path / "run" / "config.yaml").read_text() == "name: y\n"
    script = f"from leap_ray.journal import RunDirectory; from pathlib import Path; RunDirectory(Path({str(tmp_path / 'run')!r}))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.returncode != 0
    assert "in use by another process" in other.stderr
    run.close()
    RunDirectory(tmp_path / "run").close()


def test_a_stage_is_done_when_its_result_is_there(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.result("iter-0/train") is None
    run.finish("iter-0/train", {"loss": 1.5})
    assert run.result("iter-0/train") == {"loss": 1.5}
    assert not [f for f in os.listdir(tmp_path / "iter-0/train") if f.endswith(".part")]


def test_no_room_is_said_before_anything_starts(tmp_path):
    check_room(tmp_path / "not" / "there", 0.0)
    with pytest.raises(UserError, match="no room for"):
        check_room(tmp_path, 1e9)


def test_records_that_are_dropped_can_be_made_again(tmp_path):
    with records(tmp_path) as first:
        for number in range(3):
            first.append(task(number))
        assert first.drop(lambda t: t.id == "t1") == 1
        assert "t1" not in first and first.append(task(1))
    with records(tmp_path) as again:
        assert [t.id for t in again] == ["t0", "t2", "t1"]


@pytest.mark.parametrize(
    "url", ["s3://bucket/run", "S3://bucket/run", "gs://b/r", "hdfs://host:8020/run", "file:///tmp/run", "abfs://c@a/r"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_url_is_no_run_directory(url, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"--run-dir .* is a URL: .*give a folder, on a cluster one that every node sees"
    ):
        check_folder(kind(url), "--run-dir")
    with pytest.raises(UserError, match=r"run directory .* is a URL"):
        RunDirectory(Path(url))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["runs/a", "/shared/runs/a", "runs/s3:a", "~/a", "a=b/c#d", "C:/runs"])
def test_a_local_folder_is_a_run_directory(path):
    check_folder(path)


def test_a_run_goes_on_with_its_own_prompts_and_says_that_versions_have_changed(tmp_path, caplog):
    facts = {"prompts": "p1", "versions": {"ray": "2.60.0", "vllm": "0.32"}}
    run = RunDirectory(tmp_path)
    run.bind("abc", "name: x\n", facts)
    run.bind("abc", "name: x\n", facts)
    assert not caplog.records
    run.bind("abc", "name: x\n", {**facts, "versions": {"ray": "2.61.0"}})
    assert "ray 2.60.0 → 2.61.0, vllm 0.32 → None" in caplog.text
    with pytest.raises(UserError, match=r"made with other prompts \(p1; now p2\)"):
        run.bind("abc", "name: x\n", {**facts, "prompts": "p2"})


def test_a_setting_without_which_a_run_might_never_go_on_is_replaced_said_and_kept(tmp_path, caplog):
    run = RunDirectory(tmp_path)
    run.bind("h1", "teacher: {base_url: a, prices: {input: 1}, model: m}\n", {})
    run.bind("h2", "teacher: {base_url: b, prices: {input: 2}, model: m}\n", {})
    assert "teacher.base_url a → b" in caplog.text and "prices" not in caplog.text
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    change = {"setting": "teacher.base_url", "before": "a", "after": "b", "config_hash": "h2"}
    assert (manifest["config_hash"], manifest["changes"]) == ("h1", [change])
    assert run.config_hash == "h1", "weights keep their names"
    caplog.clear()
    run.bind("h2", "teacher: {base_url: b, prices: {input: 2}, model: m}\n", {})
    assert not caplog.records, "a run that goes on as it is says nothing"
    run.bind("h1", "teacher: {base_url: a, prices: {input: 2}, model: m}\n", {})
    assert "teacher.base_url b → a" in caplog.text
    with pytest.raises(
        UserError, match=r"another configuration \(h1; this one is h3\): teacher.model is m there, other here; choose"
    ):
        run.bind("h3", "teacher: {base_url: c, model: other}\n", {})
    assert "base_url: a" in (tmp_path / "config.yaml").read_text()


def test_killed_between_manifest_and_settings_a_replaced_run_goes_on_with_either(tmp_path):
    for settings, given in (("a", "h1"), ("b", "h2")):
        folder = tmp_path / given
        run = RunDirectory(folder)
        run.bind("h1", "learner: {row_tokens: a}\n", {})
        run.bind("h2", "learner: {row_tokens: b}\n", {})
        (folder / "config.yaml").write_text("learner: {row_tokens: a}\n")  # as it was
        run.bind(given, f"learner: {{row_tokens: {settings}}}\n", {})
        assert settings in (folder / "config.yaml").read_text()


def test_resume_says_that_data_and_servers_have_changed(tmp_path, caplog):
    facts = {
        "data": {"alfworld train: games": "aa", "alfworld valid_seen: games": "bb"},
        "servers": {"teacher": "http://a"},
    }
    run = RunDirectory(tmp_path)
    run.bind("abc", "name: x\n", facts)
    run.bind("abc", "name: x\n", {"data": facts["data"]})  # an evaluation asks no server
    assert not caplog.records
    now = {"data": {**facts["data"], "alfworld valid_seen: games": "cc"}, "servers": {"teacher": "http://b"}}
    run.bind("abc", "name: x\n", now)
    assert "made with other data: alfworld valid_seen: games bb → cc;" in caplog.text
    assert "made with other servers: teacher http://a → http://b;" in caplog.text and " aa" not in caplog.text
