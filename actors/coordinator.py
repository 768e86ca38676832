"""The loop of LEAP: behaviour cloning, then rounds of rollouts, corrections, training, deployment and evaluation.

    base: evaluate → iteration 0: demonstrate, train, deploy, evaluate → iteration n: roll out + correct, train, deploy, evaluate

It runs in the driver's process: every actor belongs to it and ends with it, and all that counts is in the run directory. Each
stage looks there first for what it has done already, so running again after a kill at any point goes on from that point.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from actors import gather
from actors.dataset import read_examples, write_examples
from actors.environment import EnvironmentPool, PromptSettings, TaughtAttempt, Teaching
from actors.learner import PROGRESS, train
from actors.placement import PROBE, place, soon, teacher_ask
from actors.privilege_gain import gain_of
from actors.student_pool import StudentPool
from actors.teacher import start_teacher
from actors.threads import in_thread
from leap_ray.config import DomainConfig, RunConfig
from leap_ray.envs.base import Traits, make_env, read_provenance
from leap_ray.errors import UserError
from leap_ray.evaluation import summarize
from leap_ray.journal import Records, RunDirectory
from leap_ray.learning.loop import read_progress
from leap_ray.learning.model import masters_beside, probe_logprobs
from leap_ray.learning.objectives import objective_of
from leap_ray.metrics import Metrics
from leap_ray.policy import Prompter
from leap_ray.progress import Board, Stage
from leap_ray.serving import BASE
from leap_ray.tasks import Panel
from leap_ray.teachers.constrained import draw_steps, state_of
from leap_ray.teachers.privilege_gain import draw_reasons, leak_line
from leap_ray.types import Correction, Episode, Sampling, digest

PROBE_EPISODES = 4  # of each domain
PROBE_SECONDS = 3600.0  # for the learner's side, which loads the student on a CPU


@dataclass(frozen=True)
class Policy:
    """Weights that can be served: the untuned student, or what an iteration trained."""

    name: str
    path: Path | None = None


class Coordinator:
    """One run, from its configuration to its last evaluation. Use as an async context manager."""

    def __init__(self, config: RunConfig, run: RunDirectory, board: Board, *, teaching: bool = True) -> None:
        self.config = config
        self.teaching = teaching  # False: no teacher is started, so none is paid or asked for its key
        self.run = run
        self.board = board
        self.metrics = Metrics(run.path, config.trackers, config.name, dataclasses.asdict(config))
        self.prompts = PromptSettings.of(config.student)
        self.prompter: Prompter = self.prompts.load()
        self.student: Any = None  # StudentPool
        self.pools: dict[str, EnvironmentPool] = {}
        self.panels: dict[tuple[str, str], Panel] = {}
        self.traits: dict[str, Traits] = {}
        self.teacher: Any = None
        self._serving = BASE
        self._iteration = -1
        self._notes: list[str] = []  # of the teacher's server, said already

    async def __aenter__(self) -> Coordinator:
        config = self.config
        self.board.say(f"student {config.student.model} is starting ({config.student.replicas} server(s))")
        rank = config.learner.rank if config.learner.method == "lora" else 0
        register = str(self.run.path / "served")
        self.student = await in_thread(StudentPool.start, config.student, lora_rank=rank, registry=register)
        if self.teaching:
            self.teacher = start_teacher(
                config.teacher,
                config.domains,
                self.run.path / "teacher",
                seed=config.seed,
                student=self.student,
                student_config=config.student,
                name="teacher",
            )
        expert = config.teacher.kind == "symbolic"  # asked in the environment's own process
        teaching = Teaching(config.teacher, config.seed, None if expert else self.teacher) if self.teaching else None
        for domain in config.domains:
            self.pools[domain.name] = EnvironmentPool(domain, config.rollout, self.prompts, self.student, teaching)
            env = make_env(domain.name, domain.settings)
            self.traits[domain.name] = Traits.of(env)
            for name in {domain.train_panel, domain.eval_panel}:
                self.panels[domain.name, name] = env.resolve_panel(name)
            env.close()
        await in_thread(self._place)
        return self

    def _place(self) -> None:
        """Wait until environments and teacher run, within the time that the student's start may take."""
        timeout = self.config.student.start_timeout
        for pool in self.pools.values():
            pool.place(timeout)
        if self.teacher is not None:
            place({"teacher": self.teacher}, {"teacher": teacher_ask(self.config.teacher.kind)}, timeout)

    async def __aexit__(self, *_: object) -> None:
        for pool in self.pools.values():
            pool.close()
        if self.teacher is not None:
            ray.kill(self.teacher)
        if self.student is not None:
            await in_thread(self.student.shutdown)
        self.metrics.close()  # last: on a full disk this fails

    async def run_all(self) -> None:
        """Every stage of the run, leaving out what is done."""
        policy = Policy(BASE)
        if self.config.evaluate_base:
            await self.evaluate(-1, policy)
        for iteration in range(self.config.iterations):
            self._iteration = iteration
            if iteration == 0:
                await self.demonstrate()
            else:
                await self.correct(iteration, policy)
                await self.measure_gap(iteration, policy)
                await self.measure_gain(iteration, policy)
            policy = await self.train(iteration, policy)
            await self.evaluate(iteration, policy)

    # Stages ----------------------------------------------------------------------------------------------------------

    async def demonstrate(self) -> None:
        """Iteration 0's data: expert episodes, those that failed or say what another seed's says left out and counted."""
        teacher, patience = self.config.teacher, gather.answer_seconds(self.config.teacher)
        for domain in self.config.domains:
            stage = f"iter-0/demonstrations/{domain.name}"
            if self.run.result(stage):
                continue
            panel = self._chosen(domain, domain.train_panel, domain.demo_tasks, 0, "demonstrations")
            plan = self.plan(domain, panel, self.config.rollout.seeds, evaluating=False)
            episodes = self.run.records(stage, "episodes", Episode, _episode_key)
            with self.board.stage(f"demonstrations ({domain.name})", len(plan.panel) * len(plan.seeds)) as bar:
                await gather.demonstrate_all(plan, episodes, self.teacher, teacher.annotate, bar, patience)
            annotations = [e.annotations for e in episodes]
            gather.check_answered([[(o, "") for o in outcomes] for outcomes in annotations], teacher, self.run.path)
            kept = [e for e in episodes if e.score > plan.threshold]
            if not kept:
                raise UserError(f"{domain.name}: none of the expert's {len(episodes)} demonstrations succeeded")
            counts: dict[str, Any] = {"kept": len(kept), "repeated": gather.repeated(plan, episodes)}
            counts |= self._examples(stage, 0, [(e, None) for e in kept])
            if teacher.annotate:
                counts["annotations"] = Counter(str(outcome) for outcomes in annotations for outcome in outcomes)
            await self._log_spending()
            self._finish(stage, "demonstrations", domain, {**asdict(summarize(episodes)), **counts}, episodes)

    async def correct(self, iteration: int, policy: Policy) -> None:
        """Rollouts of the last policy with the teacher's word on their steps, during the episode or after it failed."""
        for domain in self.config.domains:
            stage = f"iter-{iteration}/rollouts/{domain.name}"
            if self.run.result(stage):
                continue
            await self.deploy(policy)
            config = self.config.student
            sampling = Sampling(config.temperature, max_tokens=config.max_tokens, stop=(self.prompter.end_id,))
            panel = self._chosen(domain, domain.train_panel, domain.train_tasks, iteration, "rollouts")
            plan = self.plan(domain, panel, self.config.rollout.seeds, evaluating=False)
            episodes = self.run.records(stage, "episodes", Episode, _episode_key)
            corrections = self.run.records(stage, "corrections", Correction, _corrected_key)
            attempts = plan.attempts(policy.name, sampling, config.max_length)
            intervention = self.config.intervention(iteration)
            title = f"iteration {iteration}: rollouts {'with the teacher' if intervention else 'and corrections'}"
            with self.board.stage(f"{title} ({domain.name})", len(attempts)) as bar:
                if intervention:
                    taught = [TaughtAttempt(attempt, intervention) for attempt in attempts]
                    await gather.taught_all(plan, taught, episodes, corrections, bar)
                else:
                    privileged = self.config.teacher.kind != "symbolic"  # that one reads its own environment
                    limit = gather.answer_seconds(self.config.teacher)
                    await gather.correct_all(
                        plan, attempts, episodes, corrections, self.teacher, privileged, bar, limit
                    )
            words = [[(word.outcome, word.detail) for word in c.steps] for c in corrections]
            gather.check_answered(words, self.config.teacher, self.run.path)
            counts = gather.outcomes(episodes, corrections, plan.threshold)
            counts |= self._examples(
                stage, iteration, [(e, corrections.by_key[e.id]) for e in episodes if e.id in corrections]
            )
            if intervention:
                counts["intervened"] = gather.intervened(episodes)
            result = {**asdict(summarize(episodes)), **counts}
            await self._log_spending()
            self._finish(stage, "rollouts", domain, result, episodes, corrections)

    async def train(self, iteration: int, before: Policy) -> Policy:
        """Fine-tune on the examples of all iterations so far, from the last weights or from the untuned student's."""
        stage = f"iter-{iteration}/train"
        policy = self.policy(iteration)
        if self.run.result(stage):
            self._drop_masters(iteration)
            return policy
        objective = objective_of(self.config.learner, iteration)
        folders = [
            self.run.path / f"iter-{i}" / ("rollouts" if i else "demonstrations") / domain.name / "examples"
            for i in range(iteration + 1)
            for domain in self.config.domains
        ]
        output = self.run.path / stage
        async with self._training(f"iteration {iteration}: training ({objective})", output / PROGRESS):
            result = await in_thread(
                train,
                read_examples(folders),
                model=self.config.student.model,
                init_from=before.path if self.config.learner.start == "previous" else None,
                output=output,
                config=self.config.learner,
                objective=objective,
                seed=self.config.stage_seed("train", iteration),
                storage=output / "ray-train",
                adapter_name=policy.name,
                max_length=self.config.student.max_length,
                keep_masters=self.config.learner.start == "previous" and iteration + 1 < self.config.iterations,
            )
        for warning in result.warnings:
            self.board.say(f"warning: {warning}")
        self.metrics.log("train", iteration, result.metrics)
        self.run.finish(stage, {"policy": policy.name, "objective": objective, **result.metrics, **result.problems})
        self._drop_masters(iteration)
        return policy

    def _drop_masters(self, done: int) -> None:
        """The float32 masters of trainings that no later one goes on from: all before the newest finished one."""
        for iteration in range(done):
            if weights := self.policy(iteration).path:
                shutil.rmtree(masters_beside(weights), ignore_errors=True)

    async def measure_gap(self, iteration: int, policy: Policy) -> None:
        """How far the teacher is from the student on the student's own fresh rollouts, before it is trained on them.

        The steps are drawn from all rollouts of the iteration, won ones included (Definition 3.1). A teacher who was not asked
        about an episode, because it was won, is asked now; that word is never trained on.
        """
        for domain in self.config.domains if self.config.teacher.gap_steps else ():
            stage = f"iter-{iteration}/realizability/{domain.name}"
            if self.run.result(stage):
                continue
            await self.deploy(policy)
            rollouts = f"iter-{iteration}/rollouts/{domain.name}"
            with self.run.records(rollouts, "episodes", Episode, _episode_key) as episodes:
                drawn = draw_steps(list(episodes), self.config.teacher.gap_steps, self.config.seed)
            calls = gather.TeacherCalls(gather.answer_seconds(self.config.teacher))
            asked = {e.id: e for e, _ in drawn}
            words = await self._words_on(asked, rollouts, stage, self.pools[domain.name], calls)
            states = [state_of(episode, t, words.get(episode.id)) for episode, t in drawn]
            known = [state for state in states if state]
            unknown = len(states) - len(known)
            call = self.teacher.realizability.remote(known, policy.name, unknown)
            result = await calls.wait(call, "the realizability gap")
            self.metrics.log(f"realizability/{domain.name}", iteration, result)
            self.run.finish(stage, result)  # last, as in `_finish`

    async def _words_on(
        self,
        episodes: dict[str, Episode],
        rollouts: str,
        stage: str,
        pool: EnvironmentPool,
        calls: gather.TeacherCalls,
    ) -> dict[str, Correction]:
        """The teacher's corrections of these episodes: those of the rollouts, the others asked for and kept in `stage`."""
        with self.run.records(rollouts, "corrections", Correction, _corrected_key) as corrections:
            words = {key: corrections.by_key[key] for key in episodes if key in corrections}
        with self.run.records(stage, "corrections", Correction, _corrected_key) as more:
            more.drop(gather.unanswered)

            async def ask(episode: Episode) -> None:
                if episode.id not in more:
                    told = self.config.teacher.kind != "symbolic"  # that one reads its own environment
                    state = await pool.privileged(episode.task) if told else None
                    call = self.teacher.correct.remote(episode, state)
                    more.append(await calls.wait(call, f"the correction of {episode.task.id}"))

            await gather.all_of([e for key, e in episodes.items() if key not in words], ask)
            return {**words, **more.by_key}

    async def measure_gain(self, iteration: int, policy: Policy) -> None:
        """A second opinion on leaks: how much likelier privileged state makes a sample of the iteration's corrected reasons."""
        for domain in self.config.domains if self.config.teacher.gain_reasons else ():
            stage, rollouts = (f"iter-{iteration}/{kind}/{domain.name}" for kind in ("privilege_gain", "rollouts"))
            if self.run.result(stage):
                continue
            await self.deploy(policy)
            with (
                self.run.records(rollouts, "episodes", Episode, _episode_key) as episodes,
                self.run.records(rollouts, "corrections", Correction, _corrected_key) as corrections,
            ):
                limit = self.config.teacher.gain_reasons
                drawn = draw_reasons(episodes, corrections.by_key, limit, self.config.seed)
            calls = gather.TeacherCalls(gather.answer_seconds(self.config.teacher))
            result = await gain_of(drawn, self.pools[domain.name], self.teacher, policy.name, calls)
            self.metrics.log(f"privilege_gain/{domain.name}", iteration, result)
            outcomes = (self.run.result(rollouts) or {}).get("outcomes", {})
            self.board.say(f"iteration {iteration} ({domain.name}): {leak_line(outcomes, result)}")
            self.run.finish(stage, result)  # last, as in `_finish`

    async def evaluate(self, iteration: int, policy: Policy) -> None:
        """Play the evaluation panels; nobody has privileged state there."""
        for domain in self.config.domains:
            stage = f"{'base' if iteration < 0 else f'iter-{iteration}'}/evaluate/{domain.name}"
            if self.run.result(stage):
                continue
            await self.deploy(policy)
            panel = self._chosen(domain, domain.eval_panel, domain.eval_tasks, 0, "evaluate")
            plan = self.plan(domain, panel, self.config.eval_seeds)
            episodes = await self.play_panel(plan, policy, stage, f"{policy.name}: evaluation ({domain.name})")
            result = {"policy": policy.name, "panel": plan.panel.hash, **asdict(summarize(episodes))}
            result["evaluated_with"] = self.decided_by(domain, plan)
            self._finish(stage, "evaluate", domain, result, episodes)

    def decided_by(self, domain: DomainConfig, plan: gather.Plan) -> dict[str, Any]:
        """What decides an evaluation's result beside the weights and the panel: where it is the same, figures compare."""
        student = self.config.student
        return {
            "seeds": plan.seeds,
            "max_actions": plan.max_actions,
            "temperature": student.eval_temperature,
            "max_tokens": student.max_tokens,
            "max_length": student.max_length,
            "prompts": self.prompter.hash,
            "settings": domain.settings,
            **read_provenance(domain, plan.panel),
        }

    async def play_panel(self, plan: gather.Plan, policy: Policy, stage: str, title: str) -> Records[Episode]:
        """Every task of the plan once per seed, with evaluation's sampling."""
        config = self.config.student
        sampling = Sampling(config.eval_temperature, max_tokens=config.max_tokens, stop=(self.prompter.end_id,))
        episodes = self.run.records(stage, "episodes", Episode, _episode_key)
        attempts = plan.attempts(policy.name, sampling, config.max_length)
        with self.board.stage(title, len(attempts)) as bar:
            await gather.play_all(plan, attempts, episodes, bar)
        return episodes

    # What the stages share -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _training(self, title: str, progress: Path) -> AsyncIterator[None]:
        """The student asleep (learner and server may share GPUs), and the learner's progress file on the board."""

        def show(bar: Stage) -> None:
            for line in read_progress(progress)[bar.done :]:
                bar.total = line["steps"]
                bar.advance(note=f"loss {line['loss']:.3f}, {line['tokens_per_second']:.0f} tokens/s")

        async def follow(bar: Stage) -> None:
            while True:
                await asyncio.sleep(1.0)
                show(bar)

        await self.student.sleep()
        with self.board.stage(title, 0) as bar:
            follower = asyncio.create_task(follow(bar))
            try:
                yield
            finally:
                follower.cancel()
                show(bar)
        await self.student.wake()

    def policy(self, iteration: int) -> Policy:
        """What that iteration trains, under a name never used for other weights: it hashes all that they are computed from."""
        label = "-".join(d.name.split(":")[-1] for d in self.config.domains)
        name = f"{label}-iter{iteration}-{digest(self.run.config_hash, iteration, length=8)}"
        return Policy(name, self.run.path / f"iter-{iteration}" / "train" / "weights")

    def plan(self, domain: DomainConfig, panel: Panel, seeds: tuple[int, ...], evaluating: bool = True) -> gather.Plan:
        """How a panel of this domain is played."""
        traits = self.traits[domain.name]
        actions = domain.max_actions or traits.max_actions
        return gather.Plan(
            pool=self.pools[domain.name],
            panel=panel,
            seeds=seeds,
            max_lost=self.config.rollout.max_lost,
            max_actions=(domain.eval_max_actions or actions) if evaluating else actions,
            threshold=traits.threshold if domain.threshold is None else domain.threshold,
        )

    def _chosen(self, domain: DomainConfig, panel: str, count: int | None, iteration: int, use: str) -> Panel:
        """The tasks of a stage, each iteration's drawn anew, and the panel file that says which."""
        chosen = self.panels[domain.name, panel].sample(count, self.config.stage_seed(use, iteration))
        folder = self.run.path / "panels"
        folder.mkdir(exist_ok=True)
        chosen.save(folder / f"{domain.name.replace(':', '.')}-{use}-{iteration}.json")
        return chosen

    async def deploy(self, policy: Policy) -> None:
        """Serve the policy on every replica, and prove that they run its weights before anyone plays with them."""
        if policy.path is None or policy.name == self._serving:
            return
        await self.student.load(policy.name, policy.path, self.config.learner.method)
        prompts, completions = self._probe_texts()
        probing = _probe.options(**PROBE.options()).remote(self.config, policy.path, prompts, completions)
        expected = await soon(probing, f"the learner's side of the probe of {policy.name}", PROBE_SECONDS)
        worst = await self.student.probe(policy.name, prompts, completions, expected)
        self._serving = policy.name
        self.metrics.log("probe", self._iteration, {"policy": policy.name, "worst": worst})
        self.board.say(
            f"{policy.name} is served; the server's log-probabilities are within {worst:.2g} nats of the learner's"
        )

    def _probe_texts(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and completions that the student was trained on: there, new weights differ most from old ones."""
        prompts, completions = [], []
        for domain in self.config.domains:
            with self.run.records(
                f"iter-0/demonstrations/{domain.name}", "episodes", Episode, _episode_key
            ) as episodes:
                chosen = [episodes.by_key[key] for key in sorted(episodes.by_key)[:PROBE_EPISODES]]
            for episode in chosen:
                prompts.append(episode.prompt_ids(0))
                completions.append(list(episode.steps[0].completion))
        return prompts, completions

    def _examples(self, stage: str, iteration: int, pairs: list[tuple[Episode, Correction | None]]) -> dict[str, Any]:
        """Write the stage's training examples as Parquet, made by Ray Data from episodes and corrections."""
        folder = self.run.path / stage / "examples"
        count, left_out = write_examples(
            pairs, self.prompts, self.config.student, iteration, folder, self.config.learner.agreed_weight
        )
        return {"examples": count, "left_out": left_out}

    def _finish(self, stage: str, event: str, domain: DomainConfig, result: dict[str, Any], *records: Records) -> None:
        for kind in records:
            kind.to_parquet()
            kind.close()
        with gather.lost_episodes(records[0]) as lost:
            result = {**result, "lost": len(lost)}
        result = {**result, "score_scale": self.traits[domain.name].score_scale}
        self.metrics.log(f"{event}/{domain.name}", self._iteration, result)
        self.run.finish(
            stage, result
        )  # last: after a crash in between the same figures are logged again, and not written

    async def _log_spending(self) -> None:
        """The ledger's sums so far, where the teacher is paid, and what was adapted to its server, said once."""
        calls = gather.TeacherCalls(self.config.teacher.answer_timeout)
        if spent := await calls.wait(self.teacher.ledger.remote(), "its ledger"):
            self.metrics.log("teacher", self._iteration, spent)
            for note in spent.get("notes", ()):
                if note not in self._notes:
                    self._notes.append(note)
                    self.board.say(note)


def _episode_key(episode: Episode) -> str:
    return episode.id


def _corrected_key(correction: Correction) -> str:
    return correction.episode


@ray.remote(max_retries=2)
def _probe(config: RunConfig, path: Path, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float]]:
    """The learner's side of the probe, in a process of its own: the driver holds no model."""
    return probe_logprobs(config.student.model, path, prompts, completions, config.student.dtype)
