"""Counting what happened, per resource; adding up on read.

Counters only. What counts as what is decided where it happens.
"""

from __future__ import annotations

from typing import Any

from agent_cache.intervals import wilson
from agent_cache.locks import renewed_after_fork

__all__ = ["FIELDS", "Metrics"]

FIELDS = (
    "hits", "misses", "invalidations", "loop_detections", "coalesced", "stale", "expired", "fenced_out", "bypasses",
    "load_failures", "stale_served", "refreshes", "refresh_failures", "early_refreshes", "revalidated",
    "revalidation_failures", "negative_hits", "load_timeouts", "backend_errors", "unstorable", "observer_errors", "evictions",
    "replayed", "would_hit", "would_miss", "would_coalesce", "would_be_stale", "verified", "wrong", "unverified",
)  # fmt: skip
_MAX_RESOURCES = 1_000
_OVERFLOW = "(other)"
_NOTHING = (0.0, 0.0, 0.0, 0.0)


class Metrics:
    """Thread-safe counters by resource, bounded: past 1,000 resources the rest is counted as ``(other)``."""

    __slots__ = ("__weakref__", "_lock", "_reasons", "_resources", "_saved")

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._resources: dict[str, dict[str, int]] = {}
        self._reasons: dict[str, int] = {}
        self._saved: dict[str, list[float]] = {}

    def add(self, resource: str, field: str, times: int = 1, reason: str | None = None) -> None:
        """Count ``times`` of ``field``; ``reason`` is counted beside it (why a call was bypassed or refused)."""
        with self._lock:
            counts = self._resources.get(resource)
            if counts is None:
                counts = self._of(resource)
            counts[field] = counts.get(field, 0) + times
            if reason is not None and (reason in self._reasons or len(self._reasons) < _MAX_RESOURCES):
                self._reasons[reason] = self._reasons.get(reason, 0) + times

    def hit(self, resource: str, seconds: float, cost: float, times: int = 1) -> None:
        """Count hits, which saved this much together: seconds of loading, and cost in whatever unit was given."""
        with self._lock:
            counts = self._resources.get(resource)
            if counts is None:
                counts = self._of(resource)
            counts["hits"] = counts.get("hits", 0) + times
            saved = self._saved.get(resource)
            if saved is None:
                saved = self._savings(resource)
            saved[0] += seconds
            saved[1] += cost

    def would_hit(self, resource: str, seconds: float, cost: float) -> None:
        """Count a call that a cache in the shadow would have answered: what it took, and what it cost."""
        with self._lock:
            counts = self._of(resource)
            counts["would_hit"] = counts.get("would_hit", 0) + 1
            saved = self._savings(resource)
            saved[2] += seconds
            saved[3] += cost

    def _savings(self, resource: str) -> list[float]:
        name = resource if resource in self._resources else _OVERFLOW
        return self._saved.setdefault(name, [0.0, 0.0, 0.0, 0.0])

    def _of(self, resource: str) -> dict[str, int]:
        counts = self._resources.get(resource)
        if counts is None:
            name = resource if len(self._resources) < _MAX_RESOURCES else _OVERFLOW
            counts = self._resources.setdefault(name, {})
        return counts

    def reset(self) -> None:
        with self._lock:
            self._resources.clear()
            self._reasons.clear()
            self._saved.clear()

    def snapshot(self) -> dict[str, Any]:
        """Totals, ``reasons``, and the same per resource. A rate is hits over hits and misses, 0.0 without calls."""
        with self._lock:
            resources = {name: dict(counts) for name, counts in self._resources.items()}
            saved = {name: tuple(pair) for name, pair in self._saved.items()}
            reasons = dict(self._reasons)
        by_resource = {name: _row(counts, saved.get(name, _NOTHING)) for name, counts in resources.items()}
        totals = {field: sum(row[field] for row in by_resource.values()) for field in FIELDS}
        together = tuple(map(sum, zip(*saved.values(), strict=True))) or _NOTHING
        return {**_row(totals, together), "reasons": reasons, "resources": by_resource}


def _row(counts: dict[str, int], saved: tuple[float, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {field: counts.get(field, 0) for field in FIELDS}
    asked = row["hits"] + row["misses"]
    row["hit_rate"] = row["hits"] / asked if asked else 0.0
    row["seconds_saved"], row["cost_saved"], row["would_save_seconds"], row["would_save_cost"] = saved
    asked = row["would_hit"] + row["would_miss"]
    row["would_hit_rate"] = row["would_hit"] / asked if asked else 0.0
    row["verify"] = _verified(row["verified"], row["wrong"])
    return row


def _verified(verified: int, wrong: int) -> dict[str, Any]:
    low, high = wilson(wrong, verified)
    return {
        "verified": verified,
        "wrong": wrong,
        "rate": wrong / verified if verified else 0.0,
        "low": low,
        "high": high,
    }
