"""JSON values out of a file, one at a time, however large the file is.

JSON Lines are read line by line; anything else as a sequence of JSON values, and a top-level array as a sequence of its
items. An item is decoded once enough of it has been read, so memory is bounded by the largest item.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from agent_cache.simulate.traffic import TraceError

__all__ = ["Progress", "json_values"]

Progress = Callable[[int], None]
"""Told how many further bytes of the files (as they lie on the disk) have been read."""

_CHUNK = 1 << 16
_MAX_VALUE = 256 * 1024 * 1024
_SPACE = " \t\r\n"
_LONGEST_TOKEN = 16  # characters of an escape or a name that may still be incomplete: "\\ud83d\\ude00", "-Infinity"


class _Counted(io.RawIOBase):
    """The raw file, telling how much of it was read."""

    def __init__(self, raw: IO[bytes], progress: Progress | None) -> None:
        self._raw = raw
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        if self._progress is not None and data:
            self._progress(len(data))
        return len(data)


def json_values(path: Path, progress: Progress | None = None) -> Iterator[tuple[int, Any]]:
    """``(number, value)`` for each value of the file, from 1.

    Raises:
        TraceError: the file cannot be read, or is not JSON; names the place.
    """
    try:
        raw = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise TraceError(f"{path}: cannot be opened: {error.strerror or error}") from None
    with raw:
        counted: IO[bytes] = io.BufferedReader(_Counted(raw, progress), _CHUNK)
        packed = counted.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=counted) if packed else counted)
        try:
            yield from _values(io.TextIOWrapper(stream, "utf-8-sig"), path)
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise TraceError(f"{path}: cannot be read: {error}") from None


def _values(text: io.TextIOWrapper, path: Path) -> Iterator[tuple[int, Any]]:
    source = _Source(text, path)
    number = 0
    if source.peek() == "[":
        source.skip(1)
        while source.peek() not in ("]", ""):
            number += 1
            yield number, source.value(number)
            if source.peek() == ",":
                source.skip(1)
            elif source.peek() not in ("]", ""):
                raise TraceError(f"{path}: after item {number} of the array a ',' or ']' is missing")
        if source.peek() == "":
            raise TraceError(f"{path}: the array is not ended; is the file cut off?")
        source.skip(1)
    while source.peek() != "":
        number += 1
        yield number, source.value(number)


class _Source:
    """A text with a place in it."""

    def __init__(self, text: io.TextIOWrapper, path: Path) -> None:
        self._text = text
        self._path = path
        self._held = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def _more(self, size: int = _CHUNK) -> bool:
        chunk = self._text.read(size)
        self._held = self._held[self._at :] + chunk
        self._at = 0
        return bool(chunk)

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            held = self._held
            while self._at < len(held) and held[self._at] in _SPACE:
                self._at += 1
            if self._at < len(held):
                return held[self._at]
            if not self._more():
                return ""

    def skip(self, count: int) -> None:
        self._at += count

    def value(self, number: int) -> Any:
        """The JSON value that begins here."""
        self.peek()
        size = _CHUNK
        line = self._line()
        if line is not None:
            return line
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except ValueError as error:
                problem: object = error
                if self._is_wrong(error):
                    raise TraceError(f"{self._path}: record {number} is no JSON: {error}") from None
            except RecursionError:
                raise TraceError(f"{self._path}: record {number} is nested too deeply") from None
            else:
                length = end - self._at
                if end == len(self._held) and self._more(size):
                    continue  # a number may go on
                self._at += length
                return value
            if len(self._held) - self._at > _MAX_VALUE:
                raise TraceError(f"{self._path}: record {number} is larger than {_MAX_VALUE >> 20} MB")
            size = max(_CHUNK, len(self._held) - self._at)  # doubling: a value is decoded a few times, not once a chunk
            if not self._more(size):
                raise TraceError(f"{self._path}: record {number} is no JSON: {problem}")

    def _is_wrong(self, error: ValueError) -> bool:
        """Whether no further text can mend it: what is wrong stands well before the end of what has been read."""
        if not isinstance(error, json.JSONDecodeError):
            return True  # a number with thousands of digits
        if error.msg.startswith("Unterminated string"):
            return False
        return error.pos + _LONGEST_TOKEN < len(self._held.rstrip(_SPACE))

    def _line(self) -> Any:
        """The value, where it stands alone on a line that has been read already: the usual case of JSON Lines."""
        end = self._held.find("\n", self._at)
        if end < 0:
            return None
        try:
            value = json.loads(self._held[self._at : end])
        except (ValueError, RecursionError):
            return None
        if value is not None:
            self._at = end + 1
        return value
