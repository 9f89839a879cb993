"""What backends are owed: invalidations they could not take. One table for the process.

What belongs here: the table, and what a file of them (a *ledger*, which a backend may have been given) can do. Delivering is
the engine's (``outbox``); how a ledger is kept is its backend's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent_cache.backends.base import Backend
from agent_cache.tags import Tag

__all__ = ["DEBTS", "EVERYTHING", "INHERITED", "Entry", "Ledger", "inherit", "ledger_of"]

EVERYTHING: tuple[Tag, ...] = (("all", (), ()),)


@dataclass(frozen=True, slots=True)
class Entry:
    """``runs``: the write may still be running, and its process be gone."""

    number: int
    tags: tuple[Tag, ...]
    runs: bool


class Ledger(Protocol):
    """What one backend is owed, where it outlives the process. Every method blocks, and raises BackendError if it cannot."""

    def begin(self, tags: Sequence[Tag]) -> int:
        """Note a write that is about to run though its backend does not know of it."""
        ...

    def owe(self, tags: Sequence[Tag], begun: int | None = None) -> int:
        """Note what is owed; ``begun``: in the place of this."""
        ...

    def strike(self, numbers: Iterable[int]) -> None:
        """These were delivered, or changed nothing."""
        ...

    def entries(self) -> list[Entry]:
        """What this backend is owed, by whomever, in the order it was noted."""
        ...


def ledger_of(backend: object) -> Ledger | None:
    """Of a backend that was given one."""
    return getattr(backend, "outbox", None)


DEBTS: dict[int, tuple[Backend, dict[Tag, object]]] = {}
"""By the backend's id: the tags it is owed, each with the debt that a delivery settles."""
INHERITED = object()
"""The debt of what was noted before the backend was made, by this process or another."""


def inherit(backend: Any) -> None:
    """A backend is made: what its ledger says it is owed is owed by this process too, so nothing is read before that."""
    ledger = ledger_of(backend)
    if ledger is not None and (entries := ledger.entries()):
        DEBTS[id(backend)] = backend, dict.fromkeys([tag for entry in entries for tag in entry.tags], INHERITED)
