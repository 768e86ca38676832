"""What Anthropic's API refuses, live and in batches: no credit, grammars, limits, one flagged input, an outage."""

import asyncio
import json

import pytest
from corridor import play
from desks import KEY, claude, privileged, wandering

from experiments.benchmarks.anthropic_answers import plausible
from experiments.benchmarks.anthropic_checks import BadRequest
from experiments.benchmarks.anthropic_server import AnthropicServer
from leap_ray.errors import UserError
from leap_ray.teachers.forms import has_enum
from leap_ray.teachers.store import read_ledger
from leap_ray.types import Outcome

MODES = pytest.mark.parametrize("mode", ["live", "batch"])
CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."


async def correct_all(teacher, episodes):
    return await asyncio.gather(*(teacher.correct(episode, privileged(episode)) for episode in episodes))


def outcomes(corrections):
    return {step.outcome for correction in corrections for step in correction.steps}


@MODES
@pytest.mark.parametrize(
    "error",
    [
        BadRequest(CREDIT),
        BadRequest("You have reached your specified API usage limits. You will regain access on 2026-12-01."),
        BadRequest("This organization has been disabled."),
        BadRequest("model: claude-x", 404, "not_found_error"),
        BadRequest("Your API key does not have permission to use this model", 403, "permission_error"),
    ],
)
async def test_what_no_request_can_pass_ends_the_stage(tmp_path, mode, error):
    async with AnthropicServer(key=KEY, batch_seconds=0.1, refuse=lambda body: error) as server:
        with pytest.raises(UserError, match=r"cannot be asked: .*leap-ray resume") as caught:
            async with claude(tmp_path, server, mode=mode) as teacher:
                await correct_all(teacher, wandering(8))
    assert str(error)[:30] in str(caught.value)
    if mode == "live":
        assert server.books.attempts <= 4, "no more than were under way at once"


@MODES
async def test_an_account_that_was_filled_up_gets_the_rest_and_nothing_is_paid_twice(tmp_path, mode):
    episodes, empty = wandering(10), []

    def refuse(body):
        return BadRequest(CREDIT) if empty else None

    async with AnthropicServer(key=KEY, batch_seconds=0.1, refuse=refuse) as server:
        async with claude(tmp_path, server, mode=mode) as teacher:
            await correct_all(teacher, episodes[:4])
        empty.append(True)
        with pytest.raises(UserError, match="credit balance"):
            async with claude(tmp_path, server, mode=mode) as teacher:
                await correct_all(teacher, episodes)
        empty.clear()
        async with claude(tmp_path, server, mode=mode) as teacher:
            corrections = await correct_all(teacher, episodes)
        assert server.books.stats()["paid_twice"] == 0 and server.books.stats()["calls"] == len(episodes)
    assert Outcome.FAILED not in outcomes(corrections)


def schema_of(body):
    return ((body.get("output_config") or {}).get("format") or {}).get("schema")


@MODES
@pytest.mark.parametrize("structure", ["no enum", "none"])
async def test_a_grammar_that_is_too_large_is_made_smaller_once(tmp_path, mode, structure):
    refused = []

    def refuse(body):
        if has_enum(schema_of(body)) or (structure == "none" and schema_of(body)):
            refused.append(body)
            return BadRequest(
                "The compiled grammar is too large, which would cause performance issues. Simplify your schemas."
            )
        return None

    form = {
        "output_config": {"format": {"schema": {"properties": {"steps": {}}}}}
    }  # the server's rules need to be told
    answer = lambda body: plausible({**body, **form})  # noqa: E731
    async with AnthropicServer(key=KEY, batch_seconds=0.1, refuse=refuse, answer=answer) as server:
        async with claude(tmp_path, server, mode=mode) as teacher:
            corrections = [await teacher.correct(e, privileged(e)) for e in wandering(3)]
            totals = await teacher.totals()
        assert server.books.stats()["paid_twice"] == 0
    assert outcomes(corrections) <= {Outcome.CORRECTED, Outcome.AGREED}
    assert len(refused) == len(totals["notes"]) == (1 if structure == "no enum" else 2)


def above_the_models_limit(body):
    words = "max_tokens: {} > 8192, which is the maximum allowed number of output tokens for claude-opus-5-5"
    return BadRequest(words.format(body["max_tokens"])) if body["max_tokens"] > 8192 else None


def above_the_context(body):
    prompt, answer = len(json.dumps(body["messages"])) // 4, body["max_tokens"]
    words = f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > 12000, decrease input length"
    return BadRequest(words) if prompt + answer > 12_000 else None


@MODES
@pytest.mark.parametrize("refuse", [above_the_models_limit, above_the_context])
async def test_a_limit_of_the_model_shortens_the_answers(tmp_path, mode, refuse):
    async with AnthropicServer(key=KEY, batch_seconds=0.1, refuse=refuse) as server:
        async with claude(tmp_path, server, mode=mode) as teacher:
            corrections = [await teacher.correct(e, privileged(e)) for e in wandering(3)]
            totals = await teacher.totals()
    assert outcomes(corrections) <= {Outcome.CORRECTED, Outcome.AGREED}
    assert len(totals["notes"]) == 1 and sum(row["state"] == "failed" for row in read_ledger(tmp_path)) <= 1


@MODES
async def test_one_flagged_input_costs_its_episode_alone(tmp_path, mode):
    def refuse(body):
        return (
            BadRequest("Output blocked by content filtering policy")
            if "fly away" in json.dumps(body["messages"])
            else None
        )

    episodes = [*wandering(3), play(["leave", "fly away"], seed=9), *wandering(5)[3:]]
    async with AnthropicServer(key=KEY, batch_seconds=0.1, refuse=refuse) as server:
        async with claude(tmp_path, server, mode=mode) as teacher:
            first = await correct_all(teacher, episodes[:3])
            corrections = first + await correct_all(teacher, episodes[3:])
    assert [Outcome.REFUSED in outcomes([c]) for c in corrections] == [False, False, False, True, False, False]


@MODES
async def test_a_batch_or_first_calls_refused_alike_end_the_stage(tmp_path, mode):
    refuse = lambda body: BadRequest("The moon is in the wrong house")  # noqa: E731
    async with AnthropicServer(key=KEY, batch_seconds=0.1, refuse=refuse) as server:
        with pytest.raises(UserError, match=r"first 5 calls all failed alike: .*moon"):
            async with claude(tmp_path, server, mode=mode) as teacher:
                await correct_all(teacher, wandering(12))
    assert {row["state"] for row in read_ledger(tmp_path)} == {"failed"}


@MODES
@pytest.mark.parametrize("counts", [{}, None, {"input_tokens": None, "output_tokens": None}, {"output_tokens": "80"}])
async def test_tokens_that_nobody_counted_are_estimated(tmp_path, mode, counts):
    async with AnthropicServer(key=KEY, batch_seconds=0.1, counts=lambda usage: counts) as server:
        async with claude(tmp_path, server, mode=mode) as teacher:
            corrections = await correct_all(teacher, wandering(3))
            totals = await teacher.totals()
        charged = server.books.stats()["dollars"]
    assert outcomes(corrections) <= {Outcome.CORRECTED, Outcome.AGREED}
    assert charged <= totals["dollars"] < 3 * charged


async def test_an_error_with_status_200_keeps_the_providers_words(tmp_path):
    class Odd(AnthropicServer):
        async def _messages(self, request):
            response = self._error(529, "overloaded_error", "Overloaded, says the gateway")
            response.set_status(200)
            return response

    async with Odd(key=KEY) as server, claude(tmp_path, server) as teacher:
        (correction,) = await correct_all(teacher, wandering(1))
    assert {s.outcome for s in correction.steps} == {Outcome.FAILED}
    assert "Overloaded, says the gateway" in correction.steps[0].detail


async def test_a_batch_that_cannot_be_collected_for_long_ends_the_stage_and_is_collected_later(tmp_path):
    episodes, down = wandering(4), []

    class Down(AnthropicServer):
        async def _get_batch(self, request):
            return self._error(500, "api_error", "the lights are out") if down else await super()._get_batch(request)

    async with Down(key=KEY, batch_seconds=0.1) as server:
        down.append(True)
        with pytest.raises(UserError, match=r"no answer for 0 s: .*lights are out"):
            async with claude(tmp_path, server, mode="batch") as teacher:
                teacher.desk.provider.client.max_retries = 0
                teacher.desk._outage.limit = 0.3
                await correct_all(teacher, episodes)
        down.clear()
        async with claude(tmp_path, server, mode="batch") as teacher:
            corrections = await correct_all(teacher, episodes)
        assert len(server.batches) == 1 and server.books.stats()["paid_twice"] == 0
    assert Outcome.FAILED not in outcomes(corrections)


async def test_a_server_that_answers_byte_by_byte_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("leap_ray.teachers.claude.BACKOFF", 0.0)

    class Slow(AnthropicServer):
        async def _messages(self, request):
            from aiohttp import web

            response = web.StreamResponse(headers={"content-type": "application/json"})
            await response.prepare(request)
            for _ in range(600):
                await response.write(b" ")
                await asyncio.sleep(0.1)
            return response

    async with Slow(key=KEY) as server, claude(tmp_path, server, timeout=0.5) as teacher:
        async with asyncio.timeout(30):
            (correction,) = await correct_all(teacher, wandering(1))
    assert "no answer within" in correction.steps[0].detail
    (row,) = read_ledger(tmp_path)
    assert row["undelivered"] == 1 and row["uncertain"] > 0, "it may have been charged"
