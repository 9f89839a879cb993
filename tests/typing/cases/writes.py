"""A decorated write is, to a type checker, the function itself. Read by mypy and pyright, never run."""

from __future__ import annotations

from typing import assert_type

from agent_cache import AgentCache, AgentCacheInvalidator, NoEffect


@AgentCache("cart:{user_id}")
async def get_cart(user_id: str) -> tuple[str, ...]:
    return (user_id,)


@AgentCacheInvalidator("cart:{user_id}")
async def add_to_cart(user_id: str, item: str, *, quantity: int = 1) -> tuple[str, ...]:
    if quantity == 0:
        raise NoEffect("nothing to add")
    return (user_id, item)


@AgentCacheInvalidator(["cart:{user_id}", "orders"], "session")
def checkout(user_id: str) -> int:
    return len(user_id)


@AgentCacheInvalidator("cart", clear_all=False, key_fn=lambda args, kwargs: get_cart.cache_key(args[0]))
async def empty_cart(user_id: str) -> None:
    del user_id


class Desk:
    @AgentCacheInvalidator("ticket:{number}")
    async def close(self, number: int) -> bool:
        return number > 0


async def nothing_changes(desk: Desk) -> None:
    assert_type(await add_to_cart("u1", "book"), tuple[str, ...])
    assert_type(await add_to_cart("u1", item="book", quantity=2), tuple[str, ...])
    assert_type(checkout("u1"), int)
    assert_type(await desk.close(7), bool)
    await empty_cart("u1")

    await add_to_cart("u1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await add_to_cart("u1", 2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    checkout(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await desk.close("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await desk.close(desk, 7)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
