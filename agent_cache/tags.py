"""Resources as paths, and which tags a read depends on and a write moves.

A resource template (``"repo:{ref.repo}/file:{path}"``) is cut into segments at
``:`` and ``/`` before any value is put in, so no value can forge a path. Pure
functions: what a tag's version is, and who keeps it, is the backend's business.

The rule: a read of path r depends on ``all(q)`` of every
proper prefix q, the empty one included, and on ``any(r)``; a write of path w moves ``any(q)`` of every
prefix q, w included, and ``all(w)``. So writing ``cart:42`` drops reads of
``cart:42`` and of the list ``cart`` but not of ``cart:43``; writing ``cart``
drops everything below. Scopes are a second chain of the same tags, never a
path segment: a global write must reach every scoped read.
"""

from __future__ import annotations

import math
import re
import unicodedata
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID

from agent_cache.errors import ConfigurationError
from agent_cache.model import CacheKey

__all__ = [
    "LINEAGE",
    "CallTags",
    "Chain",
    "Path",
    "SharedTags",
    "Tag",
    "Template",
    "bucket_path",
    "call_path",
    "call_tags",
    "identity_chain",
    "is_call_tag",
    "read_chains",
    "read_tags",
    "shared_tags",
    "spell",
    "write_tags",
]

Path = tuple[str, ...]
Chain = tuple[str, ...]
"""Whose copy: ``()`` for everyone, else the scope's identity as text, widest field first."""
Tag = tuple[str, Chain, Path]
"""``("any" | "all", chain, path)``."""

EVERYONE: Chain = ()
LINEAGE: Chain = ("lineage",)
"""Of the reads that sessions share by what they have written: no write moves a tag on it, only what is done by hand."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]*")
_FIELD = re.compile(r"([^.\[\]{}]+)((?:\.[^.\[\]{}]+|\[[^\[\]{}]+\])*)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\[\]]+)\]")
_BUCKETS = 65_536
_RESULT = "result()"
"""What a placeholder names that is filled from a write's result: no parameter can be called so."""
_RECENT = 512
_known_reads: weakref.WeakValueDictionary[tuple[tuple[Path, ...], str, Chain], SharedTags] = (
    weakref.WeakValueDictionary()
)
_held_reads: dict[tuple[tuple[Path, ...], str, Chain], weakref.ref[SharedTags]] = cast(
    Any, _known_reads
).data  # to look at, at a third of the price


@dataclass(frozen=True, slots=True)
class _Field:
    parameter: str
    steps: tuple[str, ...]

    def text(self, arguments: Mapping[str, Any]) -> str | None:
        """The value as segment text; ``None`` when it is missing, None, or has no text of its own."""
        value = arguments.get(self.parameter)
        for step in self.steps:
            if value is None:
                return None
            value = _step_into(value, step)
        return segment_text(value)


def _step_into(value: Any, step: str) -> Any:
    """``value.step`` or ``value[step]``, whichever the object has; None where it has neither."""
    try:
        if isinstance(value, Mapping):
            return value.get(step)
    except Exception:  # noqa: BLE001 - a mapping of somebody's own: then the segment is missing, which is safe
        return None
    try:
        return getattr(value, step)
    except Exception:  # noqa: BLE001 - a property may raise anything: then the segment is missing, which is safe
        pass
    try:
        return value[int(step)] if step.lstrip("-").isdigit() else value[step]
    except Exception:  # noqa: BLE001 - as above
        return None


def segment_text(value: object) -> str | None:
    """How a value is spelled in a path. ``42``, ``"42"``, ``42.0`` and an enum of 42 are one: models send all.

    Over-invalidation is intended here, unlike in keys. Values without an obvious text give ``None``.
    """
    if type(value) is str and _PLAIN.fullmatch(value):  # the common case, at once
        return value
    try:
        return _text_of(value.value if isinstance(value, Enum) else value)
    except Exception:  # noqa: BLE001 - somebody's __str__; a value without a text is a missing one, which is safe
        return None


def _text_of(value: object) -> str | None:
    if isinstance(value, str):
        text = str.__str__(value)
    elif isinstance(value, bool):
        text = str(value)
    elif isinstance(value, int):
        text = _whole(value)
    elif isinstance(value, float):
        text = _whole(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    elif isinstance(value, Decimal):
        whole = value.is_finite() and value.adjusted() < 300 and value == value.to_integral_value()
        text = _whole(int(value)) if whole else str(value)
    elif isinstance(value, (UUID, PurePath)):
        text = str(value)
    elif isinstance(value, (datetime, date, time)):
        text = value.isoformat()
    elif isinstance(value, bytes):
        text = value.hex()
    else:
        return None
    return quoted(text)


def quoted(text: str) -> str:
    """Text as a segment holds it: nothing in it can be taken for a separator or a placeholder's neighbour."""
    if _PLAIN.fullmatch(text):
        return text
    return quote(unicodedata.normalize("NFC", text), safe="", errors="surrogatepass")


def _whole(value: int) -> str:
    return str(value) if abs(value) < 10**300 else hex(value)


_NOTHING = _Field("", ())
"""Of an argument that has no value."""


@dataclass(frozen=True, slots=True)
class Template:
    """A resource as the user wrote it, cut into segments once, at decoration."""

    text: str
    segments: tuple[tuple[str | _Field, ...], ...]
    name: str = field(init=False, repr=False, compare=False)
    """What people call it: the first segment as it was written."""

    def __post_init__(self) -> None:
        name = re.split(r"[:/](?![^{]*\})", self.text, maxsplit=1)[0]  # once: every call is counted under it
        object.__setattr__(self, "name", name)

    @classmethod
    def parse(
        cls, text: object, parameters: Iterable[str], parameter: str = "resource", *, of_write: bool = False
    ) -> Template:
        """Cut ``text`` up; every placeholder must name one of ``parameters``, or of a write its ``result``.

        Raises:
            ConfigurationError: naming what is wrong and which parameters there are.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigurationError(parameter, text, "give a resource name such as 'cart' or 'cart:{user_id}'")
        known = list(parameters)
        segments: list[tuple[str | _Field, ...]] = []
        for raw in _cut(text, parameter):
            parts = tuple(_parts(raw, text, known, parameter, of_write=of_write))
            if not parts:
                raise ConfigurationError(parameter, text, "it has an empty segment; write 'a:b' or 'a/b'")
            segments.append(parts)
        made = cls(text, tuple(segments))
        if any(isinstance(part, _Field) and part.parameter == _RESULT for part in segments[0]):
            fix = "until the result is known everything would be uncached; begin with a name, as in 'users:{result.id}'"
            raise ConfigurationError(parameter, text, fix)
        return made

    @property
    def head(self) -> str | None:
        """The first segment if it is the same for every call, else None."""
        first = self.segments[0]
        return first[0] if len(first) == 1 and isinstance(first[0], str) else None

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(p.parameter for s in self.segments for p in s if isinstance(p, _Field) and p is not _NOTHING)

    @property
    def names_result(self) -> bool:
        """Whether the whole path is known only once the tool has returned."""
        return _RESULT in self.parameters

    def bound(self, arguments: Mapping[str, Any]) -> Template:
        """This template for one call: with the arguments' values of now in it, and open only where it names the result."""

        def value(part: str | _Field) -> str | _Field:
            if isinstance(part, str) or part.parameter == _RESULT:
                return part
            text = part.text(arguments)
            return _NOTHING if text is None else text

        return replace(self, segments=tuple(tuple(value(part) for part in parts) for parts in self.segments))

    def known_from(self, result: object) -> Path | None:
        """The path now that the result is there; None if the result does not have all that the template names of it."""
        said = {_RESULT: result}
        for part in (part for parts in self.segments for part in parts):
            if isinstance(part, _Field) and part is not _NOTHING and part.text(said) is None:
                return None
        return self.fill(said)[0]

    def fill(self, arguments: Mapping[str, Any]) -> tuple[Path, bool]:
        """The path for these arguments, and whether it is whole.

        At the first segment without a value the path stops: that is the parent.
        """
        path: list[str] = []
        for segment in self.segments:
            text = ""
            for part in segment:
                piece = part if isinstance(part, str) else part.text(arguments)
                if piece is None:
                    return tuple(path), False
                text += piece
            path.append(text)
        return tuple(path), True


def _cut(text: str, parameter: str) -> list[str]:
    """Split at ``:`` and ``/`` outside braces."""
    pieces, current, depth = [], "", 0
    for character in text:
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        if depth < 0 or depth > 1:
            break
        if character in ":/" and depth == 0:
            pieces.append(current)
            current = ""
        else:
            current += character
    if depth != 0:
        raise ConfigurationError(parameter, text, "its braces do not match; write '{name}', '{a.b}' or '{a[key]}'")
    return [*pieces, current]


def _parts(raw: str, text: str, known: list[str], parameter: str, *, of_write: bool) -> Iterable[str | _Field]:
    for piece in re.split(r"(\{[^}]*\})", raw):
        if not piece:
            continue
        if not piece.startswith("{"):
            yield quoted(piece)
            continue
        match = _FIELD.fullmatch(piece[1:-1].strip())
        names = [match[1], *(a for a, _ in _STEP.findall(match[2]) if a)] if match else []
        if match is None or not all(name.isidentifier() for name in names):
            fix = f"{piece} is not a placeholder; write '{{name}}', '{{a.b}}' or '{{a[key]}}'"
            raise ConfigurationError(parameter, text, fix)
        name = match[1] if match[1] in known else unicodedata.normalize("NFKC", match[1])  # as Python keeps its names
        steps = tuple((a or b).strip("'\"") for a, b in _STEP.findall(match[2]))
        if name not in known and not (of_write and name == "result"):
            fix = f"{piece} names no parameter of the tool; it has {', '.join(known) or 'none'}"
            if name == "result":
                fix += "; only a write can be known by its result"
            raise ConfigurationError(parameter, text, fix)
        yield _Field(name if name in known else _RESULT, steps)


def identity_chain(named: Iterable[tuple[str, str]]) -> Chain:
    """The chain of an identity: its fields with the texts of their values (:func:`segment_text`), widest first."""
    return tuple([f"{name}={text}" for name, text in named])


def read_chains(chain: Chain) -> tuple[Chain, ...]:
    """The chains a read in ``chain`` depends on: everyone's, and its own if it has one."""
    return (EVERYONE, chain) if chain else (EVERYONE,)


def read_tags(paths: Iterable[Path], chain: Chain) -> tuple[Tag, ...]:
    """What a read of ``paths`` in ``chain`` depends on."""
    return _read_tags(paths, read_chains(chain))


def _read_tags(paths: Iterable[Path], chains: Iterable[Chain]) -> tuple[Tag, ...]:
    tags: dict[Tag, None] = {}
    for whose in chains:
        for path in paths:
            for end in range(len(path)):
                tags["all", whose, path[:end]] = None
            tags["any", whose, path] = None
    return tuple(tags)


Asked = tuple[tuple[Path, ...], str, Chain]
"""Paths, group and chain of a read."""


class SharedTags:
    """What all calls of one tool that read the same paths depend on; compared by identity, so it is cheap to look up."""

    __slots__ = ("__weakref__", "asked", "chains", "tags")

    def __init__(self, tags: tuple[Tag, ...], chains: tuple[Chain, ...], asked: Asked | None = None) -> None:
        self.tags = tags
        self.chains = chains
        self.asked = asked
        """What :func:`shared_tags` made it from; None where something was added to that."""


_recent_reads: deque[SharedTags] = deque(maxlen=_RECENT)
"""Kept for a while though no entry in memory depends on them: a backend elsewhere keeps its entries elsewhere."""


class CallTags(tuple[Tag, ...]):  # noqa: SLOT001 - a tuple cannot have slots of its own
    """All tags of one call: those it shares with others first, its own last.

    A backend may tell them apart: a call's own tags are moved only by hand, so most of them never are.
    """

    shared: SharedTags
    own: tuple[Tag, ...]


def shared_tags(paths: Sequence[Path], group: str, chain: Chain) -> SharedTags:
    """What the calls of the tool ``group`` that read ``paths`` share. The same object again while anything depends on it.

    Without paths: the tags of reads that no write drops, on their own chain and on that of all of them.
    """
    asked = tuple(paths), group, chain
    held = _held_reads.get(asked)
    known = None if held is None else held()
    if known is not None:
        return known
    own = (f"#{group}", "")
    chains = read_chains(chain) if asked[0] else (LINEAGE, chain)
    tags = tuple([tag for tag in _read_tags((*asked[0], own), chains) if tag[2] != own])
    made = _known_reads[asked] = SharedTags(tags, chains, asked)
    _recent_reads.append(made)
    return made


def call_tags(shared: SharedTags, path: Path) -> CallTags:
    """The tags of the one call whose path (:func:`bucket_path`) this is."""
    chains = shared.chains
    own = (("any", chains[0], path),) if len(chains) == 1 else tuple([("any", whose, path) for whose in chains])
    tags = CallTags(shared.tags + own)
    tags.shared = shared
    tags.own = own
    return tags


def is_call_tag(tag: Tag) -> bool:
    """Whether this tag stands for one call of one tool (or for the few that share its bucket)."""
    return type(tag) is tuple and tag[0] == "any" and len(tag[2]) == 2 and tag[2][0][:1] == "#"


def write_tags(paths: Iterable[Path], chain: Chain) -> tuple[Tag, ...]:
    """What a write of ``paths`` moves; ``chain`` ``()`` reaches every scope."""
    tags: dict[Tag, None] = {}
    for path in paths:
        for end in range(1, len(path) + 1):
            tags["any", chain, path[:end]] = None
        tags["all", chain, path] = None
    return tuple(tags)


def call_path(key: CacheKey) -> Path:
    """The path of one call, so that the path rule serves ``.invalidate(...)`` and ``.invalidate_all()`` too.

    Calls share a bounded number of buckets per tool; two in one bucket are dropped together, at the cost of a load.
    """
    return f"#{key.tool}", str(int(key.digest[:8], 16) % _BUCKETS)


def bucket_path(tool: str, digest: bytes) -> Path:
    """:func:`call_path` of the call with this digest, without spelling its key."""
    return f"#{tool}", str(int.from_bytes(digest[:4], "big") % _BUCKETS)


def spell(tag: Tag) -> str:
    """A tag for people: ``any(cart:42)``, ``all(cart)@tenant=acme``."""
    kind, chain, path = tag
    return f"{kind}({':'.join(path)})" + (f"@{'/'.join(chain)}" if chain else "")
