"""How a cache is put in front of the tools of a worker, and what it promises: agent_cache, and the naive ones.

What belongs here: one cache, and in one place the settings it is searched with. What does not: calls and verdicts.
Another cache takes part as ``--cache file.py:name`` or ``--cache module:name``, a class or function like those here:
called with a :class:`Setup`, giving a :class:`Cache`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from agent_cache.testing.processes.referee import ALL_CHECKS
from agent_cache.testing.rules import rules_of

__all__ = [
    "LEAD_LEASE",
    "SETTLE",
    "WRITE_LEASE",
    "AgentCacheCache",
    "Cache",
    "NaiveCache",
    "NeverCache",
    "Setup",
    "load_cache",
]

WRITE_LEASE = 2.0
LEAD_LEASE = 1.0
SETTLE = 0.5
"""Short, so that a few seconds see leases end; seconds."""
_TTL, _SOFT = 0.02, 0.002  # seconds, where rules of freshness are searched: entries expire between two calls
LEASE_MODE_DELAY = 0.2
"""D: for so long a process in lease mode may go on serving what a killed writer has changed."""

Tool = Callable[..., Any]
"""``async def`` or ``def``; reads take ``(ident)``, writes ``(ident, number)``."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a cache is made of: where its backend is, what its keys begin with, which entities there are."""

    url: str
    prefix: str
    idents: int

    @property
    def scheme(self) -> str:
        """``disk``, ``redis``, ``redis+cluster``, ``redis+sentinel``, ``memory``."""
        return urlsplit(self.url).scheme

    @property
    def path(self) -> str:
        """The file of a disk backend."""
        return urlsplit(self.url).path

    @property
    def options(self) -> dict[str, str]:
        """What stands behind the question mark."""
        return dict(parse_qsl(urlsplit(self.url).query))

    @property
    def bare_url(self) -> str:
        """The URL without options."""
        return urlunsplit(urlsplit(self.url)._replace(query=""))


class Cache(Protocol):
    """One cache, as a worker uses it. Making one must not connect to anything: the parent makes one too, to ask it.

    Attributes:
        name: for reports.
        checks: the promises to hold it to, of those in :data:`~agent_cache.testing.processes.referee.ALL_CHECKS`.
        single_loads: whether callers in all processes share one load.
        threads: whether it takes ``def`` tools.
        no_effect: the exception by which a write says that it changed nothing, if there is such a way; a result whose
            ``"refused"`` is True then says so too.
        by_result: whether a write's resource may name its result (``"item:{result[ident]}"``).
        expires: whether entries expire at any time, so that "cached again" cannot be asked for.
        windows: whether the store hears of a write before it is made, so that one whose process dies is known of. Where it
            does not, ``undelivered()`` says whether the store does not know of one that has ended.
        settle: for so many seconds after a write that failed its commit may still land; 0: never.
        grace: for so many seconds after the death of a writer others may still be served what was before.
        grant: seconds after which the window or lead of a dead process is given up.
    """

    name: str
    checks: frozenset[str]
    single_loads: bool
    threads: bool
    no_effect: type[Exception] | None
    by_result: bool
    expires: bool
    windows: bool
    settle: float
    grace: float
    grant: float

    async def open(self) -> None:
        """Connect, inside the running loop."""

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        """Cache ``tool(ident)``; ``resource`` is a template over ``ident``; ``owner()``: whose copy, in this scope."""
        ...

    def write(self, tool: Tool, resource: str, scope: str) -> Tool:
        """Let ``tool(ident, number)`` invalidate ``resource``."""
        ...

    def session(self, name: str, identity: dict[str, str]) -> AbstractAsyncContextManager[object]:
        """The block inside which the calls of one session are made."""
        ...

    def refused(self, error: Exception) -> bool:
        """Whether this is the cache's own way to say that a write was not run."""
        ...

    async def close(self) -> None:
        """Give back what was opened."""


def load_cache(name: str) -> Callable[[Setup], Cache]:
    """The cache of this name: one of ours, or ``file.py:name``, or ``module:name``.

    Raises:
        ValueError: there is none of this name.
    """
    if name == "agent_cache":
        return AgentCacheCache
    if name.startswith("agent_cache+"):  # the parent passes on what --freshness and --reads say
        shaped = importlib.import_module("agent_cache.testing.processes.shapes").shaped  # which imports this module
        made_so: Callable[[Setup], Cache] = shaped(name.split("+")[1:])
        return made_so
    if name == "never":
        return NeverCache
    words = {"get+set": "before+after"}.get(name, name).split("+")
    if set(words) <= {"before", "after"}:
        return lambda setup: NaiveCache(setup, before="before" in words, after="after" in words)
    where, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(f"--cache {name}: give agent_cache, get+set, before, after, before+after, never, file.py:name")
    if where.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(where).stem, where)
        if spec is None or spec.loader is None or not Path(where).exists():
            raise ValueError(f"--cache {name}: there is no file {where}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ValueError(f"--cache {name}: {error}") from None
    made: Any = getattr(module, attribute, None)
    if made is None:
        raise ValueError(f"--cache {name}: {where} has no {attribute}")
    found: Callable[[Setup], Cache] = made
    return found


class AgentCacheCache:
    """agent_cache over the backend of the URL, with short leases, refusing writes it cannot record."""

    name = "agent_cache"
    threads = True
    by_result = True
    windows = True
    settle = SETTLE
    grant = WRITE_LEASE

    def __init__(self, setup: Setup, freshness: str | None = None) -> None:
        import agent_cache

        self._setup = setup
        self.expires = freshness is not None
        self.single_loads = freshness is None
        self._rules: dict[str, Any] = {} if freshness is None else rules_of(freshness, _TTL, _SOFT)
        self._backend: Any = None
        self.no_effect: type[Exception] | None = agent_cache.NoEffect
        lease = setup.options.get("coherence") == "lease"
        self.checks = ALL_CHECKS - {"C0"} if lease else ALL_CHECKS
        self.grace = 1.25 * LEASE_MODE_DELAY if lease else 0.0

    async def open(self) -> None:
        import agent_cache

        self._backend = _backend(self._setup)
        agent_cache.configure(backend=self._backend, on_unavailable="refuse_writes", namespace=self._setup.prefix)

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        import agent_cache

        made: Tool = agent_cache.AgentCache(resource, scope=scope, maxsize=None, **self._rules)(tool)
        return made

    def write(self, tool: Tool, resource: str, scope: str) -> Tool:
        import agent_cache

        return agent_cache.AgentCacheInvalidator(resource, scope=scope, no_effect_if=_says_refused)(tool)

    def session(self, name: str, identity: dict[str, str]) -> AbstractAsyncContextManager[object]:
        import agent_cache

        block: AbstractAsyncContextManager[object] = agent_cache.AgentCacheSession(
            name, loop_detection=False, identity=identity
        )
        return block

    def refused(self, error: Exception) -> bool:
        import agent_cache

        return isinstance(error, agent_cache.BackendError)

    async def close(self) -> None:
        closing = self._backend.close()
        if inspect.isawaitable(closing):
            await closing


def _says_refused(result: Any) -> bool:
    return isinstance(result, dict) and result.get("refused") is True


def _backend(setup: Setup) -> Any:
    """The backend of this URL: its own options, and our short leases where it takes them."""
    from agent_cache.config import backend_from_url

    wanted: dict[str, Any] = {"write_lease": WRITE_LEASE, "lead_lease": LEAD_LEASE, "settle": SETTLE}
    if setup.scheme == "memory":
        return backend_from_url(setup.url)
    options: dict[str, Any] = dict(setup.options)
    if setup.scheme == "disk":
        made: Any = importlib.import_module("agent_cache.backends.disk").DiskBackend
        where = setup.path
    else:
        made = importlib.import_module("agent_cache.backends.redis").RedisBackend
        where = setup.bare_url
        wanted["prefix"] = setup.prefix
    takes = inspect.signature(made).parameters
    known = {name: value for name, value in {**wanted, **options}.items() if name in takes}
    rest = {name: value for name, value in options.items() if name not in takes}
    return made(f"{where}?{urlencode(rest)}" if rest else where, **known)


class _Store(Protocol):
    """Hashes of texts: what the naive caches need of a backend."""

    async def get(self, name: str, field: str) -> str | None: ...
    async def set(self, name: str, field: str, text: str) -> None: ...
    async def drop(self, names: list[str]) -> None: ...
    async def close(self) -> None: ...


class _RedisStore:
    def __init__(self, url: str) -> None:
        self._redis = importlib.import_module("redis.asyncio").Redis.from_url(url, decode_responses=True)

    async def get(self, name: str, field: str) -> str | None:
        text: str | None = await self._redis.hget(name, field)
        return text

    async def set(self, name: str, field: str, text: str) -> None:
        await self._redis.hset(name, field, text)

    async def drop(self, names: list[str]) -> None:
        await self._redis.delete(*names)

    async def close(self) -> None:
        await self._redis.aclose()


class _DiskStore:
    def __init__(self, path: str) -> None:
        sqlite3 = importlib.import_module("sqlite3")
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        for attempt in range(200):  # SQLite does not wait with this one, whatever its timeout
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:
                if attempt == 199:
                    raise
                threading.Event().wait(0.01)
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS naive (name TEXT, field TEXT, text TEXT, PRIMARY KEY (name, field))"
        )

    async def get(self, name: str, field: str) -> str | None:
        row = self._db.execute("SELECT text FROM naive WHERE name = ? AND field = ?", (name, field)).fetchone()
        return row[0] if row else None

    async def set(self, name: str, field: str, text: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO naive VALUES (?, ?, ?)", (name, field, text))

    async def drop(self, names: list[str]) -> None:
        self._db.executemany("DELETE FROM naive WHERE name = ?", [(name,) for name in names])

    async def close(self) -> None:
        self._db.close()


class NaiveCache:
    """What people write: get, else load and set; and an invalidation before the write, after it, or both."""

    checks = ALL_CHECKS
    single_loads = False
    threads = False
    by_result = False
    windows = True
    expires = False
    no_effect: type[Exception] | None = None
    settle = 0.0
    grace = 0.0
    grant = 0.0

    def __init__(self, setup: Setup, *, before: bool, after: bool) -> None:
        self.name = "+".join(word for word, on in (("before", before), ("after", after)) if on)
        self._setup = setup
        self._before = before
        self._after = after
        self._store: _Store

    async def open(self) -> None:
        self._store = (
            _DiskStore(self._setup.path) if self._setup.scheme == "disk" else _RedisStore(self._setup.bare_url)
        )

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        async def read(ident: Any) -> Any:
            name = f"{self._setup.prefix}{resource.format(ident=ident)}"
            field = f"{tool.__name__}|{ident}|{owner()}"
            text = await self._store.get(name, field)
            if text is not None:
                return json.loads(text)
            value = await tool(ident)
            await self._store.set(name, field, json.dumps(value))
            return value

        return read

    def write(self, tool: Tool, resource: str, scope: str) -> Tool:
        async def write(ident: Any, number: int) -> Any:
            family, colon, _ = resource.partition(":")
            paths = [f"{family}:{ident}"] if colon else [f"{family}:{each}" for each in range(self._setup.idents)]
            names = [self._setup.prefix + path for path in (family, *paths)]
            if self._before:
                await self._store.drop(names)
            try:
                return await tool(ident, number)
            finally:
                if self._after:
                    await self._store.drop(names)

        return write

    def session(self, name: str, identity: dict[str, str]) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    def refused(self, error: Exception) -> bool:
        return False

    async def close(self) -> None:
        await self._store.close()


class NeverCache(NaiveCache):
    """Right by doing nothing: what the hit ratio is for."""

    threads = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, before=False, after=False)
        self.name = "never"

    async def open(self) -> None:
        return

    def read(self, tool: Tool, resource: str, scope: str, owner: Callable[[], str]) -> Tool:
        return tool

    def write(self, tool: Tool, resource: str, scope: str) -> Tool:
        return tool

    async def close(self) -> None:
        return
