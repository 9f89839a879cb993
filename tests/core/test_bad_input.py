"""Whatever is wrong is said at once: which parameter, which value, what to do."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AsyncLRU,
    ConfigurationError,
    DiskBackend,
    MemoryBackend,
    configure,
    get_metrics,
    watched,
)
from agent_cache.config import settings


async def tool(user_id: str, page: int = 1) -> str:
    return user_id


async def coroutine_function(*_: Any) -> Any: ...


class Late:
    """An observer that nobody would wait for."""

    def __repr__(self) -> str:
        return "Late()"

    async def on_event(self, event: object) -> None: ...


def key_fn(args: Any, kwargs: Any) -> Any:
    return None


READS: list[tuple[dict[str, Any], str, str]] = [
    ({"resource": "cart:{user}"}, "resource", "it has user_id, page"),
    ({"resource": ""}, "resource", "give a resource name"),
    ({"resource": None}, "resource", "give a name"),
    ({"resource": []}, "resource", "give a name"),
    ({"resource": ["cart", 7]}, "resource", "give a resource name"),
    ({"resource": "cart::x"}, "resource", "empty segment"),
    ({"resource": "cart:{user_id"}, "resource", "braces do not match"),
    ({"resource": "cart:{}"}, "resource", "is not a placeholder"),
    ({"resource": "cart:{user_id!r}"}, "resource", "is not a placeholder"),
    ({"scope": "no such scope"}, "scope", "give 'global', 'session'"),
    ({"scope": None}, "scope", "give 'global', 'session'"),
    ({"ttl": -1}, "ttl", "give a positive number of seconds"),
    ({"ttl": 0}, "ttl", "give a positive number of seconds"),
    ({"ttl": float("nan")}, "ttl", "give a positive number of seconds"),
    ({"ttl": "60"}, "ttl", "give seconds as a number"),
    ({"ttl": True}, "ttl", "give seconds as a number"),
    ({"ttl": 10**400}, "ttl", "that a float can hold"),
    ({"ttl": 5, "early_refresh": 10**400}, "early_refresh", "give a number from 0"),
    ({"cost": 10**400}, "cost", "give what one call costs"),
    ({"cost": float("nan")}, "cost", "give what one call costs"),
    ({"maxsize": 0}, "maxsize", "give a whole number"),
    ({"maxsize": 1.5}, "maxsize", "give a whole number"),
    ({"skip_args": -1}, "skip_args", "give how many"),
    ({"skip_args": 3}, "skip_args", "tool has 2"),
    ({"skip_args": True}, "skip_args", "give how many"),
    ({"ignore": ("ctx",)}, "ignore", "it has user_id, page"),
    ({"ignore": 5}, "ignore", "give the names of parameters"),
    ({"backup": MemoryBackend()}, "backup", "give a RedisBackend or a DiskBackend"),
    ({"remote_cache": MemoryBackend()}, "remote_cache", "give a RedisBackend or a DiskBackend"),
    ({"jitter": 1}, "jitter", "give a fraction"),
    ({"jitter": -0.1}, "jitter", "give a fraction"),
    ({"cache_if": 5}, "cache_if", "give a function"),
    ({"cache_if": coroutine_function}, "cache_if", "give a plain function"),
    ({"backend": "redis://"}, "backend", "give a backend"),
    ({"codec": object()}, "codec", "give an object with encode"),
    ({"cost": -1}, "cost", "give what one call costs"),
]
WRITES: list[tuple[dict[str, Any], str, str]] = [
    ({"resource": "cart:{user}"}, "resource", "it has user_id, page"),
    ({"scope": 3}, "scope", "give 'global', 'session'"),
    ({"clear_all": False}, "clear_all", "needs key_fn"),
    ({"key_fn": key_fn}, "key_fn", "clear_all=False"),
    ({"clear_all": False, "key_fn": 3}, "key_fn", "give a function"),
    ({"no_effect": 3}, "no_effect", "give exception classes"),
    ({"no_effect_if": 3}, "no_effect_if", "give a function"),
    ({"no_effect_if": coroutine_function}, "no_effect_if", "give a plain function"),
    ({"clear_all": False, "key_fn": coroutine_function}, "key_fn", "give a plain function"),
    ({"backend": object()}, "backend", "give a backend"),
]


def _said(error: ConfigurationError, parameter: str, value: object, fix: str) -> None:
    text = str(error)
    assert error.parameter == parameter
    assert text.startswith(f"{parameter}=")
    assert repr(value) in text
    assert fix in text


def spelt(value: object) -> str:
    """The same in every process: an id of pytest's."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize(("wrong", "parameter", "fix"), READS, ids=spelt)
def test_a_wrong_read(wrong: dict[str, Any], parameter: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AgentCache(**{"resource": "cart", **wrong})(tool)
    value = 7 if isinstance(wrong.get("resource"), list) and wrong["resource"] else wrong[parameter]
    _said(caught.value, parameter, value, fix)


@pytest.mark.parametrize(("wrong", "parameter", "fix"), WRITES, ids=spelt)
def test_a_wrong_write(wrong: dict[str, Any], parameter: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AgentCacheInvalidator(**{"resource": "cart", **wrong})(tool)
    _said(caught.value, parameter, wrong[parameter], fix)


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"session_id": ""}, "session_id"),
        ({"session_id": 5}, "session_id"),
        ({"max_tool_repeats": 0}, "max_tool_repeats"),
        ({"max_tool_repeats": True}, "max_tool_repeats"),
        ({"max_execution_depth": -5}, "max_execution_depth"),
        ({"on_loop": "explode"}, "on_loop"),
        ({"identity": "u1"}, "identity"),
        ({"identity": {"session": "u1"}}, "identity"),
        ({"identity": {1: "u1"}}, "identity"),
        ({"backend": "memory://"}, "backend"),
    ],
)
def test_a_wrong_session(wrong: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AgentCacheSession(**wrong)
    _said(caught.value, parameter, wrong[parameter], "")


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"mode": "maybe"}, "mode"),
        ({"namespace": 5}, "namespace"),
        ({"backend": "nosuch://x"}, "backend"),
        ({"backend": 5}, "backend"),
        ({"default_ttl": -1}, "default_ttl"),
        ({"on_unavailable": "panic"}, "on_unavailable"),
        ({"observers": 5}, "observers"),
        ({"observers": [5]}, "observers"),
        ({"observers": [Late()]}, "observers"),
        ({"record_stats": "yes"}, "record_stats"),
        ({"verify": 2}, "verify"),
    ],
)
def test_a_wrong_configuration(wrong: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure(**wrong)
    value = wrong[parameter]
    value = value[0] if isinstance(value, list) else value
    _said(caught.value, parameter, value, "give" if parameter not in ("backend", "observers") else "")


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "maybe"}, {"default_ttl": -1}, {"on_unavailable": "panic"}, {"observers": 5}, {"store_args": "yes"}],
    ids=spelt,
)
def test_a_wrong_configuration_changes_nothing(wrong: dict[str, Any]) -> None:
    @AgentCache("cart")
    def get_cart() -> int:
        return 1

    get_cart()
    before = {name: value for name, value in vars(settings).items() if name != "notices"}
    right: dict[str, Any] = {
        "namespace": "n", "mode": "off", "secret": "s", "default_ttl": 5, "verify": 1.0, "backend": MemoryBackend(),
        "on_unavailable": "refuse_writes", "store_args": True, "record_stats": True,
    }  # fmt: skip
    with pytest.raises(ConfigurationError):
        configure(**{**right, **wrong})
    assert {name: value for name, value in vars(settings).items() if name != "notices"} == before
    get_cart()
    assert get_metrics()["hits"] == 1  # neither off, nor another namespace, nor another store
    configure(store_args=False)
    get_cart()
    assert get_metrics()["hits"] == 2


@pytest.mark.parametrize("secret", [5, ["hunter2"], bytearray(b"hunter2"), "hunter2\ud800"], ids=spelt)
def test_a_secret_that_is_none(secret: Any, tmp_path: Path) -> None:
    def configured() -> None:
        configure(secret=secret)

    def on_disk() -> None:
        DiskBackend(tmp_path / "cache.db", secret=secret)

    for call in (configured, on_disk):
        with pytest.raises(ConfigurationError, match=r"secret='…': give a text or") as caught:
            call()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", [5, None, b"cache.db", ""])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"path={path!r}: give the path of a file")):
        DiskBackend(path)


def test_a_secret_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure(secret="hunter2" * 20)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"max_size": 0}, {"max_bytes": -1}, {"default_ttl": -1}, {"settle": -1}])
def test_a_wrong_memory_backend(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MemoryBackend(**wrong)
    _said(caught.value, next(iter(wrong)), next(iter(wrong.values())), "give")


@pytest.mark.parametrize("skip_args", [1, -1, "x", None])
def test_skip_args_on_a_write_points_to_key_fn(skip_args: Any) -> None:
    with pytest.raises(TypeError, match="key_fn") as caught:
        AgentCacheInvalidator("cart", skip_args=skip_args)
    assert f"skip_args={skip_args!r}" in str(caught.value)


@pytest.mark.parametrize("decorate", [AgentCache("x"), AgentCacheInvalidator("x")], ids=["read", "write"])
def test_only_plain_tools_are_taken(decorate: Callable[[Any], Any]) -> None:
    def stream() -> Iterator[int]:
        yield 1

    async def async_stream() -> AsyncIterator[int]:
        yield 1

    for wrong in (stream, async_stream):
        with pytest.raises(ConfigurationError, match="return a list instead"):
            decorate(wrong)
    for other in (print, functools.partial(tool, "u"), 5, type("Callable", (), {})):
        with pytest.raises(ConfigurationError, match="takes a def or async def function"):
            decorate(other)
    for kind in (classmethod, staticmethod):
        with pytest.raises(ConfigurationError, match=f"put @{kind.__name__} above"):
            decorate(kind(tool))


@pytest.mark.parametrize("decorator", [AgentCache, AgentCacheInvalidator])
def test_a_decorator_without_its_arguments_is_noticed_at_once(decorator: Any) -> None:
    with pytest.raises(ConfigurationError, match="resource"):
        decorator(tool)


def test_a_method_must_say_what_self_is_to_the_key() -> None:
    with pytest.raises(ConfigurationError, match="skip_args=1") as caught:

        class Shop:
            @AgentCache("x")
            def get(self, n: int) -> int:
                return n

    assert "__agent_cache_key__" in str(caught.value)
    assert "ignore=('self',)" in str(caught.value)


async def test_a_session_is_entered_once_and_only_asked_inside() -> None:
    session = AgentCacheSession("s")
    with pytest.raises(ConfigurationError, match="not been entered"):
        session.get_metrics()
    with pytest.raises(ConfigurationError, match="not been entered"):
        session.new_turn()
    async with session:
        with pytest.raises(ConfigurationError, match="already open"):
            session.__enter__()


def test_a_wrong_call_fails_as_the_tool_itself_would() -> None:
    @AgentCache("x")
    def get(a: int, *, b: int = 1) -> int:
        return a

    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"c": 1})):
        with pytest.raises(TypeError) as ours:
            get(*args, **kwargs)
        with pytest.raises(TypeError) as plain:
            get.uncached(*args, **kwargs)
        assert str(ours.value).split("get()")[1] == str(plain.value).split("get()")[1]


def test_an_empty_url_in_the_environment_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_CACHE_URL", "")
    configure(backend=None)

    @AgentCache("cart")
    def get_cart() -> int:
        return 1

    assert (get_cart(), get_cart()) == (1, 1)
    assert get_metrics()["hits"] == 1


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"tool": 5}, "tool"),
        ({"tool": ""}, "tool"),
        ({"write": "yes"}, "write"),
        ({"max_tool_repeats": 0}, "max_tool_repeats"),
        ({"loop_key": 5}, "loop_key"),
    ],
)
def test_a_wrong_observation(wrong: dict[str, Any], parameter: str) -> None:
    with AgentCacheSession() as session:
        with pytest.raises(ConfigurationError) as caught:
            session.observe(**{"tool": "look", **wrong})
        _said(caught.value, parameter, wrong[parameter], "give")
    with pytest.raises(ConfigurationError, match="has not been entered"):
        AgentCacheSession().observe("look")


def test_a_read_that_is_a_write_is_refused() -> None:
    async def move(item: str) -> str:
        return item

    read, write = AgentCache("cart"), AgentCacheInvalidator("audit")
    lru = AsyncLRU()
    for outer, inner in ((read, write), (write, read), (lru, write), (write, lru)):
        with pytest.raises(ConfigurationError, match="of a read and of a write"):
            outer(inner(move))
    write(AgentCacheInvalidator("cart")(move))  # two resources, each with what drops it
    read(watched(move))

    @functools.wraps(read(move))
    async def beside(item: str) -> str:  # another function, that happens to look like a read
        return item

    write(beside)
