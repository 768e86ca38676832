"""The gain of privileged state on an iteration's reasons: what the environments and the teacher's process are asked for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from actors.environment import EnvironmentPool
from actors.gather import TeacherCalls, all_of
from actors.placement import soon
from leap_ray.errors import UserError
from leap_ray.teachers.privilege_gain import DrawnReason
from leap_ray.types import Episode, StepCorrection, Task

log = logging.getLogger(__name__)


async def gain_of(
    drawn: Sequence[tuple[Episode, StepCorrection]],
    pool: EnvironmentPool,
    teacher: Any,
    policy: str,
    calls: TeacherCalls,
) -> dict[str, Any]:
    """`measure_gain` on reasons for steps that `policy` played. Those whose privileged state cannot be had are left out."""
    states = await privileged_states([episode.task for episode, _ in drawn], pool, calls.seconds)
    known = [
        DrawnReason(episode, word.t, word.reason, states[episode.task.id])
        for episode, word in drawn
        if episode.task.id in states
    ]
    call = teacher.privilege_gain.remote(known, policy, len(drawn) - len(known))
    return await calls.wait(call, "the gain of privileged state")


async def privileged_states(tasks: Sequence[Task], pool: EnvironmentPool, seconds: float) -> dict[str, str]:
    """The states' renderings by the task's id. A figure is no reason to stop a run: one that cannot be had is a warning."""
    states: dict[str, str] = {}

    async def ask(task: Task) -> None:
        try:
            states[task.id] = (await soon(pool.privileged(task), f"privileged state of {task.id}", seconds)).rendering
        except UserError as error:
            log.warning("%s is left out of the gain of privileged state: %s", task.id, error)

    await all_of({task.id: task for task in tasks}.values(), ask)
    return states
