"""What this process holds for a time: write windows and leads. Kept weakly: what its owner forgot is not renewed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar
from weakref import ref

__all__ = ["DiskLead", "DiskWindow", "Held", "Those"]


class DiskWindow:
    """An open write, and what its BEGIN wrote and replaced, per tag."""

    __slots__ = (
        "__weakref__",
        "before",
        "closed",
        "file_id",
        "ids",
        "lost",
        "mine",
        "name",
        "pid",
        "renew_at",
        "writer",
    )

    def __init__(self, ids: tuple[bytes, ...], writer: str) -> None:
        self.ids = ids
        self.writer = writer
        self.closed = False
        self.lost = False
        self.name = ""
        self.mine = b""
        self.file_id = b""
        self.before: dict[bytes, tuple[bytes, str | None]] = {}
        self.renew_at = 0.0
        self.pid = os.getpid()


class DiskLead:
    """The lease of the one that loads a key."""

    __slots__ = ("__weakref__", "holder", "renew_at", "since", "what")

    def __init__(self, what: bytes, holder: bytes) -> None:
        self.what = what
        self.holder = holder
        self.renew_at = 0.0
        self.since = -1
        """The round of the event loop in which it was taken."""


T = TypeVar("T", DiskWindow, DiskLead)


class Those(Generic[T]):
    """Some that are held. The writer thread walks them while callers, and the collector of garbage, add and take away:
    each step is one of the interpreter's own, so there is no lock that could be waited for."""

    def __init__(self) -> None:
        self._held: dict[int, ref[T]] = {}

    def add(self, one: T, forgotten: Callable[[], object] | None = None) -> None:
        """``forgotten``: what to do when its owner drops it; inside a collection of garbage, so no lock may be taken."""
        held, number = self._held, id(one)

        def gone(_: object) -> None:
            held.pop(number, None)
            if forgotten is not None:
                forgotten()

        held[number] = ref(one, gone)

    def discard(self, one: T) -> bool:
        """Whether it was held: true once only, whoever asks."""
        return self._held.pop(id(one), None) is not None

    def __contains__(self, one: T) -> bool:
        return id(one) in self._held

    def __iter__(self) -> Iterator[T]:
        there = [each() for each in list(self._held.values())]
        return iter([each for each in there if each is not None])


class Held:
    """All of them."""

    def __init__(self) -> None:
        self.windows: Those[DiskWindow] = Those()
        self.leads: Those[DiskLead] = Those()

    def next_due(self) -> float | None:
        """When the next renewal is due, by the backend's clock."""
        due = [window.renew_at for window in self.windows] + [lead.renew_at for lead in self.leads]
        return min(due, default=None)
