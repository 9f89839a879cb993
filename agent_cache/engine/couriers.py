"""Who delivers what backends are owed: a thread for each of them that is owed something, gone when nothing is.

A backend that hangs in a delivery holds up its own thread and nobody else's. At most :data:`MOST` threads: where more
backends are owed something, one that fails makes room for one that waits. What is owed, and how it is delivered, is the
outbox's business.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from agent_cache.backends.base import Backend
from agent_cache.locks import renewed_after_fork

__all__ = ["MOST", "Couriers"]

log = logging.getLogger("agent_cache")
MOST = 32
"""Threads of one process."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5  # seconds between deliveries that failed
_GOODBYE = 0.5  # seconds that the end of the process waits for deliveries under way


class _Courier:
    """One thread, where it goes now, and how it is told that the process ends."""

    __slots__ = ("backend", "stopped", "thread")

    def __init__(self, backend: Backend, run: Callable[[_Courier], None]) -> None:
        self.backend = backend
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=run, args=(self,), name="agent_cache-outbox", daemon=True)


class Couriers:
    """See the module. ``deliver(backend)`` says whether that went well; ``is_owed(backend)``: whether it is to be done."""

    def __init__(self, deliver: Callable[[Backend], bool], is_owed: Callable[[Backend], bool]) -> None:
        self._deliver = deliver
        self._is_owed = is_owed
        self._lock = renewed_after_fork(self, "_lock")
        self._at_work: dict[int, _Courier] = {}
        """By the backend they go to."""
        self._waiting: deque[Backend] = deque()
        """Backends for which there was no courier left."""
        self._will_stop = False
        self._over = False

    def __len__(self) -> int:
        return len(self._at_work)

    def send(self, backend: Backend) -> None:
        """See to it that somebody delivers to this backend. One of a process that was forked lives in the parent only."""
        with self._lock:
            known = self._at_work.get(id(backend))
            if self._over or (known is not None and known.thread.is_alive()):
                return
            self._forget_the_dead()
            if len(self._at_work) >= MOST:
                if backend not in self._waiting:
                    self._waiting.append(backend)
                return
            if not self._will_stop:
                self._will_stop = True
                atexit.register(self.stop)  # after the backends' own, which were imported before: it runs before them
            courier = self._at_work[id(backend)] = _Courier(backend, self._run)
            try:
                courier.thread.start()
            except RuntimeError as error:  # no more threads: whoever asks for the backend next comes here again
                del self._at_work[id(backend)]
                log.warning("what a backend is owed is delivered later: %s", error)

    def stop(self, patience: float = _GOODBYE) -> None:
        """The process ends: no more tries. Waits ``patience`` seconds at most for those under way."""
        with self._lock:
            self._over = True
            leaving = list(self._at_work.values())
        for courier in leaving:
            courier.stopped.set()
        until = time.monotonic() + patience
        for courier in leaving:
            courier.thread.join(max(0.0, until - time.monotonic()))

    def _forget_the_dead(self) -> None:
        for key, courier in list(self._at_work.items()):
            if not courier.thread.is_alive():
                del self._at_work[key]

    def _run(self, courier: _Courier) -> None:
        pause = FIRST_PAUSE
        while not courier.stopped.is_set():
            well = self._deliver(courier.backend)
            if not self._goes_on(courier, well):
                return
            pause = FIRST_PAUSE if well else min(pause * 2, LONGEST_PAUSE)
            if not well:
                courier.stopped.wait(pause)

    def _goes_on(self, courier: _Courier, well: bool) -> bool:
        """Where to next: the same backend while it is owed something and nobody waits; False: nowhere."""
        with self._lock:
            owed = self._is_owed(courier.backend)
            if owed and (well or not self._waiting):
                return True
            del self._at_work[id(courier.backend)]
            if owed:
                self._waiting.append(courier.backend)
            while self._waiting:
                backend = self._waiting.popleft()
                if self._is_owed(backend) and id(backend) not in self._at_work:
                    courier.backend = backend
                    self._at_work[id(backend)] = courier
                    return True
            return False
