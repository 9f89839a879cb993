"""The file itself: made, checked, set aside, opened; and SQLite's errors in our words.

All opening in this process goes through one lock, and making or replacing a file through a lock file beside it, which
other processes honour. The database file is never opened by other means while this process has it open: closing it
would drop SQLite's own locks (POSIX).
"""

from __future__ import annotations

import atexit
import errno
import logging
import mmap
import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from weakref import ref

from agent_cache.backends.disk import companions, schema
from agent_cache.backends.disk.names import Names
from agent_cache.clock import nonce
from agent_cache.errors import BackendError, ConfigurationError

__all__ = [
    "HEADER",
    "Damaged",
    "Handle",
    "Identity",
    "Opening",
    "Replaced",
    "connect",
    "explained",
    "identity",
    "is_damage",
    "prepare",
    "real",
    "set_aside",
    "shared_memory",
    "unfit",
]

log = logging.getLogger("agent_cache")
Identity = tuple[int, int]
"""``(st_dev, st_ino)``"""
_WRITER_BUSY_MS, _READER_BUSY_MS = 200, 20
_LOCK_PATIENCE = 2.0  # seconds
_BIRTH, _BORN_MARKED = "user.agent_cache", 0x40
_opening = threading.RLock()
_open: dict[int, _Open] = {}
"""Connections, by a number each. Every step on it is one of the interpreter's own: a collection of garbage may come to
close a handle at any point, on any thread, and no lock may be waited for there."""
_numbers = count()
_inherited: list[Handle] = []
_shared_memory: dict[Identity, list[tuple[int, mmap.mmap | None]]] = {}
"""``-shm`` files, opened and mapped by us. Closing one drops SQLite's locks on it, so none is while its database is open."""
_beside: dict[Identity, tuple[bytes, bytes]] = {}
"""Which log and index belong to what is open here, while some connection has them open."""
HEADER = 48
"""Bytes at the beginning of that file that every commit changes."""
_WAL_INDEX = (3007000).to_bytes(4, sys.byteorder)  # the format in which the header of that file is understood


class Damaged(Exception):  # noqa: N818 - says what the file is; never leaves this package
    """What is in the file is not what we wrote."""


class Replaced(Exception):  # noqa: N818 - as above
    """There is another file at the path than the one that is open, or none."""


class Opening(BackendError):  # noqa: N818 - as above
    """Another thread is at it."""


class _Open:
    """What is left to be closed of a handle that was dropped. Kept here, so that when a cycle of garbage is collected the
    connection is not part of it and is closed before it is freed."""

    __slots__ = ("handle", "has_read", "identity", "path", "pid", "unclosed")

    def __init__(self, db: sqlite3.Connection, handle: ref[Handle], which: Identity, path: str) -> None:
        self.path = path
        self.unclosed = [db]
        """Empty once somebody is at it."""
        self.has_read = False
        """So the log that it has open stays till it is closed."""
        self.handle = handle
        self.identity = which
        self.pid = os.getpid()


class Handle:
    """A connection, which file it has open, and whose it is: a forked child never closes its parent's.

    Closes itself when it is dropped.
    """

    __slots__ = ("__weakref__", "_number", "cursor", "db", "identity", "lock", "pid", "writes")

    def __init__(self, db: sqlite3.Connection, which: Identity, path: str = "", *, writes: bool = False) -> None:
        self.db = db
        self.writes = writes
        """Used under :attr:`.writer.Writer.busy`; others under ``lock``."""
        self.cursor = db.cursor()
        self.identity = which
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self._number = number = next(_numbers)
        _open[number] = _Open(db, ref(self, lambda _: _close(number)), which, path)

    def close(self) -> None:
        if self.pid == os.getpid():
            self.pid = -1
            _close(self._number)

    def has_read(self) -> None:
        """From now on it has the log open."""
        mine = _open.get(self._number)
        if mine is not None:
            mine.has_read = True

    def leak(self) -> None:
        """In a forked child: never let the connection be closed, not even at exit."""
        _leak(self.db, self.cursor)


def _close(number: int) -> None:
    """Once, whoever comes first. It counts as open until it is closed: meanwhile it has locks that must not be dropped."""
    mine = _open.get(number)
    if mine is None:
        return
    try:
        db = mine.unclosed.pop()
    except IndexError:
        return
    if mine.pid != os.getpid():
        _leak(db)
        return
    if not any(each.has_read and each.unclosed for each in list(_open.values()) if each.identity == mine.identity):
        _beside.pop(mine.identity, None)  # from now on the log may go
    try:
        db.close()
    except sqlite3.Error as error:
        log.debug("closing a cache file: %s", error)
    _open.pop(number, None)
    if _is_open_here(mine.identity):
        return
    if mine.path:
        companions.unmark(mine.path)
    if _opening.acquire(blocking=False):  # else whoever opens something does it
        try:
            _let_go()
        finally:
            _opening.release()


def _leak(*them: object) -> None:
    import ctypes

    for each in them:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def _is_open_here(which: Identity) -> bool:
    pid = os.getpid()
    return any(each.identity == which and each.pid == pid for each in list(_open.values()))


def before_fork(patience: float, *, writers: bool) -> list[Any]:
    """Close all that is open, for nothing of it may be inherited: SQLite in the child would take it that the locks which
    its parent holds are its own. Returns what is held until the fork is over: meanwhile nobody opens or reads.

    ``patience``: seconds for each connection in use; one that is not let go is left open. ``writers``: whether their owners
    were stopped.
    """
    held: list[Any] = [_opening] if _opening.acquire(timeout=patience) else []
    for handle in _open_handles():
        if (writers or not handle.writes) and handle.lock.acquire(timeout=patience):
            held.append(handle.lock)
            handle.close()
    return held


def _open_handles() -> list[Handle]:
    there = [each.handle() for each in list(_open.values())]
    return [handle for handle in there if handle is not None and handle.pid != -1]


def after_fork() -> None:
    """In the child: nothing of its own is open yet, and nobody holds the lock."""
    global _opening
    _opening = threading.RLock()
    for handle in _open_handles():
        _inherited.append(handle)
        handle.leak()
    _beside.clear()
    _let_go()  # the child has no locks that this could drop


def _at_exit() -> None:
    """Those that nobody closed. One that a thread has in use is left: closing would pull it away."""
    for handle in _open_handles():
        if not handle.writes and handle.lock.acquire(blocking=False):
            try:
                handle.close()
            finally:
                handle.lock.release()


atexit.register(_at_exit)


def shared_memory(path: str, handle: Handle) -> mmap.mmap | None:
    """The head of the ``-shm`` file of a database that ``handle`` has read from; None where it tells us nothing.

    Not to be looked at once the handle is closed: the file may be cut off then. SQLite itself has it mapped till then.

    Raises:
        sqlite3.Error: the handle cannot be asked.
    """
    if sys.platform not in ("linux", "darwin"):
        return None
    mode = handle.db.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":  # a file that was left behind: nobody writes to it
        return None
    with _opening:
        _beside.setdefault(handle.identity, companions.numbers(real(path)))
        try:
            head = _mapped(real(path) + "-shm", handle.identity)
        except (OSError, ValueError) as error:
            log.debug("disk cache %s: %s; asking SQLite instead", path, error)
            return None
    return head if head[:4] == _WAL_INDEX and head[12:13] == b"\1" else None


def _mapped(path: str, which: Identity) -> mmap.mmap:
    found = os.stat(path)  # noqa: PTH116 - two numbers of it
    held = _shared_memory.setdefault(which, [])
    for file, head in held:
        if head is not None and os.path.samestat(os.fstat(file), found):
            return head
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    held.append((file, None))  # at once: to close it because it cannot be mapped would drop SQLite's locks
    head = mmap.mmap(file, HEADER, access=mmap.ACCESS_READ)
    held[-1] = file, head
    return head


def _let_go() -> None:
    """Close what belongs to databases that nobody here has open. While it is our turn to open."""
    for which in [which for which in list(_shared_memory) if not _is_open_here(which)]:
        for file, head in _shared_memory.pop(which, ()):  # a handle that is collected meanwhile lets go as well
            if head is not None:
                head.close()
            os.close(file)


def real(path: str) -> str:
    """Where the file is: SQLite follows links, and has its log beside what they lead to. So have we all that is ours."""
    return os.path.realpath(path)


def identity(path: str) -> Identity:
    """Raises Replaced where there is no file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - on the way of every hit
    except (FileNotFoundError, NotADirectoryError):
        raise Replaced from None
    except OSError as error:
        raise BackendError(f"disk cache {path}: {error.strerror}; make it accessible") from error
    return found.st_dev, found.st_ino


def connect(path: str, which: Identity, *, writer: bool, patient: bool = False) -> Handle:
    """Open what is there; never makes a file. A reader, which may be an event loop, hardly waits for who opens another.

    Raises:
        Damaged: its log is not the one that belongs to what is open here already.
        Opening: it is opened by another thread; not to one who is ``patient``.
        Replaced: the file at the path is another one.
    """
    with _turn(path, -1 if writer or patient else _READER_BUSY_MS / 1000):
        _let_go()
        if identity(path) != which:
            raise Replaced
        if any(handle.identity == which and handle.pid != os.getpid() for handle in _open_handles()):
            text = "it was in use when this process was forked, so its locks would not hold; fork before it is used"
            raise BackendError(f"disk cache {path}: {text}")
        known = _beside.get(which)
        if known is not None and known != companions.numbers(real(path)) and _beside.get(which) is known:
            raise Damaged("its log was deleted or replaced while it was in use")
        uri = Path(path).absolute().as_uri() + "?mode=rw"
        busy = _WRITER_BUSY_MS if writer else _READER_BUSY_MS
        db = sqlite3.connect(uri, uri=True, timeout=busy / 1000, isolation_level=None, check_same_thread=False)
        handle = Handle(db, which, real(path), writes=writer)
        try:
            if writer:
                db.execute("PRAGMA wal_autocheckpoint=0")
                db.execute("PRAGMA journal_size_limit=4194304")
                if sys.platform == "darwin":
                    db.execute("PRAGMA fullfsync=1")
                    db.execute("PRAGMA checkpoint_fullfsync=1")
            else:
                db.execute("PRAGMA query_only=1")
            db.execute("PRAGMA schema_version").fetchall()
            handle.has_read()
            if not writer:  # a writer is never alone for long
                companions.mark(real(path))
            if identity(path) != which:
                raise Replaced
        except BaseException:
            handle.close()
            raise
        return handle


@contextmanager
def _turn(path: str, patience: float) -> Iterator[None]:
    if not _opening.acquire(timeout=patience):
        raise Opening(f"disk cache {path}: it is being opened")
    try:
        yield
    finally:
        _opening.release()


def prepare(path: str, names: Names) -> Identity:
    """See to it that a sound file of ours is at ``path``, making or replacing it where need be."""
    path = real(path)
    folder = Path(path).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_other_kinds(path)
        with _opening, _locked(path):
            for _ in range(3):
                try:
                    which = _existing_or_new(path, names)
                    _check(path, which, names)
                    return which
                except Replaced:
                    continue
                except Damaged as error:
                    _move_away(path, str(error))
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
                    _move_away(path, str(error))
            raise BackendError(f"disk cache {path}: the file is replaced again and again; give it a path of its own")
    except OSError as error:
        raise BackendError(f"disk cache {path}: {error.strerror or error}; free space or make it writable") from error


def _refuse_other_kinds(path: str) -> None:
    """What is no file is never replaced by one."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - one number of it
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise BackendError(f"disk cache {path}: it is {kind}; give the path of a file")


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """One process at a time makes or replaces the file. The lock goes when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be replaced there anyway
        yield
        return
    lock = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # never for ever: who has it may have been stopped
                if time.monotonic() > until:
                    raise BackendError(f"disk cache {path}: another process keeps it locked") from None
                threading.Event().wait(0.01)
        yield
    finally:
        os.close(lock)


def _existing_or_new(path: str, names: Names) -> Identity:
    try:
        which = identity(path)
        size = Path(path).stat().st_size
    except (Replaced, FileNotFoundError):
        return _make(path, names)
    if not _is_open_here(which):
        if size == 0:
            _remove(path)
            return _make(path, names)
        if not _is_original(path, which):
            _remove(
                path
            )  # a copy, maybe an old one: nothing in it can be trusted to be current, nor the -wal beside it
            log.info("disk cache %s: the file was copied or restored; starting empty", path)
            return _make(path, names)
        why = companions.lost(path)
        if why:
            raise Damaged(why)
    return which


def _is_original(path: str, which: Identity) -> bool:
    """Whether this cache file is where it was made. Raises Damaged, or ConfigurationError where it is another program's."""
    header = _header(path)
    if header[:16] != b"SQLite format 3\0" or len(header) < 100:
        raise Damaged("not a database")
    if int.from_bytes(header[68:72], "big") != schema.APPLICATION:
        if int.from_bytes(header[28:32], "big") > 1:
            fix = "the database there is another program's; give the cache a path of its own"
            raise ConfigurationError("path", path, fix)
        raise Damaged("not a cache file")
    version = int.from_bytes(header[60:64], "big")
    if version >> 24 & 0x3F != schema.VERSION:  # an older one does not count what changes
        raise Damaged(f"made by another version ({version >> 24 & 0x3F})")
    return version & 0xFFFFFF == _hash_of(which) and _birth_fits(path, header)


def unfit(path: str) -> str:
    """Why opening this file would empty it or put it aside; empty where it would not. For who only wants to look.

    Raises:
        ConfigurationError: it is another program's.
    """
    try:
        with _opening:
            which = identity(path)
            if _is_open_here(which) or _is_original(path, which):
                return ""
    except Damaged as error:
        return str(error)
    except (Replaced, FileNotFoundError):
        return ""
    return "copied or restored, and a copy may be an old one"


def _header(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 100)
    finally:
        os.close(handle)


def _hash_of(which: Identity) -> int:
    return hash((which[0] & 0xFFFFFFFF, which[1])) & 0xFFFFFF


def _birth_fits(path: str, header: bytes) -> bool:
    """Whether an extended attribute given at birth is still there: a copy lacks it, even at the same inode."""
    if not header[60] & _BORN_MARKED or not hasattr(os, "getxattr"):
        return True
    try:
        os.getxattr(path, _BIRTH)
    except OSError as error:
        return error.errno != errno.ENODATA
    return True


def _make(path: str, names: Names) -> Identity:
    for suffix in ("-wal", "-shm"):  # of a file that is no more
        Path(path + suffix).unlink(missing_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    which = identity(path)
    try:
        marked = 0
        if hasattr(os, "setxattr"):
            try:
                os.setxattr(path, _BIRTH, nonce())
                marked = _BORN_MARKED
            except OSError as error:
                log.debug("disk cache %s: no extended attributes (%s)", path, error)
        handle = connect(path, which, writer=True)
        try:
            db = handle.db
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(schema.TABLES)
            db.execute("BEGIN IMMEDIATE")
            meta = [("dev", str(which[0])), ("ino", str(which[1])), ("durability", "full"), ("secret", names.check)]
            db.executemany("INSERT INTO meta VALUES (?,?)", meta)
            db.execute("INSERT INTO tags VALUES (?,?,?,NULL,NULL,0)", (schema.FLOOR, nonce(), nonce()))
            db.execute(f"PRAGMA application_id={schema.APPLICATION}")
            db.execute(f"PRAGMA user_version={(schema.VERSION | marked) << 24 | _hash_of(which)}")
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            handle.close()
    except BaseException:
        _remove(path)
        raise
    return which


def _check(path: str, which: Identity, names: Names) -> None:
    handle = connect(path, which, writer=True)
    try:
        meta = dict(handle.db.execute("SELECT name, value FROM meta").fetchall())
        handle.db.execute("SELECT 1 FROM entries LIMIT 1").fetchall()
        floor = handle.db.execute("SELECT 1 FROM tags WHERE id=?", (schema.FLOOR,)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            raise Damaged(str(error)) from error
        raise
    finally:
        handle.close()
    if (
        (meta.get("dev"), meta.get("ino")) != (str(which[0]), str(which[1]))
        or meta.get("durability") != "full"
        or not floor
    ):
        raise Damaged("not made as this file")
    if meta.get("secret") != names.check:
        fix = "the file was made with another secret (or without one); use that one, or another path"
        raise ConfigurationError("secret", "(not shown)", f"disk cache {path}: {fix}")


def set_aside(path: str, which: Identity, why: str) -> None:
    """Put a damaged file out of the way, unless somebody has done it."""
    path = real(path)
    try:
        with _opening, _locked(path):
            if identity(path) == which:
                _move_away(path, why)
    except Replaced:
        pass
    except OSError as error:
        raise BackendError(f"disk cache {path}: damaged ({why}) and not to be renamed: {error.strerror}") from error


def _move_away(path: str, why: str) -> None:
    aside = f"{path}.corrupt-{nonce().hex()}"
    for suffix in ("-wal", "-shm", ""):  # the file last: a new one must not find the old one's log
        try:
            Path(path + suffix).rename(aside + suffix)
        except FileNotFoundError:
            pass
    log.warning("disk cache %s: %s; set aside as %s, starting empty", path, why, aside)


def _remove(path: str) -> None:
    for suffix in ("-wal", "-shm", ""):
        Path(path + suffix).unlink(missing_ok=True)


_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_FIXES = {
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its directory writable",
    sqlite3.SQLITE_PERM: "no permission; make the file and its directory writable",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; make the file and its directory readable and writable",
    sqlite3.SQLITE_FULL: "the disk is full (or a quota is); free some space",
    sqlite3.SQLITE_IOERR: "reading or writing failed; see whether the disk or a quota is full",
}


def code_of(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_damage(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return code_of(error) in _DAMAGE or "decode to UTF-8" in str(error) or "no such table" in str(error)
    return isinstance(error, Damaged)


def is_busy(error: BaseException) -> bool:
    return isinstance(error, Replaced) or (
        isinstance(error, sqlite3.Error) and code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    )


def explained(path: str, error: BaseException) -> Exception:
    """The error a caller gets."""
    if isinstance(error, (BackendError, ConfigurationError)):
        return error
    if isinstance(error, Replaced):
        return BackendError(f"disk cache {path}: the file is replaced again and again; give it a path of its own")
    if isinstance(error, sqlite3.Error):
        return BackendError(f"disk cache {path}: {_FIXES.get(code_of(error), 'SQLite failed')} ({error})")
    return BackendError(f"disk cache {path}: {type(error).__name__}: {error}")
