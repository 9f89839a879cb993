"""Tools that ask a human, by ``interrupt()``: what they return depends on the answer, and is nobody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["SCRATCHPAD", "was_answered"]

SCRATCHPAD = "__pregel_scratchpad"  # where LangGraph keeps what belongs to one task


def was_answered(config: Mapping[str, Any]) -> bool:
    """Whether the task that runs under this config was given an answer to an interrupt."""
    return bool(getattr(config.get("configurable", {}).get(SCRATCHPAD), "resume", None))
