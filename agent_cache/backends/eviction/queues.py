"""Two queues: one for entries that are new, one for those that proved useful. With a fixed split, and with one that adapts.

A new entry that is not visited on its way through the short first queue goes, so a scan costs
little; a visited one moves to the second, a CLOCK. Keys of evicted entries are remembered for
as many evictions as there are entries (:mod:`ghosts`).

Sources: J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023 (two queues and
ghosts); N. Megiddo and D. Modha, "ARC", FAST 2003 (ghosts of both sides say which was too short). What
counts as evidence here, and the tie broken in favour of residents, are our own.
"""

from __future__ import annotations

from collections import deque
from typing import Generic

from agent_cache.backends.eviction.ghosts import Ghosts
from agent_cache.backends.eviction.interface import PATIENCE, E

__all__ = ["Adaptive", "S3Fifo"]


class S3Fifo(Generic[E]):
    """A tenth for new entries. For what :class:`EvictionPolicy` says, see there.

    Its hits are flags, where the published one counts to three.
    """

    __slots__ = ("_kept", "_left_kept", "_left_new", "_new", "_share", "limit", "live")

    _FIRST_SHARE = 0.1

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._share = self._FIRST_SHARE
        self._start_empty()

    def _start_empty(self) -> None:
        self.live = 0
        self._new: deque[E] = deque()
        self._kept: deque[E] = deque()
        # Ghosts of either queue. None until something is evicted: a cache that never fills pays nothing.
        self._left_new: Ghosts | None = None
        self._left_kept: Ghosts | None = None

    def add(self, entry: E) -> E | None:
        """Take ``entry`` in; return the entry that has to go, already out of the queues, or None."""
        left_new, left_kept = self._left_new, self._left_kept
        useful = False
        if left_new is not None and left_kept is not None:
            useful = self._came_back(hash(entry.key), left_new, left_kept)
        victim = self.evict() if self.limit is not None and self.live >= self.limit else None
        (self._kept if useful else self._new).append(entry)
        self.live += 1
        if self._left_new is None and len(self._new) > self._room() + 1:
            # Filling up: what there is room for is kept, or a loop longer than the cache would find nothing.
            self._kept.append(self._new.popleft())
        return victim

    def evict(self) -> E | None:
        """The next victim, out of the queues: from the first while it is over its share, else from the second."""
        new, kept = self._new, self._kept
        room = self._room()  # never below one: the first queue is not taken from when it is empty
        spared = 0
        while new or kept:
            first = len(new) >= room or not kept
            entry = new.popleft() if first else kept.popleft()
            if entry.visited and not entry.dead and spared < PATIENCE:
                entry.visited = False
                kept.append(entry)
                spared += 1
                continue
            if entry.dead:
                continue
            self._remember(hash(entry.key), first)
            self.live -= 1
            return entry
        return None

    def forget(self) -> None:
        """An entry of these queues was marked dead by someone else."""
        self.live -= 1
        total = len(self._new) + len(self._kept)
        if not self.live:
            self._start_empty()
        elif total > 64 and self.live * 2 < total:
            self._new = deque([entry for entry in self._new if not entry.dead])
            self._kept = deque([entry for entry in self._kept if not entry.dead])

    def _room(self) -> float:
        """How long the first queue may be. The dead, not told apart by queue, are taken to be spread evenly."""
        room = self._share * (len(self._new) + len(self._kept))
        return max(1.0, room)

    def _remember(self, hashed: int, first: bool) -> None:
        table = self._left_new if first else self._left_kept
        if table is None or self.live > table.most:
            left_new = self._left_new = Ghosts(self.live)
            left_kept = self._left_kept = Ghosts((self.live + 1) // 2)
            left_new.most = left_kept.most = 2 * self.live
            table = left_new if first else left_kept
        table.add(hashed)

    def _came_back(self, hashed: int, left_new: Ghosts, left_kept: Ghosts) -> bool:
        """Whether it was evicted so lately that it is to be kept now."""
        return left_new.take(hashed) <= self.live


class Adaptive(S3Fifo[E]):
    """As :class:`S3Fifo`, with a split that follows the traffic, and a queue of useful ones that holds against a loop.

    A key that comes back soon after it left the first queue says that this was too short; one that
    comes back soon after it left the second, that *that* was. Agents that ask for the same few
    things again drive the first queue's share up, to that of a CLOCK; popularity drives it down.
    A key that comes back is kept only if the next in the second queue was not visited: else that
    one is as good and already here. Every other time it loses its flag, and has to prove itself again.
    """

    __slots__ = ("_takes_flag",)

    _LEAST, _MOST = 0.03, 0.8
    _SOON = 8  # within an eighth as many evictions as there are entries
    _UP = 3  # a key counts for longer only where the second queue had one to spare, which half of them do not see
    _FEW = 64  # a step is one entry, or one of so many: in a small cache chance would rule

    def __init__(self, limit: int | None) -> None:
        super().__init__(limit)
        self._takes_flag = False

    def _came_back(self, hashed: int, left_new: Ghosts, left_kept: Ghosts) -> bool:
        live = self.live
        soon = max(1, live // self._SOON)
        step = 1 / max(live, self._FEW)
        age = left_new.take(hashed)
        if age <= live:
            if len(self._new) > self._room() + 1:
                return True
            useful = self._has_one_to_spare()
            if useful and age <= soon:
                self._share = min(self._MOST, self._share + self._UP * step)
            return useful
        age = left_kept.take(hashed)
        if age > max(1, live // 2):
            return False
        if age <= soon:
            self._share = max(self._LEAST, self._share - step)
        return self._has_one_to_spare()

    def _has_one_to_spare(self) -> bool:
        """Whether the next of the second queue was not visited."""
        kept = self._kept
        while kept and kept[0].dead:
            kept.popleft()
        if not kept or not kept[0].visited:
            return True
        self._takes_flag = not self._takes_flag
        if self._takes_flag:
            kept[0].visited = False
            kept.rotate(-1)
        return False
