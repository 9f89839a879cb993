"""Erasing one identity from every store this process uses. How it is done in one store: :mod:`agent_cache.moving.erasing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from agent_cache.config import settings
from agent_cache.errors import ConfigurationError
from agent_cache.moving import EraseReport, Movable, MovableBlocking
from agent_cache.moving.erasing import targets, texts
from agent_cache.policy import scopes_of_reads
from agent_cache.session import backends_in_use

__all__ = ["erase"]


async def erase(
    identity: Mapping[str, object] | None = None,
    *,
    backend: Any = None,
    sessions: str | Iterable[str] = (),
    paths: str | Iterable[str] = (),
    unknown: bool = False,
) -> EraseReport:
    """Delete, physically, what is stored of one identity and everything under it.

    First its tags move, so that no load under way is stored and no copy in another process is served; then the entries are
    deleted in small batches; then the store overwrites what held them. See docs/security.md for what that means on each store, and
    for what is elsewhere: exports, cassettes, backups. Stop serving the identity first.

    Args:
        identity: as sessions have it, from the widest field to the narrowest: ``{"tenant": "acme", "user": "u1"}``.
            ``{"tenant": "acme"}`` is everybody's at acme. Sessions that have just this identity are found by themselves, those
            of identities under it while they are open in this process.
        backend: the store; None: every one that this process's tools, sessions and configuration name.
        sessions: ids of sessions whose entries go too, whoever they belong to.
        paths: resources whose entries go too, in every scope: ``"user:42"`` takes what a write to it would drop, the list
            ``user`` among it.
        unknown: also delete tools' entries of which the store cannot tell whose they are (see ``EraseReport.left``).

    Returns:
        How many were deleted, and what was left. Its truth value: whether nothing was.

    Raises:
        ConfigurationError: nothing to erase is named, or what is named cannot be.
        BackendError: a store is away, or its disk is full.
    """
    asked = texts(sessions, "sessions"), texts(paths, "paths")
    targets(identity, *asked)  # complains before anything is deleted
    entries = owners = 0
    left: Counter[str] = Counter()
    for store in [_checked(backend)] if backend is not None else _all():
        report = await store.erase(identity, sessions=asked[0], paths=asked[1], unknown=unknown)
        entries += report.entries
        owners = max(owners, report.owners)
        left.update(report.left)
    return EraseReport(entries, owners, dict(left))


def _checked(backend: Any) -> Movable:
    found = getattr(backend, "_twin", lambda: backend)() if isinstance(backend, MovableBlocking) else backend
    if not isinstance(found, Movable):
        raise ConfigurationError("backend", backend, "give a MemoryBackend, DiskBackend, RedisBackend or TieredBackend")
    return found


def _all() -> list[Movable]:
    """Each once. One of somebody else's make is passed over: it says by itself how it is emptied."""
    named = [settings.default_backend(), *scopes_of_reads.all_backends(), *backends_in_use()]
    return [store for store in {id(store): store for store in named}.values() if isinstance(store, Movable)]
