"""What the sums in a store tell: figures over time, ages, and by whom what was dropped. No single event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agent_cache.pages import Drop
from agent_cache.recorded import AGES, StatsRow
from agent_cache.reporting.timeline import Timeline

__all__ = ["Summed"]

_SAME = ("hits", "misses", "stale", "expired", "coalesced", "loops", "seconds_saved", "cost_saved")


class Summed:
    """Takes rows of ``backend.recorded_stats()``."""

    def __init__(self, rows: Iterable[StatsRow]) -> None:
        self.timeline = Timeline()
        self.loop_count = 0
        self._writes: Counter[str] = Counter()
        self._reads: dict[str, Counter[str]] = {}
        for row in rows:
            self._row(row)

    def _row(self, row: StatsRow) -> None:
        amounts = {name: float(getattr(row, name)) for name in _SAME}
        self.timeline.add(row.tool, row.start, amounts | {"writes": float(row.invalidations)}, row.seconds)
        self.loop_count += row.loops
        if row.invalidations:
            self._writes[row.tool] += row.invalidations
        for number, bound in enumerate((*map(str, AGES), "older")):
            if times := row.ages.get(bound):
                self.timeline.aged(row.tool, number, times)
        for writer, times in row.dropped_by.items():
            self._reads.setdefault(writer, Counter())[row.tool] += times

    def drops(self) -> tuple[Drop, ...]:
        names = {*self._writes, *self._reads}
        return tuple(Drop(name, self._writes[name], (), dict(self._reads.get(name, {}))) for name in sorted(names))
