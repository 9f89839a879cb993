"""The middleware in a real agent and on a bare ToolNode, with ``invoke`` and ``ainvoke``: what a cache must do there."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.tools import StructuredTool, ToolException, tool
from langgraph.errors import GraphBubbleUp

from agent_cache import AgentCacheSession, AgentLoopDetectedError, MemoryBackend, RedisBackend, get_metrics
from agent_cache.testing import FakeClock
from agent_cache_langchain import AgentCacheMiddleware
from tests.langchain.conftest import ScriptedModel, Way
from tests.langchain.shop import ORDER, POLICIES, SEND, Shop


@dataclass(frozen=True)
class Who:
    user: str


def contents(messages: Any) -> list[Any]:
    return [message.content for message in messages]


class TestHitsAndWrites:
    async def test_a_hit(self, way: Way) -> None:
        shop = Shop()
        first, second = await way.run(shop.tools, [[ORDER], [ORDER]], AgentCacheMiddleware(POLICIES))
        assert shop.reads == 1
        assert get_metrics()["hits"] == 1
        assert first.content == second.content == "paid"
        assert (first.tool_call_id, second.tool_call_id) == ("call-0-0", "call-1-0")
        assert first.id != second.id
        assert second.status == "success"
        assert second.name == "get_order"

    async def test_where_an_answer_came_from_stands_beside_it_if_asked_for(self, way: Way) -> None:
        steps = [[ORDER], [ORDER], [SEND]]
        plain = await way.run(Shop().tools, steps, AgentCacheMiddleware(POLICIES))
        assert [message.response_metadata for message in plain] == [{}, {}, {}]
        backend = MemoryBackend(clock=FakeClock())
        told = await way.run(Shop().tools, steps, AgentCacheMiddleware(POLICIES, provenance=True, backend=backend))
        assert [message.response_metadata.get("agent_cache") for message in told] == [
            {"kind": "read", "executed": True},
            {"kind": "read", "executed": False, "age": 0.0, "tags": ["order:7"]},
            {"kind": "write", "executed": True},
        ]
        assert contents(told) == contents(plain)

    async def test_the_age_and_the_resources_of_an_answer_stand_beside_it_and_nobodys_identity(self, way: Way) -> None:
        clock, shop = FakeClock(), Shop()

        def wait() -> str:
            """Let time pass."""
            clock.advance(90)
            return "later"

        async def await_() -> str:
            return wait()

        tools = [shop.read, StructuredTool.from_function(wait, await_, name="wait")]
        policy = {"get_order": {**POLICIES["get_order"], "scope": "user"}}
        middleware = AgentCacheMiddleware(
            policy, provenance=True, backend=MemoryBackend(clock=clock), identity={"tenant": "acme", "user": "ada"}
        )
        messages = await way.run(tools, [[ORDER], [("wait", {})], [ORDER], [ORDER]], middleware)
        said = [message.response_metadata["agent_cache"] for message in messages]
        hit = {"kind": "read", "executed": False, "age": 90.0, "tags": ["order:7"]}
        assert said == [{"kind": "read", "executed": True}, {"kind": "other", "executed": True}, hit, hit]
        assert contents(messages) == ["paid", "later", "paid", "paid"]

    async def test_the_last_answer_stands_in_for_a_failure(self, way: Way) -> None:
        clock, ran = FakeClock(), []

        def get_order(order_id: int) -> str:
            """One order."""
            ran.append(order_id)
            clock.advance(15)
            if len(ran) > 1:
                raise ToolException("away")
            return "paid"

        async def aget_order(order_id: int) -> str:
            return get_order(order_id)

        read = StructuredTool.from_function(get_order, aget_order, handle_tool_error=True)
        policy = {"get_order": {**POLICIES["get_order"], "ttl": 10, "stale_if_error": 60}}
        middleware = AgentCacheMiddleware(policy, provenance=True, backend=MemoryBackend(clock=clock))
        with AgentCacheSession():
            messages = await way.run([read], [[ORDER]], middleware)
            clock.advance(12)
            messages += await way.again()
        assert ran == [7, 7]
        assert contents(messages) == ["paid", "paid"]
        assert messages[1].status == "success"
        noted = messages[1].response_metadata["agent_cache"]
        assert noted == {
            "kind": "read", "executed": False, "age": 27.0, "tags": ["order:7"], "stale": "stale_if_error",
        }  # fmt: skip

    async def test_a_write_invalidates(self, way: Way) -> None:
        shop = Shop()
        steps = [
            [ORDER],
            [ORDER],
            [SEND],
            [ORDER],
            [("get_order", {"order_id": 8})],
            [SEND],
            [("get_order", {"order_id": 8})],
        ]
        messages = await way.run(shop.tools, steps, AgentCacheMiddleware(POLICIES))
        assert contents(messages) == ["paid", "paid", "ok", "sent", "open", "ok", "open"]
        assert shop.reads == 3
        assert get_metrics()["invalidations"] == 2

    async def test_a_write_that_fails_invalidates_too(self, way: Way) -> None:
        shop = Shop()

        @tool
        def set_status(order_id: int, status: str) -> str:
            """Change an order, and fail."""
            shop.status[order_id] = status
            raise TimeoutError("no answer")

        build = {"handle_tool_errors": True} if way.kind == "node" else {}
        runs = [shop.read, set_status]
        if way.kind == "agent":
            with pytest.raises(TimeoutError):
                await way.run(runs, [[ORDER], [SEND]], AgentCacheMiddleware(POLICIES), build=build)
            messages = await way.run(runs, [[ORDER]], AgentCacheMiddleware(POLICIES), build=build)
        else:
            messages = await way.run(runs, [[ORDER], [SEND], [ORDER]], AgentCacheMiddleware(POLICIES), build=build)
        assert messages[-1].content == "sent"

    async def test_answers_are_shared_between_runs_and_middleware_with_one_tool(self, way: Way) -> None:
        shop = Shop()
        middleware = AgentCacheMiddleware(POLICIES)
        for _ in range(3):
            await way.run(shop.tools, [[ORDER]], middleware)
        assert shop.reads == 1

    async def test_parallel_identical_calls_run_once(self, way: Way) -> None:
        shop = Shop()
        waiting = threading.Barrier(1)
        gate, done = threading.Event(), threading.Event()

        def get_order(order_id: int) -> str:
            """One order."""
            waiting.wait()
            done.set()
            assert gate.wait(10)
            shop.ran.append(("get_order", order_id))
            return "paid"

        async def aget_order(order_id: int) -> str:
            shop.ran.append(("get_order", order_id))
            for _ in range(20):
                await asyncio.sleep(0)
            return "paid"

        from langchain_core.tools import StructuredTool

        made = StructuredTool.from_function(get_order, aget_order)
        running = asyncio.ensure_future(
            way.run([made], [[ORDER] * 5], AgentCacheMiddleware({"get_order": POLICIES["get_order"]}))
        )
        if not way.is_async:
            await asyncio.to_thread(done.wait, 10)
            gate.set()
        messages = await running
        assert contents(messages) == ["paid"] * 5
        assert sorted(m.tool_call_id for m in messages) == [f"call-0-{i}" for i in range(5)]
        assert len({m.id for m in messages}) == 5
        assert shop.reads == 1

    async def test_a_read_and_a_write_in_one_turn_leave_nothing_stale(self, way: Way) -> None:
        shop = Shop()
        read_began, write_ended = threading.Event(), threading.Event()

        def get_order(order_id: int) -> str:
            """One order: reads at once, answers after the write."""
            status = shop.status[order_id]
            read_began.set()
            assert write_ended.wait(10)
            return status

        async def aget_order(order_id: int) -> str:
            status = shop.status[order_id]
            read_began.set()
            while not write_ended.is_set():
                await asyncio.sleep(0)
            return status

        def set_status(order_id: int, status: str) -> str:
            """Change an order."""
            assert read_began.wait(10)
            shop.status[order_id] = status
            return "ok"

        async def aset_status(order_id: int, status: str) -> str:
            while not read_began.is_set():
                await asyncio.sleep(0)
            shop.status[order_id] = status
            return "ok"

        from langchain_core.tools import StructuredTool

        class Ending(AgentCacheMiddleware):
            """Says when the write is over, its window closed."""

            def wrap_tool_call(self, request: Any, handler: Any) -> Any:
                result = super().wrap_tool_call(request, handler)
                if request.tool_call["name"] == "set_status":
                    write_ended.set()
                return result

            async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
                result = await super().awrap_tool_call(request, handler)
                if request.tool_call["name"] == "set_status":
                    write_ended.set()
                return result

        tools = [
            StructuredTool.from_function(get_order, aget_order),
            StructuredTool.from_function(set_status, aset_status),
        ]
        messages = await way.run(tools, [[ORDER, SEND], [ORDER]], Ending(POLICIES))
        assert messages[-1].content == "sent"

    async def test_tools_of_which_nothing_is_said_are_run(self, way: Way) -> None:
        shop = Shop()
        await way.run(shop.tools, [[ORDER], [ORDER]], AgentCacheMiddleware())
        assert shop.reads == 2


class TestWhoAsks:
    @pytest.fixture
    def mine(self) -> Any:
        self.ran: list[str] = []

        @tool
        def mine(runtime: ToolRuntime[Who]) -> str:
            """Mine."""
            self.ran.append(runtime.context.user)
            return runtime.context.user

        return mine

    async def test_two_users_are_kept_apart(self, mine: Any, way: Way) -> None:
        policies = {"mine": {"kind": "read", "resource": "mine", "scope": "user"}}
        cache = AgentCacheMiddleware(policies, identity=("user",))
        steps = [[("mine", {})], [("mine", {})]]
        first = await way.run([mine], steps, cache, build={"context_schema": Who}, context=Who("ann"))
        for user in ("bob", "ann"):
            assert contents(await way.again(context=Who(user))) == [user] * 2
        assert contents(first) == ["ann"] * 2
        assert self.ran == ["ann", "bob"]

    async def test_without_a_known_identity_nothing_is_shared(self, mine: Any, way: Way) -> None:
        policies = {"mine": {"kind": "read", "resource": "mine", "scope": "user"}}
        cache = AgentCacheMiddleware(policies)
        build = {"context_schema": Who}
        await way.run([mine], [[("mine", {})], [("mine", {})]], cache, build=build, context=Who("ann"))
        assert contents(await way.again(context=Who("bob"))) == ["bob"] * 2
        assert self.ran == ["ann", "ann", "bob", "bob"]

    @pytest.mark.parametrize("identity", [lambda runtime: {"user": runtime.context.user}, ["user"], "user"])
    async def test_ways_to_say_it(self, identity: Any, mine: Any, way: Way) -> None:
        policies = {"mine": {"kind": "read", "resource": "mine", "scope": "user"}}
        cache = AgentCacheMiddleware(policies, identity=identity)
        await way.run([mine], [[("mine", {})]], cache, build={"context_schema": Who}, context=Who("ann"))
        await way.again(context=Who("ann"))
        assert contents(await way.again(context=Who("bob"))) == ["bob"]
        assert self.ran == ["ann", "bob"]

    async def test_from_the_config(self, way: Way) -> None:
        shop = Shop()
        policies = {**POLICIES, "get_order": {**POLICIES["get_order"], "scope": "user_id"}}
        cache = AgentCacheMiddleware(policies, identity=("tenant", "user_id"))

        def config(tenant: str, user: str) -> dict[str, Any]:
            return {"configurable": {"tenant": tenant, "user_id": user}}

        await way.run(shop.tools, [[ORDER]], cache, config=config("acme", "u1"))
        for tenant, user in (("acme", "u1"), ("acme", "u2"), ("umbrella", "u1")):
            await way.again(config=config(tenant, user))
        assert shop.reads == 3

    async def test_an_open_session_goes_first(self, way: Way) -> None:
        shop = Shop()
        policies = {**POLICIES, "get_order": {**POLICIES["get_order"], "scope": "user"}}
        cache = AgentCacheMiddleware(policies, identity={"user": "of the middleware"})
        async with AgentCacheSession(identity={"user": "ann"}) as session:
            await way.run(shop.tools, [[ORDER], [ORDER]], cache)
            assert session.get_metrics()["hits"] == 1
        async with AgentCacheSession(identity={"user": "bob"}):
            await way.again()
        assert shop.reads == 2

    async def test_an_open_session_without_identity_is_given_that_of_the_run(self, mine: Any, way: Way) -> None:
        policies = {"mine": {"kind": "read", "resource": "mine", "scope": "user"}}
        cache = AgentCacheMiddleware(policies, identity=("user",))
        build = {"context_schema": Who}
        async with AgentCacheSession():
            await way.run([mine], [[("mine", {})], [("mine", {})]], cache, build=build, context=Who("ann"))
            assert contents(await way.again(context=Who("bob"))) == ["bob"] * 2
        assert self.ran == ["ann", "bob"]


class TestLoops:
    async def test_a_loop_ends_the_run(self, way: Way) -> None:
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3):
            with pytest.raises(AgentLoopDetectedError) as caught:
                await way.run(shop.tools, [[ORDER]] * 20, AgentCacheMiddleware(POLICIES))
        assert caught.value.tool == "get_order"
        assert caught.value.kind == "repeat"
        assert caught.value.count == 3
        assert shop.reads == 1

    async def test_also_where_errors_become_text(self, way: Way) -> None:
        if way.kind == "agent":
            from langchain.agents.middleware import ToolRetryMiddleware

            around = [ToolRetryMiddleware(max_retries=2, initial_delay=0)]
            build = {}
        else:
            around, build = [], {"handle_tool_errors": True}
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3):
            with pytest.raises(AgentLoopDetectedError) as caught:
                await way.run(shop.tools, [[ORDER]] * 20, *around, AgentCacheMiddleware(POLICIES), build=build)
        assert isinstance(caught.value, GraphBubbleUp)

    async def test_without_a_session_of_its_own_the_thread_is_one(self, way: Way) -> None:
        shop = Shop()
        config = {"configurable": {"thread_id": "t1"}, "recursion_limit": 100}
        with pytest.raises(AgentLoopDetectedError):
            await way.run(shop.tools, [[ORDER]] * 20, AgentCacheMiddleware(POLICIES), config=config)

    async def test_without_a_thread_an_agents_run_is_one(self, agent: Way) -> None:
        shop = Shop()
        with pytest.raises(AgentLoopDetectedError):
            await agent.run(shop.tools, [[ORDER]] * 20, AgentCacheMiddleware(POLICIES), config={"recursion_limit": 100})
        other = AgentCacheMiddleware(POLICIES, max_tool_repeats=3)
        await agent.run(shop.tools, [[ORDER]] * 3, other)
        assert len(await agent.again()) == 3  # another run: counts from the beginning

    async def test_calls_of_tools_that_are_not_cached_count_too(self, way: Way) -> None:
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3):
            with pytest.raises(AgentLoopDetectedError) as caught:
                await way.run(shop.tools, [[ORDER]] * 20, AgentCacheMiddleware())
        assert caught.value.tool == "get_order"
        assert shop.reads == 3

    async def test_a_new_outcome_is_progress(self, way: Way) -> None:
        ran = 0

        @tool
        def check_job(job: str) -> str:
            """Its state."""
            nonlocal ran
            ran += 1
            return f"{ran} %"

        async with AgentCacheSession(max_tool_repeats=3):
            messages = await way.run([check_job], [[("check_job", {"job": "a"})]] * 8, AgentCacheMiddleware())
        assert len(messages) == 8

    async def test_writes_in_circles(self, way: Way) -> None:
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3):
            with pytest.raises(AgentLoopDetectedError) as caught:
                await way.run(shop.tools, [[SEND]] * 20, AgentCacheMiddleware(POLICIES))
        assert caught.value.tool == "set_status"

    async def test_errors_in_circles(self, way: Way) -> None:
        from langchain_core.tools import ToolException

        def fail(order_id: int) -> str:
            """Fails."""
            raise ToolException(f"no order {order_id}")

        from langchain_core.tools import StructuredTool

        made = StructuredTool.from_function(fail, name="get_order", handle_tool_error=True)
        async with AgentCacheSession(max_tool_repeats=3):
            policies = {"get_order": POLICIES["get_order"]}
            with pytest.raises(AgentLoopDetectedError):
                await way.run([made], [[ORDER]] * 20, AgentCacheMiddleware(policies))

    async def test_the_hint_reaches_the_model(self, way: Way) -> None:
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3, on_loop="staged"):
            with pytest.raises(AgentLoopDetectedError):
                await way.run(shop.tools, [[ORDER]] * 20, AgentCacheMiddleware(POLICIES))
        shown = [message.content for message in way.runner.model.seen[-1] if message.type == "tool"]
        assert shown[:3] == ["paid"] * 3
        assert len(shown) == 5
        for content in shown[3:]:
            assert content.startswith("paid\n\nget_order(order_id=7, detail=False) has been called")
        assert shop.reads == 1

    async def test_short_circuit_gives_the_last_result_again(self, way: Way) -> None:
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3, on_loop="short_circuit"):
            messages = await way.run(shop.tools, [[ORDER]] * 5, AgentCacheMiddleware(POLICIES))
        assert all(m.content.startswith("paid") for m in messages)
        assert shop.reads == 1

    async def test_short_circuit_without_a_result_tells_the_model(self, way: Way) -> None:
        shop = Shop()
        async with AgentCacheSession(max_tool_repeats=3, on_loop="short_circuit"):
            messages = await way.run(shop.tools, [[SEND]] * 5, AgentCacheMiddleware(POLICIES))
        assert contents(messages)[:3] == ["ok"] * 3
        assert [m.status for m in messages] == ["success"] * 3 + ["error"] * 2
        assert "has been called" in messages[-1].content
        assert messages[-1].tool_call_id == "call-4-0"
        assert len(shop.ran) == 3

    async def test_the_budget(self, way: Way) -> None:
        shop = Shop()
        steps = [[("get_order", {"order_id": 7, "detail": bool(i % 2)})] for i in range(9)]
        async with AgentCacheSession(max_execution_depth=4):
            with pytest.raises(AgentLoopDetectedError) as caught:
                await way.run(shop.tools, steps, AgentCacheMiddleware(POLICIES))
        assert caught.value.kind == "depth"

    async def test_tools_decorated_by_themselves_are_counted_once(self, way: Way) -> None:
        from agent_cache import AgentCache, AgentCacheInvalidator

        @tool
        @AgentCache("order:{order_id}")
        def get_order(order_id: int) -> str:
            """One order."""
            return "paid"

        @tool
        @AgentCacheInvalidator("order:{order_id}")
        def set_status(order_id: int, status: str) -> str:
            """Change it."""
            return status

        steps: list[Any] = []
        for i in range(4):
            steps += [[ORDER], [("set_status", {"order_id": 7, "status": str(i)})]]
        async with AgentCacheSession(max_execution_depth=8):
            assert len(await way.run([get_order, set_status], steps, AgentCacheMiddleware())) == 8


class TestDeadRedis:
    async def test_nobody_notices(self, way: Way, dead_redis: RedisBackend, caplog: pytest.LogCaptureFixture) -> None:
        shop = Shop()
        caplog.set_level(logging.WARNING, "agent_cache")
        # a resource of its own: a write also goes to every backend that its readers were seen with
        policies = {n: {**p, "resource": f"{way.kind}-{way.is_async}:{{order_id}}"} for n, p in POLICIES.items()}
        cache = AgentCacheMiddleware(policies, backend=dead_redis)
        messages = await way.run(shop.tools, [[ORDER], [ORDER], [SEND], [ORDER]], cache)
        assert contents(messages) == ["paid", "paid", "ok", "sent"]
        assert get_metrics()["backend_errors"] > 0
        assert sum("the backend failed" in record.message for record in caplog.records) == 1


class TestBackends:
    async def test_each_middleware_has_its_own(self, way: Way) -> None:
        shop = Shop()
        for backend in (MemoryBackend(), MemoryBackend()):
            for _ in range(2):
                await way.run(shop.tools, [[ORDER]], AgentCacheMiddleware(POLICIES, backend=backend, shared_as="shop"))
        assert shop.reads == 2

    async def test_a_name_makes_closures_the_same_tool_elsewhere(self, way: Way) -> None:
        shops = [Shop(), Shop()]
        for shop in shops:
            await way.run(shop.tools, [[ORDER]], AgentCacheMiddleware(POLICIES, shared_as="shop"))
        assert [shop.reads for shop in shops] == [1, 0]

    async def test_without_one_they_are_kept_apart(self, way: Way) -> None:
        shops = [Shop(), Shop()]
        cache = AgentCacheMiddleware(POLICIES)
        for shop in shops:
            await way.run(shop.tools, [[ORDER]], cache)
        assert [shop.reads for shop in shops] == [1, 1]


async def test_a_stream_of_the_middlewares_graph_shows_no_state_of_ours() -> None:
    shop = Shop()
    agent: Any = create_agent(ScriptedModel(steps=[[ORDER]]), shop.tools, middleware=[AgentCacheMiddleware(POLICIES)])
    state = await agent.ainvoke({"messages": [("user", "go")]})
    assert set(state) == {"messages"}
