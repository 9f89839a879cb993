"""How much may be kept: the limits a backend takes, checked once.

Numbers only. Who makes room is the eviction policies' business, counting is the backends'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent_cache.errors import ConfigurationError, UnstorableResultError

__all__ = ["MAX_ENTRY_BYTES", "Quota", "checked_entry_limit", "checked_limit", "checked_quotas", "refuse_larger"]

MAX_ENTRY_BYTES = 64 * 1024 * 1024
"""Bytes; a larger result is never stored, whatever a backend is told."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one namespace may keep in a backend: ``MemoryBackend(quotas={"search": Quota(entries=1_000)})``.

    Args:
        entries: at most so many; ``None`` = no limit of its own.
        bytes: at most so many, counted as the backend's ``max_bytes`` are; ``None`` = no limit of its own.

    What is over makes room within its namespace: others lose nothing by it. The backend's own limits hold besides.

    Raises:
        ConfigurationError: a limit that is not a whole number from 1, or none at all.
    """

    entries: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        checked_limit(self.entries, "entries", "entries")
        checked_limit(self.bytes, "bytes", "bytes")
        if self.entries is None and self.bytes is None:
            raise ConfigurationError("quotas", self, "give a Quota entries=, bytes= or both")


def checked_limit(value: object, parameter: str, of: str) -> int | None:
    """A whole number from 1, or None for no limit.

    Raises:
        ConfigurationError: anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(parameter, value, f"give a whole number of {of} from 1, or None for no limit")
    return value


def checked_entry_limit(value: object) -> int:
    """Bytes one entry may have; None = the most there is.

    Raises:
        ConfigurationError: not a whole number from 1 to 64 MiB.
    """
    limit = checked_limit(value, "max_entry_bytes", "bytes")
    if limit is not None and limit > MAX_ENTRY_BYTES:
        raise ConfigurationError("max_entry_bytes", value, f"give at most {MAX_ENTRY_BYTES} bytes (64 MiB)")
    return MAX_ENTRY_BYTES if limit is None else limit


def checked_quotas(quotas: Mapping[str, Quota] | None) -> dict[str, Quota]:
    """Quotas by namespace; ``""`` is what has no namespace.

    Raises:
        ConfigurationError: not a mapping of texts to :class:`Quota`.
    """
    if quotas is None:
        return {}
    example = 'give a mapping from namespaces to limits, such as {"search": Quota(entries=1_000)}'
    if not isinstance(quotas, Mapping):
        raise ConfigurationError("quotas", quotas, example)
    for name, quota in quotas.items():
        if not isinstance(name, str) or not isinstance(quota, Quota):
            raise ConfigurationError("quotas", {name: quota}, example)
    return dict(quotas)


def refuse_larger(size: int, limit: int) -> None:
    """Raise for a value that is larger than one entry may be.

    Raises:
        UnstorableResultError: ``too_large``.
    """
    if size > limit:
        raise UnstorableResultError("too_large", f"{size} bytes, max_entry_bytes is {limit}")
