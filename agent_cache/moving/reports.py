"""What became of a move, and of a check, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent_cache.backends.base import Finding

__all__ = ["EraseReport", "IntegrityReport", "MoveReport"]


@dataclass(frozen=True, slots=True)
class MoveReport:
    """How many entries were moved, and why others were not.

    Attributes:
        entries: tools' entries that were written to the file, or stored from it.
        values: key-value entries.
        bytes: of their payloads.
        left_out: how many were not moved, by reason. Leaving: ``not_current`` (a write has dropped it, or it has expired),
            ``session`` (bound to a session), ``unlabelled`` (its tags are not known), ``unreadable``, ``no_written_form``,
            ``too_long``. Arriving: ``other_namespace``, ``unreadable``, ``expired``, ``too_old``, ``there`` (the store has one already), ``blocked`` (a write was
            running), ``refused`` (a write came between, or there is no room).
    """

    entries: int
    values: int
    bytes: int
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What :meth:`~agent_cache.moving.Movable.integrity_check` found.

    Attributes:
        checked: entries looked at, tools' and key-value ones.
        outdated: those of them that a write has dropped or that have expired, and that are still there: not wrong, never
            served, gone with time.
        broken: how many cannot be read, by what is wrong with them. They are misses.
        removed: how many of those were taken out (``repair=True``).
        findings: about the store itself.
    """

    checked: int
    outdated: int
    broken: Mapping[str, int]
    removed: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; after a repair: whether nothing was."""
        return not self.broken and all(finding.level == "ok" for finding in self.findings)

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class EraseReport:
    """What :func:`agent_cache.erase` did.

    Attributes:
        entries: how many were deleted.
        owners: identities and sessions whose tags were moved, so that no load under way for them is kept.
        left: what could not be dealt with, by reason, and how many: ``unlabelled`` (whose an entry is, the store does not know),
            ``lineage`` (shared by sessions that began in one state), ``arriving`` (entries were stored all the time: the
            identity is still being served), ``in_use`` (a reader kept the disk file's log from being cut off: erase again),
            ``set_aside`` (damaged files beside it, which are not looked into).
    """

    entries: int
    owners: int
    left: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing was left that may be theirs."""
        return not self.left

    def __bool__(self) -> bool:
        return self.complete
