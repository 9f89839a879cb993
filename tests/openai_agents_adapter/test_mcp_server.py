"""``CachedMCPServer`` in front of servers of the SDK, one of them a real process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, Runner
from agents.mcp import MCPServer, MCPServerStdio
from agents.mcp.util import MCPToolMetaContext
from mcp.types import CallToolResult, GetPromptResult, ListPromptsResult, Tool

from agent_cache import AgentCacheSession, AgentLoopDetectedError, ConfigurationError, MemoryBackend, get_metrics
from agent_cache.backends.redis import RedisBackend
from agent_cache.testing import FakeClock
from agent_cache_openai_agents import CachedMCPServer
from tests.openai_agents_adapter.conftest import Call, agent_with, notes, outputs

POLICIES: dict[str, Any] = {
    "get_order": {"kind": "read", "resource": "order:{order_id}"},
    "set_status": {"kind": "write", "resource": "order:{order_id}"},
}
READ: Call = ("get_order", {"order_id": 7})
WRITE: Call = ("set_status", {"order_id": 7, "new": "sent"})


class Shop(MCPServer):
    """A server in this process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.status = {7: "paid", 8: "new"}
        self.ran: list[str] = []
        self.metas: list[Any] = []
        self.failing = False
        self.meta_of_tools: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "shop"

    async def connect(self) -> None:
        self.ran.append("connect")

    async def cleanup(self) -> None:
        self.ran.append("cleanup")

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[Tool]:
        number = {"order_id": {"type": "integer"}}
        described = [
            {"name": "get_order", "properties": number, "annotations": {"readOnlyHint": True, "openWorldHint": False}},
            {"name": "set_status", "properties": {**number, "new": {"type": "string"}}},
        ]
        return [
            Tool.model_validate(
                {
                    "name": tool["name"],
                    "inputSchema": {"type": "object", "properties": tool["properties"]},
                    "annotations": tool.get("annotations"),
                    "_meta": self.meta_of_tools.get(str(tool["name"])),
                }
            )
            for tool in described
        ]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
        self.ran.append(tool_name)
        self.metas.append(meta)
        if tool_name == "set_status":
            self.status[arguments["order_id"]] = arguments["new"]
            return _text("ok")
        if self.failing:
            return CallToolResult.model_validate({"content": [{"type": "text", "text": "down"}], "isError": True})
        return _text(self.status[arguments["order_id"]])

    async def list_prompts(self) -> ListPromptsResult:
        return ListPromptsResult(prompts=[])

    async def get_prompt(self, name: str, arguments: Any = None) -> GetPromptResult:
        return GetPromptResult(messages=[])


def _text(text: str) -> CallToolResult:
    return CallToolResult.model_validate({"content": [{"type": "text", "text": text}]})


def texts(result: Any) -> list[str]:
    return [out["text"] if isinstance(out, dict) else out[0]["text"] for out in outputs(result)]


def agent_of(server: MCPServer, *steps: Any) -> Agent[Any]:
    return agent_with([], *steps, mcp_servers=[server])


async def test_hits_and_writes() -> None:
    shop = Shop()
    server = CachedMCPServer(shop, POLICIES)
    other = ("get_order", {"order_id": 8})
    result = await Runner.run(agent_of(server, READ, READ, other, WRITE, READ, other), "go")
    assert texts(result) == ["paid", "paid", "new", "ok", "sent", "new"]
    assert shop.ran == ["get_order", "get_order", "set_status", "get_order"]
    assert [note and note["hit"] for note in notes(result)] == [False, True, False, None, False, True]


async def test_an_answer_in_place_of_a_failure_says_what_it_is() -> None:
    clock, shop = FakeClock(), Shop()
    policy = {**POLICIES["get_order"], "ttl": 10, "stale_if_error": 60}
    server = CachedMCPServer(shop, {**POLICIES, "get_order": policy}, backend=MemoryBackend(clock=clock))
    first = await Runner.run(agent_of(server, READ, READ), "go")
    clock.advance(15)
    shop.failing = True
    second = await Runner.run(agent_of(server, READ), "go")
    assert texts(first) + texts(second) == ["paid"] * 3
    assert shop.ran == ["get_order"] * 2
    said = [{name: value for name, value in note.items() if name != "age"} for note in notes(first) + notes(second)]
    hit = {"hit": True, "tags": ["shop:order:7"]}
    assert said == [{"hit": False}, hit, {**hit, "stale": "stale_if_error"}]
    assert all(note["age"] >= 0 for note in notes(first)[1:] + notes(second))


async def test_a_real_server_process() -> None:
    program = Path(__file__).with_name("shop_server.py")
    stdio = MCPServerStdio(
        {"command": sys.executable, "args": [str(program)]}, name="shop", client_session_timeout_seconds=60
    )
    async with CachedMCPServer(stdio, trusted=True) as server:
        result = await Runner.run(agent_of(server, READ, READ, WRITE, READ), "go")
    assert texts(result) == ["paid (1)", "paid (1)", "ok", "sent (2)"]


async def test_nothing_is_believed_of_a_server_that_is_not_trusted() -> None:
    shop = Shop()
    shop.meta_of_tools = {"get_order": {"agent_cache": {"kind": "read", "resource": "order"}}}
    await Runner.run(agent_of(CachedMCPServer(shop), READ, READ), "go")
    assert shop.ran == ["get_order"] * 2
    await Runner.run(agent_of(CachedMCPServer(shop, trusted=True), READ, READ), "go")
    assert shop.ran == ["get_order"] * 3


async def test_a_tool_that_nothing_is_known_of_is_a_write_to_everything() -> None:
    shop = Shop()
    server = CachedMCPServer(shop, {"get_order": POLICIES["get_order"]})
    other = ("get_order", {"order_id": 8})
    result = await Runner.run(agent_of(server, other, WRITE, other), "go")
    assert texts(result) == ["new", "ok", "new"]
    assert shop.ran == ["get_order", "set_status", "get_order"]


async def test_failed_results_are_not_kept() -> None:
    shop = Shop()
    shop.failing = True
    server = CachedMCPServer(shop, POLICIES)
    assert texts(await Runner.run(agent_of(server, READ), "go")) == ["down"]
    shop.failing = False
    assert texts(await Runner.run(agent_of(server, READ), "go")) == ["paid"]


async def test_connections_share_if_they_speak_for_one_principal() -> None:
    shops = [Shop(), Shop(), Shop(), Shop()]
    for shop, who in zip(shops, ("ann", "ann", "bob", None), strict=True):
        await Runner.run(agent_of(CachedMCPServer(shop, POLICIES, principal=who), READ), "go")
    assert [shop.ran for shop in shops] == [["get_order"], [], ["get_order"], ["get_order"]]


async def test_two_users_by_scope() -> None:
    shop = Shop()
    policies = {"get_order": {"kind": "read", "resource": "order", "scope": "user"}}
    for user in ("ann", "bob", "ann"):
        async with AgentCacheSession(identity={"user": user}):
            await Runner.run(agent_of(CachedMCPServer(shop, policies), READ, READ), "go")
    assert shop.ran == ["get_order"] * 2


async def test_what_a_request_says_besides_is_part_of_the_question() -> None:
    def who(context: MCPToolMetaContext) -> dict[str, Any]:
        return {"user": context.run_context.context}

    shop = Shop(tool_meta_resolver=who)
    server = CachedMCPServer(shop, POLICIES)
    for user in ("ann", "bob", "ann"):
        await Runner.run(agent_of(server, READ), "go", context=user)
    assert [meta["user"] for meta in shop.metas] == ["ann", "bob"]


@pytest.mark.parametrize("handler", ["default", "own", "none"])
async def test_a_loop_ends_the_run(handler: str) -> None:
    own: dict[str, Any] = {
        "own": {"failure_error_function": lambda ctx, error: "sorry"},
        "none": {"failure_error_function": None},
    }
    shop = Shop(**own.get(handler, {}))
    server = CachedMCPServer(shop, POLICIES)
    async with AgentCacheSession(max_tool_repeats=3):
        with pytest.raises(AgentLoopDetectedError):
            await Runner.run(agent_of(server, *[READ] * 9), "go")
    assert shop.ran == ["get_order"]


async def test_writes_are_watched_too() -> None:
    shop = Shop()
    async with AgentCacheSession(max_tool_repeats=3):
        with pytest.raises(AgentLoopDetectedError):
            await Runner.run(agent_of(CachedMCPServer(shop), *[WRITE] * 9), "go")
    assert shop.ran == ["set_status"] * 3


async def test_failures_are_handled_as_before() -> None:
    class Broken(Shop):
        async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
            raise OSError("down")

    server = CachedMCPServer(Broken(failure_error_function=lambda ctx, error: "sorry"), POLICIES)
    assert outputs(await Runner.run(agent_of(server, READ, WRITE), "go")) == ["sorry", "sorry"]


async def test_hints_reach_the_model() -> None:
    async with AgentCacheSession(max_tool_repeats=3, on_loop="staged"):
        result = await Runner.run(agent_of(CachedMCPServer(Shop(), POLICIES), *[READ] * 4), "go")
    told = outputs(result)
    assert "get_order" in str(told[3])
    assert "get_order" not in str(told[:3])


@pytest.mark.usefixtures("impatient")
async def test_nobody_notices_a_dead_redis(unused_tcp_port: int) -> None:
    dead = RedisBackend(f"redis://127.0.0.1:{unused_tcp_port}/0")
    server = CachedMCPServer(Shop(), POLICIES, backend=dead)
    assert texts(await Runner.run(agent_of(server, READ, WRITE, READ), "go")) == ["paid", "ok", "sent"]
    assert get_metrics()["backend_errors"] > 0
    await dead.close()


async def test_equal_calls_of_one_turn_run_once_and_a_write_beside_leaves_nothing_stale() -> None:
    reading, written = asyncio.Event(), asyncio.Event()

    class Slow(Shop):
        async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
            if tool_name == "get_order":
                result = await super().call_tool(tool_name, arguments, meta)
                reading.set()
                await written.wait()
                return result
            await reading.wait()
            result = await super().call_tool(tool_name, arguments, meta)
            written.set()
            return result

    shop = Slow()
    server = CachedMCPServer(shop, POLICIES)
    result = await Runner.run(agent_of(server, [READ] * 4 + [WRITE], READ), "go")
    assert sorted(texts(result)[:5]) == ["ok", "paid", "paid", "paid", "paid"]
    assert texts(result)[5] == "sent"
    assert shop.ran == ["get_order", "set_status", "get_order"]


async def test_the_rest_is_the_servers() -> None:
    shop = Shop(require_approval="always", use_structured_content=True)
    server = CachedMCPServer(shop, POLICIES)
    assert server.name == "shop"
    assert server.use_structured_content
    assert (await server.list_prompts()).prompts == []
    assert (await server.get_prompt("any")).messages == []
    with pytest.raises(NotImplementedError):
        await server.list_resources()
    with pytest.raises(NotImplementedError):
        await server.list_resource_templates()
    with pytest.raises(NotImplementedError):
        await server.read_resource("a://b")
    async with server:
        result = await Runner.run(agent_of(server, READ), "go")
    assert len(result.interruptions) == 1
    assert shop.ran == ["connect", "cleanup"]


async def test_what_is_wrong_is_said_before_the_first_request() -> None:
    for policies, message in (
        ({"get_oder": POLICIES["get_order"]}, "there is no such tool"),
        ({"get_order": {"kind": "read", "resource": "order:{id}"}}, "id"),
    ):
        agent = agent_of(CachedMCPServer(Shop(), policies), READ)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=message):
            await Runner.run(agent, "go")
        assert agent.model.calls == ()  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="MCPServer"):
        CachedMCPServer("shop")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="principal"):
        CachedMCPServer(Shop(), principal="")
