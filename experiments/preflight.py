"""Everything that can be found wrong before anything starts: paths, folders, student, domains, panels, teacher, room."""

from __future__ import annotations

import datetime
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from leap_ray.cache import check_cache
from leap_ray.config import DomainConfig, RunConfig, load
from leap_ray.envs.base import load_domain, make_env
from leap_ray.errors import UserError
from leap_ray.journal import check_folder, check_room
from leap_ray.paths import absolute, check_writable

SOCKET_BYTES = 107  # most bytes of a local socket's path, on Linux
# What Ray appends to its temporary folder, and vLLM (one UUID) to the system's.
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
VLLM_SOCKET = "/00000000-0000-0000-0000-000000000000"


def absolute_config(config: RunConfig) -> RunConfig:
    """The configuration with every path in it read from the present working directory: actors have others."""
    cache = config.teacher.cache_dir
    return replace(
        config,
        student=replace(config.student, model=_model(config.student.model)),
        teacher=replace(config.teacher, cache_dir=str(absolute(cache)) if cache else cache),
        domains=tuple(_absolute_domain(domain) for domain in config.domains),
    )


def panel_path(panel: str) -> str:
    """A panel's name as it is; a panel file's path from the root on."""
    return str(absolute(panel)) if panel.endswith(".json") else panel


def check_machine(folder: Path) -> None:
    """Raise UserError where this machine cannot hold a run in that folder: its name, temporary files, cache, sockets."""
    check_folder(folder, "--run-dir")
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise UserError(
            f"--run-dir {folder}: inside a Ray job this would be a temporary copy of the working directory; "
            "give an absolute folder that every node sees"
        )
    path = str(absolute(folder))
    if odd := re.search(r"[?\x00-\x1f\x7f]", path):
        raise UserError(f"--run-dir {path!r}: folders with {odd[0]!r} in their names cannot be used: choose another")
    temporary = _temporary_folder()
    check_cache()
    if "RAY_ADDRESS" not in os.environ:
        _check_socket(os.environ.get("RAY_TMPDIR") or temporary, RAY_SOCKET, "RAY_TMPDIR or TMPDIR")
    _check_socket(temporary, VLLM_SOCKET, "TMPDIR")


def preflight(config: RunConfig, folder: Path, *, teaching: bool = True) -> RunConfig:
    """Raise UserError for anything in the configuration that this machine cannot run.

    teaching: whether the teacher will be asked. Returns the configuration with the date that the student's prompts show, where
    its chat template asks for one.
    """
    from leap_ray.teachers.build import check_teacher

    check_room(folder, config.min_free_gib)
    config = check_student(config, folder)
    if teaching:
        check_teacher(config.teacher)
    for domain in config.domains:
        check_domain(domain)
    return config


def check_student(config: RunConfig, folder: Path) -> RunConfig:
    """The student's files, its chat template and its layers; returns the configuration with the prompts' date.

    A new run's date is today's. It stays in the run directory, so that a resumed run has the same prompts.
    """
    from leap_ray.learning.model import check_model, check_trainable
    from leap_ray.policy import Prompter

    student = config.student
    check_model(student.model)
    prompter = Prompter.of(student)
    check_trainable(student.model, student.max_length, config.learner.attention)
    if student.date or not prompter.template.is_dated:
        return config
    stored = folder / "config.yaml"
    date = load(stored).student.date if stored.is_file() else datetime.date.today().isoformat()
    return replace(config, student=replace(student, date=date))


def check_domain(domain: DomainConfig) -> None:
    """Its class, its settings, its panels and the numbers of tasks asked of them."""
    env = make_env(domain.name, domain.settings)
    try:
        train = env.resolve_panel(domain.train_panel)
        train.sample(domain.train_tasks, 0)
        train.sample(domain.demo_tasks, 0)
        env.resolve_panel(domain.eval_panel).sample(domain.eval_tasks, 0)
    finally:
        env.close()


def _temporary_folder() -> str:
    """The folder for temporary files. Python falls back to other folders in silence; the servers started later do not."""
    named = os.environ.get("TMPDIR")
    if named:
        check_writable(absolute(named), "the folder for temporary files", "set TMPDIR to a folder of yours")
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise UserError(f"there is no folder for temporary files ({error}): set TMPDIR to a folder of yours") from None


def _check_socket(folder: str, appended: str, variable: str) -> None:
    room = SOCKET_BYTES - len(appended)
    if len(os.fsencode(folder)) > room:
        raise UserError(
            f"the folder for temporary files {folder} is too long for the sockets that are made in it: set {variable} to a "
            f"folder of at most {room} characters, such as /tmp"
        )


def _model(model: str) -> str:
    """A student that lies on this disk, by its path; a package's or a hub's name as it is."""
    return str(absolute(model)) if model and (_begins_as_path(model) or Path(model).exists()) else model


def _absolute_domain(domain: DomainConfig) -> DomainConfig:
    words = load_domain(domain.name).path_settings
    settings = {name: _setting(value, words.get(name)) for name, value in domain.settings.items()}
    return replace(
        domain, settings=settings, train_panel=panel_path(domain.train_panel), eval_panel=panel_path(domain.eval_panel)
    )


def _setting(value: Any, words: tuple[str, ...] | None) -> Any:
    """A domain's setting. `words`: the values that are no path, where the domain says that the setting is one."""
    if not isinstance(value, str) or not value:
        return value
    is_path = _begins_as_path(value) if words is None else value not in words
    return str(absolute(value)) if is_path else value


def _begins_as_path(text: str) -> bool:
    return re.match(r"(\.{1,2}|~[^/]*)(/|$)", text) is not None
