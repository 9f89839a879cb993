"""Traces as nobody should write them: wrong types, wrong sizes, half of what is needed."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache.simulate import Call, Rules, TraceError, read_trace, simulate, suggest
from agent_cache.simulate.formats import stream

OK = {"session": "a", "tool": "get_user", "args": {"user_id": 7}, "result": 1}
RULES = Rules.from_flags(["get_*:user:{user_id}"], [])


def _line(**fields: Any) -> str:
    return json.dumps(OK | fields) + "\n"


def _span(**attributes: Any) -> dict[str, Any]:
    named = {"gen_ai.operation.name": {"stringValue": "execute_tool"}, "gen_ai.tool.name": {"stringValue": "get_user"}}
    pairs = [{"key": key, "value": value} for key, value in (named | attributes).items()]
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "t", "attributes": pairs}]}]}]}


def _written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize(
    "text",
    [
        _line(ts=10**400),
        _line(ts="9999-12-31T23:59:59+00:00"),
        _line(ts="0001-01-01T00:00:00"),
        _line(args="[" * 100_000),
        _line(result="{" * 2_000),
        _line(args={"\ud800": "\udfff"}, result="\ud800", tool="\ud800", session="\ud800"),
        '{"content": "x", "type": []}\n{"data": {}, "type": {}}\n' + _line(),
        '{"context": {}, "attributes": {"gen_ai.tool.name": "t"}, "start_time": "²", "end_time": "1"}\n',
    ],
)
def test_what_is_odd_in_a_record_is_no_crash(text: str, tmp_path: Path) -> None:
    path = _written(tmp_path / "trace.jsonl", text)
    assert simulate([path], RULES).total.calls == 1
    tomllib.loads(suggest([path]).as_toml())


@pytest.mark.parametrize("seconds", ["NaN", "1e999", "-1", "1" + "0" * 400])
def test_a_duration_that_is_none_is_said(seconds: str, tmp_path: Path) -> None:
    text = f'{{"tool": "x", "args": {{}}, "result": 1, "seconds": {seconds}}}'
    with pytest.raises(TraceError, match="seconds is") as raised:
        list(read_trace(_written(tmp_path / "trace.jsonl", text)))
    assert len(str(raised.value)) < 300


@given(deep=st.integers(850, 1_000))
def test_however_deep_it_is_nested_it_is_read_or_said(deep: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    nested = "[" * deep + "]" * deep
    message = f'{{"messages": [{{"role": "user", "content": {nested}}}]}}\n'
    text = f'{{"tool": "x", "args": {{"a": {nested}}}, "result": {nested}}}\n' + message
    said = ""
    try:
        simulate([_written(tmp_path_factory.mktemp("deep") / "trace.jsonl", text)], RULES)
    except TraceError as error:
        said = str(error)
    assert not said or "nested too deeply" in said


@pytest.mark.parametrize("wrong", ["not json", '{"tool" "x"}', '{"a": 1' + "0" * 5_000 + "}", '{"a": "b\n"}'])
def test_what_is_wrong_is_said_at_once(wrong: str) -> None:
    """Not after a quarter of a gigabyte has been read, in the hope that it may be mended."""
    rest = io.BytesIO(f"{wrong}\n".encode() + _line().encode() * 20_000)
    whole = len(rest.getvalue())
    with pytest.raises(TraceError, match="record 1 is no JSON"):
        list(stream._values(io.TextIOWrapper(rest, "utf-8"), Path("x")))
    assert rest.tell() < whole / 4


def test_spans_without_arguments_are_counted_and_no_more(tmp_path: Path) -> None:
    """Most instrumentations record none. All calls of a tool would be equal, and all be hits."""
    text = "".join(json.dumps(_span()) + "\n" for _ in range(5))
    path = _written(tmp_path / "spans.jsonl", text)
    report = simulate([path], Rules.from_flags(["get_*:user"], []))
    total = report.total
    assert (total.calls, total.repeats_within, total.repeats_across, total.hits, report.loop_count) == (5, 0, 0, 0, 0)
    assert any("with which arguments 5 calls were made" in note for note in report.notes)
    assert suggest([path]).tools[0].sure == "low"


def test_a_tool_that_takes_no_arguments_is_told_by_its_result(tmp_path: Path) -> None:
    text = "".join(json.dumps(_span(**{"gen_ai.tool.call.result": {"stringValue": "r"}})) + "\n" for _ in range(3))
    report = simulate([_written(tmp_path / "spans.jsonl", text)], Rules.from_flags(["get_*:user"], []))
    assert (report.total.hits, report.notes) == (2, ())


def test_structured_attributes_are_arguments_too(tmp_path: Path) -> None:
    def structured(number: int) -> dict[str, Any]:
        tags = {"arrayValue": {"values": [{"stringValue": "a"}, {"boolValue": True}]}}
        pairs = [{"key": "user_id", "value": {"intValue": str(number)}}, {"key": "tags", "value": tags}]
        return {"kvlistValue": {"values": pairs}}

    spans = [
        _span(**{"gen_ai.tool.call.arguments": structured(n), "gen_ai.tool.call.result": structured(n)}) for n in (1, 2)
    ]
    path = _written(tmp_path / "spans.jsonl", "".join(json.dumps(span) + "\n" for span in spans))
    calls = [event for event in read_trace(path) if isinstance(event, Call)]
    assert [dict(call.arguments) for call in calls] == [{"user_id": n, "tags": ["a", True]} for n in (1, 2)]
    assert json.loads(calls[0].shown) == {"user_id": 1, "tags": ["a", True]}


@pytest.mark.parametrize("tool", ["get_\U0001f600", "get_\ud800", 'get_"\\\n\x7f\x1b[31m', "get_größe"])
def test_a_proposal_is_toml_whatever_tools_are_called(tool: str, tmp_path: Path) -> None:
    path = _written(tmp_path / "trace.jsonl", _line(tool=tool) * 3)
    [(name, policy)] = tomllib.loads(suggest([path]).as_toml())["tools"].items()
    assert name == tool.encode("utf-8", "replace").decode()
    assert policy["kind"] == "read"
