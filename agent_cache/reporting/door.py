"""One report from whatever there is: events say most, recorded sums say what happened when, figures say how much."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agent_cache.errors import ConfigurationError
from agent_cache.events.lines import Recorded
from agent_cache.pages import Drop, ReportData, report_page
from agent_cache.pages.words import plural
from agent_cache.recorded import StatsRow
from agent_cache.reporting.counted import counted
from agent_cache.reporting.summed import Summed
from agent_cache.reporting.told import Told
from agent_cache.reports import get_metrics

__all__ = ["report_data", "report_html"]

TITLE = "What agent_cache did"
_SAVED = "Time saved is what the loads had taken whose results were served again."


def report_html(
    metrics: Mapping[str, Any] | None = None,
    *,
    rows: Iterable[StatsRow] | None = None,
    events: Iterable[Recorded] | None = None,
    title: str = TITLE,
    currency: str = "",
    sources: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """A report as one self-contained HTML page. With nothing given, of this process.

    Args:
        metrics: ``get_metrics()`` or ``session.get_metrics()``: sums by resource.
        rows: ``await backend.recorded_stats()``: figures over time, ages, what dropped what.
        events: :func:`agent_cache.events.read_events`: all that, and loops with their evidence. With ``rows`` as well, the
            figures over time are those of the rows.
        title: of the page.
        currency: the unit of ``cost=`` on the tools, such as ``"USD"``.
        sources: where it comes from, in words; shown at the foot.
        notes: what a reader must know besides.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix; metrics together with another source.
    """
    return report_page(
        report_data(metrics, rows=rows, events=events, title=title, currency=currency, sources=sources, notes=notes)
    )


def report_data(
    metrics: Mapping[str, Any] | None = None,
    *,
    rows: Iterable[StatsRow] | None = None,
    events: Iterable[Recorded] | None = None,
    title: str = TITLE,
    currency: str = "",
    sources: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> ReportData:
    """What :func:`report_html` shows."""
    for parameter, text in (("title", title), ("currency", currency)):
        if not isinstance(text, str):
            raise ConfigurationError(parameter, text, "give a text")
    if rows is None and events is None:
        series = counted(get_metrics() if metrics is None else metrics)
        loops = sum(one.total.loops for one in series)
        where = tuple(sources) or ("get_metrics() of this process" if metrics is None else "get_metrics()",)
        return ReportData(
            title, where, series, noun="Resource", loop_count=loops, currency=currency, notes=(_SAVED, *notes)
        )
    if metrics is not None:
        raise ConfigurationError(
            "metrics", "figures", "leave it out where rows= or events= are given: they are told apart"
        )
    return _over_time(rows, events, ReportData(title, tuple(sources), (), currency=currency, notes=(_SAVED, *notes)))


def _over_time(rows: Iterable[StatsRow] | None, events: Iterable[Recorded] | None, frame: ReportData) -> ReportData:
    summed = Summed(rows) if rows is not None else None
    told = Told().all(events) if events is not None else None
    timeline = summed.timeline if summed is not None else told.timeline if told is not None else None
    assert timeline is not None  # noqa: S101 - asked only with one of them
    series = timeline.series()
    drops: tuple[Drop, ...] = told.drops() if told is not None else summed.drops() if summed is not None else ()
    return ReportData(
        title=frame.title,
        sources=frame.sources or tuple(_sources(rows, events)),
        tools=series,
        since=timeline.since,
        until=timeline.until,
        width=timeline.width,
        drops=drops,
        loops=told.loops() if told is not None else None,
        loop_count=told.loop_count if told is not None else summed.loop_count if summed is not None else 0,
        currency=frame.currency,
        notes=(*frame.notes, *_notes(told)),
    )


def _sources(rows: object, events: object) -> Iterator[str]:
    if rows is not None:
        yield "recorded sums (record_stats=True)"
    if events is not None:
        yield "events"


def _notes(told: Told | None) -> Iterator[str]:
    if told is not None and told.not_served:
        yield f"Not in these figures: {plural(told.not_served, 'read')} replayed or only measured."
