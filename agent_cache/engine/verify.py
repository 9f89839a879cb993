"""A sample of the hits is run again in the background and compared with what was served.

Nobody waits for it, it feeds no loop detector, fills nothing, and is told to no caller: it is counted. A run that overlaps a
write says nothing, whatever it brings: counting only those of them that agree would make the rate look better than it is.
Who is drawn is :mod:`agent_cache.sampling`'s business.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from agent_cache.backends.base import Found, Lookup, Missing
from agent_cache.config import settings
from agent_cache.context import View, loading, view_var
from agent_cache.engine.calls import ReadCall, same_call
from agent_cache.engine.comparing import differs
from agent_cache.engine.drivers import Line, drive, drive_blocking
from agent_cache.engine.effects import Ask, Down, Ran, Run
from agent_cache.engine.tools import ReadTool
from agent_cache.flight import Landed
from agent_cache.sampling import SampledTable, by_chance, was_drawn
from agent_cache.workers import Workers

__all__ = ["Behind", "is_drawn", "is_verifying", "verify_behind"]

_MOST = 16  # under way at once, on event loops; more are not begun
_THREADS = Workers("verify", 2, waiting=14)
_APART = View(None, "bypass")
"""Where a verification runs: reads inside it run live too, no session hears of them, and nothing is counted."""
_APART.metrics = ()


def is_verifying() -> bool:
    """Whether this code runs in a verification."""
    return view_var.get() is _APART


def is_drawn(tool: ReadTool, view: View, values: tuple[Any, ...]) -> bool:
    """Whether this call, if it turns out a hit, is to be verified. To be asked before anything is waited for."""
    rate = settings.verify if tool.policy.verify is None else tool.policy.verify
    if not rate or view.mode != "normal":
        return False
    draws = tool.policy.verify is not None or type(view.hot) is SampledTable  # not so inside of a load
    if draws and tool.shape.hot_key(values) is not None:  # it has had its chance where it was looked up
        return was_drawn(tool.shape.number)
    return by_chance(rate)


def verify_behind(tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, found: Found) -> Line[None]:
    """Begin to verify a hit that has just been answered, if there is room."""
    begun: bool = yield Behind(lambda: _verified(tool, view, values, call, found))
    if not begun:
        view.count(tool.resource, "unverified", reason="verify_no_room")


def _verified(tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, found: Found) -> Line[None]:
    before: Lookup | Down = yield Ask(call, tool.codec, token_only=True)
    if not isinstance(before, Missing) or before.token.stamp != found.stamp or not _is_that(tool, values, call):
        return _unverified(tool, view, "verify_too_late")
    ran: Ran = yield Run(tool, values)
    if ran.error is not None and not isinstance(ran.error, Exception):
        raise ran.error  # the loop ends, or the program
    after: Lookup | Down = yield Ask(call, tool.codec, token_only=True)
    if not isinstance(after, Missing) or after.token != before.token or not _is_that(tool, values, call):
        return _unverified(tool, view, "verify_overlapped")
    other = differs(tool, found.stored, Landed(ran.value, error=ran.error))
    if other is None:
        return _unverified(tool, view, "verify_failed")
    view.count(tool.resource, "verified")
    if other:
        view.count(tool.resource, "wrong")
        text = "%s: an answer served from the cache was verified, and the tool answers something else now"
        settings.notices.once((tool.identity, "wrong"), text, tool.name)
    return None


def _unverified(tool: ReadTool, view: View, reason: str) -> None:
    view.count(tool.resource, "unverified", reason=reason)


def _is_that(tool: ReadTool, values: tuple[Any, ...], call: ReadCall) -> bool:
    """Whether the arguments are still those of the call, and its session has written nothing that it reads."""
    if call.mark is not None and not call.mark.holds:
        return False
    return tool.shape.has_only_atoms(values) or same_call(tool, values, call)


# -- running it ----------------------------------------------------------------------------------------------------------


class _Held:
    """The tasks under way, held so that they live."""

    def __init__(self) -> None:
        self._start_empty()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, make: Callable[[], asyncio.Task[None]]) -> bool:
        with self._lock:
            if len(self._tasks) >= _MOST:  # those whose loop was closed never end
                self._tasks = {task for task in self._tasks if not task.get_loop().is_closed()}
            if len(self._tasks) >= _MOST:
                return False
            task = make()
            self._tasks.add(task)
        task.add_done_callback(self._drop)
        return True

    def _drop(self, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                settings.notices.once(("verify", type(error)), "a verification failed: %r", error)


_HELD = _Held()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD._start_empty)


@dataclass(slots=True, eq=False)
class Behind:
    """Carry a line out after the caller has been answered, apart from his session. Replies whether there was room."""

    line: Callable[[], Line[None]]

    async def go(self) -> bool:
        context = _apart()
        loop = asyncio.get_running_loop()
        return _HELD.begin(lambda: loop.create_task(_later(self.line), context=context))

    def go_blocking(self) -> bool:
        context = _apart()
        return _THREADS.submit(context, lambda: drive_blocking(self.line()))


def _apart() -> Context:
    """The caller's context, in no session and no load."""
    context = copy_context()
    context.run(view_var.set, _APART)
    context.run(loading.set, None)
    return context


async def _later(line: Callable[[], Line[None]]) -> None:
    await asyncio.sleep(0)  # where tasks are eager this would run before the caller is answered
    await drive(line())
