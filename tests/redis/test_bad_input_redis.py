"""Whatever is wrong with how Redis is named is said at once: which parameter, what to do, and never a password."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from agent_cache import ConfigurationError, MemoryBackend, UnstorableResultError, configure
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend

BackendAt = Callable[..., RedisBackend]

SETTINGS: list[tuple[dict[str, Any], str, str]] = [
    ({"url": "http://localhost"}, "url", "write redis://"),
    ({"url": "localhost:6379"}, "url", "write redis://"),
    ({"url": ""}, "url", "write redis://"),
    ({"url": None}, "url", "write redis://"),
    ({"url": 6379}, "url", "write redis://"),
    ({"url": "redis://localhost:port/0"}, "url", "write redis://"),
    ({"url": "redis://localhost:99999999/0"}, "url", "write redis://"),
    ({"url": "redis://[::1/0"}, "url", "write redis://"),
    ({"url": "redis://localhost/0?no_such_option=1"}, "url", "no_such_option"),
    ({"url": "redis://localhost/0?socket_timeout=soon"}, "url", "socket_timeout"),
    ({"url": "redis://localhost/zero"}, "url", "write redis://"),
    ({"url": "redis+cluster://localhost/1"}, "url", "0 on a cluster"),
    ({"url": "redis+cluster://localhost:port"}, "url", "write redis://"),
    ({"url": "redis+cluster://"}, "url", "write redis://"),
    ({"url": "redis+sentinel://localhost"}, "url", "write redis://"),
    ({"url": "redis+sentinel://localhost/name/zero"}, "url", "the database must be a number"),
    ({"url": "redis+sentinel://localhost/name?db=zero"}, "url", ""),
    ({"prefix": ""}, "prefix", "give a text"),
    ({"prefix": "a{b}"}, "prefix", "no braces"),
    ({"prefix": None}, "prefix", "give a text"),
    ({"prefix": b"ac:"}, "prefix", "give a text"),
    ({"coherence": "eventual"}, "coherence", "'strict' or 'lease'"),
    ({"lease_wait": "never"}, "lease_wait", "'overlapped' or 'before'"),
    ({"url": "redis+cluster://localhost", "coherence": "lease"}, "coherence", "Cluster"),
    ({"secret": ""}, "secret", "1 to 64 bytes"),
    ({"epoch": 5}, "epoch", "give a text"),
    ({"secret": "x" * 65}, "secret", "1 to 64 bytes"),
    ({"client": "redis://localhost"}, "client", "redis.asyncio.Redis"),
    ({"client": redis.Redis()}, "client", "redis.asyncio.Redis"),
    ({"port": "high"}, "port", ""),
    ({"db": "first"}, "db", ""),
    *(
        ({name: value}, name, "seconds")
        for name in (
            "connect_timeout", "socket_timeout", "op_timeout", "max_ttl", "lease", "write_lease", "lead_lease",
        )
        for value in (0, -1, "1", float("nan"), True)
    ),
    ({"connect_timeout": None}, "connect_timeout", "seconds"),
    ({"settle": -1}, "settle", "seconds"),
    ({"default_ttl": 0}, "default_ttl", "seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "parameter", "fix"), SETTINGS, ids=lambda value: str(value)[:50])
def test_a_wrong_setting_is_named_with_its_fix(how: dict[str, Any], parameter: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBackend(**how)
    assert caught.value.parameter == parameter
    assert fix in str(caught.value)
    assert "traceback" not in str(caught.value).lower()


def test_times_may_be_timedeltas() -> None:
    RedisBackend(op_timeout=dt.timedelta(milliseconds=100), max_ttl=dt.timedelta(days=1), settle=dt.timedelta(0))


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost",
        "redis://user:hunter2@localhost:port/0",
        "redis://user:hunter2@localhost/0?no_such_option=1",
        "redis://user:hunter2@localhost/0?socket_timeout=soon",
        "redis://localhost/0?password=hunter2&no_such_option=1",
        "redis://localhost/0?password=hunter2&socket_timeout=soon",
        "redis://:hunter2#and/more@localhost:6379/0",
        "redis://:hunter2/more@localhost:6379/0",
        "redis://:hunter2?more@localhost:6379/0",
        "redis://:hunter2[@localhost:6379/0",
        "redis+cluster://:hunter2@localhost:port",
        "redis+cluster://:hunter2@localhost/1",
        "redis+cluster://:hunter2#more@localhost:6379",
        "redis+sentinel://:hunter2@localhost",
        "redis+sentinel://localhost?sentinel_password=hunter2",
        "redis+sentinel://:hunter2/more@localhost/name",
    ],
)
@pytest.mark.parametrize("by", ["backend", "configure", "environment"])
def test_no_error_shows_a_password_however_badly_the_url_is_written(
    url: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_cache.config import settings

    monkeypatch.setenv("AGENT_CACHE_URL", url)
    told = ""
    try:
        if by == "backend":
            told = repr(RedisBackend(url))
        elif by == "configure":
            configure(backend=url)
            told = repr(settings.default_backend())
        else:
            told = repr(settings.default_backend())
    except ConfigurationError as error:
        told = f"{error} {error!r} {error.args} {error.value!r} {error.__cause__!r}"
    assert "hunter2" not in told


@pytest.mark.parametrize("url", ["redis://h/0?near=x&password=hunter2", "redis://h/0?near=-1&password=hunter2"])
def test_no_error_about_the_near_tier_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure(backend=url)
    assert "near is a whole number" in str(caught.value)
    assert "hunter2" not in f"{caught.value} {caught.value.value}"


def test_a_client_of_the_wrong_kind_shows_no_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisBackend(client=redis.Redis(password="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_a_tier_says_what_it_needs() -> None:
    with pytest.raises(ConfigurationError, match="near"):
        TieredBackend(RedisBackend(), RedisBackend())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="far"):
        TieredBackend(MemoryBackend(), MemoryBackend())


async def test_a_near_tier_in_lease_mode_over_a_client_of_a_cluster_is_refused() -> None:
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=1)
    with pytest.raises(ConfigurationError, match="Cluster"):
        RedisBackend(client=client, coherence="lease")
    await client.aclose()


@pytest.mark.parametrize("key", [None, 1, b"bytes", ("a",)])
async def test_a_key_that_is_no_text_is_named(key: Any, backend_at: BackendAt) -> None:
    backend = backend_at()
    for call in (backend.get(key), backend.set(key, 1), backend.delete(key), backend.exists(key)):
        with pytest.raises(ConfigurationError, match="key"):
            await call


async def test_a_value_without_a_written_form_is_refused_before_anything_is_sent(backend_at: BackendAt) -> None:
    backend = backend_at()
    before = backend._links.round_trips
    with pytest.raises(UnstorableResultError):
        await backend.set_many({"good": 1, "bad": object()})
    assert backend._links.round_trips == before
    assert await backend.get("good") is None


@pytest.mark.parametrize("key", ["", " ", "{slot}", "a*b?[c]", "ü\ud800", "a" * 10_000, "\x00\n"])
async def test_any_text_is_a_key(key: str, backend_at: BackendAt) -> None:
    backend = backend_at()
    await backend.set(key, [key])
    assert await backend.get(key) == [key]
    assert [found async for found in backend.keys()] == [key]  # noqa: SIM118 - a method, not a dict's view
    assert await backend.delete(key)
    assert not await backend.exists(key)


@pytest.mark.parametrize("ttl", [0, -1, "60", True, float("nan")])
async def test_a_wrong_ttl_is_named(ttl: Any, backend_at: BackendAt) -> None:
    with pytest.raises(ConfigurationError, match="ttl"):
        await backend_at().set("a", 1, ttl=ttl)
