"""The nouns the rooms pass to each other and to users: scopes, keys, events, explanations, tool types.

Frozen data and Protocols only. Nothing here decides, stores or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

__all__ = [
    "GLOBAL",
    "AsyncTool",
    "CacheKey",
    "CallEvent",
    "Event",
    "Explanation",
    "InvalidationEvent",
    "LoopEvent",
    "LoopKind",
    "Observer",
    "Outcome",
    "SyncTool",
    "ToolCall",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class _Undeclared(str):
    """``"global"``, and known not to have been written by the user."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'global'"


GLOBAL: str = _Undeclared("global")
"""The default scope: acts and prints as ``"global"``; ``scope is GLOBAL`` tells that nobody declared it."""

Outcome = Literal[
    "hit", "miss", "stale", "expired", "coalesced", "bypass", "blocked", "replayed", "stale_served", "revalidated",
    "would_hit", "would_miss", "would_coalesce", "would_be_stale",
]  # fmt: skip
LoopKind = Literal["repeat", "alternation", "cycle", "error", "no_progress", "depth"]


@dataclass(frozen=True, slots=True)
class CacheKey:
    """One call of one tool, whoever makes it: what ``tool.cache_key(...)`` returns and ``key_fn`` gives back.

    Equal exactly when the calls are equal. Carries no argument in readable form.
    """

    tool: str
    digest: str

    def __str__(self) -> str:
        return f"{self.tool}#{self.digest}"


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One read, after it was answered.

    ``seconds`` is how long the caller waited, ``age`` how old the served entry was (``None`` unless a hit),
    ``reason`` why it was not a hit. An ``outcome`` of ``"stale_served"``: the answer was older than its ttl, and ``reason``
    says which rule allowed that; ``"revalidated"``: a validator said that the expired answer still holds. A hit with the
    reason ``"negative"`` is a stored error. In shadow mode every read ran, and ``outcome`` says what the cache would have done:
    ``"would_hit"``, ``"would_be_stale"`` (a hit whose answer is not the tool's any more), ``"would_coalesce"`` or
    ``"would_miss"``. ``stored`` tells whether a load was kept, ``refused`` why not.
    ``dropped_by`` names the write that had dropped what was stored (of ``"stale"``), ``seconds_saved`` what the load of a served
    entry had taken, ``cost_saved`` the tool's ``cost`` then.
    """

    tool: str
    resource: str
    outcome: Outcome
    reason: str | None
    session_id: str | None
    age: float | None
    seconds: float
    tags: tuple[str, ...]
    stored: bool = False
    refused: str | None = None
    failed: bool = False
    dropped_by: str | None = None
    seconds_saved: float = 0.0
    cost_saved: float = 0.0


@dataclass(frozen=True, slots=True)
class InvalidationEvent:
    """One write, or one call of ``.invalidate()``: what it dropped. ``resource`` is what the tool declares."""

    tool: str
    tags: tuple[str, ...]
    scope: str
    session_id: str | None
    reason: str | None = None
    failed: bool = False
    no_effect: bool = False
    resource: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as evidence: tool, arguments as short text, the step at which it was made, its outcome as short text.

    ``outcome`` is what the call has led to all along; None where it is not known, or too large to be kept.
    """

    tool: str
    arguments: Mapping[str, str]
    step: int
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class LoopEvent:
    """A loop or a used-up budget, found before ``tool`` ran again.

    ``kind``: ``repeat`` (one call), ``alternation`` (two in turn), ``cycle`` (period 3 to 5), ``error`` (one tool, the same
    error, changing arguments), ``no_progress`` (only known calls with known outcomes), ``depth`` (the budget: not a loop).
    ``count``: equal calls, whole cycles, failures, idle calls, or steps. ``calls``: the last dozen at most, oldest first.
    ``first_step`` and ``last_step`` are numbers of calls in this turn, from 1. ``hint`` is fit to show to the model.
    """

    tool: str
    arguments: Mapping[str, str]
    kind: LoopKind
    period: int
    count: int
    calls: tuple[ToolCall, ...]
    first_step: int
    last_step: int
    hint: str
    session_id: str | None = None

    @property
    def evidence(self) -> tuple[ToolCall, ...]:
        """The calls that led here, as on the error."""
        return self.calls


Event = CallEvent | InvalidationEvent | LoopEvent


@runtime_checkable
class Observer(Protocol):
    """Receives one frozen event per call. What it raises is logged once and never reaches a tool."""

    def on_event(self, event: Event) -> None: ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call would be answered the way it would be, now.

    ``status`` is ``hit``, ``miss``, ``stale``, ``expired``, ``stale_served`` (older than its ttl, and would be served),
    ``blocked`` (a write is running) or ``bypass``.
    Times in seconds. ``dropped_by`` names the write that made a stored entry stale.
    """

    status: str
    reason: str
    key: CacheKey | None = None
    age: float | None = None
    ttl_left: float | None = None
    tags: tuple[str, ...] = field(default=())
    dropped_by: str | None = None

    def __bool__(self) -> bool:
        return self.status == "hit"


class AsyncTool(Protocol, Generic[P, R_co]):
    """A decorated ``async def`` read: called like the tool itself, with the cache's attributes beside."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None, /) -> AsyncTool[P, R_co]: ...
    @overload
    def __get__(self: AsyncTool[Concatenate[S, Q], R], instance: S, owner: Any = None, /) -> AsyncTool[Q, R]: ...
    def cache_key(self, *args: Any, **kwargs: Any) -> CacheKey: ...
    def invalidate(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, None]: ...
    def invalidate_all(self) -> Coroutine[Any, Any, None]: ...
    def uncached(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R_co]: ...
    def explain(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Explanation]: ...


class SyncTool(Protocol, Generic[P, R_co]):
    """A decorated ``def`` read; its attributes are plain calls."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __get__(self, instance: None, owner: Any = None, /) -> SyncTool[P, R_co]: ...
    @overload
    def __get__(self: SyncTool[Concatenate[S, Q], R], instance: S, owner: Any = None, /) -> SyncTool[Q, R]: ...
    def cache_key(self, *args: Any, **kwargs: Any) -> CacheKey: ...
    def invalidate(self, *args: Any, **kwargs: Any) -> None: ...
    def invalidate_all(self) -> None: ...
    def uncached(self, *args: Any, **kwargs: Any) -> R_co: ...
    def explain(self, *args: Any, **kwargs: Any) -> Explanation: ...


KeyFn = Callable[[tuple[Any, ...], dict[str, Any]], CacheKey | Iterable[CacheKey]]
"""Finds the read that a write changed: ``key_fn(args, kwargs) -> get_cart.cache_key(user_id)``."""
