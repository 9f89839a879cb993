"""A written form made smaller, and out again within a limit.

A packed payload is a payload of a format of its own (``Z``): a byte for the method, four for the length of what is
inside, then that, compressed. So it is told apart from any other, whoever reads it: with or without the option,
and an older version finds a format it does not know, which is a miss. When to pack is the backends' business.
"""

from __future__ import annotations

import zlib

from agent_cache.codecs.frame import opened, sealed
from agent_cache.errors import UnstorableResultError

__all__ = ["PACKED", "pack", "plain", "unpack"]

PACKED = b"Z"
_DEFLATE = b"z"
_LEVEL = 1  # 3 takes a third more time and saves an eighth of the bytes; 6 three times as long for a quarter
_HEAD = 5
_WORTH = 7 / 8  # what does not become smaller by an eighth is left as it is


def pack(payload: bytes) -> bytes:
    """The payload, packed if that makes it smaller."""
    if payload[:1] == PACKED:
        return payload
    packed = sealed(PACKED, b"".join((_DEFLATE, len(payload).to_bytes(4, "big"), zlib.compress(payload, _LEVEL))))
    return packed if len(packed) <= len(payload) * _WORTH else payload


def plain(payload: bytes, limit: int) -> bytes:
    """The payload as it was before it was packed, its checksum compared.

    Raises:
        UnstorableResultError: as :func:`unpack`.
    """
    form, body = opened(payload)
    return unpack(body, limit) if form == PACKED else payload


def unpack(body: bytes, limit: int) -> bytes:
    """What is inside the body of a packed payload, exactly as long as it says and no longer than ``limit`` bytes.

    Takes no more memory than that, whatever the body is.

    Raises:
        UnstorableResultError: ``too_large`` beyond the limit, ``codec_error`` for anything else that :func:`pack` did not make.
    """
    length = int.from_bytes(body[1:_HEAD], "big")
    if len(body) < _HEAD or body[:1] != _DEFLATE:
        raise UnstorableResultError("codec_error", "unknown method")
    if length > limit:
        raise UnstorableResultError("too_large", f"{length} bytes, limit {limit}")
    stream = zlib.decompressobj()
    try:
        inside = stream.decompress(body[_HEAD:], length + 1)  # one more than may come; 0 would mean without limit
    except zlib.error as error:
        raise UnstorableResultError("codec_error", type(error).__name__) from None
    if len(inside) != length or not stream.eof or stream.unused_data:
        raise UnstorableResultError("codec_error", "length")
    form, _ = opened(inside)
    if form == PACKED:
        raise UnstorableResultError("codec_error", "packed twice")
    return inside
