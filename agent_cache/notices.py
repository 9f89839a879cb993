"""Telling people: warnings said once, and events to observers. Nothing here can fail a call."""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from collections.abc import Hashable
from typing import Any

from agent_cache.context import View
from agent_cache.locks import renewed_after_fork
from agent_cache.model import Event, Observer

__all__ = ["Notices", "shown"]

log = logging.getLogger("agent_cache")
_MAX_SAID = 10_000
_MOST_OUTAGES, _SPAN = 5, 60.0
"""What comes and goes is told of so many times in so many seconds."""


def shown(value: object, most: int = 200) -> str:
    """A user's value or error for people: its repr, shortened; what its own repr raises is nobody's business."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - somebody's __repr__; a call must not fail for want of a text
        text = f"<{type(value).__name__}: {type(error).__name__} in repr>"
    return text if len(text) <= most else text[: most - 1] + "…"


class Notices:
    """The observers of one configuration, and what has been warned about."""

    def __init__(self) -> None:
        self.observers: tuple[Observer, ...] = ()
        self.attentive = False
        """Whether anybody wants to know how a read went: an observer, or whoever verifies a sample of the hits."""
        self._said: set[Hashable] = set()
        self.outages: dict[Hashable, tuple[bool, object]] = {}
        """What is away now; with it whether that was told, and what sees to it that nothing is kept here of an object
        that is no more."""
        self._told: dict[Hashable, deque[float]] = {}
        self.clock = time.monotonic
        self._lock = renewed_after_fork(self, "_lock")

    def once(self, key: Hashable, text: str, *arguments: Any, level: int = logging.WARNING) -> None:
        """Log ``text`` unless ``key`` was said before."""
        with self._lock:
            if key in self._said or len(self._said) >= _MAX_SAID:
                return
            self._said.add(key)
        log.log(level, text, *arguments)

    def outage(self, what: Hashable, text: str, *arguments: Any, of: object = None) -> None:
        """Log the beginning of an outage, once until it is :meth:`over`. ``of``: whose it is; it ends with that object.

        Of one that comes and goes, beginning and end are logged five times a minute at most.
        """
        with self._lock:
            if what in self.outages or len(self.outages) >= _MAX_SAID:
                return
            times = self._times_told(what)
            tells = len(times) < _MOST_OUTAGES
            self.outages[what] = tells, self._until_gone(what, of)
            if tells:
                times.append(self.clock())
        if not tells:
            return
        if len(times) == _MOST_OUTAGES:
            text += " (this comes and goes: no more is said of it for a while)"
        log.warning(text, *arguments)

    def _times_told(self, what: Hashable) -> deque[float]:
        """When its beginnings were told lately; what was told of others long ago is forgotten here."""
        since = self.clock() - _SPAN
        for other, times in list(self._told.items()):
            while times and times[0] <= since:
                times.popleft()
            if not times:
                del self._told[other]
        return self._told.setdefault(what, deque())

    def _until_gone(self, what: Hashable, of: object) -> object:
        outages = self.outages
        try:  # called by the garbage collector, at any moment: without the lock
            return weakref.ref(of, lambda _: outages.pop(what, None))
        except TypeError:  # a class without weak references
            return None

    def over(self, what: Hashable, text: str, *arguments: Any) -> None:
        """Log its end, if it had been told of."""
        with self._lock:
            told, _ = self.outages.pop(what, (False, None))
        if told:
            log.info(text, *arguments)

    def forget(self) -> None:
        with self._lock:
            self._said.clear()
            self.outages.clear()
            self._told.clear()

    def emit(self, view: View, resource: str, event: Event) -> None:
        """Give the event to every observer. What one raises is counted, logged once, and goes no further."""
        for observer in self.observers:
            try:
                observer.on_event(event)
            except Exception as error:  # noqa: BLE001 - an observer must never fail a tool; it is counted and logged
                view.count(resource, "observer_errors", reason=type(error).__name__)
                self.once(("observer", type(observer)), "observer %r raised %r; going on without", observer, error)
