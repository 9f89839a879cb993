"""One canonical byte form for every argument value that can be part of a key.

What the room is for: turning *values* into bytes so that equal values of equal
types give equal bytes, in every process and whatever the hash seed, and
different values, or equal ones of different types, give different bytes. What
has no such form is refused with its path and the reason. Signatures, tools,
scopes, digests and the layout of backend keys do not belong here; nor does
anything that decodes: the form is read by nobody. The module imports nothing of
the package but its errors.

**The form is prefix-free.** Each value is one tag byte followed by parts that
are fixed in length, or carry their length or count, or end in a byte that cannot
occur inside them. So no encoding is the beginning of another one, and a
concatenation of encodings says where each ends: a sequence of values is as
injective as each value.

**Types count at every depth.** ``1``, ``True``, ``1.0`` and an ``int`` subclass
holding 1 are four values. A class is named by module and qualified name where
that name leads to this very class, which is the same in every process; a class
that cannot be found by its name (a local one, one that was replaced under its
name) carries a random nonce of its own, so that it never meets another one, and
its instances are never equal across processes.

**No hidden state.** An instance is encoded by the state this module knows; if it
carries more (instance attributes on a ``str`` subclass, slots, C fields) it is
refused, because two instances that differ only there would share a key.

**Nothing is believed.** Types come from ``type(x)``, contents from the base
class's own methods. Apart from the ``__agent_cache_key__`` hook and a time
zone's ``utcoffset``, no code of the value runs. Cycles, depth and size are
bounded. Each container is copied before it is walked, so what is encoded of
*it* is one state; arguments that another thread mutates meanwhile may be encoded
half old, half new, as the tool may see them.

The in-process alias (:func:`alias`) is a second, much faster and injective, but
not canonical form for trees of plain JSON types; see there.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import marshal
import operator
import os
import pathlib
import struct
import sys
import types
import uuid
import weakref
import zoneinfo
from collections.abc import Callable
from typing import Any, Final

import pydantic
import pydantic.networks
import pydantic_core

from agent_cache.errors import UnkeyableArgumentError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "alias", "aliasable", "encode", "encoded"]

MAX_DEPTH: Final = 200
"""Containers inside each other; one more is refused."""

MAX_NODES: Final = 1_000_000
"""Values in one argument, shared ones counted each time they are met."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of long texts, bytes and numbers in one argument, counted likewise."""

HOOK: Final = "__agent_cache_key__"

_FIX: Final = f"use a plain value (of a tool: leave it out by ignore=(…) or skip_args), or give its class {HOOK}"
_POINTER: Final = struct.calcsize("P")
_SHORT: Final = 128  # encodings below this length are covered by the node budget alone


# --- public ---------------------------------------------------------------------------------------


def encoded(value: object, path: str = "value") -> bytes:
    """The canonical bytes of ``value``; raises :class:`UnkeyableArgumentError` with the path inside it."""
    try:
        scalar = _SCALARS.get(id(type(value)))
        if scalar is not None:
            data = scalar(value)
            if len(data) > MAX_BYTES:
                _Writer().charge(len(data))
            return data
        writer = _Writer()
        writer.value(value)
        return b"".join(writer.parts)
    except _Refused as refused:
        raise UnkeyableArgumentError(refused.path(path), refused.why) from refused.__cause__
    except Exception as error:
        raise UnkeyableArgumentError(path, _broke(error)) from error


def encode(value: object, path: str, out: list[bytes] | bytearray) -> None:
    """Append the canonical bytes of ``value`` to ``out``; on a refusal ``out`` is left as it was."""
    data = encoded(value, path)
    if isinstance(out, bytearray):
        out += data
    else:
        out.append(data)


# --- refusals -------------------------------------------------------------------------------------


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """On its way up to the public function; each container adds its step of the path."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.steps: list[str] = []
        super().__init__(why)

    def at(self, step: str) -> _Refused:
        self.steps.append(step)
        return self

    def path(self, root: str) -> str:
        steps = self.steps[::-1]
        if len(steps) > 24:
            steps = [*steps[:12], "…", *steps[-8:]]
        return root + "".join(steps)


def _name(cls: type) -> str:
    """A class's name for a message, whatever its metaclass says."""
    module, name = _module_of(cls), _qualname_of(cls)
    return str(name) if module == "builtins" else f"{module}.{name}"


def _broke(error: BaseException) -> str:
    if type(error) is RecursionError:
        return f"nested too deeply for the interpreter's stack; {_FIX}"
    if type(error) is RuntimeError:
        return f"it changed while it was read ({_said(error)}); pass a copy, or {_FIX}"
    return f"reading it raised {_said(error)}; {_FIX}"


def _said(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # an exception whose text raises still gets reported
        text = "…"
    return f"{_name(type(error))}: {text[:120]}"


def _step(key: object) -> str:
    """The path's step for a mapping's key: ``.name``, or ``[…]`` for what is no plain name."""
    if type(key) is str:
        if len(key) <= 60 and key.isidentifier():
            return "." + key
        return f"[{key if len(key) <= 60 else key[:57] + '…'!r}]"
    if key is None or key is True or key is False or type(key) is float:
        return f"[{key!r}]"
    if type(key) is int and key.bit_length() <= 200:
        return f"[{key!r}]"
    return f"[<{_name(type(key))}>]"


# --- scalars: value -> bytes ----------------------------------------------------------------------

_pack_double = struct.Struct(">d").pack
_PREFIX_STR: Final = tuple(b"s%d:" % n for n in range(_SHORT))


def _none(_: object) -> bytes:
    return b"N"


def _bool(value: Any) -> bytes:
    return b"T" if value else b"F"


def _int(value: Any) -> bytes:
    # Decimal digits for machine-sized numbers; two's complement for larger ones, which is linear in
    # their size and knows no digit limit.
    if -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
        return b"i%d;" % value
    size: int = value.bit_length() // 8 + 1
    data: bytes = value.to_bytes(size, "big", signed=True)
    return b"I%d:" % size + data


def _float(value: Any) -> bytes:
    return b"f" + _pack_double(value) if value == value else b"A"


def _complex(value: Any) -> bytes:
    return b"j" + _float(value.real) + _float(value.imag)


def _str(value: Any) -> bytes:
    data: bytes
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogatepass")
    size = len(data)
    return _PREFIX_STR[size] + data if size < _SHORT else b"s%d:" % size + data


def _bytes(value: Any) -> bytes:
    return b"b%d:%b" % (len(value), value)


def _bytearray(value: Any) -> bytes:
    data = bytes(value)
    return b"B%d:" % len(data) + data


def _range(value: Any) -> bytes:
    return b"r" + _int(value.start) + _int(value.stop) + _int(value.step)


def _timedelta(value: Any) -> bytes:
    days = _timedelta_days(value)
    return b"e" + _int(days) + _int(_timedelta_seconds(value)) + _int(_timedelta_microseconds(value))


def _date(value: Any) -> bytes:
    state: Any = dt.date.__reduce__(value)[1]  # four bytes
    return b"a%b" % state[0]


def _datetime(value: Any) -> bytes:
    # Ten bytes; protocol 4 keeps the fold in the month's high bit.
    state: Any = dt.datetime.__reduce_ex__(value, 4)[1]
    if len(state) == 1:
        return b"w%b" % state[0]
    return b"W%b" % state[0] + _zone(state[1], dt.datetime.utcoffset(value))


def _time(value: Any) -> bytes:
    # Six bytes; protocol 4 keeps the fold in the hour's high bit.
    state: Any = dt.time.__reduce_ex__(value, 4)[1]
    if len(state) == 1:
        return b"h%b" % state[0]
    return b"H%b" % state[0] + _zone(state[1], dt.time.utcoffset(value))


def _offset(offset: dt.timedelta | None) -> bytes:
    return b"N" if offset is None else _timedelta(offset)


def _zone(zone: Any, offset: dt.timedelta | None) -> bytes:
    """A time zone: its class, its key or name, and the offset it gave.

    The offset alone is not enough: two zones that agree now differ after ``+ timedelta(days=90)``.
    """
    cls: type = type(zone)
    if cls is dt.timezone or cls is pydantic_core.TzInfo:
        key = zone.tzname(None)
    elif cls is zoneinfo.ZoneInfo:
        key = zone.key
    else:
        key = getattr(zone, "key", None) or getattr(zone, "zone", None)  # pytz says zone
    if type(key) is not str:
        raise _Refused(f"its time zone {_name(cls)} has no key; use zoneinfo.ZoneInfo(key), or {_FIX}")
    return b"z" + _identity(cls) + _str(key) + _offset(offset)


def _bare_zone(value: Any) -> bytes:
    fixed = type(value) is not zoneinfo.ZoneInfo
    return b"Z" + _zone(value, value.utcoffset(None) if fixed else None)


def _decimal(value: Any) -> bytes:
    # The text is one-to-one with (sign, digits, exponent); only the case of its E follows the context.
    data = decimal.Decimal.__str__(value).upper().encode()
    return b"m%d:" % len(data) + data


def _fraction(value: Any) -> bytes:
    return b"q" + _int(_numerator(value)) + _int(_denominator(value))


def _uuid(value: Any) -> bytes:
    number: int = _uuid_int(value)
    return b"u" + number.to_bytes(16, "big")


def _by_text(value: Any) -> bytes:
    """A final class whose text is its value."""
    return b"x" + _identity(type(value)) + _str(str(value))


_timedelta_days: Final[Callable[[Any], Any]] = dt.timedelta.__dict__["days"].__get__
_timedelta_seconds: Final[Callable[[Any], Any]] = dt.timedelta.__dict__["seconds"].__get__
_timedelta_microseconds: Final[Callable[[Any], Any]] = dt.timedelta.__dict__["microseconds"].__get__
_numerator: Final[Callable[[Any], Any]] = fractions.Fraction.__dict__["_numerator"].__get__
_denominator: Final[Callable[[Any], Any]] = fractions.Fraction.__dict__["_denominator"].__get__
_uuid_int: Final[Callable[[Any], Any]] = uuid.UUID.__dict__["int"].__get__

_BY_TYPE: Final[dict[type, Callable[[Any], bytes]]] = {
    types.NoneType: _none,
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
    range: _range,
    dt.timedelta: _timedelta,
    dt.date: _date,
    dt.datetime: _datetime,
    dt.time: _time,
    dt.timezone: _bare_zone,
    zoneinfo.ZoneInfo: _bare_zone,
    decimal.Decimal: _decimal,
    fractions.Fraction: _fraction,
    uuid.UUID: _uuid,
    **dict.fromkeys(
        (
            ipaddress.IPv4Address,
            ipaddress.IPv6Address,
            ipaddress.IPv4Network,
            ipaddress.IPv6Network,
            ipaddress.IPv4Interface,
            ipaddress.IPv6Interface,
            pydantic_core.Url,
            pydantic_core.MultiHostUrl,
        ),
        _by_text,
    ),
}
# By id: looking a class up by itself would ask its metaclass for a hash and for equality.
_SCALARS: Final = {id(cls): encoder for cls, encoder in _BY_TYPE.items()}


# --- classes --------------------------------------------------------------------------------------
# Read with type's own descriptors: a metaclass may override all of these, and __eq__ and __hash__ too,
# so classes are compared by identity and kept by id.

_module_of: Final[Callable[[type], Any]] = type.__dict__["__module__"].__get__
_qualname_of: Final[Callable[[type], Any]] = type.__dict__["__qualname__"].__get__
_mro_of: Final[Callable[[type], Any]] = type.__dict__["__mro__"].__get__
_dict_of: Final[Callable[[type], Any]] = type.__dict__["__dict__"].__get__
_basicsize_of: Final[Callable[[type], Any]] = type.__dict__["__basicsize__"].__get__
_dictoffset_of: Final[Callable[[type], Any]] = type.__dict__["__dictoffset__"].__get__
_weakrefoffset_of: Final[Callable[[type], Any]] = type.__dict__["__weakrefoffset__"].__get__


class _Class:
    """What is remembered of a class for as long as it lives."""

    __slots__ = ("found_by", "local", "module", "parts", "qualname", "ref", "slots", "stable")

    def __init__(self, cls: type) -> None:
        key = id(cls)

        def gone(ref: weakref.ref[type]) -> None:
            known = _CLASSES.get(key)
            if known is not None and known.ref is ref:
                _CLASSES.pop(key, None)

        self.ref: weakref.ref[type] = weakref.ref(cls, gone)
        self.module: object = _module_of(cls)
        self.qualname: object = _qualname_of(cls)
        self.parts: list[str] = self.qualname.split(".") if type(self.qualname) is str else []
        name = _str(str(self.module)) + _str(str(self.qualname))
        self.stable: bytes = b"c" + name
        self.local: bytes = b"C" + name + os.urandom(16)
        self.slots: tuple[Any, ...] = tuple(
            item for item in _dict_of(cls).values() if type(item) is types.MemberDescriptorType
        )

    def resolves(self, cls: type) -> bool:
        """Does the name lead to this very class now? Asked each time: a reload takes the name away."""
        if type(self.module) is not str or not self.parts:
            return False
        try:
            scope: Any = object.__getattribute__(sys.modules[self.module], "__dict__")
            if scope.get(self.qualname) is cls:
                return True
            if len(self.parts) == 1:
                return False
            found: Any = scope.get(self.parts[0])
            for part in self.parts[1:]:
                found = _dict_of(found).get(part)
            return found is cls
        except Exception:  # a name that cannot be followed does not lead to the class
            return False


_CLASSES: Final[dict[int, _Class]] = {}


def _class(cls: type) -> _Class:
    known = _CLASSES.get(id(cls))
    if known is not None:
        if known.ref() is cls:
            return known
        _CLASSES.pop(id(cls), None)
    # setdefault: of two threads that meet a class for the first time, one nonce wins.
    return _CLASSES.setdefault(id(cls), _Class(cls))


def _identity(cls: type) -> bytes:
    known = _class(cls)
    return known.stable if known.resolves(cls) else known.local


def _instance_dict(value: object, mro: tuple[type, ...]) -> dict[str, Any] | None:
    """The real instance ``__dict__``, or ``None`` if there is none; refuses a class that hides it."""
    for base in mro:
        descriptor = _dict_of(base).get("__dict__")
        if descriptor is not None:
            if type(descriptor) is not types.GetSetDescriptorType:
                raise _Refused(f"{_name(mro[0])} overrides __dict__, its state cannot be read; {_FIX}")
            found: dict[str, Any] | None = descriptor.__get__(value, mro[0])
            return found
    if _dictoffset_of(mro[0]) != 0:
        raise _Refused(f"{_name(mro[0])} hides its __dict__, its state cannot be read; {_FIX}")
    return None


def _extra_slots(value: object, mro: tuple[type, ...], base: type) -> dict[str, Any]:
    """The values in slots that the classes between ``base`` and the value's own class add.

    Refuses a class with state that is neither in slots nor in ``__dict__`` (C fields, deleted slots):
    the size of its instances tells.
    """
    cls = mro[0]
    known = {id(item) for item in _mro_of(base)}
    slots: dict[str, Any] = {}
    count = 0
    for owner in mro:
        if id(owner) in known:
            continue
        for slot in _class(owner).slots:
            count += 1
            try:
                content = slot.__get__(value, cls)
            except AttributeError:
                continue
            name = slot.__name__
            if name in slots:
                raise _Refused(f"{_name(cls)} has two slots named {name!r}; {_FIX}")
            slots[name] = content
    surplus = _basicsize_of(cls) - _basicsize_of(base) - count * _POINTER
    if _weakrefoffset_of(cls) > 0 and _weakrefoffset_of(base) == 0:
        surplus -= _POINTER
    offset = _dictoffset_of(cls)  # other negative ones mean: kept in front of the instance
    if (offset > 0 or offset == -_POINTER) and _dictoffset_of(base) == 0:
        surplus -= _POINTER
    if surplus:
        raise _Refused(f"{_name(cls)} has state outside of its {_name(base)} value; {_FIX}")
    return slots


_OWN: Final = {"_secret_value", "_url"}  # where pydantic's secrets and URLs keep their value


def _sealed(value: object, mro: tuple[type, ...], base: type) -> None:
    """Refuse a value that carries anything beside its ``base`` value."""
    extra = set(_extra_slots(value, mro, base))
    extra.update(_instance_dict(value, mro) or {})
    if id(base) in _KEPT_IN_DICT:
        extra -= _OWN
    if extra:
        names = ", ".join(sorted(str(name)[:40] for name in extra)[:3])
        raise _Refused(f"{_name(mro[0])} carries attributes beside its {_name(base)} value ({names}); {_FIX}")


# --- containers and instances: (value, writer) ------------------------------------------------------


class _Writer:
    """One encoding under way: the parts so far, the containers it is inside of, and what it may still use."""

    __slots__ = ("bytes", "inside", "nodes", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.inside: set[int] = set()
        self.nodes = MAX_NODES
        self.bytes = MAX_BYTES

    def value(self, value: Any) -> None:
        cls: type = type(value)
        scalar = _SCALARS.get(id(cls))
        if scalar is not None:
            data = scalar(value)
            if len(data) >= _SHORT:
                self.charge(len(data))
            self.parts.append(data)
            return
        self.container(value, cls)

    def container(self, value: Any, cls: type) -> None:
        inside = self.inside
        key = id(value)
        if key in inside:
            raise _Refused("it contains itself; pass a tree without cycles")
        if len(inside) >= MAX_DEPTH:
            raise _Refused(f"it is nested more than {MAX_DEPTH} deep; pass a flatter value, or {_FIX}")
        inside.add(key)
        (_CONTAINERS.get(id(cls)) or _instance)(value, self)
        inside.discard(key)

    def charge(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise _Refused(f"it has more than {MAX_BYTES} bytes; pass a reference to it, or {_FIX}")

    def count(self, nodes: int) -> None:
        self.nodes -= nodes
        if self.nodes < 0:
            raise _Refused(f"it has more than {MAX_NODES} values (shared ones count each time); {_FIX}")

    def apart(self, value: Any) -> bytes:
        """The encoding of ``value`` on its own, under the same limits: for what must be sorted."""
        outer, self.parts = self.parts, []
        self.value(value)
        inner, self.parts = self.parts, outer
        data = b"".join(inner)
        if len(data) >= _SHORT:
            self.charge(len(data))
        return data

    def items(self, tag: bytes, items: tuple[Any, ...]) -> None:
        self.count(len(items))
        put, scalar_of, short, prefix = self.parts.append, _SCALARS.get, _SHORT, _PREFIX_STR
        put(tag + b"%d;" % len(items))
        index = 0
        try:
            for index, item in enumerate(items):  # noqa: B007 - the handlers say where it stopped
                cls: type = type(item)
                if cls is str and item.isascii() and len(item) < short:  # most values, without a call
                    put(prefix[len(item)] + item.encode())
                    continue
                if cls is int and -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF:
                    put(b"i%d;" % item)
                    continue
                scalar = scalar_of(id(cls))
                if scalar is None:
                    self.container(item, cls)
                else:
                    data = scalar(item)
                    if len(data) >= short:
                        self.charge(len(data))
                    put(data)
        except _Refused as refused:
            refused.at(f"[{index}]")
            raise
        except Exception as error:
            raise _Refused(_broke(error)).at(f"[{index}]") from error

    def fields(self, tag: bytes, fields: list[tuple[str, Any]]) -> None:
        """Pairs in the given order, the names exact strings."""
        self.count(2 * len(fields))
        put, scalar_of, short, prefix = self.parts.append, _SCALARS.get, _SHORT, _PREFIX_STR
        put(tag + b"%d;" % len(fields))
        name: str = ""
        try:
            for name, item in fields:
                if len(name) < short and name.isascii():
                    put(prefix[len(name)] + name.encode())
                else:
                    data = _str(name)
                    self.charge(len(data))
                    put(data)
                cls: type = type(item)
                if cls is str and item.isascii() and len(item) < short:  # most values, without a call
                    put(prefix[len(item)] + item.encode())
                    continue
                if cls is int and -0x8000_0000_0000_0000 <= item <= 0x7FFF_FFFF_FFFF_FFFF:
                    put(b"i%d;" % item)
                    continue
                scalar = scalar_of(id(cls))
                if scalar is None:
                    self.container(item, cls)
                else:
                    data = scalar(item)
                    if len(data) >= short:
                        self.charge(len(data))
                    put(data)
        except _Refused as refused:
            refused.at(_step(name))
            raise
        except Exception as error:
            raise _Refused(_broke(error)).at(_step(name)) from error

    def pairs(self, tag: bytes, pairs: list[tuple[Any, Any]], *, ordered: bool = False) -> None:
        """Pairs with keys of any type, in the given order or by encoded key."""
        self.count(2 * len(pairs))
        keyed: list[tuple[bytes, Any, Any]] = []
        for key, item in pairs:
            try:
                keyed.append((self.apart(key), key, item))
            except _Refused as refused:
                refused.at(f"[<{_name(type(key))}> key]")
                raise
            except Exception as error:
                raise _Refused(_broke(error)).at(f"[<{_name(type(key))}> key]") from error
        if not ordered:
            keyed.sort(key=_first)
        self.parts.append(tag + b"%d;" % len(keyed))
        for data, key, item in keyed:
            self.parts.append(data)
            try:
                self.value(item)
            except _Refused as refused:
                refused.at(_step(key))
                raise
            except Exception as error:
                raise _Refused(_broke(error)).at(_step(key)) from error

    def unordered(self, tag: bytes, items: tuple[Any, ...]) -> None:
        self.count(len(items))
        chunks: list[bytes] = []
        for item in items:
            try:
                chunks.append(self.apart(item))
            except _Refused as refused:
                refused.at("{item}")
                raise
            except Exception as error:
                raise _Refused(_broke(error)).at("{item}") from error
        chunks.sort()
        self.parts.append(tag + b"%d;" % len(chunks))
        self.parts.extend(chunks)

    def mapping(self, items: list[tuple[Any, Any]]) -> None:
        # Whether all keys are plain strings is a property of the content, so both roads are canonical;
        # their tags differ, and the common one sorts without encoding first.
        for key, _ in items:
            if type(key) is not str:
                self.pairs(b"D", items)
                return
        items.sort(key=_first)
        self.fields(b"d", items)


_first: Final[Callable[[Any], Any]] = operator.itemgetter(0)


# The copies that are walked, by the base classes' own methods: an override of __iter__ or items() in a
# subclass is not asked.


def _iterated(method: Any) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: tuple(method(value))


def _paired(method: Any) -> Callable[[Any], list[tuple[Any, Any]]]:
    return lambda value: list(method(value))


_list_items: Final = _iterated(list.__iter__)
_tuple_items: Final = _iterated(tuple.__iter__)
_set_items: Final = _iterated(set.__iter__)
_frozenset_items: Final = _iterated(frozenset.__iter__)
_deque_items: Final = _iterated(collections.deque.__iter__)
_dict_pairs: Final = _paired(dict.items)
_ordered_pairs: Final = _paired(collections.OrderedDict.items)


def _list(value: Any, writer: _Writer) -> None:
    writer.items(b"l", tuple(value) if type(value) is list else _list_items(value))


def _tuple(value: Any, writer: _Writer) -> None:
    writer.items(b"t", _tuple_items(value))


def _dict(value: Any, writer: _Writer) -> None:
    writer.mapping(list(value.items()) if type(value) is dict else _dict_pairs(value))


def _ordered_dict(value: Any, writer: _Writer) -> None:
    writer.pairs(b"o", _ordered_pairs(value), ordered=True)


def _set(value: Any, writer: _Writer) -> None:
    writer.unordered(b"S", _set_items(value))


def _frozenset(value: Any, writer: _Writer) -> None:
    writer.unordered(b"Q", _frozenset_items(value))


def _deque(value: Any, writer: _Writer) -> None:
    writer.parts.append(b"k" + (b"N" if value.maxlen is None else _int(value.maxlen)))
    writer.items(b"l", _deque_items(value))


def _default_dict(value: Any, writer: _Writer) -> None:
    factory: Any = collections.defaultdict.__dict__["default_factory"].__get__(value)
    if factory is None:
        writer.parts.append(b"gN")
    elif any(factory is known for known in (list, dict, set, int, float, str, bool, bytes, tuple)):
        writer.parts.append(b"g" + _identity(factory))
    else:
        raise _Refused(f"its default_factory has no canonical form; pass a dict, or {_FIX}")
    writer.mapping(_dict_pairs(value))


_CONTAINERS: Final[dict[int, Callable[[Any, _Writer], None]]] = {
    id(list): _list,
    id(tuple): _tuple,
    id(dict): _dict,
    id(set): _set,
    id(frozenset): _frozenset,
    id(collections.OrderedDict): _ordered_dict,
    id(collections.defaultdict): _default_dict,
    id(collections.deque): _deque,
}


# --- instances of other classes: a class identity, then the state -----------------------------------


def _instance(value: Any, writer: _Writer) -> None:
    cls: type = type(value)
    mro: tuple[type, ...] = _mro_of(cls)
    bases = {id(base) for base in mro}
    if not bases.isdisjoint(_REFUSED):
        kind = "a class" if id(type) in bases else f"a {_name(cls)}"
        raise _Refused(f"{kind} has no canonical form; {_FIX}")
    if _hooked(value, mro):
        _by_hook(value, writer)
        return
    writer.parts.append(b"O" + _identity(cls))
    if id(enum.Enum) in bases:
        _enum(value, writer, bases)
        return
    if id(pydantic.BaseModel) in bases:
        _model(value, writer, mro)
        return
    for base in mro:
        if "__dataclass_fields__" in _dict_of(base):
            _dataclass(value, writer, mro)
            return
    for base in mro:
        by_base = _SUBCLASSES.get(id(base))
        if by_base is not None:
            _sealed(value, mro, base)
            by_base(value, writer)
            return
    raise _Refused(f"{_name(cls)} has no canonical form; {_FIX}")


def _hooked(value: object, mro: tuple[type, ...]) -> bool:
    """Is the hook really there? Looked up in the dicts, so that no ``__getattr__`` answers for it."""
    for base in mro:
        if HOOK in _dict_of(base):
            return True
    for base in mro:
        descriptor = _dict_of(base).get("__dict__")
        if descriptor is not None:
            if type(descriptor) is not types.GetSetDescriptorType:
                return False
            found = descriptor.__get__(value, mro[0])
            return found is not None and HOOK in found
    return False


def _by_hook(value: Any, writer: _Writer) -> None:
    cls: type = type(value)
    try:
        key = getattr(value, HOOK)
        called = callable(key)
        if called:
            key = key()
    except Exception as error:
        raise _Refused(f"{_name(cls)}.{HOOK} raised {_said(error)}").at(f".{HOOK}") from error
    if type(key) is types.CoroutineType:
        key.close()
        raise _Refused(f"{_name(cls)}.{HOOK} must not be async").at(f".{HOOK}")
    if key is None and not called:
        raise _Refused(f"{_name(cls)} sets {HOOK} to None, so it is never part of a key; {_FIX}")
    writer.count(1)
    writer.parts.append(b"K" + _identity(cls))
    try:
        writer.value(key)
    except _Refused as refused:
        refused.at(f".{HOOK}" + ("()" if called else ""))
        raise


def _enum(value: Any, writer: _Writer, bases: set[int]) -> None:
    if id(enum.Flag) in bases:
        writer.parts.append(b"v")
        writer.value(object.__getattribute__(value, "_value_"))
        return
    name: Any = object.__getattribute__(value, "_name_")
    members: Any = type.__getattribute__(type(value), "_member_map_")
    if type(name) is not str or members.get(name) is not value:
        raise _Refused(f"it is no member of {_name(type(value))}; {_FIX}")
    writer.parts.append(b"y" + _str(name))


def _model(value: Any, writer: _Writer, mro: tuple[type, ...]) -> None:
    extra = _extra_slots(value, mro, pydantic.BaseModel)
    state = _instance_dict(value, mro) or {}
    writer.parts.append(b"p")
    writer.fields(b"d", _named(state))
    writer.fields(b"d", _named(extra))
    writer.unordered(b"Q", _set_items(object.__getattribute__(value, "__pydantic_fields_set__")))
    for attribute in ("__pydantic_extra__", "__pydantic_private__"):
        content: Any = object.__getattribute__(value, attribute)
        if content is None:
            writer.parts.append(b"N")
        else:
            writer.fields(b"d", _named(content))


def _dataclass(value: Any, writer: _Writer, mro: tuple[type, ...]) -> None:
    cls = mro[0]
    extra = set(_extra_slots(value, mro, object))
    extra.update(_instance_dict(value, mro) or {})
    fields: list[tuple[str, Any]] = []
    for field in dataclasses.fields(cls):
        try:
            fields.append((field.name, object.__getattribute__(value, field.name)))
        except AttributeError:
            raise _Refused(f"the field has no value; {_FIX}").at(_step(field.name)) from None
        extra.discard(field.name)
    if extra:
        names = ", ".join(sorted(str(name)[:40] for name in extra)[:3])
        raise _Refused(f"{_name(cls)} carries attributes beside its fields ({names}); {_FIX}")
    writer.fields(b"P", fields)


def _named(state: dict[str, Any]) -> list[tuple[str, Any]]:
    items = _dict_pairs(state)
    for name, _ in items:
        if type(name) is not str:
            raise _Refused(f"an attribute's name is a {_name(type(name))}; {_FIX}")
    items.sort(key=_first)
    return items


def _named_tuple(value: Any, writer: _Writer) -> None:
    for base in _mro_of(type(value)):
        members = _dict_of(base)
        if members.get("n_fields") != members.get("n_sequence_fields"):  # time.struct_time, os.stat_result
            raise _Refused(f"{_name(type(value))} has fields beside its items; pass tuple(…), or {_FIX}")
    items = _tuple_items(value)
    names: Any = _dict_of(type(value)).get("_fields")
    if type(names) is tuple and len(names) == len(items) and all(type(name) is str for name in names):
        writer.fields(b"n", list(zip(names, items, strict=True)))
    else:
        writer.items(b"t", items)


def _secret(value: Any, writer: _Writer) -> None:
    writer.value(object.__getattribute__(value, "_secret_value"))


def _path(base: type) -> Callable[[Any, _Writer], None]:
    text: Any = base.__str__

    def encode_path(value: Any, writer: _Writer) -> None:
        data = _str(text(value))
        writer.charge(len(data))
        writer.parts.append(data)

    return encode_path


def _url(value: Any, writer: _Writer) -> None:
    writer.value(object.__getattribute__(value, "_url"))


def _scalar(convert: Callable[[Any], Any]) -> Callable[[Any, _Writer], None]:
    """For a subclass of a scalar: its base value, then as the base is encoded."""

    def encode_scalar(value: Any, writer: _Writer) -> None:
        writer.value(convert(value))

    return encode_scalar


def _parts(encoder: Callable[[Any], bytes]) -> Callable[[Any, _Writer], None]:
    """For a subclass of a scalar whose encoder reads the base state only."""

    def encode_parts(value: Any, writer: _Writer) -> None:
        writer.parts.append(encoder(value))

    return encode_parts


def _plain_str(value: Any) -> str:
    return str.__str__(value) if type(value) is str else "".join(str.__iter__(value))


def _plain_bytes(value: Any) -> bytes:
    return bytes.__getitem__(value, slice(None))


def _plain_bytearray(value: Any) -> bytearray:
    return bytearray.__getitem__(value, slice(None))


_SECRETS: Final = (pydantic.SecretStr, pydantic.SecretBytes, pydantic.Secret)
_URLS: Final[tuple[type, ...]] = tuple(
    getattr(pydantic.networks, name)
    for name in ("_BaseUrl", "_BaseMultiHostUrl")
    if hasattr(pydantic.networks, name)  # before pydantic 2.10 its URLs were pydantic_core's own
)
_KEPT_IN_DICT: Final = frozenset(id(cls) for cls in (*_SECRETS, *_URLS))

_REFUSED: Final = frozenset(
    id(cls)
    for cls in (
        type,
        types.FunctionType,
        types.BuiltinFunctionType,
        types.MethodType,
        types.ModuleType,
        types.EllipsisType,
        types.NotImplementedType,
        types.CodeType,
        types.GeneratorType,
        types.CoroutineType,
        types.AsyncGeneratorType,
        functools.partial,
        memoryview,
    )
)

_SUBCLASSES: Final[dict[int, Callable[[Any, _Writer], None]]] = {
    id(cls): encoder
    for cls, encoder in [
        (list, _list),
        (tuple, _named_tuple),
        (dict, _dict),
        (set, _set),
        (frozenset, _frozenset),
        (collections.OrderedDict, _ordered_dict),
        (str, _scalar(_plain_str)),
        (int, _scalar(int.__index__)),
        (float, _scalar(float.__float__)),
        (bytes, _scalar(_plain_bytes)),
        (bytearray, _scalar(_plain_bytearray)),
        (decimal.Decimal, _parts(_decimal)),
        (fractions.Fraction, _parts(_fraction)),
        (dt.timedelta, _parts(_timedelta)),
        (dt.datetime, _parts(_datetime)),
        (dt.date, _parts(_date)),
        (dt.time, _parts(_time)),
        (uuid.UUID, _parts(_uuid)),
        (pydantic_core.TzInfo, _parts(_bare_zone)),
        *((base, _secret) for base in _SECRETS),
        *((base, _url) for base in _URLS),
        *(
            (base, _path(base))
            for base in (
                pathlib.PurePosixPath,
                pathlib.PureWindowsPath,
                pathlib.PosixPath,
                pathlib.WindowsPath,
            )
        ),
    ]
}


# --- the in-process alias -------------------------------------------------------------------------

write_alias: Final[Any] = marshal.dumps
"""``write_alias(value, 2)`` is what :func:`alias` is made of, for callers who catch what it raises."""


def aliasable(value: object) -> bool:
    """Is ``value`` a tree of exactly ``None bool int float str list tuple dict``, within the limits?"""
    todo: list[Any] = [value]
    left = MAX_NODES
    try:
        while todo:
            item = todo.pop()
            cls: type = type(item)
            if cls is str or cls is int or item is None or cls is float or cls is bool:
                continue
            if cls is dict:
                todo.extend(item)
                todo.extend(item.values())
            elif cls is list or cls is tuple:
                todo.extend(item)
            else:
                return False
            left -= len(item) + 1
            if left < 0:
                return False
    except RuntimeError:  # a dict changed meanwhile
        return False
    return True


def alias(value: object) -> bytes | None:
    """Bytes that stand for ``value`` within this process, or ``None``; much faster than :func:`encoded`.

    For a table from aliases to keys that lives and dies with the process. Insert an alias only where
    ``aliasable(value)`` holds, and only if it is still the same after the key was made (another thread
    may have mutated the value in between, and the table would remember the mistake). Look up with no
    question asked. What holds then:

    - *Two aliasable values with one alias are the same value, types and order included.* Version 2 of
      the format knows no references and no interning, so the bytes depend on the content alone. It is
      prefix-free: ``N T F`` stand alone, ``i`` has 4 bytes, ``l`` its count of digits, ``g`` the
      float's 8 bytes (so -0.0 and each NaN are themselves), ``u`` ``(`` ``[`` their length or count, ``{``
      ends in a ``0`` that begins no value. Reading it back has one outcome.
    - *No other value ever has the alias of an aliasable one.* The format branches on exact types, so
      whatever is not aliasable either fails as a whole (objects, enum members, subclasses of int, str,
      list … without a buffer) or writes, where it stands, a tag of its own: ``s`` for bytes and
      everything with a buffer (bytearray, memoryview, array, numpy arrays and scalars, also those
      that subclass float), ``y`` ``<`` ``>`` ``c`` ``.`` ``S`` for complex, sets, code, ``...``,
      ``StopIteration``, ``:`` for slices. None of these occurs in a tree of plain types.
    - It is *not canonical*: a permuted dict has another alias, and reaches the key by the long way.

    It is written and compared, never read back, and never leaves the process. Unlike :func:`encoded`
    it sets no limit of its own to the size of what it writes: a list that contains itself twice, or a
    thousand layers of sharing, keep it busy without end. No decoded JSON has these.
    """
    try:
        data: bytes = write_alias(value, 2)
    except Exception:  # whatever is wrong with it, it has no alias; the long way will say so
        return None
    return data
