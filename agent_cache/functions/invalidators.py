"""``AsyncLRUInvalidator`` and ``AsyncTTLInvalidator``: a write drops what one cached function said of it.

The write, its window and its promises are those of :class:`~agent_cache.AgentCacheInvalidator`; here is only how the
call to be dropped is found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import Any, TypeVar

from agent_cache.decorators import AgentCacheInvalidator, _check_tool
from agent_cache.errors import ConfigurationError
from agent_cache.functions.key import KEY
from agent_cache.functions.lru import Cached
from agent_cache.keys import CallShape
from agent_cache.model import CacheKey
from agent_cache.policy import checked_callable

__all__ = ["AsyncLRUInvalidator", "AsyncTTLInvalidator"]

F = TypeVar("F", bound=Callable[..., Any])
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
Find = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class AsyncLRUInvalidator:
    """Let a write drop a cached function's result: before it runs, and again when it has ended, however it ends.

    ::

        @AsyncLRUInvalidator(get_user)
        async def update_user(user_id: int, data: dict) -> None: ...

    Args:
        cached_fn: a function under :class:`AsyncLRU` or :class:`AsyncTTL`.
        skip_args: the first N positional parameters of the write (1 for ``self``) are not looked at, nor given to
            ``key_fn``.
        clear_all: drop all of its results, not only those of one call.
        key_fn: ``key_fn(args, kwargs)`` gets the write's arguments and returns the ``(args, kwargs)`` of the read to drop
            (or a :class:`KEY`, or what ``cached_fn.cache_key(...)`` returns; or a list of those). Without it the read's
            parameters are found by name among the write's.

    The write may be ``async def`` or ``def``. Where ``key_fn`` fails the write runs, and all results are dropped.

    Raises:
        ConfigurationError: at decoration: not a cached function, ``key_fn`` together with ``clear_all``, or a parameter
            of the read that the write does not have.
    """

    def __init__(self, cached_fn: Any, skip_args: int = 0, clear_all: bool = False, key_fn: Find | None = None) -> None:
        cached = getattr(cached_fn, "__agent_cache_function__", None)
        if not isinstance(cached, Cached):
            fix = "give a function decorated with AsyncLRU or AsyncTTL; a tool's AgentCache takes AgentCacheInvalidator"
            raise ConfigurationError("cached_fn", cached_fn, fix)
        if isinstance(skip_args, bool) or not isinstance(skip_args, int) or skip_args < 0:
            raise ConfigurationError("skip_args", skip_args, "give how many leading positional parameters to pass over")
        checked_callable(key_fn, "key_fn", "lambda args, kwargs: ((args[0],), {})")
        if clear_all and key_fn is not None:
            raise ConfigurationError("key_fn", key_fn, "clear_all=True drops all results: leave one of them out")
        self._cached = cached
        self._key_of: Callable[..., CacheKey] = cached_fn.cache_key
        self._skip_args = skip_args
        self._clear_all = bool(clear_all)
        self._key_fn = key_fn

    def __call__(self, function: F) -> F:
        _check_tool(function, type(self).__name__, reads=False)
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        if self._skip_args > len(positional):
            fix = f"{function.__name__} has {len(positional)} positional parameters"
            raise ConfigurationError("skip_args", self._skip_args, fix)
        find: Find | None = None
        if self._key_fn is not None:
            find = self._asking(self._key_fn)
        elif not self._clear_all:
            find = self._by_name(function, parameters, {p.name for p in positional[: self._skip_args]})
        policy = self._cached.tool.policy
        texts = [template.text for template in policy.resources]
        write = AgentCacheInvalidator(texts, clear_all=self._clear_all, key_fn=find, backend=policy.backend)
        return write._decorated(function, self._cached.home)

    def _asking(self, key_fn: Find) -> Find:
        def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            said = key_fn(args[self._skip_args :], kwargs)
            return self._as_keys(said) if isinstance(said, list) else self._as_key(said)

        return find

    def _as_keys(self, said: Iterable[Any]) -> list[CacheKey]:
        return [self._as_key(each) for each in said]

    def _as_key(self, said: Any) -> CacheKey:
        """The key of the call that ``key_fn`` named; what this raises makes the write drop everything, and is said."""
        if isinstance(said, CacheKey):
            return said
        args, kwargs = (said.args, said.kwargs) if isinstance(said, KEY) else said
        if not isinstance(args, tuple) or not isinstance(kwargs, Mapping):
            raise ConfigurationError("key_fn", said, "return (args, kwargs): a tuple and a dict")
        return self._key_of(*args, **kwargs)

    def _by_name(self, function: Callable[..., Any], parameters: list[Parameter], skipped: set[str]) -> Find:
        """The read's parameters that count, taken from the write's of the same names."""
        tool = self._cached.tool
        kinds = {p.name: p.kind for p in parameters if p.name not in skipped}
        for keyed in tool.shape.keyed:
            kind = tool.shape.parameters[keyed.index].kind
            found = kinds.get(keyed.name)
            if found is None or (found is not kind and (found in _VARIADIC or kind in _VARIADIC)):
                fix = (
                    f"{tool.name} is cached by {keyed.name!r}, and {function.__name__} has no such parameter: name it so, "
                    "give key_fn=lambda args, kwargs: (args, kwargs) of the read, or clear_all=True"
                )
                raise ConfigurationError("key_fn", None, fix)
        shape = CallShape(function, ())
        places = [(keyed.index, shape.names.index(keyed.name)) for keyed in tool.shape.keyed]
        count, identity, group = len(tool.shape.names), tool.identity, tool.group

        def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> CacheKey:
            given = shape.pack(*args, **kwargs)
            values: list[Any] = [None] * count
            for to, at in places:
                values[to] = given[at]
            return CacheKey(group, tool.shape.digest(identity, tuple(values)).hex())

        return find


class AsyncTTLInvalidator(AsyncLRUInvalidator):
    """:class:`AsyncLRUInvalidator`, for a function under :class:`AsyncTTL`.

    ::

        @AsyncTTLInvalidator(weather)
        async def report(city: str, celsius: float) -> None: ...

    Either takes functions of both decorators.
    """
