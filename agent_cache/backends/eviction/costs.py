"""What is cheapest to have again goes first: GreedyDual-Size-Frequency, on flags instead of counted hits.

An entry's rank is what loading it costs, times how often it was found to be in use, over its bytes where bytes are short,
on top of the rank of the last one that went: so what was dear long ago does not stay for ever. The one with the lowest rank
goes, unless it was visited since it was ranked: then it is ranked anew, for one use more. O(log n) for each.

Sources: L. Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs
1998; P. Cao and S. Irani, "Cost-Aware WWW Proxy Caching Algorithms", USITS 1997. That a use is a flag which is found set, and
that a rank grows from the entry's own former one, are our own.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol

from agent_cache.backends.eviction.interface import PATIENCE, E

__all__ = ["CostAware", "Weighed", "by_bytes", "seconds_and_cost"]


class Weighed(Protocol):
    """What the ranks are made of: seconds of loading, the declared ``cost``, bytes."""

    load_seconds: float
    cost: float

    @property
    def size(self) -> int: ...


def seconds_and_cost(entry: Weighed) -> float:
    """A unit of ``cost`` counts as a second of loading."""
    return entry.load_seconds + entry.cost


def by_bytes(entry: Weighed) -> float:
    """The same for each byte it takes, for where bytes are what is short."""
    return (entry.load_seconds + entry.cost) / entry.size


class CostAware(Generic[E]):
    """For what :class:`EvictionPolicy` says, see there.

    Args:
        limit: entries at most; None = it evicts only when asked to.
        weigh: what it costs to be without an entry, from 0; by default :func:`seconds_and_cost`.
    """

    __slots__ = ("_floor", "_heap", "_number", "_weigh", "limit", "live")

    def __init__(self, limit: int | None, weigh: Callable[[Any], float] = seconds_and_cost) -> None:
        self.limit = limit
        self.live = 0
        self._weigh = weigh
        self._floor = 0.0
        self._number = 0  # of those with one rank, the one ranked first goes first
        self._heap: list[tuple[float, int, int, E]] = []

    def add(self, entry: E) -> E | None:
        """Take ``entry`` in; return the entry that has to go, already out of the heap, or None."""
        victim = self.evict() if self.limit is not None and self.live >= self.limit else None
        self._rank(entry, self._floor, 1)
        self.live += 1
        return victim

    def evict(self) -> E | None:
        """The next victim, out of the heap: the lowest rank, if it was not visited since it was ranked."""
        heap = self._heap
        spared = 0
        while heap:
            rank, _, uses, entry = heappop(heap)
            if entry.dead:
                continue
            if entry.visited and spared < PATIENCE:
                entry.visited = False
                self._rank(entry, rank, uses + 1)
                spared += 1
                continue
            self._floor = max(self._floor, rank)
            self.live -= 1
            return entry
        return None

    def forget(self) -> None:
        """An entry of this heap was marked dead by someone else."""
        self.live -= 1
        if len(self._heap) > 64 and self.live * 2 < len(self._heap):
            self._heap = [ranked for ranked in self._heap if not ranked[3].dead]
            heapify(self._heap)
        if not self.live:
            self._floor = 0.0

    def _rank(self, entry: E, above: float, uses: int) -> None:
        self._number += 1
        heappush(self._heap, (above + uses * self._weigh(entry), self._number, uses, entry))
