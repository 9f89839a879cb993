"""What LangChain's and LangGraph's own caches keep in a key-value backend: names, and a backend that may be away.

The caches themselves, and what they make of their values, are elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agent_cache import BackendError, ConfigurationError, UnstorableResultError
from agent_cache.backends.base import KeyValue
from agent_cache.config import settings
from agent_cache.context import current_view
from agent_cache.engine.outages import READING, STORING, Work, backend_failed, backend_worked

__all__ = ["CLEARING", "READING", "STORING", "Kept"]

T = TypeVar("T")

CLEARING = Work(
    "clearing",
    "the backend did not drop what was to be cleared (%s); it may be served until it expires",
    "the backend drops what is cleared again: %r",
)


class Kept:
    """One cache's part of a backend.

    Args:
        backend: any of ours.
        namespace: keeps caches in one backend apart.
        kind: what sort of cache it is, for its keys and its counters.

    Raises:
        ConfigurationError: a backend that is none, or an empty namespace.
    """

    def __init__(self, backend: Any, namespace: str, kind: str) -> None:
        if not isinstance(backend, KeyValue):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        if not isinstance(namespace, str) or not namespace:
            raise ConfigurationError("namespace", namespace, "give a text")
        self.backend: Any = backend
        self.kind = kind
        self._head = f"{kind}/{_digest(namespace)}/"

    def name(self, *parts: str) -> str:
        """A key for these texts: different ones have different keys, and none can be read from it."""
        return self._head + "/".join(map(_digest, parts))

    def pattern(self, *parts: str) -> str:
        """What all keys match that begin with these."""
        return self.name(*parts) + ("/*" if parts else "*")

    def now(self, work: Work, act: Callable[[Any], T], otherwise: T) -> T:
        """Do something with the blocking backend; ``otherwise`` where it is away or no codec takes the value.

        Both are counted, and logged once.
        """
        try:
            done = act(self.backend.sync)
        except BackendError as error:
            self._failed(work, error)
            return otherwise
        except UnstorableResultError as error:
            self.refused(str(error))
            return otherwise
        backend_worked(self.backend, work)
        return done

    async def later(self, work: Work, act: Callable[[Any], Awaitable[T]], otherwise: T) -> T:
        """As :meth:`now`, with the asynchronous backend."""
        try:
            done = await act(self.backend)
        except BackendError as error:
            self._failed(work, error)
            return otherwise
        except UnstorableResultError as error:
            self.refused(str(error))
            return otherwise
        backend_worked(self.backend, work)
        return done

    def refused(self, why: str) -> None:
        """A value that would not come back equal is not kept: counted, and said once for each reason."""
        current_view().count(self.kind, "bypasses", reason="unstorable")
        settings.notices.once(("unkept", self.kind, why), "%s cache: a value is not kept: %s", self.kind, why)

    def _failed(self, work: Work, error: BackendError) -> None:
        backend_failed(current_view(), self.kind, self.backend, error, work)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
