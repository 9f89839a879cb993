"""What SQLite keeps beside the file: its log (``-wal``), and the log's index (``-shm``), by which processes know of each other.

If one of them is deleted or replaced while the file is in use, whoever opens it then no longer sees what the others write.
And a log that is deleted after a crash takes acknowledged writes along. Either is noticed here, when a process opens the
file: before that nobody has come apart. What is done about it is :mod:`.files`' business.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
import threading
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["lost", "mark", "numbers", "unmark"]

log = logging.getLogger("agent_cache")
_FLOCK = struct.Struct("hhqqi0q")  # Linux' struct flock: kind, from where, start, length, process
_CONNECTED = 0x40000000 + 2, 510  # the bytes of the file on which each connection has a lock
_INDEXED = 128, 1  # and the byte of the index on which each process has one
_MARK = "user.agent_cache.log"
_KNOWN = sys.platform == "linux" and sys.maxsize > 1 << 32
_PAUSES = (0.02, 0.04, 0.08)
"""Seconds, for whoever is just opening or closing the file."""


def lost(path: str) -> str:
    """What is missing beside a file that this process does not have open; empty where nothing is."""
    why = _lost(path)
    for pause in _PAUSES if why else ():
        threading.Event().wait(pause)
        why = _lost(path)
        if not why:
            break
    return why


def _lost(path: str) -> str:
    if not _KNOWN:
        return ""
    if _is_locked(path, _CONNECTED):
        if not os.path.exists(path + "-wal"):  # noqa: PTH110 - text in, yes or no out
            return "its log was deleted while it was in use"
        if not _is_locked(path + "-shm", _INDEXED):
            return "its log's index was deleted or replaced while it was in use"
    marked = _marked(path)
    return "" if marked in (b"", _number(path + "-wal")) else "its log was deleted or replaced"


def _is_locked(path: str, where: tuple[int, int]) -> bool:
    """Whether another process has a lock on one of these bytes. Only of a file that this one does not have open."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *where, 0)
        kind: int = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))[0]
    finally:
        os.close(file)
    return kind != int(fcntl.F_UNLCK)


def numbers(path: str) -> tuple[bytes, bytes]:
    """Which log and which index stand there. They stay the same for as long as this process has the file open."""
    return _number(path + "-wal"), _number(path + "-shm")


def _number(path: str) -> bytes:
    try:
        return str(os.stat(path).st_ino).encode()  # noqa: PTH116 - one number of it
    except OSError:
        return b"none"


def _marked(path: str) -> bytes:
    try:
        return os.getxattr(path, _MARK)
    except OSError:
        return b""


def mark(path: str) -> None:
    """There is a log now, this one: without it the file is not what it was."""
    if not _KNOWN:
        return
    number = _number(path + "-wal")
    try:
        if number != b"none" and _marked(path) != number:
            os.setxattr(path, _MARK, number)
    except OSError as error:
        log.debug("disk cache %s: no extended attributes (%s)", path, error)


def unmark(path: str) -> None:
    """Once the file is closed: if it was by the last who had it open, there is no log, and none is needed."""
    if not _KNOWN or os.path.exists(path + "-wal"):  # noqa: PTH110 - as above
        return
    try:
        os.removexattr(path, _MARK)
    except OSError as error:
        log.debug("disk cache %s: %s", path, error)
