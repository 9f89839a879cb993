"""The question to a backend with which every read begins."""

from __future__ import annotations

from agent_cache.backends.base import Lookup
from agent_cache.context import View
from agent_cache.engine.answers import backend_answered, backend_failed
from agent_cache.engine.calls import ReadCall
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down, Move, Moved
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import BackendError

__all__ = ["ask", "ask_here", "heard"]


def ask_here(tool: ReadTool, call: ReadCall, token_only: bool) -> Lookup | Down:
    """What :class:`Ask` does, of a backend of this process: there is nothing to wait for."""
    try:
        return call.backend.sync.lookup(None if token_only else call.key, call.tags, tool.codec)
    except Exception as error:  # noqa: BLE001 - a failing cache never fails a tool; it is counted and reported
        return Down(error)


def heard(tool: ReadTool, view: View, call: ReadCall, found: Lookup | Down) -> None:
    """An outage has begun, or is over. To be told of every answer that was Down, and of all while there are outages."""
    if isinstance(found, Down):
        backend_failed(view, tool.resource, call.backend, found)
    else:
        backend_answered(call.backend)


def ask(tool: ReadTool, view: View, call: ReadCall, token_only: bool) -> Line[Lookup | Down]:
    """What the backend says; first it gets the invalidations it is owed, and until it has, it counts as down."""
    if OUTBOX and (owed := OUTBOX.owed_to(call.backend)):
        if OUTBOX.has_courier(call.backend):
            OUTBOX.send_courier(call.backend)
            view.count(tool.resource, "backend_errors", reason="undelivered")
            return Down(BackendError("an invalidation is still to be delivered"))
        moved: Moved = yield Move(call.backend, tuple(owed), "an earlier write")
        if moved.down is None:
            OUTBOX.delivered(call.backend, owed)
        if moved.cancelled is not None:
            raise moved.cancelled
        if moved.down is not None:
            backend_failed(view, tool.resource, call.backend, moved.down)
            return moved.down
    question = Ask(call, tool.codec, token_only)
    found: Lookup | Down = ask_here(tool, call, token_only) if call.backend.in_process else (yield question)
    heard(tool, view, call, found)
    return found
