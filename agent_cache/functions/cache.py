"""``AsyncCache``: values under keys of one's own, loaded where they are missing.

To the engine it is one read tool whose argument is the key: entries, near and far tiers, single-flight, fences, counters
are those of decorated tools, and so is the generated function that answers a hot key. What belongs here is what a tool
has no use for: loaders by call, a ttl by call, storing and deleting by hand. Gathering loads is :mod:`.batches`',
acting at once :mod:`.acts`'.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Coroutine, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from agent_cache.backends.base import Backend
from agent_cache.backends.memory import MemoryStore
from agent_cache.bounds import MAX_ENTRY_BYTES, refuse_larger
from agent_cache.clock import nonce, seconds
from agent_cache.codecs import Stored, codec_for
from agent_cache.config import settings, tiered
from agent_cache.context import Home, View
from agent_cache.decorators import _read, _stand_in
from agent_cache.engine.by_hand import entry_by_hand, move_line, peek_line, put_line
from agent_cache.engine.calls import ReadCall, backend_for, prepare_read
from agent_cache.engine.dependencies import as_declared
from agent_cache.engine.drivers import Line, drive
from agent_cache.engine.tools import ReadTool
from agent_cache.errors import ConfigurationError
from agent_cache.functions.acts import EVERYTHING, Acts, near_store
from agent_cache.functions.batches import Batches, BatchLoader
from agent_cache.functions.key import NEVER
from agent_cache.functions.loaders import Loader, checked_loader, load
from agent_cache.keys import CallShape
from agent_cache.known import remember
from agent_cache.loops import ToolRule
from agent_cache.policy import ReadPolicy, checked_maxsize, scopes_of_reads
from agent_cache.tags import Tag, Template, quoted
from agent_cache.tags import _Field as Field

__all__ = ["AsyncCache"]

Ttl = float | timedelta | None
_MISSING: Any = object()
_ALL_AT_ONCE = 16


class AsyncCache:
    """A cache with keys: near, then far, then the loader.

    ::

        users = AsyncCache(maxsize=1000, default_ttl=300)
        user = await users.get(user_id, lambda: fetch_user(user_id))

    Args:
        maxsize: entries at most; None leaves it to the backend.
        default_ttl: seconds for entries without a ttl of their own; None = no limit (or ``configure(default_ttl=...)``).
        batch_window_ms: milliseconds for which the first key of a batch waits for others.
        max_batch_size: keys per call of a batch loader at most.
        backup: a ``DiskBackend`` behind memory; beside ``remote_cache`` it keeps the near copies over restarts.
        remote_cache: a ``RedisBackend`` behind memory, shared by processes.
        namespace: caches of one namespace on one backend are one cache, in all processes; those of another never meet.
            Without it a cache on a backend named here has the namespace ``""``, and one without is its own.
        backend: where entries are kept; else the configured backend, else memory.
        returns: the type of the values where they hold pydantic models or dataclasses, such as ``User`` or ``list[User]``.

    Keys are whatever an argument of a tool may be: texts, numbers, tuples, dates, :class:`KEY`, ...; types count, ``1`` is
    not ``"1"``. Every caller gets a value of its own. ``None`` is a value. Exceptions are not cached. A cache may be used
    from several event loops and threads.

    Raises:
        ConfigurationError: naming the parameter, the value and the fix.
    """

    def __init__(
        self,
        maxsize: int | None = 128,
        default_ttl: Ttl = None,
        batch_window_ms: float = 5,
        max_batch_size: int = 100,
        backup: Backend | None = None,
        remote_cache: Backend | None = None,
        *,
        namespace: str | None = None,
        backend: Backend | None = None,
        returns: Any = Any,
    ) -> None:
        ttl = _checked_ttl(default_ttl, "default_ttl")
        limit = checked_maxsize(max_batch_size, "max_batch_size")
        if limit is None:
            raise ConfigurationError("max_batch_size", max_batch_size, "give a whole number of keys from 1")
        if namespace is not None and not isinstance(namespace, str):
            raise ConfigurationError("namespace", namespace, "give a text")
        own = _checked_backend(backend, backup, remote_cache)
        self._default_ttl = ttl
        self._acts = Acts()
        self._batches = Batches(_checked_window(batch_window_ms), limit)
        self._home = Home(self._slow)
        is_private = namespace is None and own is None
        name = f"AsyncCache({namespace or ''})"
        self._tool = tool = _as_tool(name, self, checked_maxsize(maxsize), own, returns, is_private=is_private)
        self._hot = _stand_in(_get, tool, self._home)
        self._group_path = (f"#{tool.group}",)
        if type(self).get is AsyncCache.get:  # a hot key is then answered one call earlier
            self.__dict__["get"] = self._hot

    def __repr__(self) -> str:
        return f"{self._tool.name[:-1]}, maxsize={self._tool.policy.maxsize})"

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(
        self,
        key: Any,
        loader: Loader | None = None,
        batch_loader: BatchLoader | None = None,
        ttl: Ttl = None,
        default: Any = None,
    ) -> Coroutine[Any, Any, Any]:
        """The value of a key: the stored one, else what a loader returns, which is stored, else ``default``.

        However many ask at once, one load runs; cancelling any caller disturbs no other.

        Args:
            key: anything that can be part of a key.
            loader: a function that returns the value or an awaitable of it; called with the key if it takes an argument.
            batch_loader: a function of a list of keys. Keys that are missing within ``batch_window_ms`` are loaded by
                one call. It returns a list with a value for each key in their order, or a mapping; a value that is an
                exception is raised to those who asked for that key.
            ttl: seconds for which a loaded value is served; None = the default; :data:`NEVER` = no limit.
            default: what is returned where nothing is stored and there is no loader.

        Raises:
            UnkeyableArgumentError: ``key`` cannot be part of a key.
            ConfigurationError: both loaders, or a ttl that is not positive.
            BatchLoadError: the batch loader did not say what the value is, or answered with an error that is nobody's to raise
                (a cancellation, an exit, ``StopIteration``: its ``__cause__``); other callers of the batch have theirs.
        """
        answer: Coroutine[Any, Any, Any] = self._hot(key, loader, batch_loader, ttl, default)
        return answer

    async def get_many(
        self,
        keys: Iterable[Any],
        loader: Loader | None = None,
        batch_loader: BatchLoader | None = None,
        ttl: Ttl = None,
        default: Any = _MISSING,
    ) -> dict[Any, Any]:
        """The values of several keys, at once; for the parameters see :meth:`get`.

        Keys without a value are left out, unless a ``default`` is given. If a load fails, the others are finished
        and kept, and then its error is raised.

        Raises:
            ConfigurationError: keys that cannot stand side by side in a dict, such as ``1`` and ``True``, or a list.
        """
        wanted = _side_by_side(keys)
        asked = [self.get(key, loader, batch_loader, ttl, default) for key in wanted]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return {key: answer for key, answer in zip(wanted, answers, strict=True) if answer is not _MISSING}

    async def exists(self, key: Any) -> bool:
        """Whether a value is stored under a key now. Counted like a read."""
        return await self.get(key, default=_MISSING) is not _MISSING

    async def warmup(
        self,
        what: Mapping[Any, Loader] | Iterable[Any],
        loader: Loader | None = None,
        batch_loader: BatchLoader | None = None,
        ttl: Ttl = None,
        *,
        concurrency: int = _ALL_AT_ONCE,
    ) -> dict[Any, Exception]:
        """Load what is not stored yet, ``concurrency`` loads (with a batch loader: batches) at a time.

        Args:
            what: a mapping from keys to their loaders, or keys for ``loader`` or ``batch_loader``.
            loader: see :meth:`get`; so are ``batch_loader`` and ``ttl``.
            concurrency: loads at a time at most.

        Returns:
            The error of each key that could not be loaded; empty if all went well.
        """
        limit = checked_maxsize(concurrency, "concurrency")
        if limit is None:
            raise ConfigurationError("concurrency", concurrency, "give a whole number of loads from 1")
        loaders: dict[Any, Loader | None]
        if isinstance(what, Mapping):
            if loader is not None or batch_loader is not None:
                raise ConfigurationError("loader", loader or batch_loader, "the mapping names the loaders already")
            loaders = dict(what)
            for each in loaders.values():
                if not callable(each):
                    raise ConfigurationError("what", what, "map each key to its loader, a function")
        else:
            if loader is None and batch_loader is None:
                raise ConfigurationError("loader", loader, "say how the keys are loaded: loader= or batch_loader=")
            loaders = dict.fromkeys(_side_by_side(what), loader)
        size = 1 if batch_loader is None else self._batches.limit
        keys, failed, gate = list(loaders), dict[Any, Exception](), asyncio.Semaphore(limit)

        async def warm(key: Any) -> None:
            try:
                await self.get(key, loaders[key], batch_loader, ttl)
            except Exception as error:  # noqa: BLE001 - reported under its key
                failed[key] = error

        async def warm_some(some: list[Any]) -> None:
            async with gate:
                await asyncio.gather(*map(warm, some))

        await asyncio.gather(*(warm_some(keys[at : at + size]) for at in range(0, len(keys), size)))
        return {key: failed[key] for key in keys if key in failed}

    def _slow(self, tool: ReadTool, view: View, values: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        """A key that is not hot."""
        key, loader, batch_loader, ttl, default = values
        if loader is not None or batch_loader is not None:
            checked_loader(loader, batch_loader)
        _checked_ttl(ttl, "ttl")
        at = "" if tool.shape.has_only_atoms(values) else self._at(key)  # refuses what cannot be a key
        if self._acts:
            return self._after_acts(at or self._at(key), tool, view, values)
        if loader is None and batch_loader is None:
            return self._peek(tool, view, values, default)
        return _read(tool, view, values)

    async def _after_acts(self, at: str, tool: ReadTool, view: View, values: tuple[Any, ...]) -> Any:
        await self._acts.over(at)
        if values[1] is None and values[2] is None:
            return await self._peek(tool, view, values, values[4])
        return await _read(tool, view, values)

    @staticmethod
    async def _peek(tool: ReadTool, view: View, values: tuple[Any, ...], default: Any) -> Any:
        answer = await drive(peek_line(tool, view, values))
        return default if answer is None else answer.value

    async def _load(self, values: tuple[Any, ...]) -> Any:
        """What the tool does on a miss."""
        key, loader, batch_loader, _, _ = values
        if batch_loader is not None:
            return await self._batches.load(batch_loader, key)
        answer = load(loader, key)
        return await answer if inspect.isawaitable(answer) else answer

    def _ttl_of(self, values: tuple[Any, ...]) -> float | None:
        ttl = _checked_ttl(values[3], "ttl")
        if ttl is None:
            ttl = self._default_ttl if self._default_ttl is not None else settings.default_ttl
        return None if ttl == NEVER else ttl

    # -- by hand ------------------------------------------------------------------------------------------------------

    def set(self, key: Any, value: Any, ttl: Ttl = None) -> Awaitable[None]:
        """Store a copy of a value. Acts when it is called; await it to know that the far tier has it too.

        Loads under way for the key do not undo it.

        Args:
            key: anything that can be part of a key.
            value: what is stored.
            ttl: seconds for which it is served; None = the default; :data:`NEVER` = no limit.

        Raises:
            UnkeyableArgumentError: ``key`` cannot be part of a key.
            UnstorableResultError: the value would not come back equal.
        """
        tool, view = self._tool, self._home.view
        values = (key, None, None, ttl, None)
        _checked_ttl(ttl, "ttl")
        at = self._at(key)
        backend, tags = self._backend, self._tags(at)
        stored = tool.codec.freeze(value, MAX_ENTRY_BYTES)
        size = stored.size if backend.in_process else len(stored.payload())  # refused here, not where nobody listens
        refuse_larger(size, getattr(backend, "max_entry_bytes", MAX_ENTRY_BYTES))
        call = prepare_read(tool, view, values)
        if not isinstance(call, ReadCall):  # configure(mode="off"): nothing is kept, what was there is dropped
            return self._acts.do(at, backend, tags, lambda: move_line(tool, view, backend, tags))
        call = as_declared(call, view, tool.shape.hot_key(values))
        if isinstance(backend.sync, MemoryStore):
            return self._set_here(backend, call, tags, stored)
        return self._acts.do(at, backend, tags, lambda: put_line(tool, view, call, tags, stored))

    def _set_here(self, backend: Backend, call: ReadCall, tags: tuple[Tag, ...], stored: Stored) -> Awaitable[None]:
        """In one step, so that no load of another thread comes in between."""

        def line() -> Line[None]:
            backend.sync.put(tags, call.tags, entry_by_hand(self._tool, call, stored), self._tool.name)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            return
            yield

        return self._acts.do(EVERYTHING, backend, tags, line)

    def delete(self, key: Any) -> Awaitable[None]:
        """Drop one key. Acts when it is called; await it to know that the far tier has it too.

        Raises:
            UnkeyableArgumentError: ``key`` cannot be part of a key.
        """
        tool, view, at = self._tool, self._home.view, self._at(key)
        backend, tags = self._backend, self._tags(at)
        done = self._acts.do(at, backend, tags, lambda: move_line(tool, view, backend, tags))
        store, call = near_store(backend), prepare_read(tool, view, (key, None, None, None, None))
        if store is not None and isinstance(call, ReadCall):
            store.drop([call.key])
        return done

    def clear(self) -> Awaitable[None]:
        """Drop every key of this cache (of its namespace). Acts when it is called; await it for the far tier."""
        tool, view, backend = self._tool, self._home.view, self._backend
        tags: tuple[Tag, ...] = (("all", (), self._group_path),)
        done = self._acts.do(EVERYTHING, backend, tags, lambda: move_line(tool, view, backend, tags))
        store = near_store(backend)
        if store is not None:
            store.drop_group(tool.group)
        return done

    def get_metrics(self) -> dict[str, Any]:
        """The counters of :func:`agent_cache.get_metrics`, of this cache only, with ``maxsize`` and ``batches`` (calls of
        batch loaders). ``entries`` and ``bytes``: those in this process now."""
        self._home.view.drain()
        figures = self._home.metrics.snapshot()
        del figures["resources"]
        store = near_store(self._backend)
        figures["entries"], figures["bytes"] = store.group_sizes(self._tool.group) if store is not None else (0, 0)
        figures["maxsize"] = self._tool.policy.maxsize
        figures["batches"] = self._batches.sent
        return figures

    @property
    def _backend(self) -> Backend:
        return backend_for(self._tool.policy.backend, None)

    def _at(self, key: Any) -> str:
        return self._tool.shape.digest(self._tool.identity, (key,)).hex()

    def _tags(self, at: str) -> tuple[Tag, ...]:
        """What a read of this one key depends on, and of no other."""
        path, _ = self._tool.policy.resources[0].fill({_KEY: at, _AT: at})
        return (("any", (), path),)


# -- as a tool ----------------------------------------------------------------------------------------------------------

_KEY, _AT = "key", "at"


async def _get(key: Any, loader: Any = None, batch_loader: Any = None, ttl: Any = None, default: Any = None) -> Any:
    """The signature that the generated function has."""


_get.__doc__, _get.__qualname__ = AsyncCache.get.__doc__, AsyncCache.get.__qualname__


@dataclass(frozen=True, slots=True)
class _Digest(Field):
    """The segment that stands for one key: its digest, so that every key is a resource of its own."""

    identity: bytes
    shape: CallShape

    def text(self, arguments: Mapping[str, Any]) -> str | None:
        if _AT in arguments:
            return str(arguments[_AT])
        if self.parameter not in arguments:
            return None
        return self.shape.digest(self.identity, (arguments[self.parameter],)).hex()


def _as_tool(
    name: str, cache: AsyncCache, maxsize: int | None, backend: Backend | None, returns: Any, *, is_private: bool
) -> ReadTool:
    shape = CallShape(_get, ("loader", "batch_loader", "ttl", "default"))
    codec = codec_for(returns)
    text = f"{name}\0{codec.schema}".encode("utf-8", "surrogatepass") + (nonce() if is_private else b"")
    identity = hashlib.blake2b(text, digest_size=20, person=b"AsyncCache").digest()
    digest = _Digest(_KEY, (), identity, shape)
    policy = ReadPolicy(
        resources=(Template(f"{quoted(name)}:{{key}}", ((quoted(name),), (digest,))),),
        scope="global",
        scope_declared=True,
        ttl=None,
        jitter=0.0,
        maxsize=maxsize,
        cache_if=None,
        cost=0.0,
        backend=backend,
        loop=ToolRule(),
        by_hand=True,
        verify=0.0,  # a value may have been set by hand, and a loader need not be there any more
    )
    scopes_of_reads.add(policy)
    group = identity.hex()
    return ReadTool(
        name=name,
        is_async=True,
        call=cache._load,
        policy=policy,
        shape=shape,
        codec=codec,
        identity=identity,
        group=group,
        known=remember(group, name, policy.text, codec),
        origin=name,
        ttl_of=cache._ttl_of,
    )


# -- what may be given ----------------------------------------------------------------------------------------------------


def _checked_backend(backend: Backend | None, backup: Backend | None, remote: Backend | None) -> Backend | None:
    if backend is not None and not hasattr(backend, "lookup"):
        raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
    for name, given in (("backup", backup), ("remote_cache", remote)):
        if given is not None and backend is not None:
            raise ConfigurationError(name, given, "give either backend=, or what stands behind memory")
    return backend if remote is None and backup is None else tiered(remote, backup)


def _checked_ttl(ttl: Ttl, parameter: str) -> float | None:
    return None if ttl is None else seconds(ttl, parameter)


def _checked_window(window: object) -> float:
    if isinstance(window, bool) or not isinstance(window, (int, float)) or not 0 <= window < NEVER:
        raise ConfigurationError("batch_window_ms", window, "give milliseconds from 0")
    return window / 1000


def _side_by_side(keys: Iterable[Any]) -> list[Any]:
    """Each key once, in order."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise ConfigurationError("keys", keys, "give a list of keys")
    found: dict[Hashable, Any] = {}
    for key in keys:
        try:
            known = found.setdefault(key, key)
        except TypeError:
            raise ConfigurationError("keys", key, "it cannot be a key of a dict; get it by itself") from None
        if type(known) is not type(key):
            raise ConfigurationError(
                "keys", key, f"beside {known!r}, which a dict takes for the same; get it by itself"
            )
    return list(found.values())
