"""What a codec adds where freshness asks for more than a value: exceptions as answers, and a source's version beside a value.

An exception is kept as its arguments and attributes, in the written form of plain values; which classes there are is
known from the decorator, and data only says which of them it is. It is made anew without running its constructor, and
only one that then equals the one that was raised is kept. What came before it (``__cause__``) is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.codecs.compare import same
from agent_cache.codecs.frame import opened, sealed
from agent_cache.codecs.near import Stored
from agent_cache.codecs.packed import PACKED, unpack
from agent_cache.codecs.tool import ToolCodec, codec_for
from agent_cache.errors import UnstorableResultError

__all__ = ["FAILURE", "Failure", "LastingCodec", "Marked"]

FAILURE, _MARKED = b"X", b"V"
_MARK = 20
_PLAIN = codec_for(Any)
_OF_A_RAISE = frozenset({"args", "__dict__", "__traceback__", "__context__", "__cause__", "__suppress_context__"})
_OVERHEAD = 400  # bytes


class Failure(Stored):
    """An exception as it is kept. There is no value: :meth:`fresh` raises a new one, as the tool did."""

    __slots__ = ("_args", "_kind", "_state")

    def __init__(self, kind: type[Exception], args: Stored, state: Stored, payload: bytes) -> None:
        super().__init__(None, self._raise, len(payload) + _OVERHEAD, payload)
        self._kind = kind
        self._args = args
        self._state = state

    def error(self) -> Exception:
        """A new one for one caller, equal to the one that was raised."""
        try:
            args: tuple[Any, ...] = self._args.fresh()
            made = self._kind.__new__(self._kind, *args)
            made.args = args
            made.__dict__.update(self._state.fresh())
        except UnstorableResultError:
            raise
        except Exception as error:
            raise UnstorableResultError("codec_error", type(error).__name__) from None
        return made

    def _raise(self) -> Any:
        raise self.error()

    def fingerprint(self) -> int:
        return hash(self.payload())


class Marked(Stored):
    """A value with the digest of its source's version."""

    __slots__ = ("_inner", "mark")

    def __init__(self, inner: Stored, mark: bytes) -> None:
        super().__init__(inner.value, inner.thaw, inner.size + _MARK, b"")
        self._inner = inner
        self.mark = mark

    def payload(self, *, keep: bool = True) -> bytes:
        return sealed(_MARKED, self.mark + self._inner.payload(keep=keep))

    def fingerprint(self) -> int:
        return self._inner.fingerprint()


class LastingCodec(ToolCodec):
    """A tool's codec that also keeps exceptions of some classes, and values with a mark."""

    def __init__(self, inner: ToolCodec, kinds: Iterable[type[Exception]] = (), *, lasting: bool = False) -> None:
        super().__init__(Any)
        self._inner = inner
        self._names = _named(kinds)
        self._kinds = {name: kind for kind, name in self._names.items()}
        self.lasting = lasting

    @cached_property
    def schema(self) -> str:
        return self._inner.schema

    def freeze(self, value: Any, max_bytes: int | None = None) -> Stored:
        return self._inner.freeze(value, max_bytes)

    def to_payload(self, value: Any) -> bytes:
        return self._inner.to_payload(value)

    def marked(self, stored: Stored, mark: bytes) -> Stored:
        """``stored`` beside a digest of 20 bytes."""
        return Marked(stored, mark)

    def freeze_error(self, error: Exception, max_bytes: int) -> Failure:
        """Keep an exception of a known class.

        Raises:
            UnstorableResultError: ``error_class`` where the class is not one of them itself; else as for a value.
        """
        name = self._names.get(type(error))
        if name is None:
            raise UnstorableResultError("error_class", f"{type(error).__qualname__} itself is not in cache_errors")
        payload = sealed(FAILURE, _PLAIN.freeze((name, error.args, vars(error)), max_bytes).payload())
        kept = self._failure(payload)
        try:
            faithful = _equal(kept.error(), error)
        except UnstorableResultError:
            raise
        except Exception as failed:  # its own repr, or somebody's __eq__
            raise UnstorableResultError("codec_error", type(failed).__name__) from None
        if not faithful:
            raise UnstorableResultError("not_faithful", f"{type(error).__qualname__} has more than its arguments tell")
        return kept

    def thaw_payload(self, payload: bytes, max_bytes: int = MAX_ENTRY_BYTES) -> Stored:
        if payload[:1] == PACKED:
            payload = unpack(opened(payload)[1], max_bytes)
        if payload[:1] == FAILURE:
            return self._failure(payload)
        if payload[:1] == _MARKED:
            body = opened(payload)[1]
            return Marked(self._inner.thaw_payload(body[_MARK:], max_bytes), body[:_MARK])
        return self._inner.thaw_payload(payload, max_bytes)

    def _failure(self, payload: bytes) -> Failure:
        found = _PLAIN.thaw_payload(opened(payload)[1]).fresh()
        if type(found) is not tuple or len(found) != 3:
            raise UnstorableResultError("codec_error", "no exception")
        name, args, state = found
        kind = self._kinds.get(name) if type(name) is str else None
        if kind is None or type(args) is not tuple or type(state) is not dict or set(map(type, state)) - {str}:
            raise UnstorableResultError("codec_error", "an exception that is not in cache_errors")
        return Failure(kind, _PLAIN.freeze(args), _PLAIN.freeze(state), payload)


def _named(kinds: Iterable[type[Exception]]) -> dict[type[Exception], str]:
    """A name for each class, the same in every process; two of one name are told apart by their place."""
    names: dict[type[Exception], str] = {}
    for kind in kinds:
        plain = name = f"{kind.__module__}:{kind.__qualname__}"
        count = 1
        while name in names.values():
            count += 1
            name = f"{plain}#{count}"
        names[kind] = name
    return names


def _equal(made: Exception, raised: Exception) -> bool:
    """Whether nobody could tell them apart, but for how they came about."""
    if not same(made.args, raised.args) or not same(vars(made), vars(raised)):
        return False
    if any(not same(*both) for both in _slots(made, raised)):
        return False
    return str(made) == str(raised) and repr(made) == repr(raised)


def _slots(made: Exception, raised: Exception) -> Iterable[tuple[Any, Any]]:
    """What is kept outside of arguments and attributes, of both."""
    nothing = object()
    for cls in type(raised).__mro__:
        for name, holder in vars(cls).items():
            if isinstance(holder, (GetSetDescriptorType, MemberDescriptorType)) and name not in _OF_A_RAISE:
                mine, theirs = getattr(made, name, nothing), getattr(raised, name, nothing)
                if mine is not theirs:
                    yield mine, theirs
