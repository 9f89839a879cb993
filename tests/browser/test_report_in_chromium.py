"""The report page as a browser shows it: on a phone and on a desk, light and dark, by keyboard, and with hostile names.

Chromium is ``$CHROMIUM``, or the one playwright has installed; ``$SHOTS`` is a folder for screenshots.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache.pages import ReportData, report_page
from tests.browser.traffic import page as traffic_page
from tests.pages.conftest import full_report

pytestmark = pytest.mark.browser
SIZES = {"small phone": (320, 640), "phone": (390, 844), "desk": (1280, 900)}
CLIPPED = """[...document.querySelectorAll("svg text")].filter(text => {
    const t = text.getBoundingClientRect(), s = text.closest("svg").getBoundingClientRect();
    return t.left < s.left - 0.5 || t.right > s.right + 0.5 || t.top < s.top - 0.5 || t.bottom > s.bottom + 0.5;
}).map(text => text.textContent)"""
OVERLAPPING = """[...document.querySelectorAll("svg")].flatMap(svg => {
    const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([a, p], n) => boxes.slice(n + 1).filter(([b, q]) =>
        p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 3 && q.top < p.bottom - 3).map(([b]) => a + " / " + b));
})"""
ESCAPING = """[...document.querySelectorAll("body *")].filter(node => !node.closest(".scroll, .skip")
    && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.tagName + "." + node.className)"""

SCROLLED = """new Promise(done => {
    const region = document.querySelector(".scroll");
    region.scrollLeft > 0 ? done() : region.addEventListener("scroll", done, {once: true});
})"""


@pytest.fixture
def report() -> ReportData:
    return full_report()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or None, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()


@pytest.fixture
def shown(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """Shows a page; in the end nothing was asked for but the page, nothing was said on the console, no dialog opened."""
    said: list[str] = []
    contexts: list[Any] = []

    def show(text: str, size: str = "desk", scheme: str = "light") -> Any:
        file = tmp_path / "report.html"
        file.write_text(text, "utf-8")
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: said.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        if folder := os.environ.get("SHOTS"):
            page.screenshot(path=Path(folder, f"report-{size}-{scheme}.png"), full_page=True)
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", ["traffic", "hostile"])
def test_it_fits(shown: Any, report: ReportData, data: str, size: str, scheme: str) -> None:
    page = shown(traffic_page() if data == "traffic" else report_page(report), size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "only tables scroll, each by itself"
    assert page.evaluate(ESCAPING) == []
    assert page.evaluate(CLIPPED) == []
    assert page.evaluate(OVERLAPPING) == []


def test_light_and_dark_are_those_of_the_reader(shown: Any, report: ReportData) -> None:
    colours = [
        shown(report_page(report), scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]


def test_the_style_sheet_is_in_force(shown: Any, report: ReportData) -> None:
    page = shown(report_page(report))
    assert page.evaluate("getComputedStyle(document.querySelector('.tiles')).display") == "grid"


def test_by_keyboard(shown: Any) -> None:
    page = shown(traffic_page(), "phone")
    focus = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focus}.className") == "skip"
    assert page.evaluate(f"{focus}.getBoundingClientRect().left") >= 0, "it is seen once it has the focus"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(f"!!{focus}.closest('main')"), "past the navigation"
    reached = set()
    for _ in range(40):
        reached.add(page.evaluate(f"{focus}.tagName + '.' + {focus}.className"))
        assert page.evaluate(f"getComputedStyle({focus}).outlineStyle") == "solid", "one sees where one is"
        page.keyboard.press("Tab")
        if page.evaluate(f"{focus} === document.body"):
            break
    assert reached == {"DIV.scroll", "SUMMARY."}
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None
    region = page.locator(".scroll").first
    region.focus()
    page.keyboard.press("ArrowRight")
    page.evaluate(SCROLLED)  # not wait_for_function, which the content policy forbids


def test_a_screen_reader_hears_headings_tables_and_charts(shown: Any) -> None:
    heard = shown(traffic_page()).locator("body").aria_snapshot()
    for line in (
        'heading "What agent_cache did" [level=1]',
        'heading "What dropped what" [level=2]',
        'region "What happened to the calls of each tool; most time saved first"',
        'table "What happened to the calls of each tool; most time saved first"',
        'columnheader "Hit rate"',
        'rowheader "get_customer"',
        'img "Hit rate of get_customer',
        'navigation "Sections"',
    ):
        assert line in heard
    assert "09:15 12:15" not in heard, "the labels of a chart are said by its description"
