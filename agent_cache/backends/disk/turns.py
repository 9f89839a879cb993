"""How much of the file's work is done in one round of an event loop, so that what else is due comes in between.

A lookup takes ten to ninety microseconds, a load that begins two hundred, one that has come back sixty. A loop that did
that for a thousand callers in a row would be late by the sum for everything else. So a round has room for so much; who
does not fit in waits for one of the next. Where others make the rounds long there is more room in each, up to eight times
as much: else whoever waits would wait for all of theirs.

What belongs here: who may go on now. What for is not known.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from weakref import ref

__all__ = ["rounds", "turn"]

_LONG, _MOST = 0.001, 8.0
"""Seconds that others take of a round for which there is room for one share in the next, which takes a quarter of that; and
how many at most."""


class _Queue:
    """Those who wait on one event loop, in the order of their coming, each with its share of a round."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = ref(loop)  # weakly: this stays with the thread, the loop may go
        self.is_counting = False
        self.rounds = 0
        self.spent = 0.0
        self.room = 1.0
        self.began = 0.0
        self.ours = 0.0
        """When those began whom this lets go on, after all others of the round; 0: nobody did."""
        self.is_mixed = False
        """Somebody went on at once: what that took cannot be told from what others did."""
        self.waiting: deque[tuple[asyncio.Future[None], float]] = deque()

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The first of many, it may be."""
        self.spent, self.room, self.began, self.ours = 0.0, 1.0, loop.time(), 0.0
        loop.call_soon(self.next_round, loop)
        self.is_counting = True  # last, as a signal's handler may raise anywhere

    def fits(self, share: float) -> bool:
        """Into what is left of this round; one of any size into an empty one."""
        return not self.spent or self.spent + share <= self.room

    def next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self.rounds += 1
            self.start(loop.time())
            if self.waiting:
                loop.call_soon(self.note_ours, loop)
                self.let_go()
        finally:
            if self.spent or self.waiting:
                loop.call_soon(self.next_round, loop)
            else:
                self.is_counting = False

    def start(self, now: float) -> None:
        # not ours: slow work would get more and more room
        others = 0.0 if self.is_mixed else (self.ours or now) - self.began
        self.spent, self.room = 0.0, min(_MOST, max(1.0, others / _LONG))
        self.began, self.ours, self.is_mixed = now, 0.0, False

    def note_ours(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ours = loop.time()

    def let_go(self) -> None:
        """As many as there is room for; whoever was cancelled takes none."""
        while self.waiting and (self.waiting[0][0].done() or self.fits(self.waiting[0][1])):
            waiter, share = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self.spent += share


_here = threading.local()


def _queue() -> _Queue:
    """Of the running event loop; it counts from now on, until there is nothing more to count."""
    loop = asyncio.get_running_loop()
    queue: _Queue | None = getattr(_here, "queue", None)
    if queue is None or queue.loop() is not loop:
        queue = _here.queue = _Queue(loop)
    if not queue.is_counting:
        queue.begin(loop)
    return queue


def rounds() -> int:
    """The number of this round of the running event loop: another one for whatever is scheduled after this is asked."""
    return _queue().rounds


def turn(share: float) -> asyncio.Future[None] | None:
    """What to wait for before going on; None where there is room left in this round of the running event loop.

    ``share``: how much of a round it takes, above 0; 1 for what is to be alone in one.
    """
    queue = _queue()
    if not queue.waiting and queue.fits(share):
        queue.spent += share
        queue.is_mixed = True
        return None
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    queue.waiting.append((waiter, share))
    return waiter
