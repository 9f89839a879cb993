"""One load, however many ask; nobody waits for what cannot end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    MemoryBackend,
    configure,
    get_metrics,
    refresh,
)
from agent_cache.context import ROOT as ROOT_VIEW
from agent_cache.engine import effects
from agent_cache.flight import ThreadFlight
from agent_cache.testing import FakeClock, run_virtual

ROOT = Path(__file__).parents[2]


class Gate:
    """An async read that waits inside until it is opened."""

    def __init__(self) -> None:
        self.runs = self.cancelled = 0
        self.begun, self.open = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

        @AgentCache("gate")
        async def read() -> list[int]:
            self.runs += 1
            number = self.runs
            self.begun.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if self.error is not None:
                raise self.error
            return [number]

        self.read = read


async def rounds(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_hundred_callers_one_load_each_its_own_value() -> None:
    gate = Gate()
    tasks = [asyncio.create_task(gate.read()) for _ in range(100)]
    await gate.begun.wait()
    await rounds()
    gate.open.set()
    values = await asyncio.gather(*tasks)
    assert gate.runs == 1
    assert values == [[1]] * 100
    assert len({id(value) for value in values}) == 100
    metrics = get_metrics()
    assert (metrics["misses"], metrics["coalesced"]) == (1, 99)


@pytest.mark.parametrize("who", [0, 1, 9])
async def test_cancelling_one_caller_disturbs_no_other(who: int) -> None:
    gate = Gate()
    tasks = [asyncio.create_task(gate.read()) for _ in range(10)]
    await gate.begun.wait()
    await rounds()
    tasks[who].cancel()
    await rounds()
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(who), asyncio.CancelledError)
    assert results == [[1]] * 9
    assert (gate.runs, gate.cancelled) == (1, 0)


async def test_when_the_last_caller_leaves_the_load_is_cancelled() -> None:
    gate = Gate()
    tasks = [asyncio.create_task(gate.read()) for _ in range(10)]
    await gate.begun.wait()
    await rounds()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await rounds()
    assert gate.cancelled == 1
    assert len(effects.FLIGHTS) == 0
    gate.open.set()
    assert await gate.read() == [2]


async def test_a_timeout_of_the_only_caller_ends_the_load() -> None:
    gate = Gate()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gate.read(), timeout=0.001)
    await rounds()
    assert gate.cancelled == 1


async def test_an_exception_is_shared_and_not_cached() -> None:
    gate = Gate()
    gate.error = ValueError("no")
    tasks = [asyncio.create_task(gate.read()) for _ in range(10)]
    await gate.begun.wait()
    await rounds()
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is gate.error for result in results)
    assert gate.runs == 1
    gate.error = None
    assert await gate.read() == [2]


async def test_different_arguments_do_not_wait_for_each_other() -> None:
    both = asyncio.Barrier(2)

    @AgentCache("x")
    async def read(n: int) -> int:
        await both.wait()
        return n

    assert await asyncio.gather(read(1), read(2)) == [1, 2]


async def test_results_that_cannot_be_copied_are_loaded_for_each_caller() -> None:
    @AgentCache("x")
    async def read() -> Any:
        await asyncio.sleep(0)
        return iter([1, 2])

    streams = await asyncio.gather(read(), read(), read())
    assert [list(stream) for stream in streams] == [[1, 2]] * 3


def test_a_tool_may_call_itself_with_equal_arguments() -> None:
    depth = 0

    @AgentCache("x")
    async def read() -> int:
        nonlocal depth
        depth += 1
        return 1 if depth == 3 else 1 + await read()

    assert run_virtual(read) == 3


def test_two_tools_that_wait_for_each_other_do_not_hang() -> None:
    state = {"a": 0, "b": 0}

    @AgentCache("a")
    async def a() -> str:
        state["a"] += 1
        await asyncio.sleep(1)
        return "a" + (await b() if state["a"] == 1 else "")

    @AgentCache("b")
    async def b() -> str:
        state["b"] += 1
        await asyncio.sleep(1)
        return "b" + (await a() if state["b"] == 1 else "")

    async def both() -> list[str]:
        return await asyncio.gather(a(), b())

    for value in run_virtual(both):
        assert set(value) == {"a", "b"}


def test_a_gather_inside_a_load_may_come_back_to_it() -> None:
    entered = 0

    @AgentCache("x")
    async def outer() -> int:
        nonlocal entered
        entered += 1
        if entered > 1:
            return 0
        return sum(await asyncio.gather(inner(1), inner(2)))

    @AgentCache("y")
    async def inner(n: int) -> int:
        await asyncio.sleep(1)
        return n + await outer()

    assert run_virtual(outer) == 3


async def test_a_reader_after_a_write_does_not_join_an_older_load() -> None:
    gate = Gate()

    @AgentCacheInvalidator("gate")
    async def write() -> None: ...

    before = asyncio.create_task(gate.read())
    await gate.begun.wait()
    await write()
    after = asyncio.create_task(gate.read())
    await rounds()
    assert gate.runs == 2
    gate.open.set()
    assert (await before, await after) == ([1], [2])
    assert await gate.read() == [2]
    assert get_metrics()["fenced_out"] == 1


async def test_one_load_and_one_queued_while_a_write_runs() -> None:
    gate, writing = Gate(), asyncio.Event()

    @AgentCacheInvalidator("gate")
    async def write() -> None:
        await writing.wait()

    task = asyncio.create_task(write())
    await rounds()
    first = [asyncio.create_task(gate.read()) for _ in range(10)]
    await gate.begun.wait()
    second = [asyncio.create_task(gate.read()) for _ in range(10)]
    await rounds()
    assert gate.runs <= 1
    gate.open.set()
    await asyncio.gather(*first, *second)
    assert gate.runs <= 2
    writing.set()
    await task
    assert (await gate.read.explain()).status == "miss"


async def test_a_read_inside_a_write_tool_does_not_wait_for_others() -> None:
    gate = Gate()
    seen = []

    @AgentCacheInvalidator("gate")
    async def write() -> None:
        gate.open.set()
        seen.append(await gate.read())

    before = asyncio.create_task(gate.read())
    await gate.begun.wait()
    await write()
    assert seen == [[2]]
    await before
    assert (await gate.read.explain()).status == "miss"


async def test_the_load_sees_the_callers_context() -> None:
    @AgentCache("x", scope="session")
    async def read() -> str:
        return "live"

    async with AgentCacheSession():
        assert await read() == "live"
        assert await read.explain()


def test_a_second_event_loop_uses_what_the_first_stored() -> None:
    runs = []

    @AgentCache("x")
    async def read() -> int:
        runs.append(1)
        await asyncio.sleep(0)
        return len(runs)

    async def many() -> list[int]:
        return await asyncio.gather(*(read() for _ in range(5)))

    assert asyncio.run(many()) == asyncio.run(many()) == [1] * 5


def test_a_loop_that_ended_in_the_middle_of_a_load_blocks_nobody() -> None:
    block = True
    runs = []

    @AgentCache("x")
    async def read() -> int:
        runs.append(1)
        if block:
            await asyncio.Event().wait()
        return len(runs)

    async def leave() -> None:
        task = asyncio.create_task(read())
        await rounds()
        assert not task.done()

    asyncio.run(leave())
    block = False
    assert asyncio.run(read()) == 2


def _in_threads(work: Callable[[], Any], count: int) -> list[Any]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            results.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a thread hangs"
    return results


def test_event_loops_in_threads_share_one_load() -> None:
    runs, waiting, go_on = [], threading.Semaphore(0), threading.Event()

    @AgentCache("x")
    async def read() -> list[int]:
        runs.append(1)
        await asyncio.to_thread(go_on.wait, 30)
        return [1]

    async def ask() -> list[int]:
        task = asyncio.create_task(read())
        await rounds()
        waiting.release()
        return await task

    def opener() -> None:
        for _ in range(6):
            waiting.acquire(timeout=30)
        go_on.set()

    thread = threading.Thread(target=opener)
    thread.start()
    values = _in_threads(lambda: asyncio.run(ask()), 6)
    thread.join(30)
    assert values == [[1]] * 6
    assert len(runs) == 1


def test_threads_share_one_load() -> None:
    barrier, runs, entered = threading.Barrier(20), [], threading.Event()

    @AgentCache("x")
    def read() -> list[int]:
        runs.append(1)
        entered.wait(30)
        return [1]

    def call() -> list[int]:
        if barrier.wait(30) == 0:
            entered.set()
        return read()

    values = _in_threads(call, 20)
    assert values == [[1]] * 20
    assert len({id(value) for value in values}) == 20
    assert len(runs) == 1


def test_threads_share_an_exception() -> None:
    barrier = threading.Barrier(8)

    @AgentCache("x")
    def read() -> int:
        raise ValueError("no")

    def call() -> int:
        barrier.wait(30)
        return read()

    assert {type(result) for result in _in_threads(call, 8)} == {ValueError}


def test_two_threads_whose_loads_want_each_other_do_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    both_in, alone = threading.Barrier(2), threading.Event()
    state = {"a": 0, "b": 0}
    plain_ride = ThreadFlight.ride

    def ride(flight: ThreadFlight, *, share: bool = True) -> Any:
        # The first rider begins to wait only when the other has decided what to do.
        if not first_rider.acquire(blocking=False):
            alone.set()
        assert alone.wait(30)
        return plain_ride(flight, share=share)

    first_rider = threading.Semaphore(1)
    monkeypatch.setattr(ThreadFlight, "ride", ride)

    @AgentCache("a")
    def a() -> str:
        state["a"] += 1
        if state["a"] > 1:
            alone.set()
            return "a"
        both_in.wait(30)
        return "a" + b()

    @AgentCache("b")
    def b() -> str:
        state["b"] += 1
        if state["b"] > 1:
            alone.set()
            return "b"
        both_in.wait(30)
        return "b" + a()

    threads = [threading.Thread(target=call, daemon=True) for call in (a, b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)


def test_hits_are_counted_exactly_over_threads() -> None:
    @AgentCache("x")
    def read(n: int) -> int:
        return n

    read(1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        _in_threads(lambda: [read(1) for _ in range(3_000)] and None, 6)
    finally:
        sys.setswitchinterval(interval)
    assert get_metrics()["hits"] == 18_000


def test_two_drains_at_once_count_each_hit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Log(list[Any]):
        """Lets another thread count between a drain's look at the log and what it does next."""

        interrupted = False

        def __getitem__(self, index: Any) -> Any:
            batch = super().__getitem__(index)
            if isinstance(index, slice) and not self.interrupted:
                self.interrupted = True
                other = threading.Thread(target=ROOT_VIEW.drain)
                other.start()
                other.join(1)  # at once, or blocked until this drain is over
            return batch

    @AgentCache("x")
    def read() -> int:
        return 1

    monkeypatch.setattr(ROOT_VIEW, "log", Log())
    for _ in range(12):
        read()
    get_metrics()
    assert get_metrics()["hits"] == 11


def test_sync_tool_called_on_an_event_loop_does_not_wait_for_a_thread() -> None:
    entered, go_on = threading.Event(), threading.Event()
    runs = []

    @AgentCache("x")
    def read() -> int:
        runs.append(1)
        if len(runs) == 1:
            entered.set()
            go_on.wait(30)
        return 1

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait(30)

    async def on_the_loop() -> int:
        return read()

    assert asyncio.run(on_the_loop()) == 1
    go_on.set()
    thread.join(30)
    assert len(runs) == 2


def _script(body: str) -> None:
    code = textwrap.dedent(body)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@forks
def test_a_forked_child_starts_empty_and_does_not_hang() -> None:
    _script(
        """
        import asyncio, os, signal, threading
        from agent_cache import AgentCache, AgentCacheSession, get_metrics

        runs, entered, go_on = [], threading.Event(), threading.Event()

        @AgentCache("x")
        def read(n: int) -> int:
            runs.append(n)
            if n == 2 and os.getpid() == parent:
                entered.set()
                go_on.wait(30)
            return n

        @AgentCache("y")
        async def async_read() -> int:
            return 1

        parent = os.getpid()
        for _ in range(3):
            read(1)
        thread = threading.Thread(target=read, args=(2,))
        thread.start()
        entered.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            runs.clear()
            assert read(1) == 1 and runs == [1], runs  # starts empty
            assert read(2) == 2                        # does not wait for a thread it does not have
            assert asyncio.run(async_read()) == 1
            with AgentCacheSession():
                assert read(3) == 3
            get_metrics()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go_on.set()
        thread.join(30)
        before = len(runs)
        assert read(1) == 1 and len(runs) == before    # the parent keeps what it had
        assert os.waitstatus_to_exitcode(status) == 0, status
        """
    )


@forks
@pytest.mark.parametrize(
    "lock",
    [
        "agent_cache.context.PROCESS._lock",
        "agent_cache.config.settings.lock",
        "agent_cache.config.settings.notices._lock",
        "agent_cache.session._live.lock",
        "agent_cache.engine.effects.FLIGHTS.lock",
    ],
)
def test_a_fork_while_another_thread_holds_a_lock_does_not_hang_the_child(lock: str) -> None:
    _script(
        f"""
        import os, signal, threading
        import agent_cache.context, agent_cache.config, agent_cache.session, agent_cache.engine.effects
        from agent_cache import AgentCache, AgentCacheSession, get_metrics

        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with {lock}:
                held.set()
                go_on.wait(30)

        @AgentCache("x")
        def read(what: object) -> int:
            return 1

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(3)  # ends a child that hangs
            with AgentCacheSession():
                read(1), read(object())
            get_metrics()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go_on.set()
        thread.join(30)
        assert os.waitstatus_to_exitcode(status) == 0, status
        """
    )


async def test_refreshing_callers_store_what_they_loaded(clock: FakeClock) -> None:
    configure(backend=MemoryBackend(clock=clock))
    value = 0

    @AgentCache("x")
    async def read() -> int:
        return value

    await read()
    value = 1
    assert await read() == 0
    with refresh():
        assert await read() == 1
    assert await read() == 1
