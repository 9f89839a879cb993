"""Conversations of messages: chat completions (tool_calls and tool messages), LangChain's dumps, content blocks, items.

A call is handed on when its answer comes: that is when the tool had run. Conversations come one after the other, as the
file has them; which of them were held at the same time is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_cache.loops import is_error_result
from agent_cache.simulate.formats.plain import moment
from agent_cache.simulate.traffic import Call, Turn, arguments_of, result_of

__all__ = ["Conversation", "gist", "is_message", "messages_in"]

_LISTS = ("messages", "traj", "conversation", "trajectory", "history", "chat_history")
_ROLES = ("user", "assistant", "tool", "system", "developer", "function", "human", "ai")
_LANGCHAIN = {"HumanMessage": "user", "AIMessage": "assistant", "ToolMessage": "tool", "AIMessageChunk": "assistant"}
_TYPES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "tool": "tool", "system": "system"}
_ITEMS = ("function_call", "function_call_output")
_MAX_OPEN = 1_024
"""Calls of a conversation that wait for their answer; the oldest is given up."""


def is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("role") in _ROLES or value.get("type") in _ITEMS:
        return True
    return _is_dumped(value) or ("content" in value and _type(value) in _TYPES) or _is_data(value)


def _type(value: Mapping[str, Any]) -> str:
    kind = value.get("type")
    return kind if isinstance(kind, str) else ""


def _is_dumped(value: Mapping[str, Any]) -> bool:
    """``langchain_core.load.dumpd``."""
    return "lc" in value and isinstance(value.get("kwargs"), dict) and isinstance(value.get("id"), list)


def _is_data(value: Mapping[str, Any]) -> bool:
    """``messages_to_dict``."""
    return isinstance(value.get("data"), dict) and _type(value) in _TYPES


def messages_in(value: Any) -> tuple[list[Any], bool] | None:
    """The messages of a record that is a conversation, and whether the last is what the model answered; None if it is none."""
    if isinstance(value, list):
        return (value, False) if value and is_message(value[0]) else None
    if isinstance(value, dict):
        for key in _LISTS:
            inner = value.get(key)
            if isinstance(inner, list) and inner and is_message(inner[0]):
                more = _reply(value)
                return ([*inner, more], True) if more is not None else (inner, False)
        for key in ("request", "body", "input", "output", "outputs", "inputs"):
            inner = value.get(key)
            if isinstance(inner, (Mapping, list)) and (found := messages_in(inner)) is not None:
                return found
    return None


def _reply(value: Mapping[str, Any]) -> Any:
    """The assistant's message beside the messages of its request, as logs of completions have it."""
    response = value.get("response", value)
    choices = response.get("choices") if isinstance(response, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("message")
    return None


class Conversation:
    """Puts the calls of one conversation together with their answers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: dict[str, Call] = {}
        self._turn = 0
        self._began = False

    def add(self, message: Any) -> Iterator[Call | Turn]:
        """What this message says: the user spoke, calls were answered."""
        if not isinstance(message, dict):
            return
        self._began = True
        message = _flat(message)
        role = _role(message)
        if role == "user" and not _has_results(message):
            yield Turn(self._name)
        self._turn += role == "assistant"
        for call_id, tool, arguments in _calls(message):
            call = Call(self._name, tool, arguments_of(arguments), None, batch=self._turn)
            call.at = moment(message.get("timestamp", message.get("created_at")))
            self._open[call_id] = call
            if len(self._open) > _MAX_OPEN:
                del self._open[next(iter(self._open))]
        for call_id, content, failed in _answers(message, role):
            call_answered = self._open.pop(call_id, None)
            if call_answered is None and len(self._open) == 1 and call_id == "":
                call_answered = self._open.popitem()[1]
            if call_answered is not None:
                yield _answered(call_answered, content, failed, moment(message.get("timestamp")))

    def unanswered(self) -> Iterator[Call]:
        """Calls whose answer will not come any more."""
        waiting, self._open = self._open, {}
        yield from waiting.values()

    def end(self) -> Iterator[Call | Turn]:
        """It is over: calls without an answer are handed on as such."""
        yield from self.unanswered()
        if self._began:
            yield Turn(self._name, ended=True)


def gist(message: Any) -> object:
    """What is the same of a message wherever it is recorded: as a model's reply, and in the requests after it."""
    if not isinstance(message, dict):
        return message
    flat = _flat(message)
    role = _role(flat)
    return [role, flat.get("content") or None, list(_calls(flat)), list(_answers(flat, role))]


def _flat(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if _is_dumped(message):
        names = message["id"]
        return {**message["kwargs"], "role": _LANGCHAIN.get(str(names[-1]) if names else "", "")}
    if _is_data(message):
        return {**message["data"], "role": _TYPES[message["type"]]}
    return message


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role") or _TYPES.get(str(message.get("type")), "")
    return {"human": "user", "ai": "assistant"}.get(str(role), str(role))


def _blocks(message: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return [block for block in blocks if isinstance(block, dict) and block.get("type") == kind]


def _has_results(message: Mapping[str, Any]) -> bool:
    return bool(_blocks(message, "tool_result"))


def _calls(message: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    seen: set[str] = set()
    for call in _listed(message.get("tool_calls")):
        function = call.get("function")
        named: Mapping[str, Any] = function if isinstance(function, dict) else call
        name, call_id = named.get("name"), str(call.get("id") or call.get("tool_call_id") or "")
        if isinstance(name, str):
            seen.add(call_id)
            yield call_id, name, named.get("arguments", named.get("args"))
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and isinstance(legacy.get("name"), str):
        yield "", legacy["name"], legacy.get("arguments")
    if message.get("type") == "function_call" and isinstance(message.get("name"), str):
        yield str(message.get("call_id", "")), message["name"], message.get("arguments")
    for block in _blocks(message, "tool_use"):
        if isinstance(block.get("name"), str) and str(block.get("id", "")) not in seen:
            yield str(block.get("id", "")), block["name"], block.get("input")


def _answers(message: Mapping[str, Any], role: str) -> Iterator[tuple[str, Any, bool]]:
    if message.get("type") == "function_call_output":
        yield str(message.get("call_id", "")), message.get("output"), False
    elif role in ("tool", "function"):
        failed = message.get("status") == "error"
        yield str(message.get("tool_call_id") or message.get("id") or ""), message.get("content"), failed
    for block in _blocks(message, "tool_result"):
        yield str(block.get("tool_use_id", "")), block.get("content"), bool(block.get("is_error"))


def _listed(value: object) -> Iterable[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _answered(call: Call, content: Any, failed: bool, at: float | None) -> Call:
    call.result, call.shown = result_of("" if content is None else content)
    call.raised = failed
    call.error = failed or is_error_result(call.shown)
    if at is not None and call.at is not None and at >= call.at:
        call.seconds = at - call.at
    return call
