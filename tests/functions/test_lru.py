"""AsyncLRU and AsyncTTL, on every backend."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from agent_cache import (
    AgentCacheSession,
    AsyncLRU,
    AsyncTTL,
    ConfigurationError,
    MemoryBackend,
    configure,
    get_metrics,
    no_cache,
    refresh,
)
from agent_cache.testing import FakeClock


class Source:
    """What the functions under test read; ``loads`` counts."""

    def __init__(self) -> None:
        self.state = 0
        self.loads = 0

    def read(self, *about: Any) -> dict[str, Any]:
        self.loads += 1
        return {"about": list(about), "state": self.state}


async def test_one_load_and_a_value_of_its_own_for_each_caller(backend: Any) -> None:
    source = Source()

    @AsyncLRU(backend=backend)
    async def look_up(name: str, limit: int = 3) -> dict[str, Any]:
        return source.read(name, limit)

    first = await look_up("a")
    first["state"] = "mine"
    assert await look_up(name="a", limit=3) == {"about": ["a", 3], "state": 0}
    assert source.loads == 1
    assert await look_up("b") == {"about": ["b", 3], "state": 0}
    figures = look_up.get_metrics()
    assert (figures["hits"], figures["misses"]) == (1, 2)


async def test_invalidating_and_clearing_act_when_they_are_called(backend: Any) -> None:
    source = Source()

    @AsyncLRU(backend=backend)
    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    for drop in (lambda: look_up.invalidate_cache("a"), look_up.clear_cache, look_up.cache_clear):
        before = (await look_up("a"))["state"]
        assert (await look_up("a"))["state"] == before
        source.state += 1
        drop()  # not awaited: whoever reads from now on sees what it did
        assert (await look_up("a"))["state"] == source.state
        source.state += 1
        await drop()
        assert (await look_up("a"))["state"] == source.state


async def test_one_call_is_dropped_and_the_others_stay(backend: Any) -> None:
    source = Source()

    @AsyncLRU(backend=backend)
    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    for name in "ab":
        await look_up(name)
    await look_up.invalidate_cache("a")
    await look_up("b")
    assert source.loads == 2
    await look_up("a")
    assert source.loads == 3


async def test_what_another_process_drops_is_dropped_here(two_processes: tuple[Any, Any]) -> None:
    source = Source()

    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    look_up.__agent_cache_identity__ = "the same function in both"  # type: ignore[attr-defined]
    here, there = (AsyncLRU(backend=each)(look_up) for each in two_processes)
    assert (await here("a")) == (await there("a")) == {"about": ["a"], "state": 0}
    source.state = 1
    await there.clear_cache()
    assert (await here("a"))["state"] == 1
    source.state = 2
    await here.invalidate_cache("a")
    assert (await there("a"))["state"] == 2


async def test_no_drop_is_undone_by_a_load_that_began_before(backend: Any) -> None:
    source, gate, running = Source(), asyncio.Event(), asyncio.Event()

    @AsyncLRU(backend=backend)
    async def look_up(name: str) -> dict[str, Any]:
        found = source.read(name)
        running.set()
        await gate.wait()
        return found

    for drop in (lambda: look_up.invalidate_cache("a"), look_up.clear_cache):
        gate.set()
        await look_up.clear_cache()
        gate.clear()
        running.clear()
        loading = asyncio.create_task(look_up("a"))
        await running.wait()
        source.state += 1
        done = drop()
        gate.set()
        assert (await loading)["state"] == source.state - 1
        assert (await look_up("a"))["state"] == source.state
        await done
        assert (await look_up("a"))["state"] == source.state


async def test_a_crowd_loads_once_and_cancelling_the_first_disturbs_nobody(backend: Any, all_riding: Any) -> None:
    source, gate, running = Source(), asyncio.Event(), asyncio.Event()

    @AsyncLRU(backend=backend)
    async def look_up(name: str) -> dict[str, Any]:
        running.set()
        await gate.wait()
        return source.read(name)

    crowd = [asyncio.create_task(look_up("a")) for _ in range(10)]
    await all_riding(10)
    crowd[0].cancel()
    gate.set()
    answers = await asyncio.gather(*crowd, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [{"about": ["a"], "state": 0}] * 9
    assert source.loads == 1


async def test_an_exception_is_not_cached_and_none_is(backend: Any) -> None:
    answers: list[Any] = [KeyError("first"), None]

    @AsyncTTL(60, backend=backend)
    async def look_up(name: str) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    with pytest.raises(KeyError, match="first"):
        await look_up("a")
    assert await look_up("a") is None
    assert await look_up("a") is None
    assert answers == []


async def test_a_ttl_ends(clock: FakeClock) -> None:
    source = Source()

    @AsyncTTL(time_to_live=60)
    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    await look_up("a")
    clock.advance(59)
    await look_up("a")
    assert source.loads == 1
    clock.advance(1)
    await look_up("a")
    assert source.loads == 2


async def test_maxsize_bounds_one_function() -> None:
    @AsyncLRU(maxsize=10)
    async def bounded(number: int) -> int:
        return number

    @AsyncLRU(maxsize=None)
    async def unbounded(number: int) -> int:
        return number

    for number in range(50):
        await bounded(number)
        await unbounded(number)
    assert bounded.cache_info().currsize == 10
    assert unbounded.cache_info() == (0, 50, None, 50)
    assert bounded.cache_parameters() == {"maxsize": 10, "typed": True, "ttl": None}
    bounded.clear_cache()
    assert bounded.cache_info().currsize == 0
    assert unbounded.cache_info().currsize == 50


async def test_skip_args_leaves_self_out_of_the_key() -> None:
    source = Source()

    class Client:
        @AsyncLRU(skip_args=1)
        async def look_up(self, name: str) -> dict[str, Any]:
            return source.read(name)

    one, other = Client(), Client()
    assert await one.look_up("a") == await other.look_up("a")
    assert source.loads == 1
    one.look_up.invalidate_cache("a")
    await other.look_up("a")
    assert source.loads == 2


async def test_it_belongs_to_no_session() -> None:
    """A helper that many tools call is no tool of the agent: no loop of its, and no backend of the session's."""
    source = Source()

    @AsyncLRU()
    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    async with AgentCacheSession(max_tool_repeats=2, backend=MemoryBackend()) as session:
        for _ in range(10):
            await look_up("a")
        assert session.get_metrics()["hits"] == 0
    await look_up("a")
    assert source.loads == 1
    assert look_up.get_metrics()["hits"] == 10
    name = f"{__name__}.test_it_belongs_to_no_session.<locals>.look_up"
    assert get_metrics()["resources"][name]["hits"] == 10


async def test_no_cache_and_refresh_hold_for_it() -> None:
    source = Source()

    @AsyncLRU()
    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    await look_up("a")
    await look_up("a")
    source.state = 1
    with no_cache():
        assert (await look_up("a"))["state"] == 1
    assert (await look_up("a"))["state"] == 0
    with refresh():
        assert (await look_up("a"))["state"] == 1
    assert (await look_up("a"))["state"] == 1
    configure(mode="off")
    source.state = 2
    assert (await look_up("a"))["state"] == 2


def test_several_event_loops_one_after_the_other(make_backend: Any) -> None:
    for kind in ("memory", "disk", "redis behind memory"):
        source, backend = Source(), make_backend(kind)

        look_up = AsyncLRU(backend=backend)(_reading(source))
        for _ in range(3):
            assert asyncio.run(look_up("a")) == {"about": ["a"], "state": 0}
        assert source.loads == 1

        async def drop_and_leave(look_up: Any = look_up) -> None:
            look_up.clear_cache()

        source.state = 1
        asyncio.run(drop_and_leave())  # the loop is gone before anybody waited
        assert asyncio.run(look_up("a"))["state"] == 1
        asyncio.run(backend.close())


def _reading(source: Source) -> Any:
    async def look_up(name: str) -> dict[str, Any]:
        return source.read(name)

    return look_up


def test_a_def_function_has_the_same_promises() -> None:
    source, gate, running = Source(), threading.Event(), threading.Event()

    @AsyncLRU()
    def look_up(name: str) -> dict[str, Any]:
        running.set()
        gate.wait(20)
        return source.read(name)

    answers: list[Any] = []
    crowd = [threading.Thread(target=lambda: answers.append(look_up("a"))) for _ in range(5)]
    for thread in crowd:
        thread.start()
    running.wait(20)
    gate.set()
    for thread in crowd:
        thread.join(20)
    assert answers == [{"about": ["a"], "state": 0}] * 5
    assert source.loads == 1
    source.state = 1
    assert look_up.invalidate_cache("a") is None
    assert look_up("a")["state"] == 1
    look_up.clear_cache()
    look_up("a")
    assert source.loads == 3
    assert look_up.cache_info().misses == 3


def test_the_function_stays_itself() -> None:
    @AsyncTTL()
    async def look_up(name: str, *, limit: int = 3) -> list[str]:
        """Look a thing up."""
        return [name]

    assert inspect.iscoroutinefunction(look_up)
    assert str(inspect.signature(look_up)) == "(name: 'str', *, limit: 'int' = 3) -> 'list[str]'"
    assert (look_up.__name__, look_up.__doc__) == ("look_up", "Look a thing up.")


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: AsyncLRU(maxsize=0), "maxsize"),
        (lambda: AsyncLRU(maxsize=-1), "maxsize"),
        (lambda: AsyncLRU(maxsize=True), "maxsize"),
        (lambda: AsyncTTL(time_to_live=0), "time_to_live"),
        (lambda: AsyncTTL(time_to_live=-5), "time_to_live"),
        (lambda: AsyncTTL(time_to_live="60"), "time_to_live"),  # type: ignore[arg-type]
        (lambda: AsyncLRU(skip_args=3)(_plain), "skip_args"),
        (lambda: AsyncLRU(backend=3), "backend"),  # type: ignore[arg-type]
        (lambda: AsyncLRU(backend=MemoryBackend(), remote_cache=MemoryBackend()), "remote_cache"),
        (lambda: AsyncLRU(remote_cache=MemoryBackend()), "remote_cache"),
        (lambda: AsyncLRU(_plain), "maxsize"),  # type: ignore[arg-type]
        (lambda: AsyncTTL(_plain), "time_to_live"),  # type: ignore[arg-type]
        (lambda: AsyncLRU()(3), "tool"),  # type: ignore[call-overload]
    ],
)
def test_bad_input_is_refused_at_once(make: Any, parameter: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert refused.value.parameter == parameter


async def _plain(name: str) -> str:
    return name


def test_a_method_has_to_say_what_self_means() -> None:
    with pytest.raises(ConfigurationError, match="skip_args=1"):

        class Client:
            @AsyncLRU()
            async def look_up(self, name: str) -> str:
                return name


async def test_a_method_whose_class_says_what_self_means_needs_no_skip_args() -> None:
    class Client:
        def __init__(self, tenant: str) -> None:
            self.tenant = tenant

        def __agent_cache_key__(self) -> str:
            return self.tenant

        @AsyncLRU()
        async def look_up(self, name: str) -> list[str]:
            return [self.tenant, name]

    assert await Client("a").look_up("x") == ["a", "x"]
    assert await Client("b").look_up("x") == ["b", "x"]
    assert Client.look_up.cache_info().misses == 2
