"""Whether what a backend stores is compressed, and where that is done.

How is :mod:`agent_cache.codecs.packed`'s business.
"""

from __future__ import annotations

import asyncio

from agent_cache.codecs.packed import pack
from agent_cache.errors import ConfigurationError

__all__ = ["COMPRESS_FROM", "Packing", "compress_option"]

COMPRESS_FROM = 2_048
"""Bytes; from here on compressing JSON costs no more than writing it did, and leaves a third (docs/bounds.md)."""
_ASIDE_FROM = 131_072  # bytes; about a millisecond


class Packing:
    """What ``compress=`` means.

    Args:
        compress: False = off, True = from :data:`COMPRESS_FROM` bytes on, or a number of bytes.

    Raises:
        ConfigurationError: anything else.
    """

    __slots__ = ("least",)

    def __init__(self, compress: bool | int) -> None:
        if not isinstance(compress, int) or compress < 0 or (compress == 0 and compress is not False):
            fix = f"give True (from {COMPRESS_FROM} bytes on), a whole number of bytes from 1, or False"
            raise ConfigurationError("compress", compress, fix)
        self.least: int | None = None if compress is False else COMPRESS_FROM if compress is True else compress

    def now(self, payload: bytes) -> bytes:
        """As it is to be stored."""
        return payload if self.least is None or len(payload) < self.least else pack(payload)

    async def aside(self, payload: bytes) -> bytes:
        """The same; what takes long is done on another thread."""
        if self.least is None or len(payload) < max(self.least, _ASIDE_FROM):
            return self.now(payload)
        return await asyncio.to_thread(pack, payload)


def compress_option(text: str) -> bool | int | None:
    """``?compress=`` of a URL; None for what is none."""
    if text.isdigit() and text != "0":
        return int(text)
    return {"true": True, "false": False}.get(text)
