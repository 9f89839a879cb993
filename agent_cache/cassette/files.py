"""Reading a cassette that may be hostile, and writing one that may be torn off.

A recording is written line by line to ``PATH.partial`` and takes the name ``PATH`` when it has ended: so a run that is killed
leaves the last whole cassette where it was, and beside it what was recorded until then, without an end and readable.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agent_cache.cassette.lines import END, HEADER, VERSION, RecordedCall, call_from, call_line
from agent_cache.cassette.values import json_line
from agent_cache.errors import CassetteError, ConfigurationError

__all__ = ["MAX_FILE", "Cassette", "Writer", "load"]

MAX_LINE = 64 * 1024 * 1024  # bytes
MAX_FILE = 1024 * 1024 * 1024
MAX_CALLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Cassette:
    """What a file holds.

    Attributes:
        path: where it was read from.
        calls: in the order in which they ended.
        complete: whether its run ended in order; a killed one leaves a cassette without an end.
        failed: the name of the error the recorded block was left with, if there was one.
    """

    path: Path
    calls: tuple[RecordedCall, ...]
    complete: bool
    failed: str | None = None


def load(path: str | os.PathLike[str]) -> Cassette:
    """Read a cassette.

    Raises:
        CassetteError: there is none, it cannot be read, or it is not what this version writes; with the line's number.
    """
    where = Path(path)
    try:
        with where.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise CassetteError(where, "it is no regular file")
            if about.st_size > MAX_FILE:
                raise CassetteError(where, f"it has {about.st_size} bytes; the limit is {MAX_FILE}")
            return _read(where, file)
    except OSError as error:
        raise CassetteError(where, f"it cannot be read: {error.strerror or type(error).__name__}") from None


def _read(where: Path, file: IO[bytes]) -> Cassette:
    lines = _lines(where, file)
    number, whole, header = next(lines, (0, False, None))
    version = header.get(HEADER) if whole and isinstance(header, dict) else None
    if type(version) is not int:
        raise CassetteError(where, f"it is no cassette: its first line has no {HEADER!r}")
    if version != VERSION:
        raise CassetteError(where, f"its format is version {version}; this version of agent_cache reads {VERSION}")
    calls: list[RecordedCall] = []
    complete, failed = False, None
    for number, whole, data in lines:
        if not whole:  # torn off while it was written
            return Cassette(where, tuple(calls), complete=False)
        if complete:
            raise CassetteError(where, "there is something after its end", number)
        if not isinstance(data, dict):
            raise CassetteError(where, "it is no JSON object", number)
        if END in data:
            complete, failed = True, _failed(where, data[END], number)
            continue
        if len(calls) >= MAX_CALLS:
            raise CassetteError(where, f"it has more than {MAX_CALLS} calls", number)
        try:
            calls.append(call_from(data))
        except ValueError as error:
            raise CassetteError(where, str(error), number) from None
    return Cassette(where, tuple(calls), complete, failed)


def _failed(where: Path, end: object, number: int) -> str | None:
    if not isinstance(end, dict) or not isinstance(end.get("failed"), str | None):
        raise CassetteError(where, "its end is not what it should be", number)
    return end.get("failed")


def _lines(where: Path, file: IO[bytes]) -> Iterator[tuple[int, bool, Any]]:
    """Each line's number, whether it is whole, and what it holds. Only the last one may be torn."""
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        ended = raw.endswith(b"\n")
        if not ended and len(raw) > MAX_LINE:
            raise CassetteError(where, f"a line has more than {MAX_LINE} bytes", number)
        try:
            yield number, True, json.loads(raw.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            if ended:
                raise CassetteError(where, f"it is no JSON: {_reason(error)}", number) from None
            yield number, False, None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _reason(error: Exception) -> str:
    return str(error)[:200] if not isinstance(error, RecursionError) else "too many levels"


class Writer:
    """A cassette being recorded; whoever has it writes alone.

    Args:
        path: the name it takes when it is finished.
        version: of this package, for people.

    Raises:
        ConfigurationError: it cannot be written, or somebody else is recording it.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self._pid = os.getpid()
        self._calls = 0
        self._bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._opened()
        except OSError as error:
            fix = f"it cannot be written: {error.strerror or type(error).__name__}"
            raise ConfigurationError("record", str(path), fix) from None
        self._write(json_line({HEADER: VERSION, "by": f"agent_cache {version}"}))

    @property
    def ours(self) -> bool:
        """Whether this process began it: a forked child does not write into its parent's."""
        return self._pid == os.getpid()

    def _opened(self) -> IO[bytes]:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        while True:
            file = os.fdopen(os.open(self.partial, flags, 0o600), "r+b")
            try:
                _locked(file, self.path)
                still = self.partial.stat()
            except FileNotFoundError:  # another one has just finished and taken the file along
                file.close()
                continue
            except BaseException:
                file.close()
                raise
            if os.path.samestat(still, os.fstat(file.fileno())):
                break
            file.close()
        file.truncate(0)
        if hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), 0o600)
        return file

    def add(self, call: RecordedCall) -> None:
        """Write one call.

        Raises:
            OSError: no room is left on the device, and the like.
            ValueError: the cassette would become larger than can be read again.
        """
        self._write(call_line(call))
        self._calls += 1

    def _write(self, line: str) -> None:
        raw = line.encode() + b"\n"
        if len(raw) > MAX_LINE or self._bytes + len(raw) > MAX_FILE - MAX_LINE or self._calls >= MAX_CALLS:
            raise ValueError("the cassette has become too large")
        self._bytes += len(raw)
        self._file.write(raw)
        self._file.flush()  # to the system: a kill of this process loses nothing

    def finish(self, failed: str | None) -> None:
        """Write the end, and give the file its name.

        Raises:
            OSError: as above; what was written stays under its own name.
        """
        end: dict[str, Any] = {"calls": self._calls}
        if failed is not None:
            end["failed"] = failed
        try:
            self._write(json_line({END: end}))
            os.fsync(self._file.fileno())
            self.partial.replace(self.path)
        finally:
            self._file.close()

    def leave(self) -> None:
        """Stop here: what was written stays under its own name, without an end."""
        self._file.close()

    def discard(self) -> None:
        """Nothing was recorded: as if it had not been begun."""
        self.partial.unlink(missing_ok=True)
        self._file.close()


if sys.platform == "win32":

    def _locked(file: IO[bytes], path: Path) -> None:
        """There, nobody can open it twice for replacing it anyway."""

else:
    import fcntl

    def _locked(file: IO[bytes], path: Path) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fix = "another session or process is recording it now; give each its own cassette"
            raise ConfigurationError("record", str(path), fix) from None
