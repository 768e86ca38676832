"""Claude through Anthropic's SDK: a Request as message parameters, and the SDK's errors as CallFailed.

The SDK retries (408, 409, 429, 5xx, cut connections, time-outs) and honours `retry-after`; nothing here retries again. The
API knows no idempotency key, so what protects from paying twice is the store. Temperature is left alone: current models
think adaptively and refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from itertools import groupby
from typing import Any

from leap_ray.teachers.calls import Attempts, CallFailed, Reply, Request, Stop, Turn, printable, without
from leap_ray.teachers.forms import Form
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.refusals import refusal_of
from leap_ray.teachers.usage import complete, count, part
from leap_ray.teachers.wire import BACKOFF, Adapter

STOPS = {"max_tokens": Stop.LENGTH, "model_context_window_exceeded": Stop.LENGTH, "refusal": Stop.REFUSAL}
_call: ContextVar[tuple[Attempts, Request, Form] | None] = ContextVar("call", default=None)


def message_params(request: Request, form: Form) -> dict[str, Any]:
    """Parameters of the Messages API, the same in live and in batch mode."""
    config: dict[str, Any] = {}
    if (schema := form.schema(request)) is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    if request.effort is not None and form.effort:
        config["effort"] = request.effort
    prompt, sent = form.messages(request)
    system: dict[str, Any] = {"type": "text", "text": prompt}
    if request.cache_system and form.cache:
        system["cache_control"] = {"type": "ephemeral"}
    return {
        "model": request.model,
        "max_tokens": form.room(request),
        "system": [system],
        "messages": [
            {"role": role, "content": [_block(turn, form) for turn in turns]}
            for role, turns in groupby(sent, key=lambda turn: turn.role)
        ],
        **({"output_config": config} if config else {}),
    }


def _block(turn: Turn, form: Form) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": turn.text}
    return {**block, "cache_control": {"type": "ephemeral"}} if turn.cached and form.cache else block


def reply_of(message: Mapping[str, Any], request: Request) -> Reply:
    """A Reply from the API's Message, as plain values."""
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    parts = [block.get("text") for block in blocks if part(block, "type") == "text"]
    text = printable("".join(text for text in parts if isinstance(text, str)))
    stop = STOPS.get(str(message.get("stop_reason")), Stop.END)
    used = message.get("usage")
    names = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    usage, estimated = complete(request, text, stop, *(count(part(used, name)) for name in names))
    return Reply(text, stop, usage, str(message.get("id") or ""), estimated=estimated)


class ClaudeProvider:
    """One asynchronous client, whose every HTTP attempt teaches the gate."""

    def __init__(self, gate: Gate, *, key: str, base_url: str | None, timeout: float, max_retries: int) -> None:
        import anthropic

        self._gate = gate
        self._key = key
        self._errors = anthropic
        self._limit = (timeout + BACKOFF) * (max_retries + 1)
        self._adapter = Adapter(anthropic, key, chat=False)
        self.notes = self._adapter.notes
        self.client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=base_url,
            timeout=timeout,
            max_retries=max_retries,
            middleware=[self._watch],
            # A redirect would take the key's header to wherever it points.
            http_client=anthropic.DefaultAsyncHttpxClient(timeout=timeout, follow_redirects=False),
        )

    async def call(self, request: Request, attempts: Attempts) -> Reply:
        """One message. Raises CallFailed once the SDK gave up."""
        async with self._adapter.limit(self._limit, attempts):
            return await self._adapter.send(request, lambda form: self._once(request, attempts, form))

    async def _once(self, request: Request, attempts: Attempts, form: Form) -> Reply:
        form.check_room(request)
        token = _call.set((attempts, request, form))
        try:
            response = await self.client.messages.with_raw_response.create(**message_params(request, form))
            reply = reply_of(self._adapter.body(response.http_response.text), request)
        except Exception as error:
            if not isinstance(error, self._errors.APIError | CallFailed):  # an answer came, and could not be read
                attempts.undelivered += 1
            raise
        finally:
            _call.reset(token)
        if reply.estimated:
            self._adapter.note(f"{request.model}: the server counts no tokens; they are estimated from characters")
        return reply

    # --- Message Batches

    async def create_batch(self, requests: Sequence[Request]) -> str:
        """Submit a batch and return its name. Not retried by the SDK: a repeated creation would be paid twice.

        Raises CallFailed; `unsure` tells whether the batch may exist nevertheless.
        """
        form = self._adapter.form
        entries: Any = [{"custom_id": request.key, "params": message_params(request, form)} for request in requests]
        try:
            batch = await self.client.with_options(max_retries=0).messages.batches.create(requests=entries)
            return batch.id
        except self._errors.APIStatusError as error:
            failed = self._adapter.failure(error)
            failed.unsure = error.status_code >= 500 and error.status_code != 529
            raise failed from None
        except Exception as error:
            failed = self._adapter.failure(error)
            failed.unsure = True
            raise failed from None

    async def batch_ended(self, name: str) -> bool:
        """Whether its results can be collected. Raises CallFailed."""
        try:
            return (await self.client.messages.batches.retrieve(name)).processing_status == "ended"
        except Exception as error:
            raise self._adapter.failure(error) from None

    async def batch_results(self, name: str, requests: Mapping[str, Request]) -> dict[str, Reply | str]:
        """Replies by request key; for a request without one, why: "expired", "canceled", or the error's words.

        `requests`: those that are known, by key; their tokens can be estimated where the provider counts none.
        """
        results: dict[str, Reply | str] = {}
        try:
            async for line in await self.client.messages.batches.results(name):
                request = requests.get(line.custom_id, Request("", "", (), 0))
                result = _batch_reply(line.result.to_dict(mode="json", warnings=False), request)
                results[line.custom_id] = without(self._key, result) if isinstance(result, str) else result
        except Exception as error:
            raise self._adapter.failure(error) from None
        return results

    def adapt(self, words: str, request: Request, form: Form) -> bool:
        """Whether a request that failed inside a batch, sent in this form, may succeed in the form of the next one."""
        return self._adapter.adapt(form, refusal_of(400, words), request)

    @property
    def form(self) -> Form:
        """The form in which requests are sent now."""
        return self._adapter.form

    async def batches_since(self, moment: float) -> list[tuple[str, int]]:
        """(name, number of requests) of the batches made since this time, oldest first."""
        recent = []
        try:
            async for batch in self.client.messages.batches.list(limit=100):
                if batch.created_at.timestamp() < moment:
                    break
                counts = batch.request_counts
                size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                recent.append((batch.id, size))
        except Exception as error:
            raise self._adapter.failure(error) from None
        return recent[::-1]

    async def close(self) -> None:
        await self.client.close()

    async def _watch(self, request: Any, call_next: Any) -> Any:
        """Runs once per HTTP attempt, inside the SDK's own retries."""
        attempts, asked, form = _call.get() or (Attempts(), None, None)
        if attempts.sent:
            attempts.check_repeat()
            await self._gate.calm()
        attempts.sent += 1
        sent_at = self._gate.now()
        try:
            response = await call_next(request)
            if asked is not None and form is not None:
                await self._adapter.heed(response.http_response, asked, form)
        except self._errors.APIConnectionError:
            attempts.undelivered += 1
            raise
        attempts.statuses.append(response.status_code)
        attempts.refused += response.status_code == 429
        self._gate.saw(response.status_code, response.headers, sent_at)
        return response


def _batch_reply(result: Mapping[str, Any], request: Request) -> Reply | str:
    if result.get("type") == "succeeded":
        return reply_of(result.get("message") or {}, request)
    error = part(part(result, "error"), "error")
    if isinstance(error, dict):
        return f"{error.get('type')}: {error.get('message')}"[:500]
    return str(result.get("type"))
