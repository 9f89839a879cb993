"""What reviews of the backend on Redis found, each as a test: the order of events is set by the tests, not by luck."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.crc import key_slot

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    BackendError,
    ConfigurationError,
    MemoryBackend,
    configure,
    get_metrics,
)
from agent_cache.backends import tiered
from agent_cache.backends.base import Found, Missing, NewEntry, Taken
from agent_cache.backends.portal import PORTAL
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.redis import scripts as lua
from agent_cache.backends.redis.backend import Lead
from agent_cache.backends.redis.keeper import Keeper
from agent_cache.backends.redis.links import Links
from agent_cache.backends.tiered import TieredBackend
from agent_cache.codecs import codec_for
from agent_cache.config import backend_from_url, settings
from agent_cache.engine.effects import FLIGHTS
from agent_cache.engine.outbox import OUTBOX
from agent_cache.flight import TaskFlight
from agent_cache.tags import read_tags, write_tags
from agent_cache.testing import FakeClock
from agent_cache.testing.contract import _Face as Face
from agent_cache.testing.proxy import FaultProxy
from agent_cache.testing.servers import SLOTS, ClusterSetup, RedisServer

Process = Any
Eventually = Callable[..., Awaitable[None]]
KEY = b"key-of-cart-42"
CODEC = codec_for(Any)
CART = read_tags([("cart", "42")], ())
WRITE_CART = write_tags([("cart", "42")], ())


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", server.port) as between:
        yield between


class Gate:
    """Stops one script of one backend: before it is sent, or its answer on the way back."""

    def __init__(self, backend: RedisBackend, script: Any, *, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._opened = asyncio.Event(), asyncio.Event()
        self._here = asyncio.get_running_loop()
        links, ask = backend._links, Links._ask

        async def gated(slot: bytes, commands: Any, wants_epoch: bool) -> Any:
            mine = commands[0][0] is script
            if mine and not answer:
                await self._stop()
            replies = await ask(links, slot, commands, wants_epoch)
            if mine and answer:
                await self._stop()
            return replies

        monkeypatch.setattr(links, "_ask", gated)

    async def _stop(self) -> None:
        self._here.call_soon_threadsafe(self.reached.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._opened.wait(), self._here))

    def open(self) -> None:
        self._opened.set()


@asynccontextmanager
async def tier_at(url: str, **how: Any) -> AsyncIterator[TieredBackend]:
    tier = TieredBackend(MemoryBackend(), RedisBackend(url, coherence="lease", **how))
    try:
        yield tier
    finally:
        await tier.close()


def written(value: object, lead: Any = None, ttl: float | None = None) -> NewEntry:
    return NewEntry(KEY, CODEC.freeze(value), ttl, 0.5, "carts", None, (), lead)


async def quiet(rounds: int = 20) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)


# -- the bus ----------------------------------------------------------------------------------------------------------


async def test_what_came_near_before_the_subscription_stands_is_dropped_when_it_does(
    proxy: FaultProxy, process: Process, eventually: Eventually
) -> None:
    reader, writer = process(), process()
    await reader.store("old")
    proxy.stall("to_server", only=lambda connection: b"SUBSCRIBE" in connection.first_bytes)
    async with tier_at(proxy.url, lease=20.0) as tier:
        face = Face(tier, blocking=False)
        await tier.connect()
        bus = tier.far._bus
        await eventually(lambda: bus.incarnations and proxy.held_to_server, "it is connected and not heard of yet")
        await face.expect_value("old")
        assert (await tier.stats())["near"]["entries"] == 1, "it is kept near though nothing is proven"
        assert not tier._is_proven()
        await writer.end(await writer.begin())  # of which nobody is told; nobody has announced a lease
        proxy.resume()
        await eventually(tier._is_proven, "the subscription stands")
        assert bus.incarnations == 1
        await face.expect_missing("stale")


async def test_a_subscription_that_is_renewed_by_a_beat_drops_nothing(
    server: RedisServer, eventually: Eventually
) -> None:
    async with tier_at(server.url, lease=0.4) as tier:
        face = Face(tier, blocking=False)
        await tier.connect()
        await eventually(tier._is_proven, "the subscription stands")
        await face.store("kept")
        proven = tier.far._bus.proven
        await eventually(lambda: tier.far._bus.proven > proven, "another beat")
        assert (await tier.stats())["near"]["entries"] == 1


# -- windows and leads that end while something of theirs is on its way -----------------------------------------------


async def test_a_renewal_that_arrives_after_the_end_leaves_no_marker(
    server: RedisServer, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = process(), process()
    window = await writer.begin()
    gate = Gate(writer._backend, lua.RENEW, answer=False, monkeypatch=monkeypatch)
    renewal = asyncio.create_task(writer._backend._renew(window))
    await gate.reached.wait()
    await writer.end(window)
    await reader.store("stored before the renewal arrived")
    gate.open()
    await renewal
    await reader.expect_missing("stale")  # the renewal found its marker gone: it cannot know why
    await reader.store("new")
    await reader.expect_value("new")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # nobody can close that loop's connection
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_write_whose_loop_was_closed_under_it_is_ended_and_not_renewed(
    server: RedisServer, new_prefix: Callable[[], str]
) -> None:
    backend = RedisBackend(server.url, prefix=new_prefix(), settle=0)
    running: list[int] = []

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put_cart(user: int) -> None:
        running.append(user)
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(put_cart(42))
    while not running:
        loop.run_until_complete(asyncio.sleep(0.001))
    (window,) = backend._keeper._kept.values()
    task._log_destroy_pending = False
    loop.close()
    task = None
    gc.collect()
    assert window.closed
    assert not list(backend._keeper._kept.values())

    async def until_free() -> None:
        async with asyncio.timeout(20):  # the marker's own lease is 30 s
            while not isinstance(await backend.lookup(KEY, CART, CODEC), Missing):
                await asyncio.sleep(0.01)
        await backend.close()
        gc.collect()

    asyncio.run(until_free())


async def test_a_window_nobody_holds_any_more_is_not_renewed(process: Process, eventually: Eventually) -> None:
    writer = process()
    keeper = writer._backend._keeper
    window = await writer.begin()
    await eventually(lambda: keeper._wake is not None and keeper._wake._waiters, "the keeper has seen it and sleeps")
    assert window in list(keeper._kept.values())
    del window
    gc.collect()
    assert not list(keeper._kept.values())


async def test_an_abandoned_window_settles_and_then_blocks_nobody(process: Process, eventually: Eventually) -> None:
    reader, writer = process(), process(settle=5)
    await reader.store("old")
    window = await writer.begin()
    sent = writer._backend._links.round_trips
    writer._backend.abandon(window)
    writer._backend.abandon(window)
    assert window.closed
    await eventually(lambda: writer._backend._links.round_trips > sent, "it is told without waiting")
    await reader.expect_blocked()
    await process.let_pass(6)
    await reader.expect_missing("stale")


async def test_a_lead_that_is_granted_to_a_caller_who_has_left_is_given_back(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = process(), process()
    token = await here.token()
    gate = Gate(here._backend, lua.LEAD, answer=True, monkeypatch=monkeypatch)
    asking = asyncio.create_task(here._backend.lead(KEY, CART, token))
    await gate.reached.wait()
    assert isinstance(await there._backend.lead(KEY, CART, await there.token()), Taken), "it was granted"
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(2):  # its lease is 3 s
        while isinstance(lead := await there._backend.lead(KEY, CART, await there.token()), Taken):
            await asyncio.sleep(0.005)
    assert isinstance(lead, Lead)
    assert await there.fill(await there.token(), "loaded", lead=lead)


class Kept:
    def __init__(self, every: float) -> None:
        self.every, self.due = every, 0.0


async def test_what_has_a_short_lease_is_renewed_though_the_keeper_sleeps_for_a_long_one(
    eventually: Eventually,
) -> None:
    renewed: list[Any] = []

    async def renew(kept: Any) -> None:
        renewed.append(kept)

    keeper = Keeper(renew)
    long, short = Kept(3600), Kept(0.01)
    keeper.keep(long)
    await eventually(lambda: keeper._wake is not None and keeper._wake._waiters, "it sleeps until the long one is due")
    keeper.keep(short)
    async with asyncio.timeout(5):
        await eventually(lambda: short in renewed, "it woke")
    assert long not in renewed
    for kept in (long, short):
        keeper.drop(kept)
    assert keeper._wake is not None
    PORTAL.loop.call_soon_threadsafe(keeper._wake.set)
    await eventually(lambda: not keeper._running, "it ends when nothing is left")


# -- a full Redis -----------------------------------------------------------------------------------------------------


@pytest.fixture
def full() -> Iterator[Callable[[bool], RedisServer]]:
    """``full(True)``: it takes nothing more; ``full(False)``: it does again."""
    with RedisServer(config={"maxmemory-policy": "noeviction"}) as own:

        def fill(is_full: bool) -> RedisServer:
            own.cli("CONFIG", "SET", "maxmemory", "1" if is_full else "0")
            return own

        yield fill


@pytest.mark.parametrize("opened", ["before it was full", "when it was full"])
async def test_a_write_drops_for_everyone_what_a_full_redis_holds(
    opened: str, full: Callable[[bool], RedisServer], process: Process
) -> None:
    own = full(False)
    here, there = process(own.url), process(own.url)
    ran: list[int] = []

    @AgentCacheInvalidator("cart:{user}", backend=here._backend)
    async def put_cart(user: int) -> None:
        if opened.startswith("before"):
            full(True)
        ran.append(user)

    await there.store("old")
    token = await there.token()
    if opened.startswith("when"):
        full(True)
    await put_cart(42)
    assert ran == [42]
    assert not OUTBOX, "it was told"
    assert get_metrics()["backend_errors"] == 0
    with pytest.raises(BackendError):  # no entry, and no room for a new tag
        await there.lookup()
    full(False)
    assert isinstance(await there.lookup(), Missing)
    assert not await there.fill(token, "old")
    await there.store("new")
    await there.expect_value("new")


async def test_an_invalidation_by_hand_drops_for_everyone_what_a_full_redis_holds(
    full: Callable[[bool], RedisServer], process: Process
) -> None:
    own = full(False)
    here, there = process(own.url), process(own.url)
    await there.store("old")
    await there.store("beside", read_tags([("cart", "43")], ()), key=b"beside")
    full(True)
    await here.move()
    await there.expect_value("beside", read_tags([("cart", "43")], ()), b"beside")
    full(False)
    assert isinstance(await there.lookup(), Missing)


# -- how long a copy is kept near -------------------------------------------------------------------------------------


class Ear:
    """A backplane that proves everything."""

    proven, lease, closed = 1e18, 1.0, False


@pytest.mark.parametrize("ttl", [None, 10_000.0])
@pytest.mark.parametrize("came", ["loaded", "fetched"])
async def test_a_near_copy_lives_no_longer_than_max_ttl(ttl: float | None, came: str, process: Process) -> None:
    clock = FakeClock()
    far = process(max_ttl=100, coherence="lease", lease=10)._backend
    far.listen = lambda heard, lost: Ear()
    face = Face(TieredBackend(MemoryBackend(clock=clock), far), blocking=False)
    other = process(max_ttl=100)
    far._wait_out = other._backend._wait_out = lambda window: asyncio.sleep(0)
    await (face if came == "loaded" else other).store("value", ttl=ttl)
    await face.expect_value("value")

    async def asked() -> int:
        before = far._links.round_trips
        await face.lookup()
        return int(far._links.round_trips - before)

    clock.advance(99)
    assert await asked() == 0
    clock.advance(2)
    assert await asked() > 0


class Copies(MemoryBackend):
    """What keeps copies, and the ttl each was given."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.ttls: list[float | None] = []
        self.values: list[Any] = []

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self.ttls.append(ttl)
        self.values.append(value)
        await super().set(key, value, ttl)


@pytest.mark.parametrize("ttl", [None, 10_000.0])
async def test_a_copy_that_outlives_the_process_lives_no_longer_than_max_ttl(
    ttl: float | None, process: Process, eventually: Eventually
) -> None:
    clock = FakeClock()
    copies = Copies(clock)
    far = process(max_ttl=100)._backend
    face = Face(TieredBackend(MemoryBackend(clock=clock), far, keep=copies), blocking=False)
    await face.store("value", ttl=ttl)
    await eventually(lambda: copies.ttls, "it is kept")
    clock.advance(101)
    assert await copies.count() == 0


async def test_a_copy_that_outlives_the_process_is_as_old_as_its_entry(
    process: Process, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the event loop was busy before it was written."""
    clock = FakeClock(1000.0)
    monkeypatch.setattr(tiered.time, "time", clock)
    copies = Copies(clock)
    tier = TieredBackend(MemoryBackend(clock=clock), process()._backend, keep=copies)
    token = await Face(tier, blocking=False).token()
    assert await tier.fill(token, written("value", ttl=10))
    clock.advance(5)
    await eventually(lambda: copies.ttls, "it is kept")
    assert copies.values[0][2] == 1010.0
    assert copies.ttls[0] is not None
    assert copies.ttls[0] <= 5


# -- a Cluster --------------------------------------------------------------------------------------------------------


def nodes_of(own: ClusterSetup, backend: RedisBackend, tags: Any) -> set[int]:
    """The numbers of the nodes that a read under these tags asks; the home of everything's tag is one of them."""
    numbers = [key_slot(group.slot) for group in backend._plan(tags).groups]
    return {number * len(own.nodes) // SLOTS for number in numbers}


async def test_one_dead_shard_does_not_switch_the_others_off(process: Process, eventually: Eventually) -> None:
    with ClusterSetup(config={"cluster-require-full-coverage": "no"}) as own:
        face = process(own.url, connect_timeout=0.5)
        backend = face._backend
        backend._patience = 0.1
        await backend.connect()
        (root,) = nodes_of(own, backend, [("all", (), ())])
        dead = (root + 1) % 3
        names = [f"res{number}" for number in range(40)]
        where = {name: nodes_of(own, backend, read_tags([(name,)], ())) for name in names}
        well = [name for name in names if dead not in where[name]][:4]
        ill = next(name for name in names if dead in where[name])
        for name in (*well, ill):
            await face.store(name, read_tags([(name,)], ()), key=name.encode())
        own.nodes[dead].kill()
        with pytest.raises(BackendError):
            await face.lookup(read_tags([(ill,)], ()), ill.encode())
        assert [address for address in backend._links._down if address] == [("127.0.0.1", own.nodes[dead].port)]
        for name in well:
            tags = read_tags([(name,)], ())
            await face.expect_value(name, tags, name.encode())
            await face.end(await face.begin(write_tags([(name,)], ())))
            await face.store("again", tags, key=name.encode())
            await face.expect_value("again", tags, name.encode())
        assert len(backend._links._down) == 1
        own.nodes[dead].start()
        own.await_healthy()
        await eventually(lambda: not backend._links._down, "the probe finds it well")
        assert isinstance(await face.lookup(read_tags([(ill,)], ()), ill.encode()), Missing)


async def test_a_slot_that_is_moving_opens_no_breaker(cluster: ClusterSetup, process: Process) -> None:
    face = process(cluster.url)
    backend = face._backend
    await face.store("here")
    slot = cluster.slot(b"{" + backend._plan(CART).home + b"}")
    old = cluster.node_of_slot(slot)
    new = next(node for node in cluster.nodes if node is not old)
    asked: list[str] = []
    cluster.begin_move(slot, new)
    try:
        # of the keys asked for together some are there and some are not: TRYAGAIN; none is: ASK
        for tags, key in ((CART, b"another call"), (read_tags([("cart", "nobody's")], ()), b"nobody's")):
            with pytest.raises(BackendError) as caught:
                await face.lookup(tags, key)
            asked.append(str(caught.value))
            assert backend._links.down is None
        await face.expect_value("here")
    finally:
        cluster.finish_move(slot, new)
    try:
        await face.expect_missing("stale")  # another server answers now
        await face.store("there")
        await face.expect_value("there")
        assert backend._links.down is None
        assert any("TryAgain" in text or "Ask" in text for text in asked)
    finally:
        cluster.begin_move(slot, old)
        cluster.finish_move(slot, old)


# -- the breaker, and what is not its business ------------------------------------------------------------------------


async def test_closing_under_reads_opens_no_breaker(
    proxy: FaultProxy, process: Process, eventually: Eventually
) -> None:
    face = process(proxy.url, op_timeout=30)
    backend = face._backend
    await face.store("value")
    proxy.stall("to_client")
    reads = [asyncio.create_task(face.lookup()) for _ in range(5)]
    await eventually(lambda: proxy.held_to_client, "Redis has answered, and nobody has heard it")
    await backend.close()
    for outcome in await asyncio.gather(*reads, return_exceptions=True):
        assert isinstance(outcome, BackendError)
    assert backend._links.down is None
    assert not backend._links._probers
    proxy.resume()
    await face.expect_value("value")


async def test_sentinels_that_are_away_cost_no_more_than_connect_timeout(process: Process) -> None:
    face = process("redis+sentinel://127.0.0.1:1,127.0.0.1:2/name/0", connect_timeout=0.2)
    async with asyncio.timeout(2):
        with pytest.raises(BackendError):
            await face.lookup()


# -- a fork -----------------------------------------------------------------------------------------------------------

FORK = """
import asyncio, gc, os, sys
import redis.asyncio
from agent_cache.backends.redis import RedisBackend

class Own(redis.asyncio.Connection):
    async def read_response(self, *args, **how):
        return await super().read_response(*args, **how)

kind = {"redis-py's": redis.asyncio.Connection, "its own": Own}[sys.argv[3]]
pool = redis.asyncio.ConnectionPool.from_url(sys.argv[1], connection_class=kind)
backend = RedisBackend(client=redis.asyncio.Redis(connection_pool=pool), op_timeout=2.0)

async def connection():
    return (await backend._links.ask(b"", [("CLIENT", "ID")])).values[0]

def no_watch_holds_it():
    for wires in list(backend._links._loops.values()):
        for wire in wires.by_address.values():
            if wire._watch is not None:
                wire._watch.cancel()
                wire._watch = None

def child(loop=None):
    no_watch_holds_it()  # as when nothing has been asked for a while
    pid = os.fork()
    if pid == 0:
        try:
            if loop is not None:
                del loop
            gc.collect()
            if sys.argv[2] == "asks":
                backend.sync.set("k", 1)
                backend.sync.close()
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

from agent_cache.backends.portal import PORTAL
before = PORTAL.run(connection())
child()
assert PORTAL.run(connection()) == before, "the portal's connection"

async def here():
    before = await connection()
    await asyncio.to_thread(int)
    child()
    assert await connection() == before, "the connection of a loop that runs"
    assert backend._links.down is None

asyncio.run(here())
print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("does", ["nothing", "asks"])
@pytest.mark.parametrize("kind", ["redis-py's", "its own"])
def test_what_a_child_collects_is_not_closed_for_its_parent(does: str, kind: str, server: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK), server.url, does, kind],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "ok", done.stderr


# -- passwords --------------------------------------------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/0?password=hunter2&no_such_option=1",
        "redis://h/0?password=hunter2&near=x",
        "redis://h/0?password=hunter2&near=-1",
        "redis://h/0?password=hunter2&coherence=eventual",
        "redis://h/0?password=hunter2&prefix={}",
        "redis://h/zero?password=hunter2",
        "redis://h:port/0?password=hunter2",
        "redis://h:99999999/0?password=hunter2",
        "redis://[h/0?password=hunter2",
        "redis://h/0?PASSWORD=hunter2",
        "redis://h/0?hunter2",
        "redis://h/0#password=hunter2",
        "rediss://h/0?password=hunter2&ssl_cert_reqs=hunter2",
        "unix:///tmp/x.sock?password=hunter2&db=zero",
        "unix://u:hunter2@/tmp/x.sock?no_such_option=1",
        "redis+cluster://h:1,h:2?password=hunter2&no_such_option=1",
        "redis+cluster://h:1,:hunter2@h:2/1",
        "redis+cluster://h/1?password=hunter2",
        "redis+sentinel://h?password=hunter2",
        "redis+sentinel://h/name/zero?sentinel_password=hunter2",
        "redis+sentinel://h/name?sentinel_password=hunter2&no_such_option=1",
        "redis+nonsense://h?password=hunter2",
        "redis+nonsense://u:hunter2@h",
        "postgres://u:hunter2@h/db",
        "postgres://h/db?password=hunter2",
        "u:hunter2@h:6379",
        ":hunter2@h",
        "h:6379?password=hunter2",
        "//u:hunter2@h",
        "redis:/u:hunter2@h",
        "redis:u:hunter2@h",
        "memory://u:hunter2@h?max_size=many",
        "memory://?password=hunter2",
        "disk:///tmp/x.db?max_bytes=many&password=hunter2",
        "disk://?password=hunter2",
        " redis://u:hunter2@h:port",
    ],
)
@pytest.mark.parametrize("by", ["backend_from_url", "configure", "environment"])
def test_no_url_however_wrong_shows_its_password(url: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_CACHE_URL", url)
    made: Any = None
    error: BaseException | None = None
    try:
        if by == "backend_from_url":
            made = backend_from_url(url)
        else:
            if by == "configure":
                configure(backend=url)
            made = settings.default_backend()
    except ConfigurationError as refused:
        error = refused
    assert SECRET not in repr(made)
    assert made is not None or error is not None
    while error is not None:
        assert SECRET not in f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=hunter2",
        "redis+cluster://:hunter2@127.0.0.1:1",
        "redis+cluster://127.0.0.1:1?password=hunter2",
        "redis+sentinel://:hunter2@127.0.0.1:1/name/0?sentinel_password=hunter2",
        "unix:///nowhere/redis.sock?password=hunter2",
    ],
)
async def test_no_error_of_a_redis_that_is_away_shows_its_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    backend = backend_from_url(url)
    with pytest.raises(BackendError) as caught:
        await backend.connect()  # type: ignore[attr-defined]
    findings = await backend.doctor()  # type: ignore[attr-defined]
    await backend.close()  # type: ignore[attr-defined]
    shown = f"{caught.value!r} {backend!r} {findings!r} {caplog.text} {caught.value.__cause__!r}"
    assert SECRET not in shown


# -- while Redis is away ----------------------------------------------------------------------------------------------


async def test_while_redis_is_away_a_read_joins_no_load_that_began_before_it_was_called(eventually: Eventually) -> None:
    backend = RedisBackend("redis://127.0.0.1:1", connect_timeout=0.5)
    source = "old"
    runs: list[str] = []
    loading, gate = asyncio.Event(), asyncio.Event()

    @AgentCache("cart", backend=backend)
    async def get() -> str:
        seen = source
        runs.append(seen)
        if len(runs) == 1:
            loading.set()
            await gate.wait()
        return seen

    first = asyncio.create_task(get())
    await loading.wait()
    source = "new"  # by another process
    second, third = asyncio.create_task(get()), asyncio.create_task(get())
    flights = [flight for flight in _flights() if isinstance(flight, TaskFlight)]
    assert len(flights) == 1
    await eventually(lambda: len(flights[0]._watchers) + len(flights[0]._riders) >= 3 or len(runs) > 1, "both wait")
    await quiet()
    gate.set()
    assert await first == "old"
    assert await second == await third == "new"
    assert runs == ["old", "new"], "those who came before a load began share it"
    await backend.close()


def _flights() -> list[Any]:
    return [
        flight
        for flight in gc.get_objects()
        if isinstance(flight, TaskFlight) and flight.table is FLIGHTS and not flight.landed
    ]


def test_while_redis_is_away_a_thread_joins_no_load_that_began_before_it_was_called() -> None:
    backend = RedisBackend("redis://127.0.0.1:1", connect_timeout=0.5)
    source = "old"
    runs: list[str] = []
    loading, gate = threading.Event(), threading.Event()

    @AgentCache("cart", backend=backend)
    def get() -> str:
        seen = source
        runs.append(seen)
        if len(runs) == 1:
            loading.set()
            assert gate.wait(20)
        return seen

    answers: dict[str, str] = {}
    first = threading.Thread(target=lambda: answers.update(first=get()))
    first.start()
    assert loading.wait(20)
    source = "new"
    errors = get_metrics()["backend_errors"]
    second = threading.Thread(target=lambda: answers.update(second=get()))
    second.start()
    patience = threading.Event()
    for _ in range(2000):
        if get_metrics()["backend_errors"] > errors:
            break
        patience.wait(0.005)
    gate.set()
    first.join(20)
    second.join(20)
    assert answers == {"first": "old", "second": "new"}
    backend.sync.close()


async def test_while_redis_is_away_those_who_come_together_share_one_load() -> None:
    backend = RedisBackend("redis://127.0.0.1:1", connect_timeout=0.5)
    with pytest.raises(BackendError):
        await backend.lookup(KEY, CART, CODEC)
    assert backend._links.down
    runs: list[int] = []

    @AgentCache("cart", backend=backend)
    async def get() -> int:
        runs.append(1)
        await quiet()
        return len(runs)

    answers = await asyncio.gather(*(get() for _ in range(50)))
    assert len(runs) <= 2
    assert set(answers) <= {1, 2}
    found = await asyncio.gather(backend.lookup(KEY, CART, CODEC), return_exceptions=True)
    assert not isinstance(found[0], Found)
    await backend.close()
