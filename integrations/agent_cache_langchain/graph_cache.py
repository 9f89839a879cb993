"""LangGraph's cache for the results of nodes, in any of our backends."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from langgraph.cache.base import BaseCache, FullKey, Namespace, ValueT
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agent_cache.backends.base import KeyValue
from agent_cache_langchain.kept import CLEARING, READING, STORING, Kept

__all__ = ["AgentCacheGraphCache"]


class AgentCacheGraphCache(BaseCache[ValueT]):
    """For ``graph.compile(cache=AgentCacheGraphCache(backend))`` and nodes with a ``CachePolicy``.

    Not for nodes that run tools: what they return holds the ids of the calls it was returned to, so a repeated answer goes to
    the wrong call, and no key knows what a write makes stale. Use :class:`AgentCacheMiddleware` there.

    A backend that is away is a miss, counted and logged once. A result that would not come back equal is not kept. Unless
    another serializer is given, only LangGraph's list of safe types is read back.

    Args:
        backend: any of ours.
        namespace: keeps caches in one backend apart.
        serde: how results are written down.

    Raises:
        ConfigurationError: naming what is wrong.
    """

    def __init__(
        self, backend: KeyValue, *, namespace: str = "default", serde: SerializerProtocol | None = None
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None))
        self._kept = Kept(backend, namespace, "graph")

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """Those that are there."""
        names = self._names(keys)
        return self._read(names, self._kept.now(READING, lambda backend: backend.get_many(list(names)), {}))

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, ValueT]:
        """As :meth:`get`."""
        names = self._names(keys)
        return self._read(names, await self._kept.later(READING, lambda backend: backend.get_many(list(names)), {}))

    def set(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """Keep results, each for its seconds (None: as long as the backend does)."""
        for ttl, items in self._written(pairs).items():
            self._kept.now(STORING, partial(_set, items, ttl), None)

    async def aset(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> None:
        """As :meth:`set`."""
        for ttl, items in self._written(pairs).items():
            await self._kept.later(STORING, partial(_set, items, ttl), None)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Drop what these namespaces of the graph hold, or all."""
        for pattern in self._patterns(namespaces):
            self._kept.now(CLEARING, partial(_drop, pattern), 0)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """As :meth:`clear`."""
        for pattern in self._patterns(namespaces):
            await self._kept.later(CLEARING, partial(_drop, pattern), 0)

    def _names(self, keys: Sequence[FullKey]) -> dict[str, FullKey]:
        return {self._kept.name(_spelled(space), key): (tuple(space), key) for space, key in keys}

    def _patterns(self, namespaces: Sequence[Namespace] | None) -> list[str]:
        if namespaces is None:
            return [self._kept.pattern()]
        return [self._kept.pattern(_spelled(space)) for space in namespaces]

    def _read(self, names: Mapping[str, FullKey], found: Mapping[str, Any]) -> dict[FullKey, ValueT]:
        values: dict[FullKey, ValueT] = {}
        for name, kept in found.items():
            try:
                values[names[name]] = self._value(*kept)
            except Exception as error:  # noqa: BLE001 - a serializer may raise anything at what another version wrote
                self._kept.refused(f"what is kept cannot be read: {type(error).__name__}")
        return values

    def _value(self, kind: str, data: bytes, in_pairs: bool) -> Any:
        value = self.serde.loads_typed((kind, data))
        return type(value)(map(tuple, value)) if in_pairs else value

    def _faithful(self, value: object) -> list[Any] | None:
        """The value written down; None if it does not come back equal.

        A graph keeps results behind, while it goes on with them: a message gets its id in that time. What was written is
        then compared with something newer, so it is written again.
        """
        written = self.serde.dumps_typed(value)
        for _ in range(_MOST_TRIES):
            in_pairs = _is_in_pairs(value)
            if _is_equal(self._value(*written, in_pairs), value):
                return [*written, in_pairs]
            before, written = written, self.serde.dumps_typed(value)
            if written == before:
                return None
        return None

    def _written(self, pairs: Mapping[FullKey, tuple[ValueT, int | None]]) -> dict[int | None, dict[str, Any]]:
        """What is kept, by how long."""
        out: dict[int | None, dict[str, Any]] = {}
        for (space, key), (value, ttl) in pairs.items():
            kept = self._faithful(value)
            if kept is not None:
                out.setdefault(ttl, {})[self._kept.name(_spelled(space), key)] = kept
            else:
                self._kept.refused("it does not come back equal; LangGraph writes tuples down as lists, for one")
        return out


_MOST_TRIES = 5


def _is_equal(again: object, value: object) -> bool:
    """Equal and of the same types. Not which fields of a message were given: LangGraph's serializer gives all of them."""
    return again == value and repr(again) == repr(value)


def _is_in_pairs(value: object) -> bool:
    """What LangGraph keeps of a node: pairs of a channel and what was written to it. Its serializer makes lists of them."""
    each = isinstance(value, (list, deque)) and all(isinstance(part, tuple) and len(part) == 2 for part in value)
    return each and len(cast("list[Any]", value)) > 0


def _set(items: Mapping[str, Any], ttl: int | None, backend: Any) -> Any:
    return backend.set_many(items, ttl)


def _drop(pattern: str, backend: Any) -> Any:
    return backend.delete_pattern(pattern)


def _spelled(namespace: Namespace) -> str:
    """A namespace as one text that no other namespace has."""
    return "".join(f"{len(part)}:{part}" for part in namespace)
