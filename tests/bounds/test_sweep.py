"""What has expired is dropped without anybody asking for it, in small steps; and memory stays flat under churn."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    ConfigurationError,
    DiskBackend,
    MemoryBackend,
    Quota,
    configure,
)
from agent_cache.backends.base import Missing, NewEntry
from agent_cache.backends.expiring import Expiring
from agent_cache.backends.memory import store as memory
from agent_cache.backends.sweeper import Sweeper
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags
from agent_cache.testing import FakeClock

Make = Callable[..., Any]
CODEC = codec_for(Any)
TAGS = read_tags([("cart", "1")], ())


def store(backend: Any, key: str, ttl: float | None, grace: float = 0.0) -> None:
    found = backend.sync.lookup(None, TAGS, CODEC)
    assert isinstance(found, Missing)
    new = NewEntry(key.encode(), CODEC.freeze("v"), ttl, 0.0, "g", None, (), grace=grace)
    assert backend.sync.fill(found.token, new)


def entries(backend: Any) -> int:
    count: int = backend.sync.stats()["entries"]
    return count


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Sweeper:
    """One that nobody but the test lets step: its thread is not started."""
    made = Sweeper(clock)
    monkeypatch.setattr(made, "_go_on", lambda: None)
    for room in ("memory.store", "disk.store"):
        monkeypatch.setattr(f"agent_cache.backends.{room}.SWEEPER", made)
    return made


# -- memory ---------------------------------------------------------------------------------------------------------


def test_what_is_over_goes_and_the_rest_stays(clock: FakeClock, sweeper: Sweeper) -> None:
    backend = MemoryBackend(clock=clock, sweep=10)
    store(backend, "short", 5)
    store(backend, "long", 100)
    store(backend, "graceful", 5, grace=200)
    store(backend, "for ever", None)
    backend.sync.set("kv", 1, ttl=5)
    assert sweeper.step() == 0
    clock.advance(20)
    assert sweeper.step() == 1
    assert entries(backend) == 3
    clock.advance(100)
    sweeper.step()
    assert entries(backend) == 2
    assert isinstance(backend.sync.lookup(b"graceful", TAGS, CODEC), Missing)
    clock.advance(120)
    sweeper.step()
    assert entries(backend) == 1
    clock.advance(20)
    assert sweeper.step() == 1  # nothing is left that expires
    clock.advance(1_000)
    assert sweeper.step() == 0
    store(backend, "again", 5)
    clock.advance(20)
    assert (sweeper.step(), entries(backend)) == (1, 1)


def test_a_step_is_bounded_and_goes_on_at_once(
    clock: FakeClock, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_SWEPT_AT_ONCE", 10)
    backend = MemoryBackend(clock=clock, sweep=10)
    for n in range(95):
        store(backend, str(n), 5)
    clock.advance(20)
    left = []
    while sweeper.step():
        left.append(entries(backend))
    assert left == [85, 75, 65, 55, 45, 35, 25, 15, 5, 0]


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_it_can_be_turned_off(kind: str, make: Make, clock: FakeClock, sweeper: Sweeper) -> None:
    backend = make(kind, sweep=None)
    store(backend, "short", 5)
    if kind == "disk":
        await backend.flush()
    clock.advance(10_000)
    assert sweeper.step() == 0
    if kind == "disk":
        backend.sync._do(backend.sync.upkeep_job())
    assert entries(backend) == 1
    assert await backend.sweep() == 1  # by hand
    assert entries(backend) == 0


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "5", True])
def test_bad_input_is_refused_at_construction(bad: Any) -> None:
    for made in (lambda: MemoryBackend(sweep=bad), lambda: DiskBackend("unused.db", sweep=bad)):
        with pytest.raises(ConfigurationError, match="sweep="):
            made()


async def test_calls_do_not_see_a_sweep(clock: FakeClock, sweeper: Sweeper) -> None:
    configure(backend=MemoryBackend(clock=clock, sweep=10))
    runs = []

    @AgentCache("things", ttl=5)
    async def thing(n: int) -> int:
        runs.append(n)
        return n

    for _ in range(3):
        assert await thing(1) == 1
        assert await thing(1) == 1
        clock.advance(30)
        sweeper.step()
    assert runs == [1, 1, 1]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.floats(0, 100)),
            st.tuples(st.just("die"), st.integers(0, 30)),
            st.tuples(st.just("pass"), st.floats(0, 40)),
        ),
        max_size=150,
    ),
    st.sampled_from([0.5, 7.0]),
    st.sampled_from([1, 5, 1_000]),
)
def test_nothing_is_told_too_early_twice_or_never(steps: list[tuple[str, Any]], grain: float, most: int) -> None:
    class Thing:
        def __init__(self, ends: float) -> None:
            self.ends, self.dead = ends, False

    wheel: Expiring[Thing] = Expiring(grain)
    living: list[Thing] = []
    now = 0.0
    for what, value in steps:
        if what == "add":
            living.append(Thing(now + value))
            wheel.add(living[-1], now + value)
        elif what == "die" and living:
            living.pop(value % len(living)).dead = True
            wheel.forget()
        elif what == "pass":
            now += value
            more = True
            while more:
                found, more = wheel.over(now, most)
                assert len(found) <= most
                for thing in found:
                    assert thing.ends <= now
                    living.remove(thing)
                    thing.dead = True
                    wheel.forget()
            assert all(thing.ends > now - grain for thing in living)
        assert wheel.live == len(living)
        assert wheel._held <= max(64, 2 * len(living)) + 1


# -- the thread -----------------------------------------------------------------------------------------------------


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "agent_cache sweeper"]


def over(thread: threading.Thread) -> bool:
    thread.join(60)  # an upper bound, not a wait
    return not thread.is_alive()


def test_a_thread_of_its_own_drops_them_and_ends(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Sweeper()
    monkeypatch.setattr(memory, "SWEEPER", mine)
    backends = [MemoryBackend(clock=clock, sweep=0.001) for _ in range(3)]
    for backend in backends:
        store(backend, "for ever", None)
    assert mine._thread is None
    for backend in backends:
        store(backend, "short", 5)
    thread = mine._thread
    assert thread is not None
    assert thread.daemon
    clock.advance(100)
    assert over(thread)
    assert [entries(backend) for backend in backends] == [1, 1, 1]
    assert mine._thread is None
    store(backends[0], "again", 5)  # and again
    clock.advance(100)
    again = mine._thread
    assert again is None or over(again)
    assert entries(backends[0]) == 1


def test_it_holds_no_store(clock: FakeClock, sweeper: Sweeper) -> None:
    backend = MemoryBackend(clock=clock, sweep=10)
    store(backend, "short", 5)
    gone = weakref.ref(backend.sync)
    assert sweeper._until_next() == 10
    del backend
    gc.collect()
    assert gone() is None
    assert sweeper._until_next() is None  # its thread would end


def test_a_store_that_fails_does_not_stop_the_others(
    clock: FakeClock, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> float:
        raise RuntimeError("a clock that broke")

    bad, good = MemoryBackend(clock=clock, sweep=10), MemoryBackend(clock=clock, sweep=10)
    store(bad, "short", 5)
    store(good, "short", 5)
    bad.sync.clock = broken
    clock.advance(20)
    sweeper.step()
    assert entries(good) == 0
    assert len([record for record in caplog.records if "sweeping" in record.getMessage()]) == 1


def test_no_loop_is_kept_alive_and_several_may_come_and_go(clock: FakeClock, sweeper: Sweeper) -> None:
    backend = MemoryBackend(clock=clock, sweep=10)

    async def some(n: int) -> None:
        await backend.set(str(n), n, ttl=5)

    for n in range(3):
        asyncio.run(some(n))  # returns: nothing of ours is left in the loop
    clock.advance(20)
    sweeper.step()
    assert entries(backend) == 0


FORKED = """
import os, sys, threading
from agent_cache import MemoryBackend
from agent_cache.backends.sweeper import SWEEPER

backend = MemoryBackend(sweep=30)
backend.sync.set("k", 1, ttl=60)
assert SWEEPER._thread is not None
told, tell = os.pipe()
child = os.fork()
if not child:
    assert SWEEPER._thread is None and not SWEEPER._due
    assert backend.sync.get("k") is None
    backend.sync.set("k", 2, ttl=60)
    assert SWEEPER._thread.is_alive() and len(SWEEPER._due) == 1
    os.write(tell, b"fine")
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert os.read(told, 4) == b"fine"
assert SWEEPER._thread.is_alive() and len(SWEEPER._due) == 1
assert backend.sync.get("k") == 1
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_it_survives_a_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKED], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "forked\n", done.stderr


# -- disk -----------------------------------------------------------------------------------------------------------


async def test_a_file_is_swept_while_nobody_uses_it(make: Make, clock: FakeClock, sweeper: Sweeper) -> None:
    backend = make("disk", sweep=10)
    store(backend, "short", 5)
    store(backend, "graceful", 5, grace=200)
    await backend.set("kv", 1, ttl=5)
    await backend.set("for ever", 1)
    await backend.flush()
    assert entries(backend) == 4
    clock.advance(20)
    assert sweeper.step() == 1
    await backend.flush()  # the step was queued before this
    assert entries(backend) == 2
    clock.advance(300)
    sweeper.step()
    await backend.flush()
    assert entries(backend) == 1
    for _ in range(3):
        clock.advance(20)
        sweeper.step()
    assert not sweeper._due  # nothing is left that expires


async def test_a_file_that_was_closed_is_not_opened_for_it(make: Make, clock: FakeClock, sweeper: Sweeper) -> None:
    backend = make("disk", sweep=10)
    store(backend, "short", 5)
    await backend.flush()
    step = backend.sync.sweep_step
    await backend.close()
    clock.advance(20)
    assert sweeper.step() == 0
    assert step() is None
    assert backend.sync._writer._thread is None


def test_the_last_round_before_a_file_is_closed_asks_for_no_sweep(make: Make, sweeper: Sweeper) -> None:
    backend = make("disk", sweep=10)
    disk, closing = backend.sync, threading.Event()
    real_tidy, real_stop = disk.tidy, disk._writer.stop

    def tidy(db: Any, *, idle: bool) -> None:
        assert closing.wait(30)
        real_tidy(db, idle=idle)

    def stop(patience: float) -> None:
        closing.set()
        real_stop(patience)

    store(backend, "short", 5)
    disk.flush()
    disk.sweep()
    disk.tidy, disk._writer.stop = tidy, stop
    disk.sweep()  # its round is not over when it has its answer
    disk.close()
    assert not sweeper._due


# -- churn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"eviction": "cost"},
        {"eviction": "clock", "max_bytes": 200_000},
        {"quotas": {"": Quota(entries=50)}},
        {"sweep": None},
    ],
    ids=str,
)
async def test_memory_is_flat_under_churn(how: dict[str, Any], clock: FakeClock, sweeper: Sweeper) -> None:
    """New keys, old keys again with a ttl that never comes, writes, sessions' worth of expiry: for ever."""
    backend = MemoryBackend(max_size=200, clock=clock, **{"sweep": 10, **how})
    configure(backend=backend)

    @AgentCache("things:{n}", ttl=1_000_000, maxsize=None)
    async def lasting(n: int) -> str:
        return "x" * 100

    @AgentCache("things:{n}", ttl=5, maxsize=100)
    async def short(n: int) -> str:
        return "y" * 100

    @AgentCacheInvalidator("things:{n}")
    async def change(n: int) -> None: ...

    async def churn(rounds: range) -> None:
        for n in rounds:
            await lasting(n % 50)
            await lasting(n)
            await short(n)
            await backend.set(str(n % 40), n, ttl=1_000_000)
            await change(n % 50)
            if n % 100 == 0:
                clock.advance(1)
                sweeper.step()

    blocks = []  # of memory; counting them is quick, tracing each would take two thirds of the test's time
    for rounds in (range(800), range(800, 1_200), range(1_200, 2_200)):
        await churn(rounds)
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    # Queues hold up to as many dead entries as live ones: they are tidied now and then, by how long loads took too.
    assert blocks[2] - blocks[1] < 5_000, f"of each of 1,000 rounds something stays: {blocks}"
    expiring = backend.sync._expiring
    held = 0 if expiring is None else expiring._held
    assert held <= max(64, 2 * entries(backend)) + 1
    assert entries(backend) <= 200


async def test_a_file_is_flat_under_churn(make: Make, clock: FakeClock, sweeper: Sweeper) -> None:
    backend = make("disk", max_size=100, sweep=10, compress=True)
    sizes: list[int] = []
    for n in range(40):
        await backend.set_many({str(50 * n + k): f"{n}" * 1_000 for k in range(50)}, ttl=5 if n % 2 else 1_000)
        clock.advance(3)
        sweeper.step()
        await backend.flush()
        sizes.append(Path(backend.sync.path).stat().st_size)
        assert entries(backend) <= 100
    assert max(sizes[20:]) <= 1.5 * max(sizes[5:20])
