"""Invalidations that Redis could not take: kept here, delivered as soon as it is back, and nothing is read meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    BackendError,
    configure,
    get_metrics,
)
from agent_cache.backends.redis.links import Links
from agent_cache.backends.redis.wire import WireDownError
from agent_cache.engine import couriers
from agent_cache.engine.outbox import OUTBOX, Outbox
from agent_cache.tags import write_tags

Process = Any
Eventually = Callable[..., Awaitable[None]]
WRITE_CART = write_tags([("cart", "42")], ())
OTHERS = write_tags([("cart", "43")], ())


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(couriers, "LONGEST_PAUSE", 0.002)


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """``cut_off(backend)``: Redis is away for it; ``cut_off(None)``: for nobody."""
    away: list[Any] = []

    def cut_where(asks: Any) -> Any:
        async def asked(self: Links, *args: Any) -> Any:
            if self in away:
                raise WireDownError("cut off")
            return await asks(self, *args)

        return asked

    for name in ("_ask", "_look"):
        monkeypatch.setattr(Links, name, cut_where(getattr(Links, name)))

    def cut(backend: Any) -> None:
        away[:] = [] if backend is None else [backend._links]

    yield cut
    cut(None)


async def test_a_write_while_redis_is_away_is_known_to_others_when_it_is_back_though_nobody_reads_here(
    process: Process, cut_off: Callable[[Any], None], eventually: Eventually
) -> None:
    here, there = process(), process()
    backend = here._backend
    backend._patience = 0.0
    value = "old"

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put_cart(user: int) -> None:
        nonlocal value
        value = "new"

    await there.store("old")
    token = await there.token()
    cut_off(backend)
    await put_cart(42)
    assert value == "new", "writes proceed"
    assert set(OUTBOX.owed_to(backend)) >= set(WRITE_CART)
    cut_off(None)
    await eventually(lambda: not OUTBOX, "the courier delivers")
    await there.expect_missing("stale")
    assert not await there.fill(token, "old")


class Cart:
    """What a cached tool reads, and one that writes it makes "new"."""

    def __init__(self, backend: Any) -> None:
        self.value = "old"

        @AgentCache("cart:{user}", backend=backend)
        async def get_cart(user: int) -> str:
            return self.value

        @AgentCacheInvalidator("cart:{user}", backend=backend)
        async def put_cart(user: int) -> None:
            self.value = "new"

        self.get, self.put = get_cart, put_cart


async def test_while_something_is_owed_a_repeat_is_not_answered_from_memory(
    process: Process, cut_off: Callable[[Any], None], eventually: Eventually
) -> None:
    backend = process()._backend
    backend._patience = 0.0
    cart = Cart(backend)
    async with AgentCacheSession(max_tool_repeats=2, on_loop="short_circuit"):
        for _ in range(2):
            assert await cart.get(42) == "old"
        cut_off(backend)
        await cart.put(42)
        assert await cart.get(42) == "new"
        cut_off(None)
    await eventually(lambda: not OUTBOX, "the courier delivers")


async def test_while_something_is_owed_reads_here_run_the_tool_and_keep_nothing(
    process: Process, cut_off: Callable[[Any], None], eventually: Eventually
) -> None:
    here = process()
    backend = here._backend
    backend._patience = 0.0
    cart = Cart(backend)
    assert await cart.get(42) == "old"
    deliver, held = backend.move, threading.Event()

    async def not_yet(tags: Any, writer: str) -> None:
        if not held.is_set():
            raise WireDownError("not yet")
        await deliver(tags, writer)

    backend.move = not_yet
    cut_off(backend)
    await cart.put(42)
    cut_off(None)
    await eventually(lambda: backend._links.down is None, "Redis answers again, but is still owed the write")
    for fresh in ("new", "newer"):
        cart.value = fresh
        assert await cart.get(42) == fresh, "not what is stored, and not what was loaded a moment ago"
    assert get_metrics()["hits"] == 0
    held.set()
    await eventually(lambda: not OUTBOX, "delivered")
    assert await cart.get(42) == "newer"
    cart.value = "newest"
    assert await cart.get(42) == "newer", "cached again"


async def test_a_write_is_refused_where_that_was_asked_for(process: Process, cut_off: Callable[[Any], None]) -> None:
    backend = process()._backend
    backend._patience = 0.0
    configure(on_unavailable="refuse_writes")
    ran = []

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put_cart(user: int) -> None:
        ran.append(user)

    cut_off(backend)
    with pytest.raises(BackendError, match="was not run"):
        await put_cart(42)
    assert ran == []
    assert not OUTBOX


async def test_an_end_that_fails_is_owed(
    process: Process, cut_off: Callable[[Any], None], eventually: Eventually
) -> None:
    here, there = process(), process()
    backend = here._backend
    backend._patience = 0.0

    @AgentCacheInvalidator("cart:{user}", backend=backend)
    async def put_cart(user: int) -> None:
        cut_off(backend)

    await put_cart(42)
    assert OUTBOX.owed_to(backend)
    await there.expect_blocked()
    cut_off(None)
    await eventually(lambda: not OUTBOX, "delivered")


# ------------------------------------------------------------------------------------------------ the box itself


class Shared:
    """A backend that other processes share; ``move`` is what the test says."""

    in_process = False

    def __init__(self) -> None:
        self.moved: list[tuple[Any, ...]] = []
        self.moving: Callable[[tuple[Any, ...]], None] = lambda tags: None

    @property
    def sync(self) -> Shared:
        return self

    def move(self, tags: tuple[Any, ...], writer: str) -> None:
        self.moving(tags)
        self.moved.append(tags)

    def lead(self) -> None: ...
    def release(self) -> None: ...
    def abandon(self) -> None: ...


async def test_a_debt_made_while_an_older_one_is_delivered_is_not_lost(eventually: Eventually) -> None:
    box, backend = Outbox(), Shared()
    once = [True]

    def in_between(tags: tuple[Any, ...]) -> None:
        if once:
            once.clear()
            box.owe(backend, WRITE_CART)  # the same tags again: a write that began after these were read
            box.owe(backend, OTHERS)

    backend.moving = in_between
    box.owe(backend, WRITE_CART)
    await eventually(lambda: not box, "all delivered")
    assert len(backend.moved) == 2
    assert set(backend.moved[0]) == set(WRITE_CART)
    assert set(backend.moved[1]) == {*WRITE_CART, *OTHERS}


async def test_delivery_is_tried_until_it_succeeds(eventually: Eventually) -> None:
    box, backend = Outbox(), Shared()
    failures = [BackendError("away"), OSError("away"), RuntimeError("a bug")]

    def fails(tags: tuple[Any, ...]) -> None:
        if failures:
            raise failures.pop()

    backend.moving = fails
    box.owe(backend, WRITE_CART)
    await eventually(lambda: not box, "delivered")
    assert backend.moved == [tuple(WRITE_CART)]


async def test_one_backend_that_stays_away_holds_up_no_other(eventually: Eventually) -> None:
    box, away, well = Outbox(), Shared(), Shared()
    gate = [True]

    def fails(tags: tuple[Any, ...]) -> None:
        if gate:
            raise BackendError("away")

    away.moving = fails
    box.owe(away, WRITE_CART)
    box.owe(well, OTHERS)
    await eventually(lambda: well.moved == [tuple(OTHERS)], "the other is told")
    assert box.owed_to(away)
    gate.clear()
    await eventually(lambda: not box, "delivered")


async def test_one_backend_that_hangs_in_a_delivery_holds_up_no_other(eventually: Eventually) -> None:
    box, hanging, well = Outbox(), Shared(), Shared()
    began, go = threading.Event(), threading.Event()

    def hangs(tags: tuple[Any, ...]) -> None:
        began.set()
        go.wait()

    hanging.moving = hangs
    try:
        box.owe(hanging, WRITE_CART)
        await eventually(began.is_set, "it is being delivered")
        box.owe(well, OTHERS)
        await eventually(lambda: well.moved == [tuple(OTHERS)], "the other is told meanwhile")
        await eventually(lambda: len(box._couriers) == 1, "nobody waits for what is delivered")
        assert box.owed_to(hanging)
    finally:
        go.set()
    await eventually(lambda: not box, "delivered")
    assert hanging.moved == [tuple(WRITE_CART)]
    await eventually(lambda: not len(box._couriers), "where nothing is owed there is no thread")


async def test_of_more_backends_than_threads_each_has_its_turn(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(couriers, "MOST", 2)
    box, gate = Outbox(), [True]
    away, well = [Shared() for _ in range(4)], [Shared() for _ in range(3)]

    def fails(tags: tuple[Any, ...]) -> None:
        if gate:
            raise BackendError("away")

    for backend in away:
        backend.moving = fails
    for backend in [*away, *well]:
        box.owe(backend, WRITE_CART)
        box.owe(backend, WRITE_CART)  # waits but once
        assert len(box._couriers) <= 2
    await eventually(lambda: all(backend.moved for backend in well), "those that are well are told")
    assert all(map(box.owed_to, away))
    gate.clear()
    await eventually(lambda: not box and not len(box._couriers), "delivered")
    assert not box._couriers._waiting


async def test_where_no_thread_is_to_be_had_whoever_asks_next_sends_one(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, backend = Outbox(), Shared()

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "start", none_left)
        box.owe(backend, WRITE_CART)  # the write it belongs to does not fail
    assert box.owed_to(backend)
    box.send_courier(backend)
    await eventually(lambda: not box, "delivered")


async def test_at_the_end_of_the_process_no_more_is_tried(eventually: Eventually) -> None:
    box, away = Outbox(), Shared()
    tries = []

    def fails(tags: tuple[Any, ...]) -> None:
        tries.append(tags)
        raise BackendError("away")

    away.moving = fails
    box.owe(away, WRITE_CART)
    await eventually(lambda: tries, "tried")
    (courier,) = box._couriers._at_work.values()
    box._couriers.stop(20)
    assert not courier.thread.is_alive()
    tried = len(tries)
    box.owe(away, OTHERS)
    assert len(tries) == tried
    assert len(box._couriers) <= 1


HANGS_AT_EXIT = """
import threading
from agent_cache.engine.outbox import Outbox

began = threading.Event()

class Hangs:
    in_process = False
    sync = property(lambda self: self)
    def move(self, tags, writer):
        began.set()
        threading.Event().wait()
    def lead(self): ...
    def release(self): ...
    def abandon(self): ...

box = Outbox()
box.owe(Hangs(), (("all", (), ()),))
began.wait()
print("ends")
"""


def test_a_delivery_that_hangs_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS_AT_EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("ends\n", "")


FORKED = """
import os, sys, threading
from agent_cache import AgentCache, DiskBackend, configure
from agent_cache.engine.outbox import OUTBOX
from agent_cache.errors import BackendError
from agent_cache.tags import write_tags

parent, tried = os.getpid(), threading.Event()
backend = DiskBackend(sys.argv[1])
configure(backend=backend)
store, value = backend.sync, "old"
move = store.move

def only_the_child(tags, writer):
    tried.set()
    if os.getpid() == parent:
        raise BackendError("away")
    move(tags, writer)

store.move = only_the_child

@AgentCache("cart:{user}")
def get_cart(user):
    return value

assert get_cart(42) == "old"
OUTBOX.owe(backend, write_tags([("cart", "42")], ()))
tried.wait()
child = os.fork()
if not child:
    value = "new"
    assert get_cart(42) == "new"
    patience = threading.Event()
    for _ in range(1000):
        if not OUTBOX:
            break
        patience.wait(0.01)
    assert not OUTBOX, "what it inherited is delivered"
    assert get_cart(42) == "new"
    value = "newer"
    assert get_cart(42) == "new", "and it caches again"
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert OUTBOX.owes(backend)
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_delivers_what_it_inherited(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "cache.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "forked\n", done.stderr


async def test_more_than_ten_thousand_tags_become_everything(eventually: Eventually) -> None:
    box, backend = Outbox(), Shared()
    go = threading.Event()
    backend.moving = lambda tags: go.wait(20) and None
    box.owe(backend, [("any", (), ("cart", str(number))) for number in range(10_000)])
    assert len(box.owed_to(backend)) == 10_000
    box.owe(backend, [("any", (), ("cart", "one more"))])
    assert list(box.owed_to(backend)) == [("all", (), ())]
    go.set()
    await eventually(lambda: not box, "delivered")
    assert backend.moved[-1] == (("all", (), ()),)


async def test_everything_reaches_every_entry(process: Process) -> None:
    here, there = process(), process()
    await there.store("old")
    await here.move([("all", (), ())])
    await there.expect_missing("stale")
