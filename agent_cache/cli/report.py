"""``agent-cache report``: what the cache did, as a page for people."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from agent_cache.backends.urls import without_password
from agent_cache.cli.chosen import seconds_of
from agent_cache.cli.opened import in_store, json_option, url_option
from agent_cache.cli.shown import in_utf8, print_json, progress, said, write_page
from agent_cache.events import Recorded, Unread, read_events
from agent_cache.events.reading import parts_of
from agent_cache.pages import Figures, ReportData, report_page
from agent_cache.pages.words import duration, percent, plural
from agent_cache.recorded import StatsRow
from agent_cache.reporting.door import report_data

__all__ = ["command"]

_EACH = 1_000


@click.command("report", short_help="Write a page that says what the cache did.")
@click.option(
    "--out",
    default="agent-cache-report.html",
    show_default=True,
    metavar="FILE",
    help="Where to; - is standard output.",
)
@click.option(
    "--events", multiple=True, metavar="FILE", help="A file that EventLog has written; may be given several times."
)
@click.option(
    "--since", default="7d", show_default=True, metavar="DURATION", help="What came in the last 90, 15m, 2h, 7d."
)
@click.option("--title", default="What agent_cache did", show_default=True, help="The page's title.")
@click.option("--currency", default="", help="The unit of cost= on the tools, such as USD.")
@url_option
@json_option
def command(
    url: str | None, out: str, events: tuple[str, ...], since: str, title: str, currency: str, as_json: bool
) -> int:
    """Write one self-contained HTML page that says what the cache did.

    From the sums a store keeps (configure(record_stats=True)), from files of events, or both: then the figures over
    time are the store's, and the events say what dropped what, and show loops with their evidence.
    """
    if as_json and out == "-":
        raise click.UsageError("--json prints to standard output too: give --out a file")
    begin = time.time() - seconds_of(since, "--since")
    for file in events:
        parts_of(Path(file))  # said before the store is asked
    rows = _rows(url, begin) if url or not events else []
    data = _data(rows, events, begin, title, currency, _sources(url, events))
    page = report_page(data)
    if out == "-":
        write_page(page)
        return 0
    Path(out).write_bytes(in_utf8(page))
    if as_json:
        print_json(_json(data, out))
    else:
        total = data.total
        asked = plural(total.hits + total.misses, "read")
        said(f"{out}: {percent(total.hit_rate)} of {asked} hit, {duration(total.seconds_saved)} saved")
        if not data.tools:
            said("Nothing was recorded in that time: configure(record_stats=True), or an EventLog, records.", "dim")
    return 0


def _rows(url: str | None, begin: float) -> list[StatsRow]:
    async def work(backend: Any) -> list[StatsRow]:
        found: list[StatsRow] = await backend.recorded_stats(begin)
        return found

    return in_store(url, work)


def _sources(url: str | None, events: Iterable[str]) -> list[str]:
    return [*([f"{without_password(url)}: recorded sums"] if url else []), *events]


def _data(
    rows: list[StatsRow], events: tuple[str, ...], begin: float, title: str, currency: str, sources: list[str]
) -> ReportData:
    unread = Unread()
    with progress() as bar:
        task = bar.add_task("reading events", total=None, done="")

        def told() -> Iterator[Recorded]:
            for number, event in enumerate(read_events(events, begin, unread=unread)):
                if number % _EACH == 0:
                    bar.update(task, done=f"{number:,} events")
                yield event

        data = report_data(
            rows=rows if rows or not events else None,
            events=told() if events else None,
            title=title,
            currency=currency,
            sources=sources,
        )
    return replace(data, notes=(*data.notes, *_notes(unread)))


def _notes(unread: Unread) -> Iterator[str]:
    if unread.lines:
        yield f"{plural(unread.lines, 'line')} could not be read, and nothing is said of them."
    if unread.lost:
        yield f"{plural(unread.lost, 'event')} had not been written: the figures are too low by so many."


def _json(data: ReportData, out: str) -> dict[str, Any]:
    def figures(found: Figures) -> dict[str, Any]:
        return {**asdict(found), "hit_rate": found.hit_rate}

    told = asdict(data) | {"out": out, "total": figures(data.total)}
    told["tools"] = [
        {
            "tool": one.tool,
            **figures(one.total),
            "over_time": [{"start": piece.start, **figures(piece.figures)} for piece in one.slices],
            "ages": asdict(one.ages) if one.ages is not None else None,
        }
        for one in data.tools
    ]
    return told
