"""Going through what is stored: listing, checking, moving entries, figures of earlier runs. Serves nothing and counts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from agent_cache.backends.base import Finding, StoredEntry
from agent_cache.backends.memory.keyvalue import KeyValueStore
from agent_cache.backends.memory.records import (
    FOREVER,
    Entry,
)
from agent_cache.codecs import Stored
from agent_cache.errors import UnstorableResultError
from agent_cache.known import known_tool
from agent_cache.moving import Movable
from agent_cache.recorded import StatsRow
from agent_cache.tags import Tag, bucket_path, call_tags

__all__ = ["MemoryStore"]


class MemoryStore(KeyValueStore):
    """The whole blocking surface. See :class:`~agent_cache.backends.memory.backend.MemoryBackend`."""

    twin: Callable[[MemoryStore], Movable]
    """Its asynchronous surface, made anew."""

    def _twin(self) -> Movable:
        return type(self).twin(self)

    def stored_keys(self) -> list[bytes | str]:
        """The keys of all entries, tools' and key-value ones."""
        with self._lock:
            return list(self._entries)

    def stored(self, keys: Iterable[bytes | str], *, payloads: bool) -> list[StoredEntry]:
        """What is stored under some of them. Serves nothing and counts nothing."""
        with self._lock:
            held = [entry for key in keys if (entry := self._entries.get(key)) is not None]
            names: dict[int, Tag] = {}
            if any(entry.base.tags is None and entry.base.records for entry in held):
                names = {id(record): tag for tag, record in self._records.items()}
            found = [(entry.stored, self._described(entry, names)) for entry in held]
        return [_with_payload(stored, each) for stored, each in found] if payloads else [each for _, each in found]

    def _described(self, entry: Entry, names: Mapping[int, Tag]) -> StoredEntry:
        now = self.clock()
        tags = _tags_of(entry, names)
        known = known_tool(entry.group)
        return StoredEntry(
            entry.key,
            entry.size,
            max(0.0, now - entry.created),
            None if entry.deadline == FOREVER else max(0.0, entry.deadline - now),
            entry.load_seconds,
            now < entry.deadline and self._is_current(entry, self._own_state(tags or ())[0]),
            entry.group if isinstance(entry.key, bytes) else "",
            "" if known is None else known.name,
            "" if known is None else known.resource,
            "" if entry.origin is None else entry.origin[0],
            tags,
            grace=entry.grace,
            where=entry,
            arguments=entry.arguments,
        )

    def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        self._figures.add(minute, sums, now)

    def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """See :class:`~agent_cache.backends.figures.FigureKeeping`."""
        return self._figures.rows(since, until, now)

    def check(self, *, repair: bool) -> list[Finding]:
        """Whether bounds and sums hold. Repair: begin empty."""
        with self._lock:
            wrong = [text for text, holds in self._sums() if not holds]
            if wrong and repair:
                self._start_empty()
        if wrong:
            return [Finding("error", "sums", "; ".join(wrong), "integrity_check(repair=True) empties it; report it")]
        return [Finding("ok", "sums", "entries, bytes and bounds add up")]

    def _sums(self) -> Iterator[tuple[str, bool]]:
        entries = list(self._entries.values())
        yield "an entry that is gone is still there", not any(entry.dead for entry in entries)
        yield "an entry stands under another's key", all(held.key == key for key, held in self._entries.items())
        yield "the bytes are counted wrongly", self._bytes == sum(entry.size for entry in entries)
        yield "the eviction's order holds other entries", self._ring.live == len(entries)
        yield "there are more entries than max_size", self.max_size is None or len(entries) <= self.max_size
        yield "there are more bytes than max_bytes", self.max_bytes is None or self._bytes <= self.max_bytes
        chained = Counter(entry.chain for entry in entries if entry.chain)
        yield "a chain's entries are counted wrongly", chained == {c: len(m.living()) for c, m in self._chains.items()}

    def remove(self, entry: StoredEntry) -> bool:
        """Take one entry that was scanned out, if it is still the one that stands there."""
        with self._lock:
            held = self._entries.get(entry.key)
            if held is None or held is not entry.where:
                return False
            self._remove(held)
            return True


def _tags_of(entry: Entry, names: Mapping[int, Tag]) -> tuple[Tag, ...] | None:
    """What an entry was loaded under, as far as that is known here."""
    shared = entry.base.tags
    if shared is None:
        found = [names.get(id(record)) for record in entry.base.records]
        return tuple(tag for tag in found if type(tag) is tuple) if found and None not in found else None
    if entry.origin is not None:
        return call_tags(shared, (f"#{entry.group}", entry.origin[1]))
    if isinstance(entry.key, str):
        return None
    if entry.chain:
        return shared.tags  # without the call's own: the key does not tell it
    return call_tags(shared, bucket_path(entry.group, entry.key))


def _with_payload(stored: Stored, entry: StoredEntry) -> StoredEntry:
    try:
        return replace(entry, payload=stored.payload(keep=False))
    except UnstorableResultError as error:
        return replace(entry, problem=f"no written form: {error}")
