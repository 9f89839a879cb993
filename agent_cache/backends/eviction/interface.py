"""What a policy asks of an entry, and a backend of a policy. No policy is in here."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, TypeVar

__all__ = ["PATIENCE", "Evictable", "EvictionPolicy"]

PATIENCE = 1000
"""Visited entries spared in one search for a victim: after that the next one goes, visited or not, so that a
search takes tens of microseconds at most, however many entries there are and even if all are in use."""


class Evictable(Protocol):
    """``visited`` is set by hits and cleared by the policy; ``dead`` is set once, by whoever took the entry out."""

    visited: bool
    dead: bool

    @property
    def key(self) -> Hashable: ...


E = TypeVar("E", bound=Evictable)


class EvictionPolicy(Protocol[E]):
    """The live entries in some order. Not thread-safe: the backend calls it under its lock.

    Entries that die elsewhere stay in the queues until they are met or outnumber the live ones.
    """

    limit: int | None
    live: int

    def add(self, entry: E) -> E | None:
        """Take ``entry`` in; return the entry that has to go, already out of the queues, or None.

        The caller kills the victim; :meth:`forget` must be called for entries that die otherwise.
        """

    def evict(self) -> E | None:
        """The next victim, out of the queues; None when there is no live entry."""

    def forget(self) -> None:
        """An entry of these queues was marked dead by someone else."""
