"""CLOCK: one queue with second chances. LRU's hit ratio, at a fraction of what LRU costs.

Source: F. J. Corbató, "A Paging Experiment with the Multics System", 1968.
"""

from __future__ import annotations

from collections import deque
from typing import Generic

from agent_cache.backends.eviction.interface import PATIENCE, E

__all__ = ["Clock"]


class Clock(Generic[E]):
    """CLOCK with the hand at the front of its queue. For what :class:`EvictionPolicy` says, see there."""

    __slots__ = ("_queue", "limit", "live")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.live = 0
        self._queue: deque[E] = deque()

    def add(self, entry: E) -> E | None:
        """Take ``entry`` in; return the entry that has to go, already out of the queue, or None."""
        victim = self.evict() if self.limit is not None and self.live >= self.limit else None
        self._queue.append(entry)
        self.live += 1
        return victim

    def evict(self) -> E | None:
        """The next victim, out of the queue: the oldest one not visited since it was last looked at."""
        queue = self._queue
        spared = 0
        while queue:
            entry = queue.popleft()
            if entry.dead:
                continue
            if entry.visited and spared < PATIENCE:
                entry.visited = False
                queue.append(entry)
                spared += 1
                continue
            self.live -= 1
            return entry
        return None

    def forget(self) -> None:
        """An entry of this queue was marked dead by someone else."""
        self.live -= 1
        if len(self._queue) > 64 and self.live * 2 < len(self._queue):
            self._queue = deque([entry for entry in self._queue if not entry.dead])
