"""Answers beyond their ttl: served while the next is loaded, or if that fails; never once a write has dropped them."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    get_metrics,
)
from agent_cache.engine import behind, stale
from agent_cache.engine.effects import FLIGHTS
from agent_cache.engine.outbox import OUTBOX
from agent_cache.tags import write_tags
from tests.freshness.conftest import Quiet, Seen, Source, Store, wait_for


def reader(source: Source, **how: Any) -> Any:
    @AgentCache("cart:{user}", ttl=10, **how)
    async def get_cart(user: str) -> list[int]:
        return source.answer()

    return get_cart


@AgentCacheInvalidator("cart:{user}")
async def add_to_cart(user: str) -> None:
    pass


async def test_an_expired_answer_is_served_while_the_next_is_loaded(
    store: Store, source: Source, seen: Seen, quiet: Quiet
) -> None:
    get_cart = reader(source, stale_while_revalidate=20)
    assert await get_cart("u1") == [1]
    await store.advance(15)
    explained = await get_cart.explain("u1")
    assert (explained.status, bool(explained)) == ("stale_served", False)
    assert "stale_while_revalidate" in explained.reason
    assert await get_cart("u1") == [1]
    assert seen.last == ("stale_served", "stale_while_revalidate")
    age = seen.events[-1].age
    assert age is not None
    assert 14 <= age <= 16
    await quiet()
    assert source.asked == 2
    assert await get_cart("u1") == [2]
    assert seen.last == ("hit", None)
    figures = get_metrics()
    assert (figures["stale_served"], figures["refreshes"], figures["refresh_failures"]) == (1, 1, 0)
    assert figures["reasons"]["stale_while_revalidate"] == 1
    assert figures["resources"]["cart"]["stale_served"] == 1


async def test_beyond_the_window_the_caller_waits(store: Store, source: Source, seen: Seen) -> None:
    get_cart = reader(source, stale_while_revalidate=20)
    assert await get_cart("u1") == [1]
    await store.advance(31)
    assert await get_cart("u1") == [2]
    assert seen.last[0] in ("miss", "expired")
    assert get_metrics()["stale_served"] == 0


async def test_what_a_write_dropped_is_not_served_stale(store: Store, source: Source) -> None:
    get_cart = reader(source, stale_while_revalidate=20, stale_if_error=20)
    assert await get_cart("u1") == [1]
    await store.advance(15)
    await add_to_cart("u1")
    assert await get_cart("u1") == [2]
    await store.advance(15)
    await add_to_cart("u1")
    source.fails = OSError("away")
    with pytest.raises(OSError, match="away"):
        await get_cart("u1")
    assert get_metrics()["stale_served"] == 0


async def test_a_refresh_that_a_write_overtook_is_not_kept(store: Store, source: Source, quiet: Quiet) -> None:
    held = asyncio.Event()

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    async def get_cart(user: str) -> list[int]:
        found = source.answer()
        if source.asked == 2:
            await held.wait()
        return found

    assert await get_cart("u1") == [1]
    await store.advance(15)
    assert await get_cart("u1") == [1]
    while source.asked < 2:
        await asyncio.sleep(0)
    await add_to_cart("u1")
    assert await get_cart("u1") == [3], "the refresh began before the write"
    held.set()
    await quiet()
    assert await get_cart("u1") == [3]
    assert get_metrics()["fenced_out"] == 1


async def test_one_refresh_for_a_crowd_which_none_of_them_can_cancel(
    store: Store, source: Source, quiet: Quiet
) -> None:
    held = asyncio.Event()

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    async def get_cart(user: str) -> list[int]:
        found = source.answer()
        if source.asked == 2:
            await held.wait()
        return found

    assert await get_cart("u1") == [1]
    await store.advance(15)
    callers = [asyncio.create_task(get_cart("u1")) for _ in range(50)]
    assert await asyncio.gather(*callers) == [[1]] * 50
    while source.asked < 2:
        await asyncio.sleep(0)
    rider = asyncio.create_task(asyncio.wait_for(get_cart("u1"), 30))
    assert await rider == [1]
    held.set()
    await quiet()
    assert source.asked == 2
    assert await get_cart("u1") == [2]


async def test_a_rider_of_a_refresh_that_leaves_does_not_end_it(memory: Store, source: Source, quiet: Quiet) -> None:
    held = asyncio.Event()

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    async def get_cart(user: str) -> list[int]:
        found = source.answer()
        if source.asked == 2:
            await held.wait()
        return found

    assert await get_cart("u1") == [1]
    await memory.advance(29)
    assert await get_cart("u1") == [1]
    await memory.advance(5)  # beyond the window: who comes now waits for the refresh
    rider = asyncio.create_task(get_cart("u1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rider.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rider
    held.set()
    await quiet()
    assert await get_cart("u1") == [2]
    assert source.asked == 2


async def test_a_refresh_that_fails_is_counted_told_once_and_left_alone_for_a_while(
    store: Store, source: Source, quiet: Quiet, caplog: pytest.LogCaptureFixture
) -> None:
    get_cart = reader(source, stale_while_revalidate=20)
    assert await get_cart("u1") == [1]
    await store.advance(15)
    source.fails = OSError("away")
    with caplog.at_level(logging.WARNING, "agent_cache"):
        for _ in range(3):
            assert await get_cart("u1") == [1]
            await quiet()
        assert source.asked == 2, "nobody is asked again at once"
        store.clock.advance(1.5)
        assert await get_cart("u1") == [1]
        await quiet()
    assert source.asked == 3
    assert get_metrics()["refresh_failures"] == 2
    told = [record for record in caplog.records if "could not be refreshed" in record.getMessage()]
    assert len(told) == 1


async def test_a_source_that_asks_to_be_left_alone_is(store: Store, source: Source, quiet: Quiet, seen: Seen) -> None:
    get_cart = reader(source, stale_if_error=100)
    assert await get_cart("u1") == [1]
    await store.advance(15)
    error = OSError("too many")
    error.retry_after = 30  # type: ignore[attr-defined]
    source.fails = error
    assert await get_cart("u1") == [1]
    assert seen.last == ("stale_served", "stale_if_error")
    assert await get_cart("u1") == [1]
    assert source.asked == 2
    await store.advance(31)
    source.fails = None
    assert await get_cart("u1") == [3]


async def test_an_expired_answer_is_served_if_the_load_fails(store: Store, source: Source, seen: Seen) -> None:
    get_cart = reader(source, stale_if_error=20)
    assert await get_cart("u1") == [1]
    await store.advance(15)
    source.fails = OSError("away")
    assert await get_cart("u1") == [1]
    assert seen.last == ("stale_served", "stale_if_error")
    assert await get_cart("u1") == [1]
    assert source.asked == 3, "each call tries"
    await store.advance(20)
    with pytest.raises(OSError, match="away"):
        await get_cart("u1")
    figures = get_metrics()
    assert (figures["stale_served"], figures["load_failures"]) == (2, 3)


async def test_a_crowd_whose_load_fails_is_served_stale(store: Store, source: Source) -> None:
    go = asyncio.Event()

    @AgentCache("cart:{user}", ttl=10, stale_if_error=20)
    async def get_cart(user: str) -> list[int]:
        if source.asked:
            await go.wait()
        return source.answer()

    assert await get_cart("u1") == [1]
    await store.advance(15)
    source.fails = OSError("away")
    callers = [asyncio.create_task(get_cart("u1")) for _ in range(20)]
    for _ in range(50):
        await asyncio.sleep(0.001)
    go.set()
    assert await asyncio.gather(*callers) == [[1]] * 20
    assert source.asked == 2


async def test_a_write_during_the_failing_load_wins(store: Store, source: Source) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    @AgentCache("cart:{user}", ttl=10, stale_if_error=20)
    async def get_cart(user: str) -> list[int]:
        if source.asked:
            began.set()
            await go.wait()
        return source.answer()

    assert await get_cart("u1") == [1]
    await store.advance(15)
    source.fails = OSError("away")
    caller = asyncio.create_task(get_cart("u1"))
    await began.wait()
    await add_to_cart("u1")
    go.set()
    with pytest.raises(OSError, match="away"):
        await caller


async def test_a_write_that_is_still_owed_to_the_store_wins(
    store: Store, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made while the store was away: the read that starts after it finds what it wrote, or the source's error."""
    monkeypatch.setattr(OUTBOX, "send_courier", lambda backend: None)
    get_cart = reader(source, stale_if_error=20)
    assert await get_cart("u1") == [1]
    await store.advance(15)
    OUTBOX.owe(store.backend, write_tags([("cart", "u1")], ()))
    source.fails = OSError("away")
    with pytest.raises(OSError, match="away"):
        await get_cart("u1")


async def test_no_stale_answer_hides_that_a_loop_was_stopped(memory: Store, source: Source) -> None:
    get_cart = reader(source, stale_if_error=20)
    assert await get_cart("u1") == [1]
    await memory.advance(15)
    async with AgentCacheSession(max_tool_repeats=1):

        @AgentCache("stock")
        async def inner() -> int:
            return 1

        await inner()
        with pytest.raises(AgentLoopDetectedError) as stopped:
            await inner()
    source.fails = stopped.value
    with pytest.raises(AgentLoopDetectedError):
        await get_cart("u1")


async def test_a_cancelled_load_is_no_failure_of_the_source(memory: Store, source: Source) -> None:
    @AgentCache("cart:{user}", ttl=10, stale_if_error=20)
    async def get_cart(user: str) -> list[int]:
        if source.asked:
            await asyncio.sleep(3600)
        return source.answer()

    await get_cart("u1")
    await memory.advance(15)
    caller = asyncio.create_task(get_cart("u1"))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.parametrize(
    "how", [{"cache_if": lambda cart: cart == [1]}, {"ttl": lambda cart: 10 if cart == [1] else 0}]
)
async def test_a_refresh_whose_result_is_not_kept_is_not_repeated_at_once(
    memory: Store, source: Source, quiet: Quiet, how: dict[str, Any]
) -> None:
    @AgentCache("cart:{user}", **{"ttl": 10, "stale_while_revalidate": 100, **how})
    async def get_cart(user: str) -> list[int]:
        return source.answer()

    assert await get_cart("u1") == [1]
    await memory.advance(15)
    for _ in range(5):
        assert await get_cart("u1") == [1]
        await quiet()
    assert source.asked == 2
    await memory.advance(1)
    assert await get_cart("u1") == [1]
    await quiet()
    assert source.asked == 3
    assert get_metrics()["refresh_failures"] == 0


async def test_in_a_lineage_a_write_of_ones_own_beats_a_stale_answer_too(memory: Store, source: Source) -> None:
    asked, may_fail = asyncio.Event(), asyncio.Event()

    @AgentCache("cart:{user}", scope="lineage", ttl=10, stale_if_error=100)
    async def get_cart(user: str) -> list[int]:
        if source.fails is not None:
            asked.set()
            await may_fail.wait()
        return source.answer()

    async with AgentCacheSession(start_state="v1"):
        assert await get_cart("u1") == [1]
        await memory.advance(20)
        source.fails = OSError("away")
        reading = asyncio.create_task(get_cart("u1"))
        await asked.wait()
        await add_to_cart("u1")
        may_fail.set()
        with pytest.raises(OSError, match="away"):
            await reading


# -- def tools -----------------------------------------------------------------------------------------------------------


async def test_a_def_tool_is_refreshed_by_a_thread(store: Store, source: Source, quiet: Quiet) -> None:
    threads: list[int] = []

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20, stale_if_error=20)
    def get_cart(user: str) -> list[int]:
        threads.append(threading.get_ident())
        return source.answer()

    assert get_cart("u1") == [1]
    await store.advance(15)
    assert get_cart("u1") == [1]
    await quiet()
    assert get_cart("u1") == [2]
    assert threads[0] == threading.get_ident() != threads[1]
    await store.advance(35)
    assert get_cart("u1") == [3]
    await store.advance(15)
    source.fails = OSError("away")
    assert get_cart("u1") == [3]
    await quiet()
    assert get_metrics()["refresh_failures"] == 1


def test_many_threads_one_refresh(memory: Store, source: Source) -> None:
    held = threading.Event()

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    def get_cart(user: str) -> list[int]:
        found = source.answer()
        if source.asked == 2:
            held.wait(20)
        return found

    assert get_cart("u1") == [1]
    memory.clock.advance(15)
    answers: list[list[int]] = []
    threads = [threading.Thread(target=lambda: answers.append(get_cart("u1"))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [[1]] * 10
    held.set()
    wait_for(lambda: not len(FLIGHTS))
    assert source.asked == 2


# -- loops that end, sessions ----------------------------------------------------------------------------------------------


def test_a_refresh_whose_loop_was_closed_hinders_nobody(memory: Store, source: Source) -> None:
    never = [True]

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    async def get_cart(user: str) -> list[int]:
        found = source.answer()
        if source.asked == 2 and never[0]:
            await asyncio.sleep(3600)
        return found

    async def twice() -> None:
        assert await get_cart("u1") == [1]
        memory.clock.advance(15)
        assert await get_cart("u1") == [1]
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(twice())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()

    async def again() -> list[int]:
        stale_one = await get_cart("u1")
        async with asyncio.timeout(20):
            while len(FLIGHTS) or FLIGHTS._by_token:
                await asyncio.sleep(0)
        assert stale_one == [1]
        found: list[int] = await get_cart("u1")
        return found

    assert asyncio.run(again()) == [3]


def test_a_refresh_that_the_end_of_the_loop_cancels_is_no_failure(memory: Store, source: Source) -> None:
    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    async def get_cart(user: str) -> list[int]:
        found = source.answer()
        if source.asked == 2:
            await asyncio.sleep(3600)
        return found

    async def twice() -> None:
        assert await get_cart("u1") == [1]
        memory.clock.advance(15)
        assert await get_cart("u1") == [1]
        await asyncio.sleep(0)

    asyncio.run(twice())
    assert not len(FLIGHTS)
    assert get_metrics()["refresh_failures"] == 0


async def test_a_refresh_that_was_cancelled_before_it_began_hinders_nobody(memory: Store, source: Source) -> None:
    get_cart = reader(source, stale_while_revalidate=20)
    assert await get_cart("u1") == [1]
    await memory.advance(15)
    before = asyncio.all_tasks()
    assert await get_cart("u1") == [1]
    (refresh,) = asyncio.all_tasks() - before
    refresh.cancel()
    await asyncio.wait({refresh})
    assert not len(FLIGHTS)
    await memory.advance(20)
    assert await asyncio.wait_for(get_cart("u1"), 20) == [2]


def test_nobody_waits_for_a_refresh_that_no_thread_has_begun(memory: Store, source: Source) -> None:
    """All threads for refreshes are held up by other tools."""
    go, busy, held = threading.Event(), [False], list[int]()

    @AgentCache("slow:{number}", ttl=10, stale_while_revalidate=20)
    def slow(number: int) -> int:
        if busy[0]:
            held.append(number)
            go.wait()
        return number

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=20)
    def get_cart(user: str) -> list[int]:
        return source.answer()

    threads = behind._REFRESHING._most
    for number in range(threads):
        slow(number)
    assert get_cart("u1") == [1]
    memory.clock.advance(15)
    busy[0] = True
    for number in range(threads):
        slow(number)
    wait_for(lambda: len(held) == threads)
    try:
        assert get_cart("u1") == [1]
        assert get_cart("u1") == [1]
        assert get_metrics()["refreshes"] == threads + 1
        memory.clock.advance(20)
        found = list[list[int]]()
        reading = threading.Thread(target=lambda: found.append(get_cart("u1")), daemon=True)
        reading.start()
        wait_for(lambda: found)
        assert found == [[2]]
    finally:
        go.set()
    wait_for(lambda: not behind._REFRESHING._open)
    assert source.asked == 2


async def test_the_number_of_refreshes_is_bounded(
    memory: Store, source: Source, quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_cache.engine.behind._MOST_BEHIND", 3)
    get_cart = reader(source, stale_while_revalidate=20)
    for user in range(6):
        await get_cart(f"u{user}")
    await memory.advance(15)
    for user in range(6):
        assert await get_cart(f"u{user}") == [user + 1]
    await quiet()
    assert source.asked == 9
    assert get_metrics()["refreshes"] == 3


async def test_a_stale_answer_counts_as_a_repeat_and_each_caller_owns_his(memory: Store, source: Source) -> None:
    get_cart = reader(source, stale_while_revalidate=1_000)
    async with AgentCacheSession(max_tool_repeats=3):
        first = await get_cart("u1")
        stale.RESTS.begin(_call_of(get_cart), 10_000)
        await memory.advance(15)
        second = await get_cart("u1")
        second.append(99)
        assert first == [1]
        assert await get_cart("u1") == [1]
        with pytest.raises(AgentLoopDetectedError):
            await get_cart("u1")


def _call_of(get_cart: Any) -> Any:
    from agent_cache.context import ROOT
    from agent_cache.engine.calls import prepare_read

    return prepare_read(get_cart.__agent_cache__, ROOT, ("u1",))


async def test_a_tool_without_these_rules_takes_an_expired_entry_for_a_miss(memory: Store, source: Source) -> None:
    """The same tool of an older deployment, on the same store."""
    get_cart = reader(source, stale_while_revalidate=20)
    assert await get_cart("u1") == [1]
    await memory.advance(15)
    found = memory.backend.sync.lookup(_call_of(get_cart).key, _call_of(get_cart).tags, get_cart.__agent_cache__.codec)
    assert (found.why, found.kept is not None) == ("expired", True)
