"""Everything a line may ask for that takes time: each with an asynchronous and a blocking way.

An effect never raises but for the interruption of the caller itself (a cancellation while it waits):
what a tool or a backend raised comes back as data, so that a line decides what it means.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from agent_cache.backends.base import Backend, Lead, Leading, Lookup, NewEntry, Taken, Token, Window
from agent_cache.backends.debts import ledger_of
from agent_cache.codecs import ToolCodec
from agent_cache.context import current_view, loading, view_var
from agent_cache.engine.drivers import Line, drive, drive_blocking
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.tools import ReadTool, WriteTool
from agent_cache.errors import BackendError
from agent_cache.flight import Flight, FlightTable, Landed, TaskFlight, ThreadFlight, may_wait_for
from agent_cache.tags import Tag

__all__ = [
    "FLIGHTS",
    "Ask",
    "Begin",
    "Claim",
    "Down",
    "End",
    "Ended",
    "Fill",
    "Flown",
    "Flush",
    "Fly",
    "Load",
    "Move",
    "Moved",
    "Pause",
    "Ran",
    "Run",
    "Strike",
    "filled",
    "join",
    "looked_up",
]

T = TypeVar("T")

FLIGHTS = FlightTable()
"""The loads under way in this process."""
_writing: ContextVar[tuple[Window, ...]] = ContextVar("agent_cache_writing", default=())


@dataclass(slots=True, eq=False)
class Down:
    """The backend could not do it."""

    error: Exception
    why: str = "down"
    noted: int | None = None
    """Of a write: the number under which its ledger has it."""


@dataclass(slots=True, eq=False)
class Ran:
    """What a tool did."""

    value: Any = None
    error: BaseException | None = None


class _Call(Protocol):
    """As much of a call as the effects need."""

    @property
    def key(self) -> bytes: ...
    @property
    def tags(self) -> tuple[Tag, ...]: ...
    @property
    def backend(self) -> Backend: ...


@dataclass(slots=True, eq=False)
class Ask:
    """Look a call up. Replies with a Lookup or Down. ``token_only`` passes by what is stored."""

    call: _Call
    codec: ToolCodec
    token_only: bool = False

    async def go(self) -> Lookup | Down:
        try:
            key = None if self.token_only else self.call.key
            return await self.call.backend.lookup(key, self.call.tags, self.codec)
        except Exception as error:  # noqa: BLE001 - a failing cache never fails a tool; the line counts and reports it
            return Down(error)

    def go_blocking(self) -> Lookup | Down:
        return looked_up(self.call, self.codec, self.token_only)


def looked_up(call: _Call, codec: ToolCodec, token_only: bool = False) -> Lookup | Down:
    """What :class:`Ask` replies with, here and now: of a backend of this process there is nothing to wait for."""
    try:
        return call.backend.sync.lookup(None if token_only else call.key, call.tags, codec)
    except Exception as error:  # noqa: BLE001 - as above
        return Down(error)


@dataclass(slots=True, eq=False)
class Claim:
    """Become the one process that loads. Replies with the lead, Taken, or Down."""

    call: _Call
    backend: Leading
    token: Token

    async def go(self) -> Lead | Taken | Down:
        try:
            return await self.backend.lead(self.call.key, self.call.tags, self.token)
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error)

    def go_blocking(self) -> Lead | Taken | Down:
        try:
            taken: Lead | Taken = self.call.backend.sync.lead(self.call.key, self.call.tags, self.token)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            return taken
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error)


@dataclass(slots=True, eq=False)
class Pause:
    """Let others go on for some seconds."""

    seconds: float

    async def go(self) -> None:
        await asyncio.sleep(self.seconds)

    def go_blocking(self) -> None:
        threading.Event().wait(self.seconds)


@dataclass(slots=True, eq=False)
class Fill:
    """Store what was loaded. Replies whether it was accepted, or Down."""

    backend: Backend
    token: Token
    entry: NewEntry

    async def go(self) -> bool | Down:
        try:
            return await self.backend.fill(self.token, self.entry)
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error)

    def go_blocking(self) -> bool | Down:
        return filled(self.backend, self.token, self.entry)


def filled(backend: Backend, token: Token, entry: NewEntry) -> bool | Down:
    """What :class:`Fill` replies with, here and now, as :func:`looked_up` does."""
    try:
        return backend.sync.fill(token, entry)
    except Exception as error:  # noqa: BLE001 - as above
        return Down(error)


@dataclass(slots=True, eq=False)
class Flush:
    """Have what was stored written where others see it, in backends that do so later. Replies with Down or None."""

    backend: Backend

    async def go(self) -> Down | None:
        flush = self._flush(self.backend)
        try:
            if flush is not None:
                await flush()
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error)
        return None

    def go_blocking(self) -> Down | None:
        far = getattr(self.backend, "far", self.backend)
        flush = self._flush(far.sync)
        try:
            if flush is not None:
                flush()
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error)
        return None

    @staticmethod
    def _flush(of: object) -> Callable[[], Any] | None:
        return getattr(getattr(of, "far", of), "flush", None)


@dataclass(slots=True, eq=False)
class Run:
    """Run a tool, inside the given write windows if it is a write. Replies with what it returned or raised.

    ``notes``: of a load that is to be kept; what is called in it is noted there.
    """

    tool: ReadTool | WriteTool
    values: tuple[Any, ...]
    windows: tuple[Window, ...] = ()
    notes: Any = None

    async def go(self) -> Ran:
        if self.notes is not None:
            here = current_view()
            inside = here.inside
            load = loading.set(self.notes)
            view = view_var.set(here.within_load() if inside is None else inside)
            try:
                return Ran(await self.tool.call(self.values))
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - as below
                return Ran(error=error)
            finally:
                self.notes.over = True
                try:
                    loading.reset(load)
                    view_var.reset(view)
                except ValueError:  # torn away, this ends in another context
                    pass
                del load, view  # they hold the context, and a traceback this frame
        reset = _writing.set((*_writing.get(), *self.windows)) if self.windows else None
        try:
            return Ran(await self.tool.call(self.values))
        except GeneratorExit:
            raise  # the loop of this call is gone: nobody is left to hand anything to
        except BaseException as error:  # noqa: BLE001 - raised again by the caller, after the window is closed
            return Ran(error=error)
        finally:
            if reset is not None:
                with suppress(ValueError):  # torn away, this ends in another context
                    _writing.reset(reset)

    def go_blocking(self) -> Ran:
        if self.notes is not None:
            load, view = loading.set(self.notes), view_var.set(current_view().within_load())
            try:
                return Ran(self.tool.call(self.values))
            except BaseException as error:  # noqa: BLE001 - as below
                return Ran(error=error)
            finally:
                self.notes.over = True
                loading.reset(load)
                view_var.reset(view)
                del load, view  # as above
        reset = _writing.set((*_writing.get(), *self.windows)) if self.windows else None
        try:
            return Ran(self.tool.call(self.values))
        except BaseException as error:  # noqa: BLE001 - as above
            return Ran(error=error)
        finally:
            if reset is not None:
                _writing.reset(reset)


@dataclass(slots=True, eq=False)
class Load:
    """Load without sharing, in the caller's own task or thread."""

    line: Callable[[], Line[Landed]]

    async def go(self) -> Landed:
        return await drive(self.line())

    def go_blocking(self) -> Landed:
        return drive_blocking(self.line())


@dataclass(slots=True, eq=False)
class Flown:
    """How sharing a load went. ``landed`` is None where the caller only waited for ``watched`` to be over,
    or may not wait: then ``alone`` says to load without sharing."""

    landed: Landed | None
    led: bool = False
    alone: bool = False
    watched: Flight | None = None


@dataclass(slots=True, eq=False)
class Fly:
    """Share a load under way, wait for one, or begin one."""

    key: Hashable
    token: Hashable | None
    arrived: int
    line: Callable[[], Line[Landed]]
    watched: Flight | None = None
    announce: Callable[[TaskFlight], None] | None = None
    """Told of a load that was begun and takes time."""

    async def go(self) -> Flown:
        with FLIGHTS.lock:
            found, share = self._find()
            if found is not None:
                if inside_write() or not may_wait_for(found) or not isinstance(found, TaskFlight):
                    return Flown(None, alone=True)
                flight = found
                flight.wait_begins()
            else:
                flight, share = TaskFlight(FLIGHTS, self.key, self.token), True
                FLIGHTS.add(flight)
                if self.watched is not None:
                    self.watched.successor = flight
        if found is None:
            flight.start(lambda: drive(self.line()))
            if flight.landed is not None:  # it never had to wait
                try:
                    return Flown(flight.landed, True)
                finally:
                    del flight  # see TaskFlight._run
            if self.announce is not None:
                self.announce(flight)
            with FLIGHTS.lock:
                flight.wait_begins()
        landed = await flight.ride(share=share)
        return Flown(landed if share else None, found is None, False, None if share else flight)

    def _find(self) -> tuple[Flight | None, bool]:
        if self.token is None and (successor := FLIGHTS.next_after(self.watched, self.arrived)) is not None:
            return successor, True
        return FLIGHTS.find(self.key, self.token, self.arrived)

    def go_blocking(self) -> Flown:
        with FLIGHTS.lock:
            found, share = self._find()
            if found is not None:
                if inside_write() or not may_wait_for(found) or not isinstance(found, ThreadFlight):
                    return Flown(None, alone=True)
                flight = found
                flight.wait_begins()
            else:
                flight = ThreadFlight(FLIGHTS, self.key, self.token)
                FLIGHTS.add(flight)
                if self.watched is not None:
                    self.watched.successor = flight
        if found is None:
            try:
                return Flown(flight.run(lambda: drive_blocking(self.line())), True)
            finally:
                del flight  # as above
        landed = flight.ride(share=share)
        return Flown(landed if share else None, watched=None if share else flight)


async def join(flight: TaskFlight) -> Landed | None:
    """Share a load under way; None for one who may not wait for it."""
    with FLIGHTS.lock:
        if inside_write() or not may_wait_for(flight):
            return None
        flight.wait_begins()
    return await flight.ride()


def inside_write() -> bool:
    """Whether this is code of a write tool whose window is still open: it must not wait for anyone's load."""
    return any(not window.closed for window in _writing.get())


@dataclass(slots=True, eq=False)
class Begin:
    """Open a write window on each backend. Replies with a window or Down for each, in order.

    A cancellation does not interrupt it: it is raised once all is open, and closed again.
    """

    backends: Sequence[Backend]
    tags: tuple[Tag, ...]
    writer: str
    goes_on: bool = True
    """Whether the tool runs even if a backend cannot be told: then its ledger has it before, where there is one."""

    async def go(self) -> list[Window | Down]:
        windows: list[Window | Down] = []
        stop: asyncio.CancelledError | None = None
        for backend in self.backends:
            if backend.in_process:  # never waits, so nothing can come in between
                windows.append(self._begin_here(backend))
                continue
            window, cancelled = await _shielded(backend, partial(self._begin, backend))
            windows.append(window)
            stop = stop or cancelled
            if stop is not None:  # the tool will not run: nothing was written
                done = list(zip(self.backends, windows, strict=False))
                await End([(b, w) for b, w in done if not isinstance(w, Down)], unknown=False, no_effect=True).go()
                await Strike([(b, w.noted) for b, w in done if isinstance(w, Down) and w.noted is not None]).go()
                raise stop
        return windows

    async def _begin(self, backend: Backend) -> Window | Down:
        try:
            return await backend.begin(self.tags, self.writer)
        except Exception as error:  # noqa: BLE001 - as above
            return await _noted(backend, self.tags, error) if self.goes_on else Down(error)

    def go_blocking(self) -> list[Window | Down]:
        return [self._begin_here(backend) for backend in self.backends]

    def _begin_here(self, backend: Backend) -> Window | Down:
        try:
            return backend.sync.begin(self.tags, self.writer)
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error, noted=OUTBOX.begin(backend, self.tags) if self.goes_on else None)


@dataclass(slots=True, eq=False)
class Strike:
    """Take back what ledgers have of a write that changed nothing."""

    noted: Sequence[tuple[Backend, int]]

    async def go(self) -> None:
        if self.noted:
            with suppress(RuntimeError):  # no more threads, the loop ends: then it is delivered for nothing
                await _beside(self.go_blocking)

    def go_blocking(self) -> None:
        for backend, number in self.noted:
            OUTBOX.strike(backend, number)


@dataclass(slots=True, eq=False)
class Ended:
    """None or Down for each window, in order; and the cancellation that came meanwhile, for the line to raise."""

    replies: list[Down | None]
    cancelled: asyncio.CancelledError | None = None


@dataclass(slots=True, eq=False)
class End:
    """Close write windows, all of them. A cancellation does not interrupt it.

    The last opened is closed first: two backends may be one store, and a window restores what its own begin found.
    ``narrowed``: the tags that were written after all, where those are not the windows'.
    """

    windows: Sequence[tuple[Backend, Window]]
    unknown: bool
    no_effect: bool
    narrowed: Sequence[Tag] | None = None

    async def go(self) -> Ended:
        ended = Ended([])
        for backend, window in reversed(self.windows):
            if backend.in_process:
                ended.replies.append(self._end_here(backend, window))
                continue
            reply, cancelled = await _shielded(backend, partial(backend.end, window, **self._how()))
            ended.replies.append(reply if isinstance(reply, Down) else None)
            ended.cancelled = ended.cancelled or cancelled
        ended.replies.reverse()
        return ended

    def go_blocking(self) -> Ended:
        replies = [self._end_here(backend, window) for backend, window in reversed(self.windows)]
        replies.reverse()
        return Ended(replies)

    def _how(self) -> dict[str, Any]:
        how: dict[str, Any] = {"unknown": self.unknown, "no_effect": self.no_effect}
        if self.narrowed is not None:  # else a backend need not know of such a thing
            how["narrowed"] = self.narrowed
        return how

    def _end_here(self, backend: Backend, window: Window) -> Down | None:
        try:
            backend.sync.end(window, **self._how())
        except Exception as error:  # noqa: BLE001 - as above
            return Down(error)
        return None


@dataclass(slots=True, eq=False)
class Moved:
    """Whether the backend could do it; and the cancellation that came meanwhile, for the line to raise."""

    down: Down | None = None
    cancelled: asyncio.CancelledError | None = None


@dataclass(slots=True, eq=False)
class Move:
    """Invalidate without a window. A cancellation does not interrupt it."""

    backend: Backend
    tags: tuple[Tag, ...]
    writer: str
    is_owed: bool = True
    """Whether a backend that cannot be told will be owed it: then its ledger has it, where there is one."""

    async def go(self) -> Moved:
        return Moved(*await _shielded(self.backend, self._move))

    async def _move(self) -> Down | None:
        try:
            await self.backend.move(self.tags, self.writer)
        except Exception as error:  # noqa: BLE001 - as above
            return await _noted(self.backend, self.tags, error) if self.is_owed else Down(error)
        return None

    def go_blocking(self) -> Moved:
        try:
            self.backend.sync.move(self.tags, self.writer)
        except Exception as error:  # noqa: BLE001 - as above
            return Moved(Down(error, noted=OUTBOX.begin(self.backend, self.tags) if self.is_owed else None))
        return Moved()


_ledgers: ThreadPoolExecutor


def _new_threads() -> None:
    global _ledgers
    _ledgers = ThreadPoolExecutor(4, "agent_cache-ledger")


_new_threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_threads)


async def _beside(work: Callable[[], T]) -> T:
    """On a thread of ours: those of the event loop may all be waiting for this very write."""
    return await asyncio.get_running_loop().run_in_executor(_ledgers, work)


async def _noted(backend: Backend, tags: tuple[Tag, ...], error: Exception) -> Down:
    """It could not be told, and has it in its ledger, where there is one."""
    return Down(
        error, noted=None if ledger_of(backend) is None else await _beside(partial(OUTBOX.begin, backend, tags))
    )


async def _shielded(
    backend: Backend, work: Callable[[], Coroutine[Any, Any, T]]
) -> tuple[T | Down, asyncio.CancelledError | None]:
    """Finish ``work`` whatever happens to the caller; the cancellation that came meanwhile comes back beside it."""
    cancelled: asyncio.CancelledError | None = None
    try:
        if backend.in_process:
            return await work(), None  # never waits, so nothing can come in between
        task = asyncio.ensure_future(work())
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
        return task.result(), cancelled
    except asyncio.CancelledError as error:  # somebody cancelled the work itself, such as a loop that shuts down
        return Down(BackendError("interrupted")), cancelled or error
    except Exception as error:  # noqa: BLE001 - as above
        return Down(error), cancelled


Effect = Ask | Claim | Pause | Fill | Flush | Run | Load | Fly | Begin | Strike | End | Move
