"""A real MCP server on stdio: one order, one note of how often it was asked for."""

from __future__ import annotations

from typing import Any

try:
    from mcp.server.mcpserver import MCPServer as Server
except ImportError:  # mcp 1.x
    from mcp.server.fastmcp import FastMCP as Server  # type: ignore[import-not-found, no-redef]

from mcp.types import ToolAnnotations

server: Any = Server("shop")
STATUS = {7: "paid"}
asked = 0


@server.tool(annotations=ToolAnnotations.model_validate({"readOnlyHint": True, "openWorldHint": False}))
def get_order(order_id: int) -> str:
    """The status of an order, and how often anybody asked."""
    global asked
    asked += 1
    return f"{STATUS[order_id]} ({asked})"


@server.tool()
def set_status(order_id: int, new: str) -> str:
    """Change an order."""
    STATUS[order_id] = new
    return "ok"


if __name__ == "__main__":
    server.run()
