"""Tools as a shop would have them, sync and async at once, and a count of what ran."""

from __future__ import annotations

import threading
from typing import Any

from langchain_core.tools import StructuredTool

ORDER = ("get_order", {"order_id": 7})
SEND = ("set_status", {"order_id": 7, "status": "sent"})
POLICIES: dict[str, Any] = {
    "get_order": {"kind": "read", "resource": "order:{order_id}"},
    "set_status": {"kind": "write", "resource": "order:{order_id}"},
}


class Shop:
    def __init__(self) -> None:
        self.status = {7: "paid", 8: "open"}
        self.ran: list[tuple[Any, ...]] = []
        self.lock = threading.Lock()

        def get_order(order_id: int, detail: bool = False) -> str:
            """One order."""
            with self.lock:
                self.ran.append(("get_order", order_id, detail))
            return self.status[order_id]

        async def aget_order(order_id: int, detail: bool = False) -> str:
            return get_order(order_id, detail)

        def set_status(order_id: int, status: str) -> str:
            """Change an order."""
            with self.lock:
                self.ran.append(("set_status", order_id, status))
            self.status[order_id] = status
            return "ok"

        async def aset_status(order_id: int, status: str) -> str:
            return set_status(order_id, status)

        self.read = StructuredTool.from_function(get_order, aget_order)
        self.write = StructuredTool.from_function(set_status, aset_status)
        self.tools = [self.read, self.write]

    @property
    def reads(self) -> int:
        return sum(name == "get_order" for name, *_ in self.ran)
