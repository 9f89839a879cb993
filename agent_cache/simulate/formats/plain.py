"""Plain lines: one JSON object per call.

``{"session": "s1", "tool": "get_user", "args": {"id": 7}, "result": {...}, "seconds": 0.4, "ts": 1700000000}``; instead of
``result``, ``error`` (the text of what was raised). The short names of the recorded workloads are known as well:
``s t a r e k rt wt`` (``r`` is a digest, ``e`` tells that the result is an error, ``rt`` and ``wt`` name resources).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent_cache.loops.outcomes import shortened
from agent_cache.simulate.traffic import Call, Entity, TraceError, arguments_of, result_of

__all__ = ["is_plain_call", "moment", "plain_call"]

_KINDS = ("read", "pure", "write", "other")
_LATEST = 1e20  # in nanoseconds: what is later is no moment
_LONGEST = 1e9  # seconds a call may have taken


def is_plain_call(value: Any) -> bool:
    if not isinstance(value, dict) or "role" in value:
        return False
    return ("t" in value and "a" in value) or (
        "tool" in value and bool({"args", "arguments", "result", "error"} & value.keys())
    )


def plain_call(value: Mapping[str, Any], where: str) -> Call:
    """The call of one line.

    Raises:
        TraceError: a field of it is wrong; names it.
    """
    short = "t" in value and "a" in value
    tool = value.get("t" if short else "tool")
    if not isinstance(tool, str) or not tool:
        raise TraceError(f"{where}: the tool's name is {tool!r}, not a text")
    session = value.get("s") if short else value.get("session", value.get("session_id"))
    given = value.get("a") if short else value.get("args", value.get("arguments"))
    call = Call("" if session is None else str(session), tool, arguments_of(given), None)
    _answer(call, value, short)
    call.at = moment(value.get("ts", value.get("at")))
    call.seconds = _number(value.get("seconds"), where, "seconds")
    if call.seconds is None and (ms := _number(value.get("ms", value.get("duration_ms")), where, "ms")) is not None:
        call.seconds = ms / 1000
    call.batch = value.get("turn", value.get("batch"))
    kind = value.get("k") if short else value.get("kind")
    if kind is not None and kind not in _KINDS:
        raise TraceError(f"{where}: kind is {kind!r}; it is one of {', '.join(_KINDS)}")
    call.kind = kind
    call.reads, call.writes = _entities(value.get("rt"), where), _entities(value.get("wt"), where)
    if isinstance(value.get("identity"), Mapping):
        call.identity = dict(value["identity"])
    return call


def _answer(call: Call, value: Mapping[str, Any], short: bool) -> None:
    if short:
        if value.get("r") is not None:
            call.result, call.shown = result_of(value["r"])
        call.error = bool(value.get("e"))
        if call.error:
            call.shown = f"Error: {call.shown}"
    elif value.get("error") not in (None, False):
        call.result, call.shown = result_of(value["error"])
        call.error = call.raised = True
    elif "result" in value:
        call.result, call.shown = result_of(value["result"])


def moment(value: object) -> float | None:
    """Seconds since 1970 from a number (seconds, milli- or nanoseconds) or an ISO 8601 text; None if it is neither."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LATEST < value < _LATEST:
        return None
    return (
        value / 1e9 if value > 1e17 else value / 1e6 if value > 1e14 else value / 1e3 if value > 1e11 else float(value)
    )


def _number(value: object, where: str, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
        raise TraceError(f"{where}: {name} is {shortened(repr(value), 40)}, not a number from 0 to {_LONGEST:.0e}")
    return float(value)


def _entities(value: object, where: str) -> tuple[Entity, ...]:
    if value is None:
        return ()
    found: list[Entity] = []
    for item in value if isinstance(value, list) else [value]:
        match item:
            case [str(resource), entity] if entity is None or isinstance(entity, (str, int)):
                found.append((resource, None if entity is None else str(entity)))
            case str(resource):
                found.append((resource, None))
            case _:
                raise TraceError(f"{where}: a resource is {item!r}; it is [name, entity or null]")
    return tuple(found)
