"""Commands as Redis takes them, and its replies as they come: RESP2 and RESP3, bytes in, values out.

hiredis reads replies where it is installed; :class:`Reader` does where it is not, with the same two methods. What a
command or a reply means is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any, Protocol

from redis.exceptions import InvalidResponse

from agent_cache.backends.redis.scripts import Script

try:
    import hiredis as _hiredis
except ImportError:  # an extra of redis-py's
    hiredis: Any = None
else:
    hiredis = _hiredis if int(_hiredis.__version__.split(".")[0]) >= 3 else None

__all__ = ["MORE", "Command", "Pushed", "Reader", "Replying", "bulk", "packed", "reader_for"]

Command = tuple[Any, ...]
"""``(name, argument, …)``; a script is ``(script, number of keys, key, …, argument, …)``."""
MORE: Any = object()
"""In place of a reply that has not come in full yet."""
_END = b"\r\n"
_NOT_A_NUMBER = "a reply that is none"


class Replying(Protocol):
    """What reads replies. Both methods may raise redis-py's ``InvalidResponse``."""

    def feed(self, data: bytes, /) -> None: ...
    def gets(self) -> Any:
        """The next reply; errors are exceptions that are returned. :data:`MORE` if it has not come in full."""
        ...


class Pushed(list[Any]):
    """What the server says unasked (RESP3)."""


def reader_for(error_of: Callable[[str], Exception]) -> tuple[Replying, type]:
    """The fastest reader there is, and the type of what it reads that is no reply to anything."""
    if hiredis is None:
        return Reader(error_of), Pushed
    made = hiredis.Reader(protocolError=InvalidResponse, replyError=error_of, notEnoughData=MORE)
    return made, getattr(hiredis, "PushNotification", Pushed)


def bulk(raw: bytes) -> bytes:
    """One argument of a command."""
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def packed(command: Command) -> bytes:
    """A command as it is sent; a script by its digest."""
    if isinstance(command[0], Script):
        command = ("EVALSHA", command[0].sha, *command[1:])
    pieces = [b"*%d\r\n" % len(command)]
    for part in command:
        raw = part if type(part) is bytes else part.encode() if isinstance(part, str) else b"%d" % index(part)
        pieces.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(pieces)


class _Open:
    """A reply of several parts, of which some are still to come."""

    __slots__ = ("kind", "left", "parts")

    def __init__(self, kind: int, left: int) -> None:
        self.kind = kind
        self.left = left
        self.parts: list[Any] = []

    def closed(self) -> Any:
        if self.kind == _MAP:
            return dict(zip(map(_hashable, self.parts[::2]), self.parts[1::2], strict=True))
        return Pushed(self.parts) if self.kind == _PUSH else self.parts


def _hashable(part: Any) -> Any:
    return part if isinstance(part, bytes | int | float | None) else repr(part)


_STATUS, _ERROR, _NUMBER, _BULK, _ARRAY = b"+-:$*"
_NULL, _TRUTH, _DOUBLE, _BIG, _BULK_ERROR, _VERBATIM, _SET, _MAP, _PUSH = b"_#,(!=~%>"
_LONG = frozenset((_BULK, _BULK_ERROR, _VERBATIM))
_MANY = frozenset((_ARRAY, _SET, _MAP, _PUSH))


class Reader:
    """What hiredis' reader does, in Python. Goes on where it stopped when more comes."""

    def __init__(self, error_of: Callable[[str], Exception]) -> None:
        self._error_of = error_of
        self._data = bytearray()
        self._at = 0
        self._open: list[_Open] = []

    def feed(self, data: bytes, /) -> None:
        """Take what has come."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def gets(self) -> Any:
        """The next reply, or :data:`MORE`.

        Raises:
            InvalidResponse: what came is no RESP.
        """
        while True:
            value = self._one()
            if value is MORE:
                return MORE
            if isinstance(value, _Open):
                if value.left > 0:
                    self._open.append(value)
                    continue
                value = value.closed()
            while self._open:
                inside = self._open[-1]
                inside.parts.append(value)
                inside.left -= 1
                if inside.left:
                    break
                value = self._open.pop().closed()
            else:
                return value

    def _one(self) -> Any:
        """One value, or the beginning of one that has parts."""
        data, at = self._data, self._at
        end = data.find(_END, at)
        if end < 0:
            return MORE
        if end == at:
            raise InvalidResponse(_NOT_A_NUMBER)
        kind, line = data[at], bytes(data[at + 1 : end])
        behind = end + 2
        try:
            if kind in _LONG:
                size = int(line)
                if size < 0:
                    self._at = behind
                    return None
                if len(data) < behind + size + 2:
                    return MORE
                value = self._text(kind, bytes(data[behind : behind + size]))
                behind += size + 2
            elif kind in _MANY:
                count = int(line)
                if count < -1:
                    raise InvalidResponse(_NOT_A_NUMBER)
                value = None if count < 0 else _Open(kind, 2 * count if kind == _MAP else count)
            else:
                value = self._short(kind, line)
        except ValueError:
            raise InvalidResponse(_NOT_A_NUMBER) from None
        self._at = behind
        return value

    def _text(self, kind: int, text: bytes) -> Any:
        if kind == _BULK_ERROR:
            return self._error_of(text.decode("utf-8", "replace"))
        return text[4:] if kind == _VERBATIM else text

    def _short(self, kind: int, line: bytes) -> Any:
        if kind == _STATUS:
            return line
        if kind == _ERROR:
            return self._error_of(line.decode("utf-8", "replace"))
        if kind in (_NUMBER, _BIG):
            return int(line)
        if kind == _DOUBLE:
            return float(line)
        if kind == _NULL:
            return None
        if kind == _TRUTH and line in (b"t", b"f"):
            return line == b"t"
        raise InvalidResponse(_NOT_A_NUMBER)
