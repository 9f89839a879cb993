"""What the lines share: an answer, and what is said when a backend fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent_cache.config import settings
from agent_cache.context import View
from agent_cache.engine.effects import Down

__all__ = ["Answer", "backend_failed"]


@dataclass(slots=True, eq=False)
class Answer:
    """What the caller gets: a value of its own, or the error to raise."""

    value: Any = None
    error: BaseException | None = None


def backend_failed(view: View, resource: str, down: Down) -> None:
    view.count(resource, "backend_errors", reason=type(down.error).__name__)
    settings.notices.once(("backend", type(down.error)), "the backend failed (%r); tools run uncached", down.error)
