"""The model of a cache: for each call, the answer that would be stored; for each tag, when it was moved last.

Bounded: past its limit the ledger goes on with a sample of the keys, chosen by their hash, and what is counted on a sampled
key counts for as many (Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST'15). Tags that were moved longest
ago are forgotten for room, by raising the *floor*: what was stored before it is no longer current.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from agent_cache.tags import Tag

__all__ = ["Held", "Known", "Ledger", "Versions"]

_SPACE = 1 << 64


@dataclass(slots=True)
class Held:
    """What three caches hold of one call for those who share it: an answer, where in the trace it was loaded, and when.

    ``stored`` is the policy's cache, ``timed`` one that knows a ttl only, ``best`` the best there could be.
    """

    stored: int | None = None
    stored_from: int = 0
    stored_at: float | None = None
    timed: int | None = None
    timed_at: float | None = None
    best: int | None = None


class Known:
    """What is remembered of one call. Most calls have one session and one who shares it: those take the least room."""

    __slots__ = ("_held", "_others", "_session", "_sessions", "_whose")

    def __init__(self) -> None:
        self._session: int | None = None
        self._sessions: set[int] | None = None
        self._whose = 0
        self._held: Held | None = None
        self._others: dict[int, Held] | None = None

    def seen_by(self, session: int) -> bool | None:
        """Whether this session has made the call before; None: nobody has."""
        if self._session is None:
            self._session = session
            return None
        if self._session == session or (self._sessions is not None and session in self._sessions):
            return True
        if self._sessions is None:
            self._sessions = set()
        self._sessions.add(session)
        return False

    def held(self, whose: int) -> Held:
        """What is held for ``whose``, which may be nothing."""
        if self._held is None:
            self._whose, self._held = whose, Held()
        if self._whose == whose:
            return self._held
        if self._others is None:
            self._others = {}
        found = self._others.get(whose)
        if found is None:
            found = self._others[whose] = Held()
        return found

    @property
    def size(self) -> int:
        return 1 + len(self._sessions or ()) // 4 + len(self._others or ())


class Versions:
    """When each tag was moved, as a position in the trace."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._moved: OrderedDict[Tag, int] = OrderedDict()
        self.floor = 0

    def move(self, tags: Iterable[Tag], position: int) -> None:
        for tag in tags:
            self._moved[tag] = position
            self._moved.move_to_end(tag)
        while len(self._moved) > self._limit:
            self.floor = max(self.floor, self._moved.popitem(last=False)[1])

    def newest(self, tags: Iterable[Tag]) -> int:
        """The last move of any of these tags."""
        moved, newest = self._moved, self.floor
        for tag in tags:
            at = moved.get(tag, 0)
            if at > newest:
                newest = at
        return newest


class Ledger:
    """All calls that are remembered.

    Args:
        limit: how many calls are remembered, and tags; a call that many share counts for several.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._keys: dict[int, Known] = {}
        self._size = 0
        self._below = _SPACE
        self.versions = Versions(max(1_000, limit // 2))

    @property
    def weight(self) -> float:
        """For how many keys a sampled one stands: 1 while all are remembered."""
        return _SPACE / self._below

    def known(self, key: int) -> Known | None:
        """The memory of this call, made if it is new; None: it is not among the sample."""
        if key >= self._below:
            return None
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = Known()
            self._size += 1
        return known

    def grown(self, by: int) -> None:
        """A known call is remembered with ``by`` more parts; makes room where there is none left."""
        self._size += by
        while self._size > self._limit:
            self._below //= 2
            self._keys = {key: known for key, known in self._keys.items() if key < self._below}
            self._size = sum(known.size for known in self._keys.values())
