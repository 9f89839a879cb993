"""One conversation in every format: the same calls, in the same order, with the same answers."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage, messages_to_dict
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode

from agent_cache.simulate import Call, TraceError, Turn, read_trace

CALLS: list[tuple[str, dict[str, Any], str, bool]] = [
    ("get_user", {"user_id": 7}, '{"name": "Mia"}', False),
    ("get_order", {"order_id": "A1"}, "open", False),
    ("update_user", {"user_id": 7, "name": "Ada"}, "no such user", True),
]
"""Tool, arguments, answer, whether it failed. The first two are made at once."""


def _chat() -> list[dict[str, Any]]:
    def call(number: int) -> dict[str, Any]:
        tool, arguments, _, _ = CALLS[number]
        function = {"name": tool, "arguments": json.dumps(arguments)}
        return {"id": f"c{number}", "type": "function", "function": function}

    def answer(number: int) -> dict[str, Any]:
        text = CALLS[number][2]
        return {"role": "tool", "tool_call_id": f"c{number}", "content": f"Error: {text}" if number == 2 else text}

    return [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [call(0), call(1)]},
        answer(0),
        answer(1),
        {"role": "user", "content": "Change it"},
        {"role": "assistant", "tool_calls": [call(2)]},
        answer(2),
        {"role": "assistant", "content": "Done."},
    ]


def _langchain() -> list[AnyMessage]:
    def call(number: int) -> Any:
        return {"name": CALLS[number][0], "args": CALLS[number][1], "id": f"c{number}"}

    def answer(number: int) -> ToolMessage:
        _, _, text, failed = CALLS[number]
        return ToolMessage(text, tool_call_id=f"c{number}", status="error" if failed else "success")

    return [
        HumanMessage("Hello"),
        AIMessage("", tool_calls=[call(0), call(1)]),
        answer(0),
        answer(1),
        HumanMessage("Change it"),
        AIMessage("", tool_calls=[call(2)]),
        answer(2),
    ]


def _blocks() -> list[dict[str, Any]]:
    def use(number: int) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"c{number}", "name": CALLS[number][0], "input": CALLS[number][1]}

    def result(number: int) -> dict[str, Any]:
        return {
            "type": "tool_result",
            "tool_use_id": f"c{number}",
            "content": CALLS[number][2],
            "is_error": CALLS[number][3],
        }

    return [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [use(0), use(1)]},
        {"role": "user", "content": [result(0), result(1)]},
        {"role": "user", "content": "Change it"},
        {"role": "assistant", "content": [use(2)]},
        {"role": "user", "content": [result(2)]},
    ]


def _items() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
    for number, (tool, arguments, text, failed) in enumerate(CALLS):
        call = {"type": "function_call", "call_id": f"c{number}", "name": tool, "arguments": json.dumps(arguments)}
        output = f"Error: {text}" if failed else text
        found += [call, {"type": "function_call_output", "call_id": f"c{number}", "output": output}]
    return found


def _plain() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for tool, arguments, text, failed in CALLS:
        lines.append({"session": "s", "tool": tool, "args": arguments, ("error" if failed else "result"): text})
    return lines


def _spans(*, otlp: bool) -> list[dict[str, Any]]:
    """What the SDK itself writes."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("agents")
    with tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.operation.name": "invoke_agent"}):
        for tool, arguments, text, failed in CALLS:
            with tracer.start_as_current_span(f"execute_tool {tool}") as span:
                span.set_attribute("gen_ai.operation.name", "execute_tool")
                span.set_attribute("gen_ai.tool.name", tool)
                span.set_attribute("gen_ai.conversation.id", "s")
                span.set_attribute("gen_ai.tool.call.arguments", json.dumps(arguments))
                if failed:
                    span.set_attribute("error.type", text)
                    span.set_status(Status(StatusCode.ERROR))
                else:
                    span.set_attribute("gen_ai.tool.call.result", text)
    spans = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
    return [_otlp(spans)] if otlp else spans


def _otlp(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """As the collector's file exporter has them: protobuf's JSON."""

    def one(span: dict[str, Any]) -> dict[str, Any]:
        attributes = [{"key": key, "value": {"stringValue": value}} for key, value in span["attributes"].items()]
        code = 2 if span["status"]["status_code"] == "ERROR" else 0
        times = {"startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000250000000"}
        return {
            "traceId": "t",
            "spanId": "s",
            "name": span["name"],
            "attributes": attributes,
            "status": {"code": code},
            **times,
        }

    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [one(span) for span in spans]}]}]}


def _lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


FORMATS: dict[str, Callable[[], str]] = {
    "chat, a conversation per line": lambda: _lines([{"id": "s", "messages": _chat()}]),
    "chat, one JSON array of messages": lambda: json.dumps(_chat(), indent=1),
    "chat, an array of conversations": lambda: json.dumps([_chat()]),
    "chat, a message per line": lambda: _lines(_chat()),
    "a log of requests and responses": lambda: json.dumps({"request": {"messages": _chat()}, "response": {}}),
    "simulations": lambda: json.dumps({"info": {}, "simulations": [{"id": 1, "messages": _chat()}]}),
    "langchain, model_dump": lambda: _lines([{"messages": [message.model_dump() for message in _langchain()]}]),
    "langchain, messages_to_dict": lambda: json.dumps(messages_to_dict(_langchain())),
    "langchain, dumpd": lambda: json.dumps(dumpd(_langchain())),
    "content blocks": lambda: json.dumps(_blocks()),
    "response items": lambda: json.dumps(_items()),
    "plain": lambda: _lines(_plain()),
    "spans, to_json": lambda: _lines(_spans(otlp=False)),
    "spans, pretty": lambda: "\n".join(json.dumps(span, indent=4) for span in _spans(otlp=False)),
    "spans, OTLP": lambda: _lines(_spans(otlp=True)),
}


def _read(path: Path) -> list[Call | Turn]:
    return list(read_trace(path))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_calls_come_out_of_every_format(name: str, packed: bool, tmp_path: Path) -> None:
    text = FORMATS[name]()
    path = tmp_path / "trace.json"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    calls = [event for event in _read(path) if isinstance(event, Call)]
    assert [(call.tool, dict(call.arguments)) for call in calls] == [(tool, args) for tool, args, _, _ in CALLS]
    assert [call.error for call in calls] == [False, False, True]
    assert [call.shown for call in calls[:2]] == ['{"name": "Mia"}', "open"]
    assert "no such user" in calls[2].shown
    assert len({call.session for call in calls}) == 1


def test_calls_made_at_once_are_of_one_batch_and_turns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(_chat()), "utf-8")
    events = _read(path)
    calls = [event for event in events if isinstance(event, Call)]
    assert calls[0].batch == calls[1].batch != calls[2].batch
    turns = [at for at, event in enumerate(events) if isinstance(event, Turn) and not event.ended]
    assert turns == [0, 3]
    last = events[-1]
    assert isinstance(last, Turn)
    assert last.ended


def test_what_was_raised_is_told_from_what_was_returned(tmp_path: Path) -> None:
    for name, raised in (("langchain, dumpd", True), ("chat, a message per line", False), ("plain", True)):
        path = tmp_path / "trace.json"
        path.write_text(FORMATS[name](), "utf-8")
        assert [event.raised for event in _read(path) if isinstance(event, Call)][2] is raised


def test_spans_say_how_long_calls_took(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    path.write_text(FORMATS["spans, OTLP"](), "utf-8")
    assert [event.seconds for event in _read(path) if isinstance(event, Call)] == pytest.approx([0.25] * 3)


def test_a_call_without_an_answer_is_handed_on_as_such(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(_chat()[:4]), "utf-8")
    assert [(e.tool, e.result is None) for e in _read(path) if isinstance(e, Call)] == [
        ("get_user", False),
        ("get_order", True),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"s": "1", "t": "x", "a"', "is no JSON"),
        ('[{"role": "user", "content": "x"}', "is the file cut off"),
        ('[{"role": "user"} {"role": "user"}]', "is missing"),
        ('{"color": "red"}\n', "no record of it is known"),
        ("", "no record of it is known"),
        ('{"tool": "x", "args": {}, "result": 1, "kind": "reed"}', "kind is 'reed'"),
        ('{"tool": "x", "args": {}, "result": 1, "seconds": -1}', "seconds is -1"),
        ('{"tool": 7, "args": {}, "result": 1}', "name is 7"),
        ('{"t": "x", "a": {}, "r": "1", "rt": [5]}', "a resource is 5"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text, "utf-8")
    with pytest.raises(TraceError, match=says) as raised:
        _read(path)
    assert "trace.json" in str(raised.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be opened"):
        _read(tmp_path / "none.json")
    broken = tmp_path / "broken.json.gz"
    broken.write_bytes(gzip.compress(FORMATS["plain"]().encode())[:-12])
    with pytest.raises(TraceError, match="cannot be read"):
        _read(broken)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="cannot be read"):
        _read(binary)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    values=st.lists(JSON_VALUES, max_size=6),
    array=st.booleans(),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 40),
)
def test_any_sequence_of_json_values_is_read_in_pieces_of_any_size(
    values: list[Any], array: bool, indent: int | None, chunk: int
) -> None:
    from agent_cache.simulate.formats import stream

    records = [{"value": value} for value in values]
    text = json.dumps(records, indent=indent) if array else "\n".join(json.dumps(r, indent=indent) for r in records)
    before = stream._CHUNK
    stream._CHUNK = chunk
    try:
        source = io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogatepass")), "utf-8", errors="surrogatepass")
        found = [value for _, value in stream._values(source, Path("x"))]
    finally:
        stream._CHUNK = before
    assert found == records
