"""``AgentCache`` and ``AgentCacheInvalidator``: a tool goes in, the tool comes out, cached.

Checks what the user said, compiles the tool, and generates the function that stands in for it:
same name, signature, docstring and types, real arguments bound by the interpreter itself. The
generated read answers a *hot* call (seen by this view before, nothing written since) in its own body;
everything else goes to the engine's lines.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from agent_cache.backends.base import Backend
from agent_cache.codecs import Codec, LastingCodec, ToolCodec, codec_for, with_user_codec
from agent_cache.config import settings, tiered
from agent_cache.context import Home, View, current_view
from agent_cache.engine.answers import told
from agent_cache.engine.by_hand import explain_line, invalidate_all_line, invalidate_line
from agent_cache.engine.calls import cache_key
from agent_cache.engine.drivers import drive, drive_blocking
from agent_cache.engine.guard import lane
from agent_cache.engine.joins import joined
from agent_cache.engine.provenance import ASKED, TELLS, tell_hot
from agent_cache.engine.reads import read_line
from agent_cache.engine.tools import ReadTool, WriteTool
from agent_cache.engine.writes import write_line
from agent_cache.errors import ConfigurationError, UnstorableResultError
from agent_cache.freshness import ExpiredEntry, Freshness, Validator, checked_freshness
from agent_cache.keys import (
    CallShape,
    compile_function,
    ignored_parameters,
    left_out_parameters,
    origin_of,
    return_hint,
    tool_identity,
)
from agent_cache.known import remember
from agent_cache.loops import LoopKey, checked_rule
from agent_cache.model import GLOBAL, AsyncTool, CacheKey, Explanation, KeyFn, SyncTool
from agent_cache.policy import (
    ReadPolicy,
    WritePolicy,
    checked_callable,
    checked_fraction,
    checked_maxsize,
    checked_scope,
    checked_templates,
    scopes_of_reads,
)
from agent_cache.refusals import checked_no_effect
from agent_cache.sampling import checked_rate, look_up

__all__ = ["AgentCache", "AgentCacheInvalidator"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

# How the hot path tells the task it runs in. Python 3.11's current_task() costs 430 ns, a dict of its own tasks 40.
if sys.version_info >= (3, 12):
    _SAME_TASK = "{x}task() is {x}r.lane"
    _task: Callable[..., Any] = asyncio.current_task
else:
    _SAME_TASK = "{x}task({x}r.loop) is {x}r.lane"
    _task = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined,unused-ignore]  # pyright: ignore[reportAttributeAccessIssue]

_HOT = """\
    {x}v = {view}
    if {guards}:
{lookup}
        if {x}r is not None:
            {x}e = {x}r.entry
            {x}s = {x}e.stored
            if {x}r.now() < {x}e.deadline{early} and {x}r.generation is {x}r.home.generation and ({x}r.lane is None or {same_lane}):
                {x}l = {x}v.log
                if {x}len({x}l) < {x}v.room:
                    {x}l.append({x}r)
                    {x}e.visited = True{tell}
                    if {x}s.thaw is None:
                        return {x}s.value
                    try:
                        return {x}s.thaw()
                    except {x}unreadable:
                        pass
    return {wait}{x}slow({x}tool, {x}v, {values})"""

_LOOKUP = "        {x}r = {found}"
_CAREFUL_LOOKUP = """\
        try:
            {x}r = {found}
        except {x}unfit:
            {x}r = None"""


class AgentCache:
    """Cache a read tool's answers.

    ::

        @AgentCache("cart:{user_id}", ttl=300)
        async def get_cart(user_id: str) -> dict: ...

    Args:
        resource: what is read: a name, a template over the tool's parameters, or a list of them. Resources are paths.
        scope: who may share an answer: ``"global"``, ``"session"``, the name of an identity field of the session, or
            ``"lineage"``: the sessions that started in the same state and made the same writes to what is read.
        ttl: seconds an answer may be served; None = until it is invalidated (or ``configure(default_ttl=...)``). Or a
            function of the result that returns seconds, a timedelta or None (0: do not store this one).
        maxsize: this tool's entries at most, over all scopes; None leaves it to the backend.
        skip_args: leave the first N positional parameters out of the key (1 for ``self``).
        backup: a ``DiskBackend`` behind memory; beside ``remote_cache`` it keeps the near copies over restarts.
        remote_cache: a ``RedisBackend`` behind memory. Tools that name the same one share the memory before it.
        backend: where answers are kept; else the session's, else the configured one, else memory.
        ignore: names of parameters left out of the key.
        stale_while_revalidate: seconds beyond the ttl in which the expired answer is served at once while one load brings
            the next in the background (RFC 5861). What a write dropped is never served; so for all that follows.
        stale_if_error: seconds beyond the ttl in which the expired answer is served if the load fails.
        early_refresh: probabilistic early expiration (XFetch): a fresh answer is loaded anew in the background about this
            many times the load's own duration before its end; 1.0 is the usual choice, 0 never.
        cache_errors: errors that are answers, ``{NotFound: 30}``: raised again, equal and new, for so many seconds, or for as
            long as they say themselves (``retry_after``, a ``Retry-After`` header). Only these very classes.
        soft_timeout: seconds after which a slow load is answered by the expired answer, within ``stale_if_error``.
        hard_timeout: seconds after which the caller gets :class:`LoadTimeoutError`. After either, the load goes on.
        revalidate: a cheap check that makes an expired answer fresh again without a load: a function of the
            :class:`ExpiredEntry`, or a :class:`Validator`.
        jitter: shorten each ttl by a random fraction up to this, so that entries do not expire together.
        cache_if: a function of the result; what it is false for is returned and not stored.
        codec: an object with ``encode(value) -> bytes`` and ``decode(bytes) -> value`` for results.
        poll: the tool is meant to be polled: repeats are allowed ten times longer before they are a loop.
        max_tool_repeats: how often this very call may be made with an equal outcome; None = the session's.
        loop_key: what makes two calls of this tool the same call to the loop detector: the names of the parameters that
            count, or a function of the arguments (a mapping) that returns something hashable. Leave free text such as
            ``reason`` out.
        cost: what one call costs, in your unit; added up as ``cost_saved``.
        verify: the part of this tool's hits, from 0 to 1, after which it is run again in the background to see whether what
            was served is what it answers now; None = ``configure(verify=...)``. For tools that are safe to run again.
        version: a text that belongs to what the tool is; another version's answers are another tool's answers.

    The decorated tool also has ``cache_key(...)``, ``invalidate(...)``, ``invalidate_all()``, ``uncached(...)`` and
    ``explain(...)``; coroutines on an ``async def`` tool, plain calls on a ``def`` tool. On a method whose ``self``
    is left out of the key they take the arguments after ``self``, all but ``uncached``, which is the function itself.

    Raises:
        ConfigurationError: at decoration, naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        resource: str | list[str] | tuple[str, ...],
        scope: str = GLOBAL,
        ttl: float | timedelta | Callable[[Any], float | timedelta | None] | None = None,
        maxsize: int | None = 128,
        skip_args: int = 0,
        backup: Backend | None = None,
        remote_cache: Backend | None = None,
        *,
        backend: Backend | None = None,
        ignore: Iterable[str] = (),
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        early_refresh: float = 0,
        cache_errors: Mapping[type[Exception], float | timedelta] | None = None,
        soft_timeout: float | timedelta | None = None,
        hard_timeout: float | timedelta | None = None,
        revalidate: Validator | Callable[[ExpiredEntry], bool | Awaitable[bool]] | None = None,
        jitter: float = 0,
        cache_if: Callable[[Any], bool] | None = None,
        codec: Codec | None = None,
        poll: bool = False,
        max_tool_repeats: int | None = None,
        loop_key: LoopKey | None = None,
        cost: float | None = None,
        version: str | None = None,
        verify: float | None = None,
    ) -> None:
        _check_resource(resource, "AgentCache")
        self._resource = resource
        self._version = _checked_version(version)
        self._declared = scope is not GLOBAL
        self._scope = checked_scope(scope)
        self._ttl, self._freshness = checked_freshness(
            ttl,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            early_refresh=early_refresh,
            cache_errors=cache_errors,
            soft_timeout=soft_timeout,
            hard_timeout=hard_timeout,
            revalidate=revalidate,
        )
        self._maxsize = checked_maxsize(maxsize)
        self._jitter = checked_fraction(jitter, "jitter")
        checked_callable(cache_if, "cache_if", "lambda result: result is not None")
        if backend is not None and not hasattr(backend, "lookup"):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        for name, given in (("backup", backup), ("remote_cache", remote_cache)):
            if given is not None and backend is not None:
                raise ConfigurationError(name, given, "give either backend=, or what stands behind memory")
        if remote_cache is not None or backup is not None:
            backend = tiered(remote_cache, backup)
        if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
            raise ConfigurationError("codec", codec, "give an object with encode(value) -> bytes and decode(bytes)")
        if cost is not None and (
            isinstance(cost, bool) or not isinstance(cost, (int, float)) or not 0 <= cost <= 1e300
        ):
            raise ConfigurationError("cost", cost, "give what one call costs, a number from 0, in a unit of your own")
        self._backend = backend
        self._skip_args = skip_args
        self._ignore = ignore
        self._cache_if = cache_if
        self._codec = codec
        self._loop = checked_rule(bool(poll), max_tool_repeats, loop_key)
        self._cost = float(cost or 0)
        self._verify = None if verify is None else checked_rate(verify)

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> AsyncTool[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, function: Callable[P, R]) -> SyncTool[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        _check_tool(function, type(self).__name__, reads=True)
        return self._decorated(function, self._resource, _class_body(), None)

    def _decorated(
        self, function: Callable[..., Any], resource: Any, class_body: Mapping[str, Any], home: Home | None
    ) -> Any:
        """The stand-in for a function that was looked at; with a ``home`` of its own it belongs to no session."""
        out = left_out_parameters(function, self._skip_args, self._ignore, class_body)
        shape = CallShape(function, out)
        policy = ReadPolicy(
            resources=checked_templates(resource, shape.names),
            scope=self._scope,
            scope_declared=self._declared,
            ttl=self._ttl,
            jitter=self._jitter,
            maxsize=self._maxsize,
            cache_if=self._cache_if,
            cost=self._cost,
            backend=self._backend,
            loop=self._loop,
            freshness=self._freshness,
            by_hand=home is not None,
            verify=self._verify,
        )
        if policy.verify:
            settings.verifying_tools = True
            settings.attend()
        hint = return_hint(function)
        codec = codec_for(hint) if self._codec is None else with_user_codec(self._codec, hint)
        if self._freshness is not None:
            codec = _lasting_codec(codec, self._freshness, function)
        identity = tool_identity(function, shape, codec.schema + self._version)
        tool = ReadTool(
            name=function.__name__,
            is_async=inspect.iscoroutinefunction(function),
            call=_caller(function, shape),
            policy=policy,
            shape=shape,
            codec=codec,
            identity=identity,
            group=identity.hex(),
            known=remember(identity.hex(), f"{function.__module__}.{function.__qualname__}", policy.text, codec),
            origin=origin_of(function),
        )
        scopes_of_reads.add(policy)
        made = _stand_in(function, tool, home)
        _attach(made, function, tool, _without(shape, out), current_view if home is None else home)
        return made


class AgentCacheInvalidator:
    """Let a write tool drop what it makes stale: before it runs, and again when it has ended, however it ends.

    ::

        @AgentCacheInvalidator("cart:{user_id}")
        async def add_to_cart(user_id: str, item: str) -> dict: ...

    Args:
        resource: what is written: a name, a template over the tool's parameters, or a list of them. A write drops
            reads of the same path, below it and above it. What only the result says is named by it,
            ``"users:{result.user_id}"`` or ``"users:{result[user_id]}"``: while the tool runs it counts as a write of
            ``users``, and at the end only that one user is dropped; all of ``users`` where the tool raises, or the result
            does not say. (A parameter called ``result`` comes first.)
        scope: ``"global"`` drops the entries of every scope; ``"session"`` or an identity field drops only this
            session's or identity's, where every read of the resource has that very scope (else it acts as global).
            ``"lineage"`` drops nothing: what the session reads afterwards is another thing (``docs/lineage.md``).
        skip_args: must be 0; use ``key_fn``.
        clear_all: False drops one call only, the one ``key_fn`` names.
        key_fn: ``key_fn(args, kwargs)`` returns what ``read.cache_key(...)`` returns (or a list of those).
        no_effect: exception classes the tool raises only before it has changed anything, such as ``(OutOfStock,)``:
            then nothing is dropped. (Or raise :class:`NoEffect` in the tool.) What may also come after a commit is
            refused: time-outs, cancellations, connection errors, pydantic's ``ValidationError``, and what covers them.
        no_effect_if: a function of the result; true where the write changed nothing: then nothing is dropped.
        backend: as for :class:`AgentCache`.
        max_tool_repeats: as for :class:`AgentCache`; a repeated write may warn or raise, it is never answered.
        loop_key: as for :class:`AgentCache`.
        ignore: names of parameters that do not tell one write from another, such as ``self`` where it stands for the
            world; for the loop detector and for sessions with a ``start_state``.
        version: as for :class:`AgentCache`.

    Raises:
        TypeError: a non-zero ``skip_args``.
        ConfigurationError: at decoration, naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        resource: str | list[str] | tuple[str, ...],
        scope: str = "global",
        skip_args: int = 0,
        clear_all: bool = True,
        key_fn: KeyFn | None = None,
        *,
        no_effect: type[Exception] | tuple[type[Exception], ...] | list[type[Exception]] | None = None,
        no_effect_if: Callable[[Any], bool] | None = None,
        backend: Backend | None = None,
        max_tool_repeats: int | None = None,
        loop_key: LoopKey | None = None,
        ignore: Iterable[str] = (),
        version: str | None = None,
    ) -> None:
        if skip_args != 0:
            raise TypeError(
                f"skip_args={skip_args!r}: an invalidator has no key to leave arguments out of; "
                "use clear_all=False with key_fn=lambda args, kwargs: read.cache_key(...)"
            )
        _check_resource(resource, "AgentCacheInvalidator")
        self._resource = resource
        self._ignore = ignore
        self._version = _checked_version(version)
        self._scope = checked_scope(scope)
        checked_callable(key_fn, "key_fn", "lambda args, kwargs: get_cart.cache_key(args[0])")
        checked_callable(no_effect_if, "no_effect_if", "lambda result: result.startswith('Error')")
        if not clear_all and key_fn is None:
            raise ConfigurationError("clear_all", clear_all, "needs key_fn=lambda args, kwargs: read.cache_key(...)")
        if clear_all and key_fn is not None:
            raise ConfigurationError(
                "key_fn", key_fn, "goes with clear_all=False; without it the whole resource is dropped"
            )
        if backend is not None and not hasattr(backend, "lookup"):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        self._loop = checked_rule(False, max_tool_repeats, loop_key)
        self._clear_all = bool(clear_all)
        self._key_fn = key_fn
        self._no_effect = checked_no_effect(no_effect)
        self._no_effect_if = no_effect_if
        self._backend = backend

    def __call__(self, function: F) -> F:
        _check_tool(function, type(self).__name__, reads=False)
        return self._decorated(function, current_view)

    def _decorated(self, function: F, view: Callable[[], View]) -> F:
        shape = CallShape(function, ignored_parameters(function, self._ignore))
        policy = WritePolicy(
            resources=checked_templates(self._resource, shape.names, of_write=True),
            scope=self._scope,
            clear_all=self._clear_all,
            key_fn=self._key_fn,
            no_effect=self._no_effect,
            no_effect_if=self._no_effect_if,
            backend=self._backend,
            loop=self._loop,
        )
        if policy.names_result and not policy.clear_all:
            fix = "key_fn is asked before the tool runs; leave the result out, or clear_all=False"
            raise ConfigurationError("resource", self._resource, fix)
        is_async = inspect.iscoroutinefunction(function)
        tool = WriteTool(
            name=function.__name__,
            is_async=is_async,
            call=_caller(function, shape),
            policy=policy,
            shape=shape,
            identity=tool_identity(function, shape, "write" + self._version),
            origin=origin_of(function),
            returns=return_hint(function),
        )
        x = shape.prefix
        values = f"({''.join(f'{n}, ' for n in shape.names)})"
        wait, kind, slow = ("await ", "async def", _write) if is_async else ("", "def", _write_blocking)
        body = f"    return {wait}{x}slow({x}tool, {x}view(), {values})"
        extra = {f"{x}slow": slow, f"{x}tool": tool, f"{x}view": view}
        made: F = _like(function, compile_function(shape, function.__name__, body, kind, extra))
        return made


# -- the generated functions ----------------------------------------------------------------------------------------------


def _stand_in(function: Callable[..., Any], tool: ReadTool, home: Home | None = None) -> Any:
    """The function that answers hot calls itself; ``home``: in a view of its own, and the long way as it says."""
    shape, x = tool.shape, tool.shape.prefix
    same_lane = _SAME_TASK.format(x=x) if tool.is_async else f"{x}lane() == {x}r.lane"
    fresh = tool.policy.freshness
    lookup = _CAREFUL_LOOKUP if shape.hot_key_may_raise else _LOOKUP
    tells = bool(getattr(function, TELLS, False))
    values = f"({''.join(f'{n}, ' for n in shape.names)})"
    body = _HOT.format(
        x=x,
        view=f"{x}view()" if home is None else f"{x}own if {x}view().plain else {x}home()",
        guards=shape.guards(),
        lookup=lookup.format(x=x, found=_found_in(tool)),
        same_lane=same_lane,
        early=f" - {x}r.early" if fresh is not None and fresh.early_refresh else "",
        tell=f"\n{' ' * 20}{x}tell({x}r)" if tells else "",
        wait="await " if tool.is_async else "",
        values=values,
    )
    extra = {
        f"{x}view": current_view,
        f"{x}tool": tool,
        f"{x}tell": tell_hot,
        f"{x}home": home,
        f"{x}own": home.view if home is not None else None,
        f"{x}slow": _slow(tool, home, tells=tells),
        f"{x}look_up": look_up,
        f"{x}plainly": dict.get,
        f"{x}task": _task,
        f"{x}lane": lane,
        f"{x}len": len,
        f"{x}unreadable": UnstorableResultError,
        f"{x}unfit": Exception,  # somebody's buffer or __eq__ may raise anything; the long way will say what is wrong
    }
    kind = "async def" if tool.is_async else "def"
    return _like(function, compile_function(shape, function.__name__, body, kind, extra))


def _found_in(tool: ReadTool) -> str:
    """How a call looks into the hot table, as source; it says how many of its calls are to find nothing there."""
    x, key, rate = tool.shape.prefix, tool.shape.hot_key_source(), tool.policy.verify
    if rate is None:
        return f"{x}v.hot.get({key})"
    return f"{x}look_up({x}v.hot, {key}, {rate!r})" if rate else f"{x}plainly({x}v.hot, {key})"


def _slow(tool: ReadTool, home: Home | None, *, tells: bool) -> Callable[..., Any]:
    """What answers a call that is not hot."""
    if tells:
        return _read_and_tell if tool.is_async else _read_and_tell_blocking
    if tool.is_async:
        return _read if home is None else home.slow or _read
    return _read_blocking


async def _read(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Any:
    answer = await joined(tool, view, values) if view.loads else None
    if answer is None:
        answer = await drive(read_line(tool, view, values))
    return told(answer)


def _read_blocking(tool: ReadTool, view: Any, values: tuple[Any, ...]) -> Any:
    answer = drive_blocking(read_line(tool, view, values))
    return told(answer)


async def _read_and_tell(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Any:
    asked = ASKED.get()
    answer = await joined(tool, view, values, asked) if view.loads else None
    if answer is None:
        answer = await drive(read_line(tool, view, values, asked))
    return told(answer)


def _read_and_tell_blocking(tool: ReadTool, view: View, values: tuple[Any, ...]) -> Any:
    return told(drive_blocking(read_line(tool, view, values, ASKED.get())))


async def _write(tool: WriteTool, view: Any, values: tuple[Any, ...]) -> Any:
    answer = await drive(write_line(tool, view, values))
    return told(answer)


def _write_blocking(tool: WriteTool, view: Any, values: tuple[Any, ...]) -> Any:
    answer = drive_blocking(write_line(tool, view, values))
    return told(answer)


def _attach(
    made: Any,
    function: Callable[..., Any],
    tool: ReadTool,
    bind: Callable[..., tuple[Any, ...]],
    view: Callable[[], View],
) -> None:
    """The attributes of a decorated read."""

    def key_of(*args: Any, **kwargs: Any) -> CacheKey:
        return cache_key(tool, bind(*args, **kwargs))

    made.cache_key = key_of
    made.uncached = function
    made.__agent_cache__ = tool
    if tool.is_async:

        async def invalidate(*args: Any, **kwargs: Any) -> None:
            await drive(invalidate_line(tool, view(), bind(*args, **kwargs)))

        async def invalidate_all() -> None:
            await drive(invalidate_all_line(tool, view()))

        async def explain(*args: Any, **kwargs: Any) -> Explanation:
            return await drive(explain_line(tool, view(), bind(*args, **kwargs)))

        made.invalidate, made.invalidate_all, made.explain = invalidate, invalidate_all, explain
    else:

        def invalidate_now(*args: Any, **kwargs: Any) -> None:
            drive_blocking(invalidate_line(tool, view(), bind(*args, **kwargs)))

        def invalidate_all_now() -> None:
            drive_blocking(invalidate_all_line(tool, view()))

        def explain_now(*args: Any, **kwargs: Any) -> Explanation:
            return drive_blocking(explain_line(tool, view(), bind(*args, **kwargs)))

        made.invalidate, made.invalidate_all, made.explain = invalidate_now, invalidate_all_now, explain_now


# -- helpers at decoration --------------------------------------------------------------------------------------------------


def _lasting_codec(codec: ToolCodec, fresh: Freshness, function: Callable[..., Any]) -> ToolCodec:
    if fresh.validator is not None and fresh.validator.is_async and not inspect.iscoroutinefunction(function):
        raise ConfigurationError("revalidate", fresh.validator, "a def tool needs a plain function, not an async one")
    if fresh.errors or fresh.validator is not None:
        return LastingCodec(codec, fresh.errors, lasting=bool(fresh.grace))
    codec.lasting = bool(fresh.grace)
    return codec


def _check_resource(resource: object, decorator: str) -> None:
    if callable(resource):
        raise ConfigurationError("resource", resource, f"give a name first: @{decorator}('cart')")


def _checked_version(version: object) -> str:
    if version is None:
        return ""
    if not isinstance(version, str) or not version:
        raise ConfigurationError("version", version, "give a text such as '2', or None")
    return f"\0version\0{version}"


def _check_tool(function: object, decorator: str, *, reads: bool) -> None:
    if isinstance(function, (classmethod, staticmethod)):
        kind = type(function).__name__
        raise ConfigurationError("tool", function, f"put @{kind} above @{decorator}, not below")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError("tool", function, "a generator's stream cannot be cached; return a list instead")
    if not inspect.isfunction(function):
        raise ConfigurationError("tool", function, f"@{decorator} takes a def or async def function; wrap this in one")
    made_here = function.__code__.co_filename.startswith("<agent_cache ")
    if made_here and hasattr(function, "__agent_cache__") is not reads:  # on a hit the write would not be made
        fix = (
            "it has the decorators of a read and of a write; a tool that changes anything is a write, and a write only"
        )
        raise ConfigurationError("tool", function, fix)


def _class_body() -> Mapping[str, Any]:
    """The namespace of the class body the decorator stands in; the module's or function's if it is in none."""
    return sys._getframe(2).f_locals


def _caller(function: Callable[..., Any], shape: CallShape) -> Callable[[tuple[Any, ...]], Any]:
    """``call(values)``: the tool, with its parameters' values in order."""
    x = shape.prefix
    source = f"def call({x}values):\n"
    if shape.names:
        source += f"    ({''.join(f'{n}, ' for n in shape.names)}) = {x}values\n"
    source += f"    return {x}function({shape.forward()})\n"
    scope: dict[str, Any] = {f"{x}function": function}
    exec(compile(source, f"<agent_cache {function.__name__}>", "exec"), scope)  # noqa: S102 - identifiers only
    made: Callable[[tuple[Any, ...]], Any] = scope["call"]
    return made


def _without(shape: CallShape, left_out: frozenset[str]) -> Callable[..., tuple[Any, ...]]:
    """How the attributes bind their arguments: as the tool does, but for a left-out ``self`` or ``cls``."""
    first = shape.names[0] if shape.names else ""
    if first in ("self", "cls") and first in left_out:
        return functools.partial(shape.pack, None)
    return shape.pack


def _like(function: Callable[..., Any], made: Any) -> Any:
    functools.update_wrapper(made, function)
    return made
