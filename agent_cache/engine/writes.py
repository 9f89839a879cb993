"""The write line: loop guard → open the window → run the tool → close the window → count."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Hashable, Iterable, Mapping
from typing import Any

from agent_cache.backends.base import Backend, Window, is_leading
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.answers import Answer
from agent_cache.engine.calls import WriteCall, narrowed_by, prepare_write
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Begin, Down, End, Ended, Move, Ran, Run, Strike
from agent_cache.engine.guard import enter, key_of, react, settle
from agent_cache.engine.links import Link, link_of
from agent_cache.engine.outages import INVALIDATING, backend_failed, backend_worked
from agent_cache.engine.outbox import OUTBOX, WRITES
from agent_cache.engine.taped import taped_write
from agent_cache.engine.tools import WriteTool
from agent_cache.errors import AgentLoopDetectedError, BackendError, UnkeyableArgumentError
from agent_cache.flight import Landed
from agent_cache.model import InvalidationEvent, LoopEvent
from agent_cache.policy import decided
from agent_cache.recorded import TALLY
from agent_cache.refusals import says_no_effect
from agent_cache.tags import Path, Tag, spell

__all__ = ["write_line"]

_ENDED = frozenset({str, dict, list, tuple, int, float, bool, bytes, type(None)})
"""Types of values that cannot be awaited, themselves and not their subclasses."""


def write_line(tool: WriteTool, view: View, values: tuple[Any, ...]) -> Line[Answer]:
    """One write. Whatever happens to the tool or its caller, the window is closed before this ends."""
    if view.tape is not None:
        return (yield from taped_write(tool, view, values, write_line))
    watch = None
    if view.detector is not None:
        arguments = tool.shape.arguments(values)
        watch = enter(
            view,
            tool.name,
            _write_key(tool, values, arguments),
            arguments,
            rule=tool.policy.loop,
            write=True,
        )
    try:
        if watch is not None and watch.event is not None:
            event: LoopEvent = watch.event
            if react(view, watch, event, tool.resource, is_read=False) == "raise":
                return Answer(error=AgentLoopDetectedError(event))
        call = prepare_write(tool, view, values)
        shadow = settings.shadow
        began = shadow.now() if shadow is not None else 0.0
        for note in call.notes:
            _say(tool, note)
        ran, no_effect = yield from _inside_windows(tool, view, values, call)
        value = ran.value
        if _awaits(value):
            text = "%s returned an awaitable: it writes when that is awaited. Declare it with async def"
            settings.notices.once((tool.identity, "awaitable"), text, tool.name)
            value = _closing(value, call, view)
        if not no_effect:
            view.count(tool.resource, "invalidations")
            if TALLY.on:
                TALLY.add(tool.name, "invalidations")
        if view.session is not None:
            view.session.writes += 0 if no_effect else 1
        if watch is not None:
            settle(watch, Landed(ran.value, error=ran.error), (), no_effect=no_effect)
        if shadow is not None:
            given, paths = tool.shape.arguments(values), _paths_of(call)
            shadow.wrote(tool.name, given, paths, began, no_effect=no_effect)
        if settings.notices.observers:
            session_id = view.session.session_id if view.session is not None else None
            tags = tuple(spell(tag) for tag in call.tags)
            reason = "; ".join(call.notes) or None
            failed = ran.error is not None
            told = InvalidationEvent(tool.name, tags, call.scope, session_id, reason, failed, no_effect, tool.resource)
            settings.notices.emit(view, tool.resource, told)
        return Answer(value, ran.error, no_effect=no_effect)
    finally:
        if watch is not None:
            watch.leave()


def _inside_windows(tool: WriteTool, view: View, values: tuple[Any, ...], call: WriteCall) -> Line[tuple[Ran, bool]]:
    """Open a window on every backend concerned, run the tool, close them, however this ends.

    What a backend cannot take goes to the outbox; or the tool is not run, if that is what was asked for.
    """
    windows: list[tuple[Backend, Window]] = []
    link: Link | None = None
    missed: list[Backend] = []
    noted: dict[int, int | None] = {}
    WRITES.began()
    try:
        refuses = settings.on_unavailable == "refuse_writes"
        opened: list[Window | Down] = yield Begin(call.backends, call.tags, tool.name, not refuses)
        for backend, window in zip(call.backends, opened, strict=True):
            if isinstance(window, Down):
                backend_failed(view, tool.resource, backend, window.error, INVALIDATING, refused=refuses)
                noted[id(backend)] = window.noted
            else:
                windows.append((backend, window))
        if noted and refuses:
            ended: Ended = yield End(windows, unknown=False, no_effect=True)
            if ended.cancelled is not None:
                raise ended.cancelled
            text = f"{tool.name} was not run: its invalidation cannot be recorded on every backend"
            return Ran(error=BackendError(text)), True
        link = link_of(tool, view, values)
        missed = [backend for backend in call.backends if id(backend) in noted] if noted else []
        ran: Ran = yield Run(tool, values, tuple(window for _, window in windows))
        no_effect = _had_no_effect(tool, view, ran)
        awaits = _awaits(ran.value)
        unknown = (ran.error is not None and not no_effect) or awaits
        narrowed = None if unknown or no_effect or not call.open else _narrowed(tool, call, ran)
        if link is not None:
            link.ended(ran, _written(call, narrowed), no_effect=no_effect, awaits=awaits)
        ended = yield End(windows, unknown, no_effect, narrowed)
        told = [backend for (backend, _), down in zip(windows, ended.replies, strict=True) if down is None]
        for (backend, _), down in zip(windows, ended.replies, strict=True):
            if down is not None:
                backend_failed(view, tool.resource, backend, down.error, INVALIDATING)
            else:
                backend_worked(backend, INVALIDATING)
                if OUTBOX.debts:
                    OUTBOX.remind(backend)
        missed = []
        if not no_effect:
            for backend in call.backends:
                if backend not in told:
                    # widely: whether its window was closed is not known
                    OUTBOX.owe(backend, call.tags, noted.get(id(backend)))
        elif noted:
            yield Strike([(b, number) for b in call.backends if (number := noted.get(id(b))) is not None])
        call.tags = narrowed or call.tags
        if ended.cancelled is not None:
            raise ended.cancelled
        return ran, no_effect
    finally:
        WRITES.ended()
        if link is not None:
            link.lost()
        for backend in missed:  # interrupted while the tool ran
            OUTBOX.owe(backend, call.tags, noted.get(id(backend)))
        _close_what_is_open(windows)


def _awaits(value: object) -> bool:
    """Whether a tool returned something that has still to be awaited; at once for what nearly every tool returns."""
    return type(value) not in _ENDED and inspect.isawaitable(value)


def _narrowed(tool: WriteTool, call: WriteCall, ran: Ran) -> tuple[Tag, ...] | None:
    """What the result says was written; None if no less than was thought."""
    narrowed, note = narrowed_by(call, ran.value)
    if note:
        _say(tool, note)
        call.notes += (note,)
    return narrowed


def _say(tool: WriteTool, note: str) -> None:
    which = note[:13] if note.startswith("key_fn ") else note[:80]  # what a key_fn says differs from call to call
    settings.notices.once((tool.identity, which), "%s: %s", tool.name, note)


def _written(call: WriteCall, narrowed: tuple[Tag, ...] | None) -> Iterable[Path]:
    """The paths that were written, as far as is known at the end."""
    return call.paths if narrowed is None else [path for kind, _, path in narrowed if kind == "all"]


def _paths_of(call: WriteCall) -> Iterable[Path]:
    """The paths whose reads it has dropped, as its tags say in the end."""
    return [path for kind, _, path in call.tags if kind == "all"] or call.paths


def _close_what_is_open(windows: list[tuple[Backend, Window]]) -> None:
    """Interrupted between two steps of ours; otherwise nothing is open any more."""
    for backend, window in windows:
        if window.closed:
            continue
        if backend.in_process:
            backend.sync.end(window, unknown=True, no_effect=False)
        elif is_leading(backend):
            backend.abandon(window)


async def _closing(value: Awaitable[Any], call: WriteCall, view: View) -> Any:
    """Await what a ``def`` write returned, and invalidate once more when it has ended."""
    lineage = view.session.lineage if view.session is not None else None
    write = lineage.begins(call.tool.name) if lineage is not None else None
    try:
        return await value
    finally:
        if lineage is not None and write is not None:
            lineage.lost(write)
        cancelled: BaseException | None = None
        for backend in call.backends:  # every one of them, whatever comes in between
            moved = await Move(backend, call.tags, call.tool.name).go()
            if moved.down is not None:
                backend_failed(view, call.tool.resource, backend, moved.down.error, INVALIDATING)
                OUTBOX.owe(backend, call.tags, moved.down.noted)
            cancelled = cancelled or moved.cancelled
        if cancelled is not None:
            raise cancelled


def _write_key(tool: WriteTool, values: tuple[Any, ...], arguments: Mapping[str, Any]) -> Hashable:
    try:
        return tool.shape.digest(tool.identity, values)
    except UnkeyableArgumentError:
        return key_of(tool.name, tool.identity, arguments)


def _had_no_effect(tool: WriteTool, view: View, ran: Ran) -> bool:
    """Whether the tool declared that it changed nothing. A predicate that raises declares nothing."""
    if ran.error is not None:
        return says_no_effect(ran.error, tool.policy.no_effect, tool)
    predicate = tool.policy.no_effect_if
    if predicate is None:
        return False
    try:
        return decided(predicate(ran.value))
    except Exception as error:  # noqa: BLE001 - a write must not be lost to it: it counts as a write
        view.count(tool.resource, "bypasses", 0, reason="no_effect_if_failed")
        text = "%s: no_effect_if raised %r; such calls count as writes"
        settings.notices.once((tool.identity, "no_effect_if"), text, tool.name, error)
        return False
