"""The figures: what the process has done since it started or ``reset_metrics()``."""

from __future__ import annotations

from typing import Any

from agent_cache.backends.memory import evictions_ever, live_stores
from agent_cache.config import settings
from agent_cache.context import PROCESS, drain_all
from agent_cache.shadowing import ShadowReport

__all__ = ["get_metrics", "reset_metrics", "shadow_report"]


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

    In shadow mode ``would_hit`` and ``would_miss``, ``would_hit_rate``, ``would_coalesce`` (would have shared a load),
    ``would_be_stale`` (of the hits: what was stored was not what the tool answered, and no write that is known came in
    between), ``would_save_seconds`` and ``would_save_cost``.

    ``verify``: of a sample of the hits, how many were ``verified``, how many were ``wrong`` (not what the tool answers now), the
    ``rate``, and ``low`` and ``high``, between which the rate of all hits lies with 95% confidence (Wilson's score interval).
    ``unverified``: drawn, and nothing can be said; ``reasons`` says why (``verify_overlapped``: a write came in between).
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
    settings.last_shadow.forget()
    _evictions_at_reset[0] = evictions_ever[0]


def shadow_report() -> ShadowReport:
    """What shadow mode has found since it was last switched on, or :func:`reset_metrics`; see ``docs/shadow.md``.

    Looks through up to 20,000 calls: for people, not for every request.
    """
    resources = get_metrics()["resources"]
    rows = {
        name: {field: value for field, value in row.items() if field.startswith("would_")}
        for name, row in resources.items()
        if row["would_hit"] + row["would_miss"] + row["would_coalesce"]
    }
    return settings.last_shadow.report(rows)
