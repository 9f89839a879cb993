"""A real Redis for each module, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent_cache.testing.servers import RedisServer


@pytest.fixture(scope="session")
def tiers_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(tiers_server: RedisServer) -> RedisServer:
    tiers_server.cli("FLUSHALL")
    return tiers_server
