"""Recorded traffic in, calls out. Which format a file has is seen from its records; one reader per format.

A file is read as a stream: JSON Lines, or one JSON value, or an array of them, gzipped or plain. Only one record is held
at a time (a conversation is one record).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_cache.simulate.formats.histories import Histories
from agent_cache.simulate.formats.messages import Conversation, is_message, messages_in
from agent_cache.simulate.formats.plain import is_plain_call, plain_call
from agent_cache.simulate.formats.spans import is_span_record, span_calls
from agent_cache.simulate.formats.stream import Progress, json_values
from agent_cache.simulate.traffic import Call, TraceError, Turn

__all__ = ["Progress", "read_trace"]

_SESSION = ("session_id", "session", "conversation_id", "thread_id")
_RECORD = ("id", "run_id")
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
    histories = Histories()
    known = False
    for where, value in json_values(path, progress):
        found = False
        try:
            for event in _of_record(value, f"{path.name}:{where}", loose, histories):
                found = True
                yield event
        except RecursionError:
            raise TraceError(f"{path}: record {where} is nested too deeply") from None
        known = known or found or is_message(value)
    yield from histories.end()
    yield from loose.end()
    if not known:
        raise TraceError(
            f"{path}: no record of it is known here; it may hold chat-completions messages, LangChain messages, "
            "OpenTelemetry spans of operation execute_tool, or plain lines {session, tool, args, result}"
        )


def _of_record(value: Any, where: str, loose: Conversation, histories: Histories) -> Iterator[Call | Turn]:
    if is_plain_call(value):
        yield plain_call(value, where)
    elif is_span_record(value):
        yield from span_calls(value)
    elif is_message(value):
        yield from loose.add(value)
    elif (found := messages_in(value)) is not None:
        messages, replied = found
        session = _named(value, _SESSION)
        yield from histories.told(messages, _named(value, _RECORD) or where, session, replied=replied)
    elif isinstance(value, dict):
        for key in _NESTED:
            for number, inner in enumerate(value.get(key) or () if isinstance(value.get(key), list) else ()):
                yield from _of_record(inner, f"{where}:{number}", loose, histories)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _of_record(inner, f"{where}:{number}", loose, histories)


def _named(value: Any, keys: tuple[str, ...]) -> str | None:
    if isinstance(value, dict):
        for key in keys:
            if isinstance(value.get(key), (str, int)):
                return str(value[key])
    return None
