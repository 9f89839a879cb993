"""LangChain's cache for models and its store of bytes, and LangGraph's cache for nodes, in our backends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy

from agent_cache import BackendError, ConfigurationError, DiskBackend, MemoryBackend, RedisBackend, get_metrics
from agent_cache.testing.servers import RedisServer
from agent_cache_langchain import AgentCacheByteStore, AgentCacheGraphCache, AgentCacheLLMCache


@pytest.fixture(params=["memory", "disk", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryBackend()
    elif request.param == "disk":
        disk = DiskBackend(tmp_path / "cache.db")
        yield disk
        disk.sync.close()
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        redis = RedisBackend(server.url, prefix=f"langchain-{request.node.name}:", op_timeout=30)
        yield redis
        redis.sync.close()


ANSWERS: list[list[Any]] = [
    [Generation(text="a", generation_info={"n": 1.0})],
    [GenerationChunk(text="a"), Generation(text="b")],
    [
        ChatGeneration(
            message=AIMessage("a", id="m", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3})
        )
    ],
    [ChatGenerationChunk(message=AIMessageChunk("a"))],
    [ChatGeneration(message=AIMessage("", tool_calls=[{"name": "t", "args": {"x": [1]}, "id": "c"}]))],
    [],
]


class Own(AIMessage):
    """A message of a class that LangChain does not know."""

    more: str = "more"


class TestLLMCache:
    @pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
    async def test_what_comes_back_is_equal(self, answer: list[Any], backend: Any) -> None:
        cache = AgentCacheLLMCache(backend)
        await cache.aupdate("prompt", "model", answer)
        found = await cache.alookup("prompt", "model")
        assert found == answer
        assert [*map(type, found)] == [*map(type, answer)]
        assert cache.lookup("prompt", "model") == answer
        assert cache.lookup("model", "prompt") is None

    def test_what_would_not_is_not_kept(self, caplog: pytest.LogCaptureFixture) -> None:
        cache = AgentCacheLLMCache(MemoryBackend())
        for odd in (Own("a"), AIMessage("a", additional_kwargs={"client": object()})):
            cache.update("prompt", "model", [ChatGeneration(message=odd)])
            assert cache.lookup("prompt", "model") is None
        assert get_metrics()["bypasses"] == 2
        assert sum("a value is not kept" in record.message for record in caplog.records) == 2

    def test_hits_are_the_callers_own(self) -> None:
        cache = AgentCacheLLMCache(MemoryBackend())
        cache.update("p", "m", [Generation(text="a", generation_info={"list": [1]})])
        first, second = cache.lookup("p", "m"), cache.lookup("p", "m")
        assert first is not None
        assert second is not None
        first[0].generation_info["list"].append(2)  # type: ignore[index]
        assert second[0].generation_info == {"list": [1]}

    async def test_clear_drops_its_own_namespace_only(self, backend: Any) -> None:
        one, other = AgentCacheLLMCache(backend), AgentCacheLLMCache(backend, namespace="other")
        await backend.set("somebody's", 1)
        for cache in (one, other):
            await cache.aupdate("p", "m", [Generation(text="a")])
        await one.aclear()
        assert await one.alookup("p", "m") is None
        assert await other.alookup("p", "m") == [Generation(text="a")]
        other.clear()
        assert other.lookup("p", "m") is None
        assert await backend.get("somebody's") == 1

    async def test_prompts_cannot_be_read_from_the_keys(self) -> None:
        backend = MemoryBackend()
        AgentCacheLLMCache(backend).update("my secret prompt", "model", [Generation(text="a")])
        assert not any("secret" in key for key in backend.sync.keys())  # noqa: SIM118 - a method

    def test_a_real_model_asks_once(self) -> None:
        model = FakeListChatModel(responses=["one", "two"], cache=AgentCacheLLMCache(MemoryBackend()))
        assert [model.invoke("hello").content for _ in range(2)] == ["one", "one"]
        assert model.invoke("bye").content == "two"

    async def test_a_dead_backend_is_a_miss(self, dead_redis: RedisBackend, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "agent_cache")
        model = FakeListChatModel(responses=["one", "two"], cache=AgentCacheLLMCache(dead_redis))
        assert [(await model.ainvoke("hello")).content for _ in range(2)] == ["one", "two"]
        assert get_metrics()["backend_errors"] > 0
        assert sum("the backend failed" in record.message for record in caplog.records) == 1

    @pytest.mark.parametrize(
        "strange", [1, [1], [{}], [{"kind": "os"}], [{"kind": "ChatGeneration", "info": None, "message": {}}]]
    )
    def test_what_another_version_wrote_is_a_miss(self, strange: Any) -> None:
        backend = MemoryBackend()
        cache = AgentCacheLLMCache(backend)
        cache.update("p", "m", [Generation(text="a")])
        [key] = backend.sync.keys()
        backend.sync.set(key, strange)
        assert cache.lookup("p", "m") is None

    def test_entries_expire(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        backend = MemoryBackend(clock=lambda: now[0])
        cache = AgentCacheLLMCache(backend, ttl=60)
        cache.update("p", "m", [Generation(text="a")])
        now[0] = 59
        assert cache.lookup("p", "m") is not None
        now[0] = 61
        assert cache.lookup("p", "m") is None


class TestByteStore:
    async def test_namespaces_and_prefixes(self, backend: Any) -> None:
        one, other = AgentCacheByteStore(backend), AgentCacheByteStore(backend, namespace="other")
        one.mset([("a/1", b"\x00\xff"), ("a/2", b""), ("b", b"x")])
        await other.amset([("a/1", b"other")])
        assert one.mget(["a/1", "a/2", "c"]) == [b"\x00\xff", b"", None]
        assert await other.amget(["a/1", "a/2"]) == [b"other", None]
        assert sorted(one.yield_keys(prefix="a/")) == ["a/1", "a/2"]
        assert [key async for key in other.ayield_keys()] == ["a/1"]
        one.mdelete(["a/1"])
        assert await other.amget(["a/1"]) == [b"other"]

    async def test_a_dead_backend_raises(self, dead_redis: RedisBackend) -> None:
        store = AgentCacheByteStore(dead_redis)
        with pytest.raises(BackendError):
            await store.amset([("a", b"a")])


class TestGraphCache:
    async def test_keys_namespaces_and_clear(self, backend: Any) -> None:
        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(backend)
        spaces: list[tuple[str, ...]] = [("a", "b"), ("a", "b2"), ("ab",)]
        await cache.aset({(space, "k"): (space[-1], None) for space in spaces})
        assert await cache.aget([(space, "k") for space in spaces]) == {(s, "k"): s[-1] for s in spaces}
        assert cache.get([(("a",), "k"), (("a", "b"), "other")]) == {}
        await cache.aclear([("a", "b")])
        assert set(cache.get([(space, "k") for space in spaces])) == {(("a", "b2"), "k"), (("ab",), "k")}
        cache.clear()
        assert await cache.aget([(space, "k") for space in spaces]) == {}

    def test_each_result_for_its_own_seconds(self) -> None:
        now = [0.0]
        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(MemoryBackend(clock=lambda: now[0]))
        cache.set({(("a",), "short"): (1, 10), (("a",), "long"): (2, None)})
        now[0] = 11
        assert cache.get([(("a",), "short"), (("a",), "long")]) == {(("a",), "long"): 2}

    @pytest.mark.parametrize(
        "value", [deque([("messages", [HumanMessage("x", id="1")])]), [("a", 1)], {"a": [1, 2.0]}, None, deque()]
    )
    def test_what_comes_back_is_equal(self, value: Any) -> None:
        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(MemoryBackend())
        cache.set({(("a",), "k"): (value, None)})
        [found] = cache.get([(("a",), "k")]).values()
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize("strange", [["msgpack", b"\xc1", False], ["unheard of", b"", False], [1]])
    def test_what_another_version_wrote_is_a_miss(self, strange: Any) -> None:
        backend = MemoryBackend()
        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(backend)
        cache.set({(("a",), "k"): (1, None)})
        [key] = backend.sync.keys()
        backend.sync.set(key, strange)
        assert cache.get([(("a",), "k")]) == {}

    @pytest.mark.parametrize("value", [deque([("a", (1, 2))]), Own("x")])
    def test_what_would_not_is_not_kept(self, value: Any) -> None:
        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(MemoryBackend())
        cache.set({(("a",), "k"): (value, None)})
        assert cache.get([(("a",), "k")]) == {}

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_a_real_graph_runs_a_node_once(self, is_async: bool, backend: Any) -> None:
        ran = 0

        def think(state: MessagesState) -> dict[str, Any]:
            nonlocal ran
            ran += 1
            return {"messages": [AIMessage(f"thought {ran}")]}

        graph: Any = StateGraph(MessagesState)
        graph.add_node("think", think, cache_policy=CachePolicy(key_func=lambda state: state["messages"][-1].content))
        graph.add_edge(START, "think")
        compiled = graph.compile(cache=AgentCacheGraphCache(backend))
        for text, thought in (("a", "thought 1"), ("a", "thought 1"), ("b", "thought 2")):
            given = {"messages": [HumanMessage(text)]}
            state = await compiled.ainvoke(given) if is_async else compiled.invoke(given)
            assert state["messages"][-1].content == thought

    def test_a_message_that_gets_its_id_while_it_is_written_down_is_kept(self) -> None:
        """As a graph does it: the result is kept behind, while the state it goes into gives the message an id."""
        message = AIMessage("thought")
        plain = AgentCacheGraphCache[Any](MemoryBackend()).serde

        class Slow:
            def dumps_typed(self, value: Any) -> tuple[str, bytes]:
                written = plain.dumps_typed(value)
                message.id = message.id or "given meanwhile"
                return written

            def loads_typed(self, data: tuple[str, bytes]) -> Any:
                return plain.loads_typed(data)

        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(MemoryBackend(), serde=Slow())
        cache.set({(("a",), "k"): (deque([("messages", message)]), None)})
        assert cache.get([(("a",), "k")]) == {(("a",), "k"): deque([("messages", message)])}

    async def test_a_dead_backend_is_a_miss(self, dead_redis: RedisBackend) -> None:
        cache: AgentCacheGraphCache[Any] = AgentCacheGraphCache(dead_redis)
        await cache.aset({(("a",), "k"): (1, None)})
        assert await cache.aget([(("a",), "k")]) == {}
        await cache.aclear()


@pytest.mark.parametrize("make", [AgentCacheLLMCache, AgentCacheByteStore, AgentCacheGraphCache])
def test_wrong_use(make: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="backend"):
        make(object())
    with pytest.raises(ConfigurationError, match="namespace"):
        make(MemoryBackend(), namespace="")
