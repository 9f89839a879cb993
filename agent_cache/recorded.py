"""Figures over time: bounded sums per minute and tool, how they are counted here, and how they are read back from a store.

For ``configure(record_stats=True)``. What belongs here: the sums, their names, what is kept for how long. Who writes them
when is :mod:`agent_cache.recording`'s business, how a store keeps them the backends'. Names and numbers only: no argument,
no result, no session.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agent_cache.locks import renewed_after_fork

__all__ = [
    "AGES",
    "HOUR",
    "KEPT",
    "MINUTE",
    "TALLY",
    "StatsRow",
    "Sums",
    "Taken",
    "Tally",
    "hour_of",
    "in_period",
    "minute_of",
    "rows_from",
]

MINUTE, HOUR = 60, 3600
KEPT = {MINUTE: 24 * HOUR, HOUR: 7 * 24 * HOUR}
"""For how many seconds sums of so many seconds are kept: minutes for a day, hours for a week."""
AGES = (1, 10, 60, 600, 3_600, 86_400)
"""Bounds (seconds) of the ages at which entries are served; what is older counts as ``"older"``."""
Sums = dict[str, dict[str, float]]
"""By tool: a figure's name and its amount."""
_COUNTS = ("hits", "misses", "stale", "expired", "coalesced", "invalidations", "loops")
_AMOUNTS = ("seconds_saved", "cost_saved")
_MOST_TOOLS, _MOST_FIGURES, _MOST_MINUTES = 500, 64, 60
_OVERFLOW = "(other)"
_LONGEST = 200


class Taken(NamedTuple):
    """Sums to be stored: ``minute`` is when it began, in seconds since 1970."""

    minute: int
    sums: Sums


@dataclass(frozen=True, slots=True)
class StatsRow:
    """What one tool did in one minute, or in one hour of longer ago.

    Attributes:
        start: when it began, in seconds since 1970.
        seconds: how long it is: 60 or 3600.
        tool: its name.
        hits, misses: reads answered from the cache; loads that were run.
        stale, expired: misses of an entry that a write had dropped, or whose ttl was over.
        coalesced: calls that shared a load.
        invalidations: writes, and drops by hand, that moved tags.
        loops: loops detected.
        seconds_saved: seconds of loading that hits saved; ``cost_saved``: the same in the tools' ``cost``.
        ages: hits by age of the entry: ``"1"`` (up to one second), ``"10"``, ``"60"``, ``"600"``, ``"3600"``, ``"86400"``,
            ``"older"``.
        dropped_by: stale misses by who dropped the entry.
    """

    start: int
    seconds: int
    tool: str
    hits: int = 0
    misses: int = 0
    stale: int = 0
    expired: int = 0
    coalesced: int = 0
    invalidations: int = 0
    loops: int = 0
    seconds_saved: float = 0.0
    cost_saved: float = 0.0
    ages: Mapping[str, int] = field(default_factory=dict[str, int])
    dropped_by: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def hit_rate(self) -> float:
        """Hits over hits and misses; 0.0 without calls."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        named = {name: getattr(self, name) for name in ("start", "seconds", "tool", *_COUNTS, *_AMOUNTS)}
        return {**named, "hit_rate": self.hit_rate, "ages": dict(self.ages), "dropped_by": dict(self.dropped_by)}


def minute_of(now: float) -> int:
    """The minute that a moment is in, as the second it began at."""
    return int(now // MINUTE) * MINUTE


def hour_of(minute: int) -> int:
    return minute // HOUR * HOUR


class Tally:
    """What this process has counted and not yet handed over. While it is not ``on``, nobody counts.

    Bounded: past 500 tools the rest is ``(other)``, past 64 figures of a tool further writers (there may be many) are
    not counted; what could not be handed over for an hour's worth of minutes is dropped, oldest first.
    """

    def __init__(self) -> None:
        self.on = False
        self._lock = renewed_after_fork(self, "_lock")
        self._sums: Sums = {}
        self._late: dict[int, Sums] = {}

    def add(self, tool: str, figure: str, amount: float = 1) -> None:
        """Count."""
        with self._lock:
            _add(self._sums, tool, figure, amount)

    def hit(self, tool: str, seconds: float, cost: float, age: float, times: int = 1) -> None:
        """Count hits of an entry of this age; ``seconds`` and ``cost`` are what they saved together."""
        with self._lock:
            _add(self._sums, tool, "hits", times)
            _add(self._sums, tool, "seconds_saved", seconds)
            _add(self._sums, tool, "cost_saved", cost)
            if math.isfinite(age):
                _add(self._sums, tool, f"age:{_bucket(age)}", times)

    def missed(self, tool: str, why: str, dropped_by: str | None) -> None:
        """Count a load that was run; ``why`` as of a lookup."""
        with self._lock:
            _add(self._sums, tool, "misses", 1)
            if why in ("stale", "expired"):
                _add(self._sums, tool, why, 1)
            if why == "stale" and dropped_by:
                _add(self._sums, tool, f"by:{dropped_by[:_LONGEST]}", 1)

    def take(self, now: float) -> list[Taken]:
        """What is to be stored, oldest first; what was counted since the last time counts for the minute of ``now``."""
        with self._lock:
            minute = minute_of(now)
            if self._sums:
                self._keep(Taken(minute, self._sums))
                self._sums = {}
            taken, self._late = self._late, {}
            return [Taken(at, taken[at]) for at in sorted(taken)]

    def give_back(self, taken: Iterable[Taken]) -> None:
        """These could not be stored: for the next time."""
        with self._lock:
            for each in taken:
                self._keep(each)

    def _keep(self, taken: Taken) -> None:
        there = self._late.setdefault(taken.minute, {})
        for tool, figures in taken.sums.items():
            for figure, amount in figures.items():
                _add(there, tool, figure, amount)
        for minute in sorted(self._late)[:-_MOST_MINUTES]:
            del self._late[minute]

    def clear(self) -> None:
        with self._lock:
            self._sums, self._late = {}, {}


TALLY = Tally()
"""This process'."""


def _add(sums: Sums, tool: str, figure: str, amount: float) -> None:
    figures = sums.get(tool)
    if figures is None:
        name = tool[:_LONGEST] if len(sums) < _MOST_TOOLS else _OVERFLOW
        figures = sums.setdefault(name, {})
    # writers alone are many: what comes after them must not be lost
    if figure in figures or len(figures) < _MOST_FIGURES or not figure.startswith("by:"):
        figures[figure] = figures.get(figure, 0) + amount


def _bucket(age: float) -> str:
    return next((str(bound) for bound in AGES if age <= bound), "older")


def rows_from(start: int, seconds: int, sums: Mapping[str, Mapping[str, float]]) -> list[StatsRow]:
    """Rows of what a store gave back; names that are not known here (of a later version) are left out."""
    rows: list[StatsRow] = []
    for tool in sorted(sums):
        known: dict[str, Any] = {name: round(sums[tool].get(name, 0)) for name in _COUNTS}
        known |= {name: float(sums[tool].get(name, 0.0)) for name in _AMOUNTS}
        known["ages"] = _under("age:", sums[tool])
        known["dropped_by"] = _under("by:", sums[tool])
        rows.append(StatsRow(start, seconds, tool, **known))
    return rows


def _under(prefix: str, figures: Mapping[str, float]) -> dict[str, int]:
    return {name[len(prefix) :]: round(figures[name]) for name in sorted(figures) if name.startswith(prefix)}


def in_period(start: int, seconds: int, now: float, since: float | None, until: float | None) -> bool:
    """Whether sums of this minute or hour belong into an answer: each moment is told once, by its minute while minutes
    are kept for all of its hour."""
    by_minutes = hour_of(int(now) - KEPT[MINUTE]) + HOUR
    right = start >= by_minutes if seconds == MINUTE else by_minutes > start > now - KEPT[HOUR]
    return right and (since is None or start + seconds > since) and (until is None or start < until)
