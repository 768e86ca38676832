"""A key goes to its provider, over a wire nobody reads, and into no process but the teacher's."""

import json
import os
import sys

import pytest
from chat_server import ChatServer
from corridor import play
from desks import privileged

from leap_ray.config import DomainConfig, RunConfig, TeacherConfig
from leap_ray.errors import UserError
from leap_ray.teachers.build import build_teacher, check_teacher, shared_answers
from leap_ray.teachers.keys import FILLER, check_key, read_key, withheld

FREE = {"input": 0.0, "output": 0.0}
ANTHROPIC, OPENAI = "sk-ant-SECRET", "sk-proj-SECRET"
CORRIDOR = [DomainConfig("corridor:Corridor")]


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", ANTHROPIC)
    monkeypatch.setenv("OPENAI_API_KEY", OPENAI)


def openai(**settings):
    return TeacherConfig(**{"kind": "openai", "model": "m", "prices": FREE, **settings})


async def sent_to(server, folder, **settings):
    """What the server was told of keys when a teacher asked it: through the sender, as a run does."""
    teacher = build_teacher(openai(base_url=server.url, **settings), CORRIDOR, folder)
    episode = play(["leave"])
    try:
        await teacher.correct(episode, privileged(episode))
    finally:
        await teacher.close()
    return json.dumps(server.headers[-1])


async def test_an_openai_compatible_server_never_sees_the_anthropic_key(tmp_path, monkeypatch):
    async with ChatServer() as server:
        told = await sent_to(server, tmp_path / "a")
        assert ANTHROPIC not in told and f"Bearer {OPENAI}" in told
        monkeypatch.delenv("OPENAI_API_KEY")
        told = await sent_to(server, tmp_path / "b")
        assert ANTHROPIC not in told and "SECRET" not in told
        monkeypatch.setenv("MY_SERVERS_KEY", "mine")
        assert "Bearer mine" in await sent_to(server, tmp_path / "c", api_key_env="MY_SERVERS_KEY")


async def test_the_sender_has_the_key_in_no_environment_and_no_file(tmp_path):
    async with ChatServer() as server:
        await sent_to(server, tmp_path)
        pid = json.loads((tmp_path / "sender.json").read_text())["pid"]
        for name in ("environ", "cmdline"):
            with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: ASYNC230
                assert b"SECRET" not in file.read(), name
    assert b"SECRET" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("variable, value", [("ANTHROPIC_API_KEY", ANTHROPIC), ("RENAMED", ANTHROPIC)])
def test_another_providers_key_is_refused_by_name_and_by_form(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    config = openai(base_url="https://gateway.example/v1", api_key_env=variable)
    with pytest.raises(UserError, match=f"{variable} holds the key of anthropic.com") as caught:
        check_teacher(config)
    assert "SECRET" not in str(caught.value)
    own = openai(base_url="https://api.anthropic.com/v1", api_key_env=variable)  # Anthropic's own compatible address
    assert check_key(own, read_key(own)) == value


def test_the_openai_key_is_not_sent_by_kind_claude():
    with pytest.raises(UserError, match=r"OPENAI_API_KEY holds the key of openai\.com"):
        check_teacher(TeacherConfig(kind="claude", api_key_env="OPENAI_API_KEY"))


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1",
        "http://127.0.0.1/v1",
        "http://127.9.9.9",
        "http://[::1]:8000/v1",
        "HTTPS://far.example/v1",
    ],
)
def test_this_machine_and_https_get_the_key(url):
    assert check_key(openai(base_url=url), OPENAI) == OPENAI


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8/v1",
        "http://[2001:4860:4860::8888]/v1",
        "http://[::ffff:8.8.8.8]/v1",
        "HTTP://1.1.1.1",
        "http://localhost.no-such-host.invalid/v1",
        "http://no-such-host.invalid/v1",
    ],
)
@pytest.mark.parametrize("kind", ["openai", "claude"])
def test_no_key_goes_to_a_foreign_host_in_the_clear(url, kind):
    for chosen in (False, True):
        config = TeacherConfig(kind=kind, model="claude-haiku-4-5", base_url=url, http_in_private_network=chosen)
        with pytest.raises(UserError, match=r"over http, readable on the way: use https"):
            check_key(config, "key")
    assert check_key(openai(base_url=url), "") == FILLER, "without a key there is nothing to read"


@pytest.mark.parametrize("url", ["http://10.1.2.3:8000/v1", "http://192.168.0.7/v1", "http://[fd00::1]/v1"])
def test_a_private_network_is_trusted_by_choice_alone(url):
    with pytest.raises(UserError, match=r"teacher\.http_in_private_network"):
        check_key(openai(base_url=url), OPENAI)
    assert check_key(openai(base_url=url, http_in_private_network=True), OPENAI) == OPENAI


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://x/v1", "http:///v1", "api.openai.com", "http://a:99999/", "http://[1"]
)
def test_what_is_no_address_is_said(url):
    with pytest.raises(UserError, match=r"teacher\.base_url: .* is no address"):
        check_key(openai(base_url=url), OPENAI)


def test_a_key_inside_the_address_is_refused_and_not_repeated():
    with pytest.raises(UserError, match=r"teacher\.base_url holds a user name") as caught:
        check_key(openai(base_url="https://me:SECRET@gateway.example/v1"), "")
    assert "SECRET" not in str(caught.value)


def test_the_sdks_own_variable_for_the_address_counts(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://8.8.8.8/v1")
    with pytest.raises(UserError, match=r"8\.8\.8\.8 over http"):
        check_teacher(openai())


def test_what_kind_openai_needs_is_said_before_anything_starts(monkeypatch):
    with pytest.raises(UserError, match=r"teacher\.model is still 'claude-opus-5-5'"):
        check_teacher(TeacherConfig(kind="openai", base_url="http://127.0.0.1:1/v1"))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="environment variable OPENAI_API_KEY"):
        check_teacher(openai())
    check_teacher(openai(base_url="http://127.0.0.1:1/v1"))
    with pytest.raises(UserError, match="environment variable MY_KEY"):
        check_teacher(openai(base_url="http://127.0.0.1:1/v1", api_key_env="MY_KEY"))


async def test_a_key_does_not_follow_a_redirect(tmp_path):
    async with ChatServer() as elsewhere:
        from aiohttp import web

        class Redirecting(ChatServer):
            async def handle(self, request):
                raise web.HTTPTemporaryRedirect(f"{elsewhere.url}/chat/completions")

        async with Redirecting() as server:
            with pytest.raises(
                UserError, match=r"the server redirects to http://127\.0\.0\.1:\d+/v1.*teacher\.base_url"
            ):
                await sent_to(server, tmp_path)
        assert not elsewhere.headers


def test_an_evaluation_needs_no_key(tmp_path, monkeypatch):
    from experiments.cli import preflight

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    domain = DomainConfig(
        "experiments.own_environment:Lockers", train_panel="train", eval_panel="train", demo_tasks=1, train_tasks=1
    )
    config = RunConfig("r", (domain,), teacher=TeacherConfig(kind="claude"), min_free_gib=0.0)
    with pytest.raises(UserError, match="environment variable ANTHROPIC_API_KEY"):
        preflight(config, tmp_path)
    preflight(config, tmp_path, teaching=False)


def test_processes_started_meanwhile_inherit_no_key(monkeypatch):
    import subprocess

    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray's own")
    monkeypatch.setenv("RENAMED", "sk-ant-other")
    show = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    with withheld(os.environ):
        inherited = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
    assert not {"ANTHROPIC_API_KEY", "OPENAI_API_KEY", "RENAMED"} & set(inherited) and "RAY_AUTH_TOKEN" in inherited
    assert os.environ["ANTHROPIC_API_KEY"] == ANTHROPIC and os.environ["RENAMED"] == "sk-ant-other"


async def test_servers_that_call_their_models_alike_share_no_answers(tmp_path):
    shared = str(tmp_path / "shared")
    async with ChatServer() as first, ChatServer() as second:
        await sent_to(first, tmp_path / "a", cache_dir=shared)
        await sent_to(first, tmp_path / "b", cache_dir=shared)
        assert len(first.bodies) == 1, "another run has the answer for nothing"
        await sent_to(second, tmp_path / "c", cache_dir=shared)
        assert len(second.bodies) == 1
    assert shared_answers(TeacherConfig(kind="claude", cache_dir=shared)) == tmp_path / "shared"
