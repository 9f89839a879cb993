"""Which exceptions of a write tool say that nothing was changed: ``no_effect=(OutOfStock,)``, checked at decoration.

An exception may stand for "refused, nothing happened" only if it cannot also come after a commit. Those that can are
refused by class: time-outs, cancellations, connections, validation of what the source returned, and whatever covers one.
What a write window does with it is not known here.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

from pydantic import ValidationError

from agent_cache.errors import ConfigurationError, NoEffect

__all__ = ["checked_no_effect", "says_no_effect"]

_FIX = "raise NoEffect, or a class of your own that is raised before anything is changed"
_UNCLEAR: tuple[tuple[type[BaseException], str], ...] = (
    (asyncio.CancelledError, "a cancelled write may have been committed"),
    (TimeoutError, "a write that timed out may have been committed"),
    (OSError, "a write whose connection broke may have been committed"),
    (ValidationError, "pydantic raises it after a commit too, about what the source returned"),
    (BaseExceptionGroup, "a group may hold anything"),
    (KeyboardInterrupt, "a write that was interrupted may have been committed"),
    (SystemExit, "a write that was interrupted may have been committed"),
    (GeneratorExit, "a write that was torn away may have been committed"),
)
_NEVER = tuple(kind for kind, _ in _UNCLEAR)


def checked_no_effect(no_effect: object) -> tuple[type[Exception], ...]:
    """The classes, as a tuple.

    Raises:
        ConfigurationError: something that is no exception class, or one that can also be raised after a commit.
    """
    if no_effect is None:
        return ()
    kinds: tuple[Any, ...] = tuple(no_effect) if isinstance(no_effect, (tuple, list)) else (no_effect,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            fix = "give exception classes, such as (OutOfStock,)"
            if callable(kind) and not isinstance(kind, type):
                fix += "; a function of the result is no_effect_if="
            raise ConfigurationError("no_effect", no_effect, fix)
        why = _why_unclear(kind)
        if why is not None:
            raise ConfigurationError("no_effect", no_effect, f"{why}; {_FIX}")
    return kinds


def _why_unclear(kind: type[BaseException]) -> str | None:
    for unclear, why in _UNCLEAR:
        if issubclass(kind, unclear):
            return f"{kind.__name__}: {why}"
    for unclear, why in _UNCLEAR:
        if issubclass(unclear, kind):
            return f"{kind.__name__} covers {unclear.__name__}: {why}"
    for base in kind.__mro__:  # pydantic.v1 has one of its own, which is not to be imported for this
        if base.__name__ == "ValidationError" and base.__module__.partition(".")[0].startswith("pydantic"):
            return f"{kind.__name__}: pydantic raises it after a commit too, about what the source returned"
    if not issubclass(kind, Exception):
        return f"{kind.__name__}: it is not an Exception"
    return None


def says_no_effect(error: BaseException, declared: tuple[type[Exception], ...], tool: object) -> bool:
    """Whether this error says that ``tool`` changed nothing. One that is also a time-out, or the like, does not.

    A :class:`NoEffect` that another write tool, called inside this one, has raised says so of that one only: nobody knows
    what this one did before.
    """
    if isinstance(error, _NEVER):
        return False
    if not isinstance(error, NoEffect):
        return isinstance(error, declared)
    return _SAID.first_by(error, tool) is tool or isinstance(error, declared)


class _Said:
    """Of which tool each :class:`NoEffect` was said: the first one that it left."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[weakref.ref[NoEffect], object]] = {}

    def first_by(self, error: NoEffect, tool: object) -> object:
        """The tool it was said of; that is ``tool`` if nobody has asked before."""
        name = id(error)
        known = self._by_id.get(name)
        if known is not None and known[0]() is error:
            return known[1]
        self._by_id[name] = weakref.ref(error, lambda _: self._by_id.pop(name, None)), tool
        return tool


_SAID = _Said()
