"""The question to a backend with which every read begins."""

from __future__ import annotations

from agent_cache.backends.base import Backend, Found, Lookup
from agent_cache.context import View
from agent_cache.engine.calls import ReadCall
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down, Move, Moved, looked_up
from agent_cache.engine.outages import INVALIDATING, READING, backend_failed, backend_worked
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import BackendError

__all__ = ["ask", "heard"]


def heard(tool: ReadTool, view: View, call: ReadCall, found: Lookup | Down) -> None:
    """An outage has begun, or is over. To be told of every answer that was Down, and of all while there are outages."""
    if isinstance(found, Down):
        backend_failed(view, tool.resource, call.backend, found.error, READING)
    elif not _is_near_copy(call.backend, found):
        backend_worked(call.backend, READING)


def _is_near_copy(backend: Backend, found: Lookup) -> bool:
    """Whether it may have been served without asking the store that others share: then it says nothing of that."""
    return isinstance(found, Found) and found.near is not None and getattr(backend, "coherence", None) == "lease"


def ask(tool: ReadTool, view: View, call: ReadCall, token_only: bool) -> Line[Lookup | Down]:
    """What the backend says; first it gets the invalidations it is owed, and until it has, it counts as down."""
    if OUTBOX and (owed := OUTBOX.owed_to(call.backend)):
        if OUTBOX.has_courier(call.backend):
            OUTBOX.send_courier(call.backend)
            view.count(tool.resource, "backend_errors", reason="undelivered")
            return Down(BackendError("an invalidation is still to be delivered"))
        moved: Moved = yield Move(call.backend, tuple(owed), "an earlier write", False)
        if moved.down is None:
            OUTBOX.delivered(call.backend, owed)
            backend_worked(call.backend, INVALIDATING)
        if moved.cancelled is not None:
            raise moved.cancelled
        if moved.down is not None:
            backend_failed(view, tool.resource, call.backend, moved.down.error, INVALIDATING)
            return moved.down
    at_once, codec = call.backend.in_process, tool.codec
    found: Lookup | Down = looked_up(call, codec, token_only) if at_once else (yield Ask(call, codec, token_only))
    heard(tool, view, call, found)
    return found
