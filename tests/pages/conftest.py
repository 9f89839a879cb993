"""A page taken apart, and a report to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from agent_cache.pages import Ages, Drop, Figures, LoopShown, ReportData, ShownCall, Slice, ToolSeries

HOSTILE = "</style></title><script>alert('1')</script><img src=x onerror=alert(2)>\" onload=\"x\u202egpj.\x00\ud800"
VOID = {"meta", "br", "hr", "col"}
START = 1_780_000_000 // 300 * 300


@dataclass
class Node:
    name: str
    attributes: dict[str, str | None]
    parent: Node | None = None
    inside: list[Node | str] = field(default_factory=list)

    def all(self, *names: str) -> list[Node]:
        found: list[Node] = []
        for part in self.inside:
            if isinstance(part, Node):
                found += [part] if not names or part.name in names else []
                found += part.all(*names)
        return found

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.inside)

    def within(self, name: str) -> bool:
        return self.parent is not None and (self.parent.name == name or self.parent.within(name))


class _Reader(HTMLParser):
    """Strict about nesting: an element that is not closed where it should be is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.here = Node("#root", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        made = Node(tag, dict(attrs), self.here)
        self.here.inside.append(made)
        if tag not in VOID:
            self.here = made

    def handle_endtag(self, tag: str) -> None:
        assert self.here.name == tag, f"</{tag}> where <{self.here.name}> is open"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.inside.append(data)


def read_page(text: str) -> Node:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root, f"<{reader.here.name}> is never closed"
    return reader.root


def series(tool: str, *hits: int, cost: float = 0.0) -> ToolSeries:
    """A tool with one miss and so many hits in each slice of five minutes, each hit worth 2 seconds."""
    slices = tuple(
        Slice(START + 300 * n, Figures(hits=h, misses=1, stale=1, seconds_saved=2.0 * h, cost_saved=cost * h))
        for n, h in enumerate(hits)
    )
    total = sum((one.figures for one in slices), Figures())
    return ToolSeries(tool, total, slices, Ages((*hits[:1], 0, 0, 2, 0, 0, 1), 90_000.0))


@pytest.fixture
def report() -> ReportData:
    return full_report()


def full_report() -> ReportData:
    return ReportData(
        title="What agent_cache did",
        sources=("events.jsonl", HOSTILE),
        tools=(
            series("get_customer", 3, 9, 0, 9, cost=0.25),
            series(HOSTILE, 1, 2, 3),
            series("one slice", 5),
            ToolSeries("update_customer", Figures(writes=4)),
        ),
        since=START,
        until=START + 1_200,
        width=300,
        drops=(
            Drop("update_customer", 4, ("customer:{id}", HOSTILE), {"get_customer": 3, HOSTILE: 1}, 1, 1, START, (HOSTILE,)),
            Drop(None, 0, reads={"one slice": 2}),
        ),
        loops=(
            LoopShown(
                "get_customer", "repeat", 5, at=START, session=HOSTILE, where="Calls 3 to 7", hint=HOSTILE,
                calls=(ShownCall("get_customer", "id='7'", 3, "{'name': 'Mia'}"), ShownCall(HOSTILE, HOSTILE, 4, HOSTILE)),
            ),
            LoopShown(HOSTILE, HOSTILE, 4, period=2, times=3),
        ),
        currency="USD",
        notes=("A note.", HOSTILE),
    )  # fmt: skip
