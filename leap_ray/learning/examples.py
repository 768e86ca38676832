"""Episodes and corrections → training examples (LEAP, section 3.3).

The prompt is the student's own history, the target the teacher's word.
"""

from __future__ import annotations

from collections.abc import Iterator

from leap_ray.config import StudentConfig
from leap_ray.policy import Prompter
from leap_ray.teachers.actions import canonical, fit
from leap_ray.types import Correction, Episode, Example, Outcome, Step

SAME_ACTION = "the student's answer does the same action"
DEMONSTRATED = "a demonstration has no answer of the student's"


def from_demonstration(episode: Episode, iteration: int = 0) -> Iterator[Example]:
    """One example per step of a tokenised demonstration: what the expert said there."""
    for t, step in enumerate(episode.steps):
        yield Example(
            id=f"{episode.id}/{t}",
            task=episode.task,
            iteration=iteration,
            prompt=tuple(episode.prompt_ids(t)),
            response=step.completion,
            no_pair=DEMONSTRATED,
        )


def from_correction(
    episode: Episode, correction: Correction, prompter: Prompter, iteration: int, agreed_weight: float = 1.0
) -> Iterator[Example]:
    """One example per corrected step. What the student itself said there is kept as `rejected`, for preferences.

    It is kept as sampled: an end-of-turn token that the student never reached would teach it not to end its turns. Two answers
    that do the same action are no pair; such an example weighs `agreed_weight`, and with 0 there is none.
    """
    for word in correction.steps:
        if word.outcome is not Outcome.CORRECTED:
            continue
        step = episode.steps[word.t].own
        same = same_action(step, word.action)
        if same and not agreed_weight:
            continue
        yield Example(
            id=f"{episode.id}/{word.t}",
            task=episode.task,
            iteration=iteration,
            prompt=tuple(episode.prompt_ids(word.t)),
            response=tuple(prompter.completion_ids(word.reason, word.action)),
            rejected=() if same else step.completion,
            weight=agreed_weight if same else 1.0,
            no_pair=SAME_ACTION if same else "",
        )


def same_action(step: Step, action: str) -> bool:
    """Whether the student did this action at this step, in whatever spelling the environment reads."""
    done = canonical(step)
    return bool(done) and done == (fit(action, step.candidates) or action)


def out_of_reach(example: Example, student: StudentConfig) -> str:
    """Why the student could not say this, whatever it learns: words to be counted, or nothing.

    A demonstration may outgrow its context, and a teacher's words its limit of new tokens: trained on those, it would be cut
    off before its action.
    """
    if len(example.prompt) + student.max_tokens > student.max_length:
        return "beyond student.max_length"
    if len(example.response) > student.max_tokens:
        return "longer than student.max_tokens"
    return ""
