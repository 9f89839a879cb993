"""Time that is told, not waited for: a fake clock and an event loop that jumps from timer to timer.

What belongs here: how time passes in a test. What does not: what a test does with it (see the litmus).
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["FakeClock", "HangError", "VirtualTimeLoop", "run_virtual"]

P = ParamSpec("P")
T = TypeVar("T")

_SPIN_LIMIT = 1_000_000
"""Rounds of the loop without any time passing after which it counts as spinning."""


class HangError(AssertionError):
    """The program can never go on: nothing is ready and no timer is set, or it only goes round in circles."""


class FakeClock:
    """A monotonic clock in seconds that moves only by :meth:`advance`.

    With ``base`` it runs along with another clock (say, a loop's ``time``) and ``advance`` jumps ahead of it, as the
    clock of a process does that was frozen for a while.
    """

    __slots__ = ("_base", "_now")

    def __init__(self, start: float = 1_000.0, *, base: Callable[[], float] | None = None) -> None:
        self._now = float(start)
        self._base = base

    def __call__(self) -> float:
        return self._now if self._base is None else self._now + self._base()

    def advance(self, seconds: float) -> None:
        """Move the clock ahead. It never goes back."""
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}: a monotonic clock does not go back")
        self._now += seconds


class _JumpingSelector(selectors.BaseSelector):
    """A selector that does not sleep: it hands the time to be slept to its loop."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.loop: VirtualTimeLoop | None = None

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self.loop
        if loop is None:
            return self._real.select(timeout)
        ready = self._real.select(0) if loop._outside or len(self._real.get_map()) > 1 else []
        if not ready and timeout != 0:
            if loop._outside:
                return self._real.select(timeout=None)  # a thread is at work for this loop; it wakes the loop
            loop._jump(timeout)
        loop._next_round()
        return ready

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps: when nothing is ready its time jumps to the next timer.

    A real hang (nothing ready, no timer, no work in an executor) raises :class:`HangError` with the tasks that wait
    and where. With ``seed`` the callbacks that are ready in one round run in an order drawn from it, not first come
    first served: a schedule that asyncio does not promise, but that real networks and threads produce.
    """

    def __init__(self, *, seed: int | None = None, limit: float = 1_000_000.0) -> None:
        selector = _JumpingSelector()
        self._now = 0.0
        self._limit = limit
        self._outside = 0
        self._rounds_at_one_time = 0
        self._order = None if seed is None else random.Random(seed)
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self._now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _future: asyncio.Future[Any]) -> None:
        self._outside -= 1

    def _jump(self, timeout: float | None) -> None:
        if timeout is None:
            raise HangError(f"hang: nothing is ready and no timer is set\n{self._who_waits()}")
        self._now += timeout
        self._rounds_at_one_time = 0
        if self._now > self._limit:
            raise HangError(f"hang: still waiting after {self._limit:g} virtual seconds\n{self._who_waits()}")

    def _next_round(self) -> None:
        self._rounds_at_one_time += 1
        if self._rounds_at_one_time > _SPIN_LIMIT:
            raise HangError(f"hang: {_SPIN_LIMIT} rounds and no time has passed\n{self._who_waits()}")
        if self._order is not None:
            ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            if len(ready) > 1:
                handles = list(ready)
                self._order.shuffle(handles)
                ready.clear()
                ready.extend(handles)

    def _who_waits(self) -> str:
        lines = []
        for task in asyncio.all_tasks(self):
            frames = task.get_stack(limit=1)
            where = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "?"
            lines.append(f"  {task.get_name()} waits at {where}")
        return "\n".join(sorted(lines)[:20]) or "  no task is left"


def run_virtual(
    coro_fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, seed: int | None = None, limit: float = 1_000_000.0
) -> T:
    """Run ``coro_fn(*args)`` in a fresh :class:`VirtualTimeLoop` and return its result; a hang raises HangError."""
    loop = VirtualTimeLoop(seed=seed, limit=limit)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(coro_fn(*args))
    finally:
        try:
            _finish(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _finish(loop: VirtualTimeLoop) -> None:
    """Cancel what is left, without letting one that refuses to end hide the first error."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    try:
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
    except HangError:
        pass
