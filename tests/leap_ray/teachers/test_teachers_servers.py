"""Servers that call themselves compatible: each quirk in the words of a real server, met by the real `openai` client."""

import asyncio
import json

import pytest
from chat_server import ChatServer, asked, openai_error, plausible
from corridor import play
from desks import privileged, wandering

from leap_ray.config import TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.desk import Desk
from leap_ray.teachers.openai_compatible import OpenAIProvider
from leap_ray.teachers.prices import prices_of
from leap_ray.teachers.prompted import PromptedTeacher
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.store import Store, read_ledger
from leap_ray.types import Outcome


def teacher(folder, server, *, retries=2, concurrency=4, **settings):
    config = TeacherConfig(kind="openai", model="m", prices={"input": 1, "output": 2}, correct="all", **settings)
    gate = Gate(concurrency)
    provider = OpenAIProvider(gate, key="none", base_url=server.url, timeout=20, max_retries=retries)
    desk = Desk(provider, Store(folder), prices_of("m", config.prices), gate, config.budget_dollars)
    return PromptedTeacher(desk, config, {"corridor": "A corridor."})


async def corrected(folder, server, episodes=None, **settings):
    """The corrections, one after the other, and the desk's totals."""
    made, corrections = teacher(folder, server, **settings), []
    try:
        for episode in [play(["leave", "dance"])] if episodes is None else episodes:
            corrections.append(await made.correct(episode, privileged(episode)))
        return corrections, await made.totals()
    finally:
        await made.close()


def all_corrected(corrections):
    return {step.outcome for c in corrections for step in c.steps} == {Outcome.CORRECTED}


# --- what a server does not know is left out: once, remembered, and said


def without(parameter, status, error):
    """Refuses requests with this parameter."""
    return lambda body: (status, error) if body.get(parameter) is not None else None


def no_schema(status, error):
    return lambda body: (status, error) if (body.get("response_format") or {}).get("type") == "json_schema" else None


def no_object(status, error):
    return lambda body: (status, error) if (body.get("response_format") or {}).get("type") == "json_object" else None


def no_system(status, error):
    return lambda body: (status, error) if any(m["role"] == "system" for m in body["messages"]) else None


def no_enum(status, error):
    return lambda body: (status, error) if '"enum"' in json.dumps(body.get("response_format")) else None


def vllm_error(message, kind="BadRequestError", code=400):
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


QUIRKS = {
    "gpt-5": without(
        "max_tokens",
        400,
        openai_error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        ),
    ),
    "copilot": without(
        "max_tokens",
        400,
        openai_error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            code="invalid_request_body",
        ),
    ),
    "pydantic": without(
        "max_tokens",
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "max_tokens"],
                    "msg": "Extra inputs are not permitted",
                    "input": 1,
                }
            ]
        },
    ),
    "o1-mini": no_system(
        400,
        openai_error(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            code="unsupported_value",
            param="messages[0].role",
        ),
    ),
    "gemma in vllm": no_system(400, vllm_error("System role not supported")),
    "gemma in sglang": no_system(
        500, "Internal Server Error: jinja2.exceptions.TemplateError: System role not supported"
    ),
    "gemma at google": no_system(
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "Developer instruction is not enabled for models/gemma-3-27b-it",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    "mistral template": no_system(
        400, vllm_error("Conversation roles must alternate user/assistant/user/assistant/...")
    ),
    "deepseek": no_schema(
        400, openai_error("This response_format type is unavailable now", code="invalid_request_error")
    ),
    "deepseek deserialiser": no_schema(
        422,
        "Failed to deserialize the JSON body into the target type: response_format: response_format.type `json_schema` is "
        "unavailable now at line 1 column 1193",
    ),
    "litellm": without(
        "response_format",
        400,
        openai_error(
            "litellm.UnsupportedParamsError: ollama does not support parameters: ['response_format'], for model=m. To drop "
            "these, set `litellm.drop_params=True`",
            code="400",
        ),
    ),
    "openrouter": without(
        "response_format",
        404,
        {"error": {"message": "No endpoints found that can handle the requested parameters.", "code": 404}},
    ),
    "openai enum": no_enum(
        400,
        openai_error(
            "Invalid schema for response_format 'correction': Expected at most 500 enum values in total within a schema.",
            code="invalid_json_schema",
            param="response_format",
        ),
    ),
    "gemini states": no_enum(
        400,
        {
            "error": {
                "code": 400,
                "message": "The specified schema produces a constraint that has too many states for serving.",
                "status": "INVALID_ARGUMENT",
            }
        },
    ),
    "llama.cpp grammar": no_enum(
        400,
        {
            "error": {
                "code": 400,
                "message": "Failed to initialize samplers: failed to parse grammar",
                "type": "invalid_request_error",
            }
        },
    ),
    "no strict": lambda body: (
        (400, openai_error("Extra inputs are not permitted: response_format.json_schema.strict"))
        if "strict" in json.dumps(body.get("response_format"))
        else None
    ),
    "no effort": without(
        "reasoning_effort",
        400,
        openai_error("Unrecognized request argument supplied: reasoning_effort"),
    ),
}


@pytest.mark.parametrize("name", QUIRKS)
async def test_what_a_server_refuses_is_left_out_once_and_said(tmp_path, name):
    async with ChatServer(QUIRKS[name]) as server:
        corrections, totals = await corrected(tmp_path, server, wandering(4), effort="low")
    assert all_corrected(corrections)
    assert 1 <= server.refused <= 2 and server.statuses[-3:] == [200] * 3, "what was adapted is remembered"
    assert len(totals["notes"]) == server.refused and all("from now on" in note for note in totals["notes"])
    assert {row["state"] for row in read_ledger(tmp_path)} == {"done"}


async def test_a_server_with_every_quirk_is_adapted_to_step_by_step(tmp_path):
    quirks = [QUIRKS[name] for name in ("gpt-5", "o1-mini", "openai enum", "deepseek", "litellm", "no effort")]
    async with ChatServer(*quirks) as server:
        corrections, _ = await corrected(tmp_path, server, effort="low")
    assert all_corrected(corrections)
    last = server.bodies[-1]
    assert set(last) == {"model", "messages", "max_completion_tokens"} and last["messages"][0]["role"] == "user"
    assert "JSON Schema" in asked(last) and "You coach a small language model" in asked(last)


async def test_calls_under_way_with_the_old_form_are_sent_again_in_the_new_one(tmp_path):
    episodes = wandering(12)
    async with ChatServer(QUIRKS["gpt-5"]) as server:
        made = teacher(tmp_path, server)
        corrections = await asyncio.gather(*(made.correct(e, privileged(e)) for e in episodes))
        await made.close()
    assert all_corrected(corrections) and server.refused <= 4, "no more than were under way at once"


async def test_structure_is_asked_for_in_words_where_no_mode_is_known(tmp_path):
    studio = openai_error("'response_format.type' must be 'json_schema' or 'text'")
    old = openai_error("Invalid value: json_schema is not supported in response_format")
    fenced = lambda body: f"Here it is:\n```json\n{plausible(body)}\n```"  # noqa: E731
    for per in ("episode", "step"):
        async with ChatServer(no_schema(400, old), no_object(400, studio), content=fenced) as server:
            corrections, _ = await corrected(tmp_path / per, server, per=per)
        assert all_corrected(corrections) and "response_format" not in server.bodies[-1]


def window(context, message, status=400, **parts):
    """A server whose prompt (a token for 4 characters) and answer must fit together."""

    def quirk(body):
        prompt, answer = len(asked(body)) // 4, body.get("max_tokens") or body.get("max_completion_tokens")
        if prompt + answer <= context:
            return None
        words = message.format(context=context, prompt=prompt, answer=answer, total=prompt + answer)
        return status, parts.get("form", openai_error)(words)

    return quirk


WINDOWS = {
    "openai": "This model's maximum context length is {context} tokens. However, you requested {total} tokens ({prompt} in the "
    "messages, {answer} in the completion). Please reduce the length of the messages or completion.",
    "vllm": "'max_tokens' or 'max_completion_tokens' is too large: {answer}. This model's maximum context length is {context} "
    "tokens and your request has {prompt} input tokens ({answer} > {context} - {prompt}).",
    "vllm 0.20": "This model's maximum context length is {context} tokens. However, you requested {answer} output tokens and "
    "your prompt contains at least {prompt} input tokens, for a total of at least {total} tokens.",
    "tgi": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {context}. Given: {prompt} `inputs` tokens and "
    "{answer} `max_new_tokens`",
    "sglang": "Requested token count exceeds the model's maximum context length of {context} tokens. You requested a total of "
    "{total} tokens: {prompt} tokens from the input messages and {answer} tokens for the completion.",
    "openrouter": "This endpoint's maximum context length is {context} tokens. However, you requested about {total} tokens "
    "({prompt} of text input, {answer} in the output).",
    "no numbers": "max_tokens is too large for this model",
}


@pytest.mark.parametrize("name", WINDOWS)
async def test_an_answer_is_shortened_to_the_servers_context(tmp_path, name):
    async with ChatServer(window(4096, WINDOWS[name])) as server:
        corrections, totals = await corrected(tmp_path, server, wandering(4))
    assert all_corrected(corrections)
    assert server.refused <= (1 if name != "no numbers" else 4) and server.statuses[-3:] == [200] * 3
    assert totals["notes"]


@pytest.mark.parametrize(
    "message, most",
    [
        (
            "max_tokens is too large: 16000. This model supports at most 4096 completion tokens, whereas you provided 16000.",
            4096,
        ),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
        ("`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens`", 8192),
        ("Requests with max_tokens > 4096 must have stream=true", 4096),
    ],
)
async def test_an_answer_is_shortened_to_what_the_model_may_write(tmp_path, message, most):
    quirk = lambda body: (400, openai_error(message)) if body["max_tokens"] > most else None  # noqa: E731
    async with ChatServer(quirk) as server:
        corrections, _ = await corrected(tmp_path, server, wandering(3))
    assert all_corrected(corrections) and server.refused == 1 and server.bodies[-1]["max_tokens"] == most


async def test_a_prompt_that_no_context_holds_costs_its_episode_alone(tmp_path):
    long = wandering(1, steps=60)
    async with ChatServer(window(3000, WINDOWS["openai"])) as server:
        corrections, _ = await corrected(tmp_path, server, [*wandering(2, steps=2), *long, *wandering(4, steps=2)[2:]])
    assert [all_corrected([c]) for c in corrections] == [True, True, False, True, True]
    assert {step.outcome for step in corrections[2].steps} == {Outcome.FAILED}


# --- what no request can pass


HOPELESS = {
    "openai quota": (
        429,
        openai_error(
            "You exceeded your current quota, please check your plan and billing details.",
            code="insufficient_quota",
            kind="insufficient_quota",
        ),
    ),
    "openai inactive": (
        429,
        openai_error(
            "Your account is not active, please check your billing details on our website.",
            code="billing_not_active",
            kind="billing_not_active",
        ),
    ),
    "openai limit": (400, openai_error("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    "openai model": (
        404,
        openai_error("The model `m` does not exist or you do not have access to it.", code="model_not_found"),
    ),
    "deepseek": (402, openai_error("Insufficient Balance", kind="unknown_error")),
    "openrouter credit": (
        402,
        {"error": {"message": "This request requires more credits, or fewer max_tokens.", "code": 402}},
    ),
    "openrouter key limit": (403, {"error": {"message": "Key limit exceeded (monthly limit).", "code": 403}}),
    "litellm budget": (
        400,
        openai_error("Budget has been exceeded! Current cost: 1.2, Max budget: 1.0", kind="budget_exceeded"),
    ),
    "litellm model": (
        400,
        openai_error("Invalid model name passed in model=m. Call `/v1/models` to view available models."),
    ),
    "groq key": (401, openai_error("Invalid API Key", code="invalid_api_key")),
    "azure": (
        401,
        {"error": {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}},
    ),
    "vllm model": (404, vllm_error("The model `m` does not exist.", "NotFoundError", 404)),
    "ollama model": (404, openai_error("model 'm' not found, try pulling it first", kind="api_error")),
    "studio": (
        400,
        openai_error("No models loaded. Please load a model in the developer page or use the `lms load` command."),
    ),
    "deactivated": (
        401,
        openai_error(
            "The OpenAI account associated with this API key has been deactivated.", code="account_deactivated"
        ),
    ),
    "forbidden": (403, openai_error("You are not allowed to sample from this model.")),
    "proxy page": (404, "<html><head><title>404</title></head><body><h1>Not Found</h1>nginx</body></html>"),
    "redirect": (307, ""),
}


@pytest.mark.parametrize("name", HOPELESS)
async def test_what_no_request_can_pass_ends_the_stage_with_one_sentence(tmp_path, name):
    status, error = HOPELESS[name]
    async with ChatServer(lambda body: (status, error)) as server:
        with pytest.raises(UserError, match=rf"(?s)cannot be asked: HTTP {status}: .+leap-ray resume") as caught:
            await corrected(tmp_path, server, wandering(3))
    assert len(server.statuses) == 1, "asking again was no use"
    assert "\n" not in str(caught.value)


async def test_the_first_answers_all_refused_alike_end_the_stage(tmp_path):
    count = iter(range(1000))

    def odd(body):
        return 400, openai_error(f"The frobnicator is not aligned (request {next(count)}, req_{next(count):08x})")

    async with ChatServer(odd) as server:
        with pytest.raises(UserError, match=r"first 5 calls all failed alike.*frobnicator"):
            await corrected(tmp_path, server, wandering(20))
    assert len(server.statuses) == 5


async def test_a_page_in_place_of_an_api_is_told_in_its_own_words(tmp_path):
    async with ChatServer(lambda body: (200, "<html><body>Welcome to the gateway</body></html>")) as server:
        with pytest.raises(UserError, match="Welcome to the gateway"):
            await corrected(tmp_path, server, wandering(20), retries=0)


async def test_an_outage_ends_the_stage_and_scattered_failures_do_not(tmp_path):
    down = []

    def outage(body):
        return (503, openai_error("upstream is down")) if down else None

    async with ChatServer(outage) as server:
        made = teacher(tmp_path, server, retries=0)
        episodes = wandering(40)
        for number, episode in enumerate(episodes[:10]):
            down[:] = [True] * (number % 3 == 1)
            await made.correct(episode, privileged(episode))
        down[:] = [True]
        with pytest.raises(UserError, match=r"20 calls in a row had no answer.*upstream is down"):
            for episode in episodes[10:]:
                await made.correct(episode, privileged(episode))
        await made.close()


@pytest.mark.parametrize(
    "status, error",
    [
        (
            429,
            openai_error(
                "Rate limit reached for m on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try "
                "again in 2s. Visit https://platform.openai.com/account/billing to add a payment method.",
                code="rate_limit_exceeded",
            ),
        ),
        (
            429,
            [
                {
                    "error": {
                        "code": 429,
                        "message": "You exceeded your current quota, please check your plan and billing details. "
                        "Please retry in 0.5s.",
                        "status": "RESOURCE_EXHAUSTED",
                    }
                }
            ],
        ),
        (503, openai_error("The model is overloaded")),
    ],
)
async def test_a_limit_per_minute_is_waited_out(tmp_path, status, error):
    left = [2]

    def busy(body):
        left[0] -= 1
        return (status, error) if left[0] >= 0 else None

    async with ChatServer(busy) as server:
        corrections, _ = await corrected(tmp_path, server)
    assert all_corrected(corrections) and server.statuses == [status, status, 200]


# --- one input that is refused


@pytest.mark.parametrize(
    "status, error, outcome",
    [
        (403, {"error": {"code": 403, "message": "m requires moderation. Your input was flagged for \"violence\".",
                         "metadata": {"reasons": ["violence"], "flagged_input": "dance"}}}, Outcome.REFUSED),
        (400, openai_error("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
                           code="content_filter"), Outcome.REFUSED),
        (400, openai_error("Content Exists Risk"), Outcome.REFUSED),
        (403, openai_error("Forbidden"), Outcome.FAILED),
        (400, openai_error("Something about this very prompt"), Outcome.FAILED),
    ],
)  # fmt: skip
async def test_one_refused_input_costs_its_episode_alone(tmp_path, status, error, outcome):
    quirk = lambda body: (status, error) if "dance" in asked(body) else None  # noqa: E731
    episodes = [play(["leave"], seed=0), play(["dance"], seed=1), play(["leave", "leave"], seed=2)]
    async with ChatServer(quirk) as server:
        corrections, _ = await corrected(tmp_path, server, episodes)
    assert [c.steps[0].outcome for c in corrections] == [Outcome.CORRECTED, outcome, Outcome.CORRECTED]
    assert corrections[1].steps[0].detail.startswith(f"HTTP {status}")


# --- answers of status 200 that are none


async def test_an_error_in_an_answer_keeps_the_providers_words(tmp_path):
    raw = json.dumps({"error": {"message": "m is temporarily rate-limited upstream", "code": "busy"}})
    error = {
        "error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": raw, "provider_name": "P"}}
    }
    async with ChatServer(lambda body: (200, error)) as server:
        (correction,), _ = await corrected(tmp_path, server, retries=1)
    assert server.statuses == [200, 200], "the SDK tries again, as after a real 429"
    assert {step.outcome for step in correction.steps} == {Outcome.FAILED}
    assert "HTTP 429: Provider returned error: m is temporarily rate-limited upstream" in correction.steps[0].detail


@pytest.mark.parametrize(
    "body, words",
    [
        ({"error": "model runner has unexpectedly stopped"}, "model runner has unexpectedly stopped"),
        ({"error": {"message": "no capacity", "code": "capacity"}, "choices": None}, "no capacity"),
        ({"choices": []}, "without choices"),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "it broke off"}}]},
         "it broke off"),
        ([1, 2], "HTTP 200"),
        ("null", "HTTP 200"),
    ],
)  # fmt: skip
async def test_an_answer_without_an_answer_is_a_failure_with_words(tmp_path, body, words):
    async with ChatServer(lambda _: (200, body)) as server:
        (correction,), _ = await corrected(tmp_path, server, retries=0)
    assert {step.outcome for step in correction.steps} == {Outcome.FAILED} and words in correction.steps[0].detail


async def test_no_credit_in_an_answer_of_status_200_ends_the_stage(tmp_path):
    async with ChatServer(lambda _: (200, {"error": {"message": "Insufficient credits", "code": 402}})) as server:
        with pytest.raises(UserError, match="HTTP 402: Insufficient credits"):
            await corrected(tmp_path, server)
    assert len(server.statuses) == 1


@pytest.mark.parametrize("reason", ["eos", "", None, "STOP", "tool_calls"])
async def test_any_reason_to_end_leaves_the_text_as_it_is(tmp_path, reason):
    def answer(body):
        message = {"role": "assistant", "content": plausible(body)}
        return 200, {"id": "c", "choices": [{"index": 0, "finish_reason": reason, "message": message}], "usage": None}

    async with ChatServer(answer) as server:
        corrections, _ = await corrected(tmp_path, server)
    assert all_corrected(corrections)


async def test_an_answer_in_parts_is_read_without_its_thoughts(tmp_path):
    def parts(body):
        return [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
            {"type": "text", "text": plausible(body)},
        ]

    async with ChatServer(content=parts) as server:
        corrections, _ = await corrected(tmp_path, server)
    assert all_corrected(corrections)


# --- counts


COUNTS = {
    "none": None,
    "nulls": {"prompt_tokens": None, "completion_tokens": None},
    "strings": {"prompt_tokens": "many", "completion_tokens": "80"},
    "negative": {"prompt_tokens": -1, "completion_tokens": -5, "prompt_tokens_details": {"cached_tokens": -3}},
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0},
    "a list": [1],
    "booleans": {"prompt_tokens": True, "completion_tokens": False, "prompt_tokens_details": "none"},
}


@pytest.mark.parametrize("name", COUNTS)
async def test_tokens_that_nobody_counted_are_estimated_booked_and_bounded_by_the_budget(tmp_path, name):
    episodes, settings = wandering(30), {"budget_dollars": 0.05, "max_tokens": 500}
    async with ChatServer(usage=COUNTS[name]) as server:
        corrections, totals = await corrected(tmp_path / "a", server, episodes, **settings)
    async with ChatServer() as counting:
        await corrected(tmp_path / "b", counting, episodes, **settings)
    assert 0 < totals["dollars"] <= 0.05 and sum("counts no tokens" in note for note in totals["notes"]) == 1
    outcomes = [step.outcome for c in corrections for step in c.steps]
    assert Outcome.CORRECTED in outcomes and Outcome.BUDGET in outcomes, "the budget holds without a count"
    tokens = sum(len(asked(body)) for body in server.bodies) / 4  # about four characters a token
    assert totals["input"] >= tokens, "an estimate errs on the dear side"


async def test_a_count_that_is_there_is_kept_beside_one_that_is_not(tmp_path):
    usage = {"prompt_tokens": 900, "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": 1000}}
    async with ChatServer(usage=usage) as server:
        await corrected(tmp_path, server)
    (row,) = read_ledger(tmp_path)
    assert (row["input"], row["cache_read"]) == (0, 900) and row["output"] > 20


# --- what an answer may look like


@pytest.mark.parametrize("per", ["episode", "step"])
@pytest.mark.parametrize(
    "around",
    [
        "```json\n{}\n```",
        "Sure, here is the correction:\n\n{}\n\nLet me know.",
        '<think>First {{"reason": "x", "action": "leave"}}, no.</think>\n{}',
        "The thought's beginning was cut off by the template.</think>{}",
    ],
)
async def test_one_step_and_all_steps_are_read_alike(tmp_path, per, around):
    async with ChatServer(content=lambda body: around.format(plausible(body))) as server:
        corrections, totals = await corrected(tmp_path, server, per=per)
    assert all_corrected(corrections) and totals["calls"]["done"] == (2 if per == "step" else 1), "no repair was needed"


@pytest.mark.parametrize("per", ["episode", "step"])
async def test_commas_too_many_are_overlooked(tmp_path, per):
    async with ChatServer(content=lambda body: plausible(body).replace("}", ",}").replace("]", ",]")) as server:
        corrections, totals = await corrected(tmp_path, server, per=per)
    assert all_corrected(corrections) and totals["calls"]["done"] == (2 if per == "step" else 1)


@pytest.mark.parametrize("escaped", [True, False])
async def test_half_a_surrogate_pair_costs_nothing(tmp_path, escaped):
    broken = lambda body: plausible(body).replace("small", "sm\\ud83dall" if escaped else "sm\ud83dall")  # noqa: E731
    async with ChatServer(content=broken) as server:
        corrections, _ = await corrected(tmp_path, server)
        again, _ = await corrected(tmp_path, server)
    assert all_corrected(corrections) and len(server.statuses) == 1
    reason = corrections[0].steps[0].reason
    assert reason == "Drawers often hold sm\ufffdall things." and again[0].steps == corrections[0].steps
    reason.encode()


async def test_what_cannot_be_encoded_in_a_prompt_costs_nothing(tmp_path):
    episode = play(["leave", "dance"], reason="I \ud83d try.")
    async with ChatServer() as server:
        corrections, _ = await corrected(tmp_path, server, [episode])
    assert all_corrected(corrections)


async def test_an_answer_nested_without_end_is_only_unreadable(tmp_path):
    async with ChatServer(content=lambda body: "[" * 200_000) as server:
        (correction,), _ = await corrected(tmp_path, server)
    assert {step.outcome for step in correction.steps} == {Outcome.UNPARSED}
