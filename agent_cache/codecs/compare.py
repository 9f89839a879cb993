"""Strict deep equality, and a digest that agrees with it.

Python's ``==`` says ``1 == True == 1.0`` and ``[nan] != [nan]``; a cache that promises
"a hit equals a miss" needs the opposite on both counts. Nothing here knows about storage.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import MemberDescriptorType, NoneType
from typing import Any, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic_core import TzInfo

__all__ = ["ATOMS", "TIMED", "digest", "is_record", "once_per_class", "same", "slots_of", "state_of"]

_F = TypeVar("_F", bound=Callable[[Any], Any])

PATHS: tuple[type, ...] = (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)

# A canonical, comparable and hashable form per exact type. `datetime` and `time` leave
# their tzinfo out: it is compared as a value of its own.
_CANON: dict[type, Callable[[Any], Any]] = {
    NoneType: lambda v: v,
    bool: lambda v: v,
    int: lambda v: v,
    str: lambda v: v,
    bytes: lambda v: v,
    float: float.hex,  # tells -0.0 from 0.0, and all NaN are one
    complex: lambda v: (v.real.hex(), v.imag.hex()),
    Decimal: str,  # tells 1.0 from 1.00
    date: lambda v: v,
    timedelta: lambda v: v,
    datetime: lambda v: (v.replace(tzinfo=None).isoformat(), v.fold),
    time: lambda v: (v.replace(tzinfo=None).isoformat(), v.fold),
    timezone: repr,
    TzInfo: repr,
    ZoneInfo: lambda v: (v.key, None if v.key else id(v)),
    UUID: lambda v: (v.int, v.is_safe.name),
    range: lambda v: (v.start, v.stop, v.step),
    bytearray: bytes,
    **dict.fromkeys(PATHS, str),
}

#: Immutable types whose values are shared as they are (exact types only).
ATOMS = frozenset(_CANON) - {datetime, time, bytearray}
#: Immutable when their tzinfo is one of ours.
TIMED = frozenset({datetime, time})

_IDENTITY: Any = object.__eq__
_SCALAR_BASES = (str, bytes, int, float, complex, bytearray)


def once_per_class(question: _F) -> _F:
    """Answer a question about a class once."""
    return cast(_F, lru_cache(maxsize=4096)(question))


@once_per_class
def slots_of(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Names and descriptors of all ``__slots__`` of a class, its bases' included."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ != "builtins":
            found |= {name: each for name, each in vars(base).items() if type(each) is MemberDescriptorType}
    return tuple(found.items())


def state_of(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an instance carries: its filled slots (a new dict) and its ``__dict__`` (the live one)."""
    cls = type(value)
    filled: dict[str, Any] = {}
    for name, member in slots_of(cls):
        try:
            filled[name] = member.__get__(value, cls)
        except AttributeError:
            continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    return filled, own


@once_per_class
def is_record(cls: Any) -> bool:
    """A pydantic model or a dataclass: a class whose instances are their state."""
    return issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal with the same types at every depth.

    ``1``, ``1.0`` and ``True`` differ, a list is not a tuple, NaN is NaN, ``-0.0`` is not
    ``0.0``, the order of a dict counts, enum members are compared by identity, models and
    dataclasses by everything they carry (extra, private and unset fields included). Safe
    on cycles; a comparison that raises is a difference.
    """
    try:
        return _same(a, b)
    except Exception:  # a user's __eq__, a value that changes under our hands, too deep a set
        return False


def _same(first: Any, second: Any) -> bool:
    todo: list[tuple[Any, Any]] = [(first, second)]
    seen: set[tuple[int, int]] = set()
    while todo:
        a, b = todo.pop()
        kind: Any = type(a)
        if kind is not type(b):
            return False
        if a is b:
            continue
        canon = _CANON.get(kind)
        if canon is not None:
            if canon(a) != canon(b):
                return False
            if kind in TIMED:
                todo.append((a.tzinfo, b.tzinfo))
            continue
        if issubclass(kind, Enum):
            return False  # members are singletons: not identical is not the same
        pair = (id(a), id(b))
        if pair in seen:
            continue
        seen.add(pair)
        parts = _parts(a, b, kind)
        if parts is None:
            return False
        todo += parts
    return True


def _parts(a: Any, b: Any, kind: Any) -> list[tuple[Any, Any]] | None:
    """Pairs that must be the same for two values of one type to be; None when they cannot be."""
    pairs: list[tuple[Any, Any]] = []
    if issubclass(kind, (list, tuple, deque)):
        if len(a) != len(b) or getattr(a, "maxlen", None) != getattr(b, "maxlen", None):
            return None
        pairs += zip(a, b, strict=True)
    elif issubclass(kind, dict):
        if len(a) != len(b) or getattr(a, "default_factory", None) is not getattr(b, "default_factory", None):
            return None
        pairs += zip(dict.keys(a), dict.keys(b), strict=True)
        pairs += zip(dict.values(a), dict.values(b), strict=True)
    elif issubclass(kind, (set, frozenset)):
        if not _same_members(a, b):
            return None
    elif (base := next((s for s in _SCALAR_BASES if issubclass(kind, s)), None)) is not None:
        if _CANON[base](_bare(base, a)) != _CANON[base](_bare(base, b)):
            return None
    elif not is_record(kind):
        return pairs if kind.__eq__ is not _IDENTITY and bool(a == b) else None
    if kind in _BARE:
        return pairs
    for left, right in zip(state_of(a), state_of(b), strict=True):
        if list(left) != list(right):
            return None
        pairs += zip(left.values(), right.values(), strict=True)
    return pairs


def _bare(base: Any, value: Any) -> Any:
    return bytes(value) if base is bytearray else base(*base.__getnewargs__(value))


_BARE = frozenset({list, tuple, dict, set, frozenset, deque, defaultdict})


def _same_members(a: Iterable[Any], b: Iterable[Any]) -> bool:
    left: dict[int, list[Any]] = {}
    count = 0
    for member in a:
        left.setdefault(digest(member), []).append(member)
        count += 1
    for member in b:
        found = left.get(digest(member))
        if not found:
            return False
        for at, other in enumerate(found):
            if _same(other, member):
                del found[at]
                break
        else:
            return False
        count -= 1
    return count == 0


def digest(value: Any) -> int:
    """An int that is equal, in this process, for values that are :func:`same`."""
    kind = type(value)
    canon = _CANON.get(kind)
    if canon is not None:
        if kind in TIMED:
            return hash((kind, canon(value), digest(value.tzinfo)))
        return hash((kind, canon(value)))
    if issubclass(kind, Enum):
        return hash((kind, id(value)))
    if issubclass(kind, (list, tuple, deque)):
        return hash((kind, tuple(map(digest, value))))
    if issubclass(kind, dict):
        return hash((kind, tuple(map(digest, dict.keys(value))), tuple(map(digest, dict.values(value)))))
    if issubclass(kind, (set, frozenset)):
        return hash((kind, tuple(sorted(map(digest, value)))))
    if is_record(kind):
        slots, own = state_of(value)
        return hash((kind, tuple(map(digest, slots.values())), tuple(map(digest, own.values()))))
    return hash(kind)
