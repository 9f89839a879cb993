"""Single-flight: one load per key, shared by those who may share it.

A flight is one run of a tool on a miss. Callers *ride* it. Any caller may be
cancelled without disturbing the others; when the last one leaves, the load is
cancelled. Who may ride is decided by :meth:`FlightTable.board`, in one place:

* a load under token t may be shared by everyone who was handed the same token t;
* while a write window is open there is no token: a load may be shared only by those who
  came before it began (others wait until it has ended and ask again, so at most one load
  runs and one is queued per key);
* nobody waits where waiting could not end: inside the load of the same key, in a circle
  of loads that wait for each other, inside a write tool, or on the thread of a running
  event loop for a load that runs elsewhere.

What a load does, and what its result means, is the engine's business.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from agent_cache.codecs import Stored
from agent_cache.eager import started
from agent_cache.tags import Tag

__all__ = ["Flight", "FlightTable", "Landed", "TaskFlight", "ThreadFlight", "leave_alone"]

_FOREIGN_CHECK = 0.5  # seconds between looks at another loop's liveness, for riders across loops


@dataclass(slots=True)
class Landed:
    """How a load ended: a value (``stored`` unless it cannot be copied) or an error."""

    value: Any = None
    stored: Stored | None = None
    error: BaseException | None = None
    trace: TracebackType | None = None
    seconds: float = 0.0
    kept: bool = False
    elsewhere: bool = False
    """Another process loaded it."""
    age: float = 0.0
    """Seconds since it was loaded, where that was elsewhere."""
    revalidated: bool = False
    """Nothing was loaded: a validator said that what had expired still holds."""
    refused: str | None = None
    only_for: object | None = None
    """The lineage of the only session it is an answer for: something was written there while it was loaded."""
    only_in: tuple[object] | None = None
    """The only session it is an answer for: something that is not everybody's was read there while it was loaded."""
    depends: tuple[Tag, ...] = ()
    """The tags it came to depend on while it ran."""

    @property
    def is_abandoned(self) -> bool:
        """Ended by a cancellation or a shutdown that was not the joiners' doing."""
        return self.error is not None and not isinstance(self.error, Exception)


_inside: ContextVar[tuple[Flight, ...]] = ContextVar("agent_cache_inside", default=())


def flights_here() -> tuple[Flight, ...]:
    """The loads that the caller is inside of."""
    return _inside.get()


def inside(flights: Iterable[Flight]) -> None:
    """The running task works for all of these loads: whatever it waits for, they wait for."""
    _inside.set(tuple(flights))


class Flight:
    """One load, under way or landed."""

    # Of the class until they are set: most loads land with none of it.
    landed: Landed | None = None
    left_alone = False
    """Nobody is to join it any more."""
    goes_on = False
    """It is not cancelled when its last rider leaves."""
    successor: Flight | None = None
    """The load that one of those who only watched this one began next: it is for all of them."""

    def __init__(self, table: FlightTable, key: Hashable, token: Hashable | None) -> None:
        self.table = table
        self.key = key
        self.token = token
        self.order = next(table.orders)
        self.waits_for: dict[Flight, int] = {}

    @property
    def is_lost(self) -> bool:
        """It will never land."""
        return False

    def _would_wait_in_circle(self) -> bool:
        """Whether this load waits, over any number of others, for one that the caller is inside of."""
        mine = _inside.get()
        if not mine:
            return False
        todo: list[Flight] = [self]
        seen: set[Flight] = {self}
        while todo:
            flight = todo.pop()
            if flight in mine:
                return True
            for other in list(flight.waits_for):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return False

    def wait_begins(self) -> None:
        """The caller will :meth:`ride`. Call under the lock under which :func:`may_wait_for` was asked."""
        for flight in _inside.get():
            flight.waits_for[self] = flight.waits_for.get(self, 0) + 1

    def _wait_ends(self) -> None:
        if not _inside.get():
            return
        with self.table.lock:
            for flight in _inside.get():
                left = flight.waits_for.pop(self, 1) - 1
                if left:
                    flight.waits_for[self] = left


class TaskFlight(Flight):
    """The load of an ``async def`` tool, in a task of its own."""

    _task: asyncio.Task[None] | None = None
    _landing: Callable[[], object] | None = None

    def __init__(self, table: FlightTable, key: Hashable, token: Hashable | None) -> None:
        Flight.__init__(self, table, key, token)  # as super() would, at half the price
        self.loop = asyncio.get_running_loop()
        self._riders: dict[asyncio.Future[None], None] = {}  # in order of arrival: runs are reproducible
        self._watchers: dict[asyncio.Future[None], None] = {}

    @property
    def is_lost(self) -> bool:
        """Its loop is gone: it will never land."""
        return self.loop.is_closed()

    def start(self, load: Callable[[], Coroutine[Any, Any, Landed]]) -> None:
        """Begin the load, in a copy of the caller's context. A load that never waits has landed on return."""
        task = started(self._run(load), self.loop)
        if self.landed is None:
            self._task = task
        del self, task, load  # as in _run

    def start_behind(self, load: Callable[[], Coroutine[Any, Any, Landed]]) -> None:
        """Begin the load once the caller has been answered. Nobody needs to ride it."""
        self.goes_on = True
        self._task = self.loop.create_task(self._run(load))
        self._task.add_done_callback(self._never_began)

    def _never_began(self, _task: asyncio.Task[None]) -> None:
        """Cancelled before its first step it could not land by itself, and whoever came would wait for ever."""
        if self.landed is None:
            self._land(Landed(error=asyncio.CancelledError()))

    def on_landing(self, then: Callable[[], object]) -> None:
        """Call ``then`` once it has landed; now if it has."""
        with self.table.lock:
            if self.landed is None:
                self._landing = then
                return
        then()

    async def _run(self, load: Callable[[], Coroutine[Any, Any, Landed]]) -> None:
        _inside.set((*_inside.get(), self))
        landed: Landed | None = None
        try:
            landed = await load()
        finally:
            self._land(Landed(error=asyncio.CancelledError()) if landed is None else landed)
            # From Python 3.12 on the frames a load's error came through hold, by f_back, this one, and it must not hold
            # the error in turn, nor the flight, which does.
            del self, landed, load

    def _land(self, landed: Landed) -> None:
        with self.table.lock:
            self.landed = landed
            self.table.remove(self)
            # Task and context hold this flight, and so does who waits for the landing: let go, so that nothing of it is
            # left to the collector of cycles, whose pauses would be the longest a loop full of misses has.
            self._task = None
            then, self._landing = self._landing, None
            if then is not None:
                then()
            riders = self._riders | self._watchers if self._watchers else self._riders
            self._riders, self._watchers = {}, {}
        for rider in riders:
            loop = rider.get_loop()
            if loop is self.loop:
                if not rider.done() and not loop.is_closed():
                    rider.set_result(None)
            else:
                with suppress(RuntimeError):  # closed in this very moment: nobody is left to wake there
                    loop.call_soon_threadsafe(_wake, rider)

    async def ride_for(self, seconds: float, *, share: bool = True, lasting: bool = True) -> Landed | None:
        """:meth:`ride`, but no longer than so many seconds; None where it has not landed by then.

        ``lasting``: then the load goes on, whoever else may leave it.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self.ride(share=share, outlives=limit if lasting and share else None)
        except TimeoutError:
            if not limit.expired():
                raise
            return self.landed

    async def ride(self, *, share: bool = True, outlives: asyncio.Timeout | None = None) -> Landed:
        """Wait for the landing. Cancelling it leaves the flight, and ends the load if nobody is left.

        ``share=False`` only watches: the load does not go on for a watcher's sake. ``outlives``: when it is this that
        ends the wait, the load goes on.
        """
        loop = asyncio.get_running_loop()
        rider: asyncio.Future[None] = loop.create_future()
        with self.table.lock:
            if self.landed is not None:
                self._wait_ends()
                return self.landed
            (self._riders if share else self._watchers)[rider] = None
        try:
            if loop is self.loop:
                await rider
            else:
                await self._ride_from_afar(rider)
        finally:
            self._wait_ends()
            if outlives is not None and outlives.expired():
                self.goes_on = True
            if self.landed is None:
                self._leave(rider, share)
        return self.landed or Landed(error=asyncio.CancelledError("the event loop of this load was closed"))

    async def _ride_from_afar(self, rider: asyncio.Future[None]) -> None:
        """Wait on another loop; give up on one that is closed, or stands still at two looks."""
        still = 0
        while not rider.done() and not self.is_lost and still < 2:
            await asyncio.wait({rider}, timeout=_FOREIGN_CHECK)
            still = 0 if self.loop.is_running() else still + 1
        if not rider.done():
            self.table.remove(self)  # nobody else is to wait for it

    def _leave(self, rider: asyncio.Future[None], share: bool) -> None:
        with self.table.lock:
            self._riders.pop(rider, None)
            self._watchers.pop(rider, None)
            if not share or self._riders or self.landed is not None or self.goes_on:
                return
            self.table.remove(self)
        task = self._task
        if task is not None and not self.loop.is_closed():
            if rider.get_loop() is self.loop:
                task.cancel()
            else:
                with suppress(RuntimeError):  # closed in this very moment: its tasks are gone
                    self.loop.call_soon_threadsafe(task.cancel)


def _wake(rider: asyncio.Future[None]) -> None:
    if not rider.done():
        rider.set_result(None)


class ThreadFlight(Flight):
    """The load of a ``def`` tool, in the thread of its first caller."""

    def __init__(self, table: FlightTable, key: Hashable, token: Hashable | None) -> None:
        super().__init__(table, key, token)
        self.thread: int | None = threading.get_ident()
        self.is_queued = False
        """Nobody has begun it, and nobody knows when that will be: whoever needs it loads it himself."""
        self.is_called_off = False
        self._over = threading.Event()

    def run_elsewhere(
        self, load: Callable[[], Landed], submit: Callable[[Context, Callable[[], object]], bool]
    ) -> bool:
        """Have it loaded by another thread, in a copy of the caller's context; False where there is none to be had."""
        self.thread = None

        def run() -> None:
            if self._may_begin():
                self.thread = threading.get_ident()
                self.run(load)

        return submit(copy_context(), run)

    def run_behind(self, load: Callable[[], Landed], submit: Callable[[Context, Callable[[], object]], bool]) -> bool:
        """:meth:`run_elsewhere`, in a thread that may have much else to do before."""
        self.is_queued = True
        return self.run_elsewhere(load, submit)

    def _may_begin(self) -> bool:
        """Not if somebody could not wait for it to begin."""
        with self.table.lock:
            self.is_queued = False
            return not self.is_called_off

    def run(self, load: Callable[[], Landed]) -> Landed:
        """Load here and now."""
        reset = _inside.set((*_inside.get(), self))
        done: Landed | None = None
        try:
            done = load()
            return done
        finally:
            landed = Landed(error=KeyboardInterrupt()) if done is None else done
            _inside.reset(reset)
            with self.table.lock:
                self.landed = landed
                self.table.remove(self)
            self._over.set()
            del self, done, landed, load  # as in TaskFlight._run

    def ride_for(self, seconds: float) -> Landed | None:
        """Wait for the landing, no longer than so many seconds; None where it has not come by then."""
        try:
            self._over.wait(seconds)
        finally:
            self._wait_ends()
        return self.landed

    def ride(self, *, share: bool = True) -> Landed:
        """Wait for the landing."""
        try:
            self._over.wait()
        finally:
            self._wait_ends()
        landed = self.landed
        assert landed is not None  # noqa: S101 - set before the event
        return landed


def leave_alone() -> None:
    """From now on nobody joins the loads the caller is inside of: they came to depend on what their token does not cover."""
    for flight in _inside.get():
        flight.left_alone = True
        flight.table.remove(flight)


class FlightTable:
    """The loads under way, by key."""

    def __init__(self) -> None:
        self.orders = itertools.count(1)
        self._start_empty()
        _tables.add(self)

    def _start_empty(self) -> None:
        self.lock = threading.RLock()
        self._by_token: dict[Hashable, list[Flight]] = {}  # seldom more than one of a key
        self._latest: dict[Hashable, Flight] = {}

    def arrival(self) -> int:
        """A caller's place in the order of arrivals and load starts."""
        return next(self.orders)

    def joinable(self, flight: Flight, token: Hashable | None, arrived: int) -> bool:
        """Whether a caller with this token (None in a write window) and arrival may share this load."""
        if token is not None:
            return flight.token == token
        return flight.order > arrived

    def find(
        self, key: Hashable, token: Hashable | None, arrived: int, *, waits: bool = True
    ) -> tuple[Flight | None, bool]:
        """The flight to deal with and whether to ride it; ``(None, False)``: lead.

        ``(flight, False)``: wait until it is over, then ask again. ``waits=False``: the caller only wants it to be loaded,
        some time. Call with the lock held.
        """
        if token is not None and key not in self._by_token:
            return None, False
        for flight in self._candidates(key, token):
            if flight.is_lost:
                self.remove(flight)
            elif waits and isinstance(flight, ThreadFlight) and flight.is_queued:
                flight.is_called_off = True
                self.remove(flight)
            elif self.joinable(flight, token, arrived):
                return flight, True
            elif token is None:
                return flight, False
        return None, False

    def next_after(self, watched: Flight | None, arrived: int) -> Flight | None:
        """The load that was begun for those who waited until ``watched`` was over; it may have landed by now."""
        successor = watched.successor if watched is not None else None
        return successor if successor is not None and successor.order > arrived else None

    def _candidates(self, key: Hashable, token: Hashable | None) -> list[Flight]:
        if token is None:
            latest = self._latest.get(key)
            return [latest] if latest is not None else []
        same_key = self._by_token.get(key)
        return list(same_key) if same_key else []

    def add(self, flight: Flight) -> None:
        """Register a load about to start. Call with the lock held."""
        self._latest[flight.key] = flight
        if flight.token is not None:
            same_key = self._by_token.get(flight.key)
            if same_key is None:
                self._by_token[flight.key] = [flight]
            else:
                same_key.append(flight)

    def remove(self, flight: Flight) -> None:
        """Forget a flight: only this very one, never a newer one under the same key."""
        with self.lock:
            if self._latest.get(flight.key) is flight:
                del self._latest[flight.key]
            same_key = self._by_token.get(flight.key)
            if same_key is not None and flight in same_key:
                if len(same_key) > 1:
                    same_key.remove(flight)
                else:
                    del self._by_token[flight.key]

    def __len__(self) -> int:
        return len(self._latest)


def may_wait_for(flight: Flight) -> bool:
    """Whether waiting for this flight, here, is sure to end."""
    if flight._would_wait_in_circle():
        return False
    if isinstance(flight, ThreadFlight):
        return flight.thread != threading.get_ident() and asyncio._get_running_loop() is None
    return True


_tables: weakref.WeakSet[FlightTable] = weakref.WeakSet()


def _after_fork() -> None:
    for table in list(_tables):
        table._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__all__ += ["flights_here", "inside", "may_wait_for"]
