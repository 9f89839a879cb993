"""Figures over time in the file: a table of their own, made when they are first written. What they mean is not known here."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping

from agent_cache.backends.disk.store import EntryStore
from agent_cache.backends.disk.writer import Job
from agent_cache.recorded import HOUR, KEPT, MINUTE, StatsRow, Sums, hour_of, in_period, rows_from

__all__ = ["add_job", "rows"]

_MAKE = (
    "CREATE TABLE IF NOT EXISTS figures (span INTEGER, start INTEGER, tool TEXT, figure TEXT, amount REAL NOT NULL, "
    "PRIMARY KEY (span, start, tool, figure)) WITHOUT ROWID"
)
_ADD = (
    "INSERT INTO figures VALUES (?,?,?,?,?) "
    "ON CONFLICT (span, start, tool, figure) DO UPDATE SET amount = amount + excluded.amount"
)
_FORGET = "DELETE FROM figures WHERE span=? AND start<=?"
_THERE = "SELECT 1 FROM sqlite_master WHERE type='table' AND name='figures'"
_READ = "SELECT start, span, tool, figure, amount FROM figures WHERE span IN (60, 3600) AND start>? AND start<? ORDER BY start"


def add_job(minute: int, sums: Mapping[str, Mapping[str, float]], now: float) -> Job:
    """Add to the minute and to its hour, and forget what is too old."""
    spans = ((MINUTE, minute), (HOUR, hour_of(minute)))
    added = [
        (span, start, _text(tool), _text(figure), float(amount))
        for span, start in spans
        for tool, figures in sums.items()
        for figure, amount in figures.items()
    ]

    def work(db: sqlite3.Connection) -> None:
        db.execute(_MAKE)
        db.executemany(_ADD, added)
        for span, kept in KEPT.items():
            db.execute(_FORGET, (span, now - kept))

    return Job(work)


def rows(store: EntryStore, since: float | None, until: float | None, now: float | None) -> list[StatsRow]:
    """See :class:`~agent_cache.backends.figures.FigureKeeping`. Raises NotReady, BackendError."""
    if not store._select(_THERE, ()):
        return []
    moment = time.time() if now is None else now
    first = moment - KEPT[HOUR] if since is None else since - HOUR
    found: dict[tuple[int, int], Sums] = {}
    for start, span, tool, figure, amount in store._select(_READ, (first, moment + HOUR if until is None else until)):
        if isinstance(tool, str) and isinstance(figure, str) and in_period(start, span, moment, since, until):
            found.setdefault((start, span), {}).setdefault(tool, {})[figure] = float(amount)
    return [row for name in sorted(found) for row in rows_from(*name, found[name])]


def _text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
