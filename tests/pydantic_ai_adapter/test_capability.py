"""``AgentCacheCapability`` in a real agent: hits, invalidation, users, loops, outages, parallel calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext

from agent_cache import AgentCacheSession, AgentLoopDetectedError, LoopEvent, MemoryBackend, configure, get_metrics
from agent_cache.backends.redis import RedisBackend
from agent_cache_pydantic_ai import AgentCacheCapability, ToolPolicy
from tests.pydantic_ai_adapter.conftest import POLICIES, READ, WRITE, Shop, returned, said, scripted


@dataclass(frozen=True)
class Who:
    user: str


def cache(**options: Any) -> AgentCacheCapability:
    return AgentCacheCapability(POLICIES, **options)


# -- hits and writes ---------------------------------------------------------------------------------------------------


async def test_a_hit_within_a_run_and_between_runs(shop: Shop) -> None:
    agent = shop.agent(READ, READ, capabilities=[cache()])
    first = await agent.run("go")
    assert said(first.all_messages()) == ["paid", "paid"]
    second = await agent.run("go")
    assert said(second.all_messages()) == ["paid", "paid"]
    assert shop.ran == ["get 7"]
    assert [part.tool_call_id for part in returned(second.all_messages())] == ["call-0-0", "call-1-0"]
    assert get_metrics()["hits"] == 3


@pytest.mark.usefixtures("own_loop")
def test_run_sync_and_functions_that_block(shop: Shop) -> None:
    read = ("get_order_blocking", {"order_id": 7})
    agent = shop.agent(read, read, WRITE, read, capabilities=[cache()])
    assert said(agent.run_sync("go").all_messages()) == ["paid", "paid", "ok", "sent"]
    assert said(agent.run_sync("go").all_messages())[-1] == "sent"
    assert shop.ran.count("get 7") == 4 - 1  # paid, sent, and sent again after the second run's write


async def test_a_run_step_by_step(shop: Shop) -> None:
    agent = shop.agent(READ, READ, capabilities=[cache()])
    async with agent.iter("go") as run:
        async for _ in run:
            pass
    assert shop.ran == ["get 7"]


async def test_arguments_count_as_validated(shop: Shop) -> None:
    spellings = [{"order_id": 7}, {"order_id": "7"}, {"order_id": 7, "detail": False}, {"order_id": 7.0}]
    agent = shop.agent(*[("get_order", args) for args in spellings], capabilities=[cache()])
    assert said((await agent.run("go")).all_messages()) == ["paid"] * 4
    assert shop.ran == ["get 7"]


async def test_a_write_drops_what_it_makes_stale_and_nothing_else(shop: Shop) -> None:
    other = ("get_order", {"order_id": 8})
    agent = shop.agent(READ, other, WRITE, READ, other, capabilities=[cache()])
    assert said((await agent.run("go")).all_messages()) == ["paid", "new", "ok", "sent", "new"]
    assert shop.ran == ["get 7", "get 8", "set 7", "get 7"]


async def test_a_write_that_fails_invalidates_too(shop: Shop) -> None:
    agent: Agent[None, str] = Agent(
        scripted(("look", {}), ("break_it", {}), ("look", {})),
        capabilities=[
            AgentCacheCapability(
                {"look": {"kind": "read", "resource": "it"}, "break_it": {"kind": "write", "resource": "it"}}
            )
        ],
    )
    state = ["whole"]

    @agent.tool_plain
    def look() -> str:
        return state[0]

    @agent.tool_plain
    async def break_it() -> str:
        from pydantic_ai import ModelRetry

        state[0] = "broken"
        raise ModelRetry("not quite")

    parts = returned((await agent.run("go")).all_messages())
    assert [part.content for part in parts if part.tool_name == "look"] == ["whole", "broken"]


# -- who shares --------------------------------------------------------------------------------------------------------


def mine(ran: list[str], **options: Any) -> Agent[Who, str]:
    agent = Agent(
        scripted(("my_orders", {}), ("my_orders", {})),
        deps_type=Who,
        capabilities=[
            AgentCacheCapability({"my_orders": {"kind": "read", "resource": "orders", "scope": "user"}}, **options)
        ],
    )

    @agent.tool
    async def my_orders(ctx: RunContext[Who]) -> str:
        ran.append(ctx.deps.user)
        return f"of {ctx.deps.user}"

    return agent


async def test_two_users_are_kept_apart_by_what_the_context_says() -> None:
    ran: list[str] = []
    agent = mine(ran, identity=lambda ctx: {"user": ctx.deps.user})
    for user in ("ann", "bob", "ann", "bob"):
        assert said((await agent.run("go", deps=Who(user))).all_messages()) == [f"of {user}"] * 2
    assert ran == ["ann", "bob"]


async def test_two_users_at_once() -> None:
    ran: list[str] = []
    agent = mine(ran, identity=lambda ctx: {"user": ctx.deps.user})
    runs = await asyncio.gather(*(agent.run("go", deps=Who(user)) for user in ("ann", "bob", "ann", "bob")))
    assert [said(run.all_messages()) for run in runs] == [[f"of {u}"] * 2 for u in ("ann", "bob", "ann", "bob")]
    assert sorted(ran) == ["ann", "bob"]


async def test_the_session_around_the_run_says_who_asks() -> None:
    ran: list[str] = []
    agent = mine(ran)
    for user in ("ann", "bob", "ann"):
        async with AgentCacheSession(identity={"user": user}):
            assert said((await agent.run("go", deps=Who(user))).all_messages()) == [f"of {user}"] * 2
    assert ran == ["ann", "bob"]


async def test_without_an_identity_nothing_is_shared() -> None:
    ran: list[str] = []
    agent = mine(ran)
    for user in ("ann", "bob"):
        assert said((await agent.run("go", deps=Who(user))).all_messages()) == [f"of {user}"] * 2
    assert ran == ["ann", "ann", "bob", "bob"]


async def test_session_entries_die_with_the_run_or_live_as_long_as_said(shop: Shop) -> None:
    policies = {"get_order": ToolPolicy(kind="read", resource="order", scope="session")}
    memory = MemoryBackend()
    agent = shop.agent(READ, READ, capabilities=[AgentCacheCapability(policies, backend=memory)])
    for runs in (1, 2):
        await agent.run("go")
        assert len(shop.ran) == runs
        for _ in range(100):  # they are dropped behind the run
            await asyncio.sleep(0)
        assert (await memory.stats())["entries"] == 0
    shop.ran.clear()
    held = AgentCacheCapability(policies, session=lambda ctx: ctx.conversation_id)
    agent = shop.agent(READ, READ, capabilities=[held])
    for conversation, ran in (("a", 1), ("a", 1), ("b", 2), ("a", 2)):
        await agent.run("go", conversation_id=conversation)
        assert len(shop.ran) == ran


# -- loops -------------------------------------------------------------------------------------------------------------


async def test_a_loop_ends_the_run(shop: Shop) -> None:
    agent = shop.agent(*[READ] * 9, capabilities=[cache(max_tool_repeats=3)])
    with pytest.raises(AgentLoopDetectedError) as caught:
        await agent.run("go")
    assert (caught.value.tool, caught.value.count) == ("get_order", 3)
    assert shop.ran == ["get 7"]


@pytest.mark.usefixtures("own_loop")
def test_a_loop_ends_a_sync_run(shop: Shop) -> None:
    with pytest.raises(AgentLoopDetectedError):
        shop.agent(*[READ] * 9, capabilities=[cache()]).run_sync("go")
    assert shop.ran == ["get 7"]


@pytest.mark.parametrize("tool", ["set_status", "unknown_to_us"])
async def test_writes_and_tools_without_a_policy_are_watched_too(shop: Shop, tool: str) -> None:
    call = (tool, {"order_id": 7, "new": "sent"})
    agent = shop.agent(*[call] * 9, capabilities=[cache(max_tool_repeats=3)])
    done: list[str] = []

    @agent.tool_plain
    async def unknown_to_us(order_id: int, new: str) -> str:
        done.append(new)
        return "ok"

    with pytest.raises(AgentLoopDetectedError, match=tool if tool == "set_status" else None):
        await agent.run("go")
    assert len(done) + shop.ran.count("set 7") == 3


async def test_a_tool_with_a_plain_decorator_is_counted_once(shop: Shop) -> None:
    from agent_cache import AgentCache

    @AgentCache("weather:{town}")
    async def weather(town: str) -> str:
        shop.ran.append(town)
        return "rain"

    agent: Agent[None, str] = Agent(
        scripted(*[("weather", {"town": "Ulm"})] * 4), tools=[weather], capabilities=[AgentCacheCapability()]
    )
    async with AgentCacheSession(max_execution_depth=4):
        assert said((await agent.run("go")).all_messages()) == ["rain"] * 4
    assert shop.ran == ["Ulm"]


async def test_every_run_is_a_turn_of_its_own(shop: Shop) -> None:
    agent = shop.agent(*[READ] * 3, capabilities=[cache(max_tool_repeats=3, session=lambda ctx: "one")])
    for _ in range(4):
        await agent.run("go")
    assert shop.ran == ["get 7"]


async def test_hints_reach_the_model_beside_the_result(shop: Shop) -> None:
    agent = shop.agent(*[READ] * 5, capabilities=[cache(max_tool_repeats=3, on_loop="staged")])
    messages = (await agent.run("go")).all_messages()
    assert said(messages) == ["paid"] * 5  # the results stay what they are
    hints = [p.content for m in messages for p in m.parts if p.part_kind == "user-prompt" and p.content != "go"]
    assert len(hints) == 2
    assert all("get_order" in str(hint) for hint in hints)


async def test_a_function_decides(shop: Shop) -> None:
    seen: list[LoopEvent] = []
    agent = shop.agent(*[READ] * 6, capabilities=[cache(max_tool_repeats=3, on_loop=seen.append)])
    await agent.run("go")
    assert [event.tool for event in seen] == ["get_order"] * 3


# -- outages -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_nobody_notices_a_dead_redis(shop: Shop, unused_tcp_port: int) -> None:
    dead = RedisBackend(f"redis://127.0.0.1:{unused_tcp_port}/0")
    agent = shop.agent(READ, READ, WRITE, READ, capabilities=[cache(backend=dead)])
    assert said((await agent.run("go")).all_messages()) == ["paid", "paid", "ok", "sent"]
    assert get_metrics()["backend_errors"] > 0
    await dead.close()


@pytest.mark.usefixtures("own_loop", "impatient")
def test_nobody_notices_a_dead_redis_in_run_sync(shop: Shop, unused_tcp_port: int) -> None:
    configure(backend=f"redis://127.0.0.1:{unused_tcp_port}/0")
    agent = shop.agent(READ, READ, WRITE, READ, capabilities=[cache()])
    for _ in range(2):
        shop.status[7] = "paid"
        assert said(agent.run_sync("go").all_messages()) == ["paid", "paid", "ok", "sent"]


# -- parallel calls ----------------------------------------------------------------------------------------------------


async def test_equal_calls_of_one_turn_run_once() -> None:
    ran: list[int] = []
    agent: Agent[None, str] = Agent(
        scripted([("slow", {})] * 8), capabilities=[AgentCacheCapability({"slow": {"kind": "read", "resource": "s"}})]
    )

    @agent.tool_plain
    async def slow() -> list[int]:
        ran.append(1)
        for _ in range(20):
            await asyncio.sleep(0)
        return [1]

    assert said((await agent.run("go")).all_messages()) == [[1]] * 8
    assert len(ran) == 1


async def test_a_read_beside_a_write_in_one_turn_leaves_nothing_stale() -> None:
    """The read begins before the write and ends after it: what it saw is the old value, and must not be kept."""
    state = ["old"]
    reading, written = asyncio.Event(), asyncio.Event()
    agent: Agent[None, str] = Agent(
        scripted([("read", {}), ("write", {})], ("read", {})),
        capabilities=[
            AgentCacheCapability(
                {
                    "read": {"kind": "read", "resource": "it"},
                    "write": {"kind": "write", "resource": "it"},
                }
            )
        ],
    )

    @agent.tool_plain
    async def read() -> str:
        seen = state[0]
        reading.set()
        await written.wait()
        return seen

    @agent.tool_plain
    async def write() -> str:
        await reading.wait()
        state[0] = "new"
        written.set()
        return "ok"

    parts = returned((await agent.run("go")).all_messages())
    assert [part.content for part in parts if part.tool_name == "read"] == ["old", "new"]
