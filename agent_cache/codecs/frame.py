"""The head of every written form: one byte of format, four of CRC-32 over the rest (started from the format).

What the formats mean is :mod:`.tool`'s business.
"""

from __future__ import annotations

from zlib import crc32

from agent_cache.errors import UnstorableResultError

__all__ = ["HEAD", "opened", "sealed"]

HEAD = 5


def sealed(form: bytes, body: bytes) -> bytes:
    """A written form."""
    return b"".join((form, crc32(body, form[0]).to_bytes(4, "big"), body))


def opened(payload: bytes) -> tuple[bytes, bytes]:
    """Format and body.

    Raises:
        UnstorableResultError: ``codec_error``, for what was not written like this, or is damaged.
    """
    body = payload[HEAD:]
    if len(payload) < HEAD or payload[1:HEAD] != crc32(body, payload[0]).to_bytes(4, "big"):
        raise UnstorableResultError("codec_error", "checksum")
    return payload[:1], body
