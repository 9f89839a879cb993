"""The form kept in the process: shared when immutable, else made anew for each caller.

Three forms, the cheapest that is right: an immutable value is the value; a tree of plain
builtins is a marshal blob (made and read in this process only, never taken from a
backend); plain containers around other immutable leaves are a private copy that is
copied again. Whatever needs its class rebuilt is the business of `tool`.
"""

from __future__ import annotations

import dataclasses
import io
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timezone
from enum import Enum
from functools import partial
from itertools import chain
from marshal import dumps, loads
from sys import getsizeof
from types import NoneType
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from pydantic_core import TzInfo

from agent_cache.codecs.compare import ATOMS, TIMED, digest, is_record, once_per_class, state_of
from agent_cache.errors import UnstorableResultError

__all__ = ["Stored", "is_json", "measure", "near", "refuse_stream"]

MAX_DEPTH = 200  # levels of plain builtins
MAX_DEPTH_OTHER = 64  # levels of anything else: rebuilding it recurses in Python
MAX_NODES = 5_000_000
MAX_BYTES = 1 << 30  # when the caller sets no limit

_PLAIN_LEAVES = frozenset({NoneType, bool, int, float, complex, str, bytes})
_PLAIN_BOXES = frozenset({list, dict, tuple, set, frozenset})
_MUTABLE_BOXES = frozenset({list, dict, set})
_BIG = 1 << 64
_JSON_TYPES = frozenset({NoneType, bool, int, float, str, list, dict})
_JSON_BOXES = frozenset({list, dict})
_ONLY_STR = {str}
_COPY_LEAVES = ATOMS | TIMED
_TZ_TYPES = frozenset({NoneType, timezone, ZoneInfo, TzInfo})


class Far(Protocol):
    """Whoever can write a value down for a far tier."""

    def to_payload(self, value: Any) -> bytes: ...


class Stored:
    """A value as the near tier keeps it.

    Attributes:
        value: the shared object when it is immutable, else ``None``.
        thaw: makes an own value for one caller; ``None`` means share :attr:`value`.
        size: bytes it costs, an estimate, never 0.
    """

    __slots__ = ("_far", "size", "thaw", "value")

    def __init__(self, value: Any, thaw: Callable[[], Any] | None, size: int, far: Far | bytes) -> None:
        self.value = value
        self.thaw = thaw
        self.size = size
        self._far = far

    def fresh(self) -> Any:
        """The value for one caller, its own.

        Raises UnstorableResultError when a class no longer accepts what it once gave
        (its validator changed its mind); treat that as a miss.
        """
        thaw = self.thaw
        return self.value if thaw is None else thaw()

    def payload(self, *, keep: bool = True) -> bytes:
        """Self-describing bytes for a far tier; made on first use and kept (unless ``keep`` says not to).

        Raises UnstorableResultError when the value can be kept in the process but has
        no faithful written form (an enum or dataclass the annotation does not reach).
        """
        far = self._far
        if not isinstance(far, bytes):
            far = far.to_payload(self.fresh())
            if keep:
                self._far = far
        return far

    def fingerprint(self) -> int:
        """A digest for this process: equal values give equal ints."""
        thaw: Any = self.thaw
        if type(thaw) is partial and thaw.func in (loads, _read):
            # What version 4 refers to depends on the objects, not on the value alone.
            blob: bytes = thaw.args[0] if thaw.func is loads else dumps(thaw(), 2)
            if b"\x7f" not in blob and b"\xff" not in blob:  # no NaN, which has many bit patterns
                return hash(blob)
        try:
            return digest(self.fresh())
        except UnstorableResultError:
            raise
        except Exception as error:
            raise UnstorableResultError("codec_error", type(error).__name__) from None

    def __repr__(self) -> str:
        return f"<Stored {'shared' if self.thaw is None else 'own'} {self.size} B>"


def near(value: Any, far: Far | bytes, max_bytes: int | None) -> Stored | None:
    """The near form of a value that needs no class rebuilt; ``None`` for one that does.

    Refuses what is too deep, too large or a stream, for both kinds. So after ``None``
    the value is known to be of bounded size and free of cycles.
    """
    limit = MAX_BYTES if max_bytes is None else max_bytes
    kind = type(value)
    if kind in _PLAIN_BOXES:
        verdict, size = _scan(value, limit)
        if verdict == _SHARE:
            return Stored(value, None, _within(size, limit), far)
        if verdict == _MARSHAL:
            blob = dumps(value, 2)
            size = _within(len(blob), limit)
            if size < _REFERENCES_FROM:
                return Stored(None, partial(loads, blob), size, far)
            return Stored(None, partial(_read, dumps(value, 4)), size, far)
    size = measure(value, limit, MAX_DEPTH_OTHER)
    if immutable(value):
        return Stored(value, None, _within(size, limit), far)
    if _copyable(value):
        return Stored(None, partial(_own_copy, _copy(value)), _within(size, limit), far)
    return None


def _within(size: int, limit: int) -> int:
    if size > limit:
        raise UnstorableResultError("too_large", f"{size} bytes, limit {limit}")
    return size


_REFERENCES_FROM = 512  # bytes: from here on, writing a repeated text once makes reading half again as fast


def _read(blob: bytes) -> Any:
    """A value written with references."""
    return loads(blob)


_SHARE, _MARSHAL, _OTHER = range(3)


def _scan(root: Any, limit: int) -> tuple[int, int]:
    """Classify a value level by level, at C speed within a level; and its size, about.

    A cycle is a value of endless depth; a diamond counts as often as it would be
    written, so neither can blow up what comes after.
    """
    level = [root]
    mutable = type(root) in _MUTABLE_BOXES
    nodes = weight = 0
    for _ in range(MAX_DEPTH):
        nodes += sum(map(len, level))
        if nodes > MAX_NODES or nodes > limit:  # every node takes at least a byte
            raise UnstorableResultError("too_large", f"more than {min(MAX_NODES, limit)} nodes")
        items, types = _contents(level)
        weight += _weigh(items, types)
        if weight > limit:
            raise UnstorableResultError("too_large", f"limit {limit} bytes")
        boxes = types - _PLAIN_LEAVES
        if not boxes:
            return (_MARSHAL if mutable else _SHARE), weight + 64 * (nodes + 1)
        if not boxes <= _PLAIN_BOXES:
            return _OTHER, 0
        mutable = mutable or not boxes.isdisjoint(_MUTABLE_BOXES)
        level = [item for item in items if type(item) in boxes]
    raise UnstorableResultError("too_deep", f"more than {MAX_DEPTH} levels, or a cycle")


def _contents(level: list[Any]) -> tuple[list[Any], set[type]]:
    """All that stands in the boxes of a level, keys included, and the types met."""
    items: list[Any] = []
    for box in level:
        items += box  # a dict's keys
        if type(box) is dict:
            items += box.values()
    return items, set(map(type, items))


def _weigh(items: list[Any], types: set[type]) -> int:
    """No more bytes than the items' text, bytes and big ints would take when written."""
    weight = 0
    if str in types:
        weight += sum([len(item) for item in items if type(item) is str])
    if bytes in types:
        weight += sum([len(item) for item in items if type(item) is bytes])
    if int in types:
        weight += sum([i.bit_length() >> 3 for i in items if type(i) is int and not -_BIG < i < _BIG])
    return weight


def is_json(root: Any) -> bool:
    """Whether a finite value is JSON as it stands: exact types, text keys."""
    if type(root) not in _JSON_TYPES:
        return False
    level = [root] if type(root) in _JSON_BOXES else []
    while level:
        items, types = _contents(level)
        if not types <= _JSON_TYPES:
            return False
        if any(box and set(map(type, box)) != _ONLY_STR for box in level if type(box) is dict):
            return False
        level = [] if types.isdisjoint(_JSON_BOXES) else [i for i in items if type(i) in _JSON_BOXES]
    return True


def measure(root: Any, limit: int, depth: int) -> int:
    """Bytes a value takes in memory, about; refuses streams, cycles and what is too much."""
    level = [root]
    nodes = weight = 0
    for _ in range(depth + 1):
        below: list[Any] = []
        for item in level:
            weight += getsizeof(item)
            nodes += 1
            if type(item) not in _COPY_LEAVES:
                below += _children(item)
            if nodes + len(below) > MAX_NODES:
                raise UnstorableResultError("too_large", f"more than {MAX_NODES} nodes")
            if weight - 128 * nodes > 8 * limit:
                raise UnstorableResultError("too_large", f"limit {limit} bytes")
        if not below:
            return weight
        level = below
    raise UnstorableResultError("too_deep", f"more than {depth} levels, or a cycle")


def _children(item: Any) -> list[Any]:
    children: list[Any] = []
    kind = type(item)
    if issubclass(kind, dict):
        children += chain(dict.keys(item), dict.values(item))
    elif issubclass(kind, list):
        children += list.__iter__(item)
    elif issubclass(kind, tuple):
        children += tuple.__iter__(item)
    elif issubclass(kind, (set, frozenset, deque)):
        children += item
    if is_record(kind):
        slots, own = state_of(item)
        children += chain(slots.values(), own.values())
    elif not children:
        refuse_stream(item)
    return children


def refuse_stream(value: Any) -> None:
    """Raise for what is consumed by being read, or stands for something open."""
    if _is_stream(type(value)):
        raise UnstorableResultError("stream", type(value).__qualname__)


@once_per_class
def _is_stream(kind: Any) -> bool:
    if issubclass(kind, (Iterator, AsyncIterator, Awaitable, io.IOBase, socket.socket)):
        return True
    # wrapped files (tempfile, codecs), HTTP bodies, stream readers: what is closed is open
    closes = hasattr(kind, "close") and (hasattr(kind, "read") or hasattr(kind, "__exit__"))
    return closes or hasattr(kind, "__next__")


def immutable(value: Any) -> bool:
    """Whether nobody can change the value, so that all callers may share it."""
    kind = type(value)
    if kind in ATOMS or issubclass(kind, Enum):
        return True
    if kind in TIMED:
        return type(value.tzinfo) in _TZ_TYPES
    if kind is tuple or kind is frozenset:
        return all(map(immutable, value))
    if issubclass(kind, tuple):
        return hasattr(kind, "_fields") and _rigid(kind) and all(map(immutable, value))
    return _is_frozen(kind) and _is_exactly_its_fields(value)


def _rigid(kind: Any) -> bool:
    return bool(kind.__dictoffset__ == 0 and kind.__setattr__ is object.__setattr__)


@once_per_class
def _is_frozen(kind: Any) -> bool:
    params = vars(kind).get("__dataclass_params__")
    return params is not None and bool(params.frozen)


def _is_exactly_its_fields(value: Any) -> bool:
    slots, own = state_of(value)
    names = {field.name for field in dataclasses.fields(value)}
    if not (slots.keys() | own.keys()) <= names:
        return False
    if issubclass(type(value), (list, dict, set, tuple, deque, bytearray, BaseException)):
        return False
    return all(map(immutable, slots.values())) and all(map(immutable, own.values()))


def _copyable(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return all(map(immutable, value)) and all(map(_copyable, value.values()))
    if kind is list or kind is tuple:
        return all(map(_copyable, value))
    if kind is set:
        return all(map(immutable, value))
    return kind is bytearray or immutable(value)


def _copy(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [item if type(item) in _COPY_LEAVES else _copy(item) for item in value]
    if kind is dict:
        return {key: item if type(item) in _COPY_LEAVES else _copy(item) for key, item in value.items()}
    if kind is tuple:
        return tuple([item if type(item) in _COPY_LEAVES else _copy(item) for item in value])
    if kind is set:
        return value.copy()
    if kind is bytearray:
        return bytearray(value)
    return value


def _own_copy(pristine: Any) -> Any:
    try:
        return _copy(pristine)
    except Exception as error:  # a caller already at the recursion limit
        raise UnstorableResultError("codec_error", type(error).__name__) from None
