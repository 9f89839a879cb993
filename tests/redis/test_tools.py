"""Tools over Redis, through the public door: however the backend is named, wherever the tool runs, whatever it returns."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import os
import pathlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import redis.asyncio
import redis.asyncio.sentinel

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    MemoryBackend,
    configure,
    get_metrics,
)
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.tiered import TieredBackend
from agent_cache.testing.servers import ClusterSetup, RedisServer, SentinelSetup, TlsUnavailableError

BackendAt = Callable[..., RedisBackend]
Run = Callable[..., str]
ROOT = pathlib.Path(__file__).parents[2]

# The fewest rights with which everything works: tools, the key-value cache, a near tier in lease mode. "app:" stands for
# the prefix. INFO gives the epoch (without it: epoch=...), SCAN serves clear(), keys() and count() only, the channel and
# SUBSCRIBE are the backplane's. On a Cluster also +cluster|slots.
MINIMAL_ACL = (
    "on >secret resetkeys resetchannels ~app:* &app:bus nocommands "
    "+mget +get +set +del +unlink +exists +pttl +pexpire +getrange +time +publish +subscribe +eval +evalsha +info +ping "
    "+scan +hello"
)


class Counted:
    """A read and a write of one resource; ``runs`` counts loads."""

    def __init__(self, **where: Any) -> None:
        self.runs = 0
        self.state = 0

        @AgentCache("cart:{user}", **where)
        async def get(user: str) -> dict[str, Any]:
            self.runs += 1
            return {"user": user, "state": self.state}

        @AgentCacheInvalidator("cart:{user}")
        async def put(user: str) -> None:
            self.state += 1

        self.get, self.put = get, put

    async def works(self) -> None:
        """It serves a hit, and what was written is seen."""
        await self.put("u")
        runs, state = self.runs, self.state
        assert await self.get("u") == await self.get("u") == {"user": "u", "state": state}
        assert self.runs == runs + 1
        await self.put("u")
        assert await self.get("u") == await self.get("u") == {"user": "u", "state": state + 1}
        assert self.runs == runs + 2


_RUNS: list[str] = []


async def _look(user: str) -> str:
    _RUNS.append(user)
    return f"seen by {len(_RUNS)}"


def of_a_process(**where: Any) -> Any:
    """A tool as another process has it: the same one, with nothing of this one's in common."""
    return AgentCache("look:{user}", **where)(_look)


def entries(server: RedisServer, prefix: bytes = b"ac:", db: int = 0) -> list[bytes]:
    with server.connect() as wire:
        wire.call("SELECT", db)
        return [key for key in wire.call("KEYS", "*") if key.startswith(prefix) and b"}e:" in key]


# -- how the backend is named -----------------------------------------------------------------------------------------


async def test_by_the_decorators_backend(server: RedisServer, backend_at: BackendAt) -> None:
    await Counted(backend=backend_at()).works()
    assert entries(server)


async def test_as_the_far_tier_of_a_decorator(server: RedisServer, backend_at: BackendAt) -> None:
    await Counted(remote_cache=backend_at()).works()
    assert entries(server)


async def test_a_far_tier_is_shared_by_processes_that_share_nothing_else(backend_at: BackendAt) -> None:
    mine, theirs = of_a_process(remote_cache=backend_at()), of_a_process(remote_cache=backend_at())
    _RUNS.clear()
    assert await mine("u") == await theirs("u") == await theirs("u") == "seen by 1"
    await theirs.invalidate("u")
    assert await mine("u") == await theirs("u") == "seen by 2"


async def test_as_the_store_behind_memory_without_another(server: RedisServer, backend_at: BackendAt) -> None:
    await Counted(backup=backend_at()).works()
    assert entries(server)


async def test_by_the_session(server: RedisServer, backend_at: BackendAt) -> None:
    async with AgentCacheSession(backend=backend_at(), loop_detection=False):
        await Counted().works()
    assert entries(server)


async def test_by_configure(server: RedisServer, backend_at: BackendAt) -> None:
    configure(backend=backend_at())
    await Counted().works()
    assert entries(server)


async def test_by_a_url(server: RedisServer) -> None:
    configure(backend=f"{server.url}?prefix=url:")
    await Counted().works()
    assert entries(server, b"url:")
    assert not entries(server, b"ac:")
    await _close_default()


async def test_by_a_url_without_a_near_tier(server: RedisServer) -> None:
    from agent_cache.config import settings

    configure(backend=f"{server.url}?near=0")
    assert isinstance(settings.default_backend(), RedisBackend)
    await Counted().works()
    await _close_default()


async def _close_default() -> None:
    from agent_cache.config import settings

    backend: Any = settings.default_backend()
    await backend.close()


async def test_session_entries_end_with_the_session_unless_they_are_kept(backend_at: BackendAt) -> None:
    runs = []

    @AgentCache("note", scope="session", backend=backend_at())
    async def get() -> str:
        runs.append(1)
        return "note"

    for keep, expected in ((False, 1), (True, 2), (True, 2)):
        async with AgentCacheSession("chat", keep=keep):
            await get()
            await get()
        assert len(runs) == expected


# -- programs of their own --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Callable[..., str]:
    """``run(program, NAME=value)``: in a process of its own, with every warning an error; what it printed."""

    def start(program: str, **environment: str) -> str:
        file = tmp_path / "agent.py"
        file.write_text(TOOLS + program)
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        # Python 3.12 warns of any fork beside threads
        command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    return start


TOOLS = """
import asyncio, os, sys
from agent_cache import AgentCache, AgentCacheInvalidator, get_metrics, configure
runs = []
@AgentCache("cart")
async def get():
    runs.append(1)
    return ["milk"]
@AgentCache("cart")
def look():
    runs.append(1)
    return ("milk",)
@AgentCacheInvalidator("cart")
async def put(): ...
@AgentCacheInvalidator("cart")
def place(): ...
"""


def test_by_the_environment_in_two_processes(server: RedisServer, run: Run) -> None:
    program = "print(asyncio.run(get()), look(), len(runs))"
    assert run(program, AGENT_CACHE_URL=server.url) == "['milk'] ('milk',) 2"
    assert run(program, AGENT_CACHE_URL=server.url) == "['milk'] ('milk',) 0"
    assert run("asyncio.run(put())", AGENT_CACHE_URL=server.url) == ""
    assert run(program, AGENT_CACHE_URL=server.url) == "['milk'] ('milk',) 2"


def test_several_event_loops_one_after_the_other_leave_nothing_open(server: RedisServer, run: Run) -> None:
    program = (
        "for n in range(5):\n"
        "    assert asyncio.run(get()) == ['milk']\n"
        "    if n % 2: asyncio.run(put())\n"
        "import gc; gc.collect()\n"
        "look(); place(); look()\n"
        "print(len(runs), get_metrics()['backend_errors'])"
    )
    assert run(program, AGENT_CACHE_URL=server.url) == "5 0"
    assert run(program, AGENT_CACHE_URL=f"{server.url}?near=0&prefix=near0:") == "5 0"


def test_a_process_that_ends_without_closing_anything_says_nothing(server: RedisServer, run: Run) -> None:
    program = (
        "loop = asyncio.new_event_loop()\n"
        "assert loop.run_until_complete(get()) == ['milk']\n"
        "look()\n"
        "loop.run_until_complete(loop.shutdown_asyncgens())\n"
        "loop.close()\n"
        "print('ended')"
    )
    assert run(program, AGENT_CACHE_URL=f"{server.url}?coherence=lease") == "ended"


FORK = """
def child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print("child:", repr(error), flush=True)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def reads_and_writes():
    before = len(runs)
    look(), asyncio.run(get())
    assert len(runs) == before, "the child has what its parent stored"
    place()
    look(), asyncio.run(get()), look(), asyncio.run(get())
    assert len(runs) == before + 2, "what the child wrote is seen by the child"
    asyncio.run(put())
    asyncio.run(get())
    assert len(runs) == before + 3
    assert get_metrics()["backend_errors"] == 0

async def outside_and_inside():
    await get(), look()
    for _ in range(2):
        child(lambda: (look(), place(), look()))  # fork under a running loop
        before = len(runs)
        await get(), look()
        assert len(runs) >= before + 1, "the child's write is seen"
        now = len(runs)
        await get(), look()
        assert len(runs) == now, "and the parent caches again"

look(), asyncio.run(get())
child(reads_and_writes)
look(), asyncio.run(get())
now = len(runs)
look(), asyncio.run(get())
assert len(runs) == now, "the parent caches after the fork"
place()
look(), asyncio.run(get())
assert len(runs) == now + 2
asyncio.run(outside_and_inside())
print(get_metrics()["backend_errors"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("options", ["", "?near=0", "?coherence=lease"])
def test_a_forked_child_reads_and_writes_and_its_parent_goes_on(options: str, server: RedisServer, run: Run) -> None:
    assert run(FORK, AGENT_CACHE_URL=server.url + options) == "0"


def test_two_event_loops_in_two_threads_at_once(server: RedisServer) -> None:
    backend = RedisBackend(server.url)
    tools = Counted(backend=backend)
    together = threading.Barrier(2)
    problems: list[BaseException] = []

    async def work(user: str) -> None:
        together.wait(10)
        for n in range(20):
            first, second = await asyncio.gather(tools.get(user), tools.get(user))
            assert first == second
            if n % 5 == 0:
                await tools.put(user)

    def thread(user: str) -> None:
        try:
            asyncio.run(work(user))
        except BaseException as error:  # noqa: BLE001 - shown below, in the test's own thread
            problems.append(error)

    threads = [threading.Thread(target=thread, args=(user,)) for user in ("a", "b")]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert problems == []
    assert get_metrics()["backend_errors"] == 0
    assert tools.runs <= 10
    backend.sync.close()


def test_a_def_tool_runs_once_over_redis(server: RedisServer) -> None:
    backend = RedisBackend(server.url)
    runs = []

    @AgentCache("stock:{item}", backend=backend)
    def get(item: str) -> tuple[str, int]:
        runs.append(item)
        return item, len(runs)

    @AgentCacheInvalidator("stock:{item}")
    def put(item: str) -> str:
        return "put"

    assert get("a") == get("a") == ("a", 1)
    assert put("a") == "put"
    assert get.explain("a").status == "stale"
    assert get("a") == ("a", 2)
    get.invalidate("a")
    assert get("a") == ("a", 3)
    backend.sync.close()


def test_threads_share_one_load(server: RedisServer) -> None:
    backend = RedisBackend(server.url)
    runs = []
    begun, go_on = threading.Event(), threading.Event()

    @AgentCache("stock", backend=backend)
    def get() -> int:
        runs.append(1)
        begun.set()
        assert go_on.wait(10)
        return 1

    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(get())) for _ in range(8)]
    for each in threads:
        each.start()
    assert begun.wait(10)
    go_on.set()
    for each in threads:
        each.join(10)
    assert got == [1] * 8
    assert runs == [1]
    backend.sync.close()


# -- where Redis is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoded", [False, True])
async def test_a_client_handed_in_is_not_used_and_never_closed(
    decoded: bool, server: RedisServer, backend_at: BackendAt
) -> None:
    client = redis.asyncio.Redis(host="127.0.0.1", port=server.port, db=3, decode_responses=decoded)
    await client.ping()
    backend = backend_at(client=client)
    await Counted(backend=backend).works()
    await backend.close()
    assert entries(server, db=3)
    assert not entries(server, db=0)
    assert await client.ping()
    await client.aclose()
    await Counted(backend=backend).works()  # it is not needed again


async def test_a_client_of_one_event_loop_serves_tools_on_every_other(server: RedisServer) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    tools = Counted(backend=RedisBackend(client=client))
    await tools.works()
    await asyncio.to_thread(lambda: asyncio.run(tools.works()))
    await client.aclose()


async def test_a_cluster_client_handed_in(cluster: ClusterSetup, backend_at: BackendAt) -> None:
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster.nodes[1].port)
    backend = backend_at(client=client)
    await Counted(backend=backend).works()
    await client.initialize()
    await backend.close()
    await client.set("still", "open")
    await client.aclose()
    await Counted(backend=backend).works()


async def test_a_sentinels_client_handed_in(redis_sentinel: SentinelSetup, backend_at: BackendAt) -> None:
    sentinel = redis.asyncio.sentinel.Sentinel([("127.0.0.1", redis_sentinel.sentinel.port)])
    client = sentinel.master_for(redis_sentinel.name)
    backend = backend_at(client=client, prefix="handed:")
    await Counted(backend=backend).works()
    await backend.close()
    assert await client.ping()
    await client.aclose()
    for each in sentinel.sentinels:
        await each.aclose()
    await Counted(backend=backend).works()


async def test_over_a_unix_socket(backend_at: BackendAt) -> None:
    with RedisServer(unix_socket=True) as own:
        await Counted(backend=backend_at(own.unix_url)).works()
        client = redis.asyncio.Redis(unix_socket_path=str(own.unix_path))
        await Counted(backend=backend_at(client=client)).works()
        await client.aclose()
        assert entries(own)


async def test_over_tls(backend_at: BackendAt) -> None:
    try:
        own = RedisServer(tls=True).start()
    except TlsUnavailableError as why:
        pytest.skip(str(why))
    with own:
        trusted = f"{own.tls_url}?ssl_ca_certs={own.ca_file}"
        await Counted(backend=backend_at(trusted)).works()
        await Counted(backend=backend_at(f"{trusted}&protocol=2")).works()
        client = redis.asyncio.Redis.from_url(trusted)
        await Counted(backend=backend_at(client=client)).works()
        await client.aclose()
        tools = Counted(backend=backend_at(own.tls_url, connect_timeout=5))  # nobody vouches for the certificate
        assert await tools.get("u") == await tools.get("u")
        assert tools.runs == 2


async def test_a_password_with_special_characters(backend_at: BackendAt) -> None:
    password = "p@ss:w/o?r#d%&=+ ü"
    with RedisServer(password=password) as own:
        quoted = "p%40ss%3Aw%2Fo%3Fr%23d%25%26%3D%2B%20%C3%BC"
        await Counted(backend=backend_at(f"redis://:{quoted}@127.0.0.1:{own.port}/0")).works()
        await Counted(backend=backend_at(f"redis://127.0.0.1:{own.port}/0", password=password)).works()
        await Counted(backend=backend_at(host="127.0.0.1", port=own.port, db=2, password=password)).works()
        assert entries(own, db=2)


async def test_with_the_fewest_rights(
    backend_at: BackendAt, eventually: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(users={"app": MINIMAL_ACL}) as own:
        url = own.url_for("app", "secret")
        await Counted(backend=backend_at(url, prefix="app:")).works()
        far = backend_at(url, prefix="app:", coherence="lease", lease=0.05)
        tier = TieredBackend(MemoryBackend(), far)
        await Counted(backend=tier).works()
        await eventually(tier._is_proven, "the backplane works")
        store = backend_at(url, prefix="app:")
        await store.set("key", [1], ttl=60)
        assert await store.get("key") == [1]
        assert await store.exists("key")
        assert await store.count() == 1
        assert await store.delete("key")
        await store.set_many({"a": 1, "b": 2})
        assert await store.delete_pattern("*") == 2
        await store.clear()
        assert get_metrics()["backend_errors"] == 0
        refused = own.cli("ACL", "LOG")
        assert [entry for entry in refused if b"client|setinfo" not in entry] == []  # redis-py's, and it lives without
    assert not caplog.records


async def test_databases_are_apart(server: RedisServer, backend_at: BackendAt) -> None:
    one, two = Counted(backend=backend_at(server.url_for(db=1))), Counted(backend=backend_at(db=2))
    await one.get("u")
    await two.get("u")
    assert (one.runs, two.runs) == (1, 1)
    assert len(entries(server, db=1)) == len(entries(server, db=2)) == 1


async def test_clear_touches_its_own_prefix_only(server: RedisServer, backend_at: BackendAt) -> None:
    server.cli("SET", "somebody else's", "1")
    server.cli("SET", "app*:kv:x", "1")
    mine, theirs = backend_at(prefix="app:"), backend_at(prefix="app*:")
    my_tools, their_tools = Counted(backend=mine), Counted(backend=theirs)
    for backend, tools in ((mine, my_tools), (theirs, their_tools)):
        await backend.set("key", "value")
        await tools.get("u")
    await theirs.clear()
    assert await mine.get("key") == "value"
    assert await theirs.get("key") is None
    await my_tools.get("u")
    await their_tools.get("u")
    assert (my_tools.runs, their_tools.runs) == (1, 2)
    assert server.cli("GET", "somebody else's") == b"1"


async def test_two_prefixes_on_one_server_know_nothing_of_each_other(backend_at: BackendAt) -> None:
    mine, theirs = Counted(backend=backend_at(prefix="a:")), Counted(backend=backend_at(prefix="b:"))
    await mine.get("u")
    await theirs.get("u")
    assert (mine.runs, theirs.runs) == (1, 1)


# -- Sentinel and Cluster ---------------------------------------------------------------------------------------------


async def _served_again(tools: Counted) -> None:
    """Until a read is a hit: the breaker closes in its own time."""
    async with asyncio.timeout(8):
        while True:
            await tools.get("u")
            runs = tools.runs
            await tools.get("u")
            if tools.runs == runs:
                return
            await asyncio.sleep(0.02)


async def test_a_failover_leaves_nothing_stale(backend_at: BackendAt) -> None:
    with SentinelSetup() as setup:
        tools = Counted(backend=backend_at(setup.url))
        await tools.works()
        old = setup.primary
        setup.lag_replica()  # the next write never reaches it
        await tools.put("u")
        assert (await tools.get("u"))["state"] == tools.state
        new = setup.kill_primary()
        assert new is not old
        for _ in range(5):
            assert (await tools.get("u"))["state"] == tools.state
        await _served_again(tools)
        assert (await tools.get("u"))["state"] == tools.state
        await tools.works()
        assert entries(new)


async def test_a_demoted_primary_that_keeps_its_connections_is_left(backend_at: BackendAt) -> None:
    with SentinelSetup() as setup:
        backend = backend_at(setup.url)
        tools = Counted(backend=backend)
        await tools.works()
        new = setup.failover(demote=True)  # no connection is closed
        for _ in range(5):
            assert (await tools.get("u"))["state"] == tools.state
        await _served_again(tools)
        assert entries(new)


async def test_on_a_cluster_a_read_of_several_resources_is_dropped_by_a_write_to_any(
    cluster: ClusterSetup, backend_at: BackendAt
) -> None:
    configure(backend=backend_at(cluster.url))
    names = [f"res{n}" for n in range(8)]
    runs = []

    @AgentCache(names)
    async def get() -> int:
        runs.append(1)
        return len(runs)

    for name in names:
        write = AgentCacheInvalidator(name)(_nothing)
        await get()
        before = len(runs)
        await get()
        assert len(runs) == before
        await write()
        await get()
        assert len(runs) == before + 1, name
    slots = {cluster.slot(key) for node in cluster.nodes for key in node.cli("KEYS", "*")}
    assert len(slots) > 3


async def test_on_a_cluster_one_write_drops_reads_in_all_slots(cluster: ClusterSetup, backend_at: BackendAt) -> None:
    configure(backend=backend_at(cluster.url))
    names = [f"res{n}" for n in range(8)]
    runs: list[str] = []

    def reading(name: str) -> Any:
        @AgentCache(name)
        async def get(n: str) -> str:
            runs.append(n)
            return n

        return get

    reads = {name: reading(name) for name in names}
    write = AgentCacheInvalidator(names)(_nothing)
    for _ in range(2):
        assert [await read(name) for name, read in reads.items()] == names
    assert runs == names
    await write()
    assert [await read(name) for name, read in reads.items()] == names
    assert runs == names * 2


async def _nothing() -> None: ...


async def test_a_slot_that_moved_is_found(cluster: ClusterSetup, backend_at: BackendAt) -> None:
    tools = Counted(backend=backend_at(cluster.url))
    await tools.works()
    key = next(key for node in cluster.nodes for key in node.cli("KEYS", "*") if b"}e:" in key)
    slot, old = cluster.slot(key), cluster.node_for(key)
    new = next(node for node in cluster.nodes if node is not old)
    cluster.begin_move(slot, new)
    try:
        for _ in range(3):  # ASK, TRYAGAIN: the tool answers meanwhile
            assert (await tools.get("u"))["state"] == tools.state
            await tools.put("u")
        cluster.finish_move(slot, new)
        assert (await tools.get("u"))["state"] == tools.state
        await _served_again(tools)
        await tools.works()
        assert (await tools.get("u"))["state"] == tools.state
    finally:
        cluster.begin_move(slot, old)
        cluster.finish_move(slot, old)


# -- a hit equals a miss ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Line:
    name: str
    price: Decimal
    tags: tuple[str, ...] = ()


class Cart(pydantic.BaseModel):
    lines: list[tuple[int, str]]
    at: dt.datetime
    owner: uuid.UUID | None = None


class Colour(enum.Enum):
    RED = "red"


class Flag(enum.IntFlag):
    A = 1
    B = 2


WHEN = dt.datetime(2026, 11, 21, 5, 30, 0, 123_456, tzinfo=dt.UTC)
RESULTS: list[tuple[Any, Any]] = [
    (Line, Line("milk", Decimal("1.10"), ("a", "b"))),
    (Cart, Cart(lines=[(1, "x")], at=WHEN, owner=uuid.UUID(int=7))),
    (list[Line], [Line("a", Decimal("-0.0"))]),
    (dict[tuple[int, str], float], {(1, "a"): 1.0, (2, "b"): float("inf")}),
    (dict[int, set[str]], {1: {"a"}, 2: set()}),
    (Decimal, Decimal("1E+400")),
    (tuple[int, ...], (1, 2, 3)),
    (frozenset[int], frozenset({1, 2})),
    (bytes, b"\x00\xff"),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    (dt.date, WHEN.date()),
    (Colour, Colour.RED),
    (Flag, Flag.A | Flag.B),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("/a/b")),
    (Line | Cart | None, None),
    (Line | Cart, Line("x", Decimal(1))),
    (Any, {"int": 1, "float": 1.0, "bool": True, "none": None, "tuple": (1, [2]), "bytes": b"x", "when": WHEN}),
    (Any, {1: "int", "1": "str", (1, 2): "tuple"}),
    (Any, 10**40),
    (Any, "\ud800 lone surrogate"),
    (Any, -0.0),
]


@pytest.mark.parametrize(("hint", "value"), RESULTS, ids=lambda v: str(v)[:40])
async def test_a_hit_from_redis_equals_the_miss(hint: Any, value: Any, backend_at: BackendAt) -> None:
    runs = []

    async def get() -> Any:
        runs.append(1)
        return value

    get.__annotations__["return"] = hint
    configure(backend=backend_at())
    read = AgentCache("x")(get)
    first, second, third = await read(), await read(), await read()
    assert repr(first) == repr(second) == repr(third) == repr(value)
    assert type(second) is type(third) is type(value)
    assert second == value
    assert runs == [1]
    assert get_metrics()["hits"] == 2


async def test_a_hit_is_the_callers_own(backend_at: BackendAt) -> None:
    tools = Counted(backend=backend_at())
    for _ in range(3):
        (await tools.get("u"))["user"] = "changed"
    assert await tools.get("u") == {"user": "u", "state": 0}


class Strange:
    def __init__(self) -> None:
        self.secret = object()


@pytest.mark.parametrize("make", [Strange, lambda: iter([1]), lambda: lambda: 1, lambda: {"deep": [Strange()]}])
async def test_what_has_no_written_form_is_returned_counted_and_not_stored(
    make: Callable[[], Any], server: RedisServer, backend_at: BackendAt, caplog: pytest.LogCaptureFixture
) -> None:
    configure(backend=backend_at())
    made: list[Any] = []

    @AgentCache("x")
    async def get() -> Any:
        made.append(make())
        return made[-1]

    for n in range(3):
        got = await get()
        assert got is made[n]
    metrics = get_metrics()
    assert metrics["unstorable"] == metrics["misses"] == 3
    assert metrics["backend_errors"] == 0
    assert not entries(server)
    assert len([r for r in caplog.records if "not stored" in r.getMessage()]) == 1


async def test_no_argument_is_in_any_key(server: RedisServer, backend_at: BackendAt) -> None:
    tools = Counted(backend=backend_at())
    await tools.get("4111-1111-1111")
    await tools.put("4111-1111-1111")
    keys = b" ".join(server.cli("KEYS", "*"))
    assert b"4111-1111" not in keys  # with the dash: four digits alone may well stand in a digest
    assert b"cart" not in keys


async def test_many_callers_of_two_processes_run_the_tool_once(server: RedisServer, backend_at: BackendAt) -> None:
    mine, theirs = of_a_process(backend=backend_at()), of_a_process(backend=backend_at())
    _RUNS.clear()
    got = await asyncio.gather(*(read("u") for read in (mine, theirs) for _ in range(50)))
    assert got == ["seen by 1"] * 100
