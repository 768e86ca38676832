"""PDDL to SAS, once per game ever: Fast Downward's translator behind a lock, its result kept on disk.

The translator is Python code with module globals: it reads `sys.argv` when imported and prints to `sys.stdout`. Here it runs
under one lock, argv is put back, and only the translating thread's printing is swallowed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leap_ray.cache import cache_folder

FORMAT = "1"  # of the cached record: raise it when `Translation` or what makes it changes
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Translation:
    """What the engine needs of a translated problem. Names are PDDL names in lower case."""

    sas: str  # the task as Fast Downward's C library reads it
    types: list[list[Any]]  # [name, [supertypes]]
    objects: dict[str, str]  # name -> type
    parameters: dict[str, list[list[str]]]  # action -> [[parameter, type]]
    initial: list[list[str]]  # the problem's (:init …): [predicate, argument, …]


def translate(domain: str, problem: str, cache: Path | None = None) -> Translation:
    """The problem's translation, from the cache folder if it is there; safe for many threads and processes."""
    path = (cache or cache_folder()) / "alfworld" / "sas" / f"{translation_key(domain, problem)}.json.gz"
    found = _read(path)
    if found is None:
        with _LOCK:
            found = _read(path)  # another thread may have made it while this one waited
            if found is None:
                found = _translate(domain, problem)
                write_atomically(path, gzip.compress(json.dumps(asdict(found)).encode(), 6, mtime=0))
    return found


def translation_key(domain: str, problem: str) -> str:
    """Hash of all that a translation depends on."""
    return hashlib.sha256("\0".join((FORMAT, domain, problem)).encode()).hexdigest()[:32]


def optimised_sas(domain: str, problem: str) -> str:
    """The problem pruned for search, for the planner. Not cached: only a cross-check asks for it."""
    with _LOCK:
        return _run(domain, problem, optimise=True)[1]


def write_atomically(path: Path, body: bytes) -> None:
    """Write a file so that any reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> Translation | None:
    try:
        return Translation(**json.loads(gzip.decompress(path.read_bytes())))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, TypeError):  # damaged: made again
        return None


def _translate(domain: str, problem: str) -> Translation:
    task, sas = _run(domain, problem, optimise=False)
    return Translation(
        sas=sas,
        types=[[t.name, list(t.supertype_names)] for t in task.types],
        objects={o.name: o.type_name for o in task.objects},
        parameters={a.name: [[p.name.strip("?"), p.type_name] for p in a.parameters] for a in task.actions},
        initial=[fact for fact in map(_fact, task.init) if fact],
    )


def _fact(atom: Any) -> list[str] | None:
    """An initial atom as the text engine counts facts: no equality, no cost, no numeric distance."""
    if hasattr(atom, "fluent"):
        name = str(atom.expression.value)
        if atom.fluent.symbol == "total-cost" or name.isdigit():
            return None
        return [name, *atom.fluent.args]
    return None if atom.predicate == "=" else [atom.predicate, *atom.args]


def _run(domain: str, problem: str, *, optimise: bool) -> tuple[Any, str]:
    """Parse, normalise and translate: the steps and switches of `fast_downward.pddl2sas`. The caller holds the lock."""
    options, normalize, translator, lisp, parsing = _modules()
    options.filter_unimportant_vars = optimise
    options.filter_unreachable_facts = optimise
    options.use_partial_encoding = optimise
    options.skip_variable_reordering = not optimise
    options.add_implied_preconditions = optimise
    options.invariant_generation_max_candidates = 0
    with _silent_thread():
        task = parsing.parse_task(*(lisp.parse_nested_list(text.split("\n")) for text in (domain, problem)))
        normalize.normalize(task)
        sas = io.StringIO()
        translator.pddl_to_sas(task).output(sas)
    return task, sas.getvalue()


def _modules() -> tuple[Any, ...]:
    """The translator's modules. The first import reads sys.argv as its own command line."""
    kept = sys.argv
    sys.argv = ["translate.py", "domain", "task"]
    try:
        from fast_downward.translate import normalize, options, translate
        from fast_downward.translate.pddl_parser import lisp_parser, parsing_functions
    finally:
        sys.argv = kept
    return options, normalize, translate, lisp_parser, parsing_functions


class _Silencer(io.TextIOBase):
    """Swallows one thread's output and passes on every other thread's."""

    stream: Any = None
    thread = 0

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


# One for good: another thread's print() may be using sys.stdout, without owning it, while it is put back.
_SILENCER = _Silencer()


@contextlib.contextmanager
def _silent_thread() -> Iterator[None]:
    kept = sys.stdout
    _SILENCER.stream, _SILENCER.thread = kept, threading.get_ident()
    sys.stdout = _SILENCER
    try:
        yield
    finally:
        sys.stdout = kept
        _SILENCER.thread = 0
