"""Random rollouts of worlds that begin alike: whatever is answered from memory is what the world would say now."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_cache import AgentCacheSession, MemoryBackend, NoEffect, configure
from tests.lineage.worlds import Tools, World, all_in, here, pace, shelf_in, thing_in

SHELVES, THINGS = st.sampled_from("ab"), st.sampled_from("xy")
READS = st.one_of(
    st.tuples(st.just("shelf"), SHELVES), st.tuples(st.just("thing"), SHELVES, THINGS), st.tuples(st.just("everything"))
)
WRITES = st.one_of(
    st.tuples(st.just("mark"), SHELVES, st.integers(0, 1)),
    st.tuples(st.just("put"), SHELVES, THINGS, st.integers(0, 1)),
    st.tuples(st.just("copy"), SHELVES, SHELVES),
    st.tuples(st.just("wipe")),
    st.tuples(st.just("refused"), SHELVES),
    st.tuples(st.just("breaks"), SHELVES),
)
PACED = st.tuples(st.one_of(READS, READS, WRITES), st.tuples(st.integers(0, 4), st.integers(0, 4)))
STEPS = st.lists(st.one_of(READS, READS, WRITES), max_size=10)
SEEN: dict[str, Any] = {"shelf": shelf_in, "thing": thing_in, "everything": all_in}


async def step(tools: Tools, what: tuple[Any, ...]) -> None:
    """One call; a read must say what the world said at some moment while it was made."""
    name, *arguments = what
    world = here.get()
    began = len(world.past) - 1
    with suppress(NoEffect, ValueError):
        answer = await getattr(tools, name)(*arguments)
        if name in SEEN:
            assert answer in [SEEN[name](state, *arguments) for state in world.past[began:]]


class Rollout:
    """One session in a world of its own, in a context of its own."""

    def __init__(self, name: str) -> None:
        self.context = copy_context()
        self._session = AgentCacheSession(name, start_state="full", loop_detection=False)
        self.context.run(here.set, World())
        self.context.run(self._session.__enter__)

    async def run(self, work: Any) -> None:
        await asyncio.create_task(work, context=self.context)

    def close(self) -> None:
        self.context.run(self._session.__exit__, None, None, None)


@given(script=st.lists(st.tuples(st.integers(0, 3), st.one_of(READS, READS, WRITES)), max_size=40))
def test_interleaved_rollouts_read_what_their_own_world_says(script: list[tuple[int, Any]]) -> None:
    configure(backend=MemoryBackend())
    tools = Tools(scope="lineage")  # nothing but the lineage tells a read of a write

    async def main() -> None:
        rollouts = [Rollout(f"r{n}") for n in range(4)]
        for number, what in script:
            await rollouts[number].run(step(tools, what))
        for rollout in rollouts:
            rollout.close()

    asyncio.run(main())


@given(
    scripts=st.lists(st.lists(st.lists(PACED, max_size=4), max_size=4), min_size=2, max_size=4),
    cancelled=st.integers(0, 20),
)
@settings(max_examples=400)
def test_parallel_calls_of_parallel_rollouts_read_what_their_own_world_says(
    scripts: list[list[list[Any]]], cancelled: int
) -> None:
    """Each rollout makes several calls at once, turn after turn, all rollouts side by side; some calls are cancelled.
    Afterwards each is made again by one that is alone, which gets what the others have left."""
    configure(backend=MemoryBackend())
    tools = Tools(scope="lineage")

    async def paced(what: Any, waits: tuple[int, int]) -> None:
        pace.set(waits)
        await step(tools, what)

    async def turns(rollout: Rollout, script: list[list[Any]]) -> None:
        for turn in script:
            calls = [asyncio.create_task(paced(*each), context=rollout.context.copy()) for each in turn]
            if calls and cancelled < 10:
                for _ in range(cancelled):
                    await asyncio.sleep(0)
                calls[0].cancel()
            for done in await asyncio.gather(*calls, return_exceptions=True):
                assert done is None or isinstance(done, asyncio.CancelledError), repr(done)
        rollout.close()

    async def main() -> None:
        rollouts = [Rollout(f"r{n}") for n in range(len(scripts))]
        await asyncio.gather(*(turns(r, s) for r, s in zip(rollouts, scripts, strict=True)))
        for script in scripts:
            alone = Rollout("alone")
            for what in [("everything",), ("shelf", "a"), *(each[0] for turn in script for each in turn)]:
                await alone.run(step(tools, what))
            alone.close()

    asyncio.run(main())


@pytest.mark.usefixtures("backend")
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(script=STEPS)
async def test_equal_rollouts_load_once_and_share_all_they_read(script: list[Any]) -> None:
    tools = Tools()
    for number in range(3):
        before = tools.runs
        here.set(World())
        async with AgentCacheSession(start_state="full", loop_detection=False):
            for what in script:
                await step(tools, what)
        assert number == 0 or tools.runs == before
