"""OpenTelemetry: instruments that are read when they are collected, and spans that stand where the call was made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as conventions
from opentelemetry.trace import SpanKind, StatusCode

from agent_cache import AgentCacheSession, ConfigurationError, configure, get_metrics, no_cache
from agent_cache.context import ROOT
from agent_cache_telemetry import otel
from agent_cache_telemetry.otel import OpenTelemetrySpans, instrument
from tests.telemetry.conftest import CARTS, add_to_cart, get_cart


class Traces:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def observe(self, **how: Any) -> None:
        configure(observers=[OpenTelemetrySpans(tracer_provider=self.provider, meter_provider=self.meters, **how)])

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self) -> dict[tuple[Any, ...], Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            (metric.name, *sorted(map(str, point.attributes.values()))): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }


@pytest.fixture
def traces() -> Traces:
    return Traces()


async def test_figures_are_read_when_they_are_collected(traces: Traces) -> None:
    instrument(traces.meters)
    await get_cart("secret-user")
    await get_cart("secret-user")
    logged = len(ROOT.log)
    await get_cart("secret-user")
    assert len(ROOT.log) == logged + 1  # the fast path is left alone
    await add_to_cart("secret-user", "lamp")
    found = traces.points()
    assert found["agent_cache.calls", "cart", "hit"].value == 2
    assert found["agent_cache.calls", "cart", "miss"].value == 1
    assert found["agent_cache.invalidations", "cart"].value == 1
    assert found["agent_cache.saved.cost", "cart"].value == 4
    assert dict(found["agent_cache.calls", "cart", "hit"].attributes) == {
        "agent_cache.resource": "cart",
        "agent_cache.outcome": "hit",
    }
    assert not [point for point in found if "secret" in str(point)]


async def test_one_collection_is_one_look(traces: Traces, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    time = [0.0]

    def counted() -> dict[str, Any]:
        looks.append(1)
        return get_metrics()

    look = otel._Look(now=lambda: time[0])
    monkeypatch.setattr(otel, "get_metrics", counted)
    monkeypatch.setattr(otel, "_Look", lambda: look)
    instrument(traces.meters)
    traces.points()
    assert len(looks) == 1
    time[0] = 1.0
    traces.points()
    assert len(looks) == 2


async def test_a_load_is_a_span_under_the_callers(traces: Traces) -> None:
    traces.observe()
    with traces.tracer.start_as_current_span("agent") as agent:
        await get_cart("secret-user")
        await get_cart("secret-user")  # a hit: no span unless asked for
    load, outer = traces.spans
    assert outer.name == "agent"
    assert load.name == "execute_tool get_cart"
    assert load.kind is SpanKind.INTERNAL
    assert load.parent is not None
    assert load.parent.span_id == agent.get_span_context().span_id
    assert load.start_time is not None
    assert load.end_time is not None
    assert outer.start_time is not None
    assert outer.start_time <= load.start_time <= load.end_time
    attributes = dict(load.attributes or {})
    assert attributes[conventions.GEN_AI_OPERATION_NAME] == conventions.GenAiOperationNameValues.EXECUTE_TOOL.value
    assert attributes[conventions.GEN_AI_TOOL_NAME] == "get_cart"
    assert attributes[conventions.GEN_AI_TOOL_TYPE] == "function"
    assert attributes["agent_cache.outcome"] == "miss"
    assert attributes["agent_cache.stored"] is True
    assert "secret" not in str(attributes)
    assert "tent" not in str(attributes)
    point = traces.points()["gen_ai.execute_tool.duration", "get_cart"]
    assert point.count == 1


async def test_hits_are_spans_if_asked_for_and_claim_no_execution(traces: Traces) -> None:
    traces.observe(hits=True)
    await get_cart("secret-user")
    await get_cart("secret-user")
    hit = traces.spans[1]
    assert hit.name == "agent_cache get_cart"
    assert hit.attributes is not None
    assert conventions.GEN_AI_OPERATION_NAME not in hit.attributes
    assert hit.attributes["agent_cache.outcome"] == "hit"
    assert isinstance(hit.attributes["agent_cache.age"], float)


async def test_callers_of_one_load_have_their_own_parents(traces: Traces) -> None:
    traces.observe(hits=True)

    async def agent(name: str) -> None:
        with traces.tracer.start_as_current_span(name):
            await get_cart("secret-user")

    await asyncio.gather(agent("a"), agent("b"))
    outer = {span.name: span.context.span_id for span in traces.spans if span.name in "ab"}
    inner = [span.parent.span_id for span in traces.spans if span.parent is not None]
    assert sorted(inner) == sorted(outer.values())


async def test_failures_and_bypasses(traces: Traces) -> None:
    traces.observe()
    CARTS.clear()
    with pytest.raises(KeyError):
        await get_cart("secret-user")
    CARTS["secret-user"] = []
    with no_cache():
        await get_cart("secret-user")
    failed, bypassed = traces.spans
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "_OTHER"
    assert "secret" not in str(failed.to_json())
    assert (bypassed.attributes or {})["agent_cache.reason"] == "no_cache"
    assert ("gen_ai.execute_tool.duration", "_OTHER", "get_cart") in traces.points()


async def test_who_and_what_only_where_asked_for(traces: Traces) -> None:
    traces.observe(session_ids=True, tags=True)
    async with AgentCacheSession(session_id="run-1"):
        await get_cart("secret-user")
    attributes = traces.spans[0].attributes or {}
    assert attributes[conventions.GEN_AI_CONVERSATION_ID] == "run-1"
    assert any("cart:secret-user" in tag for tag in attributes["agent_cache.tags"])  # type: ignore[union-attr]


async def test_a_frameworks_own_span_can_be_told_instead(traces: Traces) -> None:
    traces.observe(style="attributes")
    with traces.tracer.start_as_current_span("execute_tool get_cart"):
        await get_cart("secret-user")
    with traces.tracer.start_as_current_span("execute_tool get_cart"):
        await get_cart("secret-user")
    first, second = traces.spans
    assert (first.attributes or {})["agent_cache.outcome"] == "miss"
    assert (second.attributes or {})["agent_cache.outcome"] == "hit"
    with pytest.raises(ConfigurationError, match="style"):
        OpenTelemetrySpans(style="both")  # type: ignore[arg-type]


async def test_writes_and_loops_are_events_of_the_callers_span(traces: Traces) -> None:
    traces.observe()
    with traces.tracer.start_as_current_span("agent"):
        await add_to_cart("secret-user", "lamp")
        async with AgentCacheSession(max_tool_repeats=1, on_loop="warn"):
            for _ in range(3):
                await get_cart("secret-user")
    events = [(event.name, dict(event.attributes or {})) for event in traces.spans[-1].events]
    assert events[0][0] == "agent_cache.invalidation"
    assert events[0][1]["gen_ai.tool.name"] == "add_to_cart"
    assert "agent_cache.loop" in [name for name, _ in events]
    assert "secret" not in str(events)


async def test_without_a_provider_nothing_happens() -> None:
    instrument()
    configure(observers=[OpenTelemetrySpans()])
    assert await get_cart("secret-user") == ["tent"]
    assert not trace.get_current_span().is_recording()
