"""``RedisBackend(outbox=path)``: what could not be delivered outlives the process that could not deliver it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    BackendError,
    ConfigurationError,
    MemoryBackend,
    NoEffect,
    RedisBackend,
    TieredBackend,
    configure,
    get_metrics,
)
from agent_cache.backends.debts import EVERYTHING, Entry
from agent_cache.backends.redis import ledger as ledgers
from agent_cache.backends.redis.ledger import LedgerFile
from agent_cache.backends.redis.links import Links
from agent_cache.backends.redis.wire import WireDownError
from agent_cache.config import backend_from_url
from agent_cache.engine import couriers, effects
from agent_cache.engine import outbox as outboxes
from agent_cache.engine.outbox import OUTBOX
from agent_cache.tags import Tag, write_tags
from agent_cache.testing.servers import RedisServer

Eventually = Callable[..., Awaitable[None]]
CART: tuple[Tag, ...] = write_tags([("cart", "42")], ())
OTHER: tuple[Tag, ...] = write_tags([("cart", "43")], ("user", "7"))


# -- the file -----------------------------------------------------------------------------------------------------------


class Wall:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def tags_in(ledger: Any) -> list[tuple[Tag, ...]]:
    return [entry.tags for entry in ledger.entries()]


def test_what_is_noted_is_there_for_the_next_one(path: Path) -> None:
    first = LedgerFile(path, "here", 30.0)
    number = first.owe(CART)
    first.owe(OTHER)
    second = LedgerFile(path, "here", 30.0)
    assert tags_in(second) == [CART, OTHER]
    second.strike([number])
    assert tags_in(first) == [OTHER]
    assert LedgerFile(path, "elsewhere", 30.0).entries() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_on_the_disk_before_the_caller_goes_on(path: Path) -> None:
    with LedgerFile(path, "here", 30.0)._open() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


TEXTS = st.text(st.characters(), max_size=5)  # surrogates too
TAGS = st.tuples(st.sampled_from(["any", "all"]), st.lists(TEXTS, max_size=3), st.lists(TEXTS, max_size=3))


@given(st.lists(TAGS, min_size=1, max_size=5))
def test_tags_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, found: list[Any]) -> None:
    tags = tuple((kind, tuple(chain), tuple(path)) for kind, chain, path in found)
    ledger = LedgerFile(tmp_path_factory.mktemp("ledger") / "outbox.db", "here", 30.0)
    ledger.owe(tags)
    assert tags_in(ledger) == [tags]


LOCKING = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0, isolation_level=None).execute('BEGIN IMMEDIATE')"


def test_another_thread_that_opens_the_file_drops_no_lock_of_this_process(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_PATIENCE", 0.0)
    ledger = LedgerFile(path, "here", 30.0)
    with ledger._open():
        with pytest.raises(BackendError, match="in use by another thread"):
            ledger.entries()
        command = [sys.executable, "-c", LOCKING, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "database is locked" in done.stderr
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


def test_where_a_file_has_one_name_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    LedgerFile(path, "here", 30.0).owe(CART)
    assert tags_in(LedgerFile(path, "here", 30.0)) == [CART]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


def test_a_number_of_a_file_that_was_deleted_is_nobody_elses(path: Path) -> None:
    ledger = LedgerFile(path, "here", 30.0)
    begun = ledger.begin(CART)
    path.unlink()
    ledger.owe(OTHER)
    ledger.owe(CART, begun)
    assert tags_in(ledger) == [OTHER, CART]


def test_writes_of_processes_that_were_killed_are_bounded_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "MOST", 3)
    wall = Wall()
    ledger = LedgerFile(path, "here", 30.0, wall)
    for _ in range(9):
        ledger.begin(CART)
        wall.now += 31
    assert len(ledger.entries()) <= 4
    assert EVERYTHING in tags_in(ledger)


def test_a_write_runs_until_it_is_owed_struck_or_its_lease_is_over(path: Path) -> None:
    wall = Wall()
    ledger = LedgerFile(path, "here", 30.0, wall)
    owed, struck, lost = ledger.begin(CART), ledger.begin(CART), ledger.begin(OTHER)
    assert [entry.runs for entry in ledger.entries()] == [True] * 3
    after = ledger.owe(CART, owed)
    ledger.strike([struck])
    assert ledger.entries() == [Entry(lost, OTHER, runs=True), Entry(after, CART, runs=False)]
    wall.now += 30
    assert [entry.runs for entry in ledger.entries()] == [False, False]
    wall.now -= 1_000
    assert not ledger.entries()[0].runs, "the clock was set: no write runs for a thousand seconds"


def test_a_write_that_outlasted_its_lease_is_noted_anew(path: Path) -> None:
    ledger = LedgerFile(path, "here", 30.0)
    begun = ledger.begin(CART)
    ledger.strike([begun])
    ledger.owe(CART, begun)
    assert tags_in(ledger) == [CART]


def test_it_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "MOST", 3)
    ledger = LedgerFile(path, "here", 30.0)
    for _ in range(3):
        ledger.owe(CART)
    ledger.owe(OTHER)
    assert tags_in(ledger) == [EVERYTHING, OTHER]
    LedgerFile(path, "elsewhere", 30.0).owe(CART)
    ledger.begin(CART)
    ledger.begin(CART)
    assert tags_in(ledger) == [CART, EVERYTHING, CART], "what still runs is kept"
    assert tags_in(LedgerFile(path, "elsewhere", 30.0)) == [CART]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1]", '[["some", [], []]]', '[["all", "ab", []]]', '[["all", [1], []]]', None]
)
def test_what_cannot_be_read_stands_for_everything(path: Path, text: str | None) -> None:
    ledger = LedgerFile(path, "here", 30.0)
    ledger.owe(CART)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE owed SET tags=?", (b"\xff" if text is None else text,))
    db.close()
    assert tags_in(ledger) == [EVERYTHING]


@pytest.mark.parametrize("what", ["", "a\0b", ":memory:", b"bytes"])
def test_a_path_that_is_none(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="outbox"):
        LedgerFile(what, "here", 30.0)


def test_a_file_of_another_kind_is_left_alone(path: Path, tmp_path: Path) -> None:
    for made in (b"some text that was there before", b"SQLite format 3\0" + bytes(84)):
        path.write_bytes(made)
        with pytest.raises(ConfigurationError, match=r"outbox=.*a file of its own"):
            LedgerFile(path, "here", 30.0)
        assert path.read_bytes() == made
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    with pytest.raises(ConfigurationError, match="another kind of file"):
        LedgerFile(path, "here", 30.0)
    with pytest.raises(ConfigurationError, match="outbox"):
        LedgerFile(tmp_path / "no" / "folder" / "outbox.db", "here", 30.0)


FORKED = """
import os, sys, threading
from agent_cache.backends.redis.ledger import LedgerFile

ledger = LedgerFile(sys.argv[1], "here", 30.0)
inside, child_is_there = threading.Event(), threading.Event()

def note():
    with ledger._open():
        inside.set()
        child_is_there.wait(0.2)  # forked meanwhile, but for the lock

noter = threading.Thread(target=note)
noter.start()
inside.wait()
child = os.fork()
if not child:
    ledger.owe((("all", (), ("child",)),))
    os._exit(0)
child_is_there.set()
_, status = os.waitpid(child, 0)
noter.join()
ledger.owe((("all", (), ("parent",)),))
assert os.waitstatus_to_exitcode(status) == 0
assert len(ledger.entries()) == 2
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_waits_until_no_thread_is_in_the_file(path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("forked\n", "")


# -- with Redis ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(couriers, "LONGEST_PAUSE", 0.002)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Any]]:
    """Add a backend, and Redis is away for it."""
    them: set[Any] = set()

    def cut_where(asks: Any) -> Any:
        async def asked(self: Links, *args: Any) -> Any:
            if any(backend._links is self for backend in them):
                raise WireDownError("cut off")
            return await asks(self, *args)

        return asked

    for name in ("_ask", "_look"):
        monkeypatch.setattr(Links, name, cut_where(getattr(Links, name)))
    yield them
    them.clear()


def impatient(backend: Any) -> Any:
    backend._patience = 0.0
    return backend


class Cart:
    def __init__(self, backend: Any) -> None:
        self.value, self.runs, self.in_ledger = "old", 0, list[Entry]()

        @AgentCache("cart:{user}", backend=backend)
        async def get_cart(user: int) -> str:
            self.runs += 1
            return self.value

        @AgentCacheInvalidator("cart:{user}", backend=backend)
        async def put_cart(user: int, value: str, error: Exception | None = None) -> None:
            self.in_ledger = backend.outbox.entries()
            if error is not None:
                raise error
            self.value = value

        @AgentCacheInvalidator("cart:{user}", backend=backend)
        def put_blocking(user: int, value: str) -> None:
            self.in_ledger = backend.outbox.entries()
            self.value = value

        @AgentCache("cart:{user}", backend=backend)
        def get_blocking(user: int) -> str:
            return self.value

        self.get, self.put, self.put_blocking, self.get_blocking = get_cart, put_cart, put_blocking, get_blocking


KILLED = """
import asyncio, os, signal, sys
from agent_cache import AgentCacheInvalidator, RedisBackend
from agent_cache.backends.redis.links import Links
from agent_cache.backends.redis.wire import WireDownError

async def cut(*_, **__):
    raise WireDownError("cut off")

Links._ask = Links._look = cut
url, prefix, path, when = sys.argv[1:]
backend = RedisBackend(url, prefix=prefix, outbox=path)
backend._patience = 0.0

@AgentCacheInvalidator("cart:{user}", backend=backend)
async def put_cart(user):
    if when == "inside":
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(put_cart(42))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["inside", "after"])
async def test_what_a_killed_process_could_not_deliver_is_delivered_by_the_next_one(
    backend_at: Any, server: RedisServer, path: Path, eventually: Eventually, when: str
) -> None:
    there = Cart(backend_at(prefix="k:", outbox=path))
    assert await there.get(42) == "old"
    command = [sys.executable, "-c", KILLED, server.url, "k:", str(path), when]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there.value = "new"  # as the killed process wrote it
    assert await there.get(42) == "old", "nobody has been told"

    backend = backend_at(prefix="k:", outbox=path)
    here = Cart(backend)
    here.value = "new"
    assert await here.get(42) == "new"
    assert get_metrics()["reasons"]["undelivered"] == 1, "nothing is read before it has been delivered"
    backend.outbox._wall = lambda: 1e12  # what was running when its process was killed is over
    await eventually(lambda: not OUTBOX, "delivered")
    assert backend.outbox.entries() == []
    assert await there.get(42) == "new"
    for _ in range(2):
        assert await here.get(42) == "new"
    assert here.runs == 2, "it is trusted again"


async def test_it_is_noted_before_the_tool_runs_and_struck_when_it_is_delivered(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually
) -> None:
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    assert await cart.get(42) == "old"
    assert backend.outbox.entries() == []
    for put in (cart.put, lambda *given: asyncio.to_thread(cart.put_blocking, *given)):
        away.add(backend)
        await put(42, "new")
        assert [entry.runs for entry in cart.in_ledger] == [True]
        assert set(cart.in_ledger[0].tags) == set(CART)
        await eventually(lambda: [entry.runs for entry in backend.outbox.entries()] == [False], "it is owed")
        away.clear()
        await eventually(lambda: not OUTBOX, "delivered")
        assert backend.outbox.entries() == []


async def test_a_write_that_runs_here_keeps_no_other_from_being_delivered(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually
) -> None:
    backend = impatient(backend_at(outbox=path))
    cart, begun, goes_on = Cart(backend), asyncio.Event(), asyncio.Event()

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def slow(user: int) -> None:
        begun.set()
        await goes_on.wait()

    away.add(backend)
    running = asyncio.ensure_future(slow(1))
    await begun.wait()
    await cart.put(42, "new")
    away.clear()
    await eventually(lambda: not OUTBOX, "delivered")
    assert [entry.runs for entry in backend.outbox.entries()] == [True]
    goes_on.set()
    await running
    await eventually(lambda: not OUTBOX, "delivered")
    assert backend.outbox.entries() == []


async def test_a_write_without_effect_owes_nothing(backend_at: Any, path: Path, away: set[Any]) -> None:
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    away.add(backend)
    with pytest.raises(NoEffect):
        await cart.put(42, "new", NoEffect())
    assert len(cart.in_ledger) == 1
    assert backend.outbox.entries() == []
    assert not OUTBOX


async def test_a_write_without_effect_that_cannot_be_struck_ends_as_it_would(
    backend_at: Any, path: Path, away: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = impatient(backend_at(outbox=path))
    away.add(backend)

    async def no_threads(*_: Any) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put(user: int) -> None:
        monkeypatch.setattr(effects, "_beside", no_threads)
        raise NoEffect

    with pytest.raises(NoEffect):
        await put(42)
    assert len(backend.outbox.entries()) == 1


def test_it_is_noted_though_all_threads_of_the_loop_wait_for_it(path: Path) -> None:
    backend = impatient(RedisBackend("redis://127.0.0.1:1/0", outbox=path))
    cart = Cart(backend)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        on_its_way = list[Future[None]]()

        def waits() -> None:
            on_its_way.append(asyncio.run_coroutine_threadsafe(cart.put(42, "new"), loop))
            with suppress(CancelledError):
                on_its_way[0].result()

        waiting = asyncio.ensure_future(asyncio.to_thread(waits))
        done, _ = await asyncio.wait({waiting}, timeout=10)
        for each in on_its_way:
            each.cancel()
        assert done

    asyncio.run(main())
    assert cart.value == "new"
    assert len(cart.in_ledger) == 1


async def test_a_write_that_is_refused_is_not_noted(backend_at: Any, path: Path, away: set[Any]) -> None:
    configure(on_unavailable="refuse_writes")
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    away.add(backend)
    with pytest.raises(BackendError):
        await cart.put(42, "new")
    with pytest.raises(BackendError):
        await asyncio.to_thread(cart.put_blocking, 42, "new")
    assert cart.value == "old"
    assert backend.outbox.entries() == []


async def test_a_write_that_is_cancelled_before_it_runs_is_struck(
    backend_at: Any, path: Path, away: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    away.add(backend)
    begin = OUTBOX.begin

    def cancelled_meanwhile(*given: Any) -> int | None:
        loop.call_soon_threadsafe(write.cancel)
        return begin(*given)

    monkeypatch.setattr(OUTBOX, "begin", cancelled_meanwhile)
    loop = asyncio.get_running_loop()
    write = asyncio.ensure_future(cart.put(42, "new"))
    with pytest.raises(asyncio.CancelledError):
        await write
    assert cart.value == "old"
    assert backend.outbox.entries() == []


async def test_invalidating_by_hand_is_noted_too(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    away.add(backend)
    with monkeypatch.context() as patched:
        patched.setattr(OUTBOX, "send_courier", lambda _backend: None)
        await cart.get.invalidate(42)
        assert len(backend.outbox.entries()) == 1, "noted before the caller goes on"
        await asyncio.to_thread(cart.get_blocking.invalidate, 42)
        assert len(backend.outbox.entries()) == 2
    OUTBOX.send_courier(backend)
    away.clear()
    await eventually(lambda: not OUTBOX, "delivered")


async def test_a_tier_delivers_for_what_is_behind_it_and_the_other_way_round(
    backend_at: Any, path: Path, eventually: Eventually
) -> None:
    backend_at(outbox=path).outbox.owe(CART)
    far = backend_at(outbox=path)
    tier = TieredBackend(MemoryBackend(), far)
    assert tier.outbox is far.outbox
    assert OUTBOX.owes(far)
    cart = Cart(tier)
    assert await cart.get(42) == "old"
    await eventually(lambda: not OUTBOX.owes(tier), "delivered")
    assert not OUTBOX.owes(far)
    assert far.outbox.entries() == []


async def test_what_another_process_noted_meanwhile_is_delivered_with_our_own(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually
) -> None:
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    assert await cart.get(7) == "old"
    gone = LedgerFile(path, backend.outbox.target, 30.0)
    gone.owe(write_tags([("cart", "7")], ()))
    away.add(backend)
    await cart.put(42, "new")
    away.clear()
    await eventually(lambda: not OUTBOX, "delivered")
    assert await cart.get(7) == "new"
    assert gone.entries() == []


async def test_where_the_file_cannot_be_written_writes_go_on_and_it_is_said_once(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    backend = impatient(backend_at(outbox=path))
    cart = Cart(backend)
    assert await cart.get(42) == "old"
    path.unlink()
    path.mkdir()
    cart.in_ledger = []
    away.add(backend)

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put(user: int) -> None:
        cart.value = "new"

    for _ in range(2):
        await put(42)
    away.clear()
    assert await cart.get(42) == "new"
    await eventually(lambda: not OUTBOX, "delivered from memory")
    assert sum("in memory only" in line for line in caplog.messages) == 1


async def test_what_cannot_be_written_does_not_heap_up(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = impatient(backend_at(outbox=path))
    path.unlink()
    path.mkdir()
    away.add(backend)
    monkeypatch.setattr(outboxes, "_MAX_TAGS", 50)
    for number in range(200):
        OUTBOX.owe(backend, write_tags([("cart", str(number))], ()))
    assert len(OUTBOX._unwritten[id(backend)]) <= 50
    away.clear()
    await eventually(lambda: not OUTBOX, "delivered from memory")
    assert id(backend) not in OUTBOX._unwritten, "nothing is left for who gets the same id"


async def test_writes_of_other_processes_do_not_keep_it_from_being_delivered_for_ever(
    backend_at: Any, path: Path, eventually: Eventually
) -> None:
    backend = backend_at(outbox=path)
    another = LedgerFile(path, backend.outbox.target, 30.0)
    running = another.begin(OTHER)
    seen, entries = list[int](), backend.outbox.entries

    def with_another_one() -> list[Entry]:
        nonlocal running
        found: list[Entry] = entries()
        seen.append(running)
        ended, running = running, another.begin(OTHER)
        another.owe(OTHER, ended)
        return found

    backend.outbox.entries = with_another_one
    OUTBOX.owe(backend, CART)
    await eventually(lambda: not OUTBOX, "delivered")
    assert len(seen) == 2, "the one that ran at first was waited for"


async def test_a_process_that_only_writes_delivers_what_was_noted_before(
    backend_at: Any, path: Path, eventually: Eventually
) -> None:
    backend_at(outbox=path).outbox.owe(CART)
    backend = backend_at(outbox=path)
    assert OUTBOX.owes(backend)
    await Cart(backend).put(7, "new")
    await eventually(lambda: not OUTBOX.owes(backend), "delivered")
    assert backend.outbox.entries() == []


async def test_a_write_that_is_torn_away_while_it_runs_is_owed(
    backend_at: Any, path: Path, away: set[Any], eventually: Eventually
) -> None:
    backend = impatient(backend_at(outbox=path))
    away.add(backend)

    begun = asyncio.Event()

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put(user: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    call: Any = put(42)
    while True:  # a loop's part, until that loop is gone
        waits = call.send(None)
        if begun.is_set():
            break
        waits._asyncio_future_blocking = False
        await waits
    call.close()
    assert OUTBOX.owes(backend)
    away.clear()
    await eventually(lambda: not OUTBOX, "delivered")


async def test_the_file_that_was_deleted_is_made_anew(backend_at: Any, path: Path, away: set[Any]) -> None:
    backend = impatient(backend_at(outbox=path))
    path.unlink()
    backend.outbox.owe(CART)
    assert tags_in(backend.outbox) == [CART]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_doctor_says_what_waits(backend_at: Any, path: Path) -> None:
    backend = backend_at(outbox=path)

    async def said() -> tuple[str, str]:
        finding = next(found for found in await backend.doctor() if found.check == "outbox")
        return finding.level, finding.text

    assert (await said())[0] == "ok"
    backend.outbox.owe(CART)
    backend.outbox.owe(CART)
    level, text = await said()
    assert level == "warning"
    assert "2 invalidations" in text
    assert str(path) in text
    path.write_bytes(b"no database any more, and long enough to be taken for one by nobody at all")
    assert (await said())[0] == "error"


def test_a_url_names_it(path: Path) -> None:
    backend = backend_from_url(f"redis://localhost:1/0?outbox={path}&near=0")
    assert backend.outbox.path == path  # type: ignore[attr-defined]


def test_servers_databases_and_prefixes_are_told_apart(backend_at: Any, path: Path) -> None:
    urls = ["redis://h:1/0", "redis://h:1/1", "redis://h:2/0", "unix:///tmp/h.sock", "redis+cluster://h:1"]
    backends = [backend_at(url, outbox=path, prefix=prefix) for url in urls for prefix in ("a:", "b:")]
    assert len({backend.outbox.target for backend in backends}) == len(backends)
    with_password = backend_at("redis://user:hush@h:1/0", prefix="a:", outbox=path)
    assert with_password.outbox.target == backends[0].outbox.target
    assert os.fspath(path) in repr(with_password.outbox)
