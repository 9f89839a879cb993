"""One tool's codec: tries the written forms in turn and keeps the first faithful one.

A form is faithful when decoding what was encoded gives a value that is `same` as the
tool's. The verdict is on each value, never on a type: a model whose private attribute
holds its default may go through pydantic, the next one may not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property, partial
from sys import getsizeof
from typing import Any, Protocol, runtime_checkable
from zlib import crc32

from pydantic import TypeAdapter

from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.codecs.compare import ATOMS, same
from agent_cache.codecs.frame import HEAD, opened, sealed
from agent_cache.codecs.near import MAX_DEPTH, Stored, immutable, is_json, measure, near
from agent_cache.codecs.packed import PACKED, unpack
from agent_cache.codecs.tree import json_text, read_tree, write_tree
from agent_cache.codecs.types import Reach, is_blank
from agent_cache.errors import UnstorableResultError

__all__ = ["Codec", "ToolCodec", "codec_for", "with_user_codec"]

_JSON, _TREE, _MODEL, _USER = b"J", b"T", b"P", b"U"


@runtime_checkable
class Codec(Protocol):
    """A codec of your own for one tool: ``@cache(codec=MyCodec())``.

    ``decode(encode(value))`` must give an equal value of the same types, and a new one
    each time; a result for which it does not is returned to the caller but not stored.
    """

    def encode(self, value: Any) -> bytes:
        """Bytes for a value."""
        ...

    def decode(self, payload: bytes) -> Any:
        """A new value for the bytes."""
        ...


def codec_for(annotation: Any) -> ToolCodec:
    """The codec for a tool that returns ``annotation`` (anything at all; never raises)."""
    return ToolCodec(annotation)


def with_user_codec(codec: Codec, annotation: Any) -> ToolCodec:
    """The codec for a tool whose author brought one of their own."""
    return _UserToolCodec(codec, annotation)


class ToolCodec:
    """Keeps one tool's results; made by :func:`codec_for` once per tool."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._best: str | None = None  # the form that was faithful last
        self.lasting = False
        """Whether this tool's entries are kept beyond their freshness: then a store has to say what is left of it."""

    @cached_property
    def schema(self) -> str:
        """Short hex of the return type's shape; part of the tool's identity."""
        return self._reach.fingerprint

    @cached_property
    def _reach(self) -> Reach:
        return Reach(self._annotation)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any] | None:
        if is_blank(self._annotation):
            return None
        try:
            return TypeAdapter(self._annotation)
        except Exception:  # not a type pydantic knows: the tree form is left
            return None

    def freeze(self, value: Any, max_bytes: int | None = None) -> Stored:
        """Keep a value so that callers can have it again, each its own.

        Raises UnstorableResultError, and nothing else, for one that would not come
        back the same; ``reason`` is one of ``not_faithful``, ``unknown_type``,
        ``too_large``, ``too_deep``, ``stream`` and ``codec_error``.
        """
        if type(value) in ATOMS:
            size = getsizeof(value)
            if max_bytes is None or size <= max_bytes:
                return Stored(value, None, size, self)
            raise UnstorableResultError("too_large", f"{size} bytes, limit {max_bytes}")
        try:
            stored = near(value, self, max_bytes)
            return self._rebuilt(value, max_bytes) if stored is None else stored
        except UnstorableResultError:
            raise
        except Exception as error:
            raise _wrapped(error) from None

    def thaw_payload(self, payload: bytes, max_bytes: int = MAX_ENTRY_BYTES) -> Stored:
        """What a far tier had; UnstorableResultError for anything malformed, or packed and larger than that inside."""
        try:
            form, body = opened(payload)
            if form == _JSON:
                value = json.loads(body.decode())
            elif form == _TREE:
                value = read_tree(body, self._reach)
            elif form == _MODEL:
                value = self._validate(body)
            elif form == PACKED:
                return self.thaw_payload(unpack(body, max_bytes))
            else:
                raise UnstorableResultError("codec_error", "unknown format")
            if form != _MODEL:
                stored = near(value, self, None)
                if stored is not None:
                    return stored
            return Stored(None, partial(self._thaw, payload), len(payload), payload)
        except Exception as error:
            raise _wrapped(error) from None

    def to_payload(self, value: Any) -> bytes:
        """Written form of a value the near tier holds without one."""
        try:
            if is_json(value):
                try:
                    return sealed(_JSON, json_text(value).encode())
                except ValueError:  # a lone surrogate, an int beyond the digit limit
                    pass
            return self._tree(value)
        except UnstorableResultError:
            raise
        except Exception as error:
            raise _wrapped(error) from None

    # -- values whose classes must be rebuilt

    def _rebuilt(self, value: Any, max_bytes: int | None) -> Stored:
        failure: UnstorableResultError | None = None
        forms = self._forms()
        if self._best is not None:
            forms.sort(key=lambda form: form[0] != self._best)
        for name, encode in forms:
            try:
                payload = encode(value)
                if not same(self._thaw(payload), value):
                    raise UnstorableResultError("not_faithful", f"{type(value).__qualname__} as {name}")
            except Exception as error:
                refusal = _wrapped(error)
                # the tree form says which type it is; pydantic only that it did not work
                if failure is None or name == "tree":
                    failure = refusal
                continue
            if max_bytes is not None and len(payload) > max_bytes:
                raise UnstorableResultError("too_large", f"{len(payload)} bytes, limit {max_bytes}")
            self._best = name
            return Stored(None, partial(self._thaw, payload), len(payload), payload)
        raise failure or UnstorableResultError("unknown_type", type(value).__qualname__)

    def _forms(self) -> list[tuple[str, Callable[[Any], bytes]]]:
        tree = ("tree", self._tree)
        adapter = self._adapter
        if adapter is None:
            return [tree]
        full = [(f"json{alias:d}", partial(self._dump, adapter, alias, False)) for alias in (True, False)]
        unset = [(f"unset{alias:d}", partial(self._dump, adapter, alias, True)) for alias in (True, False)]
        reach = self._reach
        if not reach.quiet:  # its code would run on every hit; the tree form runs none
            return [tree, *full, *unset]
        if reach.factories:  # a field left out would be made anew on every hit
            return [*full, tree, *unset]
        return [*full, *unset, tree]

    def _tree(self, value: Any) -> bytes:
        return sealed(_TREE, write_tree(value, self._reach))

    def _dump(self, adapter: TypeAdapter[Any], alias: bool, unset: bool, value: Any) -> bytes:
        return sealed(
            _MODEL,
            adapter.dump_json(value, by_alias=alias, exclude_unset=unset, round_trip=True, warnings=False),
        )

    def _validate(self, body: bytes) -> Any:
        adapter = self._adapter
        if adapter is None:
            raise UnstorableResultError("codec_error", "no schema")
        return adapter.validate_json(body)

    def _thaw(self, payload: bytes) -> Any:
        body = payload[HEAD:]
        try:
            return read_tree(body, self._reach) if payload[:1] == _TREE else self._validate(body)
        except Exception as error:  # a validator that changed its mind
            raise _wrapped(error) from None


class _UserToolCodec(ToolCodec):
    def __init__(self, codec: Codec, annotation: Any) -> None:
        super().__init__(annotation)
        self._codec = codec

    @cached_property
    def schema(self) -> str:
        cls = type(self._codec)
        name = f"{cls.__module__}:{cls.__qualname__}".encode("utf-8", "replace")
        return f"{self._reach.fingerprint}{crc32(name):08x}"

    def freeze(self, value: Any, max_bytes: int | None = None) -> Stored:
        try:
            return self._freeze(value, max_bytes)
        except Exception as error:
            raise _wrapped(error) from None

    def _freeze(self, value: Any, max_bytes: int | None) -> Stored:
        # streams, cycles and blow-ups are refused before the user's code sees them
        limit = _NO_LIMIT if max_bytes is None else max_bytes
        size = measure(value, limit, MAX_DEPTH)
        payload = self.to_payload(value)
        if max_bytes is not None and len(payload) > max_bytes:
            raise UnstorableResultError("too_large", f"{len(payload)} bytes, limit {max_bytes}")
        decoded = self._thaw(payload)
        if not same(decoded, value):
            raise UnstorableResultError("not_faithful", type(value).__qualname__)
        if immutable(value):
            return Stored(value, None, size + len(payload), payload)
        if decoded is value or self._thaw(payload) is decoded:
            raise UnstorableResultError("not_faithful", "decode gives one object to all callers")
        return Stored(None, partial(self._thaw, payload), len(payload), payload)

    def thaw_payload(self, payload: bytes, max_bytes: int = MAX_ENTRY_BYTES) -> Stored:
        try:
            form, body = opened(payload)
            if form == PACKED:
                return self.thaw_payload(unpack(body, max_bytes))
            if form != _USER:
                raise UnstorableResultError("codec_error", "unknown format")
            value = self._thaw(payload)
            if immutable(value):
                return Stored(value, None, getsizeof(value) + len(payload), payload)
            return Stored(None, partial(self._thaw, payload), len(payload), payload)
        except Exception as error:
            raise _wrapped(error) from None

    def to_payload(self, value: Any) -> bytes:
        body: object = self._codec.encode(value)
        if type(body) is not bytes:
            raise UnstorableResultError("codec_error", f"encode gave {type(body).__qualname__}, not bytes")
        return sealed(_USER, body)

    def _thaw(self, payload: bytes) -> Any:
        try:
            return self._codec.decode(payload[HEAD:])
        except Exception as error:
            raise _wrapped(error) from None


_NO_LIMIT = 1 << 30


def _wrapped(error: Exception) -> UnstorableResultError:
    """Ours as it is; anything else by its class only, for its text may hold the data."""
    if isinstance(error, UnstorableResultError):
        return error
    if isinstance(error, RecursionError):
        return UnstorableResultError("too_deep", "recursion limit")
    return UnstorableResultError("codec_error", type(error).__qualname__)
