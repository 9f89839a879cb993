"""From events, recorded sums and figures to a page: nothing is lost on the way, and each source says what it knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    DiskBackend,
    MemoryBackend,
    configure,
    reset_metrics,
)
from agent_cache.errors import ConfigurationError
from agent_cache.events import EventLog, Recorded, read_events
from agent_cache.model import CallEvent, InvalidationEvent
from agent_cache.pages import Figures
from agent_cache.recorded import StatsRow
from agent_cache.reporting import report_html
from agent_cache.reporting.door import report_data
from agent_cache.reporting.timeline import MOST_SLICES, OTHERS, Timeline
from agent_cache.reporting.told import Told
from tests.pages.conftest import Node, read_page

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _own_backend(_fresh_process_state: None) -> Iterator[None]:
    configure(backend=MemoryBackend())
    reset_metrics()
    yield
    configure(observers=(), backend=None)


def cells(page: Node, caption: str) -> list[list[str]]:
    (found,) = (table for table in page.all("table") if caption in table.all("caption")[0].text)
    return [[cell.text for cell in row.all("th", "td")] for row in found.all("tbody")[0].all("tr")]


def call(outcome: str, tool: str = "get", **more: Any) -> CallEvent:
    return CallEvent(**{
        "tool": tool, "resource": "r", "outcome": outcome, "reason": None, "session_id": None, "age": None, "seconds": 0.1,
        "tags": (), **more,
    })  # fmt: skip


def told(*events: CallEvent | InvalidationEvent, at: float = 1e9) -> Told:
    return Told().all(Recorded(at + n, event) for n, event in enumerate(events))


# -- over time ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 4e9), st.integers(0, 50), st.sampled_from([0.0, 60.0, 3600.0]))
    )
)
def test_nothing_is_lost_when_slices_are_widened(added: list[tuple[str, float, int, float]]) -> None:
    timeline = Timeline()
    for tool, at, hits, lasting in added:
        timeline.add(tool, at, {"hits": hits, "seconds_saved": 1.0}, lasting)
    series = timeline.series()
    for one in series:
        assert one.total.hits == sum(hits for tool, _, hits, _ in added if tool == one.tool)
        assert one.total.seconds_saved == sum(tool == one.tool for tool, *_ in added)
        starts = [piece.start for piece in one.slices]
        assert len(starts) <= MOST_SLICES + 2
        assert all(after - before == timeline.width for before, after in itertools.pairwise(starts))
    assert len({tuple(piece.start for piece in one.slices) for one in series}) <= 1
    assert timeline.width >= max((lasting for *_, lasting in added), default=0)


def test_past_a_thousand_tools_the_rest_is_one() -> None:
    timeline = Timeline()
    for n in range(1_500):
        timeline.add(f"tool {n}", 0.0, {"hits": 1})
    series = {one.tool: one.total.hits for one in timeline.series()}
    assert len(series) == 1_001
    assert series[OTHERS] == 500


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "figures"),
    [
        (call("hit", seconds_saved=2.0, cost_saved=0.5), Figures(hits=1, seconds_saved=2.0, cost_saved=0.5)),
        (call("hit", reason="negative", failed=True), Figures(hits=1)),
        (call("revalidated", seconds_saved=1.0), Figures(hits=1, seconds_saved=1.0)),
        (call("stale_served", reason="stale_while_revalidate"), Figures(hits=1, stale_served=1)),
        (call("stale_served", reason="stale_if_error"), Figures(misses=1, stale_served=1, failures=1)),
        (call("miss", failed=True), Figures(misses=1, failures=1)),
        (call("stale"), Figures(misses=1, stale=1)),
        (call("expired"), Figures(misses=1, expired=1)),
        (call("blocked"), Figures(misses=1)),
        (call("coalesced"), Figures(coalesced=1)),
        (call("bypass"), Figures(bypasses=1)),
        (InvalidationEvent("get", (), "global", None), Figures(writes=1)),
    ],
)
def test_what_each_event_counts_for(event: CallEvent | InvalidationEvent, figures: Figures) -> None:
    (one,) = told(event).timeline.series()
    assert one.total == figures


def test_replayed_reads_are_left_out_and_said() -> None:
    data = report_data(events=[Recorded(1.0, call("replayed"))])
    assert data.tools == ()
    assert data.notes[-1] == "Not in these figures: 1 read replayed or only measured."


def test_a_drop_is_laid_to_its_write() -> None:
    found = told(
        InvalidationEvent("put", ("any(cart:7)", "all(cart:7)"), "global", None, resource="cart:{id}"),
        InvalidationEvent("put", (), "global", None, "widened", failed=True, no_effect=True, resource="cart:{id}"),
        call("stale", dropped_by="put"),
        call("stale", "list", dropped_by="put"),
        call("stale", dropped_by="put"),
        call("stale", dropped_by="elsewhere"),
        call("stale", dropped_by="get.invalidate"),
        call("stale"),
    )
    drops = {drop.by: drop for drop in found.drops()}
    put = drops["put"]
    assert (put.times, put.failed, put.no_effect, put.last) == (2, 1, 1, 1e9 + 1)
    assert put.reads == {"get": 2, "list": 1}
    assert set(put.resources) == {"cart:7", "cart:{id}"}
    assert put.notes == ("widened",)
    assert drops["elsewhere"].reads == drops["get"].reads == drops[None].reads == {"get": 1}
    assert drops["elsewhere"].times == 0


def test_a_run_is_seen_on_the_page(tmp_path: Path) -> None:
    @AgentCache("cart:{user}", cost=0.25)
    def get_cart(user: str) -> int:
        return 1

    @AgentCacheInvalidator("cart:{user}")
    def add_to_cart(user: str) -> None: ...

    moments = itertools.count(1_780_000_000, 40)
    with EventLog(tmp_path / "events.jsonl", now=lambda: float(next(moments))) as log:
        configure(observers=[log])
        for _ in range(3):
            get_cart("u")
        add_to_cart("u")
        get_cart("u")
        with AgentCacheSession("run-1", on_loop="warn"):
            for _ in range(7):
                get_cart("u")
        configure(observers=())
    page = read_page(report_html(events=read_events([log.path]), currency="USD"))
    words = " ".join(page.text.split())
    assert "9 of 11 reads" in words
    assert "2.25 USD" in words
    (row,) = cells(page, "Writes, and the reads")
    assert row[0].endswith("add_to_cart")
    assert row[1] == "1"
    assert row[3].endswith("get_cart \N{MULTIPLICATION SIGN} 1")
    loops = next(one for one in page.all("section") if one.attributes["id"] == "loops")
    (card,) = loops.all("article")
    assert "run-1" in card.text
    assert "found 2 times" in card.text
    assert len(card.all("tbody")[0].all("tr")) == 6
    assert all("#" in row.all("td")[1].text for row in card.all("tbody")[0].all("tr")), "labels, no arguments"
    assert len(page.all("svg")) == 4  # one tool: hit rate, time and money of all of them; ages


# -- recorded sums -----------------------------------------------------------------------------------------------------


async def test_recorded_sums_of_a_store(tmp_path: Path) -> None:
    now = 1_780_000_000.0 // 3600 * 3600
    sums: dict[str, dict[str, float]] = {
        "get": {"hits": 3, "misses": 2, "stale": 1, "seconds_saved": 6.0, "age:10": 2, "age:older": 1, "by:put": 1},
        "put": {"invalidations": 2, "loops": 1},
    }
    async with DiskBackend(tmp_path / "cache.db") as store:
        for minute in range(5):
            await store.add_stats(int(now) + 60 * minute, sums, now=now + 60 * minute)
        rows = await store.recorded_stats(now=now + 300)
    page = read_page(report_html(rows=rows))
    tools = {row[0]: row for row in cells(page, "What happened to the calls of each tool")}
    assert tools["get"] == ["get", "25", "15", "60.0%", "30 s", "5", "0"]
    assert tools["put"][-1] == "10"
    assert cells(page, "Writes, and the reads")[0][:4] == ["put", "10", "\N{EN DASH}", "get \N{MULTIPLICATION SIGN} 5"]
    assert cells(page, "by tool and age") == [["get", "0", "10", "0", "0", "0", "0", "5", "\N{EN DASH}"]]
    assert "does not keep their evidence" in page.text
    assert "Loops found5" in page.text


def test_hours_and_minutes_go_together() -> None:
    rows = [
        StatsRow(0, 3600, "get", hits=5),
        StatsRow(int(DAY), 60, "get", hits=1),
        StatsRow(int(DAY) + 60, 60, "get", hits=1),
    ]
    data = report_data(rows=rows)
    assert data.width is not None
    assert data.width >= 3600
    assert data.total.hits == 7


def test_events_beside_sums_say_what_sums_cannot() -> None:
    rows = [StatsRow(0, 60, "get", hits=50)]
    data = report_data(rows=rows, events=[Recorded(5.0, call("stale", dropped_by="put"))])
    assert data.total.hits == 50, "the figures are those of the rows, and counted once"
    assert data.total.misses == 0
    assert data.drops is not None
    assert data.drops[0].by == "put"
    assert data.loops == ()


# -- figures -----------------------------------------------------------------------------------------------------------


def test_this_process_reports_on_itself() -> None:
    @AgentCache("price")
    def price(sku: str) -> int:
        return 1

    price("a")
    price("a")
    page = read_page(report_html())
    assert cells(page, "What happened to the calls of each resource")[0][:3] == ["price", "2", "1"]
    with AgentCacheSession() as session:
        price("a")
        assert "1 of 1 reads" in report_html(session.get_metrics())


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"metrics": {}}, "metrics"), ({"metrics": {"resources": {}}, "rows": []}, "metrics"), ({"title": 3}, "title"),
        ({"currency": None}, "currency"),
    ],
)  # fmt: skip
def test_bad_input_names_itself(given: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigurationError, match=parameter):
        report_html(**given)
