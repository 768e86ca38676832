"""Which examples count, how much, and which tasks are held out."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import tiny

from leap_ray.config import LearnerConfig
from leap_ray.errors import UserError
from leap_ray.learning.aggregate import Header, hold_out, select
from leap_ray.learning.rows import header_of
from leap_ray.types import Example, Task


def examples(domain: str = "toy", **per_iteration: int) -> list[Example]:
    """So many examples of each iteration (`i0=10`), two to a task."""
    made = []
    for name, count in per_iteration.items():
        i = int(name[1:])
        made += [
            Example(f"{domain}-{i}-{n}", Task(domain, f"task{n // 2}", "train"), i, (1, 5), (6, tiny.STOP))
            for n in range(count)
        ]
    return made


def chosen(found: list[Example], seed: int = 0, **settings) -> dict[str, list[Example]]:
    config = LearnerConfig(**settings)
    headers = [Header.of(e.task.domain, e.iteration, e.task.id, e.id, seed=seed) for e in found]
    selection = select(headers, config, seed)
    kept: dict[str, list[Example]] = {"train": [], "eval": []}
    for e in found:
        if (c := selection.choose(e)) is not None:
            kept[selection.split(e)].append(c)
    return kept


def counts(kept: list[Example]) -> Counter[int]:
    return Counter(e.iteration for e in kept)


def test_all_takes_everything_once():
    kept = chosen(examples(i0=40, i1=10), aggregate="all")["train"]
    assert counts(kept) == {0: 40, 1: 10} and {e.weight for e in kept} == {1.0}


def test_equal_takes_as_many_of_each_iteration_as_the_smallest_has():
    assert counts(chosen(examples(i0=40, i1=10, i2=25), aggregate="equal")["train"]) == {0: 10, 1: 10, 2: 10}


def test_weights_leave_out_and_repeat():
    kept = chosen(examples(i0=40, i1=10, i2=10), aggregate=(0.5, 2.0))["train"]
    assert counts(kept) == {0: 40, 1: 10, 2: 5}
    assert {e.iteration: e.weight for e in kept} == {0: 2.0, 1: 2.0, 2: 1.0}


def test_weights_count_from_the_newest_iteration_back():
    assert counts(chosen(examples(i0=40), aggregate=(1.0, 0.5))["train"]) == {0: 40}
    assert counts(chosen(examples(i0=40, i1=10), aggregate=(1.0, 0.5))["train"]) == {0: 20, 1: 10}


def test_another_seed_draws_others():
    found = examples(i0=40, i1=10)
    first, again, other = (chosen(found, seed, aggregate="equal")["train"] for seed in (0, 0, 1))
    assert first == again and first != other


def test_weights_that_leave_nothing_are_refused():
    with pytest.raises(UserError, match="leaves no example"):
        chosen(examples(i0=4), aggregate=(0.0,))
    with pytest.raises(UserError, match="no example to train on"):
        chosen([])


def test_domains_are_brought_to_the_same_total():
    found = examples("a", i0=30) + examples("b", i0=10)
    kept = chosen(found)["train"]
    totals = Counter[str]()
    for e in kept:
        totals[e.task.domain] += e.weight
    assert totals["a"] == pytest.approx(totals["b"]) == pytest.approx(20)
    assert {e.weight for e in chosen(found, balance_domains=False)["train"]} == {1.0}


def test_held_out_is_by_task_and_the_same_in_every_iteration():
    first = chosen(examples(i0=80), holdout=0.2)
    later = chosen(examples(i0=80, i1=60), holdout=0.2, seed=5)
    held = {e.task.id for e in first["eval"]}
    assert 0 < len(held) < 20
    assert held == {e.task.id for e in later["eval"] if e.iteration == 0}
    for kept in (first, later):
        assert not {e.task.id for e in kept["train"]} & {e.task.id for e in kept["eval"]}


def test_a_few_tasks_still_hold_one_out_and_one_task_none():
    assert len(hold_out({("toy", "a"), ("toy", "b")}, 0.01)) == 1
    assert len(hold_out({("toy", "a"), ("toy", "b")}, 0.99)) == 1
    assert hold_out({("toy", "a")}, 0.5) == set()
    assert hold_out({("toy", "a"), ("toy", "b")}, 0.0) == set()


def used(found: list[Example], objective: str, **settings) -> list[Example]:
    """What is trained on when aggregation sees what the objective can use, as the learner has it."""
    config = LearnerConfig(**settings)
    headers = [header_of(e, objective, config, [tiny.STOP], 0) for e in found]
    selection = select([h for h in headers if h], config, 0)
    usable = [e for e, header in zip(found, headers) if header]
    return [c for e in usable if (c := selection.choose(e)) is not None]


def pairs(domain: str = "toy", length: int = 1, **per_iteration: int) -> list[Example]:
    response, rejected = (6,) * length + (tiny.STOP,), (7,) * length + (tiny.STOP,)
    return [dataclasses.replace(e, response=response, rejected=rejected) for e in examples(domain, **per_iteration)]


def test_equal_counts_what_the_objective_can_use():
    found = examples(i0=8) + pairs(i1=150, i2=90)  # demonstrations have no pair
    assert counts(used(found, "dpo", aggregate="equal")) == {1: 90, 2: 90}
    assert counts(used(found, "sft", aggregate="equal")) == {0: 8, 1: 8, 2: 8}
    assert counts(used(found, "kto", aggregate="equal")) == {0: 8, 1: 8, 2: 8}


def test_what_does_not_fit_a_row_is_not_counted():
    long = [dataclasses.replace(e, id=f"long-{e.id}", prompt=(5,) * 40) for e in examples(i1=30)]
    found = examples(i0=20) + long + examples(i1=10)
    assert counts(used(found, "sft", aggregate="equal", row_tokens=32)) == {0: 10, 1: 10}


def test_domains_are_balanced_by_what_the_loss_counts():
    found = pairs("a", length=1, i0=30) + pairs("b", length=7, i0=10)

    def totals(objective: str, size, **settings) -> dict[str, float]:
        sums = Counter[str]()
        for e in used(found, objective, **settings):
            sums[e.task.domain] += e.weight * size(e)
        return sums

    tokens = totals("sft", lambda e: len(e.response))
    assert tokens["a"] == pytest.approx(tokens["b"]) == pytest.approx((30 * 2 + 10 * 8) / 2)
    for objective, weighting in (("sft", "example"), ("dpo", "token"), ("kto", "token")):
        each = totals(objective, lambda e: 1, weighting=weighting)
        assert each["a"] == pytest.approx(each["b"]) == pytest.approx(20)


def test_domains_are_balanced_after_aggregation_and_without_those_of_no_use():
    found = examples("a", i0=30) + pairs("a", i1=12) + pairs("b", i1=4)
    weights = {e.task.domain: e.weight for e in used(found, "dpo")}
    assert 12 * weights["a"] == pytest.approx(4 * weights["b"]) == pytest.approx(8)
