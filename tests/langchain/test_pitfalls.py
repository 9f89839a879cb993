"""What others got wrong, one by one: what LangChain and LangGraph do to a cache that does not know them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain.tools import InjectedState, ToolRuntime
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import CachePolicy, Command, interrupt

from agent_cache import AgentCacheSession, AgentLoopDetectedError, MemoryBackend, get_metrics
from agent_cache_langchain import AgentCacheGraphCache, AgentCacheMiddleware
from tests.langchain.conftest import ScriptedModel, Way
from tests.langchain.shop import ORDER, POLICIES, Shop

READ = {"get_order": POLICIES["get_order"]}


def contents(messages: Any) -> list[Any]:
    return [message.content for message in messages]


def both(function: Any, name: str = "get_order", **options: Any) -> Any:
    """A tool with a sync and an async function that do the same."""

    async def also(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    also.__signature__ = __import__("inspect").signature(function)  # type: ignore[attr-defined]
    also.__annotations__ = function.__annotations__
    also.__doc__ = function.__doc__
    return StructuredTool.from_function(function, also, name=name, **options)


async def test_p1_every_message_has_its_own_ids_and_stays_in_the_history(way: Way) -> None:
    shop = Shop()
    messages = await way.run(shop.tools, [[ORDER, ORDER], [ORDER]], AgentCacheMiddleware(POLICIES))
    assert [m.tool_call_id for m in messages] == ["call-0-0", "call-0-1", "call-1-0"]
    assert len({m.id for m in messages}) == 3
    assert shop.reads == 1


async def test_p2_invoke_and_ainvoke_share_one_middleware_and_its_answers() -> None:
    shop = Shop()
    agent: Any = create_agent(ScriptedModel(steps=[[ORDER]]), shop.tools, middleware=[AgentCacheMiddleware(POLICIES)])
    for _ in range(2):
        await agent.ainvoke({"messages": [("user", "go")]})
        await asyncio.to_thread(agent.invoke, {"messages": [("user", "go")]})
    assert shop.reads == 1


# P3, parallel calls in threads run once: test_middleware.TestHitsAndWrites.test_parallel_identical_calls_run_once


async def test_p4_the_spelling_of_the_arguments_does_not_matter(way: Way) -> None:
    shop = Shop()
    spellings: list[dict[str, Any]] = [
        {"order_id": 7},
        {"order_id": "7"},
        {"detail": False, "order_id": 7},
        {"order_id": 7.0, "detail": "false"},
        {"order_id": 7, "made_up": 1},
    ]
    await way.run(shop.tools, [[("get_order", s)] for s in spellings], AgentCacheMiddleware(POLICIES))
    assert shop.reads == 1
    assert len(
        await way.run(shop.tools, [[("get_order", {"order_id": 7, "detail": True})]], AgentCacheMiddleware(POLICIES))
    )
    assert shop.reads == 2


async def test_p4_arguments_that_do_not_fit_are_the_tools_to_refuse(way: Way) -> None:
    shop = Shop()
    bad = ("get_order", {"order_id": "seven"})
    messages = await way.run(shop.tools, [[bad], [ORDER], [bad]], AgentCacheMiddleware(POLICIES))
    assert [m.status for m in messages] == ["error", "success", "error"]
    assert "order_id" in messages[0].content
    assert shop.reads == 1


async def test_p4_a_write_with_arguments_that_do_not_fit_drops_all_it_might(way: Way) -> None:
    shop = Shop()
    bad = ("set_status", {"order_id": "seven", "status": "sent"})
    await way.run(shop.tools, [[ORDER], [bad], [ORDER]], AgentCacheMiddleware(POLICIES))
    assert shop.reads == 2


async def test_p5_injected_arguments_are_not_in_the_key_and_cannot_be_forged(way: Way) -> None:
    ran: list[Any] = []

    def get_order(order_id: int, state: Annotated[dict[str, Any], InjectedState], runtime: ToolRuntime) -> str:
        """One order."""
        ran.append(len(state["messages"]))
        assert runtime.tool_call_id
        return f"order {order_id}"

    forged = ("get_order", {"order_id": 7, "state": {"messages": "forged"}, "runtime": "forged"})
    policies = {"get_order": {**POLICIES["get_order"], "scope": "global"}}
    messages = await way.run([both(get_order)], [[ORDER], [forged], [ORDER]], AgentCacheMiddleware(policies))
    assert contents(messages) == ["order 7"] * 3
    assert len(ran) == 1


class TestP6Leaks:
    @dataclass(frozen=True)
    class Who:
        user: str

    def tools(self) -> dict[str, Any]:
        def from_state(x: int, state: Annotated[dict[str, Any], InjectedState]) -> str:
            """S."""
            return ""

        def from_config(x: int, config: RunnableConfig) -> str:
            """S."""
            return ""

        def from_runtime(x: int, runtime: ToolRuntime) -> str:
            """S."""
            return ""

        def untyped(x: int, runtime) -> str:  # type: ignore[no-untyped-def]
            """S."""
            return ""

        return {f.__name__: StructuredTool.from_function(f) for f in (from_state, from_config, from_runtime, untyped)}

    @pytest.mark.parametrize("name", ["from_state", "from_config", "from_runtime", "untyped"])
    def test_a_tool_that_is_told_who_asks_needs_a_scope_before_the_run(self, name: str) -> None:
        made = self.tools()[name]
        cache = AgentCacheMiddleware({name: {"kind": "read", "resource": "x"}})
        with pytest.raises(ValueError, match=f"'{name}'.*handed .* by LangChain.*scope='user'"):
            cache.check([made])
        agent: Any = create_agent(ScriptedModel(steps=[]), [made], middleware=[cache])
        with pytest.raises(ValueError, match="handed"):
            agent.invoke({"messages": [("user", "go")]})
        AgentCacheMiddleware({name: {"kind": "read", "resource": "x", "scope": "global"}}).check([made])

    async def test_where_the_tool_was_not_known_before_it_runs_uncached(self, caplog: pytest.LogCaptureFixture) -> None:
        ran = 0

        @tool
        def mine(runtime: ToolRuntime) -> str:
            """Mine."""
            nonlocal ran
            ran += 1
            return str(ran)

        cache = AgentCacheMiddleware({"mine": {"kind": "read", "resource": "mine"}})
        node = ToolNode([mine], wrap_tool_call=cache.wrap_tool_call, awrap_tool_call=cache.awrap_tool_call)
        graph = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
        call = {"name": "mine", "args": {}, "id": "c", "type": "tool_call"}
        for _ in range(2):
            await graph.ainvoke({"messages": [AIMessage("", tool_calls=[call])]})
        assert ran == 2
        assert sum("mine runs uncached" in record.message for record in caplog.records) == 1


async def test_p7_the_thread_is_the_session_and_a_user_message_a_new_turn(way: Way) -> None:
    shop = Shop()
    policies = {"get_order": {**POLICIES["get_order"], "scope": "session"}}
    cache = AgentCacheMiddleware(policies, max_tool_repeats=3)
    one, other = ({"configurable": {"thread_id": name}} for name in ("t1", "t2"))
    await way.run([shop.read], [[ORDER], [ORDER]], cache, build={"checkpointer": InMemorySaver()}, config=one)
    assert shop.reads == 1
    way.runner.model.steps += [[], [ORDER], [ORDER], []]  # the next turn of the same chat
    await way.again(config=one)
    assert shop.reads == 1  # equal calls: 4, but two in each turn
    await way.again(config=other)
    assert shop.reads == 2


async def test_p7_without_messages_of_a_user_each_call_of_the_graph_is_a_turn() -> None:
    shop = Shop()
    cache = AgentCacheMiddleware(POLICIES, max_execution_depth=4)
    node = ToolNode(shop.tools, wrap_tool_call=cache.wrap_tool_call, awrap_tool_call=cache.awrap_tool_call)
    graph = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile(InMemorySaver())
    for number in range(10):
        call = {"name": "get_order", "args": {"order_id": 7}, "id": f"c{number}", "type": "tool_call"}
        state = await graph.ainvoke(
            {"messages": [AIMessage("", tool_calls=[call])]}, {"configurable": {"thread_id": "t"}}
        )
        assert state["messages"][-1].content == "paid"
    assert shop.reads == 1


async def test_p7_an_agent_that_is_a_tool_has_a_session_of_its_own(agent: Way) -> None:
    """Each time it is asked something new; that does not hide that its caller goes in circles."""
    shop = Shop()
    inner: Any = create_agent(ScriptedModel(steps=[[ORDER]]), shop.tools, middleware=[AgentCacheMiddleware(POLICIES)])

    def ask(question: str) -> str:
        """Ask somebody."""
        answer: str = inner.invoke({"messages": [("user", question)]})["messages"][-1].content
        return answer

    cache = AgentCacheMiddleware(max_tool_repeats=3)
    steps = [[("ask", {"question": "?"})]] * 9
    config: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 99}
    with pytest.raises(AgentLoopDetectedError) as caught:
        await agent.run([both(ask, "ask")], steps, cache, config=config, build={"checkpointer": InMemorySaver()})
    assert caught.value.tool == "ask"


async def test_p7_what_the_agents_of_a_team_repeat_is_no_loop(agent: Way) -> None:
    shop = Shop()
    inner: Any = create_agent(ScriptedModel(steps=[[ORDER]]), shop.tools, middleware=[AgentCacheMiddleware(POLICIES)])

    def ask(question: str) -> str:
        """Ask somebody."""
        answer: str = inner.invoke({"messages": [("user", question)]})["messages"][-1].content
        return answer

    steps = [[("ask", {"question": str(number)})] for number in range(7)]
    for config in ({"configurable": {"thread_id": "team"}, "recursion_limit": 99}, {"recursion_limit": 99}):
        assert len(await agent.run([both(ask, "ask")], steps, AgentCacheMiddleware(), config=config)) == 7
    assert shop.reads == 1


async def test_p7_a_run_without_a_thread_leaves_nothing_behind(agent: Way) -> None:
    shop = Shop()
    backend = MemoryBackend()
    policies = {"get_order": {**POLICIES["get_order"], "scope": "session"}}
    cache = AgentCacheMiddleware(policies, backend=backend)
    held = cache._sessions._held
    before = set(held._held)
    await agent.run([shop.read], [[ORDER], [ORDER]], cache)
    assert shop.reads == 1
    await asyncio.gather(*held._leaving)
    assert (await backend.stats())["entries"] == 0
    await agent.again()
    assert shop.reads == 2
    assert set(held._held) == before


async def test_p7_middleware_made_anew_for_each_request_finds_the_threads_session(agent: Way) -> None:
    shop = Shop()
    policies = {"get_order": {**POLICIES["get_order"], "scope": "session"}}
    config: Any = {"configurable": {"thread_id": "made anew"}}
    for _ in range(3):
        cache = AgentCacheMiddleware(policies, shared_as="made anew")
        await agent.run([shop.read], [[ORDER], [ORDER]], cache, config=config)
    assert shop.reads == 1


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.started: list[tuple[Any, Any]] = []
        self.ended: list[Any] = []

    def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
        self.started.append((kwargs["inputs"], (kwargs["metadata"] or {}).get("agent_cache_hit")))

    def on_tool_end(self, output: Any, **kwargs: Any) -> None:
        self.ended.append(output)


async def test_p8_tool_callbacks_fire_on_a_hit_and_say_that_it_is_one(way: Way) -> None:
    def get_order(order_id: int, runtime: ToolRuntime) -> str:
        """One order."""
        return "paid"

    heard = Heard()
    policies = {"get_order": {**POLICIES["get_order"], "scope": "global"}}
    await way.run([both(get_order)], [[ORDER], [ORDER]], AgentCacheMiddleware(policies), config={"callbacks": [heard]})
    assert heard.started == [({"order_id": 7}, None), ({"order_id": 7}, True)]
    assert [output.tool_call_id for output in heard.ended] == ["call-0-0", "call-1-0"]


async def test_p8_tool_events_are_streamed_on_a_hit() -> None:
    shop = Shop()
    made: Any = create_agent(
        ScriptedModel(steps=[[ORDER], [ORDER]]), shop.tools, middleware=[AgentCacheMiddleware(POLICIES)]
    )
    events = [e async for e in made.astream({"messages": [("user", "go")]}, stream_mode="tools")]
    assert [e["event"] for e in events] == ["tool-started", "tool-finished"] * 2
    assert [e["tool_call_id"] for e in events[::2]] == ["call-0-0", "call-1-0"]
    assert shop.reads == 1


async def test_p9_what_a_tool_writes_to_the_stream_is_not_repeated() -> None:
    """Known and documented: a hit does not run the tool, so it streams nothing."""

    @tool
    async def get_order(order_id: int, runtime: ToolRuntime) -> str:
        """One order."""
        runtime.stream_writer("half way")
        return "paid"

    policies = {"get_order": {**POLICIES["get_order"], "scope": "global"}}
    made: Any = create_agent(
        ScriptedModel(steps=[[ORDER], [ORDER]]), [get_order], middleware=[AgentCacheMiddleware(policies)]
    )
    streamed = [chunk async for chunk in made.astream({"messages": [("user", "go")]}, stream_mode="custom")]
    assert streamed == ["half way"]


async def test_p10_limits_count_hits(agent: Way) -> None:
    """Known and documented: LangChain counts what the model asks for, not what is run."""
    shop = Shop()
    limit: Any = ToolCallLimitMiddleware(run_limit=2)
    messages = await agent.run(shop.tools, [[ORDER], [ORDER], [ORDER]], AgentCacheMiddleware(POLICIES), limit)
    assert [m.status for m in messages] == ["success", "success", "error"]
    assert shop.reads == 1


@pytest.mark.parametrize("order", ["cache, retry", "retry, cache"])
async def test_p11_retries_either_way_round_and_their_errors_are_not_kept(order: str, agent: Way) -> None:
    tries = 0

    def get_order(order_id: int) -> str:
        """One order."""
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise TimeoutError("later")
        return "paid"

    cache: Any = AgentCacheMiddleware(READ)
    retry: Any = ToolRetryMiddleware(max_retries=1, initial_delay=0, jitter=False)
    middleware = [cache, retry] if order == "cache, retry" else [retry, cache]
    messages = await agent.run([both(get_order)], [[ORDER]] * 4, *middleware)
    assert [m.status for m in messages] == ["error", "success", "success", "success"]
    assert tries == 4
    assert contents(messages)[1:] == ["paid"] * 3


async def test_p12_an_error_returned_as_success_is_kept_unless_cache_if_says_no(way: Way) -> None:
    ran = 0

    def get_order(order_id: int) -> str:
        """One order."""
        nonlocal ran
        ran += 1
        return "Error: no such order"

    await way.run([both(get_order)], [[ORDER], [ORDER]], AgentCacheMiddleware(READ))
    assert ran == 1
    refusing = {
        "get_order": {**READ["get_order"], "cache_if": lambda answer: not answer["content"].startswith("Error")}
    }
    await way.run([both(get_order)], [[ORDER], [ORDER]], AgentCacheMiddleware(refusing))
    assert ran == 3


async def test_p12_errors_that_say_so_are_never_kept(way: Way) -> None:
    from langchain_core.tools import ToolException

    ran = 0

    def get_order(order_id: int) -> str:
        """One order."""
        nonlocal ran
        ran += 1
        if ran < 3:
            raise ToolException("later")
        return "paid"

    messages = await way.run([both(get_order, handle_tool_error=True)], [[ORDER]] * 4, AgentCacheMiddleware(READ))
    assert contents(messages) == ["later", "later", "paid", "paid"]
    assert [m.status for m in messages] == ["error", "error", "success", "success"]
    assert ran == 3


async def test_p12_an_error_message_is_shared_by_those_who_waited_for_it() -> None:
    from langchain_core.tools import ToolException

    ran = 0

    async def get_order(order_id: int) -> str:
        """One order."""
        nonlocal ran
        ran += 1
        for _ in range(20):
            await asyncio.sleep(0)
        raise ToolException("later")

    made = StructuredTool.from_function(coroutine=get_order, handle_tool_error=True)
    messages = await Way("agent", is_async=True).run([made], [[ORDER, ORDER]], AgentCacheMiddleware(READ))
    assert [(m.content, m.status, m.tool_call_id) for m in messages] == [
        ("later", "error", "call-0-0"),
        ("later", "error", "call-0-1"),
    ]
    assert ran == 1


async def test_p13_every_caller_has_its_own_artifact_and_content(way: Way) -> None:
    ran = 0

    def report(name: str) -> tuple[Any, dict[str, Any]]:
        """A report."""
        nonlocal ran
        ran += 1
        blocks = [
            {"type": "text", "text": f"report {name}", "id": "lc_1"},
            {"type": "text", "text": "end", "id": "own"},
        ]
        return blocks, {"rows": [1, 2.0, (3,)]}

    class Spoiling(AgentMiddleware[Any, Any, Any]):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            result = handler(request)
            result.artifact["rows"].append("spoiled")
            result.content.append({"type": "text", "text": "spoiled"})
            return result

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            result = await handler(request)
            result.artifact["rows"].append("spoiled")
            result.content.append({"type": "text", "text": "spoiled"})
            return result

    made = both(report, name="report", response_format="content_and_artifact")
    cache: Any = AgentCacheMiddleware({"report": {"kind": "read", "resource": "report"}})
    call = ("report", {"name": "may"})
    around: list[Any] = [Spoiling(), cache] if way.kind == "agent" else [cache]
    first, second, third = await way.run([made], [[call]] * 3, *around)
    assert ran == 1
    for message in (second, third):
        spoiled = ["spoiled"] if way.kind == "agent" else []
        assert message.artifact == {"rows": [1, 2.0, (3,), *spoiled]}
        assert [type(part) for part in message.artifact["rows"][:3]] == [int, float, tuple]
        assert [block["text"] for block in message.content] == ["report may", "end", *spoiled]
        assert message.content[0]["id"] != first.content[0]["id"]
        assert message.content[1]["id"] == "own"
    assert first.artifact is not second.artifact
    assert second.artifact["rows"] is not third.artifact["rows"]


class TestP14Interrupts:
    async def test_an_interrupt_passes_and_neither_it_nor_its_answer_is_kept(self, way: Way) -> None:
        def ask(question: str) -> str:
            """Ask a human."""
            return f"they said {interrupt(question)}"

        cache = AgentCacheMiddleware({"ask": {"kind": "read", "resource": "answers"}})
        call, made = ("ask", {"question": "really?"}), both(ask, "ask")
        build = {"checkpointer": InMemorySaver()}
        for thread, answer in (("t1", "yes"), ("t2", "no")):
            config: Any = {"configurable": {"thread_id": thread}}
            assert await way.run([made], [[call]], cache, build=build, config=config) == []
            graph = way.runner.agent
            resume: Any = Command(resume=answer)
            state = (
                await graph.ainvoke(resume, config)
                if way.is_async
                else await asyncio.to_thread(graph.invoke, resume, config)
            )
            assert [m.content for m in state["messages"] if m.type == "tool"] == [f"they said {answer}"]
        assert get_metrics()["hits"] == 0

    async def test_parallel_questions_are_each_asked(self, way: Way) -> None:
        def ask(question: str) -> str:
            """Ask a human."""
            return f"they said {interrupt(question)}"

        cache = AgentCacheMiddleware({"ask": {"kind": "read", "resource": "answers"}})
        call = ("ask", {"question": "really?"})
        config: Any = {"configurable": {"thread_id": "t"}}
        build = {"checkpointer": InMemorySaver()}
        await way.run([both(ask, "ask")], [[call, call]], cache, build=build, config=config)
        waiting = (await way.runner.agent.aget_state(config)).interrupts
        assert len({each.id for each in waiting}) == (
            2 if way.kind == "agent" else 1
        )  # one node: one question at a time

    async def test_approvals_are_asked_for_hits_too(self, agent: Way) -> None:
        shop = Shop()
        approve: Any = HumanInTheLoopMiddleware(interrupt_on={"get_order": True})
        config: Any = {"configurable": {"thread_id": "t"}}
        build = {"checkpointer": InMemorySaver()}
        cache = AgentCacheMiddleware(POLICIES)
        await agent.run(shop.tools, [[ORDER], [ORDER]], approve, cache, build=build, config=config)
        asked = 0
        graph = agent.runner.agent
        while graph.get_state(config).interrupts:
            asked += 1
            resume: Any = Command(resume={"decisions": [{"type": "approve"}]})
            await graph.ainvoke(resume, config) if agent.is_async else await asyncio.to_thread(
                graph.invoke, resume, config
            )
        assert asked == 2
        assert shop.reads == 1


async def test_p15_langgraphs_cache_of_nodes_is_for_nodes_without_tools() -> None:
    """Beside it the middleware still gives every call a message of its own."""
    shop, thought = Shop(), 0
    cache = AgentCacheMiddleware(POLICIES)

    def think(state: Any) -> dict[str, Any]:
        nonlocal thought
        thought += 1
        return {"messages": [HumanMessage("thought", id="thought")]}

    def ask(state: Any) -> dict[str, Any]:
        number = sum(isinstance(m, AIMessage) for m in state["messages"])
        call = {"name": "get_order", "args": {"order_id": 7}, "id": f"c{number}", "type": "tool_call"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("think", think, cache_policy=CachePolicy(key_func=lambda _: "think"))
    for number in (1, 2):
        graph.add_node(f"ask{number}", ask)
        node = ToolNode(shop.tools, wrap_tool_call=cache.wrap_tool_call, awrap_tool_call=cache.awrap_tool_call)
        graph.add_node(f"tools{number}", node)
    for edge in ((START, "think"), ("think", "ask1"), ("ask1", "tools1"), ("tools1", "ask2"), ("ask2", "tools2")):
        graph.add_edge(*edge)
    compiled = graph.compile(cache=AgentCacheGraphCache(MemoryBackend()))
    for _ in range(2):
        state = await compiled.ainvoke({"messages": [("user", "go")]})
        answers = [m for m in state["messages"] if isinstance(m, ToolMessage)]
        assert [m.tool_call_id for m in answers] == ["c0", "c1"]
    assert thought == 1
    assert shop.reads == 1


async def test_p16_a_tool_node_given_only_the_sync_wrapper_works_on_the_event_loop() -> None:
    shop = Shop()
    cache = AgentCacheMiddleware(POLICIES)
    node = ToolNode(shop.tools, wrap_tool_call=cache.wrap_tool_call)
    graph = StateGraph(MessagesState).add_node("tools", node).add_edge(START, "tools").compile()
    calls = [{"name": "get_order", "args": {"order_id": 7}, "id": f"c{i}", "type": "tool_call"} for i in range(3)]
    for _ in range(2):
        state = await graph.ainvoke({"messages": [AIMessage("", tool_calls=calls)]})
        assert [m.content for m in state["messages"][1:]] == ["paid"] * 3
    assert shop.reads == 1


async def test_p17_a_tool_that_the_node_does_not_know_is_left_alone(agent: Way) -> None:
    class Dynamic(AgentMiddleware[Any, Any, Any]):
        ran = 0

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            if request.tool is None:
                self.ran += 1
                return ToolMessage(f"dynamic {self.ran}", name="dynamic", tool_call_id=request.tool_call["id"])
            return handler(request)

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            return self.wrap_tool_call(request, handler) if request.tool is None else await handler(request)

    shop = Shop()
    cache: Any = AgentCacheMiddleware({**POLICIES, "dyn*": {"kind": "read", "resource": "x"}}, unknown_tools="ignore")
    messages = await agent.run(shop.tools, [[("dynamic", {"x": 1})], [("dynamic", {"x": 1})]], cache, Dynamic())
    assert contents(messages) == ["dynamic 1", "dynamic 2"]


async def test_p17_an_unknown_tool_is_the_nodes_to_refuse(way: Way) -> None:
    shop = Shop()
    [message] = await way.run(shop.tools, [[("nothing", {})]], AgentCacheMiddleware(POLICIES))
    assert message.status == "error"
    assert "nothing is not a valid tool" in message.content


async def test_p18_two_of_them_in_one_agent_need_two_names_and_count_a_call_once(agent: Way) -> None:
    shop = Shop()
    write = {"set_status": POLICIES["set_status"]}
    two = [AgentCacheMiddleware(READ), AgentCacheMiddleware(write)]
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(ScriptedModel(steps=[]), shop.tools, middleware=two)
    both_of = [AgentCacheMiddleware(READ, watch=False), AgentCacheMiddleware(write, name="writes", watch=False)]
    sent = ("set_status", {"order_id": 7, "status": "sent"})
    async with AgentCacheSession(max_execution_depth=4):
        messages = await agent.run(shop.tools, [[ORDER], [ORDER], [sent], [ORDER]], *both_of)
    assert contents(messages) == ["paid", "paid", "ok", "sent"]
    assert shop.reads == 2


# P19, the decorators under @tool: test_decorators_under_tool


async def test_p20_what_a_tool_says_of_itself_is_not_shown_to_the_model() -> None:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    shop = Shop()
    shop.read.metadata = {"agent_cache": POLICIES["get_order"], "team": "shop"}
    assert "agent_cache" not in str(convert_to_openai_tool(shop.read))
    assert "team" not in str(convert_to_openai_tool(shop.read))
    await Way("agent", is_async=True).run([shop.read], [[ORDER], [ORDER]], AgentCacheMiddleware())
    assert shop.reads == 1


class TestP21ResultsOfOneCall:
    async def test_commands(self, way: Way) -> None:
        ran = 0

        def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> Command[Any]:
            """One order."""
            nonlocal ran
            ran += 1
            return Command(update={"messages": [ToolMessage(f"run {ran}", tool_call_id=call)]})

        messages = await way.run([both(get_order)], [[ORDER], [ORDER]], AgentCacheMiddleware(READ))
        assert contents(messages) == ["run 1", "run 2"]

    async def test_lists_of_messages(self, way: Way) -> None:
        ran = 0

        def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> list[Any]:
            """One order."""
            nonlocal ran
            ran += 1
            return [ToolMessage(f"run {ran}", tool_call_id=call), Command(update={})]

        messages = await way.run([both(get_order)], [[ORDER], [ORDER]], AgentCacheMiddleware(READ))
        assert contents(messages) == ["run 1", "run 2"]

    @pytest.mark.parametrize("together", [True, False])
    async def test_messages_that_know_their_call(self, together: bool, way: Way) -> None:
        def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> ToolMessage:
            """One order."""
            return ToolMessage(f"for {call}", name="get_order", tool_call_id=call)

        steps = [[ORDER, ORDER]] if together else [[ORDER], [ORDER]]
        messages = await way.run([both(get_order)], steps, AgentCacheMiddleware(READ))
        assert contents(messages) == [f"for {m.tool_call_id}" for m in messages]
        assert len(messages) == 2

    @pytest.mark.parametrize(
        "more", [{"id": "fixed"}, {"additional_kwargs": {"a": 1}}, {"response_metadata": {"a": 1}}]
    )
    async def test_messages_with_more_than_an_answer(self, more: dict[str, Any], way: Way) -> None:
        ran = 0

        def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> ToolMessage:
            """One order."""
            nonlocal ran
            ran += 1
            return ToolMessage("paid", name="get_order", tool_call_id=call, **more)

        await way.run([both(get_order)], [[ORDER], [ORDER]], AgentCacheMiddleware(READ))
        assert ran == 2

    async def test_artifacts_that_cannot_be_kept_are_returned(self, way: Way, caplog: pytest.LogCaptureFixture) -> None:
        class Connection:
            pass

        def get_order(order_id: int) -> tuple[str, Any]:
            """One order."""
            return "paid", Connection()

        made = both(get_order, response_format="content_and_artifact")
        messages = await way.run([made], [[ORDER], [ORDER]], AgentCacheMiddleware(READ))
        assert all(isinstance(m.artifact, Connection) for m in messages)
        assert messages[0].artifact is not messages[1].artifact


async def test_p22_return_direct_ends_the_run_on_a_hit(agent: Way) -> None:
    ran = 0

    def get_order(order_id: int) -> str:
        """One order."""
        nonlocal ran
        ran += 1
        return "paid"

    cache = AgentCacheMiddleware(READ)
    made = both(get_order, return_direct=True)
    for _ in range(2):
        messages = await agent.run([made], [[ORDER], [ORDER]], cache)
        assert len(messages) == 1
        assert len(agent.runner.model.seen) == 1
    assert ran == 1
