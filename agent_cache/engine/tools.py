"""A decorated tool, compiled once: everything about it that no call changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_cache.codecs import ToolCodec
from agent_cache.keys import CallShape
from agent_cache.known import KnownTool
from agent_cache.policy import ReadPolicy, WritePolicy

__all__ = ["ReadTool", "WriteTool", "readable"]

_LONGEST = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class ReadTool:
    """A read tool. ``call(values)`` runs it; ``identity`` is its part of every key, ``group`` its share of a backend,
    ``origin`` where it is from, for people and recordings."""

    name: str
    is_async: bool
    call: Callable[[tuple[Any, ...]], Any]
    policy: ReadPolicy
    shape: CallShape
    codec: ToolCodec
    identity: bytes
    group: str
    known: KnownTool
    """Held here, so that it is known as long as there is this tool."""
    origin: str
    ttl_of: Callable[[tuple[Any, ...]], float | None] | None = None
    """The seconds one call asks for, where calls may differ; else the policy's."""

    @property
    def resource(self) -> str:
        return self.policy.resource


@dataclass(frozen=True, slots=True, eq=False)
class WriteTool:
    """A write tool; ``returns`` is its evaluated return annotation."""

    name: str
    is_async: bool
    call: Callable[[tuple[Any, ...]], Any]
    policy: WritePolicy
    shape: CallShape
    identity: bytes
    origin: str
    returns: object

    @property
    def resource(self) -> str:
        return self.policy.resource


def readable(tool: ReadTool, values: tuple[Any, ...]) -> str:
    """The arguments that a call is keyed by, for people: ``user_id=7, city='Bonn'``; 2,000 characters at most."""
    shown: list[str] = []
    for each in tool.shape.keyed:
        try:
            text = repr(values[each.index])
        except Exception as error:  # noqa: BLE001 - the user's own __repr__; the call is keyed without it
            text = f"<{type(error).__name__} in repr>"
        shown.append(f"{each.name}={text[:_LONGEST]}")
    text = ", ".join(shown)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
