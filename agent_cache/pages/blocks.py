"""Tables, tiles and sections: what pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent_cache.pages.markup import Content, Html, el

__all__ = ["Column", "Ids", "section", "table", "tiles"]


class Ids:
    """Ids for one page, each given once."""

    def __init__(self) -> None:
        self._given = 0

    def new(self, stem: str) -> str:
        self._given += 1
        return f"{stem}-{self._given}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, and what it holds: numbers (aligned by their last digit), a name, text, or something short."""

    heading: str
    kind: Literal["number", "name", "text", "short"] = "number"

    @property
    def css(self) -> str | None:
        return {"number": "n", "text": "text", "name": "named", "short": "short"}[self.kind]


def table(ids: Ids, caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Content]]) -> Html:
    """A table with a caption. The first column heads its rows; the table scrolls by itself where it is too wide, by keyboard too."""
    label = ids.new("caption")
    head = el("tr", None, *(el("th", {"scope": "col", "class": column.css}, column.heading) for column in columns))
    body = [
        el(
            "tr",
            None,
            el("th", {"scope": "row", "class": columns[0].css}, row[0]),
            *(el("td", {"class": column.css}, cell) for column, cell in zip(columns[1:], row[1:], strict=True)),
        )
        for row in rows
    ]
    inner = el(
        "table",
        None,
        el("caption", {"id": label}, el("span", None, caption)),
        el("thead", None, head),
        el("tbody", None, body),
    )
    return el("div", {"class": "scroll", "role": "region", "tabindex": 0, "aria-labelledby": label}, inner)


def tiles(figures: Iterable[tuple[str, str, str | None]]) -> Html:
    """The main figures: a name, a value, and what it is made of."""
    made = [
        el(
            "div",
            None,
            el("dt", None, label),
            el("dd", None, value, el("span", {"class": "small"}, small) if small else None),
        )
        for label, value, small in figures
    ]
    return el("dl", {"class": "tiles"}, made)


def section(anchor: str, heading: str, *content: Content) -> Html:
    label = f"{anchor}-heading"
    return el("section", {"id": anchor, "aria-labelledby": label}, el("h2", {"id": label}, heading), *content)
