"""The sections that need to know single events: what dropped what, and loops with their evidence."""

from __future__ import annotations

from agent_cache.pages.blocks import Column, Ids, table
from agent_cache.pages.data import Drop, LoopShown, ReportData, ShownCall
from agent_cache.pages.markup import Content, Html, el, name, plain
from agent_cache.pages.words import count, plural, when

__all__ = ["drops", "loops"]

MAX_DROPS = 100
MAX_LOOPS = 50
_MAX_RESOURCES = 6
_KINDS = {
    "repeat": "the same call again and again",
    "alternation": "two calls in turn",
    "cycle": "a cycle of calls",
    "error": "one tool failing the same way",
    "no_progress": "only known calls with known answers",
    "depth": "the budget of calls is used up",
}


def drops(ids: Ids, data: ReportData) -> Content:
    if data.drops is None:
        return el("p", None, "This source counts writes and does not say what each dropped; a file of events does.")
    if not data.drops:
        return el("p", None, "Nothing was written.")
    ranked = sorted(data.drops, key=lambda drop: (-sum(drop.reads.values()), -drop.times, drop.by or ""))
    columns = [
        Column("Write", "name"), Column("Calls"), Column("Resources", "text"), Column("Reads that found their entry dropped", "text"),
        Column("Failed"), Column("Without effect"), Column("Last", "name"),
    ]  # fmt: skip
    rows = [_drop_row(drop) for drop in ranked[:MAX_DROPS]]
    left = len(ranked) - len(rows)
    return [
        table(ids, "Writes, and the reads they dropped; most reads first", columns, rows),
        el("p", None, f"{plural(left, 'write')} more, which dropped less.") if left else None,
    ]


def _drop_row(drop: Drop) -> list[Content]:
    reads = sorted(drop.reads.items(), key=lambda pair: (-pair[1], pair[0]))
    dropped = [el("li", None, name(tool), f" × {count(times)}") for tool, times in reads]
    resources: list[Content] = [el("li", None, name(one)) for one in drop.resources[:_MAX_RESOURCES]]
    if len(drop.resources) > _MAX_RESOURCES:
        resources.append(el("li", None, f"and {count(len(drop.resources) - _MAX_RESOURCES)} more"))
    resources += [el("li", {"class": "quiet"}, note) for note in drop.notes]
    return [
        name(drop.by) if drop.by is not None else "a write that is not in this source",
        count(drop.times) if drop.times else "–",
        el("ul", None, resources) if resources else "–",
        el("ul", None, dropped) if dropped else "none so far",
        count(drop.failed),
        count(drop.no_effect),
        when(drop.last) if drop.last is not None else "–",
    ]


def loops(ids: Ids, data: ReportData) -> Content:
    if data.loops is None:
        return el("p", None, "This source counts loops and does not keep their evidence; a file of events does.")
    if not data.loops:
        return el("p", None, "No loop was found.")
    cards = [_loop(ids, loop, number) for number, loop in enumerate(data.loops[:MAX_LOOPS], 1)]
    all_of_them = data.loop_count if data.loop_count is not None else len(data.loops)
    left = round(all_of_them) - len(cards)
    return [
        el("div", {"class": "cards one"}, cards),
        el("p", None, f"{plural(left, 'loop')} more, not shown.") if left > 0 else None,
    ]


def _loop(ids: Ids, loop: LoopShown, number: int) -> Html:
    facts: list[Content] = [el("span", {"class": "kind"}, loop.kind), f": {_KINDS.get(loop.kind, 'a loop')}"]
    facts.append(f", {count(loop.count)} times" if loop.kind != "depth" else f", {count(loop.count)} calls")
    if loop.period > 1:
        facts.append(f", {plural(loop.period, 'call')} each")
    if loop.times > 1:
        facts.append(f"; found {count(loop.times)} times")
    where: list[Content] = []
    if loop.session is not None:
        where += ["Session ", name(loop.session), ". "]
    if loop.where is not None:
        where += [loop.where, ". "]
    if loop.at is not None:
        where += ["Last found ", when(loop.at), "."]
    return el(
        "article", {"class": "card"},
        el("h3", None, f"{number}. ", name(loop.tool)),
        el("p", None, facts),
        el("p", {"class": "quiet"}, where) if where else None,
        el("p", {"class": "hint"}, plain(loop.hint, 600)) if loop.hint else None,
        _evidence(ids, loop.calls, number),
    )  # fmt: skip


def _evidence(ids: Ids, calls: tuple[ShownCall, ...], number: int) -> Html | None:
    if not calls:
        return None
    columns = [Column("Step", "short"), Column("Tool", "name"), Column("Call", "text"), Column("Outcome", "text")]
    rows: list[list[Content]] = [
        [str(call.step) if call.step is not None else "–", name(call.tool), plain(call.what, 300),
         plain(call.outcome, 300) if call.outcome is not None else "–"]
        for call in calls
    ]  # fmt: skip
    return table(ids, f"Loop {number}: the calls that led there, oldest first", columns, rows)
