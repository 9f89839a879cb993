"""The desk's tools: `agent_cache` right under LangChain's ``@tool``, nothing else changes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from langchain.tools import ToolRuntime
from langchain_core.tools import BaseTool, StructuredTool, tool

from agent_cache import AgentCache, AgentCacheInvalidator

from .shop import Row, Shop


@dataclass(frozen=True)
class Caller:
    """Who is talking to the desk; LangChain hands it to the tools that ask for it."""

    customer: str


def desk_tools(shop: Shop) -> list[BaseTool]:
    """The tools of the desk, reading from and writing to ``shop``."""

    # What everybody may share: scope="global" is the default.

    @tool
    @AgentCache("policy")
    async def return_policy() -> Row:
        """The shop's return policy."""
        return await shop.serve("return_policy", shop.policy)

    @tool
    @AgentCache("catalogue:{kind}")
    async def search_products(kind: str) -> list[Row]:
        """All products of a kind: tent, jacket, lamp or stove."""
        return await shop.serve("search_products", shop.search, kind)

    @tool
    @AgentCache("stock:{sku}")
    async def check_stock(sku: str) -> Row:
        """How many pieces of a product are left."""
        return await shop.serve("check_stock", shop.stock, sku)

    @tool
    @AgentCache("order:{order_id}")
    async def get_order(order_id: int) -> Row:
        """One order: what, to whom, where to, and its status."""
        return await shop.serve("get_order", shop.order, order_id)

    @tool
    @AgentCache("parcel:{order_id}")
    async def track_parcel(order_id: int) -> Row:
        """Where the parcel of an order is."""
        return await shop.serve("track_parcel", shop.parcel, order_id)

    # What belongs to one customer. The answer depends on who asks, and that is not among
    # the arguments the model writes: the scope says so, and the identity of the session
    # fills it in. `runtime` is LangChain's, it stays out of the key.

    @tool
    @AgentCache("order", scope="user", ignore=("runtime",))
    async def my_orders(runtime: ToolRuntime[Caller]) -> list[Row]:
        """The orders of the customer who is asking."""
        return await shop.serve("my_orders", shop.orders, runtime.context.customer)

    @tool
    @AgentCache("cart", scope="user", ignore=("runtime",))
    async def my_cart(runtime: ToolRuntime[Caller]) -> list[Row]:
        """The cart of the customer who is asking."""
        return await shop.serve("my_cart", shop.cart, runtime.context.customer)

    # What writes. A write of "order:7" drops reads of that order and of the list "order".

    @tool
    @AgentCacheInvalidator("order:{order_id}")
    async def change_address(order_id: int, address: str) -> Row:
        """Send an order to another address."""
        return await shop.serve("change_address", shop.change_address, order_id, address)

    @tool
    @AgentCacheInvalidator("order:{order_id}")
    async def start_return(order_id: int) -> Row:
        """Open a return for an order."""
        return await shop.serve("start_return", shop.start_return, order_id)

    @tool
    @AgentCacheInvalidator(["order:{order_id}", "stock"])
    async def cancel_order(order_id: int) -> Row:
        """Cancel an order that was not sent; what was in it goes back on the shelf."""
        return await shop.serve("cancel_order", shop.cancel_order, order_id)

    @tool
    @AgentCacheInvalidator(["stock:{sku}", "order"])
    async def place_order(sku: str, address: str, runtime: ToolRuntime[Caller]) -> Row:
        """Buy one piece of a product for the customer who is asking."""
        return await shop.serve("place_order", shop.place_order, runtime.context.customer, sku, address)

    @tool
    @AgentCacheInvalidator("cart", scope="user")
    async def add_to_cart(sku: str, quantity: int, runtime: ToolRuntime[Caller]) -> Row:
        """Put a product into the cart of the customer who is asking."""
        return await shop.serve("add_to_cart", shop.add_to_cart, runtime.context.customer, sku, quantity)

    return [
        return_policy, search_products, check_stock, get_order, track_parcel, my_orders, my_cart,
        change_address, start_return, cancel_order, place_order, add_to_cart,
    ]  # fmt: skip


def bare(one: BaseTool) -> BaseTool:
    """The same tool with its plain function: what it would be had nobody decorated it."""
    assert isinstance(one, StructuredTool)
    assert one.coroutine is not None
    return one.model_copy(update={"coroutine": inspect.unwrap(one.coroutine)})
