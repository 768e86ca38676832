"""Claude as a teacher: the real SDK against a local server that speaks the real protocol and fails in every known way."""

import asyncio
import dataclasses
import json
import os
from collections import Counter

import pytest
from corridor import play
from desks import KEY, claude, privileged, wandering

from experiments.benchmarks.anthropic_answers import plausible
from experiments.benchmarks.anthropic_books import CONTENT, TRANSPORT
from experiments.benchmarks.anthropic_server import AnthropicServer, Faults
from leap_ray.config import DomainConfig, TeacherConfig
from leap_ray.envs.base import PrivilegedState
from leap_ray.errors import UserError
from leap_ray.teachers.answers import Draft, Reading
from leap_ray.teachers.build import build_teacher, check_teacher
from leap_ray.teachers.prompted import AnnotationCheck, Check
from leap_ray.teachers.store import read_ledger
from leap_ray.types import Episode, Finish, Outcome, Step, Task


async def correct_all(teacher, episodes):
    return await asyncio.gather(*(teacher.correct(episode, privileged(episode)) for episode in episodes))


def outcomes(corrections):
    return Counter(step.outcome for correction in corrections for step in correction.steps)


async def test_a_failed_episode_comes_back_corrected_step_by_step(tmp_path):
    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server, correct="all") as teacher:
        episode = play(["go to desk 1", "dance", "", "leave"])
        correction = await teacher.correct(episode, privileged(episode))
        assert [step.t for step in correction.steps] == [0, 1, 2, 3]
        assert {step.outcome for step in correction.steps} == {Outcome.CORRECTED}
        assert all(step.action in episode.steps[step.t].candidates and step.reason for step in correction.steps)
        assert correction.summary and correction.prompt_hash
        assert correction.dollars == pytest.approx(server.books.stats()["dollars"], abs=1e-9) and correction.dollars > 0


async def test_under_every_fault_each_step_ends_with_one_outcome_and_the_books_agree(tmp_path):
    episodes = wandering(60)
    async with AnthropicServer(key=KEY, faults=Faults(0.3), hang=3.0) as server:
        async with claude(tmp_path, server, timeout=1.5) as teacher:
            corrections = await correct_all(teacher, episodes)
            totals = await teacher.totals()
    stats = server.books.stats()
    assert set(stats["failures"]) == {*TRANSPORT, *CONTENT}, (
        "a kind of fault was never drawn: the test shows nothing of it"
    )
    assert [len(c.steps) for c in corrections] == [len(e.steps) for e in episodes]
    counted = outcomes(corrections)
    assert set(counted) <= {
        Outcome.CORRECTED, Outcome.AGREED, Outcome.REFUSED, Outcome.FAILED, Outcome.UNPARSED, Outcome.UNAVAILABLE,
    }  # fmt: skip
    assert counted[Outcome.CORRECTED] > 0.5 * sum(counted.values()) and counted[Outcome.REFUSED] > 0
    assert all(s.detail for c in corrections for s in c.steps if s.outcome in (Outcome.FAILED, Outcome.UNPARSED))
    assert stats["paid_twice"] == 0
    assert totals["dollars"] == pytest.approx(stats["dollars"], abs=1e-9)
    assert totals["calls"]["done"] == stats["calls"]
    assert sum(row["dollars"] for row in read_ledger(tmp_path)) == pytest.approx(stats["dollars"], abs=1e-9)
    assert totals["undelivered"] == sum(stats["failures"][kind] for kind in ("timeout", "cut", "garbled"))


@pytest.mark.parametrize("fault", TRANSPORT[:5])
async def test_a_transport_fault_is_retried_by_the_sdk_alone(tmp_path, fault):
    class Once(Faults):
        def of(self, key, attempt):
            return fault if attempt == 1 else None

    async with (
        AnthropicServer(key=KEY, faults=Once(), hang=3.0) as server,
        claude(tmp_path, server, timeout=1.0) as teacher,
    ):
        (correction,) = await correct_all(teacher, wandering(1))
    assert Outcome.FAILED not in outcomes([correction])
    (row,) = read_ledger(tmp_path)
    assert row["attempts"] == 2 and server.books.attempts == 2
    assert row["refused"] == (fault == "429") and row["undelivered"] == (fault in ("timeout", "cut"))


@pytest.mark.parametrize(
    "fault, expected, calls",
    [
        ("malformed", {Outcome.UNPARSED}, 2),
        ("refusal", {Outcome.REFUSED}, 1),
        ("garbled", {Outcome.FAILED}, 1),
        ("unavailable", {Outcome.CORRECTED, Outcome.AGREED, Outcome.UNAVAILABLE}, 2),
        ("short", {Outcome.CORRECTED, Outcome.AGREED, Outcome.UNPARSED}, 2),
        ("max_tokens", {Outcome.CORRECTED, Outcome.AGREED, Outcome.UNPARSED}, 2),
        ("529", {Outcome.FAILED}, 1),
    ],
)
async def test_a_fault_that_lasts_costs_one_repair_and_then_the_steps(tmp_path, fault, expected, calls):
    async with AnthropicServer(key=KEY, faults=Faults(1.0, (fault,))) as server, claude(tmp_path, server) as teacher:
        teacher.desk.provider.client.max_retries = 1
        corrections = await correct_all(teacher, wandering(1, steps=12))
    assert set(outcomes(corrections)) <= expected
    assert expected - {Outcome.CORRECTED, Outcome.AGREED} <= set(outcomes(corrections))
    assert len(read_ledger(tmp_path)) == calls


async def test_a_repair_mends_what_was_wrong(tmp_path):
    class First(Faults):
        def of(self, key, attempt):
            self.drawn += 1
            return self.kinds[0] if self.drawn == 1 else None

    for kind in ("malformed", "truncated", "max_tokens", "short", "unavailable"):
        async with AnthropicServer(key=KEY, faults=First(0, (kind,))) as server:
            async with claude(tmp_path / kind, server) as teacher:
                corrections = await correct_all(teacher, wandering(1))
        assert set(outcomes(corrections)) <= {Outcome.CORRECTED, Outcome.AGREED}, kind
        assert [row["purpose"] for row in read_ledger(tmp_path / kind)] == ["correct", "repair"], kind


async def test_a_leak_is_repaired_or_left_out(tmp_path):
    def telling(body):
        steps = [{"step": i + 1, "reason": "The coin 1 is in drawer 2.", "action": "go to drawer 2"} for i in range(2)]
        return json.dumps({"summary": "", "steps": steps})

    episode = play(["dance", "dance"])
    for privilege, expected in ((0.5, Outcome.REVEALS), (1.0, Outcome.CORRECTED)):
        async with AnthropicServer(key=KEY, answer=telling) as server:
            async with claude(tmp_path / str(privilege), server, privilege=privilege) as teacher:
                correction = await teacher.correct(episode, privileged(episode))
        assert [step.outcome for step in correction.steps] == [expected] * 2
        assert len(server.books.billed) == (2 if expected is Outcome.REVEALS else 1)


def test_a_search_for_the_hidden_product_is_a_leak_and_a_gold_command_is_the_lesson():
    def outcome(domain, secrets, candidates, action):
        step = Step("Search", candidates, "", "x", True, 0.0)
        episode = Episode(
            Task(domain, "1", "train"), 0, "base", "buy a lamp", (step,), "", 0.0, False, Finish.MAX_ACTIONS
        )
        check = Check(episode, PrivilegedState(domain, "1", "", secrets), True)
        checked = check(Reading(drafts={0: Draft("I go on with the task.", action)}), (0,))
        return (checked.verdicts | checked.problems)[0].outcome

    lamp, search = ("Brightech Maxwell Shelf Lamp Havana Brown",), ("search[<query>]",)
    assert outcome("webshop", lamp, search, "search[brightech maxwell shelf lamp]") is Outcome.REVEALS
    assert outcome("webshop", lamp, search, "search[lamp]") is Outcome.CORRECTED
    assert outcome("intercode", ("find /a -type f | wc -l",), (), "find /a -type f | wc -l") is Outcome.CORRECTED


async def test_nothing_is_asked_twice_by_another_desk_or_another_run(tmp_path):
    episodes, shared = wandering(5), str(tmp_path / "shared")
    async with AnthropicServer(key=KEY) as server:
        answers = []
        for run in ("a", "a", "b"):
            async with claude(tmp_path / run, server, cache_dir=shared) as teacher:
                answers.append(await correct_all(teacher, episodes))
        assert len(server.books.billed) == 5
    assert [c.steps for c in answers[0]] == [c.steps for c in answers[1]] == [c.steps for c in answers[2]]
    assert sum(c.dollars for c in answers[0]) > 0 == sum(c.dollars for c in answers[1] + answers[2])


async def test_the_same_question_at_the_same_time_is_asked_once(tmp_path):
    (episode,) = wandering(1)
    async with AnthropicServer(key=KEY, latency=(0.1, 0.1)) as server, claude(tmp_path, server) as teacher:
        await asyncio.gather(*(teacher.correct(episode, privileged(episode)) for _ in range(5)))
        assert len(server.books.billed) == 1


async def test_per_step_calls_share_the_prompt_cache(tmp_path):
    episode = wandering(1, steps=20)[0]
    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server, per="step", correct="all") as teacher:
        correction = await teacher.correct(episode, privileged(episode))
        totals = await teacher.totals()
    assert {step.outcome for step in correction.steps} == {Outcome.CORRECTED}
    assert totals["calls"]["done"] == 20
    assert totals["cache_read"] > 10 * totals["cache_write"] > 0
    assert totals["dollars"] == pytest.approx(server.books.stats()["dollars"], abs=1e-9)


async def test_the_budget_is_never_passed(tmp_path):
    episodes = wandering(30)
    async with AnthropicServer(key=KEY, latency=(0.01, 0.02)) as server:
        async with claude(tmp_path, server, budget_dollars=0.5) as teacher:
            corrections = await correct_all(teacher, episodes)
            totals = await teacher.totals()
        counted = outcomes(corrections)
        one_call = 0.5 / 8
        assert 0.1 < totals["dollars"] <= 0.5 and server.books.stats()["dollars"] <= 0.5 + one_call
        assert counted[Outcome.BUDGET] > 0 and counted[Outcome.CORRECTED] > 0
        async with claude(tmp_path, server, budget_dollars=0.5) as teacher:  # a restart does not open the purse again
            await correct_all(teacher, episodes)
        assert server.books.stats()["dollars"] <= 0.5


async def test_undelivered_answers_that_were_charged_stay_within_the_ledgers_uncertain_dollars(tmp_path):
    faults = Faults(0.4, ("timeout", "cut", "cut", "cut"))
    async with AnthropicServer(key=KEY, faults=faults, hang=3.0, bill_undelivered=True) as server:
        async with claude(tmp_path, server, timeout=1.0) as teacher:
            await correct_all(teacher, wandering(20))
            totals = await teacher.totals()
    charged = server.books.stats()["dollars"]
    assert totals["dollars"] < charged
    assert charged - totals["dollars"] == pytest.approx(totals["uncertain"], rel=0.35)


async def test_attempts_that_were_charged_without_an_answer_cannot_pass_the_limit(tmp_path):
    class Cut(Faults):
        def of(self, key, attempt):
            return "cut" if attempt < 5 else None

    limit = 0.12
    async with AnthropicServer(key=KEY, faults=Cut(), bill_undelivered=True, latency=(0.01, 0.02)) as server:
        async with claude(tmp_path, server, budget_dollars=limit, max_tokens=700) as teacher:
            corrections = await correct_all(teacher, wandering(30))
        bills = [bill["dollars"] for bill in server.books.billed]
    assert outcomes(corrections)[Outcome.BUDGET] > 0
    assert sum(bills) <= limit + max(bills), f"{sum(bills):.3f} dollars in {len(bills)} bills"


async def test_a_key_that_the_provider_repeats_in_its_error_goes_nowhere(tmp_path):
    class Telling(AnthropicServer):
        def _error(self, status, kind, message):
            return super()._error(status, kind, f"{message} (your key: {KEY})")

    async with Telling(key=KEY, faults=Faults(1.0, ("500",))) as server, claude(tmp_path, server) as teacher:
        teacher.desk.provider.client.max_retries = 0
        (correction,) = await correct_all(teacher, wandering(1))
    (detail,) = {step.detail for step in correction.steps}
    assert "[key]" in detail and KEY not in detail
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


async def test_an_annotator_asked_step_by_step_sees_nothing_later(tmp_path):
    asked = []

    def note(body):
        asked.append(json.dumps(body["messages"]))
        return plausible(body)

    demonstration = play(["go to desk 1", "go to drawer 2", "take coin 1"], reason="old")
    async with AnthropicServer(key=KEY, answer=note) as server, claude(tmp_path, server, per="step") as teacher:
        annotated = await teacher.annotate(demonstration)
    assert all(step.reason != "old" for step in annotated.steps) and len(asked) == 3
    for t, text in enumerate(sorted(asked, key=len)):
        assert f'number=\\"{t + 1}\\"' in text and f'number=\\"{t + 2}\\"' not in text
        assert ("coin 1" in text.split("attempt", 1)[1]) == (t == 2), "the coin is first seen at step 3"


def test_what_a_later_observation_shows_is_no_reason_in_any_domain():
    pages = [
        "Search",
        "Page 1 (Total results: 50)\nB07AAA1111\nAcme Soft Knitted Wool Blanket\n$35.99",
        "Acme Soft Knitted Wool Blanket\nPrice: $35.99\nBuy Now",
    ]
    steps = tuple(Step(page, (), "old", "click[x]", True, 0.0) for page in pages)
    task = Task("webshop", "1", "train")
    episode = Episode(task, 0, "expert:d", "buy a blanket", steps, "done", 1.0, True, Finish.SUCCESS)
    check = AnnotationCheck(episode)

    def verdict(t, reason):
        return check(Reading(drafts={t: Draft(reason, "click[x]")}), (t,)).verdicts.get(t)

    for reason in ("I look for the Acme blanket.", "B07AAA1111 is the one.", "It costs $35.99."):
        assert verdict(0, reason) is None and verdict(1, reason) is not None
    assert verdict(0, "I search for a blanket first.") is not None


async def test_annotation_changes_reasons_and_never_actions(tmp_path):
    demonstration = dataclasses.replace(
        play(["go to desk 1", "go to drawer 2", "take coin 1", "leave"], reason="old"), policy="expert:demonstrator"
    )
    async with AnthropicServer(key=KEY) as server, claude(tmp_path, server) as teacher:
        annotated = await teacher.annotate(demonstration)
    assert [step.action for step in annotated.steps] == [step.action for step in demonstration.steps]
    assert all(step.reason not in ("", "old") for step in annotated.steps)


async def test_annotation_that_knows_the_future_is_asked_again_then_keeps_the_old_reason(tmp_path):
    def prophet(body):
        steps = [{"step": i + 1, "reason": "The coin 1 will turn up.", "action": "x"} for i in range(3)]
        for entry, action in zip(steps, ["go to desk 1", "go to drawer 2", "take coin 1"]):
            entry["action"] = action
        return json.dumps({"summary": "", "steps": steps})

    demonstration = play(["go to desk 1", "go to drawer 2", "take coin 1"], reason="old")
    async with AnthropicServer(key=KEY, answer=prophet) as server, claude(tmp_path, server) as teacher:
        annotated = await teacher.annotate(demonstration)
    assert [step.reason for step in annotated.steps] == ["old", "old", "The coin 1 will turn up."]  # seen by step 3
    assert len(server.books.billed) == 2


async def test_a_wrong_key_stops_the_run_and_no_key_is_written_anywhere(tmp_path, caplog):
    caplog.set_level("DEBUG")
    async with AnthropicServer(key="another") as server:
        with pytest.raises(UserError, match="HTTP 401") as caught:
            async with claude(tmp_path, server) as teacher:
                await correct_all(teacher, wandering(2))
    async with AnthropicServer(key=KEY, faults=Faults(0.5, ("500", "cut", "malformed")), hang=1.0) as server:
        async with claude(tmp_path, server) as teacher:
            await correct_all(teacher, wandering(10))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written and KEY not in str(caught.value)
    assert KEY not in caplog.text


def test_what_is_missing_is_said_before_anything_starts(tmp_path, monkeypatch):
    domains = [DomainConfig("experiments.own_environment:Lockers")]
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(UserError, match="environment variable ANTHROPIC_API_KEY"):
        build_teacher(TeacherConfig(kind="claude"), domains, tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(UserError, match=r"no price is known for model 'claude-next'.*teacher\.prices"):
        check_teacher(TeacherConfig(kind="claude", model="claude-next"))
    with pytest.raises(UserError, match="above 21333"):
        check_teacher(TeacherConfig(kind="claude", max_tokens=30_000))
    with pytest.raises(UserError, match="batch is for kind claude"):
        check_teacher(TeacherConfig(kind="openai", mode="batch", prices={"input": 0, "output": 0}))
    with pytest.raises(UserError, match="needs the student's server"):
        build_teacher(TeacherConfig(kind="self"), domains, tmp_path)


@pytest.mark.live
async def test_one_real_call(tmp_path, request):
    if not request.config.getoption("--live", default=False) or not os.environ.get("ANTHROPIC_API_KEY"):
        pytest.skip("makes one paid call: give --live, and a key in ANTHROPIC_API_KEY")
    config = TeacherConfig(kind="claude", model="claude-haiku-4-5", budget_dollars=0.5, correct="all")
    teacher = build_teacher(config, [DomainConfig("experiments.own_environment:Lockers")], tmp_path)
    episode = play(["go to desk 1", "dance"])
    try:
        correction = await teacher.correct(episode, privileged(episode))
    finally:
        await teacher.close()
    assert {step.outcome for step in correction.steps} <= {Outcome.CORRECTED, Outcome.REVEALS}
    assert 0 < correction.dollars < 0.1
