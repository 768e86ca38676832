"""From a teacher's verdict on every step to the steps that become training targets.

A verdict says what the teacher thinks of the student's action; which verdicts are trained on is the configuration's choice
(`teacher.correct`). Shared by all teachers, so that "mistakes" means the same whoever judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from leap_ray.teachers.actions import canonical
from leap_ray.types import Outcome, Step, StepCorrection

Correct = Literal["all", "mistakes"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A teacher's judgement of one step, before it is decided whether the step becomes a target.

    CORRECTED: the student's action is a mistake, and `reason` and `action` are better. AGREED: it is none; `reason` and
    `action` are what a target would hold (the student's own action). Any other outcome: no judgement, `detail` says why.
    """

    outcome: Outcome
    reason: str = ""
    action: str = ""
    detail: str = ""


def choose(
    verdicts: Sequence[Verdict],
    steps: Sequence[Step],
    *,
    correct: Correct,
    repeats: int | None = None,
) -> tuple[StepCorrection, ...]:
    """One StepCorrection per verdict; `steps` as the student had them.

    A mistake is always a target. With "all" (LEAP, section 3.2) an agreed step is one too, which keeps the student's action. Of
    one and the same mistake (same action at the same observation, answered by the same correction) only the first `repeats` are
    targets; the others are SKIPPED, because a history that loops teaches nothing new.
    """
    chosen: list[StepCorrection] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for t, (verdict, step) in enumerate(zip(verdicts, steps, strict=True)):
        mistake = verdict.outcome is Outcome.CORRECTED
        target = mistake or (verdict.outcome is Outcome.AGREED and correct == "all")
        if mistake:
            same = (step.observation, canonical(step), verdict.action)
            seen[same] += 1
            if repeats is not None and seen[same] > repeats:
                detail = f"the same mistake more than {repeats} times"
                chosen.append(StepCorrection(t, Outcome.SKIPPED, action=verdict.action, detail=detail))
                continue
        chosen.append(_target(t, verdict) if target else _word(t, verdict))
    return tuple(chosen)


def _target(t: int, verdict: Verdict) -> StepCorrection:
    if not verdict.reason or not verdict.action:  # an agreed action that nobody gave a reason for
        return StepCorrection(t, Outcome.AGREED, detail="no reason to train on")
    agreed = "agreed" if verdict.outcome is Outcome.AGREED else ""
    detail = "; ".join(filter(None, (agreed, verdict.detail)))
    return StepCorrection(t, Outcome.CORRECTED, verdict.reason, verdict.action, detail)


def _word(t: int, verdict: Verdict) -> StepCorrection:
    action = "" if verdict.outcome is Outcome.AGREED else verdict.action  # no target, but what the teacher would do
    return StepCorrection(t, verdict.outcome, action=action, detail=verdict.detail)
