"""What was called while the cache ran in the shadow: kept for a while, to find writes that say too little.

Bounded, in memory only. What a finding is, is :mod:`agent_cache.audit`'s business; who is asked, and what is compared, the
engine's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent_cache.audit import NarrowWrite, Seen, narrow_writes
from agent_cache.locks import renewed_after_fork
from agent_cache.loops.outcomes import shortened

__all__ = ["ShadowLog", "ShadowReport"]

_MOST = 20_000
_SHOWN = 80
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What shadow mode has found.

    Attributes:
        resources: per resource the figures that begin with ``would_``, as in :func:`agent_cache.get_metrics`.
        narrow_writes: reads whose answer changed between two equal calls though no write that is known in between says so,
            each with the calls in between as suspects.
        calls: how many calls were looked at for them.
        forgotten: how many more there were; the last 20,000 are kept.
    """

    resources: Mapping[str, Mapping[str, Any]]
    narrow_writes: tuple[NarrowWrite, ...]
    calls: int
    forgotten: int

    def __str__(self) -> str:
        lines = [f"{'resource':20} {'would hit':>10} {'rate':>6} {'stale':>6} {'seconds':>9}"]
        for name, row in self.resources.items():
            lines.append(
                f"{name:20} {row['would_hit']:>10} {row['would_hit_rate']:>6.1%} {row['would_be_stale']:>6}"
                f" {row['would_save_seconds']:>9.3f}"
            )
        for found in self.narrow_writes:
            suspects = ", ".join(found.suspects) or "nobody known here"
            lines.append(f"changed without a known write: {found.read}; in between: {suspects}")
        return "\n".join(lines)


class ShadowLog:
    """The last calls, with what they read or wrote. Times are of one clock, in seconds."""

    def __init__(self, most: int = _MOST) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._calls: deque[Seen] = deque(maxlen=most)
        self._ever = 0
        self.now = time.monotonic

    def read(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        key: Hashable,
        paths: Iterable[Path],
        outcome: Hashable,
        began: float,
    ) -> None:
        """A read, once it is over. ``outcome``: equal for equal results; None where nothing is known of it."""
        self._add(Seen("read", _spelled(tool, arguments), key, tuple(paths), outcome, began, self.now()))

    def wrote(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        paths: Iterable[Path],
        began: float,
        *,
        no_effect: bool = False,
        declared: bool = True,
    ) -> None:
        """A write, once it is over; with ``declared=False`` a call of a tool that says nothing of itself."""
        kind: Literal["write", "other"] = "write" if declared else "other"
        text = _spelled(tool, arguments)
        self._add(Seen(kind, text, None, tuple(paths), None, began, self.now(), no_effect=no_effect))

    def _add(self, seen: Seen) -> None:
        with self._lock:
            self._calls.append(seen)
            self._ever += 1

    def forget(self) -> None:
        with self._lock:
            self._calls.clear()
            self._ever = 0

    def report(self, resources: Mapping[str, Mapping[str, Any]]) -> ShadowReport:
        with self._lock:
            calls, ever = list(self._calls), self._ever
        found = tuple(replace(each, resources=_named(each.resources)) for each in narrow_writes(calls))
        return ShadowReport(resources, found, len(calls), ever - len(calls))


def _named(resources: tuple[str, ...]) -> tuple[str, ...]:
    """Without the path that every call has of its own."""
    return tuple(each for each in resources if not each.startswith("#"))


def _spelled(tool: str, arguments: Mapping[str, Any]) -> str:
    return f"{tool}({', '.join(f'{name}={_short(value)}' for name, value in arguments.items())})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - somebody's __repr__; the text is for people
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    return shortened(text, _SHOWN)
