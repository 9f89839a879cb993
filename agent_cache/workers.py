"""A few daemon threads for work that nobody waits for to the end: started when needed, gone when idle, never joined.

What the work is, and what its outcome means, is the engine's business.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from contextvars import Context

__all__ = ["Workers"]

log = logging.getLogger("agent_cache")
_IDLE = 5.0  # seconds after which a thread that has nothing to do ends


class Workers:
    """At most ``most`` threads, and ``waiting`` pieces of work beyond those that run.

    A thread that never comes back is one less; nobody waits for it, neither here nor at the end of the process.
    """

    def __init__(self, name: str, most: int, waiting: int = 0) -> None:
        self._name = name
        self._most = most
        self._waiting = waiting
        self._start_empty()
        _all.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Context, Callable[[], object]]] = queue.SimpleQueue()
        self._open = 0
        self._threads = 0

    def submit(self, context: Context, work: Callable[[], object]) -> bool:
        """Run ``work`` in ``context``; False where there is no room for it."""
        with self._lock:
            if self._open >= self._most + self._waiting:
                return False
            self._open += 1
            self._work.put((context, work))
            if self._threads < min(self._open, self._most):
                self._threads += 1
                threading.Thread(target=self._run, name=f"agent_cache-{self._name}", daemon=True).start()
        return True

    def _run(self) -> None:
        while True:
            try:
                context, work = self._work.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._threads -= 1
                        return
                continue
            try:
                context.run(work)
            except BaseException:  # the thread must live; what a tool raises is dealt with before it comes here
                log.exception("work in the background failed")
            finally:
                del context, work
                with self._lock:
                    self._open -= 1


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork() -> None:
    for workers in list(_all):
        workers._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
