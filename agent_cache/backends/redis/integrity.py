"""Whether what stands under a prefix is ours and will go away by itself. Nothing is changed unless it is asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent_cache.backends.base import Finding
from agent_cache.backends.redis.keyvalue import slot_of
from agent_cache.backends.redis.records import read_tag

if TYPE_CHECKING:
    from agent_cache.backends.redis.backend import RedisBackend

__all__ = ["check"]

_BATCH = 200


async def check(backend: RedisBackend, *, repair: bool) -> list[Finding]:
    """Tag records that cannot be read, records without an end, names that are nobody's. Raises BackendError."""
    unread: set[bytes] = set()
    endless: set[bytes] = set()
    strange: set[bytes] = set()
    many = 0
    batch: list[bytes] = []
    async for name in backend._scan(backend._names.prefix + b"{"):
        kind = name.partition(b"}")[2][:2]
        if name.endswith(b"}doctor"):  # what the doctor has just tried to write; it goes by itself
            continue
        if kind not in (b"t:", b"e:", b"l:"):
            strange.add(name)
            continue
        many += kind == b"t:"
        batch.append(name)
        if len(batch) >= _BATCH:
            await _look(backend, batch, unread, endless)
            batch = []
    await _look(backend, batch, unread, endless)
    if repair:
        # A tag that is lost is minted anew: what depended on it is never served again. Names of others are left alone.
        await backend._unlink([*(unread | endless)])
    mends = "integrity_check(repair=True) deletes them: what depended on them is loaded again"
    return [
        Finding("error", "tags", f"{len(unread)} of {many} records cannot be read", mends)
        if unread
        else Finding("ok", "tags", f"{many} records"),
        Finding("error", "ends", f"{len(endless)} records have no time to live", mends)
        if endless
        else Finding("ok", "ends", "every record goes away by itself"),
        Finding(
            "warning", "names", f"{len(strange)} keys under the prefix are not ours", "give every application a prefix"
        )
        if strange
        else Finding("ok", "names", "every key is ours"),
    ]


async def _look(backend: RedisBackend, names: list[bytes], unread: set[bytes], endless: set[bytes]) -> None:
    links = backend._links

    async def one(name: bytes) -> None:
        is_tag = name.partition(b"}")[2][:2] == b"t:"
        replies = await links.ask(slot_of(name), [("PTTL", name), ("GET" if is_tag else "EXISTS", name)])
        left, raw = replies.values
        if int(left) == -1:
            endless.add(name)
        if is_tag and raw is not None and read_tag(raw) is None:
            unread.add(name)

    await asyncio.gather(*(one(name) for name in names))
