"""Claude through Anthropic's SDK: a Request as message parameters, and the SDK's errors as CallFailed.

The SDK retries (408, 409, 429, 5xx, cut connections, time-outs) and honours `retry-after`; nothing here retries again. The
API knows no idempotency key, so what protects from paying twice is the store. Temperature is left alone: current models
think adaptively and refuse it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import ContextVar
from itertools import groupby
from typing import Any

from leap_ray.errors import UserError
from leap_ray.teachers.calls import Attempts, CallFailed, Reply, Request, Stop, Turn, Usage, without
from leap_ray.teachers.rate import Gate

STOPS = {"end_turn": Stop.END, "stop_sequence": Stop.END, "max_tokens": Stop.LENGTH, "refusal": Stop.REFUSAL}
_attempts: ContextVar[Attempts | None] = ContextVar("attempts", default=None)


def api_key(variable: str) -> str:
    """The key out of the environment. Raises UserError naming the variable, never its content."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"the teacher's key is missing: set the environment variable {variable}")
    return key


def message_params(request: Request) -> dict[str, Any]:
    """Parameters of the Messages API, the same in live and in batch mode."""
    config: dict[str, Any] = {}
    if request.schema is not None:
        config["format"] = {"type": "json_schema", "schema": request.schema}
    if request.effort is not None:
        config["effort"] = request.effort
    system: dict[str, Any] = {"type": "text", "text": request.system}
    if request.cache_system:
        system["cache_control"] = {"type": "ephemeral"}
    return {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "system": [system],
        "messages": [
            {"role": role, "content": [_block(turn) for turn in turns]}
            for role, turns in groupby(request.turns, key=lambda turn: turn.role)
        ],
        **({"output_config": config} if config else {}),
    }


def _block(turn: Turn) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": turn.text}
    return {**block, "cache_control": {"type": "ephemeral"}} if turn.cached else block


def reply_of(message: Any) -> Reply:
    """A Reply from the SDK's Message."""
    text = "".join(block.text for block in message.content if block.type == "text")
    used = message.usage
    usage = Usage(
        used.input_tokens, used.output_tokens, used.cache_creation_input_tokens or 0, used.cache_read_input_tokens or 0
    )
    stop = STOPS.get(message.stop_reason)
    if stop is None:
        return Reply(text, Stop.FAILED, usage, message.id, f"stopped by {message.stop_reason}")
    return Reply(text, stop, usage, message.id)


class ClaudeProvider:
    """One asynchronous client, whose every HTTP attempt teaches the gate."""

    def __init__(self, gate: Gate, *, key: str, base_url: str | None, timeout: float, max_retries: int) -> None:
        import anthropic

        self._gate = gate
        self._key = key
        self._errors = anthropic
        self.client = anthropic.AsyncAnthropic(
            api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries, middleware=[self._watch]
        )

    async def call(self, request: Request, attempts: Attempts) -> Reply:
        """One message. Raises CallFailed once the SDK gave up."""
        token = _attempts.set(attempts)
        try:
            return reply_of(await self.client.messages.create(**message_params(request)))
        except CallFailed:
            raise
        except Exception as error:
            if not isinstance(error, self._errors.APIError):  # an answer came, and could not be read
                attempts.undelivered += 1
            raise failure(error, self._key) from None
        finally:
            _attempts.reset(token)

    # --- Message Batches

    async def create_batch(self, requests: Sequence[Request]) -> str:
        """Submit a batch and return its name. Not retried by the SDK: a repeated creation would be paid twice.

        Raises CallFailed; `unsure` tells whether the batch may exist nevertheless.
        """
        entries: Any = [{"custom_id": request.key, "params": message_params(request)} for request in requests]
        try:
            batch = await self.client.with_options(max_retries=0).messages.batches.create(requests=entries)
            return batch.id
        except self._errors.APIStatusError as error:
            failed = failure(error, self._key)
            failed.unsure = error.status_code >= 500 and error.status_code != 529
            raise failed from None
        except Exception as error:
            failed = failure(error, self._key)
            failed.unsure = True
            raise failed from None

    async def batch_ended(self, name: str) -> bool:
        """Whether its results can be collected. Raises CallFailed."""
        try:
            return (await self.client.messages.batches.retrieve(name)).processing_status == "ended"
        except Exception as error:
            raise failure(error, self._key) from None

    async def batch_results(self, name: str) -> dict[str, Reply | str]:
        """Replies by request key; for a request without one, why: "expired", "canceled", or the error's words."""
        results: dict[str, Reply | str] = {}
        try:
            async for line in await self.client.messages.batches.results(name):
                result = _batch_reply(line.result)
                results[line.custom_id] = without(self._key, result) if isinstance(result, str) else result
        except Exception as error:
            raise failure(error, self._key) from None
        return results

    async def batches_since(self, moment: float) -> list[tuple[str, int]]:
        """(name, number of requests) of the batches made since this time, oldest first."""
        found = []
        try:
            async for batch in self.client.messages.batches.list(limit=100):
                if batch.created_at.timestamp() < moment:
                    break
                counts = batch.request_counts
                size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                found.append((batch.id, size))
        except Exception as error:
            raise failure(error, self._key) from None
        return found[::-1]

    async def close(self) -> None:
        await self.client.close()

    async def _watch(self, request: Any, call_next: Any) -> Any:
        """Runs once per HTTP attempt, inside the SDK's own retries."""
        attempts = _attempts.get() or Attempts()
        if attempts.sent:
            attempts.check_repeat()
            await self._gate.calm()
        attempts.sent += 1
        sent_at = self._gate.now()
        try:
            response = await call_next(request)
        except self._errors.APIConnectionError:
            attempts.undelivered += 1
            raise
        attempts.statuses.append(response.status_code)
        attempts.refused += response.status_code == 429
        self._gate.saw(response.status_code, response.headers, sent_at)
        return response


def _batch_reply(result: Any) -> Reply | str:
    if result.type == "succeeded":
        return reply_of(result.message)
    if result.type == "errored":
        error = result.error.error
        return f"{error.type}: {error.message}"[:500]
    return str(result.type)


def failure(error: Exception, key: str) -> CallFailed:
    """The SDK's error in one line without headers and without the key, which they hold."""
    import anthropic

    if isinstance(error, anthropic.APIStatusError):
        body: Any = error.body if isinstance(error.body, dict) else {}
        inner = body.get("error") if isinstance(body.get("error"), dict) else {}
        words = (inner or {}).get("message") or "no message"
        fatal = error.status_code in (401, 402, 403, 404)
        return CallFailed(without(key, f"HTTP {error.status_code}: {words}")[:500], fatal=fatal)
    return CallFailed(without(key, f"{type(error).__name__}: {error}")[:500])
