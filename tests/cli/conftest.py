"""A store with something in it, on disk and in a real Redis, and the program run on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import agent_cache
from agent_cache import AgentCache, AgentCacheInvalidator
from agent_cache.cli import main
from agent_cache.config import backend_from_url, recording
from agent_cache.testing.servers import RedisServer

Run = Callable[..., Result]


@AgentCache("cart:{user_id}", cost=0.5)
async def get_cart(user_id: int) -> dict[str, Any]:
    return {"user": user_id, "note": "\x1b[31mred"}


@AgentCache("catalog", ttl=600)
async def search(query: str) -> list[str]:
    return [query]


@AgentCacheInvalidator("cart:{user_id}")
async def add_item(user_id: int) -> None: ...


async def _fill() -> None:
    for number in (42, 43):
        await get_cart(number)
        await get_cart(number)
    await search("[red]\x1b[31m")
    await add_item(43)
    await recording.flush()


@pytest.fixture(params=["disk", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty store's URL."""
    if request.param == "disk":
        yield f"disk://{tmp_path}/cache.db"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        yield f"{server.url}?prefix=c{os.urandom(4).hex()}:"


@pytest.fixture
def filled(url: str) -> str:
    """Three tools' calls: a current one and a dropped one of get_cart, a current one of search."""
    backend: Any = backend_from_url(f"{url}{'&' if '?' in url else '?'}near=0")
    agent_cache.configure(backend=backend, record_stats=True, store_args=True)

    async def fill() -> None:
        await _fill()
        await backend.close()

    asyncio.run(fill())
    agent_cache.configure(backend=None, record_stats=False, store_args=False)
    return url


@pytest.fixture
def run() -> Run:
    """``run("ls", "--url", ...)``: what it printed and its exit code, as the program gives it."""

    def call(*arguments: str, code: int = 0, **how: Any) -> Result:
        @click.command()
        def program() -> None:
            raise SystemExit(main(list(arguments)))

        result = CliRunner().invoke(program, [], env={"COLUMNS": "120"}, **how)
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return result

    return call
