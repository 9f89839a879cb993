"""What became of a move, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MoveReport"]


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
