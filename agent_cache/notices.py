"""Telling people: warnings said once, and events to observers. Nothing here can fail a call."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Hashable
from typing import Any

from agent_cache.context import View
from agent_cache.locks import renewed_after_fork
from agent_cache.model import Event, Observer

__all__ = ["Notices", "shown"]

log = logging.getLogger("agent_cache")
_MAX_SAID = 10_000


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
        self.outages: dict[Hashable, object] = {}
        """What is away now; with it what sees to it that nothing is kept here of an object that is no more."""
        self._lock = renewed_after_fork(self, "_lock")

    def once(self, key: Hashable, text: str, *arguments: Any, level: int = logging.WARNING) -> None:
        """Log ``text`` unless ``key`` was said before."""
        with self._lock:
            if key in self._said or len(self._said) >= _MAX_SAID:
                return
            self._said.add(key)
        log.log(level, text, *arguments)

    def outage(self, what: Hashable, text: str, *arguments: Any, of: object = None) -> None:
        """Log the beginning of an outage, once until it is :meth:`over`. ``of``: whose it is; it ends with that object."""
        with self._lock:
            if what in self.outages or len(self.outages) >= _MAX_SAID:
                return
            self.outages[what] = self._until_gone(what, of)
        log.warning(text, *arguments)

    def _until_gone(self, what: Hashable, of: object) -> object:
        outages = self.outages
        try:  # called by the garbage collector, at any moment: without the lock
            return weakref.ref(of, lambda _: outages.pop(what, None))
        except TypeError:  # a class without weak references
            return None

    def over(self, what: Hashable, text: str, *arguments: Any) -> None:
        """Log its end, if it had been told of."""
        with self._lock:
            if what not in self.outages:
                return
            del self.outages[what]
        log.info(text, *arguments)

    def forget(self) -> None:
        with self._lock:
            self._said.clear()
            self.outages.clear()

    def emit(self, view: View, resource: str, event: Event) -> None:
        """Give the event to every observer. What one raises is counted, logged once, and goes no further."""
        for observer in self.observers:
            try:
                observer.on_event(event)
            except Exception as error:  # noqa: BLE001 - an observer must never fail a tool; it is counted and logged
                view.count(resource, "observer_errors", reason=type(error).__name__)
                self.once(("observer", type(observer)), "observer %r raised %r; going on without", observer, error)
