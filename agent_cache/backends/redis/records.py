"""What is written in Redis, byte by byte, and read back with suspicion.

Every record begins with a letter and the number of its format. A later format of a tag may only append: a build of today
reads such a record, moves it, and keeps what it does not know. An entry of an unknown format is a miss, and is replaced.

* tag: ``T1`` version[12] fence[12] writers[4 hex digits], for each writer nonce[12] and lease end[13 digits, ms of
  the server's clock], then the length[2 hex digits] and the name of the last writer.
* entry: ``E1`` flags[1] tags[2] epoch[20] versions[12 each] created[8] ttl[8] load seconds[8], then 16 bytes of
  authentication if flags say so, then the payload. If flags say so, the label with its length[2] comes before the
  authentication. ``E2`` is one that is kept beyond its freshness: grace[8] stands after the load seconds, and it is fresh
  only while the key lives longer than that. A build that does not know ``E2``, or the flag, takes it for a miss.

Nothing of a call's arguments is in a key: they are digests. What these records mean is the backend's business.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent_cache.backends.redis.resp import bulk
from agent_cache.tags import Path, Tag

__all__ = [
    "EntryRecord",
    "Named",
    "Names",
    "TagRecord",
    "entry_bytes",
    "epoch_bytes",
    "opened_value",
    "read_current",
    "read_entry",
    "read_tag",
    "sealed_value",
    "tag_id",
    "version_of",
]

NONCE = 12
EPOCH = 20
_TAG_HEAD = 30
_WRITER = NONCE + 13
_ENTRY_HEAD = 5 + EPOCH
_FIGURES = struct.Struct(">ddd")
_GRACE = struct.Struct(">d")
_TWO = ord("2")
_SEALED = 1
_LABELLED = 2
_SEAL = 16
_T = ord("T")
_NOBODY = b"0000"
_HEX = re.compile(rb"[0-9A-Fa-f]{4}")


@dataclass(slots=True)
class TagRecord:
    """A tag as it stands. ``free``: nobody is marked as writing it, not even one whose lease has ended."""

    version: bytes
    fence: bytes
    free: bool
    rest: bytes
    """What stands behind the writers: the name of the last one, and whatever a later format appended."""

    @property
    def last_writer(self) -> str:
        rest = self.rest
        named = int(rest[:2], 16) if _HEX.fullmatch(b"00" + rest[:2]) else 0
        return rest[2 : 2 + named].decode("utf-8", "replace")


def read_tag(raw: object) -> TagRecord | None:
    """A tag record; None for one that is missing or that nobody of ours wrote: it is minted anew."""
    if not isinstance(raw, bytes) or len(raw) < _TAG_HEAD or raw[:1] != b"T":
        return None
    if raw[26:30] == _NOBODY:  # as nearly always
        return TagRecord(raw[2:14], raw[14:26], True, raw[_TAG_HEAD:])
    if not _HEX.fullmatch(raw, 26, 30):
        return None
    writers = int(raw[26:30], 16)
    behind = _TAG_HEAD + writers * _WRITER
    if len(raw) < behind:
        return None
    return TagRecord(raw[2:14], raw[14:26], False, raw[behind:])


def version_of(raw: object) -> bytes | None:
    """The version in a tag record, without reading the rest; None if there is none, or it is not ours."""
    return raw[2:14] if type(raw) is bytes and len(raw) >= _TAG_HEAD and raw[0] == _T else None


@dataclass(slots=True)
class EntryRecord:
    """An entry: ``stamp`` is its epoch and versions, ``created`` seconds of a wall clock, for people only.

    ``grace``: seconds before the key's end at which its freshness ends.
    """

    stamp: bytes
    created: float
    ttl: float
    load_seconds: float
    payload: bytes
    sealed: bytes
    grace: float = 0.0
    label: bytes = b""


def entry_bytes(
    stamp: bytes,
    created: float,
    ttl: float,
    load_seconds: float,
    payload: bytes,
    seal: bytes | None,
    key: bytes,
    grace: float = 0.0,
    label: bytes = b"",
) -> bytes:
    """An entry as it is stored; with a secret it is authenticated together with its key, tags (in the key) and stamp."""
    count = (len(stamp) - EPOCH) // NONCE
    head = (
        (b"E2" if grace else b"E1")
        + bytes(((_SEALED if seal else 0) | (_LABELLED if label else 0),))
        + count.to_bytes(2, "big")
        + stamp
        + _FIGURES.pack(created, ttl, load_seconds)
        + (_GRACE.pack(grace) if grace else b"")
    )
    if label:
        head += len(label).to_bytes(2, "big") + label
    return head + (_mac(seal, key, head, payload) if seal else b"") + payload


def read_entry(raw: object, seal: bytes | None, key: bytes) -> EntryRecord | None:
    """An entry; None for whatever is not one, or not sealed with our secret."""
    if not isinstance(raw, bytes) or len(raw) < _ENTRY_HEAD + _FIGURES.size or raw[:2] not in (b"E1", b"E2"):
        return None
    flags, count = raw[2], int.from_bytes(raw[3:5], "big")
    stamp_end = _ENTRY_HEAD + count * NONCE
    figures_end = stamp_end + _FIGURES.size
    lasting = raw[1] == _TWO
    labelled = head_end = figures_end + (_GRACE.size if lasting else 0)
    if flags & _LABELLED:
        labelled += 2
        head_end = labelled + int.from_bytes(raw[labelled - 2 : labelled], "big")
    body = head_end + (_SEAL if flags & _SEALED else 0)
    if len(raw) < body or flags & ~(_SEALED | _LABELLED):
        return None
    mac, payload = raw[head_end:body], raw[body:]
    if seal is not None and not (mac and hmac.compare_digest(mac, _mac(seal, key, raw[:head_end], payload))):
        return None
    created, ttl, load_seconds = _FIGURES.unpack_from(raw, stamp_end)
    grace = _GRACE.unpack_from(raw, figures_end)[0] if lasting else 0.0
    if not grace >= 0.0:
        return None
    return EntryRecord(raw[5:stamp_end], created, ttl, load_seconds, payload, mac, grace, raw[labelled:head_end])


def read_current(raw: bytes, stamp: bytes) -> EntryRecord | None:
    """An entry that says it was loaded under this very stamp and is not authenticated; None for any other.

    A secret or a doubt is :func:`read_entry`'s business: this is it for what nearly every read finds.
    """
    stamp_end = 5 + len(stamp)
    if len(raw) < stamp_end + _FIGURES.size or raw[5:stamp_end] != stamp:
        return None
    if raw[:2] != b"E1" or raw[3:5] != ((len(stamp) - EPOCH) // NONCE).to_bytes(2, "big"):
        return None
    body = stamp_end + _FIGURES.size
    if raw[2] == _LABELLED:
        body += 2 + int.from_bytes(raw[body : body + 2], "big")
    elif raw[2]:
        return None
    created, ttl, load_seconds = _FIGURES.unpack_from(raw, stamp_end)
    return EntryRecord(stamp, created, ttl, load_seconds, raw[body:], b"")


def _mac(seal: bytes, key: bytes, head: bytes, payload: bytes) -> bytes:
    mac = hashlib.blake2b(len(key).to_bytes(4, "big"), digest_size=_SEAL, key=seal, person=b"agent_cache.E1")
    for part in (key, head, payload):
        mac.update(part)
    return mac.digest()


def sealed_value(seal: bytes | None, key: bytes, payload: bytes) -> bytes:
    """A key-value payload, with a secret authenticated together with its key."""
    return payload if seal is None else _mac(seal, key, b"", payload) + payload


def opened_value(seal: bytes | None, key: bytes, raw: bytes) -> bytes | None:
    """The payload again; None if it was not sealed with this secret under this key."""
    if seal is None:
        return raw
    return raw[_SEAL:] if hmac.compare_digest(raw[:_SEAL], _mac(seal, key, b"", raw[_SEAL:])) else None


def epoch_bytes(text: str | bytes) -> bytes:
    """An epoch in 20 bytes: a replication id as it is, anything else by its digest."""
    raw = text.encode() if isinstance(text, str) else text
    try:
        short = bytes.fromhex(raw.decode("ascii"))
    except ValueError:
        short = b""
    return short if len(short) == EPOCH else hashlib.blake2b(raw, digest_size=EPOCH).digest()


def tag_id(tag: Tag, secret: bytes = b"") -> bytes:
    """A tag in 16 bytes; with a secret nobody can guess it from the resource's name."""
    kind, chain, path = tag
    pieces = [kind.encode()]
    for part in (chain, path):
        pieces.append(b"%d," % len(part))
        for piece in part:
            raw = piece.encode("utf-8", "surrogatepass")
            pieces += (b"%d:" % len(raw), raw)
    key = secret[:64]
    return hashlib.blake2b(b"".join(pieces), digest_size=16, key=key, person=b"agent_cache.tag").digest()


class Named(NamedTuple):
    """A tag by its names: its slot's, its key, its id (on the bus), and the key as an argument of a command."""

    slot: bytes
    key: bytes
    ident: bytes
    bulk: bytes


class Names:
    """Keys under one prefix. What is of one resource stands in one hash slot: ``ac:{slot}e:…``."""

    def __init__(self, prefix: str, secret: bytes = b"") -> None:
        self.prefix = prefix.encode()
        self._secret = secret
        self._tags: dict[Tag, Named] = {}
        self._slots: dict[Path, bytes] = {}
        self.bus = self.prefix + b"bus"
        self.leases = self.prefix + b"lease"

    def tag(self, tag: Tag) -> Named:
        known = self._tags.get(tag)
        if known is None:
            if len(self._tags) > 50_000:
                self._tags.clear()
            ident = tag_id(tag, self._secret)
            slot = self.slot(tag)
            key = b"%s{%s}t:%s" % (self.prefix, slot, ident.hex().encode())
            known = self._tags[tag] = Named(slot, key, ident, bulk(key))
        return known

    def slot(self, tag: Tag) -> bytes:
        """The hash slot's name of a tag: its resource's, whoever's chain it is on."""
        head = tag[2][:1]
        known = self._slots.get(head)
        if known is None:
            if len(self._slots) > 10_000:
                self._slots.clear()
            known = self._slots[head] = tag_id(("slot", (), head), self._secret)[:6].hex().encode()
        return known

    def home(self, tags: Sequence[Tag]) -> bytes:
        """The slot in which an entry under these tags stands: its first resource's, its tool's where it has none."""
        for tag in tags:
            path = tag[2]
            if path and not path[0].startswith("#"):
                return self.tag(tag)[0]
        for tag in tags:
            if tag[2]:
                return self.tag(tag)[0]
        return self.tag(tags[0])[0] if tags else b"0"

    def entry(self, slot: bytes, key: bytes) -> bytes:
        return b"%s{%s}e:%s" % (self.prefix, slot, key.hex().encode())

    def lead(self, slot: bytes, key: bytes, token: bytes) -> bytes:
        """A lead is on a key under a token: a load from before a write holds up nobody who comes after it."""
        under = hashlib.blake2b(token, digest_size=8).hexdigest()
        return b"%s{%s}l:%s:%s" % (self.prefix, slot, key.hex().encode(), under.encode())

    def value(self, key: str) -> bytes:
        return self.prefix + b"kv:" + key.encode("utf-8", "surrogatepass")
