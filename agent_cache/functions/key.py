"""A call as a value, and the ttl that is no limit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

from agent_cache.canonical import encoded
from agent_cache.errors import ConfigurationError

__all__ = ["KEY", "NEVER"]

NEVER: Final = math.inf
"""A ttl: this value never expires, whatever the default is. (``ttl=None`` means that none was given.)"""


class KEY:
    """A call's arguments as one immutable, hashable value: equal exactly when the calls are equal.

    Types count (``1`` is not ``True``, ``1.0`` or ``"1"``) and the order of keyword arguments does not. It is fit to be
    a key of :class:`~agent_cache.AsyncCache`, or what ``key_fn`` returns.

    Args:
        args: the positional arguments.
        kwargs: the keyword arguments.

    What the arguments refer to is not copied: its value at this moment is what the key stands for.

    Raises:
        UnkeyableArgumentError: an argument without a canonical form, such as a live object; it is named.
    """

    __slots__ = ("_args", "_digest", "_kwargs")

    _args: tuple[Any, ...]
    _kwargs: Mapping[str, Any]
    _digest: bytes

    def __init__(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        if isinstance(args, (str, bytes)) or not isinstance(args, Iterable):
            raise ConfigurationError("args", args, "give the positional arguments as a tuple")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise ConfigurationError("kwargs", kwargs, "give the keyword arguments as a dict")
        positional, named = tuple(args), dict(kwargs or {})
        parts = [len(positional).to_bytes(4, "big")]
        parts += [encoded(value, f"args[{at}]") for at, value in enumerate(positional)]
        for name in sorted(named):
            parts += [encoded(name, "kwargs"), encoded(named[name], name)]
        put = object.__setattr__
        put(self, "_args", positional)
        put(self, "_kwargs", MappingProxyType(named))
        put(self, "_digest", hashlib.blake2b(b"".join(parts), digest_size=20).digest())

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return self._args

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The keyword arguments, read-only."""
        return self._kwargs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KEY) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        return f"KEY#{self._digest.hex()}"

    def __agent_cache_key__(self) -> bytes:
        return self._digest

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a KEY cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a KEY cannot be changed: {name}")

    def __copy__(self) -> KEY:
        return self

    def __deepcopy__(self, _memo: object) -> KEY:
        return self
