"""Any OpenAI-compatible server as a teacher: a model of one's own behind vLLM, or a hosted one.

Structured output goes out as `response_format` with a JSON schema. What a server does not know is left out of the next
request (`forms.py`). Its prices are the configuration's; a server of one's own is free (`prices: {input: 0, output: 0}`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from leap_ray.teachers.calls import Attempts, CallFailed, Reply, Request, Stop, printable
from leap_ray.teachers.forms import Form
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.refusals import refusal_of
from leap_ray.teachers.usage import complete, count, part
from leap_ray.teachers.wire import BACKOFF, Adapter

STOPS = {
    **dict.fromkeys(("length", "max_tokens", "model_length"), Stop.LENGTH),
    **dict.fromkeys(("content_filter", "refusal", "safety", "prohibited_content"), Stop.REFUSAL),
}  # any other reason: the text counts as it is
CALL = "x-leap-call"


def chat_params(request: Request, form: Form) -> dict[str, Any]:
    """Parameters of a chat completion. Consecutive turns of one role become one message."""
    system, turns = form.messages(request)
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        if messages and messages[-1]["role"] == turn.role:
            messages[-1]["content"] += f"\n\n{turn.text}"
        else:
            messages.append({"role": turn.role, "content": turn.text})
    params: dict[str, Any] = {"model": request.model, "messages": messages, form.limit: form.room(request)}
    if (schema := form.schema(request)) is not None:
        named = {"name": "correction", "schema": schema, **({"strict": True} if form.strict else {})}
        params["response_format"] = {"type": "json_schema", "json_schema": named}
    elif request.schema is not None and form.structure == "json object":
        params["response_format"] = {"type": "json_object"}
    if request.effort is not None and form.effort:
        params["reasoning_effort"] = request.effort
    return params


class OpenAIProvider:
    """One asynchronous client of the `openai` SDK, which alone retries."""

    def __init__(self, gate: Gate, *, key: str, base_url: str | None, timeout: float, max_retries: int) -> None:
        import openai

        self._gate = gate
        self._errors = openai
        self._limit = (timeout + BACKOFF) * (max_retries + 1)
        self._adapter = Adapter(openai, key, chat=True)
        self.notes = self._adapter.notes
        self._calls: dict[str, tuple[Attempts, Request, Form]] = {}
        hooks: Any = {"request": [self._sent], "response": [self._answered]}
        # A redirect would take the key's header to wherever it points.
        http = openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks=hooks, follow_redirects=False)
        self.client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries, http_client=http
        )

    async def call(self, request: Request, attempts: Attempts) -> Reply:
        """One chat completion. Raises CallFailed once the SDK gave up."""
        async with self._adapter.limit(self._limit, attempts):
            return await self._adapter.send(request, lambda form: self._once(request, attempts, form))

    async def _once(self, request: Request, attempts: Attempts, form: Form) -> Reply:
        form.check_room(request)
        name, unreadable = uuid.uuid4().hex, False
        self._calls[name] = (attempts, request, form)
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                **chat_params(request, form), extra_headers={CALL: name}
            )
            reply = _reply(self._adapter.body(raw.http_response.text), request)
        except Exception as error:
            unreadable = not isinstance(
                error, self._errors.APIStatusError | self._errors.APIConnectionError | CallFailed
            )
            raise
        finally:
            del self._calls[name]
            attempts.undelivered = attempts.sent - len(attempts.statuses) + unreadable
        if reply.estimated:
            self._adapter.note(f"{request.model}: the server counts no tokens; they are estimated from characters")
        return reply

    async def close(self) -> None:
        await self.client.close()

    async def _sent(self, request: Any) -> None:
        if call := self._calls.get(request.headers.get(CALL, "")):
            attempts, _, _ = call
            attempts.undelivered = attempts.sent - len(attempts.statuses)
            attempts.check_repeat()
            attempts.sent += 1

    async def _answered(self, response: Any) -> None:
        if call := self._calls.get(response.request.headers.get(CALL, "")):
            attempts, request, form = call
            await self._adapter.heed(response, request, form)  # reads the body: one that is cut is no answer
            attempts.statuses.append(response.status_code)
            attempts.refused += response.status_code == 429
        self._gate.saw(response.status_code, response.headers)


def _reply(completion: Mapping[str, Any], request: Request) -> Reply:
    """A Reply from the body of a chat completion. Raises CallFailed where it holds no answer."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None:
        raise CallFailed(refusal_of(200, str(completion.get("message") or "an answer without choices")).detail)
    message = choice.get("message")
    text = _text(part(message, "content"))
    reason = str(choice.get("finish_reason") or "").lower()
    stop = Stop.REFUSAL if part(message, "refusal") else STOPS.get(reason, Stop.END)
    usage, estimated = _usage(completion.get("usage"), request, text, stop)
    if choice.get("error") or reason == "error":  # OpenRouter: the provider behind it failed in the middle
        words = part(choice.get("error"), "message") or "stopped by an error"
        raise CallFailed(f"HTTP 200: {words}"[:500], paid=usage)
    return Reply(text, stop, usage, str(completion.get("id") or ""), estimated=estimated)


def _usage(used: Any, request: Request, text: str, stop: Stop) -> Any:
    prompt, output = count(part(used, "prompt_tokens")), count(part(used, "completion_tokens"))
    cached = count(part(part(used, "prompt_tokens_details"), "cached_tokens")) or 0
    if prompt is None:
        return complete(request, text, stop, None, output, 0, 0)
    cached = min(cached, prompt)
    return complete(request, text, stop, prompt - cached, output, 0, cached)


def _text(content: Any) -> str:
    """The answer's text: a string, or parts of which some may be thoughts."""
    if isinstance(content, list):
        content = "".join(
            str(part(item, "text") or "") for item in content if part(item, "type") in ("text", "output_text")
        )
    return printable(content) if isinstance(content, str) else ""
