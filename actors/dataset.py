"""Episodes and corrections → a Ray Dataset of training examples, written as Parquet."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ray
from pyarrow.fs import LocalFileSystem
from ray.data.expressions import col

from actors.environment import PromptSettings
from leap_ray.config import StudentConfig
from leap_ray.errors import UserError
from leap_ray.learning.examples import from_correction, from_demonstration, out_of_reach
from leap_ray.learning.rows import to_record
from leap_ray.types import Correction, Episode, from_json, to_json

EPISODES_PER_BLOCK = 64  # enough work to be worth a process, which loads a tokenizer first

LOCAL = LocalFileSystem()  # named, since a path alone is read as a URI, in which `#` and `%` mean something

# A process of Ray Data keeps its tokenizer between tasks.
_prompter = cache(PromptSettings.load)


def read_examples(folders: Iterable[Path]) -> ray.data.Dataset:
    """What `write_examples` left in those folders, a block a file: more blocks would only start more processes.

    Raises UserError if that is nothing.
    """
    files = [str(file) for folder in folders for file in sorted(folder.glob("*.parquet"))]
    if not files:
        raise UserError("there is no example to train on: `show` counts what was left out, and why")
    # With `partitioning`, a folder called `key=value` anywhere in the path would become a column.
    return ray.data.read_parquet(files, filesystem=LOCAL, partitioning=None, override_num_blocks=max(1, len(files)))


def write_examples(
    pairs: Iterable[tuple[Episode, Correction | None]],
    prompts: PromptSettings,
    student: StudentConfig,
    iteration: int,
    folder: Path,
    agreed_weight: float = 1.0,
) -> tuple[int, dict[str, int]]:
    """The examples of episodes with their corrections (None: a demonstration) as Parquet files.

    Returns how many, and how many were left out for which reason. The folder appears whole or not at all. Order is by
    episode id, so the same records give the same files.
    """
    rows = [
        {"episode": to_json(e), "correction": to_json(c) if c else ""} for e, c in sorted(pairs, key=lambda p: p[0].id)
    ]
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    words: Counter[str] = Counter()
    if rows:
        blocks = max(1, len(rows) // EPISODES_PER_BLOCK)
        items = ray.data.from_items(rows, override_num_blocks=blocks)
        work: Any = _examples  # Ray's annotation knows no further arguments
        dataset = items.flat_map(work, fn_args=(prompts, student, iteration, agreed_weight)).materialize()
        words.update(row["left_out"] for row in dataset.select_columns(["left_out"]).iter_rows())
        if len(words) > 1:
            dataset = dataset.filter(expr=col("left_out") == "")
        if words[""]:
            dataset.drop_columns(["left_out"]).write_parquet(str(part), filesystem=LOCAL)
    os.replace(part, folder)
    return words.pop("", 0), dict(sorted(words.items()))


def _examples(
    row: dict[str, Any], prompts: PromptSettings, student: StudentConfig, iteration: int, agreed_weight: float
) -> list[dict[str, Any]]:
    episode = from_json(Episode, row["episode"])
    return [
        {**to_record(example), "left_out": out_of_reach(example, student)}
        for example in _examples_of(episode, row["correction"], prompts, iteration, agreed_weight)
    ]


def _examples_of(
    episode: Episode, correction: str, prompts: PromptSettings, iteration: int, agreed_weight: float
) -> Iterator[Any]:
    if not correction:
        return from_demonstration(episode, iteration)
    return from_correction(episode, from_json(Correction, correction), _prompter(prompts), iteration, agreed_weight)
