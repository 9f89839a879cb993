"""For Prometheus: a collector that reads the figures when it is scraped, and an observer for durations.

::

    from prometheus_client import REGISTRY
    REGISTRY.register(AgentCacheCollector())

Needs ``agent-cache[prometheus]``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agent_cache import CallEvent, get_metrics
from agent_cache_telemetry.figures import TABLE, Figure, samples

__all__ = ["AgentCacheCollector", "DurationHistogram"]

Family = CounterMetricFamily | GaugeMetricFamily
_UNITS = {"s": "_seconds", "By": "_bytes"}
_MOST_TOOLS = 200
_OTHER = "(other)"


class AgentCacheCollector(Collector):
    """The figures of :func:`agent_cache.get_metrics`, read at each scrape; calls pay nothing for it.

    Every process has its own: scrape each of them.
    """

    def collect(self) -> Iterator[Family]:
        """The figures as they are now."""
        metrics = get_metrics()
        for figure in TABLE:
            yield _family(figure, metrics)

    def describe(self) -> Iterator[Family]:
        """Their names, for a registry that wants to see that nobody else has them."""
        for figure in TABLE:
            yield _family(figure, None)


def _family(figure: Figure, metrics: dict[str, Any] | None) -> Family:
    name = figure.name.replace(".", "_") + _UNITS.get(figure.unit, "")
    kind = CounterMetricFamily if figure.counts else GaugeMetricFamily
    family: Family = kind(name, figure.text, labels=figure.labels)
    for labels, value in samples(figure, metrics) if metrics is not None else ():
        family.add_metric([labels[label] for label in figure.labels], value)
    return family


class DurationHistogram:
    """An observer: ``agent_cache_call_duration_seconds``, how long callers waited, by tool and outcome.

    While it is among ``configure(observers=...)`` no hit is answered on the fast path: a hit then costs microseconds.
    Past 200 tools the rest is ``(other)``.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, **options: Any) -> None:
        """``options``: of ``prometheus_client.Histogram``, such as ``buckets``."""
        text = "How long callers waited, by tool and outcome"
        self._histogram = Histogram(
            "agent_cache_call_duration_seconds", text, ("tool", "outcome"), registry=registry, **options
        )
        self._tools: set[str] = set()
        self._lock = threading.Lock()

    def on_event(self, event: object) -> None:
        if isinstance(event, CallEvent):
            self._histogram.labels(self._known(event.tool), event.outcome).observe(event.seconds)

    def _known(self, tool: str) -> str:
        if tool in self._tools:
            return tool
        with self._lock:
            if len(self._tools) >= _MOST_TOOLS:
                return _OTHER
            self._tools.add(tool)
        return tool
