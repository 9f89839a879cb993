"""How much of the file's work is done in one round of an event loop, so that what else is due comes in between.

A lookup takes some ten microseconds, a load that begins or has come back some hundred. A loop that did that for a
thousand callers in a row would be late by the sum for everything else. So a round has room for so much; who comes
after that waits for one of the next.

What belongs here: who may go on now. What for is not known.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from weakref import ref

__all__ = ["turn"]


class _Queue:
    """Those who wait on one event loop, in the order of their coming, each with its share of a round."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = ref(loop)  # weakly: this stays with the thread, the loop may go
        self.is_counting = False
        self.spent = 0.0
        self.waiting: deque[tuple[asyncio.Future[None], float]] = deque()

    def next_round(self) -> None:
        self.spent = 0.0
        while self.waiting and self.spent < 1.0:
            waiter, share = self.waiting.popleft()
            if not waiter.done():  # else it was cancelled
                waiter.set_result(None)
                self.spent += share
        loop = self.loop()
        if self.spent and loop is not None:
            loop.call_soon(self.next_round)
        else:
            self.is_counting = False


_here = threading.local()


def turn(share: float) -> asyncio.Future[None] | None:
    """What to wait for before going on; None where there is room left in this round of the running event loop.

    ``share``: how much of a round it takes, above 0; 1 for what is to be alone in one.
    """
    loop = asyncio.get_running_loop()
    queue: _Queue | None = getattr(_here, "queue", None)
    if queue is None or queue.loop() is not loop:
        queue = _here.queue = _Queue(loop)
    if not queue.is_counting:
        queue.is_counting = True
        queue.spent = share
        loop.call_soon(queue.next_round)
        return None
    if queue.spent < 1.0 and not queue.waiting:
        queue.spent += share
        return None
    waiter: asyncio.Future[None] = loop.create_future()
    queue.waiting.append((waiter, share))
    return waiter
