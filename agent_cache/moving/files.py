"""Files, opened and packed, in small portions that a thread can do: no event loop waits for a disk.

What is in them is :mod:`.format`'s business.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from agent_cache.codecs.packed import plain
from agent_cache.errors import ConfigurationError, ExportFileError, UnstorableResultError
from agent_cache.moving.format import MAX_PAYLOAD, Record, Sink, Source, reading

__all__ = ["Incoming", "Outgoing", "checked_path"]

_PORTION, _PORTION_BYTES = 64, 4 << 20
_GZIP = b"\x1f\x8b"
T = TypeVar("T")


def checked_path(file: object) -> Path:
    """Where the file is.

    Raises:
        ConfigurationError: it is no path.
    """
    if isinstance(file, os.PathLike):
        file = os.fspath(cast("os.PathLike[str]", file))
    if not isinstance(file, str) or not file or "\0" in file:
        raise ConfigurationError("file", file, "give the path of a file, such as 'cache.export.gz'")
    return Path(file).expanduser().absolute()


def _unpack(record: Record) -> None:
    """Payloads travel as they were written, whatever the stores on either side do with them."""
    try:
        record.payload = plain(record.payload, MAX_PAYLOAD)
    except UnstorableResultError:
        record.problem = "unreadable"


class Outgoing:
    """A file being written: beside its place, and put there when it is whole. Readable by its owner only."""

    def __init__(self, path: Path, created: float, secret: bytes, *, pack: bool, overwrite: bool) -> None:
        if not overwrite and path.exists():
            raise ConfigurationError("file", str(path), "it is there already; give overwrite=True, or another name")
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
        try:
            handle = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:  # of the file that was asked for, not of ours beside it
            raise OSError(error.errno, error.strerror, str(path)) from None
        self._raw = os.fdopen(handle, "wb")
        self._file: Any = gzip.GzipFile("", "wb", 6, self._raw, 0) if pack else self._raw
        self._sink = Sink(self._file, created, secret)

    def add(self, records: Sequence[Record]) -> None:
        """Write those that can be; the others have a problem then."""
        for record in records:
            _unpack(record)
            if not record.problem and not self._sink.add(record):
                record.problem = "too_long"

    def finish(self) -> None:
        self._sink.end()
        self._file.close()
        if not self._raw.closed:
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Leave nothing behind; what was finished stays."""
        try:
            if self._file is not self._raw and not self._file.closed:
                self._file.fileobj = io.BytesIO()  # else it would write what it holds to a closed file when it is freed
                self._file.close()
            self._raw.close()
        finally:
            self._partial.unlink(missing_ok=True)


class Incoming:
    """A file being read, as often as is wanted."""

    def __init__(self, path: Path, secret: bytes) -> None:
        self._path = path
        self._secret = secret
        try:
            self._raw: IO[bytes] = path.open("rb")
        except OSError as error:
            raise ExportFileError(error.strerror or "it cannot be opened", path) from None
        self._rest: Iterator[Source | Record] = iter(())

    def rewind(self) -> Source:
        """To the start; what the first line says."""
        return self._guarded(self._start)

    def _start(self) -> Source:
        self._raw.seek(0)
        packed = self._raw.read(2) == _GZIP
        self._raw.seek(0)
        file: Any = gzip.GzipFile("", "rb", fileobj=self._raw) if packed else self._raw
        self._rest = reading(file, self._secret)
        return cast(Source, next(self._rest))

    def portion(self) -> list[Record]:
        """The next entries, a few; none: that was all, and the file is whole."""
        return self._guarded(self._portion)

    def _portion(self) -> list[Record]:
        found: list[Record] = []
        size = 0
        for record in self._rest:
            found.append(cast(Record, record))
            size += len(found[-1].payload)
            _unpack(found[-1])
            if len(found) >= _PORTION or size >= _PORTION_BYTES:
                break
        return found

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except ExportFileError as error:
            raise ExportFileError(error.problem, self._path) from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise ExportFileError("its gzip packing is damaged, or it is cut off", self._path) from None
        except OSError as error:
            raise ExportFileError(error.strerror or "it cannot be read", self._path) from None

    def close(self) -> None:
        self._raw.close()
