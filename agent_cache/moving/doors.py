"""The methods that every backend has for moving and checking, on both of its surfaces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

from agent_cache.backends.base import Finding, Scanning, StoredEntry
from agent_cache.backends.portal import PORTAL, BlockingFace
from agent_cache.moving.arriving import import_
from agent_cache.moving.checking import integrity_check
from agent_cache.moving.erasing import Targets, erase, targets
from agent_cache.moving.leaving import export
from agent_cache.moving.reports import EraseReport, IntegrityReport, MoveReport
from agent_cache.tags import Chain, Tag

__all__ = ["Movable", "MovableBlocking", "MovableFace"]

File = str | os.PathLike[str]
Names = str | Iterable[str] | None


class Movable:
    """For a backend that can be scanned."""

    async def export(
        self,
        file: File,
        *,
        namespaces: Names = None,
        only: Callable[[StoredEntry], bool] | None = None,
        compress: bool | None = None,
        overwrite: bool = False,
        secret: str | bytes | None = None,
    ) -> MoveReport:
        """Write what is stored into a file, from which any backend can take it in again (docs/moving.md).

        Current entries only, with the ttl that is left of them; no versions. What is bound to a session stays.

        Args:
            file: where to; a name that ends in ``.gz`` is packed. Readable by its owner only, there only when it is whole.
            namespaces: of these only (``configure(namespace=...)``; ``""`` is none); None = all.
            only: a function of a ``StoredEntry``: those for which it is true.
            compress: pack it whatever its name says; or not.
            overwrite: whether a file that is there already is replaced.
            secret: authenticate the file with it; whoever takes it in has to give the same.

        Raises:
            ConfigurationError: naming the parameter, the value and the fix.
            BackendError: the store is away.
            OSError: the file cannot be written.
        """
        how: dict[str, Any] = {"namespaces": namespaces, "only": only, "compress": compress}
        return await export(cast(Scanning, self), file, overwrite=overwrite, secret=secret, **how)

    async def import_(
        self,
        file: File,
        *,
        namespaces: Names = None,
        max_age: float | timedelta | None = None,
        replace: bool = False,
        frozen: bool = False,
        secret: str | bytes | None = None,
    ) -> MoveReport:
        """Store what is in a file that :meth:`export` made. By this you say that it is still true.

        All of the file is checked before anything of it is stored. Each entry is filled under a token of this store, so a
        write that comes between wins; writes that were made elsewhere after the export are not known to it.

        Args:
            file: where from; packed or not.
            namespaces: of these only; None = all.
            max_age: seconds; entries that were loaded longer ago are left out.
            replace: whether what is stored already is replaced; else it is kept.
            frozen: ttl and age go on from where they were when the file was made. Otherwise the time since then is counted,
                by the wall clocks of both machines.
            secret: the one it was made with.

        Raises:
            ExportFileError: it is no such file, a newer one, cut off, altered, or sealed with another secret.
            ConfigurationError: naming the parameter, the value and the fix.
            BackendError: the store is away.
        """
        how: dict[str, Any] = {"namespaces": namespaces, "max_age": max_age, "frozen": frozen}
        return await import_(self, file, replace=replace, secret=secret, **how)

    async def erase(
        self,
        identity: Mapping[str, object] | None = None,
        *,
        sessions: Names = (),
        paths: Names = (),
        unknown: bool = False,
    ) -> EraseReport:
        """Delete what is stored of one identity, physically; see :func:`agent_cache.erase`.

        Raises:
            ConfigurationError: naming the parameter, the value and the fix.
            BackendError: the store is away, or its disk is full.
        """
        return await erase(self, targets(identity, sessions, paths), unknown=unknown)

    async def held(self, chain: Chain) -> int:
        """How many entries of this chain ``drop_chain`` would delete."""
        return 0

    async def forget_tags(self, tags: Sequence[Tag]) -> None:
        """Delete what is kept of these tags, whose entries are gone, where it can be missed."""

    async def finish_erasing(self, wanted: Targets) -> Mapping[str, int]:
        """Let nothing be read from where it was; what is left, by reason."""
        return {}

    async def check_store(self, *, repair: bool) -> list[Finding]:
        """What only this kind of store can be wrong about."""
        return []

    async def integrity_check(self, repair: bool = False) -> IntegrityReport:
        """Read everything that is stored and see whether it is sound; changes nothing unless it is told to.

        Args:
            repair: take out what is broken. Nothing is lost by it: what is broken is not served either.

        Raises:
            BackendError: the store is away.
        """
        return await integrity_check(self, repair=repair)


class MovableBlocking:
    """The same for code without an event loop."""

    def _twin(self) -> Movable:
        """The asynchronous backend over the same store."""
        raise NotImplementedError

    def export(
        self,
        file: File,
        *,
        namespaces: Names = None,
        only: Callable[[StoredEntry], bool] | None = None,
        compress: bool | None = None,
        overwrite: bool = False,
        secret: str | bytes | None = None,
    ) -> MoveReport:
        """See :meth:`Movable.export`."""
        how: dict[str, Any] = {"namespaces": namespaces, "only": only, "compress": compress}
        return PORTAL.run(self._twin().export(file, overwrite=overwrite, secret=secret, **how))

    def import_(
        self,
        file: File,
        *,
        namespaces: Names = None,
        max_age: float | timedelta | None = None,
        replace: bool = False,
        frozen: bool = False,
        secret: str | bytes | None = None,
    ) -> MoveReport:
        """See :meth:`Movable.import_`."""
        how: dict[str, Any] = {"namespaces": namespaces, "max_age": max_age, "frozen": frozen}
        return PORTAL.run(self._twin().import_(file, replace=replace, secret=secret, **how))

    def erase(
        self,
        identity: Mapping[str, object] | None = None,
        *,
        sessions: Names = (),
        paths: Names = (),
        unknown: bool = False,
    ) -> EraseReport:
        """See :meth:`Movable.erase`."""
        return PORTAL.run(self._twin().erase(identity, sessions=sessions, paths=paths, unknown=unknown))

    def integrity_check(self, repair: bool = False) -> IntegrityReport:
        """See :meth:`Movable.integrity_check`."""
        return PORTAL.run(self._twin().integrity_check(repair))


class MovableFace(BlockingFace, MovableBlocking):
    """The blocking face of a backend whose own surface is asynchronous."""

    def _twin(self) -> Movable:
        return cast(Movable, self._backend)
