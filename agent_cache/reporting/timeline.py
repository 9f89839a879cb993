"""Sums by tool over time, in memory that does not grow with the traffic: slices are widened until a chart can show them."""

from __future__ import annotations

from collections.abc import Mapping

from agent_cache.pages import Ages, Figures, Slice, ToolSeries
from agent_cache.pages.data import AGE_BOUNDS

__all__ = ["OTHERS", "Timeline"]

OTHERS = "(other tools)"
MOST_SLICES = 48
_MOST_TOOLS = 1_000
_DAY = 86_400.0
_WIDTHS = (60.0, 300.0, 900.0, 3_600.0, 3 * 3_600.0, 6 * 3_600.0, _DAY, 7 * _DAY)
Amounts = dict[str, float]


class Timeline:
    """Takes amounts (names as of :class:`~agent_cache.pages.Figures`) by tool and moment, in seconds since 1970."""

    def __init__(self) -> None:
        self.width = _WIDTHS[0]
        self.since: float | None = None
        self.until: float | None = None
        self._tools: dict[str, dict[float, Amounts]] = {}
        self._ages: dict[str, list[float]] = {}
        self._oldest: dict[str, float] = {}

    def add(self, tool: str, at: float, amounts: Mapping[str, float], lasting: float = 0.0) -> None:
        """Add amounts of a moment, or of ``lasting`` seconds from then on (no slice is then shorter than that)."""
        self.since = at if self.since is None else min(self.since, at)
        self.until = at + lasting if self.until is None else max(self.until, at + lasting)
        while self.width < lasting or (self.until - self.since) / self.width > MOST_SLICES:
            self._widen()
        slices = self._tools.setdefault(self._known(tool), {})
        _add(slices.setdefault(at // self.width * self.width, {}), amounts)

    def age(self, tool: str, age: float) -> None:
        """An answer of this age, in seconds, was served."""
        number = next((n for n, bound in enumerate(AGE_BOUNDS) if age <= bound), len(AGE_BOUNDS))
        self.aged(tool, number, 1)
        name = self._known(tool)
        self._oldest[name] = max(age, self._oldest.get(name, 0.0))

    def aged(self, tool: str, number: int, times: float) -> None:
        """So many answers of the range ``number`` of ``AGE_BOUNDS`` were served."""
        self._ages.setdefault(self._known(tool), [0.0] * (len(AGE_BOUNDS) + 1))[number] += times

    def series(self) -> tuple[ToolSeries, ...]:
        """By tool; each with all slices from the first to the last of all."""
        starts = sorted({start for slices in self._tools.values() for start in slices})
        grid: list[float] = []
        if starts:
            many = round((starts[-1] - starts[0]) / self.width) + 1
            grid = [starts[0] + self.width * number for number in range(many)]
        return tuple(self._one(tool, grid) for tool in sorted(self._tools))

    def _one(self, tool: str, grid: list[float]) -> ToolSeries:
        slices = tuple(Slice(start, Figures(**self._tools[tool].get(start, {}))) for start in grid)
        total = sum((piece.figures for piece in slices), Figures())
        counts = self._ages.get(tool)
        ages = Ages(tuple(counts), self._oldest.get(tool)) if counts is not None else None
        return ToolSeries(tool, total, slices, ages)

    def _known(self, tool: str) -> str:
        return tool if tool in self._tools or len(self._tools) < _MOST_TOOLS else OTHERS

    def _widen(self) -> None:
        self.width = next((width for width in _WIDTHS if width > self.width), self.width * 2)
        for tool, slices in self._tools.items():
            wider: dict[float, Amounts] = {}
            for start, amounts in slices.items():
                _add(wider.setdefault(start // self.width * self.width, {}), amounts)
            self._tools[tool] = wider


def _add(there: Amounts, amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        there[name] = there.get(name, 0.0) + amount
