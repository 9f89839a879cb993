"""One recorded call, and its line in the file. Whatever is read of a line is checked here.

The file is JSON Lines in UTF-8: a header, a line per call in the order in which they ended, and an end. ``docs/record-replay.md``
describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

from agent_cache.cassette.values import call_key, json_line

__all__ = ["END", "HEADER", "VERSION", "Kind", "RecordedCall", "RecordedOutcome", "call_from", "call_line"]

VERSION = 1
HEADER = "agent_cache_cassette"
END = "end"
Kind = Literal["read", "write", "watched", "invalidate"]
RecordedOutcome = Literal["returned", "raised", "interrupted", "unkept"]
_KINDS = frozenset(get_args(Kind))
_OUTCOMES = frozenset(get_args(RecordedOutcome))


@dataclass(frozen=True)
class RecordedCall:
    """One call as the agent saw it.

    Attributes:
        tool: its name.
        origin: where the tool is from: module and qualified name.
        kind: ``read``, ``write``, ``watched``, or ``invalidate`` (a call of ``.invalidate()``).
        arguments: by name, as readable JSON; secrets replaced.
        who: the part of the session's identity that counts for this call.
        began, ended: one counter for the whole run; what ended before another began has the lower number.
        resources: paths it reads or writes, ``"cart:42"``.
        outcome: ``returned``, ``raised``, ``interrupted`` (cancelled: no outcome) or ``unkept`` (a result without a form).
        result, error: as data; ``error`` also says why a result was not kept.
        hit: answered from a store.
        nested: made inside another recorded tool: not asked for in a replay.
        no_effect: a write that declared it changed nothing.
        poll: a tool that is meant to be polled.
    """

    tool: str
    origin: str
    kind: Kind
    arguments: Mapping[str, Any]
    began: int
    ended: int
    who: Mapping[str, Any] | None = None
    resources: tuple[str, ...] = ()
    outcome: RecordedOutcome = "returned"
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    hit: bool = False
    nested: bool = False
    no_effect: bool = False
    poll: bool = False

    @cached_property
    def key(self) -> str:
        """What the call is recognised by."""
        return call_key(self.tool, self.who, self.arguments)


_ALWAYS = ("tool", "origin", "kind", "arguments", "began", "ended", "outcome")
_SOMETIMES = ("who", "resources", "result", "error", "hit", "nested", "no_effect", "poll")


def call_line(call: RecordedCall) -> str:
    """A call as a line without its end."""
    data = {name: getattr(call, name) for name in _ALWAYS}
    data |= {name: value for name in _SOMETIMES if (value := getattr(call, name)) not in (None, (), False)}
    return json_line(data)


def call_from(data: Mapping[str, Any]) -> RecordedCall:
    """A call from what a line holds.

    Raises:
        ValueError: naming the field that is missing or wrong.
    """
    for name in _ALWAYS:
        if name not in data:
            raise ValueError(f"{name!r} is missing")
    unknown = data.keys() - {*_ALWAYS, *_SOMETIMES}
    if unknown:
        raise ValueError(f"{min(unknown)!r} is unknown")
    for name in ("tool", "origin", "kind", "outcome"):
        if type(data[name]) is not str:
            raise ValueError(f"{name!r} is not a text")
    if data["kind"] not in _KINDS:
        raise ValueError(f"'kind' is {data['kind'][:40]!r}")
    if data["outcome"] not in _OUTCOMES:
        raise ValueError(f"'outcome' is {data['outcome'][:40]!r}")
    for name in ("began", "ended"):
        if type(data[name]) is not int or data[name] < 0:
            raise ValueError(f"{name!r} is not a number from 0")
    for name in ("arguments", "who", "result", "error"):
        if type(data.get(name, {})) is not dict:
            raise ValueError(f"{name!r} is not an object")
    for name in ("hit", "nested", "no_effect", "poll"):
        if type(data.get(name, False)) is not bool:
            raise ValueError(f"{name!r} is not true or false")
    resources = data.get("resources", [])
    if type(resources) is not list or not all(type(each) is str for each in resources):
        raise ValueError("'resources' is not a list of texts")
    _check_outcome(data)
    whole: dict[str, Any] = dict(data)
    whole["resources"] = tuple(cast("list[str]", resources))
    made = RecordedCall(**whole)
    try:
        _ = made.key  # kept by the call: nobody has to write it deeper down the stack than it was read
    except RecursionError:
        raise ValueError("it has too many levels") from None
    return made


def _check_outcome(data: Mapping[str, Any]) -> None:
    if data["kind"] == "invalidate":
        return
    if data["outcome"] == "returned" and "result" not in data:
        raise ValueError("'result' is missing")
    if data["outcome"] == "raised" and not isinstance(data.get("error", {}).get("type"), str):
        raise ValueError("'error' does not say which")
