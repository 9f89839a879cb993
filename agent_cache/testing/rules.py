"""The rules of freshness the litmus can be run with: each alone, and what goes together at once.

An invalidation beats all of them, so no promise but P5 (what has expired is loaded again) is relaxed.
What belongs here: parameters of ``AgentCache`` by name, and the clock that makes entries expire in the middle of
everything. What does not: schedules and verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent_cache.freshness import Validator
from agent_cache.testing.world import LoadFailed

__all__ = ["RULES", "Hasty", "rules_of"]

_LONG = 1_000.0  # seconds: in the litmus the grace never ends
RULES = (
    "ttl", "ttl_of", "jitter", "stale_while_revalidate", "stale_if_error", "early_refresh", "cache_errors", "soft_timeout",
    "revalidate", "version", "all",
)  # fmt: skip


def rules_of(name: str, ttl: float, soft: float) -> dict[str, Any]:
    """Parameters of ``AgentCache``. ``ttl`` and ``soft`` (the soft limit) in seconds.

    Raises:
        ValueError: there are no rules of this name.
    """
    loads_last: Callable[[Any], float] = lambda value: ttl  # noqa: E731 - a function of the result
    stale: dict[str, Any] = {"ttl": ttl, "stale_while_revalidate": _LONG}
    error: dict[str, Any] = {"ttl": ttl, "stale_if_error": _LONG}
    known: dict[str, dict[str, Any]] = {
        "ttl": {"ttl": ttl},
        "ttl_of": {"ttl": loads_last},
        "jitter": {"ttl": ttl, "jitter": 0.9},
        "stale_while_revalidate": stale,
        "stale_if_error": error,
        "early_refresh": {"ttl": _LONG, "early_refresh": 1e12},  # every look refreshes
        "cache_errors": {"ttl": ttl, "cache_errors": {LoadFailed: ttl}},
        "soft_timeout": {**error, "soft_timeout": soft},
        "revalidate": {"ttl": ttl, "revalidate": lambda entry: True},  # nothing is written outside of write tools
        "version": {"ttl": ttl, "revalidate": Validator(version=lambda arguments: 1)},
        "all": {**error, "ttl": loads_last, "stale_while_revalidate": 2 * ttl, "early_refresh": 1.0, "jitter": 0.5,
                "soft_timeout": soft, "hard_timeout": _LONG, "revalidate": lambda entry: True},
    }  # fmt: skip
    if name not in known:
        raise ValueError(f"--freshness {name}: give one of {', '.join(known)}")
    return known[name]


class Hasty:
    """A clock that goes on by a millionth of a second with each look at it, so that entries expire between two steps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ahead = 0.0

    def __call__(self) -> float:
        self._ahead += 1e-6
        return self._clock() + self._ahead
