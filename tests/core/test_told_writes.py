"""Writes whose resource is known only from their result: ``"users:{result.user_id}"``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    ConfigurationError,
    InvalidationEvent,
    MemoryBackend,
    NoEffect,
    configure,
)
from agent_cache.adapters import ToolPolicy
from agent_cache.tags import write_tags
from agent_cache.testing import FakeClock


@dataclass
class User:
    user_id: Any
    name: str = "Ada"


class Users:
    """Reads of two users, of the list, of what is below one, and of something else."""

    def __init__(self, scope: str = "global", backend: MemoryBackend | None = None) -> None:
        backend = backend or MemoryBackend()

        @AgentCache("users:{user_id}", scope=scope, backend=backend)
        async def get_user(user_id: str) -> str:
            return user_id

        @AgentCache("users", scope=scope, backend=backend)
        async def list_users() -> str:
            return "all"

        @AgentCache("users:{user_id}/orders", scope=scope, backend=backend)
        async def get_orders(user_id: str) -> str:
            return user_id

        @AgentCache("stock:{sku}", scope=scope, backend=backend)
        async def get_stock(sku: str) -> int:
            return 1

        self.calls: dict[str, tuple[Any, tuple[str, ...]]] = {
            "u1": (get_user, ("u1",)),
            "u2": (get_user, ("u2",)),
            "list": (list_users, ()),
            "u1/orders": (get_orders, ("u1",)),
            "u2/orders": (get_orders, ("u2",)),
            "stock": (get_stock, ("s1",)),
        }

    async def read(self) -> None:
        for read, arguments in self.calls.values():
            await read(*arguments)

    async def dropped(self) -> set[str]:
        return {name for name, (read, args) in self.calls.items() if not await read.explain(*args)}


ALL = {"u1", "u2", "list", "u1/orders", "u2/orders"}
ONE = {"u1", "list", "u1/orders"}


def writer(resource: Any, result: Any, **how: Any) -> Any:
    @AgentCacheInvalidator(resource, **how)
    async def create(name: str = "Ada", user_id: str | None = None) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return create


@pytest.mark.parametrize(
    ("resource", "result", "gone"),
    [
        ("users:{result.user_id}", User("u1"), ONE),
        ("users:{result.user_id}", {"user_id": "u1"}, ONE),
        ("users:{result[user_id]}", {"user_id": "u1"}, ONE),
        ("users:{result}", "u1", ONE),
        ("users:{result[0]}", ["u1"], ONE),
        ("users/{result.user.user_id}", {"user": User("u1")}, ONE),
        ("users:{result.user_id}/orders", User("u1"), {"u1", "list", "u1/orders"}),
        (["stock:{result.sku}", "users:{result.user_id}"], {"sku": "s1", "user_id": "u1"}, {*ONE, "stock"}),
        (["stock", "users:{result.user_id}"], User("u1"), {*ONE, "stock"}),
        (["users:{user_id}", "users:{result.user_id}"], User("u1"), ONE | {"u2", "u2/orders"}),
        (["users", "users:{result.user_id}"], User("u1"), ALL),
        ("users:{result.user_id}", User(None), ALL),
        ("users:{result.user_id}", {"id": "u1"}, ALL),
        ("users:{result.user_id}", None, ALL),
        ("users:{result.user_id}", User(object()), ALL),
        ("users:{result.user_id}", "Error: no such user", ALL),
        (["stock:{result.sku}", "users:{result.user_id}"], {"sku": "s2"}, ALL),
        ("users:{result.user_id}/orders/{result.order_id}", User("u1"), ALL),
        ("users:{result.user_id}/x:{name}", User("u1"), {"u1", "list"}),
    ],
)  # fmt: skip
async def test_what_is_dropped(resource: Any, result: Any, gone: set[str]) -> None:
    users = Users()
    await users.read()
    assert await writer(resource, result)(user_id="u2") is result
    assert await users.dropped() == gone


async def test_while_it_runs_nothing_of_the_resource_is_served_or_kept() -> None:
    users, running, done = Users(), asyncio.Event(), asyncio.Event()

    @AgentCacheInvalidator("users:{result}")
    async def create() -> str:
        running.set()
        await done.wait()
        return "u1"

    await users.read()
    writing = asyncio.create_task(create())
    await running.wait()
    assert await users.dropped() == ALL
    await users.read()
    assert await users.dropped() == ALL
    done.set()
    await writing
    assert await users.dropped() == ONE


@pytest.mark.parametrize("error", [RuntimeError("?"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_one_that_fails_drops_the_whole_resource(error: BaseException) -> None:
    users = Users()
    await users.read()
    with pytest.raises(type(error)):
        await writer("users:{result.user_id}", error)()
    assert await users.dropped() == ALL


@pytest.mark.parametrize(
    "ending", [{"no_effect": True}, {"no_effect": False, "narrowed": write_tags([("users", "u1")], ())}]
)
async def test_nothing_is_restored_once_the_marker_is_lost(ending: dict[str, Any]) -> None:
    clock = FakeClock()
    backend = MemoryBackend(clock=clock, write_lease=10)
    users = Users(backend=backend)
    await users.read()
    window = backend.sync.begin(write_tags([("users",)], ()), "slow")
    clock.advance(11)
    backend.sync.end(window, unknown=False, **ending)
    assert await users.dropped() == ALL


@pytest.mark.parametrize("how", [NoEffect("none"), KeyError("no such user")])
async def test_one_that_says_it_changed_nothing_drops_nothing(how: Exception) -> None:
    users = Users()
    await users.read()
    with pytest.raises(type(how)):
        await writer("users:{result.user_id}", how, no_effect=(KeyError,))()
    assert await users.dropped() == set()
    refused = writer("users:{result.user_id}", "refused", no_effect_if=lambda result: result == "refused")
    assert await refused() == "refused"
    assert await users.dropped() == set()


async def test_it_narrows_in_its_scope() -> None:
    users = Users("user")
    write = writer("users:{result.user_id}", User("u1"), scope="user")
    async with AgentCacheSession(identity={"user": "a"}):
        await users.read()
    async with AgentCacheSession(identity={"user": "b"}):
        await users.read()
        await write()
        assert await users.dropped() == ONE
    async with AgentCacheSession(identity={"user": "a"}):
        assert await users.dropped() == set()
        await writer("users:{result.user_id}", User("u2"))()
        assert await users.dropped() == {"u2", "list", "u2/orders"}
    async with AgentCacheSession(identity={"user": "b"}):
        assert await users.dropped() == {*ONE, "u2", "u2/orders"}


async def test_it_narrows_on_every_backend_that_reads_were_declared_with() -> None:
    here, there = Users(), Users()
    await here.read()
    await there.read()
    await writer("users:{result.user_id}", User("u1"))()
    assert await here.dropped() == await there.dropped() == ONE


def test_a_def_write_narrows_as_well() -> None:
    backend = MemoryBackend()

    @AgentCache("users:{user_id}", backend=backend)
    def get_user(user_id: str) -> str:
        return user_id

    @AgentCacheInvalidator("users:{result.user_id}")
    def create() -> User:
        return User("u1")

    get_user("u1")
    get_user("u2")
    create()
    assert not get_user.explain("u1")
    assert get_user.explain("u2")


async def test_arguments_count_as_they_were_when_it_was_called() -> None:
    users = Users()

    @AgentCacheInvalidator("users:{result}/{ref[what]}")
    async def change(ref: dict[str, str]) -> str:
        ref["what"] = "something else"
        return "u1"

    await users.read()
    await change({"what": "orders"})
    assert await users.dropped() == {"u1", "list", "u1/orders"}


async def test_a_parameter_of_that_name_comes_first() -> None:
    users = Users()

    @AgentCacheInvalidator("users:{result}")
    async def save(result: str) -> str:
        return "u1"

    await users.read()
    await save("u2")
    assert await users.dropped() == {"u2", "list", "u2/orders"}


async def test_observers_hear_what_was_dropped_and_why_it_was_widened(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[InvalidationEvent] = []

    class Ear:
        def on_event(self, event: Any) -> None:
            if isinstance(event, InvalidationEvent):
                heard.append(event)

    configure(observers=[Ear()])
    try:
        await writer("users:{result.user_id}", User("u1"))()
        unclear = writer("users:{result.user_id}", None)
        await unclear()
        await unclear()
    finally:
        configure(observers=[])
    assert heard[0].tags == ("any(users)", "any(users:u1)", "all(users:u1)")
    assert heard[0].reason is None
    assert heard[1].tags == ("any(users)", "all(users)")
    assert "the result does not say which; it drops all of 'users'" in str(heard[1].reason)
    assert len([r for r in caplog.records if "does not say which" in r.getMessage()]) == 1


class Closed(Mapping[str, Any]):
    """A row whose connection is gone."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


async def test_a_result_that_cannot_be_looked_into_is_returned_all_the_same() -> None:
    users, row = Users(), Closed()
    create = writer("users:{result.user_id}", row)
    await users.read()
    assert await create() is row
    assert await users.dropped() == ALL


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda f: AgentCache("users:{result.user_id}")(f), "only a write can be known by its result"),
        (lambda f: AgentCacheInvalidator("{result.kind}:x")(f), "begin with a name"),
        (lambda f: AgentCacheInvalidator("a{result.kind}:x")(f), "begin with a name"),
        (lambda f: AgentCacheInvalidator("users:{results.id}")(f), "names no parameter"),
        (lambda f: AgentCacheInvalidator("users:{result.}")(f), "is not a placeholder"),
        (
            lambda f: AgentCacheInvalidator("users:{result.id}", clear_all=False, key_fn=lambda a, k: a[0])(f),
            "key_fn is asked before the tool runs",
        ),
    ],
)
def test_what_cannot_be_is_said_at_decoration(made: Any, told: str) -> None:
    async def tool(user_id: str) -> User:
        return User(user_id)

    with pytest.raises(ConfigurationError, match=told):
        made(tool)


def test_a_policy_of_an_adapter_may_name_the_result_of_a_write_only() -> None:
    from agent_cache.adapters import adapted

    adapted("create", ToolPolicy(kind="write", resource="users:{result.id}"), (), None)
    with pytest.raises(ConfigurationError, match="only a write"):
        adapted("get", ToolPolicy(kind="read", resource="users:{result.id}"), (), None)
