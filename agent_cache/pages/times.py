"""The section with the course of time: a card for all tools, and one for each of those that matter most."""

from __future__ import annotations

from agent_cache.pages.blocks import Column, Ids, table
from agent_cache.pages.charts import Scale, bar_chart, line_chart
from agent_cache.pages.data import Figures, ReportData, Slice, ToolSeries
from agent_cache.pages.markup import Content, Html, el, name, plain
from agent_cache.pages.words import (
    brief_duration,
    compact,
    count,
    duration,
    moment,
    money,
    percent,
    plural,
    short_moment,
)

__all__ = ["over_time"]

MAX_CARDS = 12
_DAY = 86_400
_SHARES = Scale(percent, lambda share: f"{share * 100:.0f}%")
_SECONDS = Scale(duration, brief_duration)
_MONEY = Scale(lambda amount: money(amount, ""), compact)


def over_time(ids: Ids, data: ReportData) -> Content:
    timed = [one for one in data.tools if one.slices]
    if not timed:
        return el(
            "p", None, "This source does not say when things happened. Recorded sums (record_stats=) and events do."
        )
    whole = ToolSeries("All tools", data.total, _summed(timed))
    ranked = sorted(timed, key=lambda one: (-one.total.seconds_saved, -one.total.hits, one.tool))
    reading = [one for one in ranked if one.total.hits + one.total.misses]
    shown = reading[:MAX_CARDS] if len(reading) > 1 else []
    left = len(reading) - len(shown) if shown else 0
    cards = [_card(ids, data, whole, None), *(_card(ids, data, one, one.tool) for one in shown)]
    width = el("p", {"class": "quiet"}, f"Each point or bar stands for {duration(data.width)}.") if data.width else None
    rest = el(
        "p",
        None,
        f"{plural(left, 'tool')} more without a chart: {'its' if left == 1 else 'their'} sums are in the table above.",
    )
    return [width, el("div", {"class": "cards"}, cards), rest if left else None]


def _summed(tools: list[ToolSeries]) -> tuple[Slice, ...]:
    sums: dict[float, Figures] = {}
    for one in tools:
        for piece in one.slices:
            sums[piece.start] = sums.get(piece.start, Figures()) + piece.figures
    return tuple(Slice(start, sums[start]) for start in sorted(sums))


def _card(ids: Ids, data: ReportData, one: ToolSeries, tool: str | None) -> Html:
    slices = one.slices
    several_days = slices[0].start // _DAY != slices[-1].start // _DAY
    labels = [short_moment(piece.start, with_day=several_days) for piece in slices]
    of = f" of {plain(tool, 60)}" if tool is not None else ", all tools"
    found = [piece.figures for piece in slices]
    charts = [
        _figure("Hit rate", line_chart(ids, f"Hit rate{of}", labels, [f.hit_rate for f in found], 1.0, _SHARES)),
        _figure("Time saved", bar_chart(ids, f"Time saved{of}", labels, [f.seconds_saved for f in found], _SECONDS)),
    ]
    costs = any(f.cost_saved for f in found)
    if costs:
        bars = bar_chart(ids, f"Money saved{of}", labels, [f.cost_saved for f in found], _MONEY, second=True)
        unit = f", in {plain(data.currency, 20)}" if data.currency else ""
        charts.append(_figure(f"Money saved{unit}", bars))
    head = name(tool) if tool is not None else one.tool
    total = one.total
    said = f"{percent(total.hit_rate)} of {plural(total.hits + total.misses, 'read')} hit, {duration(total.seconds_saved)} saved"
    return el(
        "article", {"class": "card"}, el("h3", None, head), el("p", {"class": "quiet"}, said), charts,
        _figures(ids, data, one, of, costs=costs),
    )  # fmt: skip


def _figure(caption: str, chart: Html) -> Html:
    return el("figure", None, el("figcaption", None, caption), chart)


def _figures(ids: Ids, data: ReportData, one: ToolSeries, of: str, *, costs: bool) -> Html:
    columns = [Column("From", "name"), Column("Reads"), Column("Hits"), Column("Hit rate"), Column("Time saved")]
    rows: list[list[Content]] = []
    for piece in one.slices:
        f = piece.figures
        row: list[Content] = [moment(piece.start), count(f.hits + f.misses), count(f.hits), percent(f.hit_rate)]
        row.append(duration(f.seconds_saved))
        if costs:
            row.append(money(f.cost_saved, data.currency))
        rows.append(row)
    if costs:
        columns.append(Column("Money saved"))
    return el("details", None, el("summary", None, f"Figures{of}"), table(ids, f"Over time{of}", columns, rows))
