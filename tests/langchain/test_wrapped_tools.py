"""Tools somebody else made: ``cached_tool``, ``invalidating_tool``, ``session_for``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pytest
from langchain.tools import InjectedState, InjectedStore, ToolRuntime
from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, Tool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from agent_cache import AgentCacheSession, AgentLoopDetectedError, ConfigurationError, get_metrics
from agent_cache_langchain import AgentCacheMiddleware, cached_tool, invalidating_tool, session_for, with_policies
from tests.langchain.conftest import Way

ORDER = ("get_order", {"order_id": 7})


@dataclass(frozen=True)
class Who:
    user: str


class Shop:
    """Tools as a library would hand them out, and a count of what ran."""

    def __init__(self) -> None:
        self.status = {7: "paid"}
        self.ran = 0

        def get_order(order_id: int, detail: bool = False) -> str:
            """One order."""
            self.ran += 1
            return self.status[order_id]

        async def aget_order(order_id: int, detail: bool = False) -> str:
            return get_order(order_id, detail)

        def set_status(order_id: int, new: str) -> str:
            """Change an order."""
            self.status[order_id] = new
            return "ok"

        async def aset_status(order_id: int, new: str) -> str:
            return set_status(order_id, new)

        self.read = StructuredTool.from_function(get_order, aget_order, metadata={"from": "a library"})
        self.write = StructuredTool.from_function(set_status, aset_status)


async def test_the_copy_looks_the_same_and_the_original_is_untouched() -> None:
    shop = Shop()
    ours = cached_tool(shop.read, "order:{order_id}")
    for name in ("name", "description", "args_schema", "response_format", "args", "metadata", "return_direct"):
        assert getattr(ours, name) == getattr(shop.read, name)
    for _ in range(2):
        await shop.read.ainvoke({"order_id": 7})
    assert shop.ran == 2


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_hit_and_write(way: str, scripted: Any) -> None:
    shop = Shop()
    tools = [cached_tool(shop.read, "order:{order_id}"), invalidating_tool(shop.write, "order:{order_id}")]
    write = ("set_status", {"order_id": 7, "new": "sent"})
    runner = scripted(tools, [[ORDER], [ORDER], [write], [ORDER]])
    messages = await asyncio.to_thread(runner.invoke) if way == "sync" else await runner.ainvoke()
    assert [m.content for m in messages] == ["paid", "paid", "ok", "sent"]
    assert shop.ran == 2
    assert len({m.id for m in messages}) == 4
    assert [m.tool_call_id for m in messages] == [f"call-{i}-0" for i in range(4)]


async def test_content_and_artifact_come_back_together_and_are_the_callers_own(scripted: Any) -> None:
    ran = 0

    @tool(response_format="content_and_artifact")
    async def report(name: str) -> tuple[str, dict[str, list[int]]]:
        """A report."""
        nonlocal ran
        ran += 1
        return f"report {name}", {"rows": [1, 2]}

    call = ("report", {"name": "may"})
    first, second = await scripted([cached_tool(report, "report")], [[call], [call]]).ainvoke()
    assert ran == 1
    assert second.content == "report may"
    assert first.artifact == second.artifact == {"rows": [1, 2]}
    assert first.artifact is not second.artifact
    assert first.artifact["rows"] is not second.artifact["rows"]


class TestInjected:
    async def test_a_runtime_without_a_scope_is_refused(self) -> None:
        @tool
        async def mine(runtime: ToolRuntime[Who]) -> str:
            """Mine."""
            return runtime.context.user

        with pytest.raises(ValueError, match=r"'mine'.* handed runtime .*scope='user'"):
            cached_tool(mine, "mine")

    @pytest.mark.parametrize("kind", ["state", "store", "config", "untyped"])
    def test_everything_that_may_tell_who_asks_is_refused(self, kind: str) -> None:
        @tool
        def from_state(x: int, state: Annotated[dict[str, Any], InjectedState]) -> str:
            """S."""
            return ""

        @tool
        def from_store(x: int, store: Annotated[Any, InjectedStore()]) -> str:
            """S."""
            return ""

        @tool
        def from_config(x: int, config: RunnableConfig) -> str:
            """S."""
            return ""

        @tool
        def from_runtime(x: int, runtime) -> str:  # type: ignore[no-untyped-def]
            """S."""
            return ""

        one = {"state": from_state, "store": from_store, "config": from_config, "untyped": from_runtime}[kind]
        with pytest.raises(ValueError, match=f"from_{'runtime' if kind == 'untyped' else kind}"):
            cached_tool(one, "x:{x}")
        assert cached_tool(one, "x:{x}", scope="global").name == one.name

    async def test_two_users_are_kept_apart_and_the_runtime_is_not_in_the_key(self, scripted: Any) -> None:
        ran: list[str] = []

        @tool
        async def mine(runtime: ToolRuntime[Who]) -> str:
            """Mine."""
            ran.append(runtime.context.user)
            return runtime.context.user

        runner = scripted([cached_tool(mine, "mine", "user")], [[("mine", {})], [("mine", {})]], context_schema=Who)

        async def ask(user: str) -> list[Any]:
            async with AgentCacheSession(identity={"user": user}):
                return [m.content for m in await runner.ainvoke(context=Who(user))]

        assert await asyncio.gather(ask("ann"), ask("bob")) == [["ann"] * 2, ["bob"] * 2]
        assert sorted(ran) == ["ann", "bob"]

    async def test_a_call_id_needs_no_scope_and_is_not_in_the_key(self, scripted: Any) -> None:
        ran = 0

        @tool
        async def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> int:
            """One order."""
            nonlocal ran
            ran += 1
            assert call
            return order_id

        messages = await scripted([cached_tool(get_order, "order:{order_id}")], [[ORDER], [ORDER]]).ainvoke()
        assert [m.content for m in messages] == ["7", "7"]
        assert ran == 1

    async def test_config_and_callbacks_are_still_handed_in(self, scripted: Any) -> None:
        seen: list[object] = []

        @tool
        def get_order(order_id: int, config: RunnableConfig, callbacks: Any = None) -> int:
            """One order."""
            seen.append((config["configurable"]["thread_id"], callbacks is not None))
            return order_id

        runner = scripted([cached_tool(get_order, "order:{order_id}", "global")], [[ORDER], [ORDER]])
        config = {"configurable": {"thread_id": "t1"}}
        await runner.ainvoke(config=config)
        assert seen == [("t1", True)]


class TestResultsOfOneCall:
    @pytest.mark.parametrize("together", [True, False])
    async def test_a_message_with_a_call_id_is_made_for_each_call(self, together: bool, scripted: Any) -> None:
        @tool
        async def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> ToolMessage:
            """One order."""
            await asyncio.sleep(0)
            return ToolMessage(f"for {call}", tool_call_id=call)

        steps = [[ORDER, ORDER]] if together else [[ORDER], [ORDER]]
        messages = await scripted([cached_tool(get_order, "order:{order_id}")], steps).ainvoke()
        ids = ["call-0-0", "call-0-1"] if together else ["call-0-0", "call-1-0"]
        assert [m.tool_call_id for m in messages] == ids
        assert [m.content for m in messages] == [f"for {i}" for i in ids]

    async def test_a_command_runs_every_time(self, scripted: Any) -> None:
        ran = 0

        @tool
        async def get_order(order_id: int, call: Annotated[str, InjectedToolCallId]) -> Command[Any]:
            """One order."""
            nonlocal ran
            ran += 1
            return Command(update={"messages": [ToolMessage(f"run {ran}", tool_call_id=call)]})

        messages = await scripted([cached_tool(get_order, "order:{order_id}")], [[ORDER], [ORDER]]).ainvoke()
        assert [m.content for m in messages] == ["run 1", "run 2"]
        assert get_metrics()["hits"] == 0

    async def test_errors_are_not_stored(self) -> None:
        shop = Shop()
        shop.status.clear()
        ours = cached_tool(shop.read, "order:{order_id}")
        with pytest.raises(KeyError):
            await ours.ainvoke({"order_id": 7})
        shop.status[7] = "paid"
        assert await ours.ainvoke({"order_id": 7}) == "paid"


class TestSchemaOnlyTools:
    """Tools as MCP adapters make them: a JSON schema and a function of ``**arguments``."""

    def make(self, name: str, ran: list[str]) -> StructuredTool:
        async def call_tool(**arguments: Any) -> str:
            ran.append(name)
            return f"{name} {arguments}"

        schema = {
            "type": "object",
            "properties": {"path": {"type": "string"}, "depth": {"type": "integer"}},
            "required": ["path"],
        }
        return StructuredTool(name=name, description=name, args_schema=schema, coroutine=call_tool)

    async def test_templates_see_the_required_arguments_and_tools_are_kept_apart(self) -> None:
        ran: list[str] = []
        listing, reading = (cached_tool(self.make(n, ran), "file:{path}") for n in ("list", "read"))
        writing = invalidating_tool(self.make("write", ran), "file:{path}")
        assert await listing.ainvoke({"path": "a"}) == "list {'path': 'a'}"
        assert await reading.ainvoke({"path": "a"}) == "read {'path': 'a'}"
        assert await reading.ainvoke({"path": "a"}) == "read {'path': 'a'}"
        assert await reading.ainvoke({"path": "a", "depth": 1}) == "read {'path': 'a', 'depth': 1}"
        assert await reading.ainvoke({"path": "b"}) == "read {'path': 'b'}"
        assert ran == ["list", "read", "read", "read"]
        await writing.ainvoke({"path": "a"})
        await reading.ainvoke({"path": "a"})
        await reading.ainvoke({"path": "b"})
        assert ran == ["list", "read", "read", "read", "write", "read"]


class Directory:
    """An object whose method is the tool, as toolkits have them; another one has other answers."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.ran = 0

    async def lookup(self, name: str, config: RunnableConfig) -> str:
        """Look somebody up."""
        self.ran += 1
        return f"{name} of {self.tenant} in {config['configurable']['thread_id']}"

    async def rename(self, name: str) -> str:
        """Rename."""
        return name

    async def __call__(self, name: str, config: RunnableConfig) -> str:
        """Look somebody up."""
        return await self.lookup(name, config)


class TestCallableObjects:
    @pytest.mark.parametrize("kind", ["method", "partial", "object"])
    async def test_two_objects_are_kept_apart(self, kind: str) -> None:
        objects = [Directory("acme"), Directory("umbrella")]
        tools = []
        for one in objects:
            call = {"method": one.lookup, "partial": partial(Directory.lookup, one), "object": one}[kind]
            args = {"name": {"type": "string"}}
            schema = {"type": "object", "properties": args, "required": ["name"]}
            made = StructuredTool(name="lookup", description="Look up.", args_schema=schema, coroutine=call)
            tools.append(cached_tool(made, "person:{name}", "global"))
        config: RunnableConfig = {"configurable": {"thread_id": "t"}}
        for one, ours in zip(objects, tools, strict=True):
            for _ in range(2):
                assert await ours.ainvoke({"name": "ann"}, config) == f"ann of {one.tenant} in t"
            assert one.ran == 1
        write = invalidating_tool(StructuredTool.from_function(coroutine=objects[0].rename), "person:{name}")
        await write.ainvoke({"name": "ann"})
        await tools[1].ainvoke({"name": "ann"}, config)
        assert objects[1].ran == 2


class LookupInput(BaseModel):
    person: str


class Lookup(BaseTool):
    """A tool as a class of its own, with a state."""

    name: str = "lookup"
    description: str = "Look somebody up."
    args_schema: Any = LookupInput
    tenant: str = "acme"
    ran: list[str] = []  # noqa: RUF012 - pydantic copies it

    def _run(self, person: str, run_manager: CallbackManagerForToolRun | None = None) -> str:
        self.ran.append(person)
        assert run_manager is not None
        return f"{person} of {self.tenant}"

    async def _arun(self, person: str, run_manager: AsyncCallbackManagerForToolRun | None = None) -> str:
        self.ran.append(person)
        assert run_manager is not None
        return f"{person} of {self.tenant}"


class SyncLookup(BaseTool):
    """The same with a method that blocks only."""

    name: str = "lookup"
    description: str = "Look somebody up."
    args_schema: Any = LookupInput
    ran: list[str] = []  # noqa: RUF012 - pydantic copies it

    def _run(self, person: str, config: RunnableConfig) -> str:
        self.ran.append(person)
        return f"{person} in {config['configurable']['thread_id']}"


class TestOwnClasses:
    @pytest.mark.parametrize("way", ["sync", "async"])
    async def test_hits_and_objects_kept_apart(self, way: str) -> None:
        for tenant in ("acme", "umbrella"):
            own = Lookup(tenant=tenant)
            ours = cached_tool(own, "person:{person}")
            assert isinstance(ours, Lookup)
            assert type(ours).__name__ == "Lookup"
            for _ in range(2):
                given = {"person": "ann"}
                answer = await ours.ainvoke(given) if way == "async" else await asyncio.to_thread(ours.invoke, given)
                assert answer == f"ann of {tenant}"
            assert ours.ran == ["ann"]
            assert own.invoke({"person": "ann"}) == f"ann of {tenant}"

    async def test_methods_that_block_only(self) -> None:
        ours = cached_tool(SyncLookup(), "person:{person}", "global")
        config: RunnableConfig = {"configurable": {"thread_id": "t"}}
        for _ in range(2):
            assert await ours.ainvoke({"person": "ann"}, config) == "ann in t"
            assert await asyncio.to_thread(ours.invoke, {"person": "ann"}, config) == "ann in t"
        assert ours.ran == ["ann"]

    def test_a_config_needs_a_scope(self) -> None:
        with pytest.raises(ValueError, match="handed config"):
            cached_tool(SyncLookup(), "person:{person}")

    async def test_they_write_too(self) -> None:
        shop = Shop()
        read = cached_tool(shop.read, "person:{order_id}")
        write = invalidating_tool(Lookup(), "person:{person}")
        for _ in range(2):
            await read.ainvoke({"order_id": 7})
        await write.ainvoke({"person": "7"})
        await read.ainvoke({"order_id": 7})
        assert shop.ran == 2

    def test_a_tool_of_one_text(self) -> None:
        ran: list[str] = []

        def shout(text: str) -> str:
            ran.append(text)
            return text.upper()

        ours = cached_tool(Tool("shout", shout, "Shout."), "text:{text}")
        assert [ours.invoke("a"), ours.invoke({"text": "a"}), ours.invoke("b")] == ["A", "A", "B"]
        assert ran == ["a", "b"]


class TestWhatToolsSayOfThemselves:
    def tagged(self) -> Shop:
        shop = Shop()
        shop.read.metadata = {"agent_cache": {"kind": "read", "resource": "order:{order_id}", "ttl": 60}}
        shop.write.metadata = {"agent_cache": {"kind": "write", "resource": ["order:{order_id}"]}}
        json.dumps(shop.read.metadata)
        return shop

    @pytest.mark.parametrize("how", ["one by one", "together", "by name"])
    async def test_tags_and_names(self, how: str, scripted: Any) -> None:
        shop = self.tagged()
        if how == "one by one":
            tools: list[Any] = [cached_tool(shop.read), invalidating_tool(shop.write)]
        elif how == "together":
            tools = with_policies([shop.read, shop.write])
        else:
            plain = Shop()
            plain.status = shop.status
            tools = with_policies(
                [plain.read, plain.write, {"type": "web_search"}],
                {
                    "get_*": {"kind": "read", "resource": "order:{order_id}"},
                    "set_status": {"kind": "write", "resource": "order:{order_id}"},
                },
            )
            assert tools.pop() == {"type": "web_search"}
            shop = plain
        write = ("set_status", {"order_id": 7, "new": "sent"})
        messages = await scripted(tools, [[ORDER], [ORDER], [write], [ORDER]]).ainvoke()
        assert [m.content for m in messages] == ["paid", "paid", "ok", "sent"]
        assert shop.ran == 2

    def test_a_policy_for_a_tool_that_is_not_there(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'get_user'.*there are get_order, set_status"):
            with_policies([Shop().read, Shop().write], {"get_user": {"kind": "read", "resource": "user"}})

    def test_a_name_that_says_the_other_thing(self) -> None:
        with pytest.raises(ConfigurationError, match="tagged both"):
            with_policies([self.tagged().read], {"get_order": {"kind": "write", "resource": "order"}})

    def test_a_tag_that_is_no_policy(self) -> None:
        shop = Shop()
        shop.read.metadata = {"agent_cache": {"kind": "read", "resources": "order"}}
        with pytest.raises(
            ConfigurationError, match=r"metadata\['agent_cache'\] of tool 'get_order'.*'resources' is unknown"
        ):
            with_policies([shop.read])

    async def test_in_an_agent_with_middleware_they_are_cached_once(self, scripted: Any) -> None:
        shop = self.tagged()
        tools = with_policies([shop.read, shop.write])
        async with AgentCacheSession(max_execution_depth=3):
            await scripted(tools, [[ORDER]] * 3, middleware=[AgentCacheMiddleware()]).ainvoke()
        assert get_metrics()["hits"] == 2
        with pytest.raises(ConfigurationError, match="tagged both"):
            AgentCacheMiddleware({"get_order": {"kind": "write", "resource": "x"}}).check(tools)


class TestLoops:
    @pytest.mark.parametrize("is_async", [True, False])
    async def test_they_end_the_run_also_where_errors_become_text(self, is_async: bool) -> None:
        shop = Shop()
        tools = [cached_tool(shop.read, "order:{order_id}"), invalidating_tool(shop.write, "order:{order_id}")]
        for call in (ORDER, ("set_status", {"order_id": 7, "new": "sent"})):
            way = Way("node", is_async=is_async)
            async with AgentCacheSession(max_tool_repeats=3):
                with pytest.raises(AgentLoopDetectedError):
                    await way.run(tools, [[call]] * 9, build={"handle_tool_errors": True})


class TestInterrupts:
    @pytest.mark.parametrize("is_async", [True, False])
    async def test_neither_they_nor_their_answers_are_kept(self, is_async: bool) -> None:
        def ask(question: str) -> str:
            """Ask a human."""
            return f"they said {interrupt(question)}"

        async def aask(question: str) -> str:
            return ask(question)

        ours = cached_tool(StructuredTool.from_function(ask, aask), "answers")
        for thread, answer in (("t1", "yes"), ("t2", "no")):
            config: Any = {"configurable": {"thread_id": thread}}
            way = Way("node", is_async=is_async)
            build = {"checkpointer": InMemorySaver()}
            assert await way.run([ours], [[("ask", {"question": "?"})]], build=build, config=config) == []
            resume: Any = Command(resume=answer)
            graph = way.runner.agent
            state = (
                await graph.ainvoke(resume, config)
                if is_async
                else await asyncio.to_thread(graph.invoke, resume, config)
            )
            assert [m.content for m in state["messages"] if m.type == "tool"] == [f"they said {answer}"]


class TestWrongUse:
    def test_no_tool_at_all(self) -> None:
        def plain(text: str) -> str:
            return text

        with pytest.raises(TypeError, match=r"cached_tool takes a LangChain tool, not function"):
            cached_tool(plain, "x")  # type: ignore[type-var]
        with pytest.raises(TypeError, match=r"invalidating_tool takes a LangChain tool, not function"):
            invalidating_tool(plain, "x")  # type: ignore[type-var]

    def test_both_read_and_write(self) -> None:
        shop = Shop()
        with pytest.raises(ConfigurationError, match=r"'get_order'.*tagged both"):
            cached_tool(invalidating_tool(shop.read, "order"), "order")
        with pytest.raises(ConfigurationError, match=r"'get_order'.*tagged both"):
            invalidating_tool(cached_tool(shop.read, "order"), "order")
        shop.write.metadata = {"agent_cache": {"kind": "write", "resource": "order"}}
        with pytest.raises(ConfigurationError, match=r"'set_status'.*tagged both"):
            cached_tool(shop.write, "order")
        with pytest.raises(ConfigurationError, match=r"'set_status'.*tagged both"):
            cached_tool(shop.write)

    def test_nothing_said(self) -> None:
        with pytest.raises(ConfigurationError, match="say what 'get_order' reads"):
            cached_tool(Shop().read)
        with pytest.raises(ConfigurationError, match="say what 'set_status' writes"):
            invalidating_tool(Shop().write)

    @pytest.mark.parametrize("make", [cached_tool, invalidating_tool])
    def test_a_template_that_names_no_argument_of_a_write(self, make: Any) -> None:
        with pytest.raises(ConfigurationError, match="nobody"):
            make(Shop().write, "order:{nobody}")

    def test_a_template_that_names_no_argument(self) -> None:
        with pytest.raises(ConfigurationError, match="nobody"):
            cached_tool(Shop().read, "order:{nobody}")


class TestSessionFor:
    async def test_thread_and_identity_come_from_the_config(self, scripted: Any) -> None:
        shop = Shop()
        runner = scripted([cached_tool(shop.read, "order:{order_id}", "user")], [[ORDER]])

        async def ask(thread: str, user: str) -> None:
            config: RunnableConfig = {"configurable": {"thread_id": thread, "user_id": user}}
            async with session_for(config, lambda c: {"user": c["configurable"]["user_id"]}) as session:
                assert session.session_id == thread
                await runner.ainvoke(config=config)

        for thread, user in (("t1", "ann"), ("t2", "ann"), ("t3", "bob")):
            await ask(thread, user)
        assert shop.ran == 2

    def test_a_mapping_will_do_and_options_go_through(self) -> None:
        with session_for({"configurable": {"thread_id": 5}}, {"user": "u"}, max_tool_repeats=2) as session:
            assert session.session_id == "5"

    def test_no_thread_is_a_session_of_its_own(self) -> None:
        with session_for({}) as one, session_for({}) as other:
            assert one.session_id != other.session_id
