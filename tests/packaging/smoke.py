"""Run with the installed wheel only: `python -I smoke.py <folder the wheel was installed into>`."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import agent_cache
from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, get_metrics

OPTIONAL = {"redis", "sqlite3", "langchain", "langchain_core", "langgraph", "mcp"}

calls = 0


@AgentCache("cart:{user_id}")
async def get_cart(user_id: str) -> dict[str, int]:
    global calls
    calls += 1
    return {user_id: calls}


@AgentCacheInvalidator("cart:{user_id}")
async def add_to_cart(user_id: str) -> str:
    return user_id


async def main() -> None:
    async with AgentCacheSession():
        assert await get_cart("u1") == {"u1": 1}
        assert await get_cart("u1") == {"u1": 1}
        assert calls == 1
        assert get_metrics()["hits"] == 1
        await add_to_cart("u1")
        assert await get_cart("u1") == {"u1": 2}


installed = Path(sys.argv[1]).resolve()
package = Path(agent_cache.__file__).resolve().parent
assert package.is_relative_to(installed), f"{package} is not the installed one"
assert (package / "py.typed").is_file()
assert importlib.util.find_spec("agent_cache_langchain") is not None
assert importlib.util.find_spec("integrations") is None
assert importlib.util.find_spec("tests") is None
asyncio.run(main())
assert {name.split(".")[0] for name in sys.modules} & OPTIONAL == set()
print("ok")
