"""Calls of a session that records or replays: what stands around the ordinary lines, or in their place.

Recorded: the ordinary line runs, in the view without the tape, and how it ended, for this caller, is written down. Replayed:
the loop guard is asked as ever, the answer comes from the tape; no tool, no cache and no clock takes part. What a call *is*
to a tape is said here; what a cassette makes of it, in :mod:`agent_cache.cassette`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from agent_cache.cassette import Asked, Played, Tape
from agent_cache.codecs import ToolCodec, codec_for
from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.answers import Answer, own
from agent_cache.engine.drivers import Line
from agent_cache.engine.effects import Pause, Ran
from agent_cache.engine.guard import Watch, enter, key_of, overruled, react, served, settle
from agent_cache.engine.tools import ReadTool, WriteTool
from agent_cache.errors import AgentLoopDetectedError, CassetteError, ConfigurationError, UnkeyableArgumentError
from agent_cache.flight import Landed
from agent_cache.loops import ToolRule
from agent_cache.model import CallEvent, Event, InvalidationEvent

__all__ = [
    "Body",
    "TapedCall",
    "taped_call",
    "taped_invalidation",
    "taped_other",
    "taped_read",
    "taped_write",
    "untaped",
]

_inside: ContextVar[Tape | None] = ContextVar("agent_cache_tape", default=None)
"""The tape on which a call is under way in which this code runs."""
_NOTHING: Mapping[str, object] = {}


@dataclass(slots=True, eq=False)
class Body:
    """Run a tool that is not ours; an effect."""

    call: Callable[[], Any]

    async def go(self) -> Ran:
        try:
            return Ran(await self.call())
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - raised again by the line
            return Ran(error=error)

    def go_blocking(self) -> Ran:
        try:
            return Ran(self.call())
        except BaseException as error:  # noqa: BLE001 - as above
            return Ran(error=error)


@dataclass(slots=True, eq=False)
class TapedCall:
    """One call, as the loop guard and the tape see it. ``arguments`` are all of them, ``key`` is the guard's."""

    asked: Asked
    resource: str
    key: Hashable
    arguments: Mapping[str, Any]
    rule: ToolRule
    write: bool = False
    narrowed: Callable[[Any], tuple[tuple[str, ...], ...]] | None = None
    """What a write turns out to have written, given its result."""


@lru_cache(maxsize=4_096)
def _write_codec(tool: WriteTool) -> ToolCodec:
    return codec_for(tool.returns)


# -- the three kinds of calls ------------------------------------------------------------------------------------------


def taped_read(
    tool: ReadTool, view: View, values: tuple[Any, ...], live: Callable[[ReadTool, View, tuple[Any, ...]], Line[Answer]]
) -> Line[Answer]:
    """One read under a tape; ``live`` is the ordinary line."""
    try:
        asked = _asked_read(tool, view, values)
    except ConfigurationError as error:
        return Answer(error=error)
    arguments = tool.shape.arguments(values)
    call = TapedCall(asked, tool.resource, _guard_key(tool, values, arguments), arguments, tool.policy.loop)
    return (yield from taped_call(call, view, lambda: live(tool, untaped(view), values)))


def taped_write(
    tool: WriteTool,
    view: View,
    values: tuple[Any, ...],
    live: Callable[[WriteTool, View, tuple[Any, ...]], Line[Answer]],
) -> Line[Answer]:
    """One write under a tape; ``live`` is the ordinary line."""
    arguments = tool.shape.arguments(values)
    paths = tuple(template.fill(arguments)[0] for template in tool.policy.resources)
    try:
        asked = _asked(view, tool.name, tool.origin, "write", _write_codec(tool), arguments, paths=paths)
    except ConfigurationError as error:
        return Answer(error=error)
    key = _guard_key(tool, values, arguments)
    call = TapedCall(asked, tool.resource, key, arguments, tool.policy.loop, write=True)
    if tool.policy.names_result:  # with the values of now: the tool may change its arguments
        known = [template.bound(arguments) if template.names_result else None for template in tool.policy.resources]
        call.narrowed = lambda value: tuple(
            (template.known_from(value) if template is not None else None) or path
            for template, path in zip(known, paths, strict=True)
        )
    return (yield from taped_call(call, view, lambda: live(tool, untaped(view), values)))


class Other(Protocol):
    """A tool that is neither read nor write: a watched one. ``write``: it changes something nobody has named."""

    name: str
    origin: str
    codec: ToolCodec
    rule: ToolRule
    write: bool


def taped_other(
    tool: Other, view: View, arguments: dict[str, Any], key: Hashable, live: Callable[[], Line[Answer]]
) -> Line[Answer]:
    """One call of a watched tool under a tape."""
    try:
        asked = _asked(view, tool.name, tool.origin, "watched", tool.codec, arguments, poll=tool.rule.poll)
    except ConfigurationError as error:
        return Answer(error=error)
    call = TapedCall(asked, tool.name, key, arguments, tool.rule, tool.write)
    return (yield from taped_call(call, view, live))


def taped_call(call: TapedCall, view: View, live: Callable[[], Line[Answer]]) -> Line[Answer]:
    """Any call under a tape: from the cassette if it is there, else live and recorded, or an error."""
    tape = _tape(view)
    nested = _inside.get() is tape
    if not nested and (tape.strict or tape.has(call.asked)):
        answer = yield from _replayed(call, view, tape)
        if answer is not None:
            return answer
    return (yield from _recorded(tape, call, live(), nested=nested))


def taped_invalidation(tool: ReadTool, view: View, values: tuple[Any, ...] | None) -> bool:
    """A call of ``.invalidate()``; True in a replay, where no backend is told."""
    tape = _tape(view)
    tape.moved((), ("tool", tool.name))
    if not tape.strict:
        arguments = {} if values is None else _keyed(tool, values)
        asked = _asked(view, tool.name, tool.origin, "invalidate", tool.codec, arguments)
        tape.keep(asked, tape.tick(), nested=_inside.get() is tape)
    return tape.strict


def untaped(view: View) -> View:
    """Where a call that is recorded runs."""
    assert view.live is not None  # noqa: S101 - asked only where there is a tape
    return view.live


def _tape(view: View) -> Tape:
    assert view.tape is not None  # noqa: S101 - asked by nobody else
    return view.tape


# -- what a call is to a tape --------------------------------------------------------------------------------------------


def _asked_read(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Asked:
    policy = tool.policy
    paths = policy.fixed_paths
    if paths is None:
        arguments = tool.shape.arguments(values)
        paths = tuple(template.fill(arguments)[0] for template in policy.resources)
    given = _keyed(tool, values)
    return _asked(view, tool.name, tool.origin, "read", tool.codec, given, policy.scope, paths, policy.loop.poll)


def _keyed(tool: ReadTool, values: tuple[Any, ...]) -> dict[str, Any]:
    return {k.name: values[k.index] for k in tool.shape.keyed}


def _asked(
    view: View,
    name: str,
    origin: str,
    kind: Any,
    codec: ToolCodec,
    arguments: dict[str, Any],
    scope: str | None = None,
    paths: tuple[tuple[str, ...], ...] = (),
    poll: bool = False,
) -> Asked:
    session = view.session
    return _tape(view).asked(
        name,
        origin,
        kind,
        codec,
        {name: value for name, value in arguments.items() if not getattr(type(value), "__agent_cache_absent__", False)},
        session=session,
        identity=_identity(session.identity if session is not None else _NOTHING, scope),
        per_session=scope == "session",
        paths=paths,
        poll=poll,
    )


def _identity(identity: Mapping[str, object], scope: str | None) -> Mapping[str, object]:
    """The part of who is asking that may count for the answer: up to a read's scope; all of it for other tools."""
    if scope == "global":
        return _NOTHING
    if scope is None or scope not in identity:
        return identity
    names = [*identity]
    return {name: identity[name] for name in names[: names.index(scope) + 1]}


def _guard_key(tool: ReadTool | WriteTool, values: tuple[Any, ...], arguments: Mapping[str, Any]) -> Hashable:
    try:
        return tool.shape.digest(tool.identity, values)
    except UnkeyableArgumentError:
        return key_of(tool.name, tool.identity, arguments)


# -- recording -----------------------------------------------------------------------------------------------------------


def _recorded(tape: Tape, call: TapedCall, live: Line[Answer], *, nested: bool) -> Line[Answer]:
    asked, began = call.asked, tape.tick()
    reset = _inside.set(tape)
    try:
        answer = yield from live
    except AgentLoopDetectedError:
        raise  # not an outcome: a replay's own loop detection finds it again
    except BaseException as error:  # a cancellation comes as GeneratorExit: the driver ends this line
        tape.keep(asked, began, error=error, nested=nested)
        raise
    finally:
        with suppress(ValueError):  # torn away, this ends in another context
            _inside.reset(reset)
    if call.narrowed is not None and answer.error is None:
        asked = replace(asked, paths=call.narrowed(answer.value))
    if not isinstance(answer.error, AgentLoopDetectedError):
        tape.keep(
            asked, began, answer.value, answer.error, hit=answer.hit, nested=nested, no_effect=answer.no_effect
        )  # fmt: skip
    return answer


# -- replay --------------------------------------------------------------------------------------------------------------


def _replayed(call: TapedCall, view: View, tape: Tape) -> Line[Answer | None]:
    asked = call.asked
    stamp = tape.stamp(asked.paths, ("tool", asked.tool)) if asked.kind == "read" else ()
    watch: Watch | None = None
    if view.detector is not None:
        watch = enter(view, asked.tool, call.key, call.arguments, rule=call.rule, write=call.write)
    try:
        if watch is not None and watch.event is not None:
            stopped = _looped(call, view, watch, stamp)
            if stopped is not None:
                return stopped
        try:
            played = tape.take(asked, stamp)
        except CassetteError as error:
            return Answer(error=error)
        if played is None:
            return None
        if played.interrupted:
            yield Pause(0)  # if what cancelled it then cancels it now, that comes first
            return Answer(error=tape.interrupted(asked))
        answer = own(played.stored) or Answer(error=played.error)
        view.count(call.resource, "replayed")
        _written(call, view, tape, played)
        if watch is not None and watch.counted:
            _heard(watch, played, answer, stamp)
        if settings.notices.observers:
            settings.notices.emit(view, call.resource, _event(call, view, played))
        return answer
    finally:
        if watch is not None:
            watch.leave()


def _written(call: TapedCall, view: View, tape: Tape, played: Played) -> None:
    if call.write and not played.no_effect:
        tape.moved(call.asked.paths)
        if view.session is not None and call.asked.kind == "write":
            view.session.writes += 1


def _heard(watch: Watch, played: Played, answer: Answer, stamp: Hashable) -> None:
    if played.hit and played.stored is not None:
        served(watch, played.stored, stamp)
    else:
        landed = Landed(answer.value, played.stored, answer.error)
        settle(watch, landed, stamp, no_effect=played.no_effect)


def _looped(call: TapedCall, view: View, watch: Watch, stamp: Hashable) -> Answer | None:
    """What ``on_loop`` says, unless something the call reads has been written."""
    event, last_known = watch.event, watch.track.last is not None
    if event is not None and call.asked.kind == "read" and event.kind not in ("depth", "error") and last_known:
        if watch.track.stamp != stamp:
            overruled(watch)
        event = watch.event
    if event is None:
        return None
    is_read = call.asked.kind == "read"
    action = react(view, watch, event, call.resource, is_read=is_read)
    if action == "run":
        return None
    last = own(watch.state.results.get(watch.key)) if action == "short_circuit" else None
    return last or Answer(error=AgentLoopDetectedError(event))


def _event(call: TapedCall, view: View, played: Played) -> Event:
    session_id = view.session.session_id if view.session is not None else None
    failed = played.error is not None
    if call.asked.kind == "write":
        effect = played.no_effect
        return InvalidationEvent(call.asked.tool, (), "global", session_id, "replayed", failed, effect, call.resource)
    return CallEvent(call.asked.tool, call.resource, "replayed", None, session_id, None, 0.0, (), failed=failed)
