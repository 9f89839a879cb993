"""Redis away, slow, full, forbidden: the tool runs, it is counted and said once, and afterwards nothing is stale."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    BackendError,
    ConfigurationError,
    UnstorableResultError,
    configure,
    get_metrics,
    reset_metrics,
)
from agent_cache.backends.redis import RedisBackend
from agent_cache.tags import write_tags
from agent_cache.testing.servers import ClusterSetup, RedisServer

BackendAt = Callable[..., RedisBackend]
Eventually = Callable[..., Awaitable[None]]
Puppets = Callable[[Callable[[list[bytes]], bytes | None]], Any]
INFO = b"role:master\r\nmaster_replid:" + b"ab" * 20


class World:
    """What the tools read and write; ``runs`` counts loads, ``wrote`` writes."""

    def __init__(self) -> None:
        self.state = self.runs = self.wrote = 0

        @AgentCache("cart")
        async def get() -> int:
            self.runs += 1
            return self.state

        @AgentCacheInvalidator("cart")
        async def put() -> None:
            self.wrote += 1
            self.state += 1

        self.get, self.put = get, put

    async def recovered(self) -> None:
        """Until a read is a hit; every answer on the way is of now."""
        async with asyncio.timeout(15):
            while True:
                assert await self.get() == self.state
                runs = self.runs
                assert await self.get() == self.state
                if self.runs == runs:
                    return
                await asyncio.sleep(0.01)


@pytest.fixture
def world() -> World:
    return World()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("agent_cache")]


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


# -- away -------------------------------------------------------------------------------------------------------------


async def test_redis_may_come_later(world: World, backend_at: BackendAt, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as own:
        url = own.url
        own.kill()
        configure(backend=backend_at(url))
        assert [await world.get() for _ in range(5)] == [0] * 5
        assert world.runs == 5
        assert get_metrics()["backend_errors"] >= 5
        assert get_metrics()["bypasses"] == 5
        assert len(said(caplog)) == 1
        own.start()
        await world.recovered()


async def test_redis_killed_and_restarted_empty_leaves_nothing_stale(
    world: World, backend_at: BackendAt, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as own:
        configure(backend=backend_at(own.url))
        await world.recovered()
        own.kill()
        world.state += 1  # somebody else writes
        assert await world.get() == await world.get() == world.state
        assert get_metrics()["backend_errors"] >= 2
        assert len(said(caplog)) == 1
        own.restart(keep_data=False)
        await world.recovered()


async def test_an_old_snapshot_brings_nothing_back(world: World, backend_at: BackendAt) -> None:
    with RedisServer() as own:
        configure(backend=backend_at(own.url))
        await world.recovered()
        snapshot = own.snapshot()
        await world.put()
        await world.recovered()
        own.restart(old_snapshot=snapshot)
        assert await world.get() == world.state
        await world.recovered()


async def test_each_outage_is_said_once(world: World, backend_at: BackendAt, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as own:
        configure(backend=backend_at(own.url))
        for outage in (1, 2):
            await world.recovered()
            own.kill()
            for _ in range(5):
                await world.get()
            assert len(said(caplog)) == outage
            own.restart()
        await world.recovered()


async def test_while_the_breaker_is_open_a_read_opens_no_connection(
    world: World, backend_at: BackendAt, tap_on: Callable[[int], Any]
) -> None:
    with RedisServer() as own:
        tapped = tap_on(own.port)
        backend = backend_at(tapped.url)
        configure(backend=backend)
        await world.recovered()
        own.kill()
        await world.get()
        assert backend._links.down
        opened = tapped.connections
        before = backend._links.round_trips
        for _ in range(200):
            await world.get()
        # the probe's own, and those few: it waits longer each time
        assert tapped.connections - opened < 10
        assert backend._links.round_trips - before < 10


async def test_nobody_asks_after_a_redis_whose_backend_was_closed(
    backend_at: BackendAt, eventually: Eventually
) -> None:
    with RedisServer() as own:
        backend = backend_at(own.url)
        await backend.set("a", 1)
        await backend.close()
        own.kill()
        with pytest.raises(BackendError):  # as what was still to be delivered when it was closed
            await backend.get("a")
        assert backend._links.down
        await eventually(lambda: not backend._links._probers, "it is looked for once, and no more")
        assert backend._links.down is None
        own.restart()
        assert await backend.get("a") is None, "usable again"


async def test_a_black_hole_is_waited_for_once(world: World, backend_at: BackendAt, puppet: Puppets) -> None:
    hole = puppet(lambda command: None)
    backend = backend_at(hole.url, connect_timeout=0.2, op_timeout=0.2)
    configure(backend=backend)
    assert [await world.get() for _ in range(20)] == [0] * 20
    assert backend._links.down
    assert hole.connections <= 5


async def test_a_server_that_stands_still_and_goes_on(world: World, backend_at: BackendAt) -> None:
    with RedisServer() as own:
        configure(backend=backend_at(own.url, op_timeout=0.1))
        await world.recovered()
        own.pause()
        try:
            world.state += 1
            assert await world.get() == world.state
        finally:
            own.resume()
        await world.put()
        await world.recovered()


async def test_a_connection_killed_between_calls_is_nobodys_business(
    world: World, server: RedisServer, backend_at: BackendAt, caplog: pytest.LogCaptureFixture
) -> None:
    configure(backend=backend_at())
    await world.recovered()
    for _ in range(3):
        server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        runs = world.runs
        assert await world.get() == world.state
        assert world.runs == runs, "a hit all the same"
        server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await world.put()
        server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await world.recovered()
    assert get_metrics()["backend_errors"] == 0
    assert said(caplog) == []


async def test_scripts_that_were_forgotten_are_sent_again(
    world: World, server: RedisServer, backend_at: BackendAt
) -> None:
    configure(backend=backend_at())
    await world.recovered()
    for _ in range(2):
        server.cli("SCRIPT", "FLUSH")
        await world.put()
        server.cli("SCRIPT", "FLUSH")
        await world.recovered()
    assert get_metrics()["backend_errors"] == 0


async def test_everything_flushed_is_a_miss(world: World, server: RedisServer, backend_at: BackendAt) -> None:
    configure(backend=backend_at())
    await world.recovered()
    server.cli("FLUSHALL")
    world.state += 1
    assert await world.get() == world.state
    await world.recovered()


async def test_a_tag_record_lost_while_a_write_runs_lets_nothing_stale_in(
    world: World, server: RedisServer, backend_at: BackendAt
) -> None:
    configure(backend=backend_at())
    reading, go_on = asyncio.Event(), asyncio.Event()

    @AgentCache("cart")
    async def slow() -> int:
        seen = world.state
        reading.set()
        await go_on.wait()
        return seen

    @AgentCacheInvalidator("cart")
    async def put() -> None:
        for key in server.cli("KEYS", "*}t:*"):
            server.cli("DEL", key)
        task = asyncio.create_task(slow())
        await reading.wait()
        world.state += 1
        tasks.append(task)

    tasks: list[asyncio.Task[int]] = []
    await put()
    go_on.set()
    assert await tasks[0] == 0
    assert await slow() == 1


# -- writes meanwhile ---------------------------------------------------------------------------------------------------


async def _look(_: int) -> int:
    return _STATE[0]


_STATE = [0]


async def test_an_invalidation_is_owed_and_delivered_and_others_see_it(
    world: World, backend_at: BackendAt, tap_on: Callable[[int], Any], server: RedisServer, eventually: Eventually
) -> None:
    from agent_cache.engine.outbox import OUTBOX

    # The writer's way to Redis is cut; the other process's is not.
    _STATE[0] = 0
    own = RedisServer().start()
    with own:
        mine, theirs = backend_at(own.url), backend_at(own.url)
        read_mine, read_theirs = (AgentCache("cart", backend=each)(_look) for each in (mine, theirs))
        assert await read_mine(1) == await read_theirs(1) == 0
        configure(backend=mine)
        mine._patience = 0.1  # two seconds, when nobody watches
        snapshot = own.snapshot()
        own.kill()

        @AgentCacheInvalidator("other", backend=mine)
        async def put() -> None:
            _STATE[0] = 1

        put_cart = AgentCacheInvalidator("cart", backend=mine)(put.__wrapped__)
        theirs._patience = 0.1
        await put_cart()
        assert _STATE == [1]
        assert OUTBOX.owed_to(mine)
        assert get_metrics()["backend_errors"] >= 1
        own.restart(old_snapshot=snapshot)
        await eventually(lambda: not OUTBOX.owed_to(mine), "the courier delivers")
        async with asyncio.timeout(10):
            while await read_theirs(1) != 1:
                await asyncio.sleep(0.01)
        assert await read_mine(1) == 1


async def test_what_is_owed_is_not_read_meanwhile(world: World, backend_at: BackendAt, puppet: Puppets) -> None:
    refusing = True

    def say(command: list[bytes]) -> bytes:
        name = command[0].upper()
        if name == b"INFO":
            return bulk(INFO)
        if name == b"MGET":
            return b"*%d\r\n" % (len(command) - 1) + b"$-1\r\n" * (len(command) - 1)
        if name in (b"EVALSHA", b"EVAL") and refusing:
            return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        return b"+OK\r\n"

    backend = backend_at(puppet(say).url)
    backend._patience = 0.1
    configure(backend=backend)
    await world.put()
    assert world.state == 1
    for _ in range(3):
        assert await world.get() == 1
    reasons = get_metrics()["reasons"]
    assert reasons["undelivered"] == 3


async def test_refused_writes_do_not_run(world: World, backend_at: BackendAt) -> None:
    with RedisServer() as own:
        backend = backend_at(own.url)
        backend._patience = 0.1
        configure(backend=backend, on_unavailable="refuse_writes")
        await world.recovered()
        own.kill()
        with pytest.raises(BackendError, match="was not run"):
            await world.put()
        assert (world.state, world.wrote) == (0, 0)
        assert await world.get() == 0
        own.restart()
        await world.recovered()
        await world.put()
        assert world.wrote == 1
        await world.recovered()


# -- not fit to be used -------------------------------------------------------------------------------------------------


async def _unfit(backend: RedisBackend, world: World, *words: str) -> str:
    """The tool runs, nothing is stored, and ``connect()`` says why in these words."""
    backend._patience = 0.1
    configure(backend=backend)
    runs = world.runs
    assert [await world.get() for _ in range(3)] == [world.state] * 3
    assert world.runs == runs + 3
    assert get_metrics()["backend_errors"] >= 3
    with pytest.raises(BackendError) as caught:
        await backend.connect()
    text = str(caught.value)
    for word in words:
        assert word in text
    return text


async def test_a_wrong_password(world: World, backend_at: BackendAt, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(password="right-hunter2") as own:
        caplog.set_level(logging.DEBUG)
        backend = backend_at(f"redis://someone:wrong-hunter2@127.0.0.1:{own.port}/0")
        backend._patience = 0.1
        configure(backend=backend)
        assert [await world.get() for _ in range(3)] == [0] * 3
        with pytest.raises(BackendError) as caught:
            await backend.connect()
        text = f"{caught.value} {caught.value!r} {backend!r} {backend} {backend.sync!r} {caplog.text}"
        await world.put()
        text += caplog.text + "".join(repr(vars(record)) for record in caplog.records)
        with pytest.raises(BackendError) as caught:
            await backend.stats()
        text += repr(caught.value)
        assert "hunter2" not in text
        assert "127.0.0.1" in text


async def test_no_password_is_shown_where_all_is_well(backend_at: BackendAt, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer(password="hunter2") as own:
        for backend in (backend_at(own.url), backend_at(host="127.0.0.1", port=own.port, password="hunter2")):
            await backend.set("a", 1)
            told = f"{backend!r} {backend.sync!r} {await backend.stats()} {backend._links.blueprint!r}"
            assert "hunter2" not in told
    assert "hunter2" not in caplog.text


async def test_a_server_that_is_too_old(world: World, backend_at: BackendAt, puppet: Puppets) -> None:
    old = puppet(lambda command: bulk(b"# Server\r\nredis_version:5.0.1\r\n") if command[0] == b"INFO" else b"+OK\r\n")
    await _unfit(backend_at(old.url), world, "5.0.1", "6.2 or later")


async def test_without_the_right_to_run_scripts(world: World, backend_at: BackendAt) -> None:
    with RedisServer(users={"app": "on >pw ~* &* +@all -@scripting"}) as own:
        backend = backend_at(own.url_for("app", "pw"))
        backend._patience = 0.1
        configure(backend=backend)
        assert [await world.get() for _ in range(3)] == [0] * 3
        assert world.runs == 3
        await world.put()
        assert world.wrote == 1
        assert await world.get() == 1
        assert get_metrics()["backend_errors"] >= 3


async def test_without_the_right_to_ask_for_the_epoch_nothing_is_cached(
    world: World, backend_at: BackendAt, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(users={"app": "on >pw ~* &* +@all -info"}) as own:
        url = own.url_for("app", "pw")
        await _unfit(backend_at(url), world, "INFO replication", "epoch=")
        assert "epoch=" in caplog.text
        await world.put()
        assert await world.get() == world.state
        assert not own.cli("KEYS", "*}e:*")
        configure(backend=backend_at(url, epoch="since the restore of May"))
        await world.recovered()
        await world.put()
        await world.recovered()
        configure(backend=backend_at(url, epoch="since the restore of June"))
        runs = world.runs
        await world.get()
        assert world.runs == runs + 1


async def test_a_replica_is_not_read_from(world: World, backend_at: BackendAt) -> None:
    with RedisServer() as primary, RedisServer() as replica:
        replica.cli("REPLICAOF", "127.0.0.1", primary.port)
        await _unfit(backend_at(replica.url), world, "no primary")
        await world.put()
        assert await world.get() == world.state


@pytest.mark.parametrize(
    "refusal",
    [
        "LOADING Redis is loading the dataset in memory",
        "MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist to disk.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "BUSY Redis is busy running a script.",
        "NOAUTH Authentication required.",
        "CLUSTERDOWN The cluster is down",
        "ERR something nobody has heard of",
    ],
    ids=lambda text: text.split()[0],
)
async def test_a_refusal_runs_the_tool_and_ends_with_it(
    refusal: str, world: World, backend_at: BackendAt, puppet: Puppets
) -> None:
    refusing = puppet(lambda command: bulk(INFO) if command[0] == b"INFO" else f"-{refusal}\r\n".encode())
    backend = backend_at(refusing.url)
    backend._patience = 0.1
    configure(backend=backend)
    for _ in range(3):
        assert await world.get() == world.state
    await world.put()
    assert world.wrote == 1
    assert await world.get() == 1
    metrics = get_metrics()
    assert metrics["hits"] == 0
    assert metrics["backend_errors"] >= 4


async def test_a_full_redis_runs_the_tool_and_is_used_again_when_there_is_room(
    world: World, backend_at: BackendAt
) -> None:
    with RedisServer(config={"maxmemory-policy": "noeviction"}) as own:
        backend = backend_at(own.url)
        backend._patience = 0.1
        configure(backend=backend)
        await world.recovered()
        own.cli("CONFIG", "SET", "maxmemory", "1")
        assert await world.get() == world.state
        await world.put()
        assert await world.get() == await world.get() == world.state
        assert get_metrics()["backend_errors"] >= 1
        own.cli("CONFIG", "SET", "maxmemory", "0")
        await world.recovered()


async def test_a_full_redis_is_told_of_once_and_stays_readable(
    backend_at: BackendAt, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent_cache")
    runs: list[str] = []

    @AgentCache("cart:{user}")
    async def get(user: str) -> str:
        runs.append(user)
        return user

    with RedisServer(config={"maxmemory-policy": "noeviction"}) as own:
        backend = backend_at(own.url)
        configure(backend=backend)
        await get("ann")
        own.cli("CONFIG", "SET", "maxmemory", "1")
        for _ in range(5):
            assert [await get(user) for user in ("bob", "ann", "cid")] == ["bob", "ann", "cid"]
        assert runs.count("ann") == 1, "what is there is served"
        assert backend._links.down is None
        own.cli("CONFIG", "SET", "maxmemory", "0")
        runs.clear()
        assert [await get("bob") for _ in range(3)] == ["bob"] * 3
        assert runs == ["bob"]
    told = [r.getMessage() for r in caplog.records if r.name == "agent_cache"]
    assert len(told) == 2, told
    assert told[0].startswith("the backend stores nothing now (Redis at ")
    assert "OutOfMemoryError" in told[0]
    assert told[0].endswith("results are returned and not stored")
    assert told[1].startswith("the backend stores results again")


async def test_a_redis_whose_disk_is_full_is_told_of_once_and_stays_readable(
    world: World, backend_at: BackendAt, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as own:
        backend = backend_at(own.url)
        configure(backend=backend)
        await world.recovered()
        own.cli("CONFIG", "SET", "save", "3600 1")
        (own.folder / "dump.rdb" / "in the way").mkdir(parents=True)
        own.cli("BGSAVE")
        await eventually(lambda: own.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        runs = world.runs
        for number in range(10):
            assert await world.get() == world.state
            await AgentCache(f"other{number}")(_look)(1)
            assert backend._links.down is None, "it answers: nobody is kept from asking"
        assert world.runs == runs
        told = said(caplog)
        assert len(told) == 1, told
        assert "MISCONF" in told[0]
        own.cli("CONFIG", "SET", "save", "")
        await world.put()
        await world.recovered()


async def test_a_value_that_redis_does_not_take_keeps_nobody_else_from_the_cache(
    world: World, backend_at: BackendAt, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(config={"proto-max-bulk-len": 1 << 20}) as own:
        backend = backend_at(own.url)
        configure(backend=backend)
        now = 0.0
        backend._sizes.clock = lambda: now
        await world.recovered()
        text = "x" * (2 << 20)

        @AgentCache("page")
        async def page(n: int) -> str:
            return text

        async def one_of_each(first: int) -> None:
            runs = world.runs
            for n in range(first, first + 5):
                assert await page(n) == text
                assert await world.get() == world.state
            assert world.runs == runs

        await page(0)  # Redis ends the connection over it, and that is remembered
        await world.recovered()
        reset_metrics()  # the answer may have been lost with the connection: then the breaker was open for a moment
        connections = int(own.info("stats")["total_connections_received"])
        await one_of_each(1)
        assert backend._links.down is None
        assert get_metrics()["reasons"]["too_large"] == 5
        assert get_metrics()["backend_errors"] == 0
        assert len([each for each in said(caplog) if "too_large" in each]) == 1
        more = int(own.info("stats")["total_connections_received"]) - connections
        assert more < 5, "it is not sent again: that would be two for each"
        own.cli("CONFIG", "SET", "proto-max-bulk-len", 512 << 20)
        now = 60.0
        await page(9)
        hits = get_metrics()["hits"]
        assert await page(9) == text
        assert get_metrics()["hits"] == hits + 1, "tried again after a while"


async def test_a_value_of_the_key_value_cache_that_redis_does_not_take(backend_at: BackendAt) -> None:
    with RedisServer(config={"proto-max-bulk-len": 1 << 20}) as own:
        backend = backend_at(own.url)
        await backend.set("small", 1)
        for _ in range(3):
            with pytest.raises(UnstorableResultError, match="too_large"):
                await backend.set("large", "x" * (2 << 20))
            assert await backend.get("small") == 1
        assert backend._links.down is None


async def test_a_connection_that_is_lost_in_time_of_trouble_says_nothing_of_sizes(backend_at: BackendAt) -> None:
    with RedisServer() as own:
        backend = backend_at(own.url)
        text = "x" * (1 << 20)
        await backend.set("a", text)
        own.kill()
        with pytest.raises(BackendError):
            await backend.set("a", text)
        own.restart()
        async with asyncio.timeout(10):
            while backend._links.down:
                await asyncio.sleep(0.01)
        await backend.set("a", text)


async def test_a_server_that_cannot_save_is_used_again_when_it_can(world: World, backend_at: BackendAt) -> None:
    with RedisServer() as own:
        backend = backend_at(own.url)
        backend._patience = 0.1
        configure(backend=backend)
        await world.recovered()
        own.cli("CONFIG", "SET", "min-replicas-to-write", "1")  # NOREPLICAS, of the same kind
        await world.put()
        assert await world.get() == await world.get() == world.state
        own.cli("CONFIG", "SET", "min-replicas-to-write", "0")
        await world.recovered()


@pytest.mark.parametrize("reply", [b"*-5\r\n", b"nonsense\r\n", b"$5\r\nab", b":1\r\n", b"*0\r\n", b"\x00"])
async def test_replies_that_make_no_sense_run_the_tool(
    reply: bytes, world: World, backend_at: BackendAt, puppet: Puppets
) -> None:
    odd = puppet(lambda command: bulk(INFO) if command[0] == b"INFO" else reply)
    backend = backend_at(odd.url, op_timeout=0.1, connect_timeout=0.2)
    backend._patience = 0.1
    configure(backend=backend)
    async with asyncio.timeout(5):
        assert [await world.get() for _ in range(3)] == [0] * 3
        await world.put()
        assert await world.get() == 1


async def test_a_window_is_not_opened_by_a_reply_that_makes_no_sense(backend_at: BackendAt, puppet: Puppets) -> None:
    odd = puppet(lambda command: bulk(INFO) if command[0] == b"INFO" else b"+OK\r\n")
    backend = backend_at(odd.url)
    backend._patience = 0.1
    async with asyncio.timeout(3):
        with pytest.raises(BackendError):
            await backend.begin(write_tags([("cart",)], ()), "put")


async def test_a_server_that_falls_silent_once_connected_is_not_waited_for(
    world: World, backend_at: BackendAt, puppet: Puppets
) -> None:
    silent = puppet(lambda command: None if command[0] == b"INFO" else b"+OK\r\n")
    configure(backend=backend_at(silent.url, op_timeout=0.1, connect_timeout=0.2))
    async with asyncio.timeout(3):
        assert await world.get() == 0


async def test_connecting_may_take_as_long_as_connect_timeout_says(server: RedisServer, backend_at: BackendAt) -> None:
    backend = backend_at(connect_timeout=5, op_timeout=5)
    with server.connect() as wire:
        wire.call("CLIENT", "PAUSE", 300, "ALL")
        await backend.connect()


async def test_a_server_that_is_no_cluster_says_so(server: RedisServer, world: World, backend_at: BackendAt) -> None:
    backend = backend_at(f"redis+cluster://127.0.0.1:{server.port}")
    await _unfit(backend, world, "no Cluster", "redis://")


async def test_a_node_of_a_cluster_that_is_away(world: World, backend_at: BackendAt) -> None:
    with ClusterSetup() as own:
        backend = backend_at(own.url)
        backend._patience = 0.1
        configure(backend=backend)
        await world.recovered()
        key = next(key for node in own.nodes for key in node.cli("KEYS", "*}e:*"))
        node = own.node_for(key)
        node.kill()
        assert await world.get() == world.state
        await world.put()
        assert await world.get() == world.state
        node.start()
        own.await_healthy()
        await world.recovered()


async def test_a_value_cannot_be_set_while_redis_is_away(backend_at: BackendAt, puppet: Puppets) -> None:
    backend = backend_at("redis://127.0.0.1:1/0", connect_timeout=0.2)
    backend._patience = 0.1
    for call in (backend.get("a"), backend.set("a", 1), backend.delete("a"), backend.count(), backend.clear()):
        with pytest.raises(BackendError, match=r"127\.0\.0\.1:1"):
            await call


async def test_a_configuration_error_is_not_an_outage() -> None:
    with pytest.raises(ConfigurationError):
        configure(backend="redis://127.0.0.1:no-port/0")
