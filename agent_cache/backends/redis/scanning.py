"""Looking through what stands under a prefix: for people and for moving entries, never on the way of a call.

SCAN for the names, then one pipeline for a batch of entries and one for their tags: no script, nothing is written, and
the server answers others in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from agent_cache.backends.base import StoredEntry
from agent_cache.backends.labels import Label, read_label
from agent_cache.backends.redis.keyvalue import slot_of
from agent_cache.backends.redis.plans import Plan
from agent_cache.backends.redis.records import EntryRecord, opened_value, read_entry
from agent_cache.backends.redis.resp import Command
from agent_cache.clock import uptime

if TYPE_CHECKING:
    from agent_cache.backends.redis.backend import RedisBackend

__all__ = ["scan"]

_BATCH, _BATCH_OF_PAYLOADS = 200, 50
_HEAD = 20_480  # bytes of an entry in which all but the payload stands


async def scan(backend: RedisBackend, *, payloads: bool) -> AsyncIterator[StoredEntry]:
    """Every entry under the prefix. Raises BackendError."""
    many = _BATCH_OF_PAYLOADS if payloads else _BATCH
    seen: set[int] = set()  # SCAN may give a name twice
    for prefix, is_tool in ((backend._names.value(""), False), (backend._names.prefix + b"{", True)):
        names: list[bytes] = []
        async for name in backend._scan(prefix):
            if (is_tool and b"}e:" not in name) or hash(name) in seen:
                continue
            seen.add(hash(name))
            names.append(name)
            if len(names) >= many:
                read = uptime()
                for entry in await _described(backend, names, is_tool, payloads):
                    yield entry.later(uptime() - read)
                names = []
        read = uptime()
        for entry in await _described(backend, names, is_tool, payloads):
            yield entry.later(uptime() - read)


async def _described(backend: RedisBackend, names: Sequence[bytes], is_tool: bool, payloads: bool) -> list[StoredEntry]:
    whole = payloads or backend._seal is not None  # what is authenticated is authenticated as a whole
    asked = (_asked(backend, name, whole) for name in names)
    found = [(name, *reply) for name, reply in zip(names, await asyncio.gather(*asked), strict=True)]
    there = [each for each in found if each[1]]
    if not is_tool:
        return [_value(backend, *each, payloads) for each in there]
    return list(await asyncio.gather(*(_entry(backend, *each, payloads) for each in there)))


async def _asked(backend: RedisBackend, name: bytes, whole: bool) -> tuple[Any, int, int]:
    """What stands there (perhaps its beginning only), its size, the ms it still lives."""
    get: Command = ("GET", name) if whole else ("GETRANGE", name, 0, _HEAD - 1)
    replies = await backend._links.ask(slot_of(name), [get, ("STRLEN", name), ("PTTL", name)])
    raw, size, left = replies.values
    return raw, int(size), int(left)


def _value(backend: RedisBackend, name: bytes, raw: bytes, size: int, left: int, payloads: bool) -> StoredEntry:
    key = name[len(backend._names.value("")) :].decode("utf-8", "surrogatepass")
    payload = opened_value(backend._seal, name, raw) if payloads or backend._seal is not None else b""
    problem = "" if payload is not None else "not sealed with this secret"
    return StoredEntry(
        key,
        size,
        None,
        left / 1000 if left >= 0 else None,
        is_current=not problem,
        payload=payload if payloads else None,
        problem=problem,
        where=name,
    )


async def _entry(backend: RedisBackend, name: bytes, raw: bytes, size: int, left: int, payloads: bool) -> StoredEntry:
    try:
        key = bytes.fromhex(name.rpartition(b"}e:")[2].decode("ascii"))
    except ValueError:
        return StoredEntry(name, size, None, None, problem="not a name of ours", where=name)
    record = read_entry(raw, None, b"")
    if record is None:
        return StoredEntry(key, size, None, None, problem="not a record of ours", where=name)
    label = read_label(record.label)
    if label is None:
        problem = "its label cannot be read" if record.label else ""
        return _told(backend, key, name, size, record, left, None, None, problem, payloads)
    plan = backend._plans.make(label.tags)
    problem = ""
    if backend._seal is not None and read_entry(raw, backend._seal, backend._bound(key, plan)) is None:
        problem = "not sealed with this secret"
    current = not problem and await _is_current(backend, plan, record)
    return _told(backend, key, name, size, record, left, label, current, problem, payloads)


async def _is_current(backend: RedisBackend, plan: Plan, record: EntryRecord) -> bool:
    seen = await (backend._read_all(None, plan) if plan.only is None else backend._links.look(plan.only, None))
    return seen.stamp() == record.stamp


def _told(
    backend: RedisBackend,
    key: bytes,
    name: bytes,
    size: int,
    record: EntryRecord,
    left: int,
    label: Label | None,
    current: bool | None,
    problem: str,
    payloads: bool,
) -> StoredEntry:
    fresh = left / 1000 - record.grace if record.ttl else None  # by the server's clock
    age = max(0.0, time.time() + backend._skew_ms / 1000 - record.created)
    return StoredEntry(
        key,
        size,
        age,
        None if fresh is None else max(0.0, fresh),
        record.load_seconds,
        current and (fresh is None or fresh > 0),
        "" if label is None else label.group,
        "" if label is None else label.tool,
        "" if label is None else label.resource,
        "" if label is None else label.namespace,
        None if label is None else label.tags,
        record.payload if payloads else None,
        record.grace,
        problem,
        name,
        "" if label is None else label.arguments,
    )
