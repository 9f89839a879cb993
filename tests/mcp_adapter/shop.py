"""A shop as an MCP server: made for every kind of server, and a program that serves it over stdio or streamable HTTP.

``python shop.py`` serves stdio, ``python shop.py http`` prints ``port N`` and serves HTTP. It runs with mcp 1.x and 2.x.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
from collections import Counter
from typing import Any

from mcp.types import BlobResourceContents, EmbeddedResource, ImageContent, TextContent, ToolAnnotations

PIXEL = base64.b64encode(b"\x89PNG not really").decode()


class Shop:
    """The tools. ``ran`` counts what was executed."""

    def __init__(self) -> None:
        self.names = {"1": "Ann", "2": "Eve"}
        self.ran: Counter[str] = Counter()
        self.started = asyncio.Event()
        self.gate = asyncio.Event()

    async def get_user(self, user_id: str, detail: int = 1) -> dict[str, Any]:
        """One user."""
        self.ran["get_user"] += 1
        return {"name": self.names[user_id], "detail": detail, "none": None, "half": 0.5, "whole": 2.0}

    async def get_slowly(self, user_id: str) -> str:
        """One user's name as it was when asked; the answer waits for open_gate."""
        self.ran["get_slowly"] += 1
        name = self.names[user_id]
        self.started.set()
        await self.gate.wait()
        return name

    async def set_user(self, user_id: str, name: str) -> str:
        """Change a user."""
        self.ran["set_user"] += 1
        self.names[user_id] = name
        return "ok"

    async def get_picture(self, user_id: str) -> list[TextContent | ImageContent | EmbeddedResource]:
        """Text, an image and an embedded file."""
        self.ran["get_picture"] += 1
        contents: Any = BlobResourceContents(uri="file:///a.bin", mimeType="application/x", blob=PIXEL)
        return [
            TextContent(type="text", text=f"picture of {user_id}"),
            ImageContent(type="image", data=PIXEL, mimeType="image/png"),
            EmbeddedResource(type="resource", resource=contents),
        ]

    async def fails(self, user_id: str) -> str:
        """Fails."""
        self.ran["fails"] += 1
        raise ValueError(f"no luck with {user_id}")

    async def touch(self) -> str:
        """A tool no policy names."""
        self.ran["touch"] += 1
        return "touched"

    async def counts(self) -> dict[str, int]:
        """What was executed."""
        return dict(self.ran)

    async def wait_started(self) -> str:
        """Returns once get_slowly has begun."""
        await self.started.wait()
        return "started"

    async def open_gate(self) -> str:
        """Let get_slowly answer."""
        self.gate.set()
        return "open"

    async def die(self) -> str:
        """End the server's process."""
        os._exit(3)


POLICIES: dict[str, dict[str, Any]] = {
    "get_user": {"kind": "read", "resource": "user:{user_id}"},
    "get_slowly": {"kind": "read", "resource": "user:{user_id}"},
    "get_picture": {"kind": "read", "resource": "user:{user_id}"},
    "fails": {"kind": "read", "resource": "user:{user_id}"},
    "set_user": {"kind": "write", "resource": "user:{user_id}"},
    "counts": {"kind": "other"},
    "wait_started": {"kind": "other"},
    "open_gate": {"kind": "other"},
}
TOOLS = (*POLICIES, "touch", "die")


def fill(server: Any, shop: Shop, **annotations: ToolAnnotations) -> Any:
    """Give a server the shop's tools."""
    for name in TOOLS:
        said = {"annotations": annotations[name]} if name in annotations else {}
        server.tool(**said)(getattr(shop, name))
    return server


def _server() -> Any:
    try:
        from mcp.server.mcpserver import MCPServer as Server
    except ImportError:  # mcp 1.x
        from mcp.server.fastmcp import FastMCP as Server
    return fill(Server("shop"), Shop())


def _serve_http(server: Any) -> None:
    import uvicorn

    with socket.create_server(("127.0.0.1", int(os.environ.get("SHOP_PORT", "0")))) as listening:
        print(f"port {listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(server.streamable_http_app(), log_level="error")
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    if sys.argv[1:] == ["http"]:
        _serve_http(_server())
    else:
        _server().run()
