"""The second opinion on leaks as a stage of a run. No Ray: pool and teacher are plain objects."""

import json
from types import SimpleNamespace

from test_actors_gather import TASKS, coordinator

from actors.coordinator import Policy
from leap_ray.envs.base import PrivilegedState
from leap_ray.errors import UserError
from leap_ray.metrics import Metrics
from leap_ray.serving import BASE
from leap_ray.types import Correction, Episode, Finish, Outcome, Step, StepCorrection

FIGURES = {"gain": 0.5, "interval": [0.1, 0.9], "reasons": 2, "own": 0.0, "own_reasons": 2, "left_out": 1}
DOMAIN = "experiments.own_environment:Lockers"


class States:
    """Has no privileged state of one task."""

    async def privileged(self, task):
        if task.id == "t1":
            raise UserError("lockers offers no privileged state")
        return PrivilegedState("lockers", task.id, f"hidden in {task.id}")


def scorer():
    """An actor's handle of a teacher that measures gains."""
    asked = []

    async def measure(drawn, policy, left_out):
        asked.append(([(d.episode.task.id, d.t, d.reason, d.privileged) for d in drawn], policy, left_out))
        return FIGURES

    return SimpleNamespace(privilege_gain=SimpleNamespace(remote=measure), asked=asked)


def iteration_of(folder, who, **settings):
    """A coordinator whose first iteration is corrected: one reason a task."""
    made = coordinator(folder, who, **settings)
    made.metrics, made._serving, made.pools = Metrics(folder, (), "r", {}), BASE, {DOMAIN: States()}
    step = Step("a room", ("go",), "", "go", True, 0.0, new=(1, 2))
    rollouts = f"iter-1/rollouts/{DOMAIN}"
    with (
        made.run.records(rollouts, "episodes", Episode, lambda e: e.id) as episodes,
        made.run.records(rollouts, "corrections", Correction, lambda c: c.episode) as corrections,
    ):
        for task in TASKS[:3]:
            episode = Episode(task, 0, BASE, "", (step,), "", 0.0, False, Finish.MAX_ACTIONS)
            episodes.append(episode)
            word = StepCorrection(0, Outcome.CORRECTED, f"why {task.id}", "go")
            corrections.append(Correction(episode.id, "t", "", (word,)))
    made.run.finish(rollouts, {"outcomes": {"corrected": 3, "reveals privileged state": 1}})
    return made


async def test_each_iterations_figure_is_measured_once_and_a_state_that_is_not_to_be_had_is_counted(tmp_path, capsys):
    who = scorer()
    for _ in range(2):  # the second time as a resumed run
        run = iteration_of(tmp_path, who)
        await run.measure_gain(1, Policy(BASE))
        run.metrics.close()
        run.run.close()
    ((drawn, policy, left_out),) = who.asked
    assert sorted(drawn) == [("t0", 0, "why t0", "hidden in t0"), ("t2", 0, "why t2", "hidden in t2")]
    assert (policy, left_out) == (BASE, 1)
    (event,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (event["event"], event["step"]) == (f"privilege_gain/{DOMAIN}", 1) and event.items() >= FIGURES.items()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"iteration 1 ({DOMAIN}): 1 of 4 reasons left out") and "+0.50 [+0.10, +0.90] n=2" in line


async def test_no_reasons_asked_for_none_measured(tmp_path):
    who = scorer()
    run = iteration_of(tmp_path, who, gain_reasons=0)
    await run.measure_gain(1, Policy(BASE))
    assert not who.asked and not run.run.result(f"iter-1/privilege_gain/{DOMAIN}")
    run.run.close()
