"""A call's tags as keys: which stand in one hash slot, and where its entry does. Worked out once for each set of tags.

What is read or written under these keys is the backend's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent_cache.backends.redis.records import Names
from agent_cache.tags import Tag

__all__ = ["MOST_AT_ONCE", "Group", "Plan", "Plans"]

_MOST = 20_000
MOST_AT_ONCE = 500
"""Tags that one script changes; of a write with more, Redis answers others between the parts."""


@dataclass(slots=True, eq=False)  # not frozen: one is made on every miss, and that would be five times as dear
class Group:
    """The tags of one call that stand in one slot (off a Cluster: all of them)."""

    slot: bytes
    keys: tuple[bytes, ...]
    positions: tuple[int, ...]
    bulks: tuple[bytes, ...]
    """The keys as arguments of a command."""
    together: bytes
    """What keys must have in common to be asked for in one command: on a Cluster the slot, elsewhere nothing."""


@dataclass(slots=True, eq=False)  # as above
class Plan:
    """A call's tags as keys. ``home``: the slot of its entry."""

    groups: tuple[Group, ...]
    home: bytes
    ids: tuple[bytes, ...]
    only: Group | None
    """The one group there is, where there is one."""
    tags: tuple[Tag, ...] = ()

    @property
    def at_home(self) -> Group:
        """The tags that stand beside the entry; there may be none."""
        only = self.only
        if only is not None and only.slot == self.home:
            return only
        found = next((group for group in self.groups if group.slot == self.home), None)
        return found if found is not None else Group(self.home, (), (), (), self.home)


class Plans:
    """The plans made so far, for one prefix."""

    def __init__(self, names: Names, *, sharded: bool) -> None:
        self._names = names
        self._sharded = sharded
        self._made: dict[tuple[Tag, ...], Plan] = {}

    def of(self, tags: Sequence[Tag]) -> Plan:
        known = tags if isinstance(tags, tuple) else tuple(tags)
        plan = self._made.get(known)
        if plan is None:
            if len(self._made) > _MOST:
                self._made.clear()
            plan = self._made[known] = self.make(known)
        return plan

    def in_parts(self, tags: Sequence[Tag]) -> Plan:
        """A plan for writing many tags, no group with more than :data:`MOST_AT_ONCE`.

        Each part is invalidated by itself, as the slots of a Cluster are: versions never repeat, so no moment is needed at
        which all of them change.
        """
        whole = self.of(tags)
        parts: list[Group] = []
        for group in whole.groups:
            for at in range(0, len(group.keys), MOST_AT_ONCE):
                some = slice(at, at + MOST_AT_ONCE)
                parts.append(
                    Group(group.slot, group.keys[some], group.positions[some], group.bulks[some], group.together)
                )
        return replace(whole, groups=tuple(parts), only=parts[0] if len(parts) == 1 else None)

    def make(self, tags: tuple[Tag, ...]) -> Plan:
        """One that is not kept."""
        named = [self._names.tag(tag) for tag in tags]
        home = self._names.home(tags)
        if not self._sharded:
            together = Group(
                home, tuple([n.key for n in named]), tuple(range(len(named))), tuple([n.bulk for n in named]), b""
            )
            return Plan((together,), home, tuple([n.ident for n in named]), together, tags)
        slots = dict.fromkeys([name.slot for name in named])
        groups: list[Group] = []
        for slot in slots:
            mine = [at for at, name in enumerate(named) if name.slot == slot]
            keys, bulks = tuple(named[at].key for at in mine), tuple(named[at].bulk for at in mine)
            groups.append(Group(slot, keys, tuple(mine), bulks, slot))
        only = groups[0] if len(groups) == 1 else None
        return Plan(tuple(groups), home, tuple([name.ident for name in named]), only, tags)
