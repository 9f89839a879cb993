"""Invalidations a backend could not take, kept until it does, and a count of this process's writes.

While a backend is owed an invalidation nothing is read from it. In memory only: it is lost with the process.
"""

from __future__ import annotations

from agent_cache.backends.base import Backend
from agent_cache.locks import renewed_after_fork
from agent_cache.tags import Tag

__all__ = ["LocalWrites", "Outbox"]

_MAX_TAGS = 10_000
_EVERYTHING: tuple[Tag, ...] = (("all", (), ()),)


class Outbox:
    """What is owed to each backend. Past 10,000 tags it becomes "everything"."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._owed: dict[int, tuple[Backend, dict[Tag, None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._owed)

    def owe(self, backend: Backend, tags: tuple[Tag, ...]) -> None:
        with self._lock:
            _, owed = self._owed.setdefault(id(backend), (backend, {}))
            owed.update(dict.fromkeys(tags))
            if len(owed) > _MAX_TAGS:
                owed.clear()
                owed.update(dict.fromkeys(_EVERYTHING))

    def owed_to(self, backend: Backend) -> tuple[Tag, ...]:
        with self._lock:
            return tuple(self._owed[id(backend)][1]) if id(backend) in self._owed else ()

    def delivered(self, backend: Backend, tags: tuple[Tag, ...]) -> None:
        with self._lock:
            _, owed = self._owed.get(id(backend), (backend, {}))
            for tag in tags:
                owed.pop(tag, None)
            if not owed:
                self._owed.pop(id(backend), None)


class LocalWrites:
    """Tells whether a load that began under one count may be shared under another: while no write was made between."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._moves = 0
        self._open = 0

    def began(self) -> None:
        with self._lock:
            self._open += 1
            self._moves += 1

    def ended(self) -> None:
        with self._lock:
            self._open -= 1
            self._moves += 1

    def token(self) -> tuple[str, int] | None:
        """What loads without a backend are shared under; None while a write runs."""
        with self._lock:
            return None if self._open else ("local", self._moves)
