"""Caching without sessions: for plain functions, and for values under keys of one's own.

* :mod:`.lru`: the decorators ``AsyncLRU`` and ``AsyncTTL``.
* :mod:`.invalidators`: their counterparts for writes.
* :mod:`.cache`: ``AsyncCache``, a cache with keys and loaders; :mod:`.batches` gathers its loads.
* :mod:`.key`: ``KEY``, a call as a value, and ``NEVER``.
* :mod:`.acts`: what is done by hand acts at once here, and can be awaited for the far tier.

All of it is thin over the engine: entries, single-flight, fences and counters are those of every decorated tool. What
belongs to agents (scopes, sessions, loops) is the other decorators' business.
"""

from agent_cache.functions.cache import AsyncCache
from agent_cache.functions.invalidators import AsyncLRUInvalidator, AsyncTTLInvalidator
from agent_cache.functions.key import KEY, NEVER
from agent_cache.functions.lru import AsyncLRU, AsyncTTL

__all__ = ["KEY", "NEVER", "AsyncCache", "AsyncLRU", "AsyncLRUInvalidator", "AsyncTTL", "AsyncTTLInvalidator"]
