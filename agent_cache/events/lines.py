"""An event as one line of JSON, and back.

Unless values are asked for a line holds no argument, no result and nothing made of them: of tags, hints, notes and
reasons in words only the declared resource and short codes are kept, and calls are told apart by a label that is random
for each log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast, get_args

from agent_cache.loops.outcomes import shortened
from agent_cache.model import CallEvent, Event, InvalidationEvent, LoopEvent, LoopKind, Outcome, ToolCall

__all__ = ["LABEL", "Lines", "Recorded", "from_line", "lost_line"]

VERSION = 1
LABEL = "#"
"""The one "argument" of a call whose arguments are not told: a label that equal calls share."""
_LONGEST = 500
_MOST_TAGS = 20
_CODE = 60


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event and when it was told, in seconds since 1970. ``lost`` counts events that were not written before this one."""

    at: float
    event: Event | None
    lost: int = 0


class Lines:
    """Makes lines. ``values``: whether arguments, outcomes and what is made of them are told; ``salt`` makes the labels."""

    def __init__(self, *, values: bool, salt: bytes) -> None:
        self._values = values
        self._salt = salt

    def line(self, at: float, event: Event) -> str:
        if isinstance(event, CallEvent):
            said = self._plain(
                "call", event, ("resource", "outcome", "session_id", "age", "seconds", "stored", "failed")
            )
            said |= self._plain("call", event, ("dropped_by", "seconds_saved", "cost_saved"))
            said |= {"reason": self._why(event.reason), "refused": self._why(event.refused)}
        elif isinstance(event, InvalidationEvent):
            said = self._plain("write", event, ("resource", "session_id", "failed", "no_effect"))
            # a narrower scope is a field's name; where a write went is in the tags
            said |= {"scope": event.scope, "reason": _short(event.reason) if self._values else None}
        else:
            said = self._loop(event)
        if self._values and not isinstance(event, LoopEvent):
            said["tags"] = [_short(tag) for tag in event.tags[:_MOST_TAGS]]
        return _json(
            {"v": VERSION, "at": round(at, 3), **{key: value for key, value in said.items() if _says(key, value)}}
        )

    def _plain(self, kind: str, event: Event, names: tuple[str, ...]) -> dict[str, Any]:
        said = {"kind": kind, "tool": _short(event.tool)}
        for name in names:
            value = getattr(event, name)
            said[name] = _short(value) if isinstance(value, str) else value
        return said

    def _why(self, reason: str | None) -> str | None:
        return _short(reason) if self._values else _code(reason)

    def _loop(self, event: LoopEvent) -> dict[str, Any]:
        said = self._plain("loop", event, ("period", "count", "first_step", "last_step", "session_id"))
        said["loop"] = event.kind
        said["arguments"] = self._arguments(event.tool, event.arguments)
        said["hint"] = _short(event.hint) if self._values else None
        said["calls"] = [
            {
                "tool": _short(call.tool),
                "arguments": self._arguments(call.tool, call.arguments),
                "step": call.step,
                "outcome": _short(call.outcome) if self._values else None,
            }
            for call in event.calls
        ]
        return said

    def _arguments(self, tool: str, arguments: Mapping[str, str]) -> dict[str, str]:
        if self._values:
            return {_short(name) or "": _short(value) or "" for name, value in arguments.items()}
        spelt = json.dumps([tool, sorted(arguments.items())]).encode("utf-8", "surrogatepass")
        return {LABEL: hashlib.blake2b(spelt, key=self._salt, digest_size=4).hexdigest()}


def lost_line(at: float, lost: int) -> str:
    return _json({"v": VERSION, "at": round(at, 3), "kind": "lost", "lost": lost})


def _json(said: dict[str, Any]) -> str:
    return json.dumps(said, separators=(",", ":"))  # ascii: any text, and no line break within


def _says(name: str, value: object) -> bool:
    """What is left out is what a reader assumes: nothing, no, or nothing saved."""
    return value is not None and value is not False and (value != 0 or not name.endswith("_saved"))


def _short(text: str | None) -> str | None:
    return None if text is None else shortened(text, _LONGEST)


def _code(reason: str | None) -> str | None:
    """A code of ours, such as ``no_session``; what may be a sentence with a value in it is not told."""
    return reason if reason is not None and len(reason) <= _CODE and reason.replace("_", "").isalnum() else None


# -- back --------------------------------------------------------------------------------------------------------------


def from_line(line: str) -> Recorded | None:
    """The event of a line; None where it is none of ours (broken, or of a later version)."""
    try:
        said = json.loads(line)
        if not isinstance(said, dict) or said.get("v") != VERSION:
            return None
        return _recorded(cast("dict[str, Any]", said))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _recorded(said: dict[str, Any]) -> Recorded | None:
    at, kind = float(said["at"]), said.get("kind")
    if not -1e11 < at < 1e11:  # not a moment; what is not a number compares to nothing
        return None
    if kind == "lost":
        return Recorded(at, None, int(said["lost"]))
    event: Event | None = None
    if kind == "call" and said.get("outcome") in get_args(Outcome):
        event = CallEvent(**_typed(CallEvent, said, reason=None, session_id=None, age=None, tags=(), seconds=0.0))
    elif kind == "write":
        event = InvalidationEvent(**_typed(InvalidationEvent, said, session_id=None, tags=(), scope="global"))
    elif kind == "loop" and said.get("loop") in get_args(LoopKind):
        calls = tuple(ToolCall(**_typed(ToolCall, call)) for call in said.get("calls", ()))
        event = LoopEvent(**_typed(LoopEvent, {**said, "kind": said["loop"], "calls": calls}, hint=""))
    return None if event is None else Recorded(at, event)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "seconds": (int, float), "age": (int, float), "seconds_saved": (int, float), "cost_saved": (int, float),
    "stored": bool, "failed": bool, "no_effect": bool, "period": int, "count": int, "step": int, "first_step": int,
    "last_step": int, "arguments": dict, "calls": tuple,
}  # fmt: skip


def _typed(model: type, said: Mapping[str, Any], **assumed: Any) -> dict[str, Any]:
    """The fields of a model that a line names, each of its type.

    Raises:
        TypeError: one is of another.
    """
    found = dict(assumed)
    for one in fields(model):
        value = said.get(one.name)
        if one.name == "tags" and value is not None:
            found["tags"] = tuple(str(tag) for tag in value)
        elif value is not None:
            if not isinstance(value, _KINDS.get(one.name, str)):
                raise TypeError(one.name)
            texts = cast("dict[str, Any]", value).items() if isinstance(value, dict) else ()
            found[one.name] = {key: str(text) for key, text in texts} if isinstance(value, dict) else value
    return found
