"""Redis as a plain key-value cache: values under the caller's own names, beside the tools' entries and apart from them.

``clear``, ``count``, ``keys`` and ``delete_pattern`` look through the keyspace with SCAN; nothing on the way of a tool's
read or write does.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any

from agent_cache.backends.packing import Packing
from agent_cache.backends.redis.links import Links
from agent_cache.backends.redis.records import Names, opened_value, sealed_value
from agent_cache.backends.redis.resp import Command
from agent_cache.backends.redis.sizes import SMALL, Sizes
from agent_cache.bounds import refuse_larger
from agent_cache.clock import seconds
from agent_cache.codecs import codec_for
from agent_cache.errors import UnstorableResultError
from agent_cache.policy import checked_items, checked_key, checked_keys, checked_pattern

__all__ = ["KeyValueSurface", "slot_of"]

_SCANNED = 500  # keys looked at per round trip
_FOR_EVER = 1e12  # seconds; of more Redis makes no time
_CODEC = codec_for(Any)


class KeyValueSurface:
    """The key-value half of :class:`RedisBackend`."""

    def __init__(
        self, links: Links, names: Names, default_ttl: float | None, seal: bytes | None, most: int, packing: Packing
    ) -> None:
        self._links = links
        self._names = names
        self._default_ttl = default_ttl
        self._seal = seal
        self._most = most
        self._packing = packing
        self._sizes = Sizes()
        self._hits = self._misses = self._corrupt = 0

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, the caller's own; ``default`` when there is none or it has expired."""
        found = await self.get_many([key])
        return found.get(key, default)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a value, for ``ttl`` seconds (without one: ``default_ttl``, and without that for ever).

        Raises:
            UnstorableResultError: the value would not come back equal, or is too large.
            BackendError: Redis is away.
        """
        await self.set_many({key: value}, ttl)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those of ``keys`` that are there, in one round trip (on a Cluster: one per server)."""
        wanted = checked_keys(keys)
        found: dict[str, Any] = {}
        for asked in await self._each(wanted):
            raws = (await self._links.ask(slot_of(self._names.value(asked[0])), self._getting(asked))).values
            values = raws[0] if len(raws) == 1 and not self._links.sharded else raws
            for key, raw in zip(asked, values, strict=True):
                if raw is None:
                    self._misses += 1
                    continue
                try:
                    payload = opened_value(self._seal, self._names.value(key), raw)
                    if payload is None:
                        raise UnstorableResultError("codec_error", "not sealed with our secret")
                    found[key] = _CODEC.thaw_payload(payload, self._most).fresh()
                    self._hits += 1
                except UnstorableResultError:  # not ours, or damaged: a miss
                    self._misses += 1
                    self._corrupt += 1
        return found

    def _getting(self, keys: list[str]) -> list[Command]:
        names = [self._names.value(key) for key in keys]
        return [("GET", name) for name in names] if self._links.sharded else [("MGET", *names)]

    async def set_many(self, items: Mapping[str, Any], ttl: float | None = None) -> None:
        """Store all in one round trip (on a Cluster: one per server)."""
        lives = seconds(ttl, "ttl") if ttl is not None else self._default_ttl
        until: tuple[Any, ...] = () if lives is None or lives > _FOR_EVER else ("PX", max(1, round(lives * 1000)))
        payloads: dict[str, bytes] = {}
        for key, value in checked_items(items).items():
            payload = payloads[key] = _CODEC.freeze(value).payload()
            refuse_larger(len(payload), self._most)
        for key, payload in payloads.items():
            packed = payload if self._packing.least is None else await self._packing.aside(payload)
            payloads[key] = sealed_value(self._seal, self._names.value(key), packed)
        for group in await self._each(list(payloads)):
            slot = slot_of(self._names.value(group[0]))
            sets = [("SET", self._names.value(k), payloads[k], *until) for k in group]
            largest = max(len(payloads[k]) for k in group)
            if largest <= SMALL:
                await self._links.ask(slot, sets)
            else:
                await self._sizes.sent(largest, partial(self._links.ask, slot, sets))

    async def delete(self, key: str) -> bool:
        """Remove one key; tells whether it was there."""
        name = self._names.value(checked_key(key))
        return bool((await self._links.ask(slot_of(name), [("UNLINK", name)])).values[0])

    async def exists(self, key: str) -> bool:
        name = self._names.value(checked_key(key))
        return bool((await self._links.ask(slot_of(name), [("EXISTS", name)])).values[0])

    async def keys(self) -> AsyncIterator[str]:
        """All keys of the key-value cache, in no order."""
        start = len(self._names.value(""))
        seen: set[bytes] = set()  # SCAN may give a key twice
        async for name in self._scan(self._names.value("")):
            if name not in seen:
                seen.add(name)
                yield name[start:].decode("utf-8", "surrogatepass")

    async def delete_pattern(self, pattern: str) -> int:
        """Remove keys matching a glob (``*``, ``?``, ``[abc]``; ``[*]`` is a literal star); returns how many."""
        glob = checked_pattern(pattern)
        found = [key async for key in self.keys() if fnmatch.fnmatchcase(key, glob)]
        return await self._unlink([self._names.value(key) for key in found])

    async def count(self) -> int:
        """How many keys the key-value cache has."""
        return sum([1 async for _ in self.keys()])

    async def _drop_everything(self) -> None:
        """Values, entries and leads under the prefix; tag records stay, they are what keeps old loads out."""
        found = [name async for name in self._scan(self._names.value(""))]
        found += [name async for name in self._scan(self._names.prefix + b"{") if b"}t:" not in name]
        await self._unlink(found)

    async def _unlink(self, names: list[bytes]) -> int:
        removed = 0
        for some in _batched(names):
            if self._links.sharded:
                replies = await asyncio.gather(*(self._links.ask(slot_of(name), [("UNLINK", name)]) for name in some))
                removed += sum(int(reply.values[0]) for reply in replies)
            else:
                removed += int((await self._links.ask(b"", [("UNLINK", *some)])).values[0])
        return removed

    async def _scan(self, prefix: bytes) -> AsyncIterator[bytes]:
        pattern = b"".join(b"\\" + bytes((c,)) if c in b"*?[]^-\\" else bytes((c,)) for c in prefix) + b"*"
        for server in await self._links.primaries():
            cursor: Any = 0
            while True:
                replies = await self._links.ask(server, [("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED)])
                cursor, names = replies.values[0]
                for name in names:
                    yield name
                if int(cursor) == 0:
                    break

    async def _each(self, keys: list[str]) -> list[list[str]]:
        """Keys that can be asked for together."""
        if not self._links.sharded:
            return [keys] if keys else []
        groups: dict[bytes, list[str]] = {}
        for key in keys:
            groups.setdefault(slot_of(self._names.value(key)), []).append(key)
        return list(groups.values())


def slot_of(name: bytes) -> bytes:
    """The hash tag of a key: what stands in its first braces, else all of it."""
    start = name.find(b"{")
    end = name.find(b"}", start + 1)
    return name[start + 1 : end] if 0 <= start < end - 1 else name


def _batched(names: list[bytes]) -> Iterable[list[bytes]]:
    return (names[at : at + _SCANNED] for at in range(0, len(names), _SCANNED))
