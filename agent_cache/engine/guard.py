"""The session's loop detector, asked before a call and told after it.

Translates between calls (tasks, threads, sessions, ``on_loop``) and the pure detector.
Thresholds and patterns are :mod:`agent_cache.loops`' business.

Whose call it is matters twice. Equal calls *made at once* are one: they overlap, or come from several tasks in one round of
the event loop, or from several threads faster than any model could have asked again. And agents that share a session do
not count for each other: a call by a task (or in a thread's context) that lives beside the one that made it before has a
memory of its own, which is handed on to whoever it starts, and to whoever comes after it has ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
import weakref
from collections.abc import Hashable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from agent_cache.canonical import encoded
from agent_cache.codecs import Failure, Stored
from agent_cache.config import settings
from agent_cache.context import SessionState, View
from agent_cache.errors import AgentLoopDetectedError, UnkeyableArgumentError
from agent_cache.flight import Landed
from agent_cache.loops import CallTrack, LoopDetector, Outcome, ToolRule, is_error_result
from agent_cache.loops.outcomes import SHOWN, shortened
from agent_cache.model import LoopEvent
from agent_cache.recorded import TALLY

__all__ = ["Action", "Watch", "enter", "observed", "settle"]

log = logging.getLogger("agent_cache.loops")
Action = Literal["run", "short_circuit", "raise"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MAX_ERROR = 500
_MAX_REPR = 10_000
_MAX_SAMPLE = 16_384  # bytes of a stored result that is kept to be masked and shown
_MAX_WORDS = 500  # characters of a text whose order of words is looked at
_MAX_PARTS = 64  # of the arguments in which such texts are looked for
_AGENTS = 16  # that make the same call side by side in one session
_PLAIN = frozenset({int, float, bool, type(None)})
_AT_ONCE = 0.0005  # seconds; no model reads an answer and asks again in less
_now = time.monotonic


@dataclass(slots=True)
class Watch:
    """One call under guard."""

    state: SessionState
    track: CallTrack
    key: Hashable
    counted: bool
    event: LoopEvent | None = None
    pattern: Hashable = None
    write: bool = False

    def leave(self) -> None:
        """The call is over, however it ended."""
        with self.state.lock:
            self.track.running -= 1
            if type(self.track.lane) is _Lane:
                self.track.ended = _now()

    def judge(self, detector: LoopDetector, outcome: Outcome | None = None) -> None:
        """Find out whether this call is a loop, and count it unless it is."""
        found = detector.verdict(self.track, outcome)
        if found is None:
            self.event = self.track.stopped = None
            detector.saw(self.track)
        else:
            self.event = replace(found.event, session_id=self.state.session_id)
            self.pattern = found.pattern
            self.track.stopped = found._replace(event=self.event)


# -- who calls -------------------------------------------------------------------------------------------------------


class _Lane:
    """A thread's context, for as long as it lasts."""

    __slots__ = ("__weakref__", "seat")

    def __init__(self, seat: _Seat) -> None:
        self.seat = weakref.ref(seat)


class _Seat:
    """Held by the context alone: it goes when the context goes, so that a lane can tell that it has ended."""

    __slots__ = ("__weakref__", "lane", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.lane = _Lane(self)


_seat: ContextVar[_Seat | None] = ContextVar("agent_cache_lane", default=None)


def lane() -> object:
    """Who is calling: the running task, else the context of this thread. Calls of one lane come one after the other."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    seat = _seat.get()
    if seat is None or seat.thread != threading.get_ident():  # a copy of another thread's context
        seat = _Seat()
        _seat.set(seat)
    return seat.lane


_caller: ContextVar[weakref.ref[Any] | None] = ContextVar("agent_cache_caller", default=None)


def _caller_and_parent() -> tuple[object, object]:
    """Who is calling; and on whose behalf, where that has made calls before it started this task or thread."""
    me, known = lane(), _caller.get()
    parent = None if known is None else known()
    if parent is not me:
        _caller.set(weakref.ref(me))
    return me, parent


def _alive(who: object) -> bool:
    if isinstance(who, asyncio.Future):
        return not who.done()
    return isinstance(who, _Lane) and who.seat() is not None


class _Twin(NamedTuple):
    """A call's key with another agent that makes it."""

    key: Hashable
    number: int


class _Place(NamedTuple):
    """Which memory a call counts for: a known one, or a new one under ``key``; ``at_once``: it is not counted."""

    key: Hashable
    track: CallTrack | None
    at_once: bool = False


def _place(detector: LoopDetector, key: Hashable, me: object, parent: object, tick: object) -> _Place:
    heir: CallTrack | None = None
    busy: CallTrack | None = None
    slot = key
    for number in range(1, _AGENTS + 1):
        track = detector.known(slot)
        if track is None:
            break
        if track.lane is me:
            return _Place(slot, track, at_once=track.running > 0)
        if track.running > 0 or (tick is not None and track.tick == tick):
            busy = track
        elif heir is None and (track.lane is parent or not _alive(track.lane)):
            heir = track
        slot = _Twin(key, number)
    else:
        track = heir or detector.known(_Twin(key, _AGENTS - 1))
        return _Place(slot, track)
    if busy is not None:
        return _Place(slot, busy, at_once=True)
    if heir is not None:
        threads = type(me) is _Lane and type(heir.lane) is _Lane
        return _Place(slot, heir, at_once=threads and _now() - heir.ended < _AT_ONCE)
    return _Place(slot, None)


# -- before the call ---------------------------------------------------------------------------------------------------


def enter(
    view: View,
    tool: str,
    key: Hashable,
    arguments: Mapping[str, Any],
    *,
    rule: ToolRule,
    write: bool = False,
    outcome: Outcome | None = None,
    batch: Hashable = None,
) -> Watch | None:
    """Count the call, unless it is one of several equal ones made at once, and find out whether it is a loop.

    ``outcome`` where the call has been made already; calls of one ``batch`` were made at once.
    None where no detector is on. The caller must :meth:`Watch.leave`.
    """
    state = view.session
    if state is None or state.detector is None:
        return None
    detector = state.detector
    same = key if rule.loop_key is None else _same_by(rule, tool, key, arguments)
    with state.lock:
        main = state.main or view
        main.drain()
        me, parent = _caller_and_parent()
        tick: Any = state.ticks.now() if batch is None else ("batch", batch)
        place = _place(detector, same, me, parent, tick)
        track = place.track
        at_once = place.at_once or (batch is not None and track is not None and track.tick == tick)
        if track is None:
            track = detector.track(
                place.key, tool, lambda: (shown(arguments), kinship(arguments)), rule, twin=place.key is not same
            )
        elif not at_once:
            detector.touch(track)
        track.running += 1
        watch = Watch(state, track, key, counted=not at_once, write=write)
        if not at_once:
            track.lane, track.tick = me, tick
            watch.judge(detector, outcome)
        elif track.stopped is not None:  # what was made together is stopped together
            watch.event, watch.pattern = track.stopped
        main.make_room()
    return watch


def _same_by(rule: ToolRule, tool: str, key: Hashable, arguments: Mapping[str, Any]) -> Hashable:
    """The user's ``loop_key``; the whole call where it raises, or returns what cannot be looked up."""
    try:
        same = rule.same_by(arguments)
        hash(same)
    except Exception as error:  # noqa: BLE001 - a loop_key must not fail a call; it is said once
        settings.notices.once(("loop_key", tool), "%s: loop_key raised %r; the whole call counts", tool, error)
        return key
    return tool, "loop_key", same


def writes_so_far(watch: Watch) -> Hashable:
    """What a read that no backend was asked for depends on: whatever this session writes."""
    return "writes", watch.state.writes


def overruled(watch: Watch) -> None:
    """What looked like a loop follows a write to what the call reads: it is progress."""
    detector = watch.state.detector
    assert detector is not None  # noqa: S101 - there is no watch without one
    with watch.state.lock:
        detector.progress(watch.track)
        if watch.counted:
            watch.judge(detector)  # the budget may be used up all the same
        else:
            watch.event = watch.track.stopped = None


def react(view: View, watch: Watch, event: LoopEvent, resource: str, *, is_read: bool) -> Action:
    """What to do about a call that is to be made, by the session's ``on_loop``; counts, logs and tells observers.

    Only a read may be short-circuited: a write is never answered from memory.
    """
    action = _told(view, watch, event, resource)
    assert watch.state.detector is not None  # noqa: S101 - there is no watch without one
    if watch.counted:  # asked for is as good as made: a cycle is not over because one of its calls was stopped
        with watch.state.lock:
            watch.state.detector.saw(watch.track)
    return "raise" if action == "short_circuit" and not is_read else action


def _told(view: View, watch: Watch, event: LoopEvent, resource: str) -> Action:
    if watch.counted:
        view.count(resource, "loop_detections")
        if TALLY.on:
            TALLY.add(event.tool, "loops")
        settings.notices.emit(view, resource, event)
    state = watch.state
    action = _action(state, watch, event)
    if action in ("hint", "short_circuit") and watch.counted:
        with state.lock:
            state.hints.append(event)
    if action in ("warn", "hint"):
        with state.lock:
            said = (watch.pattern, event.kind) in state.warned
            state.warned.add((watch.pattern, event.kind))
        if not said:
            log.warning("%s", event.hint)
    return "raise" if action == "raise" else "short_circuit" if action == "short_circuit" else "run"


def _action(state: SessionState, watch: Watch, event: LoopEvent) -> str:
    on_loop = state.on_loop
    if callable(on_loop):
        answer = on_loop(event)
        return answer if isinstance(answer, str) and answer in ("raise", "warn", "short_circuit", "hint") else "run"
    if on_loop != "staged":
        return on_loop
    with state.lock:
        stage = state.stages[watch.pattern] = max(1, state.stages.get(watch.pattern, 0) + watch.counted)
    return {1: "hint", 2: "short_circuit"}.get(stage, "raise")


# -- after the call ----------------------------------------------------------------------------------------------------


def settle(watch: Watch, landed: Landed, stamp: Hashable, *, no_effect: bool = False) -> None:
    """Tell the detector how an executed call turned out; keep its result for short_circuit."""
    state = watch.state
    _heard(watch, outcome_of(landed, write=watch.write and not no_effect), stamp)
    if landed.stored is not None and state.on_loop not in ("raise", "warn"):
        state.remember(watch.key, landed.stored)


def served(watch: Watch, stored: Stored, stamp: Hashable) -> None:
    """Tell the detector what was answered from a store: another agent may have written and read since."""
    last = watch.track.last
    outcome = _of_stored(stored, None)
    _heard(watch, last if last is not None and last.exact == outcome.exact else outcome, stamp, hit=True)
    if watch.state.on_loop not in ("raise", "warn"):
        watch.state.remember(watch.key, stored)


def served_error(watch: Watch, error: Exception, stamp: Hashable) -> None:
    """Tell the detector of an error that was answered from a store."""
    _heard(watch, failure(error), stamp, hit=True)


def _heard(watch: Watch, outcome: Outcome, stamp: Hashable, *, hit: bool = False) -> None:
    state = watch.state
    with state.lock:
        if state.detector is None or not watch.counted:
            return
        if state.detector.outcome(watch.track, outcome, stamp, hit=hit):
            # the next time round it begins with the hint again
            state.stages.pop(watch.track.key, None)


def observed(
    view: View, tool: str, arguments: object, outcome: Outcome, rule: ToolRule, batch: Hashable = None
) -> LoopEvent | None:
    """A call that somebody else has made: the event where it is a loop.

    Raises:
        AgentLoopDetectedError: where ``on_loop`` says so. Nothing can be short-circuited any more: in ``"staged"``, the
            second answer is a hint too, and ``"short_circuit"`` raises.
    """
    named = _named(arguments)
    key = call_key(tool, named)
    write = outcome.write
    watch = enter(view, tool, key, named, rule=rule, write=write, outcome=outcome, batch=batch)
    if watch is None:
        return None
    watch.leave()
    event = watch.event
    if event is not None:
        with watch.state.lock:
            assert watch.state.detector is not None  # noqa: S101 - there is no watch without one
            watch.state.detector.saw(watch.track)
    _heard(watch, outcome, ())
    if event is not None:
        action = _told(view, watch, event, tool)
        if action == "raise" or (action == "short_circuit" and watch.state.on_loop != "staged"):
            raise AgentLoopDetectedError(event)
    return event


# -- calls and outcomes as the detector knows them ------------------------------------------------------------------------


def key_of(tool: str, identity: bytes, arguments: Mapping[str, Any]) -> Hashable:
    """What a call without a key is recognised by: its arguments as text, objects by their address."""
    return tool, identity, tuple((name, _text(value, quoted=True)) for name, value in arguments.items())


def call_key(tool: str, arguments: Mapping[str, Any]) -> Hashable:
    """What a call of a tool that is not ours is recognised by."""
    try:
        return tool, encoded(dict(arguments), "arguments")
    except UnkeyableArgumentError:
        return key_of(tool, b"", arguments)


def _named(arguments: object) -> Mapping[str, Any]:
    """Arguments by name: a mapping, or the JSON text of one, as models write it."""
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = arguments
        arguments = parsed
    if isinstance(arguments, Mapping):
        return {str(name): value for name, value in arguments.items()}
    return {} if arguments is None else {"arguments": arguments}


def kinship(arguments: Mapping[str, Any]) -> Hashable:
    """Equal for calls that differ only in the order, case or spacing of a text's words; None where there is no such text."""
    for value in arguments.values():
        kind = type(value)
        if kind not in _PLAIN and (kind is not str or len(value.split(None, 1)) > 1):
            break
    else:  # nothing that has words, seen at once
        return None
    found: list[str] = []
    akin = _spread(arguments, found)
    return tuple(found) if akin and len(found) <= _MAX_PARTS else None


def _spread(value: Any, into: list[str]) -> bool:
    """The parts of a value, texts with their words in order; whether there was a text of several words."""
    if len(into) > _MAX_PARTS:
        return False
    if isinstance(value, Mapping):
        akin = False
        for name in sorted(value, key=str):
            into.append(f"{name!s}:")
            akin |= _spread(value[name], into)
        return akin
    if isinstance(value, (list, tuple)):
        into.append("[")
        each = [_spread(item, into) for item in value]
        into.append("]")
        return any(each)
    if type(value) is str and len(value) <= _MAX_WORDS and len(words := value.lower().split()) > 1:
        into.append(" ".join(sorted(words)))
        return True
    into.append(_text(value, quoted=True))
    return False


def outcome_of(landed: Landed, *, write: bool = False) -> Outcome:
    """How a call turned out: equal outcomes, equal digests in this process."""
    if landed.error is not None:
        return failure(landed.error, write=write)
    if landed.stored is not None:
        return _of_stored(landed.stored, landed.value, write=write)
    return returned(landed.value, write=write)


def failure(error: BaseException | str, *, write: bool = False) -> Outcome:
    try:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - somebody's __str__
        text = type(error).__name__
    text = text[:_MAX_ERROR]
    return Outcome(("error", hash(text)), error=text, write=write)


def returned(value: Any, *, write: bool = False) -> Outcome:
    """A value of which no copy is kept: what its text says now."""
    try:
        text = value if isinstance(value, str) else _ADDRESS.sub("", repr(value)[:_MAX_REPR])
    except Exception:  # noqa: BLE001 - somebody's __repr__; an outcome that cannot be told apart counts as new
        return Outcome(None, write=write)
    error = text[:_MAX_ERROR] if is_error_result(value) else None
    sample = text if len(text) <= _MAX_SAMPLE else None
    return Outcome((type(value), hash(text)), sample, error=error, write=write)


def fingerprint(stored: Stored) -> Hashable:
    """What the outcome of a call is compared by that was answered with this."""
    return failure(stored.error()).exact if isinstance(stored, Failure) else stored.fingerprint()


def _of_stored(stored: Stored, value: Any, *, write: bool = False) -> Outcome:
    exact = stored.fingerprint()
    if stored.thaw is None:
        value = stored.value
    error = _text(value)[:_MAX_ERROR] if is_error_result(value) else None
    return Outcome(exact, stored.fresh if stored.size <= _MAX_SAMPLE else None, error=error, write=write)


def shown(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as short text for people, evidence and hints. Never part of a key."""
    said: dict[str, str] = {}
    for name, value in arguments.items():
        text = repr(value) if type(value) is str else _text(value, quoted=True)
        said[name] = text if len(text) <= SHOWN else shortened(text)
    return said


def _text(value: Any, *, quoted: bool = False) -> str:
    if isinstance(value, str) and not quoted:
        return value
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - somebody's __repr__ must not fail a call
        return f"<{type(value).__name__}: repr raised {type(error).__name__}>"


__all__ += [
    "call_key",
    "failure",
    "key_of",
    "kinship",
    "lane",
    "outcome_of",
    "overruled",
    "react",
    "returned",
    "served",
    "shown",
]
