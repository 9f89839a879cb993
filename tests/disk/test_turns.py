"""What callers do to the file is spread over the rounds of the event loop: lookups, loads that begin, loads that come back."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, BackendError, DiskBackend
from agent_cache.backends.disk import turns
from agent_cache.backends.disk.store import EntryStore
from agent_cache.backends.disk.turns import turn


class Rounds:
    """Counts the rounds of the running event loop."""

    def __init__(self) -> None:
        self.now = 0
        self._next()

    def _next(self) -> None:
        self.now += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


def no_long_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running event loop's clock stands still."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)


def noted(monkeypatch: pytest.MonkeyPatch, name: str, rounds: Rounds) -> list[int]:
    """In which rounds this method of the store is called from now on."""
    called_in, real = list[int](), getattr(EntryStore, name)

    def called(store: EntryStore, *given: Any) -> Any:
        called_in.append(rounds.now)
        return real(store, *given)

    monkeypatch.setattr(EntryStore, name, called)
    return called_in


async def test_loads_that_come_back_at_once_are_stored_in_a_round_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()
    async with DiskBackend(tmp_path / "cache.db") as backend:

        @AgentCache(resource="page:{number}", scope="global", backend=backend)
        async def page(number: int) -> str:
            await answered.wait()
            return f"page {number}"

        calls = [asyncio.ensure_future(page(number)) for number in range(8)]
        while len(answered._waiters) < 8:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        no_long_rounds(monkeypatch)
        for _ in range(3):
            await asyncio.sleep(0)
        rounds = Rounds()
        stored_in = noted(monkeypatch, "fill_now", rounds)
        answered.set()
        assert await asyncio.gather(*calls) == [f"page {number}" for number in range(8)]
        rounds.stop()
    assert len(stored_in) == 8
    assert len(set(stored_in)) == 8, f"several in one round: {stored_in}"


async def test_what_never_waited_goes_on_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DiskBackend(tmp_path / "cache.db") as backend:

        @AgentCache(resource="page:{number}", scope="global", backend=backend)
        async def page(number: int) -> int:
            return number

        await page(-1)
        rounds = Rounds()
        led_in, stored_in = noted(monkeypatch, "lead_now", rounds), noted(monkeypatch, "fill_now", rounds)
        for number in range(3):
            await page(number)
        rounds.stop()
    assert len(stored_in) == 3
    assert stored_in == led_in


async def test_the_first_of_a_round_goes_on_and_the_others_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert turn(1) is None
    others = [turn(1) for _ in range(3)]
    done: list[int] = []
    for number, other in enumerate(others):
        assert other is not None
        other.add_done_callback(lambda _, number=number: done.append(number))  # type: ignore[misc]
    await asyncio.sleep(0)
    for have_gone in ([], [0], [0, 1], [0, 1, 2]):
        assert done == have_gone
        await asyncio.sleep(0)
    assert turn(1) is None, "the queue is empty again"


async def test_what_takes_a_small_share_waits_when_the_round_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert [turn(1 / 4) for _ in range(4)] == [None] * 4
    waiting = [turn(1 / 4) for _ in range(6)]
    assert turn(1 / 16) is not None, "no one overtakes"
    await asyncio.sleep(0)
    assert [each is not None and each.done() for each in waiting] == [True] * 4 + [False] * 2
    await asyncio.sleep(0)
    assert [each is not None and each.done() for each in waiting] == [True] * 6


async def test_what_does_not_fit_into_the_rest_of_a_round_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert turn(1 / 8) is None
    assert turn(7 / 8) is None, "it fills the round"
    await asyncio.sleep(0)
    assert turn(1 / 8) is None
    large, small, larger = turn(1), turn(1 / 8), turn(7 / 8)
    for have_gone in ([], [large], [large, small, larger]):
        gone = [each for each in (large, small, larger) if each is not None and each.done()]
        assert gone == have_gone
        await asyncio.sleep(0)


async def test_what_is_larger_than_a_round_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert turn(2) is None
    next_one = turn(2)
    assert next_one is not None
    await asyncio.sleep(0)
    assert next_one.done()


async def test_lookups_of_a_crowd_are_spread_over_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DiskBackend(tmp_path / "cache.db") as backend:

        @AgentCache(resource="page:{number}", scope="global", backend=backend)
        async def page(number: int) -> int:
            await asyncio.sleep(0)
            return number

        await page(-1)
        no_long_rounds(monkeypatch)
        rounds = Rounds()
        begun, led = noted(monkeypatch, "found_now", rounds), noted(monkeypatch, "lead_now", rounds)
        assert await asyncio.gather(*[page(number) for number in range(100)]) == list(range(100))
        rounds.stop()
    assert len(begun) == len(led) == 100
    assert max(begun.count(one) for one in begun) <= 8
    assert max(led.count(one) for one in led) <= 1


async def test_where_others_make_the_rounds_long_more_go_on_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, late = asyncio.get_running_loop(), 0.0
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + late)
    assert turn(1) is None
    waiting = [turn(1) for _ in range(40)]
    done = 0
    for took, more in ((0.0001, 1), (0.0035, 3), (1.0, 8), (0.0, 1)):
        late += took
        await asyncio.sleep(0)
        now_done = sum(each is not None and each.done() for each in waiting)
        assert now_done - done == more, took
        done = now_done
    while not all(each is not None and each.done() for each in waiting):
        await asyncio.sleep(0)


async def test_one_that_is_cancelled_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert turn(1) is None
    gone, next_one = turn(1), turn(1)
    assert gone is not None
    assert next_one is not None
    gone.cancel()
    await asyncio.sleep(0)
    assert next_one.done()


async def test_one_that_is_cancelled_and_would_not_fit_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert turn(1) is None
    first, gone, next_one = turn(1 / 8), turn(1), turn(1 / 8)
    assert first is not None
    assert gone is not None
    assert next_one is not None
    gone.cancel()
    await asyncio.sleep(0)
    assert first.done()
    assert next_one.done()


async def test_what_goes_on_slowly_gets_no_more_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, late = asyncio.get_running_loop(), 0.0
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + late)
    rounds, went_on_in = Rounds(), list[int]()

    async def slow() -> None:
        nonlocal late
        waiter = turn(1)
        if waiter is not None:
            await waiter
        went_on_in.append(rounds.now)
        late += 0.02

    await asyncio.gather(*[slow() for _ in range(12)])
    rounds.stop()
    assert len(went_on_in) == len(set(went_on_in)) == 12, went_on_in


async def test_an_interrupt_leaves_nobody_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    no_long_rounds(monkeypatch)
    assert turn(1) is None
    waiter = turn(1)
    assert waiter is not None
    interrupted = list[str]()
    monkeypatch.setattr(asyncio.get_running_loop(), "call_exception_handler", lambda _: interrupted.append("once"))
    real = turns._Queue.let_go

    def raising(queue: turns._Queue) -> None:
        monkeypatch.setattr(turns._Queue, "let_go", real)
        raise RuntimeError

    monkeypatch.setattr(turns._Queue, "let_go", raising)
    for _ in range(3):
        await asyncio.sleep(0)
    assert interrupted == ["once"]
    assert waiter.done()


async def test_what_was_loaded_is_kept_though_its_caller_left_before_its_turn(tmp_path: Path) -> None:
    runs = 0
    async with DiskBackend(tmp_path / "cache.db") as backend:

        @AgentCache(resource="page", scope="global", backend=backend)
        async def page() -> str:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0)
            for _ in range(5):  # others came back in this round
                turn(1)
            asyncio.get_running_loop().call_soon(call.cancel)
            return "text"

        await backend.flush()
        call = asyncio.ensure_future(page())
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await page() == "text"
    assert runs == 1


def test_a_loop_waits_for_no_other_and_is_not_held() -> None:
    async def first() -> weakref.ref[Any]:
        assert turn(1) is None
        assert turn(1) is not None  # left behind
        return weakref.ref(asyncio.get_running_loop())

    async def second() -> None:
        assert turn(1) is None

    loop = asyncio.run(first())
    gc.collect()
    assert loop() is None
    asyncio.run(second())


async def test_a_fill_that_fails_while_its_caller_is_cancelled_does_not_hide_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> bool:
        raise BackendError("the disk is gone")

    monkeypatch.setattr(EntryStore, "fill_now", refused)
    async with DiskBackend(tmp_path / "cache.db") as backend:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nothing: Any = None
        filling = asyncio.ensure_future(backend._waited(waiter, nothing, nothing, None))
        await asyncio.sleep(0)
        filling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await filling
