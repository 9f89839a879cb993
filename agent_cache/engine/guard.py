"""The session's loop detector, asked before a call and told after it.

Translates between calls (tasks, threads, sessions, ``on_loop``) and the pure detector.
Thresholds and patterns are :mod:`agent_cache.loops`' business.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent_cache.codecs import Stored
from agent_cache.config import settings
from agent_cache.context import SessionState, View
from agent_cache.flight import Landed
from agent_cache.loops import CallTrack
from agent_cache.model import LoopEvent

__all__ = ["Action", "Watch", "enter", "settle"]

log = logging.getLogger("agent_cache.loops")
Action = Literal["run", "short_circuit", "raise"]
_SHOWN = 200
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(slots=True)
class Watch:
    """One call under guard."""

    state: SessionState
    track: CallTrack
    key: Hashable
    counted: bool
    event: LoopEvent | None = None

    def leave(self) -> None:
        """The call is over, however it ended."""
        with self.state.lock:
            self.track.running -= 1


def lane() -> object:
    """Who is calling: the running task, else the thread. Calls of one lane come one after the other."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    return threading.get_ident()


def key_of(tool: str, identity: bytes, arguments: Mapping[str, Any]) -> Hashable:
    """What a call without a key is recognised by: its arguments as text, objects by their address."""
    return tool, identity, tuple(shown(arguments).items())


def enter(view: View, tool: str, key: Hashable, arguments: Mapping[str, Any], *, poll: bool) -> Watch | None:
    """Count the call, unless it is one of several equal ones made at once, and find out whether it is a loop.

    None where no detector is on. The caller must :meth:`Watch.leave`.
    """
    state = view.session
    if state is None or state.detector is None:
        return None
    detector = state.detector
    with state.lock:
        main = state.main or view
        main.drain()
        track = detector.track(key, tool, lambda: shown(arguments), poll)
        me, tick = lane(), state.ticks.now()
        parallel = track.running > 0 or (
            track.lane is not None and track.lane != me and tick is not None and track.tick == tick
        )
        track.running += 1
        watch = Watch(state, track, key, counted=not parallel)
        if not parallel:
            track.lane, track.tick = me, tick
            event = detector.verdict(track)
            if event is None:
                detector.saw(track)
            else:
                watch.event = replace(event, session_id=state.session_id)
        main.make_room()
    return watch


def overruled(watch: Watch) -> None:
    """What looked like a loop follows a write to what the call reads: it is progress."""
    detector = watch.state.detector
    assert detector is not None  # noqa: S101 - there is no watch without one
    with watch.state.lock:
        detector.progress(watch.track)
        watch.event = detector.verdict(watch.track)  # the budget may be used up all the same
        if watch.event is None:
            detector.saw(watch.track)
        else:
            watch.event = replace(watch.event, session_id=watch.state.session_id)


def react(view: View, watch: Watch, event: LoopEvent, resource: str, *, is_read: bool) -> Action:
    """What to do about it, by the session's ``on_loop``; counts, logs and tells observers."""
    view.count(resource, "loop_detections")
    settings.notices.emit(view, resource, event)
    state = watch.state
    action = _action(state, watch, event)
    if action == "warn":
        with state.lock:
            said = (watch.key, event.kind) in state.warned
            state.warned.add((watch.key, event.kind))
        if not said:
            log.warning("%s", event.hint)
        action = "run"
    elif action == "short_circuit" and not is_read:
        action = "raise"  # a write is never answered from memory
    if action == "run":
        assert state.detector is not None  # noqa: S101 - there is no watch without one
        with state.lock:
            state.detector.saw(watch.track)
    return "raise" if action == "raise" else "short_circuit" if action == "short_circuit" else "run"


def _action(state: SessionState, watch: Watch, event: LoopEvent) -> str:
    on_loop = state.on_loop
    if callable(on_loop):
        answer = on_loop(event)
        return answer if isinstance(answer, str) and answer in ("raise", "warn", "short_circuit") else "run"
    if on_loop != "staged":
        return on_loop
    with state.lock:
        stage = state.stages[watch.key] = state.stages.get(watch.key, 0) + 1
    return {1: "warn", 2: "short_circuit"}.get(stage, "raise")


def settle(watch: Watch, landed: Landed, stamp: Hashable) -> None:
    """Tell the detector how an executed call turned out; keep its result for short_circuit."""
    state = watch.state
    _heard(watch, outcome_of(landed), stamp)
    if landed.stored is not None and state.on_loop not in ("raise", "warn"):
        state.remember(watch.key, landed.stored)


def served(watch: Watch, stored: Stored, stamp: Hashable) -> None:
    """Tell the detector what was answered from a store: another agent may have written and read since."""
    _heard(watch, stored.fingerprint(), stamp)
    if watch.state.on_loop not in ("raise", "warn"):
        watch.state.remember(watch.key, stored)


def _heard(watch: Watch, outcome: Hashable, stamp: Hashable) -> None:
    state = watch.state
    with state.lock:
        if state.detector is not None and watch.counted:
            state.detector.outcome(watch.track, outcome, stamp)


def outcome_of(landed: Landed) -> Hashable:
    """A digest of the outcome, in this process: equal outcomes, equal digests."""
    if landed.error is not None:
        return "error", type(landed.error), str(landed.error)[:500]
    if landed.stored is not None:
        return landed.stored.fingerprint()
    try:
        return type(landed.value), _ADDRESS.sub("", repr(landed.value)[:10_000])
    except Exception:  # noqa: BLE001 - somebody's __repr__; an outcome that cannot be told apart counts as new
        return None


def shown(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Arguments as short text for people, evidence and hints. Never part of a key."""
    out = {}
    for name, value in arguments.items():
        try:
            text = repr(value)
        except Exception as error:  # noqa: BLE001 - somebody's __repr__ must not fail a call
            text = f"<{type(value).__name__}: repr raised {type(error).__name__}>"
        out[name] = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return out


__all__ += ["key_of", "lane", "outcome_of", "overruled", "react", "served", "shown"]
