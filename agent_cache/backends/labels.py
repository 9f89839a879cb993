"""What an entry says of itself beside its digests: namespace, tool, resource and tags, in bytes and back.

A store that is shared keeps digests: they say nothing to people, and not under which tags an entry was loaded. The label
stands in the entry (never in a key), so it can be listed, invalidated by hand and moved to another store. It names the
values in the resource's path (``cart:42``); other arguments are in it only where ``store_args`` was asked for.

What is read here may come from anybody's hand: it is data, with bounds, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from agent_cache.backends.base import NewEntry
from agent_cache.known import known_tool
from agent_cache.tags import CallTags, Chain, Path, Tag, call_tags, shared_tags

__all__ = ["MOST_BYTES", "CallForm", "Label", "call_form", "label_bytes", "read_label", "tags_of_call"]

_CALL, _TAGS = b"\x01", b"\x02"
_ARGUED = {_CALL: b"\x03", _TAGS: b"\x04"}
"""The same with the call's arguments behind; a build that does not know them takes such a label for none."""
_PLAIN = {argued: plain for plain, argued in _ARGUED.items()}
_LONG = 255
MOST_BYTES = 16_384
"""Of a label; an entry that would need more has none."""
_DIGEST = re.compile("[0-9a-f]{40}")
_KINDS = ("any", "all")


class Label(NamedTuple):
    """``tool`` and ``resource`` as they stand in the code; empty where they were not known."""

    namespace: str
    tool: str
    resource: str
    group: str
    tags: tuple[Tag, ...]
    arguments: str = ""


class CallForm(NamedTuple):
    """The tags of one call, in short."""

    group: str
    bucket: str
    chain: Chain
    paths: tuple[Path, ...]


def call_form(tags: Sequence[Tag]) -> CallForm | None:
    """The short form of a call's tags, if :func:`tags_of_call` gives exactly these again."""
    if not isinstance(tags, CallTags):
        return None
    chain, own = tags.own[-1][1], tags.own[0][2]
    head, bucket = own
    asked = tags.shared.asked
    if asked is not None and asked[1] == head[1:]:
        return CallForm(asked[1], bucket, asked[2], asked[0])
    found = [path for kind, whose, path in tags.shared.tags if kind == "any" and not whose and path[:1] != (head,)]
    short = CallForm(head[1:], bucket, chain, tuple(found))
    return short if tags_of_call(short) == tags else None


def tags_of_call(short: CallForm) -> CallTags:
    """All of a call's tags."""
    return call_tags(shared_tags(short.paths, short.group, short.chain), (f"#{short.group}", short.bucket))


def label_bytes(tags: Sequence[Tag], entry: NewEntry) -> bytes:
    """The label of an entry under these tags; without arguments where it would be too long, empty where it is still."""
    if not entry.arguments and isinstance(tags, CallTags) and (made := _short(tags, entry)):
        return made
    made = _written(tags, entry, entry.arguments)
    if len(made) > MOST_BYTES and entry.arguments:
        made = _written(tags, entry, "")
    return made if len(made) <= MOST_BYTES else b""


def _short(tags: CallTags, entry: NewEntry) -> bytes:
    """What :func:`_written` makes of nearly every entry, from parts that others have too; empty where that does not fit."""
    asked, (head, bucket) = tags.shared.asked, tags.own[0][2]
    if asked is None or asked[1] != head[1:]:
        return b""
    known = known_tool(entry.group)
    name, resource = ("", "") if known is None else (known.name, known.resource)
    made = _head(_CALL, entry.namespace, name, resource, asked[1]) + _text(bucket) + _where(asked[2], asked[0])
    return made if len(made) <= MOST_BYTES else b""


def _written(tags: Sequence[Tag], entry: NewEntry, arguments: str) -> bytes:
    known = known_tool(entry.group)
    short = call_form(tags)
    form = _TAGS if short is None else _CALL
    form = _ARGUED[form] if arguments else form
    name, resource = ("", "") if known is None else (known.name, known.resource)
    if short is not None:
        pieces = [_head(form, entry.namespace, name, resource, short.group), _text(short.bucket)]
        pieces.append(_where(short.chain, short.paths))
    else:
        pieces = [_head(form, entry.namespace, name, resource, entry.group), _count(len(tags))]
        for kind, chain, path in tags:
            pieces += (_count(_KINDS.index(kind)), _texts(chain), _path(path))
    if arguments:
        pieces.append(_text(arguments))
    return b"".join(pieces)


def read_label(raw: object) -> Label | None:
    """A label; None for whatever is not one."""
    if not isinstance(raw, bytes) or not 0 < len(raw) <= MOST_BYTES or raw[:1] not in (*_ARGUED, *_PLAIN):
        return None
    form = _PLAIN.get(raw[:1], raw[:1])
    rest = _In(raw)
    try:
        namespace, tool, resource, group = rest.text(), rest.text(), rest.text(), rest.group()
        tags: tuple[Tag, ...]
        if form == _CALL:
            bucket, chain = rest.text(), rest.texts()
            paths = tuple([rest.texts() for _ in range(rest.count())])
            tags = tags_of_call(CallForm(group, bucket, chain, paths))
        else:
            tags = tuple([(_KINDS[rest.count()], rest.texts(), rest.texts()) for _ in range(rest.count())])
        arguments = rest.text() if form != raw[:1] else ""
        return Label(namespace, tool, resource, group, tags, arguments) if rest.is_empty else None
    except (ValueError, IndexError):
        return None


def _count(number: int) -> bytes:
    return bytes((number,)) if number < _LONG else b"\xff" + number.to_bytes(4, "big")


def _sized(piece: bytes) -> bytes:
    return _count(len(piece)) + piece


def _text(text: str) -> bytes:
    return _sized(text.encode("utf-8", "surrogatepass"))


def _path(texts: Sequence[str]) -> bytes:
    return _count(len(texts)) + b"".join([_text(text) for text in texts])


@lru_cache(maxsize=512)
def _texts(texts: tuple[str, ...]) -> bytes:
    """Of a chain: most are those of other entries too."""
    return _path(texts)


@lru_cache(maxsize=512)
def _where(chain: Chain, paths: tuple[Path, ...]) -> bytes:
    return _texts(chain) + _count(len(paths)) + b"".join([_path(path) for path in paths])


@lru_cache(maxsize=512)
def _head(form: bytes, namespace: str, name: str, resource: str, group: str) -> bytes:
    """What is the same for every entry of a tool; its digest in half its size."""
    is_digest = _DIGEST.fullmatch(group) is not None
    whose = bytes.fromhex(group) if is_digest else group.encode("utf-8", "surrogatepass")
    return form + _text(namespace) + _text(name) + _text(resource) + _count(is_digest) + _sized(whose)


class _In:
    """Raises ValueError or IndexError for what :func:`label_bytes` did not write."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 1

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._raw)

    def count(self) -> int:
        number = self._raw[self._at]
        self._at += 1
        if number == _LONG:
            number = int.from_bytes(self._take(4), "big")
        if number > len(self._raw):
            raise ValueError("more than there is")
        return number

    def _take(self, many: int) -> bytes:
        piece = self._raw[self._at : self._at + many]
        if len(piece) < many:
            raise ValueError("cut off")
        self._at += many
        return piece

    def text(self) -> str:
        return self._take(self.count()).decode("utf-8", "surrogatepass")

    def texts(self) -> tuple[str, ...]:
        return tuple([self.text() for _ in range(self.count())])

    def group(self) -> str:
        is_digest = self.count()
        piece = self._take(self.count())
        return piece.hex() if is_digest else piece.decode("utf-8", "surrogatepass")
