"""For OpenTelemetry: figures as observable instruments, and an observer that makes spans.

Names are those of the GenAI semantic conventions where there are any (``gen_ai.operation.name``, ``gen_ai.tool.name``,
``gen_ai.execute_tool.duration``; in development, as of 2026); for caches there are none, so the rest is ``agent_cache.*``.
No attribute holds an argument, a key or a result; tags (which name entities) and session ids only where they are asked for.

Needs ``agent-cache[opentelemetry]``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

from agent_cache import CallEvent, ConfigurationError, InvalidationEvent, LoopEvent, get_metrics
from agent_cache_telemetry.figures import TABLE, Figure, samples

__all__ = ["OpenTelemetrySpans", "instrument"]

_SCOPE = "agent_cache"
_RAN = frozenset(
    {"miss", "stale", "expired", "blocked", "bypass", "would_hit", "would_miss", "would_coalesce", "would_be_stale"}
)
"""Outcomes of calls for which the tool ran on the caller's behalf."""
_FRESH = 0.5  # seconds for which one look at the figures serves all instruments: they are collected together

Attributes = dict[str, str | bool | int | float | list[str]]


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Export the figures of :func:`agent_cache.get_metrics` as observable instruments; once for a provider.

    They are read when the provider collects; calls pay nothing for it. ``meter_provider``: the global one if None.
    ``reset_metrics()`` looks like a restart to whoever receives them.
    """
    meter = otel_metrics.get_meter(_SCOPE, meter_provider=meter_provider)
    look = _Look()
    for figure in TABLE:
        kind = meter.create_observable_counter if figure.counts else meter.create_observable_gauge
        kind(figure.name, callbacks=[partial(_observed, figure, look)], unit=figure.unit, description=figure.text)


class _Look:
    """The figures, looked up once for all instruments that are collected together."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._until = float("-inf")
        self._figures: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        with self._lock:
            if self._now() >= self._until:
                self._figures = get_metrics()
                self._until = self._now() + _FRESH
            return self._figures


def _observed(figure: Figure, look: _Look, _options: CallbackOptions) -> Iterable[Observation]:
    for labels, value in samples(figure, look()):
        yield Observation(value, {f"agent_cache.{name}": text for name, text in labels.items()})


class OpenTelemetrySpans:
    """An observer that tells traces of each call: ``configure(observers=[OpenTelemetrySpans()])``.

    While it is there no hit is answered on the fast path: a hit then costs microseconds. A span is made when its call is over,
    with the time at which that began; its parent is the span in which the tool was called. Spans that the tool makes
    itself stand beside it.

    Args:
        tracer_provider: the global one if None.
        meter_provider: where ``gen_ai.execute_tool.duration`` (seconds, of tools that ran) goes; the global one if None.
        style: ``"spans"``; or ``"attributes"``: add to the span in which the tool was called, where a framework makes one
            for each call of a tool anyway.
        hits: spans too for what was answered without the tool (hits, shared loads); their name does not say ``execute_tool``.
        session_ids: ``gen_ai.conversation.id`` is the session's id.
        tags: ``agent_cache.tags``: what the answer hangs on. They hold the entities' names, such as user ids.

    Raises:
        ConfigurationError: an unknown style.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        style: Literal["spans", "attributes"] = "spans",
        hits: bool = False,
        session_ids: bool = False,
        tags: bool = False,
    ) -> None:
        if style not in ("spans", "attributes"):
            raise ConfigurationError("style", style, "give 'spans' or 'attributes'")
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._duration = otel_metrics.get_meter(_SCOPE, meter_provider=meter_provider).create_histogram(
            "gen_ai.execute_tool.duration", unit="s", description="How long tools ran"
        )
        self._style = style
        self._hits = hits
        self._session_ids = session_ids
        self._tags = tags

    def on_event(self, event: object) -> None:
        """Called by the cache, where the call was made."""
        if isinstance(event, CallEvent):
            self._called(event)
        elif isinstance(event, InvalidationEvent):
            said: Attributes = {"gen_ai.tool.name": event.tool, "agent_cache.scope": event.scope}
            said |= {"agent_cache.no_effect": event.no_effect, "agent_cache.failed": event.failed}
            if self._tags:
                said["agent_cache.tags"] = list(event.tags)
            trace.get_current_span().add_event("agent_cache.invalidation", said)
        elif isinstance(event, LoopEvent):
            found: Attributes = {"gen_ai.tool.name": event.tool, "agent_cache.loop.kind": event.kind}
            found["agent_cache.loop.count"] = event.count
            trace.get_current_span().add_event("agent_cache.loop", found)

    def _called(self, event: CallEvent) -> None:
        ran = event.outcome in _RAN
        if ran:
            measured = {"gen_ai.tool.name": event.tool}
            if event.failed:
                measured["error.type"] = "_OTHER"
            self._duration.record(event.seconds, measured)
        attributes = self._attributes(event)
        if self._style == "attributes":
            trace.get_current_span().set_attributes(attributes)
        elif ran or self._hits:
            self._span(event, attributes, ran=ran)

    def _span(self, event: CallEvent, attributes: Attributes, *, ran: bool) -> None:
        ended = time.time_ns()
        name = f"execute_tool {event.tool}" if ran else f"agent_cache {event.tool}"
        if ran:
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function"}
        if event.failed:
            attributes["error.type"] = "_OTHER"  # what the conventions say where the class is not known
        begun = ended - int(event.seconds * 1e9)
        span = self._tracer.start_span(name, kind=SpanKind.INTERNAL, attributes=attributes, start_time=begun)
        if event.failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def _attributes(self, event: CallEvent) -> Attributes:
        said: Attributes = {
            "gen_ai.tool.name": event.tool,
            "agent_cache.resource": event.resource,
            "agent_cache.outcome": event.outcome,
            "agent_cache.stored": event.stored,
        }
        optional = (
            ("agent_cache.reason", event.reason),
            ("agent_cache.age", event.age),
            ("agent_cache.refused", event.refused),
            ("agent_cache.dropped_by", event.dropped_by),
            ("gen_ai.conversation.id", event.session_id if self._session_ids else None),
            ("agent_cache.tags", list(event.tags) if self._tags else None),
        )
        return said | {name: value for name, value in optional if value is not None}
