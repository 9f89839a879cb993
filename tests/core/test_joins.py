"""Joining a load by the arguments alone: only as long as nothing was written, by nobody whom it is not for, and counted as ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    MemoryBackend,
    configure,
    get_metrics,
    no_cache,
    refresh,
)
from agent_cache.backends.memory import MemoryStore
from agent_cache.context import ROOT, current_view
from agent_cache.engine import effects
from agent_cache.engine.outbox import OUTBOX
from agent_cache.model import CallEvent
from agent_cache.testing import FakeClock


class Slow:
    """A read of ``shop:{n}`` that waits inside until it is opened; each run returns its number in a list of its own."""

    def __init__(self, *, scope: str = "global", ttl: float | None = None) -> None:
        self.runs = self.cancelled = 0
        self.begun: dict[int, asyncio.Event] = {}
        self.open = asyncio.Event()
        self.error: BaseException | None = None
        self.result: Callable[[int], Any] = lambda run: [run]

        @AgentCache("shop:{n}", scope=scope, ttl=ttl)
        async def read(n: Any = 1) -> Any:
            self.runs += 1
            run = self.runs
            self.begun.setdefault(run, asyncio.Event()).set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if self.error is not None:
                raise self.error
            return self.result(run)

        self.read = read

    async def has_begun(self, run: int = 1) -> None:
        await asyncio.wait_for(self.begun.setdefault(run, asyncio.Event()).wait(), 5)
        await rounds()

    async def call(self, n: int = 1) -> asyncio.Task[Any]:
        """A caller, waiting."""
        task = asyncio.create_task(self.read(n))
        await rounds()
        return task


async def all_of(*tasks: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*tasks)


async def rounds(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every question put to a store in memory."""
    asked: list[object] = []
    ask = MemoryStore.lookup

    def asking(self: MemoryStore, key: Any, tags: Any, codec: Any) -> Any:
        asked.append(key)
        return ask(self, key, tags, codec)

    monkeypatch.setattr(MemoryStore, "lookup", asking)
    return asked


@AgentCacheInvalidator("shop:{n}")
async def write(n: int) -> None:
    await asyncio.sleep(0)


@AgentCacheInvalidator("elsewhere")
async def write_elsewhere() -> None:
    pass


# -- who joins --------------------------------------------------------------------------------------------------------------


async def test_a_crowd_asks_the_store_once_and_everyone_has_a_value_of_its_own(lookups: list[object]) -> None:
    slow = Slow()
    first = await slow.call()
    await slow.has_begun()
    others = [await slow.call() for _ in range(20)]
    assert len(lookups) == 1
    slow.open.set()
    values = await asyncio.gather(first, *others)
    assert values == [[1]] * 21
    assert len({id(value) for value in values}) == 21
    metrics = get_metrics()
    assert (slow.runs, metrics["misses"], metrics["coalesced"], metrics["hits"]) == (1, 1, 20, 0)
    assert await slow.read() == [1]


async def test_other_arguments_another_type_and_another_tool_do_not_join() -> None:
    slow, other = Slow(), Slow()
    tasks = [await slow.call(n) for n in (1, 2, True, 1.0, "1")]  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.append(await other.call(1))
    slow.open.set()
    other.open.set()
    values = await asyncio.gather(*tasks)
    assert values == [[1], [2], [3], [4], [5], [1]]


async def test_another_users_load_is_not_joined_and_ones_own_is() -> None:
    slow = Slow(scope="user")
    tasks = []
    for user in ("a", "b", "a"):
        async with AgentCacheSession("run", identity={"user": user}):
            tasks.append(asyncio.create_task(slow.read()))
            await rounds()
    slow.open.set()
    values = await asyncio.gather(*tasks)
    assert values[0] == values[2] != values[1]


async def test_a_session_scoped_load_is_its_sessions_alone() -> None:
    slow = Slow(scope="session")
    async with AgentCacheSession("one"):
        one = await slow.call()
        again = await slow.call()
        async with AgentCacheSession("two"):
            two = await slow.call()
        slow.open.set()
        values = await all_of(one, again, two)
    assert values == [[1], [1], [2]]


@pytest.mark.parametrize("mode", [no_cache, refresh])
async def test_a_read_that_is_to_run_live_joins_nothing(mode: Callable[[], Any]) -> None:
    slow = Slow()
    early = await slow.call()
    with mode():
        live = await slow.call()
        again = await slow.call()
    assert slow.runs == 3
    slow.open.set()
    assert await all_of(early, live, again) == [[1], [2], [3]]


async def test_nobody_joins_what_a_live_read_loads() -> None:
    slow = Slow()
    with no_cache():
        live = await slow.call()
    usual = await slow.call()
    slow.open.set()
    assert await all_of(live, usual) == [[1], [2]]


# -- until something is written -----------------------------------------------------------------------------------------------


async def _write(slow: Slow) -> None:
    await write(1)


async def _invalidate(slow: Slow) -> None:
    await slow.read.invalidate(1)


async def _invalidate_all(slow: Slow) -> None:
    await slow.read.invalidate_all()


async def _clear(slow: Slow) -> None:
    backend = configured()
    await backend.clear()


async def _refresh(slow: Slow) -> None:
    with refresh():
        task = await slow.call()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _write_that_fails(slow: Slow) -> None:
    @AgentCacheInvalidator("shop")
    async def failing() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await failing()


async def _write_that_is_cancelled(slow: Slow) -> None:
    @AgentCacheInvalidator("shop:{n}")
    async def hanging(n: int) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(hanging(1))
    await rounds()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _write_by_a_thread(slow: Slow) -> None:
    @AgentCacheInvalidator("shop:{n}")
    def blocking(n: int) -> None:
        pass

    await asyncio.to_thread(blocking, 1)


async def _configure_namespace(slow: Slow) -> None:
    configure(namespace="another")


async def _configure_backend(slow: Slow) -> None:
    configure(backend=MemoryBackend())


async def _configure_off(slow: Slow) -> None:
    configure(mode="off")


def configured() -> Any:
    from agent_cache.config import settings

    return settings.default_backend()


@pytest.mark.parametrize(
    "what",
    [
        _write,
        _invalidate,
        _invalidate_all,
        _clear,
        _refresh,
        _write_that_fails,
        _write_that_is_cancelled,
        _write_by_a_thread,
        _configure_namespace,
        _configure_backend,
        _configure_off,
    ],
)
async def test_who_comes_after_it_joins_nothing_from_before_it(what: Callable[[Slow], Awaitable[None]]) -> None:
    slow = Slow()
    early = await slow.call()
    riding = await slow.call()
    assert slow.runs == 1
    await what(slow)
    ran = slow.runs
    late = await slow.call()  # it may have to wait its turn, if the outcome of the write is unknown
    slow.open.set()
    assert await early == await riding == [1]
    assert await late == [ran + 1]


async def test_who_comes_while_a_write_runs_joins_nothing_from_before_it_nor_who_comes_after_what_began_in_it() -> None:
    slow = Slow()
    begun, finish = asyncio.Event(), asyncio.Event()

    @AgentCacheInvalidator("shop:{n}")
    async def long(n: int) -> None:
        begun.set()
        await finish.wait()

    before = await slow.call()
    writing = asyncio.create_task(long(1))
    await begun.wait()
    during = await slow.call()
    slow.open.set()
    assert await before == [1]
    slow.open.clear()
    await rounds()
    finish.set()
    await writing
    after = await slow.call()
    slow.open.set()
    (during_value,), (after_value,) = await asyncio.gather(during, after)
    assert 1 < during_value < after_value


async def test_a_write_elsewhere_costs_a_question_and_no_load(lookups: list[object]) -> None:
    slow = Slow()
    first = await slow.call()
    await write_elsewhere()
    second = await slow.call()
    assert (slow.runs, len(lookups)) == (1, 2)
    slow.open.set()
    assert await all_of(first, second) == [[1], [1]]


async def test_a_load_during_which_something_was_written_before_it_was_announced_is_not_joined() -> None:
    """What the tool itself invalidates in its first step counts like any other write."""
    runs = 0
    gate = asyncio.Event()

    @AgentCacheInvalidator("shop")
    def write_now() -> None:
        pass

    @AgentCache("shop")
    async def read() -> int:
        nonlocal runs
        runs += 1
        mine = runs
        if mine == 1:
            write_now()
        await gate.wait()
        return mine

    first = asyncio.create_task(read())
    await rounds()
    second = asyncio.create_task(read())
    await rounds()
    gate.set()
    assert await all_of(first, second) == [1, 2]


async def test_a_load_that_began_before_a_configuration_is_not_joined_after_it() -> None:
    runs = 0
    gate = asyncio.Event()

    @AgentCache("shop")
    async def read() -> int:
        nonlocal runs
        runs += 1
        mine = runs
        if mine == 1:
            configure(mode="off")
        await gate.wait()
        return mine

    first = asyncio.create_task(read())
    await rounds()
    second = asyncio.create_task(read())
    await rounds()
    assert runs == 2
    gate.set()
    assert await all_of(first, second) == [1, 2]


async def test_a_backend_that_is_owed_an_invalidation_is_asked(
    monkeypatch: pytest.MonkeyPatch, memory: MemoryBackend
) -> None:
    def away(*_: object) -> None:
        raise OSError("away")

    slow = Slow()
    early = await slow.call()
    with monkeypatch.context() as patch:
        for name in ("begin", "end", "move"):
            patch.setattr(MemoryStore, name, away)
        await write(1)
    assert OUTBOX.owed_to(memory)
    late = await slow.call()
    assert not OUTBOX.owed_to(memory)
    slow.open.set()
    assert await all_of(early, late) == [[1], [2]]
    assert memory.sync is not None


# -- arguments that can be changed ----------------------------------------------------------------------------------------------


async def test_a_tool_that_changes_its_argument_for_a_while_answers_nobody_who_asked_for_that() -> None:
    gate = asyncio.Event()

    @AgentCache("shop")
    async def count(things: list[str]) -> int:
        number = len(things)
        things.append("mark")
        try:
            await gate.wait()
            return number
        finally:
            things.pop()

    first = asyncio.create_task(count([]))
    await rounds()
    second = asyncio.create_task(count(["mark"]))
    third = asyncio.create_task(count([]))
    await rounds()
    gate.set()
    assert await all_of(first, second, third) == [0, 1, 0]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_changes_its_argument_meanwhile_changes_nobodys_answer(fails: bool) -> None:
    gate = asyncio.Event()
    ran: list[list[str]] = []

    @AgentCache("shop")
    async def count(things: list[str]) -> int:
        ran.append(list(things))
        await gate.wait()
        if fails and len(things) == 2:
            raise ValueError("two")
        return len(things)

    mine = ["a"]
    first = asyncio.create_task(count(mine))
    await rounds()
    assert ran == [["a"]]
    mine.append("b")
    second = asyncio.create_task(count(["a"]))
    third = asyncio.create_task(count(["x", "y", "z"]))
    await rounds()
    gate.set()
    await asyncio.gather(first, return_exceptions=True)
    if not fails:  # an error is everyone's who asked the same when it began
        assert await second == 1
    else:
        await asyncio.gather(second, return_exceptions=True)
    assert await third == 3
    assert await count(["a"]) == 1


# -- nobody waits for what cannot end ---------------------------------------------------------------------------------------------


async def test_a_tool_that_asks_for_itself_after_a_while_does_not_wait_for_itself() -> None:
    depth = 0

    @AgentCache("shop")
    async def read(n: int) -> int:
        nonlocal depth
        depth += 1
        await asyncio.sleep(0)
        return 1 if depth == 3 else 1 + await read(n)

    assert await asyncio.wait_for(read(1), 5) == 3


async def test_tools_that_ask_for_each_other_after_a_while_do_not_wait_in_a_circle() -> None:
    runs: list[str] = []
    both = asyncio.Barrier(2)

    @AgentCache("shop:a")
    async def a() -> str:
        runs.append("a")
        if runs.count("a") == 1:
            await both.wait()
            return "a" + await b()
        return "a"

    @AgentCache("shop:b")
    async def b() -> str:
        runs.append("b")
        if runs.count("b") == 1:
            await both.wait()
            return "b" + await a()
        return "b"

    values = await asyncio.wait_for(asyncio.gather(a(), b()), 5)
    assert sorted(value[0] for value in values) == ["a", "b"]


async def test_a_write_tool_waits_for_nobodys_load() -> None:
    slow = Slow()
    first = await slow.call()

    @AgentCacheInvalidator("elsewhere")
    async def writing() -> Any:
        slow.open.set()  # only we can let the load end, and only after we asked
        slow.open.clear()
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(0, slow.open.set)
        return await slow.read()

    value = await asyncio.wait_for(writing(), 5)
    assert slow.runs == 2
    assert value == [2]
    assert await first == [1]


async def test_a_loads_inner_write_waits_for_nobody_either() -> None:
    """Without a write to the store in between: the window is open on another one."""
    slow = Slow()
    first = await slow.call()

    @AgentCacheInvalidator("elsewhere", backend=MemoryBackend())
    async def writing() -> Any:
        task = asyncio.create_task(slow.read())
        await rounds()
        ran = slow.runs
        slow.open.set()
        await task
        return ran

    assert await asyncio.wait_for(writing(), 5) == 2
    assert await first == [1]


# -- who leaves -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [0, 1, 4])
async def test_cancelling_one_of_a_crowd_disturbs_no_other(who: int) -> None:
    slow = Slow()
    tasks = [await slow.call() for _ in range(5)]
    tasks[who].cancel()
    await rounds()
    late = await slow.call()
    slow.open.set()
    results = await asyncio.gather(*tasks, late, return_exceptions=True)
    assert isinstance(results.pop(who), asyncio.CancelledError)
    assert results == [[1]] * 5
    assert (slow.runs, slow.cancelled) == (1, 0)


@pytest.mark.parametrize("order", [1, -1])
async def test_when_the_last_of_a_crowd_leaves_the_load_ends_and_the_next_caller_has_a_new_one(order: int) -> None:
    slow = Slow()
    tasks = [await slow.call() for _ in range(4)]
    for task in tasks[::order]:
        task.cancel()
        await rounds(1)
    late = asyncio.create_task(slow.read())
    await asyncio.gather(*tasks, return_exceptions=True)
    slow.open.set()
    assert await late == [2]
    assert (slow.runs, slow.cancelled) == (2, 1)
    assert (len(effects.FLIGHTS), ROOT.loads) == (0, {})


@pytest.mark.parametrize("end", ["value", "error", "cancelled", "written"])
async def test_nothing_is_left_of_a_load_that_has_ended(end: str) -> None:
    slow = Slow()
    slow.error = ValueError("no") if end == "error" else None
    tasks = [await slow.call() for _ in range(3)]
    assert len(ROOT.loads) == 1
    if end == "cancelled":
        for task in tasks:
            task.cancel()
    if end == "written":
        await write(1)
        tasks.append(await slow.call())
    slow.open.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await rounds()
    assert (len(effects.FLIGHTS), ROOT.loads) == (0, {})


async def test_an_older_load_that_ends_does_not_hide_a_newer_one(lookups: list[object]) -> None:
    slow = Slow()
    old_gate, slow.open = slow.open, asyncio.Event()
    older = await slow.call()
    await slow.has_begun()
    slow.open, old_gate = old_gate, slow.open
    await write(1)
    newer = await slow.call()
    old_gate.set()
    assert await older == [1]
    asked = len(lookups)
    joining = await slow.call()
    assert len(lookups) == asked
    slow.open.set()
    assert await all_of(newer, joining) == [[2], [2]]


# -- how it ends --------------------------------------------------------------------------------------------------------------------


async def test_an_error_is_everyones_and_the_next_caller_tries_anew() -> None:
    slow = Slow()
    slow.error = ValueError("no")
    tasks = [await slow.call() for _ in range(5)]
    slow.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is slow.error for result in results)
    assert slow.runs == 1
    slow.error = None
    assert await slow.read() == [2]


async def test_what_cannot_be_copied_is_loaded_by_each_and_counted_so() -> None:
    slow = Slow()
    slow.result = lambda run: iter([run])
    tasks = [await slow.call() for _ in range(4)]
    slow.open.set()
    streams = await asyncio.gather(*tasks)
    assert sorted(next(stream) for stream in streams) == [1, 2, 3, 4]
    metrics = get_metrics()
    assert (slow.runs, metrics["misses"], metrics["coalesced"]) == (4, 4, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt("ctrl-c"), asyncio.CancelledError("the tool's own")])
async def test_an_interrupted_load_is_nobodys_answer(error: BaseException) -> None:
    runs = 0
    gate = asyncio.Event()

    @AgentCache("shop")
    async def read() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            await gate.wait()
            raise error
        return runs

    async def calling() -> int | str:
        try:
            return await read()
        except BaseException as caught:  # noqa: BLE001 - a task that ends with KeyboardInterrupt stops the loop
            return type(caught).__name__

    tasks = [asyncio.create_task(calling()) for _ in range(3)]
    await rounds()
    gate.set()
    assert await all_of(*tasks) == [type(error).__name__, 2, 2]


async def test_observers_hear_of_every_caller() -> None:
    heard: list[str] = []

    class Observer:
        def on_event(self, event: object) -> None:
            if isinstance(event, CallEvent):
                heard.append(event.outcome)

    configure(observers=[Observer()])
    slow = Slow()
    tasks = [await slow.call() for _ in range(4)]
    slow.open.set()
    await asyncio.gather(*tasks)
    assert sorted(heard) == ["coalesced"] * 3 + ["miss"]


# -- the loop guard -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crowd", [1, 30])
async def test_a_crowd_counts_as_one_call_and_repeats_are_found_as_soon_as_ever(crowd: int) -> None:
    slow = Slow()
    async with AgentCacheSession(max_tool_repeats=3, max_execution_depth=20):
        tasks = [await slow.call() for _ in range(crowd)]
        slow.open.set()
        await asyncio.gather(*tasks)
        for _ in range(2):
            await slow.read()
        with pytest.raises(AgentLoopDetectedError):
            await slow.read()


async def test_a_session_whose_turn_is_new_joins_as_ever() -> None:
    slow = Slow()
    async with AgentCacheSession() as session:
        first = await slow.call()
        session.new_turn()
        second = await slow.call()
        slow.open.set()
        assert await all_of(first, second) == [[1], [1]]
        assert current_view().loads == {}
    assert slow.runs == 1


# -- loops and threads ------------------------------------------------------------------------------------------------------------------


def test_callers_on_other_loops_share_the_load_and_are_woken() -> None:
    runs = 0
    begun, finish = threading.Event(), threading.Event()
    asking = threading.Semaphore(0)

    @AgentCache("shop")
    async def read() -> list[int]:
        nonlocal runs
        runs += 1
        begun.set()
        while not finish.is_set():  # a thread's event: nothing to await
            await asyncio.sleep(0.001)
        return [runs]

    async def ask() -> list[int]:
        task = asyncio.create_task(read())
        await rounds()
        asking.release()
        return await task

    values: list[list[int]] = []

    def on_a_loop_of_its_own() -> None:
        loop = asyncio.new_event_loop()
        values.append(loop.run_until_complete(ask()))
        loop.close()

    threads = [threading.Thread(target=on_a_loop_of_its_own) for _ in range(5)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    for _ in threads:
        assert asking.acquire(timeout=10)
    finish.set()
    for thread in threads:
        thread.join(10)
    assert (values, runs) == ([[1]] * 5, 1)
    assert len({id(value) for value in values}) == 5


def test_a_load_on_a_loop_that_stands_still_is_given_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    wait = asyncio.wait

    async def looking(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        looks.append(timeout)
        return await wait(*args, timeout=0 if timeout is not None else None, **kwargs)

    monkeypatch.setattr(asyncio, "wait", looking)
    hangs = True

    @AgentCache("shop", cache_if=lambda _: False)
    async def read() -> int:
        if hangs:
            await asyncio.Event().wait()
        return 1

    async def begin() -> asyncio.Task[int]:
        task = asyncio.create_task(read())
        await rounds()
        return task

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    left = first.run_until_complete(begin())
    hangs = False
    assert second.run_until_complete(read()) == 1
    given_up = len(looks)
    assert given_up > 0
    for _ in range(3):
        assert second.run_until_complete(read()) == 1
    assert len(looks) == given_up
    left.cancel()
    first.run_until_complete(asyncio.gather(left, return_exceptions=True))
    first.run_until_complete(rounds())
    first.close()
    second.close()


async def test_an_entry_that_expires_under_a_load_is_loaded_anew_once(clock: FakeClock, lookups: list[object]) -> None:
    slow = Slow(ttl=10)
    slow.open.set()
    assert await slow.read() == [1]
    slow.open.clear()
    clock.advance(10)
    tasks = [await slow.call() for _ in range(5)]
    slow.open.set()
    assert await all_of(*tasks) == [[2]] * 5
    assert len(lookups) == 2
