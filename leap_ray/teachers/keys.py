"""Whose key goes where: the variable of each provider, and the addresses to which a key may be sent."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from leap_ray.config import TeacherConfig
from leap_ray.errors import UserError


@dataclass(frozen=True)
class Service:
    """A provider: the variables of its key and of its address, the address itself, and the host that its key belongs to."""

    key: str
    url_variable: str
    url: str
    home: str


SERVICES = {
    "claude": Service("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "https://api.anthropic.com", "anthropic.com"),
    "openai": Service("OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1", "openai.com"),
}
_KEY_NAME = re.compile(r"^(?!RAY_).*(_API_KEY|_AUTH_TOKEN)$")  # not HF_TOKEN and Ray's own, which other processes need
FILLER = "none"  # sent in place of a key where a server wants none: the SDK insists on one


def key_variable(config: TeacherConfig) -> str:
    """The environment variable that holds this teacher's key."""
    return config.api_key_env or SERVICES[config.kind].key


def endpoint(config: TeacherConfig) -> str:
    """The address that is asked: the configuration's, else what the SDK would take."""
    service = SERVICES[config.kind]
    return config.base_url or os.environ.get(service.url_variable, "").strip() or service.url


def server_of(config: TeacherConfig) -> str:
    """The address that is asked, without what may be secret in it: it names who answers."""
    address = urlsplit(endpoint(config).strip())
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}".rstrip("/")


def read_key(config: TeacherConfig) -> str:
    """The key out of this process's environment; "" where it holds none."""
    return os.environ.get(key_variable(config), "").strip()


def without_keys(environment: Mapping[str, str], config: TeacherConfig | None = None) -> dict[str, str]:
    """The environment without the keys of any provider, and without this teacher's."""
    names = {service.key for service in SERVICES.values()} | ({key_variable(config)} if config else set())
    return {name: value for name, value in environment.items() if name not in names}


@contextmanager
def withheld(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Without keys for as long as this lasts: processes that are started meanwhile, and theirs, have none."""
    secrets = {name: value for name, value in environment.items() if _KEY_NAME.search(name) or value.startswith("sk-")}
    for name in secrets:
        del environment[name]
    try:
        yield
    finally:
        environment.update(secrets)


def check_key(config: TeacherConfig, key: str) -> str:
    """The key to send. Raises UserError where it is missing, belongs to somebody else, or would travel in the clear.

    The message names the variable, never its content.
    """
    variable, url = key_variable(config), endpoint(config)
    address = _address(url)
    if not key:
        if config.kind == "claude" or url == SERVICES["openai"].url or config.api_key_env:
            raise UserError(f"the teacher's key is missing: set the environment variable {variable}")
        return FILLER
    _check_owner(config, variable, key, address)
    _check_wire(config, variable, address)
    return key


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url.strip())
        host, _ = address.hostname, address.port
    except ValueError:
        host, address = None, SplitResult("", "", "", "", "")
    if address.scheme.lower() not in ("http", "https") or not host:
        raise UserError(f"teacher.base_url: {url!r} is no address: it begins with http:// or https://, then a host")
    if address.username or address.password:
        raise UserError("teacher.base_url holds a user name or password: put the key into an environment variable")
    return address


def _check_owner(config: TeacherConfig, variable: str, key: str, address: SplitResult) -> None:
    """A provider's key goes to that provider, or to a gateway that speaks its protocol; never to another provider's."""
    host = address.hostname or ""
    for kind, service in SERVICES.items():
        own = config.kind == kind or host == service.home or host.endswith(f".{service.home}")
        if not own and (variable == service.key or (kind == "claude" and key.startswith("sk-ant-"))):
            raise UserError(
                f"teacher.api_key_env: {variable} holds the key of {service.home}, and teacher.kind {config.kind!r} would send "
                f"it to {host}: name the variable of that server's key (default {SERVICES[config.kind].key})"
            )


def _check_wire(config: TeacherConfig, variable: str, address: SplitResult) -> None:
    """Plain http with a key: this machine, or by choice a private network."""
    host = address.hostname or ""
    if address.scheme.lower() == "https":
        return
    numbers = _numbers(host)
    if numbers and all(number.is_loopback for number in numbers):
        return
    private = bool(numbers) and all(number.is_private or number.is_loopback for number in numbers)
    if private and config.http_in_private_network:
        return
    remedy = "use https, or unset the variable if the server wants no key"
    if private:
        remedy = f"{remedy}, or set teacher.http_in_private_network if that network is trusted"
    raise UserError(
        f"teacher.base_url: the key in {variable} would travel to {host} over http, readable on the way: {remedy}"
    )


def _numbers(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """All addresses of a host; none where it has none."""
    try:
        found = [ipaddress.ip_address(host.split("%")[0])]
    except ValueError:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return []
        found = [ipaddress.ip_address(str(answer[4][0]).split("%")[0]) for answer in answers]
    return [getattr(number, "ipv4_mapped", None) or number for number in found]
