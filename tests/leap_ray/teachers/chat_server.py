"""A local server that speaks the chat-completions protocol, with whatever quirks a test gives it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

Quirk = Callable[[dict[str, Any]], tuple[int, Any] | None]  # of a request's body: (status, body) in place of an answer
USAGE = {"prompt_tokens": 900, "completion_tokens": 80, "total_tokens": 980}


def openai_error(
    message: str, *, code: Any = None, param: str | None = None, kind: str = "invalid_request_error"
) -> dict:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class ChatServer:
    """Refuses by the first quirk that says so, answers else. Keeps the bodies, headers and statuses of all requests."""

    def __init__(self, *quirks: Quirk, usage: Any = USAGE, content: Callable[[dict], Any] | None = None) -> None:
        self.quirks, self.usage, self.content = quirks, usage, content or plausible
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []

    async def __aenter__(self) -> ChatServer:
        app = web.Application(client_max_size=2**26)
        app.add_routes([web.post("/v1/chat/completions", self.handle)])
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        for quirk in self.quirks:
            if (refusal := quirk(body)) is not None:
                self.statuses.append(refusal[0])
                text = refusal[1] if isinstance(refusal[1], str) else json.dumps(refusal[1])
                kind = "text/html" if text.startswith("<") else "application/json"
                return web.Response(status=refusal[0], text=text, content_type=kind, headers={"retry-after-ms": "10"})
        self.statuses.append(200)
        message = {"role": "assistant", "content": self.content(body)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        plain = {"id": "c1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        if self.usage is not None:
            plain["usage"] = self.usage
        return web.json_response(plain)

    @property
    def refused(self) -> int:
        """Requests that were answered with an error."""
        return sum(status != 200 for status in self.statuses)


def asked(body: dict[str, Any]) -> str:
    """All that a request says."""
    return "\n".join(str(message["content"]) for message in body["messages"])


def plausible(body: dict[str, Any]) -> str:
    """A correction of every step, or of the one that is asked about: go and look at drawer 2."""
    text, entry = asked(body), {"reason": "Drawers often hold small things.", "action": "go to drawer 2"}
    if "Correct step" in text:
        return json.dumps(entry)
    numbers = [int(n) for n in re.findall(r'<step number="(\d+)">', text)]
    return json.dumps({"summary": "It wandered.", "steps": [{"step": n, **entry} for n in numbers]})
