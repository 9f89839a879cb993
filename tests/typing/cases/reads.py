"""Decorated reads keep their parameters and results; the cache's attributes are known.

Read by mypy and pyright, never run. A comment that silences an error is an error itself where nothing is wrong, so
each one below says: this must not pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from agent_cache import GLOBAL, AgentCache, CacheKey, Explanation, MemoryBackend


@dataclass(frozen=True)
class Cart:
    items: tuple[str, ...]


@AgentCache("cart:{user_id}", ttl=60)
async def get_cart(user_id: str, limit: int = 10, *, currency: str = "EUR") -> Cart:
    return Cart((user_id, str(limit), currency))


@AgentCache("price:{sku}", GLOBAL, timedelta(minutes=5), maxsize=None, backend=MemoryBackend())
def get_price(sku: str, quantity: int = 1) -> float:
    return float(len(sku) * quantity)


@AgentCache(["cart:{user_id}", "orders"], scope="session", ignore=("trace_id",), poll=True)
async def get_orders(user_id: str, trace_id: str | None = None) -> list[dict[str, int]] | None:
    return [{user_id: 1}] if trace_id else None


async def results_keep_their_types() -> None:
    assert_type(await get_cart("u1"), Cart)
    assert_type(await get_cart("u1", 5, currency="USD"), Cart)
    assert_type(await get_cart(user_id="u1", limit=5), Cart)
    assert_type(get_price("a", 3), float)
    assert_type(await get_orders("u1"), list[dict[str, int]] | None)


async def parameters_keep_their_types() -> None:
    await get_cart(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await get_cart("u1", "5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await get_cart("u1", currency=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await get_cart()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await get_cart("u1", nope=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    get_price(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    get_price()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    get_price("a", 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def results_are_not_something_else() -> None:
    number: int = await get_cart("u1")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    text: str = get_price("a")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del number, text


async def the_attributes_of_an_async_tool() -> None:
    assert_type(get_cart.cache_key("u1"), CacheKey)
    assert_type(await get_cart.uncached("u1", limit=3), Cart)
    assert_type(await get_cart.explain("u1"), Explanation)
    await get_cart.invalidate("u1")
    await get_cart.invalidate_all()
    del get_cart.nope  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def the_attributes_of_a_sync_tool() -> None:
    assert_type(get_price.cache_key("a", 1), CacheKey)
    assert_type(get_price.uncached("a"), float)
    assert_type(get_price.explain("a"), Explanation)
    get_price.invalidate("a")
    get_price.invalidate_all()
    del get_price.nope  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


class Shop:
    @AgentCache("stock:{sku}", skip_args=1)
    async def stock(self, sku: str) -> int:
        return len(sku)

    @AgentCache("name:{sku}", ignore=("self",))
    def name(self, sku: str, *, upper: bool = False) -> str:
        return sku.upper() if upper else sku

    @staticmethod
    @AgentCache("rate:{pair}")
    async def rate(pair: str) -> float:
        return float(len(pair))


async def methods_bind(shop: Shop) -> None:
    assert_type(await shop.stock("a"), int)
    assert_type(await shop.stock(sku="a"), int)
    assert_type(shop.name("a", upper=True), str)
    assert_type(shop.stock.cache_key("a"), CacheKey)
    assert_type(await shop.stock.uncached(shop, "a"), int)
    assert_type(await shop.stock.explain("a"), Explanation)
    assert_type(shop.name.explain("a"), Explanation)
    await shop.stock.invalidate("a")
    await shop.stock.invalidate_all()
    shop.name.invalidate("a")
    shop.name.invalidate_all()
    assert_type(await Shop.rate("EURUSD"), float)
    assert_type(await Shop.stock(shop, "a"), int)

    await shop.stock(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shop.stock(shop, "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    shop.name("a", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def decorator_arguments_are_checked() -> None:
    AgentCache()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AgentCache(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AgentCache("cart", ttl="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AgentCache("cart", time_to_live=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
