"""Which figures are exported, under which names: one table for every receiver.

Labels are the resource's name, an outcome and a reason, all of which are bounded; never a key, an argument, a result or who
was asking.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["OUTCOMES", "TABLE", "Figure", "samples"]

Labels = dict[str, str]

OUTCOMES = {
    "hits": "hit",
    "misses": "miss",
    "coalesced": "coalesced",
    "bypasses": "bypass",
    "replayed": "replayed",
}
"""The counters that tell how a read was answered; each read is in one of them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric. ``field``: where it stands in the figures, of each resource unless ``total``; ``""`` for its own rule.

    ``name`` is OpenTelemetry's; Prometheus has underscores in it and the unit behind it.
    """

    name: str
    field: str
    unit: str
    text: str
    counts: bool = True
    total: bool = False
    labels: tuple[str, ...] = ("resource",)


def _counter(name: str, field: str, text: str, unit: str = "") -> Figure:
    return Figure(f"agent_cache.{name}", field, unit, text)


TABLE: tuple[Figure, ...] = (
    Figure("agent_cache.calls", "", "", "Reads, by how they were answered", labels=("resource", "outcome")),
    Figure("agent_cache.reasons", "", "", "Why reads were bypassed, refused or served stale", labels=("reason",)),
    _counter("stale", "stale", "Loads because a write had dropped the entry"),
    _counter("expired", "expired", "Loads because the ttl was over"),
    _counter("invalidations", "invalidations", "Writes, and invalidations by hand"),
    _counter("fenced_out", "fenced_out", "Loads not kept because of a write"),
    _counter("load_failures", "load_failures", "Loads that raised"),
    _counter("stale_served", "stale_served", "Answers served beyond their ttl"),
    _counter("negative_hits", "negative_hits", "Stored errors raised again"),
    _counter("refreshes", "refreshes", "Loads in the background"),
    _counter("refresh_failures", "refresh_failures", "Loads in the background that failed"),
    _counter("load_timeouts", "load_timeouts", "Callers who stopped waiting for a load"),
    _counter("unstorable", "unstorable", "Results returned and not stored"),
    _counter("backend_errors", "backend_errors", "Backend failures; the tools ran"),
    _counter("loop_detections", "loop_detections", "Loops found in sessions"),
    _counter("saved.time", "seconds_saved", "Seconds of loading that hits have saved", "s"),
    _counter("saved.cost", "cost_saved", "What hits have saved, in the unit of the tools' cost="),
    _counter("would_hit", "would_hit", "Shadow mode: reads the cache would have answered"),
    _counter("would_miss", "would_miss", "Shadow mode: reads it would have run"),
    _counter("would_be_stale", "would_be_stale", "Shadow mode: hits that would have been wrong"),
    _counter("verified", "verified", "Hits that were run again and compared"),
    _counter("wrong", "wrong", "Of those, hits that were not what the tool answers now"),
    Figure("agent_cache.wrong.rate", "rate", "", "Rate of wrong answers among verified hits", counts=False),
    Figure("agent_cache.wrong.low", "low", "", "Lower end of its 95% interval (Wilson)", counts=False),
    Figure("agent_cache.wrong.high", "high", "", "Upper end of its 95% interval (Wilson)", counts=False),
    Figure("agent_cache.evictions", "evictions", "", "Entries that made room", total=True, labels=()),
    Figure("agent_cache.entries", "entries", "", "Entries in memory now", counts=False, total=True, labels=()),
    Figure("agent_cache.size", "bytes", "By", "Memory they take, estimated", counts=False, total=True, labels=()),
)


def samples(figure: Figure, metrics: dict[str, Any]) -> Iterator[tuple[Labels, float]]:
    """The values of one figure, out of what ``get_metrics()`` says."""
    resources: dict[str, dict[str, Any]] = metrics["resources"]
    if figure.total:
        yield {}, metrics[figure.field]
    elif figure.name == "agent_cache.reasons":
        for reason, times in metrics["reasons"].items():
            yield {"reason": reason}, times
    elif figure.name == "agent_cache.calls":
        for resource, row in resources.items():
            for field, outcome in OUTCOMES.items():
                yield {"resource": resource, "outcome": outcome}, row[field]
    elif figure.field in ("rate", "low", "high"):
        for resource, row in resources.items():
            if row["verified"]:
                yield {"resource": resource}, row["verify"][figure.field]
    else:
        for resource, row in resources.items():
            yield {"resource": resource}, row[figure.field]
