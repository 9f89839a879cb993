"""The one thread that writes: jobs in groups, one transaction each; fills behind them; renewals before them.

What belongs here: threads, queues, transactions, retries. What a job does to the tables, and what the upkeep is,
is handed in (see :class:`Upkeep`).
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future
from time import sleep  # noqa: TID251 - for a thread that has no event loop
from typing import Any, Protocol, TypeVar

from agent_cache.backends.disk import files
from agent_cache.backends.disk.files import Damaged, Handle, Identity, Replaced
from agent_cache.errors import BackendError

__all__ = ["Job", "Upkeep", "Writer"]

T = TypeVar("T")
log = logging.getLogger("agent_cache")
_PATIENCE, _PAUSE, _IDLE, _LINGER = 2.0, 0.02, 5.0, 0.01
_GROUP, _ROUNDS = 64, 5
_OWED_EVERY = 0.5
_TURN = 20e-6  # seconds; with what the system adds, enough for a thread to wake up


class Job:
    """Work inside a transaction. ``durable``: on the disk before it counts as done. ``stubborn``: every failure is
    retried, and after the caller was told, in the background. ``plain``: no transaction, only an open file. ``ids``: tags
    it moves; fills accepted under them before are written first, so that they are there if it changes nothing."""

    __slots__ = (
        "after",
        "damaged",
        "done",
        "durable",
        "fills",
        "future",
        "ids",
        "plain",
        "stubborn",
        "told",
        "until",
        "work",
    )

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], Any],
        *,
        durable: bool = False,
        stubborn: bool = False,
        plain: bool = False,
        fills: bool = False,
        damaged: Identity | None = None,
        after: Callable[[], None] | None = None,
        ids: Sequence[bytes] = (),
    ) -> None:
        self.ids = ids
        self.work = work
        self.durable = durable
        self.stubborn = stubborn
        self.plain = plain
        self.fills = fills
        self.damaged = damaged
        self.after = after
        self.until = 0.0
        self.told = False
        self.done: Any = None
        self.future: Future[Any] = Future()

    def __call__(self) -> Any:
        """Never called: a loop takes only callables to an executor."""
        raise NotImplementedError

    def tell(self, error: BaseException | None) -> None:
        if not self.told:
            self.told = True
            if error is None:
                self.future.set_result(self.done)
            else:
                self.future.set_exception(error)


class Upkeep(Protocol):
    """What the thread does on its own account; the store implements it."""

    def open_file(self) -> Identity: ...
    def due_in(self) -> float | None: ...
    def renew(self) -> Job | None: ...
    def is_behind(self) -> bool: ...
    def make_batch(self, ids: Collection[bytes], give_way: Callable[[], None]) -> None: ...
    def write_batch(
        self, db: sqlite3.Connection, ids: Collection[bytes], give_way: Callable[[], None]
    ) -> Callable[[], None] | None: ...
    def waiting(self, ids: Collection[bytes] = ()) -> bool: ...
    def backlog(self) -> bool: ...
    def full(self) -> Exception | None: ...
    def give_up(self, error: Exception) -> None: ...
    def tidy(self, db: sqlite3.Connection, *, idle: bool) -> None: ...


class Writer(Executor):
    """Started by its first job, gone when there is nothing to do."""

    def __init__(self, path: str, upkeep: Upkeep) -> None:
        self._path = path
        self._upkeep = upkeep
        self._lock = threading.Condition()
        self.busy = threading.RLock()
        """Held while SQLite is at work: nobody forks meanwhile, its own locks would stay taken in the child."""
        self._jobs: list[Job] = []
        self._thread: threading.Thread | None = None
        self._owed: list[Job] = []  # ends that could not be delivered, and whose callers know
        self._owed_at = 0.0
        self._poked = False
        self._wakes_at = 0.0
        self._closing = False
        self.handle: Handle | None = None
        self._mode = ""
        self._flush_until: float | None = None

    # -- callers

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a :class:`Job`."""
        job: Job = fn
        job.until = time.monotonic() + _PATIENCE
        job.future.set_running_or_notify_cancel()
        with self._lock:
            self._jobs.append(job)
            self._wake()
        return job.future

    def poke(self) -> None:
        """There are fills, or renewals to come."""
        if self._poked and self._thread is not None:
            return
        with self._lock:
            self._poked = True
            self._wake()

    def wake_within(self, seconds: float) -> None:
        """There is something to renew by then."""
        if self._thread is None or self._wakes_at > time.monotonic() + seconds:
            self.poke()

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="agent_cache disk writer", daemon=True)
            thread.start()  # raises where the system has no more of them; who asks next tries again
            self._thread = thread
        else:
            self._lock.notify()

    def stop(self, patience: float) -> None:
        """Let it finish what is queued, then end; the connection is closed by the thread."""
        with self._lock:
            thread = self._thread
            self._closing = True
            self._lock.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)
        with self._lock:
            self._closing = False
        if thread is None or not thread.is_alive():
            self.drop_handle()

    # -- the thread

    def _run(self) -> None:
        while True:
            try:
                jobs = self._next()
            except Exception:  # the thread must live, as below
                log.exception("disk cache %s: the writer failed", self._path)
                with self._lock:
                    self._lock.wait(_PAUSE)
                continue
            if jobs is None:
                return
            try:
                with self.busy:
                    self._round(jobs)
            except Exception as error:  # the thread must live: callers wait for it
                log.exception("disk cache %s: the writer failed", self._path)
                for job in jobs:
                    job.tell(files.explained(self._path, error))
            jobs = []  # a window its owner forgot must not live on here

    def _next(self) -> list[Job] | None:
        """Wait for something to do; None: end."""
        linger = _LINGER
        ends = time.monotonic() + _IDLE
        with self._lock:
            while True:
                self._poked = False  # before looking: who adds a fill or a lead after this wakes us
                self._wakes_at = math.inf
                due = self._upkeep.due_in()
                if self._owed:
                    left = self._owed_at - time.monotonic()
                    if self._jobs or left <= 0:
                        self._jobs[:0], self._owed = self._owed, []
                    due = left if due is None else min(due, left)
                if self._jobs or (due is not None and due <= 0):
                    break
                if self._upkeep.waiting():
                    if self._closing or linger <= 0 or self._upkeep.backlog():
                        break
                    self._poked = True  # others may follow, and need not wake us
                    self._lock.wait(linger)
                    linger = 0
                    continue
                if self._closing or (due is None and time.monotonic() >= ends):
                    if not self._closing:
                        with self.busy:
                            self._tidy(idle=True)
                    self._thread = None
                    return None
                now = time.monotonic()
                left = min(max(max(0.0, ends - now) if due is None else due, 0.001), 60.0)
                self._wakes_at = now + left
                self._lock.wait(left)
            jobs, self._jobs = self._jobs[:_GROUP], self._jobs[_GROUP:]
            self._poked = False
            return jobs

    def _round(self, jobs: list[Job]) -> None:
        renewal = self._upkeep.renew()
        if renewal is not None:
            renewal.until = time.monotonic()
            self._attempt([renewal])
        for plain in [job for job in jobs if job.plain]:
            self._plain(plain)
        jobs = [job for job in jobs if not job.plain]
        if any(job.fills for job in jobs):
            while self._upkeep.waiting():
                self._flush(patient=False)
        moved = {name for job in jobs for name in job.ids}
        while moved and self._upkeep.waiting(moved):
            self._flush(patient=False, ids=moved)
        if jobs:
            again = self._attempt(jobs)
            if again:
                with self._lock:
                    self._jobs[:0] = again
                    self._lock.wait(_PAUSE)
                return
        if self._upkeep.waiting():
            self._flush(patient=True)
            self._give_way()
        self._tidy(idle=False)

    def _plain(self, job: Job) -> None:
        try:
            if job.damaged is not None:
                self.drop_handle()
                files.set_aside(self._path, job.damaged, "the file is damaged")
            job.done = job.work(self._open().db)
            job.tell(None)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            if files.is_damage(error):
                self._damaged(error)
            job.tell(files.explained(self._path, error))

    def _attempt(self, jobs: list[Job]) -> list[Job]:
        """One transaction for all; returns those to be tried again."""
        error: Exception | None = None
        for _ in range(_ROUNDS):
            try:
                self._transact(jobs)
                return []
            except Replaced as replaced:
                error = replaced
                self.drop_handle()
            except Exception as failed:  # noqa: BLE001 - sorted below
                error = failed
                if files.is_damage(failed):
                    self._damaged(failed)
                    continue
                if not files.is_busy(failed):
                    self.drop_handle()
                break
        return self._failed(jobs, error or Replaced())

    def _failed(self, jobs: list[Job], error: Exception) -> list[Job]:
        again: list[Job] = []
        now = time.monotonic()
        for job in jobs:
            if (files.is_busy(error) or job.stubborn) and now < job.until:
                again.append(job)
                continue
            job.tell(files.explained(self._path, error))
            if job.stubborn and not self._closing:
                self._owed.append(job)
                self._owed_at = now + _OWED_EVERY
        return again

    def _transact(self, jobs: list[Job]) -> None:
        def work(db: sqlite3.Connection) -> None:
            for job in jobs:
                job.done = job.work(db)

        self._commit("FULL" if any(job.durable for job in jobs) else "NORMAL", work)
        for job in jobs:
            if job.after is not None:
                job.after()
            job.tell(None)

    def _commit(self, mode: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Work and commit, in the file that is at the path afterwards too.

        Raises:
            Replaced: it is another one by now; what was committed is in nobody's way there.
        """
        handle = self._open()
        self._set_mode(mode)
        handle.db.execute("BEGIN IMMEDIATE")
        try:
            done = work(handle.db)
            handle.db.execute("COMMIT")
        except BaseException:
            self._roll_back(handle.db)
            raise
        if files.identity(self._path) != handle.identity:
            raise Replaced
        return done

    def _roll_back(self, db: sqlite3.Connection) -> None:
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error as error:
            log.debug("disk cache %s: rollback: %s", self._path, error)
            self.drop_handle()

    def _set_mode(self, mode: str) -> None:
        if self.handle is not None and self._mode != mode:
            self.handle.db.execute(f"PRAGMA synchronous={mode}")
            self._mode = mode

    def _flush(self, *, patient: bool, ids: Collection[bytes] = ()) -> None:
        """A batch of fills. Losing one is only a miss. ``patient``: nobody waits for it."""
        error: Exception | None = self._upkeep.full()
        if error is not None:
            self._upkeep.give_up(error)
            return
        give_way = self._give_way if patient else _go_on
        for _ in range(_ROUNDS):
            try:
                self._upkeep.make_batch(ids, give_way)
                done = self._commit("NORMAL", lambda db: self._upkeep.write_batch(db, ids, give_way))
                self._flush_until = None
                if done is not None:
                    give_way()
                    done()
                return
            except Replaced as replaced:
                error = replaced
                self.drop_handle()
            except Exception as failed:  # noqa: BLE001 - sorted here
                error = failed
                if files.is_damage(failed):
                    self._damaged(failed)
                    continue
                if files.is_busy(failed):
                    if self._flush_until is None:
                        self._flush_until = time.monotonic() + _PATIENCE
                    if patient and time.monotonic() < self._flush_until and not self._closing:
                        with self._lock:
                            if not self._jobs:
                                self._lock.wait(_PAUSE)
                        return
                else:
                    self.drop_handle()
                break
        self._flush_until = None
        self._upkeep.give_up(files.explained(self._path, error or Replaced()) if error else Damaged())

    def _give_way(self) -> None:
        """Let other threads have the interpreter, between small pieces of work.

        SQLite gives the interpreter's lock back while it works, but for so short a time that a thread which is woken finds it
        taken again: an event loop would stand still for a whole batch, a millisecond or two. Only a sleep hands it over.
        """
        if not self._jobs and not self._closing and not self._upkeep.is_behind():
            sleep(_TURN)

    def _damaged(self, error: Exception) -> None:
        which = self.handle.identity if self.handle is not None else None
        self.drop_handle()
        if which is not None:
            try:
                files.set_aside(self._path, which, str(error))
            except BackendError as failed:  # told to whoever wants to open it
                log.debug("%s", failed)

    def _tidy(self, *, idle: bool) -> None:
        if self.handle is None:
            return
        try:
            self._upkeep.tidy(self.handle.db, idle=idle)
        except sqlite3.Error as error:
            if self.handle is not None:
                self._roll_back(self.handle.db)
            log.debug("disk cache %s: upkeep put off: %s", self._path, error)
            if files.is_damage(error):
                self._damaged(error)

    def _open(self) -> Handle:
        handle = self.handle
        if handle is not None:
            try:
                if files.identity(self._path) == handle.identity:
                    return handle
            except Replaced:
                pass
            self.drop_handle()
        which = self._upkeep.open_file()
        self.handle = files.connect(self._path, which, writer=True)
        self._mode = ""
        return self.handle

    def drop_handle(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.close()


def _go_on() -> None:
    """Somebody waits for it."""
