"""verify=: a sample of the hits is run again in the background, and the rate of wrong answers measured."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AsyncCache,
    AsyncLRU,
    ConfigurationError,
    MemoryBackend,
    NoEffect,
    configure,
    get_metrics,
    no_cache,
    sampling,
)
from agent_cache.engine import verify
from agent_cache.intervals import wilson
from tests.shadow.conftest import Settled

CARTS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _carts(monkeypatch: pytest.MonkeyPatch) -> None:
    CARTS.clear()
    CARTS.update(u1=["tent"], u2=["lamp"])
    monkeypatch.setattr(sampling, "_chance", random.Random(7))


def reader(**how: Any) -> Any:
    @AgentCache("cart:{user}", **how)
    async def get_cart(user: str) -> Any:
        return CARTS[user]

    return get_cart


@AgentCacheInvalidator("cart:{user}")
async def add(user: str, item: str) -> None:
    CARTS[user] = [*CARTS[user], item]


async def test_a_right_answer_and_a_wrong_one(store: Any, settled: Settled, caplog: pytest.LogCaptureFixture) -> None:
    get_cart = reader(verify=1.0)
    assert await get_cart("u1") == ["tent"]
    assert await get_cart("u1") == ["tent"]
    figures = await settled(1)
    assert figures["verify"] == {"verified": 1, "wrong": 0, "rate": 0.0, "low": 0.0, "high": wilson(0, 1)[1]}
    CARTS["u1"] = ["gone"]
    with caplog.at_level(logging.WARNING, "agent_cache"):
        assert await get_cart("u1") == ["tent"]  # served: nobody said it changed
        figures = await settled(2)
    assert (figures["verified"], figures["wrong"]) == (2, 1)
    assert figures["verify"]["rate"] == 0.5
    assert figures["resources"]["cart"]["verify"] == figures["verify"]
    assert figures["hits"] == 2
    assert figures["misses"] == 1  # the runs behind count as nothing else
    assert figures["bypasses"] == 0
    assert [r.message for r in caplog.records if "verified" in r.message]


async def test_a_def_tool_is_run_again_in_a_thread_of_ours(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    threads = []

    @AgentCache("cart:{user}", verify=1.0)
    def get_cart(user: str) -> Any:
        threads.append(threading.current_thread().name)
        return CARTS[user]

    get_cart("u1")
    CARTS["u1"] = ["gone"]
    assert get_cart("u1") == ["tent"]
    assert (await settled(1))["wrong"] == 1
    assert threads[1] == "agent_cache-verify"
    assert threads[0] != threads[1]


@pytest.mark.parametrize("how", ["decorator", "configured"])
async def test_hot_hits_are_drawn_with_the_rate_that_was_asked_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(backend=MemoryBackend())
    drawn: Counter[str] = Counter()

    def note(tool: Any, view: Any, values: tuple[Any, ...], call: Any, found: Any) -> Any:
        drawn[values[0]] += 1
        return
        yield

    monkeypatch.setattr("agent_cache.engine.reads.verify_behind", note)
    get_cart = reader(verify=0.1) if how == "decorator" else reader()
    if how == "configured":
        configure(verify=0.1)
    for _ in range(4_000):
        await get_cart("u1")  # hot
        await get_cart("u2")  # as hot, so that neither has the other's chance
    figures = get_metrics()
    assert figures["hits"] == 7_998
    assert figures["misses"] == 2
    for user in ("u1", "u2"):
        low, high = wilson(drawn[user], 3_999)
        assert low - 0.01 < 0.1 < high + 0.01


async def test_what_is_never_hot_is_drawn_too(settled: Settled) -> None:
    configure(backend=MemoryBackend(), verify=1.0)

    @AgentCache("sum")
    async def add_up(numbers: frozenset[int]) -> int:  # no hot key
        return sum(numbers)

    for _ in range(3):
        await add_up(frozenset({1, 2}))
    assert (await settled(2))["verified"] == 2


async def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(backend=MemoryBackend())
    get_cart = reader()
    never = reader(verify=0)
    monkeypatch.setattr(verify, "verify_behind", None)
    source = get_cart.__code__.co_consts, get_cart.__code__.co_names
    assert not any("look_up" in str(name) for name in (*source[0], *source[1]))
    for _ in range(3):
        await get_cart("u1")
    from agent_cache.context import ROOT

    assert type(ROOT.hot) is dict
    configure(verify=1.0)
    for _ in range(3):
        await never("u2")
    assert get_metrics()["verified"] == get_metrics()["unverified"] == 0
    configure(verify=0)
    assert type(ROOT.hot) is dict


@pytest.mark.parametrize("no_effect", [False, True])
async def test_a_run_that_overlaps_a_write_says_nothing(*, no_effect: bool, settled: Settled) -> None:
    configure(backend=MemoryBackend())
    reached, go_on = asyncio.Event(), asyncio.Event()
    holds = False

    @AgentCache("cart:{user}", verify=1.0)
    async def get_cart(user: str) -> Any:
        value = CARTS[user]
        if holds:
            reached.set()
            await go_on.wait()
        return value

    @AgentCacheInvalidator("cart:{user}")
    async def write(user: str) -> None:
        if no_effect:
            raise NoEffect
        CARTS[user] = ["new"]

    await get_cart("u1")
    holds = True
    await get_cart("u1")
    await reached.wait()
    with suppress(NoEffect):
        await write("u1")
    go_on.set()
    figures = await settled(1)
    assert figures["verified"] == 0
    assert figures["reasons"] == {"verify_overlapped": 1}


async def test_a_write_before_the_run_begins_makes_it_too_late(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    get_cart = reader(verify=1.0)
    await get_cart("u1")
    assert await get_cart("u1") == ["tent"]
    await add("u1", "stove")  # memory: it never waits, so the run has not begun
    figures = await settled(1)
    assert figures["reasons"] == {"verify_too_late": 1}
    assert figures["verified"] == 0


async def test_a_tool_that_fails_now_was_not_wrong(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    get_cart = reader(verify=1.0)
    await get_cart("u1")
    gone = CARTS.pop("u1")
    assert await get_cart("u1") == gone
    figures = await settled(1)
    assert figures["reasons"] == {"verify_failed": 1}
    assert figures["load_failures"] == 0


async def test_the_callers_value_is_his_own(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    get_cart = reader(verify=1.0)
    await get_cart("u1")
    mine = await get_cart("u1")
    mine.append("scribbled")  # before the run behind has begun
    assert (await settled(1))["verify"]["wrong"] == 0


async def test_arguments_changed_by_their_owner_are_not_verified(settled: Settled) -> None:
    configure(backend=MemoryBackend(), verify=1.0)

    @AgentCache("sum")
    async def add_up(numbers: list[int]) -> int:
        return sum(numbers)

    numbers = [1, 2]
    await add_up(numbers)
    await add_up(numbers)
    numbers.append(3)
    assert (await settled(1))["reasons"] == {"verify_too_late": 1}


async def test_no_session_hears_of_it(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    inner_runs = []

    @AgentCache("inner")
    async def inner() -> int:
        inner_runs.append(verify.is_verifying())
        return len(inner_runs)

    @AgentCache("outer", verify=1.0)
    async def outer() -> int:
        return await inner()

    async with AgentCacheSession(max_execution_depth=4, max_tool_repeats=100) as session:
        for _ in range(3):  # outer, inner, outer, outer: the budget is used up
            assert await outer() == 1
        await settled(2)
        figures = session.get_metrics()
    assert figures["loop_detections"] == 0
    assert inner_runs == [False, True, True]  # reads inside run live
    assert figures["wrong"] == 2
    assert get_metrics()["bypasses"] == 0
    assert not verify.is_verifying()


async def test_only_so_many_at_once_and_none_is_lost_to_the_collector(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    go_on, hold = asyncio.Event(), False

    @AgentCache("number", maxsize=None, verify=1.0)
    async def number(n: int) -> int:
        if hold:
            await go_on.wait()
        return n

    for n in range(40):
        await number(n)
    hold = True
    for n in range(40):
        assert await number(n) == n  # nobody waits
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert len(verify._HELD._tasks) == verify._MOST
    assert get_metrics()["reasons"] == {"verify_no_room": 40 - verify._MOST}
    go_on.set()
    assert (await settled(40))["verified"] == verify._MOST
    await asyncio.sleep(0)
    assert len(verify._HELD._tasks) == 0


def test_tasks_of_a_closed_loop_leave_their_place() -> None:
    configure(backend=MemoryBackend())

    @AgentCache("number", verify=1.0)
    async def number(n: int) -> int:
        if holds:
            await asyncio.Event().wait()
        return n

    async def once() -> None:
        nonlocal holds
        holds = False
        await number(1)
        holds = True
        await number(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    holds = False
    for _ in range(verify._MOST + 2):
        asyncio.run(once())  # cancels what is under way
    assert get_metrics()["verified"] == 0
    assert "verify_no_room" not in get_metrics()["reasons"]


async def test_modes_in_which_nothing_is_served_are_not_verified() -> None:
    configure(backend=MemoryBackend(), verify=1.0)
    get_cart = reader()
    await get_cart("u1")
    with no_cache():
        await get_cart("u1")
    for mode in ("off", "shadow"):
        configure(mode=mode)
        await get_cart("u1")
        await get_cart("u1")
    await asyncio.sleep(0)
    assert get_metrics()["verified"] == get_metrics()["unverified"] == 0


async def test_functions_are_sampled_and_keys_set_by_hand_are_not(settled: Settled) -> None:
    configure(backend=MemoryBackend(), verify=1.0)

    @AsyncLRU()
    async def double(n: int) -> int:
        return 2 * n

    await double(1)
    await double(1)
    assert (await settled(1))["verified"] == 1
    cache = AsyncCache()
    await cache.set("a", 1)
    assert [await cache.get("a"), await cache.get("a")] == [1, 1]
    assert get_metrics()["unverified"] == 0


async def test_a_hot_call_that_was_drawn_lends_its_draw_to_nobody(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    assert sampling.look_up({}, (17,), 1.0) is None
    assert not sampling.was_drawn(18)
    assert not sampling.was_drawn(17)  # asked once


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.1", None, float("nan")])
def test_bad_rates(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="verify"):
        configure(verify=value)
    if value is not None:
        with pytest.raises(ConfigurationError, match="verify"):
            AgentCache("cart", verify=value)


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),
    # what statistics packages print, such as R's prop.test(x, n, correct=FALSE)
    [
        (1, 10, 0.01787621, 0.40415),
        (5, 100, 0.02154368, 0.1117505),
        (0, 300, 0.0, 0.01264),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_the_interval_is_wilsons(found: int, of: int, low: float, high: float) -> None:
    assert wilson(found, of) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_interval_holds_the_rate(a: int, b: int) -> None:
    found, of = min(a, b), max(a, b)
    low, high = wilson(found, of)
    assert 0 <= low <= high <= 1
    if of:
        assert low <= found / of <= high
        assert wilson(of - found, of) == pytest.approx((1 - high, 1 - low))


async def test_hits_inside_of_a_load_are_drawn_and_tell_that_load_nothing(settled: Settled) -> None:
    configure(backend=MemoryBackend(), verify=1.0)
    get_cart = reader()

    @AgentCache("summary:{user}", verify=0)
    async def summary(user: str, of: int) -> int:
        await get_cart(user)
        return of

    await get_cart("u1")
    await summary("u1", 1)
    figures = await settled(1)
    assert figures["resources"]["cart"]["verified"] == 1
    assert await summary("u1", 1) == 1
    assert get_metrics()["resources"]["summary"]["hits"] == 1  # its load was kept


async def test_what_a_verification_reads_is_not_read_by_the_load_it_was_drawn_in(settled: Settled) -> None:
    configure(backend=MemoryBackend())
    ran, verified = [0], asyncio.Event()

    @AgentCache("other")
    async def other() -> int:
        return 1

    @AgentCache("inner", verify=1.0)
    async def inner() -> int:
        ran[0] += 1
        found = await other()
        if ran[0] == 2:
            verified.set()
        return found

    @AgentCache("outer")
    async def outer() -> int:
        found = await inner()
        await verified.wait()
        return found

    assert await inner() == 1
    assert await outer() == 1
    await settled(1)
    assert ran == [2]
    assert await outer.explain(), "a read that ran live in the verification would have kept it from being stored"
