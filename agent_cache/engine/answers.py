"""What the lines share: an answer, and what is told of a read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent_cache.backends.base import Found
from agent_cache.codecs import Stored
from agent_cache.context import current_view
from agent_cache.errors import UnstorableResultError
from agent_cache.flight import Landed
from agent_cache.model import Outcome

__all__ = ["Answer", "Report", "own", "shared", "told"]


@dataclass(slots=True, eq=False)
class Answer:
    """What the caller gets: a value of its own, or the error to raise."""

    value: Any = None
    error: BaseException | None = None
    hit: bool = False
    """A read: answered from a store."""
    no_effect: bool = False
    """A write: it declared that it changed nothing."""


def told(answer: Answer) -> Any:
    """The value, or the error raised; whose traceback keeps this frame, so this frame must not keep the error."""
    error, value = answer.error, answer.value
    answer.error = None
    if error is None:
        return value
    try:
        raise error
    finally:
        del error


@dataclass(slots=True, eq=False)
class Report:
    """What is told about a read once it is over."""

    outcome: Outcome
    reason: str | None = None
    landed: Landed | None = None
    dropped_by: str | None = None
    found: Found | None = None
    """The entry that was served, of a plain hit."""
    age: float | None = None
    saved: float | None = None
    """Seconds that the load of what was served had taken; None where nothing was saved."""
    failed: bool = False


def shared(landed: Landed) -> Answer | None:
    """A joiner's own value, the load's error, or None where the value cannot be copied, or is another session's."""
    if landed.only_in is not None and landed.only_in[0] is not current_view().session:
        return None
    if landed.error is not None:
        return Answer(error=landed.error.with_traceback(landed.trace))
    return own(landed.stored)


def own(stored: Stored | None) -> Answer | None:
    """A copy for one caller; None where there is nothing to copy or it cannot be read."""
    if stored is None:
        return None
    try:
        return Answer(stored.fresh())
    except UnstorableResultError:
        return None
