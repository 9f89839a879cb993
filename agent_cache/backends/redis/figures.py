"""Figures over time in Redis: a hash per minute and per hour, which expires. What they mean is not known here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from agent_cache.backends.redis.keyvalue import slot_of
from agent_cache.backends.redis.links import Links
from agent_cache.backends.redis.resp import Command
from agent_cache.recorded import HOUR, KEPT, MINUTE, StatsRow, Sums, hour_of, in_period, rows_from

__all__ = ["add", "rows"]

_BETWEEN = b"\x1f"
_BATCH = 200


def _name(prefix: bytes, span: int, start: int) -> bytes:
    return b"%sstats:%d:%d" % (prefix, span, start)


async def add(links: Links, prefix: bytes, minute: int, sums: Mapping[str, Mapping[str, float]], now: float) -> None:
    """Add to the minute and to its hour. Raises BackendError. What was sent on a connection that then broke may count twice."""
    for span, start in ((MINUTE, minute), (HOUR, hour_of(minute))):
        left = round(start + span + KEPT[span] - now)
        if left <= 0:
            continue
        name = _name(prefix, span, start)
        commands: list[Command] = [
            ("HINCRBYFLOAT", name, _BETWEEN.join((_raw(tool), _raw(figure))), repr(float(amount)).encode())
            for tool, figures in sums.items()
            for figure, amount in figures.items()
        ]
        await links.ask(slot_of(name), [*commands, ("EXPIRE", name, left)])


async def rows(
    links: Links, prefix: bytes, since: float | None, until: float | None, now: float | None
) -> list[StatsRow]:
    """See :class:`~agent_cache.backends.figures.FigureKeeping`. Raises BackendError."""
    moment = time.time() if now is None else now
    wanted = sorted(
        (start, span)
        for span, kept in KEPT.items()
        for start in range((int(moment) - kept) // span * span, int(moment) + span + 1, span)
        if in_period(start, span, moment, since, until)
    )
    found: list[StatsRow] = []
    for at in range(0, len(wanted), _BATCH):
        some = wanted[at : at + _BATCH]
        for (start, span), reply in zip(some, await _read(links, prefix, some), strict=True):
            found += rows_from(start, span, _sums(reply))
    return found


async def _read(links: Links, prefix: bytes, some: list[tuple[int, int]]) -> list[Any]:
    names = [_name(prefix, span, start) for start, span in some]
    if not links.sharded:
        return list((await links.ask(b"", [("HGETALL", name) for name in names])).values)
    replies = await asyncio.gather(*(links.ask(slot_of(name), [("HGETALL", name)]) for name in names))
    return [reply.values[0] for reply in replies]


def _sums(reply: Any) -> Sums:
    """RESP3 answers with a map, RESP2 with a list; what is not of ours is left out."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    found: Sums = {}
    for name, amount in pairs:
        tool, between, figure = name.partition(_BETWEEN)
        if between:
            found.setdefault(tool.decode("utf-8", "replace"), {})[figure.decode("utf-8", "replace")] = float(amount)
    return found


def _raw(name: str) -> bytes:
    return name.replace("\x1f", " ").encode("utf-8", "replace")
