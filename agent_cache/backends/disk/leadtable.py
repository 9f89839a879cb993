"""Who loads what, on this host: leases in a file beside the cache, taken and given back without waiting.

A lease ends by the clock unless it is renewed, so a process that died or was stopped keeps others waiting no longer
than that. Only the number of loads rests on this table, never what is served: it may be deleted, or be full of garbage.
What a lead is for, and whether its token still holds, is not known here.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LeadTable"]

_SLOT = struct.Struct("<16s12s8sd20x")  # what is loaded, by whom, in which boot, until when
_SIZE, _PER_BUCKET, _BUCKETS = _SLOT.size, 8, 512
_BUCKET = _SIZE * _PER_BUCKET
_TRIES = 50
_ALL = range(0, _BUCKET, _SIZE)
_EMPTY = bytes(_SIZE)
_turn = threading.Lock()
"""The system's locks are the process's: threads and stores of one process take turns by this one."""


class LeadTable:
    """Slots in a small file. A slot is read and written under a lock on its bucket, for microseconds.

    Raises:
        OSError: the file cannot be opened, read or written; or the system has no such locks (Windows).
    """

    def __init__(self, path: str) -> None:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "there are no locks on parts of a file here")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._stuck: dict[int, float] = {}

    def close(self) -> None:
        with _turn:  # closing drops this process's locks on the file
            file, self._file = self._file, -1
            if file >= 0:
                os.close(file)

    def take(self, what: bytes, holder: bytes, boot: bytes, now: float, lease: float) -> bool:
        """Whether nobody has it; then it is ``holder``'s for ``lease`` seconds."""
        place = _place(what)
        with _turn:
            if not self._lock(place):
                return self._is_stuck(place, now, lease)
            try:
                if self._stuck:
                    self._stuck.pop(place, None)
                data = os.pread(self._file, _BUCKET, place).ljust(_BUCKET, b"\0")
                free = _slot_of(data, what)
                if free is not None and _is_alive(data, free, boot, now):
                    return False
                if free is None:
                    free = next((at for at in _ALL if not _is_alive(data, at, boot, now)), None)
                if free is not None:  # else it is had without being written down: somebody may load it too
                    os.pwrite(self._file, _SLOT.pack(what, holder, boot, now + lease), place + free)
                return True
            finally:
                self._unlock(place)

    def renew(self, what: bytes, holder: bytes, boot: bytes, until: float) -> None:
        """Put the end off, if it is still ``holder``'s."""
        self._rewrite(what, holder, _SLOT.pack(what, holder, boot, until))

    def give(self, what: bytes, holder: bytes) -> bool:
        """Give it back, if it is still ``holder``'s. False: somebody else is at it, try again."""
        return self._rewrite(what, holder, _EMPTY)

    def held(self, now: float) -> int:
        """How many leases are running."""
        with _turn:
            data = os.pread(self._file, _BUCKET * _BUCKETS, 0)
        return sum(_SLOT.unpack_from(data, at)[3] > now for at in range(0, len(data) - _SIZE + 1, _SIZE))

    def _rewrite(self, what: bytes, holder: bytes, fresh: bytes) -> bool:
        place = _place(what)
        with _turn:
            if not self._lock(place):
                return False
            try:
                data = os.pread(self._file, _BUCKET, place)
                at = _slot_of(data, what)
                if at is not None and data[at + 16 : at + 28] == holder:
                    os.pwrite(self._file, fresh, place + at)
                return True
            finally:
                self._unlock(place)

    def _lock(self, place: int) -> bool:
        """Never waits: who has the lock gives it back within microseconds, or was stopped with it."""
        if self._file < 0:  # by another thread, meanwhile
            raise OSError(errno.EBADF, "the table of loads was closed")
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            except (BlockingIOError, PermissionError):
                continue
            return True
        return False

    def _unlock(self, place: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _is_stuck(self, place: int, now: float, lease: float) -> bool:
        """Whether somebody has kept a bucket locked for as long as a lease: stopped in the middle of it."""
        return now >= self._stuck.setdefault(place, now + lease)


def _slot_of(data: bytes, what: bytes) -> int | None:
    at = data.find(what)
    while at >= 0 and at % _SIZE:
        at = data.find(what, at + 1)
    return at if at >= 0 else None


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
