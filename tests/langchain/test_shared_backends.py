"""The middleware on a file and on a Redis: what one process has asked, another need not; what one writes, all see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import StructuredTool

from agent_cache import DiskBackend, MemoryBackend, RedisBackend, TieredBackend
from agent_cache.testing.servers import RedisServer
from agent_cache_langchain import AgentCacheMiddleware
from tests.langchain.conftest import Way
from tests.langchain.shop import ORDER, SEND, Shop

# A resource of these tests alone: a write goes to every backend that its readers were seen with, closed ones too.
POLICIES: dict[str, Any] = {
    "get_order": {"kind": "read", "resource": "shared-order:{order_id}"},
    "set_status": {"kind": "write", "resource": "shared-order:{order_id}"},
}


@pytest.fixture(params=["disk", "redis", "tiered"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Any]]:
    """Two backends on one store, as two processes would have them."""
    made: list[Any] = []
    for _ in range(2):
        if request.param == "disk":
            made.append(DiskBackend(tmp_path / "cache.db"))
            continue
        server: RedisServer = request.getfixturevalue("redis_server")
        redis = RedisBackend(server.url, prefix=f"shared-{request.node.name}:", op_timeout=30)
        made.append(redis if request.param == "redis" else TieredBackend(MemoryBackend(), redis))
    yield made
    for backend in made:
        backend.sync.close()


async def test_answers_and_writes_are_shared_under_a_name(way: Way, two: list[Any]) -> None:
    shops = [Shop(), Shop()]
    shops[1].status = shops[0].status
    caches = [AgentCacheMiddleware(POLICIES, backend=backend, shared_as="shop") for backend in two]
    asked = [(0, ORDER, "paid"), (1, ORDER, "paid"), (1, SEND, "ok"), (0, ORDER, "sent"), (1, ORDER, "sent")]
    for number, call, expected in asked:
        [message] = await way.run(shops[number].tools, [[call]], caches[number])
        assert message.content == expected
    assert [shop.reads for shop in shops] == [2, 0]


async def test_content_and_artifact_come_back_as_they_were(way: Way, two: list[Any]) -> None:
    ran = 0
    content = [{"type": "text", "text": "ä"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    artifact = {"rows": [(1, 2.0), b"\x00"], 7: {"a", "b"}, "none": None}

    def report(name: str) -> tuple[Any, Any]:
        """A report."""
        nonlocal ran
        ran += 1
        return content, artifact

    made = StructuredTool.from_function(report, response_format="content_and_artifact")
    policies = {"report": {"kind": "read", "resource": "report"}}
    for backend in two:
        cache = AgentCacheMiddleware(policies, backend=backend, shared_as="reports")
        [message] = await way.run([made], [[("report", {"name": "may"})]], cache)
        assert message.content == content
        assert repr(sorted(message.artifact, key=str)) == repr(sorted(artifact, key=str))
        assert message.artifact == artifact
        assert [type(part) for part in message.artifact["rows"][0]] == [int, float]
    assert ran == 1
