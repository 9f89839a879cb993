"""The report page, taken apart: what it says, that everyone can read it, and that no text becomes markup."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache.pages import Figures, LoopShown, ReportData, ToolSeries, report_page
from agent_cache.pages.style import STYLE
from agent_cache.pages.words import brief_duration, compact
from tests.pages.conftest import HOSTILE, Node, read_page, series

EMPTY = ReportData("Nothing yet", (), ())


@pytest.fixture(params=["full", "empty", "sums only"])
def page(request: pytest.FixtureRequest, report: ReportData) -> Node:
    data = {
        "full": report,
        "empty": EMPTY,
        "sums only": replace(report, drops=None, loops=None, tools=(ToolSeries("get", Figures(hits=3, loops=2)),)),
    }
    return read_page(report_page(data[request.param]))


def test_nothing_is_loaded_and_nothing_runs(page: Node) -> None:
    forbidden = {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "foreignobject",
        "use",
        "image",
        "a:",
    }
    for node in page.all():
        assert node.name not in forbidden, node.name
        for key, value in node.attributes.items():
            assert not key.startswith("on"), key
            assert key not in ("style", "src", "srcset", "xlink:href", "action"), key
            if key == "href":
                assert value is not None
                assert value.startswith("#"), value
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_the_policy_allows_the_style_sheet_and_nothing_else(page: Node) -> None:
    (policy,) = (
        node.attributes["content"]
        for node in page.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    (sheet,) = page.all("style")
    digest = base64.b64encode(hashlib.sha256(sheet.text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = page.all("head")[0]
    order = [node.name if node.name != "meta" else str(node.attributes) for node in head.all()]
    assert "Content-Security-Policy" in order[1], "before anything it governs"


def test_landmarks_language_and_headings(page: Node) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    for landmark in ("main", "nav", "header", "footer", "h1", "title"):
        outside = [node for node in page.all(landmark) if not node.within("svg")]
        assert len(outside) == 1, landmark
    levels = [int(node.name[1]) for node in page.all("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    skip = page.all("a")[0]
    assert skip.attributes["class"] == "skip"
    assert skip.attributes["href"] == "#content"
    assert "width=device-width" in str([node.attributes for node in page.all("meta")])


def test_ids_are_given_once_and_references_lead_somewhere(page: Node) -> None:
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in page.all():
        for attribute in ("aria-labelledby", "aria-describedby"):
            for target in (node.attributes.get(attribute) or "").split():
                assert target in ids
        if node.name == "a":
            assert (node.attributes["href"] or "")[1:] in ids


def test_tables_say_what_they_are(page: Node) -> None:
    for table in page.all("table"):
        assert table.all("caption")[0].text.strip()
        headings = table.all("thead")[0].all("th")
        assert all(heading.attributes["scope"] == "col" and heading.text for heading in headings)
        for row in table.all("tbody")[0].all("tr"):
            cells = [part for part in row.inside if isinstance(part, Node)]
            assert len(cells) == len(headings)
            assert cells[0].attributes["scope"] == "row"
        region = table.parent
        assert region is not None
        assert region.attributes["role"] == "region", "it scrolls, so it must be reached by keyboard and have a name"
        assert region.attributes["tabindex"] == "0"


def test_charts_say_in_words_what_they_show(page: Node) -> None:
    for chart in page.all("svg"):
        assert chart.attributes["role"] == "img"
        title, desc = chart.all("title")[0], chart.all("desc")[0]
        assert chart.attributes["aria-labelledby"] == f"{title.attributes['id']} {desc.attributes['id']}"
        assert title.text
        assert desc.text.endswith(".")
    for card in page.all("article"):
        if card.all("svg"):
            assert card.all("table"), "the figures stand beside the chart"


def test_no_tabindex_disturbs_the_order(page: Node) -> None:
    assert {node.attributes.get("tabindex") for node in page.all()} <= {None, "0", "-1"}


def test_hostile_texts_are_shown_as_texts(report: ReportData) -> None:
    text = report_page(report)
    page = read_page(text)
    assert text.count("<script") == 0
    assert text.count("<img") == 0
    assert "\u202e" not in text
    assert "\x00" not in text
    shown = [node.text for node in page.all("bdi")]
    assert any(name.startswith("</style></title><script>alert('1')</script><img src=x onerror=") for name in shown)
    assert any("\\u202egpj.\\x00\\ud800" in name for name in shown)
    text.encode("utf-8")


@given(st.text(st.characters(), max_size=300))
def test_any_text_anywhere_leaves_the_page_as_it_is(text: str) -> None:
    def shape(wild: str) -> list[str]:
        data = ReportData(
            "t" + wild,
            (wild,),
            (ToolSeries(wild, Figures(hits=1)),),
            loops=(LoopShown(wild, wild, 1, hint="h" + wild),),
            notes=(wild,),
        )
        made = report_page(data)
        made.encode("utf-8")
        return [f"{node.name} {sorted(node.attributes)}" for node in read_page(made).all()]

    assert shape(text) == shape("plain")


def test_it_says_what_happened(report: ReportData) -> None:
    page = read_page(report_page(report))
    words = " ".join(page.text.split())
    assert "32 of 40 reads" in words
    assert "80.0%" in words
    assert "5.25 USD" in words  # 21 hits at a quarter
    (drops,) = (table for table in page.all("table") if "Writes, and the reads" in table.text)
    first, second = drops.all("tbody")[0].all("tr")
    assert first.all("th")[0].text == "update_customer"
    assert "get_customer \N{MULTIPLICATION SIGN} 3" in first.text
    assert "a write that is not in this source" in second.text
    assert "2026-05-28 20:25 UTC" in words
    loop = page.all("section")[-1].all("article")[0]
    assert "repeat: the same call again and again, 5 times" in loop.text
    assert next(row.all("td")[1].text for row in loop.all("tbody")[0].all("tr")) == "id='7'"
    (ages,) = (table for table in page.all("table") if "by tool and age" in table.text)
    assert [cell.text for cell in ages.all("tbody")[0].all("tr")[0].all("td")] == [
        "5",
        "0",
        "0",
        "2",
        "0",
        "0",
        "1",
        "1 d 1 h",
    ]


def test_a_gap_without_reads_interrupts_the_curve() -> None:
    def curves(*hits: int | None) -> int:
        one = series("t", *(h or 0 for h in hits))
        kept = tuple(
            replace(piece, figures=Figures()) if h is None else piece for piece, h in zip(one.slices, hits, strict=True)
        )
        data = replace(EMPTY, tools=(replace(one, slices=kept),))
        return len(read_page(report_page(data)).all("polyline"))

    assert curves(1, 2, 3, 4) == 1
    assert curves(1, 2, None, 3, 4) == 2


def test_long_reports_stay_small() -> None:
    tools = tuple(series(f"tool_{n}", *[1] * 40) for n in range(1_000))
    many = replace(EMPTY, tools=tools, loops=tuple(LoopShown("t", "repeat", 5) for _ in range(1_000)), drops=())
    text = report_page(many)
    assert len(text) < 1_000_000
    words = read_page(text).text
    assert "800 tools more" in words
    assert "988 tools more without a chart" in words
    assert "950 loops more" in words


def _luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_to_read(scheme: str) -> None:
    light, dark = (dict(re.findall(r"--(\w+):(#\w{6})", block)) for block in re.findall(r":root\{([^}]*)\}", STYLE))
    colours = light if scheme == "light" else dark
    assert colours.keys() == light.keys()
    for ground in ("page", "card"):
        for name, least in {
            "text": 7,
            "quiet": 4.5,
            "accent": 4.5,
            "warn": 4.5,
            "mark": 3,
            "second": 3,
            "edge": 3,
        }.items():
            lighter, darker = sorted((_luminance(colours[name]), _luminance(colours[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= least, (scheme, ground, name)


@given(st.floats(0, 3e13))
def test_what_stands_beside_a_chart_has_room_there(number: float) -> None:
    assert len(compact(number)) <= 5
    assert len(brief_duration(min(number, 1e8))) <= 8


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.000511, "0.51 ms"), (0.05, "50 ms"), (0.5, "0.5 s"), (59.1, "59 s"), (90, "1.5 min"), (5400, "1.5 h"), (8.64e6, "100 d")],
)  # fmt: skip
def test_brief_durations(seconds: float, said: str) -> None:
    assert brief_duration(seconds) == said


def test_hostile_marker_is_hostile() -> None:
    assert all(part in HOSTILE for part in ("<script", "onerror=", "\u202e", "\x00", "\ud800", '"', "'"))
