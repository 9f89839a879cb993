"""Numbers, durations and moments as people read them. Moments are UTC, and say so."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from agent_cache.pages.markup import Html, el

__all__ = [
    "brief_duration",
    "compact",
    "count",
    "duration",
    "moment",
    "money",
    "percent",
    "plural",
    "short_moment",
    "when",
]

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def percent(share: float | None) -> str:
    """``0.831`` is ``83.1%``; None is a dash. Never rounds up to 100%."""
    if share is None or not math.isfinite(share):
        return "–"
    rounded = min(share, 0.999) if share < 1 else share
    return f"{rounded * 100:.1f}%" if 0 < share < 1 else f"{share * 100:.0f}%"


def count(number: float) -> str:
    return f"{round(number):,}"


def plural(number: float, one: str, many: str | None = None) -> str:
    """``1 loop``, ``2 loops``."""
    return f"{count(number)} {one if round(number) == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """``3 h 20 min``, ``1.5 s``, ``40 ms``; None is a dash."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 60:
        if seconds and seconds < 0.0995:
            return f"{seconds * 1000:.3g} ms"
        return f"{seconds:.3g} s"
    for number, (size, unit) in enumerate(_UNITS):
        if seconds >= size:
            smaller, name = _UNITS[number + 1] if number + 1 < len(_UNITS) else (1.0, "s")
            rest = int(seconds % size // smaller)
            return f"{int(seconds // size):,} {unit}" + (f" {rest} {name}" if rest else "")
    raise AssertionError("unreachable: a minute is the least of the units")  # pragma: no cover


def brief_duration(seconds: float) -> str:
    """Where there is little room: ``1.5 h``, ``59 s``."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{compact(seconds / size)} {unit}"
    if 0 < seconds < 0.0995:
        return f"{compact(seconds * 1000)} ms"
    return f"{compact(seconds)} s"


def compact(number: float) -> str:
    """Two or three digits: ``0.051``, ``4.6``, ``123``, ``46k``."""
    for least, size, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 99 else f"{scaled:.2g}{unit}"
    return f"{number:,.0f}" if number >= 99 else f"{number:.2g}" if number >= 0.001 else "0" if number == 0 else "<.001"


def money(amount: float | None, currency: str) -> str:
    if amount is None or not math.isfinite(amount):
        return "–"
    digits = f"{amount:,.2f}" if abs(amount) >= 0.1 or amount == 0 else f"{amount:,.3g}"
    return f"{digits} {currency}".strip()


def _utc(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):  # a clock, or a file, that says something impossible
        return datetime.fromtimestamp(0, UTC)


def moment(seconds: float) -> str:
    """``2026-05-01 12:30 UTC`` from seconds since 1970."""
    return f"{_utc(seconds):%Y-%m-%d %H:%M} UTC"


def short_moment(seconds: float, *, with_day: bool) -> str:
    return f"{_utc(seconds):%m-%d %H:%M}" if with_day else f"{_utc(seconds):%H:%M}"


def when(seconds: float) -> Html:
    return el("time", {"datetime": f"{_utc(seconds):%Y-%m-%dT%H:%M:%SZ}"}, moment(seconds))
