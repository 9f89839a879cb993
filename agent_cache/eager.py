"""Tasks that take their first step at once: a coroutine that never has to wait costs no round of the event loop.

Python 3.12 and later have eager tasks. For 3.11 they are made here of the same parts: while the first step runs, the
task it would go on in is the current one, so what a tool keeps of it (a timeout, a task group) stays right. A task
that nobody needed or touched is used again for the next coroutine of the same round of the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, cast

__all__ = ["started"]

_MAX_SPARE = 8
_enter: Callable[..., None] = asyncio.tasks._enter_task  # type: ignore[attr-defined,unused-ignore]
_leave: Callable[..., None] = asyncio.tasks._leave_task  # type: ignore[attr-defined,unused-ignore]


class _Carrier(Coroutine[Any, Any, None]):
    """What a task runs whose coroutine took its first step before it; nothing, if nothing had to wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_free = True
        """Its own first step has not come yet."""
        self.coroutine: Coroutine[Any, Any, None] | None = None
        self._context: Context | None = None
        self._pending: Any = None
        self._is_awaited = False
        self.task = cast(Any, loop.create_task(self, context=Context()))  # what it carries runs in a context of its own
        self.task._log_destroy_pending = False  # an idle one is no news
        self._references = sys.getrefcount(self.task)

    def is_as_new(self) -> bool:
        """Nobody kept its task, cancelled it or waits for it: the next coroutine may have it."""
        task = self.task
        untouched = not (task._must_cancel or task.cancelling() or task._callbacks)
        del task
        return (
            untouched
            and self.is_free
            and sys.getrefcount(self.task) == self._references
            and weakref.getweakrefcount(self.task) == 1  # asyncio.all_tasks()
        )

    def carry(self, coroutine: Coroutine[Any, Any, None], context: Context, pending: Any) -> None:
        """Go on with this, which waits for ``pending``."""
        self.coroutine, self._context, self._pending = coroutine, context, pending
        # What a task does with a future it is handed, done now: others may await the same one before our step comes.
        self._is_awaited = bool(getattr(pending, "_asyncio_future_blocking", False))
        if self._is_awaited:
            pending._asyncio_future_blocking = False
        self.task._log_destroy_pending = True

    def send(self, value: Any) -> Any:
        coroutine, context = self._now()
        pending, self._pending = self._pending, None
        if pending is not None:
            return self._handed_on(pending)
        try:
            return context.run(coroutine.send, value)
        except BaseException:
            self._end()
            raise

    def throw(self, error: Any, *more: Any) -> Any:
        coroutine, context = self._now()
        pending, self._pending = self._pending, None
        if pending is not None and self._is_awaited:  # cancelled before our step came: as if it had waited already
            said = getattr(error, "args", ())
            if pending.cancel(*said[:1]):
                return self._handed_on(pending)
        try:
            return context.run(coroutine.throw, error, *more)
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        """Let go of what holds this in turn, so that it is freed at once and not by the collector of cycles."""
        self.coroutine = self._context = None
        self.task = cast(Any, None)

    def _now(self) -> tuple[Coroutine[Any, Any, None], Context]:
        """What is carried; ends the task if that is nothing."""
        self.is_free = False
        if self.coroutine is None or self._context is None:
            if self in _spare.carriers:
                _spare.carriers.remove(self)
            raise StopIteration
        return self.coroutine, self._context

    def _handed_on(self, pending: Any) -> Any:
        if self._is_awaited:
            pending._asyncio_future_blocking = True
        return pending

    def close(self) -> None:
        if self._context is not None and self.coroutine is not None:
            self.coroutine.close()

    def __await__(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coroutine, name)  # what debuggers ask a coroutine for


class _Spare(threading.local):
    """The carriers of this thread's loop that wait in vain for its round to end."""

    def __init__(self) -> None:
        self.carriers: list[_Carrier] = []


_spare = _Spare()


def _carrier(loop: asyncio.AbstractEventLoop) -> _Carrier:
    while _spare.carriers:
        carrier = _spare.carriers.pop()
        if carrier.loop is loop and carrier.is_as_new():
            return carrier
    return _Carrier(loop)


def _started(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    carrier = _carrier(loop)
    carrier.coroutine = coroutine
    context, caller = copy_context(), asyncio.current_task(loop)
    if caller is not None:
        _leave(loop, caller)
    _enter(loop, carrier.task)
    try:
        pending = context.run(coroutine.send, None)
    except BaseException as end:
        carrier.coroutine = None
        if len(_spare.carriers) < _MAX_SPARE:
            _spare.carriers.append(carrier)
        if isinstance(end, StopIteration):
            return None
        raise
    finally:
        _leave(loop, carrier.task)
        if caller is not None:
            _enter(loop, caller)
    if not carrier.is_free:  # the loop was run inside the first step, and has used the carrier up
        carrier = _Carrier(loop)
    carrier.carry(coroutine, context, pending)
    task: asyncio.Task[None] = carrier.task
    return task


if sys.version_info >= (3, 12):

    def started(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
        """The task in which ``coroutine`` goes on after its first step, taken on return; None if it has ended.

        To be called on the running ``loop``. The coroutine runs in a copy of the caller's context.
        """
        return asyncio.Task(coroutine, loop=loop, eager_start=True)

else:
    started = _started
