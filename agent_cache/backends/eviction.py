"""Which entry makes room: the CLOCK policy, and nothing else.

CLOCK keeps LRU's hit ratio on agent sessions (both .789 against .654 to .754 of the
frequency-based ones on the recorded traces) while a hit is one store of one flag: no list to
reorder, no lock. A policy for shared caches that survives scans belongs beside it.

Source: F. J. Corbató, "A Paging Experiment with the Multics System", 1968.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

__all__ = ["Clock", "Evictable"]


class Evictable(Protocol):
    visited: bool
    dead: bool


E = TypeVar("E", bound=Evictable)


class Clock(Generic[E]):
    """A ring of entries and a hand. Dead entries leave it when the hand comes by, or when half of it is dead."""

    __slots__ = ("_hand", "_ring", "limit", "live")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.live = 0
        self._ring: list[E] = []
        self._hand = 0

    def add(self, entry: E) -> E | None:
        """Take ``entry`` in; return the entry that has to go, already out of the ring, or None.

        The caller kills the victim; :meth:`forget` must be called for entries that die otherwise.
        """
        ring, limit = self._ring, self.limit
        if limit is None or len(ring) < limit:
            ring.append(entry)
            self.live += 1
            self._compact()
            return None
        place = self._sweep()
        victim = ring[place]
        ring[place] = entry
        self._hand = (place + 1) % len(ring)
        if victim.dead:
            self.live += 1
            return None
        return victim

    def evict(self) -> E | None:
        """The next victim, out of the ring; None when it is empty."""
        while self._ring:
            place = self._sweep()
            victim = self._ring[place]
            last = self._ring.pop()
            if victim is not last:
                self._ring[place] = last
            if not victim.dead:
                self.live -= 1
                return victim
        return None

    def forget(self) -> None:
        """An entry of this ring was marked dead by someone else."""
        self.live -= 1
        self._compact()

    def clear(self) -> None:
        self._ring.clear()
        self.live = self._hand = 0

    def _sweep(self) -> int:
        """Where the hand stops: at the first dead or unvisited entry."""
        ring = self._ring
        hand = self._hand if self._hand < len(ring) else 0
        while True:
            entry = ring[hand]
            if entry.dead or not entry.visited:
                self._hand = hand
                return hand
            entry.visited = False
            hand = hand + 1 if hand + 1 < len(ring) else 0

    def _compact(self) -> None:
        if len(self._ring) > 64 and self.live * 2 < len(self._ring):
            self._ring = [entry for entry in self._ring if not entry.dead]
            self._hand = 0
