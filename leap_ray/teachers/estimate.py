"""What a run's teacher will cost, before it runs: calls, tokens, dollars, hours.

Built from what there is, in this order: the ledger of the run directory (a pilot, or the iterations before), the episodes
played so far, and plain assumptions, which the estimate names. A pilot of some twenty episodes makes it good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from leap_ray.config import DomainConfig, RunConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState, make_env, read_traits
from leap_ray.teachers.answers import enumerable, schema
from leap_ray.teachers.calls import Usage
from leap_ray.teachers.prices import prices_of
from leap_ray.types import Episode, from_json

TOKENS_PER_CHARACTER = 0.38  # of the newer tokenizers on text full of short commands and digits
ANSWER_TOKENS = (120, 60)  # of a summary, and of each step's reason and action
THINKING = {None: 1500, "low": 300, "medium": 1500, "high": 4000, "xhigh": 8000, "max": 16000}  # tokens a call
REPAIRS = 0.15  # share of calls followed by a repair
FAILURES = 0.7  # share of rollouts that fail
STEPS, STEP_CHARACTERS, HEAD_CHARACTERS = 15, 900, 6000  # an episode nobody has seen yet
PRIVILEGED = "Where things are: " + "x" * 700  # about the length of a privileged state
SECONDS, BATCH_HOURS = 30.0, 1.0  # of a live call; from a batch's sending to its end
ENOUGH = 5  # answered calls in the ledger from which its means are used


@dataclass(frozen=True)
class Estimate:
    """Expected from now to the end of the run, beside what was spent already. `basis` names what it stands on."""

    episodes: float
    calls: float
    input_tokens: float
    output_tokens: float
    dollars: float
    hours: float
    spent: float
    basis: tuple[str, ...]

    def __str__(self) -> str:
        """Lines for people."""
        time = f"{self.hours:.1f} hours" if self.hours >= 1 else f"{math.ceil(60 * self.hours)} minutes"
        lines = [
            f"{self.episodes:,.0f} episodes to correct or annotate, {self.calls:,.0f} calls",
            f"{self.input_tokens:,.0f} input and {self.output_tokens:,.0f} output tokens",
            f"${self.dollars:,.2f} and about {time} of the teacher's work"
            + (f"; ${self.spent:,.2f} spent" if self.spent else ""),
        ]
        return "\n".join([*lines, *(f"  {words}" for words in self.basis)])


@dataclass(frozen=True)
class PerEpisode:
    """Expected for one episode."""

    calls: float
    input: float
    output: float
    dollars: float
    seconds: float
    basis: str


def estimate_run(config: RunConfig, run_dir: Path | None = None) -> Estimate:
    """The estimate of a configuration, with a run directory's episodes and ledger where there are any."""
    from leap_ray.teachers.store import read_ledger

    episodes = list(_episodes(run_dir)) if run_dir else []
    ledger = read_ledger(run_dir / "teacher") if run_dir else []
    return estimate(config, episodes, ledger)


def estimate(config: RunConfig, episodes: Sequence[Episode] = (), ledger: Sequence[dict[str, Any]] = ()) -> Estimate:
    """The estimate from measured episodes (failed and successful rollouts) and ledger rows, either of which may be empty."""
    if config.teacher.kind not in ("claude", "openai"):
        words = f"a teacher of kind {config.teacher.kind!r} costs no money"
        return Estimate(0, 0, 0, 0, 0.0, 0.0, 0.0, (words,))
    counts, words = _to_correct(config, episodes, ledger)
    parts = [
        (count, per_episode(config.teacher, episodes, ledger, live))
        for live, count in ({live: count for live, count in counts.items() if count} or {False: 0.0}).items()
    ]
    prices = prices_of(config.teacher.model, config.teacher.prices)
    calls = sum(count * each.calls for count, each in parts)
    return Estimate(
        episodes=sum(counts.values()),
        calls=calls,
        input_tokens=sum(count * each.input for count, each in parts),
        output_tokens=sum(count * each.output for count, each in parts),
        dollars=sum(count * each.dollars for count, each in parts),
        hours=_hours(config, calls, parts[0][1].seconds),
        spent=math.fsum(row["dollars"] for row in ledger),
        basis=(words, parts[0][1].basis, f"prices of {prices.as_of}: check them against the provider's price list"),
    )


def per_episode(
    config: TeacherConfig, episodes: Sequence[Episode], ledger: Sequence[dict[str, Any]] = (), live: bool = False
) -> PerEpisode:
    """Cost of one episode: the ledger's mean where it has enough, else from rendered prompts, else from assumptions.

    `live`: the teacher judges each step before it is carried out, in a call that holds the episode up to there.
    """
    annotated = _annotated(ledger)
    done = [row for row in ledger if row["state"] == "done" and row["episode"] not in annotated]
    asked = {row["episode"] for row in done}
    if len(asked) >= ENOUGH:
        return _from_ledger(done, len(asked))
    prices = prices_of(config.model, config.prices)
    sizes = [_request_sizes(config, episode) for episode in episodes]
    characters = fmean(size for size, _ in sizes) if sizes else HEAD_CHARACTERS + STEPS * STEP_CHARACTERS
    steps = fmean(n for _, n in sizes) if sizes else STEPS
    per_step = live or config.per == "step"
    calls = (steps if per_step else 1) * (1 + REPAIRS)
    prompt = characters * TOKENS_PER_CHARACTER
    thinking = THINKING[config.effort] if config.kind == "claude" else 0
    written = ANSWER_TOKENS[0] + ANSWER_TOKENS[1] * (1 if per_step else steps)
    usage = Usage(input=round(calls * prompt / 2)) if live else _usage(config, prompt, steps)
    output = calls * (written + thinking)
    dollars = prices.dollars(
        Usage(usage.input, round(output), usage.cache_write, usage.cache_read), batch=_batch(config)
    )
    basis = f"tokens from {len(sizes)} measured episodes" if sizes else "tokens assumed: no episode has been played"
    return PerEpisode(
        calls,
        usage.input + usage.cache_write + usage.cache_read,
        output,
        dollars,
        SECONDS,
        f"{basis}; {TOKENS_PER_CHARACTER} tokens a character, {thinking} tokens of thinking a call and {REPAIRS:.0%} "
        "repairs assumed",
    )


def _from_ledger(done: Sequence[dict[str, Any]], episodes: int) -> PerEpisode:
    def total(*names: str) -> float:
        return math.fsum(row[name] for row in done for name in names) / episodes

    seconds = fmean(row["done_at"] - row["sent_at"] for row in done)
    prompt = total("input", "cache_write", "cache_read")
    basis = f"calls, tokens and prices from the ledger: {len(done)} calls for {episodes} episodes"
    return PerEpisode(len(done) / episodes, prompt, total("output"), total("dollars"), seconds, basis)


def _usage(config: TeacherConfig, prompt: float, steps: float) -> Usage:
    """Input tokens of an episode's calls, repairs included. In per-step mode all calls but the first read the cache."""
    if config.per == "episode":
        return Usage(input=round(prompt * (1 + REPAIRS)))
    reads = steps * (1 + REPAIRS) - 1
    return Usage(input=round(60 * (reads + 1)), cache_write=round(prompt), cache_read=round(prompt * reads))


def _request_sizes(config: TeacherConfig, episode: Episode) -> tuple[int, int]:
    """(characters of one call's prompt and schema, steps)."""
    from leap_ray.prompts import render
    from leap_ray.teachers.prompted import render_episode

    known = {"privilege": config.privilege, "domain_facts": "x" * 500, "placeholders": False}
    system = render("teacher/system.j2", live=False, per_step=config.per == "step", **known)
    state = PrivilegedState(episode.task.domain, episode.task.id, PRIVILEGED)
    form = schema(enumerable(episode, config.enumerate_up_to), per_step=config.per == "step")
    return len(system) + len(render_episode(episode, state)) + len(str(form)), len(episode.steps)


def _to_correct(
    config: RunConfig, episodes: Sequence[Episode], ledger: Sequence[dict[str, Any]]
) -> tuple[dict[bool, float], str]:
    """Episodes still to be sent to the teacher, by whether it judges them live, and what the numbers stand on."""
    rollouts = demonstrations = 0.0
    for domain in config.domains:
        size = _panel_size(domain) if None in (domain.train_tasks, domain.demo_tasks) else 0
        rollouts += (domain.train_tasks if domain.train_tasks is not None else size) * len(config.rollout.seeds)
        demonstrations += (domain.demo_tasks if domain.demo_tasks is not None else size) * len(config.rollout.seeds)
    taught = sum(config.intervention(i) is not None for i in range(1, config.iterations)) * rollouts
    rollouts *= config.iterations - 1
    threshold = _thresholds(config.domains)
    failed = {episode.id for episode in episodes if episode.score <= threshold.get(episode.task.domain, 0.0)}
    share = len(failed) / len(episodes) if episodes else FAILURES
    played = len(episodes) / rollouts if rollouts else 0.0
    left = max(0.0, rollouts - taught) * max(0.0, 1 - played) * share
    left += len(failed - {row["episode"] for row in ledger if row["state"] == "done"})
    annotated = max(0.0, demonstrations - len(_annotated(ledger))) if config.teacher.annotate else 0.0
    source = f"measured on {len(episodes)} rollouts" if episodes else "assumed"
    words = f"{rollouts:,.0f} rollouts, {share:.0%} of them failing ({source})"
    words += f", {taught:,.0f} with the teacher at the student's side" if taught else ""
    counts = {False: left + annotated, True: taught * max(0.0, 1 - played)}
    return counts, words + (f", {annotated:,.0f} demonstrations to annotate" if annotated else "")


def _annotated(ledger: Sequence[dict[str, Any]]) -> set[str]:
    """Demonstrations that were annotated already."""
    return {row["episode"] for row in ledger if row["state"] == "done" and row["purpose"] == "annotate"}


def _thresholds(domains: Sequence[DomainConfig]) -> dict[str, float]:
    """The score up to which an episode has failed, by the domain's name in tasks."""
    traits = [(read_traits(domain), domain.threshold) for domain in domains]
    return {own.domain: own.threshold if threshold is None else threshold for own, threshold in traits}


def _panel_size(domain: DomainConfig) -> int:
    env = make_env(domain.name, domain.settings)
    try:
        return len(env.resolve_panel(domain.train_panel))
    finally:
        env.close()


def _hours(config: RunConfig, calls: float, seconds: float) -> float:
    if _batch(config.teacher):
        return BATCH_HOURS * max(1, config.iterations - 1) * 2  # corrections, then their repairs
    return calls * seconds / config.teacher.concurrency / 3600


def _batch(config: TeacherConfig) -> bool:
    return config.kind == "claude" and config.mode == "batch"


def _episodes(run_dir: Path) -> list[Episode]:
    """Rollouts in a run directory; lines that cannot be read are left to the journal to report."""
    found = []
    for path in sorted(run_dir.glob("iter-*/rollouts/*/episodes.jsonl")):
        for line in path.read_text().splitlines():
            try:
                found.append(from_json(Episode, line))
            except ValueError:
                continue
    return found
