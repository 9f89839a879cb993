"""Figures over time, kept in this process; and how those who keep them elsewhere are asked.

The sums themselves are :mod:`agent_cache.recorded`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from agent_cache.locks import renewed_after_fork
from agent_cache.recorded import HOUR, KEPT, MINUTE, StatsRow, Sums, hour_of, in_period, rows_from

__all__ = ["FigureKeeping", "Figures"]


@runtime_checkable
class FigureKeeping(Protocol):
    """A backend that keeps figures over time. ``sync`` has both methods, blocking."""

    async def add_stats(self, minute: int, sums: Mapping[str, Mapping[str, float]], *, now: float) -> None:
        """Add sums by tool to those of this minute (seconds since 1970) and of its hour; forget what is too old."""
        ...

    async def recorded_stats(
        self, since: float | None = None, until: float | None = None, *, now: float | None = None
    ) -> list[StatsRow]:
        """What was recorded: a row per tool and minute of the last day, per tool and hour before, oldest first.

        ``since``, ``until``, ``now``: seconds since 1970; whole rows that reach into the period.
        """
        ...


class Figures:
    """For a store that lives no longer than its process."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._kept: dict[tuple[int, int], Sums] = {}

    def add(self, minute: int, sums: Mapping[str, Mapping[str, float]], now: float) -> None:
        with self._lock:
            for name in ((minute, MINUTE), (hour_of(minute), HOUR)):
                there = self._kept.setdefault(name, {})
                for tool, figures in sums.items():
                    mine = there.setdefault(tool, {})
                    for figure, amount in figures.items():
                        mine[figure] = mine.get(figure, 0) + amount
            for start, span in [each for each in self._kept if each[0] <= now - KEPT[each[1]]]:
                del self._kept[start, span]

    def rows(self, since: float | None, until: float | None, now: float | None) -> list[StatsRow]:
        moment = time.time() if now is None else now
        with self._lock:
            wanted = sorted(name for name in self._kept if in_period(*name, moment, since, until))
            return [row for name in wanted for row in rows_from(*name, self._kept[name])]
