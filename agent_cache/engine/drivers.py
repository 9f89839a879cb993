"""Carry a line out: every wait, no decision.

A *line* is a generator that yields effects and is sent their replies (see :mod:`.lines`).
The two drivers differ in how they perform an effect and in nothing else, so ``async def`` and
``def`` tools cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, TypeVar

__all__ = ["Line", "drive", "drive_blocking"]

T = TypeVar("T")


class _Effect(Protocol):
    async def go(self) -> Any: ...
    def go_blocking(self) -> Any: ...


Line = Generator[_Effect, Any, T]


async def drive(line: Line[T]) -> T:
    """Carry out a line on the running event loop."""
    try:
        effect = next(line)
        while True:
            effect = line.send(await effect.go())
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # not by way of a local: see TaskFlight._run
    finally:
        line.close()


def drive_blocking(line: Line[T]) -> T:
    """Carry out a line in this thread."""
    try:
        effect = next(line)
        while True:
            effect = line.send(effect.go_blocking())
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # as above
    finally:
        line.close()
