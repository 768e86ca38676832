"""One Ray session and one student server for all tests of this room: each takes long to start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.student_pool import StudentPool
from leap_ray.config import StudentConfig
from leap_ray.policy import Prompter

RANK = 16


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, with more CPUs than it has: most actors wait for others."""
    os.environ["LEAP_RAY_TEST_KEY"] = "sk-test-91ab"  # actors inherit the environment that Ray was started in
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def student_config() -> StudentConfig:
    """The default student, in float32: its answers can be compared exactly."""
    return StudentConfig(dtype="float32", max_length=1024, max_sequences=16, max_tokens=24, request_timeout=240)


@pytest.fixture(scope="session")
def student(
    ray_session: None, student_config: StudentConfig, student_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StudentPool]:
    """One student server of the default student. Its register lies in a folder of this test session."""
    register = tmp_path_factory.mktemp("register")
    pool = StudentPool.start(student_config, lora_rank=RANK, registry=register)
    yield pool
    pool.shutdown()


@pytest.fixture(scope="session")
def prompter(student_folder: Path) -> Prompter:
    """The default student's tokenizer and the chat dialect."""
    return Prompter.load(str(student_folder), "chat", True)


@pytest.fixture(scope="session")
def adapters(student_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two PEFT adapters of the default student that change its answers, each in its own way."""
    import torch
    from safetensors.torch import save_file

    from leap_ray.serving import linear_modules, tensor_shapes

    modules = linear_modules(student_folder)
    folders = []
    for seed in (1, 2):
        draw = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, shape in tensor_shapes(student_folder).items():
            if len(shape) == 2 and name.split(".")[-2] in modules:
                stem = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{stem}.lora_A.weight"] = torch.randn(4, shape[1], generator=draw) / shape[1] ** 0.5
                tensors[f"{stem}.lora_B.weight"] = torch.randn(shape[0], 4, generator=draw) * 0.02
        folder = tmp_path_factory.mktemp(f"adapter{seed}")
        save_file(tensors, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": modules, "task_type": "CAUSAL_LM"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        folders.append(folder)
    return folders[0], folders[1]
