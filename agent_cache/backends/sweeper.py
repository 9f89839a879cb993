"""The one thread of a process that reminds stores of what has expired. Started when there is something to wait for, gone
when there is not; it holds no store, and stops before a fork.

What a store drops, and how much of it at a time, is the store's business.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from agent_cache.clock import seconds
from agent_cache.errors import ConfigurationError

__all__ = ["SWEEPER", "Sweepable", "Sweeper", "checked_sweep"]

log = logging.getLogger("agent_cache")
_LONGEST = 60.0  # seconds after which it looks whether a store is still there
_PATIENCE = 1.0  # seconds that a fork waits for a step to end


def checked_sweep(value: float | None) -> float | None:
    """Seconds, or None for never.

    Raises:
        ConfigurationError: anything else.
    """
    every = seconds(value, "sweep")
    if every is not None and every == math.inf:
        raise ConfigurationError("sweep", value, "give a number of seconds, or None for never")
    return every


class Sweepable(Protocol):
    """A store: ``sweep_every`` seconds pass between two looks."""

    @property
    def sweep_every(self) -> float | None: ...

    def sweep_step(self) -> float | None:
        """A bounded piece of work; seconds until the next, None where there is nothing left to wait for."""


class Sweeper:
    """See the module. ``clock``: seconds, of waiting only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_anew()

    def _start_anew(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[weakref.ref[Sweepable], float] = {}
        self._thread: threading.Thread | None = None
        self._paused = False

    def watch(self, store: Sweepable) -> None:
        """Remind it from now on. Not to be called under a lock that the store's step takes."""
        if store.sweep_every is None:
            return
        with self._changed:
            self._due[weakref.ref(store)] = self._clock() + store.sweep_every
            self._go_on()

    def forget(self, store: Sweepable) -> None:
        """Remind it no more."""
        with self._changed:
            self._due.pop(weakref.ref(store), None)
            self._changed.notify()

    def _go_on(self) -> None:
        if self._thread is None and self._due and not self._paused:
            self._thread = threading.Thread(target=self._run, name="agent_cache sweeper", daemon=True)
            self._thread.start()
        else:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (wait := self._until_next()) is not None and wait > 0:
                    self._changed.wait(min(wait, _LONGEST))
                if wait is None:
                    self._thread = None
                    return
            self.step()

    def _until_next(self) -> float | None:
        """Seconds; None: nobody is left, or a fork is coming."""
        for held in [held for held in self._due if held() is None]:
            del self._due[held]
        return max(0.0, min(self._due.values()) - self._clock()) if self._due and not self._paused else None

    def step(self) -> int:
        """One step of every store that is due; how many there were."""
        now = self._clock()
        with self._changed:
            due = [held for held, at in self._due.items() if at <= now]
            for held in due:
                del self._due[held]
        for held in due:
            self._remind(held)
        return len(due)

    def _remind(self, held: weakref.ref[Sweepable]) -> None:
        store = held()
        if store is None:
            return
        try:
            again = store.sweep_step()
        except Exception:  # the thread lives for the other stores
            log.exception("sweeping %r failed; it is not swept until something is stored there", store)
            return
        if again is not None:
            with self._changed:
                self._due.setdefault(held, self._clock() + again)

    def before_fork(self) -> None:
        """Let no step be under way meanwhile."""
        with self._changed:
            self._paused = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def after_fork(self) -> None:
        """In the parent."""
        with self._changed:
            self._paused = False
            self._go_on()

    def after_fork_in_child(self) -> None:
        """Stores start empty there."""
        self._start_anew()


SWEEPER = Sweeper()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=SWEEPER.before_fork,
        after_in_parent=SWEEPER.after_fork,
        after_in_child=SWEEPER.after_fork_in_child,
    )
