"""What things are called in the file: digests, never the text a user gave; and the seal of an entry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hmac import compare_digest

from agent_cache.tags import Chain, Tag

__all__ = ["Names", "TagSet", "text_key", "tool_key"]

_CACHED = 8_192


def _encoded(parts: Iterable[str]) -> bytes:
    """Injective: every part with its length."""
    raw = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join([len(raw).to_bytes(4, "big"), *(len(part).to_bytes(4, "big") + part for part in raw)])


class TagSet:
    """The tags of one call: their names in the file, and a digest of them all (a stamp is for one set only)."""

    __slots__ = ("digest", "ids", "marks", "unique")

    def __init__(self, ids: tuple[bytes, ...]) -> None:
        self.ids = ids
        self.unique = tuple(dict.fromkeys(ids))
        self.digest = hashlib.blake2b(b"".join(ids), digest_size=8).digest()
        self.marks = ",".join("?" * (len(set(ids)) + 1))


class Names:
    """Names under one secret (or none)."""

    def __init__(self, secret: bytes | None) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"agent_cache disk").digest() if secret else b""
        self.sealed = bool(secret)
        self.set_of = lru_cache(maxsize=_CACHED)(self._set_of)
        self.chain = lru_cache(maxsize=_CACHED)(self._chain)
        self.group = lru_cache(maxsize=_CACHED)(self._group)
        self.check = self._digest(b"check", b"") if secret else b""
        """Recorded in the file: two secrets on one file would not see each other's writes."""

    def _digest(self, what: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16, key=self._key, person=what).digest()

    def tag(self, tag: Tag) -> bytes:
        kind, chain, path = tag
        return self._digest(b"tag", _encoded((kind,)) + _encoded(chain) + _encoded(path))

    def _set_of(self, tags: tuple[Tag, ...]) -> TagSet:
        return TagSet(tuple(self.tag(tag) for tag in tags))

    def of(self, tags: Sequence[Tag]) -> TagSet:
        return self.set_of(tags if isinstance(tags, tuple) else tuple(tags))

    def _chain(self, chain: Chain) -> bytes | None:
        return self._digest(b"chain", _encoded(chain)) if chain else None

    def _group(self, group: str) -> bytes:
        return self._digest(b"group", _encoded((group,)))

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
