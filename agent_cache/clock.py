"""Time and chance: the only two places the package takes them from.

A clock is a function that returns seconds as a float, from an arbitrary start,
never going back. Everything that ages an entry takes one as a parameter, so
tests pass their own. Wall-clock time does not belong here: no decision rests on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta

from agent_cache.errors import ConfigurationError

__all__ = ["Clock", "monotonic", "nonce", "seconds", "uptime"]

Clock = Callable[[], float]
monotonic: Clock = time.monotonic


def uptime() -> float:
    """Seconds since some moment, those included in which the machine slept; the same for all processes of a host.

    What is compared with another host's passing of time has to know that it slept.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _HAS_BOOTTIME else time.monotonic()


_HAS_BOOTTIME = hasattr(time, "CLOCK_BOOTTIME")


_POOLED = 256
_pool: list[bytes] = []


def nonce() -> bytes:
    """96 fresh random bits. Versions and fences are these and are compared for equality only.

    Drawn from the system in batches (a call costs microseconds); a forked child starts a batch of its own.
    """
    try:
        return _pool.pop()
    except IndexError:
        drawn = os.urandom(12 * _POOLED)
        fresh = [drawn[i : i + 12] for i in range(0, len(drawn), 12)]
        mine = fresh.pop()
        _pool.extend(fresh)
        return mine


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)


def seconds(value: float | timedelta | None, parameter: str, *, zero_ok: bool = False) -> float | None:
    """A duration parameter in seconds; ``None`` means no limit.

    Raises:
        ConfigurationError: when it is negative, NaN, not a number, too large for a float, or zero where that makes no sense.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(parameter, value, "give seconds as a number, a timedelta, or None for no limit")
    if not value >= 0 or (value == 0 and not zero_ok):
        raise ConfigurationError(parameter, value, "give a positive number of seconds, or None for no limit")
    try:
        return float(value)
    except OverflowError:
        raise ConfigurationError(parameter, value, "give a number of seconds that a float can hold, or None") from None
