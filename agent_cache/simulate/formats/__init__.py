"""Recorded traffic in, calls out. Which format a file has is seen from its records; one reader per format.

A file is read as a stream: JSON Lines, or one JSON value, or an array of them, gzipped or plain. Only one record is held
at a time (a conversation is one record).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_cache.simulate.formats.messages import Conversation, is_message, messages_in
from agent_cache.simulate.formats.plain import is_plain_call, plain_call
from agent_cache.simulate.formats.spans import is_span_record, span_calls
from agent_cache.simulate.formats.stream import Progress, json_values
from agent_cache.simulate.traffic import Call, TraceError, Turn

__all__ = ["Progress", "read_trace"]

_NESTED = ("simulations", "conversations", "trajectories", "runs", "data", "results")


def read_trace(path: Path, progress: Progress | None = None) -> Iterator[Call | Turn]:
    """The calls of one file, in the order in which the trace has them.

    Args:
        path: JSON or JSON Lines, ``.gz`` or plain; ``-`` for standard input.
        progress: told how many bytes were read.

    Raises:
        TraceError: it cannot be read, is no JSON, or holds nothing that is known here.
    """
    loose = Conversation(path.name)  # messages that stand alone, a line each
    known = False
    for where, value in json_values(path, progress):
        found = False
        for event in _of_record(value, f"{path.name}:{where}", loose):
            found = True
            yield event
        known = known or found or is_message(value)
    yield from loose.end()
    if not known:
        raise TraceError(
            f"{path}: no record of it is known here; it may hold chat-completions messages, LangChain messages, "
            "OpenTelemetry spans of operation execute_tool, or plain lines {session, tool, args, result}"
        )


def _of_record(value: Any, where: str, loose: Conversation) -> Iterator[Call | Turn]:
    if is_plain_call(value):
        yield plain_call(value, where)
    elif is_span_record(value):
        yield from span_calls(value)
    elif is_message(value):
        yield from loose.add(value)
    elif (messages := messages_in(value)) is not None:
        conversation = Conversation(_name(value, where))
        for message in messages:
            yield from conversation.add(message)
        yield from conversation.end()
    elif isinstance(value, dict):
        for key in _NESTED:
            for number, inner in enumerate(value.get(key) or () if isinstance(value.get(key), list) else ()):
                yield from _of_record(inner, f"{where}:{number}", loose)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _of_record(inner, f"{where}:{number}", loose)


def _name(value: Any, where: str) -> str:
    if isinstance(value, dict):
        for key in ("session_id", "session", "conversation_id", "thread_id", "id", "run_id"):
            if isinstance(value.get(key), (str, int)):
                return str(value[key])
    return where
