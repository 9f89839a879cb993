"""Writes that say too little: a read whose answer changed although nobody who was known to write it had written.

Pure: looks at calls that were made, in the order of their numbers or times, whoever collected them (a cassette, a log, a
cache that runs in the shadow of the tools). Nothing here knows where they come from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

__all__ = ["NarrowWrite", "Seen", "narrow_writes", "overlap"]

ResourcePath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that was made.

    Attributes:
        kind: ``read``, ``write``, or ``other``: a tool that says nothing of itself, and may have written.
        call: the call as text, for people.
        key: equal for equal reads, whoever made them.
        resources: paths it reads or writes: ``("cart", "42")``.
        outcome: of a read: equal for equal results. None: nothing is known of it (it failed), and it is passed over.
        began, ended: numbers or times on one scale.
        drops: of a write: keys of reads it dropped besides.
        no_effect: a write that declared it changed nothing: it excuses no change, and may be what was wrong.
    """

    kind: Literal["read", "write", "other"]
    call: str
    key: Hashable
    resources: tuple[ResourcePath, ...]
    outcome: Hashable
    began: float
    ended: float
    drops: frozenset[Hashable] = frozenset()
    no_effect: bool = False


@dataclass(frozen=True, slots=True)
class NarrowWrite:
    """A read that changed between two equal calls, and no write in between said that it would.

    Attributes:
        read: the call as text.
        resources: what it says it reads.
        first, then: the ends of the earlier and the later call, on the scale of what was given.
        suspects: the calls in between that may have changed it, and do not say so; empty: nobody known here did (the tool's
            result is volatile, or somebody else writes).
    """

    read: str
    resources: tuple[str, ...]
    first: float
    then: float
    suspects: tuple[str, ...]


def overlap(write: ResourcePath, read: ResourcePath) -> bool:
    """Whether a write of one path drops reads of the other: the same path, one below it or one above it."""
    shared = min(len(write), len(read))
    return write[:shared] == read[:shared]


def narrow_writes(seen: Iterable[Seen]) -> tuple[NarrowWrite, ...]:
    """What is wrong, in the order in which it showed."""
    calls = sorted(seen, key=lambda call: call.began)
    others = [call for call in calls if call.kind != "read"]
    begun = [call.began for call in others]
    ended = [*accumulate((call.ended for call in others), max)]
    last: dict[Hashable, Seen] = {}
    found: list[NarrowWrite] = []
    for read in calls:
        if read.kind != "read" or read.outcome is None:
            continue
        before = last.get(read.key)
        last[read.key] = read
        if before is None or before.outcome == read.outcome:
            continue
        between: list[Seen] = []
        for at in range(bisect_left(begun, read.ended) - 1, -1, -1):
            if ended[at] <= before.began:
                break
            if others[at].ended > before.began:
                between.append(others[at])
        if not any(_says_so(call, read) for call in between):
            suspects = tuple(dict.fromkeys(call.call for call in reversed(between)))
            resources = tuple(":".join(path) for path in read.resources)
            found.append(NarrowWrite(read.call, resources, before.ended, read.ended, suspects))
    return tuple(found)


def _says_so(call: Seen, read: Seen) -> bool:
    if call.kind != "write" or call.no_effect:
        return False
    return read.key in call.drops or any(overlap(w, r) for w in call.resources for r in read.resources)
