"""Memory as the default backend, and a tool that can be read, written and failed."""

from __future__ import annotations

from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend, configure

CARTS: dict[str, Any] = {}


@AgentCache("cart:{user}", cost=2)
async def get_cart(user: str) -> Any:
    return CARTS[user]


@AgentCacheInvalidator("cart:{user}")
async def add_to_cart(user: str, item: str) -> None:
    CARTS[user] = [*CARTS[user], item]


@pytest.fixture(autouse=True)
def _start(_fresh_process_state: None) -> None:
    CARTS.clear()
    CARTS["secret-user"] = ["tent"]
    configure(backend=MemoryBackend())
