"""Tasks that take their first step at once: a coroutine that never has to wait costs no round of the event loop.

Python 3.12 and later have eager tasks. For 3.11 they are made here of the same parts: while the first step runs, the
task it would go on in is the current one, so what a tool keeps of it (a timeout, a task group) stays right. A task
nobody needed is used again for the next coroutine of the same round of the loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

__all__ = ["started"]


class _Carrier(Coroutine[Any, Any, None]):
    """What a task runs whose coroutine took its first step before it; nothing, if nothing had to wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_free = True
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._context: Context | None = None
        self._pending: Any = None
        self.task = loop.create_task(self)

    def carry(self, coroutine: Coroutine[Any, Any, None], context: Context, pending: Any) -> None:
        """Go on with this, which waits for ``pending``."""
        self.is_free = False
        self._coroutine, self._context, self._pending = coroutine, context, pending

    def send(self, value: Any) -> Any:
        self.is_free = False
        if self._coroutine is None or self._context is None:
            raise StopIteration
        pending, self._pending = self._pending, None
        return pending if pending is not None else self._context.run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        self.is_free = False
        if self._coroutine is None or self._context is None:
            raise StopIteration
        pending, self._pending = self._pending, None
        if pending is not None and pending.cancel():  # cancelled before the task ran: as if it had waited already
            return pending
        return self._context.run(self._coroutine.throw, *error)

    def close(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()

    def __await__(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # what debuggers ask a coroutine for


_enter: Callable[..., None] = asyncio.tasks._enter_task  # type: ignore[attr-defined,unused-ignore]
_leave: Callable[..., None] = asyncio.tasks._leave_task  # type: ignore[attr-defined,unused-ignore]


class _Spare(threading.local):
    """The carrier of this thread's loop that waits in vain for its round to end."""

    carrier: _Carrier | None = None


_spare = _Spare()


def _started(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    carrier, _spare.carrier = _spare.carrier, None
    if carrier is None or not carrier.is_free or carrier.loop is not loop or carrier.task.cancelling():
        carrier = _Carrier(loop)
    context, caller = copy_context(), asyncio.current_task(loop)
    if caller is not None:
        _leave(loop, caller)
    _enter(loop, carrier.task)
    try:
        pending = context.run(coroutine.send, None)
    except StopIteration:
        _spare.carrier = carrier
        return None
    finally:
        _leave(loop, carrier.task)
        if caller is not None:
            _enter(loop, caller)
    carrier.carry(coroutine, context, pending)
    return carrier.task


if sys.version_info >= (3, 12):

    def started(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
        """The task in which ``coroutine`` goes on after its first step, taken on return; it may have ended.

        To be called on the running ``loop``. The coroutine runs in a copy of the caller's context.
        """
        return asyncio.Task(coroutine, loop=loop, eager_start=True)

else:
    started = _started
