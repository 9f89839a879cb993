"""A memory backend for each test, a path for its cassette, and the tools of a small shop that count what they run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend, configure, watched
from agent_cache.config import settings

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _default_backend(_fresh_process_state: None) -> None:
    settings.notices.forget()
    configure(backend=MemoryBackend())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.cassette"


class Shop:
    """Tools of all kinds over one state; ``ran`` has every body that was run."""

    def __init__(self) -> None:
        name = f"cart{next(_numbers)}"
        self.ran: list[tuple[object, ...]] = []
        carts: dict[str, list[str]] = {}

        @AgentCache(name + ":{user_id}")
        async def get_cart(user_id: str) -> dict[str, object]:
            self.ran.append(("get_cart", user_id))
            return {"items": [*carts.get(user_id, [])], "total": 1.0 * len(carts.get(user_id, []))}

        @AgentCache(name + ":{user_id}")
        def count(user_id: str) -> int:
            self.ran.append(("count", user_id))
            return len(carts.get(user_id, []))

        @AgentCacheInvalidator(name + ":{user_id}")
        async def add(user_id: str, item: str) -> tuple[str, int]:
            self.ran.append(("add", user_id, item))
            if item == "nothing":
                raise ValueError("an item is needed", 7)
            carts.setdefault(user_id, []).append(item)
            return item, len(carts[user_id])

        @AgentCacheInvalidator(name + ":{user_id}")
        def clear(user_id: str) -> None:
            self.ran.append(("clear", user_id))
            carts.pop(user_id, None)

        @watched
        async def search(text: str, limit: int = 3) -> set[str]:
            self.ran.append(("search", text, limit))
            return {text, str(limit), str(len(self.ran))}

        @watched
        def weigh(grams: float) -> float:
            self.ran.append(("weigh", grams))
            return grams / 1000

        self.get_cart, self.count, self.add, self.clear = get_cart, count, add, clear
        self.search, self.weigh = search, weigh


@pytest.fixture
def shop() -> Shop:
    return Shop()
