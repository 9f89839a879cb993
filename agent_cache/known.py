"""The read tools of this process, by the group their entries are counted under: what people call them, how they are read.

Weak: a tool that is gone is no longer known. What is cached, and where, is nobody's business here.
"""

from __future__ import annotations

import weakref

from agent_cache.codecs import ToolCodec

__all__ = ["KnownTool", "known_tool", "remember"]


class KnownTool:
    """A tool's name and resource as people wrote them (never an argument), and the codec of its results."""

    __slots__ = ("__weakref__", "codec", "name", "resource")

    def __init__(self, name: str, resource: str, codec: ToolCodec) -> None:
        self.name = name
        self.resource = resource
        self.codec = codec


_known: weakref.WeakValueDictionary[str, KnownTool] = weakref.WeakValueDictionary()


def remember(group: str, name: str, resource: str, codec: ToolCodec) -> KnownTool:
    """Note a tool; it is known for as long as what is returned is held."""
    known = _known[group] = KnownTool(name, resource, codec)
    return known


def known_tool(group: str) -> KnownTool | None:
    """The tool of a group, if this process has it."""
    return _known.get(group)
