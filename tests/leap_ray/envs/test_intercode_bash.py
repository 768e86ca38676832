"""Bash tasks in real sandboxes. Needs bubblewrap; the base is this machine's own /usr."""

import gzip
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from leap_ray.envs.intercode import reaper, rootfs
from leap_ray.envs.intercode.backend import Backend
from leap_ray.envs.intercode.bash import VOLATILE, GoldResults, Session, judge
from leap_ray.envs.intercode.data import load
from leap_ray.envs.intercode.env import InterCodeEnv
from leap_ray.envs.intercode.games import GOLD
from leap_ray.envs.intercode.reaper import orphans
from leap_ray.envs.intercode.sandbox import MARK, Bubblewrap, Limits, Run, SandboxError, namespace, owner, why_not
from leap_ray.envs.intercode.trees import built
from leap_ray.errors import EnvironmentFault, PrivilegeError, UserError
from leap_ray.rollout import demonstrate
from leap_ray.types import Finish, Task

if not shutil.which("bwrap"):
    pytest.skip("bubblewrap is not installed: apt-get install bubblewrap", allow_module_level=True)
if reason := why_not(rootfs.find("host")):
    pytest.skip(f"no sandbox can be made here: {reason}", allow_module_level=True)


@pytest.fixture(scope="module")
def env():
    made = InterCodeEnv(data="embedded", base="host")
    yield made
    made.close()


@pytest.fixture
def box():
    made = Bubblewrap(rootfs.find("host"), Limits(seconds=2, output=1000))
    yield made
    made.close()


def task(env, words, panel="train"):
    found = [t for t in env.panel(panel).tasks if words in env._items[t.id].query]
    assert found, words
    return found[0]


def start(env, words):
    return env.reset(options={"task": task(env, words)})


def test_every_embedded_gold_command_scores_one(env):
    for each in env.panel("train").tasks[::3]:
        episode = demonstrate(env, each, seed=0, max_actions=10)
        assert (episode.score, episode.finish) == (1.0, Finish.SUCCESS), each
    for each in (*env.panel("train").tasks[1::3], *env.panel("test").tasks):
        env.reset(options={"task": each})
        env.step(env.item.gold)
        assert env.step("submit")[1] == 1.0, each


def test_info_and_score_parts(env):
    observation, info = start(env, "Delete all .log files")
    assert info["instruction"] == "Delete all .log files under /farm/barn" and observation
    assert (info["candidates"], info["score"], info["success"]) == ((), 0.0, False)
    env.step("rm /farm/barn/old.log")
    observation, reward, over, _, info = env.step("submit")
    assert over and info["score"] == reward == pytest.approx(
        0.72
    )  # one of two is still there: 0.33 * (1 - erf(1)) = 0.05
    assert info["score_parts"] == {"p1": 0.05, "p2": 0.33, "p3": 0.33}
    with pytest.raises(UserError, match="call reset first"):
        env.step("ls")


def test_changes_are_compared_with_git(env):
    start(env, "Delete all .log files")
    env.step("find /farm/barn -name '*.log' -delete; echo more >> /farm/barn/tools.txt")
    _, _, _, _, info = env.step("submit")
    assert info["score_parts"]["p1"] == 0.05  # one change too many


def test_cd_is_kept_outside_the_shell(env):
    start(env, "Count the .csv files")
    assert env.step("cd /farm/barn")[0] == ""
    assert env.step("pwd")[0] == "/farm/barn\n"
    env.step("cd ../fields/./north")
    assert env.step("pwd")[0] == "/farm/fields/north\n"
    observation, _, _, _, info = env.step("cd /nowhere")
    assert "No such file" in observation and info["valid"] and not info["executed"]
    assert env.step("pwd")[0] == "/farm/fields/north\n"
    env.step("X=1; cd /")
    assert env.step("pwd; echo $X")[0] == "/farm/fields/north\n\n"


def test_unusable_actions_change_nothing(env):
    start(env, "Count the .csv files")
    for action in ("", "  ", 'echo "', "cd"):
        observation, _, over, _, info = env.step(action)
        assert not info["valid"] and not over and observation in ("", "Malformed command")
    assert env.step("ls /farm")[0] == "barn\nfields\npapers\n"
    assert env.step("printf '\\xff\\xfe'")[0] == "Malformed command"


def test_skip_ends_without_a_score(env):
    start(env, "Count the .csv files")
    assert env.step("skip")[:3] == ("skipped", 0.0, True)


def test_plain_quoting_keeps_double_quotes(env):
    plain = InterCodeEnv(data="embedded", base="host", quoting="plain")
    for each, expected in ((env, "a\n"), (plain, "a  b\n")):
        start(each, "Count the .csv files")
        assert each.step('echo "a  b" | cut -d" " -f1-3' if each is plain else 'echo "a  b"')[0] == expected
    plain.close()


def test_replays_show_the_same(env):
    seen = []
    for _ in range(2):
        start(env, "Count the .csv files")
        seen.append(
            [env.step(a)[0] for a in ("ls -la /farm", "find /farm -mtime -30", "ps aux | wc -l", "du -a /farm", "id")]
        )
    assert seen[0] == seen[1]
    assert "/farm/barn/tools.txt" in seen[0][1] and "old.log" not in seen[0][1]  # times keep their distance


def test_privileged_state_is_for_training_only(env):
    start(env, "Count the .csv files")
    state = env.privileged()
    assert "find /farm -type f -name '*.csv' | wc -l" in state.rendering and state.facts["output"] == "3\n"
    assert any("wc -l" in secret.text for secret in state.secrets)
    env.reset(options={"task": env.panel("test").tasks[0]})
    with pytest.raises(PrivilegeError):
        env.privileged()
    with pytest.raises(PrivilegeError):
        env.expert("teacher")
    assert env.expert("teacher", privilege=0.0).advise() is not None


def test_wrong_settings_are_one_clear_error(tmp_path):
    for settings, words in (
        ({"language": "cobol"}, "cobol"),
        ({"quoting": "none"}, "quoting"),
        ({"split": "odd"}, "split"),
        ({"backend": "vm"}, "backend"),
        ({"data": str(tmp_path)}, "clone"),
        ({"base": str(tmp_path / "none")}, "no sandbox base"),
        ({"base": str(tmp_path)}, "cannot be a sandbox's base"),
    ):
        with pytest.raises(UserError, match=words):
            InterCodeEnv(**({"data": "embedded", "base": "host"} | settings))


def test_unknown_tasks_and_panels_are_named(env):
    with pytest.raises(UserError, match="valid_seen"):
        env.panel("valid_seen")
    with pytest.raises(UserError, match="bash-999"):
        env.reset(options={"task": Task("intercode", "bash-999", "train")})


def test_a_command_is_ended_at_its_limit(box):
    began = time.monotonic()
    run = box.run(["/bin/bash", "-c", "echo begun; sleep 100"], seconds=0.5)
    assert (run.code, run.broke, run.output) == (None, "time", b"begun\n")
    assert time.monotonic() - began < 10
    assert box.run(["/bin/echo", "still here"]).output == b"still here\n"


def test_output_beyond_the_cap_is_counted(box):
    run = box.run(["/bin/bash", "-c", "head -c 5000 /dev/zero; exit 3"])
    assert (len(run.output), run.total, run.code) == (1000, 5000, 3)


def test_a_sandbox_takes_any_number_of_commands(box):
    for _ in range(2 * Limits().descriptors):
        assert box.run(["/bin/cat"], stdin=b"given").output == b"given"


def test_a_folder_that_is_not_there_is_reported(box):
    run = box.run(["/bin/true"], "/nowhere")
    assert run.code == 126 and b"No such file" in run.output


def test_a_sandbox_that_ends_is_a_fault_and_no_result(env):
    start(env, "Count the .csv files")
    os.kill(env.game._session.sandbox.pid, signal.SIGKILL)
    env.game._session.sandbox._process.wait()
    with pytest.raises(EnvironmentFault, match="ended") as fault:
        env.step("ls")
    assert str(pickle.loads(pickle.dumps(fault.value))) == str(fault.value) and "\n" not in str(fault.value)
    with pytest.raises(UserError, match="call reset first"):
        env.step("ls")
    start(env, "Count the .csv files")  # and the next episode is whole again
    assert env.step("ls /")[4]["executed"]


def test_a_sandbox_that_does_not_start_is_a_fault_of_reset(env, monkeypatch):
    monkeypatch.setattr("leap_ray.envs.intercode.backend.PAUSE", 0.0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentFault, match="bubblewrap"):
        start(env, "Count the .csv files")


def test_a_gold_command_that_is_too_slow_is_a_fault_and_no_result(env, monkeypatch):
    start(env, "Count the .csv files")
    monkeypatch.setattr("leap_ray.envs.intercode.bash.PATIENT", 0.0)
    monkeypatch.setattr(GOLD, "_kept", {})
    with pytest.raises(EnvironmentFault, match="gold command"):
        env.step("submit")


@pytest.mark.parametrize(
    "doing",
    [
        "kill -9 -1; kill -9 $$; kill -9 $PPID",
        "head -c 900000000 /dev/zero > /farm/full; head -c 900000000 /dev/zero > /farm/full2",
        ":(){ :|:& };:",
        "python3 -c 'x = [bytearray(1 << 20) for _ in range(5000)]'",
        "while :; do :; done",
        "chmod -R 000 /farm /root",
        "rm -rf /.git; echo gitdir: /nowhere > /.git",
        "exec >&- 2>&-; exit 7",
    ],
)
def test_what_a_student_does_to_its_machine_is_its_own_result(env, doing, monkeypatch):
    start(env, "Count the .csv files")
    monkeypatch.setattr(env.game._session.sandbox, "limits", Limits(seconds=2))
    env.step(doing)
    _, reward, over, _, _ = env.step("submit")
    assert over and reward < 1.0


ODD = (
    "\ud800", "\udcff", "echo '\udcff'", "echo \ud800", "\0", "echo a\0b", "x" * 1_000_000,
    "echo " + "y" * 1_000_000, "'" * 9999, '"' * 9999, '"', "cd \ud800", "cd \0", "cd " + "/a" * 5000, "cd", "cd ",
    "cd  ..", "cd -", "cd ~", "cdrom", "cd /;ls", "\\", "\\" * 999, "$(", "`", "((", "{", "<<E", "|", "&", ";;",
    "\x1b[2J\x07", "printf '\\xff\\x00'", "head -c 3000000 /dev/zero", "echo é 漢 🙂", "\n\n", "ls\nls", "\r",
    "exit 300", "kill -9 $$", "exec 0<&-; cat", "yes | head -c 2000000", "printf '{code: 0, size: 99999}\\n'",
    "cat /dev/urandom | head -c 99", "$'\\ud800'", "# only a comment", "!!", "~", "*", "%1", "submi",
)  # fmt: skip


def odd_actions():
    draw = random.Random(11)
    yield from ODD
    for _ in range(80):
        yield "".join(draw.choices([piece for piece in ODD if len(piece) < 40], k=draw.randint(1, 5)))
    for _ in range(40):
        yield "".join(chr(draw.randrange(0, 0x11000)) for _ in range(draw.randint(1, 60)))


def test_no_action_raises(env):
    start(env, "Count the .csv files")
    for action in odd_actions():
        if action.startswith(("submit", "skip")):
            continue
        observation, reward, over, _, info = env.step(action)
        assert reward == 0.0 and not over and not info["failure"], action[:80]
        observation.encode()
    assert env.step("cd /")[4]["executed"] and env.step("echo well")[0] == "well\n"


@pytest.mark.parametrize(
    "tampering", ["echo /f.so > /etc/ld.so.preload", "ln -sfn /farm /lib64", "rm -rf --no-preserve-root / 2> /farm/x"]
)
def test_a_machine_that_was_tampered_with_has_no_reward(env, tampering):
    start(env, "Count the .csv files")
    env.step("find /farm -name '*.csv' | wc -l")
    env.step(tampering)
    _, reward, over, _, info = env.step("submit")
    assert over and reward == 0.0 and "cannot be judged" in info["failure"]


def test_settings_of_git_hide_no_change(env):
    start(env, "Count the .csv files")
    env.step("git config --global status.showUntrackedFiles no; git config core.fsmonitor /bin/true; touch /farm/new")
    env.step("find /farm -name '*.csv' | wc -l")
    assert env.step("submit")[4]["score_parts"] == {"p1": 0.05, "p2": 0.33, "p3": 0.33}


def test_nothing_shown_depends_on_when_a_sandbox_was_made(env):
    start(env, "Count the .csv files")
    for look in ("ls -ld --time-style=full-iso /", "ls -lR --time-style=full-iso /farm /etc /home /root /run /var"):
        shown = env.step(look)[0]
        assert time.strftime("%Y-%m-%d", time.gmtime()) not in shown, shown


def test_a_gold_command_that_does_not_end_is_not_kept(env):
    class Endless:
        def run(self, *_, **__):
            return Run(b"part", None, "time", 4, 30.0)

        def close(self):
            pass

    gold = GoldResults()
    with pytest.raises(SandboxError, match="more time"):
        gold.get("yes", "tree", "docker", Endless)
    assert gold._kept == {}


def test_the_reaper_takes_only_what_was_left():
    here = namespace()
    assert reaper.lives(owner()) and reaper.lives("1:1:1")  # another container's: not ours to judge
    assert not reaper.lives(f"{here}:{os.getpid()}:1")  # our number, another process
    assert not reaper.lives(f"{here}:x:") and reaper.lives("")
    left = subprocess.Popen([f"{MARK}:{here}:1:1", "60"], executable="/bin/sleep")
    kept = subprocess.Popen([f"{MARK}:{owner()}", "60"], executable="/bin/sleep")
    assert left.pid in orphans() and kept.pid not in orphans()
    assert reaper._end(left.pid) and not reaper._end(kept.pid) and not reaper._end(os.getpid())
    assert left.wait() == -signal.SIGKILL and kept.poll() is None
    kept.kill()
    kept.wait()


def test_closing_leaves_no_process(env):
    box = Bubblewrap(rootfs.find("host"))
    pid = box.pid
    box.close()
    assert not os.path.exists(f"/proc/{pid}")
    with pytest.raises((SandboxError, ValueError, OSError)):
        box.run(["/bin/true"])
    assert orphans() == []


def test_neither_backend_is_one_error_naming_both(monkeypatch):
    monkeypatch.setattr("leap_ray.envs.intercode.backend.shutil.which", lambda name: None)
    monkeypatch.setattr("leap_ray.envs.intercode.docker_backend.why_not", lambda: "no engine answers")
    with pytest.raises(UserError, match=r"bubblewrap.*Docker engine \(no engine answers\)"):
        Backend("auto", "host")


def test_trees_bear_the_same_time_all_day():
    assert built(1_700_000_000) == built(1_700_000_000 + 3_000)
    assert built(1_700_000_000) % 86_400 == 0


def test_golden_commands_and_turns(shared):
    """A sample of the golden records on the host's /usr; the whole of them is run on a Debian tree (see the benchmark)."""
    tasks = load(str(shared / "data" / "intercode"), "bash")
    backend = Backend("bubblewrap", "host")
    gold = GoldResults()
    records = _records(shared / "golden/intercode/docker_turns.jsonl.gz")
    places = ("/testbed", "/system", "/workspace")  # elsewhere the host's own files show, and clocks are nobody's gold
    settled = [
        r
        for r in records
        if any(p in r["gold"] for p in places) and " / " not in r["gold"] and not VOLATILE.search(r["gold"])
    ]
    quick = [r for r in settled if "grep -r" not in r["action"] and "find . " not in r["action"] and r["turn"] == 0]
    close = agree = 0
    sample = quick[::3]
    for record in sample:
        tree = tasks.trees[f"fs_{record['fs']}"]
        session = Session(backend.open(tree))
        outcome = session.execute(record["action"])
        state = gold.get(record["gold"], tree.hash, "docker", lambda tree=tree: backend.open(tree))
        result = judge(session, outcome.text, state).total
        session.sandbox.close()
        close += abs(result - record["reward"]) <= 0.05 + 1e-9
        agree += (result == 1.0) == (record["reward"] == 1.0)
    assert len(sample) >= 18
    assert close / len(sample) >= 0.8 and agree / len(sample) >= 0.9


def _records(path):
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_the_sandbox_withstands_every_attack_as_root_or_the_present_user():
    assert _attack([sys.executable])["escaped"] == {}


@pytest.mark.slow
def test_the_sandbox_withstands_every_attack_as_an_ordinary_user():
    if os.getuid() != 0:
        pytest.skip("only root can become another user; the test above ran as an ordinary one")
    become = ["setpriv", "--reuid", "61099", "--regid", "61099", "--clear-groups"]
    python = [*become, "env", "HOME=/", "PYTHONDONTWRITEBYTECODE=1", "/usr/bin/python3"]
    if subprocess.run(
        [*python, "-c", "import leap_ray.envs.intercode.attacks"], cwd=ROOT, capture_output=True
    ).returncode:
        pytest.skip(f"an ordinary user cannot read {ROOT} with /usr/bin/python3, or it is older than 3.11")
    result = _attack(python)
    assert result["user"] == 61099 and result["escaped"] == {}


ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))


def _attack(python):
    command = [*python, "-m", "leap_ray.envs.intercode.attacks", "--base", "host"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
