"""The page of a simulation: what a policy would have saved on recorded traffic."""

from __future__ import annotations

from agent_cache.pages.blocks import Column, Ids, section, table, tiles
from agent_cache.pages.data import LoopShown, ReportData
from agent_cache.pages.document import document
from agent_cache.pages.events import loops
from agent_cache.pages.markup import Content, el, name
from agent_cache.pages.words import count, duration, percent, plural
from agent_cache.simulate.tally import LoopFound, Report, ToolTally

__all__ = ["simulation_html"]

_MOST_TOOLS = 200


def simulation_html(report: Report, title: str = "What agent_cache would have saved") -> str:
    """The page of a simulation as text: HTML that needs nothing else."""
    ids = Ids()
    shown = ReportData(title, report.files, (), loops=tuple(map(_loop, report.loops)), loop_count=report.loop_count)
    notes = el("ul", {"class": "notes"}, *(el("li", None, note) for note in report.notes)) if report.notes else None
    body = [
        section("summary", "Summary", _tiles(report), notes),
        section("tools", "By tool", _tools(ids, report)),
        section("loops", "Loops", loops(ids, shown)),
    ]
    links = [("summary", "Summary"), ("tools", "By tool"), ("loops", "Loops")]
    intro = [el("p", {"class": "quiet"}, f"{plural(report.sessions, 'session')}; policy: {report.policy}")]
    files = el("ul", None, *(el("li", None, name(file)) for file in report.files))
    foot = [el("p", None, "From:"), files, el("p", None, "This page loads nothing and runs no script.")]
    return document(title, intro, links, body, foot)


def _tiles(report: Report) -> Content:
    total = report.total
    found: list[tuple[str, str, str | None]] = [
        ("Hit rate", percent(report.hit_rate), f"{count(total.hits)} of {count(report.reads)} reads"),
        ("Calls saved", count(total.hits), f"of {count(total.calls)} in all"),
        ("Stale answers", count(total.stale), "served by this policy"),
        ("With a ttl alone", count(total.ttl_stale), f"stale of {count(total.ttl_hits)} hits"),
        ("Loops", count(report.loop_count), f"{plural(report.loop_calls, 'call')} made after they began"),
    ]
    if total.saved is not None:
        found.insert(1, ("Time saved", duration(total.saved), f"of {duration(total.seconds)}"))
    return tiles(found)


def _tools(ids: Ids, report: Report) -> Content:
    if not report.tools:
        return el("p", None, "The trace has no call.")
    columns = [
        Column("Tool", "name"), Column("Kind", "name"), Column("Calls"), Column("Repeats in a session"),
        Column("Repeats across sessions"), Column("Hits"), Column("Stale"), Column("Best there could be"),
        Column("Time saved"), Column("Stale with a ttl alone"),
    ]  # fmt: skip
    ranked = sorted(report.tools.values(), key=lambda tally: (-tally.hits, -tally.calls, tally.tool))
    rows = [_row(tally) for tally in ranked[:_MOST_TOOLS]]
    left = len(ranked) - len(rows)
    more = el("p", None, f"{plural(left, 'tool')} more, with fewer hits.") if left else None
    return [table(ids, "What would have happened to the calls of each tool; most hits first", columns, rows), more]


def _row(tally: ToolTally) -> list[Content]:
    numbers = (tally.calls, tally.repeats_within, tally.repeats_across, tally.hits, tally.stale, tally.best)
    return [name(tally.tool), tally.kind, *map(count, numbers), duration(tally.saved), count(tally.ttl_stale)]


def _loop(found: LoopFound) -> LoopShown:
    where = (
        f"Would have been stopped before call {found.step:,}; {plural(found.calls_after, 'call')} made from there on"
    )
    return LoopShown(found.tool, found.kind, found.count, session=found.session, where=where, hint=found.hint)
