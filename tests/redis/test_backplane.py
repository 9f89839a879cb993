"""The near tier in lease mode: it serves without asking only what the backplane proves, and writers wait for it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend
from agent_cache.backends import tiered
from agent_cache.backends.base import Found, Missing
from agent_cache.backends.portal import PORTAL
from agent_cache.backends.redis import RedisBackend, backend, bus
from agent_cache.backends.redis.bus import Bus
from agent_cache.backends.tiered import TieredBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags, write_tags
from agent_cache.testing.contract import _Face as Face
from agent_cache.testing.servers import RedisServer

Process = Any
Eventually = Callable[..., Awaitable[None]]
KEY = b"key-of-cart-42"
CODEC = codec_for(Any)
CART = read_tags([("cart", "42")], ())
WRITE_CART = write_tags([("cart", "42")], ())
D = 0.2  # of the tests in which a real bus proves, and real writers wait
LONG = 60.0  # of those in which the proof of the beginning lasts


class Ear:
    """A backplane that proves what the test says it does."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lease = 10.0
        self.proven = self.now
        self.closed = False


class Near:
    """A tier over Redis in lease mode, with an ear of the test's own."""

    def __init__(self, far: RedisBackend) -> None:
        self.ear = Ear()
        self.far = far
        self.heard: Any = None
        self.lost: Any = None
        far.listen = self._listen  # type: ignore[method-assign, assignment]
        self.tier = TieredBackend(MemoryBackend(), far)
        self.face = Face(self.tier, blocking=False)

    def _listen(self, heard: Any, lost: Any) -> Ear:
        self.heard, self.lost = heard, lost
        return self.ear

    def hears_of_the_write(self) -> None:
        self.heard(self.far.tag_ids(WRITE_CART))

    async def copies(self) -> int:
        return int((await self.tier.stats())["near"]["entries"])


@pytest.fixture
def near(process: Process, monkeypatch: pytest.MonkeyPatch) -> Near:
    made = Near(process(coherence="lease", lease=10)._backend)
    monkeypatch.setattr(tiered, "uptime", lambda: made.ear.now)
    return made


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers do not wait for near tiers."""

    async def at_once(self: RedisBackend, window: Any) -> None: ...

    monkeypatch.setattr(RedisBackend, "_wait_out", at_once)


@pytest.fixture
async def tier_at(server: RedisServer) -> AsyncIterator[Callable[..., Awaitable[TieredBackend]]]:
    """``await tier_at(url, lease=…)``: a tier with a real backplane, connected and proven."""
    made: list[TieredBackend] = []

    async def make(url: str | None = None, *, lease: float = D, **how: Any) -> TieredBackend:
        made.append(
            TieredBackend(MemoryBackend(), RedisBackend(url or server.url, coherence="lease", lease=lease, **how))
        )
        await made[-1].connect()
        await until_proven(made[-1])
        return made[-1]

    yield make
    for tier in made:
        await tier.close()


async def until_proven(tier: TieredBackend) -> None:
    async with asyncio.timeout(20):
        while not tier._is_proven():
            await asyncio.sleep(0.005)


async def round_trips(tier: TieredBackend, tags: Any = CART) -> int:
    """What one lookup costs."""
    before = tier.far._links.round_trips
    await tier.lookup(KEY, tags, CODEC)
    return int(tier.far._links.round_trips - before)


# ------------------------------------------------------------------------------------------------- serving near


async def test_a_near_copy_is_served_without_asking_while_there_is_proof(near: Near) -> None:
    await near.face.store("cart")
    await near.face.expect_value("cart")
    assert await round_trips(near.tier) == 0
    near.ear.now += 9.9
    assert await round_trips(near.tier) == 0


async def test_without_proof_redis_is_asked(near: Near) -> None:
    await near.face.store("cart")
    near.ear.now += 10.1
    assert await round_trips(near.tier) == 1
    await near.face.expect_value("cart")
    near.ear.proven = near.ear.now
    assert await round_trips(near.tier) == 0, "proven again"


async def test_a_tool_that_is_warm_asks_too_when_the_proof_has_run_out(
    near: Near, process: Process, no_wait: None
) -> None:
    """The way of a hit that comes by no lookup at all."""
    value = "old"

    @AgentCache("cart:{user}", backend=near.tier)
    async def get_cart(user: int) -> str:
        return value

    for _ in range(3):
        assert await get_cart(42) == "old"
    trips = near.far._links.round_trips
    assert await get_cart(42) == "old"
    assert near.far._links.round_trips == trips
    value = "new"
    await process().move()  # of which nobody here hears
    near.ear.now += 10.1
    assert await get_cart(42) == "new"


async def test_a_stalled_bus_serves_nothing_near_after_the_lease(near: Near, process: Process, no_wait: None) -> None:
    await near.face.store("old")
    writer = process()
    await writer.end(await writer.begin())
    near.ear.now += 10.1  # no message, no proof, and the connection is open
    await near.face.expect_missing("stale")


async def test_a_write_that_is_heard_of_drops_the_copy_at_once(near: Near, process: Process, no_wait: None) -> None:
    await near.face.store("old")
    writer = process()
    window = await writer.begin()
    near.hears_of_the_write()
    await near.face.expect_blocked()
    await writer.end(window)
    await near.face.expect_missing("stale")


async def test_a_write_of_another_resource_costs_no_copy(near: Near) -> None:
    await near.face.store("cart")
    near.heard(near.far.tag_ids(write_tags([("cart", "43")], ())))
    assert await round_trips(near.tier) == 0


async def test_proof_is_read_before_the_copy(
    near: Near, process: Process, monkeypatch: pytest.MonkeyPatch, no_wait: None
) -> None:
    """No proof; the copy is fetched; the message arrives and is applied; the proof arrives. Nothing follows for the
    copy that was fetched before all this."""
    await near.face.store("old")
    writer = process()
    await writer.end(await writer.begin())
    near.ear.now += 10.1
    look = near.tier._store.lookup

    def then_all_is_heard(key: Any, tags: Any, codec: Any) -> Any:
        found = look(key, tags, codec)
        near.hears_of_the_write()
        near.ear.proven = near.ear.now
        return found

    monkeypatch.setattr(near.tier._store, "lookup", then_all_is_heard)
    await near.face.expect_missing("stale")


async def test_what_was_fetched_while_a_tag_moved_is_not_kept_near(
    near: Near, process: Process, monkeypatch: pytest.MonkeyPatch, no_wait: None
) -> None:
    """Redis answers "old"; the write begins and is heard of; only then does the answer get here."""
    writer = process()
    await writer.store("old")
    look = near.far.lookup

    async def slow(key: Any, tags: Any, codec: Any) -> Any:
        found = await look(key, tags, codec)
        await writer.end(await writer.begin())
        near.hears_of_the_write()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(near.far, "lookup", slow)
        assert isinstance(await near.face.lookup(), Found), "it was current when it was asked for"
    assert await near.copies() == 0
    await near.face.expect_missing("stale")


async def test_what_was_loaded_while_a_tag_moved_is_not_kept_near(
    near: Near, process: Process, monkeypatch: pytest.MonkeyPatch, no_wait: None
) -> None:
    """Redis takes the fill; the write begins and is heard of; only then does the answer get here."""
    writer = process()
    fill = near.far.fill

    async def slow(token: Any, entry: Any) -> bool:
        accepted = await fill(token, entry)
        await writer.end(await writer.begin())
        near.hears_of_the_write()
        return accepted

    token = await near.face.token()
    with monkeypatch.context() as patch:
        patch.setattr(near.far, "fill", slow)
        assert await near.face.fill(token, "old")
    assert await near.copies() == 0
    await near.face.expect_missing("stale")


async def test_what_redis_refuses_is_not_kept_near_either(near: Near, process: Process, no_wait: None) -> None:
    token = await near.face.token()
    await process().move()
    assert not await near.face.fill(token, "old")
    assert await near.copies() == 0


@pytest.mark.parametrize("way", ["a write", "by hand"])
async def test_own_writes_are_seen_at_once_though_no_word_of_them_comes_back(
    near: Near, no_wait: None, way: str
) -> None:
    value = "old"

    @AgentCache("cart:{user}", backend=near.tier)
    async def get_cart(user: int) -> str:
        return value

    @AgentCacheInvalidator("cart:{user}", backend=near.tier)
    async def put_cart(user: int) -> None:
        nonlocal value
        value = "new"
        assert await get_cart(42) == "new", "in the window too"

    for _ in range(3):
        assert await get_cart(42) == "old"
    if way == "a write":
        await put_cart(42)
    else:
        value = "new"
        await get_cart.invalidate(42)
    assert await get_cart(42) == "new"


async def test_a_copy_that_arrives_while_the_own_write_begins_does_not_survive_it(
    near: Near, process: Process, monkeypatch: pytest.MonkeyPatch, no_wait: None
) -> None:
    await process().store("old")
    begin = near.far.begin

    async def slow(tags: Any, writer: str) -> Any:
        await near.face.expect_value("old")  # from far, put near: the window is not open yet
        return await begin(tags, writer)

    monkeypatch.setattr(near.far, "begin", slow)
    window = await near.face.begin()
    await near.face.expect_blocked()
    await near.face.end(window)
    await near.face.expect_missing("stale")


async def test_a_lost_connection_empties_the_near_tier(near: Near) -> None:
    await near.face.store("cart")
    near.lost()
    assert await near.copies() == 0
    assert await round_trips(near.tier) == 1


# ----------------------------------------------------------------------------------------------- a real backplane


async def test_the_backplane_proves_and_tells(
    server: RedisServer, process: Process, tier_at: Callable[..., Awaitable[TieredBackend]], eventually: Eventually
) -> None:
    tier = await tier_at(lease=LONG)
    face = Face(tier, blocking=False)
    await face.store("old")
    assert await round_trips(tier) == 0
    writer = process()
    writer._backend._wait_out = lambda window: asyncio.sleep(0)
    await writer.move()
    await eventually(lambda: tier._store.sizes()[0] == 1 and isinstance(near_lookup(tier), Missing), "it is told")
    assert (await tier.stats())["backplane"]["heard"] >= 1
    await face.expect_missing("stale")


def near_lookup(tier: TieredBackend) -> Any:
    return tier._store.lookup(KEY, tier._near_tags(CART), CODEC)


@pytest.mark.parametrize("way", ["begin", "end", "by hand", "a renewal without its marker"])
async def test_every_move_of_a_version_is_told(server: RedisServer, process: Process, way: str) -> None:
    writer = process()
    window = None if way in ("begin", "by hand") else await writer.begin()
    with server.connect() as listener:
        listener.call("SUBSCRIBE", "ac:bus")
        if way == "begin":
            await writer.begin()
        elif way == "by hand":
            await writer.move()
        elif way == "end":
            await writer.end(window)
        else:
            server.cli("FLUSHALL")
            await writer._backend._renew(window)
        assert listener.read() == [b"message", b"ac:bus", b"".join(writer._backend.tag_ids(WRITE_CART))]


async def test_after_a_write_has_returned_no_near_tier_serves_what_was_before(
    process: Process, tier_at: Callable[..., Awaitable[TieredBackend]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus hangs while its connection stays open: the worst that can happen to it."""
    valve = Valve(monkeypatch)
    tier = await tier_at()
    face = Face(tier, blocking=False)
    writer = process()
    for turn in range(3):
        await until_proven(tier)
        await face.store(turn)
        valve.shut()
        window = await writer.begin()
        assert window.announced == D
        await writer.end(window)
        await face.expect_missing("stale")
        valve.open()


class Valve:
    """In every backplane's connection: while it is shut nothing that the server says gets through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._flows = PORTAL.run(self._event())
        listen = Bus._listen

        async def behind_it(mine: Bus) -> None:
            connect = mine._blueprint.connection

            async def connection(address: Any, timeout: float) -> Any:
                made = await connect(address, timeout)
                read = made.read_response

                async def through(**how: Any) -> Any:
                    reply = await read(**how)
                    await self._flows.wait()
                    return reply

                made.read_response = through
                return made

            mine_, blueprint = mine, mine._blueprint
            mine_._blueprint = SimpleNamespace(connection=connection, describe=blueprint.describe)  # type: ignore[assignment]
            try:
                await listen(mine_)
            finally:
                mine_._blueprint = blueprint

        monkeypatch.setattr(Bus, "_listen", behind_it)

    @staticmethod
    async def _event() -> asyncio.Event:
        flows = asyncio.Event()
        flows.set()
        return flows

    def shut(self) -> None:
        PORTAL.run(self._do(self._flows.clear))

    def open(self) -> None:
        PORTAL.run(self._do(self._flows.set))

    @staticmethod
    async def _do(what: Callable[[], None]) -> None:
        what()


async def test_a_killed_connection_empties_the_near_tier_before_anything_is_proven_again(
    server: RedisServer,
    process: Process,
    tier_at: Callable[..., Awaitable[TieredBackend]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tier = await tier_at(lease=LONG)  # the proof of the beginning would last through all of this
    face = Face(tier, blocking=False)
    await face.store("old")
    held = threading.Event()
    connect, may_connect = tier.far._bus._blueprint.connection, asyncio.Event()
    bus_ = tier.far._bus

    async def later(address: Any, timeout: float) -> Any:
        held.set()
        await may_connect.wait()
        return await connect(address, timeout)

    bus_._blueprint = SimpleNamespace(connection=later, describe=lambda: "here")
    monkeypatch.setattr(bus, "_LONGEST_PAUSE", 0.0)
    # the pause after a loss is a quarter of a lease: a minute is too long to wait for
    bus_.lease = D
    server.cli("CLIENT", "KILL", "TYPE", "pubsub")
    await asyncio.to_thread(held.wait, 20)
    assert not tier._is_proven()
    writer = process()
    writer._backend._wait_out = lambda window: asyncio.sleep(0)
    await writer.end(await writer.begin())  # of which nobody is told
    assert await round_trips(tier) > 0
    bus_.lease = LONG
    PORTAL.loop.call_soon_threadsafe(may_connect.set)
    await until_proven(tier)
    assert bus_.incarnations == 2
    await face.expect_missing("stale")


@pytest.mark.parametrize("change", ["demoted", "another history"])
async def test_a_server_that_is_no_longer_the_same_primary_proves_nothing(
    tier_at: Callable[..., Awaitable[TieredBackend]],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    change: str,
) -> None:
    with RedisServer() as mine:
        valve = Valve(monkeypatch)
        tier = await tier_at(mine.url, lease=1.0)
        assert tier.far._bus.incarnations == 1
        await Face(tier, blocking=False).store("old")
        valve.shut()
        mine.cli("REPLICAOF", "127.0.0.1", 1)
        if change == "another history":
            mine.cli("REPLICAOF", "NO", "ONE")
        valve.open()
        await eventually(lambda: tier.far._bus.incarnations > 1, "it connects anew")
        assert tier._store.sizes()[0] == 0
        if change == "demoted":
            assert not tier._is_proven()
        else:
            assert "the server changed" in tier.far._bus.state()["last_error"]
            await until_proven(tier)
        await tier.close()


async def test_people_are_told_once_that_the_backplane_is_deaf(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    monkeypatch.setattr(bus, "_DEAF_AFTER", 0.0)
    monkeypatch.setattr(bus, "_LONGEST_PAUSE", 0.01)
    with RedisServer() as mine:
        far = RedisBackend(mine.url, coherence="lease", lease=D)
        attempts, lost = [0], [0]
        connect = far._links.blueprint.connection

        async def counted(*where: Any) -> Any:
            attempts[0] += 1
            return await connect(*where)

        def told_lost() -> None:
            lost[0] += 1

        heard = far.listen(lambda ids: None, told_lost)
        heard._blueprint = SimpleNamespace(connection=counted, describe=lambda: "here")  # type: ignore[assignment]
        await eventually(lambda: heard.alive, "proof")
        for times in (1, 2):
            with caplog.at_level(logging.WARNING, "agent_cache"):
                mine.kill()
                start = attempts[0]
                await eventually(lambda: attempts[0] > start + 5, "it tries again and again")  # noqa: B023 - used at once
            assert heard.deaf_alarms == times
            alarms = [record for record in caplog.records if "deaf" in record.getMessage()]
            assert len(alarms) == times
            assert not heard.alive
            mine.restart()
            await eventually(lambda: heard.alive, "proof again")
        assert lost[0] >= 4
        await far.close()
        assert not heard.alive


def test_a_forked_child_has_no_proof(server: RedisServer) -> None:
    program = textwrap.dedent("""
        import os, sys, time, warnings
        from agent_cache import MemoryBackend
        from agent_cache.backends.redis import RedisBackend
        from agent_cache.backends.tiered import TieredBackend

        warnings.simplefilter("ignore")  # of forking with threads: that is what is tested
        tier = TieredBackend(MemoryBackend(), RedisBackend(sys.argv[1], coherence="lease", lease=60))
        tier.sync.connect()
        until = time.monotonic() + 20
        while not tier._is_proven() and time.monotonic() < until:
            os.sched_yield()
        assert tier._is_proven()
        child = os.fork()
        if not child:
            unproven = not tier._is_proven() and tier.far._bus is None
            tier.sync.set("k", "from the child")  # on connections and a thread of its own
            os._exit(0 if unproven and tier.sync.get("k") == "from the child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert tier._is_proven()
        assert tier.sync.get("k") == "from the child"
        tier.sync.close()
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, server.url], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ writers wait


class Time:
    """The time of the backends: it passes in sleeps, which are counted, and where the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(backend, "uptime", lambda: self.now)
        monkeypatch.setattr(backend, "asyncio", SimpleNamespace(gather=asyncio.gather, sleep=self._sleep))

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


LEASED: dict[str, Any] = {"coherence": "lease", "lease": 10}


async def test_a_write_returns_no_earlier_than_a_lease_after_it_began(process: Process, time: Time) -> None:
    writer = process(**LEASED)
    window = await writer.begin()
    began = time.now
    assert time.slept == [], "the tool runs beside the wait"
    time.now += 4
    await writer.end(window)
    assert began + 10 < time.now < began + 10.5


async def test_a_long_write_does_not_wait(process: Process, time: Time) -> None:
    writer = process(**LEASED)
    window = await writer.begin()
    time.now += 10.2
    await writer.end(window)
    assert time.slept == []


async def test_an_invalidation_by_hand_waits(process: Process, time: Time) -> None:
    await process(**LEASED).move()
    assert sum(time.slept) >= 10


@pytest.mark.parametrize("found_by", ["renew", "end"])
async def test_a_write_whose_marker_was_lost_waits_from_when_that_was_found(
    server: RedisServer, process: Process, time: Time, found_by: str
) -> None:
    """What was stored while the marker was gone may have been copied near then, and is dropped only now."""
    writer = process(**LEASED)
    window = await writer.begin()
    time.now += 100
    server.cli("FLUSHALL")
    if found_by == "renew":
        await writer._backend._renew(window)
        time.now += 3
    await writer.end(window)
    assert sum(time.slept) == pytest.approx(10.1 - (3 if found_by == "renew" else 0))


async def test_wait_before_waits_before_the_tool_runs(process: Process, time: Time) -> None:
    writer = process(lease_wait="before", **LEASED)
    window = await writer.begin()
    assert sum(time.slept) >= 10
    time.slept.clear()
    await writer.end(window)
    assert time.slept == []


@pytest.mark.parametrize("wait", ["overlapped", "before"])
async def test_a_strict_writer_waits_for_readers_that_have_announced_a_lease(
    server: RedisServer, process: Process, time: Time, wait: str
) -> None:
    writer = process(lease_wait=wait)
    await writer.end(await writer.begin())
    assert time.slept == [], "nobody has"
    server.cli("SET", "ac:lease", "7.5")
    window = await writer.begin()
    await writer.end(window)
    assert sum(time.slept) == pytest.approx(7.5 * 1.01)
    await writer.move()
    assert sum(time.slept) == pytest.approx(15 * 1.01)


async def test_on_a_full_redis_a_strict_writer_waits_for_such_readers_too(process: Process, time: Time) -> None:
    with RedisServer(config={"maxmemory-policy": "noeviction"}) as own:
        writer = process(own.url)
        await writer.end(await writer.begin())
        own.cli("SET", "ac:lease", "7.5")
        own.cli("CONFIG", "SET", "maxmemory", "1")
        await writer.end(await writer.begin())
        assert sum(time.slept) == pytest.approx(7.5 * 1.01)
        await writer.move()
        assert sum(time.slept) == pytest.approx(15 * 1.01)


async def test_a_reader_announces_its_lease_before_it_relies_on_it(
    server: RedisServer, process: Process, tier_at: Callable[..., Awaitable[TieredBackend]], time: Time
) -> None:
    await tier_at(lease=LONG)
    assert float(server.cli("GET", "ac:lease")) == LONG
    assert server.cli("TTL", "ac:lease") > 0
    writer = process()
    await writer.move()
    assert sum(time.slept) >= LONG


async def test_nobody_waits_where_there_is_no_near_tier_with_a_lease(process: Process, time: Time) -> None:
    writer = process()
    await writer.end(await writer.begin(), unknown=True)
    await writer.move()
    assert time.slept == []
