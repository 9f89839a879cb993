"""The page of a simulation: what a policy would have saved. Data in, text out."""

from __future__ import annotations

from agent_cache.pages.blocks import Column, Ids, section, table, tiles
from agent_cache.pages.document import document
from agent_cache.pages.markup import Content, Html, el, name
from agent_cache.pages.words import count, duration, percent, plural
from agent_cache.simulate import Report, Suggestion

__all__ = ["simulation_page"]

_MOST = 200


def simulation_page(report: Report, suggestion: Suggestion | None = None) -> str:
    """The page as text: HTML that needs nothing else. Whatever a trace says is shown as text."""
    ids = Ids()
    body = [
        section("summary", "Summary", _tiles(report), _notes(report)),
        section("tools", "By tool", _tools(ids, report)),
    ]
    links = [("summary", "Summary"), ("tools", "By tool")]
    if suggestion is not None:
        body.append(section("proposal", "A proposed policy", _proposal(ids, suggestion)))
        links.append(("proposal", "A proposed policy"))
    body.append(section("loops", "Loops", _loops(ids, report)))
    links.append(("loops", "Loops"))
    intro = [el("p", {"class": "quiet"}, f"Policy: {report.policy}")]
    foot: list[Content] = [
        el("p", None, "From:"),
        el("ul", None, *(el("li", None, name(file)) for file in report.files)),
        el("p", None, "A model without delay that never runs out of room. This page loads nothing and runs no script."),
    ]
    return document("What a cache would have saved", intro, links, body, foot)


def _tiles(report: Report) -> Html:
    total = report.total
    found: list[tuple[str, str, str | None]] = [
        (
            "Hit rate",
            percent(report.hit_rate if report.reads else None),
            f"{count(total.hits)} of {count(report.reads)} reads",
        ),
        ("Calls", count(total.calls), f"in {plural(report.sessions, 'session')}"),
    ]
    if total.saved is not None:
        found.append(("Time saved", duration(total.saved), f"of {duration(total.seconds)}"))
    found.append(("Stale with a ttl alone", count(total.ttl_stale), f"of {count(total.ttl_hits)} hits"))
    found.append(("Stale with this policy", count(total.stale), "0 is what it should be"))
    found.append(("Loops", count(report.loop_count), f"{count(report.loop_calls)} calls after the stop"))
    return tiles(found)


def _notes(report: Report) -> Html | None:
    return el("ul", {"class": "notes"}, *(el("li", None, note) for note in report.notes)) if report.notes else None


def _tools(ids: Ids, report: Report) -> Html:
    timed = report.total.saved is not None
    columns = [
        Column("Tool", "name"), Column("Kind", "short"), Column("Calls"), Column("Repeats within a session"),
        Column("Repeats across"), Column("Hits"), Column("Stale"), Column("Stale, ttl alone"), Column("Best"),
        *([Column("Time saved")] if timed else []),
    ]  # fmt: skip
    ranked = sorted(report.tools.values(), key=lambda one: (-one.hits, -one.calls, one.tool))[:_MOST]
    rows: list[list[Content]] = [
        [
            name(one.tool), one.kind, count(one.calls), count(one.repeats_within), count(one.repeats_across), count(one.hits),
            count(one.stale), count(one.ttl_stale), count(one.best), *([duration(one.saved)] if timed else []),
        ]
        for one in ranked
    ]  # fmt: skip
    return table(ids, "What the policy does to each tool's calls; most hits first", columns, rows)


def _proposal(ids: Ids, suggestion: Suggestion) -> list[Content]:
    columns = [
        Column("Tool", "name"),
        Column("Kind", "short"),
        Column("Resource", "text"),
        Column("Sure", "short"),
        Column("Why", "text"),
    ]
    rows = [[name(one.tool), one.kind, ", ".join(one.resources), one.sure, one.why] for one in suggestion.tools[:_MOST]]
    return [
        el("p", None, "Made from names and from what was observed. Read it before you use it."),
        table(ids, "The proposed policy by tool", columns, rows),
        el(
            "div",
            {"class": "scroll", "role": "region", "tabindex": 0, "aria-label": "The policy as a file"},
            el("pre", None, suggestion.as_toml()),
        ),
    ]


def _loops(ids: Ids, report: Report) -> Content:
    if not report.loops:
        return el("p", None, "No loop was found.")
    columns = [
        Column("Session", "name"),
        Column("Before call"),
        Column("Kind", "short"),
        Column("Tool", "text"),
        Column("Times"),
        Column("Calls after"),
    ]
    rows = [
        [name(one.session), count(one.step), one.kind, one.tool, count(one.count), count(one.calls_after)]
        for one in report.loops[:_MOST]
    ]
    return table(ids, "Sessions that would have been stopped, and before which call", columns, rows)
