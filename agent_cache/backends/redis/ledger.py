"""What a Redis is owed, in a file: invalidations it could not take outlive the process that made them.

What belongs here: the file. What is owed, and delivering it, is the engine's (``outbox``). Every method blocks for as
long as the disk takes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from agent_cache.backends.debts import EVERYTHING, Entry
from agent_cache.clock import Clock
from agent_cache.errors import BackendError, ConfigurationError
from agent_cache.tags import Tag

__all__ = ["MOST", "LedgerFile"]

MOST = 10_000
"""Entries of one backend; beyond them one stands for all that is owed."""
_APPLICATION, _VERSION = 0x4167436F, 1
_PATIENCE = 5.0  # seconds that another process may take to write
_TABLES = (
    "CREATE TABLE owed (number INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, tags TEXT NOT NULL, runs_until REAL)",
    "INSERT INTO sqlite_sequence VALUES ('owed', abs(random() / 4))",  # no number of a file that was deleted comes again
    "CREATE INDEX owed_target ON owed (target)",
    f"PRAGMA application_id={_APPLICATION}",
    f"PRAGMA user_version={_VERSION}",
)


class LedgerFile:
    """The entries of one backend in a file that several processes, and several backends, may share.

    Args:
        path: of the file; made if it is missing, readable by its owner only: it holds the paths of resources.
        target: which server and which keys on it.
        lease: seconds for which a write whose process says nothing more is taken to be running.

    Raises:
        ConfigurationError: it cannot be made, or is something else.
    """

    def __init__(self, path: str | os.PathLike[str], target: str, lease: float, wall: Clock = time.time) -> None:
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text or text == ":memory:":
            raise ConfigurationError("outbox", path, "give the path of a file")
        self.path = Path(text).expanduser().absolute()
        self.target = target
        self.lease = lease
        self._wall = wall
        try:
            with self._open():
                pass
        except BackendError as error:
            fix = f"give the path of a file of its own, in a folder that this process may write to ({error})"
            raise ConfigurationError("outbox", text, fix) from error

    def __repr__(self) -> str:
        return f"LedgerFile({str(self.path)!r})"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on the disk when it is over. Opened each time: this is seldom, and nothing outlives a fork."""
        if not _turn.acquire(timeout=_PATIENCE):
            raise BackendError(f"outbox {self.path}: it is in use by another thread")
        held = _turn
        try:
            self._be_born()
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("BEGIN IMMEDIATE")
                self._make(db)
                yield db
                db.execute("COMMIT")  # whatever is raised before it: closing rolls back
        except (OSError, sqlite3.Error) as error:
            raise BackendError(f"outbox {self.path}: {error}") from error
        finally:
            held.release()

    def _be_born(self) -> None:
        """Where it is missing: made under another name. To close a file drops the locks that SQLite has on it here."""
        path = Path(os.path.realpath(self.path))
        if path.exists():
            return
        handle, made = tempfile.mkstemp(prefix=f"{path.name}-", dir=path.parent)
        os.close(handle)
        try:
            os.link(made, path)
        except FileExistsError:  # another was first
            pass
        except OSError:  # a file has one name only here
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        finally:
            Path(made).unlink()

    def _make(self, db: sqlite3.Connection) -> None:
        """The tables, where the file is new. Raises BackendError if it is something else."""
        found = [db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("application_id", "user_version")]
        if found == [_APPLICATION, _VERSION]:
            return
        if found != [0, 0] or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise BackendError(f"outbox {self.path}: it is another kind of file, or of another version")
        for statement in _TABLES:
            db.execute(statement)

    def begin(self, tags: Sequence[Tag]) -> int:
        """Note a write that is about to run though its backend does not know of it."""
        with self._open() as db:
            self._make_room(db)
            return self._insert(db, tags, self._wall() + self.lease)

    def owe(self, tags: Sequence[Tag], begun: int | None = None) -> int:
        """Note what is owed; ``begun``: in the place of this."""
        with self._open() as db:
            if begun is not None:
                db.execute("DELETE FROM owed WHERE number=?", (begun,))
            self._make_room(db)
            return self._insert(db, tags, None)

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Where there is none, one entry for all takes the place of those whose writes have ended."""
        mine = (self.target,)
        if db.execute("SELECT count(*) FROM owed WHERE target=?", mine).fetchone()[0] < MOST:
            return
        over = "coalesce(runs_until, 0) NOT BETWEEN ? AND ?"
        now = self._wall()
        db.execute(f"DELETE FROM owed WHERE target=? AND {over}", (self.target, now, now + self.lease))  # noqa: S608
        self._insert(db, EVERYTHING, None)

    def _insert(self, db: sqlite3.Connection, tags: Sequence[Tag], until: float | None) -> int:
        sql = "INSERT INTO owed (target, tags, runs_until) VALUES (?,?,?)"
        return cast(int, db.execute(sql, (self.target, json.dumps(tags), until)).lastrowid)

    def strike(self, numbers: Iterable[int]) -> None:
        """These were delivered, or changed nothing."""
        with self._open() as db:
            db.executemany("DELETE FROM owed WHERE number=?", [(number,) for number in numbers])

    def entries(self) -> list[Entry]:
        """What this backend is owed, by whomever, in the order it was noted."""
        sql = "SELECT number, tags, runs_until FROM owed WHERE target=? ORDER BY number"
        with self._open() as db:
            rows = db.execute(sql, (self.target,)).fetchall()
        return [Entry(number, _tags(text), self._runs(until)) for number, text, until in rows]

    def _runs(self, until: object) -> bool:
        """Not if it is over; nor if it is so far away that the clock must have been set."""
        now = self._wall()
        return isinstance(until, float) and now < until <= now + self.lease


def _tags(text: object) -> tuple[Tag, ...]:
    """As they were noted; everything, where that cannot be read."""
    try:
        found = tuple([_tag(each) for each in json.loads(cast(str, text))])
    except (ValueError, TypeError, RecursionError):
        return EVERYTHING
    return found or EVERYTHING


def _tag(found: Any) -> Tag:
    kind, chain, path = found
    if kind not in ("any", "all") or not (isinstance(chain, list) and isinstance(path, list)):
        raise ValueError
    if not all(isinstance(part, str) for part in (*chain, *path)):
        raise ValueError
    return kind, tuple(chain), tuple(path)


_turn = threading.Lock()
"""Held by the thread that is in SQLite. A fork waits for it: SQLite's own locks would stay taken in the child."""


def _before_fork() -> None:
    global _forks
    _forks = _turn.acquire(timeout=_PATIENCE)


def _forked() -> None:
    if _forks:
        _turn.release()


def _after_fork() -> None:
    global _turn
    _turn = threading.Lock()


_forks = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_forked, after_in_child=_after_fork)
