"""The servers' doors: policies from _meta and annotations, injected contexts, permissions, sessions, wrong configuration."""

from __future__ import annotations

from typing import Any

import pytest
from fastmcp import Client as FastClient
from fastmcp import Context as FastContext
from fastmcp import FastMCP
from fastmcp.server.dependencies import CurrentContext
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from agent_cache import ConfigurationError, MemoryBackend
from agent_cache_mcp import AgentCacheExtension, AgentCacheMiddleware

INBOX = {"inbox": {"kind": "read", "resource": "inbox"}}


def official(policies: Any = None, **options: Any) -> tuple[Any, Any]:
    cache = AgentCacheExtension("shop", policies, **options)
    server = MCPServer("shop", extensions=[cache])
    cache.attach(server)
    return server, cache


def fast(policies: Any = None, **options: Any) -> tuple[Any, Any]:
    cache = AgentCacheMiddleware("shop", policies, **options)
    server: Any = FastMCP("shop")
    server.add_middleware(cache)
    return server, cache


def connect(server: Any, mode: str = "legacy") -> Any:
    return Client(server if isinstance(server, MCPServer) else server._mcp_server, mode=mode)


@pytest.fixture(params=[official, fast])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_a_tool_says_itself_what_it_is(make: Any, hit: Any) -> None:
    server, _ = make()
    names = {"1": "Ann"}

    @server.tool(meta={"agent_cache": {"kind": "read", "resource": "user:{user_id}", "ttl": 60}})
    async def get_user(user_id: str) -> str:
        return names[user_id]

    @server.tool(meta={"agent_cache": {"kind": "write", "resource": "user:{user_id}"}})
    async def set_user(user_id: str, name: str) -> str:
        names[user_id] = name
        return "ok"

    async with connect(server) as client:
        assert [hit(await client.call_tool("get_user", {"user_id": "1"})) for _ in range(2)] == [False, True]
        await client.call_tool("set_user", {"user_id": "1", "name": "Bob"})
        assert (await client.call_tool("get_user", {"user_id": "1"})).content[0].text == "Bob"


async def test_annotations_count_where_they_are_trusted(make: Any, hit: Any) -> None:
    for trusted in (False, True):
        server, _ = make(trust_annotations=trusted, backend=MemoryBackend())

        @server.tool(annotations={"readOnlyHint": True, "openWorldHint": False})
        async def look() -> str:
            return "seen"

        @server.tool(annotations={"readOnlyHint": False, "idempotentHint": True, "destructiveHint": False})
        async def put() -> str:
            return "put"

        async with connect(server) as client:
            results = [await client.call_tool("look") for _ in range(2)]
            if trusted:
                assert [hit(result) for result in results] == [False, True]
                await client.call_tool("put")
                assert not hit(await client.call_tool("look"))
            else:
                assert not any("agent_cache" in (result.meta or {}) for result in results)


async def test_a_handed_in_context_is_never_shared_between_sessions(hit: Any) -> None:
    """The pitfall of caches by token alone: anonymous sessions are one principal, and the tool tells them apart."""
    server, _ = fast(INBOX)

    @server.tool
    async def inbox(ctx: FastContext) -> str:
        return ctx.session_id

    for _ in range(2):
        async with FastClient(server, mode="legacy") as client:
            first, second = [await client.call_tool_mcp("inbox", {}) for _ in range(2)]
            assert (hit(first), hit(second)) == (False, True)
            assert first.content == second.content
            seen = first.content[0].text
            async with FastClient(server, mode="legacy") as other:
                result = await other.call_tool_mcp("inbox", {})
                assert not hit(result)
                assert result.content[0].text != seen


@pytest.mark.parametrize("way", ["parameter", "dependency"])
async def test_without_a_session_such_a_tool_runs_every_time(way: str, hit: Any) -> None:
    server, _ = fast({**INBOX, "shared": {"kind": "read", "resource": "inbox", "scope": "global"}})
    ran = []

    async def from_parameter(ctx: FastContext) -> str:
        ran.append(ctx.request_id)
        return "mail"

    async def from_dependency(ctx: FastContext = CurrentContext()) -> str:  # noqa: B008 - FastMCP's way
        ran.append(ctx.request_id)
        return "mail"

    function = from_parameter if way == "parameter" else from_dependency
    server.tool(function, name="inbox")
    server.tool(function, name="shared")
    async with FastClient(server) as client:
        for _ in range(2):
            await client.call_tool_mcp("inbox", {})
        assert len(ran) == 2
        assert [hit(await client.call_tool_mcp("shared", {})) for _ in range(2)] == [False, True]


async def test_permission_is_asked_before_every_answer() -> None:
    """What everybody may share, not everybody may ask for."""
    allowed = [True]
    server, _ = fast({"secret": {"kind": "read", "resource": "secret", "scope": "global"}})

    @server.tool(auth=lambda ctx: allowed[0])
    async def secret() -> str:
        return "42"

    async with FastClient(server) as client:
        assert (await client.call_tool_mcp("secret", {})).content[0].text == "42"
        allowed[0] = False
        refused = await client.call_tool_mcp("secret", {})
        assert refused.is_error
        assert "42" not in str(refused.content)


async def test_a_scope_of_the_session_ends_with_it_and_is_its_own(make: Any, hit: Any) -> None:
    server, _ = make({"inbox": {"kind": "read", "resource": "inbox", "scope": "session"}})

    @server.tool()
    async def inbox() -> str:
        return "mail"

    for _ in range(2):
        async with connect(server) as client:
            assert [hit(await client.call_tool("inbox")) for _ in range(2)] == [False, True]


async def test_the_tools_may_change(make: Any, hit: Any) -> None:
    server, cache = make({"*": {"kind": "read", "resource": "inbox"}})

    @server.tool()
    async def inbox() -> str:
        return "mail"

    async with connect(server) as client:
        await client.call_tool("inbox")

        @server.tool()
        async def later() -> str:
            return "more"

        assert [hit(await client.call_tool("later")) for _ in range(2)] == [False, True]
        await cache.tools_changed()
        assert not hit(await client.call_tool("inbox"))


async def test_tools_that_need_a_permission_are_there_all_the_same() -> None:
    server, cache = fast({"secret": {"kind": "read", "resource": "secret"}})

    @server.tool(auth=lambda ctx: False)
    async def secret() -> str:
        return "42"

    await cache.check(server)


async def test_a_policy_for_no_tool_lets_none_run(make: Any) -> None:
    server, _ = make({"get_usr": {"kind": "read", "resource": "a"}})
    ran = []

    @server.tool()
    async def touch() -> str:
        ran.append(1)
        return "touched"

    async with connect(server) as client:
        for _ in range(2):
            with pytest.raises(MCPError, match="get_usr"):
                await client.call_tool("touch")
    assert not ran


WRONG = {
    "no such tool": ({"get_usr": {"kind": "read", "resource": "a"}}, "get_usr"),
    "no such parameter": ({"get_user": {"kind": "read", "resource": "user:{uid}"}}, "uid"),
    "ignores nothing": ({"get_user": {"kind": "read", "resource": "a", "ignore": ["uid"]}}, "uid"),
    "a wrong ttl": ({"get_user": {"kind": "read", "resource": "a", "ttl": -1}}, "ttl"),
    "a reserved scope": ({"get_user": {"kind": "read", "resource": "a", "scope": ""}}, "scope"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_policies_are_told_before_anything_runs(case: str, make: Any) -> None:
    policies, told = WRONG[case]
    ran = []

    async def get_user(user_id: str) -> str:
        ran.append(user_id)
        return "Ann"

    async def start() -> None:
        server, cache = make(policies)
        server.tool()(get_user)
        await (cache.check() if isinstance(server, MCPServer) else cache.check(server))

    with pytest.raises(ConfigurationError, match=told):
        await start()
    assert not ran


async def test_a_servers_own_wrong_meta_is_told_to_its_author(make: Any) -> None:
    server, cache = make()

    @server.tool(meta={"agent_cache": {"kind": "read", "resource": "user:{uid}"}})
    async def get_user(user_id: str) -> str:
        return "Ann"

    check = cache.check() if isinstance(server, MCPServer) else cache.check(server)
    with pytest.raises(ConfigurationError, match="uid"):
        await check


async def test_an_extension_nobody_attached_says_so() -> None:
    cache = AgentCacheExtension("shop")
    with pytest.raises(ConfigurationError, match="attach"):
        await cache.check()
    with pytest.raises(ConfigurationError, match="MCPServer"):
        cache.attach(object())


@pytest.mark.parametrize("made", [AgentCacheExtension, AgentCacheMiddleware])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"server": ""}, "server"),
        ({"policies": {"a": {"kind": "both"}}}, "kind"),
        ({"policies": {"a": {"kind": "read", "resource": "x", "colour": 1}}}, "colour"),
        ({"policies": {"a": {"kind": "read"}}}, "resource"),
        ({"policies": {"a": {"kind": "read", "resource": "x", "no_effect_if": bool}}}, "no_effect_if"),
        ({"policies": 7}, "policies"),
        ({"backend": 7}, "backend"),
        ({"open_world_ttl": -1}, "open_world_ttl"),
        ({"on_loop": "shout"}, "on_loop"),
    ],
)
def test_wrong_options_are_told_at_once(made: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        made(**{"server": "shop", **options})
