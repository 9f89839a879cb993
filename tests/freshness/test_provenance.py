"""What an adapter that asks is told of an answer: how old it is, on which resources it hangs, by which rule it was stale."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheSession, DiskBackend, MemoryBackend, TieredBackend, configure, depends_on
from agent_cache.adapters import AdaptedTool, Served, ToolPolicy, adapted
from agent_cache.context import ROOT
from agent_cache.testing import FakeClock
from tests.freshness.conftest import Quiet, Source, Store

ORDER: dict[str, Any] = {"kind": "read", "resource": ["order:{order_id}", "stock"]}
ALMOST = 1e-3  # of the ages that Redis keeps in milliseconds of a clock that runs


def told(source: Source, *, provenance: bool = True, **more: Any) -> AdaptedTool:
    policy = ToolPolicy.of({**ORDER, **more}, "order")
    return adapted("order", policy, ("order_id",), f"order {id(source)}", provenance=provenance)


@pytest.fixture
def ask(source: Source) -> Callable[..., Any]:
    async def run() -> list[int]:
        return source.answer()

    async def asked(tool: AdaptedTool, order_id: object = 7) -> Served[list[int]]:
        return await tool({"order_id": order_id}, run)

    return asked


async def test_a_hit_says_its_age_and_its_resources(store: Store, source: Source, ask: Any) -> None:
    tool = told(source, ttl=60)
    assert await ask(tool) == Served([1], executed=True)
    before = 0.0
    for seconds in (0, 0, 15, 0):
        await store.advance(seconds)
        served = await ask(tool)
        assert (served.value, served.executed, served.stale) == ([1], False, None)
        assert served.tags == ("order:7", "stock")
        assert served.age is not None
        before += seconds
        assert served.age >= before - ALMOST
    assert (await ask(tool, 8)) == Served([2], executed=True)
    assert (await ask(tool, 8)).tags == ("order:8", "stock")


async def test_blocking_tools_say_it_too(store: Store, source: Source) -> None:
    tool = told(source)
    assert tool.blocking({"order_id": 7}, source.answer) == Served([1], executed=True)
    await store.advance(15)
    for _ in range(3):
        served = tool.blocking({"order_id": 7}, source.answer)
        assert (served.executed, served.tags) == (False, ("order:7", "stock"))
        assert served.age is not None
        assert served.age >= 15 - ALMOST


async def test_what_is_answered_at_once_says_it_to_the_second(memory: Store, source: Source, ask: Any) -> None:
    tool = told(source)
    await ask(tool)
    await ask(tool)
    ROOT.drain()
    memory.clock.advance(90)
    assert await ask(tool) == Served([1], executed=False, age=90.0, tags=("order:7", "stock"))
    assert len(ROOT.log) == 1  # by the stand-in itself


async def test_a_near_copy_is_as_old_as_what_it_is_a_copy_of(tmp_path: Path, source: Source, ask: Any) -> None:
    clock, ages = FakeClock(), []
    for _ in range(2):
        far = DiskBackend(tmp_path / "cache.db", clock=clock, wall=clock)
        async with TieredBackend(MemoryBackend(clock=clock), far) as backend:
            configure(backend=backend)
            for _ in range(3):
                ages.append((await ask(told(source))).age)
                clock.advance(10)
    configure(backend=None)
    assert ages == [None, 10.0, 20.0, 30.0, 40.0, 50.0]


async def test_what_was_dropped_is_not_told_of(memory: Store, source: Source, ask: Any) -> None:
    tool = told(source)
    write = adapted("ship", ToolPolicy(kind="write", resource="order:{order_id}"), ("order_id",), None, provenance=True)
    await ask(tool)
    await ask(tool)
    assert await ask(write) == Served([2], executed=True)
    assert await ask(tool) == Served([3], executed=True)
    assert await ask(tool) == Served([3], executed=False, age=0.0, tags=("order:7", "stock"))


async def test_who_does_not_ask_pays_nothing(memory: Store, source: Source, ask: Any) -> None:
    plain, telling = told(source, provenance=False), told(source)
    assert plain is told(source, provenance=False)
    assert plain is not telling
    await ask(plain)
    assert await ask(telling) == Served([1], executed=False, age=0.0, tags=("order:7", "stock"))  # the same answers
    for _ in range(2):
        assert await ask(plain) == Served([1], executed=False)

    @AgentCache("order")
    async def order() -> int:
        return 1

    def code(tool: AdaptedTool) -> set[str]:
        made = tool._decorated(None, ("order_id",), is_async=True)
        return {name.rpartition("_")[2] for name in made.__code__.co_names}

    asked: Any = order
    assert "tell" in code(telling)
    assert "tell" not in code(plain)
    assert "tell" not in {name.rpartition("_")[2] for name in asked.__code__.co_names}


async def test_a_value_cannot_forge_a_path(memory: Store, source: Source, ask: Any) -> None:
    tool = told(source)
    await ask(tool, "7:items/x")
    assert (await ask(tool, "7:items/x")).tags == ("order:7%3Aitems%2Fx", "stock")


async def test_who_is_asking_is_not_told(store: Store, source: Source, ask: Any) -> None:
    for scope in ("user", "session"):
        tool = told(source, scope=scope)
        async with AgentCacheSession("s3cret", identity={"tenant": "acme", "user": "ada"}):
            await ask(tool)
            for _ in range(3):
                served = await ask(tool)
                assert (served.executed, served.tags) == (False, ("order:7", "stock"))


async def test_what_a_load_came_to_read_is_among_them(store: Store, source: Source) -> None:
    @AgentCache("customer:{name}")
    async def customer(name: str) -> str:
        return name

    async def run() -> list[int]:
        await depends_on("ticket:{n}", n=42)
        await customer("ada")
        return source.answer()

    tool = told(source)
    while (served := await tool({"order_id": 7}, run)).executed:
        assert source.asked < 4
    for _ in range(3):
        served = await tool({"order_id": 7}, run)
        assert not served.executed
        assert served.tags[:2] == ("order:7", "stock")
        assert sorted(served.tags[2:]) == ["customer:ada", "ticket:42"]


async def test_a_load_that_was_shared_is_as_new_as_can_be(store: Store, source: Source) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def run() -> list[int]:
        begun.set()
        await go_on.wait()
        return source.answer()

    tool = told(source)
    calls = [asyncio.create_task(tool({"order_id": 7}, run)) for _ in range(2)]
    await begun.wait()
    calls += [asyncio.create_task(tool({"order_id": 7}, run)) for _ in range(2)]
    await asyncio.sleep(0)
    go_on.set()
    answers = await asyncio.gather(*calls)
    assert source.asked == 1
    assert [answer.executed for answer in answers] == [True, False, False, False]
    assert answers[0].origin == {}
    for answer in answers[1:]:
        assert answer.tags == ("order:7", "stock")
        assert answer.age is not None


async def test_an_answer_beyond_its_ttl_says_how_far(store: Store, source: Source, ask: Any, quiet: Quiet) -> None:
    tool = told(source, ttl=10, stale_while_revalidate=60)
    await ask(tool)
    await store.advance(15)
    served = await ask(tool)
    assert (served.executed, served.stale, served.tags) == (False, "stale_while_revalidate", ("order:7", "stock"))
    assert served.age >= 15 - ALMOST
    await quiet()
    assert (await ask(tool)).stale is None


@pytest.mark.parametrize("provenance", [True, False])
async def test_the_last_answer_in_place_of_a_failure_was_not_executed(
    store: Store, source: Source, ask: Any, provenance: bool
) -> None:
    tool = told(source, ttl=10, stale_if_error=60, provenance=provenance)
    await ask(tool)
    await store.advance(15)
    source.fails = OSError("away")
    served = await ask(tool)
    assert (served.value, served.executed) == ([1], False)
    blocking = tool.blocking({"order_id": 8}, lambda: [8])
    assert (blocking.value, blocking.executed) == ([8], True)
    if provenance:
        assert (served.stale, served.tags) == ("stale_if_error", ("order:7", "stock"))
        assert served.age >= 15 - ALMOST


async def test_a_loop_cut_short_says_what_was_given_again(memory: Store, source: Source, ask: Any) -> None:
    tool = told(source)
    async with AgentCacheSession(max_tool_repeats=2, on_loop="short_circuit"):
        await ask(tool)
        memory.clock.advance(5)
        answers = [await ask(tool) for _ in range(4)]
    assert source.asked == 1
    assert answers == [Served([1], executed=False, age=5.0, tags=("order:7", "stock"))] * 4


async def test_answers_that_sessions_share_by_their_writes_say_it(store: Store, source: Source, ask: Any) -> None:
    tool = told(source, scope="lineage")
    for executed in (True, False):
        async with AgentCacheSession(start_state="v1"):
            served = await ask(tool)
            assert served.executed is executed
            assert (await ask(tool)).tags == ("order:7", "stock")


async def test_a_replay_knows_no_age(tmp_path: Path, memory: Store, source: Source, ask: Any) -> None:
    tool = told(source)
    async with AgentCacheSession(record=tmp_path / "c"):
        await ask(tool)
        recorded = await ask(tool)
        assert recorded.executed is False
        assert recorded.tags == ("order:7", "stock")
    async with AgentCacheSession(replay=tmp_path / "c"):
        assert await ask(tool) == Served([1], executed=False)
    assert source.asked == 1


async def test_a_hit_that_is_run_again_to_be_compared_is_a_hit(
    memory: Store, source: Source, ask: Any, quiet: Quiet
) -> None:
    configure(verify=1.0)
    tool = told(source)
    await ask(tool)
    memory.clock.advance(3)
    assert await ask(tool) == Served([1], executed=False, age=3.0, tags=("order:7", "stock"))
    configure(verify=0)
    await quiet()


def test_what_adapters_write_is_plain_and_says_only_what_there_is() -> None:
    assert Served(1, executed=True).origin == {}
    served = Served(1, executed=False, stale="stale_if_error", age=1.23456, tags=("a:1", "b"))
    assert served.origin == {"age": 1.235, "tags": ["a:1", "b"], "stale": "stale_if_error"}
    assert Served(1, executed=False, age=0.0).origin == {"age": 0.0}
