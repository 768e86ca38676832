"""FSDP2 over two processes (gloo, CPU): one worker's losses and weights, with LoRA and dropout, full weights, DPO and KTO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import fsdp_worker
import numpy as np
import pytest
import torch

from leap_ray.errors import UserError
from leap_ray.learning import loop
from leap_ray.learning.loop import ReferenceStore

JOBS = [("lora", "sft"), ("full", "dpo"), ("lora", "kto")]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> Path:
    """Every job, done by two processes."""
    folder = tmp_path_factory.mktemp("two")
    processes = []
    for rank in range(2):
        settings = {"rank": rank, "workers": 2, "folder": str(folder), "jobs": JOBS}
        command = [sys.executable, fsdp_worker.__file__, json.dumps(settings)]
        processes.append(subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}))
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method,objective", JOBS)
def test_two_workers_equal_one(two_workers, tmp_path, method, objective):
    alone, together = tmp_path / "one", two_workers / f"{method}-{objective}"
    fsdp_worker.train(0, 1, alone, method, objective)
    one, two = (
        [json.loads(line) for line in (f / "progress.jsonl").read_text().splitlines()] for f in (alone, together)
    )
    assert len(one) == len(two) > 2
    for a, b in zip(one, two):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a.get("eval_loss") == pytest.approx(b.get("eval_loss"), abs=1e-4)
        assert a.get("kl") == pytest.approx(b.get("kl"), abs=1e-4), "KTO's estimate is over the rows of all workers"
    assert one[-1]["loss"] != one[0]["loss"] and "eval_loss" in one[-1]
    wanted, found = (torch.load(f / "weights.pt") for f in (alone, together))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=1e-3)


def _computed(folder: Path, worker: int, workers: int = 2) -> ReferenceStore:
    """The store of a worker that has computed its share of the reference."""
    store = ReferenceStore(folder, worker)
    trainer = SimpleNamespace(workers=workers, reference=lambda rows: {f"row-{worker}": np.full(3, -float(worker))})
    store.compute(trainer, SimpleNamespace(everything=list))
    return store


def test_the_reference_waits_for_files_that_a_file_system_shows_late(tmp_path):
    first = _computed(tmp_path, 0)
    threading.Timer(1.0, _computed, (tmp_path, 1)).start()
    assert set(first.load()) == {"row-0", "row-1"}
    first.finish()
    resumed = ReferenceStore(tmp_path, 2)  # with another number of workers
    assert resumed.complete
    assert set(resumed.load()) == {"row-0", "row-1"}


def test_a_reference_that_lacks_a_workers_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LISTED_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"1\.npz of another worker does not appear here"):
        _computed(tmp_path, 0).load()
