"""One recorded tool call, whatever format it was recorded in; and the few things all formats need to make one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_cache.errors import AgentCacheError

__all__ = ["Call", "Entity", "TraceError", "Turn", "arguments_of", "hashed", "result_of"]

_SHOWN = 4_096
"""Characters of a result that are kept; all of it counts in its digest."""

Entity = tuple[str, str | None]
"""A resource, and which one of them; None: all of it."""


class TraceError(AgentCacheError, ValueError):
    """A trace cannot be read; the text names the file, the line and what was expected."""


@dataclass(slots=True)
class Call:
    """One tool call with what came of it.

    Attributes:
        session: the conversation it belongs to.
        tool: the tool's name.
        arguments: by parameter name.
        result: a digest of what it answered; None where the trace does not say: nothing is known of such a call.
        shown: the beginning of the answer as text (for the loop detector, and for tags named by a result).
        error: the answer was an error.
        raised: that error was raised, not returned: no cache keeps it.
        seconds: how long it took; None = unknown.
        at: when it was made, in seconds since any fixed moment; None = unknown.
        batch: tells one turn of the model from the next: equal calls of one batch were made at once.
        kind: ``read``, ``pure``, ``write`` or ``other`` where the trace itself says so.
        reads, writes: the resources, where the trace itself says so.
        identity: who was served, where the trace says so.
        told: whether the trace says what the arguments were; which call it was is not known of one without.
    """

    session: str
    tool: str
    arguments: Mapping[str, Any]
    result: int | None
    shown: str = ""
    error: bool = False
    raised: bool = False
    seconds: float | None = None
    at: float | None = None
    batch: object = None
    kind: str | None = None
    reads: tuple[Entity, ...] = ()
    writes: tuple[Entity, ...] = ()
    identity: Mapping[str, object] = field(default_factory=dict[str, object])
    told: bool = True

    @property
    def whole(self) -> bool:
        """Whether ``shown`` is all of the answer."""
        return len(self.shown) < _SHOWN


@dataclass(slots=True, frozen=True)
class Turn:
    """The user spoke in ``session``, or (``ended``) it is over."""

    session: str
    ended: bool = False


def hashed(value: object) -> int:
    """64 bits of a digest of any JSON value; equal for equal values, whatever the order of an object's keys."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"simulate").digest(), "big")


def arguments_of(given: object) -> dict[str, Any]:
    """Arguments as a mapping; they come as one, or as the JSON text of one."""
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else {}
        except (ValueError, RecursionError):
            return {"": given}
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    return {} if given is None else {"": given}


def result_of(value: object) -> tuple[int, str]:
    """A result's digest and its beginning as text."""
    if isinstance(value, str):
        return hashed(value), value[:_SHOWN]
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    return hashed(text), text[:_SHOWN]
