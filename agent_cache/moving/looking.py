"""For people at a store: finding an entry, counting what there is, dropping by hand.

Thin over scanning and the protocol; what is printed, and how, is the terminal's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent_cache.backends.base import StoredEntry
from agent_cache.tags import Tag, Template, is_call_tag, write_tags

__all__ = ["Holding", "drop_entry", "drop_resource", "find", "holdings"]


@dataclass(slots=True)
class Holding:
    """What one tool (or the key-value cache: no tool, no group) has in one namespace."""

    namespace: str
    group: str
    tool: str
    resource: str
    entries: int = 0
    bytes: int = 0
    outdated: int = 0
    """How many of them a write has dropped, or have expired."""


async def holdings(backend: Any) -> list[Holding]:
    """Entries and bytes by namespace and tool, the largest first. Raises BackendError."""
    found: dict[tuple[bool, str, str], Holding] = {}
    async for entry in backend.scan():
        which = entry.is_tool, entry.namespace, entry.group
        held = found.get(which)
        if held is None:
            held = found[which] = Holding(entry.namespace, entry.group, entry.tool, entry.resource)
        held.entries += 1
        held.bytes += entry.size
        held.outdated += entry.is_current is False
    return sorted(found.values(), key=lambda held: -held.bytes)


async def find(backend: Any, name: str, *, payloads: bool = False, most: int = 20) -> list[StoredEntry]:
    """Tools' entries whose digest begins with ``name``, and the key-value entry of that very name. Raises BackendError."""
    found: list[StoredEntry] = []
    async for entry in backend.scan(payloads=payloads):
        if entry.name == name or (entry.is_tool and name and entry.name.startswith(name.lower())):
            found.append(entry)
            if len(found) >= most:
                break
    return found


async def drop_entry(backend: Any, entry: StoredEntry, writer: str = "by hand") -> bool:
    """Drop one entry everywhere, near copies of other processes included; tells whether it was there.

    Those of the same call in other scopes go with it, and the few that share its tag. Raises BackendError.
    """
    own = [tag for tag in entry.tags or () if is_call_tag(tag)]
    if own:
        await backend.move(write_tags([own[0][2]], ()), writer)
    return bool(await backend.remove(entry))


async def drop_resource(backend: Any, resource: str, writer: str = "by hand") -> tuple[Tag, ...]:
    """Invalidate a resource by its text (``cart:42``), as a write of it does, in every scope; the tags that moved.

    Raises:
        ConfigurationError: it is no resource.
        BackendError: the store is away.
    """
    path, _ = Template.parse(resource, ()).fill({})
    tags = write_tags([path], ())
    await backend.move(tags, writer)
    return tags
