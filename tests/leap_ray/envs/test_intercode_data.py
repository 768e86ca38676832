"""InterCode's task sets: splits, preparing, converting a checkout; and the experts' words."""

import gzip
import json
import re
import shutil

import pytest

from leap_ray.envs.intercode import data, idioms, rootfs
from leap_ray.envs.intercode.data import LANGUAGES, load, prepare
from leap_ray.envs.intercode.env import privileged_state, secrets
from leap_ray.envs.intercode.experts import GoldExpert, bash_plan, intent, looking, pipeline, sql_plan
from leap_ray.envs.intercode.sandbox import why_not
from leap_ray.errors import UserError
from leap_ray.teachers.leaks import find_leaks


def test_the_first_seventy_percent_train(shared):
    folder = str(shared / "data" / "intercode")
    sizes = {
        language: {name: len(items) for name, items in load(folder, language).split("index").items()}
        for language in LANGUAGES
    }
    assert sizes == {
        "bash": {"train": 140, "test": 60},
        "sql": {"train": 724, "test": 310},
        "python": {"train": 682, "test": 292},
    }
    bash = load(folder, "bash").split("index")
    assert (bash["train"][-1].id, bash["test"][0].id) == ("bash-139", "bash-140")


@pytest.mark.parametrize("language", ["bash", "sql"])
def test_apart_shares_no_file_system_or_database(shared, language):
    for folder in (str(shared / "data" / "intercode"), "embedded"):
        tasks = load(folder, language)
        split = tasks.split("apart")
        kinds = [{item.kind for item in split[name]} for name in ("train", "test")]
        assert kinds[0] and kinds[1] and not kinds[0] & kinds[1]
        assert len(split["train"]) + len(split["test"]) == len(tasks.items)


def test_tasks_of_one_kind_cannot_be_kept_apart():
    with pytest.raises(UserError, match="split: index"):
        load("embedded", "python").split("apart")


def test_prepare_copies_checks_and_says_what_is_there(shared, tmp_path):
    summary = prepare(shared / "data" / "intercode", tmp_path / "target")
    assert summary["bash"] == {"tasks": 200, "set in": ["fs_1", "fs_2", "fs_3", "fs_4"]}
    assert summary["sql"] == {"tasks": 1034, "set in": 20} and summary["python"]["tasks"] == 974
    assert len(load(str(tmp_path / "target"), "bash").items) == 200


def test_prepare_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        prepare(tmp_path / "nowhere", tmp_path)
    assert all("there is no" in prepare(None, tmp_path)[language] for language in LANGUAGES)
    (tmp_path / "mbpp.jsonl").write_text('{"query": 1\n')
    with pytest.raises(UserError, match=r"mbpp.jsonl is not JSON"):
        prepare(None, tmp_path)
    (tmp_path / "mbpp.jsonl").write_text('{"query": "q"}\n')
    with pytest.raises(UserError, match="line 1"):
        prepare(None, tmp_path)


@pytest.mark.parametrize(
    "manifest", ["{", '{"path": "/a"}', '[{"path": "/a", "type": "file", "mode": "644"}]',
     '[{"path": "/../a", "type": "dir", "mode": "755"}]',
                 '[{"path": "/a", "type": "dir", "mode": "rwx"}]'],
)  # fmt: skip
def test_a_bad_manifest_is_named(tmp_path, manifest):
    (tmp_path / "bash.json").write_text('[{"fs": 1, "query": "q", "gold": "ls"}]')
    (tmp_path / "fs_1.manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=r"fs_1.manifest.json is no manifest"):
        load(str(tmp_path), "bash")


@pytest.mark.parametrize("record", ['[]', '{"task_id": 1, "query": 1, "gold": "g", "tests": []}', '7',
                                    '{"task_id": 1, "query": "q", "gold": "g", "tests": "assert f()"}'])  # fmt: skip
def test_a_bad_record_names_its_line(tmp_path, record):
    (tmp_path / "mbpp.jsonl").write_text('{"task_id": 1, "query": "q", "gold": "g", "tests": []}\n' + record + "\n")
    with pytest.raises(UserError, match="line 2, is no python task"):
        load(str(tmp_path), "python")


def test_a_spoilt_archive_is_named(tmp_path):
    packed = gzip.compress(b'{"task_id": 1}' * 100)
    (tmp_path / "mbpp.jsonl.gz").write_bytes(packed[:20] + b"\xff\xff\xff" + packed[23:])
    with pytest.raises(UserError, match=r"mbpp.jsonl.gz"):
        load(str(tmp_path), "python")


def test_published_trees_hold_their_script(shared):
    paths = [entry["path"] for entry in load(str(shared / "data" / "intercode"), "bash").trees["fs_3"].entries]
    assert "/setup_nl2b_fs_3.sh" in paths
    assert not any("setup" in e["path"] for tree in load("embedded", "bash").trees.values() for e in tree.entries)


def test_the_default_folder_is_used_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERCODE_DATA", str(tmp_path / "data"))
    assert load(None, "python").items[0].id == "python-0001"  # embedded
    shutil.copytree(data.SHIPPED, tmp_path / "data")
    (tmp_path / "data" / "python.json").write_text(json.dumps([{"task_id": 7, "query": "q", "gold": "g", "tests": []}]))
    assert [item.id for item in load(None, "python").items] == ["python-0007"]


def test_a_checkout_is_converted(tmp_path):
    if not shutil.which("bwrap") or why_not(rootfs.find("host")):
        pytest.skip("set-up scripts are run in a sandbox: needs bubblewrap")
    source, target = tmp_path / "checkout", tmp_path / "target"
    for number in range(1, 5):
        tasks, script = (
            source / f"data/nl2bash/nl2bash_fs_{number}.json",
            source / f"docker/bash_scripts/setup_nl2b_fs_{number}.sh",
        )
        for path in (tasks, script):
            path.parent.mkdir(parents=True, exist_ok=True)
        tasks.write_text(json.dumps([{"query": f"list {number}", "gold": "ls /made"}]))
        script.write_text(
            "mkdir -p /made/empty\necho text > /made/a.txt\ntouch -m -t 202301010000 /made/a.txt\nchmod 700 /made/empty\n"
        )
    summary = prepare(source, target)
    assert summary["bash"]["tasks"] == 4
    tree = load(str(target), "bash").trees["fs_3"]
    entries = {entry["path"]: entry for entry in tree.entries}
    assert entries["/made/a.txt"] == {
        "path": "/made/a.txt",
        "mode": "644",
        "type": "file",
        "text": "text\n",
        "mtime": 1672531200,
    }
    assert entries["/made/empty"]["type"] == "dir" and entries["/made/empty"]["mode"] == "700"


@pytest.mark.parametrize(
    ("command", "stages"),
    [
        ("ls", ["ls"]),
        ("a | b | c", ["a", "b", "c"]),
        ("grep 'x|y' f | wc -l", ["grep 'x|y' f", "wc -l"]),
        (r"echo \| | cat", [r"echo \|", "cat"]),
        ("a $(b | c) | d", ["a $(b | c)", "d"]),
        ("a || b | c", ["a || b | c"]),
    ],
)
def test_pipelines_are_split_at_their_bars(command, stages):
    assert pipeline(command) == stages


def test_plans_end_with_the_gold_and_never_change_things_on_the_way(shared):
    for item in load(str(shared / "data" / "intercode"), "bash").items:
        plan = bash_plan(item)
        assert plan[-1] == item.gold.strip() and len(plan) <= 2
        for part in plan[:-1]:
            assert item.gold.startswith(part) and not re.search(r"\b(rm|mv|cp|tee|tar|xargs|delete)\b|>", part)
    for item in load(str(shared / "data" / "intercode"), "sql").items:
        plan = sql_plan(item)
        assert plan[0] == "SHOW TABLES" and plan[-1] == item.gold.strip() and len(plan) <= 5


def test_reasons_reveal_nothing(shared):
    """No reason for any real task holds a secret of it, nor a word of the gold command that the task itself does not hold."""
    folder = str(shared / "data" / "intercode")
    for language in LANGUAGES:
        for item in load(folder, language).items:
            reason = intent(item.query)
            assert not [secret for secret in secrets(item, "") if secret.text in reason]
            assert find_leaks(reason, item.query, privileged_state("intercode", item, "", language)) == []
            assert not [
                word for word in re.findall(r"[/$'\"{}<>*]\S+|-\w+", item.gold) if len(word) > 2 and word in reason
            ]
    assert "columns" in looking("DESC people") and "people" not in looking("DESC people")


def test_full_privilege_reveals(shared):
    class Game:
        actions = ()

    item = load("embedded", "bash").items[0]
    told = GoldExpert.__new__(GoldExpert)
    told.item, told.game, told.reveals, told.plan = item, Game(), True, bash_plan(item)
    assert item.gold in told.advise().reason


@pytest.mark.parametrize(
    ("query", "command"),
    [
        ("Count the .csv files under /farm", "find /farm -type f -name '*.csv' | wc -l"),
        ("Delete all .log files under /farm/barn", "find /farm/barn -type f -name '*.log' -delete"),
        ("Find the empty directories under /a", "find /a -type d -empty"),
        ("Find files in /a with permission 400", "find /a -type f -perm 400"),
        ("Search for 'it''s' in /a", "grep -r it /a"),
        ("What is the time", "ls -la ."),
    ],
)
def test_idioms(query, command):
    assert idioms.bash_idiom(query) == command
