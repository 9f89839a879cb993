"""The clock and the loop the litmus runs on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent_cache.testing import FakeClock, HangError, run_virtual


def test_a_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(5.0)
    assert clock() == clock() == 5.0
    clock.advance(2.5)
    assert clock() == 7.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_a_fake_clock_can_run_ahead_of_another() -> None:
    base = FakeClock(10.0)
    clock = FakeClock(0.0, base=base)
    base.advance(1)
    clock.advance(100)
    assert clock() == 111.0
    assert base() == 11.0


def test_time_jumps_to_the_next_timer() -> None:
    async def long() -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(asyncio.sleep(3_600), asyncio.sleep(86_400))
        return asyncio.get_running_loop().time() - began

    assert run_virtual(long) == pytest.approx(86_400)


def test_a_hang_is_an_error_that_says_who_waits() -> None:
    async def stuck() -> None:
        await asyncio.sleep(1)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(HangError, match=r"no timer is set(.|\n)*test_clock\.py"):
        run_virtual(stuck)


def test_waiting_for_ever_in_small_steps_is_a_hang_too() -> None:
    async def polling() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(HangError, match="still waiting after 100 virtual seconds"):
        run_virtual(polling, limit=100)


def test_work_in_a_thread_is_waited_for_and_is_no_hang() -> None:
    async def asks_a_thread() -> str:
        go = threading.Event()
        asyncio.get_running_loop().call_soon(go.set)

        def work() -> str:
            go.wait(10)
            return "done"

        return await asyncio.to_thread(work)

    assert run_virtual(asks_a_thread) == "done"


def test_a_seed_shuffles_what_is_ready_and_always_in_the_same_way() -> None:
    async def order() -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            seen.append(number)

        await asyncio.gather(*(note(number) for number in range(20)))
        return seen

    assert run_virtual(order) == list(range(20))
    assert run_virtual(order, seed=1) == run_virtual(order, seed=1) != list(range(20))
    assert sorted(run_virtual(order, seed=2)) == list(range(20))


def test_tasks_left_over_are_cancelled() -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append("child")

    async def main() -> str:
        task = asyncio.get_running_loop().create_task(child())
        await asyncio.sleep(1)
        assert not task.done()
        return "main"

    assert run_virtual(main) == "main"
    assert ended == ["child"]
