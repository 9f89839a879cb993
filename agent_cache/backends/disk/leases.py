"""What this process holds for a time: write windows and leads. Kept weakly: what its owner forgot is not renewed."""

from __future__ import annotations

import os
from weakref import WeakSet

__all__ = ["DiskLead", "DiskWindow", "Held"]


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

    __slots__ = ("__weakref__", "holder", "renew_at", "what")

    def __init__(self, what: bytes, holder: bytes) -> None:
        self.what = what
        self.holder = holder
        self.renew_at = 0.0


class Held:
    """All of them. Touched by the writer thread and by callers; a WeakSet is copied before it is walked."""

    def __init__(self) -> None:
        self.windows: WeakSet[DiskWindow] = WeakSet()
        self.leads: WeakSet[DiskLead] = WeakSet()

    def next_due(self) -> float | None:
        """When the next renewal is due, by the backend's clock."""
        due = [window.renew_at for window in self.windows.copy()] + [lead.renew_at for lead in self.leads.copy()]
        return min(due, default=None)
