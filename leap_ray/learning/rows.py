"""Examples to rows on disk: the plain functions that Ray Data runs on each batch, and the reader that training uses.

    records of Examples ──check, choose──> branches ──pack──> Rows ──write──> one Parquet file a window, one row group a Row

A window is the set of examples that are packed together (a few hundred). Its file is named by what it holds, so a task that
Ray runs twice writes the same file twice.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from leap_ray.config import LearnerConfig, Objective
from leap_ray.learning.aggregate import Header, Selection
from leap_ray.learning.objectives import branches_of, example_mass, has_pair, mass
from leap_ray.learning.packing import rows_of
from leap_ray.learning.prefix_tree import Row, tree_tokens
from leap_ray.types import Example, Task, digest

NO_OTHER = "there is no rejected response that differs from the chosen one"
NO_MATE = "no mismatched answer for the KL estimate: no other episode of its window holds one that differs and fits"


@dataclass(frozen=True)
class RowInfo:
    """What planning needs to know of a stored row. `mass` is its share of an optimiser step's divisor."""

    id: str
    file: str
    index: int  # row group in the file
    split: str  # "train" | "eval"
    tokens: int
    plain_tokens: int
    loss_tokens: int
    mass: float
    examples: int


@dataclass(frozen=True)
class Problem:
    """An example that is not trained on, or only in part, and why.

    `fatal`: something is wrong with it; else it is of no use to the objective. `trained`: only a part is missing.
    """

    example: str
    reason: str
    fatal: bool = True
    trained: bool = False


def to_record(example: Example) -> dict[str, Any]:
    """An Example as one flat row of a Ray Dataset."""
    task = {f"task_{name}": value for name, value in asdict(example.task).items()}
    tokens = {name: np.array(getattr(example, name), np.int32) for name in ("prompt", "response", "rejected")}
    plain = {name: getattr(example, name) for name in ("id", "iteration", "weight", "no_pair")}
    return {**plain, **task, **tokens}


def from_record(record: Mapping[str, Any]) -> Example:
    """The Example back from its row."""
    task = Task(**{f.name: str(record[f"task_{f.name}"]) for f in fields(Task)})
    tokens = {name: tuple(map(int, record[name])) for name in ("prompt", "response", "rejected")}
    return Example(
        str(record["id"]), task, int(record["iteration"]), weight=float(record["weight"]), no_pair=str(record.get("no_pair", "")),
        **tokens,
    )  # fmt: skip


def problem_of(example: Example, objective: Objective, stop_ids: Iterable[int], row_tokens: int) -> Problem | None:
    """Why an example cannot be trained on as it stands; None if it can."""
    wrong = None
    if not example.prompt:
        wrong = "its prompt is empty, so its first response token cannot be predicted"
    elif not example.response:
        wrong = "its loss mask is empty: there is no response token"
    elif example.response[-1] not in set(stop_ids):
        wrong = f"its stop token is not under the loss: the response ends with token {example.response[-1]}"
    elif not 0 < example.weight < float("inf"):
        wrong = f"its weight is {example.weight}; a positive number is needed"
    elif objective == "dpo" and not has_pair(example):
        return Problem(example.id, f"no pair: {example.no_pair or NO_OTHER}", fatal=False)
    elif (size := tree_tokens([b.ids for b in branches_of(example, objective)])) > row_tokens:
        wrong = f"it takes {size} tokens and would be cut at row_tokens = {row_tokens}"
    return Problem(example.id, wrong) if wrong else None


def header_of(
    example: Example, objective: Objective, config: LearnerConfig, stop_ids: Iterable[int], seed: int
) -> Header | None:
    """What aggregation may count of an example; None for one that the objective cannot use."""
    if problem_of(example, objective, stop_ids, config.row_tokens):
        return None
    size = example.weight * example_mass(example, config, objective)
    return Header.of(example.task.domain, example.iteration, example.task.id, example.id, seed=seed, mass=size)


def pack_window(
    examples: Sequence[Example],
    *,
    folder: Path,
    selection: Selection,
    config: LearnerConfig,
    objective: Objective,
    stop_ids: Sequence[int],
) -> tuple[list[RowInfo], list[Problem]]:
    """Check, choose and pack one window of examples; store its rows under `folder`. Returns what was stored and what not.

    Only KTO looks from one example to the others: each is given a mismatched answer out of the window.
    """
    good: dict[str, list[Example]] = {"train": [], "eval": []}
    problems = []
    for example in sorted(examples, key=lambda e: e.id):  # rows do not depend on the order of arrival
        if problem := problem_of(example, objective, stop_ids, config.row_tokens):
            problems.append(problem)
        elif (chosen := selection.choose(example)) is not None:
            good[selection.split(example)].append(chosen)
    mates: dict[str, tuple[int, ...]] = {}
    if objective == "kto":
        used = [example for kept in good.values() for example in kept]
        mates = {e.id: mate_of(e, used, selection.seed, config.row_tokens) for e in used}
        problems += [missing for e in used for missing in _parts_missing(e, mates[e.id])]
    infos = []
    for split, kept in good.items():
        if kept:
            units = [branches_of(e, objective, i, mates.get(e.id, ())) for i, e in enumerate(kept)]
            rows = rows_of(units, [e.id for e in kept], config.row_tokens, config.batch_tokens)
            infos += _store(rows, folder, split, config, objective)
    return infos, problems


def mate_of(example: Example, others: Sequence[Example], seed: int, row_tokens: int) -> tuple[int, ...]:
    """KTO's mismatched answer y' to an example's prompt: the response to a prompt of another episode, drawn with the seed.

    It differs from both answers of the example and fits a row beside them. Empty where the examples hold no such response.
    """
    taken = {example.response, example.rejected}
    own, branches = _episode(example), [b.ids for b in branches_of(example, "kto")]
    for i in random.Random(f"{seed}/{example.id}").sample(range(len(others)), len(others)):
        mate = others[i].response
        if _episode(others[i]) == own or mate in taken:
            continue
        taken.add(mate)
        if tree_tokens([*branches, np.array([*example.prompt, *mate], np.int32)]) <= row_tokens:
            return mate
    return ()


def _episode(example: Example) -> str:
    return example.id.rpartition("/")[0] or example.id


def _parts_missing(example: Example, mate: Sequence[int]) -> Iterator[Problem]:
    """What KTO lacks of an example that it trains on."""
    if not has_pair(example):
        yield Problem(example.id, f"desirable answer only: {example.no_pair or NO_OTHER}", fatal=False, trained=True)
    if not mate:
        yield Problem(example.id, NO_MATE, fatal=False, trained=True)


def _store(rows: Sequence[Row], folder: Path, split: str, config: LearnerConfig, objective: Objective) -> list[RowInfo]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([{f.name: getattr(row, f.name) for f in fields(Row)} for row in rows], _schema())
    names = [digest(split, sorted(row.examples)) for row in rows]
    file = f"{split}-{digest(names)}.parquet"
    part = folder / f".{file}.{os.getpid()}"
    pq.write_table(table, part, row_group_size=1)
    part.rename(folder / file)
    return [
        RowInfo(
            name, file, i, split, row.tokens, row.plain_tokens, row.loss_tokens,
            mass(row, objective, config.weighting), len(row.examples),
        )
        for i, (name, row) in enumerate(zip(names, rows))
    ]  # fmt: skip


def _schema() -> Any:
    import pyarrow as pa

    floats, texts = pa.list_(pa.float32()), pa.list_(pa.string())
    special = {"weights": floats, "reference": floats, "examples": texts, "plain_tokens": pa.int64()}
    return pa.schema([(f.name, special.get(f.name, pa.list_(pa.int32()))) for f in fields(Row)])


def read_record(folder: Path, file: str, index: int) -> dict[str, Any]:
    """One stored row as plain lists; `row_from_record` makes the Row of it."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(folder / file).read_row_group(index).to_pylist()[0]


def row_from_record(record: Mapping[str, Any]) -> Row:
    """A Row from the plain lists or arrays of a Parquet or Ray Dataset row."""
    values: dict[str, Any] = {}
    for f in fields(Row):
        value = record[f.name]
        if f.name in ("weights", "reference"):
            values[f.name] = None if value is None else np.asarray(value, np.float32)
        elif f.name == "examples":
            values[f.name] = list(value)
        elif f.name == "plain_tokens":
            values[f.name] = int(value)
        else:
            values[f.name] = np.asarray(value, np.int32)
    return Row(**values)
