"""Export: what of a store goes into a file, and what cannot."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from agent_cache.backends.base import NEAR_COPY, Scanning, StoredEntry
from agent_cache.clock import Clock, monotonic
from agent_cache.errors import ConfigurationError
from agent_cache.moving.files import Outgoing, checked_path
from agent_cache.moving.format import Record
from agent_cache.moving.reports import MoveReport
from agent_cache.policy import checked_secret

__all__ = ["checked_namespaces", "export"]

_PORTION, _PORTION_BYTES = 64, 4 << 20


def checked_namespaces(namespaces: object) -> frozenset[str] | None:
    """Those named; None for all.

    Raises:
        ConfigurationError: neither a text nor several.
    """
    if namespaces is None:
        return None
    given = [namespaces] if isinstance(namespaces, str) else namespaces
    if not isinstance(given, Iterable):
        raise ConfigurationError("namespaces", namespaces, "give a name, several, or None for all")
    found = frozenset(given)
    if not all(isinstance(name, str) for name in found):
        raise ConfigurationError("namespaces", namespaces, "each is a text, as in configure(namespace=...)")
    return found


async def export(
    backend: Scanning,
    file: str | os.PathLike[str],
    *,
    namespaces: str | Iterable[str] | None = None,
    only: Callable[[StoredEntry], bool] | None = None,
    compress: bool | None = None,
    overwrite: bool = False,
    secret: str | bytes | None = None,
    clock: Clock = monotonic,
    wall: Clock = time.time,
) -> MoveReport:
    """Write what a backend holds into a file. See :meth:`~agent_cache.moving.Movable.export`."""
    wanted, path = checked_namespaces(namespaces), checked_path(file)
    if only is not None and not callable(only):
        raise ConfigurationError("only", only, "give a function of a StoredEntry, such as lambda entry: entry.is_tool")
    if not isinstance(backend, Scanning):
        raise ConfigurationError("backend", backend, "give one that can be scanned")
    pack = path.suffix == ".gz" if compress is None else bool(compress)
    began = clock()
    key = checked_secret(secret)
    out = await asyncio.to_thread(Outgoing, path, wall(), key, pack=pack, overwrite=bool(overwrite))
    try:
        report = await _write(out, _chosen(backend, wanted, only, clock), began)
        await asyncio.to_thread(out.finish)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(out.discard))
        raise
    return report


async def _chosen(
    backend: Scanning, wanted: frozenset[str] | None, only: Callable[[StoredEntry], bool] | None, clock: Clock
) -> AsyncIterator[tuple[StoredEntry, float]]:
    """Each with a moment no later than the one of which its age and its ttl are."""
    asked = clock()
    async for entry in backend.scan(payloads=True):
        copy = isinstance(entry.key, str) and entry.key.startswith(NEAR_COPY)  # a near tier's own, with a stamp in it
        if not copy and (wanted is None or entry.namespace in wanted) and (only is None or only(entry)):
            yield entry, asked
        asked = clock()


async def _write(out: Outgoing, entries: AsyncIterator[tuple[StoredEntry, float]], began: float) -> MoveReport:
    moved: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    portion: list[Record] = []
    size = 0
    async for entry, asked in entries:
        why = _kept_back(entry)
        if why:
            left_out[why] += 1
            continue
        portion.append(_record(entry, asked - began))
        size += len(portion[-1].payload)
        if len(portion) >= _PORTION or size >= _PORTION_BYTES:
            await _put(out, portion, moved, left_out)
            portion, size = [], 0
    await _put(out, portion, moved, left_out)
    return MoveReport(moved["entries"], moved["values"], moved["bytes"], dict(left_out))


async def _put(out: Outgoing, portion: list[Record], moved: Counter[str], left_out: Counter[str]) -> None:
    await asyncio.to_thread(out.add, portion)
    for record in portion:
        if record.problem:
            left_out[record.problem] += 1
            continue
        moved["values" if isinstance(record.key, str) else "entries"] += 1
        moved["bytes"] += len(record.payload)


def _kept_back(entry: StoredEntry) -> str:
    """Why an entry stays where it is; empty if it may leave."""
    if entry.chain[:1] == ("session",):
        return "session"
    if entry.payload is None:
        return "no_written_form"
    if entry.problem:
        return "unreadable"
    if entry.is_tool and entry.tags is None:
        return "unlabelled"
    return "" if entry.is_current else "not_current"


def _record(entry: StoredEntry, at: float) -> Record:
    payload: Any = entry.payload
    limited = entry.ttl_left is not None and entry.ttl_left != math.inf
    return Record(
        entry.key,
        payload,
        at,
        entry.ttl_left if limited else None,
        entry.age or 0.0,
        entry.grace,
        entry.load_seconds,
        entry.namespace,
        entry.group,
        entry.tool,
        entry.resource,
        entry.tags or (),
    )
