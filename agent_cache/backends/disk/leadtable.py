"""Who loads what, on this host: a lock on one byte of a file beside the cache, taken and given back without waiting.

Where the byte is says what is loaded, so a lead costs one call of the system, and it ends with its process. One that was
stopped keeps its locks: whoever has loaded for long notes so, again and again, in a slot of the file, and what is locked
and not noted for a whole lease is taken over, by whoever gets the slot. Systems without such locks have the slots alone.
The system looks through all locks of a file at every step, so a table has a thousand of them, and no more.

Only the number of loads rests on this table, never what is served: the file may be deleted, or be full of garbage. What
a lead is for, and whether its token still holds, is not known here.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LeadTable"]

log = logging.getLogger("agent_cache")
_SLOT = struct.Struct("<16s12s8sd20x")  # what is loaded, by whom, in which boot, until when
_SIZE, _PER_BUCKET, _BUCKETS = _SLOT.size, 8, 512
_BUCKET = _SIZE * _PER_BUCKET
_TRIES = 50
_ALL = range(0, _BUCKET, _SIZE)
_EMPTY = bytes(_SIZE)
_MOST_STUCK, _MOST_LOCKS = 4_096, 1_024
_LATE = 1.0  # seconds beyond a lease in which nobody asked: who waited has gone
_turn = threading.Lock()
"""The system's locks on buckets are the process's: threads and stores of one process take turns by this one."""

_FLOCK = struct.Struct("hhqqi0q")  # Linux' struct flock: kind, from where, start, length, process
_FIRST_BYTE, _BYTES = 1 << 41, (1 << 61) - 1
_OF_A_TABLE: int | None = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None
"""Locks of one opened file, and not of the process. Other threads and stores of the process are kept out as well."""


class LeadTable:
    """Leads by name (16 bytes), each ``holder``'s (12 bytes, another each time). Times are seconds of one clock.

    Raises:
        OSError: the file cannot be opened, read or written; or the system has no such locks (Windows).
    """

    _file = -1

    def __init__(self, path: str) -> None:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "there are no locks on parts of a file here")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._locking = self._can_lock()
        self._mine: dict[bytes, bytes] = {}
        """What is had through this table, and by whom."""
        self._noted: set[bytes] = set()
        """What of it stands in a slot."""
        self._alone: set[bytes] = set()
        """What of it is had without a lock: other processes may load it too."""
        self._stuck: dict[bytes | int, tuple[bytes, float, float]] = {}
        """What, or which bucket, somebody had locked: what was noted of it, when to wait no longer, who asked last."""
        self._most_stuck = _MOST_STUCK

    def __del__(self) -> None:
        """Of a store that nobody closed. No lock may be taken here."""
        self._let_go()

    def close(self) -> None:
        """Give everything back."""
        with _turn:  # closing drops this process's locks on the file
            self._let_go()

    def _let_go(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def take(self, what: bytes, holder: bytes, boot: bytes, now: float, lease: float) -> bool:
        """Whether nobody has it; then it is ``holder``'s until it is given back, or not renewed for ``lease`` seconds."""
        if self._mine.setdefault(what, holder) is not holder:
            return False  # another thread's
        try:
            had = self._take(what, holder, boot, now, lease)
        except BaseException:  # a signal's as well: it may have been locked by then
            self.drop(what, holder)
            raise
        if not had:
            del self._mine[what]
        return had

    def renew(self, what: bytes, holder: bytes, boot: bytes, now: float, lease: float) -> None:
        """Note that it is still ``holder``'s, for ``lease`` seconds more."""
        if self._mine.get(what) != holder or what in self._alone:
            return
        place = _place(what)
        with self._bucket(place) as data:
            if data is not None:
                self._note(place, data, what, holder, boot, now, lease)

    def give(self, what: bytes, holder: bytes) -> bool:
        """Give it back, if it is still ``holder``'s. False: somebody else is at its slot, try again."""
        if self._mine.get(what) == holder:
            if what in self._noted and not self._erase(what, holder):
                return False
            self.drop(what, holder)
        return True

    def drop(self, what: bytes, holder: bytes) -> None:
        """:meth:`give`, but never raises and takes no lock: where it was noted, that ends with its lease."""
        if self._mine.get(what) != holder:
            return
        self._noted.discard(what)
        self._alone.discard(what)
        if self._locking and self._file >= 0:
            try:
                self._set(what, fcntl.F_UNLCK)
            except OSError as error:
                log.debug("a lead ends with its process: %s", error)
        self._mine.pop(what, None)  # not before: what another thread took meanwhile would be the same lock

    def is_at(self, path: str) -> bool:
        """Whether this is the file at this path, and open."""
        try:
            there, mine = Path(path).stat(), os.fstat(self._file)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def __len__(self) -> int:
        """How many leads are had through this table."""
        return len(self._mine)

    # -- locks

    def _take(self, what: bytes, holder: bytes, boot: bytes, now: float, lease: float) -> bool:
        if self._file < 0:  # by another thread, meanwhile
            raise OSError(errno.EBADF, "the table of loads was closed")
        if self._locking and len(self._mine) > _MOST_LOCKS:
            self._alone.add(what)
            return True
        if not self._locking or not self._set(what, fcntl.F_WRLCK):
            return self._take_over(what, holder, boot, now, lease)
        if self._stuck:
            self._stuck.pop(what, None)
        return True

    def _can_lock(self) -> bool:
        """Whether the system knows such locks: some that call themselves Linux do not."""
        try:
            return _OF_A_TABLE is not None and self._set(_EMPTY, fcntl.F_UNLCK)
        except OSError as error:
            log.debug("leads are noted, and not locked: %s", error)
            return False

    def _set(self, what: bytes, kind: int) -> bool:
        """Lock or unlock the byte of a lead; whether it could be done at once."""
        at = _FIRST_BYTE + (int.from_bytes(what[8:], "big") & _BYTES)
        try:
            fcntl.fcntl(self._file, _OF_A_TABLE, _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        except ValueError:  # closed by another thread, meanwhile: there is no file -1
            raise OSError(errno.EBADF, "the table of loads was closed") from None
        return True

    # -- slots

    def _take_over(self, what: bytes, holder: bytes, boot: bytes, now: float, lease: float) -> bool:
        """A lead that was locked for a whole lease, and that nobody has noted; without locks, any that nobody has."""
        place = _place(what)
        with self._bucket(place) as data:
            if data is None:
                return self._is_stuck(place, now, lease)
            self._stuck.pop(place, None)
            at = _slot_of(data, what)
            noted = b"" if at is None else data[at : at + _SIZE]
            is_stuck = not self._locking or self._is_stuck(what, now, lease, noted)
            if not is_stuck or (at is not None and _is_alive(data, at, boot, now)):
                return False
            self._note(place, data, what, holder, boot, now, lease)
            return True

    def _note(self, place: int, data: bytes, what: bytes, holder: bytes, boot: bytes, now: float, lease: float) -> None:
        """Write it down, where there is a slot to be had in the bucket, which is ``data``, that nobody else has by now."""
        at = _slot_of(data, what)
        if at is None:
            at = next((free for free in _ALL if not _is_alive(data, free, boot, now)), None)
        elif _is_alive(data, at, boot, now) and _holder(data, at) != holder:
            return
        if at is not None:  # else it is had without being written down: somebody may load it too
            os.pwrite(self._file, _SLOT.pack(what, holder, boot, now + lease), place + at)
            self._noted.add(what)

    def _erase(self, what: bytes, holder: bytes) -> bool:
        place = _place(what)
        with self._bucket(place) as data:
            if data is None:
                return False
            at = _slot_of(data, what)
            if at is not None and _holder(data, at) == holder:
                os.pwrite(self._file, _EMPTY, place + at)
            return True

    @contextmanager
    def _bucket(self, place: int) -> Iterator[bytes | None]:
        """What stands in it, while nobody else may touch it; None: somebody else is at it."""
        with _turn:
            if not self._lock_bucket(place):
                yield None
                return
            try:
                yield os.pread(self._file, _BUCKET, place).ljust(_BUCKET, b"\0")
            finally:
                self._unlock_bucket(place)

    def _lock_bucket(self, place: int) -> bool:
        """Never waits: who has the lock gives it back within microseconds, or was stopped with it."""
        if self._file < 0:
            raise OSError(errno.EBADF, "the table of loads was closed")
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):
                continue
            return True
        return False

    def _unlock_bucket(self, place: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _is_stuck(self, which: bytes | int, now: float, lease: float, noted: bytes = b"") -> bool:
        """Whether somebody has kept a lead, or a bucket, locked for as long as a lease and noted nothing new: stopped in
        the middle of it. Counted anew where nobody asked for so long that it may have been given back in between."""
        before, until, asked = self._stuck.get(which, (b"", now + lease, now))
        if noted != before or now > asked + lease + _LATE:
            until = now + lease
        self._stuck[which] = (noted, until, now)
        if len(self._stuck) > self._most_stuck:
            still = [(key, each) for key, each in list(self._stuck.items()) if now <= each[2] + lease + _LATE]
            self._stuck = dict(still)
            self._most_stuck = max(_MOST_STUCK, 2 * len(still))
        return now >= until


def _slot_of(data: bytes, what: bytes) -> int | None:
    at = data.find(what)
    while at >= 0 and at % _SIZE:
        at = data.find(what, at + 1)
    return at if at >= 0 else None


def _holder(data: bytes, at: int) -> bytes:
    return data[at + 16 : at + 28]


def _is_alive(data: bytes, at: int, boot: bytes, now: float) -> bool:
    _, _, whose, ends = _SLOT.unpack_from(data, at)
    return bool(whose == boot and now < ends)


def _place(what: bytes) -> int:
    return int.from_bytes(what[:4], "little") % _BUCKETS * _BUCKET


def _after_fork() -> None:
    global _turn
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
