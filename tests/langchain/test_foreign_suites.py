"""LangChain's own tests for tools, model caches and stores, as they are, on our objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("langchain_tests")

from langchain_core.caches import BaseCache
from langchain_core.stores import BaseStore
from langchain_core.tools import BaseTool, StructuredTool
from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    SyncCacheTestSuite,
    ToolsIntegrationTests,
)
from langchain_tests.unit_tests import ToolsUnitTests

from agent_cache import DiskBackend, MemoryBackend
from agent_cache_langchain import AgentCacheByteStore, AgentCacheLLMCache, cached_tool, invalidating_tool
from tests.langchain.shop import Shop


@pytest.fixture(params=["memory", "disk"])
def backend(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryBackend()
    else:
        disk = DiskBackend(tmp_path / "cache.db")
        yield disk
        disk.sync.close()


class TestSyncCache(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, backend: Any) -> BaseCache:
        return AgentCacheLLMCache(backend)


class TestAsyncCache(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, backend: Any) -> BaseCache:
        return AgentCacheLLMCache(backend)


class TestSyncStore(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, backend: Any) -> BaseStore[str, bytes]:
        return AgentCacheByteStore(backend)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\x00\xff"


class TestAsyncStore(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, backend: Any) -> BaseStore[str, bytes]:
        return AgentCacheByteStore(backend)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\x00\xff"


class OwnTool(BaseTool):
    """A tool of a class of its own."""

    name: str = "own"
    description: str = "Repeats what it is given."

    def _run(self, text: str) -> str:
        return text

    async def _arun(self, text: str) -> str:
        return text


READ = cached_tool(Shop().read, "order:{order_id}")
WRITE = invalidating_tool(Shop().write, "order:{order_id}")
OWN = cached_tool(OwnTool(), "text")


class _Read:
    @property
    def tool_constructor(self) -> StructuredTool:
        return READ

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"order_id": 7}


class _Write:
    @property
    def tool_constructor(self) -> StructuredTool:
        return WRITE

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"order_id": 7, "status": "sent"}


class _Own:
    @property
    def tool_constructor(self) -> BaseTool:
        return OWN

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": "a"}


class TestReadUnit(_Read, ToolsUnitTests):
    pass


class TestReadIntegration(_Read, ToolsIntegrationTests):
    pass


class TestWriteUnit(_Write, ToolsUnitTests):
    pass


class TestWriteIntegration(_Write, ToolsIntegrationTests):
    pass


class TestOwnUnit(_Own, ToolsUnitTests):
    pass


class TestOwnIntegration(_Own, ToolsIntegrationTests):
    pass
