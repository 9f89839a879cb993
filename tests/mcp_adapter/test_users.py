"""Never another's answer: users of one server kept apart behind every door, over real HTTP where there are credentials."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from agent_cache import AgentCacheSession
from agent_cache_mcp import AgentCacheExtension, AgentCacheMiddleware, CachedClient

READ = {"kind": "read", "resource": "inbox"}
WRITE = {"kind": "write", "resource": "inbox"}


@asynccontextmanager
async def connected(url: str, headers: dict[str, str], mode: str = "legacy") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=None) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


def said(result: Any) -> str:
    return str(result.content[0].text)


class Verifier:
    """Takes every token for a user's."""

    async def verify_token(self, token: str) -> AccessToken:
        return AccessToken(token=token, client_id="one app", scopes=[])


def official(policies: Any, *, token: bool) -> Any:
    from mcp.server.auth.middleware.auth_context import get_access_token

    cache = AgentCacheExtension("mail", policies)
    settings: dict[str, Any] = {}
    if token:
        url: Any = "http://127.0.0.1/"
        auth = AuthSettings(issuer_url=url, resource_server_url=url, required_scopes=[], validate_token_resource=False)
        settings = {"auth": auth, "token_verifier": Verifier()}
    server = MCPServer("mail", extensions=[cache], **settings)
    cache.attach(server)

    @server.tool()
    async def inbox(ctx: Context) -> str:  # type: ignore[name-defined]
        found = get_access_token()
        return f"mail of {found.token if found else ctx.headers.get('authorization')}"

    @server.tool()
    async def send() -> str:
        return "sent"

    return server.streamable_http_app()


def fast(policies: Any, *, token: bool) -> Any:
    from fastmcp import FastMCP
    from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
    from fastmcp.server.dependencies import get_access_token, get_http_headers

    tokens = {name: {"client_id": "one app", "scopes": []} for name in ("alice", "bob")}
    server: Any = FastMCP("mail", auth=StaticTokenVerifier(tokens) if token else None)
    server.add_middleware(AgentCacheMiddleware("mail", policies))

    @server.tool
    async def inbox() -> str:
        found = get_access_token()
        headers = get_http_headers(include_all=True)
        return f"mail of {found.token if found else headers.get('authorization')}"

    @server.tool
    async def send() -> str:
        return "sent"

    return server.http_app()


from mcp.server.mcpserver import Context  # noqa: E402 - looked up in annotations


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.parametrize("token", [True, False], ids=["token", "header"])
@pytest.mark.parametrize("make", [official, fast])
async def test_servers_keep_holders_of_credentials_apart(
    make: Any, token: bool, mode: str, served: Any, hit: Any
) -> None:
    policies = {"inbox": READ, "send": WRITE}
    async with served(make(policies, token=token)) as url:
        for user in ("alice", "bob"):
            async with connected(url, {"Authorization": f"Bearer {user}"}, mode) as client:
                first, second = await client.call_tool("inbox"), await client.call_tool("inbox")
                assert user in said(first)
                assert (hit(first), hit(second)) == (False, True)
                assert user in said(second)
        async with connected(url, {"Authorization": "Bearer alice"}, mode) as client:
            assert hit(await client.call_tool("inbox"))  # another connection of the same principal
        async with connected(url, {"Authorization": "Bearer bob"}, mode) as client:
            await client.call_tool("send")
        async with connected(url, {"Authorization": "Bearer alice"}, mode) as client:
            assert not hit(await client.call_tool("inbox"))  # a write reaches everybody


@pytest.mark.parametrize("make", [official, fast])
async def test_a_policy_may_say_that_all_share(make: Any, served: Any, hit: Any) -> None:
    policies = {"inbox": {**READ, "scope": "global"}, "send": WRITE}
    async with served(make(policies, token=False)) as url:
        async with connected(url, {"Authorization": "Bearer alice"}) as client:
            await client.call_tool("inbox")
        async with connected(url, {"Authorization": "Bearer bob"}) as client:
            assert hit(await client.call_tool("inbox"))


async def test_a_scope_from_the_servers_identity(hit: Any, served: Any) -> None:
    cache = AgentCacheExtension(
        "mail",
        {"inbox": {**READ, "scope": "tenant"}},
        identity=lambda ctx: {"tenant": ctx.request.headers["x-tenant"]},
    )
    server = MCPServer("mail", extensions=[cache])
    cache.attach(server)

    @server.tool()
    async def inbox(ctx: Context) -> str:
        return f"mail of {ctx.headers['x-tenant']}"

    async with served(server.streamable_http_app()) as url:
        seen = []
        for tenant, user in (("acme", "alice"), ("acme", "bob"), ("evil", "eve")):
            async with connected(url, {"X-Tenant": tenant, "Authorization": user}) as client:
                result = await client.call_tool("inbox")
                assert tenant in said(result)
                seen.append(hit(result))
        assert seen == [False, True, False]


async def test_clients_share_with_their_own_principal_only(shop: Any, hit: Any) -> None:
    server = shop.fill(MCPServer("shop"), shop.Shop())

    async def ask(principal: str | None, name: str = "shop") -> bool:
        async with CachedClient(Client(server), name, policies=shop.POLICIES, principal=principal) as client:
            return bool(hit(await client.call_tool("get_user", {"user_id": "1"})))

    assert [await ask(who) for who in ("alice", "bob", "alice", None, None)] == [False, False, True, False, False]
    assert not await ask("alice", "another server")


async def test_a_clients_policy_may_say_who_shares(shop: Any, hit: Any) -> None:
    server = shop.fill(MCPServer("shop"), shop.Shop())

    async def ask(user: str, scope: str) -> bool:
        policies = {"get_user": {"kind": "read", "resource": "user:{user_id}", "scope": scope}}
        async with (
            CachedClient(Client(server), "shop", policies=policies) as client,
            AgentCacheSession(identity={"user": user}),
        ):
            return bool(hit(await client.call_tool("get_user", {"user_id": "1"})))

    assert [await ask(who, "user") for who in ("alice", "bob", "alice")] == [False, False, True]
    assert [await ask(who, "global") for who in ("alice", "bob")] == [False, True]


async def test_two_proxies_on_one_backend_share_for_one_principal(doors: Any, hit: Any, tmp_path: Path) -> None:
    async def ask(*options: str) -> bool:
        async with Client(doors.proxy("--backend", f"disk://{tmp_path / 'cache.db'}", *options)) as client:
            return bool(hit(await client.call_tool("get_user", {"user_id": "1"})))

    asked = [("--principal", "alice"), ("--principal", "bob"), ("--principal", "alice"), ()]
    assert [await ask(*options) for options in asked] == [False, False, True, False]


async def test_the_proxys_http_front_keeps_its_clients_apart(doors: Any, hit: Any) -> None:
    shop_py = str(Path(__file__).with_name("shop.py"))
    line = [*doors.proxy("--listen", "127.0.0.1:0").args]
    assert line[-1] == shop_py
    process = await asyncio.create_subprocess_exec(sys.executable, *line, stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        while b"listening on " not in (heard := await process.stderr.readline()):
            assert heard, "it ended"
        url = heard.decode().split("listening on ")[1].strip()
        for user, expected in (("alice", [False, True]), ("bob", [False, True])):
            async with connected(url, {"Authorization": user}, "auto") as client:
                assert client.protocol_version < "2026"
                assert [hit(await client.call_tool("get_user", {"user_id": "1"})) for _ in range(2)] == expected
    finally:
        process.terminate()
        await process.communicate()
