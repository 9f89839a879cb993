"""Function tools through the SDK's runner: hits, invalidation, users, loops, outages, parallel calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from agents import FunctionTool, RunContextWrapper, Runner, function_tool

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    MemoryBackend,
    configure,
    get_metrics,
)
from agent_cache.backends.redis import RedisBackend
from agent_cache.testing import FakeClock
from agent_cache_openai_agents import (
    cached_agent,
    cached_function,
    cached_function_tool,
    ending_on_loops,
    invalidating_function_tool,
    watched_function_tool,
)
from tests.openai_agents_adapter.conftest import Call, agent_with, notes, outputs

READ: Call = ("get_order", {"order_id": 7})
WRITE: Call = ("set_status", {"order_id": 7, "new": "sent"})
POLICIES: dict[str, Any] = {
    "get_order*": {"kind": "read", "resource": "order:{order_id}"},
    "set_status": {"kind": "write", "resource": "order:{order_id}"},
}


@dataclass(frozen=True)
class Who:
    user: str


class Shop:
    """Tools as a library would hand them out, and a count of what ran."""

    def __init__(self) -> None:
        self.status = {7: "paid", 8: "new"}
        self.ran: list[str] = []

        @function_tool(strict_mode=False)
        async def get_order(order_id: int, detail: bool = False) -> str:
            self.ran.append(f"get {order_id}")
            return self.status[order_id]

        @function_tool
        def get_order_blocking(order_id: int) -> str:
            self.ran.append(f"get {order_id}")
            return self.status[order_id]

        @function_tool
        async def set_status(order_id: int, new: str) -> str:
            self.ran.append(f"set {order_id}")
            self.status[order_id] = new
            return "ok"

        self.read, self.read_blocking, self.write = get_order, get_order_blocking, set_status

    @property
    def tools(self) -> list[FunctionTool]:
        return [
            cached_function_tool(self.read, "order:{order_id}"),
            cached_function_tool(self.read_blocking, "order:{order_id}"),
            invalidating_function_tool(self.write, "order:{order_id}"),
        ]


@pytest.fixture
def shop() -> Shop:
    return Shop()


# -- hits and writes ---------------------------------------------------------------------------------------------------


async def test_a_hit_within_a_run_and_between_runs(shop: Shop) -> None:
    tools = shop.tools
    first = await Runner.run(agent_with(tools, READ, READ), "go")
    second = await Runner.run(agent_with(tools, READ), "go")
    assert outputs(first) + outputs(second) == ["paid"] * 3
    assert shop.ran == ["get 7"]
    assert [item.raw_item["call_id"] for item in first.new_items if item.type == "tool_call_output_item"] == [
        "call-0-0",
        "call-1-0",
    ]
    assert [note["executed"] for note in notes(first) + notes(second)] == [True, False, False]


async def test_an_output_item_says_how_old_the_answer_is_and_on_what_it_hangs(shop: Shop) -> None:
    clock = FakeClock()
    backend = MemoryBackend(clock=clock)
    read = cached_function_tool(
        shop.read, "order:{order_id}", "user", backend=backend, ttl=60, stale_while_revalidate=600
    )
    write = invalidating_function_tool(shop.write, "order:{order_id}", backend=backend)
    async with AgentCacheSession("s3cret", identity={"tenant": "acme", "user": "ada"}):
        said = notes(await Runner.run(agent_with([read, write], READ, READ), "go"))
        clock.advance(42)
        said += notes(await Runner.run(agent_with([read, write], READ), "go"))
        clock.advance(42)
        said += notes(await Runner.run(agent_with([read, write], READ, WRITE), "go"))
    hit = {"kind": "read", "executed": False, "tags": ["order:7"]}
    assert said == [
        {"kind": "read", "executed": True},
        {**hit, "age": 0.0},
        {**hit, "age": 42.0},
        {**hit, "age": 84.0, "stale": "stale_while_revalidate"},
        {"kind": "write", "executed": True},
    ]


@pytest.mark.usefixtures("own_loop")
def test_run_sync_and_functions_that_block(shop: Shop) -> None:
    read = ("get_order_blocking", {"order_id": 7})
    result = Runner.run_sync(agent_with(shop.tools, read, read, WRITE, read), "go")
    assert outputs(result) == ["paid", "paid", "ok", "sent"]
    assert shop.ran == ["get 7", "set 7", "get 7"]


async def test_a_streamed_run(shop: Shop) -> None:
    streamed = Runner.run_streamed(agent_with(shop.tools, READ, READ), "go")
    async for _ in streamed.stream_events():
        pass
    assert shop.ran == ["get 7"]


async def test_a_write_drops_what_it_makes_stale_and_nothing_else(shop: Shop) -> None:
    other = ("get_order", {"order_id": 8})
    result = await Runner.run(agent_with(shop.tools, READ, other, WRITE, READ, other), "go")
    assert outputs(result) == ["paid", "new", "ok", "sent", "new"]
    assert shop.ran == ["get 7", "get 8", "set 7", "get 7"]


async def test_a_write_that_fails_invalidates_too() -> None:
    state = ["whole"]

    @function_tool
    async def look() -> str:
        return state[0]

    @function_tool
    async def break_it() -> str:
        state[0] = "broken"
        raise OSError("half way")

    tools = [cached_function_tool(look, "it"), invalidating_function_tool(break_it, "it")]
    result = await Runner.run(agent_with(tools, ("look", {}), ("break_it", {}), ("look", {})), "go")
    assert [outputs(result)[0], outputs(result)[2]] == ["whole", "broken"]


async def test_arguments_count_as_validated(shop: Shop) -> None:
    spellings = [
        {"order_id": 7},
        {"order_id": "7"},
        {"order_id": 7, "detail": False},
        {"detail": False, "order_id": 7.0},
    ]
    result = await Runner.run(agent_with(shop.tools, *[("get_order", args) for args in spellings]), "go")
    assert outputs(result) == ["paid"] * 4
    assert shop.ran == ["get 7"]


async def test_a_whole_agent_by_policies(shop: Shop) -> None:
    agent = agent_with([shop.read, shop.write], READ, READ, WRITE, READ)
    result = await Runner.run(cached_agent(agent, POLICIES), "go")
    assert outputs(result) == ["paid", "paid", "ok", "sent"]
    assert agent.tools == [shop.read, shop.write]  # the original is untouched


# -- decorators under @function_tool -----------------------------------------------------------------------------------


async def test_plain_decorators_under_function_tool() -> None:
    ran: list[str] = []
    status = {7: "paid"}

    @function_tool
    @AgentCache("order:{order_id}")
    async def get_order(order_id: int) -> str:
        """One order."""
        ran.append("get")
        return status[order_id]

    @function_tool
    @AgentCacheInvalidator("order:{order_id}")
    def set_status(order_id: int, new: str) -> str:
        status[order_id] = new
        return "ok"

    assert get_order.description == "One order."
    result = await Runner.run(agent_with([get_order, set_status], READ, READ, WRITE, READ), "go")
    assert outputs(result) == ["paid", "paid", "ok", "sent"]
    assert ran == ["get", "get"]


async def test_a_decorated_function_with_a_context() -> None:
    ran: list[str] = []

    @function_tool
    @cached_function("orders", scope="user")
    async def my_orders(ctx: RunContextWrapper[Who], year: int) -> str:
        ran.append(ctx.context.user)
        return f"of {ctx.context.user}"

    call = ("my_orders", {"year": 2026})
    for user in ("ann", "bob", "ann"):
        async with AgentCacheSession(identity={"user": user}):
            result = await Runner.run(agent_with([my_orders], call, call), "go", context=Who(user))
            assert outputs(result) == [f"of {user}"] * 2
    assert ran == ["ann", "bob"]


# -- who shares --------------------------------------------------------------------------------------------------------


def mine(ran: list[str]) -> FunctionTool:
    @function_tool
    async def my_orders(ctx: RunContextWrapper[Who]) -> str:
        ran.append(ctx.context.user)
        await asyncio.sleep(0)
        return f"of {ctx.context.user}"

    return cached_function_tool(my_orders, "orders", scope="user")


async def test_two_users_at_once() -> None:
    ran: list[str] = []
    tool = mine(ran)

    async def run(user: str) -> list[Any]:
        async with AgentCacheSession(identity={"user": user}):
            return outputs(await Runner.run(agent_with([tool], *[("my_orders", {})] * 2), "go", context=Who(user)))

    users = ("ann", "bob", "ann", "bob")
    assert await asyncio.gather(*map(run, users)) == [[f"of {user}"] * 2 for user in users]
    assert sorted(ran) == ["ann", "bob"]


async def test_without_an_identity_nothing_is_shared() -> None:
    ran: list[str] = []
    tool = mine(ran)
    for user in ("ann", "bob"):
        result = await Runner.run(agent_with([tool], ("my_orders", {})), "go", context=Who(user))
        assert outputs(result) == [f"of {user}"]
    assert ran == ["ann", "bob"]


# -- loops -------------------------------------------------------------------------------------------------------------


async def test_a_loop_ends_the_run(shop: Shop) -> None:
    async with AgentCacheSession(max_tool_repeats=3):
        with pytest.raises(AgentLoopDetectedError) as caught:
            await Runner.run(agent_with(shop.tools, *[READ] * 9), "go")
    assert (caught.value.tool, caught.value.count) == ("get_order", 3)
    assert shop.ran == ["get 7"]


@pytest.mark.usefixtures("own_loop")
def test_a_loop_ends_a_sync_run(shop: Shop) -> None:
    with AgentCacheSession(), pytest.raises(AgentLoopDetectedError):
        Runner.run_sync(agent_with(shop.tools, *[READ] * 9), "go")


async def test_a_loop_ends_a_streamed_run(shop: Shop) -> None:
    async with AgentCacheSession(max_tool_repeats=3):
        streamed = Runner.run_streamed(agent_with(shop.tools, *[READ] * 9), "go")
        with pytest.raises(AgentLoopDetectedError):
            async for _ in streamed.stream_events():
                pass


@pytest.mark.parametrize("how", ["write", "without a policy", "decorated", "by hand"])
async def test_every_kind_of_tool_is_watched_and_ends_the_run(shop: Shop, how: str) -> None:
    ran: list[str] = []

    @AgentCache("it")
    async def kept() -> str:
        ran.append("kept")
        return "it"

    async def by_hand(ctx: Any, arguments: str) -> str:
        ran.append("by hand")
        return "it"

    made = FunctionTool(
        name="by_hand", description="", params_json_schema={}, on_invoke_tool=by_hand, strict_json_schema=False
    )
    tool, call, calls = {
        "write": (shop.tools[2], WRITE, 3),
        "without a policy": (watched_function_tool(shop.read), READ, 3),
        "decorated": (ending_on_loops(function_tool(kept)), ("kept", {}), 1),
        "by hand": (watched_function_tool(made), ("by_hand", {}), 3),
    }[how]
    async with AgentCacheSession(max_tool_repeats=3):
        with pytest.raises(AgentLoopDetectedError):
            await Runner.run(agent_with([tool], *[call] * 9), "go")
    assert len(shop.ran) + len(ran) == calls


async def test_a_decorated_tool_of_an_agent_is_counted_once(shop: Shop) -> None:
    @function_tool
    @AgentCache("weather:{town}")
    async def weather(town: str) -> str:
        return "rain"

    async with AgentCacheSession(max_execution_depth=4):
        agent = cached_agent(agent_with([weather], *[("weather", {"town": "Ulm"})] * 4), {})
        assert outputs(await Runner.run(agent, "go")) == ["rain"] * 4
        with pytest.raises(AgentLoopDetectedError):
            await Runner.run(cached_agent(agent_with([weather], ("weather", {"town": "Bonn"})), {}), "go")


async def test_hints_reach_the_model_and_are_not_kept(shop: Shop) -> None:
    async with AgentCacheSession(max_tool_repeats=3, on_loop="staged"):
        told = outputs(await Runner.run(agent_with(shop.tools, *[READ] * 5), "go"))
    assert told[:3] == ["paid"] * 3
    assert all(text.startswith("paid\n\n") and "get_order" in text for text in told[3:])
    assert outputs(await Runner.run(agent_with(shop.tools, READ), "go")) == ["paid"]


# -- outages and parallel calls ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_nobody_notices_a_dead_redis(shop: Shop, unused_tcp_port: int) -> None:
    dead = RedisBackend(f"redis://127.0.0.1:{unused_tcp_port}/0")
    agent = cached_agent(agent_with([shop.read, shop.write], READ, READ, WRITE, READ), POLICIES, backend=dead)
    assert outputs(await Runner.run(agent, "go")) == ["paid", "paid", "ok", "sent"]
    assert get_metrics()["backend_errors"] > 0
    await dead.close()


@pytest.mark.usefixtures("own_loop", "impatient")
def test_nobody_notices_a_dead_redis_in_run_sync(shop: Shop, unused_tcp_port: int) -> None:
    configure(backend=f"redis://127.0.0.1:{unused_tcp_port}/0")
    assert outputs(Runner.run_sync(agent_with(shop.tools, READ, READ, WRITE, READ), "go")) == [
        "paid",
        "paid",
        "ok",
        "sent",
    ]


@pytest.mark.parametrize("blocking", [False, True])
async def test_equal_calls_of_one_turn_run_once(blocking: bool) -> None:
    ran: list[int] = []

    async def slow() -> str:
        ran.append(1)
        for _ in range(20):
            await asyncio.sleep(0)
        return "done"

    def slow_blocking() -> str:
        ran.append(1)
        return "done"

    tool = cached_function_tool(function_tool(slow_blocking if blocking else slow, name_override="slow"), "slow")
    result = await Runner.run(agent_with([tool], [("slow", {})] * 8), "go")
    assert outputs(result) == ["done"] * 8
    assert len(ran) == 1


async def test_a_read_beside_a_write_in_one_turn_leaves_nothing_stale() -> None:
    """The read begins before the write and ends after it: what it saw is the old value, and must not be kept."""
    state = ["old"]
    reading, written = asyncio.Event(), asyncio.Event()

    @function_tool
    async def read() -> str:
        seen = state[0]
        reading.set()
        await written.wait()
        return seen

    @function_tool
    async def write() -> str:
        await reading.wait()
        state[0] = "new"
        written.set()
        return "ok"

    tools = [cached_function_tool(read, "it"), invalidating_function_tool(write, "it")]
    result = await Runner.run(agent_with(tools, [("read", {}), ("write", {})], ("read", {})), "go")
    assert sorted(outputs(result)[:2]) == ["ok", "old"]
    assert outputs(result)[2] == "new"
