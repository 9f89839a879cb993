"""A write wins: over paths, calls and loads under way, however it ends."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, NoEffect, UnkeyableArgumentError, get_metrics
from agent_cache.testing import FakeClock


def reader(resource: Any, parameters: str = "a=None", **policy: Any) -> Any:
    """A read of ``resource``."""
    scope: dict[str, Any] = {}
    exec(f"async def get({parameters}):\n    return 1", scope)  # noqa: S102 - our own source
    return AgentCache(resource, **policy)(scope["get"])


def writer(resource: Any, parameters: str = "a=None", **policy: Any) -> Any:
    """A write of ``resource``."""
    scope: dict[str, Any] = {}
    exec(f"async def put({parameters}):\n    return 1", scope)  # noqa: S102 - our own source
    return AgentCacheInvalidator(resource, **policy)(scope["put"])


async def dropped(read: Any, *args: Any) -> bool:
    return not await read.explain(*args)


async def test_the_path_rule() -> None:
    one, all_ = reader("cart:{a}"), reader("cart")
    below, other = reader("cart:{a}/line:{b}", "a, b"), reader("carton")
    put_one, put_all = writer("cart:{a}"), writer("cart")

    async def load() -> None:
        await asyncio.gather(one(42), one(43), all_(), below(42, 1), below(43, 1), other())

    async def gone() -> list[bool]:
        reads = [(one, 42), (one, 43), (all_,), (below, 42, 1), (below, 43, 1), (other,)]
        return [await dropped(*read) for read in reads]

    await load()
    assert await gone() == [False] * 6
    await put_one(42)
    assert await gone() == [True, False, True, True, False, False]
    await load()
    await put_all()
    assert await gone() == [True] * 5 + [False]
    await load()
    await put_one(None)
    assert await gone() == [True] * 5 + [False]


async def test_slashes_and_colons_both_part_segments() -> None:
    read = reader("repo:{a}/file:{b}", "a, b")
    await read("r", "x")
    await writer("repo/{a}")("r")
    assert await dropped(read, "r", "x")


async def test_no_value_forges_a_path() -> None:
    read = reader("cart:{a}")
    for value in ("1:2", "1/2", "1", "", " ", "%31", "..", "*", "ключ"):
        await read(value)
    await writer("cart:{a}:{b}", "a, b")("1", "2")
    for value in ("1:2", "1/2", "", " ", "%31", "..", "*", "ключ"):
        assert not await dropped(read, value)


class Colour(Enum):
    RED = 42


@pytest.mark.parametrize("written", [42, "42", 42.0, Colour.RED])
async def test_values_compare_by_their_text(written: object) -> None:
    read = reader("cart:{a}")
    for value in (42, "42", 42.0):
        await read(value)
    await writer("cart:{a}")(written)
    for value in (42, "42", 42.0):
        assert await dropped(read, value)


async def test_a_uuid_and_its_text_are_one() -> None:
    read, number = reader("cart:{a}"), uuid.uuid4()
    await read(str(number))
    await writer("cart:{a}")(number)
    assert await dropped(read, str(number))


@pytest.mark.parametrize("name", ["my cart", "café", "a@b", "50%"])
async def test_a_name_in_the_template_and_the_same_as_a_value_are_one(name: str) -> None:
    read = reader("{a}:{b}", "a, b")
    await read(name, 1)
    await writer(name + ":{a}")(1)
    assert await dropped(read, name, 1)


async def test_a_read_with_a_missing_value_runs_uncached_and_counts() -> None:
    read = reader("cart:{a}")
    await read(None)
    await read(object())
    metrics = get_metrics()
    assert metrics["bypasses"] == 2
    assert metrics["reasons"]["unknown_entity"] == 1
    assert (await read.explain(None)).status == "bypass"


async def test_templates_reach_into_arguments() -> None:
    read = reader("file:{a.path}:{a.meta[owner]}", "a: object", ignore=("a",))
    thing = SimpleNamespace(path="x", meta={"owner": "me"})
    await read(thing)
    await writer("file:{a[path]}")({"path": "y"})
    assert not await dropped(read, thing)
    await writer("file:{a[path]}")({"path": "x"})
    assert await dropped(read, thing)


async def test_lists_of_resources() -> None:
    read = reader(["cart:{a}", "user:{a}"])
    for resource in ("cart:{a}", "user:{a}", ["else", "user"]):
        await read(1)
        assert not await dropped(read, 1)
        await writer(resource)(1)
        assert await dropped(read, 1)


@pytest.mark.parametrize("many", [False, True])
async def test_key_fn_drops_one_call(many: bool) -> None:
    read = reader("cart")

    def key_fn(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert kwargs == {}
        key = read.cache_key(args[0])
        return [key] if many else key

    await asyncio.gather(read(1), read(2))
    await writer("cart", clear_all=False, key_fn=key_fn)(a=1)
    assert await dropped(read, 1)
    assert not await dropped(read, 2)


@pytest.mark.parametrize("key_fn", [lambda a, k: None, lambda a, k: "key", lambda a, k: 1 / 0, lambda a, k: []])
async def test_a_key_fn_that_finds_nothing_drops_the_resource_and_says_so(
    key_fn: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    read, put = reader("cart:{a}"), writer("cart:{a}", clear_all=False, key_fn=key_fn)
    await read(1)
    assert await put(1) == await put(1) == 1
    assert await dropped(read, 1)
    assert len([r for r in caplog.records if "key_fn" in r.getMessage()]) == 1


class UnshownError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _raises_the_unshown(_args: Any, _kwargs: Any) -> Any:
    raise UnshownError


@pytest.mark.parametrize("key_fn", [_raises_the_unshown, lambda a, k: UnshownError()])
async def test_what_a_key_fn_says_need_not_have_a_repr(key_fn: Callable[..., Any]) -> None:
    read, put = reader("cart:{a}"), writer("cart:{a}", clear_all=False, key_fn=key_fn)
    await read(1)
    assert await put(1) == 1
    assert await dropped(read, 1)


async def test_a_key_fn_that_fails_for_each_call_otherwise_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    put = writer("cart:{a}", clear_all=False, key_fn=lambda args, _kwargs: {}[args[0]])
    for each in range(3):
        await put(each)
    assert len([r for r in caplog.records if "key_fn raised KeyError(0)" in r.getMessage()]) == 1
    assert len([r for r in caplog.records if "key_fn" in r.getMessage()]) == 1


async def test_invalidating_by_hand() -> None:
    read, other = reader("cart:{a}"), reader("cart:{a}")
    await asyncio.gather(read(1), read(2), other(1))
    await read.invalidate(1)
    assert [await dropped(read, 1), await dropped(read, 2), await dropped(other, 1)] == [True, False, False]
    await read.invalidate_all()
    assert [await dropped(read, 2), await dropped(other, 1)] == [True, False]
    with pytest.raises(UnkeyableArgumentError, match="'a'"):
        await reader("x").invalidate(object())
    assert get_metrics()["invalidations"] == 2


async def test_a_read_during_a_write_is_not_stored() -> None:
    writing, go_on = asyncio.Event(), asyncio.Event()
    value = 0

    @AgentCache("cart")
    async def get() -> int:
        return value

    @AgentCacheInvalidator("cart")
    async def put() -> None:
        nonlocal value
        writing.set()
        await go_on.wait()
        value = 1

    assert await get() == 0
    task = asyncio.create_task(put())
    await writing.wait()
    assert (await get.explain()).status == "blocked"
    assert await get() == 0
    go_on.set()
    await task
    assert await get() == await get() == 1
    assert get_metrics()["reasons"]["write_in_progress"] == 1


async def test_a_load_that_overlaps_a_write_is_not_stored() -> None:
    loading, go_on = asyncio.Event(), asyncio.Event()
    value = 0

    @AgentCache("cart")
    async def get() -> int:
        seen = value
        loading.set()
        await go_on.wait()
        return seen

    @AgentCacheInvalidator("cart")
    async def put() -> None:
        nonlocal value
        value = 1

    task = asyncio.create_task(get())
    await loading.wait()
    await put()
    go_on.set()
    assert await task == 0
    assert await get() == 1


@pytest.mark.parametrize("how", ["raises", "cancelled", "times out"])
async def test_a_write_that_ends_badly_drops_and_settles(how: str, clock: FakeClock) -> None:
    writing = asyncio.Event()

    @AgentCacheInvalidator("cart")
    async def put() -> None:
        writing.set()
        if how == "raises":
            raise OSError("lost")
        await asyncio.Event().wait()

    read = reader("cart")
    await read()
    if how == "raises":
        with pytest.raises(OSError, match="lost"):
            await put()
    elif how == "cancelled":
        task = asyncio.create_task(put())
        await writing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(put(), 0.001)
    assert (await read.explain()).status == "blocked"
    assert await read() == 1
    clock.advance(5.1)
    assert (await read.explain()).status in ("stale", "miss")
    await read()
    assert await read.explain()


def test_sync_writes_keep_the_same_promises(clock: FakeClock) -> None:
    value = 0

    @AgentCache("cart")
    def get() -> int:
        return value

    @AgentCacheInvalidator("cart")
    def put(new: int) -> int:
        nonlocal value
        assert get() == value
        value = new
        if new < 0:
            raise OSError
        return get()

    assert get() == 0
    assert put(1) == 1
    assert get() == get() == 1
    with pytest.raises(OSError):  # noqa: PT011 - the tool's own
        put(-1)
    assert get() == -1
    assert get.explain().status == "blocked"


@pytest.mark.parametrize("raises", [False, True])
async def test_a_write_without_effect_drops_nothing(raises: bool) -> None:
    class Rejected(NoEffect):
        pass

    @AgentCacheInvalidator("cart", no_effect_if=lambda result: result == "rejected")
    async def put(what: str) -> str:
        if raises and what == "rejected":
            raise Rejected
        return what

    read = reader("cart")
    await read()
    if raises:
        with pytest.raises(Rejected):
            await put("rejected")
    else:
        assert await put("rejected") == "rejected"
    assert await read.explain()
    assert get_metrics()["invalidations"] == 0
    await put("done")
    assert await dropped(read)
    assert get_metrics()["invalidations"] == 1


async def test_a_no_effect_if_that_raises_counts_as_a_write(caplog: pytest.LogCaptureFixture) -> None:
    read, put = reader("cart"), writer("cart", no_effect_if=lambda result: result.nothing)
    await read()
    assert await put() == await put() == 1
    assert await dropped(read)
    assert len([r for r in caplog.records if "no_effect_if" in r.getMessage()]) == 1


async def test_explain_names_the_write_that_had_an_effect() -> None:
    @AgentCacheInvalidator("cart")
    async def real() -> None: ...

    @AgentCacheInvalidator("cart")
    async def idle() -> None:
        raise NoEffect

    read = reader("cart")
    await read()
    await real()
    assert (await read.explain()).dropped_by == "real"
    with pytest.raises(NoEffect):
        await idle()
    assert (await read.explain()).dropped_by == "real"
