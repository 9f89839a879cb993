"""Which calls are drawn for a closer look: each with the same chance, those that are answered at once included.

A call that may be answered at once is drawn where it looks for its answer: it then finds none, takes the long way, and is
known there as drawn. Where nobody samples, the table is a plain dict and nothing of this is on any way.
What is done with a drawn call is the engine's business.
"""

from __future__ import annotations

import random
import threading
from typing import Any

from agent_cache.errors import ConfigurationError

__all__ = ["SampledTable", "by_chance", "checked_rate", "look_up", "was_drawn"]

_chance = random.Random()  # noqa: S311 - of our own: a program that seeds the common one is not to be disturbed


class _Drawn(threading.local):
    """The call that this thread has just drawn; whoever takes the long way asks at once."""

    number: int | None = None


_drawn = _Drawn()


def checked_rate(value: object) -> float:
    """A fraction from 0 to 1.

    Raises:
        ConfigurationError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        fix = "give the fraction of hits to verify, from 0 (none) to 1 (all), such as 0.01"
        raise ConfigurationError("verify", value, fix)
    return float(value)


def by_chance(rate: float) -> bool:
    return _chance.random() < rate


def look_up(table: dict[Any, Any], key: tuple[Any, ...], rate: float) -> Any:
    """What stands in a hot table; None for a call that is drawn."""
    if _chance.random() < rate:
        _drawn.number = key[0]
        return None
    return dict.get(table, key)


def was_drawn(number: int) -> bool:
    """Whether the call of this shape, which this thread is making, was drawn as it looked for its answer."""
    drawn, _drawn.number = _drawn.number, None
    return drawn == number


class SampledTable(dict[Any, Any]):
    """A hot table in which a part of the calls, ``rate``, finds nothing."""

    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def get(self, key: Any, default: Any = None, /) -> Any:
        return look_up(self, key, self.rate)
