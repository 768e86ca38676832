"""The learner on the cluster: a Ray Dataset of examples in, Ray Train (FSDP2) over prefix trees, a weights folder out.

    Dataset of Examples ──headers──> Selection              (which count, how much; a few numbers)
                        ──select, pack──> rows in Parquet   (streamed; the driver sees one line per row)
    rows ──plan──> steps ──one Dataset of rows per worker──> Ray Train ──> storage/best ──> output/weights

Calling `train` again with the same `storage` goes on from the last checkpoint, or returns the finished result.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
from ray.data import ExecutionOptions
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError

from actors.dataset import LOCAL
from actors.placement import DATA_TASK, HIDE_GPUS, fit_cluster, gpus, report, worker_ask
from leap_ray.config import LearnerConfig, Objective
from leap_ray.errors import UserError
from leap_ray.gpus import Installation, resolve_worker
from leap_ray.journal import write_atomically
from leap_ray.learning import checkpoint
from leap_ray.learning.aggregate import Header, Selection, select
from leap_ray.learning.card import Provenance, write_card
from leap_ray.learning.loop import Named, Outside, ProgressFile, ReferenceStore, fit, read_progress
from leap_ray.learning.model import MASTERS, check_init, check_model, load_trainable, materialize, stop_ids
from leap_ray.learning.rows import (
    Problem,
    RowInfo,
    from_record,
    header_of,
    pack_window,
    read_record,
    row_from_record,
    to_record,
)
from leap_ray.learning.schedule import PlannedStep, deal, plan_steps
from leap_ray.learning.sources import save_tokenizer
from leap_ray.learning.train import Trainer
from leap_ray.paths import absolute
from leap_ray.serving import tensor_shapes
from leap_ray.types import Example, to_plain

log = logging.getLogger(__name__)
PROGRESS = "progress.jsonl"
RESULT = "result.json"
WEIGHTS = "weights"
FINISHED = "finished"  # in storage: training is done, its best weights are whole
# A computing thread that spins while another is off its core holds that core: beside other work OpenMP's default made a step
# take ten times as long. So few turns cost nothing on a quiet machine; none at all, a third of its speed.
SPIN_BRIEFLY = {"GOMP_SPINCOUNT": "10000"}
ATTEMPT_SECONDS = 60.0  # that Ray Train waits for workers to find room before it asks anew
STOPPED = "stopped"  # in storage: why training cannot go on, in a sentence
WARNINGS = "warnings.json"  # in storage
RUN = "train"  # in storage: Ray Train's own folder, with the checkpoints
SNAPSHOT = "checkpoint_manager_snapshot.json"  # in RUN: Ray Train's list of them


@dataclass(frozen=True)
class TrainResult:
    """What a training gives. `folder` is a PEFT adapter (LoRA) or a whole model (full), with its model card."""

    folder: str
    name: str
    method: str
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # last loss, eval_loss of the kept weights, tokens, seconds, …
    problems: dict[str, int] = field(default_factory=dict)  # reason → examples left out, or used in part
    warnings: list[str] = field(default_factory=list)  # sentences for people


def train(
    dataset: ray.data.Dataset | Sequence[Example],
    *,
    model: str,
    init_from: Path | None,
    output: Path,
    config: LearnerConfig,
    objective: Objective,
    seed: int,
    storage: Path,
    adapter_name: str,
    max_length: int | None = None,
    keep_masters: bool = True,
) -> TrainResult:
    """Train the student on examples and leave its weights in `output/weights`. Blocks until done; needs `ray.init()`.

    dataset: Examples, or a Ray Dataset of `rows.to_record(example)` rows. model: as StudentConfig.model. init_from: folder of
    the previous iteration's weights, which are also DPO's and KTO's reference; None: the student itself. storage: the
    training's own working folder, reachable from every node; keep it until this returns. max_length: as StudentConfig.max_length,
    which a student's attention windows must hold; None: a whole row. Progress: one JSON line per optimiser step in
    `output/progress.jsonl`. Full training goes on from the float32 masters beside `init_from`, and with `keep_masters` leaves
    its own in `output/masters` (4 bytes a parameter). Raises UserError for examples, weights, a student or a disk that cannot be
    used.
    """
    output, storage = absolute(output), absolute(storage)
    if (output / RESULT).is_file():
        return TrainResult(**json.loads((output / RESULT).read_text()))
    check_model(model)
    check_init(init_from, config.method)
    config = resolve_worker(config, gpus(), Installation.here().torch)
    fit_cluster({"learner worker": (config.workers, worker_ask(config)), "data task": (1, DATA_TASK)})
    drop_other_rows(storage, output, config)
    storage.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    infos, problems = prepare(dataset, model, config, objective, seed, storage / "rows")
    plan = plan_steps([i for i in infos if i.split == "train"], config, seed, config.workers)
    job = Job(
        model, str(absolute(init_from)) if init_from else None, str(output), str(storage), config, objective, seed,
        plan, deal([i for i in infos if i.split == "eval"], config.workers), deal(infos, config.workers),
        max_length, keep_masters,
    )  # fmt: skip
    if not (storage / FINISHED).exists():
        if config.method == "full":
            parameters = sum(map(math.prod, tensor_shapes(materialize(model)).values()))
            checkpoint.check_disk(storage, checkpoint.disk_room(parameters, len(plan), config, keep_masters))
        run(job)
    return _finish(job, infos, problems, adapter_name)


# ---- data: examples → selection → rows, as Ray Data operations ----


def drop_other_rows(storage: Path, output: Path, config: LearnerConfig) -> None:
    """Let an unfinished training begin again where its rows are of another size than the configuration's, as its steps are."""
    index = storage / "rows" / "index.json"
    if not index.is_file() or (storage / FINISHED).exists():
        return
    if json.loads(index.read_text()).get("row_tokens", config.row_tokens) != config.row_tokens:
        shutil.rmtree(storage)
        (output / PROGRESS).unlink(missing_ok=True)


def prepare(
    dataset: ray.data.Dataset | Sequence[Example],
    model: str,
    config: LearnerConfig,
    objective: Objective,
    seed: int,
    folder: Path,
) -> tuple[list[RowInfo], list[Problem]]:
    """Select and pack all examples into rows under `folder`; once: a second call reads what the first one wrote."""
    index = folder / "index.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        examples = dataset if isinstance(dataset, ray.data.Dataset) else _as_dataset(dataset)
        infos, problems = _pack_all(examples, model, config, objective, seed, folder)
        part = folder / ".index.part"
        made = {"rows": to_plain(infos), "problems": to_plain(problems), "row_tokens": config.row_tokens}
        part.write_text(json.dumps(made))
        part.replace(index)
    stored = json.loads(index.read_text())
    problems = [Problem(**p) for p in stored["problems"]]
    infos = [RowInfo(**r) for r in stored["rows"]]
    fatal = [p for p in problems if p.fatal]
    if fatal and config.on_bad_example == "fail":
        shutil.rmtree(folder)
        first = "; ".join(f"{p.example}: {p.reason}" for p in fatal[:3])
        raise UserError(
            f"{len(fatal)} examples cannot be trained on: {first}. "
            "Mend them, or resume with a larger learner.row_tokens if they would be cut, or with learner.on_bad_example: drop"
        )
    if not any(info.split == "train" for info in infos):
        reasons = sorted({p.reason for p in problems})
        raise UserError(f"there is no example to train on; {len(problems)} were left out: {'; '.join(reasons[:3])}")
    return infos, problems


def _as_dataset(examples: Sequence[Example]) -> ray.data.Dataset:
    if not examples:
        raise UserError("there is no example to train on")
    return ray.data.from_items([to_record(e) for e in examples], override_num_blocks=max(1, len(examples) // 512))


def _pack_all(
    examples: ray.data.Dataset, model: str, config: LearnerConfig, objective: Objective, seed: int, folder: Path
) -> tuple[list[RowInfo], list[Problem]]:
    examples.context.execution_options.preserve_order = True
    small: dict[str, Any] = {"num_cpus": DATA_TASK.cpus}
    stops = stop_ids(materialize(model))
    read: Any = partial(_headers, config=config, objective=objective, stop_ids=stops, seed=seed)
    lines = (r["line"] for r in examples.map_batches(read, batch_size=config.window, **small).iter_rows())
    headers = [Header(**json.loads(line)) for line in lines if line]
    selection = select(headers, config, seed) if headers else Selection(seed)
    pack: Any = partial(_pack, folder=folder, selection=selection, config=config, objective=objective, stop_ids=stops)
    found = [json.loads(r["line"]) for r in examples.map_batches(pack, batch_size=config.window, **small).iter_rows()]
    infos = {line["id"]: RowInfo(**line) for line in found if "id" in line}
    problems = {(line["example"], line["reason"]): Problem(**line) for line in found if "example" in line}
    return sorted(infos.values(), key=lambda i: i.id), [problems[key] for key in sorted(problems)]


def _headers(batch: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """One line per example: its header, or nothing where the objective cannot use it."""
    headers = [header_of(example, **settings) for example in _examples(batch)]
    return {"line": [json.dumps(asdict(header)) if header else "" for header in headers]}


def _pack(batch: dict[str, Any], **settings: Any) -> dict[str, Any]:
    infos, problems = pack_window(_examples(batch), **settings)
    return {"line": [json.dumps(asdict(x)) for x in [*infos, *problems]]}


def _examples(batch: dict[str, Any]) -> list[Example]:
    return [from_record(dict(zip(batch, values))) for values in zip(*batch.values())]


# ---- training: Ray Train ----


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to know."""

    model: str
    init_from: str | None
    output: str
    storage: str
    config: LearnerConfig
    objective: Objective
    seed: int
    plan: list[PlannedStep]
    evaluation: tuple[tuple[RowInfo | None, ...], ...]  # per worker
    everything: tuple[tuple[RowInfo | None, ...], ...]  # per worker
    max_length: int | None = None  # tokens of the longest sequence; None: of a row
    keep_masters: bool = False


def run(job: Job) -> None:
    """Run Ray Train to the end; a run of the same storage goes on from its last checkpoint."""
    config, ask = job.config, worker_ask(job.config)
    scaling = ray.train.ScalingConfig(
        num_workers=config.workers,
        use_gpu=ask.gpus > 0,
        resources_per_worker={"CPU": ask.cpus} | ({"GPU": ask.gpus} if ask.gpus else {}),
    )
    attempt = min(ATTEMPT_SECONDS, config.start_timeout)
    os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(attempt)  # Ray Train's only way in
    run_config = ray.train.RunConfig(
        name=RUN,
        storage_path=job.storage,
        storage_filesystem=LOCAL,
        failure_config=ray.train.FailureConfig(
            max_failures=config.max_failures, controller_failure_limit=math.ceil(config.start_timeout / attempt) - 1
        ),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=checkpoint.CHECKPOINTS),
        worker_runtime_env={"env_vars": {**HIDE_GPUS, **SPIN_BRIEFLY}},
    )
    options = ExecutionOptions(preserve_order=True)
    trainer = ray.train.torch.TorchTrainer(
        work,
        train_loop_config={"job": ray.put(job)},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if ask.gpus else "gloo"),
        scaling_config=scaling,
        run_config=run_config,
        datasets={**_feeds(job)},
        dataset_config=ray.train.DataConfig(datasets_to_split=[], execution_options=options),
    )
    stopped = Path(job.storage) / STOPPED
    stopped.unlink(missing_ok=True)
    _drop_unusable_snapshot(Path(job.storage) / RUN / SNAPSHOT)
    try:
        result = trainer.fit()
    except ControllerError as error:
        if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise
        workers = {f"learner-{i}": ask for i in range(config.workers)}
        raise UserError(report(workers, config.start_timeout)) from error
    if result.error:
        raise result.error
    if stopped.exists():
        raise UserError(stopped.read_text())


def _drop_unusable_snapshot(path: Path) -> None:
    """Remove a list of checkpoints with which Ray Train would never start again: `_restore` finds them without it.

    It is written in place, so a full disk or a kill leaves a part of it; and only the Ray that wrote it reads it.
    """
    try:
        usable = json.loads(path.read_text())["ray_version"] == ray.__version__
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError):
        usable = False
    if not usable:
        log.warning("%s cannot be read; training goes on from the newest whole checkpoint beside it", path)
        path.unlink()


def _feeds(job: Job) -> dict[str, ray.data.Dataset]:
    """One Dataset per worker and purpose, each in the order in which that worker wants its rows. Read when iterated."""
    feeds = {}
    for worker in range(job.config.workers):
        steps = [row for step in job.plan for row in step.rows[worker]]
        for name, wanted in (
            ("steps", steps),
            ("evaluation", job.evaluation[worker]),
            ("everything", job.everything[worker]),
        ):
            if places := [{"file": r.file, "index": r.index, "row_id": r.id} for r in wanted if r]:
                blocks = ray.data.from_items(places, override_num_blocks=max(1, min(len(places) // 16, 1000)))
                read = partial(_read, folder=Path(job.storage) / "rows")
                feeds[f"{name}-{worker}"] = blocks.map(read, num_cpus=DATA_TASK.cpus)
    return feeds


def _read(place: dict[str, Any], folder: Path) -> dict[str, Any]:
    return read_record(folder, place["file"], place["index"]) | {"row_id": place["row_id"]}


def work(settings: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    import torch

    job: Job = ray.get(settings["job"])
    context = ray.train.get_context()
    worker, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.config.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    trainer = Trainer(
        load_trainable(
            materialize(job.model),
            job.config,
            init_from=Path(job.init_from) if job.init_from else None,
            seed=job.seed,
            max_length=job.max_length,
            trial=worker == 0,
        ),
        job.config,
        job.objective,
        len(job.plan),
        seed=job.seed,
        device=str(ray.train.torch.get_device()),
        workers=workers,
    )
    storage = Path(job.storage)
    feed = RayFeed(job, worker)
    if job.objective != "sft":
        feed.reference = _reference(trainer, feed, ReferenceStore(storage / "reference", worker))
    if worker == 0:
        write_atomically(storage / WARNINGS, json.dumps([w for w in [trainer.warning()] if w]).encode())
    position = _restore(trainer, storage / RUN)
    progress = ProgressFile(Path(job.output) / PROGRESS, position.next_step) if worker == 0 else None
    outside = Outside(
        first=worker == 0,
        best=storage / "best",
        base=job.model,
        progress=progress.append if progress else lambda line: None,
        checkpoint=partial(_report, trainer, worker == 0),
        masters=job.keep_masters,
    )
    try:
        position = fit(trainer, job.plan, feed, outside, position)
    except UserError as error:  # every worker meets it, and would again: no restart could help
        if worker == 0:
            write_atomically(storage / STOPPED, str(error).encode())
        return
    if worker == 0:
        (storage / FINISHED).touch()
    ray.train.report({"next_step": position.next_step, "best_step": position.best_step})


class RayFeed:
    """A worker's rows, out of the Ray Datasets made for it."""

    def __init__(self, job: Job, worker: int) -> None:
        self.job, self.worker = job, worker
        self.reference: dict[str, Any] = {}
        self.evaluates = any(job.evaluation)

    def steps(self, start: int) -> Iterator[list[Named | None]]:
        done = sum(row is not None for step in self.job.plan[:start] for row in step.rows[self.worker])
        stored = self._stored("steps", skip=done)
        for step in self.job.plan[start:]:
            yield [row and next(stored) for row in step.rows[self.worker]]

    def evaluation(self) -> Iterable[Named | None]:
        stored = self._stored("evaluation")
        return (row and next(stored) for row in self.job.evaluation[self.worker])

    def everything(self) -> Iterable[Named | None]:
        stored = self._stored("everything")
        return (row and next(stored) for row in self.job.everything[self.worker])

    def _stored(self, purpose: str, skip: int = 0) -> Iterator[Named]:
        shard: Any = ray.train.get_dataset_shard(f"{purpose}-{self.worker}")
        for number, record in enumerate(shard.iter_rows()):
            if number >= skip:
                row = row_from_record(record)
                known = self.reference.get(record["row_id"])
                yield record["row_id"], row if known is None else replace(row, reference=known)


def _reference(trainer: Trainer, feed: RayFeed, store: ReferenceStore) -> dict[str, Any]:
    """The previous policy's log-probabilities: the trainer still holds its weights, no checkpoint is restored yet."""
    import torch.distributed as dist

    if not store.complete:
        store.compute(trainer, feed)
        dist.barrier()
        store.finish()
    return store.load()


def _restore(trainer: Trainer, folder: Path) -> checkpoint.Position:
    """Bring the trainer to the newest checkpoint: Ray Train's, or the newest whole one where it has lost its list."""
    import torch.distributed as dist

    found = ray.train.get_checkpoint()
    if found is None:
        newest = [checkpoint.newest(folder)]
        dist.broadcast_object_list(newest)  # a network file system may show workers different ones
        return checkpoint.load(newest[0], trainer) if newest[0] else checkpoint.Position()
    with found.as_directory() as local:
        return checkpoint.load(Path(local), trainer)


def _report(trainer: Trainer, first: bool, position: checkpoint.Position) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), trainer, position, first=first)
        kept = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"next_step": position.next_step, "best_step": position.best_step}, checkpoint=kept)


# ---- the result ----


def _finish(job: Job, infos: Sequence[RowInfo], problems: Sequence[Problem], name: str) -> TrainResult:
    """Card, weights, result: in this order, so that a result that exists is whole."""
    output, best = Path(job.output), Path(job.storage) / "best"
    metrics = summary(read_progress(output / PROGRESS))
    before = Path(job.init_from) if job.init_from else materialize(job.model) if job.config.method == "full" else None
    if (moved := checkpoint.share_moved(best, before)) is not None:
        metrics["weights_moved"] = moved
    counted: dict[str, int] = {}
    for problem in problems:
        counted[problem.reason] = counted.get(problem.reason, 0) + 1
    made = Provenance(
        name=name,
        base=job.model,
        init_from=Path(job.init_from).name if job.init_from else None,
        objective=job.objective,
        seed=job.seed,
        examples=sum(i.examples for i in infos if i.split == "train"),
        held_out=sum(i.examples for i in infos if i.split == "eval"),
        left_out=sum(not p.trained for p in problems),
        loss_tokens=int(metrics["loss_tokens"]),
        tokens=int(metrics["tokens"]),
        steps=len(job.plan),
        metrics=metrics,
    )
    write_card(best, made, job.config)
    if job.config.method == "full":
        save_tokenizer(job.model, best)
    part = output / f".{WEIGHTS}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(best, part, ignore=shutil.ignore_patterns(MASTERS))
    checkpoint.replace_folder(part, output / WEIGHTS)
    checkpoint.move_masters(best, output / WEIGHTS)
    warnings = json.loads((Path(job.storage) / WARNINGS).read_text())
    result = TrainResult(str(output / WEIGHTS), name, job.config.method, metrics, counted, warnings)
    part = output / f".{RESULT}.part"
    part.write_text(json.dumps(asdict(result), indent=1))
    part.replace(output / RESULT)
    return result


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """A training's figures out of its progress lines."""
    totals = {k: float(sum(line[k] for line in lines)) for k in ("loss_tokens", "tokens", "plain_tokens", "seconds")}
    evaluated = [line["eval_loss"] for line in lines if math.isfinite(line.get("eval_loss", math.nan))]
    tail = lines[-max(1, len(lines) // 10) :]
    return {
        "loss": sum(line["loss"] for line in tail) / len(tail),
        **({"eval_loss": min(evaluated)} if evaluated else {}),
        **totals,
        "tokens_per_second": totals["tokens"] / totals["seconds"],
        "steps": float(len(lines)),
    }
