"""Small charts as SVG. Each has one series, a title, and a description that says in words what is to be seen.

Drawn 340 wide: a phone shows them one to one, a desk several beside each other. The data stands in a table beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent_cache.pages.blocks import Ids
from agent_cache.pages.markup import Content, Html, el

__all__ = ["Scale", "bar_chart", "line_chart"]

_WIDTH, _HEIGHT = 340, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 22
_MAX_LABELS = 3

Speak = Callable[[float], str]


class Scale(NamedTuple):
    """How a value is said in the description, and how beside the chart, where there is little room."""

    said: Speak
    beside: Speak


def line_chart(
    ids: Ids, title: str, labels: Sequence[str], values: Sequence[float | None], top: float, scale: Scale
) -> Html:
    """A curve; where a value is None it is interrupted. ``top`` is the upper end of the scale, ``scale`` spells a value."""
    places = [_across(number, len(values)) for number in range(len(values))]
    curves: list[Html] = []
    run: list[tuple[float, float]] = []
    for place, value in zip((*places, 0.0), (*values, None), strict=True):
        if value is not None:
            run.append((place, _height(value, top)))
        elif run:
            curves.append(_curve(run))
            run = []
    return _frame(ids, title, _said(labels, values, scale.said), labels, places, top, scale.beside, *curves)


def bar_chart(
    ids: Ids, title: str, labels: Sequence[str], values: Sequence[float], scale: Scale, second: bool = False
) -> Html:
    """Bars from zero; every bar is labelled where there are few."""
    top = max(values, default=0.0) or 1.0
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    places = [_LEFT + step * (number + 0.5) for number in range(len(values))]
    thick = min(28.0, step * 0.7)
    base = _HEIGHT - _BOTTOM
    bars = [
        el("rect", {
            "class": "bar b" if second else "bar", "x": _short(place - thick / 2), "y": _short(_height(value, top)),
            "width": _short(thick), "height": _short(base - _height(value, top)),
        })
        for place, value in zip(places, values, strict=True)
        if value > 0
    ]  # fmt: skip
    return _frame(ids, title, _said(labels, values, scale.said), labels, places, top, scale.beside, *bars)


def _said(labels: Sequence[str], values: Sequence[float | None], speak: Speak) -> str:
    known = [(value, label) for value, label in zip(values, labels, strict=True) if value is not None]
    if not known:
        return "Nothing was measured."
    low, high = min(known), max(known)
    if low[0] == high[0]:
        return f"{speak(low[0])} throughout, from {known[0][1]} to {known[-1][1]}."
    return (
        f"From {known[0][1]} to {known[-1][1]}: lowest {speak(low[0])} ({low[1]}), highest {speak(high[0])} ({high[1]}), "
        f"last {speak(known[-1][0])}."
    )


def _frame(
    ids: Ids,
    title: str,
    said: str,
    labels: Sequence[str],
    places: Sequence[float],
    top: float,
    beside: Speak,
    *drawn: Content,
) -> Html:
    names = ids.new("title"), ids.new("desc")
    base = _HEIGHT - _BOTTOM
    grid = [
        [
            el("line", {"class": "grid" if share else "axis", "x1": _LEFT, "x2": _WIDTH - _RIGHT, "y1": at, "y2": at}),
            el("text", {"x": _LEFT - 6, "y": at + 4, "text-anchor": "end"}, beside(top * share)),
        ]
        for share, at in ((share, _short(base - share * (base - _TOP))) for share in (0.0, 0.5, 1.0))
    ]
    below = [
        el(
            "text",
            {"x": _short(places[number]), "y": _HEIGHT - 5, "text-anchor": _anchor(number, len(labels))},
            labels[number],
        )
        for number in _shown(labels)
    ]
    return el(
        "svg",
        {"role": "img", "viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "aria-labelledby": " ".join(names)},
        el("title", {"id": names[0]}, title),
        el("desc", {"id": names[1]}, said),
        el("g", {"aria-hidden": "true"}, grid, drawn, below),
    )


def _shown(labels: Sequence[str]) -> list[int]:
    """Which labels have room: all of them, or first, middle and last."""
    if sum(len(label) + 2 for label in labels) * 6 < _WIDTH - _LEFT:
        return list(range(len(labels)))
    last = len(labels) - 1
    return sorted({0, last // 2, last} if last >= _MAX_LABELS - 1 and len(labels[0]) < 8 else {0, last})


def _anchor(number: int, many: int) -> str:
    """At the rims a label keeps inside."""
    if many > 7 or many == 2:
        return "start" if number == 0 else "end" if number == many - 1 else "middle"
    return "middle"


def _curve(points: Sequence[tuple[float, float]]) -> Html:
    dots = [el("circle", {"class": "dot", "cx": _short(x), "cy": _short(y), "r": 2.5}) for x, y in points]
    if len(points) == 1:
        return dots[0]
    path = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
    return el("g", None, el("polyline", {"class": "curve", "points": path}), dots if len(points) <= 24 else None)


def _across(number: int, many: int) -> float:
    room = _WIDTH - _LEFT - _RIGHT
    return _LEFT + room / 2 if many == 1 else _LEFT + 6 + (room - 12) * number / (many - 1)


def _height(value: float, top: float) -> float:
    base = _HEIGHT - _BOTTOM
    return base - max(0.0, min(1.0, value / top)) * (base - _TOP)


def _short(number: float) -> float:
    return round(number, 1)
