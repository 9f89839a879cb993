"""The recorded call most like one that was not recorded, and how they differ: for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent_cache.cassette.lines import RecordedCall
from agent_cache.cassette.values import json_line

__all__ = ["nearest", "spelled"]

_MAX_LOOKED_AT = 10_000
_MAX_SHOWN = 120
_MISSING = object()


def nearest(
    tool: str, arguments: Mapping[str, Any], who: object, calls: Iterable[RecordedCall]
) -> tuple[RecordedCall | None, str]:
    """The call of this tool with the smallest difference, and that difference; of equal ones the first."""
    best: RecordedCall | None = None
    least: list[str] = []
    for looked_at, call in enumerate(calls):
        if call.tool != tool:
            continue
        differences = _differences(arguments, call.arguments)
        if call.who != who:
            differences.append(f"who is {_short(who)}, recorded {_short(call.who)}")
        if best is None or len(differences) < len(least):
            best, least = call, differences
        if looked_at > _MAX_LOOKED_AT:
            break
    return best, "; ".join(least[:5]) + ("; ..." if len(least) > 5 else "")


def _differences(asked: Any, recorded: Any, path: str = "") -> list[str]:
    if isinstance(asked, Mapping) and isinstance(recorded, Mapping):
        found: list[str] = []
        for name in (*asked, *(name for name in recorded if name not in asked)):
            inside = f"{path}.{name}" if path else str(name)
            found += _differences(asked.get(name, _MISSING), recorded.get(name, _MISSING), inside)
        return found
    if isinstance(asked, list) and isinstance(recorded, list) and len(asked) == len(recorded):
        return [
            d for i, (a, r) in enumerate(zip(asked, recorded, strict=True)) for d in _differences(a, r, f"{path}[{i}]")
        ]
    if type(asked) is type(recorded) and asked == recorded:
        return []
    return [f"{path} is {_short(asked)}, recorded {_short(recorded)}"]


def spelled(tool: str, arguments: Mapping[str, Any]) -> str:
    """A call as a line: ``get_cart(user_id="u1")``."""
    return f"{tool}({', '.join(f'{name}={_short(value)}' for name, value in arguments.items())})"


def _short(value: Any) -> str:
    if value is _MISSING:
        return "not given"
    text = json_line(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
