"""The read line and the write line: what happens to a call, in order, every decision and no wait.

Each line is a generator of effects (:mod:`.effects`). Read top down:

* ``read_line``: loop guard → key → lookup → single-flight → load → fill → count → a value of the caller's own.
* ``load_line``: run the tool → can it be stored? → store it, if its token still holds.
* ``write_line``: loop guard → open the window → run the tool → close the window → count.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_cache.backends.base import Backend, Blocked, Found, Lookup, Missing, NewEntry, Token, Window
from agent_cache.codecs import Stored
from agent_cache.config import settings
from agent_cache.context import View, Warm, keep_warm
from agent_cache.engine.calls import Bypass, ReadCall, WriteCall, backend_for, cache_key, prepare_read, prepare_write
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import FLIGHTS, Ask, Begin, Down, End, Fill, Flown, Fly, Load, Move, Ran, Run
from agent_cache.engine.guard import Watch, enter, key_of, overruled, react, served, settle
from agent_cache.engine.outbox import LocalWrites, Outbox
from agent_cache.engine.tools import ReadTool, WriteTool
from agent_cache.errors import (
    AgentLoopDetectedError,
    BackendError,
    NoEffect,
    UnkeyableArgumentError,
    UnstorableResultError,
)
from agent_cache.flight import Flight, Landed
from agent_cache.model import CallEvent, Explanation, InvalidationEvent, LoopEvent, Outcome
from agent_cache.tags import call_path, spell, write_tags

__all__ = ["Answer", "explain_line", "invalidate_all_line", "invalidate_line", "read_line", "write_line"]

_MAX_STORED = 64 * 1024 * 1024  # bytes; a larger result is returned and not stored
OUTBOX = Outbox()
WRITES = LocalWrites()
_LOADED: dict[str, Outcome] = {
    "absent": "miss",
    "stale": "stale",
    "expired": "expired",
    "blocked": "blocked",
    "down": "bypass",
}
_WRITES: Hashable = "writes"


@dataclass(slots=True, eq=False)
class Answer:
    """What the caller gets: a value of its own, or the error to raise."""

    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Report:
    """What is told about a read once it is over."""

    outcome: Outcome
    reason: str | None = None
    age: float | None = None
    landed: Landed | None = None


# -- read ---------------------------------------------------------------------------------------------------------------


def read_line(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Line[Answer]:
    """One read."""
    began = time.monotonic()
    if len(view.log) >= view.room:
        view.drain()
        view.make_room()
    hot = view.hot
    call = prepare_read(tool, view, values)
    watch = None
    if view.detector is not None:
        key = call.cache_key if isinstance(call, ReadCall) else call.key
        arguments = tool.shape.arguments(values)
        watch = enter(
            view, tool.name, key or key_of(tool.name, tool.identity, arguments), arguments, poll=tool.policy.poll
        )
    try:
        if watch is not None and watch.event is not None:
            stopped = yield from _looped(tool, view, watch, call)
            if stopped is not None:
                return stopped
        if isinstance(call, ReadCall):
            answer, report = yield from _cached(tool, view, values, call, watch, hot)
        else:
            answer, report = yield from _uncached(tool, view, values, call, watch)
        if settings.notices.observers:
            _tell(tool, view, call, report, time.monotonic() - began)
        return answer
    finally:
        if watch is not None:
            watch.leave()


def _looped(tool: ReadTool, view: View, watch: Watch, call: ReadCall | Bypass) -> Line[Answer | None]:
    """What looked like a loop: not if something it reads was written. Else what ``on_loop`` says."""
    event = watch.event
    assert event is not None  # noqa: S101 - asked only with one
    found: object = None
    if event.kind != "depth":
        stamp = watch.track.stamp
        if isinstance(call, ReadCall):
            found = yield Ask(call, tool.codec)
            written = isinstance(found, Blocked) or (isinstance(found, Missing) and found.token.stamp != stamp)
            if isinstance(found, Found):
                written = found.stamp != stamp or found.stored.fingerprint() != watch.track.outcome
        else:
            written = stamp != (_WRITES, watch.state.writes)
        if written:
            overruled(watch)
            event = watch.event
    if event is None:
        return None
    action = react(view, watch, event, tool.resource, is_read=True)
    if action == "run":
        return None
    if action == "short_circuit":
        last = _own(found.stored if isinstance(found, Found) else watch.state.results.get(watch.key))
        if last is not None:
            return last
    return Answer(error=AgentLoopDetectedError(event))


def _cached(
    tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall, watch: Watch | None, hot: dict[Any, Warm]
) -> Line[tuple[Answer, _Report]]:
    """Look up; on a miss share a load or run one. Asks again whenever what it waited for was not for it."""
    arrived = FLIGHTS.arrival()
    if call.dies_with_session and view.session is not None:
        view.session.used[id(call.backend)] = call.backend
    watched: Flight | None = None
    refresh = view.mode == "refresh"
    if refresh:  # a load that began before must not come after ours and undo it
        yield Move(call.backend, [("any", call.chain, call_path(call.cache_key))], f"{tool.name} in refresh()")
    while True:
        found = yield from _ask(tool, view, call, refresh)
        if isinstance(found, Found):
            answer = _hit(tool, view, values, call, found, watch, hot)
            if answer is not None:
                return answer, _Report("hit", age=found.age)
            bypass = Bypass("unreadable", "a stored value could not be read", call.cache_key, warn=False)
            return (yield from _uncached(tool, view, values, bypass, watch))
        token = found.token if isinstance(found, Missing) else None
        # without a backend loads are shared all the same, as long as this process writes nothing
        shared_under = WRITES.token() if isinstance(found, Down) else token

        def load(token: Token | None = token) -> Line[Landed]:
            return load_line(tool, view, values, call, token)

        if refresh:
            flown = Flown(None, alone=True)
        else:
            flown = yield Fly((id(call.backend), call.key), shared_under, arrived, load, watched)
        if flown.alone:
            flown = Flown((yield Load(load)), led=True)
        landed, watched = flown.landed, flown.watched
        if landed is None or (landed.is_abandoned and not flown.led):
            continue
        if flown.led:
            _count_load(tool, view, found, landed)
            if watch is not None:
                settle(watch, landed, token.stamp if token is not None else (_WRITES, watch.state.writes))
            why = None if not isinstance(found, Down) else "backend_error"
            return Answer(landed.value, landed.error), _Report(_LOADED[found.why], why, landed=landed)
        answer = _share(landed)
        if answer is None:  # cannot be copied: a stream, a connection; everyone needs an own one
            landed = yield Load(lambda: load_line(tool, view, values, call, None))
            _count_load(tool, view, found, landed)
            return Answer(landed.value, landed.error), _Report("miss", "unshareable", landed=landed)
        view.count(tool.resource, "coalesced")
        return answer, _Report("coalesced", landed=landed)


def _ask(tool: ReadTool, view: View, call: ReadCall, token_only: bool) -> Line[Lookup | Down]:
    """What the backend says; first it gets the invalidations it is owed, and until it has, it counts as down."""
    if OUTBOX and (owed := OUTBOX.owed_to(call.backend)):
        delivered = yield Move(call.backend, owed, "an earlier write")
        if isinstance(delivered, Down):
            _backend_failed(view, tool.resource, delivered)
            return delivered
        OUTBOX.delivered(call.backend, owed)
    found: Lookup | Down = yield Ask(call, tool.codec, token_only=token_only)
    if isinstance(found, Down):
        _backend_failed(view, tool.resource, found)
    return found


def _hit(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall,
    found: Found,
    watch: Watch | None,
    hot: dict[Any, Warm],
) -> Answer | None:
    """Serve a stored value, and let the view serve the next such call at once. None if it cannot be read."""
    near = found.near
    generation = near.home.generation if near is not None else None
    try:
        value = found.stored.fresh()
    except Exception as error:  # noqa: BLE001 - an unreadable entry is a miss, reported; never an error of the tool
        settings.notices.once(("unreadable", tool.identity), "%s: a stored value cannot be read: %r", tool.name, error)
        return None
    view.count(tool.resource, "hits")
    for metrics in view.metrics:
        metrics.saved(tool.resource, found.load_seconds, tool.policy.cost)
    if watch is not None:
        served(watch, found.stored, found.stamp)
    if (
        near is not None
        and view.mode == "normal"
        and not settings.notices.observers
        and (watch is None or watch.counted)
    ):
        key = tool.shape.hot_key(values)
        if key is not None and near.current() and _unchanged(tool, values, call, key):
            lane = watch.track.lane if watch is not None else None
            loop = lane.get_loop() if isinstance(lane, asyncio.Task) else None
            track = watch.track if watch is not None else None
            keep_warm(hot, key, Warm(near, generation, tool.resource, tool.policy.cost, track, lane, loop))
    return Answer(value)


def _unchanged(tool: ReadTool, values: tuple[Any, ...], call: ReadCall, key: tuple[Any, ...]) -> bool:
    """Whether mutable arguments are still those the call was keyed by: somebody may hold and change them."""
    if not any(type(part) is bytes for part in key):
        return True
    return _same_call(tool, values, call) and tool.shape.hot_key(values) == key


def _same_call(tool: ReadTool, values: tuple[Any, ...], call: ReadCall) -> bool:
    try:
        return cache_key(tool, values) == call.cache_key
    except UnkeyableArgumentError:
        return False


def _share(landed: Landed) -> Answer | None:
    """A joiner's own value, the load's error, or None where the value cannot be copied."""
    if landed.error is not None:
        return Answer(error=landed.error.with_traceback(landed.trace))
    return _own(landed.stored)


def _own(stored: Stored | None) -> Answer | None:
    """A copy for one caller; None where there is nothing to copy or it cannot be read."""
    if stored is None:
        return None
    try:
        return Answer(stored.fresh())
    except UnstorableResultError:
        return None


def _uncached(
    tool: ReadTool, view: View, values: tuple[Any, ...], why: Bypass, watch: Watch | None
) -> Line[tuple[Answer, _Report]]:
    """Run live, share nothing, keep nothing; count the reason, and say it once where it can be mended."""
    view.count(tool.resource, "bypasses", reason=why.reason)
    if why.warn:
        settings.notices.once(
            (tool.identity, why.reason), "%s runs uncached (%s): %s", tool.name, why.reason, why.detail
        )
    landed = yield Load(lambda: load_line(tool, view, values, None, None))
    if landed.error is not None:
        view.count(tool.resource, "load_failures")
    if watch is not None:
        settle(watch, landed, (_WRITES, watch.state.writes))
    return Answer(landed.value, landed.error), _Report("bypass", why.reason, landed=landed)


def load_line(
    tool: ReadTool, view: View, values: tuple[Any, ...], call: ReadCall | None, token: Token | None
) -> Line[Landed]:
    """Run the tool, see whether its result can be stored, and store it if the token still holds."""
    began = time.monotonic()
    ran: Ran = yield Run(tool, values)
    landed = Landed(ran.value, error=ran.error, seconds=time.monotonic() - began)
    if ran.error is not None:
        landed.trace = ran.error.__traceback__
    if ran.error is not None or (call is None and view.detector is None):
        return landed
    if call is not None and not tool.shape.has_only_atoms(values) and not _same_call(tool, values, call):
        landed.refused = "arguments_changed"  # while the tool ran: nobody knows what the answer is to
        view.count(tool.resource, "unstorable", reason="arguments_changed")
        return landed
    keep = call is not None and token is not None and _wanted(tool, view, ran.value, landed)
    try:
        landed.stored = tool.codec.freeze(ran.value, _MAX_STORED)
    except UnstorableResultError as error:
        landed.refused = error.reason
        if call is not None:
            view.count(tool.resource, "unstorable", reason=error.reason)
            text = "%s: its result is returned but not stored (%s)"
            settings.notices.once((tool.identity, error.reason), text, tool.name, error)
        return landed
    if not keep or call is None or token is None:
        return landed
    ttl = call.ttl
    if ttl is not None and tool.policy.jitter:
        ttl *= 1.0 - tool.policy.jitter * random.random()  # noqa: S311 - spreads expiry, guards nothing
    group, maxsize = tool.group, tool.policy.maxsize
    entry = NewEntry(call.key, landed.stored, ttl, landed.seconds, group, maxsize, call.chain)
    filled = yield Fill(call.backend, token, entry)
    if isinstance(filled, Down):
        _backend_failed(view, tool.resource, filled)
    elif filled:
        landed.kept = True
    else:
        landed.refused = "fenced_out"
        view.count(tool.resource, "fenced_out")
    return landed


def _wanted(tool: ReadTool, view: View, value: Any, landed: Landed) -> bool:
    """What ``cache_if`` says. If it raises: not kept."""
    cache_if: Callable[[Any], bool] | None = tool.policy.cache_if
    if cache_if is None:
        return True
    try:
        wanted = bool(cache_if(value))
    except Exception as error:  # noqa: BLE001 - the tool has its answer; a failing predicate only means "do not keep it"
        view.count(tool.resource, "unstorable", reason="cache_if_failed")
        text = "%s: cache_if raised %r; such results are not stored"
        settings.notices.once((tool.identity, "cache_if"), text, tool.name, error)
        landed.refused = "cache_if_failed"
        return False
    if not wanted:
        landed.refused = "cache_if"
    return wanted


def _count_load(tool: ReadTool, view: View, found: object, landed: Landed) -> None:
    blocked = isinstance(found, Blocked)
    if isinstance(found, Down):
        view.count(tool.resource, "bypasses", reason="backend_error")
    else:
        view.count(tool.resource, "misses", reason="write_in_progress" if blocked else None)
    if isinstance(found, Missing) and found.why in ("stale", "expired"):
        view.count(tool.resource, found.why)
    if landed.error is not None:
        view.count(tool.resource, "load_failures")


def _backend_failed(view: View, resource: str, down: Down) -> None:
    view.count(resource, "backend_errors", reason=type(down.error).__name__)
    settings.notices.once(("backend", type(down.error)), "the backend failed (%r); tools run uncached", down.error)


def _tell(tool: ReadTool, view: View, call: ReadCall | Bypass, report: _Report, waited: float) -> None:
    landed = report.landed
    event = CallEvent(
        tool=tool.name,
        resource=tool.resource,
        outcome=report.outcome,
        reason=report.reason,
        session_id=view.session.session_id if view.session is not None else None,
        age=report.age,
        seconds=waited,
        tags=tuple(spell(tag) for tag in call.tags) if isinstance(call, ReadCall) else (),
        stored=landed is not None and landed.kept,
        refused=landed.refused if landed is not None else None,
        failed=landed is not None and landed.error is not None,
    )
    settings.notices.emit(view, tool.resource, event)


# -- write --------------------------------------------------------------------------------------------------------------


def write_line(tool: WriteTool, view: View, values: tuple[Any, ...]) -> Line[Answer]:
    """One write. Whatever happens to the tool or its caller, the window is closed before this ends."""
    watch = None
    if view.detector is not None:
        arguments = tool.shape.arguments(values)
        watch = enter(view, tool.name, _write_key(tool, values, arguments), arguments, poll=False)
    try:
        if watch is not None and watch.event is not None:
            event: LoopEvent = watch.event
            if react(view, watch, event, tool.resource, is_read=False) == "raise":
                return Answer(error=AgentLoopDetectedError(event))
        call = prepare_write(tool, view, values)
        for note in call.notes:
            settings.notices.once((tool.identity, note[:80]), "%s: %s", tool.name, note)
        ran, no_effect = yield from _inside_windows(tool, view, values, call)
        value = ran.value
        if inspect.isawaitable(value):
            text = "%s returned an awaitable: it writes when that is awaited. Declare it with async def"
            settings.notices.once((tool.identity, "awaitable"), text, tool.name)
            value = _closing(value, call)
        if not no_effect:
            view.count(tool.resource, "invalidations")
        if view.session is not None:
            view.session.writes += 0 if no_effect else 1
        if watch is not None:
            settle(watch, Landed(ran.value, error=ran.error), ())
        if settings.notices.observers:
            session_id = view.session.session_id if view.session is not None else None
            tags = tuple(spell(tag) for tag in call.tags)
            reason = "; ".join(call.notes) or None
            failed = ran.error is not None
            told = InvalidationEvent(tool.name, tags, call.scope, session_id, reason, failed, no_effect)
            settings.notices.emit(view, tool.resource, told)
        return Answer(value, ran.error)
    finally:
        if watch is not None:
            watch.leave()


def _inside_windows(tool: WriteTool, view: View, values: tuple[Any, ...], call: WriteCall) -> Line[tuple[Ran, bool]]:
    """Open a window on every backend concerned, run the tool, close them, however this ends.

    What a backend cannot take goes to the outbox; or the tool is not run, if that is what was asked for.
    """
    windows: list[tuple[Backend, Window]] = []
    WRITES.began()
    try:
        opened: list[Window | Down] = yield Begin(call.backends, call.tags, tool.name)
        for backend, window in zip(call.backends, opened, strict=True):
            if isinstance(window, Down):
                _backend_failed(view, tool.resource, window)
            else:
                windows.append((backend, window))
        if len(windows) < len(opened) and settings.on_unavailable == "refuse_writes":
            yield End(windows, unknown=False, no_effect=True)
            text = f"{tool.name} was not run: its invalidation cannot be recorded on every backend"
            return Ran(error=BackendError(text)), True
        ran: Ran = yield Run(tool, values, tuple(window for _, window in windows))
        no_effect = _had_no_effect(tool, view, ran)
        unknown = (ran.error is not None and not no_effect) or inspect.isawaitable(ran.value)
        replies: list[Down | None] = yield End(windows, unknown, no_effect)
        ended = [backend for (backend, _), down in zip(windows, replies, strict=True) if down is None]
        for down in replies:
            if down is not None:
                _backend_failed(view, tool.resource, down)
        if not no_effect:
            for backend in call.backends:
                if backend not in ended:
                    OUTBOX.owe(backend, call.tags)
        return ran, no_effect
    finally:
        WRITES.ended()
        for backend, window in windows:
            if not window.closed and backend.in_process:
                backend.sync.end(window, unknown=True, no_effect=False)  # interrupted between two steps of ours


async def _closing(value: Awaitable[Any], call: WriteCall) -> Any:
    """Await what a ``def`` write returned, and invalidate once more when it has ended."""
    try:
        return await value
    finally:
        for backend in call.backends:
            if isinstance(await Move(backend, call.tags, call.tool.name).go(), Down):
                OUTBOX.owe(backend, call.tags)


def _write_key(tool: WriteTool, values: tuple[Any, ...], arguments: Mapping[str, Any]) -> Hashable:
    try:
        return tool.shape.digest(tool.identity, values)
    except UnkeyableArgumentError:
        return key_of(tool.name, tool.identity, arguments)


def _had_no_effect(tool: WriteTool, view: View, ran: Ran) -> bool:
    """Whether the tool declared that it changed nothing. A predicate that raises declares nothing."""
    if ran.error is not None:
        return isinstance(ran.error, NoEffect)
    predicate = tool.policy.no_effect
    if predicate is None:
        return False
    try:
        return bool(predicate(ran.value))
    except Exception as error:  # noqa: BLE001 - a write must not be lost to it: it counts as a write
        view.count(tool.resource, "bypasses", 0, reason="no_effect_failed")
        text = "%s: no_effect raised %r; such calls count as writes"
        settings.notices.once((tool.identity, "no_effect"), text, tool.name, error)
        return False


# -- by hand --------------------------------------------------------------------------------------------------------------


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
    moved = yield Move(backend, tags, f"{tool.name}.invalidate")
    if isinstance(moved, Down):
        _backend_failed(view, tool.resource, moved)
        OUTBOX.owe(backend, tuple(tags))
    view.count(tool.resource, "invalidations")
    if settings.notices.observers:
        session_id = view.session.session_id if view.session is not None else None
        spelt = tuple(spell(tag) for tag in tags)
        settings.notices.emit(view, tool.resource, InvalidationEvent(tool.name, spelt, "global", session_id))


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
