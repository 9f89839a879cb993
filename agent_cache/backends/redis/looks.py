"""The reads of one tick of an event loop as one ``MGET``: what several of them ask for is asked for once.

Reads of one tool share most of their tags, so a tag's record is fetched, and its version taken out, once for all of
them. That is sound because all who asked had asked before it was sent; and one command sees one moment. What is made of
an entry is the backend's business, how a command travels the wire's.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import InvalidResponse, ResponseError

from agent_cache.backends.redis.plans import Group
from agent_cache.backends.redis.records import version_of
from agent_cache.backends.redis.resp import bulk

__all__ = ["Look", "Looks"]

_MOST_KEYS = 2_000  # in one command: the server does nothing else meanwhile


class Look:
    """One read of an entry and its tags; whoever asks for the same in the same tick has the same one.

    ``made``: what was made of the entry, once for all who have it.
    """

    __slots__ = ("_at", "_looks", "_places", "group", "left", "made", "wants_left")

    def __init__(self, looks: Looks, group: Group, at: int | None, places: list[int], *, wants_left: bool) -> None:
        self._looks = looks
        self._at = at
        self._places = places
        self.group = group
        self.wants_left = wants_left
        self.left: Any = None
        """Ms for which the entry still lives, if that was asked for."""
        self.made: Any = None

    @property
    def epoch(self) -> bytes:
        return self._looks.epoch

    @property
    def raw(self) -> Any:
        """The entry as it stands; None if there is none, or none was asked for."""
        looks = self._looks
        return None if self._at is None else looks.entries[self._at]

    @property
    def tags(self) -> list[Any]:
        """The tags' records as they stand."""
        return [self._looks.records[at] for at in self._places]

    def stamp(self) -> bytes | None:
        """What an entry must have been loaded under to be current; None where a tag was lost: then nothing is."""
        versions: list[Any] = self._looks.versions
        try:
            return self._looks.epoch + b"".join([versions[at] for at in self._places])
        except TypeError:  # one of them is missing
            return None


class Looks:
    """What is to be fetched by one command; then what came.

    ``waiting``: who asked, each with his look.
    """

    __slots__ = ("_bulks", "_known", "_lefts", "_tags", "entries", "epoch", "records", "versions", "waiting")

    def __init__(self) -> None:
        self._tags: dict[bytes, int] = {}
        self._bulks: list[bytes] = []
        self._lefts: list[tuple[Look, bytes]] = []
        self._known: dict[Any, Look] = {}
        self.waiting: list[tuple[asyncio.Future[Look], Look]] = []
        self.entries: list[Any] = []
        self.records: list[Any] = []
        self.versions: list[bytes | None] = []
        self.epoch = b""

    @property
    def full(self) -> bool:
        return len(self._tags) + len(self._bulks) > _MOST_KEYS

    @property
    def replies(self) -> int:
        """How many belong to it."""
        return 1 + len(self._lefts)

    def add(self, group: Group, entry: bytes | None, reply: asyncio.Future[Look], *, wants_left: bool) -> None:
        """Somebody wants a look at these tags, and at the entry of this key if one is given."""
        self.waiting.append((reply, self._look(group, entry, wants_left=wants_left)))

    def _look(self, group: Group, entry: bytes | None, *, wants_left: bool) -> Look:
        which = group if entry is None else entry
        known = self._known.get(which)
        if known is not None and known.group is group and known.wants_left is wants_left:
            return known
        tags = self._tags
        places = [tags.setdefault(key, len(tags)) for key in group.bulks]
        at = None
        if entry is not None:
            at = len(self._bulks)
            self._bulks.append(bulk(entry))
        look = Look(self, group, at, places, wants_left=wants_left)
        if at is not None and wants_left:
            self._lefts.append((look, self._bulks[at]))
        self._known[which] = look
        return look

    def packed(self) -> bytes:
        """The commands as they are sent."""
        count = 1 + len(self._tags) + len(self._bulks)
        pieces = [b"*%d\r\n$4\r\nMGET\r\n" % count, *self._tags, *self._bulks]
        for _, key in self._lefts:
            pieces += (b"*2\r\n$4\r\nPTTL\r\n", key)
        return b"".join(pieces)

    def take(self, replies: list[Any], epoch: bytes) -> Exception | None:
        """What was answered; the server's refusal if it was one.

        Raises:
            InvalidResponse: it is no answer to this.
        """
        values = replies[0]
        if isinstance(values, ResponseError):
            return values
        tags = len(self._tags)
        if type(values) is not list or len(values) != tags + len(self._bulks):
            raise InvalidResponse("no answer to MGET")
        self.records, self.entries = values[:tags], values[tags:]
        self.versions = [version_of(raw) for raw in self.records]
        self.epoch = epoch
        for (look, _), left in zip(self._lefts, replies[1:], strict=True):
            if isinstance(left, ResponseError):
                return left
            look.left = left
        return None

    def answer(self, refused: Exception | None) -> None:
        """Give everybody his look, or say why there is none.

        What was read is held by those who have it and by nothing else: it is freed when they are done, without a search.
        """
        waiting, self.waiting = self.waiting, []
        self._known.clear()
        self._lefts.clear()
        for reply, look in waiting:
            if reply.done():
                continue  # its caller has left
            if refused is None:
                reply.set_result(look)
            else:
                reply.set_exception(refused)
