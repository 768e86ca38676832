"""Any OpenAI-compatible server as a teacher: a model of one's own behind vLLM, or a hosted one.

Structured output goes out as `response_format` with a JSON schema. A server that does not know that answers with an error, which
is reported as it is. Its prices are the configuration's; a server of one's own is free (`prices: {input: 0, output: 0}`).
"""

from __future__ import annotations

import os
from typing import Any

from leap_ray.teachers.calls import Attempts, CallFailed, Reply, Request, Stop, Usage, without
from leap_ray.teachers.rate import Gate

STOPS = {"stop": Stop.END, "length": Stop.LENGTH, "content_filter": Stop.REFUSAL}


def chat_params(request: Request) -> dict[str, Any]:
    """Parameters of a chat completion. Consecutive turns of one role become one message."""
    messages = [{"role": "system", "content": request.system}]
    for turn in request.turns:
        if messages[-1]["role"] == turn.role:
            messages[-1]["content"] += f"\n\n{turn.text}"
        else:
            messages.append({"role": turn.role, "content": turn.text})
    params: dict[str, Any] = {"model": request.model, "messages": messages, "max_tokens": request.max_tokens}
    if request.schema is not None:
        schema = {"name": "correction", "schema": request.schema, "strict": True}
        params["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.effort is not None:
        params["reasoning_effort"] = request.effort
    return params


class OpenAIProvider:
    """One asynchronous client of the `openai` SDK, which alone retries."""

    def __init__(self, gate: Gate, *, key: str, base_url: str | None, timeout: float, max_retries: int) -> None:
        import httpx
        import openai

        self._gate = gate
        self._key = key
        self._errors = openai
        self._attempts: dict[str, Attempts] = {}
        hooks: Any = {"request": [self._sent], "response": [self._answered]}
        http = openai.DefaultAsyncHttpxClient(timeout=httpx.Timeout(timeout), event_hooks=hooks)
        self.client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries, http_client=http
        )

    async def call(self, request: Request, attempts: Attempts) -> Reply:
        """One chat completion. Raises CallFailed once the SDK gave up."""
        self._attempts[request.key] = attempts
        unreadable = False
        try:
            headers = {"x-leap-call": request.key}
            return _reply(await self.client.chat.completions.create(**chat_params(request), extra_headers=headers))
        except Exception as error:
            unreadable = not isinstance(error, self._errors.APIStatusError | self._errors.APIConnectionError)
            raise self._failure(error) from None
        finally:
            del self._attempts[request.key]
            attempts.undelivered = attempts.sent - len(attempts.statuses) + unreadable

    async def close(self) -> None:
        await self.client.close()

    async def _sent(self, request: Any) -> None:
        if attempts := self._attempts.get(request.headers.get("x-leap-call", "")):
            attempts.undelivered = attempts.sent - len(attempts.statuses)
            attempts.check_repeat()
            attempts.sent += 1

    async def _answered(self, response: Any) -> None:
        if attempts := self._attempts.get(response.request.headers.get("x-leap-call", "")):
            await response.aread()  # a body that is cut is no answer
            attempts.statuses.append(response.status_code)
            attempts.refused += response.status_code == 429
        self._gate.saw(response.status_code, response.headers)

    def _failure(self, error: Exception) -> CallFailed:
        """The SDK's error in one line without headers and without the key."""
        if isinstance(error, self._errors.APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            words = body.get("message") or "no message"
            fatal = error.status_code in (401, 402, 403, 404)
            return CallFailed(without(self._key, f"HTTP {error.status_code}: {words}")[:500], fatal=fatal)
        return CallFailed(without(self._key, f"{type(error).__name__}: {error}")[:500])


def _reply(completion: Any) -> Reply:
    choice = completion.choices[0]
    used = completion.usage
    cached = getattr(getattr(used, "prompt_tokens_details", None), "cached_tokens", 0) or 0
    usage = Usage(used.prompt_tokens - cached, used.completion_tokens, 0, cached) if used else Usage()
    text = choice.message.content or ""
    stop = Stop.REFUSAL if getattr(choice.message, "refusal", None) else STOPS.get(choice.finish_reason, Stop.FAILED)
    return Reply(
        text, stop, usage, completion.id, "" if stop is not Stop.FAILED else f"stopped by {choice.finish_reason}"
    )


def optional_key(variable: str) -> str:
    """The key out of the environment, or a filler for servers that want none."""
    return os.environ.get(variable, "").strip() or "none"
