"""The shop behind the desk: a real SQLite database and the latency of a real service.

Every read is a plain method that asks the database right now (``order``, ``stock``, ...).
The tools call it through :meth:`Shop.serve`, which adds the time a remote service would
take and counts that the tool really ran; the auditor calls it directly, which makes it
the truth to compare with.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Row = dict[str, Any]

LATENCY_MS = {
    "return_policy": 25,
    "search_products": 80,
    "check_stock": 45,
    "get_order": 70,
    "my_orders": 60,
    "my_cart": 40,
    "track_parcel": 65,
    "change_address": 40,
    "start_return": 55,
    "cancel_order": 60,
    "place_order": 75,
    "add_to_cart": 35,
}
"""What each call of the shop's service takes, give or take 15%."""

SCHEMA = """
CREATE TABLE products (sku TEXT PRIMARY KEY, name TEXT, kind TEXT, cents INTEGER, stock INTEGER);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, sku TEXT, status TEXT, address TEXT);
CREATE TABLE carts (customer TEXT, sku TEXT, quantity INTEGER, PRIMARY KEY (customer, sku));
CREATE TABLE parcels (order_id INTEGER PRIMARY KEY, carrier TEXT, place TEXT);
"""
PRODUCTS = [
    ("TENT-2", "Two-person tent", "tent", 18900, 7),
    ("TENT-4", "Family tent", "tent", 32900, 2),
    ("JKT-M", "Rain jacket M", "jacket", 11900, 4),
    ("JKT-L", "Rain jacket L", "jacket", 11900, 1),
    ("LAMP-1", "Head lamp", "lamp", 3900, 25),
    ("STOVE-1", "Gas stove", "stove", 5900, 3),
]
ORDERS = [
    (1001, "ada", "TENT-2", "shipped", "4 Mill Lane"),
    (1002, "ben", "LAMP-1", "delivered", "9 High Street"),
    (1003, "eve", "JKT-M", "packing", "1 Old Road"),
    (1004, "fay", "STOVE-1", "paid", "22 Harbour View"),
    (1005, "gil", "LAMP-1", "delivered", "5 Park Row"),
    (1006, "hana", "TENT-4", "shipped", "17 Abbey Close"),
    (1007, "kim", "JKT-L", "shipped", "3 Station Way"),
]
CARTS = [("gil", "LAMP-1", 2), ("hana", "JKT-L", 1)]
PARCELS = [
    (1001, "Swift Post", "sorting centre"),
    (1006, "Swift Post", "out for delivery"),
    (1007, "Swift Post", "unknown"),
]
WRITES = frozenset({"change_address", "start_return", "cancel_order", "place_order", "add_to_cart"})


class Shop:
    """One fresh in-memory database, used on one event loop.

    Args:
        seed: makes the latency of each call reproducible.
        pace: multiplies every latency; ``1.0`` gives about 25 to 80 milliseconds a call.
    """

    def __init__(self, seed: int = 7, pace: float = 1.0) -> None:
        self.seed = seed
        self.pace = pace
        self.ran: Counter[str] = Counter()
        """How often each tool's body really ran."""
        self.busy = 0.0
        """Seconds of service time all these calls took together."""
        self.commit_hooks: list[Callable[[], None]] = []
        """Called right after each commit, before anything else can run."""
        self._db = sqlite3.connect(":memory:")
        self._db.row_factory = sqlite3.Row
        self._db.executescript(SCHEMA)
        self._db.executemany("INSERT INTO products VALUES (?,?,?,?,?)", PRODUCTS)
        self._db.executemany("INSERT INTO orders VALUES (?,?,?,?,?)", ORDERS)
        self._db.executemany("INSERT INTO carts VALUES (?,?,?)", CARTS)
        self._db.executemany("INSERT INTO parcels VALUES (?,?,?)", PARCELS)
        self._db.commit()

    def close(self) -> None:
        """Drop the database."""
        self._db.close()

    # Reads: what is true now.

    def policy(self) -> Row:
        return {"returns": "30 days, unused", "refund_days": 5, "free_from_cents": 5000}

    def search(self, kind: str) -> list[Row]:
        return self._rows("SELECT sku, name, cents FROM products WHERE kind = ? ORDER BY sku", kind)

    def stock(self, sku: str) -> Row:
        return self._one("SELECT sku, stock FROM products WHERE sku = ?", sku)

    def order(self, order_id: int) -> Row:
        return self._one("SELECT * FROM orders WHERE id = ?", order_id)

    def orders(self, customer: str) -> list[Row]:
        return self._rows("SELECT id, sku, status FROM orders WHERE customer = ? ORDER BY id", customer)

    def cart(self, customer: str) -> list[Row]:
        return self._rows("SELECT sku, quantity FROM carts WHERE customer = ? ORDER BY sku", customer)

    def parcel(self, order_id: int) -> Row:
        return self._one("SELECT carrier, place FROM parcels WHERE order_id = ?", order_id)

    # Writes.

    def change_address(self, order_id: int, address: str) -> Row:
        with self._commit() as db:
            db.execute("UPDATE orders SET address = ? WHERE id = ?", (address, order_id))
        return {"order_id": order_id, "saved": True}

    def start_return(self, order_id: int) -> Row:
        with self._commit() as db:
            db.execute("UPDATE orders SET status = 'return requested' WHERE id = ?", (order_id,))
        return {"order_id": order_id, "label": f"R-{order_id}"}

    def cancel_order(self, order_id: int) -> Row:
        with self._commit() as db:
            db.execute(
                "UPDATE products SET stock = stock + 1 WHERE sku = (SELECT sku FROM orders WHERE id = ?)",
                (order_id,),
            )
            db.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order_id,))
        return {"order_id": order_id, "cancelled": True}

    def place_order(self, customer: str, sku: str, address: str) -> Row:
        if self.stock(sku)["stock"] < 1:
            return {"placed": False, "reason": f"{sku} is sold out"}
        with self._commit() as db:
            db.execute("UPDATE products SET stock = stock - 1 WHERE sku = ?", (sku,))
            new = db.execute(
                "INSERT INTO orders (customer, sku, status, address) VALUES (?, ?, 'paid', ?)",
                (customer, sku, address),
            ).lastrowid
        return {"placed": True, "order_id": new}

    def add_to_cart(self, customer: str, sku: str, quantity: int) -> Row:
        with self._commit() as db:
            db.execute(
                "INSERT INTO carts VALUES (?, ?, ?)"
                " ON CONFLICT (customer, sku) DO UPDATE SET quantity = quantity + excluded.quantity",
                (customer, sku, quantity),
            )
        return {"added": sku, "quantity": quantity}

    # The service around the database.

    async def serve(self, tool: str, ask: Callable[..., T], *args: object) -> T:
        """Run ``ask(*args)`` the way a remote service would.

        The database is asked after a tenth of the time on a read and after most of it on a
        write, so that a read can be under way with an old answer when a write commits.

        Args:
            tool: the tool's name, for the count and the latency.
            ask: one of the methods above.
            args: its arguments.

        Returns:
            What ``ask`` returned.
        """
        self.ran[tool] += 1
        jitter = random.Random(f"{self.seed} {tool} {args}").uniform(0.85, 1.15)
        delay = LATENCY_MS[tool] / 1000 * jitter * self.pace
        self.busy += delay
        at = 0.7 if tool in WRITES else 0.1
        await asyncio.sleep(delay * at)
        answer = ask(*args)
        await asyncio.sleep(delay * (1 - at))
        return answer

    def _rows(self, sql: str, *args: object) -> list[Row]:
        return [dict(row) for row in self._db.execute(sql, args)]

    def _one(self, sql: str, *args: object) -> Row:
        rows = self._rows(sql, *args)
        return rows[0] if rows else {"error": "not found"}

    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        with self._db:
            yield self._db
        for hook in tuple(self.commit_hooks):
            hook()
