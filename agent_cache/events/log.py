"""The observer that writes. Tools hand it events and go on; a thread of its own makes lines of them and writes.

Bounded: in memory by a queue (what does not fit is counted, and the file says how many are missing), on the disk by a size
per file and a number of older files.
"""

from __future__ import annotations

import atexit
import io
import os
import secrets
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from agent_cache.clock import Clock
from agent_cache.errors import ConfigurationError
from agent_cache.events.lines import Lines, lost_line
from agent_cache.locks import renewed_after_fork
from agent_cache.model import Event

__all__ = ["EventLog"]

_MOST_WAITING = 20_000
_LEAST_BYTES = 10_000
_PATIENCE = 0.2  # seconds within which events are on their way to the disk
_GOODBYE = 5.0


class EventLog:
    """An observer that appends every event to a file, as a line of JSON: ``configure(observers=[EventLog("events.jsonl")])``.

    For ``agent-cache report --events``. With any observer, calls take the way that tells of them: the fastest way
    of a hit is off.

    Args:
        path: the file. ``{pid}`` in it is the process' number: each process needs a file of its own.
        max_bytes: how large a file gets before it becomes ``path.1`` (and that ``path.2``, …).
        keep: how many such older files are kept; together at most ``max_bytes * (keep + 1)``.
        values: write arguments, outcomes and tags too, readable. Without, no line holds an argument, a result or
            anything made of them; session ids are written either way.
        now: seconds since 1970.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix; also where another log writes this file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 10_000_000,
        keep: int = 3,
        values: bool = False,
        now: Clock = time.time,
    ) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < _LEAST_BYTES:
            raise ConfigurationError("max_bytes", max_bytes, f"give a whole number from {_LEAST_BYTES}")
        if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= 1_000:
            raise ConfigurationError("keep", keep, "give a whole number from 0 to 1000")
        if not isinstance(values, bool):
            raise ConfigurationError("values", values, "give True or False")
        if not isinstance(path, (str, os.PathLike)):
            raise ConfigurationError("path", path, "give the path of a file, such as 'events.jsonl'")
        self._named = os.fspath(path)
        self._max_bytes, self._keep = max_bytes, keep
        self._lines = Lines(values=values, salt=secrets.token_bytes(16))
        self._now = now
        self._lock = renewed_after_fork(self, "_lock")
        try:
            self._begin()
        except BlockingIOError:
            fix = "another log writes this file: give each process its own, as in 'events-{pid}.jsonl'"
            raise ConfigurationError("path", self._named, fix) from None
        except (OSError, ValueError) as error:
            raise ConfigurationError("path", self._named, f"give a file that can be written ({error})") from error

    def _begin(self) -> None:
        """For this process: a file, a queue, and a thread once there is something to write."""
        self._pid = os.getpid()
        self._waiting: deque[tuple[float, Event]] = deque()
        self._lost = 0
        self._error: OSError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._wake, self._hurry, self._idle = threading.Event(), threading.Event(), threading.Event()
        self._idle.set()
        self.path = Path(self._named.replace("{pid}", str(self._pid)))
        self._file = _opened(self.path)

    def on_event(self, event: Event) -> None:
        """Take an event; it is written soon after.

        Raises:
            OSError: earlier ones could not be written (the engine counts that as ``observer_errors`` and logs it once).
        """
        if self._pid != os.getpid() and not self._born():
            return
        with self._lock:
            if self._closed:
                return
            if len(self._waiting) >= _MOST_WAITING:
                self._lost += 1
                return
            self._waiting.append((self._now(), event))
            self._idle.clear()
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agent-cache-events", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def flush(self, timeout: float = _GOODBYE) -> bool:
        """Wait until everything told so far is in the file; False if that took longer than ``timeout`` seconds, or failed. It blocks."""
        if self._thread is None or self._pid != os.getpid():
            return True
        self._hurry.set()
        return self._idle.wait(timeout) and self._error is None

    def close(self) -> None:
        """Write what is waiting and let go of the file; events from then on are not taken. It blocks, for seconds at most."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        self._wake.set()
        self._hurry.set()
        if thread is not None:
            thread.join(_GOODBYE)
            atexit.unregister(self.close)
        else:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _born(self) -> bool:
        """In a child process: a file of its own if the name allows it; else its events are not written."""
        with self._lock:
            if self._pid == os.getpid():
                return True
            if "{pid}" not in self._named or self._closed:
                return False
            self._begin()
            return True

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._hurry.wait(_PATIENCE)
            self._wake.clear()
            self._hurry.clear()
            with self._lock:
                batch, self._waiting = self._waiting, deque()
                lost, self._lost = self._lost, 0
                closed = self._closed
            try:
                self._write(batch, lost)
            except OSError as error:
                self._file.close()  # to be opened anew, where the line that was begun is ended
                with self._lock:
                    self._error = error
                    self._lost += len(batch) + lost
            with self._lock:
                if not self._waiting:
                    self._idle.set()
            if closed:
                self._file.close()
                return

    def _write(self, batch: deque[tuple[float, Event]], lost: int) -> None:
        if not batch and not lost:
            return
        if self._file.closed:
            self._file = _opened(self.path)
        said = [lost_line(self._now(), lost)] if lost else []
        said += [self._lines.line(at, event) for at, event in batch]
        data: list[bytes] = []
        size = os.fstat(self._file.fileno()).st_size
        for line in said:
            encoded = line.encode() + b"\n"
            if size and size + len(encoded) > self._max_bytes:
                _write_all(self._file, b"".join(data))
                self._rotate()
                data, size = [], 0
            data.append(encoded)
            size += len(encoded)
        _write_all(self._file, b"".join(data))

    def _rotate(self) -> None:
        self._file.close()
        names = [self.path, *(self.path.with_name(f"{self.path.name}.{n}") for n in range(1, self._keep + 1))]
        if self._keep == 0:
            self.path.unlink()
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if newer.exists():
                newer.replace(older)
        self._file = _opened(self.path)


def _opened(path: Path) -> io.FileIO:
    """The file to append to, unbuffered: for its owner only, and for this log only.

    Raises:
        OSError: it cannot be opened; BlockingIOError: another log writes it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    file = io.FileIO(os.open(path, flags, 0o600), "r+")
    try:
        _claim(file)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # its last writer died within a line
                _write_all(file, b"\n")
    except OSError:
        file.close()
        raise
    return file


def _claim(file: io.FileIO) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nobody can be asked there
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_all(file: io.FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]
