"""How a write window ends: for each slot, which versions go back, and what moves beside the window's tags.

Pure: the script that does it is END of :mod:`.scripts`, and when it is sent is the backend's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent_cache.backends.redis.plans import Group, Plan
from agent_cache.backends.redis.records import NONCE

__all__ = ["NO_VERSION", "Ending", "ending"]

NO_VERSION = b"-" * NONCE


@dataclass(slots=True, eq=False)  # not frozen: that would make it five times as dear, on every write
class Ending:
    """``settle``: ms for which fills go on being refused."""

    settle: int = 0
    written: frozenset[bytes] | None = None
    """The ids of the tags that stay moved; None: all of them."""
    beside: Mapping[bytes, tuple[tuple[bytes, ...], bytes]] = field(default_factory=dict)
    """By slot: keys and ids of the tags that were written and are not the window's."""

    def restored(self, plan: Plan, group: Group, before: Sequence[bytes]) -> bytes:
        """What END is told to put back in this slot, tag by tag; empty where nothing is."""
        if self.written is None or len(before) != len(group.positions):
            return b""
        versions = zip(group.positions, before, strict=True)
        return b"".join([NO_VERSION if plan.ids[at] in self.written else version for at, version in versions])


def ending(settle: int, window: Plan, *, no_effect: bool, narrowed: Plan | None) -> Ending:
    """``narrowed``: all that was written after all; what cannot be moved in the step that restores moves widely."""
    if no_effect:
        return Ending(settle, frozenset())
    if narrowed is None or settle:
        return Ending(settle)
    known = frozenset(window.ids)
    slots = {group.slot for group in window.groups}
    beside: dict[bytes, tuple[tuple[bytes, ...], bytes]] = {}
    for group in narrowed.groups:
        new = [number for number, at in enumerate(group.positions) if narrowed.ids[at] not in known]
        if not new:
            continue
        slot = group.slot if window.only is None or group.together else window.only.slot
        if slot not in slots:
            return Ending(settle)
        ids = b"".join([narrowed.ids[group.positions[number]] for number in new])
        beside[slot] = tuple([group.keys[number] for number in new]), ids
    return Ending(settle, frozenset(narrowed.ids), beside)
