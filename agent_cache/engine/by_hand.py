"""What is done by hand: invalidate one call or all of them, store a value, look without loading, explain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent_cache.backends.base import Backend, Blocked, Found, Lookup, Missing, NewEntry
from agent_cache.codecs import Failure, Stored
from agent_cache.config import settings
from agent_cache.context import View, loading
from agent_cache.engine.answers import Answer
from agent_cache.engine.asking import ask
from agent_cache.engine.calls import Bypass, ReadCall, Shadowed, backends_for, cache_key, prepare_read
from agent_cache.engine.dependencies import noted
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Ask, Down, Fill, Flush, Move, Moved
from agent_cache.engine.outages import INVALIDATING, READING, STORING, backend_failed, backend_worked
from agent_cache.engine.outbox import OUTBOX
from agent_cache.engine.reads import _hit as hit
from agent_cache.engine.taped import taped_invalidation
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import UnstorableResultError
from agent_cache.model import Explanation, InvalidationEvent
from agent_cache.recorded import TALLY
from agent_cache.tags import LINEAGE, Chain, Tag, call_path, spell, write_tags

__all__ = [
    "entry_by_hand",
    "explain_line",
    "invalidate_all_line",
    "invalidate_line",
    "move_line",
    "peek_line",
    "put_line",
]


def invalidate_line(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Line[None]:
    """Drop one call, in every scope.

    Raises:
        UnkeyableArgumentError: such a call was never cached.
    """
    if view.tape is not None and taped_invalidation(tool, view, values):
        return
    yield from _drop(tool, view, write_tags([call_path(cache_key(tool, values))], _everyones(tool)))


def invalidate_all_line(tool: ReadTool, view: View) -> Line[None]:
    """Drop every call of this tool, in every scope."""
    if view.tape is not None and taped_invalidation(tool, view, None):
        return
    yield from _drop(tool, view, write_tags([(f"#{tool.group}",)], _everyones(tool)))


def _drop(tool: ReadTool, view: View, tags: tuple[Tag, ...]) -> Line[None]:
    """Invalidate on the tool's own backend, and before that where answers of others depend on its answers."""
    own, *others = backends_for(tool.policy.backend, tool.policy.resources, view.session)
    cancelled: BaseException | None = None
    for backend in others:
        moved: Moved = yield Move(backend, tags, f"{tool.name}.invalidate")
        if moved.down is not None:
            backend_failed(view, tool.resource, backend, moved.down.error, INVALIDATING)
            OUTBOX.owe(backend, tags, moved.down.noted)
        cancelled = cancelled or moved.cancelled
    yield from move_line(tool, view, own, tags)
    if cancelled is not None:
        raise cancelled


def _everyones(tool: ReadTool) -> Chain:
    """The chain that all answers of this tool hang on."""
    return LINEAGE if tool.policy.scope == "lineage" else ()


def move_line(tool: ReadTool, view: View, backend: Backend, tags: tuple[Tag, ...]) -> Line[bool]:
    """Invalidate, or owe it to the backend; whether it could take it now."""
    moved: Moved = yield Move(backend, tags, f"{tool.name}.invalidate")
    if moved.down is not None:
        backend_failed(view, tool.resource, backend, moved.down.error, INVALIDATING)
        OUTBOX.owe(backend, tags, moved.down.noted)
    else:
        backend_worked(backend, INVALIDATING)
    view.count(tool.resource, "invalidations")
    if TALLY.on:
        TALLY.add(tool.name, "invalidations")
    if settings.shadow is not None:
        paths = [path for kind, _, path in tags if kind == "all"]
        settings.shadow.wrote(f"{tool.name}.invalidate", {}, paths, settings.shadow.now())
    if settings.notices.observers:
        session_id = view.session.session_id if view.session is not None else None
        spelt = tuple(spell(tag) for tag in tags)
        settings.notices.emit(
            view, tool.resource, InvalidationEvent(tool.name, spelt, "global", session_id, resource=tool.resource)
        )
    if moved.cancelled is not None:
        raise moved.cancelled
    return moved.down is None


def put_line(tool: ReadTool, view: View, call: ReadCall, tags: tuple[Tag, ...], stored: Stored) -> Line[None]:
    """Store a value by hand. What was stored, and what was being loaded when this began, gives way to it.

    Best effort where the backend fails: then nothing is stored, and what was there is not served.
    """
    if not (yield from move_line(tool, view, call.backend, tags)):
        return
    found: Lookup | Down = yield Ask(call, tool.codec, token_only=True)
    down: object = found
    if isinstance(found, Missing):
        down = yield Fill(call.backend, found.token, entry_by_hand(tool, call, stored))
        if down is True:
            down = yield Flush(call.backend)
        if not isinstance(down, Down):
            backend_worked(call.backend, STORING)
    if isinstance(down, Down) and isinstance(down.error, UnstorableResultError):
        view.count(tool.resource, "unstorable", reason=down.error.reason)
        text = "%s: what was set is not stored (%s)"
        settings.notices.once((tool.identity, "by hand", down.error.reason), text, tool.name, down.error)
    elif isinstance(down, Down):
        backend_failed(view, tool.resource, call.backend, down.error, READING if down is found else STORING)


def entry_by_hand(tool: ReadTool, call: ReadCall, stored: Stored) -> NewEntry:
    """An entry that no load made."""
    group, maxsize, namespace = tool.group, tool.policy.maxsize, settings.namespace
    return NewEntry(
        call.key, stored, call.ttl, 0.0, group, maxsize, call.chain, namespace=namespace, digest=call.digest
    )


def peek_line(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Line[Answer | None]:
    """What is stored for a call, for this caller; None where nothing is. Runs nothing, shares no load."""
    if len(view.log) >= view.room:
        view.drain()
    hot = view.hot
    call = prepare_read(tool, view, values)
    outer = loading.get()
    if outer is not None:
        yield from noted(outer, call, tool)
    if isinstance(call, Bypass):
        view.count(tool.resource, "bypasses", reason=call.reason)
        return None
    found = yield from ask(tool, view, call, False)
    answer = hit(tool, view, values, call, found, None, hot) if isinstance(found, Found) else None
    if answer is None:
        view.count(tool.resource, "misses")
        if TALLY.on and isinstance(found, Missing):
            TALLY.missed(tool.name, found.why, found.dropped_by)
    return answer


def explain_line(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Line[Explanation]:
    """Why this call, made now and here, would be answered the way it would be. Runs no tool, counts nothing."""
    if view.tape is not None and view.tape.strict:
        return Explanation("bypass", f"replay: it is answered from {view.tape.path}")
    call = prepare_read(tool, view, values)
    if isinstance(call, Shadowed):
        instead = yield from _explained(tool, call.call)
        return replace(
            instead, status="bypass", reason=f"shadow mode: it runs; else {instead.status}: {instead.reason}"
        )
    if isinstance(call, Bypass):
        return Explanation("bypass", f"{call.reason}: {call.detail}" if call.detail else call.reason, call.key)
    return (yield from _explained(tool, call))


def _explained(tool: ReadTool, call: ReadCall) -> Line[Explanation]:
    tags = tuple(spell(tag) for tag in call.tags)
    found: Lookup | Down = yield Ask(call, tool.codec)
    shared = "" if call.mark is None else f"; {call.mark.shared_with}"
    if isinstance(found, Found):
        text = f"a current entry is stored{shared}"
        if isinstance(found.stored, Failure):
            text = "an error that is an answer (cache_errors) is stored; it would be raised" + shared
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
    if found.kept is not None and found.kept.ttl_left is not None:
        return _of_expired(tool, call, found.kept, -found.kept.ttl_left, tags)
    status = "miss" if found.why == "absent" else found.why
    return Explanation(status, reasons[found.why] + shared, call.cache_key, tags=tags, dropped_by=found.dropped_by)


def _of_expired(tool: ReadTool, call: ReadCall, kept: Found, over: float, tags: tuple[str, ...]) -> Explanation:
    """What would become of an entry that is kept beyond its ttl."""
    fresh, status = tool.policy.freshness, "expired"
    text = f"the stored entry is {over:.1f} s older than its ttl"
    if fresh is None:
        text += "; it would be loaded anew"
    elif over <= fresh.stale_while_revalidate:
        status = "stale_served"
        text += "; it would be served, and loaded anew in the background (stale_while_revalidate)"
    elif fresh.validator is not None and over <= fresh.validator.keep:
        text += "; its validator would be asked (revalidate)"
    elif over <= fresh.stale_if_error:
        text += "; it would be loaded anew, and served if that failed (stale_if_error)"
    return Explanation(status, text, call.cache_key, kept.age, kept.ttl_left, tags)
