"""``AsyncLRU`` and ``AsyncTTL``: a function goes in, the function comes out, cached.

The stand-in, its entries and its promises are those of :class:`~agent_cache.AgentCache` with a resource of the function's
own. What differs: it belongs to no session (no scope, no loop detection), and it has counters of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from agent_cache.backends.base import Backend
from agent_cache.clock import seconds
from agent_cache.context import Home, View
from agent_cache.decorators import AgentCache, _check_tool, _class_body, _read
from agent_cache.engine.by_hand import move_line
from agent_cache.engine.calls import backend_for
from agent_cache.engine.drivers import Line, drive_blocking
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import ConfigurationError
from agent_cache.functions.acts import EVERYTHING, Acts, near_store
from agent_cache.model import CacheKey, Explanation
from agent_cache.tags import Tag, call_path, write_tags

__all__ = ["AsyncLRU", "AsyncTTL", "CacheInfo", "Cached", "CachedFunction", "CachedSyncFunction"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
_IN_A_NAME = str.maketrans({":": ".", "/": ".", "{": "(", "}": ")"})


class CacheInfo(NamedTuple):
    """The figures that ``functools.lru_cache`` gives, of one function."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class CachedFunction(Protocol, Generic[P, R_co]):
    """An ``async def`` function under :class:`AsyncLRU` or :class:`AsyncTTL`."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...
    @overload
    def __get__(self, instance: None, owner: Any = None, /) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: Any = None, /
    ) -> CachedFunction[Q, R]: ...
    def invalidate_cache(self, *args: Any, **kwargs: Any) -> Awaitable[None]: ...
    def clear_cache(self) -> Awaitable[None]: ...
    def get_metrics(self) -> dict[str, Any]: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> Awaitable[None]: ...
    def cache_parameters(self) -> dict[str, Any]: ...
    def cache_key(self, *args: Any, **kwargs: Any) -> CacheKey: ...
    def uncached(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R_co]: ...
    def explain(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Explanation]: ...


class CachedSyncFunction(Protocol, Generic[P, R_co]):
    """A ``def`` function under one of them; its attributes are plain calls."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __get__(self, instance: None, owner: Any = None, /) -> CachedSyncFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedSyncFunction[Concatenate[S, Q], R], instance: S, owner: Any = None, /
    ) -> CachedSyncFunction[Q, R]: ...
    def invalidate_cache(self, *args: Any, **kwargs: Any) -> None: ...
    def clear_cache(self) -> None: ...
    def get_metrics(self) -> dict[str, Any]: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> None: ...
    def cache_parameters(self) -> dict[str, Any]: ...
    def cache_key(self, *args: Any, **kwargs: Any) -> CacheKey: ...
    def uncached(self, *args: Any, **kwargs: Any) -> R_co: ...
    def explain(self, *args: Any, **kwargs: Any) -> Explanation: ...


class Cached:
    """What is behind one decorated function: its home, and what is done to its entries by hand."""

    def __init__(self) -> None:
        self.acts = Acts()
        self.home = Home(self._slow)
        self.tool: ReadTool

    @property
    def backend(self) -> Backend:
        return backend_for(self.tool.policy.backend, None)

    def _slow(self, tool: ReadTool, view: View, values: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        return self._after_acts(tool, view, values) if self.acts else _read(tool, view, values)

    async def _after_acts(self, tool: ReadTool, view: View, values: tuple[Any, ...]) -> Any:
        await self.acts.over(EVERYTHING)
        return await _read(tool, view, values)

    def drop(self, key: CacheKey | None) -> Awaitable[None]:
        """Invalidate one call, or with None all of them; now."""
        backend, tags = self.backend, self._tags(key)
        done = self.acts.do(EVERYTHING, backend, tags, lambda: self._move(backend, tags))
        self._make_room(backend, key)
        return done

    def drop_blocking(self, key: CacheKey | None) -> None:
        """The same for a ``def`` function."""
        backend = self.backend
        drive_blocking(self._move(backend, self._tags(key)))
        self._make_room(backend, key)

    def _tags(self, key: CacheKey | None) -> tuple[Tag, ...]:
        return write_tags([(f"#{self.tool.group}",) if key is None else call_path(key)], ())

    def _move(self, backend: Backend, tags: tuple[Tag, ...]) -> Line[bool]:
        return move_line(self.tool, self.home.view, backend, tags)

    def _make_room(self, backend: Backend, key: CacheKey | None) -> None:
        store = near_store(backend)
        if store is not None and key is None:
            store.drop_group(self.tool.group)

    def figures(self) -> dict[str, Any]:
        """The counters, with the entries kept in this process now."""
        self.home.view.drain()
        figures = self.home.metrics.snapshot()
        del figures["resources"]
        store = near_store(self.backend)
        figures["entries"], figures["bytes"] = store.group_sizes(self.tool.group) if store is not None else (0, 0)
        figures["maxsize"] = self.tool.policy.maxsize
        return figures


class _Decorator:
    """What the two have in common."""

    def __init__(self, cache: AgentCache) -> None:
        self._cache = cache

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> CachedFunction[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, function: Callable[P, R]) -> CachedSyncFunction[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        _check_tool(function, type(self).__name__, reads=True)
        cached = Cached()
        name = f"{function.__module__}.{function.__qualname__}".translate(_IN_A_NAME)
        made = self._cache._decorated(function, name, _class_body(), cached.home)
        cached.tool = made.__agent_cache__
        _attach(made, cached)
        return made


class AsyncLRU(_Decorator):
    """Cache a function's results, the most useful ``maxsize`` of them.

    ::

        @AsyncLRU(maxsize=1000)
        async def get_user(user_id: int) -> dict: ...

    Args:
        maxsize: entries at most; None leaves it to the backend.
        skip_args: leave the first N positional parameters out of the key (1 for ``self``).
        backup: a ``DiskBackend`` behind memory.
        remote_cache: a ``RedisBackend`` behind memory, shared by processes.
        backend: where entries are kept; else the configured backend, else memory.

    Concurrent equal calls run the function once, whoever is cancelled; every caller gets a value of its own; exceptions
    are not cached. The function also has ``invalidate_cache(...)`` (one call) and ``clear_cache()`` (all of them), which
    act when they are called and return an awaitable for the far tier; ``get_metrics()``; what ``functools.lru_cache``
    gives (``cache_info()``, ``cache_clear()``, ``cache_parameters()``); ``cache_key(...)``, ``uncached(...)`` and
    ``explain(...)``. ``def`` functions work the same way, with plain calls.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        maxsize: int | None = 128,
        skip_args: int = 0,
        backup: Backend | None = None,
        remote_cache: Backend | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        _check_called(maxsize, "maxsize", "AsyncLRU")
        super().__init__(
            AgentCache("-", "global", None, maxsize, skip_args, backup, remote_cache, backend=backend),
        )


class AsyncTTL(_Decorator):
    """Cache a function's results for some time.

    ::

        @AsyncTTL(time_to_live=60)
        async def weather(city: str) -> dict: ...

    Args:
        time_to_live: seconds for which a result is served; None = no limit.
        maxsize: entries at most; None leaves it to the backend.
        skip_args: leave the first N positional parameters out of the key (1 for ``self``).
        backup: a ``DiskBackend`` behind memory.
        remote_cache: a ``RedisBackend`` behind memory, shared by processes.
        backend: where entries are kept; else the configured backend, else memory.

    For the rest see :class:`AsyncLRU`.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        time_to_live: float | timedelta | None = 60,
        maxsize: int | None = 1024,
        skip_args: int = 0,
        *,
        backup: Backend | None = None,
        remote_cache: Backend | None = None,
        backend: Backend | None = None,
    ) -> None:
        _check_called(time_to_live, "time_to_live", "AsyncTTL")
        ttl = seconds(time_to_live, "time_to_live")
        super().__init__(
            AgentCache("-", "global", ttl, maxsize, skip_args, backup, remote_cache, backend=backend),
        )


def _check_called(first: object, parameter: str, decorator: str) -> None:
    if callable(first):
        raise ConfigurationError(parameter, first, f"write @{decorator}() with parentheses")


def _attach(made: Any, cached: Cached) -> None:
    """The attributes of a decorated function."""
    key_of = made.cache_key
    policy = cached.tool.policy

    def cache_info() -> CacheInfo:
        figures = cached.figures()
        return CacheInfo(figures["hits"], figures["misses"], policy.maxsize, figures["entries"])

    def cache_parameters() -> dict[str, Any]:
        return {"maxsize": policy.maxsize, "typed": True, "ttl": policy.ttl}

    def invalidate_cache(*args: Any, **kwargs: Any) -> Awaitable[None]:
        return cached.drop(key_of(*args, **kwargs))

    def clear_cache() -> Awaitable[None]:
        return cached.drop(None)

    def invalidate_cache_now(*args: Any, **kwargs: Any) -> None:
        cached.drop_blocking(key_of(*args, **kwargs))

    def clear_cache_now() -> None:
        cached.drop_blocking(None)

    made.get_metrics = cached.figures
    made.cache_info, made.cache_parameters = cache_info, cache_parameters
    if cached.tool.is_async:
        made.invalidate_cache, made.clear_cache, made.cache_clear = invalidate_cache, clear_cache, clear_cache
    else:
        made.invalidate_cache, made.clear_cache = invalidate_cache_now, clear_cache_now
        made.cache_clear = clear_cache_now
    made.__agent_cache_function__ = cached
