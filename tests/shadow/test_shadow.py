"""Shadow mode: nothing is served from the cache, and what it would have done is measured."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AsyncLRU,
    MemoryBackend,
    NoEffect,
    configure,
    get_metrics,
    no_cache,
    refresh,
    reset_metrics,
    shadow_report,
)
from agent_cache.shadowing import ShadowLog
from agent_cache.testing import FakeClock
from tests.shadow.conftest import Seen

CARTS: dict[str, Any] = {}
RUNS: list[str] = []


@pytest.fixture(autouse=True)
def _carts() -> None:
    CARTS.clear()
    CARTS.update(u1=["tent"], u2=["lamp"])
    RUNS.clear()


@AgentCache("cart:{user}", cost=2)
async def get_cart(user: str) -> Any:
    RUNS.append(user)
    return CARTS[user]


@AgentCache("cart:{user}")
def get_cart_now(user: str) -> Any:
    RUNS.append(user)
    return CARTS[user]


@AgentCacheInvalidator("cart:{user}")
async def add(user: str, item: str) -> None:
    CARTS[user] = [*CARTS[user], item]


@AgentCacheInvalidator("wishes:{user}")
async def add_to_the_wrong_thing(user: str, item: str) -> None:
    CARTS[user] = [*CARTS[user], item]


@AgentCacheInvalidator("cart:{user}")
async def refuse(user: str) -> None:
    raise NoEffect


async def test_every_read_runs_and_hits_are_measured(store: Any, seen: Seen) -> None:
    configure(mode="shadow")
    for _ in range(3):
        assert await get_cart("u1") == ["tent"]
    assert RUNS == ["u1"] * 3
    figures = get_metrics()
    assert (figures["hits"], figures["misses"], figures["bypasses"]) == (0, 0, 3)
    assert (figures["would_hit"], figures["would_miss"], figures["would_be_stale"]) == (2, 1, 0)
    assert figures["would_hit_rate"] == 2 / 3
    assert figures["resources"]["cart"]["would_hit"] == 2
    assert figures["would_save_cost"] == 4
    assert figures["would_save_seconds"] > 0
    assert figures["reasons"]["shadow"] == 3
    assert [call.outcome for call in seen.calls] == ["would_miss", "would_hit", "would_hit"]
    assert seen.calls[0].reason == "absent"
    assert seen.calls[0].stored
    assert seen.calls[1].age is not None


async def test_def_tools_are_measured_alike(store: Any) -> None:
    configure(mode="shadow")
    for _ in range(3):
        assert await asyncio.to_thread(get_cart_now, "u1") == ["tent"]
    assert RUNS == ["u1"] * 3
    assert get_metrics()["would_hit"] == 2


async def test_a_write_is_heard_of(store: Any, seen: Seen) -> None:
    configure(mode="shadow")
    await get_cart("u1")
    await get_cart("u2")
    await add("u1", "stove")
    assert await get_cart("u1") == ["tent", "stove"]
    assert seen.last == ("would_miss", "stale")
    await get_cart("u2")
    assert seen.last == ("would_hit", None)
    assert get_metrics()["would_be_stale"] == 0
    assert shadow_report().narrow_writes == ()


async def test_what_changed_behind_its_back_is_counted_each_time(
    store: Any, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    configure(mode="shadow")
    await get_cart("u1")
    CARTS["u1"] = ["gone"]
    with caplog.at_level(logging.WARNING, "agent_cache"):
        assert await get_cart("u1") == ["gone"]  # never what is stored
        assert await get_cart("u1") == ["gone"]
    assert [call.outcome for call in seen.calls] == ["would_miss", "would_be_stale", "would_be_stale"]
    figures = get_metrics()
    assert (figures["would_hit"], figures["would_be_stale"]) == (2, 2)  # it would have been served twice
    assert len([r for r in caplog.records if "in shadow mode" in r.message]) == 1
    await add("u1", "x")
    await get_cart("u1")
    await get_cart("u1")
    assert seen.last == ("would_hit", None)


@pytest.mark.parametrize(("before", "after"), [(1, 1.0), (1, True), (0.0, -0.0), ([1], (1,)), ({"a": 1, "b": 2}, {})])
async def test_types_count(before: object, after: object) -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    CARTS["u1"] = before
    await get_cart("u1")
    await get_cart("u1")
    assert get_metrics()["would_be_stale"] == 0
    CARTS["u1"] = after
    await get_cart("u1")
    assert get_metrics()["would_be_stale"] == 1


@pytest.mark.parametrize("no_effect", [False, True])
async def test_a_difference_from_an_overlapping_write_is_not_staleness(seen: Seen, *, no_effect: bool) -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    reached, go_on = asyncio.Event(), asyncio.Event()

    @AgentCache("cart:{user}")
    async def slow(user: str) -> Any:
        if reached_at_all:
            reached.set()
            await go_on.wait()
        return CARTS[user]

    reached_at_all = False
    await slow("u1")
    reached_at_all = True
    call = asyncio.create_task(slow("u1"))
    await reached.wait()
    if no_effect:
        with pytest.raises(NoEffect):
            await refuse("u1")
        CARTS["u1"] = ["by somebody else"]
    else:
        await add("u1", "stove")
    go_on.set()
    await call
    assert seen.last == (("would_be_stale", None) if no_effect else ("would_hit", "write_overlapped"))
    assert get_metrics()["would_be_stale"] == int(no_effect)


async def test_calls_at_once_would_share_a_load() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    go_on = asyncio.Event()

    @AgentCache("cart:{user}")
    async def slow(user: str) -> int:
        RUNS.append(user)
        await go_on.wait()
        return 1

    calls = [asyncio.create_task(slow("u1")) for _ in range(4)]
    await asyncio.sleep(0)
    assert len(RUNS) == 4
    calls[0].cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*calls[1:]) == [1, 1, 1]
    figures = get_metrics()
    assert (figures["would_miss"], figures["would_coalesce"]) == (1, 3)
    await slow("u1")
    assert get_metrics()["would_miss"] == 2  # nothing of it is left under way


async def test_failures_and_streams_are_hits_that_cannot_be_compared(seen: Seen) -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    await get_cart("u1")
    gone = CARTS.pop("u1")
    with pytest.raises(KeyError):
        await get_cart("u1")
    assert seen.last == ("would_hit", "uncompared")
    CARTS["u1"] = (each for each in gone)
    assert list(await get_cart("u1")) == ["tent"]  # the caller's stream is untouched
    assert seen.last == ("would_hit", "uncompared")
    assert get_metrics()["load_failures"] == 1


class MissingError(Exception):
    pass


async def test_errors_that_are_answers_are_compared(seen: Seen) -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    answers: list[Any] = [MissingError("u1"), MissingError("u1"), MissingError("other"), "found", OSError("away")]

    @AgentCache("user", ttl=60, cache_errors={MissingError: 60})
    async def get_user(name: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    outcomes = []
    while answers:
        try:
            await get_user("u1")
        except (MissingError, OSError):
            pass
        outcomes.append(seen.last[0])
    assert outcomes == ["would_miss", "would_hit", "would_be_stale", "would_be_stale", "would_be_stale"]


async def test_stale_while_revalidate_is_a_hit_and_the_next_is_stored(clock: FakeClock, seen: Seen) -> None:
    configure(backend=MemoryBackend(clock=clock), mode="shadow")

    @AgentCache("cart:{user}", ttl=10, stale_while_revalidate=10)
    async def read(user: str) -> Any:
        return CARTS[user]

    await read("u1")
    clock.advance(15)
    await read("u1")
    assert seen.last == ("would_hit", None)
    clock.advance(7)
    await read("u1")
    assert seen.last == ("would_hit", None)
    assert seen.calls[-1].age == 7
    clock.advance(25)
    await read("u1")
    assert seen.last == ("would_miss", "expired")


async def test_sessions_scopes_and_modes_hold() -> None:
    configure(backend=MemoryBackend(), mode="shadow")

    @AgentCache("mine", scope="user")
    async def mine() -> str:
        return "mine"

    await mine()
    assert get_metrics()["reasons"] == {"no_session": 1}
    for user in ("u1", "u2", "u1"):
        async with AgentCacheSession(identity={"user": user}) as session:
            await mine()
            assert session.get_metrics()["would_hit"] == int(user == "u1" and get_metrics()["would_miss"] == 2)
    assert (get_metrics()["would_miss"], get_metrics()["would_hit"]) == (2, 1)
    with no_cache():
        await get_cart("u1")
    assert get_metrics()["reasons"]["no_cache"] == 1
    with refresh():
        await get_cart("u1")
        await get_cart("u1")
    assert get_metrics()["would_hit"] == 1


async def test_nothing_from_before_is_served_and_what_was_learnt_is_used_after() -> None:
    configure(backend=MemoryBackend())
    await get_cart("u1")
    await get_cart("u1")
    assert RUNS == ["u1"]
    configure(mode="shadow")
    await get_cart("u1")
    assert RUNS == ["u1"] * 2
    assert get_metrics()["would_hit"] == 1
    configure(mode="on")
    await get_cart("u1")
    await get_cart("u1")
    assert RUNS == ["u1"] * 2


async def test_the_loop_guard_watches_as_ever() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    events = []
    async with AgentCacheSession(max_tool_repeats=2, on_loop=lambda event: events.append(event) or "warn"):
        for _ in range(4):
            await get_cart("u1")
    assert len(events) >= 1
    assert RUNS == ["u1"] * 4


async def test_explain_says_what_would_be() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    assert (await get_cart.explain("u1")).reason.startswith("shadow mode: it runs; else miss:")
    await get_cart("u1")
    found = await get_cart.explain("u1")
    assert found.status == "bypass"
    assert not found
    assert found.reason.startswith("shadow mode: it runs; else hit:")
    assert found.age is not None


async def test_plain_functions_are_measured_too() -> None:
    configure(backend=MemoryBackend(), mode="shadow")

    @AsyncLRU(maxsize=8)
    async def double(number: int) -> int:
        RUNS.append(str(number))
        return 2 * number

    assert [await double(2) for _ in range(3)] == [4, 4, 4]
    assert len(RUNS) == 3
    assert double.get_metrics()["would_hit"] == 2


async def test_a_failing_backend_is_a_miss(seen: Seen) -> None:
    class Broken(MemoryBackend):
        @property
        def sync(self) -> Any:
            raise OSError("away")

    broken = Broken()
    configure(backend=broken, mode="shadow")
    assert await get_cart("u1") == ["tent"]
    assert seen.last == ("would_miss", "backend_error")


# -- writes that say too little ------------------------------------------------------------------------------------------


async def test_a_write_tagged_too_narrowly_is_reported() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    await get_cart("u1")
    await add_to_the_wrong_thing("u1", "stove")
    await get_cart("u1")
    report = shadow_report()
    (found,) = report.narrow_writes
    assert found.read == "get_cart(user='u1')"
    assert found.resources == ("cart:u1",)
    assert found.suspects == ("add_to_the_wrong_thing(user='u1', item='stove')",)
    assert (report.calls, report.forgotten) == (3, 0)
    assert report.resources["cart"]["would_be_stale"] == 1
    text = str(report)
    assert "add_to_the_wrong_thing" in text
    assert "cart" in text


async def test_a_write_that_claimed_no_effect_is_a_suspect() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    await get_cart("u1")
    with pytest.raises(NoEffect):
        await refuse("u1")
    CARTS["u1"] = ["it did all the same"]
    await get_cart("u1")
    assert [each.suspects for each in shadow_report().narrow_writes] == [("refuse(user='u1')",)]


async def test_other_tools_are_suspects_and_invalidation_by_hand_is_a_write() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    async with AgentCacheSession(loop_detection=False) as session:
        await get_cart("u1")
        CARTS["u1"] = ["changed"]
        await get_cart.invalidate("u1")
        await get_cart("u1")
        assert shadow_report().narrow_writes == ()
        session.observe("mystery", {}, "done")
        CARTS["u1"] = ["again"]
        await get_cart("u1")
    assert [each.suspects for each in shadow_report().narrow_writes] == [("mystery()",)]


async def test_one_call_dropped_by_its_key_is_a_write_of_that_call() -> None:
    configure(backend=MemoryBackend(), mode="shadow")

    @AgentCacheInvalidator("cart", clear_all=False, key_fn=lambda args, kwargs: get_cart.cache_key(args[0]))
    async def replace(user: str) -> None:
        CARTS[user] = ["new"]

    await get_cart("u1")
    await replace("u1")
    await get_cart("u1")
    assert shadow_report().narrow_writes == ()
    await replace("u2")
    CARTS["u1"] = ["and not said"]
    await get_cart("u1")
    assert len(shadow_report().narrow_writes) == 1


async def test_polling_tools_are_meant_to_change() -> None:
    configure(backend=MemoryBackend(), mode="shadow")
    answers = iter(range(10))

    @AgentCache("job", poll=True)
    async def job() -> int:
        return next(answers)

    await job()
    await job()
    assert shadow_report().narrow_writes == ()
    assert get_metrics()["would_be_stale"] == 1


async def test_the_log_is_bounded_and_begins_anew() -> None:
    log = ShadowLog(most=3)
    for number in range(5):
        log.read("read", {"n": number}, number, [("r",)], number, 0.0)
    assert (log.report({}).calls, log.report({}).forgotten) == (3, 2)
    configure(backend=MemoryBackend(), mode="shadow")
    await get_cart("u1")
    configure(mode="on")
    await get_cart("u1")
    assert shadow_report().calls == 1  # to be read when it is over
    reset_metrics()
    assert shadow_report().calls == 0
    configure(mode="shadow")
    assert shadow_report().calls == 0


def test_arguments_that_cannot_be_shown_do_no_harm() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    log = ShadowLog()
    log.read("read", {"a": Odd(), "b": "x" * 500}, 1, [], 1, 0.0)
    log.read("read", {"a": Odd(), "b": "x" * 500}, 1, [], 2, 0.0)
    (found,) = log.report({}).narrow_writes
    assert found.read.startswith("read(a=<Odd: ValueError>, b='xxx")
    assert len(found.read) < 200


# -- inside of one another -----------------------------------------------------------------------------------------------


async def test_a_tool_that_calls_another_would_hit_and_hears_its_writes(seen: Seen) -> None:
    configure(backend=MemoryBackend(), mode="shadow")

    @AgentCache("summary:{user}")
    async def summary(user: str) -> str:
        return f"{len(await get_cart(user))} things"

    await summary("u1")
    await summary("u1")
    assert seen.last == ("would_hit", None)
    await add("u1", "stove")
    assert await summary("u1") == "2 things"
    assert seen.last[0] == "would_miss"
    assert get_metrics()["would_be_stale"] == 0
