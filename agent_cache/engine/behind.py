"""What is waited for only so long, or not at all: loads with a limit, loads in the background, a user's own check.

Effects like those of :mod:`.effects`. A coroutine's load is a task of its own, which goes on when its callers stop
waiting; a ``def`` tool's is given to a thread of ours, for nobody can stop waiting for his own. When to do which, and
what is answered meanwhile, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from agent_cache.engine.drivers import Line, drive, drive_blocking
from agent_cache.engine.effects import FLIGHTS, Ran, inside_write
from agent_cache.flight import Flight, Landed, TaskFlight, ThreadFlight, may_wait_for
from agent_cache.workers import Workers

__all__ = ["Board", "Boarded", "Consult", "Spawn", "WaitOn"]

log = logging.getLogger("agent_cache")
_MOST_BEHIND = 256  # loads in the background at once
_TIMED = Workers("load", 64)
_REFRESHING = Workers("refresh", 4, waiting=_MOST_BEHIND)
_Load = Callable[[], Line[Landed]]


@dataclass(slots=True, eq=False)
class Boarded:
    """The load to wait on; None where the caller may not wait: he loads alone. ``share``: its landing is for him."""

    flight: Flight | None
    led: bool = False
    share: bool = True


@dataclass(slots=True, eq=False)
class Board:
    """Find the load under way, or begin one, and do not wait. To be followed by :class:`WaitOn`."""

    key: Hashable
    token: Hashable | None
    arrived: int
    line: _Load
    watched: Flight | None = None

    async def go(self) -> Boarded:
        boarded = self._board(TaskFlight)
        flight = boarded.flight
        if boarded.led and isinstance(flight, TaskFlight):
            flight.start(lambda: drive(self.line()))
            with FLIGHTS.lock:
                flight.wait_begins()
        return boarded

    def go_blocking(self) -> Boarded:
        boarded = self._board(ThreadFlight)
        flight = boarded.flight
        if boarded.led and isinstance(flight, ThreadFlight):
            with FLIGHTS.lock:
                flight.wait_begins()
            if not flight.run_elsewhere(lambda: drive_blocking(self.line()), _TIMED.submit):
                log.warning("%d loads with a time limit run already; one more runs without a limit", 64)
                flight.thread = threading.get_ident()
                flight.run(lambda: drive_blocking(self.line()))
        return boarded

    def _board(self, kind: type[TaskFlight] | type[ThreadFlight]) -> Boarded:
        with FLIGHTS.lock:
            found, share = self._find()
            if found is not None:
                if inside_write() or not may_wait_for(found) or not isinstance(found, kind):
                    return Boarded(None)
                found.wait_begins()
                return Boarded(found, share=share)
            made = kind(FLIGHTS, self.key, self.token)
            FLIGHTS.add(made)
            if self.watched is not None:
                self.watched.successor = made
            return Boarded(made, led=True)

    def _find(self) -> tuple[Flight | None, bool]:
        if self.token is None and (successor := FLIGHTS.next_after(self.watched, self.arrived)) is not None:
            return successor, True
        return FLIGHTS.find(self.key, self.token, self.arrived)


@dataclass(slots=True, eq=False)
class WaitOn:
    """Wait for a landing, no longer than ``seconds`` (None: as long as it takes). Replies with the landing and how long
    it took, or with None and the same: then a ``lasting`` load goes on, whoever leaves it."""

    boarded: Boarded
    seconds: float | None
    lasting: bool = True
    again: bool = False
    """The caller has waited before."""

    async def go(self) -> tuple[Landed | None, float]:
        flight = self.boarded.flight
        assert isinstance(flight, TaskFlight)  # noqa: S101 - what Board gave on a loop
        self._begin_again(flight)
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self.seconds is None:
            landed: Landed | None = await flight.ride(share=self.boarded.share)
        else:
            landed = await flight.ride_for(self.seconds, share=self.boarded.share, lasting=self.lasting)
        return landed, loop.time() - began

    def go_blocking(self) -> tuple[Landed | None, float]:
        flight = self.boarded.flight
        assert isinstance(flight, ThreadFlight)  # noqa: S101 - what Board gave in a thread
        self._begin_again(flight)
        began = time.monotonic()
        landed = flight.ride() if self.seconds is None else flight.ride_for(self.seconds)
        return landed, time.monotonic() - began

    def _begin_again(self, flight: Flight) -> None:
        if self.again:
            with FLIGHTS.lock:
                flight.wait_begins()


class _Behind:
    """The loads in the background on event loops, held so that they live."""

    def __init__(self) -> None:
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._flights: set[TaskFlight] = set()

    def take(self, flight: TaskFlight) -> bool:
        """Hold it until it has landed; False where there is no room. Those whose loop was closed never will."""
        with self._lock:
            if len(self._flights) >= _MOST_BEHIND:
                self._flights = {each for each in self._flights if not each.is_lost and each.landed is None}
            if len(self._flights) >= _MOST_BEHIND:
                return False
            self._flights.add(flight)
            return True

    def drop(self, flight: TaskFlight) -> None:
        with self._lock:
            self._flights.discard(flight)


_BEHIND = _Behind()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_BEHIND._start_empty)


@dataclass(slots=True, eq=False)
class Spawn:
    """Load in the background, unless that is under way. Replies whether a load was begun; waits for nothing."""

    key: Hashable
    token: Hashable
    line: _Load

    async def go(self) -> bool:
        with FLIGHTS.lock:
            if FLIGHTS.find(self.key, self.token, 0, waits=False)[0] is not None:
                return False
            flight = TaskFlight(FLIGHTS, self.key, self.token)
            if not _BEHIND.take(flight):
                return False
            FLIGHTS.add(flight)
        flight.start_behind(lambda: drive(self.line()))
        flight.on_landing(lambda: _BEHIND.drop(flight))
        return True

    def go_blocking(self) -> bool:
        with FLIGHTS.lock:
            if FLIGHTS.find(self.key, self.token, 0, waits=False)[0] is not None:
                return False
            flight = ThreadFlight(FLIGHTS, self.key, self.token)
            if not flight.run_behind(lambda: drive_blocking(self.line()), _REFRESHING.submit):
                return False
            FLIGHTS.add(flight)
        return True


@dataclass(slots=True, eq=False)
class Consult:
    """Ask a function of the user's, a coroutine's too. Replies with what it returned or raised."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    async def go(self) -> Ran:
        try:
            said = self.function(*self.arguments)
            return Ran(await said if isawaitable(said) else said)
        except Exception as error:  # noqa: BLE001 - it is told and counted by whoever asked
            return Ran(error=error)

    def go_blocking(self) -> Ran:
        try:
            return Ran(self.function(*self.arguments))
        except Exception as error:  # noqa: BLE001 - as above
            return Ran(error=error)
