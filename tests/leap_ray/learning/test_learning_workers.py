"""FSDP2 over two processes (gloo, CPU): one worker's losses and weights, with LoRA and dropout, full weights, DPO and KTO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fsdp_worker
import pytest
import torch

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
