"""LangChain's cache for the answers of models, and its store of bytes, in any of our backends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.messages import message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from langchain_core.stores import BaseStore

from agent_cache import ConfigurationError
from agent_cache.backends.base import KeyValue
from agent_cache.clock import seconds
from agent_cache_langchain.kept import CLEARING, READING, STORING, Kept

__all__ = ["AgentCacheByteStore", "AgentCacheLLMCache"]

_KINDS: dict[str, type[Generation]] = {
    kind.__name__: kind for kind in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}


class AgentCacheLLMCache(BaseCache):
    """A cache for models' answers: ``set_llm_cache(AgentCacheLLMCache(RedisBackend(url)))``, or ``cache=`` of one model.

    A backend that is away is a miss, counted and logged once. An answer that would not come back equal is not kept.
    Prompts are not readable from the keys.

    Args:
        backend: any of ours.
        ttl: seconds an answer may be served; None = as long as the backend keeps it.
        namespace: keeps caches in one backend apart; :meth:`clear` drops this one only.

    Raises:
        ConfigurationError: naming what is wrong.
    """

    def __init__(self, backend: KeyValue, *, ttl: float | timedelta | None = None, namespace: str = "default") -> None:
        self._kept = Kept(backend, namespace, "llm")
        self._ttl = None if ttl is None else seconds(ttl, "ttl")

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """The answer to this prompt by the model that ``llm_string`` describes, or None."""
        key = self._kept.name(llm_string, prompt)
        return _generations(self._kept.now(READING, lambda backend: backend.get(key), None))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep an answer."""
        records = self._records(return_val)
        if records is not None:
            key = self._kept.name(llm_string, prompt)
            self._kept.now(STORING, lambda backend: backend.set(key, records, self._ttl), None)

    def clear(self, **kwargs: Any) -> None:
        """Drop everything of this namespace."""
        self._kept.now(CLEARING, lambda backend: backend.delete_pattern(self._kept.pattern()), 0)

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As :meth:`lookup`."""
        key = self._kept.name(llm_string, prompt)
        return _generations(await self._kept.later(READING, lambda backend: backend.get(key), None))

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As :meth:`update`."""
        records = self._records(return_val)
        if records is not None:
            key = self._kept.name(llm_string, prompt)
            await self._kept.later(STORING, lambda backend: backend.set(key, records, self._ttl), None)

    async def aclear(self, **kwargs: Any) -> None:
        """As :meth:`clear`."""
        await self._kept.later(CLEARING, lambda backend: backend.delete_pattern(self._kept.pattern()), 0)

    def _records(self, generations: RETURN_VAL_TYPE) -> list[dict[str, Any]] | None:
        """Plain trees for the answers; None where they would not come back equal."""
        records = [_record(each) for each in generations]
        again = _generations(records)
        if again is not None and again == list(generations) and [*map(type, again)] == [*map(type, generations)]:
            return records
        self._kept.refused("a generation or message of another class, or with more in it than LangChain writes down")
        return None


def _record(generation: Generation) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": type(generation).__name__, "info": generation.generation_info}
    if isinstance(generation, ChatGeneration):
        return record | {"message": message_to_dict(generation.message)}
    return record | {"text": generation.text}


def _generations(records: Any) -> list[Any] | None:
    """The answers for these records; nothing is imported by a name found in them. None where they are not ours."""
    try:
        return [*_made(records)] if isinstance(records, list) else None
    except (KeyError, TypeError, ValueError):  # written by another version
        return None


def _made(records: list[Any]) -> Iterator[Generation]:
    for record in records:
        kind = _KINDS[record["kind"]]
        content: Any
        if issubclass(kind, ChatGeneration):
            content = {"message": messages_from_dict([record["message"]])[0]}
        else:
            content = {"text": record["text"]}
        yield kind(generation_info=record["info"], **content)


class AgentCacheByteStore(BaseStore[str, bytes]):
    """A store of bytes, for ``CacheBackedEmbeddings`` and the like, in any of our backends.

    It is as lasting as the backend: one that makes room drops what was stored. A backend that is away raises.

    Args:
        backend: any of ours.
        ttl: seconds for which values are kept; None = as long as the backend keeps them.
        namespace: keeps stores in one backend apart.

    Raises:
        ConfigurationError: naming what is wrong.
        BackendError: from each method, where the backend could not do it.
    """

    def __init__(self, backend: KeyValue, *, ttl: float | timedelta | None = None, namespace: str = "default") -> None:
        if not isinstance(backend, KeyValue):
            raise ConfigurationError("backend", backend, "give a backend such as MemoryBackend()")
        self._backend: Any = backend
        self._head = f"{Kept(backend, namespace, 'bytes').name()}"
        self._ttl = None if ttl is None else seconds(ttl, "ttl")

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values, None for those that are not there."""
        found = self._backend.sync.get_many(self._named(keys))
        return [found.get(name) for name in self._named(keys)]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store, over what was there."""
        self._backend.sync.set_many({self._head + key: value for key, value in key_value_pairs}, self._ttl)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Remove; those that are not there do not matter."""
        for name in self._named(keys):
            self._backend.sync.delete(name)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """The keys that begin with ``prefix``."""
        head = self._head + (prefix or "")
        for name in self._backend.sync.keys():  # noqa: SIM118 - a method, not a dict's view
            if name.startswith(head):
                yield name[len(self._head) :]

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """As :meth:`mget`."""
        found = await self._backend.get_many(self._named(keys))
        return [found.get(name) for name in self._named(keys)]

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """As :meth:`mset`."""
        await self._backend.set_many({self._head + key: value for key, value in key_value_pairs}, self._ttl)

    async def amdelete(self, keys: Sequence[str]) -> None:
        """As :meth:`mdelete`."""
        for name in self._named(keys):
            await self._backend.delete(name)

    async def ayield_keys(  # pyright: ignore[reportIncompatibleMethodOverride] - declared without the yield it has
        self, *, prefix: str | None = None
    ) -> AsyncIterator[str]:
        """As :meth:`yield_keys`."""
        head = self._head + (prefix or "")
        async for name in self._backend.keys():
            if name.startswith(head):
                yield name[len(self._head) :]

    def _named(self, keys: Sequence[str]) -> list[str]:
        return [self._head + key for key in keys]
