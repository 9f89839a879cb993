"""OpenTelemetry spans of tool calls, by the GenAI semantic conventions: ``gen_ai.operation.name = execute_tool``.

Known are OTLP's JSON (``resourceSpans``; one export per line, as the collector's file exporter writes it) and the SDK's own
``span.to_json()``, one per line. Spans are taken in the order of the file, which is that of their ends.

Source: OpenTelemetry semantic conventions for generative AI, "execute tool" span (status: development).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent_cache.simulate.formats.plain import moment
from agent_cache.simulate.traffic import Call, arguments_of, result_of

__all__ = ["is_span_record", "span_calls"]

_WHOLE = re.compile(r"-?[0-9]{1,20}")
_ARGUMENTS, _RESULT = "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"
_VALUES = ("stringValue", "intValue", "doubleValue", "boolValue")


def is_span_record(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    if "resourceSpans" in value or "resource_spans" in value:
        return True
    return "attributes" in value and bool({"context", "traceId", "trace_id", "spanId"} & value.keys())


def span_calls(record: Mapping[str, Any]) -> Iterator[Call]:
    """The tool calls of one record; other spans are passed over."""
    for span in _spans(record):
        attributes = _attributes(span.get("attributes"))
        tool = attributes.get("gen_ai.tool.name")
        operation = attributes.get("gen_ai.operation.name")
        if isinstance(tool, str) and operation in ("execute_tool", None):
            yield _call(span, attributes, tool)


def _spans(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    groups = record.get("resourceSpans", record.get("resource_spans"))
    if groups is None:
        yield record
        return
    for resource in _mappings(groups):
        for scope in _mappings(resource.get("scopeSpans", resource.get("scope_spans"))):
            yield from _mappings(scope.get("spans"))


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, Mapping):
            yield item


def _attributes(given: object) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for item in _mappings(given):
        value = item.get("value")
        if isinstance(value, Mapping):
            value = next((value[kind] for kind in _VALUES if kind in value), _structured(value))
        found[str(item.get("key"))] = value
    return found


def _structured(value: object) -> Any:
    """An AnyValue as the JSON value it stands for."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(pairs := value.get("kvlistValue"), Mapping):
        return {str(item.get("key")): _structured(item.get("value")) for item in _mappings(pairs.get("values"))}
    if isinstance(items := value.get("arrayValue"), Mapping):
        return [_structured(item) for item in _mappings(items.get("values"))]
    whole = value.get("intValue")  # protobuf's JSON has 64 bits as text
    if isinstance(whole, str) and _WHOLE.fullmatch(whole):
        return int(whole)
    return next((value[kind] for kind in (*_VALUES, "bytesValue") if kind in value), None)


def _call(span: Mapping[str, Any], attributes: Mapping[str, Any], tool: str) -> Call:
    context = span.get("context")
    trace = span.get("traceId", span.get("trace_id", context.get("trace_id") if isinstance(context, Mapping) else ""))
    session = attributes.get("gen_ai.conversation.id", attributes.get("session.id", trace))
    call = Call(str(session), tool, arguments_of(attributes.get(_ARGUMENTS)), None)
    call.told = (
        _ARGUMENTS in attributes or _RESULT in attributes
    )  # with its result, and without arguments: it takes none
    began = moment(_time(span.get("startTimeUnixNano", span.get("start_time"))))
    ended = moment(_time(span.get("endTimeUnixNano", span.get("end_time"))))
    call.at = began
    if began is not None and ended is not None and ended >= began:
        call.seconds = ended - began
    if _failed(span):
        call.error = call.raised = True
        call.result, call.shown = result_of(str(attributes.get("error.type", "error")))
    elif _RESULT in attributes:
        call.result, call.shown = result_of(attributes[_RESULT])
    return call


def _time(value: object) -> object:
    return int(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value


def _failed(span: Mapping[str, Any]) -> bool:
    status = span.get("status")
    code = status.get("code", status.get("status_code")) if isinstance(status, Mapping) else None
    return code in (2, "STATUS_CODE_ERROR", "ERROR")
