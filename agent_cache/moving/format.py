"""The file, byte by byte: what is written, and read back with suspicion.

A file is lines of JSON (ASCII, at most 64 KiB each), some of them followed by bytes::

    {"agent_cache": "export", "version": 1, "created": 1760000000.0, "sealed": false}
    {"key": "5f…", "group": "9c…", "tool": "shop.get_cart", …, "bytes": 17}        a tool's entry
    <exactly so many bytes, the payload>
    {"value": "greeting", "ttl": 60.0, "bytes": 9}                                  a key-value entry
    <exactly so many bytes>
    {"end": 2, "check": "<64 hex digits>"}

``check`` is BLAKE2b over all bytes before its line, keyed with the secret where there is one. Times are durations in seconds,
as of ``at`` seconds after ``created``, which is seconds since 1970. No version, fence or stamp is in it. Whatever else a
line says is ignored; a file of a higher version is refused.

Opening, packing and threads are :mod:`.files`' business.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent_cache.backends.labels import CallForm, call_form, tags_of_call
from agent_cache.errors import ExportFileError
from agent_cache.tags import Path, Tag

__all__ = ["MAX_PAYLOAD", "VERSION", "Record", "Sink", "Source", "reading"]

VERSION = 1
MAX_PAYLOAD = 64 * 1024 * 1024
_MAX_LINE = 64 * 1024
_MAX_TAGS = 4_096
_CHECK = 32


class Readable(Protocol):
    """A file opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """A file opened for writing bytes."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(slots=True)
class Record:
    """One entry on its way. ``key`` is bytes for a tool's entry, text for a key-value one."""

    key: bytes | str
    payload: bytes
    at: float
    ttl: float | None
    age: float = 0.0
    grace: float = 0.0
    load_seconds: float = 0.0
    namespace: str = ""
    group: str = ""
    tool: str = ""
    resource: str = ""
    tags: tuple[Tag, ...] = ()
    problem: str = ""
    """Why it is not to be moved; never written."""

    def line(self) -> dict[str, Any]:
        """As it is written, without its payload."""
        if isinstance(self.key, str):
            return {"value": self.key, "at": self.at, "ttl": self.ttl, "bytes": len(self.payload)}
        found: dict[str, Any] = {
            "key": self.key.hex(),
            "namespace": self.namespace,
            "group": self.group,
            "tool": self.tool,
            "resource": self.resource,
            "at": self.at,
            "ttl": self.ttl,
            "grace": self.grace,
            "age": self.age,
            "load": self.load_seconds,
        }
        short = call_form(self.tags)
        if short is None:
            found["tags"] = self.tags
        else:
            found |= {"call": [short.group, short.bucket], "chain": short.chain, "paths": short.paths}
        return {**found, "bytes": len(self.payload)}


class Sink:
    """Writes a file."""

    def __init__(self, file: Writable, created: float, secret: bytes) -> None:
        self._file = file
        self._check = hashlib.blake2b(digest_size=_CHECK, key=secret)
        self._entries = 0
        self._put(_line({"agent_cache": "export", "version": VERSION, "created": created, "sealed": bool(secret)}))

    def add(self, record: Record) -> bool:
        """Write one; False where it would be too long."""
        line = _line(record.line())
        if len(line) > _MAX_LINE or len(record.payload) > MAX_PAYLOAD:
            return False
        self._put(line)
        self._put(record.payload + b"\n")
        self._entries += 1
        return True

    def end(self) -> None:
        """Write the last line."""
        self._file.write(_line({"end": self._entries, "check": self._check.hexdigest()}))

    def _put(self, data: bytes) -> None:
        self._check.update(data)
        self._file.write(data)


@dataclass(slots=True)
class Source:
    """What the first line says."""

    created: float


def reading(file: Readable, secret: bytes) -> Iterator[Source | Record]:
    """The first line, then every entry. What was given before the end is reached is not known to be whole.

    Raises:
        ExportFileError: it is no export, a newer one, cut off, altered, or sealed with another secret.
    """
    check = hashlib.blake2b(digest_size=_CHECK, key=secret)
    raw, head = _next(file, "the first line")
    if head.get("agent_cache") != "export":
        raise ExportFileError("it is no export of agent_cache")
    version = head.get("version")
    if type(version) is not int or version < 1:
        raise ExportFileError("its first line names no version")
    if version > VERSION:
        raise ExportFileError(
            f"it is of version {version}, this build reads {VERSION}; import it with a newer agent_cache"
        )
    if bool(head.get("sealed")) != bool(secret):
        fix = (
            "give the secret= it was made with" if head.get("sealed") else "it was made without one: leave secret= out"
        )
        raise ExportFileError(f"secret: {fix}")
    check.update(raw)
    yield Source(_number(head, "created", 0))
    count = 0
    while True:
        before = check.copy()
        raw, line = _next(file, f"entry {count + 1}")
        if "end" in line:
            _verify(line, count, before.hexdigest())
            if file.read(1):
                raise ExportFileError("there is something behind its end")
            return
        check.update(raw)
        try:
            record = _record(line)
        except ExportFileError as error:
            raise ExportFileError(f"entry {count + 1}: {error.problem}") from None
        size = line["bytes"]
        record.payload = _exactly(file, size)
        if file.read(1) != b"\n":
            raise ExportFileError(f"entry {count + 1}: it is not as long as it says; the file is cut off or damaged")
        check.update(record.payload + b"\n")
        count += 1
        yield record


def _verify(line: Mapping[str, Any], count: int, check: str) -> None:
    if line["end"] != count or type(line["end"]) is not int:
        raise ExportFileError(f"it says that it holds {line['end']!r} entries, and holds {count}")
    if line.get("check") != check:
        raise ExportFileError("its checksum is wrong: it was altered or damaged, or has another secret")


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _next(file: Readable, what: str) -> tuple[bytes, dict[str, Any]]:
    raw = file.readline(_MAX_LINE + 1)
    if not raw.endswith(b"\n"):
        problem = "is too long to be one of ours" if len(raw) > _MAX_LINE else "is not there; the file is cut off"
        raise ExportFileError(f"{what} {problem}")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise ExportFileError(f"{what} is not JSON; the file is damaged, or is no export") from None
    if type(found) is not dict:
        raise ExportFileError(f"{what} is no JSON object; the file is damaged, or is no export")
    return raw, found


def _exactly(file: Readable, size: int) -> bytes:
    pieces, left = [], size
    while left:
        piece = file.read(min(left, 1 << 20))  # what is not there takes no memory
        if not piece:
            raise ExportFileError("the file is cut off within an entry")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _record(line: Mapping[str, Any]) -> Record:
    size = line.get("bytes")
    if type(size) is not int or not 0 <= size <= MAX_PAYLOAD:
        raise ExportFileError(f"bytes={size!r} is no size of a payload")
    at = _number(line, "at", 0)
    ttl = None if line.get("ttl") is None else _number(line, "ttl", 0)
    if "value" in line:
        return Record(_text(line, "value"), b"", at, ttl)
    try:
        key = bytes.fromhex(_text(line, "key"))
    except ValueError:
        raise ExportFileError("its key is not written in hex digits") from None
    return Record(
        key,
        b"",
        at,
        ttl,
        _number(line, "age", 0),
        _number(line, "grace", 0),
        _number(line, "load", 0),
        _text(line, "namespace"),
        _text(line, "group"),
        _text(line, "tool"),
        _text(line, "resource"),
        _tags(line),
    )


def _tags(line: Mapping[str, Any]) -> tuple[Tag, ...]:
    if "tags" in line:
        return tuple([_tag(each) for each in _list(line["tags"], "tags")])
    group, bucket = _texts(line.get("call"), "call", 2)
    paths = tuple([_path(each) for each in _list(line.get("paths"), "paths")])
    return tags_of_call(CallForm(group, bucket, _texts(line.get("chain"), "chain"), paths))


def _tag(given: object) -> Tag:
    kind, chain, path = (*_list(given, "tags"), None, None, None)[:3]
    if not isinstance(kind, str) or kind not in ("any", "all"):
        raise ExportFileError("tags: one is of no kind there is")
    return kind, _texts(chain, "tags"), _texts(path, "tags")


def _path(given: object) -> Path:
    return _texts(given, "paths")


def _texts(given: object, name: str, many: int | None = None) -> tuple[str, ...]:
    found = _list(given, name)
    if not all(type(each) is str for each in found) or (many is not None and len(found) != many):
        raise ExportFileError(f"{name} holds something else than texts")
    return tuple(found)


def _list(given: object, name: str) -> list[Any]:
    if not isinstance(given, list) or len(given) > _MAX_TAGS:
        raise ExportFileError(f"{name} is no list, or too long a one")
    return given


def _text(line: Mapping[str, Any], name: str) -> str:
    found = line.get(name)
    if not isinstance(found, str):
        raise ExportFileError(f"{name} is no text")
    return found


def _number(line: Mapping[str, Any], name: str, least: float) -> float:
    found = line.get(name)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise ExportFileError(f"{name} is no number")
    if isinstance(found, int) and abs(found) > 1 << 53:
        raise ExportFileError(f"{name} is out of all bounds")
    if not math.isfinite(found) or found < least:
        raise ExportFileError(f"{name}={found!r} is no number from {least}")
    return float(found)
