"""Quick start: a cached read, a write that invalidates it, a session, the counters.

Run it with ``python examples/quickstart.py``.
"""

import asyncio

from agent_cache import AgentCache, AgentCacheInvalidator, AgentCacheSession, get_metrics

CARTS: dict[str, list[str]] = {"ada": ["tent"]}


@AgentCache("cart:{user_id}")
async def get_cart(user_id: str) -> list[str]:
    print("  ... asking the shop")
    return CARTS[user_id]


@AgentCacheInvalidator("cart:{user_id}")
async def add_to_cart(user_id: str, item: str) -> None:
    CARTS[user_id].append(item)


async def main() -> None:
    async with AgentCacheSession(max_tool_repeats=5):
        print(await get_cart("ada"))  # runs the tool
        print(await get_cart("ada"))  # served: equal value, a list of its own
        await add_to_cart("ada", "lamp")  # the write drops what it made stale
        print(await get_cart("ada"))  # runs again, sees the lamp

    m = get_metrics()
    print(f"{m['hits']} hit, {m['misses']} misses, {m['invalidations']} invalidation")


if __name__ == "__main__":
    asyncio.run(main())
