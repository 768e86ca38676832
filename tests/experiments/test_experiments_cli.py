"""Bad input: one clear message, a non-zero exit, and nothing started."""

import datetime
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli, preflight
from leap_ray.envs.alfworld.households import make_game

GOOD = {
    "name": "tiny",
    "domains": [{"name": "households", "eval_panel": "valid", "demo_tasks": 2, "train_tasks": 2, "eval_tasks": 2}],
}


def written(tmp_path, **changes):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**GOOD, **changes}))  # JSON is YAML
    return path


def refused(capsys, *argv):
    """The one message of a command that fails."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in argv])
    assert left.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("leap-ray: ")
    assert message.count("\n") == 1, "one message, no traceback"
    return message


def domain(**changes):
    return [{**GOOD["domains"][0], **changes}]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": "red"}, "unknown 'colour'"),
        ({"iterations": 0}, "iterations: 0 is below 1"),
        ({"student": {"model": "/nowhere/student"}}, "/nowhere/student"),
        ({"student": {"model": "package:no_such_package"}}, "no_such_package"),
        ({"domains": [{"name": "alfworld", "settings": {"data": "/nowhere/games"}}]}, "/nowhere/games"),
        ({"domains": [{"name": "chess"}]}, "unknown domain 'chess'"),
        ({"domains": domain(settings={"colour": 1})}, "colour"),
        ({"domains": domain(eval_panel="valid_sane")}, "valid_sane"),
        ({"min_free_gib": 1e9}, "no room for"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_refused_before_anything_starts(changes, named, tmp_path, capsys):
    message = refused(capsys, "run", written(tmp_path, **changes), "--run-dir", tmp_path / "run")
    assert named in message
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_panel_file_with_a_task_that_is_not_in_the_panel(tmp_path, capsys):
    from leap_ray.tasks import Panel
    from leap_ray.types import Task

    Panel.of("households", "valid", [Task("households", "valid/no-such-game", "valid")]).save(tmp_path / "panel.json")
    config = written(tmp_path, domains=domain(eval_panel=str(tmp_path / "panel.json")))
    message = refused(capsys, "run", config, "--run-dir", tmp_path / "run")
    assert "'valid/no-such-game' is not in panel households/valid" in message


def test_a_run_directory_of_another_configuration(tmp_path, capsys):
    directory = cli.open_run(cli.configuration.load(written(tmp_path)), tmp_path / "run")
    directory.close()
    message = refused(capsys, "run", written(tmp_path, seed=1), "--run-dir", tmp_path / "run")
    assert "belongs to another configuration" in message and "seed is 0 there, 1 here" in message


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def student_with(template, student_folder, folder):
    """The default student with another chat template."""
    folder.mkdir()
    for file in student_folder.iterdir():
        if file.name != "chat_template.jinja":
            (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(template)
    return {"student": {"model": str(folder)}}


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (CHATML.replace("assistant\n{%", "assistant\n<think>\n{%"), "leaves '<think>' open"),
        (CHATML.replace("<|im_end|>", "###"), "nothing would stop the student"),
    ],
)
def test_a_chat_template_that_would_spoil_answers_is_refused(template, named, student_folder, tmp_path, capsys):
    config = written(tmp_path, **student_with(template, student_folder, tmp_path / "student"))
    assert named in refused(capsys, "run", config, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_run_keeps_the_date_of_the_day_on_which_it_was_made(student_folder, tmp_path, monkeypatch):
    template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    plain = cli.configuration.load(written(tmp_path, **student_with(template, student_folder, tmp_path / "student")))
    assert preflight.check_student(cli.configuration.load(written(tmp_path)), tmp_path / "run").student.date is None
    made = preflight.check_student(plain, tmp_path / "run")
    assert made.student.date == datetime.date.today().isoformat()
    cli.open_run(made, tmp_path / "run").close()
    monkeypatch.setattr(preflight, "datetime", LaterDays)
    assert preflight.check_student(plain, tmp_path / "run") == made  # `leap-ray run` once more
    resumed = cli.configuration.load(tmp_path / "run" / "config.yaml")
    assert preflight.check_student(resumed, tmp_path / "run") == made
    assert preflight.check_student(plain, tmp_path / "other").student.date == "2031-03-04"


class LaterDays:
    class date(datetime.date):
        @classmethod
        def today(cls):
            return cls(2031, 3, 4)


def test_resume_takes_settings_of_how_it_computes_and_no_others(tmp_path, capsys, monkeypatch):
    cli.open_run(cli.configuration.load(written(tmp_path)), tmp_path / "run").close()
    assert "learner.epochs is 1 there, 2 here" in refused(capsys, "resume", tmp_path / "run", "--learner.epochs", "2")
    asked = []
    monkeypatch.setattr(cli, "_run", lambda config, folder, verbose: asked.append(config))
    cli.main(["resume", str(tmp_path / "run"), "--learner.row-tokens", "8192"])
    cli.open_run(asked[0], tmp_path / "run").close()
    assert cli.configuration.load(tmp_path / "run" / "config.yaml").learner.row_tokens == 8192


def test_resume_takes_a_server_that_moved_and_says_so(tmp_path, monkeypatch, caplog):
    teacher = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:8000/v1"}
    made = cli.configuration.load(written(tmp_path, teacher=teacher))
    cli.open_run(made, tmp_path / "run").close()
    asked = []
    monkeypatch.setattr(cli, "_run", lambda config, folder, verbose: asked.append(config))
    cli.main(["resume", str(tmp_path / "run"), "--teacher.base-url", "http://127.0.0.1:9000/v1"])
    assert asked[0].hash != made.hash, "another server is another computation"
    directory = cli.open_run(asked[0], tmp_path / "run")
    assert directory.config_hash == made.hash
    directory.close()
    assert "teacher.base_url http://127.0.0.1:8000/v1 → http://127.0.0.1:9000/v1" in caplog.text


def test_resume_says_that_the_environment_names_another_server(tmp_path, monkeypatch, caplog):
    config = cli.configuration.load(written(tmp_path, teacher={"kind": "claude"}))
    for url in ("https://gateway.example/a", "https://user:SECRET@gateway.example/b?key=SECRET"):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        cli.open_run(config, tmp_path / "run").close()
    assert (
        "teacher https://gateway.example/a → https://gateway.example/b" in caplog.text and "SECRET" not in caplog.text
    )


def test_resume_says_that_a_game_has_changed(tmp_path, caplog):
    """One byte, in a file of the evaluation panel; the rest of the run's games and its panels' hashes are what they were."""
    games = tmp_path / "games"
    for number, split in enumerate(("train", "train", "valid_seen", "valid_seen")):
        made = make_game(number, "heat", 1)
        trial = games / "json_2.1.1" / split / f"{made.kind}-Thing-None-Place-{number}" / "trial"
        trial.mkdir(parents=True)
        (trial / "game.tw-pddl").write_text(json.dumps(made.game))
        (trial / "traj_data.json").write_text(json.dumps(made.metadata))
    settings = {"data": str(games), "cache": str(tmp_path / "cache")}
    domains = [{"name": "alfworld", "settings": settings, "demo_tasks": 2, "train_tasks": 2, "eval_tasks": 2}]
    config = cli.configuration.load(written(tmp_path, domains=domains))
    for _ in range(2):
        cli.open_run(config, tmp_path / "run").close()
    assert not caplog.records
    game = trial / "game.tw-pddl"
    game.write_text(game.read_text().replace("Your task is to", "Your tusk is to", 1))
    cli.open_run(config, tmp_path / "run").close()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "made with other data: alfworld valid_seen: games " in said and "alfworld train" not in said


def test_help_after_a_configuration_lists_its_settings(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(written(tmp_path)), "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "--learner.row-tokens" in told and "(default: households)" in told


def test_an_estimate_takes_the_configurations_settings(tmp_path, capsys):
    config = written(tmp_path, teacher={"kind": "claude"})

    def dollars(*options):
        cli.main(["estimate", str(config), *options])
        return float(capsys.readouterr().out.split("$")[1].split(" ")[0])

    assert dollars("--domains.0.train-tasks", "20") == pytest.approx(10 * dollars(), rel=0.1)
    assert "is not a run directory" in refused(capsys, "estimate", config, "--run-dir", tmp_path / "nowhere")


@pytest.mark.parametrize("command", ["resume", "show", "evaluate"])
def test_what_is_not_a_run_directory(command, tmp_path, capsys):
    assert "is not a run directory" in refused(capsys, command, tmp_path)


def test_an_unknown_option_or_command_exits_with_2(tmp_path):
    for argv in (["run", str(written(tmp_path)), "--learner.colour", "3"], ["fly"], []):
        with pytest.raises(SystemExit) as left:
            cli.main(argv)
        assert left.value.code == 2


def test_help_is_there_without_the_heavy_packages():
    code = "import sys; from experiments import cli; assert not {'torch', 'ray', 'vllm'} & set(sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})


def broken(monkeypatch, error):
    """`leap-ray show` with something below it that raises."""

    def fail(folder):
        raise error

    monkeypatch.setattr(cli, "_config_of", lambda folder: folder)
    monkeypatch.setattr(cli, "_print_tables", fail)


def test_a_fault_of_the_program_shows_a_tracebacks_end_and_where_the_rest_is(monkeypatch, capsys, tmp_path):
    error = ZeroDivisionError("in the middle of a run")
    error.add_note("The whole of it and the actors' logs are in runs/a/logs")
    broken(monkeypatch, error)
    with pytest.raises(SystemExit) as left:
        cli.main(["show", str(tmp_path)])
    lines = capsys.readouterr().err.splitlines()
    assert left.value.code == 1
    assert lines[0] == "leap-ray: this is a fault of leap-ray's own; its traceback ends:"
    assert lines[-2:] == ["ZeroDivisionError: in the middle of a run", error.__notes__[0]]
    assert len(lines) <= cli.SHOWN_LINES + 1


def test_a_users_error_from_a_worker_is_one_sentence(monkeypatch, capsys, tmp_path):
    from ray.exceptions import RayTaskError
    from ray.train import WorkerGroupError

    from leap_ray.errors import UserError

    cause = UserError("previous weights hold no config.json")
    task = RayTaskError("f", "Traceback …", cause)
    for error in (task, task.as_instanceof_cause(), WorkerGroupError("a long text", {1: cause})):
        broken(monkeypatch, error)
        assert refused(capsys, "show", tmp_path) == "leap-ray: previous weights hold no config.json\n"


def interrupted(capsys, *argv):
    """The one message of a command that Ctrl-C ends."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in argv])
    assert left.value.code == 130
    return capsys.readouterr().err


def test_ctrl_c_names_the_command_that_goes_on_where_there_is_one(monkeypatch, capsys, tmp_path):
    """`RUN` had to be guessed, and there was nothing to resume before the run directory was made, nor of a table."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    run = tmp_path / "a run"
    monkeypatch.setattr(cli, "_prepare", stop)
    assert interrupted(capsys, "run", written(tmp_path), "--run-dir", run) == "leap-ray: stopped\n"
    cli.open_run(cli.configuration.load(written(tmp_path)), run).close()
    again = f"leap-ray: stopped; what is done is kept: `leap-ray resume '{run}'` goes on from there\n"
    assert interrupted(capsys, "run", written(tmp_path), "--run-dir", run) == again
    assert interrupted(capsys, "resume", run) == again
    assert "the same command goes on" in interrupted(capsys, "evaluate", run)
    broken(monkeypatch, KeyboardInterrupt())
    assert interrupted(capsys, "show", run) == "leap-ray: stopped\n"


def test_a_full_disk_is_one_sentence_with_the_remedy(monkeypatch, capsys, tmp_path):
    from ray.exceptions import RayTaskError

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a/episodes.jsonl")
    for error in (full, RayTaskError("f", f"Traceback …\nOSError: {full}", full)):
        broken(monkeypatch, error)
        message = refused(capsys, "show", tmp_path)
        assert "no space left on a disk" in message and "/runs/a/episodes.jsonl" in message
        assert "make room, then `leap-ray resume RUN` goes on" in message
