"""Import: entries out of a file into a store, each filled under a token of that store like any load.

The tokens are taken first, while the file is read to see whether it is whole: what is written from then on wins, however
long the import takes. What was written after the export and before that nobody can know.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Hashable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from agent_cache.backends.base import Found, Missing, NewEntry, Token
from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.clock import Clock, seconds
from agent_cache.codecs import Stored, ToolCodec, codec_for
from agent_cache.codecs.lasting import FAILURE
from agent_cache.errors import UnstorableResultError
from agent_cache.known import known_tool
from agent_cache.moving.files import Incoming, checked_path
from agent_cache.moving.format import Record
from agent_cache.moving.leaving import checked_namespaces
from agent_cache.moving.reports import MoveReport
from agent_cache.policy import checked_secret

__all__ = ["RAW", "import_"]

T = TypeVar("T")

_VALUES = codec_for(Any)


class _RawCodec(ToolCodec):
    """For looking whether there is something, not what."""

    def thaw_payload(self, payload: bytes, max_bytes: int = MAX_ENTRY_BYTES) -> Stored:
        return Stored(None, None, len(payload), payload)


RAW: ToolCodec = _RawCodec(Any)


class _Opening:
    """A payload that is decoded when it is first asked for: by the tool's own codec, once this process has the tool."""

    __slots__ = ("_group", "_opened", "_payload")

    def __init__(self, payload: bytes, group: str) -> None:
        self._payload = payload
        self._group = group
        self._opened: Stored | None = None

    def __call__(self) -> Any:
        """Raises UnstorableResultError, which is a miss, where there is no such tool or it reads it no more."""
        opened = self._opened
        if opened is None:
            known = known_tool(self._group)
            if known is None:
                raise UnstorableResultError("codec_error", "the tool is not known here")
            opened = self._opened = known.codec.thaw_payload(self._payload)
        return opened.fresh()


@dataclass(slots=True)
class _Rules:
    """What is to be taken in."""

    namespaces: frozenset[str] | None
    max_age: float | None
    replace: bool


async def import_(
    backend: Any,
    file: str | os.PathLike[str],
    *,
    namespaces: str | Iterable[str] | None = None,
    max_age: float | timedelta | None = None,
    replace: bool = False,
    frozen: bool = False,
    secret: str | bytes | None = None,
    wall: Clock = time.time,
) -> MoveReport:
    """Store what is in a file. See :meth:`~agent_cache.moving.Movable.import_`."""
    rules = _Rules(checked_namespaces(namespaces), seconds(max_age, "max_age"), bool(replace))
    path, key = checked_path(file), checked_secret(secret)
    incoming = await asyncio.to_thread(Incoming, path, key)
    moved: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    try:
        source = await asyncio.to_thread(incoming.rewind)
        before: list[Hashable] = []
        while portion := await asyncio.to_thread(incoming.portion):
            # All of it is read once before anything is stored: what is cut off or altered is refused as a whole.
            before += await _each([_witness(backend, record) for record in portion])
        await asyncio.to_thread(incoming.rewind)
        at = 0
        while portion := await asyncio.to_thread(incoming.portion):
            aged = [
                _aged(record, 0.0 if frozen else max(0.0, wall() - source.created - record.at)) for record in portion
            ]
            storing = [
                _store(backend, record, rules, held)
                for record, held in zip(aged, before[at : at + len(aged)], strict=True)
            ]
            at += len(aged)
            done = await _each(storing)
            for record, why in zip(aged, done, strict=True):
                _count(record, why, moved, left_out)
            await _flush(backend)
    finally:
        await asyncio.to_thread(incoming.close)
    return MoveReport(moved["entries"], moved["values"], moved["bytes"], dict(left_out))


async def _each(work: Iterable[Awaitable[T]]) -> list[T]:
    """All at once; an error is raised when the others are through."""
    done = await asyncio.gather(*work, return_exceptions=True)
    found: list[T] = []
    for each in done:
        if isinstance(each, BaseException):
            raise each
        found.append(each)
    return found


async def _witness(backend: Any, record: Record) -> Hashable:
    """What tells later whether something was written since: None where something is being written.

    A store of this process gives its token, which also keeps what it is about alive there; of others a number is enough.
    """
    if isinstance(record.key, str) or record.problem or not record.tags:
        return None
    seen = await backend.lookup(None, record.tags, RAW)
    return _witnessed(backend, seen.token) if isinstance(seen, Missing) else None


def _witnessed(backend: Any, token: Token) -> Hashable:
    return token if backend.in_process else hash((token, token.stamp))


def _count(record: Record, why: str, moved: Counter[str], left_out: Counter[str]) -> None:
    if why:
        left_out[why] += 1
        return
    moved["values" if isinstance(record.key, str) else "entries"] += 1
    moved["bytes"] += len(record.payload)


def _aged(record: Record, spent: float) -> Record:
    """As it is after the time it lay in the file."""
    record.age += spent
    if record.ttl is not None:
        record.ttl -= spent
    return record


async def _store(backend: Any, record: Record, rules: _Rules, before: Hashable) -> str:
    """Why it was not stored; empty if it was. Raises BackendError."""
    if rules.namespaces is not None and record.namespace not in rules.namespaces:
        return "other_namespace"
    if record.problem:
        return record.problem
    if isinstance(record.key, bytes) and not record.tags:
        return "unlabelled"  # no write could ever drop it
    if record.ttl is not None and record.ttl <= 0:
        return "expired"
    if rules.max_age is not None and record.age > rules.max_age:
        return "too_old"
    try:
        if isinstance(record.key, str):
            return await _store_value(backend, record.key, record, rules)
        return await _store_entry(backend, record.key, record, rules, before)
    except UnstorableResultError:
        return "refused"


async def _store_value(backend: Any, key: str, record: Record, rules: _Rules) -> str:
    if not rules.replace and await backend.exists(key):
        return "there"
    await backend.set(key, _VALUES.thaw_payload(record.payload).fresh(), record.ttl)
    return ""


async def _store_entry(backend: Any, key: bytes, record: Record, rules: _Rules, before: Hashable) -> str:
    seen = await backend.lookup(None if rules.replace else key, record.tags, RAW)
    if isinstance(seen, Found):
        return "there"
    if not isinstance(seen, Missing) or before is None:
        return "blocked"
    if _witnessed(backend, seen.token) != before:
        return "refused"  # written since the import began
    entry = NewEntry(
        key,
        _stored(backend, record),
        record.ttl,
        record.load_seconds,
        record.group,
        None,
        record.tags[-1][1] if record.tags else (),
        namespace=record.namespace,
        grace=record.grace,
        age=record.age,
    )
    return "" if await backend.fill(seen.token, entry) else "refused"


def _stored(backend: Any, record: Record) -> Stored:
    """As it is handed over: decoded where it is kept decoded and the tool is known. Raises UnstorableResultError."""
    payload = record.payload
    known = known_tool(record.group) if backend.in_process or hasattr(backend, "near") else None
    if known is not None:
        return known.codec.thaw_payload(payload)
    if backend.in_process and payload[:1] == FAILURE:
        raise UnstorableResultError("error_class", "an error is kept as such only where its tool is known")
    return Stored(None, _Opening(payload, record.group), len(payload), payload)


async def _flush(backend: Any) -> None:
    """Where fills are written behind: wait, rather than to have more of them than are taken."""
    flush = getattr(getattr(backend, "far", backend), "flush", None)
    if flush is not None:
        await flush()
