"""Logs of requests: each record holds all that was said before it, so one conversation is told many times, longer each time.

A record that begins with every message of an earlier one is that conversation gone on: what was told is not told again. Records
that name different sessions are different conversations. What is remembered is a digest for each of the last conversations.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from agent_cache.simulate.formats.messages import Conversation, gist
from agent_cache.simulate.traffic import Call, Turn

__all__ = ["Histories"]

_MOST = 1_024
"""Conversations that may go on; the least recent one is over."""


class Histories:
    """The conversations of a file, told once each."""

    def __init__(self) -> None:
        self._last: OrderedDict[bytes, Conversation] = OrderedDict()

    def told(self, messages: Sequence[Any], name: str, session: str | None, *, replied: bool) -> Iterator[Call | Turn]:
        """What a record says that was not said before.

        ``name``: for a new conversation; ``session``: what the record says about it. ``replied``: the record ends with what
        the model answered, so that its calls are answered in the next one, if there is one.
        """
        marks = _marks(messages, session or "")
        known = next((at for at in range(len(marks) - 1, 0, -1) if marks[at - 1] in self._last), 0)
        conversation = self._last.pop(marks[known - 1]) if known else Conversation(session or name)
        for message in messages[known:]:
            yield from conversation.add(message)
        if not replied:
            yield from conversation.unanswered()
        if not marks:
            yield from conversation.end()
            return
        same = self._last.pop(marks[-1], None)
        self._last[marks[-1]] = conversation
        if same is not None:
            yield from same.end()
        if len(self._last) > _MOST:
            yield from self._last.popitem(last=False)[1].end()

    def end(self) -> Iterator[Call | Turn]:
        """The file is over."""
        for conversation in self._last.values():
            yield from conversation.end()
        self._last.clear()


def _marks(messages: Sequence[Any], session: str) -> list[bytes]:
    """For each message a digest of all up to it."""
    so_far = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=16, person=b"histories")
    found: list[bytes] = []
    for message in messages:
        text = json.dumps(gist(message), sort_keys=True, default=repr)
        so_far.update(b"%d:" % len(text) + text.encode("ascii"))
        found.append(so_far.digest())
    return found
