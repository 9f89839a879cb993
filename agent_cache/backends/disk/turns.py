"""Loads that come back in one round of an event loop go on one at a time, each in a round of its own.

What is done for a load once its tool has answered costs some hundred microseconds. A loop that did it for twenty of them in
a row would be late by the sum for everything else; so all but the first wait, and what else is due comes in between.

What belongs here: who may go on now. What for is not known.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from weakref import ref

__all__ = ["turn"]


class _Queue:
    """Those who wait on one event loop, in the order of their coming."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = ref(loop)  # weakly: this stays with the thread, the loop may go
        self.is_taken = False
        self.waiting: deque[asyncio.Future[None]] = deque()

    def next_round(self) -> None:
        loop = self.loop()
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done() and loop is not None:  # else it was cancelled
                waiter.set_result(None)
                loop.call_soon(self.next_round)
                return
        self.is_taken = False


_here = threading.local()


def turn() -> asyncio.Future[None] | None:
    """What to wait for before going on; None for the first in this round of the running event loop."""
    loop = asyncio.get_running_loop()
    queue: _Queue | None = getattr(_here, "queue", None)
    if queue is None or queue.loop() is not loop:
        queue = _here.queue = _Queue(loop)
    if not queue.is_taken:
        queue.is_taken = True
        loop.call_soon(queue.next_round)
        return None
    waiter: asyncio.Future[None] = loop.create_future()
    queue.waiting.append(waiter)
    return waiter
