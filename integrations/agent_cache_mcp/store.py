"""A backend as the store of the official client's response cache (mcp 2.x): lists, discovery, resources.

That cache decides what is fresh and whose it is; here entries are only kept, in a form that other processes can read.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from agent_cache_mcp.versions import require

require("mcp", (2,), "mcp")

import mcp.types as types  # noqa: E402 - after the version was looked at
from mcp.client.caching import CacheEntry, CacheKey  # noqa: E402

from agent_cache.errors import ConfigurationError  # noqa: E402

__all__ = ["CacheStore"]

_RESULTS: dict[str, type[types.CacheableResult]] = {
    "prompts/list": types.ListPromptsResult,
    "resources/list": types.ListResourcesResult,
    "resources/read": types.ReadResourceResult,
    "resources/templates/list": types.ListResourceTemplatesResult,
    "server/discover": types.DiscoverResult,
    "tools/list": types.ListToolsResult,
}


class CacheStore:
    """For ``Client(..., cache=CacheConfig(store=CacheStore(RedisBackend()), partition=..., target_id=...))``.

    Args:
        backend: any backend of agent_cache that is a key-value cache too: memory, disk, Redis, tiers.
        prefix: what the keys begin with; :meth:`clear` removes those and no others.

    Raises:
        ConfigurationError: ``backend`` is none.
    """

    def __init__(self, backend: Any, prefix: str = "mcp-responses") -> None:
        if not all(callable(getattr(backend, name, None)) for name in ("get", "set", "delete", "delete_pattern")):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        if not isinstance(prefix, str) or not prefix or set(prefix) & set("*?["):
            raise ConfigurationError("prefix", prefix, "give a text without *, ? and [")
        self._backend = backend
        self._prefix = prefix

    async def get(self, key: CacheKey) -> CacheEntry | None:
        """The entry, its value the SDK's own model again; None for what is not there or cannot be read."""
        kind = _RESULTS.get(key.method)
        kept = await self._backend.get(self._name(key)) if kind is not None else None
        if kind is None or kept is None:
            return None
        value = kind.model_validate(kept["value"])
        return CacheEntry(value=value, scope=kept["scope"], expires_at=kept["expires_at"])

    async def set(self, key: CacheKey, entry: CacheEntry) -> None:
        """Keep the entry until it expires; what never is fresh, or would not come back equal, is not kept."""
        kind = _RESULTS.get(key.method)
        left = entry.expires_at - time.time() if entry.expires_at is not None else 0.0
        wire = entry.value.model_dump(by_alias=True, mode="json", exclude_unset=True)
        if kind is None or left <= 0 or kind.model_validate(wire) != entry.value:
            await self.delete(key)  # it is superseded all the same
            return
        kept = {"value": wire, "scope": entry.scope, "expires_at": entry.expires_at}
        await self._backend.set(self._name(key), kept, ttl=left)

    async def delete(self, key: CacheKey) -> None:
        """Remove one entry."""
        await self._backend.delete(self._name(key))

    async def clear(self) -> None:
        """Remove all entries of this store's prefix."""
        await self._backend.delete_pattern(f"{self._prefix}:*")

    def _name(self, key: CacheKey) -> str:
        fields = json.dumps([key.method, key.params_key, key.partition])
        return f"{self._prefix}:{hashlib.blake2b(fields.encode(), digest_size=20).hexdigest()}"
