"""The written form of a tree: JSON text in which everything but plain JSON is tagged.

Every JSON object in it has exactly one key, the tag, so no data can pass for a tag.
Models, dataclasses, named tuples and enum members are written as their state and rebuilt
without running their code; only classes in the tool's `Reach` can be written or read.
"""

from __future__ import annotations

import dataclasses
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import TzInfo

from agent_cache.codecs.compare import is_record, slots_of, state_of
from agent_cache.codecs.near import MAX_DEPTH
from agent_cache.codecs.types import Reach
from agent_cache.errors import UnstorableResultError

__all__ = ["json_text", "read_tree", "write_tree"]

_BIG_BITS = 2_000  # an int's text is bounded by the interpreter (640 digits at the least)
_PATHS: dict[str, type] = {cls.__name__: cls for cls in (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)}

json_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def write_tree(value: Any, reach: Reach) -> bytes:
    """Tagged JSON for a value; UnstorableResultError("unknown_type") names what has no form."""
    return json_text(_Writer(reach).write(value, 0)).encode()


def read_tree(body: bytes, reach: Reach) -> Any:
    """The value; anything may be raised for a text that `write_tree` did not write."""
    return _Reader(reach).read(json.loads(body.decode()))


def _unknown(cls: type) -> UnstorableResultError:
    return UnstorableResultError("unknown_type", f"{cls.__module__}.{cls.__qualname__}")


def _clean(text: str) -> bool:
    """No lone surrogate: UTF-8 can carry it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Writer:
    def __init__(self, reach: Reach) -> None:
        self._names = reach.names

    def write(self, v: Any, depth: int) -> Any:
        kind = type(v)
        if kind is NoneType or kind is bool:
            return v
        if kind is str:
            return v if _clean(v) else {"S": _b64(v.encode("utf-8", "surrogatepass"))}
        if kind is int:
            return v if v.bit_length() <= _BIG_BITS else {"i": format(v, "x")}
        if kind is float:
            return v if isfinite(v) else {"f": repr(v)}
        if depth >= MAX_DEPTH:
            raise UnstorableResultError("too_deep", f"more than {MAX_DEPTH} levels")
        depth += 1
        if kind is list:
            return [self.write(item, depth) for item in v]
        if kind is dict:
            if all(type(key) is str and _clean(key) for key in v):
                return {"d": {key: self.write(item, depth) for key, item in v.items()}}
            return {"m": [[self.write(key, depth), self.write(item, depth)] for key, item in v.items()]}
        if kind is tuple:
            return {"t": [self.write(item, depth) for item in v]}
        if kind is set or kind is frozenset:
            tag = "s" if kind is set else "z"
            return {tag: sorted((self.write(item, depth) for item in v), key=json_text)}
        leaf = _LEAVES.get(kind)
        if leaf is not None:
            tag, form = leaf
            return {tag: self.write(form(v), depth)}
        return self._own(v, kind, depth)

    def _own(self, v: Any, kind: type, depth: int) -> Any:
        name = self._names.get(kind)
        if name is None or issubclass(kind, (SecretStr, SecretBytes)):
            raise _unknown(kind)
        if issubclass(kind, Enum):
            if v.name in kind.__members__:
                return {"e": [name, v.name]}
            return {"E": [name, self.write(v.value, depth)]}
        if is_record(kind):
            if issubclass(kind, (list, dict, set, tuple, str, bytes, int, float, BaseException)):
                raise _unknown(kind)
            return {"k": [name, *(self._pairs(part, depth) for part in state_of(v))]}
        if issubclass(kind, tuple) and not any(state_of(v)):
            return {"n": [name, *(self.write(item, depth) for item in tuple.__iter__(v))]}
        raise _unknown(kind)

    def _pairs(self, part: dict[str, Any], depth: int) -> list[Any]:
        return [[self.write(key, depth), self.write(item, depth)] for key, item in part.items()]


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def _zone_key(zone: ZoneInfo) -> str:
    if zone.key is None:
        raise _unknown(ZoneInfo)
    return zone.key


def _seconds(zone: TzInfo) -> int:
    offset = zone.utcoffset(None)
    return 0 if offset is None else round(offset.total_seconds())


def _zone_parts(zone: timezone) -> list[Any]:
    offset = zone.utcoffset(None)
    name = zone.tzname(None)
    return [offset, None if repr(zone) == repr(timezone(offset)) else name]


# What a leaf is made of, and how it is made again. `fold` is the last of a time's parts.
_LEAVES: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("b", _b64),
    bytearray: ("B", _b64),
    complex: ("c", lambda v: [v.real, v.imag]),
    Decimal: ("D", str),
    datetime: ("dt", lambda v: [v.replace(tzinfo=None, fold=0).isoformat(), v.fold, v.tzinfo]),
    time: ("ti", lambda v: [v.replace(tzinfo=None, fold=0).isoformat(), v.fold, v.tzinfo]),
    date: ("da", date.isoformat),
    timedelta: ("td", lambda v: [v.days, v.seconds, v.microseconds]),
    timezone: ("tz", _zone_parts),
    ZoneInfo: ("zi", _zone_key),
    TzInfo: ("pz", _seconds),
    UUID: ("u", lambda v: [v.hex, v.is_safe.name]),
    range: ("r", lambda v: [v.start, v.stop, v.step]),
    **{cls: ("p", lambda v: [type(v).__name__, str(v)]) for cls in _PATHS.values()},
}


class _Reader:
    def __init__(self, reach: Reach) -> None:
        self._types = reach.by_name

    def read(self, v: Any) -> Any:
        if type(v) is list:
            return [self.read(item) for item in v]
        if type(v) is not dict:
            return v
        ((tag, inner),) = v.items()
        if tag == "d":
            return {key: self.read(item) for key, item in inner.items()}
        if tag in _OWN_TAGS:
            return self._own(tag, inner)
        made = _MAKERS[tag]
        if tag in _RAW_TAGS:
            return made(inner)
        if type(inner) is not list and tag in _LIST_TAGS:
            raise ValueError(tag)
        return made(self.read(inner))

    def _own(self, tag: str, inner: list[Any]) -> Any:
        name, *rest = inner
        cls: Any = self._types[name]
        if tag == "e":
            return cls.__members__[rest[0]]
        if tag == "E":
            if not issubclass(cls, Enum):
                raise TypeError(tag)
            return cls(self.read(rest[0]))
        if tag == "n":
            if len(rest) != len(cls._fields):
                raise ValueError(tag)
            return tuple.__new__(cls, map(self.read, rest))
        slots, own = rest
        made = object.__new__(cls)
        members = dict(slots_of(cls))
        for key, item in slots:
            members[key].__set__(made, self.read(item))
        filled = {self.read(key): self.read(item) for key, item in own}
        _check_fields(cls, filled.keys() | {key for key, _ in slots})
        if filled or issubclass(cls, BaseModel):
            object.__setattr__(made, "__dict__", filled)
        return made


def _check_fields(cls: type, names: set[Any]) -> None:
    """A record that lacks a field its class has now was written for another class."""
    if issubclass(cls, BaseModel):
        wanted = set(cls.model_fields)
    elif dataclasses.is_dataclass(cls):
        wanted = {field.name for field in dataclasses.fields(cls)}
    else:
        raise TypeError(cls.__qualname__)
    if not wanted <= names:
        raise ValueError(f"{cls.__qualname__} lacks fields")


def _stamp(parts: list[Any]) -> datetime:
    text, fold, zone = parts
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _clock(parts: list[Any]) -> time:
    text, fold, zone = parts
    return time.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _zone(parts: list[Any]) -> timezone:
    offset, name = parts
    return timezone(offset) if name is None else timezone(offset, name)


def _mapping(pairs: list[Any]) -> dict[Any, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("m")
    return made


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "t": tuple,
    "s": set,
    "z": frozenset,
    "m": _mapping,
    "S": lambda v: b64decode(v, validate=True).decode("utf-8", "surrogatepass"),
    "i": lambda v: int(v, 16),
    "f": float,
    "b": lambda v: b64decode(v, validate=True),
    "B": lambda v: bytearray(b64decode(v, validate=True)),
    "c": lambda v: complex(*v),
    "D": Decimal,
    "dt": _stamp,
    "ti": _clock,
    "da": date.fromisoformat,
    "td": lambda v: timedelta(*v),
    "tz": _zone,
    "zi": ZoneInfo,
    "pz": TzInfo,
    "u": lambda v: UUID(hex=v[0], is_safe=SafeUUID[v[1]]),
    "r": lambda v: range(*v),
    "p": lambda v: _PATHS[v[0]](v[1]),
}
_RAW_TAGS = frozenset({"S", "i", "f"})
_LIST_TAGS = frozenset({"t", "s", "z", "m"})
_OWN_TAGS = frozenset({"e", "E", "n", "k"})
