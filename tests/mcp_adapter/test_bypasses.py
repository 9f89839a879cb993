"""What is never answered from the cache, and never kept: questions back, continuations, tasks, claims, other requests' _meta."""

from __future__ import annotations

from typing import Any

import mcp.types as types
import pytest
from fastmcp import Client as FastClient
from fastmcp import Context as FastContext
from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.tools.base import ToolResult
from mcp.client.client import Client
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult, ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from agent_cache import MemoryBackend
from agent_cache.adapters import OneCallOnly
from agent_cache.testing import FakeClock
from agent_cache_mcp import AgentCacheExtension, AgentCacheMiddleware, CachedClient
from agent_cache_mcp.calls import Asker, ServerCache
from agent_cache_mcp.results import keepable, request_meta, with_provenance

READ = {"ask": {"kind": "read", "resource": "answers"}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string"}},
    "required": ["colour"],
}


def question() -> InputRequiredResult:
    form = ElicitRequestFormParams(message="which colour?", requested_schema=SCHEMA)
    return InputRequiredResult(input_requests={"q": ElicitRequest(params=form)}, request_state="asked")


class Colours:
    """A tool that asks a person before it answers; ``rounds`` counts its rounds."""

    def __init__(self) -> None:
        self.rounds: list[bool] = []
        self.given = iter(["red", "blue", "green"])

    async def ask(self, ctx: Context) -> str | InputRequiredResult:
        answers = ctx.input_responses
        self.rounds.append(answers is None)
        if answers is None:
            return question()
        return f"you said {answers['q'].content['colour']}"  # type: ignore[index]

    async def elicited(self, context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"colour": next(self.given)})


def said(result: Any) -> str:
    return str(result.content[0].text)


async def test_what_a_person_answered_is_nobody_elses_answer_at_the_client() -> None:
    colours = Colours()
    server = MCPServer("colours")
    server.tool()(colours.ask)
    async with CachedClient(Client(server, elicitation_callback=colours.elicited), "colours", policies=READ) as client:
        assert [said(await client.call_tool("ask")) for _ in range(2)] == ["you said red", "you said blue"]
    assert colours.rounds == [True, False] * 2


async def test_rounds_that_the_caller_drives_reach_the_server() -> None:
    colours = Colours()
    server = MCPServer("colours")
    server.tool()(colours.ask)
    async with (
        Client(server, elicitation_callback=colours.elicited) as inner,
        CachedClient(inner.session, "colours", policies=READ) as client,
    ):
        for _ in range(2):
            first = await client.call_tool("ask", allow_input_required=True)
            assert isinstance(first, InputRequiredResult)
            answer = {"q": await colours.elicited(None, None)}
            second = await client.call_tool("ask", input_responses=answer, request_state=first.request_state)
            assert isinstance(second, CallToolResult)
    assert colours.rounds == [True, False] * 2


async def test_the_official_server_asks_every_time() -> None:
    colours = Colours()
    cache = AgentCacheExtension("colours", READ)
    server = MCPServer("colours", extensions=[cache])
    cache.attach(server)
    server.tool()(colours.ask)
    async with Client(server, elicitation_callback=colours.elicited) as client:
        assert [said(await client.call_tool("ask")) for _ in range(2)] == ["you said red", "you said blue"]
    assert colours.rounds == [True, False] * 2


async def test_fastmcp_asks_every_time() -> None:
    colours = Colours()
    server: Any = FastMCP("colours")
    server.add_middleware(AgentCacheMiddleware("colours", {"ask": {**READ["ask"], "scope": "global"}}))

    @server.tool(output_schema=None)
    async def ask(ctx: FastContext) -> Any:
        answers: Any = ctx.input_responses
        colours.rounds.append(answers is None)
        return question() if answers is None else f"you said {answers['q'].content['colour']}"

    async def elicited(message: Any, *_: Any) -> Any:
        return await colours.elicited(None, None)

    async with Client(server._mcp_server, elicitation_callback=colours.elicited) as client:
        assert [said(await client.call_tool("ask")) for _ in range(2)] == ["you said red", "you said blue"]
    assert colours.rounds == [True, False] * 2


async def test_a_task_goes_through_and_a_writing_one_is_a_write() -> None:
    """As the relay and the servers do with ``params.task``: run, not kept; what a write drops is dropped."""
    cache = ServerCache("crm", {"get": {"kind": "read", "resource": "a"}, "set": {"kind": "write", "resource": "a"}})
    cache.learn([{"name": "get"}, {"name": "set"}])
    ran = 0

    async def run() -> dict[str, Any]:
        nonlocal ran
        ran += 1
        return {"content": []}

    async def receipt() -> dict[str, Any]:
        return {"task": {"taskId": "1"}}

    await cache.call("get", {}, run, Asker())
    assert (await cache.call("get", {}, receipt, Asker(), live=True)).result == {"task": {"taskId": "1"}}
    assert not (await cache.call("get", {}, run, Asker())).executed
    await cache.call("set", {}, receipt, Asker(), live=True)
    assert (await cache.call("get", {}, run, Asker())).executed
    assert ran == 2


async def test_a_result_marked_for_one_call_is_run_again() -> None:
    cache = ServerCache("crm", {"get": {"kind": "read", "resource": "a"}})
    cache.learn([{"name": "get"}])
    for _ in range(2):

        async def run() -> OneCallOnly:
            return OneCallOnly({"content": []})

        answer = await cache.call("get", {}, run, Asker())
        assert answer.executed
        assert answer.result == {"content": []}


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        ({"content": []}, True),
        ({"content": [], "resultType": "complete", "isError": False}, True),
        ({"content": [], "isError": True}, False),
        ({"resultType": "input_required", "inputRequests": {}}, False),
        ({"content": [], "resultType": "a later one"}, False),
        ({"content": [], "requestState": "s"}, False),
        ({"task": {"taskId": "1"}}, False),
        ({}, False),
    ],
)
def test_what_is_kept(result: Any, kept: bool) -> None:
    assert keepable(result) is kept


async def test_another_meta_is_another_question(shop: Any, hit: Any) -> None:
    server = shop.fill(MCPServer("shop"), shop.Shop())
    async with CachedClient(Client(server), "shop", policies=shop.POLICIES) as client:
        given = {"user_id": "1"}

        async def ask(meta: Any) -> bool:
            return bool(hit(await client.call_tool("get_user", given, meta=meta)))

        assert [await ask(meta) for meta in (None, {"tenant": "a"}, {"tenant": "b"}, {"tenant": "a"}, None)] == [
            False,
            False,
            False,
            True,
            True,
        ]


def test_what_serves_the_transport_is_no_part_of_the_question() -> None:
    transport = {"progressToken": 1, "traceparent": "x", "io.modelcontextprotocol/clientInfo": {}, "gone": None}
    assert request_meta(transport) is None
    assert request_meta({**transport, "tenant": "a"}) == {"tenant": "a"}


async def test_nobody_forges_who_asks(shop: Any) -> None:
    """An argument with the name of ours is no hit, whatever it says."""
    cache = ServerCache("crm", {"get": {"kind": "read", "resource": "a"}})
    cache.learn([{"name": "get"}])

    async def run() -> dict[str, Any]:
        return {"content": [{"type": "text", "text": "alice's"}]}

    await cache.call("get", {}, run, Asker(principal="alice"))
    forged = {"agent_cache_asker": ["alice", None, None]}
    assert (await cache.call("get", forged, run, Asker())).executed
    assert (await cache.call("get", forged, run, Asker())).executed


def test_the_age_of_an_answer_from_a_cache_behind_is_added() -> None:
    inner = {"content": [], "_meta": {"agent_cache": {"hit": True, "age": 2.0}, "other": 1}}
    assert with_provenance(inner, hit=False, age=None) == inner
    outer = with_provenance(inner, hit=True, age=1.0)
    assert outer["_meta"] == {"agent_cache": {"hit": True, "age": 3.0}, "other": 1}


# -- the results of servers ------------------------------------------------------------------------------------------------


async def test_a_fastmcp_failure_passes_as_it_is() -> None:
    server: Any = FastMCP("shop")
    server.add_middleware(AgentCacheMiddleware("shop", {"*": {"kind": "read", "resource": "a"}}))
    ran = []

    @server.tool
    async def raises() -> str:
        ran.append("raises")
        raise ToolError("as it is")

    @server.tool
    async def returns() -> ToolResult:
        ran.append("returns")
        return ToolResult("as it is", is_error=True)

    async with FastClient(server) as client:
        for name in ("raises", "raises", "returns", "returns"):
            result = await client.call_tool_mcp(name, {})
            assert result.is_error
            assert said(result) == "as it is"
    assert ran == ["raises"] * 2 + ["returns"] * 2


async def test_a_servers_own_meta_and_null_structure_survive(hit: Any) -> None:
    async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="ask", input_schema={"type": "object"})])

    async def call_tool(ctx: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=[], structured_content=[1, 2.0, None], _meta={"cost": {"cents": 1}})

    server = Server("plain", on_list_tools=list_tools, on_call_tool=call_tool)
    async with CachedClient(Client(server), "plain", policies=READ) as client:
        first, second = await client.call_tool("ask"), await client.call_tool("ask")
    assert hit(second)
    assert second.meta["cost"] == first.meta["cost"] == {"cents": 1}
    assert repr(second.structured_content) == "[1, 2.0, None]"
    assert second.model_fields_set - {"meta"} == first.model_fields_set - {"meta"}


async def test_an_answer_beyond_its_ttl_says_so() -> None:
    clock = FakeClock()
    policy = {"kind": "read", "resource": "a", "ttl": 10, "stale_while_revalidate": 60}
    cache = ServerCache("aged", {"get": policy}, backend=MemoryBackend(clock=clock))
    cache.learn([{"name": "get"}])

    async def run() -> dict[str, Any]:
        return {"content": [], "isError": False}

    assert (await cache.call("get", {}, run, Asker())).stale is None
    clock.advance(15)
    answer = await cache.call("get", {}, run, Asker())
    assert (answer.executed, answer.stale) == (False, "stale_while_revalidate")
    noted = with_provenance(answer.result, hit=True, age=15.0, stale=answer.stale, tags=answer.tags)
    assert noted["_meta"]["agent_cache"] == {
        "hit": True, "age": 15.0, "tags": ["aged:a"], "stale": "stale_while_revalidate",
    }  # fmt: skip


class Failing:
    """A tool that answers once, and then says that it failed."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self) -> bool:
        self.ran += 1
        return self.ran > 1


AGED: dict[str, Any] = {"get": {"kind": "read", "resource": "a", "ttl": 10, "stale_if_error": 60}}


@pytest.mark.parametrize("door", ["client", "extension", "middleware"])
async def test_the_last_answer_stands_in_for_a_result_that_says_it_failed(door: str) -> None:
    clock, fails = FakeClock(), Failing()
    backend = MemoryBackend(clock=clock)

    async def get() -> str:
        if fails():
            raise ToolError("away") if door == "middleware" else OSError("away")
        return "as it was"

    server: Any
    if door == "middleware":
        server = FastMCP("shop")
        server.add_middleware(AgentCacheMiddleware("shop", AGED, backend=backend))
        server.tool(get)
    elif door == "extension":
        extension = AgentCacheExtension("shop", AGED, backend=backend)
        server = MCPServer("shop", extensions=[extension])
        server.tool()(get)
        extension.attach(server)
    else:
        server = MCPServer("shop")
        server.tool()(get)
    opened: Any = FastClient(server, mode="legacy") if door == "middleware" else Client(server, mode="legacy")
    if door == "client":
        opened = CachedClient(Client(server), "shop", policies=AGED, backend=backend)
    async with opened as client:
        call = client.call_tool_mcp if door == "middleware" else client.call_tool
        first = await call("get", {})
        clock.advance(15)
        second = await call("get", {})
    assert fails.ran == 2
    assert said(second) == said(first) == "as it was"
    assert not second.is_error
    note = second.meta["agent_cache"]
    assert (note["hit"], note["stale"], note["tags"]) == (True, "stale_if_error", ["shop:a"])
