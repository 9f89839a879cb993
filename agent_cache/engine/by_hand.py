"""What a decorated read's own methods do: invalidate one call or all of them, explain one."""

from __future__ import annotations

from typing import Any

from agent_cache.backends.base import Blocked, Found
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.answers import backend_failed
from agent_cache.engine.calls import Bypass, ReadCall, backend_for, cache_key, prepare_read
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down, Move, Moved
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.tools import ReadTool
from agent_cache.model import Explanation, InvalidationEvent
from agent_cache.tags import call_path, spell, write_tags

__all__ = ["explain_line", "invalidate_all_line", "invalidate_line"]


def invalidate_line(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Line[None]:
    """Drop one call, in every scope.

    Raises:
        UnkeyableArgumentError: such a call was never cached.
    """
    call = prepare_read(tool, view, values)
    tags = write_tags([call_path(cache_key(tool, values))], ())
    yield from _move(tool, view, _backend_of(tool, view, call), tags)


def invalidate_all_line(tool: ReadTool, view: View) -> Line[None]:
    """Drop every call of this tool, in every scope."""
    yield from _move(tool, view, _backend_of(tool, view, None), write_tags([(f"#{tool.group}",)], ()))


def _move(tool: ReadTool, view: View, backend: Any, tags: Any) -> Line[None]:
    moved: Moved = yield Move(backend, tags, f"{tool.name}.invalidate")
    if moved.down is not None:
        backend_failed(view, tool.resource, backend, moved.down)
        OUTBOX.owe(backend, tuple(tags))
    view.count(tool.resource, "invalidations")
    if settings.notices.observers:
        session_id = view.session.session_id if view.session is not None else None
        spelt = tuple(spell(tag) for tag in tags)
        settings.notices.emit(view, tool.resource, InvalidationEvent(tool.name, spelt, "global", session_id))
    if moved.cancelled is not None:
        raise moved.cancelled


def _backend_of(tool: ReadTool, view: View, call: ReadCall | Bypass | None) -> Any:
    return call.backend if isinstance(call, ReadCall) else backend_for(tool.policy.backend, view.session)


def explain_line(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Line[Explanation]:
    """Why this call, made now and here, would be answered the way it would be. Runs no tool, counts nothing."""
    call = prepare_read(tool, view, values)
    if isinstance(call, Bypass):
        return Explanation("bypass", f"{call.reason}: {call.detail}" if call.detail else call.reason, call.key)
    tags = tuple(spell(tag) for tag in call.tags)
    found = yield Ask(call, tool.codec)
    if isinstance(found, Found):
        text = "a current entry is stored"
        return Explanation("hit", text, call.cache_key, found.age, found.ttl_left, tags)
    if isinstance(found, Blocked):
        return Explanation("blocked", "a write to what it reads is running or settling", call.cache_key, tags=tags)
    if isinstance(found, Down):
        return Explanation("bypass", f"backend_error: {found.error!r}", call.cache_key, tags=tags)
    reasons = {
        "absent": "nothing is stored: never asked, evicted, or the session that asked has ended",
        "stale": f"the stored entry was dropped by {found.dropped_by or 'a write'}",
        "expired": "the stored entry is older than its ttl",
    }
    status = "miss" if found.why == "absent" else found.why
    return Explanation(status, reasons[found.why], call.cache_key, tags=tags, dropped_by=found.dropped_by)
