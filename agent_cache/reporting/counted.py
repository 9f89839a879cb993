"""What ``get_metrics()`` tells: sums by resource since the process, or the session, began. Nothing over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_cache.errors import ConfigurationError
from agent_cache.pages import Figures, ToolSeries

__all__ = ["counted"]

_NAMES = {"writes": "invalidations", "failures": "load_failures", "loops": "loop_detections"}
_FIGURES = (
    "hits", "misses", "coalesced", "stale", "expired", "stale_served", "bypasses", "failures", "writes", "loops",
    "seconds_saved", "cost_saved",
)  # fmt: skip


def counted(metrics: Mapping[str, Any]) -> tuple[ToolSeries, ...]:
    """By resource.

    Raises:
        ConfigurationError: these are not the figures of ``get_metrics()``.
    """
    resources = metrics.get("resources") if isinstance(metrics, Mapping) else None
    if not isinstance(resources, Mapping):
        raise ConfigurationError("metrics", type(metrics).__name__, "give what get_metrics() returns")
    return tuple(
        ToolSeries(str(name), Figures(**{one: row.get(_NAMES.get(one, one), 0) for one in _FIGURES}))
        for name, row in resources.items()
    )
