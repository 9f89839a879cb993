"""Loops stop, honest work does not."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    LoopEvent,
    MemoryBackend,
    configure,
    get_metrics,
    no_cache,
)
from agent_cache.testing import FakeClock


class Shop:
    """A value behind read tools, and writes to it."""

    def __init__(self, name: str = "stock", **policy: Any) -> None:
        self.value: Any = 0
        self.runs = 0

        @AgentCache(name, **policy)
        async def look(item: int = 0) -> Any:
            self.runs += 1
            return self.value

        @AgentCacheInvalidator(name, backend=policy.get("backend"))
        async def put(value: Any) -> str:
            self.value = value
            return "done"

        self.look, self.put = look, put


async def elsewhere(call: Callable[..., Any], *args: Any) -> Any:
    """Make a call outside the session of the test."""
    return await asyncio.create_task(call(*args), context=contextvars.Context())


async def one_by_one(call: Callable[..., Any], arguments: Iterable[int]) -> None:
    for argument in arguments:
        await call(argument)


async def test_the_sixth_equal_call_is_a_loop() -> None:
    shop = Shop()
    async with AgentCacheSession() as session:
        for _ in range(5):
            await shop.look(3)
        with pytest.raises(AgentLoopDetectedError) as caught:
            await shop.look(3)
    error = caught.value
    assert (error.tool, error.kind, error.count, error.arguments) == ("look", "repeat", 5, {"item": "3"})
    assert len(error.evidence) == 5
    assert "look" in str(error)
    assert error.event.session_id == session.session_id
    assert shop.runs == 1
    assert session.get_metrics()["loop_detections"] == get_metrics()["loop_detections"] == 1


@pytest.mark.parametrize("repeats", [1, 2, 7])
async def test_max_tool_repeats_is_how_many_pass(repeats: int) -> None:
    shop = Shop()
    async with AgentCacheSession(max_tool_repeats=repeats):
        for _ in range(repeats):
            await shop.look()
        with pytest.raises(AgentLoopDetectedError):
            await shop.look()


def test_sync_tools_loop_too() -> None:
    @AgentCache("stock")
    def look() -> int:
        return 1

    with AgentCacheSession():
        for _ in range(5):
            look()
        with pytest.raises(AgentLoopDetectedError):
            look()


async def test_without_session_or_detection_nothing_is_a_loop() -> None:
    shop = Shop()
    for _ in range(100):
        await shop.look()
    async with AgentCacheSession(loop_detection=False):
        for _ in range(100):
            await shop.look()


async def test_interleaved_repeats_are_found() -> None:
    shop = Shop()
    items = [item for step in range(20) for item in (0, 100 + step)]
    async with AgentCacheSession(max_execution_depth=1_000):
        with pytest.raises(AgentLoopDetectedError) as caught:
            await one_by_one(shop.look, items)
    assert caught.value.kind == "repeat"


@pytest.mark.parametrize(("period", "kind"), [(2, "alternation"), (3, "cycle"), (4, "cycle"), (5, "cycle")])
async def test_cycles_are_found(period: int, kind: str) -> None:
    shop = Shop()
    async with AgentCacheSession():
        with pytest.raises(AgentLoopDetectedError) as caught:
            await one_by_one(shop.look, [step % period for step in range(6 * period)])
    assert caught.value.kind == kind
    assert caught.value.event.period == period
    assert caught.value.count == 4


async def test_depth_is_a_budget_and_says_so() -> None:
    shop = Shop()
    async with AgentCacheSession(max_execution_depth=10):
        for step in range(10):
            await shop.look(step)
        with pytest.raises(AgentLoopDetectedError, match="budget") as caught:
            await shop.look(99)
    assert (caught.value.kind, caught.value.count) == ("depth", 10)


async def test_a_new_turn_starts_over() -> None:
    shop = Shop()
    async with AgentCacheSession(max_execution_depth=6) as session:
        for _ in range(4):
            for _ in range(5):
                await shop.look()
            session.new_turn()


async def test_parallel_equal_calls_are_one() -> None:
    shop = Shop()
    async with AgentCacheSession():
        for _ in range(4):
            await asyncio.gather(*(shop.look() for _ in range(100)))
        await shop.look()
        with pytest.raises(AgentLoopDetectedError):
            await shop.look()
    assert shop.runs == 1


def test_equal_calls_at_once_in_threads_are_one() -> None:
    barrier = threading.Barrier(10)
    errors: list[BaseException] = []

    @AgentCache("stock", cache_if=lambda _: False)
    def look() -> int:
        barrier.wait(30)
        return 1

    def call() -> None:
        try:
            with no_cache():
                look()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    with AgentCacheSession():
        context = contextvars.copy_context()
        threads = [threading.Thread(target=context.copy().run, args=(call,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert errors == []


async def test_a_new_outcome_is_progress() -> None:
    shop = Shop(cache_if=lambda _: False)
    async with AgentCacheSession():
        for step in range(20):
            shop.value = step
            assert await shop.look() == step


async def test_a_write_to_what_is_read_is_progress() -> None:
    shop = Shop()
    async with AgentCacheSession():
        for step in range(20):
            await shop.put(step)
            assert await shop.look() == step


async def test_a_write_is_progress_even_if_another_agent_read_first() -> None:
    shop = Shop()
    async with AgentCacheSession():
        for step in range(12):
            await shop.put(step)
            await elsewhere(shop.look)
            assert await shop.look() == step


@pytest.mark.parametrize("on_loop", ["raise", "short_circuit"])
async def test_a_write_is_progress_for_uncached_reads(on_loop: str) -> None:
    shop = Shop()
    async with AgentCacheSession(on_loop=on_loop):
        with no_cache():
            for _ in range(5):
                assert await shop.look() == 0
            await shop.put(1)
            assert await shop.look() == 1


async def test_a_write_elsewhere_is_not_progress() -> None:
    shop, other = Shop("stock"), Shop("else")
    async with AgentCacheSession():
        for step in range(5):
            await other.put(step)
            await shop.look()
        await other.put(6)
        with pytest.raises(AgentLoopDetectedError):
            await shop.look()


async def test_poll_allows_ten_times_more() -> None:
    shop = Shop(poll=True)
    async with AgentCacheSession(max_execution_depth=1_000):
        for _ in range(50):
            await shop.look()
        with pytest.raises(AgentLoopDetectedError):
            await shop.look()


async def test_the_same_error_again_and_again_is_a_loop() -> None:
    @AgentCache("stock")
    async def look() -> int:
        raise OSError("down")

    async with AgentCacheSession():
        for _ in range(5):
            with pytest.raises(OSError, match="down"):
                await look()
            gc.collect()  # nothing is stored: only the detector still knows what the calls depended on
        with pytest.raises(AgentLoopDetectedError):
            await look()


async def test_equal_writes_may_raise() -> None:
    shop = Shop()
    async with AgentCacheSession():
        for _ in range(5):
            await shop.put(1)
        with pytest.raises(AgentLoopDetectedError):
            await shop.put(1)


async def test_different_calls_of_a_write_method_are_no_loop() -> None:
    class Cart:
        def __init__(self) -> None:
            self.items: list[int] = []

        @AgentCacheInvalidator("cart")
        async def add(self, item: int) -> None:
            self.items.append(item)

    cart = Cart()
    async with AgentCacheSession():
        for item in range(10):
            await cart.add(item)
    assert cart.items == list(range(10))


async def test_different_calls_with_an_unkeyable_argument_are_no_loop() -> None:
    @AgentCache("page")
    async def fetch(client: object, page: int) -> list[int]:
        return []

    client = object()
    async with AgentCacheSession():
        for page in range(10):
            assert await fetch(client, page) == []


async def test_warn_logs_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    async with AgentCacheSession(on_loop="warn") as session:
        for _ in range(10):
            assert await shop.look() == 0
    assert len([r for r in caplog.records if "look" in r.getMessage()]) == 1
    assert session.get_metrics()["loop_detections"] == 5


async def test_short_circuit_answers_without_running() -> None:
    shop = Shop(cache_if=lambda _: False)
    shop.value = [1]
    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(5):
            await shop.look()
        answer = await shop.look()
        assert answer == [1]
        answer.append(2)
        assert await shop.look() == [1]
    assert shop.runs == 5


async def test_short_circuit_with_nothing_to_answer_raises() -> None:
    @AgentCache("stock")
    async def look() -> int:
        raise OSError("down")

    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(5):
            with pytest.raises(OSError, match="down"):
                await look()
        with pytest.raises(AgentLoopDetectedError):
            await look()


async def test_a_short_circuited_none_is_a_real_one() -> None:
    shop = Shop()
    shop.value = None
    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(8):
            assert await shop.look() is None


async def test_short_circuit_never_answers_with_what_a_write_has_changed() -> None:
    shop = Shop()
    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(5):
            assert await shop.look() == 0
        await elsewhere(shop.put, 1)
        assert await elsewhere(shop.look) == 1
        assert await shop.look() == 1


async def test_short_circuit_is_not_stale_when_the_entry_was_evicted(clock: FakeClock) -> None:
    shop = Shop(maxsize=1, backend=MemoryBackend(clock=clock))
    await elsewhere(shop.look)
    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(5):
            assert await shop.look() == 0
        await elsewhere(shop.put, 1)
        await elsewhere(shop.look, 99)  # takes the only place
        assert await shop.look() == 1


async def test_writes_are_never_short_circuited() -> None:
    shop = Shop()
    async with AgentCacheSession(on_loop="short_circuit"):
        for _ in range(5):
            await shop.put(1)
        with pytest.raises(AgentLoopDetectedError):
            await shop.put(1)


async def test_staged_warns_then_answers_then_raises(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    async with AgentCacheSession(on_loop="staged"):
        for _ in range(5):
            await shop.look()
        assert await shop.look() == 0
        assert len([r for r in caplog.records if "look" in r.getMessage()]) == 1
        assert await shop.look() == 0
        with pytest.raises(AgentLoopDetectedError):
            await shop.look()


async def test_a_function_decides() -> None:
    shop, seen = Shop(), []

    def on_loop(event: LoopEvent) -> str | None:
        seen.append(event)
        return "raise" if len(seen) == 3 else None

    async with AgentCacheSession(on_loop=on_loop):
        for _ in range(7):
            await shop.look()
        with pytest.raises(AgentLoopDetectedError):
            await shop.look()
    assert {event.kind for event in seen} == {"repeat"}


async def test_what_the_function_raises_reaches_the_caller_and_the_session_goes_on() -> None:
    shop = Shop()

    def on_loop(event: LoopEvent) -> None:
        raise KeyError(event.tool)

    async with AgentCacheSession(on_loop=on_loop) as session:
        for _ in range(5):
            await shop.look()
        with pytest.raises(KeyError):
            await shop.look()
        session.new_turn()
        assert await shop.look() == 0


async def test_observers_hear_of_loops() -> None:
    seen: list[object] = []

    class Observer:
        def on_event(self, event: object) -> None:
            seen.append(event)

    configure(observers=[Observer()])
    shop = Shop()
    async with AgentCacheSession("s", on_loop="warn"):
        for _ in range(6):
            await shop.look()
    loops = [event for event in seen if isinstance(event, LoopEvent)]
    assert [(loop.tool, loop.kind, loop.count, loop.session_id) for loop in loops] == [("look", "repeat", 5, "s")]


async def test_two_sessions_do_not_count_for_each_other() -> None:
    shop = Shop()
    for _ in range(3):
        async with AgentCacheSession():
            for _ in range(5):
                await shop.look()


async def test_two_blocks_of_one_session_count_together() -> None:
    shop = Shop()
    async with AgentCacheSession("s"):
        for _ in range(3):
            await shop.look()
        async with AgentCacheSession("s"):
            await shop.look()
            await shop.look()
            with pytest.raises(AgentLoopDetectedError):
                await shop.look()
