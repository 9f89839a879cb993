"""Acts by hand on a shared backend: in the order of their calls where they concern the same, side by side elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

from agent_cache.engine.outbox import OUTBOX
from agent_cache.functions.acts import EVERYTHING, Acts


class _Far:
    in_process = False


class _Waiting:
    """An effect that takes until its gate opens."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    async def go(self) -> None:
        await self._gate.wait()

    def go_blocking(self) -> None:
        raise AssertionError("there is an event loop")


class Course:
    """Acts that note when they are over."""

    def __init__(self) -> None:
        self.acts, self.over, self.gates, self.backend = Acts(), list[str](), dict[str, asyncio.Event](), _Far()

    def do(self, name: str, what: Hashable) -> Any:
        gate = self.gates[name] = asyncio.Event()

        def line() -> Any:
            yield _Waiting(gate)
            self.over.append(name)

        return self.acts.do(what, self.backend, (("any", (), (name,)),), line)  # type: ignore[arg-type]


async def _rounds() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_same_in_order_others_side_by_side() -> None:
    course = Course()
    first, second, other = course.do("first", "a"), course.do("second", "a"), course.do("other", "b")
    for name in ("second", "other"):
        course.gates[name].set()
    await other
    await _rounds()
    assert course.over == ["other"]
    everything = course.do("everything", EVERYTHING)
    after = course.do("after", "b")
    for name in ("everything", "after"):
        course.gates[name].set()
    await _rounds()
    assert course.over == ["other"]
    course.gates["first"].set()
    await asyncio.gather(first, second, everything, after)
    assert course.over == ["other", "first", "second", "everything", "after"]
    assert not course.acts


async def test_a_reader_waits_for_what_concerns_it() -> None:
    course = Course()
    course.do("a", "a")
    await course.acts.over("b")
    reading = asyncio.create_task(course.acts.over("a"))
    await _rounds()
    assert not reading.done()
    course.gates["a"].set()
    await reading
    assert course.over == ["a"]


async def test_what_is_torn_away_is_owed() -> None:
    course = Course()
    act = course.do("a", "a")
    await _rounds()
    act.task.cancel()
    await act
    assert list(OUTBOX.owed_to(course.backend)) == [("any", (), ("a",))]  # type: ignore[arg-type]
    assert course.over == []


async def test_an_act_that_was_cancelled_before_it_began_is_owed_and_holds_nobody_up() -> None:
    course = Course()
    act = course.do("never", "a")
    assert act.task is not None
    act.task.cancel()
    await asyncio.wait_for(act, 20)
    assert not course.acts
    assert OUTBOX.owed_to(course.backend)  # type: ignore[arg-type]
    OUTBOX.debts.clear()
