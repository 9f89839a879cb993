"""What a report page is told. Plain frozen data; where it comes from is :mod:`agent_cache.reporting`'s business.

Moments are seconds since 1970, UTC. Figures that nobody measured are None, and the page leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

__all__ = ["AGE_BOUNDS", "Ages", "Drop", "Figures", "LoopShown", "ReportData", "ShownCall", "Slice", "ToolSeries"]

AGE_BOUNDS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0)
"""The upper ends, in seconds, of the ranges by which ages are counted; what is older is counted in one more."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened to the calls of one tool, or of all, in some time.

    Attributes:
        hits: answered from the cache; ``misses``: the tool ran (``stale`` and ``expired``: of these, because a write dropped
            what was stored, because its time was over); ``coalesced``: shared the load of another call.
        stale_served: of the hits, answers older than their ttl, where a tool allows that.
        bypasses: reads that ran uncached; ``failures``: loads that raised; ``writes``: calls that dropped something.
        loops: found by the detector.
        seconds_saved: what the loads took whose results were served again; ``cost_saved``: in the unit of ``cost=``.
    """

    hits: float = 0
    misses: float = 0
    coalesced: float = 0
    stale: float = 0
    expired: float = 0
    stale_served: float = 0
    bypasses: float = 0
    failures: float = 0
    writes: float = 0
    loops: float = 0
    seconds_saved: float = 0.0
    cost_saved: float = 0.0

    @property
    def hit_rate(self) -> float | None:
        """Hits over hits and misses; None without either."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Figures)))


@dataclass(frozen=True, slots=True)
class Slice:
    """The figures of one stretch of time, from ``start`` on."""

    start: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Ages:
    """How old the served entries were: a count for each range of :data:`AGE_BOUNDS`, and one for what is older."""

    counts: tuple[float, ...]
    oldest: float | None = None
    """In seconds."""


@dataclass(frozen=True, slots=True)
class ToolSeries:
    """One tool: its sum, and the same in slices of equal length, in order, if it is known when things happened."""

    tool: str
    total: Figures
    slices: tuple[Slice, ...] = ()
    ages: Ages | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """A write, and what it dropped.

    ``by`` is the tool that wrote; None where the write is not in the source (another process, an older file).
    ``reads`` says by tool how many reads found their entry dropped by it.
    """

    by: str | None
    times: float
    resources: tuple[str, ...] = ()
    reads: Mapping[str, float] = field(default_factory=dict[str, float])
    failed: float = 0
    no_effect: float = 0
    last: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownCall:
    """A call as evidence: ``what`` tells equal calls from others (arguments as text, or a label)."""

    tool: str
    what: str
    step: int | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class LoopShown:
    """A loop with its evidence."""

    tool: str
    kind: str
    count: float
    period: int = 1
    times: float = 1
    """How often it was found again."""
    at: float | None = None
    session: str | None = None
    where: str | None = None
    """Where in the run, in words."""
    hint: str | None = None
    calls: tuple[ShownCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportData:
    """A whole report.

    ``drops`` and ``loops`` are None where the source cannot know them (which the page says), empty where there were none.
    ``width`` is the length of a slice in seconds, ``currency`` the unit of ``cost=``, ``notes`` what a reader must know.
    """

    title: str
    sources: tuple[str, ...]
    tools: tuple[ToolSeries, ...]
    since: float | None = None
    until: float | None = None
    width: float | None = None
    drops: tuple[Drop, ...] | None = None
    loops: tuple[LoopShown, ...] | None = None
    loop_count: float | None = None
    currency: str = ""
    notes: tuple[str, ...] = ()
    noun: str = "Tool"
    """What the series are of."""

    @property
    def total(self) -> Figures:
        return sum((series.total for series in self.tools), Figures())
