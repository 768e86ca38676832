"""Prices, the store, answers and the estimate: what money is counted with."""

import asyncio
import dataclasses
import json
import sqlite3

import pytest
from corridor import play
from desks import KEY, claude, privileged, wandering

from experiments.benchmarks.anthropic_server import AnthropicServer, Faults
from leap_ray.config import DomainConfig, RunConfig, TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.actions import fit, has_placeholders
from leap_ray.teachers.answers import enumerable, read, schema
from leap_ray.teachers.calls import Answer, Attempts, Request, Stop, Turn, Usage
from leap_ray.teachers.estimate import estimate
from leap_ray.teachers.prices import prices_of
from leap_ray.teachers.store import Store, read_ledger
from leap_ray.types import Task

REQUEST = Request("claude-haiku-4-5", "system", (Turn("user", "hello"),), 100)


def test_prices_are_dated_and_long_prompts_cost_more():
    prices = prices_of("claude-haiku-5-5")
    assert prices.as_of == "2026-11-22"
    assert prices.dollars(Usage(100_000, 1000)) == pytest.approx(0.1 * 0.1 + 0.0005)
    assert prices.dollars(Usage(100_001, 1000)) == pytest.approx(0.5 * 0.100001 + 0.0025)
    assert prices.dollars(Usage(1000, 1000), batch=True) == pytest.approx(prices.dollars(Usage(1000, 1000)) / 2)
    assert prices_of("claude-opus-4-5-20251101").rates == prices_of("claude-opus-4-5").rates


def test_prices_of_the_configuration_come_first():
    mine = prices_of("my-model", {"input": 2, "output": 4})
    assert (mine.as_of, mine.rates.cache_write, mine.rates.cache_read) == ("configuration", 2.5, pytest.approx(0.2))
    with pytest.raises(UserError, match=r"unknown inputs; known are input"):
        prices_of("my-model", {"inputs": 2})
    with pytest.raises(UserError, match="no price is known"):
        prices_of("my-model")


def test_the_bound_is_above_what_a_call_can_cost():
    prices = prices_of(REQUEST.model)
    text = "go to drawer 12\n" * 200
    request = dataclasses.replace(REQUEST, turns=(Turn("user", text),))
    assert prices.bound(request) > prices.dollars(Usage(cache_write=len(text) // 3, output=request.max_tokens))


@pytest.mark.parametrize(
    "text", ["7391" * 500, "\u13a0\U00013000" * 300, "}{[]~^" * 300, "zqxjv" * 300, "go to drawer 12\n" * 200]
)
def test_the_bound_holds_for_a_token_of_every_byte(text):
    prices = prices_of(REQUEST.model)
    schema = {"type": "string", "enum": [text]}
    for request in (
        dataclasses.replace(REQUEST, system=text),
        dataclasses.replace(REQUEST, turns=(Turn("user", text),)),
        dataclasses.replace(REQUEST, schema=schema),
    ):
        worst = Usage(
            cache_write=len(text.encode()) + 100, output=request.max_tokens
        )  # byte-level tokenizers, nothing merged
        assert prices.bound(request) >= prices.dollars(worst)


def test_an_answer_that_failed_is_never_served_again(tmp_path):
    store = Store(tmp_path)
    row = store.sent(REQUEST, "live")
    store.done(row, Answer(REQUEST.key, "", Stop.FAILED, Usage(10, 5), 0.5, "stopped by something"), Attempts(sent=1))
    assert store.answer(REQUEST.key) is None
    row = store.sent(REQUEST, "live")
    store.failed(row, "it broke off", Attempts(sent=1), paid=Answer(REQUEST.key, usage=Usage(10, 5), dollars=0.25))
    assert store.totals()["dollars"] == 0.75, "what failed was paid nevertheless"
    store.close()


def test_the_ledger_survives_a_torn_line_and_a_missing_one(tmp_path):
    store = Store(tmp_path)
    for n in range(3):
        row = store.sent(dataclasses.replace(REQUEST, max_tokens=100 + n), "live")
        store.done(row, Answer(str(n), "text", Stop.END, Usage(10, 5), 0.5), Attempts(sent=1), f"req{n}")
    store.close()
    path = tmp_path / "ledger.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])  # as a crash in the middle of a write leaves it
    Store(tmp_path).close()
    assert [row["n"] for row in sorted(read_ledger(tmp_path), key=lambda row: row["n"])] == [1, 2, 3]
    assert sum(row["dollars"] for row in read_ledger(tmp_path)) == 1.5
    Store(tmp_path).close()
    assert len(read_ledger(tmp_path)) == 3


def test_an_answer_and_its_cost_are_written_together(tmp_path):
    store = Store(tmp_path)
    row = store.sent(REQUEST, "live")
    assert store.answer(REQUEST.key) is None and store.lost() == [{"n": row, "model": REQUEST.model}]
    store.done(row, Answer(REQUEST.key, "text", Stop.END, Usage(10, 5), 0.5), Attempts(sent=1))
    kept = store.answer(REQUEST.key)
    assert kept is not None and (kept.text, kept.cached, kept.dollars) == ("text", True, 0.0)
    store.failed(row, "late", Attempts())  # a finished call does not change
    assert store.totals()["calls"] == {"done": 1} and store.totals()["dollars"] == 0.5
    assert sqlite3.connect(tmp_path / "calls.sqlite").execute("pragma journal_mode").fetchone() == ("wal",)


def test_the_key_names_what_decides_the_answer():
    assert REQUEST.key == dataclasses.replace(REQUEST, purpose="repair", episode="x", cache_system=True).key
    for change in ({"model": "m"}, {"system": "s"}, {"max_tokens": 1}, {"effort": "low"}, {"schema": {}}):
        assert REQUEST.key != dataclasses.replace(REQUEST, **change).key


def test_actions_fit_in_the_candidates_own_spelling():
    assert fit(" Go  to Drawer 1 ", ("go to drawer 1",)) == "go to drawer 1"
    assert fit("go to drawer 11", ("go to drawer 1",)) is None
    assert fit("search[red shoes]", ("search[<search query>]",)) == "search[red shoes]"
    assert fit("search[]", ("search[<search query>]",)) is None
    assert fit("search[<search query>]", ("search[<search query>]",)) is None, "nothing was filled in"
    assert fit("click[< prev]", ("click[< prev]", "click[next >]")) == "click[< prev]"
    assert fit("SELECT 1", ()) == "SELECT 1" and fit("  ", ()) is None
    assert has_placeholders(("search[<search query>]",)) and not has_placeholders(("look",))


def test_an_enumeration_is_used_where_it_fits():
    episode = play(["go to desk 1", "dance"])
    actions = enumerable(episode, 100)
    assert set(actions) == {c for s in episode.steps for c in s.candidates}
    assert enumerable(episode, 3) == ()
    steps = schema(actions, per_step=False)["properties"]["steps"]["items"]["properties"]
    assert steps["action"]["enum"] == list(actions)
    assert "enum" not in schema((), per_step=True)["properties"]["action"]


def test_a_cut_answer_keeps_its_whole_entries():
    entries = [{"step": n, "reason": f"because {n}", "action": "look"} for n in (1, 2, 3)]
    text = json.dumps({"summary": "s", "steps": entries})
    assert set(read(text).drafts) == {0, 1, 2}
    cut = read(text[: text.index("because 3")])
    assert set(cut.drafts) == {0, 1} and not cut.trouble
    for bad in ("", "[]", "{}", '{"steps": 3}', "Sure! Here is"):
        assert read(bad).trouble and not read(bad).drafts
    assert read('{"steps": [{"step": "1"}, 7, {"step": 1, "reason": 3, "action": "a"}]}').drafts == {}


def run_config(**teacher) -> RunConfig:
    domain = DomainConfig("experiments.own_environment:Lockers", demo_tasks=10, train_tasks=60)
    return RunConfig("r", (domain,), iterations=3, teacher=TeacherConfig(**teacher))


def test_the_estimate_says_what_it_stands_on():
    free = estimate(run_config(kind="symbolic"))
    assert free.dollars == 0 and "costs no money" in str(free)
    live, batch = estimate(run_config(kind="claude")), estimate(run_config(kind="claude", mode="batch"))
    assert live.dollars == pytest.approx(2 * batch.dollars) and live.dollars > 0
    assert live.episodes == pytest.approx(120 * 0.7) and "assumed" in str(live) and "2026-11-22" in str(live)
    measured = estimate(run_config(kind="claude"), wandering(10))
    assert measured.episodes == pytest.approx(120) and "measured on 10 rollouts" in str(measured)
    stepwise = estimate(run_config(kind="claude", per="step"), wandering(10))
    assert stepwise.calls > 5 * measured.calls
    annotated = estimate(run_config(kind="claude", annotate=True))
    assert annotated.episodes == live.episodes + 10


def test_the_estimate_counts_failures_by_the_domains_own_threshold_and_leaves_out_what_is_done():
    config = RunConfig(
        "r", (DomainConfig("corridor:Corridor", demo_tasks=4, train_tasks=10, threshold=0.7),), iterations=2
    )
    config = dataclasses.replace(config, teacher=TeacherConfig(kind="claude", annotate=True))
    halves = [dataclasses.replace(e, score=0.5 if i % 2 else 0.9) for i, e in enumerate(wandering(10))]
    assert estimate(config, halves).episodes == 5 + 4
    ledger = [{"state": "done", "purpose": "annotate", "episode": "demo", "dollars": 1.0}]
    ledger += [{"state": "done", "purpose": "correct", "episode": halves[1].id, "dollars": 1.0}]
    assert estimate(config, halves, ledger).episodes == 4 + 3
    plain = dataclasses.replace(config, domains=(DomainConfig("intercode", train_tasks=10, demo_tasks=0),))
    bash = [dataclasses.replace(e, task=Task("intercode", e.task.id, "train")) for e in halves]
    assert estimate(plain, bash).episodes == 5, "an InterCode episode below 0.7 has failed"


@pytest.mark.parametrize("settings", [{}, {"mode": "batch"}])
async def test_a_pilots_ledger_makes_the_estimate_good_to_a_quarter(tmp_path, settings):
    config, episodes = run_config(kind="claude", **settings), wandering(40)
    faults = Faults(0.15, ("500", "short", "malformed", "max_tokens"))
    async with AnthropicServer(key=KEY, faults=faults, batch_seconds=0.1) as server:
        async with claude(tmp_path, server, **settings) as teacher:
            pilot = episodes[:10]
            await asyncio.gather(*(teacher.correct(e, privileged(e)) for e in pilot))
            before = estimate(config, pilot, read_ledger(tmp_path))
            await asyncio.gather(*(teacher.correct(e, privileged(e)) for e in episodes[10:]))
    ledger = read_ledger(tmp_path)
    spent = sum(row["dollars"] for row in ledger) - before.spent
    expected = before.dollars * 30 / before.episodes
    assert expected == pytest.approx(spent, rel=0.25)
