"""The report page: what was saved, by tool and over time; how old answers were; what dropped what; loops."""

from __future__ import annotations

from collections.abc import Callable

from agent_cache.pages.blocks import Column, Ids, section, table, tiles
from agent_cache.pages.charts import Scale, bar_chart
from agent_cache.pages.data import AGE_BOUNDS, Figures, ReportData
from agent_cache.pages.document import document
from agent_cache.pages.events import drops, loops
from agent_cache.pages.markup import Content, Html, el, name
from agent_cache.pages.times import over_time
from agent_cache.pages.words import compact, count, duration, money, percent, plural, when

__all__ = ["report_page"]

MAX_ROWS = 200
_AGES = ("under 1 s", "1–10 s", "10–60 s", "1–10 min", "10–60 min", "1–24 h", "over a day")
_SHORT_AGES = ("<1s", "10s", "1m", "10m", "1h", "1d", ">1d")


def report_page(data: ReportData) -> str:
    """The page as text: HTML that needs nothing else. Whatever the data says is shown as text."""
    ids = Ids()
    total = data.total
    body: list[Html] = [
        section("summary", "Summary", _tiles(data, total), _notes(data)),
        section("tools", f"By {data.noun.lower()}", _tools(ids, data)),
        section("time", "Over time", over_time(ids, data)),
        section("ages", "Age of served entries", _ages(ids, data)),
        section("drops", "What dropped what", drops(ids, data)),
        section("loops", "Loops", loops(ids, data)),
    ]
    links = [
        ("summary", "Summary"), ("tools", f"By {data.noun.lower()}"), ("time", "Over time"), ("ages", "Age of served entries"),
        ("drops", "What dropped what"), ("loops", "Loops"),
    ]  # fmt: skip
    return document(data.title, _intro(data), links, body, _foot(data))


def _intro(data: ReportData) -> list[Content]:
    if data.since is None or data.until is None:
        return []
    return [el("p", {"class": "quiet"}, when(data.since), " to ", when(data.until))]


def _foot(data: ReportData) -> list[Content]:
    sources = [el("li", None, name(source)) for source in data.sources]
    return [
        el("p", None, "From:"),
        el("ul", None, sources),
        el("p", None, "Times are UTC. This page loads nothing and runs no script."),
    ]


def _notes(data: ReportData) -> Html | None:
    return el("ul", {"class": "notes"}, *(el("li", None, note) for note in data.notes)) if data.notes else None


def _tiles(data: ReportData, total: Figures) -> Html:
    asked = total.hits + total.misses
    found: list[tuple[str, str, str | None]] = [
        ("Hit rate", percent(total.hit_rate), f"{count(total.hits)} of {count(asked)} reads"),
        ("Time saved", duration(total.seconds_saved), f"{count(total.hits)} answers not fetched again"),
    ]
    if total.cost_saved:
        found.append(("Money saved", money(total.cost_saved, data.currency), "as declared with cost="))
    if total.coalesced:
        found.append(("Loads shared", count(total.coalesced), "calls made while another loaded"))
    found.append(("Stale answers avoided", count(total.stale), "entries a write had dropped"))
    found_loops = data.loop_count if data.loop_count is not None else max(total.loops, len(data.loops or ()))
    if data.loops is not None or found_loops:
        found.append(("Loops found", count(found_loops), None))
    return tiles(found)


def _tools(ids: Ids, data: ReportData) -> Content:
    if not data.tools:
        return el("p", None, "No call was seen.")
    total, currency = data.total, data.currency
    shown: list[tuple[str, Callable[[Figures], str]]] = [
        (heading, say)
        for heading, seen, say in (
            ("Reads", True, lambda f: count(f.hits + f.misses)),
            ("Hits", True, lambda f: count(f.hits)),
            ("Hit rate", True, lambda f: percent(f.hit_rate)),
            ("Time saved", True, lambda f: duration(f.seconds_saved)),
            ("Money saved", total.cost_saved, lambda f: money(f.cost_saved, currency)),
            ("Dropped by a write", True, lambda f: count(f.stale)),
            ("Expired", total.expired, lambda f: count(f.expired)),
            ("Older than its ttl", total.stale_served, lambda f: count(f.stale_served)),
            ("Uncached", total.bypasses, lambda f: count(f.bypasses)),
            ("Failed", total.failures, lambda f: count(f.failures)),
            ("Writes", total.writes, lambda f: count(f.writes)),
        )
        if seen
    ]
    ranked = sorted(data.tools, key=lambda one: (-one.total.seconds_saved, -one.total.hits, one.tool))
    rows = [[name(one.tool), *(say(one.total) for _, say in shown)] for one in ranked[:MAX_ROWS]]
    columns = [Column(data.noun, "name"), *(Column(heading) for heading, _ in shown)]
    noun = data.noun.lower()
    left = len(ranked) - len(rows)
    more = el("p", None, f"{plural(left, noun)} more, with less saved.") if left else None
    return [table(ids, f"What happened to the calls of each {noun}; most time saved first", columns, rows), more]


def _ages(ids: Ids, data: ReportData) -> Content:
    known = [(one.tool, one.ages) for one in data.tools if one.ages is not None and any(one.ages.counts)]
    if not known:
        return el("p", None, "This source does not say how old the served entries were; a file of events does.")
    assert len(_AGES) == len(AGE_BOUNDS) + 1  # noqa: S101 - the words belong to the bounds
    sums = [sum(ages.counts[number] for _, ages in known) for number in range(len(_AGES))]
    columns = [Column("Tool", "name"), *(Column(label) for label in _AGES), Column("Oldest")]
    known.sort(key=lambda pair: (-sum(pair[1].counts), pair[0]))
    rows = [[name(tool), *map(count, ages.counts), duration(ages.oldest)] for tool, ages in known[:MAX_ROWS]]
    chart = bar_chart(ids, "Answers served, by their age", _SHORT_AGES, sums, Scale(count, compact))
    caption = el(
        "figcaption", None, "All tools: answers served from the cache, by how long ago they were loaded (up to …)"
    )
    return [
        el("div", {"class": "cards"}, el("figure", {"class": "card"}, caption, chart)),
        table(ids, "Answers served from the cache, by tool and age", columns, rows),
    ]
