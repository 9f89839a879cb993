"""The read line: what happens to a read, in order, every decision and no wait.

Loop guard → key → lookup → single-flight → load (:mod:`.loads`) → count → a value of the caller's own.
A line is a generator of effects (:mod:`.effects`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from agent_cache.backends.base import Blocked, Found, Missing, Token
from agent_cache.config import settings
from agent_cache.context import UnderWay, View, Warm, keep_warm, loading
from agent_cache.engine.answers import Answer, Report, own, shared
from agent_cache.engine.asking import ask, heard
from agent_cache.engine.behind import Board, WaitOn
from agent_cache.engine.calls import Bypass, ReadCall, Shadowed, prepare_read, same_call
from agent_cache.engine.dependencies import noted, noted_late
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import FLIGHTS, Ask, Down, Flown, Fly, Load, Move, Moved, looked_up
from agent_cache.engine.guard import Watch, enter, fingerprint, key_of, overruled, react, served, settle, writes_so_far
from agent_cache.engine.joins import announce
from agent_cache.engine.loads import load_line
from agent_cache.engine.outbox import OUTBOX, WRITES
from agent_cache.engine.provenance import Provenance, ToldWarm, resources_of
from agent_cache.engine.shadow import shadow_read
from agent_cache.engine.stale import Limits, after_load, before_load, early_by, flown_within, refresh_early, timed_out
from agent_cache.engine.taped import taped_read
from agent_cache.engine.tools import ReadTool
from agent_cache.engine.verify import is_drawn, verify_behind
from agent_cache.errors import AgentLoopDetectedError
from agent_cache.flight import Flight, Landed
from agent_cache.model import CallEvent, Outcome
from agent_cache.recorded import TALLY
from agent_cache.tags import call_path, spell

__all__ = ["read_line"]

_LOADED: dict[str, Outcome] = {
    "absent": "miss",
    "stale": "stale",
    "expired": "expired",
    "blocked": "blocked",
    "down": "bypass",
}


def read_line(tool: ReadTool, view: View, values: tuple[Any, ...], asked: Provenance | None = None) -> Line[Answer]:
    """One read. ``asked``: whoever wants to know where its answer came from."""
    began, drawn = 0.0, False
    if settings.notices.attentive:
        began, drawn = time.monotonic(), is_drawn(tool, view, values)
    if len(view.log) >= view.room:
        if view.tape is not None:  # never has room
            live = read_line if asked is None else partial(read_line, asked=asked)
            return (yield from taped_read(tool, view, values, live))
        view.drain()
        view.make_room()
    hot, loads = view.hot, view.loads
    call = prepare_read(tool, view, values)
    watch = None
    if view.detector is not None:
        key = call.digest if isinstance(call, ReadCall) else call.key and bytes.fromhex(call.key.digest)
        arguments = tool.shape.arguments(values)
        watch = enter(
            view,
            tool.name,
            key or key_of(tool.name, tool.identity, arguments),
            arguments,
            rule=tool.policy.loop,
        )
    try:
        outer = loading.get()
        if outer is not None:  # before anything is answered, an answer in place of a loop too
            yield from noted(outer, call, tool)
        if watch is not None and watch.event is not None:
            stopped = yield from _looped(tool, view, values, watch, call, asked)
            if stopped is not None:
                return stopped
        if isinstance(call, ReadCall):
            answer, report = yield from _cached(tool, view, values, call, watch, hot, loads, asked)
        else:
            answer, report = yield from _uncached(tool, view, values, call, watch)
        if outer is not None and report.landed is not None and report.landed.depends:
            noted_late(outer, report.landed.depends)
        if asked is not None and isinstance(call, ReadCall):
            asked.reported(tool, values, call, report)
        if settings.notices.attentive:
            if settings.notices.observers:
                _tell(tool, view, call, report, time.monotonic() - began)
            if drawn and report.found is not None and isinstance(call, ReadCall):
                yield from verify_behind(tool, view, values, call, report.found)
        return answer
    finally:
        if watch is not None:
            watch.leave()


def _looped(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    watch: Watch,
    call: ReadCall | Bypass,
    asked: Provenance | None,
) -> Line[Answer | None]:
    """What looked like a loop: not if something it reads was written. Else what ``on_loop`` says."""
    event = watch.event
    assert event is not None  # noqa: S101 - asked only with one
    found: object = None
    # The stamp of a call that was never made would look as if something had been written: "error" is about the tool, and
    # a repeat may be one of its kin.
    if event.kind not in ("depth", "error") and watch.track.last is not None:
        stamp = watch.track.stamp
        if isinstance(call, ReadCall):
            owed = OUTBOX.owes(call.backend)
            found = yield Ask(call, tool.codec)
            written = owed or isinstance(found, Blocked)
            if isinstance(found, Missing):
                written = call.depends_on(found.token.stamp) != stamp
            if isinstance(found, Found):
                written = call.depends_on(found.stamp) != stamp or fingerprint(found.stored) != watch.track.outcome
        else:
            written = stamp != writes_so_far(watch)
        if written:
            overruled(watch)
            event = watch.event
    if event is None:
        return None
    action = react(view, watch, event, tool.resource, is_read=True)
    if action == "run":
        return None
    if action == "short_circuit":
        last = own(found.stored if isinstance(found, Found) else watch.state.results.get(watch.key))
        if last is not None:
            if asked is not None and isinstance(call, ReadCall):
                asked.was(tool, values, call.extras, found.age if isinstance(found, Found) else None)
            return last
    return Answer(error=AgentLoopDetectedError(event))


def _cached(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall,
    watch: Watch | None,
    hot: dict[Any, Warm],
    loads: dict[Any, UnderWay],
    asked: Provenance | None,
) -> Line[tuple[Answer, Report]]:
    """Look up; on a miss share a load or run one. Asks again whenever what it waited for was not for it."""
    arrived = FLIGHTS.arrival()
    in_process = call.backend.in_process
    _make_known(tool, view, call)
    watched: Flight | None = None
    flown: Flown
    fresh = tool.policy.freshness
    limits = None if fresh is None or not fresh.is_timed else Limits(fresh.soft_timeout, fresh.hard_timeout)
    announcement = announce(tool, view, values, call.backend, loads) if fresh is None else None
    refresh = view.mode == "refresh"
    if refresh:
        yield from _supersede(tool, call)
    while True:
        if OUTBOX.debts:
            found = yield from ask(tool, view, call, refresh)
        else:  # the same, where nothing is owed to anybody
            found = looked_up(call, tool.codec, refresh) if in_process else (yield Ask(call, tool.codec, refresh))
            if settings.notices.outages or isinstance(found, Down):
                heard(tool, view, call, found)
        instead = None if fresh is None else (yield from before_load(tool, view, values, call, found, watch))
        if instead is not None:
            return instead
        if isinstance(found, Found):
            early = 0.0 if fresh is None else early_by(fresh, found)
            answer = _hit(tool, view, values, call, found, watch, hot, early, asked)
            if answer is not None:
                if early:
                    yield from refresh_early(tool, view, values, call, found, early)
                return answer, Report("hit", None, None, None, found, found.age, found.load_seconds)
            bypass = Bypass("unreadable", "a stored value could not be read", call.cache_key, warn=False)
            return (yield from _uncached(tool, view, values, bypass, watch))
        token = found.token if isinstance(found, Missing) else None
        # Without a backend of this process alone, loads are shared as long as this process writes nothing. Where others
        # may write unheard, a load is shared only by those who came before it began, as in a write window.
        local = isinstance(found, Down) and call.backend.in_process
        shared_under = WRITES.token() if local else token
        kept = found.kept if fresh is not None and isinstance(found, Missing) else None

        def load(token: Token | None = token, kept: Found | None = kept) -> Line[Landed]:
            return load_line(tool, view, values, call, token, kept)

        if limits is not None:
            name: Hashable = object() if refresh else (id(call.backend), call.key)
            board = Board(name, None if refresh else shared_under, arrived, load, watched)
            within = yield from flown_within(tool, view, call, board, limits, watch, lasting=token is not None)
            if within.answer is not None:
                return within.answer
            flown = within.flown
        elif refresh:
            flown = Flown((yield Load(load)), True)
        else:
            told = announcement if token is not None else None
            flown = yield Fly((id(call.backend), call.key), shared_under, arrived, load, watched, told)
            if flown.alone:
                flown = Flown((yield Load(load)), True)
        landed, watched = flown.landed, flown.watched
        led = flown.led
        if landed is None or (not led and not _is_for(call, landed)):
            continue
        done = None if fresh is None else (yield from after_load(tool, view, call, landed, watch, token, led=led))
        done = done or _landed(tool, view, call, found, landed, watch, led)
        if done is not None:
            return done
        # It cannot be copied: a stream, a connection; everyone needs an own one.
        landed = yield Load(lambda: load_line(tool, view, values, call, None))
        _count_load(tool, view, found, landed)
        return Answer(landed.value, landed.error), Report("miss", "unshareable", landed=landed)


def _make_known(tool: ReadTool, view: View, call: ReadCall) -> None:
    """Tell the session which backends to tidy up when it ends, and a tier how many entries the tool may have."""
    backend = call.backend
    if call.dies_with_session and view.session is not None:
        view.session.used[id(backend)] = backend
    if not backend.in_process and (bound := getattr(backend, "bound_group", None)) is not None:
        bound(tool.group, tool.policy.maxsize)


def _landed(
    tool: ReadTool,
    view: View,
    call: ReadCall,
    found: Missing | Blocked | Down,
    landed: Landed,
    watch: Watch | None,
    led: bool,
) -> tuple[Answer, Report] | None:
    """What a caller gets of a load, and what is counted; None for one who shares what cannot be copied."""
    if led:
        token = found.token if isinstance(found, Missing) else None
        if landed.elsewhere:
            view.count(tool.resource, "coalesced")
            if TALLY.on:
                TALLY.add(tool.name, "coalesced")
            if watch is not None:
                settle(watch, landed, call.depends_on(token.stamp) if token is not None else ())
            return Answer(landed.value, landed.error), Report("coalesced", landed=landed)
        _count_load(tool, view, found, landed)
        if watch is not None:
            stamp = call.depends_on(token.stamp) if token is not None else writes_so_far(watch)
            settle(watch, landed, stamp)
        why = None if not isinstance(found, Down) else "backend_error"
        by = found.dropped_by if isinstance(found, Missing) else None
        return Answer(landed.value, landed.error), Report(_LOADED[found.why], why, landed, by)
    answer = shared(landed)
    if answer is None:
        return None
    view.count(tool.resource, "coalesced")
    if TALLY.on:
        TALLY.add(tool.name, "coalesced")
    return answer, Report("coalesced", landed=landed)


def _is_for(call: ReadCall, landed: Landed) -> bool:
    """Whether a load somebody else began is for this caller: it has ended by itself, and not across a write of another
    session's."""
    if landed.is_abandoned:
        return False
    return landed.only_for is None or (call.mark is not None and call.mark.lineage is landed.only_for)


def _supersede(tool: ReadTool, call: ReadCall) -> Line[None]:
    """Before a refresh: a load that began earlier must not come after ours and undo it."""
    tag = ("any", call.chain, call_path(call.cache_key))
    moved: Moved = yield Move(call.backend, (tag,), f"{tool.name} in refresh()", False)
    if moved.cancelled is not None:
        raise moved.cancelled


def _hit(
    tool: ReadTool,
    view: View,
    values: tuple[Any, ...],
    call: ReadCall,
    found: Found,
    watch: Watch | None,
    hot: dict[Any, Warm],
    early: float = 0.0,
    asked: Provenance | None = None,
) -> Answer | None:
    """Serve a stored value, and let the view serve the next such call at once. None if it cannot be read."""
    near = found.near
    try:
        value = found.stored.fresh()
    except Exception as error:  # noqa: BLE001 - an unreadable entry is a miss, reported; never an error of the tool
        settings.notices.once(("unreadable", tool.identity), "%s: a stored value cannot be read: %r", tool.name, error)
        return None
    for metrics in view.metrics:
        metrics.hit(tool.resource, found.load_seconds, tool.policy.cost)
    if TALLY.on:
        TALLY.hit(tool.name, found.load_seconds, tool.policy.cost, found.age)
    if watch is not None:
        served(watch, found.stored, call.depends_on(found.stamp))
    if (
        near is not None
        and found.generation is near.home.generation
        and view.mode == "normal"
        and not settings.notices.observers
        and (watch is None or watch.counted)
    ):
        key = tool.shape.hot_key(values)
        if key is not None and _unchanged(tool, values, call, key):
            lane = watch.track.lane if watch is not None else None
            loop = lane.get_loop() if isinstance(lane, asyncio.Task) else None
            track = watch.track if watch is not None else None
            kind = Warm if asked is None else ToldWarm
            warm = kind(near, found.generation, tool.resource, tool.policy.cost, track, lane, loop)
            warm.tool = tool.name
            if isinstance(warm, ToldWarm):
                warm.tags = resources_of(tool, values, call.extras)
            if early:
                warm.early = early
            keep_warm(hot, key, warm)
    return Answer(value, None, True)


def _unchanged(tool: ReadTool, values: tuple[Any, ...], call: ReadCall, key: tuple[Any, ...]) -> bool:
    """Whether mutable arguments are still those the call was keyed by: somebody may hold and change them."""
    if not any(type(part) is bytes for part in key):
        return True
    return same_call(tool, values, call) and tool.shape.hot_key(values) == key


def _uncached(
    tool: ReadTool, view: View, values: tuple[Any, ...], why: Bypass, watch: Watch | None
) -> Line[tuple[Answer, Report]]:
    """Run live, share nothing, keep nothing; count the reason, and say it once where it can be mended."""
    if isinstance(why, Shadowed):
        return (yield from shadow_read(tool, view, values, why, watch, _alone))
    view.count(tool.resource, "bypasses", reason=why.reason)
    if why.warn:
        settings.notices.once(
            (tool.identity, why.reason), "%s runs uncached (%s): %s", tool.name, why.reason, why.detail
        )
    landed = yield from _alone(tool, view, lambda: load_line(tool, view, values, None, None))
    if landed.error is not None:
        view.count(tool.resource, "load_failures")
    if watch is not None:
        settle(watch, landed, writes_so_far(watch))
    return Answer(landed.value, landed.error), Report("bypass", why.reason, landed=landed)


def _alone(tool: ReadTool, view: View, line: Callable[[], Line[Landed]]) -> Line[Landed]:
    """Where nothing is shared a limit holds all the same; a coroutine is cancelled then, a thread goes on."""
    fresh = tool.policy.freshness
    if fresh is None or fresh.hard_timeout is None:
        alone: Landed = yield Load(line)
        return alone
    boarded = yield Board(object(), None, FLIGHTS.arrival(), line)
    landed, _ = yield WaitOn(boarded, fresh.hard_timeout, lasting=False)
    return landed if landed is not None else Landed(error=timed_out(tool, view))


def _count_load(tool: ReadTool, view: View, found: object, landed: Landed) -> None:
    blocked = isinstance(found, Blocked)
    if isinstance(found, Down):
        view.count(tool.resource, "bypasses", reason="backend_error")
    else:
        view.count(tool.resource, "misses", reason="write_in_progress" if blocked else None)
        if TALLY.on:
            _recorded_miss(tool, found)
    if isinstance(found, Missing) and found.why in ("stale", "expired"):
        view.count(tool.resource, found.why)
    if landed.error is not None:
        view.count(tool.resource, "load_failures")


def _recorded_miss(tool: ReadTool, found: object) -> None:
    if isinstance(found, Missing):
        TALLY.missed(tool.name, found.why, found.dropped_by)
    else:
        TALLY.missed(tool.name, "blocked", None)


def _tell(tool: ReadTool, view: View, call: ReadCall | Bypass, report: Report, waited: float) -> None:
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
        failed=report.failed or (landed is not None and landed.error is not None),
        dropped_by=report.dropped_by,
        seconds_saved=report.saved or 0.0,
        cost_saved=tool.policy.cost if report.saved is not None else 0.0,
    )
    settings.notices.emit(view, tool.resource, event)
