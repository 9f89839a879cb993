"""The contract and the rules that lean on what servers differ in, on every Redis that is on this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from agent_cache import AgentCacheInvalidator, BackendError, MemoryBackend, get_metrics
from agent_cache.backends.base import Found, Missing
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.engine.outbox import OUTBOX
from agent_cache.tags import read_tags
from agent_cache.testing import BackendContract, FakeClock
from agent_cache.testing.contract import _Face as Face
from agent_cache.testing.servers import RedisServer, ServerBinary, all_servers

LetPass = Callable[[RedisBackend, float], Awaitable[None]]
Eventually = Callable[..., Awaitable[None]]
CART = read_tags([("cart", "42")], ())


@pytest.fixture(scope="module", params=all_servers(), ids=lambda binary: binary.label)
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    found: ServerBinary = request.param
    return found


@pytest.fixture(scope="module")
def this_server(binary: ServerBinary) -> Iterator[RedisServer]:
    with RedisServer(binary, config={"maxmemory-policy": "noeviction"}) as started:
        yield started


@pytest.fixture
def server(this_server: RedisServer) -> RedisServer:
    """In place of the shared one: ``process`` and ``backend_at`` go there."""
    this_server.cli("FLUSHALL")
    return this_server


class TestContract(BackendContract):
    bounds_groups = False

    @pytest.fixture(autouse=True)
    def _at(self, server: RedisServer, let_pass: LetPass) -> None:
        self.url = f"{server.url}?protocol=3"
        self.let_pass = let_pass

    def make(self, clock: FakeClock) -> RedisBackend:
        return RedisBackend(self.url, prefix=f"t{os.urandom(4).hex()}:", settle=self.settle)

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.let_pass(self.backend, seconds)


async def test_nothing_from_before_a_restart_is_served(server: RedisServer, process: Any) -> None:
    face = process()
    await face.store("old")
    token = await face.token()
    server.cli("SAVE")
    server.restart()
    assert server.cli("DBSIZE") > 0, "the entry is there again"
    await recovered(face)
    await face.expect_missing("stale")
    await face.fill(token, "old")  # the tags are those of before, the server is not: whatever is stored is not current
    await face.expect_missing("stale")
    await face.store("new")
    await face.expect_value("new")


async def test_nothing_from_before_the_loss_of_all_data_is_served(server: RedisServer, process: Any) -> None:
    face = process()
    await face.store("old")
    token = await face.token()
    server.cli("FLUSHALL")
    await face.expect_missing("absent")
    assert not await face.fill(token, "old")


async def recovered(face: Face) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await face.lookup()
            except BackendError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_scripts_that_were_forgotten_are_sent_again(server: RedisServer, process: Any) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    server.cli("SCRIPT", "FLUSH")
    window = await writer.begin()
    await reader.expect_blocked()
    server.cli("SCRIPT", "FLUSH")
    await writer.end(window)
    await reader.expect_missing("stale")
    server.cli("SCRIPT", "FLUSH")
    await reader.store("new")
    await reader.expect_value("new")
    assert writer._backend._links.down is None


@pytest.mark.parametrize("lost", range(len(CART)))
async def test_an_entry_whose_tag_was_lost_is_not_seen_again(lost: int, server: RedisServer, process: Any) -> None:
    face = process()
    await face.store("old")
    token = await face.token()
    server.cli("DEL", face._backend._names.tag(CART[lost])[1])
    assert isinstance(await face.lookup(), Missing)
    assert not await face.fill(token, "old")
    assert isinstance(await face.lookup(), Missing)
    await face.store("new")
    await face.expect_value("new")


async def test_markers_end_by_the_servers_clock(process: Any) -> None:
    reader, writer = process(), process(write_lease=30)
    window = await writer.begin()
    await process.let_pass(20)
    await reader.expect_blocked()
    await writer._backend._renew(window)
    await process.let_pass(20)
    await reader.expect_blocked()
    await process.let_pass(11)
    assert isinstance(await reader.lookup(), Missing)
    await writer.end(window)


async def test_a_lead_is_one_processs_and_is_given_back_by_its_fill(process: Any) -> None:
    here, there = process(), process()
    token = await here.token()
    lead = await here._backend.lead(b"key-of-cart-42", CART, token)
    assert type(lead).__name__ == "Lead"
    assert type(await there._backend.lead(b"key-of-cart-42", CART, await there.token())).__name__ == "Taken"
    assert await here.fill(token, "loaded", lead=lead)
    await there.expect_value("loaded")
    assert type(await there._backend.lead(b"key-of-cart-42", CART, await there.token())).__name__ == "Taken"


@pytest.fixture
async def tier(server: RedisServer, eventually: Eventually) -> AsyncIterator[TieredBackend]:
    made = TieredBackend(MemoryBackend(), RedisBackend(server.url, coherence="lease", lease=2.0))
    await made.connect()
    await eventually(made._is_proven, "the backplane proves")
    yield made
    await made.close()


async def test_a_lease_serves_without_asking_and_hears_of_writes(
    tier: TieredBackend, process: Any, eventually: Eventually
) -> None:
    face, writer = Face(tier, blocking=False), process()
    writer._backend._wait_out = lambda window: asyncio.sleep(0)
    await face.store("old")
    before = tier.far._links.round_trips
    for _ in range(5):
        await face.expect_value("old")
    assert tier.far._links.round_trips == before
    heard = tier.far._bus.heard
    await writer.move()
    await eventually(lambda: tier.far._bus.heard > heard, "it is told")
    await face.expect_missing("stale")


async def test_a_full_server_forgets_what_was_written(server: RedisServer, process: Any) -> None:
    here, there = process(), process()
    ran: list[int] = []

    @AgentCacheInvalidator("cart:{user}", backend=here._backend)
    async def put_cart(user: int) -> None:
        ran.append(user)

    await there.store("old")
    token = await there.token()
    server.cli("CONFIG", "SET", "maxmemory", "1")
    try:
        await put_cart(42)
    finally:
        server.cli("CONFIG", "SET", "maxmemory", "0")
    assert ran == [42]
    assert not OUTBOX
    assert get_metrics()["backend_errors"] == 0
    assert not isinstance(await there.lookup(), Found)
    assert not await there.fill(token, "old")
