"""Entries by the time at which they are over, in a store that wants to drop them without looking at all the others.

A list for each stretch of time, so that taking one in costs an append. What is over is told; dropping it is the store's.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

__all__ = ["Expiring"]


class _Entry(Protocol):
    dead: bool


E = TypeVar("E", bound=_Entry)


class Expiring(Generic[E]):
    """Called under the store's lock. ``grain``: seconds of one stretch; an entry is told that much too late at most."""

    __slots__ = ("_grain", "_held", "_into", "_order", "_stretches", "live")

    def __init__(self, grain: float) -> None:
        self._grain = grain
        self._stretches: dict[int, list[E]] = {}
        self._order: list[int] = []
        self._held = 0
        self._into: tuple[int, list[E]] | None = None  # where the last one went: most go where the one before them did
        self.live = 0

    def add(self, entry: E, ends: float) -> None:
        """Take in an entry that is over at ``ends``, which is finite."""
        stretch, into = math.floor(ends / self._grain), self._into
        if into is None or into[0] != stretch:
            into = self._into = stretch, self._of(stretch)
        into[1].append(entry)
        self._held += 1
        self.live += 1

    def _of(self, stretch: int) -> list[E]:
        entries = self._stretches.get(stretch)
        if entries is None:
            entries = self._stretches[stretch] = []
            heappush(self._order, stretch)
        return entries

    def forget(self) -> None:
        """One of them is dead now. They are let go once they outnumber the living."""
        self.live -= 1
        if self.live * 2 < self._held and self._held > 64:
            self._into = None
            kept = {at: [entry for entry in entries if not entry.dead] for at, entries in self._stretches.items()}
            self._stretches = {at: entries for at, entries in kept.items() if entries}
            self._order = sorted(self._stretches)
            self._held = sum(map(len, self._stretches.values()))

    def over(self, now: float, most: int) -> tuple[list[E], bool]:
        """Some of those that are over, out of the lists (kill them all), and whether there are more.

        ``most`` are looked at, the dead among them.
        """
        found: list[E] = []
        while self._is_over(now):
            if most <= 0:
                return found, True
            entries = self._stretches[self._order[0]]
            self._into = None
            some = entries[-most:]
            del entries[-most:]
            if not entries:
                del self._stretches[heappop(self._order)]
            most -= len(some)
            self._held -= len(some)
            found += [entry for entry in some if not entry.dead]
        return found, False

    def _is_over(self, now: float) -> bool:
        return bool(self._order) and (self._order[0] + 1) * self._grain <= now
