"""The figures: what the process has done since it started or ``reset_metrics()``."""

from __future__ import annotations

from typing import Any

from agent_cache.backends.memory import evictions_ever, live_stores
from agent_cache.context import PROCESS, drain_all

__all__ = ["get_metrics", "reset_metrics"]


def get_metrics() -> dict[str, Any]:
    """Process-wide figures since the start or :func:`reset_metrics`.

    ``hits``, ``misses`` (loads that were run), ``hit_rate`` (hits over both), ``coalesced`` (calls that shared a
    load), ``stale`` (misses because of a write), ``expired``, ``bypasses`` (reads that ran uncached),
    ``stale_served`` (answers older than their ttl), ``refreshes`` and ``refresh_failures`` (loads in the background),
    ``early_refreshes`` (of those, before the ttl ended), ``revalidated`` and ``revalidation_failures``, ``negative_hits``
    (stored errors raised again), ``load_timeouts`` (callers who gave up), ``fenced_out`` (loads not kept because of a
    write), ``unstorable``, ``load_failures`` (the tool raised), ``backend_errors``, ``observer_errors``,
    ``invalidations``, ``loop_detections``, ``replayed`` (answered from a cassette), ``evictions``, ``entries`` and
    ``bytes`` (now, in memory, estimated), ``seconds_saved``, ``cost_saved``, ``reasons`` (why calls were bypassed or
    refused) and ``resources``: the same per resource.
    """
    drain_all()
    figures = PROCESS.snapshot()
    entries = size = 0
    for store in live_stores():
        more, heavier, _ = store.sizes()
        entries += more
        size += heavier
    figures["entries"], figures["bytes"], figures["evictions"] = (
        entries,
        size,
        evictions_ever[0] - _evictions_at_reset[0],
    )
    return figures


_evictions_at_reset = [0]


def reset_metrics() -> None:
    """Start counting anew. Entries, bytes and sessions' own figures stay."""
    drain_all()
    PROCESS.reset()
    _evictions_at_reset[0] = evictions_ever[0]
