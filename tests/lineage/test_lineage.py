"""``scope="lineage"``: who shares what, what is shared with nobody, and what makes it so."""

from __future__ import annotations

import asyncio
import os
import threading
from contextvars import Context, copy_context
from typing import Any

import pytest

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    ConfigurationError,
    MemoryBackend,
    get_metrics,
    no_cache,
    refresh,
    watched,
)
from agent_cache.adapters import HeldSessions, ToolPolicy, adapted
from agent_cache.context import current_view
from agent_cache.engine.effects import FLIGHTS
from agent_cache.lineage import _MAX_LINKS, Lineage
from agent_cache.testing import FakeClock
from tests.lineage.worlds import Tools, World, here, pace, rounds


def rollout(state: Any = "v3", **options: Any) -> AgentCacheSession:
    here.set(World())
    return AgentCacheSession(start_state=state, **options)


async def shares(tools: Tools, before: Any, after: Any = None) -> bool:
    """Whether a second rollout that does the same before it reads gets the first one's answers."""
    async with rollout():
        await before()
        first = await tools.shelf("a")
    runs = tools.runs
    async with rollout():
        await (after or before)()
        assert await tools.shelf("a") == first
    return tools.runs == runs


# -- who shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
async def test_sessions_from_one_state_share_until_they_write_differently() -> None:
    tools = Tools()
    async with rollout():
        assert await tools.shelf("a") == "[]"
        await tools.mark("a", 1)
        assert await tools.shelf("a") == "[(('a',), 1)]"
    assert tools.runs == 2
    async with rollout():
        assert await tools.shelf("a") == "[]"
        await tools.mark("a", 1)
        assert await tools.shelf("a") == "[(('a',), 1)]"
        assert tools.runs == 2
        await tools.mark("a", 2)
        assert await tools.shelf("a") == "[(('a',), 2)]"
    async with rollout():
        await tools.mark("a", 2)
        assert await tools.shelf("a") == "[(('a',), 2)]"
        assert tools.runs == 4
    async with rollout("v4"):
        assert await tools.shelf("a") == "[]"
    assert tools.runs == 5


@pytest.mark.usefixtures("backend")
async def test_no_write_of_another_session_drops_what_is_shared() -> None:
    tools = Tools()

    @AgentCache("shop:{shelf}")
    async def everyones(shelf: str) -> int:
        tools.runs += 1
        return tools.runs

    async with rollout():
        await tools.shelf("a")
        await everyones("a")
    async with rollout():
        await tools.mark("a", 1)
        await tools.wipe()
    here.set(World())
    await tools.mark("a", 1)  # in no session
    assert tools.runs == 2
    async with rollout():
        await tools.shelf("a")
        assert tools.runs == 2
        assert await everyones("a") == 3  # a global answer is dropped as ever


@pytest.mark.usefixtures("backend")
async def test_def_tools_and_threads_of_a_session_share_its_lineage() -> None:
    runs: list[str] = []
    state: dict[str, int] = {}

    @AgentCache("box:{name}", scope="lineage")
    def look(name: str) -> int:
        runs.append(name)
        return state.get(name, 0)

    @AgentCacheInvalidator("box:{name}")
    def fill(name: str, value: int) -> str:
        state[name] = value
        return "filled"

    for _ in range(2):
        state.clear()
        with AgentCacheSession(start_state="empty", loop_detection=False):
            assert look("a") == look("a") == 0
            assert await asyncio.to_thread(fill, "a", 1) == "filled"
            assert look("a") == 1
            thread = threading.Thread(target=copy_context().run, args=(fill, "a", 2))
            thread.start()
            await asyncio.to_thread(thread.join)
            assert look("a") == await asyncio.to_thread(look, "a") == 2
    assert runs == ["a", "a", "a"]


async def test_what_a_write_does_to_one_thing_hangs_on_all_that_was_written_before() -> None:
    """copy() reads what it does not name: after another source the same call is another write."""
    tools = Tools()
    answers = []
    for value in (1, 2):
        async with rollout():
            await tools.mark("b", value)
            await tools.copy("b", "a")
            answers.append(await tools.shelf("a"))
    assert answers == ["[(('a',), 2)]", "[(('a',), 3)]"]


async def test_what_does_not_overlap_is_shared_over_different_writes() -> None:
    tools = Tools()
    async with rollout():
        await tools.mark("b", 1)
        await tools.shelf("a")
        await tools.thing("a", "x")
    async with rollout():
        await tools.put("b", "x", 2)
        await tools.mark("c", 2)
        await tools.shelf("a")
        await tools.thing("a", "x")
        assert tools.runs == 2
        await tools.put("a", "y", 1)  # beside the thing, below the shelf
        await tools.thing("a", "x")
        assert tools.runs == 2
        await tools.shelf("a")
        assert tools.runs == 3
        await tools.mark("a", 1)  # above the thing
        await tools.thing("a", "x")
        assert tools.runs == 4


async def test_one_who_asks_is_part_of_what_is_shared() -> None:
    tools = Tools()
    for identity in ({"user": "u1"}, {"user": "u2"}, {"user": 1}, {"user": "u1", "device": "d"}, {}):
        async with rollout(identity=identity):
            await tools.shelf("a")
    assert tools.runs == 5
    async with rollout(identity={"user": "u2"}):
        await tools.shelf("a")
    assert tools.runs == 5


async def test_who_writes_is_part_of_a_write() -> None:
    tools = Tools()

    async def as_user(user: str) -> None:
        async with AgentCacheSession(identity={"user": user}):
            await tools.mark("a", 1)

    assert await shares(tools, lambda: as_user("u1"))
    assert not await shares(tools, lambda: as_user("u1"), lambda: as_user("u2"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (None, "no_session"),
        ({}, "no_start_state"),
        ({"start_state": "v3", "identity": {"user": None}}, "missing_identity"),
        ({"start_state": "v3", "identity": {"user": object()}}, "missing_identity"),
    ],
)
async def test_without_a_start_a_read_runs_uncached_never_wider(options: dict[str, Any] | None, reason: str) -> None:
    tools = Tools()
    here.set(World())
    if options is None:
        await tools.shelf("a")
        await tools.shelf("a")
    else:
        async with AgentCacheSession(**options):
            await tools.shelf("a")
            await tools.shelf("a")
    assert tools.runs == 2
    assert get_metrics()["reasons"][reason] == 2


# -- what is shared with nobody ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
async def test_writes_that_overlap_are_shared_with_nobody_and_the_session_still_caches_for_itself() -> None:
    tools = Tools()
    pace.set((2, 0))

    async def both() -> None:
        await asyncio.gather(tools.mark("a", 1), tools.mark("b", 1))
        await tools.shelf("a")
        runs = tools.runs
        await tools.shelf("a")
        assert tools.runs == runs

    assert not await shares(tools, both)
    assert await shares(tools, lambda: tools.mark("a", 1))


async def test_a_chain_of_overlapping_writes_is_one_thing_nobody_knows() -> None:
    """The first and the last do not overlap each other; what each did may hang on the one between."""
    lineage = Lineage("s")
    first, second = lineage.begins("first"), lineage.begins("second")
    lineage.ends(first, [("a",)], b"1")
    assert lineage.mark([("a",)]) is None  # the second is running
    third = lineage.begins("third")
    lineage.ends(second, [("b",)], b"2")
    lineage.ends(third, [("c",)], b"3")
    marks = [lineage.mark([(name,)]) for name in "abcd"]
    assert [mark is not None and mark.private for mark in marks] == [True, True, True, False]
    lineage.ends(lineage.begins("later"), [("d",)], b"4")
    last = lineage.mark([("d",)])
    assert last is not None
    assert last.private


async def test_a_write_without_effect_is_no_link_even_beside_another_write() -> None:
    tools = Tools()
    pace.set((2, 0))

    async def with_a_refusal() -> None:
        await asyncio.gather(tools.mark("a", 1), tools.refused("a"), return_exceptions=True)

    assert await shares(tools, with_a_refusal, lambda: tools.mark("a", 1))


async def test_what_a_write_raised_is_part_of_it() -> None:
    tools = Tools()

    async def broken() -> None:
        with pytest.raises(ValueError, match="after"):
            await tools.breaks("a")

    assert await shares(tools, broken)


class ReadTimeout(Exception): ...  # noqa: N818 - as libraries name theirs


def _because(error: Exception, cause: BaseException) -> Exception:
    """As ``raise error from cause`` does; with a cause already, the cause came of it."""
    if error.__cause__ is None:
        error.__cause__ = cause
    else:
        error.__cause__.__context__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionResetError(),
        ReadTimeout("slow"),
        asyncio.CancelledError(),
        ValueError(object()),
        _because(ValueError("failed"), ReadTimeout("slow")),
        _because(_because(ValueError("failed"), KeyError("retried")), ExceptionGroup("both", [OSError()])),
    ],
)
async def test_a_write_of_which_nobody_knows_whether_it_was_done_is_shared_with_nobody(error: BaseException) -> None:
    tools = Tools()

    @AgentCacheInvalidator("shop:{shelf}")
    async def write(shelf: str) -> None:
        raise error

    async def unknown() -> None:
        with pytest.raises(type(error)):
            await write("a")

    assert not await shares(tools, unknown)


async def test_arguments_and_results_that_cannot_be_keyed_are_shared_with_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tools = Tools()

    @AgentCacheInvalidator("shop:{shelf}")
    async def write(shelf: str, how: object = None) -> object:
        return object() if how is None else "done"

    assert not await shares(tools, lambda: write("a"))
    assert not await shares(tools, lambda: write("a", object()))
    said = [r.getMessage() for r in caplog.records if "shared with no other" in r.getMessage()]
    assert len(said) == 2


async def test_a_result_tells_one_write_from_another() -> None:
    tools = Tools()
    results = iter(["1", "2", "3", "3"])

    @AgentCacheInvalidator("shop:{shelf}")
    async def write(shelf: str) -> str:
        return next(results)

    assert not await shares(tools, lambda: write("a"))
    assert await shares(tools, lambda: write("a"))


@pytest.mark.parametrize("detection", [True, False])
@pytest.mark.parametrize("declared", [None, True, False])
async def test_a_watched_tool_is_a_write_of_anything_unless_it_says_that_it_is_none(
    declared: bool | None, detection: bool
) -> None:
    tools = Tools()

    @watched(write=declared)
    async def other() -> str:
        return "done"

    @watched(write=declared)
    def other_blocking() -> str:
        return "done"

    async def blocking() -> None:
        other_blocking()

    for call in (other, blocking):
        for _ in range(2):
            async with rollout(loop_detection=detection):
                await call()
                await tools.shelf("a")
                await tools.shelf("a")
    assert tools.runs == (1 if declared is False else 4)


@pytest.mark.parametrize("declared", [None, True, False])
async def test_so_is_an_adapters_other_tool(declared: bool | None) -> None:
    tools = Tools()
    think = adapted("think", ToolPolicy(kind="other", write=declared), (), "think")

    async def thought() -> str:
        return "hm"

    assert await shares(tools, lambda: think({}, thought)) is (declared is False)
    with pytest.raises(ConfigurationError, match="kind='other'"):
        ToolPolicy(kind="write", resource="a", write=False)


@pytest.mark.parametrize("declared", [None, True, False])
async def test_so_is_a_call_that_is_only_observed(declared: bool | None) -> None:
    tools = Tools()

    async def told() -> None:
        current = current_view().session
        assert current is not None
        session.observe("other", {}, "done", write=declared)

    for _ in range(2):
        async with rollout() as session:
            await told()
            await tools.shelf("a")
    assert tools.runs == (1 if declared is False else 2)


async def test_a_def_write_that_returns_an_awaitable_is_shared_with_nobody() -> None:
    tools = Tools()

    @AgentCacheInvalidator("shop:{shelf}")
    def write(shelf: str) -> Any:
        return tools.mark.__wrapped__(shelf, 1)

    async def awaited() -> None:
        pending = write("a")
        assert await tools.shelf("a") == "[]"
        await pending
        assert await tools.shelf("a") == "[(('a',), 1)]"

    assert not await shares(tools, awaited)


async def test_a_write_that_is_torn_away_is_a_write_of_anything() -> None:
    tools = Tools()
    never = asyncio.Event()

    @AgentCacheInvalidator("shop:{shelf}")
    async def write(shelf: str) -> None:
        here.get().set({(shelf,): 5})
        await never.wait()

    async def torn() -> None:
        calling: Any = write("b")
        calling.send(None)
        assert (await tools.shelf.explain("a")).reason.startswith("own_write")
        calling.close()

    assert not await shares(tools, torn)
    assert await shares(tools, lambda: tools.shelf("b"))


# -- while something is written --------------------------------------------------------------------------------------------


class Held:
    """A read and a write of ``held`` that wait inside until they are let go."""

    def __init__(self) -> None:
        self.loads = 0
        self.reading, self.writing = asyncio.Event(), asyncio.Event()
        self.read_on, self.write_on = asyncio.Event(), asyncio.Event()

        @AgentCache("held", scope="lineage")
        async def read() -> str:
            self.loads += 1
            self.reading.set()
            await self.read_on.wait()
            return str(here.get().now.get(("held",), 0))

        @AgentCacheInvalidator("held", scope="lineage")  # nothing but the lineage tells the read of it
        async def write(value: int) -> str:
            here.get().set({("held",): value})
            self.writing.set()
            await self.write_on.wait()
            return "written"

        self.read, self.write = read, write


def in_own_context(work: Any, *, session: AgentCacheSession | None = None) -> asyncio.Task[Any]:
    async def run() -> Any:
        here.set(World())
        async with session or AgentCacheSession(start_state="v3"):
            return await work()

    return asyncio.create_task(run(), context=Context())


@pytest.mark.usefixtures("backend")
async def test_a_load_that_overlapped_a_write_of_its_session_is_neither_stored_nor_handed_to_others() -> None:
    held = Held()

    async def first() -> tuple[str, str, str]:
        loading = asyncio.create_task(held.read())
        await held.reading.wait()
        joined.set()
        for _ in range(200):  # until the other session rides the load, where this backend shares loads at all
            await asyncio.sleep(0.001)
            if riding():
                break
        held.write_on.set()
        await held.write(7)
        fresh = asyncio.create_task(held.read())
        await rounds(3)
        held.read_on.set()
        return await loading, await fresh, await held.read()

    def riding() -> bool:
        return any(getattr(flight, "_riders", None) and len(flight._riders) > 1 for flight in FLIGHTS._latest.values())

    async def second() -> str:
        await joined.wait()
        return await held.read()

    joined = asyncio.Event()
    one, two = in_own_context(first), in_own_context(second)
    assert await asyncio.wait_for(one, 20) == ("7", "7", "7")
    assert await asyncio.wait_for(two, 20) == "0"
    assert held.loads == 3
    assert get_metrics()["reasons"]["own_write"] == 1
    loads = held.loads
    assert await in_own_context(held.read) == "0"  # what the second one loaded is what is stored
    assert held.loads == loads


async def test_while_a_write_runs_reads_run_live_and_nothing_of_them_is_kept() -> None:
    held = Held()
    held.read_on.set()

    async def work() -> None:
        assert await held.read() == "0"
        assert await held.read() == "0"
        assert held.loads == 1
        writing = asyncio.create_task(held.write(3))
        await held.writing.wait()
        assert await held.read() == "3"  # not the hot answer from before
        assert await held.read() == "3"
        assert held.loads == 3
        held.write_on.set()
        await writing
        assert await held.read() == "3"
        assert held.loads == 4

    await in_own_context(work)
    assert get_metrics()["reasons"] == {"own_write": 2}
    assert await in_own_context(held.read) == "0"
    assert held.loads == 4


async def test_a_load_that_outlives_its_session_is_for_nobody_else() -> None:
    """Its world may be begun anew for the next rollout while it is still being read."""
    held = Held()
    started = asyncio.Event()

    async def leaves() -> None:
        task = asyncio.create_task(held.read())
        await held.reading.wait()
        started.set()
        await rounds(5)
        task.cancel()

    async def rides() -> str:
        await started.wait()
        return await held.read()

    one, two = in_own_context(leaves), in_own_context(rides)
    await one
    await rounds(5)
    held.read_on.set()
    assert await two == "0"
    assert held.loads == 2


async def test_a_load_beside_a_write_without_effect_is_kept() -> None:
    held = Held()
    tools = Tools()

    async def work() -> str:
        loading = asyncio.create_task(held.read())
        await held.reading.wait()
        with pytest.raises(Exception, match="sold out"):
            await tools.refused("a")
        held.read_on.set()
        return await loading

    assert await in_own_context(work) == "0"
    assert await in_own_context(held.read) == "0"
    assert held.loads == 1


# -- sessions ----------------------------------------------------------------------------------------------------------------


async def test_a_session_inside_another_lives_in_its_world_unless_it_names_its_own() -> None:
    tools = Tools()
    async with rollout():
        await tools.shelf("a")
        async with AgentCacheSession():
            await tools.shelf("a")
            assert tools.runs == 1
            await tools.mark("a", 1)
        assert await tools.shelf("a") == "[(('a',), 1)]"
        outer = here.get()
        async with rollout():
            assert await tools.shelf("a") == "[]"
            assert tools.runs == 2
            await tools.mark("a", 3)
        here.set(outer)
        assert await tools.shelf("a") == "[(('a',), 1)]"
        assert tools.runs == 2


async def test_sub_agents_of_one_name_in_two_worlds_are_two_sessions() -> None:
    tools = Tools()

    @AgentCache("note", scope="session")
    async def note() -> int:
        return id(here.get())

    async def agent(value: int) -> None:
        async with AgentCacheSession("researcher"):
            await tools.mark("a", value)
            both.append(1)
            while len(both) < 2:
                await asyncio.sleep(0)
            assert await tools.shelf("a") == f"[(('a',), {value})]"
            assert await note() == id(here.get())

    both: list[int] = []
    await asyncio.gather(in_own_context(lambda: agent(1)), in_own_context(lambda: agent(2)))


async def test_blocks_of_one_session_live_in_one_world_and_cannot_start_it_anew() -> None:
    tools = Tools()
    async with rollout("v3") as session:
        await tools.mark("a", 1)
        again = AgentCacheSession(session.session_id, start_state="v3")
        other = AgentCacheSession(session.session_id, start_state="v4")
        plain = AgentCacheSession(session.session_id)
        world = here.get()

        async def inside(block: AgentCacheSession) -> str:
            here.set(world)
            async with block:
                return await tools.shelf("a")

        for block in (again, plain):
            assert await asyncio.create_task(inside(block), context=Context()) == "[(('a',), 1)]"
        with pytest.raises(ConfigurationError, match="started otherwise"):
            await asyncio.create_task(inside(other), context=Context())


async def test_one_session_is_one_world_whoever_asks() -> None:
    tools = Tools()

    async def elsewhere(block: AgentCacheSession, work: Any) -> Any:
        async def inside() -> Any:
            here.set(world)
            async with block:
                return await work()

        return await asyncio.create_task(inside(), context=Context())

    async with rollout(session_id="one", identity={"user": "u1"}):
        world = here.get()
        await tools.shelf("a")
        other = AgentCacheSession("one", identity={"user": "u2"}, start_state="v3")
        await elsewhere(other, lambda: tools.mark("a", 1))
        assert await tools.shelf("a") == "[(('a',), 1)]"
        await elsewhere(AgentCacheSession("one"), lambda: tools.mark("a", 2))
        assert await tools.shelf("a") == "[(('a',), 2)]"
        with pytest.raises(ConfigurationError, match="started otherwise"):
            await elsewhere(AgentCacheSession("one", identity={"user": "u2"}, start_state="v4"), tools.everything)
        assert not (await tools.shelf.explain("a")).reason.endswith("session)")
    async with AgentCacheSession("two", identity={"user": "u1"}):
        with pytest.raises(ConfigurationError, match="started otherwise"):
            await elsewhere(AgentCacheSession("two", start_state="v4"), tools.everything)


async def test_one_object_entered_twice_starts_twice() -> None:
    tools = Tools()
    session = AgentCacheSession("s", start_state="v3")
    for _ in range(2):
        here.set(World())
        async with session:
            assert await tools.shelf("a") == "[]"
            await tools.mark("a", 1)
    assert tools.runs == 1


async def test_what_goes_on_after_its_session_shares_with_nobody() -> None:
    tools = Tools()
    async with rollout():
        await tools.shelf("a")
        goes_on = copy_context()
    assert await asyncio.create_task(tools.shelf("a"), context=goes_on) == "[]"
    assert tools.runs == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_after_a_fork_neither_side_is_taken_for_the_other() -> None:
    async with rollout():
        lineage = current_view().session.lineage  # type: ignore[union-attr]
        assert lineage is not None
        running = lineage.begins("write")
        here_before = lineage.mark([("a",)])
        read_end, write_end = os.pipe()
        if (child := os.fork()) == 0:
            found = lineage.mark([("a",)])
            lineage.ends(running, [("b",)], b"known")
            later = lineage.mark([("b",)])
            os.write(write_end, bytes([found is not None and found.private, later is not None and later.private]))
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read_end, 2) == b"\1\1"
        assert here_before is None
        lineage.ends(running, (), None, effect=False)
        mark = lineage.mark([("a",)])
        assert mark is not None
        assert not mark.private


@pytest.mark.parametrize("state", ["", b"", object(), {"a": object()}])
def test_a_start_that_names_nothing_is_refused(state: Any) -> None:
    with pytest.raises(ConfigurationError, match="start_state"):
        AgentCacheSession(start_state=state)


def test_impossible_combinations_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="start_state"):
        AgentCacheSession(start_state="v3", keep=True)
    with pytest.raises(ConfigurationError, match="identity"):
        AgentCacheSession(identity={"lineage": "x"})


async def test_states_of_different_types_are_different() -> None:
    tools = Tools()
    for state in ("1", 1, 1.0, ("1",), b"1", False, 0):
        async with rollout(state):
            await tools.shelf("a")
    assert tools.runs == 7


# -- by hand, modes, loops -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
async def test_what_is_invalidated_by_hand_is_dropped_in_every_state_and_session() -> None:
    tools = Tools()

    async def all_three() -> None:
        async with rollout():
            await tools.shelf("a")
        async with rollout("v4"):
            await tools.shelf("a")
        async with rollout():
            await tools.mark("a", 1)
            await tools.shelf("a")

    await all_three()
    await all_three()
    assert tools.runs == 3
    await tools.shelf.invalidate("b")
    await all_three()
    assert tools.runs == 3
    await tools.shelf.invalidate("a")
    await all_three()
    assert tools.runs == 6
    await tools.shelf.invalidate_all()
    await all_three()
    assert tools.runs == 9


async def test_a_private_answer_is_dropped_by_hand_and_with_its_session(backend: Any) -> None:
    tools = Tools()
    async with rollout() as session:
        session.observe("other")
        await tools.shelf("a")
        await tools.shelf("a")
        assert tools.runs == 1
        await tools.shelf.invalidate_all()
        await tools.shelf("a")
        assert tools.runs == 2
        if isinstance(backend, MemoryBackend):
            assert session.get_metrics()["entries"] == 1
    if isinstance(backend, MemoryBackend):
        assert backend.sync.sizes()[0] == 0


async def test_one_calls_write_is_a_link_of_that_call() -> None:
    tools = Tools()

    @AgentCacheInvalidator("shop", clear_all=False, key_fn=lambda args, kwargs: tools.shelf.cache_key(args[0]))
    async def paint(shelf: str) -> str:
        here.get().set({(shelf,): 9})
        return "painted"

    async with rollout():
        await tools.shelf("a")
        await tools.shelf("b")
    async with rollout():
        await paint("a")
        assert await tools.shelf("b") == "[]"
        assert tools.runs == 2
        assert await tools.shelf("a") == "[(('a',), 9)]"
        assert tools.runs == 3
    async with rollout():
        assert await tools.shelf("a") == "[]"
        assert tools.runs == 3


async def test_refresh_and_no_cache() -> None:
    tools = Tools()
    async with rollout():
        await tools.shelf("a")
        with no_cache():
            await tools.mark("a", 1)
            assert await tools.shelf("a") == "[(('a',), 1)]"
        with refresh():
            await tools.shelf("a")
            await tools.mark("a", 2)
            assert await tools.shelf("a") == "[(('a',), 2)]"
        assert await tools.shelf("a") == "[(('a',), 2)]"
        assert tools.runs == 4


async def test_a_repeat_after_a_write_to_what_it_reads_is_no_loop() -> None:
    """Though the result is the same each time."""
    tools = Tools()

    @AgentCacheInvalidator("shop:{shelf}:{number}", scope="lineage")
    async def touch(shelf: str, number: int) -> int:
        return number

    async with rollout(max_tool_repeats=3):
        for number in range(12):
            await touch("a", number)
            await tools.shelf("a")
    async with rollout(max_tool_repeats=3):
        for _ in range(3):
            await tools.shelf("a")
        with pytest.raises(AgentLoopDetectedError):
            await tools.shelf("a")


async def test_an_answer_beyond_its_ttl_is_a_repeat_too() -> None:
    clock = FakeClock()
    backend = MemoryBackend(clock=clock)

    @AgentCache("shop", scope="lineage", ttl=1, stale_while_revalidate=1_000, backend=backend)
    async def shelf() -> int:
        return 1

    async with rollout(max_tool_repeats=3):
        for _ in range(3):
            await shelf()
            clock.advance(2)
        with pytest.raises(AgentLoopDetectedError):
            await shelf()


async def test_explain_says_who_shares_it() -> None:
    tools = Tools()
    pace.set((1, 0))
    async with rollout():
        assert "made the same writes" in (await tools.shelf.explain("a")).reason
        await asyncio.gather(tools.mark("a", 1), tools.mark("a", 2))
        said = await tools.shelf.explain("a")
        assert said.status == "miss"
        assert "only this session can have it (mark: it overlapped another write)" in said.reason
        assert "made the same writes" in (await tools.shelf.explain("b")).reason
    assert (await tools.shelf.explain("a")).reason.startswith("no_session")


async def test_a_write_by_lineage_drops_nothing_where_all_reads_are_by_lineage(backend: Any) -> None:
    tools = Tools(scope="lineage")
    async with rollout():
        await tools.shelf("a")
        await tools.mark("a", 1)
        assert await tools.shelf("a") == "[(('a',), 1)]"

    @AgentCache("shop:{shelf}")
    async def everyones(shelf: str) -> int:
        tools.runs += 1
        return tools.runs

    async with rollout():
        first = await everyones("a")
        await tools.mark("a", 1)
        assert await everyones("a") == first + 1  # somebody else reads it too: it acts as global


async def test_a_write_is_known_by_its_version_and_not_by_what_it_ignores() -> None:
    tools = Tools()

    class Desk:
        @AgentCacheInvalidator("shop:{shelf}", ignore=("self",))
        async def write(self, shelf: str) -> str:
            return "done"

    def version(number: str) -> Any:
        async def write(shelf: str) -> str:
            return "done"

        write.__agent_cache_identity__ = "write"  # type: ignore[attr-defined]
        return AgentCacheInvalidator("shop:{shelf}", version=number)(write)

    assert await shares(tools, lambda: Desk().write("a"))
    assert await shares(tools, lambda: version("1")("a"), lambda: version("1")("a"))
    assert not await shares(tools, lambda: version("1")("a"), lambda: version("2")("a"))
    for wrong in ({"ignore": ("that",)}, {"version": ""}, {"version": 2}):
        with pytest.raises(ConfigurationError):
            AgentCacheInvalidator("shop", **wrong)(lambda: None)  # type: ignore[arg-type]


async def test_a_reads_version_is_part_of_what_it_is() -> None:
    def read(version: str | None) -> Any:
        async def get() -> str | None:
            return version

        get.__agent_cache_identity__ = "get"  # type: ignore[attr-defined]
        return AgentCache("shop", version=version)(get)

    assert [await read(v)() for v in ("1", "2", None, "1")] == ["1", "2", None, "1"]


async def test_what_is_read_is_part_of_what_is_shared() -> None:
    def read(resource: str) -> Any:
        async def get() -> str:
            return resource

        get.__agent_cache_identity__ = "get"  # type: ignore[attr-defined]
        return AgentCache(resource, scope="lineage")(get)

    async with rollout():
        assert [await read(resource)() for resource in ("shop", "shop:a", "shop")] == ["shop", "shop:a", "shop"]


# -- held sessions, bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backend")
async def test_a_held_session_keeps_its_world_over_calls() -> None:
    tools = Tools()
    held = HeldSessions(start_state="v3")
    here.set(World())
    with held.attach("one"):
        await tools.mark("a", 1)
    with held.attach("one"):
        assert await tools.shelf("a") == "[(('a',), 1)]"
    held.release("one")
    here.set(World())
    with held.attach("one"):
        assert await tools.shelf("a") == "[]"
    held.close()


async def test_a_held_session_that_had_to_go_does_not_come_back_at_its_start(caplog: pytest.LogCaptureFixture) -> None:
    tools = Tools()
    held = HeldSessions(most=1, start_state="v3")
    here.set(World())
    with held.attach("one"):
        await tools.mark("a", 1)
    with held.attach("two"):
        pass
    for _ in range(2):
        with held.attach("one"):
            assert await tools.shelf("a") == "[(('a',), 1)]"
        with held.attach("two", {"user": "u1"}):
            pass
    assert tools.runs == 2
    assert get_metrics()["reasons"] == {"no_start_state": 2}
    held.release("one")
    here.set(World())
    with held.attach("one"):
        assert await tools.shelf("a") == "[]"
        assert await tools.shelf("a") == "[]"
    assert tools.runs == 3
    assert len([r for r in caplog.records if "most=" in r.getMessage()]) == 1
    held.close()


def test_thousands_of_writes_take_no_more_room_and_no_longer() -> None:
    lineage, twin = Lineage("s"), Lineage("s")
    seen = set()
    for number in range(_MAX_LINKS + 200):
        for each in (lineage, twin):
            each.ends(each.begins("write"), [("shop", str(number))], b"call")
        mark, same = lineage.mark([("shop", str(number))]), twin.mark([("shop", str(number))])
        assert mark is not None
        assert same is not None
        assert mark.digest == same.digest
        seen.add(mark.digest)
        assert len(lineage._links) <= _MAX_LINKS + 2
    assert len(seen) == _MAX_LINKS + 200
    early, unlike = lineage.mark([("shop", "0")]), Lineage("s").mark([("shop", "0")])
    assert early is not None
    assert unlike is not None
    assert early.digest != unlike.digest  # of what was written long ago it is still known that it was
    overlapping = [lineage.begins("w") for _ in range(3)]
    for number, write in enumerate(overlapping):
        lineage.ends(write, [("x", str(number), str(n)) for n in range(_MAX_LINKS)], b"call")
    assert len(lineage._links) <= _MAX_LINKS + 2
