"""Invalidations a backend could not take, kept until it does, and a count of this process's writes.

While a backend is owed an invalidation nothing is read from it. Whoever reads next delivers; where other processes
share the backend a thread of its own does (:mod:`.couriers`), as soon as it is back: they must not wait for our next
read, no read of ours for the delivery, and no other backend for this one.
In memory; of a backend that was given a file for it (``RedisBackend(outbox=...)``) in that too, so that what a process
could not deliver is delivered by the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from agent_cache.backends.base import Backend, is_leading
from agent_cache.backends.debts import DEBTS, EVERYTHING, INHERITED, Entry, Ledger, ledger_of
from agent_cache.config import settings
from agent_cache.engine.couriers import Couriers
from agent_cache.engine.outages import INVALIDATING, backend_worked
from agent_cache.errors import BackendError
from agent_cache.locks import renewed_after_fork
from agent_cache.policy import scopes_of_reads
from agent_cache.tags import Tag

__all__ = ["OUTBOX", "WRITES", "LocalWrites", "Outbox"]

log = logging.getLogger("agent_cache")
_MAX_TAGS = 10_000

_NOTHING: tuple[None, dict[Tag, object]] = (None, {})


class Outbox:
    """What is owed to each backend. Past 10,000 tags it becomes "everything"."""

    def __init__(self, debts: dict[int, tuple[Backend, dict[Tag, object]]] | None = None) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self.debts = {} if debts is None else debts
        """By the backend's id. Empty while nothing is owed to any: each read looks."""
        self._unwritten: dict[int, list[tuple[int | None, tuple[Tag, ...]]]] = {}
        self._running: set[int] = set()
        self._awaited: dict[int, set[int]] = {}
        """By the backend's id: writes of other processes that ran when it could be told first."""
        self._couriers = Couriers(self._deliver, self.owes)

    def __bool__(self) -> bool:
        return bool(self.debts)

    def begin(self, backend: Backend, tags: tuple[Tag, ...]) -> int | None:
        """A write is about to run though this backend does not know of it: the number under which that is noted in its
        ledger, for :meth:`owe`; None where it has none, or cannot. Blocks."""
        ledger = ledger_of(backend)
        if ledger is None:
            return None
        try:
            number = ledger.begin(tags)
        except BackendError as error:
            _cannot_write(ledger, error)
            return None
        self._running.add(number)
        return number

    def strike(self, backend: Backend, begun: int) -> None:
        """That write changed nothing, or was not run. Blocks."""
        self._running.discard(begun)
        ledger = ledger_of(backend)
        if ledger is None:
            return
        try:
            ledger.strike([begun])
        except BackendError as error:
            _cannot_write(ledger, error)

    def owe(self, backend: Backend, tags: tuple[Tag, ...], begun: int | None = None) -> None:
        """``begun``: as what :meth:`begin` noted it."""
        with self._lock:
            if ledger_of(backend) is not None:
                unwritten = self._unwritten.setdefault(id(backend), [])
                unwritten.append((begun, tags))
                if len(unwritten) > _MAX_TAGS:  # the file cannot be written
                    unwritten[:] = [(None, EVERYTHING)]
            _, owed = self.debts.setdefault(id(backend), (backend, {}))
            debt = object()  # a new one each time: delivering an older one does not settle it
            owed.update(dict.fromkeys(tags, debt))
            if len(owed) > _MAX_TAGS:
                owed.clear()
                owed.update(dict.fromkeys(EVERYTHING, debt))
        forget = getattr(backend, "forget", None)
        if forget is not None:  # what a near tier holds must not be served meanwhile
            forget(tags, "a write")
        cool = getattr(backend.sync, "cool", None) if backend.in_process else None
        if cool is not None:  # nor what was found to be current before
            cool()
        if self.has_courier(backend):
            self.send_courier(backend)

    @staticmethod
    def has_courier(backend: Backend) -> bool:
        """Whether what this backend is owed is delivered by our thread, and not by whoever reads next."""
        return is_leading(backend)

    def owes(self, backend: Backend) -> bool:
        """Whether a backend does not know of everything that was written: what it has may be from before."""
        _, owed = self.debts.get(id(backend), _NOTHING)
        return bool(owed)

    def owed_to(self, backend: Backend) -> dict[Tag, object]:
        """The tags a backend is owed, each with the debt that :meth:`delivered` settles."""
        with self._lock:
            return dict(self.debts[id(backend)][1]) if id(backend) in self.debts else {}

    def delivered(self, backend: Backend, tags: Mapping[Tag, object]) -> None:
        """Settle what :meth:`owed_to` gave; what has been owed since stays."""
        with self._lock:
            _, owed = self.debts.get(id(backend), (backend, {}))
            for tag, debt in tags.items():
                if owed.get(tag) is debt:
                    del owed[tag]
            if not owed:
                self.debts.pop(id(backend), None)
                self._awaited.pop(id(backend), None)

    def remind(self, backend: Backend) -> None:
        """It works, and may be owed what was noted before it was made: not everybody reads."""
        if self.has_courier(backend) and self.owes(backend):
            self.send_courier(backend)

    def send_courier(self, backend: Backend) -> None:
        """See to it that a thread delivers to this backend, if none does: a forked child inherits debts, not threads."""
        self._couriers.send(backend)

    def _deliver(self, backend: Backend) -> bool:
        """Deliver what a shared backend is owed; False: it is still away."""
        with self._lock:
            unwritten = list(self._unwritten.get(id(backend), ()))
        owed, ledger = self.owed_to(backend), ledger_of(backend)
        if not owed:
            return True
        noted = [] if ledger is None else self._written_down(backend, ledger)
        tags = dict.fromkeys([*owed, *(tag for entry in noted for tag in entry.tags)])
        try:
            backend.sync.move(tuple(tags) if len(tags) <= _MAX_TAGS else EVERYTHING, "an earlier write")
        except Exception as error:  # noqa: BLE001 - said once when it failed first; it is tried again
            log.debug("an invalidation is still not delivered: %r", error)
            return False
        if ledger is not None:
            self._need_not_write(backend, unwritten)
            if not self._settled(backend, ledger, noted):
                return False
        self.delivered(backend, owed)
        backend_worked(backend, INVALIDATING)
        return True

    def _written_down(self, backend: Backend, ledger: Ledger) -> list[Entry]:
        """Note what is owed and not noted yet; returns all that is noted, also by processes that are gone."""
        try:
            while unwritten := self._unwritten.get(id(backend)):
                begun, tags = first = unwritten[0]
                ledger.owe(tags, begun)
                with self._lock:
                    if unwritten[0] is first:
                        unwritten.pop(0)
                if begun is not None:
                    self._running.discard(begun)
            return ledger.entries()
        except BackendError as error:
            _cannot_write(ledger, error)
            return []

    def _need_not_write(self, backend: Backend, delivered: list[tuple[int | None, tuple[Tag, ...]]]) -> None:
        """Nor keep, where they could not be written: another backend may get this one's id."""
        gone = {id(each) for each in delivered}
        with self._lock:
            unwritten = [each for each in self._unwritten.pop(id(backend), ()) if id(each) not in gone]
            if unwritten:
                self._unwritten[id(backend)] = unwritten

    def _settled(self, backend: Backend, ledger: Ledger, noted: list[Entry]) -> bool:
        """What was delivered is struck out; False while a write whose process may be gone may still be running."""
        try:
            ledger.strike(entry.number for entry in noted if not entry.runs)
        except BackendError as error:
            _cannot_write(ledger, error)
        running = {entry.number for entry in noted if entry.runs} - self._running
        awaited = self._awaited.setdefault(id(backend), running)
        awaited &= running  # those that begin later are not waited for: there may always be one
        if awaited:
            return False
        self._awaited.pop(id(backend), None)
        with self._lock:  # the same backend behind a tier, or before one
            twins = [other for other, _ in list(self.debts.values()) if ledger_of(other) is ledger]
        for twin in twins:
            self.delivered(twin, {tag: debt for tag, debt in self.owed_to(twin).items() if debt is INHERITED})
        return True


def _cannot_write(ledger: Ledger, error: BackendError) -> None:
    key = ("outbox", repr(ledger))
    settings.notices.once(key, "what cannot be delivered is kept in memory only: %s", error)


class LocalWrites:
    """Tells whether a load that began under one count may be shared under another: while no write was made between."""

    def __init__(self) -> None:
        self._lock = renewed_after_fork(self, "_lock")
        self._moves = 0
        self._open = 0
        self._quiet = 0
        self._learned = 0

    def began(self) -> None:
        with self._lock:
            self._open += 1
            self._moves += 1

    def ended(self) -> None:
        with self._lock:
            self._open -= 1
            self._moves += 1
            if not self._open:
                self._quiet = self._moves

    def token(self) -> tuple[str, int] | None:
        """What loads without a backend are shared under; None while a write runs."""
        with self._lock:
            return None if self._open else ("local", self._moves)

    def know_of(self, heads: Iterable[str], scope: str, backend: Backend | None) -> bool:
        """Whether every write under way knows that these resources are read in this scope, on a backend of the tool's own.

        From the first time that is told, new ones do; those that had begun before have to end first.
        """
        known = [scopes_of_reads.read_too(head, scope, backend) for head in heads]
        with self._lock:
            if not all(known) and self._open:
                self._learned = self._moves
            return self._quiet >= self._learned


OUTBOX = Outbox(DEBTS)
WRITES = LocalWrites()
