"""Writes that declare by an exception, or by their result, that they changed nothing; and what may not declare it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pydantic
import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, ConfigurationError, MemoryBackend, NoEffect
from agent_cache.adapters import ToolPolicy


class OutOfStock(Exception):  # noqa: N818 - it says what happened
    """Raised before anything is changed."""


class SoldOutToday(OutOfStock):
    """A kind of it."""


class SlowRefusal(OutOfStock, TimeoutError):  # noqa: N818
    """Declared by its one parent, unclear by the other."""


class Gone(NoEffect, ConnectionError):  # noqa: N818
    """As above."""


class Many(ExceptionGroup[Exception]):
    """Whatever is in it."""


def tools(**how: Any) -> tuple[Any, Any]:
    backend = MemoryBackend()

    @AgentCache("stock", backend=backend)
    async def read() -> int:
        return 1

    @AgentCacheInvalidator("stock", **how)
    async def buy(error: BaseException | None = None, result: object = "bought") -> object:
        if error is not None:
            raise error
        return result

    return read, buy


async def kept(read: Any, writing: Any) -> bool:
    """Whether the read is still a hit after the write, however that ends."""
    await read()
    assert await read.explain()
    with suppress(Exception, asyncio.CancelledError):
        await writing
    return bool(await read.explain())


@pytest.mark.parametrize("declared", [OutOfStock, (OutOfStock,), [OutOfStock, KeyError]])
@pytest.mark.parametrize("error", [OutOfStock("none left"), SoldOutToday("none today")])
async def test_a_declared_exception_drops_nothing_and_reaches_the_caller(declared: Any, error: Exception) -> None:
    read, buy = tools(no_effect=declared)
    assert await kept(read, buy(error))
    with pytest.raises(type(error)) as raised:
        await buy(error)
    assert raised.value is error


@pytest.mark.parametrize(
    "error", [RuntimeError("?"), SlowRefusal(), Gone(), asyncio.CancelledError(), Many("x", [OutOfStock()])]
)
async def test_any_other_exception_is_of_unknown_outcome(error: BaseException) -> None:
    read, buy = tools(no_effect=(OutOfStock,))
    assert not await kept(read, buy(error))
    assert (await read.explain()).status == "blocked"  # it settles first


async def test_the_class_and_the_predicate_work_side_by_side() -> None:
    read, buy = tools(no_effect=(OutOfStock,), no_effect_if=lambda result: result == "none left")
    assert await kept(read, buy(result="none left"))
    assert await kept(read, buy(OutOfStock()))
    assert not await kept(read, buy(result="bought"))


def test_a_def_write_declares_it_the_same_way() -> None:
    backend = MemoryBackend()

    @AgentCache("stock", backend=backend)
    def read() -> int:
        return 1

    @AgentCacheInvalidator("stock", no_effect=(OutOfStock,))
    def buy() -> None:
        raise OutOfStock

    read()
    with pytest.raises(OutOfStock):
        buy()
    assert read.explain()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Exception, "Exception covers TimeoutError"),
        (BaseException, "covers"),
        (TimeoutError, "timed out"),
        (asyncio.TimeoutError, "timed out"),
        (asyncio.CancelledError, "cancelled"),
        (KeyboardInterrupt, "interrupted"),
        (GeneratorExit, "torn away"),
        (ConnectionError, "connection"),
        (ConnectionResetError, "connection"),
        (OSError, "connection"),
        (FileNotFoundError, "connection"),
        (pydantic.ValidationError, "pydantic"),
        (ValueError, "ValueError covers ValidationError"),
        (ExceptionGroup, "a group"),
        (Many, "a group"),
        (SlowRefusal, "timed out"),
    ],
)
def test_what_may_also_come_after_a_commit_is_refused(kind: type[BaseException], told: str) -> None:
    for declared in (kind, (kind,), (OutOfStock, kind)):
        with pytest.raises(ConfigurationError, match=told) as raised:
            AgentCacheInvalidator("stock", no_effect=declared)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert raised.value.parameter == "no_effect"
        assert "raise NoEffect, or a class of your own" in raised.value.fix


@pytest.mark.parametrize("given", [7, "OutOfStock", (OutOfStock, 7), int, (OutOfStock(),)])
def test_what_is_no_exception_class_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="give exception classes"):
        AgentCacheInvalidator("stock", no_effect=given)


def test_a_function_is_told_where_it_goes() -> None:
    predicate: Any = lambda result: result is None  # noqa: E731
    with pytest.raises(ConfigurationError, match="no_effect_if="):
        AgentCacheInvalidator("stock", no_effect=predicate)


@pytest.mark.parametrize("declared", [(), (KeyError,), (LookupError,), (RuntimeError,), (NoEffect,), (OutOfStock,)])
def test_what_cannot_stand_for_a_commit_is_taken(declared: Any) -> None:
    AgentCacheInvalidator("stock", no_effect=declared)


def test_a_policy_of_an_adapter_takes_both() -> None:
    policy = ToolPolicy(kind="write", resource="stock", no_effect=(OutOfStock,), no_effect_if=bool)
    assert policy.no_effect == (OutOfStock,)
    assert policy.as_mapping() == {"kind": "write", "resource": ["stock"]}
    for name, given in (("no_effect", (OutOfStock,)), ("no_effect_if", bool)):
        with pytest.raises(ConfigurationError, match="kind='write'"):
            ToolPolicy(kind="read", resource="stock", **{name: given})
    with pytest.raises(ConfigurationError, match="timed out"):
        ToolPolicy(kind="write", resource="stock", no_effect=(TimeoutError,))


def nested(**how: Any) -> tuple[Any, Any]:
    """A write that charges, and then calls another one that refuses."""
    backend, charged = MemoryBackend(), [0]

    @AgentCache("balance", backend=backend)
    async def balance() -> int:
        return charged[0]

    @AgentCacheInvalidator("stock", backend=backend)
    async def reserve(error: BaseException) -> None:
        raise error

    @AgentCacheInvalidator("balance", backend=backend, **how)
    async def order(error: BaseException, instead: BaseException | None = None) -> None:
        charged[0] += 1
        try:
            await reserve(error)
        except NoEffect:
            if instead is None:
                raise
            raise instead from None

    return balance, order


async def test_what_a_write_inside_says_is_not_said_of_the_one_around_it() -> None:
    balance, order = nested()
    assert await balance() == 0
    error = NoEffect("none left")
    with pytest.raises(NoEffect) as raised:
        await order(error)
    assert raised.value is error
    assert await balance() == 1


async def test_the_one_around_it_may_say_so_itself() -> None:
    balance, order = nested()
    assert await kept(balance, order(NoEffect("inside"), NoEffect("and I have undone mine")))
    balance, order = nested(no_effect=(NoEffect,))
    assert await kept(balance, order(NoEffect("inside")))


async def test_one_error_may_be_raised_again_and_again_by_one_tool() -> None:
    error = NoEffect("closed")
    read, buy = tools()
    for _ in range(3):
        assert await kept(read, buy(error))


async def test_a_predicate_that_returns_an_awaitable_declares_nothing() -> None:
    async def refused(_: object) -> bool:
        return False

    read, buy = tools(no_effect_if=lambda result: refused(result))  # always true, if it is asked so
    assert not await kept(read, buy())


async def test_a_result_that_is_kept_only_if_an_awaitable_says_so_is_not_kept() -> None:
    async def wanted(_: object) -> bool:
        return False

    @AgentCache("stock", backend=MemoryBackend(), cache_if=lambda result: wanted(result))
    async def read() -> int:
        return 1

    assert await read() == 1
    assert not await read.explain()
