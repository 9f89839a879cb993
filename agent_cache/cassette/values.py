"""An argument as JSON that people can read and that tells types apart; and a call's key, made from it.

Plain JSON is itself. Everything else, and every object that could be taken for it, is ``{"$": TYPE, "of": ...}``. So a
call's key can be computed from its line, and a cassette can be edited by hand. Classes are named, never looked up. Secrets
are replaced before anything else happens, so that a key tells nothing of them either.

What has no form (a connection, a context) is ``{"$": TYPE, "of": "?"}``: calls that differ only there are one call.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel, SecretBytes, SecretStr

from agent_cache.canonical import encoded
from agent_cache.errors import ConfigurationError, UnkeyableArgumentError

__all__ = ["REDACTED", "Redact", "call_key", "json_line", "plain", "redacted"]

Redact = Iterable[str] | Callable[[str, dict[str, Any]], Mapping[str, Any]]
"""Names of parameters (and of keys inside them), or a function of the tool's name and its arguments."""

REDACTED = {"$": "redacted"}
_MAX_TEXT = 4_096  # characters; a longer text is kept as its beginning, its length and its digest
_MAX_DEPTH = 64
_MAX_NODES = 100_000
_BIG = 1 << 63
_HOOK = "__agent_cache_key__"

json_line = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_sorted_line = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False).encode


def call_key(tool: str, who: object, arguments: Mapping[str, Any]) -> str:
    """What a call is recognised by: equal for equal calls, from a program or from a file."""
    text = _sorted_line([tool, who, arguments])
    return hashlib.blake2b(text.encode(), digest_size=20, person=b"cassette.1").hexdigest()


class _Redacted:
    """Stands where a secret was."""


def redacted(redact: Redact, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments without their secrets.

    Raises:
        ConfigurationError: a ``redact`` function that raised, or gave something else than arguments. Its text is left out:
            it may hold the secret.
    """
    if callable(redact):
        try:
            return dict(redact(tool, dict(arguments)))
        except Exception as error:  # noqa: BLE001 - the user's function
            fix = f"it raised {type(error).__name__} for {tool}; it must return the arguments to be kept, as a mapping"
            raise ConfigurationError("redact", redact, fix) from None
    names = frozenset(redact)
    return {name: _without(value, names, 0) if name not in names else _Redacted() for name, value in arguments.items()}


def _without(value: Any, names: frozenset[str], depth: int) -> Any:
    """A value whose mappings (and models) have the named entries replaced."""
    if not names or depth > _MAX_DEPTH:
        return value
    if isinstance(value, BaseModel):
        value = dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = _fields_of(value)
    if isinstance(value, Mapping):
        return {k: _Redacted() if k in names else _without(v, names, depth + 1) for k, v in value.items()}
    if type(value) in (list, tuple):
        items = [_without(item, names, depth + 1) for item in cast("list[Any]", value)]
        return tuple(items) if type(value) is tuple else items
    return value


def _fields_of(value: Any) -> dict[Any, Any]:
    return {field.name: getattr(value, field.name, None) for field in fields(value)}


def plain(value: Any) -> Any:
    """A value as JSON; never raises for a value."""
    return _Plainly().form(value, 0)


class _Plainly:
    def __init__(self) -> None:
        self.left = _MAX_NODES

    def form(self, value: Any, depth: int) -> Any:
        kind = type(value)
        self.left -= 1
        if value is None or kind is bool:
            return value
        if kind is str:
            return _text(value)
        if kind is int:
            return value if -_BIG < value < _BIG else _tagged("int", format(value, "x"))
        if kind is float:
            return value if isfinite(value) else _tagged("float", repr(value))
        if kind is _Redacted:
            return REDACTED
        if depth >= _MAX_DEPTH or self.left < 0:
            return _unknown(kind)
        try:
            return self._other(value, kind, depth + 1)
        except Exception:  # noqa: BLE001 - somebody's property or __iter__; a value without a form has none
            return _unknown(kind)

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        if kind is list:
            return [self.form(item, depth) for item in value]
        if kind is dict:
            return self._dict(value, depth)
        if kind is tuple:
            return _tagged("tuple", [self.form(item, depth) for item in value])
        if kind in (set, frozenset):
            return _tagged(kind.__name__, sorted((self.form(item, depth) for item in value), key=_sorted_line))
        if kind in (bytes, bytearray):
            return _tagged(kind.__name__, _text(b64encode(value).decode()))
        if isinstance(value, (SecretStr, SecretBytes)):
            return REDACTED
        if isinstance(value, Enum):
            return _tagged(_name(kind), value.name)
        if kind in (datetime, date, time):
            return _tagged(kind.__name__, value.isoformat())
        if kind in (Decimal, UUID, timedelta) or isinstance(value, PurePath):
            return _tagged(kind.__name__, str(value))
        if isinstance(value, BaseModel):
            return _tagged(_name(kind), self._dict(dict(value), depth))
        if is_dataclass(value):
            return _tagged(_name(kind), self._dict(_fields_of(value), depth))
        return self._hooked(value, kind, depth)

    def _hooked(self, value: Any, kind: type, depth: int) -> Any:
        hook = getattr(kind, _HOOK, None)
        if hook is not None:
            return _tagged(_name(kind), self.form(hook(value), depth))
        if isinstance(value, (str, int, float)):
            base = next(base for base in (str, int, float) if isinstance(value, base))
            return _tagged(_name(kind), self.form(base(value), depth))
        if isinstance(value, tuple):
            return _tagged(_name(kind), [self.form(item, depth) for item in value])
        if isinstance(value, Mapping):
            return _tagged(_name(kind), self._dict(dict(value), depth))
        try:
            return _tagged(_name(kind), hashlib.blake2b(encoded(value, "value"), digest_size=16).hexdigest())
        except UnkeyableArgumentError:
            return _unknown(kind)

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        if "$" not in value and all(type(key) is str and _clean(key) for key in value):
            return {key: self.form(item, depth) for key, item in value.items()}
        pairs = [[self.form(key, depth), self.form(item, depth)] for key, item in value.items()]
        return _tagged("dict", sorted(pairs, key=_sorted_line))


def _tagged(tag: str, of: Any) -> dict[str, Any]:
    return {"$": tag, "of": of}


def _unknown(kind: type) -> dict[str, Any]:
    return _tagged(_name(kind), "?")


def _name(kind: type) -> str:
    """A class as people write it; where it was made is left out: a test makes its own each time."""
    return kind.__qualname__.rpartition("<locals>.")[2].encode("utf-8", "replace").decode()


def _clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(text: str) -> Any:
    data = text.encode("utf-8", "surrogatepass")
    if not _clean(text):
        return _tagged("str", b64encode(data).decode()) if len(text) <= _MAX_TEXT else _long(data, "", len(text))
    return text if len(text) <= _MAX_TEXT else _long(data, text[:200], len(text))


def _long(data: bytes, begins: str, characters: int) -> dict[str, Any]:
    digest = hashlib.blake2b(data, digest_size=20).hexdigest()
    return _tagged("text", {"begins": begins, "characters": characters, "digest": digest})
