"""What the litmus needs of a cache, and the caches it knows: agent_cache, and the naive ones it must catch.

What belongs here: how one cache is put in front of the litmus's tools. What does not: schedules and verdicts. Write an
adapter of your own to hold another cache, or another backend, to the same promises.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from agent_cache.testing.clock import FakeClock

__all__ = [
    "ALL_CHECKS",
    "Adapter",
    "AgentCacheAdapter",
    "MakeAdapter",
    "NaiveAdapter",
    "NeverCachingAdapter",
    "ReadTool",
    "WriteTool",
    "naive",
]

ReadTool = Callable[[Any], Awaitable[Any]]
"""``await read(ident)``: the value, from the cache or the source."""
WriteTool = Callable[[Any, Any], Awaitable[Any]]
"""``await write(ident, plan)``: whatever the tool under it returns."""

ALL_CHECKS = frozenset({"C0", "C1", "C2", "C3", "P2", "P3", "P5"})
"""Every promise the litmus can check; an adapter names those its cache makes."""


class Adapter(Protocol):
    """One fresh cache, as the litmus uses it.

    Attributes:
        name: for reports.
        settle: how many seconds after a write with unknown outcome its commit may still land.
        lease: after how many seconds without a sign of life a write window is given up; ``None``: never.
        checks: the promises to hold the cache to.
        by_hand: whether calls can be invalidated by hand.
        no_effect: the exception by which a write says that it changed nothing; ``None`` if there is no such way.
        by_result: whether a write's resource may name its result (``"item:{result.ident}"``).
        expires: whether entries expire at any time, so that "cached again" cannot be asked for.
        keeps_errors: whether an error is an answer that is kept.
    """

    name: str
    settle: float
    lease: float | None
    checks: frozenset[str]
    by_hand: bool
    no_effect: type[Exception] | None
    by_result: bool
    expires: bool
    keeps_errors: bool

    def make_read(self, fn: ReadTool, resource: str, scope: str) -> ReadTool:
        """Cache ``fn(ident)``; ``resource`` is a template over ``ident``."""
        ...

    def make_write(self, fn: WriteTool, resource: str, scope: str, *, only: ReadTool | None = None) -> WriteTool:
        """Let ``fn(ident, plan)`` invalidate ``resource``, or with ``only`` just the call ``only(ident)``."""
        ...

    async def invalidate(self, read: ReadTool, ident: Any) -> None:
        """Invalidate the call ``read(ident)`` by hand, or all calls if ``ident`` is None."""

    def session(self, name: str, identity: dict[str, str]) -> AbstractAsyncContextManager[object]:
        """The block inside which the calls of one session are made."""
        ...

    async def close(self) -> None:
        """Give back what was opened."""


MakeAdapter = Callable[["FakeClock"], Adapter]
"""Makes a fresh cache that tells time by the given clock, inside the running loop."""


class AgentCacheAdapter:
    """agent_cache in front of the litmus's tools, over a memory backend or the one ``make_backend`` makes.

    ``freshness``: the name of some :data:`~agent_cache.testing.rules.RULES`; entries then expire all the time.
    """

    name = "agent_cache"
    by_hand = True
    by_result = True

    def __init__(
        self,
        clock: FakeClock,
        *,
        make_backend: Callable[[FakeClock, float], Any] | None = None,
        settle: float = 0.02,
        lease: float | None = None,
        checks: frozenset[str] = ALL_CHECKS,
        freshness: str | None = None,
    ) -> None:
        import agent_cache

        self.settle = settle
        self.lease = lease
        self.checks = checks if freshness is None else checks - {"P5"}
        self.expires = freshness is not None
        self.keeps_errors = freshness == "cache_errors"
        self._rules: dict[str, Any] = {}
        if freshness is not None:
            from agent_cache.testing.rules import Hasty, rules_of

            self._rules = rules_of(freshness, 4e-6, 1e-4)
            clock = cast("FakeClock", Hasty(clock))
        self.no_effect: type[Exception] | None = agent_cache.NoEffect
        if make_backend is None:
            self._backend: Any = agent_cache.MemoryBackend(clock=clock, settle=settle, write_lease=lease)
        else:
            self._backend = make_backend(clock, settle)
        self._cached = agent_cache.AgentCache
        self._invalidating = agent_cache.AgentCacheInvalidator
        self._session = agent_cache.AgentCacheSession

    def make_read(self, fn: ReadTool, resource: str, scope: str) -> ReadTool:
        read: ReadTool = self._cached(resource, scope=scope, backend=self._backend, maxsize=None, **self._rules)(fn)
        return read

    def make_write(self, fn: WriteTool, resource: str, scope: str, *, only: ReadTool | None = None) -> WriteTool:
        if only is None:
            write: WriteTool = self._invalidating(resource, scope=scope)(fn)
            return write
        read: Any = only
        call: WriteTool = self._invalidating(
            resource, scope=scope, clear_all=False, key_fn=lambda args, kwargs: read.cache_key(args[0])
        )(fn)
        return call

    async def invalidate(self, read: ReadTool, ident: Any) -> None:
        tool: Any = read
        await (tool.invalidate_all() if ident is None else tool.invalidate(ident))

    def session(self, name: str, identity: dict[str, str]) -> AbstractAsyncContextManager[object]:
        block: AbstractAsyncContextManager[object] = self._session(
            name, loop_detection=False, identity=identity, backend=self._backend
        )
        return block

    async def close(self) -> None:
        closing = self._backend.close()
        if closing is not None:
            await closing


_identity: ContextVar[tuple[str, dict[str, str]]] = ContextVar("litmus_identity")


class NaiveAdapter:
    """The caches people write: a dict, and an invalidation before the write, after it, or both.

    ``coalesce`` lets concurrent calls share one load, whatever was written since it began.
    """

    settle = 0.02
    lease: float | None = None
    no_effect: type[Exception] | None = None
    checks = ALL_CHECKS - {"P5"}
    by_hand = False
    by_result = False
    expires = False
    keeps_errors = False

    def __init__(self, clock: FakeClock, *, before: bool, after: bool, coalesce: bool = False) -> None:
        self.name = "+".join(word for word, on in (("before", before), ("after", after), ("coalesce", coalesce)) if on)
        self._before = before
        self._after = after
        self._coalesce = coalesce
        self._store: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self._loading: dict[tuple[Any, ...], asyncio.Task[Any]] = {}

    def make_read(self, fn: ReadTool, resource: str, scope: str) -> ReadTool:
        async def read(ident: Any) -> Any:
            key = self._key(fn, scope, ident)
            if key in self._store:
                return self._store[key][1]
            if self._coalesce:
                task = self._loading.get(key)
                if task is None:
                    task = self._loading[key] = asyncio.ensure_future(fn(ident))
                    task.add_done_callback(lambda done: self._loaded(key, done))
                value = await asyncio.shield(task)
            else:
                value = await fn(ident)
            self._store[key] = (resource.format(ident=ident), value)
            return value

        read.key_of = lambda ident: (fn, repr(ident))  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
        return read

    def make_write(self, fn: WriteTool, resource: str, scope: str, *, only: ReadTool | None = None) -> WriteTool:
        async def write(ident: Any, plan: Any) -> Any:
            key = only.key_of(ident) if only is not None else None  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
            with self._around(resource.format(ident=ident), key):
                return await fn(ident, plan)

        return write

    async def invalidate(self, read: ReadTool, ident: Any) -> None:
        raise NotImplementedError

    def _loaded(self, key: tuple[Any, ...], done: asyncio.Task[Any]) -> None:
        del self._loading[key]
        if not done.cancelled():
            done.exception()  # its callers may all have gone

    @contextmanager
    def _around(self, path: str, call: Any) -> Iterator[None]:
        if self._before:
            self._drop(path, call)
        try:
            yield
        finally:
            if self._after:
                self._drop(path, call)

    def _drop(self, path: str, call: Any) -> None:
        related = re.compile(rf"{re.escape(path)}(:|$)")
        for key, (read_path, _) in list(self._store.items()):
            if related.match(read_path) or path.startswith(f"{read_path}:") or key[:2] == call:
                del self._store[key]

    @staticmethod
    def _key(fn: ReadTool, scope: str, ident: Any) -> tuple[Any, ...]:
        session, identity = _identity.get()
        who = {"global": "", "session": session}.get(scope, tuple(identity.values()))
        return (fn, repr(ident), who)

    @asynccontextmanager
    async def session(self, name: str, identity: dict[str, str]) -> AsyncIterator[None]:
        before = _identity.set((name, identity))
        try:
            yield
        finally:
            _identity.reset(before)

    async def close(self) -> None:
        self._store.clear()


class NeverCachingAdapter(NaiveAdapter):
    """Right by doing nothing: what the hit ratio of the litmus is for."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock, before=False, after=False)
        self.name = "never"

    def make_read(self, fn: ReadTool, resource: str, scope: str) -> ReadTool:
        return fn

    def make_write(self, fn: WriteTool, resource: str, scope: str, *, only: ReadTool | None = None) -> WriteTool:
        return fn


def naive(kind: str) -> MakeAdapter:
    """``"before"``, ``"after"``, ``"before+after"``, each also with ``"+coalesce"``, or ``"never"``."""
    if kind == "never":
        return NeverCachingAdapter
    words = set(kind.split("+"))
    unknown = words - {"before", "after", "coalesce"}
    if unknown:
        raise ValueError(f"kind={kind!r}: unknown {sorted(unknown)}; known are before, after, coalesce, never")
    return lambda clock: NaiveAdapter(
        clock, before="before" in words, after="after" in words, coalesce="coalesce" in words
    )
