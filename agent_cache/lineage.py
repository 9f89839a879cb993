"""What has been written in one session's world since a declared start: the lineage that ``scope="lineage"`` reads share by.

Sessions that begin in the same state and make the same writes are in the same state afterwards. Each write is a *link*:
a digest of all links before it, the call, and how it turned out. A link that hangs on all before it says by itself what
they were, so of each tag only the last link is kept: one lookup per tag answers a read, one assignment per tag takes in
a write, however many there were.

Where nobody can say what a write did, its link is a nonce: nothing that depends on it is equal to anything of another
session. Writes that overlap are such; while one is running nothing is known at all.

Only digests and their order live here. What a call's bytes are, and what is done with a read that has no mark, is the
engine's business; who shares a lineage is the session's.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agent_cache.canonical import encoded
from agent_cache.clock import nonce
from agent_cache.errors import ConfigurationError, UnkeyableArgumentError
from agent_cache.locks import renewed_after_fork
from agent_cache.tags import Path, read_tags, write_tags

__all__ = ["EVERYTHING", "Lineage", "Mark", "Write"]

EVERYTHING: tuple[Path, ...] = ((),)
"""The paths of a write that may have changed anything."""
_MAX_LINKS = 4_096
_DIGEST = 20
_Node = tuple[str, Path]
_ALL: _Node = ("all", ())


class _View(Protocol):
    """As much of a view as has to hear of a write."""

    def cool(self) -> None: ...


class _Link(NamedTuple):
    digest: bytes
    private: bool
    """Hangs on something nobody else can know of."""


class Write:
    """A write that is running; see :meth:`Lineage.begins`."""

    __slots__ = ("open", "tool")

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.open = True


class _Batch:
    """Writes that overlapped, and have ended. Of one alone its call is known; of several, only what they may have written."""

    __slots__ = ("call", "nodes", "writes")

    def __init__(self) -> None:
        self.nodes: dict[_Node, None] = {}
        self.call: bytes | None = None
        self.writes = 0

    def add(self, nodes: Iterable[_Node], call: bytes | None) -> None:
        self.writes += 1
        self.call = call if self.writes == 1 else None
        self.nodes.update(dict.fromkeys(nodes))
        if len(self.nodes) > _MAX_LINKS:
            self.nodes = {_ALL: None}


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A read's place in a lineage: what it depends on, as bytes. ``private``: no other session can have it."""

    lineage: Lineage
    moves: int
    digest: bytes
    private: bool

    @property
    def shared_with(self) -> str:
        """Who else may be given such an answer, for people."""
        if self.private:
            return f"only this session can have it ({self.lineage.private_since})"
        return "sessions that started in the same state and made the same writes to what it reads share it"

    @property
    def holds(self) -> bool:
        """Whether nothing has been written since, and nothing is being written."""
        return self.lineage.is_at(self.moves)


class Lineage:
    """The writes of one world, from its start.

    Args:
        start_state: a value that names the state; equal values of equal types are one state.

    Raises:
        ConfigurationError: an empty text, or a value that has no canonical form.
    """

    def __init__(self, start_state: object) -> None:
        if isinstance(start_state, (str, bytes)) and not start_state:
            raise ConfigurationError("start_state", start_state, "name the state the world starts in: 'airline-v3'")
        try:
            raw = encoded(start_state, "start_state")
        except UnkeyableArgumentError as error:
            fix = f"name the state by a text, or by plain values ({error})"
            raise ConfigurationError("start_state", start_state, fix) from None
        self._lock = renewed_after_fork(self, "_lock")
        self.state = _digest(b"start", raw)
        self.name = nonce().hex()
        """Tells this world from another one that began in the same state."""
        self.private_since: str | None = None
        """What made it impossible to share, for people; None while nothing has."""
        self._head = _Link(self.state, private=False)
        self._links: dict[_Node, _Link] = {}
        self._running: set[Write] = set()
        self._lost: list[Write] = []
        self._moves = 0
        self._batch = _Batch()
        self._views: weakref.WeakSet[_View] = weakref.WeakSet()
        _lineages.add(self)

    def hears(self, view: _View) -> None:
        """Have ``view`` forget what it could answer at once whenever something is written."""
        with self._lock:
            self._views.add(view)

    # -- writes ------------------------------------------------------------------------------------------------------

    def begins(self, tool: str) -> Write:
        """A write begins: until it has ended no read has a mark, so that nothing is answered at once until then either."""
        write = Write(tool)
        with self._lock:
            self._take_in_the_lost()
            self._running.add(write)
            for view in self._views:  # after it is known to run: what a reader puts into a new table is true of it
                view.cool()
        return write

    def ends(self, write: Write, paths: Iterable[Path], call: bytes | None, *, effect: bool = True) -> None:
        """It has ended.

        Args:
            write: what :meth:`begins` gave.
            paths: what it wrote.
            call: the bytes of its call and of how that turned out; None where they are not known.
            effect: False where it was declared to have changed nothing: then it is no link.
        """
        with self._lock:
            self._take_in_the_lost()
            self._end(write, paths, call, effect=effect)

    def lost(self, write: Write) -> None:
        """Whoever ran it is gone and nobody knows what it did. Takes no lock: a collected coroutine says so from anywhere."""
        if write.open:
            self._lost.append(write)

    def poison(self, tool: str) -> None:
        """Something happened of which nobody knows what it wrote."""
        self.ends(self.begins(tool), EVERYTHING, None)

    def after_fork(self) -> None:
        """Two processes go on from here, in one world or in two: they no longer know of each other's writes."""
        self._running.clear()  # those who ran them are not here; who is will be heard when it ends
        self.poison("the other side of a fork")

    def _end(self, write: Write, paths: Iterable[Path], call: bytes | None, *, effect: bool) -> None:
        if not write.open:
            return
        write.open = False
        if write in self._running:
            self._running.remove(write)
        else:  # it began before a fork
            call, effect = None, True
        if effect:
            self._batch.add([(kind, path) for kind, _, path in write_tags(paths, ())], call)
            if self.private_since is None and self._batch.call is None:
                why = "it overlapped another write" if self._batch.writes > 1 else "nobody knows what it did"
                self.private_since = f"{write.tool}: {why}"
        if not self._running and self._batch.writes:
            self._take_in()

    def _take_in(self) -> None:
        """Make a link of what has been written since the last time nothing was running."""
        batch, self._batch = self._batch, _Batch()
        if batch.call is None:
            self._head = _Link(nonce(), private=True)
        else:
            self._head = _Link(_digest(self._head.digest, batch.call), self._head.private)
        for node in batch.nodes:
            self._links[node] = self._head
        if len(self._links) > _MAX_LINKS:  # from here on every read hangs on everything up to now
            self._links = {_ALL: self._head}
        self._moves += 1

    def _take_in_the_lost(self) -> None:
        while self._lost:
            self._end(self._lost.pop(), EVERYTHING, None, effect=True)

    # -- reads -------------------------------------------------------------------------------------------------------

    def mark(self, paths: Sequence[Path]) -> Mark | None:
        """What a read of ``paths`` depends on; None while a write is running."""
        with self._lock:
            self._take_in_the_lost()
            if self._running:
                return None
            moves, private = self._moves, False
            parts = [self.state, encoded(tuple(paths))]
            if self._links:
                for kind, _, path in read_tags(paths, ()):
                    link = self._links.get((kind, path))
                    if link is not None:
                        parts.append(link.digest)
                        private = private or link.private
        return Mark(self, moves, _digest(*parts), private)

    def is_at(self, moves: int) -> bool:
        """Whether ``moves`` is still the number of times something has been written, and nothing is being written."""
        with self._lock:
            return not self._running and moves == self._moves


def _digest(*parts: bytes) -> bytes:
    """A digest over these parts in this order; no other parts have it."""
    made = hashlib.blake2b(digest_size=_DIGEST, person=b"agent_cache.link")
    for part in parts:
        made.update(b"%d:" % len(part))
        made.update(part)
    return made.digest()


_lineages: weakref.WeakSet[Lineage] = weakref.WeakSet()


def _after_fork() -> None:
    for lineage in list(_lineages):
        lineage.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
