"""Integrity: is what is stored what was stored, and does the store still add up?

What every store has in common is looked at here: each entry is read as a whole and its checksum compared. What only one kind
of store can be wrong about is its own ``check_store``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from agent_cache.backends.base import Finding, StoredEntry
from agent_cache.bounds import MAX_ENTRY_BYTES
from agent_cache.codecs.packed import plain
from agent_cache.errors import ConfigurationError, UnstorableResultError
from agent_cache.moving.reports import IntegrityReport

__all__ = ["integrity_check"]

_UNREADABLE = ("file", "rows")
"""Where there is no use in looking at single entries, or a look alone would make the store mend itself."""


async def integrity_check(backend: Any, *, repair: bool = False) -> IntegrityReport:
    """Look at all of a store. See :meth:`~agent_cache.moving.Movable.integrity_check`."""
    if not isinstance(repair, bool):
        raise ConfigurationError("repair", repair, "give True to delete what is broken, or False")
    findings: list[Finding] = await backend.check_store(repair=repair)
    broken: Counter[str] = Counter()
    checked = removed = outdated = 0
    if not any(finding.check in _UNREADABLE and finding.level == "error" for finding in findings) or repair:
        async for entry in backend.scan(payloads=not backend.in_process):
            checked += 1
            problem = entry.problem or _problem_of(entry)
            if problem:
                broken[problem] += 1
                removed += repair and await backend.remove(entry)
            elif entry.is_current is False:
                outdated += 1
    return IntegrityReport(checked, outdated, dict(broken), removed, tuple(findings))


def _problem_of(entry: StoredEntry) -> str:
    if entry.payload is None:
        return ""
    try:
        plain(entry.payload, MAX_ENTRY_BYTES)
    except UnstorableResultError as error:
        return f"its payload is damaged ({error})"
    return ""
