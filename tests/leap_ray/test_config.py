"""A configuration is read whole or refused with the name of what is wrong."""

import dataclasses
import typing
from pathlib import Path

import pytest

from leap_ray import config
from leap_ray.config import DomainConfig, LearnerConfig, RolloutConfig, RunConfig, StudentConfig, TeacherConfig
from leap_ray.errors import UserError

HEAD = "name: a\ndomains: [{name: households}]\n"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_of_the_project_is_valid_and_survives_being_written(path, tmp_path):
    read = config.load(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.to_yaml(read))
    assert config.load(copy) == read
    assert config.load(copy).hash == read.hash


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name: a\ndomains: [{name: households}]\nlearner: {ranc: 3}", "learner: unknown 'ranc'"),
        ("name: a\ndomains: [{name: households}]\nlearner: {rank: many}", "learner.rank: int is needed, got 'many'"),
        ("name: a\ndomains: [{name: households}]\nlearner: {rank: 0}", "learner.rank: 0 is below 1"),
        ("name: a\ndomains: [{name: households}]\nteacher: {kind: oracle}", "teacher.kind: 'oracle' is none of"),
        ("name: a\ndomains: [{name: households}]\nlearner: {objectives: [dpo]}", "begin with sft"),
        (
            "name: a\ndomains: [{name: households}]\nlearner: {row_tokens: 4000}",
            "learner.row_tokens: 4000 is below 4096",
        ),
        (
            "name: a\ndomains: [{name: households}]\nlearner: {objectives: [sft, dpo]}",
            "learner.row_tokens: 4096 is below 4352",
        ),
        (
            f"{HEAD}student: {{tensor_parallel: 2, gpus_per_replica: 0}}",
            "does not fit student.tensor_parallel: 2: give 2 or auto",
        ),
        (
            f"{HEAD}student: {{tensor_parallel: 2, gpus_per_replica: 0.5}}",
            "does not fit student.tensor_parallel: 2: give 2 or",
        ),
        (
            f"{HEAD}student: {{gpus_per_replica: 2}}",
            "student.gpus_per_replica: 2.0 does not fit student.tensor_parallel: 1",
        ),
        (f"{HEAD}student: {{gpus_per_replica: 1.5}}", "student.gpus_per_replica: 1.5 does not fit"),
        (f"{HEAD}student: {{gpus_per_replica: -1}}", "student.gpus_per_replica: -1 is below 0"),
        (f"{HEAD}student: {{gpus_per_replica: .nan}}", "student.gpus_per_replica: nan is no finite number"),
        (f"{HEAD}student: {{gpus_per_replica: all}}", "student.gpus_per_replica"),
        (f"{HEAD}student: {{tensor_parallel: 0}}", "student.tensor_parallel: 0 is below 1"),
        (f"{HEAD}student: {{gpus_per_replica: 0.5, replicas: 2}}", "two servers on one GPU"),
        (f"{HEAD}learner: {{gpus_per_worker: 2}}", "learner.gpus_per_worker: 2.0 is not in 0…1"),
        (
            f"{HEAD}student: {{gpus_per_replica: 1}}\nlearner: {{gpus_per_worker: 0.4, workers: 2}}",
            "two workers on one GPU",
        ),
        (
            f"{HEAD}student: {{gpus_per_replica: 0.6}}\nlearner: {{gpus_per_worker: 0.4, workers: 2}}",
            "two workers on one GPU",
        ),
        (
            f"{HEAD}student: {{gpus_per_replica: 0.6, replicas: 2}}\nlearner: {{gpus_per_worker: 0.2, workers: 2}}",
            "two workers on one GPU",
        ),
        ("name: s3://bucket/a\ndomains: [{name: households}]", "name: 's3://bucket/a' is no local folder"),
        (
            f"{HEAD}teacher: {{cache_dir: gs://bucket/answers}}",
            "teacher.cache_dir: 'gs://bucket/answers' is no local folder",
        ),
        ("name: a", "missing 'domains'"),
        ("name: a\ndomains: []", "at least one is needed"),
        ("name: a\ndomains: [{name: households}]\nlearner: {epochs: 2}\nlearner: {rank: 8}", "'learner' stands twice"),
        ("name: a\ndomains: [{name: households}]\n1: 2", "1 is no setting's name"),
        ("- 1", "is not a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_setting_is_named(text, named, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("student", "learner"),
    [
        ({}, {}),
        ({"gpus_per_replica": "auto"}, {"gpus_per_worker": "auto"}),
        ({"gpus_per_replica": 0.5}, {"gpus_per_worker": 0.5}),
        ({"gpus_per_replica": 0.7, "replicas": 8}, {"gpus_per_worker": 0.3, "workers": 8}),
        ({"gpus_per_replica": 4, "tensor_parallel": 4}, {"gpus_per_worker": 1, "workers": 4}),
        ({"gpus_per_replica": 0}, {"gpus_per_worker": 0, "workers": 2}),
    ],
)
def test_shares_of_gpus_that_can_work_are_read_as_they_are(student, learner):
    read = config.build({"name": "a", "domains": [{"name": "households"}], "student": student, "learner": learner})
    assert read.student.gpus_per_replica == student.get("gpus_per_replica", "auto")
    assert read.learner.gpus_per_worker == learner.get("gpus_per_worker", "auto")


@pytest.mark.parametrize("share", ["auto", "0.5", "1"])
def test_shares_of_gpus_are_options(share):
    base = RunConfig("a", (DomainConfig("households"),))
    read = config.override(base, ["--student.gpus-per-replica", share, "--learner.gpus-per-worker", share], "leap-ray")
    assert read.student.gpus_per_replica == read.learner.gpus_per_worker == (share if share == "auto" else float(share))
    assert read.hash == base.hash


def test_the_hash_names_what_is_computed():
    base = RunConfig("a", (DomainConfig("households"),))
    assert base.hash == RunConfig("another name", (DomainConfig("households"),)).hash
    assert base.hash != RunConfig("a", (DomainConfig("households"),), seed=1).hash


def test_the_hash_leaves_out_where_and_how_it_is_computed():
    base = RunConfig("a", (DomainConfig("households"),))
    moved = config.override(
        base, ["--learner.threads", "2", "--student.replicas", "3", "--teacher.budget-dollars", "9"], "leap-ray"
    )
    assert moved != base
    assert moved.hash == base.hash


# Why a setting changes nothing that is computed.
WORDS = "it is shown or written beside the results and read by no stage"
ROOM = "room on a machine: work waits for it or is refused, and what is asked and answered stays the same"
TIME = "a limit on waiting: passed, the run stops, or work is done again from its seed"
ROUNDING = "where the same sums are computed: they differ in rounding alone, as on another machine"
AGAIN = "how often what failed is done again; each time it begins from the same seed or checkpoint"
WAYS = "how the same request travels: the request itself and who answers it stay the same"
MONEY = "counted in the ledger; a stage that lacks answers for want of money is not done"
EXACT = "another way to compute the same function: equal but for rounding (tests/leap_ray/learning)"
REASONS = {
    "": {"name": WORDS, "trackers": WORDS, "min_free_gib": ROOM},
    "student": {
        "replicas": "each request has a seed of its own, and an episode stays on one server, all of which hold the same weights",
        "gpus_per_replica": ROUNDING,
        "tensor_parallel": ROUNDING,
        "gpu_memory": ROOM,
        "kv_cache_gib": ROOM,
        "max_sequences": ROOM,
        "adapters": ROOM,
        "cpus_per_replica": ROOM,
        "threads": ROUNDING,
        "start_timeout": TIME,
        "request_timeout": TIME,
    },
    "rollout": {
        "actors": "an episode is made from (task, seed, policy), whoever plays it",
        "episodes_per_actor": "an episode is made from (task, seed, policy), whatever is played beside it",
        "recycle_after": "a fresh actor plays as an old one does: nothing is carried from one episode to the next",
        "max_restarts": AGAIN,
        "episode_timeout": TIME,
    },
    "teacher": {
        "api_key_env": WAYS,
        "http_in_private_network": WAYS,
        "mode": WAYS,
        "timeout": TIME,
        "max_retries": AGAIN,
        "concurrency": ROOM,
        "budget_dollars": MONEY,
        "prices": MONEY,
        "cache_dir": "it holds answers of the same server and model to the very same request (build.shared_answers)",
        "batch_quiet": "when a batch leaves, not what is in a request",
        "answer_timeout": TIME,
    },
    "learner": {
        "activation_checkpointing": EXACT,
        "attention": EXACT,
        "workers": "a step's rows are planned before they are dealt to workers (schedule.plan_steps)",
        "gpus_per_worker": ROUNDING,
        "cpus_per_worker": ROOM,
        "threads": ROUNDING,
        "start_timeout": TIME,
        "max_failures": AGAIN,
        "checkpoint_every": "a training that was interrupted equals an undisturbed one",
    },
}


def test_every_operational_setting_has_its_reason():
    given = {section: set(names) for section, names in config.OPERATIONAL.items()}
    assert {section: set(reasons) for section, reasons in REASONS.items()} == given
    assert all(reason for reasons in REASONS.values() for reason in reasons.values())


def alternative(value):
    """Another value of a setting."""
    if isinstance(value, dict | tuple | bool):
        return {dict: {"input": 1.0, "output": 1.0}, tuple: (), bool: not value}[type(value)]
    named = {None: None, "auto": 0.0, "live": "batch", "blocks": "sdpa", "fail": "drop", "a": "b"}
    return named[value] if isinstance(value, str) else (value or 0) + 1


SETTINGS = [
    (kind, section, name)
    for kind, settings in (("operational", config.OPERATIONAL), ("replaceable", config.REPLACEABLE))
    for section, names in settings.items()
    for name in names
]


@pytest.mark.parametrize(("kind", "section", "name"), SETTINGS)
def test_the_hash_is_the_same_under_operational_settings_and_another_under_replaceable_ones(kind, section, name):
    base = RunConfig("a", (DomainConfig("households"),), learner=LearnerConfig(row_tokens=8192))
    owner = getattr(base, section) if section else base
    texts = {"api_key_env": "MY_KEY", "cache_dir": "/answers", "base_url": "http://127.0.0.1:8000/v1"}
    shares = {"gpu_memory": 0.5, "max_failed": 0.2, "max_lost": 0.1}
    value = (texts | shares).get(name, alternative(getattr(owner, name)))
    changed = dataclasses.replace(owner, **{name: value})
    moved = dataclasses.replace(base, **{section: changed}) if section else changed
    assert moved != base and (moved.hash == base.hash) == (kind == "operational")


def test_options_go_over_the_file():
    base = RunConfig("a", (DomainConfig("households", settings={"size": 2}),))
    changed = config.override(base, ["--learner.epochs", "3", "--domains.0.train-tasks", "5"], "leap-ray run")
    assert (changed.learner.epochs, changed.domains[0].train_tasks) == (3, 5)
    assert changed.domains[0].settings == {"size": 2}
    with pytest.raises(SystemExit):
        config.override(base, ["--learner.epoch", "3"], "leap-ray run")


def test_seeds_of_stages_and_runs_never_meet():
    runs = [RunConfig("a", (DomainConfig("households"),), seed=seed) for seed in range(20)]
    drawn = [
        run.stage_seed(stage, i) for run in runs for stage in ("demonstrations", "rollouts", "train") for i in range(8)
    ]
    assert len(set(drawn)) == len(drawn)
    assert {run.stage_seed("evaluate", i) for run in runs for i in range(3)} == {0}, "one panel for all training seeds"


@pytest.mark.parametrize("section", ["student", "rollout", "teacher", "learner"])
def test_a_section_whose_settings_are_all_commented_out_is_all_defaults(section, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: a\ndomains: [{{name: households}}]\n{section}:\n  # rank: 8\n")
    assert config.load(path) == RunConfig("a", (DomainConfig("households"),))


def test_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: no\ndomains: [{name: households}]\nlearner: {learning_rate: 3e-5, warmup_steps: 1e1}")
    read = config.load(path)
    assert (read.name, read.learner.learning_rate, read.learner.warmup_steps) == ("no", 3e-5, 10)


def test_the_papers_configuration_is_the_papers_field_by_field():
    """The settings that the paper and the authors' code state."""
    paper = config.load(EXPERIMENTS / "paper.yaml")
    learner, student, teacher, (domain,) = paper.learner, paper.student, paper.teacher, paper.domains
    assert (learner.method, learner.rank, learner.alpha, learner.dropout) == ("lora", 128, 64, 0.05)
    assert (learner.learning_rate, learner.dpo_learning_rate, learner.beta) == (3e-5, 5e-7, 0.01)
    assert (learner.warmup_steps, learner.clip_norm, learner.epochs) == (10, 0.3, 1)
    assert (learner.aggregate, learner.holdout, learner.objectives) == ("equal", 0.15, ("sft",))
    assert (student.max_length, student.max_tokens, student.dialect, student.candidates) == (8000, 256, "leap", True)
    assert (student.temperature, student.eval_temperature) == (0.3, 0.3)
    assert (teacher.correct, teacher.per, teacher.annotate, teacher.repeats) == ("all", "episode", True, None)
    assert (domain.name, domain.eval_panel, domain.max_actions, domain.threshold) == ("alfworld", "valid_unseen", 20, 0)
    assert paper.iterations == 4 and config.load(EXPERIMENTS / "claude.yaml").teacher.correct == "all"
    for objectives in (["sft", "dpo"], ["sft", "kto"]):  # its variants fit as they are
        config.override(paper, ["--learner.objectives", *objectives], "leap-ray")


def test_ktos_three_answers_must_fit_a_row(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: a\ndomains: [{name: households}]\nlearner: {objectives: [sft, kto], row_tokens: 4352}")
    with pytest.raises(UserError, match=r"learner\.row_tokens: 4352 is below 4608"):
        config.load(path)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("learner: {learning_rate: -1.0}", "learner.learning_rate: -1 is not above 0"),
        ("learner: {learning_rate: .nan}", "learner.learning_rate: nan is no finite number"),
        ("learner: {learning_rate: .inf}", "learner.learning_rate: inf is no finite number"),
        ("learner: {betas: [0.9, 1.0]}", "learner.betas[1]: 1 is not in 0…1"),
        ("learner: {aggregate: [1, -0.5]}", "learner.aggregate[1]: -0.5 is below 0"),
        ("student: {temperature: -1}", "student.temperature: -1 is below 0"),
        ("student: {gpu_memory: 90}", "student.gpu_memory: 90 is not in 0…1"),
        ("teacher: {prices: {input: -3}}", "teacher.prices.input: -3 is below 0"),
        ("teacher: {budget_dollars: -1}", "teacher.budget_dollars: -1 is below 0"),
        ("rollout: {seeds: [0, -1]}", "rollout.seeds[1]: -1 is below 0"),
        ("eval_seeds: [-1]", "eval_seeds[0]: -1 is below 0"),
        ("min_free_gib: .nan", "min_free_gib: nan is no finite number"),
    ],
)
def test_numbers_have_bounds(setting, complaint, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: a\ndomains: [{{name: households}}]\n{setting}\n")
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert complaint in str(caught.value)


def test_a_panels_numbers_have_bounds_too():
    with pytest.raises(UserError, match=r"domains\[0\]\.train_tasks: -1 is below 0"):
        RunConfig("a", (DomainConfig("households", train_tasks=-1),))


def test_options_have_the_same_bounds():
    base = RunConfig("a", (DomainConfig("households"),))
    with pytest.raises(UserError, match=r"learner\.epochs: 0 is below 1"):
        config.override(base, ["--learner.epochs", "0"], "leap-ray run")


SECTIONS = (RunConfig, DomainConfig, StudentConfig, RolloutConfig, TeacherConfig, LearnerConfig)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_bounds(section):
    """A new setting without them would take NaN, or -1."""

    def unbounded(hint):
        if typing.get_origin(hint) is typing.Annotated:
            return False
        inner = [a for a in typing.get_args(hint) if a is not Ellipsis]
        return hint in (int, float) or (typing.get_origin(hint) is not typing.Literal and any(map(unbounded, inner)))

    free = [name for name, hint in typing.get_type_hints(section, include_extras=True).items() if unbounded(hint)]
    assert [name for name in free if name != "template"] == []  # a chat template's arguments are its own
