"""What "auto" comes to on clusters of all kinds, and what is refused, without a GPU."""

from __future__ import annotations

import math
import sys

import pytest

from leap_ray.config import LearnerConfig, StudentConfig
from leap_ray.errors import UserError
from leap_ray.gpus import Gpus, Installation, describe, resolve, resolve_server, resolve_worker, vllm_uses_gpus

FOR_GPU, FOR_CPU = Installation(vllm=True, torch=True), Installation(vllm=False, torch=False)


def shares(student: dict, learner: dict, gpus: Gpus, installed: Installation = FOR_GPU) -> tuple[int, float, float]:
    """Servers, GPUs of each, GPUs of each worker."""
    served, trained = resolve(StudentConfig(**student), LearnerConfig(**learner), gpus, installed)
    assert (trained.workers, served.tensor_parallel) == (learner.get("workers", 1), student.get("tensor_parallel", 1))
    return served.replicas, served.gpus_per_replica, trained.gpus_per_worker


@pytest.mark.parametrize("gpus", [Gpus(), Gpus(8, 8)])
def test_an_installation_for_cpus_leaves_gpus_alone(gpus):
    assert shares({"replicas": 2}, {"workers": 2}, gpus, FOR_CPU) == (2, 0, 0)


@pytest.mark.parametrize(
    ("student", "learner", "gpus", "wanted"),
    [
        # GPUs of their own
        ({}, {}, Gpus(2, 2), (1, 1, 1)),
        ({"replicas": 4}, {"workers": 4}, Gpus(8, 8), (4, 1, 1)),
        ({"replicas": 4}, {"workers": 4}, Gpus(8, 1), (4, 1, 1)),
        ({"tensor_parallel": 4}, {"workers": 4}, Gpus(8, 8), (1, 4, 1)),
        ({}, {}, Gpus(math.inf, math.inf), (1, 1, 1)),
        # a server and a worker on one GPU
        ({}, {}, Gpus(1, 1), (1, 0.6, 0.4)),
        ({"replicas": 8}, {"workers": 8}, Gpus(8, 8), (8, 0.6, 0.4)),
        ({"replicas": 2}, {}, Gpus(2, 2), (2, 0.6, 0.4)),
        # fewer servers
        ({"replicas": 2}, {}, Gpus(1, 1), (1, 0.6, 0.4)),
        ({"replicas": 8}, {"workers": 2}, Gpus(2, 2), (2, 0.6, 0.4)),
        ({"replicas": 2}, {"workers": 3}, Gpus(4, 4), (1, 1, 1)),
        ({"replicas": 2, "tensor_parallel": 2}, {"workers": 1}, Gpus(4, 4), (1, 2, 1)),
        # what was given stays
        ({"gpus_per_replica": 0.5}, {}, Gpus(1, 1), (1, 0.5, 0.5)),
        ({"gpus_per_replica": 0.7}, {"gpus_per_worker": 0.3}, Gpus(1, 1), (1, 0.7, 0.3)),
        ({}, {"gpus_per_worker": 0.3}, Gpus(1, 1), (1, 0.7, 0.3)),
        ({}, {"gpus_per_worker": 0}, Gpus(1, 1), (1, 1, 0)),
        ({"replicas": 2}, {"gpus_per_worker": 1}, Gpus(2, 2), (1, 1, 1)),
        ({"gpus_per_replica": 1, "replicas": 4}, {"gpus_per_worker": 1, "workers": 4}, Gpus(8, 8), (4, 1, 1)),
    ],
)
def test_an_installation_for_gpus_uses_them_by_itself(student, learner, gpus, wanted):
    assert shares(student, learner, gpus) == wanted


@pytest.mark.parametrize(
    ("student", "learner", "gpus"),
    [
        ({"gpus_per_replica": 1}, {}, Gpus(1, 1)),  # the server takes it whole
        ({}, {"gpus_per_worker": 1}, Gpus(1, 1)),
        ({}, {"workers": 3}, Gpus(2, 2)),
        ({}, {"workers": 2}, Gpus(2, 2)),  # a GPU without a server would get both workers
        ({"gpus_per_replica": 0.6, "replicas": 2}, {"gpus_per_worker": 0.4, "workers": 2}, Gpus(3, 3)),
        ({"gpus_per_replica": 0.6, "replicas": 2}, {"gpus_per_worker": 0.4}, Gpus(1, 1)),
        ({"tensor_parallel": 4}, {}, Gpus(8, 2)),
        ({"gpus_per_replica": 1, "replicas": 4}, {"gpus_per_worker": 1, "workers": 4}, Gpus(4, 4)),
    ],
)
def test_too_few_gpus_are_one_sentence_with_the_settings_to_change(student, learner, gpus):
    with pytest.raises(UserError, match=rf"the cluster's {gpus.total:g} GPUs .*too few for student\.replicas"):
        shares(student, learner, gpus)


@pytest.mark.parametrize(
    ("student", "learner", "gpus", "installed", "named"),
    [
        ({"gpus_per_replica": 0}, {}, Gpus(1, 1), FOR_GPU, r"student\.gpus_per_replica: 0 is for CPUs .* give auto"),
        ({}, {}, Gpus(), FOR_GPU, r"the installed vLLM computes on GPUs and the Ray cluster has none"),
        (
            {"gpus_per_replica": 1},
            {},
            Gpus(1, 1),
            FOR_CPU,
            r"student\.gpus_per_replica: 1 is for GPUs .* give auto or 0",
        ),
        ({"gpus_per_replica": 0.5}, {}, Gpus(), FOR_CPU, r"student\.gpus_per_replica: 0.5 is for GPUs"),
        ({"tensor_parallel": 2}, {}, Gpus(), FOR_CPU, r"student\.tensor_parallel: 2 is for GPUs"),
        ({}, {"gpus_per_worker": 1}, Gpus(1, 1), FOR_CPU, r"learner\.gpus_per_worker: 1 is for GPUs .* give auto or 0"),
    ],
)
def test_settings_for_another_installation_are_one_sentence(student, learner, gpus, installed, named):
    with pytest.raises(UserError, match=named):
        shares(student, learner, gpus, installed)


def test_servers_or_workers_alone_take_whole_gpus():
    assert resolve_server(StudentConfig(replicas=2), Gpus(2, 2), vllm=True).gpus_per_replica == 1
    assert resolve_server(StudentConfig(), Gpus(), vllm=False).gpus_per_replica == 0
    assert resolve_worker(LearnerConfig(workers=2), Gpus(2, 2), torch=True).gpus_per_worker == 1
    assert resolve_worker(LearnerConfig(), Gpus(), torch=True).gpus_per_worker == 0
    assert resolve_worker(LearnerConfig(gpus_per_worker=0.4), Gpus(1, 1), torch=True).gpus_per_worker == 0.4


def test_only_a_server_that_shares_its_gpu_gives_its_memory_back():
    assert [StudentConfig(gpus_per_replica=share).shares_gpu for share in ("auto", 0, 0.5, 1)] == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("gpus", "installed", "said"),
    [
        (
            Gpus(1, 1), FOR_GPU,
            "1 student server(s) on 0.6 GPU each, 1 learner worker(s) on 0.4 GPU each; "
            "student.replicas: 2 would take more GPUs than there are",
        ),
        (Gpus(3, 3), FOR_GPU, "2 student server(s) on 1 GPU each, 1 learner worker(s) on 1 GPU each"),
        (Gpus(), FOR_CPU, "2 student server(s) on CPU, 1 learner worker(s) on CPU"),
    ],
)  # fmt: skip
def test_what_runs_where_is_said(gpus, installed, said):
    asked = StudentConfig(replicas=2)
    assert describe(*resolve(asked, LearnerConfig(), gpus, installed), asked) == said


@pytest.mark.parametrize(("version", "uses_gpus"), [("0.33.0", True), ("0.33.0+cu130", True), ("0.32.0+cpu", False)])
def test_the_build_of_vllm_is_told_by_its_distribution(version, uses_gpus, tmp_path, monkeypatch):
    folder = tmp_path / f"vllm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert vllm_uses_gpus() is uses_gpus
