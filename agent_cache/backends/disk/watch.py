"""Tells whether anything was committed to the file, by anybody, for the price of reading 48 bytes.

SQLite keeps the state of its write-ahead log in the header of the ``-shm`` file: every commit changes it, and comparing
it is how SQLite itself knows that it has to look again. Here it is read through a mapping of our own, kept by
:mod:`.files`. Where that is not to be had, ``PRAGMA data_version`` says the same at the price of a statement.

What belongs here: has anything changed, and if so, any tag? What the tags are is :mod:`.tagrows`' business.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading

from agent_cache.backends.disk import files
from agent_cache.backends.disk.files import Handle, Replaced
from agent_cache.backends.disk.schema import FLOOR_SQL
from agent_cache.backends.disk.tagrows import Known
from agent_cache.clock import Clock

__all__ = ["State", "Watch"]

_HEADER = files.HEADER


class State:
    """The file between two commits: what was read while a look finds the same object was read from that."""

    __slots__ = ("header", "known")

    def __init__(self, header: bytes | int | None, known: Known) -> None:
        self.header = header
        self.known = known


class Watch:
    """Of one file, while it is open: it has a connection of its own, so that the log is never started anew unseen.

    It is the home of near entries: ``generation`` is a new object once any tag changed, and not for anything else.
    """

    def __init__(self, path: str, handle: Handle, clock: Clock) -> None:
        self.hot_clock: Clock = self._hot_clock
        self._path = path
        self._handle = handle
        self.clock = clock
        self._lock = threading.Lock()
        try:
            handle.db.execute(FLOOR_SQL).fetchall()  # opens the log
            self._head = files.shared_memory(path, handle)
        except BaseException:
            handle.close()
            raise
        self._over = False
        self.generation: object = object()
        self._state = State(None, Known.nothing())

    @property
    def handle(self) -> Handle:
        return self._handle

    def close(self) -> None:
        self.leave()
        with self._handle.lock:
            self._handle.close()

    def leave(self) -> None:
        """Nothing found before is current any more; the connection is somebody else's business."""
        self._over = True
        self._head = None
        self.generation = object()
        self._state = State(None, Known.nothing())

    def look(self) -> State:
        """The state the file is in, and it is still the one at the path.

        Raises:
            Replaced: it is not; or this watch is over.
            ValueError: it is over just now.
            sqlite3.Error: it cannot be read.
        """
        found = os.stat(self._path)  # noqa: PTH116 - on the way of every hit
        if (found.st_dev, found.st_ino) != self._handle.identity:
            raise Replaced
        return self.glance()

    def glance(self) -> State:
        """The state the file is in that is open. Raises as :meth:`look`."""
        state, head = self._state, self._head
        if (head[:_HEADER] if head is not None else self._version()) == state.header:
            return state
        return self._changed()

    def _version(self) -> int:
        handle = self._handle
        if self._over:  # in a forked child its locks may be taken for ever
            raise Replaced
        with handle.lock:
            if handle.pid != os.getpid():
                raise Replaced
            version: int = handle.db.execute("PRAGMA data_version").fetchone()[0]
            return version

    def _changed(self) -> State:
        handle = self._handle
        if handle.pid != os.getpid():
            raise Replaced
        with self._lock:
            head = self._head  # first: what is committed after this is seen the next time
            header = head[:_HEADER] if head is not None else self._version()
            if header == self._state.header:
                return self._state
            with handle.lock:
                if handle.pid != os.getpid():
                    raise Replaced
                floor = handle.db.execute(FLOOR_SQL).fetchone()
            known = self._state.known
            if floor is None or known.mark != (floor[0], floor[1]) or self.generation is not known:
                known = Known.of(floor)
                self.generation = known  # before the state: who finds the new state finds the new generation
            state = self._state = State(header, known)
            return state

    def cool(self) -> None:
        """Whatever was found to be current has to be looked at again."""
        with self._lock:
            self.generation = object()
            self._state = State(None, Known.nothing())

    def _hot_clock(self) -> float:
        """The time; ``generation``, read after this, is a new one if any tag was changed."""
        if self._over:
            return math.inf
        try:
            self.look()
        except (Replaced, ValueError, sqlite3.Error, OSError):
            self.cool()
            return math.inf
        return self.clock()
