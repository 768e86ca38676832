"""The student server on real weights: completions, log-probabilities, adapters, full weights, restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from actors import engine
from actors.student import StudentActor
from actors.student_pool import StudentPool
from leap_ray.errors import UserError
from leap_ray.learning.model import probe_logprobs
from leap_ray.serving import BASE, fingerprint
from leap_ray.types import Sampling

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import this file
SAMPLING = Sampling(temperature=0.8, max_tokens=24)


@pytest.fixture(scope="module")
def pairs(prompter):
    """Prompts with a completion each."""
    return [
        (prompter.start("put a mug in cabinet 1.").prompt(f"You see a mug and {n} plates.", ("take mug 1", "go to desk")),
         prompter.completion_ids("The mug is here.", "take mug 1"))
        for n in (2, 30)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(student, adapters):
    """Names of two adapters, loaded."""
    names = [f"test-{fingerprint(folder)[:8]}" for folder in adapters]
    for name, folder in zip(names, adapters):
        asyncio.run(student.load(name, folder))
    return names


async def test_a_request_is_answered_once_and_the_same_again(student, pairs):
    prompt = pairs[0][0]
    first = await student.complete(prompt, SAMPLING, 1, BASE, "e1/0")
    assert await student.complete(prompt, SAMPLING, 1, BASE, "e1/0") == first
    assert (await student.complete(prompt, SAMPLING, 1, BASE, "e2/0")).ids == first.ids
    others = await asyncio.gather(*(student.complete(prompt, SAMPLING, s, BASE, f"e{s}/0") for s in range(3, 9)))
    assert len({other.ids for other in others}) > 1
    with pytest.raises(Exception, match="was made before with another prompt"):
        await student.complete(prompt, SAMPLING, 2, BASE, "e1/0")


async def test_completions_end_as_they_should(student, pairs, prompter):
    prompt = pairs[0][0]
    cut = await student.complete(prompt, Sampling(0.8, max_tokens=3), 1, BASE, "cut/0")
    assert (len(cut.ids), cut.finish) == (3, "length")
    stop = await student.complete(prompt, Sampling(0.8, max_tokens=24, stop=cut.ids[1:2]), 1, BASE, "stop/0")
    assert (stop.ids, stop.finish) == (cut.ids[:2], "stop")


async def test_logprobs_are_the_models_own(student, pairs, student_folder):
    prompts, completions = zip(*pairs)
    expected = probe_logprobs(student_folder, None, prompts, completions, "float32")
    for _ in range(2):  # the second time most of it is in the prefix cache
        served = [await student.logprobs(p, c, BASE, "e/0") for p, c in pairs]
        assert served == [pytest.approx(row, abs=2e-3) for row in expected]
    drawn = await student.complete(prompts[0], SAMPLING, 5, BASE, "drawn/0")
    assert len(drawn.logprobs) == len(drawn.ids)
    again = await student.logprobs(prompts[0], list(drawn.ids), BASE, "drawn/0")
    assert again == pytest.approx(drawn.logprobs, abs=2e-3)


async def test_many_candidates_of_one_prompt_score_as_one_by_one(student, pairs, prompter):
    prompt = pairs[0][0]
    candidates = [prompter.completion_ids("The mug is here.", f"go to desk {n}") for n in range(8)]
    together = await student.score(prompt, candidates, BASE, "scores")
    alone = [await student.logprobs(prompt, c, BASE, "scores") for c in candidates]
    assert together == [pytest.approx(row, abs=2e-3) for row in alone]


async def test_every_adapter_passes_its_own_probe_and_no_other(student, pairs, student_folder, adapters, loaded):
    prompts, completions = zip(*pairs)
    expected = [probe_logprobs(student_folder, a, prompts, completions, "float32") for a in adapters]
    for name, logprobs in zip(loaded, expected):
        assert await student.probe(name, prompts, completions, logprobs) < 1e-2
    report = await student.replicas[0].probe.remote(loaded[0], prompts, completions, expected[0], 1e-3)
    assert report.passed
    assert report.conclusive
    with pytest.raises(UserError, match="does not run the weights just trained"):
        await student.probe(loaded[0], prompts, completions, expected[1])


async def test_policies_mix_in_one_batch(student, pairs, loaded):
    prompt = pairs[1][0]
    policies = [BASE, *loaded] * 2
    mixed = await asyncio.gather(
        *(student.complete(prompt, SAMPLING, 7, p, f"mix{i}/0") for i, p in enumerate(policies))
    )
    alone = [await student.complete(prompt, SAMPLING, 7, p, f"alone-{p}/0") for p in (BASE, *loaded)]
    assert [m.ids for m in mixed] == [a.ids for a in alone] * 2
    assert len({a.ids for a in alone}) == 3


async def test_seeded_requests_with_more_prompt_tokens_than_one_step_takes(student):
    prompts = [list(range(1000 * i + 100, 1000 * i + 900)) for i in range(5)]
    short = Sampling(0.8, max_tokens=4)
    together = await asyncio.gather(*(student.complete(p, short, 7, BASE, f"long{i}/0") for i, p in enumerate(prompts)))
    alone = await student.complete(prompts[4], short, 7, BASE, "long-alone/0")
    assert together[4].ids == alone.ids
    assert all(len(answer.ids) == 4 for answer in together)


async def test_names_and_policies_that_are_wrong(student, pairs, adapters, loaded, tmp_path):
    with pytest.raises(UserError, match="already names other weights"):
        await student.load(loaded[0], adapters[1])
    with pytest.raises(UserError, match=r"no weights at .*nowhere"):
        await student.load("new", tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"has no policy 'ghost'; it has base, {loaded[0]}"):
        await student.complete(pairs[0][0], SAMPLING, 1, "ghost", "ghost/0")
    await student.unload(loaded[1])
    with pytest.raises(UserError, match="has no policy"):
        await student.complete(pairs[0][0], SAMPLING, 1, loaded[1], "gone/0")
    await student.load(loaded[1], adapters[1])
    assert (await student.stats())[0].policies == (BASE, *loaded)


async def test_full_weights_take_the_place_of_the_first_and_go_again(student, pairs, student_folder, tmp_path):
    prompts, completions = zip(*pairs)
    folder = _scaled(student_folder, tmp_path / "full", 1.1)
    expected = probe_logprobs(student_folder, folder, prompts, completions, "float32")
    await student.load("full-1", folder, "full")
    assert await student.probe("full-1", prompts, completions, expected) < 1e-2
    with pytest.raises(UserError, match="has no policy 'base'"):
        await student.complete(prompts[0], SAMPLING, 1, BASE, "full/0")
    await student.restore_base()
    untuned = probe_logprobs(student_folder, None, prompts, completions, "float32")
    assert await student.probe(BASE, prompts, completions, untuned) < 1e-2


def _scaled(model: Path, folder: Path, factor: float) -> Path:
    """A copy of a model whose embeddings, and with them the tied output layer, are other ones."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] * factor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text((model / "config.json").read_text())
    return folder


async def test_stats_count(student, pairs):
    before = (await student.stats())[0].requests
    await student.complete(pairs[0][0], SAMPLING, 11, BASE, "count/0")
    after = (await student.stats())[0]
    assert after.requests == before + 1
    assert 0 < after.prefix_hit_rate < 1
    assert after.generation_tokens_per_s > 0
    assert (after.running, after.waiting) == (0, 0)


def test_what_cannot_start_is_refused_at_once(student_config, student_folder, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        StudentPool.start(dataclasses.replace(student_config, model=str(tmp_path / "nothing")), lora_rank=16)
    with pytest.raises(UserError, match="max_length: 100000 is above"):
        engine.check(dataclasses.replace(student_config, max_length=100_000), student_folder)
    with pytest.raises(UserError, match="not enough memory"):
        engine.check(dataclasses.replace(student_config, kv_cache_gib=5000), student_folder)
    with pytest.raises(UserError, match="rank: 4096 is above"):
        engine.settings(student_config, student_folder, 4096)


def test_settings_for_gpus_are_refused_by_a_server_for_cpus(ray_session, student_config, student_folder):
    with pytest.raises(UserError, match=r"gpus_per_replica: 0.5 is for GPUs .* give auto or 0"):
        engine.check(dataclasses.replace(student_config, gpus_per_replica=0.5), student_folder)
    with pytest.raises(UserError, match="gpus_per_replica: 1 is for GPUs"):
        StudentPool.start(dataclasses.replace(student_config, gpus_per_replica=1), lora_rank=16)


def test_a_server_that_does_not_fit_its_gpu_is_refused_with_what_to_change(student_config, student_folder):
    small = dataclasses.replace(student_config, dtype="bfloat16")
    weights = engine._weights_gib(small, student_folder)
    assert weights == pytest.approx(0.25, abs=0.03)  # 135 M numbers of two bytes
    engine.check_gpu(small, student_folder, weights, 16, device=8)
    with pytest.raises(
        UserError, match=r"does not fit its GPU: 2\.\d GiB .*student\.tensor_parallel or student\.gpu_memory"
    ):
        engine.check_gpu(small, student_folder, weights, 16, device=2)
    long = dataclasses.replace(small, max_length=1_000_000)
    with pytest.raises(UserError, match=r"21\.5 for one sequence of student\.max_length"):
        engine.check_gpu(long, student_folder, weights, 16, device=8)


def test_memory_for_sleeping_is_set_aside_only_where_a_gpu_is_shared(student_config, student_folder):
    for share, sleeps in ((1, False), (0.6, True)):
        config = dataclasses.replace(student_config, gpus_per_replica=share)
        assert engine.settings(config, student_folder, 16)["enable_sleep_mode"] is sleeps


class Engine:
    """What a student server asks of an engine, with answers that only CUDA's engine gives."""

    def __init__(self, cached: int = 0, refusals: int = 0, free: tuple[int, ...] = ()) -> None:
        self.cached, self.refusals, self.free = cached, refusals, list(free)
        self.calls: list[str] = []

    async def generate(self, prompt, params, request_id, lora_request):
        from vllm.exceptions import RetryableRequestError

        if self.refusals:
            self.refusals -= 1
            raise RetryableRequestError("generation is paused")
        ids = prompt["prompt_token_ids"]
        cached = 0 if params.skip_reading_prefix_cache else self.cached
        scored = [
            None,
            *({token: SimpleNamespace(logprob=-float(at))} for at, token in enumerate(ids[cached + 1 :], cached + 1)),
        ]
        yield SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=[1])], num_cached_tokens=cached, prompt_logprobs=scored
        )

    async def collective_rpc(self, method, args=()):
        self.calls.append(method)
        return [self.free.pop(0)]

    async def sleep(self, level):
        self.calls.append("sleep")

    async def wake_up(self):
        self.calls.append("wake_up")

    async def reset_prefix_cache(self):
        self.calls.append("reset")


def _server(config, made: Engine) -> StudentActor:
    server = StudentActor(config)
    server._engine = made
    return server


@pytest.mark.parametrize("cached", [0, 16, 96, 112])
async def test_scores_are_right_where_the_engine_leaves_cached_tokens_out(student_config, cached):
    server = _server(student_config, Engine(cached))
    assert await server.score(list(range(100)), [[7, 8], [9]]) == [[-100.0, -101.0], [-100.0]]


async def test_a_request_that_a_paused_engine_refuses_is_made_again(student_config):
    server = _server(student_config, Engine(refusals=2))
    assert await server.logprobs([1, 2, 3], [4]) == [-3.0]


async def test_a_server_wakes_when_the_learner_has_given_the_memory_back(student_config):
    gib = 2**30
    made = Engine(free=(70 * gib, 3 * gib, 40 * gib, 70 * gib))
    server = _server(dataclasses.replace(student_config, gpus_per_replica=0.6), made)
    await server.sleep()
    await server.wake()
    assert made.calls == ["sleep", *["free_memory"] * 4, "wake_up", "reset"]
    await server.wake()
    assert made.calls[-2:] == ["wake_up", "reset"], "awake already"


@pytest.mark.parametrize("share", ["auto", 0, 1])
async def test_a_server_with_gpus_of_its_own_does_not_sleep(student_config, share):
    made = Engine()
    server = _server(dataclasses.replace(student_config, gpus_per_replica=share), made)
    await server.sleep()
    await server.wake()
    assert not made.calls


ACTOR = """
import os, subprocess, sys
engine = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), *sys.argv[2:]])
print(engine.pid, flush=True)
engine.wait()
"""
ENGINE = """
import subprocess, sys
if sys.argv[2] == "alone":
    exec(sys.argv[3])
else:
    worker = subprocess.Popen([sys.executable, "-c", sys.argv[3], *sys.argv[1:]])
    worker.wait()
"""
WORKER = """
import sys, time
from actors.engine import WeightReloader
WeightReloader().die_with(int(sys.argv[1]))
print("watching", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("workers", ["alone", "several"])
def test_no_engine_outlives_its_actor(workers):
    actor = subprocess.Popen([sys.executable, "-c", ACTOR, ENGINE, workers, WORKER], stdout=subprocess.PIPE, text=True)
    pid = int(actor.stdout.readline())
    assert actor.stdout.readline() == "watching\n"
    actor.kill()
    actor.wait()
    _wait_until_gone(pid)


def test_the_engine_gets_the_context_that_rotary_scaling_gives(student_config, student_folder, tmp_path):
    said = json.loads((student_folder / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": said["max_position_embeddings"]}
    (tmp_path / "config.json").write_text(json.dumps({**said, "rope_parameters": scaling}))
    long = dataclasses.replace(student_config, max_length=4 * said["max_position_embeddings"])
    engine.check(long, tmp_path)
    wanted = {"max_position_embeddings": long.max_length}
    assert engine.settings(long, tmp_path, 0)["hf_overrides"] == wanted
    assert engine.settings(student_config, student_folder, 0)["hf_overrides"] == {}
    with pytest.raises(UserError, match="above the"):
        engine.check(dataclasses.replace(long, max_length=long.max_length + 1), tmp_path)


@pytest.mark.slow
async def test_a_replica_that_is_killed_comes_back_with_its_adapters(student, pairs, loaded):
    prompt = pairs[0][0]
    before = await student.complete(prompt, SAMPLING, 13, loaded[0], "before/0")
    pid, servers = await student.replicas[0].__ray_call__.remote(_processes)
    assert servers
    os.kill(pid, signal.SIGKILL)
    after = await student.complete(prompt, SAMPLING, 13, loaded[0], "after/0")
    assert after.ids == before.ids
    for server in servers:
        _wait_until_gone(server)
    assert ray.get(student.replicas[0].__ray_call__.remote(_processes))[0] != pid


def _processes(actor) -> tuple[int, list[int]]:
    import psutil

    children = psutil.Process().children(recursive=True)
    return os.getpid(), [child.pid for child in children if "EngineCore" in " ".join(child.cmdline())]


def _wait_until_gone(pid: int) -> None:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"the engine's process {pid} outlived its actor")
