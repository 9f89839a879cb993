"""A load has a task of its own, begun at once where Python can: what a tool does with its task concerns nobody else.

Nothing here asks how the task is made; everything must hold whether the first step is taken at once or a round later.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from agent_cache import AgentCache
from agent_cache.context import ROOT
from agent_cache.engine import effects
from agent_cache.testing import VirtualTimeLoop

T = TypeVar("T")
ROOT_FOLDER = Path(__file__).parents[2]
Body = Callable[[], Awaitable[Any]]


def tool_of(body: Body) -> Callable[[], Awaitable[Any]]:
    """A cached read that does this."""

    @AgentCache("x")
    async def read() -> Any:
        return await body()

    return read


def on_a_loop(main: Callable[[], Coroutine[Any, Any, T]], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """Run on a loop of our own, which nobody else knows of."""
    loop = loop or asyncio.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def in_no_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run where time passes only when all wait for it."""
    return on_a_loop(main, VirtualTimeLoop())


async def rounds(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def nothing_is_left() -> bool:
    return len(effects.FLIGHTS) == 0 and not ROOT.loads


# -- whose task it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_load_is_one_task_from_beginning_to_end_and_the_caller_has_its_own_back(
    waits: bool, fails: bool
) -> None:
    seen: list[object] = []

    async def body() -> int:
        seen.append(asyncio.current_task())
        for _ in range(3 if waits else 0):
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())
        if fails:
            raise ValueError("no")
        return 1

    me = asyncio.current_task()
    try:
        await tool_of(body)()
    except ValueError:
        assert fails
    assert asyncio.current_task() is me
    assert len(set(seen)) == 1
    assert me not in seen


async def test_every_load_has_another_task_even_if_none_ever_waits() -> None:
    """What is kept by task (a scoped database session, a timeout) must not come to the next user's load."""
    kept: dict[object, int] = {}

    @AgentCache("x:{user}")
    async def read(user: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        return kept.setdefault(task, user)

    assert [await read(user) for user in range(20)] == list(range(20))


async def test_a_load_inside_a_load_has_a_task_of_its_own_too() -> None:
    tasks: list[object] = []

    @AgentCache("inner")
    async def inner(waits: bool) -> int:
        tasks.append(asyncio.current_task())
        if waits:
            await asyncio.sleep(0)
        return 1

    @AgentCache("outer")
    async def outer() -> int:
        before = asyncio.current_task()
        total = await inner(False) + await inner(True)
        assert asyncio.current_task() is before
        tasks.append(before)
        await asyncio.sleep(0)
        assert asyncio.current_task() is before
        return total

    assert await outer() == 2
    assert len({*tasks, asyncio.current_task()}) == 4


async def test_a_tool_may_ask_about_its_own_coroutine_at_any_time() -> None:
    async def body() -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        states: list[str] = []
        for _ in range(2):
            states.append(inspect.getcoroutinestate(task.get_coro()))  # type: ignore[arg-type, unused-ignore]  # pyright: ignore[reportArgumentType]
            assert task.get_stack()
            assert "pending" in repr(task)
            await asyncio.sleep(0)
        return states

    assert await tool_of(body)() == [inspect.CORO_RUNNING] * 2


# -- what it waits for ------------------------------------------------------------------------------------------------------


async def test_several_loads_may_await_one_future_in_one_round() -> None:
    connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @AgentCache("x")
    async def read(number: int) -> int:
        return number + await connected

    async def other() -> int:
        return await connected

    tasks = [asyncio.create_task(read(1)), asyncio.create_task(other()), *map(asyncio.create_task, (read(2), read(3)))]
    await rounds()
    connected.set_result(10)
    assert await asyncio.gather(*tasks) == [11, 10, 12, 13]


async def test_a_future_that_is_done_and_one_that_ends_meanwhile() -> None:
    loop = asyncio.get_running_loop()
    done, soon = loop.create_future(), loop.create_future()
    done.set_result(1)
    loop.call_soon(soon.set_result, 2)

    async def body() -> int:
        first: int = await done
        second: int = await soon
        return first + second

    assert await tool_of(body)() == 3


async def test_what_cannot_be_awaited_is_told_to_the_tool() -> None:
    class Wrong:
        def __await__(self) -> Any:
            yield 5

    async def body() -> str:
        try:
            await Wrong()
        except RuntimeError as error:
            return str(error)
        return "?"

    assert "5" in await tool_of(body)()


async def body_timeout(seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            await asyncio.sleep(1_000)
    except TimeoutError:
        task = asyncio.current_task()
        assert task is not None
        return f"timed out, {task.cancelling()} cancellations"
    return "?"


async def body_group_fails() -> str:
    async def child() -> None:
        raise ValueError("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.sleep(1_000)
    except ExceptionGroup as errors:
        return repr(errors.exceptions)
    return "?"


async def body_group_works() -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(1, number)) for number in (1, 2)]
    return sum(task.result() for task in tasks)


async def body_anyio_fail_after() -> str:
    try:
        with anyio.fail_after(0.5):
            await anyio.sleep(1_000)
    except TimeoutError:
        return "timed out"
    return "?"


async def body_anyio_scope(at_once: bool) -> str:
    with anyio.CancelScope() as scope:
        if at_once:
            scope.cancel()
        else:
            asyncio.get_running_loop().call_soon(scope.cancel)
        await anyio.sleep(1_000)
    return f"caught: {scope.cancelled_caught}"


async def body_anyio_group() -> str:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 1_000)
        await anyio.sleep(1)
        group.cancel_scope.cancel()
    return "left"


async def body_wait_for() -> str:
    try:
        await asyncio.wait_for(asyncio.sleep(1_000), 1)
    except TimeoutError:
        return "timed out"
    return "?"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda: body_timeout(1), "timed out, 0 cancellations"),
        (lambda: body_timeout(0), "timed out, 0 cancellations"),
        (lambda: body_timeout(-1), "timed out, 0 cancellations"),
        (body_group_fails, "(ValueError('child'),)"),
        (body_group_works, 3),
        (body_anyio_fail_after, "timed out"),
        (lambda: body_anyio_scope(True), "caught: True"),
        (lambda: body_anyio_scope(False), "caught: True"),
        (body_anyio_group, "left"),
        (body_wait_for, "timed out"),
    ],
)
def test_timeouts_groups_and_scopes_of_a_tool_hold_in_its_load(body: Body, expected: object) -> None:
    read = tool_of(body)

    async def main() -> list[object]:
        return [*await asyncio.gather(read(), read(), asyncio.sleep(0, "beside"))]

    assert in_no_time(main) == [expected, expected, "beside"]


# -- cancellations ----------------------------------------------------------------------------------------------------------


class Waits:
    """What a tool may be waiting for when its last caller leaves."""

    def __init__(self) -> None:
        self.child: asyncio.Future[Any] | None = None

    async def sleep0(self) -> None:
        while True:
            await asyncio.sleep(0)

    async def future(self) -> None:
        self.child = asyncio.get_running_loop().create_future()
        await self.child

    async def task(self) -> None:
        self.child = asyncio.ensure_future(asyncio.Event().wait())
        await self.child

    async def shielded(self) -> None:
        await asyncio.shield(asyncio.get_running_loop().create_future())

    async def timeout(self) -> None:
        async with asyncio.timeout(1_000):
            await asyncio.Event().wait()

    async def group(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.child = group.create_task(asyncio.Event().wait())

    async def scope(self) -> None:
        with anyio.CancelScope():
            await anyio.sleep_forever()


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("name", [name for name in vars(Waits) if not name.startswith("_")])
def test_a_cancellation_at_any_moment_reaches_the_tool_once_and_ends_what_it_waits_for(name: str, after: int) -> None:
    waits = Waits()
    events: list[str] = []

    async def body() -> None:
        events.append("began")
        try:
            await getattr(waits, name)()
        except asyncio.CancelledError:
            events.append("cancelled")
            await asyncio.sleep(0)  # only once
            events.append("tidied")
            raise

    async def main() -> None:
        caller = asyncio.ensure_future(tool_of(body)())
        await rounds(after)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await rounds()

    in_no_time(main)
    assert events in ([], ["began", "cancelled", "tidied"])
    assert events or after < 3
    assert waits.child is None or waits.child.cancelled()
    assert nothing_is_left()


async def test_a_tool_that_cancels_itself_cancels_nobody_else() -> None:
    @AgentCache("x")
    async def restless(number: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.uncancel()
        return number

    @AgentCache("y")
    async def innocent(number: int) -> int:
        await asyncio.sleep(0)
        return number

    for number in range(3):
        assert await restless(number) == number
        assert await innocent(number) == number


async def test_a_cancellation_before_the_first_wait_ends_what_is_waited_for_and_says_why() -> None:
    waited_for: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def body() -> object:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("enough")
        try:
            await waited_for
        except asyncio.CancelledError as error:
            task.uncancel()
            return error.args
        return None

    assert await tool_of(body)() == ("enough",)
    assert waited_for.cancelled()


async def test_callbacks_on_a_loads_task_come_when_that_load_ends() -> None:
    ended: list[int] = []

    @AgentCache("x")
    async def read(number: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: ended.append(number))
        return number

    gate = asyncio.Event()

    @AgentCache("y")
    async def long() -> None:
        await gate.wait()

    async def one_after_the_other() -> None:
        await read(1)
        await long()  # begins in the round in which the other one ended

    waiting = asyncio.create_task(one_after_the_other())
    await rounds()
    assert ended == [1]
    gate.set()
    await waiting


# -- errors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_of_the_first_step_is_the_callers_and_leaves_nothing(waits: bool) -> None:
    error = ValueError("no")
    runs = 0

    async def body() -> int:
        nonlocal runs
        runs += 1
        if waits:
            await asyncio.sleep(0)
        if runs < 3:
            raise error
        return runs

    read = tool_of(body)
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as caught:
            await read()
        assert caught.value is error
        assert any(entry.name == "body" for entry in caught.traceback)
        assert nothing_is_left()
    assert await read() == 3


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_in_the_first_step_leaves_nothing(kind: type[BaseException]) -> None:
    runs = 0

    async def body() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise kind
        return runs

    read = tool_of(body)

    async def main() -> int:
        with pytest.raises((kind, asyncio.CancelledError)):
            await read()
        assert nothing_is_left()
        result: int = await read()
        return result

    assert on_a_loop(main) == 2


# -- context ----------------------------------------------------------------------------------------------------------------


async def test_a_load_sees_its_callers_context_keeps_its_own_and_gives_nothing_back() -> None:
    var: ContextVar[str] = ContextVar("var", default="nobody's")

    @AgentCache("x")
    async def read(number: int, waits: bool) -> list[str]:
        seen = [var.get()]
        reset = var.set(f"load {number}")
        if waits:
            await asyncio.sleep(0)
        seen.append(var.get())
        var.reset(reset)  # allowed only in the context it was set in
        seen.append(var.get())
        var.set("left behind")
        return seen

    for number, waits in enumerate((False, True, False)):
        var.set(f"caller {number}")
        assert await read(number, waits) == [f"caller {number}", f"load {number}", f"caller {number}"]
        assert var.get() == f"caller {number}"


# -- loops, threads, room -----------------------------------------------------------------------------------------------------


def test_loops_one_after_the_other_and_beside_each_other() -> None:
    @AgentCache("x")
    async def read(number: int) -> tuple[int, int]:
        if number % 2:
            await asyncio.sleep(0)
        return number, id(asyncio.get_running_loop())

    async def many(first: int) -> None:
        for number in range(first, first + 20):
            assert await read(number) == (number, id(asyncio.get_running_loop()))

    for first in (0, 100):
        on_a_loop(partial(many, first))
    failed: list[BaseException] = []

    def run(first: int) -> None:
        try:
            on_a_loop(partial(many, first))
        except BaseException as error:  # noqa: BLE001 - looked at below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(first,)) for first in (1_000, 2_000, 3_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_loop_that_is_closed_in_the_very_round_of_a_load_says_nothing() -> None:
    """In a process of its own: what asyncio says of forgotten tasks, it says when they are collected."""
    program = """
        import asyncio, gc
        from agent_cache import AgentCache

        @AgentCache("x")
        async def read(fails: bool) -> int:
            if fails:
                raise ValueError
            return 1

        @AgentCache("y")
        async def waiting(fails: bool) -> int:
            await asyncio.sleep(0)
            return 1

        async def main(fails):
            try:
                await read(fails)
            except ValueError:
                pass
            raise SystemExit

        for fails in (False, True):
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(main(fails))
            except SystemExit:
                pass
            asyncio.run(asyncio.wait_for(waiting(fails), 30))  # nothing that was put aside is of use here
            loop.close()
            gc.collect()
        print("done")
    """
    command = [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT_FOLDER)
    assert (ended.stdout.strip(), ended.stderr) == ("done", "")


def test_a_loop_run_inside_a_tool_does_not_lose_the_load() -> None:
    """What notebooks do: another loop's rounds are run inside our step."""

    async def body() -> int:
        loop: Any = asyncio.get_running_loop()
        task: Any = asyncio.current_task()
        asyncio.tasks._leave_task(loop, task)
        loop.call_soon(lambda: None)  # so that it need not wait for anything
        loop._run_once()
        asyncio.tasks._enter_task(loop, task)
        await asyncio.sleep(0)
        return 1

    async def main() -> int:
        return int(await asyncio.wait_for(tool_of(body)(), 5))

    assert on_a_loop(main) == 1


async def test_misses_without_a_round_of_the_loop_pile_up_no_tasks() -> None:
    @AgentCache("inner", maxsize=10)
    async def inner(number: int) -> int:
        return number

    @AgentCache("outer", maxsize=10)
    async def outer(number: int) -> int:
        return await inner(number)

    for number in range(300):
        await outer(number)
    assert len(asyncio.all_tasks()) <= 10


async def test_a_landed_load_holds_nothing_of_what_its_tool_had() -> None:
    class Big:
        pass

    held: list[weakref.ref[Big]] = []

    async def body(waits: bool) -> int:
        big = Big()
        held.append(weakref.ref(big))
        if waits:
            await asyncio.sleep(0)
        return 1 if big else 0

    for waits in (False, True):
        await tool_of(partial(body, waits))()
    await rounds()
    assert [ref() for ref in held] == [None, None]
