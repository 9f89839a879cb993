"""A shop behind each door of the adapter: a client's, two servers', and the proxy's."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mcp.types import CallToolResult

HERE = Path(__file__).parent
Call = Callable[..., Awaitable[Any]]
# What a server and the proxy begin with, of other projects: a second and more if each imported it. mcp 1.x has the third.
_SERVED = ("mcp.types", "mcp.server.mcpserver", "mcp.server.fastmcp", "mcp.client.streamable_http", "uvicorn")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mcp_adapter_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_shop = _load("shop")


@pytest.fixture
def shop() -> ModuleType:
    return _shop


def toml(policies: dict[str, dict[str, Any]]) -> str:
    """Policies as the proxy's file."""
    lines = []
    for name, fields in policies.items():
        lines += [f'[tools."{name}"]', *(f"{key} = {value!r}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"


class Doors:
    """Opens doors: ``async with doors.open("client") as call: result = await call("get_user", user_id="1")``."""

    def __init__(self, folder: Path, warm: Any) -> None:
        self._folder = folder
        self._warm = warm
        self.policies: dict[str, dict[str, Any]] = {**_shop.POLICIES}

    def open(self, door: str, **options: Any) -> AbstractAsyncContextManager[Call]:
        return getattr(self, f"_{door}")(**options)

    @asynccontextmanager
    async def _client(self, redis: str | None = None, on_loop: Any = None, **options: Any) -> AsyncIterator[Call]:
        from mcp.client.client import Client
        from mcp.server.mcpserver import MCPServer

        from agent_cache_mcp import CachedClient

        server = _shop.fill(MCPServer("shop"), _shop.Shop())
        backend = _redis(redis)
        async with CachedClient(
            Client(server), _name(redis), policies=self.policies, backend=backend, **options
        ) as client:
            yield lambda tool, /, **arguments: client.call_tool(tool, arguments)
        await _closed(backend)

    @asynccontextmanager
    async def _extension(self, redis: str | None = None, **options: Any) -> AsyncIterator[Call]:
        from mcp.client.client import Client
        from mcp.server.mcpserver import MCPServer

        from agent_cache_mcp import AgentCacheExtension

        backend = _redis(redis)
        cache = AgentCacheExtension(_name(redis), self.policies, backend=backend, **options)
        server = _shop.fill(MCPServer("shop", extensions=[cache]), _shop.Shop())
        cache.attach(server)
        async with Client(server, mode="legacy") as client:
            yield lambda tool, /, **arguments: client.call_tool(tool, arguments)
        await _closed(backend)

    @asynccontextmanager
    async def _middleware(self, redis: str | None = None, **options: Any) -> AsyncIterator[Call]:
        from fastmcp import Client, FastMCP

        from agent_cache_mcp import AgentCacheMiddleware

        backend = _redis(redis)
        server = _shop.fill(FastMCP("shop"), _shop.Shop())
        server.add_middleware(AgentCacheMiddleware(_name(redis), self.policies, backend=backend, **options))
        async with Client(server, mode="legacy") as client:
            yield lambda tool, /, **arguments: client.call_tool_mcp(tool, arguments)
        await _closed(backend)

    @asynccontextmanager
    async def _proxy(self, redis: str | None = None, on_loop: str | None = None) -> AsyncIterator[Call]:
        from mcp.client.client import Client

        options = ["--backend", f"{redis}?near=0"] if redis else []
        options += ["--on-loop", on_loop] if on_loop else []
        async with Client(self.proxy(*options)) as client:
            yield lambda tool, /, **arguments: client.call_tool(tool, arguments)

    @asynccontextmanager
    async def http_shop(self, port: int = 0) -> AsyncIterator[tuple[Any, int]]:
        """The shop in a process of its own, over streamable HTTP; the process and its port."""
        process = await asyncio.create_subprocess_exec(
            *self.program("shop", "http"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "SHOP_PORT": str(port)},
        )
        try:
            assert process.stdout is not None
            yield process, int((await process.stdout.readline()).split()[1])
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def program(self, name: str, *arguments: str) -> list[str]:
        """What starts a program of this folder."""
        return list(self._warm.command(str(HERE / f"{name}.py"), *arguments, imports=_SERVED))

    def shop(self) -> Any:
        """What starts the shop over stdio."""
        from mcp.client.stdio import StdioServerParameters

        command, *rest = self.program("shop")
        return StdioServerParameters(command=command, args=rest)

    def policy_file(self) -> Path:
        path = self._folder / "policy.toml"
        path.write_text(toml(self.policies), encoding="utf-8")
        return path

    def proxy(self, *options: str, behind: list[str] | None = None) -> Any:
        """What starts the proxy before the shop over stdio, or before what ``behind`` says."""
        from mcp.client.stdio import StdioServerParameters

        server = ["--", *self.program("shop")] if behind is None else behind
        line = ["-m", "agent_cache.cli", "mcp-proxy", "--policy", str(self.policy_file()), "--name", "shop"]
        command, *rest = self._warm.command(*line, *options, *server, imports=_SERVED)
        return StdioServerParameters(command=command, args=rest)


def _name(redis: str | None) -> str:
    """A server's name in the cache; another one on Redis: writes reach every backend that holds reads of the same name."""
    return "shop" if redis is None else "shop on Redis"


def _redis(url: str | None) -> Any:
    if url is None:
        return None
    from agent_cache import RedisBackend

    return RedisBackend(url)


async def _closed(backend: Any) -> None:
    if backend is not None:
        await backend.close()


@pytest.fixture
def doors(tmp_path: Path, warm: Any) -> Doors:
    return Doors(tmp_path, warm)


def hit(result: CallToolResult) -> bool:
    """What a result says of where it comes from."""
    return bool((result.meta or {})["agent_cache"]["hit"])


@pytest.fixture(name="hit")
def _hit() -> Callable[[CallToolResult], bool]:
    return hit


@asynccontextmanager
async def _serve(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a free loopback port; the URL of its MCP endpoint. It listens before it is asked."""
    import socket

    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            server.should_exit = server.force_exit = True
            await serving


@pytest.fixture
def served() -> Callable[[Any], AbstractAsyncContextManager[str]]:
    return _serve


@pytest.fixture
def news_server() -> ModuleType:
    return _load("news_server")
