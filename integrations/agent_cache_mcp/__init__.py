"""agent_cache for MCP: in a client, in a server, or between the two.

- :class:`CachedClient`, :func:`cached_session`: a client of the official SDK whose tool calls go through the cache.
- :class:`AgentCacheExtension`: a server of the official SDK (mcp 2.x).
- :class:`AgentCacheMiddleware`: a FastMCP 4 server.
- :class:`CacheStore`: a backend as the store of the official client's own response cache (mcp 2.x).
- ``agent-cache mcp-proxy``: before any server, for any client.

One rule is theirs all: a tool that is not known to be read-only is a write to everything of its server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_cache_mcp.versions import require

require("mcp", (1, 24), "mcp")

from agent_cache.adapters import Policies, ToolPolicy  # noqa: E402 - after the version has been looked at
from agent_cache_mcp.client import CachedClient, cached_session  # noqa: E402
from agent_cache_mcp.watch import ServerNews  # noqa: E402

if TYPE_CHECKING:
    from agent_cache_mcp.extension import AgentCacheExtension as AgentCacheExtension
    from agent_cache_mcp.middleware import AgentCacheMiddleware as AgentCacheMiddleware
    from agent_cache_mcp.store import CacheStore as CacheStore

__all__ = ["CachedClient", "Policies", "ServerNews", "ToolPolicy", "cached_session"]

# Loaded when first asked for: they need mcp 2.x or FastMCP.
_ON_DEMAND = {
    "AgentCacheExtension": "agent_cache_mcp.extension",
    "AgentCacheMiddleware": "agent_cache_mcp.middleware",
    "CacheStore": "agent_cache_mcp.store",
}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        from importlib import import_module

        return getattr(import_module(_ON_DEMAND[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_DEMAND} - {"Any", "TYPE_CHECKING", "require"})
