"""Which entry makes room, and nothing else: the policies, and how one is chosen by name.

A hit is one store of one flag (``entry.visited = True``) that no policy hears of: no list to
reorder, no lock. Whatever a policy learns it learns from flags it finds set and from entries
that come back after they were evicted. ``docs/eviction.md`` has what was measured.

Locks, counting bytes and taking a victim out of the store belong to the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from agent_cache.backends.eviction.clock import Clock
from agent_cache.backends.eviction.costs import CostAware, by_bytes
from agent_cache.backends.eviction.interface import Evictable, EvictionPolicy
from agent_cache.backends.eviction.queues import Adaptive, S3Fifo
from agent_cache.errors import ConfigurationError

__all__ = [
    "Adaptive",
    "Clock",
    "CostAware",
    "Evictable",
    "EvictionChoice",
    "EvictionPolicy",
    "S3Fifo",
    "eviction_policy",
]

EvictionChoice: TypeAlias = str | Callable[[int | None], EvictionPolicy[Any]]
"""``"adaptive"``, ``"clock"``, ``"cost"``, ``"s3fifo"``, or what makes a policy out of a limit."""

_POLICIES: dict[str, Callable[[int | None], EvictionPolicy[Any]]] = {
    "adaptive": Adaptive,
    "clock": Clock,
    "cost": CostAware,
    "s3fifo": S3Fifo,
}


def eviction_policy(choice: EvictionChoice, limit: int | None, *, bytes_are_short: bool = False) -> EvictionPolicy[Any]:
    """A policy of its own for up to ``limit`` entries; ``None`` = it evicts only when asked to.

    ``bytes_are_short``: it will be asked to for the sake of bytes.

    Raises:
        ConfigurationError: no policy of this name.
    """
    if not isinstance(choice, str):
        return choice(limit)
    if choice == "cost" and bytes_are_short:
        return CostAware(limit, by_bytes)
    make = _POLICIES.get(choice)
    if make is None:
        known = ", ".join(sorted(_POLICIES))
        raise ConfigurationError("eviction", choice, f"use one of {known}")
    return make(limit)
