"""What things are called in the file: digests, never the text a user gave; and the seal of an entry."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from hmac import compare_digest
from typing import Any

from agent_cache.tags import CallTags, Chain, SharedTags, Tag

__all__ = ["GROUP", "SPACE", "Names", "TagSet", "text_key", "tool_key"]

_CACHED = 8_192
_LARGEST = 64
"""Tags of a set that is remembered: so many sets of any size would have no bound."""
GROUP, SPACE = 16, 8
"""Bytes of a group's name, and of the namespace before it where there is one."""


def _encoded(parts: Sequence[str]) -> bytes:
    """Injective: every part with its length."""
    pieces = [len(parts).to_bytes(4, "big")]
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        pieces += (len(raw).to_bytes(4, "big"), raw)
    return b"".join(pieces)


class TagSet:
    """The tags of one call: their names in the file, and a digest of them all (a stamp is for one set only)."""

    __slots__ = ("digest", "ids", "last", "tags")

    def __init__(self, ids: tuple[bytes, ...], tags: tuple[Tag, ...] = ()) -> None:
        self.ids = ids
        self.tags = tags
        self.digest = hashlib.blake2b(b"".join(ids), digest_size=8).digest()
        self.last: tuple[object, Any] | None = None
        """What was made of their rows last, and under which :class:`.tagrows.Known`."""


class Names:
    """Names under one secret (or none)."""

    def __init__(self, secret: bytes | None) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"agent_cache disk").digest() if secret else b""
        self.sealed = bool(secret)
        self.set_of = lru_cache(maxsize=_CACHED)(self._set_of)
        self.tag = lru_cache(maxsize=_CACHED)(self._tag)  # most tags of a call are those of other calls too
        self.shared = lru_cache(maxsize=_CACHED)(self._shared)
        self.whose = lru_cache(maxsize=_CACHED)(lambda kind, chain: _encoded((kind,)) + _encoded(chain))
        self.chain = lru_cache(maxsize=_CACHED)(self._chain)
        self.group = lru_cache(maxsize=_CACHED)(self._group)
        self.space = lru_cache(maxsize=_CACHED)(self._space)
        self.check = self._digest(b"check", b"") if secret else b""
        """Recorded in the file: two secrets on one file would not see each other's writes."""

    def _digest(self, what: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16, key=self._key, person=what).digest()

    def _tag(self, tag: Tag) -> bytes:
        kind, chain, path = tag
        return self._digest(b"tag", self.whose(kind, chain) + _encoded(path))

    def _set_of(self, tags: tuple[Tag, ...]) -> TagSet:
        if isinstance(tags, CallTags):
            return TagSet(self.shared(tags.shared) + tuple([self.tag(tag) for tag in tags.own]), tags)
        return TagSet(tuple([self.tag(tag) for tag in tags]), tags)

    def _shared(self, shared: SharedTags) -> tuple[bytes, ...]:
        return tuple([self.tag(tag) for tag in shared.tags])

    def of(self, tags: Sequence[Tag]) -> TagSet:
        given = tags if isinstance(tags, tuple) else tuple(tags)
        return self.set_of(given) if len(given) <= _LARGEST else self._set_of(given)

    def _chain(self, chain: Chain) -> bytes | None:
        return self._digest(b"chain", _encoded(chain)) if chain else None

    def _group(self, group: str, namespace: str = "") -> bytes:
        """Of one tool; what has a namespace begins with :meth:`space`, so that its groups stand together."""
        return self._space(namespace) + self._digest(b"group", _encoded((group,)))

    def _space(self, namespace: str) -> bytes:
        return self._digest(b"space", _encoded((namespace,)))[:SPACE] if namespace else b""

    def lead(self, key: bytes, token: bytes) -> bytes:
        """What a lead is on."""
        return hashlib.blake2b(key, digest_size=16, key=hashlib.blake2b(token, digest_size=32).digest()).digest()

    def seal(self, *parts: bytes) -> bytes | None:
        """Proof that who wrote these parts together knew the secret."""
        if not self.sealed:
            return None
        return self._digest(b"seal", b"".join(len(part).to_bytes(8, "big") + part for part in parts))

    def holds(self, seal: object, *parts: bytes) -> bool:
        expected = self.seal(*parts)
        return expected is None or (isinstance(seal, bytes) and compare_digest(expected, seal))


def tool_key(key: bytes | str) -> bytes:
    """A tool's entry; apart from the key-value ones."""
    return b"t" + (key if isinstance(key, bytes) else b"s" + key.encode("utf-8", "surrogatepass"))


def text_key(key: str) -> bytes:
    return b"k" + key.encode("utf-8", "surrogatepass")
