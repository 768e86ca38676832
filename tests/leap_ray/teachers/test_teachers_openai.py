"""An OpenAI-compatible server as a teacher: the real `openai` SDK against a local server."""

import json

import pytest
from aiohttp import web
from corridor import play
from desks import privileged

from leap_ray.config import TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.desk import Desk
from leap_ray.teachers.openai_compatible import OpenAIProvider
from leap_ray.teachers.prices import prices_of
from leap_ray.teachers.prompted import PromptedTeacher
from leap_ray.teachers.rate import Gate
from leap_ray.teachers.store import Store, read_ledger
from leap_ray.types import Outcome

ANSWER = {
    "summary": "It danced.",
    "steps": [
        {"step": 1, "reason": "Drawers often hold small things.", "action": "GO TO DRAWER 2"},
        {"step": 2, "reason": "Dancing did nothing.", "action": "go to shelf 1"},
    ],
}


class Chat:
    """Answers chat completions with the statuses it is given, then with 200."""

    def __init__(self, *statuses: int, finish: str = "stop") -> None:
        self.statuses, self.finish, self.bodies = list(statuses), finish, []

    async def __aenter__(self):
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", self.handle)])
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    async def handle(self, request):
        self.bodies.append(await request.json())
        if self.statuses:
            status = self.statuses.pop(0)
            body = {"error": {"message": f"status {status}", "type": "t"}}
            return web.json_response(body, status=status, headers={"retry-after-ms": "10"})
        choice = {
            "index": 0,
            "finish_reason": self.finish,
            "message": {"role": "assistant", "content": json.dumps(ANSWER)},
        }
        usage = {
            "prompt_tokens": 900,
            "completion_tokens": 80,
            "total_tokens": 980,
            "prompt_tokens_details": {"cached_tokens": 100},
        }
        plain = {
            "id": "c1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
        return web.json_response(plain)


def teacher(folder, server, **settings):
    config = TeacherConfig(kind="openai", model="m", prices={"input": 1, "output": 2}, **settings)
    gate = Gate(4)
    provider = OpenAIProvider(gate, key="none", base_url=server.url, timeout=20, max_retries=2)
    desk = Desk(provider, Store(folder), prices_of("m", config.prices), gate)
    return PromptedTeacher(desk, config, {"corridor": "A corridor."})


async def corrected(folder, server, **settings):
    episode, made = play(["leave", "dance"]), teacher(folder, server, **settings)
    try:
        return await made.correct(episode, privileged(episode))
    finally:
        await made.close()


async def test_it_corrects_with_structured_output_and_counts_its_tokens(tmp_path):
    async with Chat() as server:
        correction = await corrected(tmp_path, server, effort="low")
    assert [s.action for s in correction.steps] == ["go to drawer 2", "go to shelf 1"]
    (body,) = server.bodies
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["summary", "steps"]
    assert body["messages"][0]["role"] == "system" and body["reasoning_effort"] == "low"
    (row,) = read_ledger(tmp_path)
    assert (row["input"], row["cache_read"], row["output"]) == (800, 100, 80)
    assert correction.dollars == pytest.approx((800 + 100 * 0.1 + 80 * 2) / 1e6)


async def test_the_sdk_retries_and_attempts_are_counted(tmp_path):
    async with Chat(500, 429) as server:
        correction = await corrected(tmp_path, server)
    assert correction.steps[0].outcome is Outcome.CORRECTED
    (row,) = read_ledger(tmp_path)
    assert (row["attempts"], row["refused"], row["undelivered"]) == (3, 1, 0)


async def test_failures_are_outcomes_and_a_wrong_key_stops_the_run(tmp_path):
    async with Chat(500, 500, 500) as server:
        correction = await corrected(tmp_path / "a", server)
    assert {s.outcome for s in correction.steps} == {Outcome.FAILED} and "HTTP 500" in correction.steps[0].detail
    async with Chat(finish="content_filter") as server:
        correction = await corrected(tmp_path / "b", server)
    assert {s.outcome for s in correction.steps} == {Outcome.REFUSED}
    async with Chat(401) as server:
        with pytest.raises(UserError, match="HTTP 401: status 401"):
            await corrected(tmp_path / "c", server)
