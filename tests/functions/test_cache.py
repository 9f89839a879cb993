"""AsyncCache: reading, loading, storing and dropping by hand, on every backend."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from agent_cache import (
    KEY,
    NEVER,
    AgentCacheSession,
    AsyncCache,
    ConfigurationError,
    MemoryBackend,
    UnkeyableArgumentError,
    UnstorableResultError,
    configure,
    no_cache,
    refresh,
)
from agent_cache.engine.outbox import OUTBOX
from agent_cache.testing import FakeClock, run_virtual

GONE = object()


class Source:
    """Loaders, and how often they ran."""

    def __init__(self) -> None:
        self.state = 0
        self.loads: list[Any] = []

    async def load(self, key: Any) -> list[Any]:
        self.loads.append(key)
        return [key, self.state]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache(backend: Any) -> AsyncCache:
    return AsyncCache(backend=backend)


async def test_near_far_loader(cache: AsyncCache, source: Source) -> None:
    first = await cache.get("a", source.load)
    first.append("mine")
    assert await cache.get("a", source.load) == ["a", 0]
    assert await cache.get("a") == ["a", 0]
    assert source.loads == ["a"]
    figures = cache.get_metrics()
    assert (figures["hits"], figures["misses"]) == (2, 1)


async def test_another_process_finds_what_one_has_stored(two_processes: tuple[Any, Any], source: Source) -> None:
    here, there = (AsyncCache(backend=each) for each in two_processes)
    await here.get("a", source.load)
    assert await there.get("a", source.load) == ["a", 0]
    await there.set("a", "new")
    assert await here.get("a") == "new"
    await here.delete("a")
    assert await there.get("a", default=GONE) is GONE
    await here.set("a", 1)
    await there.set(("b", 2), None)
    assert await here.get(("b", 2), default=GONE) is None
    await there.clear()
    assert await here.get_many(["a", ("b", 2)]) == {}


@pytest.mark.parametrize("loader", [lambda: 5, lambda key: key + 4, lambda other=5: other], ids=["()", "(key)", "(=)"])
async def test_a_loader_is_a_function_with_or_without_the_key(loader: Any) -> None:
    assert await AsyncCache().get(1, loader) == 5


async def test_loaders_may_be_anything_that_can_be_called() -> None:
    import functools
    import operator

    class Loading:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        async def __call__(self, key: str) -> str:
            self.seen.append(key)
            return key

        async def method(self) -> str:
            return "m"

    loading, cache = Loading(), AsyncCache()
    assert await cache.get("a", loading) == "a"
    assert await cache.get("b", loading.method) == "m"
    assert await cache.get("c", functools.partial(loading, "p")) == "p"
    assert await cache.get(3, operator.neg) == -3
    assert await cache.get("d", dict) == {}
    assert loading.seen == ["a", "p"]


async def test_none_is_a_value_and_a_miss_is_told(cache: AsyncCache, source: Source) -> None:
    assert await cache.get("a") is None
    assert await cache.get("a", default=GONE) is GONE
    assert not await cache.exists("a")
    await cache.set("a", None)
    assert await cache.get("a", source.load, default=GONE) is None
    assert await cache.exists("a")
    assert source.loads == []


async def test_an_exception_is_not_cached(cache: AsyncCache, source: Source) -> None:
    def fail() -> None:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await cache.get("a", fail)
    assert await cache.get("a", source.load) == ["a", 0]


async def test_many_keys_side_by_side(cache: AsyncCache) -> None:
    """Each has a tag of its own: storing one drops no other."""
    keys = [*range(300), *(str(n) for n in range(300)), (1, "a"), dt.date(2026, 1, 1), KEY((1,), {"a": 2}), None, True]
    big = AsyncCache(maxsize=None, namespace="big", backend=cache._tool.policy.backend)
    await asyncio.gather(*(big.set(key, repr(key)) for key in keys))
    for key in keys:
        assert await big.get(key) == repr(key)
    await big.delete(1)
    assert await big.get(True) == "True"
    assert await big.get(1, default=GONE) is GONE
    assert await big.get("1") == "'1'"


async def test_a_key_that_is_none_is_refused_with_its_place(cache: AsyncCache, source: Source) -> None:
    for use in (
        lambda: cache.get(("a", object()), source.load),
        lambda: cache.get(object()),
        lambda: cache.set(object(), 1),
        lambda: cache.delete([object()]),
    ):
        with pytest.raises(UnkeyableArgumentError, match="key"):
            await use()
    assert source.loads == []


async def test_lists_and_dicts_are_keys_by_what_they_hold(cache: AsyncCache, source: Source) -> None:
    await cache.get({"q": ["a", 1]}, source.load)
    assert await cache.get({"q": ["a", 1]}) == [{"q": ["a", 1]}, 0]
    assert await cache.get({"q": ["a", True]}, default=GONE) is GONE
    cache.delete({"q": ["a", 1]})
    assert await cache.get({"q": ["a", 1]}, default=GONE) is GONE


# -- racing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["set", "delete", "clear"])
@pytest.mark.parametrize("awaited", [True, False])
async def test_no_load_undoes_what_was_done_meanwhile(cache: AsyncCache, act: str, awaited: bool) -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        running.set()
        await gate.wait()
        return "old"

    loading = asyncio.create_task(cache.get("a", slow))
    await running.wait()
    done = {"set": lambda: cache.set("a", "new"), "delete": lambda: cache.delete("a"), "clear": cache.clear}[act]()
    if awaited:
        await done
    gate.set()
    assert await loading == "old"
    assert await cache.get("a", default=GONE) == ("new" if act == "set" else GONE)
    await done
    assert await cache.get("a", lambda: "newer") == ("new" if act == "set" else "newer")


async def test_what_is_not_awaited_happens_in_the_order_of_the_calls(cache: AsyncCache) -> None:
    cache.set("a", 1)
    cache.set("a", 2)
    cache.set("b", 1)
    assert await cache.get("a") == 2
    cache.clear()
    cache.set("b", 3)
    assert await cache.get_many(["a", "b"]) == {"b": 3}
    cache.delete("b")
    assert await cache.get("b", lambda: 4) == 4
    await asyncio.gather(cache.set("a", 5), cache.delete("b"))
    assert await cache.get_many(["a", "b"]) == {"a": 5}


async def test_a_cancelled_wait_undoes_nothing(cache: AsyncCache) -> None:
    waiting = asyncio.ensure_future(cache.set("a", 1))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await cache.get("a") == 1


async def test_a_set_comes_between_no_two_steps_of_another_thread() -> None:
    """A load that begins in another thread as a value is stored is either before it, and not kept, or finds it."""
    cache, wrong = AsyncCache(), []

    async def others(number: int) -> None:
        for turn in range(300):
            found = await cache.get("a", lambda turn=turn: ("loaded", number, turn))
            if found[0] == "set" and found[1] < low[0]:
                wrong.append(found)

    low = [0]
    threads = [threading.Thread(target=lambda n=n: asyncio.run(others(n))) for n in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(1, 300):
        cache.set("a", ("set", turn))
        low[0] = turn
        found = await cache.get("a")
        if found[:2] != ("set", turn):
            wrong.append(found)
    for thread in threads:
        thread.join(60)
    assert wrong == []


async def test_a_crowd_loads_once_and_cancelling_the_first_disturbs_nobody(cache: AsyncCache, all_riding: Any) -> None:
    gate, running, loads = asyncio.Event(), asyncio.Event(), []

    async def slow() -> list[int]:
        loads.append(1)
        running.set()
        await gate.wait()
        return [1]

    crowd = [asyncio.create_task(cache.get("a", slow)) for _ in range(20)]
    await all_riding(20)
    crowd[0].cancel()
    gate.set()
    answers = await asyncio.gather(*crowd, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [[1]] * 19
    assert len({id(answer) for answer in answers}) == 20
    assert loads == [1]


async def test_a_look_without_a_loader_neither_waits_nor_disturbs(cache: AsyncCache) -> None:
    gate, running = asyncio.Event(), asyncio.Event()

    async def slow() -> int:
        running.set()
        await gate.wait()
        return 1

    loading = asyncio.create_task(cache.get("a", slow))
    await running.wait()
    assert await cache.get("a", default=GONE) is GONE
    gate.set()
    assert await loading == 1


# -- time ---------------------------------------------------------------------------------------------------------------


async def test_ttls_by_call_and_never(clock: FakeClock) -> None:
    cache = AsyncCache(default_ttl=60)
    await cache.get("default", lambda: 1)
    await cache.get("short", lambda: 1, ttl=10)
    await cache.get("long", lambda: 1, ttl=dt.timedelta(minutes=2))
    await cache.get("never", lambda: 1, ttl=NEVER)
    cache.set("set", 1)
    cache.set("set short", 1, ttl=10)
    cache.set("set never", 1, NEVER)
    names = ["default", "short", "long", "never", "set", "set short", "set never"]
    for passed, left in (
        (9, set(names)),
        (2, {"default", "long", "never", "set", "set never"}),
        (50, {"long", "never", "set never"}),
        (60, {"never", "set never"}),
        (10**9, {"never", "set never"}),
    ):
        clock.advance(passed)
        assert set(await cache.get_many(names)) == left


async def test_the_configured_ttl_holds_where_no_other_was_given(clock: FakeClock) -> None:
    configure(default_ttl=5)
    cache = AsyncCache()
    cache.set("a", 1)
    cache.set("never", 1, ttl=NEVER)
    clock.advance(5)
    assert await cache.get_many(["a", "never"]) == {"never": 1}


async def test_a_ttl_of_its_own_is_kept_on_far_backends(make_backend: Callable[[str], Any]) -> None:
    """There too the one given with this very call, not that of an earlier one."""
    for kind in ("disk", "redis", "redis behind memory"):
        cache = AsyncCache(default_ttl=1000, backend=make_backend(kind))
        for ttl in (10.0, 20.0, None, NEVER):
            await cache.get("a", lambda: 1, ttl=ttl)
            found = await cache._backend.lookup(*_asked(cache, "a"))
            left = found.ttl_left
            assert (left is None) if ttl == NEVER else ((ttl or 1000) - 5 < left <= (ttl or 1000))
            await cache.delete("a")
        await cache._backend.close()


def _asked(cache: AsyncCache, key: Any) -> tuple[Any, ...]:
    from agent_cache.engine.calls import prepare_read

    call: Any = prepare_read(cache._tool, cache._home.view, (key, None, None, None, None))
    return call.key, call.tags, cache._tool.codec


# -- what belongs to whom -----------------------------------------------------------------------------------------------


async def test_two_caches_are_two_unless_their_namespace_is_one() -> None:
    one, other = AsyncCache(), AsyncCache()
    named, same, another = AsyncCache(namespace="n"), AsyncCache(namespace="n"), AsyncCache(namespace="m")
    for cache in (one, named):
        cache.set("a", 1)
    assert await other.get("a") is None
    assert await same.get("a") == 1
    assert await another.get("a") is None
    another.set("a", 2)
    same.clear()
    assert await named.get("a") is None
    assert (await one.get("a"), await another.get("a")) == (1, 2)


async def test_on_a_backend_of_its_own_no_namespace_is_one_too(backend: Any) -> None:
    await AsyncCache(backend=backend).set("a", 1)
    assert await AsyncCache(backend=backend).get("a") == 1
    assert await AsyncCache(backend=backend, namespace="x").get("a") is None


async def test_it_belongs_to_no_session() -> None:
    cache = AsyncCache()
    cache.set("a", 1)
    async with AgentCacheSession(max_tool_repeats=1, backend=MemoryBackend()):
        for _ in range(10):
            assert await cache.get("a") == 1
        cache.set("b", 2)
    assert await cache.get("b") == 2


async def test_no_cache_refresh_and_off(source: Source) -> None:
    cache = AsyncCache()
    await cache.get("a", source.load)
    source.state = 1
    with no_cache():
        assert await cache.get("a", source.load) == ["a", 1]
        assert await cache.get("a") is None
    assert await cache.get("a", source.load) == ["a", 0]
    with refresh():
        assert await cache.get("a", source.load) == ["a", 1]
    assert await cache.get("a", source.load) == ["a", 1]
    configure(mode="off")
    source.state = 2
    assert await cache.get("a", source.load) == ["a", 2]
    cache.set("a", "kept?")
    configure(mode="on")
    assert await cache.get("a", source.load) == ["a", 2]  # what was there was dropped, nothing was stored


async def test_values_of_ones_own_types_where_they_are_named(make_backend: Callable[[str], Any]) -> None:
    for kind in ("memory", "disk", "redis"):
        backend = make_backend(kind)
        users = AsyncCache(namespace="users", backend=backend, returns=User)
        await users.set(1, User("ann", ["a"]))
        found = await users.get(1)
        assert found == User("ann", ["a"])
        found.tags.append("mine")
        assert await users.get(1) == User("ann", ["a"])
        with pytest.raises(UnstorableResultError):
            AsyncCache(backend=backend).set(1, User("ann", ["a"]))
        assert await AsyncCache(backend=backend).get(1, lambda: User("ann", ["a"])) == User("ann", ["a"])
        await backend.close()


@dataclass
class User:
    name: str
    tags: list[str]


async def test_room_and_figures() -> None:
    cache = AsyncCache(maxsize=10)
    for number in range(50):
        cache.set(number, number)
    figures = cache.get_metrics()
    assert figures["entries"] == figures["maxsize"] == 10
    assert figures["bytes"] > 0
    left = await cache.get_many(range(50))
    assert len(left) == 10
    cache.delete(next(iter(left)))
    assert cache.get_metrics()["entries"] == 9
    cache.clear()
    figures = cache.get_metrics()
    assert (figures["entries"], figures["bytes"], figures["hits"], figures["misses"]) == (0, 0, 10, 40)
    assert figures["hit_rate"] == 0.2


# -- many ---------------------------------------------------------------------------------------------------------------


async def test_get_many(cache: AsyncCache, source: Source) -> None:
    await cache.set("a", None)
    assert await cache.get_many(["a", "b", "a"]) == {"a": None}
    assert await cache.get_many(["a", "b"], default=0) == {"a": None, "b": 0}
    assert await cache.get_many(["b", "c"], source.load) == {"b": ["b", 0], "c": ["c", 0]}
    assert await cache.get_many([]) == {}

    async def some_fail(key: str) -> str:
        if key == "e":
            raise OSError("away")
        return key

    with pytest.raises(OSError, match="away"):
        await cache.get_many(["d", "e", "f"], some_fail)
    assert await cache.get_many(["d", "e", "f"]) == {"d": "d", "f": "f"}
    for wrong in ([1, True], [[1]], "abc", 3):
        with pytest.raises(ConfigurationError, match="keys"):
            await cache.get_many(wrong)  # type: ignore[arg-type]


async def test_warmup_reports_errors_by_key_and_is_bounded(cache: AsyncCache, source: Source) -> None:
    running, most = 0, 0

    async def slow(key: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        if key % 10 == 3:
            raise OSError(key)
        return key

    failed = await cache.warmup(range(40), slow, concurrency=4)
    assert list(failed) == [3, 13, 23, 33]
    assert all(isinstance(error, OSError) and error.args == (key,) for key, error in failed.items())
    assert most == 4 if cache._backend.in_process else most <= 4  # elsewhere their lookups take what time they take
    assert set(await cache.get_many(range(40))) == set(range(40)) - {3, 13, 23, 33}
    assert await cache.warmup({"a": source.load, "b": lambda: 2}, ttl=NEVER) == {}
    assert await cache.warmup(["a", "c"], source.load) == {}
    assert source.loads == ["a", "c"]
    assert await cache.get("b") == 2


async def test_warmup_refuses_what_makes_no_sense(cache: AsyncCache, source: Source) -> None:
    for use in (
        lambda: cache.warmup(["a"]),
        lambda: cache.warmup({"a": source.load}, source.load),
        lambda: cache.warmup({"a": 1}),  # type: ignore[dict-item]
        lambda: cache.warmup(["a"], source.load, concurrency=0),
        lambda: cache.warmup(["a"], source.load, concurrency=None),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError):
            await use()
    assert isinstance((await cache.warmup(["a"], source.load, ttl=-1))["a"], ConfigurationError)


# -- loops --------------------------------------------------------------------------------------------------------------


def test_several_event_loops_one_after_the_other(make_backend: Callable[[str], Any], source: Source) -> None:
    for kind in ("memory", "disk behind memory", "redis"):
        backend = make_backend(kind)
        cache = AsyncCache(backend=backend, namespace=kind)
        source.loads.clear()
        for _ in range(3):
            assert asyncio.run(cache.get("a", source.load)) == ["a", 0]
        assert source.loads == ["a"]

        async def leave_at_once(cache: AsyncCache = cache) -> None:
            cache.delete("a")

        asyncio.run(leave_at_once())
        assert asyncio.run(cache.get("a", lambda: "new")) == "new"
        tries = 0
        while OUTBOX.owed_to(backend):  # what was torn away is delivered by another thread
            assert threading.Event().wait(0.01) or (tries := tries + 1) < 2000
        cache.set("b", 1)  # without an event loop it is over when it returns
        cache.delete("a")
        assert asyncio.run(cache.get_many(["a", "b"])) == {"b": 1}
        asyncio.run(backend.close())


def test_event_loops_at_once(source: Source) -> None:
    cache, answers = AsyncCache(), []

    async def both(start: threading.Barrier) -> None:
        start.wait(20)
        answers.append(await cache.get_many(range(20), batch_loader=_doubled))

    start = threading.Barrier(3)
    threads = [threading.Thread(target=lambda: asyncio.run(both(start))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [{n: 2 * n for n in range(20)}] * 3


async def _doubled(keys: list[int]) -> list[int]:
    await asyncio.sleep(0.001)
    return [2 * key for key in keys]


# -- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"maxsize": 0}, "maxsize"),
        ({"maxsize": 1.5}, "maxsize"),
        ({"default_ttl": 0}, "default_ttl"),
        ({"default_ttl": -1}, "default_ttl"),
        ({"default_ttl": "60"}, "default_ttl"),
        ({"batch_window_ms": -1}, "batch_window_ms"),
        ({"batch_window_ms": None}, "batch_window_ms"),
        ({"batch_window_ms": float("inf")}, "batch_window_ms"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_batch_size": None}, "max_batch_size"),
        ({"namespace": 3}, "namespace"),
        ({"backend": "redis://"}, "backend"),
        ({"backend": MemoryBackend(), "backup": MemoryBackend()}, "backup"),
        ({"remote_cache": MemoryBackend()}, "remote_cache"),
    ],
)
def test_bad_input_is_refused_at_construction(given: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        AsyncCache(**given)
    assert refused.value.parameter == parameter


async def test_bad_input_is_refused_by_calls(cache: AsyncCache, source: Source) -> None:
    for use in (
        lambda: cache.get("a", source.load, source.load),
        lambda: cache.get("a", 3),  # type: ignore[arg-type]
        lambda: cache.get("a", batch_loader=3),  # type: ignore[arg-type]
        lambda: cache.get("a", source.load, ttl=0),
        lambda: cache.get("a", ttl=-1),
        lambda: cache.set("a", 1, ttl="1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError):
            await use()
    for value in (object(), iter([1]), lambda: 1):
        with pytest.raises(UnstorableResultError):
            cache.set("a", value)


def test_time_is_virtual_where_the_loop_s_is(source: Source) -> None:
    async def main() -> Any:
        cache = AsyncCache(batch_window_ms=1000)
        began = asyncio.get_running_loop().time()
        answers = await cache.get_many([1, 2], batch_loader=lambda keys: keys)
        return answers, asyncio.get_running_loop().time() - began

    assert run_virtual(main) == ({1: 1, 2: 2}, 1.0)
