"""What people are told when a backend fails, and when it works again: each kind of work has an outage of its own.

A Redis that is full answers reads and refuses what is to be stored; one kind of work that goes well says nothing of
another. What a failure means for a call is the lines' business.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from agent_cache.backends.base import Backend, NotStoringError
from agent_cache.config import settings
from agent_cache.context import View

__all__ = ["INVALIDATING", "READING", "STORING", "Work", "backend_failed", "backend_worked"]


@dataclass(frozen=True, slots=True)
class Work:
    """A kind of work, and what is said when a backend cannot do it, and when it can again."""

    what: str
    fails: str
    works: str


READING = Work("reading", "the backend failed (%s); tools run uncached", "the backend answers again: %r")
STORING = Work(
    "storing",
    "the backend stores nothing now (%s); results are returned and not stored",
    "the backend stores results again: %r",
)
INVALIDATING = Work(
    "invalidating",
    "the backend did not take an invalidation (%s); until it does, nothing is read from it",
    "the backend takes invalidations again: %r",
)
_REFUSING = (
    "the backend takes no invalidations (%s); until it does, writes are not run (on_unavailable='refuse_writes')"
)


def backend_failed(
    view: View, resource: str, backend: Backend, error: Exception, work: Work, *, refused: bool = False
) -> None:
    """Count it, and say once for each outage what happens now. ``refused``: the write it was about was not run."""
    view.count(resource, "backend_errors", reason=type(error).__name__)
    if isinstance(error, NotStoringError):
        work = STORING
    text = _REFUSING if refused else work.fails
    settings.notices.outage(_which(backend, work), text, error, of=backend)


def backend_worked(backend: Backend, work: Work) -> None:
    """This kind of work went well: its outage is over, if there was one."""
    if settings.notices.outages:
        settings.notices.over(_which(backend, work), work.works, backend)


def _which(backend: Backend, work: Work) -> Hashable:
    return work.what, id(backend)
