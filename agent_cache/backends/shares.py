"""What the entries of one namespace take up in memory, beside their quota.

Counting and choosing who makes room among one namespace's own. Taking a victim out of the store is the store's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Protocol

from agent_cache.backends.eviction import EvictionChoice, EvictionPolicy, eviction_policy
from agent_cache.bounds import Quota

__all__ = ["Share", "shares_of"]


class _Entry(Protocol):
    visited: bool
    dead: bool

    @property
    def key(self) -> Hashable: ...
    @property
    def size(self) -> int: ...


class Share:
    """One namespace's part of a store. Called under the store's lock."""

    __slots__ = ("_bytes", "_quota", "_ring", "name")

    def __init__(self, name: str, quota: Quota, eviction: EvictionChoice) -> None:
        self.name = name
        self._quota = quota
        self._bytes = 0
        self._ring: EvictionPolicy[_Entry] = eviction_policy(
            eviction, quota.entries, bytes_are_short=quota.bytes is not None
        )

    def fits(self, size: int) -> bool:
        """Whether there would be room for it if it were alone."""
        return self._quota.bytes is None or size <= self._quota.bytes

    def add(self, entry: _Entry) -> _Entry | None:
        """Take it in; who has to go for the sake of the number of entries, already out of this share's ring."""
        self._bytes += entry.size
        return self._ring.add(entry)

    def over(self) -> Iterator[_Entry]:
        """Who has to go for the sake of the bytes, one by one; the caller kills each before it asks for the next."""
        while self._quota.bytes is not None and self._bytes > self._quota.bytes:
            victim = self._ring.evict()
            if victim is None:
                return
            yield victim

    def lost(self, size: int, *, by_share: bool) -> None:
        """An entry of so many bytes is dead; ``by_share``: it was this share that chose it."""
        self._bytes -= size
        if not by_share:
            self._ring.forget()

    def figures(self) -> dict[str, int | None]:
        """For ``stats()``."""
        quota = self._quota
        return {
            "entries": self._ring.live, "bytes": self._bytes, "max_entries": quota.entries, "max_bytes": quota.bytes,
        }  # fmt: skip


def shares_of(quotas: Mapping[str, Quota], eviction: EvictionChoice) -> dict[str, Share]:
    """An empty share for each namespace that has a quota."""
    return {name: Share(name, quota, eviction) for name, quota in quotas.items()}
