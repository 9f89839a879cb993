"""What a recorded run says about its tools' declarations: writes that are tagged too narrowly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Literal

from agent_cache.audit import NarrowWrite, Seen, narrow_writes
from agent_cache.cassette.files import Cassette, load
from agent_cache.cassette.lines import RecordedCall
from agent_cache.cassette.nearest import spelled
from agent_cache.cassette.values import json_line

__all__ = ["find_narrow_writes", "seen_in"]


def find_narrow_writes(recorded: str | os.PathLike[str] | Iterable[Seen]) -> tuple[NarrowWrite, ...]:
    """Reads whose answer changed between two equal calls though no write in between overlaps what they read.

    A cache would have served the old answer: some write names too little, or a tool that writes is not declared as one.
    Record the run with ``configure(mode="off")`` or inside ``no_cache()``, so that every read runs. Tools with ``poll=True``
    are passed over: their answers are meant to change.

    Args:
        recorded: a cassette's path, or calls from a log of your own, as :class:`agent_cache.audit.Seen`.

    Returns:
        What was found, in the order in which it showed, each with the calls in between as suspects.

    Raises:
        CassetteError: there is no such cassette, or it is none.
    """
    return narrow_writes(seen_in(load(recorded)) if isinstance(recorded, (str, os.PathLike)) else recorded)


def seen_in(cassette: Cassette) -> Iterator[Seen]:
    """A cassette's calls as the check sees them."""
    reads: dict[str, set[str]] = {}
    for call in cassette.calls:
        if call.kind == "read":
            reads.setdefault(call.tool, set()).add(call.key)
    for call in cassette.calls:
        paths = tuple(tuple(each.split(":")) for each in call.resources)
        text = spelled(call.tool, call.arguments)
        if call.kind == "read":
            yield Seen("read", text, call.key, paths, _outcome(call), call.began, call.ended)
        elif call.kind == "invalidate":
            drops = frozenset({call.key} if call.arguments else reads.get(call.tool, set()))
            yield Seen("write", f"{text}.invalidate", None, (), None, call.began, call.ended, drops)
        else:
            kind: Literal["write", "other"] = "write" if call.kind == "write" else "other"
            yield Seen(kind, text, None, paths, None, call.began, call.ended, no_effect=call.no_effect)


def _outcome(call: RecordedCall) -> str | None:
    return json_line(call.result) if call.outcome == "returned" and call.result is not None and not call.poll else None
