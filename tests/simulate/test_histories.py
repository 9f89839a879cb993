"""Logs of requests: each holds all that was said before it, and nothing is counted twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_cache.simulate import Call, Rules, Turn, read_trace, simulate
from agent_cache.simulate.formats import histories

RULES = Rules.from_flags(["get_*:user:{user_id}"], ["set_*:user:{user_id}"])


def _call(number: int, user: int, tool: str = "get_user") -> dict[str, Any]:
    function = {"name": tool, "arguments": json.dumps({"user_id": user})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": f"c{number}", "function": function}]}


def _answer(number: int, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c{number}", "content": text}


def _requests(users: list[int], *, replies: bool, hello: str = "hi", **named: str) -> list[dict[str, Any]]:
    """What a proxy writes: a record for each request of an agent that asks for these users, one after the other."""
    said: list[dict[str, Any]] = [{"role": "user", "content": hello}]
    found: list[dict[str, Any]] = []

    def request(reply: dict[str, Any]) -> None:
        response = {"choices": [{"message": reply | {"refusal": None}}]} if replies else {}
        found.append({"id": f"request {len(found)} of {hello}", "messages": list(said), **response, **named})

    for number, user in enumerate(users):
        request(_call(number, user))
        said += [_call(number, user), _answer(number, f"user {user}")]
    request({"role": "assistant", "content": "Done."})
    return found


def _written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def _calls(path: Path) -> list[Call]:
    return [event for event in read_trace(path) if isinstance(event, Call)]


@pytest.mark.parametrize("replies", [False, True])
def test_each_call_is_told_once(replies: bool, tmp_path: Path) -> None:
    path = _written(tmp_path / "log.jsonl", _requests([1, 2, 3, 1], replies=replies))
    calls = _calls(path)
    assert [call.arguments["user_id"] for call in calls] == [1, 2, 3, 1]
    assert [call.shown for call in calls] == ["user 1", "user 2", "user 3", "user 1"]
    assert len({call.session for call in calls}) == 1
    total = simulate([path], RULES).total
    assert (total.calls, total.repeats_within, total.repeats_across, total.hits) == (4, 1, 0, 1)
    assert total.unanswered == 0


@pytest.mark.parametrize("replies", [False, True])
def test_agents_that_run_at_the_same_time_are_told_apart(replies: bool, tmp_path: Path) -> None:
    one, two = (_requests([7, 8], replies=replies, hello=hello) for hello in ("hi", "hello"))
    path = _written(tmp_path / "log.jsonl", [record for pair in zip(one, two, strict=True) for record in pair])
    total = simulate([path], RULES).total
    assert (total.calls, total.repeats_across, total.hits) == (4, 2, 2)


def test_a_record_that_says_another_session_is_another(tmp_path: Path) -> None:
    records = [*_requests([7], replies=False, session_id="a"), *_requests([7, 8], replies=False, session_id="b")]
    calls = _calls(_written(tmp_path / "log.jsonl", records))
    assert [call.session for call in calls] == ["a", "b", "b"]


def test_equal_conversations_are_not_one(tmp_path: Path) -> None:
    """Two trials of a task may well say the same, to the end."""
    whole = _requests([7], replies=False)[-1]
    assert len(_calls(_written(tmp_path / "log.jsonl", [whole, whole]))) == 2


def test_a_conversation_that_does_not_go_on_hands_on_what_was_not_answered(tmp_path: Path) -> None:
    cut_off = _requests([1, 2], replies=True)[:2]
    assert [call.result is None for call in _calls(_written(tmp_path / "log.jsonl", cut_off))] == [False, True]
    silent = [{"messages": [{"role": "user", "content": "hi"}, _call(0, 1)]}]
    other = _requests([5], replies=False, hello="later")
    calls = _calls(_written(tmp_path / "log.jsonl", [*silent, *other]))
    assert [(call.arguments["user_id"], call.result is None) for call in calls] == [(1, True), (5, False)]


def test_so_many_conversations_are_followed_and_all_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "_MOST", 2)
    records = [record for number in range(5) for record in _requests([1], replies=True, hello=f"agent {number}")]
    events = list(read_trace(_written(tmp_path / "log.jsonl", records)))
    ended = [event.session for event in events if isinstance(event, Turn) and event.ended]
    assert len(ended) == len(set(ended)) == 5
    assert sum(isinstance(event, Call) for event in events) == 5
