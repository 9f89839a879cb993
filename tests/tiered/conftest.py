"""The shared Redis, emptied for each test."""

from __future__ import annotations

import pytest

from agent_cache.testing.servers import RedisServer


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.cli("FLUSHALL")
    return redis_server
