"""A local server that speaks Anthropic's Messages and Message Batches protocol, for tests and benchmarks that must not pay.

It is the protocol, not the model: it checks requests as the API does (key, roles, schema subset, cache breakpoints), counts
tokens, keeps a prompt cache, enforces rate limits with the API's headers, bills, and can be told to fail in every way a
network and a model fail. Its answers come from a few rules over the words of our own prompts (`plausible`): well-formed,
seldom wise.

    python -m experiments.benchmarks.anthropic_server --port 8765 --faults 0.3
    ANTHROPIC_API_KEY=test leap-ray run experiments/claude.yaml --teacher.base-url http://127.0.0.1:8765

`GET /_stats` returns the server's own books. What it assumes where the API does not say: an answer that could not be delivered
(cut, timed out, garbled) is not billed, unless `bill_undelivered`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from experiments.benchmarks.anthropic_answers import plausible, spoil
from experiments.benchmarks.anthropic_books import (
    BATCH,
    CONTENT,
    TRANSPORT,
    Books,
    Faults,
    Limits,
    Meter,
    body_key,
    table_price,
)
from experiments.benchmarks.anthropic_checks import BadRequest, check_request, count_tokens, prefixes


@dataclass
class Batch:
    """One Message Batch."""

    id: str
    requests: list[dict[str, Any]]
    created: datetime
    ends_at: float
    results: list[dict[str, Any]] | None = None


class AnthropicServer:
    """Start it with `async with AnthropicServer(...) as server`, then point a client at `server.url`."""

    def __init__(
        self,
        *,
        faults: Faults | None = None,
        limits: Limits | None = None,
        latency: tuple[float, float] = (0.0, 0.0),
        hang: float = 30.0,
        batch_seconds: float = 1.0,
        batch_faults: float = 0.0,
        bill_undelivered: bool = False,
        retry_after: float = 0.05,
        key: str = "test",
        price: Callable[[str, dict[str, int], bool], float] | None = None,
        answer: Callable[[dict[str, Any]], str] = plausible,
        refuse: Callable[[dict[str, Any]], BadRequest | None] = lambda _: None,
        counts: Callable[[dict[str, Any]], Any] = lambda usage: usage,
    ) -> None:
        self.faults, self.batch_faults = faults or Faults(), Faults(batch_faults, BATCH, 1)
        limits = limits or Limits()
        self.meters = {n: Meter(getattr(limits, n), limits.burst) for n in ("requests", "input", "output")}
        self.latency, self.hang, self.batch_seconds = latency, hang, batch_seconds
        self.bill_undelivered, self.retry_after, self.key = bill_undelivered, retry_after, key
        self.price = price or table_price
        self.answer = answer
        self.refuse = refuse  # of a request's body: the error that the API answers with, live and in batches
        self.counts = counts  # of a message's usage: what is told of it
        self.books = Books()
        self.batches: dict[str, Batch] = {}
        self.url = ""
        self._tries: Counter[str] = Counter()
        self._cache: dict[str, float] = {}
        self._runner: Any = None

    async def start(self, port: int = 0) -> str:
        """Listen on a local port; returns the URL."""
        app = web.Application(client_max_size=256 * 1024**2)
        app.add_routes(
            [
                web.post("/v1/messages", self._messages),
                web.post("/v1/messages/count_tokens", self._count),
                web.post("/v1/messages/batches", self._create_batch),
                web.get("/v1/messages/batches", self._list_batches),
                web.get("/v1/messages/batches/{id}", self._get_batch),
                web.get("/v1/messages/batches/{id}/results", self._batch_results),
                web.get("/_stats", self._stats),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self.url

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> AnthropicServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- Messages

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        self.books.attempts += 1
        try:
            body = await self._checked(request)
        except BadRequest as error:
            return self._error(error.status, error.kind, str(error))
        key = body_key(body)
        usage, seeds = self._usage(body)
        self._tries[key] += 1
        fault = self.faults.of(key, self._tries[key])
        if (wait := self._limited(usage)) > 0:
            return self._refuse(wait)
        if fault:
            self.books.failures[fault] += 1
        if fault in TRANSPORT:
            return await self._fail(request, fault, key, body, usage)
        await asyncio.sleep(random.uniform(*self.latency) + 0.002)  # time to notice a client that has left
        if request.transport is None or request.transport.is_closing():
            self.books.failures["client went away"] += 1
            self._undelivered(key, body, usage, "")
            raise web.HTTPRequestTimeout()
        message = self._message(body, usage, fault)
        self._charge(key, body, message["usage"], batch=False)
        self._remember(seeds)
        return web.json_response({**message, "usage": self.counts(message["usage"])}, headers=self._headers())

    async def _fail(
        self, request: web.Request, fault: str, key: str, body: dict[str, Any], usage: dict[str, int]
    ) -> web.StreamResponse:
        if fault == "429":
            return self._refuse(self.retry_after)
        if fault in ("500", "529"):
            kind = "api_error" if fault == "500" else "overloaded_error"
            return self._error(int(fault), kind, "Overloaded" if fault == "529" else "Internal server error")
        text = self.answer(body)
        self._undelivered(key, body, usage, text)
        if fault == "timeout":
            await asyncio.sleep(self.hang)
            return self._error(500, "api_error", "too late")
        if fault == "garbled":
            return web.Response(text='{"id": "msg_1", "content": [{"te', content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "5000"})
        await response.prepare(request)
        await response.write(b'{"id": "msg_1", "type": "mess')
        if request.transport is not None:
            request.transport.close()
        return response

    def _message(self, body: dict[str, Any], usage: dict[str, int], fault: str | None) -> dict[str, Any]:
        text, stop = spoil(self.answer(body), fault, body)
        output = count_tokens(text)
        if output > body["max_tokens"]:
            text, stop, output = text[: body["max_tokens"] * 3], "max_tokens", body["max_tokens"]
        return {
            "id": f"msg_{random.getrandbits(64):016x}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {**usage, "output_tokens": output},
        }

    async def _checked(self, request: web.Request) -> dict[str, Any]:
        self._authorise(request)
        try:
            body = await request.json()
        except json.JSONDecodeError:
            raise BadRequest("The request body is not valid JSON") from None
        self._check(body)
        return body

    def _check(self, body: dict[str, Any]) -> None:
        check_request(body)
        if error := self.refuse(body):
            raise error

    def _authorise(self, request: web.Request) -> None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key not in (bearer, request.headers.get("x-api-key")):
            raise BadRequest("invalid API key", 401, "authentication_error")
        if "anthropic-version" not in request.headers:
            raise BadRequest("anthropic-version: header is required")

    # --- tokens, limits, money

    def _usage(self, body: dict[str, Any]) -> tuple[dict[str, int], list[str]]:
        """Token counts by the prompt cache's state, and the prefixes this request will leave in it."""
        marks, total = prefixes(body)
        now = time.monotonic()
        read = max((size for name, size in marks if self._cache.get(name, 0) > now), default=0)
        last = max((size for _, size in marks), default=0)
        write = max(0, last - read)
        counts = {
            "input_tokens": total - read - write,
            "cache_creation_input_tokens": write,
            "cache_read_input_tokens": read,
        }
        return counts, [name for name, _ in marks]

    def _remember(self, seeds: list[str]) -> None:
        for name in seeds:
            self._cache[name] = time.monotonic() + 300

    def _limited(self, usage: dict[str, int]) -> float:
        """Seconds to wait, or 0 with the request's share taken."""
        tokens = usage["input_tokens"] + usage["cache_creation_input_tokens"]
        wait = max(self.meters["requests"].short(1), self.meters["input"].short(tokens), self.meters["output"].short(1))
        if wait <= 0:
            self.meters["requests"].take(1)
            self.meters["input"].take(tokens)
        return wait

    def _refuse(self, wait: float) -> web.Response:
        self.books.refused += 1
        response = self._error(429, "rate_limit_error", "This request would exceed your organization's rate limit")
        response.headers["retry-after"] = f"{wait:.2f}"
        return response

    def _headers(self) -> dict[str, str]:
        headers = {"request-id": f"req_{random.getrandbits(64):016x}"}
        for name, label in (("requests", "requests"), ("input", "input-tokens"), ("output", "output-tokens")):
            meter = self.meters[name]
            meter.refill()
            full = (meter.limit * meter.burst - meter.level) / (meter.limit / 60)
            headers[f"anthropic-ratelimit-{label}-limit"] = str(int(meter.limit))
            headers[f"anthropic-ratelimit-{label}-remaining"] = str(max(0, int(meter.level)))
            headers[f"anthropic-ratelimit-{label}-reset"] = _stamp(datetime.now(UTC) + timedelta(seconds=max(0, full)))
        return headers

    def _error(self, status: int, kind: str, message: str) -> web.Response:
        body = {"type": "error", "error": {"type": kind, "message": message}}
        return web.json_response(body, status=status, headers=self._headers())

    def _charge(self, key: str, body: dict[str, Any], usage: dict[str, int], *, batch: bool) -> None:
        dollars = self.price(body["model"], usage, batch)
        self.books.billed.append({"key": key, "dollars": dollars, "batch": batch, **usage})
        if not batch:
            self.meters["output"].take(usage["output_tokens"])

    def _undelivered(self, key: str, body: dict[str, Any], usage: dict[str, int], text: str) -> None:
        whole = {**usage, "output_tokens": count_tokens(text)}
        entry = {"key": key, "dollars": self.price(body["model"], whole, False)}
        self.books.undelivered.append(entry)
        if self.bill_undelivered:
            self._charge(key, body, whole, batch=False)

    async def _count(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"input_tokens": prefixes(body)[1]})

    async def _stats(self, _: web.Request) -> web.Response:
        meters = {name: meter.taken for name, meter in self.meters.items()}
        return web.json_response({**self.books.stats(), "taken": meters, "batches": len(self.batches)})

    # --- Batches

    async def _create_batch(self, request: web.Request) -> web.Response:
        try:
            self._authorise(request)
            requests = (await request.json()).get("requests") or []
            if not requests:
                raise BadRequest("requests: at least one is needed")
            if len({entry["custom_id"] for entry in requests}) < len(requests):
                raise BadRequest("requests: custom_id must be unique")
            for entry in requests:
                if not 1 <= len(entry["custom_id"]) <= 64:
                    raise BadRequest("custom_id: must have 1 to 64 characters")
        except BadRequest as error:
            return self._error(error.status, error.kind, str(error))
        name = f"msgbatch_{random.getrandbits(80):020x}"
        ends = time.monotonic() + self.batch_seconds
        self.batches[name] = Batch(name, requests, datetime.now(UTC), ends)
        fault = self.faults.of(name, 1)
        if fault == "cut" and request.transport is not None:  # made, but its maker never hears of it
            request.transport.close()
        return web.json_response(self._batch_json(self.batches[name]))

    async def _list_batches(self, request: web.Request) -> web.Response:
        with contextlib.suppress(BadRequest):
            self._authorise(request)
            newest = sorted(self.batches.values(), key=lambda batch: batch.created, reverse=True)
            if after := request.query.get("after_id"):
                names = [batch.id for batch in newest]
                newest = newest[names.index(after) + 1 :] if after in names else []
            limit = int(request.query.get("limit", 20))
            data = [self._batch_json(batch) for batch in newest[:limit]]
            first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
            page = {"data": data, "has_more": len(newest) > limit, "first_id": first, "last_id": last}
            return web.json_response(page)
        return self._error(401, "authentication_error", "invalid API key")

    async def _get_batch(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return self._error(404, "not_found_error", "no such batch")
        return web.json_response(self._batch_json(batch))

    async def _batch_results(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None or time.monotonic() < batch.ends_at:
            return self._error(404, "not_found_error", "no results yet")
        lines = "".join(json.dumps(result) + "\n" for result in self._process(batch))
        return web.Response(text=lines, content_type="application/x-jsonl")

    def _process(self, batch: Batch) -> list[dict[str, Any]]:
        """Answer and bill a batch, once."""
        if batch.results is None:
            batch.results = [self._batch_result(entry) for entry in batch.requests]
            random.Random(batch.id).shuffle(batch.results)  # results come in no particular order
        return batch.results

    def _batch_result(self, entry: dict[str, Any]) -> dict[str, Any]:
        body, name = entry["params"], entry["custom_id"]
        key = body_key(body)
        self._tries[f"batch/{key}"] += 1
        fault = self.batch_faults.of(key, self._tries[f"batch/{key}"])
        content = self.faults.of(key, self._tries[f"batch/{key}"])
        content = content if content in CONTENT else None
        self.books.failures.update(filter(None, [fault or content]))
        if fault == "expired":
            return {"custom_id": name, "result": {"type": "expired"}}
        try:
            self._check(body)
        except BadRequest as error:
            return _errored(name, error.kind, str(error))
        if fault == "errored":
            return _errored(name, "api_error", "Internal server error")
        usage, seeds = self._usage(body)
        message = self._message(body, usage, content)
        self._charge(key, body, message["usage"], batch=True)
        self._remember(seeds)
        told = {**message, "usage": self.counts(message["usage"])}
        return {"custom_id": name, "result": {"type": "succeeded", "message": told}}

    def _batch_json(self, batch: Batch) -> dict[str, Any]:
        ended = time.monotonic() >= batch.ends_at
        results = self._process(batch) if ended else []
        kinds = Counter(result["result"]["type"] for result in results)
        counts = {kind: kinds[kind] for kind in ("succeeded", "errored", "expired")}
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {"processing": 0 if ended else len(batch.requests), "canceled": 0, **counts},
            "created_at": _stamp(batch.created),
            "expires_at": _stamp(batch.created + timedelta(hours=24)),
            "ended_at": _stamp(datetime.now(UTC)) if ended else None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{batch.id}/results" if ended else None,
        }


def _errored(name: str, kind: str, message: str) -> dict[str, Any]:
    error = {"type": "error", "error": {"type": kind, "message": message}}
    return {"custom_id": name, "result": {"type": "errored", "error": error}}


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def serve(arguments: argparse.Namespace) -> None:
    faults = Faults(arguments.faults, seed=arguments.seed)
    limits = Limits(arguments.rpm, arguments.itpm, arguments.otpm)
    server = AnthropicServer(
        faults=faults,
        limits=limits,
        latency=(arguments.latency / 2, arguments.latency * 1.5),
        hang=arguments.hang,
        batch_seconds=arguments.batch_seconds,
        batch_faults=arguments.faults,
        key=arguments.key,
    )
    print(await server.start(arguments.port), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A local stand-in for the Messages API; see the module's text.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--faults", type=float, default=0.0, help="share of attempts that fail")
    parser.add_argument("--latency", type=float, default=0.2, help="mean seconds of an answer")
    parser.add_argument("--hang", type=float, default=30.0, help="seconds that a timed-out request hangs")
    parser.add_argument("--rpm", type=float, default=4000)
    parser.add_argument("--itpm", type=float, default=2_000_000)
    parser.add_argument("--otpm", type=float, default=400_000)
    parser.add_argument("--batch-seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--key", default="test", help="the only key it accepts")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
