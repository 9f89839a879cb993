"""The plain decorators right under LangChain's ``@tool``, in a real agent."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.tools import ToolRuntime
from langchain_core.tools import tool

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, AgentLoopDetectedError, get_metrics

ORDER = ("get_order", {"order_id": 7})


@dataclass(frozen=True)
class Who:
    user: str


async def get_order(order_id: int, detail: bool = False) -> dict[str, Any]:
    """One order.

    With all its lines if detail is set.
    """
    return {"id": order_id, "detail": detail}


async def who_am_i(runtime: ToolRuntime[Who]) -> str:
    """The name of the caller."""
    return runtime.context.user


async def set_status(order_id: int, status: str) -> str:
    """Change the status of an order."""
    return f"{order_id} {status}"


class TestTheToolLooksTheSame:
    @pytest.mark.parametrize(
        ("decorate", "function"),
        [
            (AgentCache("order:{order_id}"), get_order),
            (AgentCache("me", scope="user", ignore=("runtime",)), who_am_i),
            (AgentCacheInvalidator("order:{order_id}"), set_status),
        ],
    )
    def test_name_description_and_schemas(self, decorate: Any, function: Any) -> None:
        plain, ours = tool(function), tool(decorate(function))
        assert (ours.name, ours.description) == (plain.name, plain.description)
        assert ours.args == plain.args
        assert ours.tool_call_schema.model_json_schema() == plain.tool_call_schema.model_json_schema()
        assert (ours.func is None, ours.coroutine is None) == (plain.func is None, plain.coroutine is None)

    def test_a_sync_tool_stays_a_sync_tool(self) -> None:
        def add(a: int, b: int = 1) -> int:
            """Add."""
            return a + b

        plain, ours = tool(add), tool(AgentCache("sum")(add))
        assert ours.func is not None
        assert ours.coroutine is None
        assert ours.args == plain.args
        assert ours.invoke({"a": 2}) == 3


class TestHits:
    async def test_the_second_call_is_a_hit_with_a_message_of_its_own(self, scripted: Any) -> None:
        ran = 0

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> dict[str, int]:
            """One order."""
            nonlocal ran
            ran += 1
            return {"id": order_id}

        first, second = await scripted([get_order], [[ORDER], [ORDER]]).ainvoke()
        assert ran == 1
        assert get_metrics()["hits"] == 1
        assert first.content == second.content == json.dumps({"id": 7})
        assert (first.tool_call_id, second.tool_call_id) == ("call-0-0", "call-1-0")
        assert first.id != second.id
        assert second.status == "success"

    def test_sync_invoke(self, scripted: Any) -> None:
        ran = 0

        @tool
        @AgentCache("order:{order_id}")
        def get_order(order_id: int) -> dict[str, int]:
            """One order."""
            nonlocal ran
            ran += 1
            return {"id": order_id}

        with AgentCacheSession():
            first, second = scripted([get_order], [[ORDER], [ORDER]]).invoke()
        assert ran == 1
        assert get_metrics()["hits"] == 1
        assert first.content == second.content
        assert first.id != second.id

    async def test_a_sync_tool_in_an_async_agent(self, scripted: Any) -> None:
        ran: list[int] = []

        @tool
        @AgentCache("order:{order_id}", scope="user")
        def get_order(order_id: int) -> int:
            """One order."""
            ran.append(order_id)
            return order_id

        async with AgentCacheSession(identity={"user": "u1"}):
            messages = await scripted([get_order], [[ORDER], [ORDER]]).ainvoke()
        assert [m.content for m in messages] == ["7", "7"]
        assert ran == [7]

    async def test_the_spelling_of_the_arguments_does_not_matter(self, scripted: Any) -> None:
        ran = 0

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int, detail: bool = False) -> int:
            """One order."""
            nonlocal ran
            ran += 1
            return order_id

        spellings = [{"order_id": 7}, {"order_id": "7"}, {"detail": False, "order_id": 7}]
        await scripted([get_order], [[("get_order", s)] for s in spellings]).ainvoke()
        assert ran == 1

    async def test_parallel_identical_calls_run_once(self, scripted: Any) -> None:
        ran = 0
        gate = asyncio.Event()

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> dict[str, int]:
            """One order."""
            nonlocal ran
            ran += 1
            await gate.wait()
            return {"id": order_id}

        run = asyncio.create_task(scripted([get_order], [[ORDER, ORDER, ORDER]]).ainvoke())
        while not ran:
            await asyncio.sleep(0)
        for _ in range(20):  # every call of the turn has arrived
            await asyncio.sleep(0)
        gate.set()
        messages = await run
        assert ran == 1
        assert get_metrics()["coalesced"] == 2
        assert [m.tool_call_id for m in messages] == ["call-0-0", "call-0-1", "call-0-2"]
        assert len({m.id for m in messages}) == 3

    def test_parallel_identical_calls_in_threads_run_once(self, scripted: Any) -> None:
        ran = 0

        @tool
        @AgentCache("order:{order_id}")
        def get_order(order_id: int) -> int:
            """One order."""
            nonlocal ran
            ran += 1
            return order_id

        messages = scripted([get_order], [[ORDER] * 4]).invoke()
        assert [m.content for m in messages] == ["7"] * 4
        assert ran == 1

    async def test_an_error_is_not_stored(self, scripted: Any) -> None:
        ran = 0

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> int:
            """One order."""
            nonlocal ran
            ran += 1
            if ran == 1:
                raise LookupError("not now")
            return order_id

        runner = scripted([get_order], [[ORDER]])
        with pytest.raises(LookupError, match="not now"):
            await runner.ainvoke()
        assert [m.content for m in await runner.ainvoke()] == ["7"]
        assert ran == 2


class TestWrites:
    async def test_a_write_invalidates(self, scripted: Any) -> None:
        status = {7: "paid"}

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> str:
            """One order."""
            return status[order_id]

        @tool
        @AgentCacheInvalidator("order:{order_id}")
        async def set_status(order_id: int, new: str) -> str:
            """Change an order."""
            status[order_id] = new
            return "ok"

        write = ("set_status", {"order_id": 7, "new": "sent"})
        messages = await scripted([get_order, set_status], [[ORDER], [ORDER], [write], [ORDER]]).ainvoke()
        assert [m.content for m in messages] == ["paid", "paid", "ok", "sent"]
        assert get_metrics()["hits"] == 1

    async def test_a_read_that_overlaps_a_write_in_the_same_turn_is_not_kept(self, scripted: Any) -> None:
        status = {7: "paid"}
        has_read, has_written = asyncio.Event(), asyncio.Event()

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> str:
            """One order; on its way back while the write runs from start to end."""
            answer = status[order_id]
            if not has_read.is_set():
                has_read.set()
                await has_written.wait()
            return answer

        @tool
        @AgentCacheInvalidator("order:{order_id}")
        async def set_status(order_id: int, new: str) -> str:
            """Change an order."""
            await has_read.wait()
            status[order_id] = new
            asyncio.get_running_loop().call_soon(has_written.set)
            return "ok"

        write = ("set_status", {"order_id": 7, "new": "sent"})
        messages = await scripted([get_order, set_status], [[ORDER, write], [ORDER], [ORDER]]).ainvoke()
        assert [m.content for m in messages] == ["paid", "ok", "sent", "sent"]

    def test_a_sync_write_invalidates(self, scripted: Any) -> None:
        status = {7: "paid"}

        @tool
        @AgentCache("order:{order_id}")
        def get_order(order_id: int) -> str:
            """One order."""
            return status[order_id]

        @tool
        @AgentCacheInvalidator("order:{order_id}")
        def set_status(order_id: int, new: str) -> str:
            """Change an order."""
            status[order_id] = new
            return "ok"

        write = ("set_status", {"order_id": 7, "new": "sent"})
        messages = scripted([get_order, set_status], [[ORDER], [write], [ORDER]]).invoke()
        assert [m.content for m in messages] == ["paid", "ok", "sent"]


class TestScopes:
    async def test_two_users_of_one_agent_are_kept_apart(self, scripted: Any) -> None:
        ran: list[str] = []

        @tool
        @AgentCache("me", scope="user", ignore=("runtime",))
        async def who_am_i(runtime: ToolRuntime[Who]) -> str:
            """The name of the caller."""
            ran.append(runtime.context.user)
            return runtime.context.user

        runner = scripted([who_am_i], [[("who_am_i", {})], [("who_am_i", {})]], context_schema=Who)

        async def ask(user: str) -> list[Any]:
            async with AgentCacheSession(identity={"user": user}):
                return [m.content for m in await runner.ainvoke(context=Who(user))]

        assert await asyncio.gather(ask("ann"), ask("bob")) == [["ann"] * 2, ["bob"] * 2]
        assert sorted(ran) == ["ann", "bob"]

    async def test_without_an_identity_nothing_is_shared(self, scripted: Any) -> None:
        @tool
        @AgentCache("me", scope="user", ignore=("runtime",))
        async def who_am_i(runtime: ToolRuntime[Who]) -> str:
            """The name of the caller."""
            return runtime.context.user

        runner = scripted([who_am_i], [[("who_am_i", {})]], context_schema=Who)
        answers = [(await runner.ainvoke(context=Who(user)))[0].content for user in ("ann", "bob")]
        assert answers == ["ann", "bob"]
        assert get_metrics()["hits"] == 0


class TestLoops:
    async def test_a_loop_is_stopped(self, scripted: Any) -> None:
        ran = 0

        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> int:
            """One order."""
            nonlocal ran
            ran += 1
            return order_id

        with pytest.raises(AgentLoopDetectedError) as caught:
            async with AgentCacheSession(max_tool_repeats=3):
                await scripted([get_order], [[ORDER]] * 10).ainvoke()
        assert (caught.value.kind, caught.value.count) == ("repeat", 3)
        assert "get_order" in caught.value.tool
        assert ran == 1

    def test_a_loop_is_stopped_in_a_sync_agent(self, scripted: Any) -> None:
        threads = set()

        @tool
        @AgentCache("order:{order_id}")
        def get_order(order_id: int) -> int:
            """One order."""
            threads.add(threading.get_ident())
            return order_id

        with pytest.raises(AgentLoopDetectedError), AgentCacheSession(max_tool_repeats=3):
            scripted([get_order], [[ORDER]] * 10).invoke()
        assert len(threads) == 1

    async def test_one_turn_with_many_parallel_calls_is_no_loop(self, scripted: Any) -> None:
        @tool
        @AgentCache("order:{order_id}")
        async def get_order(order_id: int) -> int:
            """One order."""
            return order_id

        async with AgentCacheSession(max_tool_repeats=3):
            assert len(await scripted([get_order], [[ORDER] * 10]).ainvoke()) == 10
