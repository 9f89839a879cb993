"""How much Redis takes in one value: not asked for (that is often forbidden) but found out, and believed for a while.

A value beyond ``proto-max-bulk-len``, or beyond what a proxy lets pass, ends the connection, and with it whatever
everybody else had asked on it: one tool with large results would keep all others from the cache.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent_cache.backends.redis.links import RefusedError
from agent_cache.backends.redis.wire import WireDownError
from agent_cache.clock import uptime
from agent_cache.errors import UnstorableResultError

__all__ = ["SMALL", "Sizes"]

T = TypeVar("T")

SMALL = 64 * 1024
"""Bytes that pass everywhere: what is lost with so few was not lost because of them, and is not sent by way of here."""
_BELIEVED = 60.0
_TOO_LONG = ("invalid bulk length", "max request size")


class Sizes:
    """What was too large for this Redis lately."""

    def __init__(self) -> None:
        self.clock = uptime
        self._refused = 0
        self._until = 0.0

    async def sent(self, size: int, send: Callable[[], Awaitable[T]]) -> T:
        """What ``send()`` gives, which sends a value of so many bytes, more than :data:`SMALL`.

        Raises:
            UnstorableResultError: ``too_large``; as much was refused within the last minute, or is now.
            BackendError: whatever else ``send`` raises.
        """
        if size >= self._refused > 0 and self.clock() < self._until:
            raise self._too_large(size)
        try:
            return await send()
        except (RefusedError, WireDownError) as error:
            if not _says_too_large(error):
                raise
            self._refused = size if self.clock() >= self._until else min(size, self._refused)
            self._until = self.clock() + _BELIEVED
            raise self._too_large(size) from error

    def _too_large(self, size: int) -> UnstorableResultError:
        return UnstorableResultError("too_large", f"{size} bytes; Redis ended the connection over {self._refused}")


def _says_too_large(error: RefusedError | WireDownError) -> bool:
    if isinstance(error, RefusedError):
        return any(words in str(error) for words in _TOO_LONG)
    return error.cut_short
