"""What may be said about loops, checked once: a session's thresholds, and what a tool says of itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from agent_cache.errors import ConfigurationError
from agent_cache.model import LoopEvent

__all__ = ["LoopKey", "LoopPolicy", "OnLoop", "ToolRule", "checked_on_loop", "checked_rule"]

OnLoop = Literal["raise", "warn", "short_circuit", "staged"] | Callable[[LoopEvent], object]
ON_LOOP = ("raise", "warn", "short_circuit", "staged")

LoopKey = Iterable[str] | Callable[[Mapping[str, Any]], Hashable]
"""Names of the parameters that make two calls the same call to the detector, or a function of the arguments."""


@dataclass(frozen=True, slots=True)
class LoopPolicy:
    """When a session's calls are a loop. All thresholds count calls; ``None`` is derived from ``max_tool_repeats``.

    Args:
        max_tool_repeats: equal calls with an equal outcome that pass; the next one is a loop.
        max_execution_depth: calls one turn may make, whatever they are: a budget.
        max_cycle_turns: how often a cycle of two to five calls may be gone through with equal outcomes; the call after
            is a loop. None: one less than ``max_tool_repeats``, and three at least.
        max_error_repeats: how often one tool may fail with the same error under changing arguments. A call that has
            failed so before counts twice. None: one more than ``max_tool_repeats``.
        max_idle_calls: calls in a row that may bring nothing, each made at least twice before and answered as then.
            None: four times ``max_tool_repeats``.
        max_poll_repeats: ``max_tool_repeats`` for tools with ``poll=True``. None: ten times ``max_tool_repeats``.

    Raises:
        ConfigurationError: a threshold that is not a whole number from 1.
    """

    max_tool_repeats: int = 5
    max_execution_depth: int = 50
    max_cycle_turns: int | None = None
    max_error_repeats: int | None = None
    max_idle_calls: int | None = None
    max_poll_repeats: int | None = None

    def __post_init__(self) -> None:
        for threshold in fields(self):
            value = getattr(self, threshold.name)
            if value is None and threshold.default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(threshold.name, value, "give a whole number of calls from 1")

    @property
    def cycle_turns(self) -> int:
        return self.max_cycle_turns or max(3, self.max_tool_repeats - 1)

    @property
    def error_repeats(self) -> int:
        return self.max_error_repeats or self.max_tool_repeats + 1

    @property
    def idle_calls(self) -> int:
        return self.max_idle_calls or 4 * self.max_tool_repeats

    @property
    def poll_repeats(self) -> int:
        return self.max_poll_repeats or 10 * self.max_tool_repeats


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What one tool says of itself. ``loop_key``: see :func:`checked_rule`."""

    poll: bool = False
    max_tool_repeats: int | None = None
    loop_key: tuple[str, ...] | Callable[[Mapping[str, Any]], Hashable] | None = None

    def limit(self, policy: LoopPolicy) -> int:
        """How many equal calls with an equal outcome pass."""
        if self.max_tool_repeats is not None:
            return self.max_tool_repeats
        return policy.poll_repeats if self.poll else policy.max_tool_repeats

    def same_by(self, arguments: Mapping[str, Any]) -> Hashable:
        """What two calls have in common that are one to the detector; None where the whole call says it.

        What the user's function raises is the caller's to handle.
        """
        key = self.loop_key
        if key is None:
            return None
        if callable(key):
            return key(arguments)
        return tuple((name, repr(arguments.get(name))) for name in key)


def checked_rule(poll: bool, max_tool_repeats: object, loop_key: object) -> ToolRule:
    """A tool's rule.

    Args:
        poll: it is meant to be polled: ``max_poll_repeats`` counts for it, and it is no part of a cycle.
        max_tool_repeats: equal calls with an equal outcome that pass, for this tool; None for the session's.
        loop_key: the names of the parameters that count, or a function of the arguments (a mapping by parameter name)
            that returns something hashable; None for all arguments.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """
    if max_tool_repeats is not None and (
        isinstance(max_tool_repeats, bool) or not isinstance(max_tool_repeats, int) or max_tool_repeats < 1
    ):
        raise ConfigurationError(
            "max_tool_repeats", max_tool_repeats, "give a whole number of calls from 1, or None for the session's"
        )
    if loop_key is None or callable(loop_key):
        return ToolRule(poll, max_tool_repeats, loop_key)
    names = (loop_key,) if isinstance(loop_key, str) else tuple(loop_key) if isinstance(loop_key, Iterable) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            "loop_key", loop_key, "give the names of the parameters that count, or a function of the arguments"
        )
    return ToolRule(poll, max_tool_repeats, names)


def checked_on_loop(on_loop: Any) -> OnLoop:
    """``on_loop`` of a session.

    Raises:
        ConfigurationError: anything but one of the words or a function.
    """
    if callable(on_loop) or (isinstance(on_loop, str) and on_loop in ON_LOOP):
        accepted: OnLoop = on_loop
        return accepted
    raise ConfigurationError(
        "on_loop", on_loop, f"give one of {', '.join(map(repr, ON_LOOP))} or a function of the event"
    )
