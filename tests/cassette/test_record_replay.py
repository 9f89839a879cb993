"""A run is recorded, and given again without running anything."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AgentLoopDetectedError,
    CallEvent,
    CassetteError,
    InvalidationEvent,
    LoopEvent,
    MemoryBackend,
    NoEffect,
    ReplayedToolError,
    UnrecordedCallError,
    configure,
    get_metrics,
    no_cache,
    refresh,
    watched,
)
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.redis import RedisBackend
from agent_cache.codecs import same
from agent_cache.testing.servers import RedisServer

Shop = Any  # what conftest.py makes


async def an_agent(shop: Shop) -> list[object]:
    seen: list[object] = [await shop.get_cart("u1"), shop.count("u1"), await shop.get_cart("u1")]
    seen += [await shop.add("u1", "pear"), await shop.get_cart("u1"), shop.count("u1")]
    try:
        await shop.add("u1", "nothing")
    except ValueError as error:
        seen.append((type(error), error.args))
    seen += [await shop.search("pear"), await shop.search(text="pear", limit=3), shop.weigh(2.5)]
    seen += await asyncio.gather(*(shop.get_cart(user) for user in ("u2", "u3", "u2")))
    seen.append(await asyncio.to_thread(shop.count, "u2"))
    seen.append(shop.clear("u1"))
    with no_cache():
        seen.append(await shop.get_cart("u1"))
    with refresh():
        seen.append(shop.count("u1"))
    async with AgentCacheSession("inner"):
        seen.append(await shop.get_cart("u1"))
    return seen


class Untouched:
    """A backend nothing of which may be used."""

    in_process = False

    def __getattr__(self, name: str) -> Any:
        if name == "lookup":
            return None
        raise AssertionError(f"{name} of the backend was asked for")


@pytest.mark.parametrize("where", ["memory", "disk", "redis"])
async def test_a_replay_gives_what_the_agent_saw_and_runs_nothing(
    where: str, shop: Shop, path: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    backend: Any = {
        "memory": MemoryBackend,
        "disk": lambda: DiskBackend(tmp_path / "cache.db"),
        "redis": lambda: RedisBackend(redis_server.url, prefix="cassette:"),
    }[where]()
    async with AgentCacheSession(record=path, backend=backend):
        seen = await an_agent(shop)
    await backend.close()
    assert len(shop.ran) > 5
    shop.ran.clear()
    for _ in range(2):
        async with AgentCacheSession(replay=path, backend=Untouched()) as session:  # type: ignore[arg-type]
            again = await an_agent(shop)
        assert shop.ran == []
        assert session.unplayed() == ()
        assert same(again, seen)


def test_a_replay_without_an_event_loop(shop: Shop, path: Path) -> None:
    with AgentCacheSession(record=path):
        seen = [shop.count("a"), shop.clear("a"), shop.count("a"), shop.weigh(1.0)]
    shop.ran.clear()
    with AgentCacheSession(replay=path):
        results: list[object] = []

        def in_a_thread() -> None:
            results.extend([shop.count("a"), shop.clear("a"), shop.count("a"), shop.weigh(1.0)])

        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: context.run(in_a_thread))
        thread.start()
        thread.join()
    assert results == seen
    assert shop.ran == []


async def test_child_tasks_that_outlive_the_block_run_nothing_either(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path):
        seen = await shop.get_cart("u1")
    shop.ran.clear()
    goes_on = asyncio.Event()

    async def later() -> object:
        await goes_on.wait()
        return await shop.get_cart("u1")

    async with AgentCacheSession(replay=path):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    goes_on.set()
    assert await task == seen
    assert shop.ran == []


async def test_each_caller_has_a_value_of_its_own(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path):
        kept = await shop.get_cart("u1")
        kept["items"] = "changed after it was recorded"
    async with AgentCacheSession(replay=path):
        first = await shop.get_cart("u1")
        assert first == {"items": [], "total": 0.0}
        first["items"] = "changed"
        assert await shop.get_cart("u1") == {"items": [], "total": 0.0}


class Item(BaseModel):
    name: str
    price: Decimal
    at: datetime


@dataclass(frozen=True)
class Line:
    item: Item
    tags: frozenset[str]
    of: tuple[int, ...] = (1, 2)


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (list[Line], [Line(Item(name="ü\n\x07", price=Decimal("1.10"), at=AT), frozenset({"a"}))]),
        (Item, Item(name="x", price=Decimal(3), at=AT)),
        (Any, {1: (1, 1.0, True), "$": b"\xff", (2,): {3.5}}),
        (Any, [10**400, float("inf"), float("-0.0"), "\ud800", None]),
        (dict[str, float], {"a": 1e16, "b": 1.0}),
        (bytes, bytes(range(256))),
    ],
)
@pytest.mark.parametrize("kind", ["read", "write", "watched"])
async def test_results_come_back_equal_and_of_their_types(path: Path, hint: Any, value: Any, kind: str) -> None:
    async def tool() -> Any:
        return value

    tool.__annotations__["return"] = hint
    decorate: dict[str, Callable[[Any], Any]] = {
        "read": AgentCache("thing"),
        "write": AgentCacheInvalidator("thing"),
        "watched": watched,
    }
    made = decorate[kind](tool)
    async with AgentCacheSession(record=path):
        assert await made() is value
    async with AgentCacheSession(replay=path):
        assert same(await made(), value)


_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(result=_trees, argument=_trees)
def test_any_tree_is_recorded_faithfully(tmp_path_factory: pytest.TempPathFactory, result: Any, argument: Any) -> None:
    path = tmp_path_factory.mktemp("t") / "c"

    @watched
    def tool(x: Any) -> Any:
        return result

    with AgentCacheSession(record=path):
        tool(argument)
    with AgentCacheSession(replay=path):
        assert same(tool(argument), result)


# -- which answer is whose -----------------------------------------------------------------------------------------------


async def test_equal_calls_have_their_answers_in_order(path: Path) -> None:
    states = iter(["queued", "running", "done"])

    @watched(poll=True)
    async def job(number: int) -> str:
        return next(states)

    async with AgentCacheSession(record=path):
        assert [await job(1) for _ in range(3)] == ["queued", "running", "done"]
    async with AgentCacheSession(replay=path) as session:
        assert await job(1) == "queued"
        assert len(session.unplayed()) == 2
        assert [await job(1), await job(1)] == ["running", "done"]
        with pytest.raises(UnrecordedCallError, match=r"job\(number=1\) was recorded 3 times, and this is one more"):
            await job(1)


async def test_a_read_that_has_run_out_keeps_its_last_answer_until_something_it_reads_is_written(
    shop: Shop, path: Path
) -> None:
    async with AgentCacheSession(record=path):
        before = await shop.get_cart("u1")
        await shop.add("u2", "x")
        await shop.add("u1", "x")
    async with AgentCacheSession(replay=path):
        for _ in range(3):
            assert await shop.get_cart("u1") == before
        await shop.add("u2", "x")
        assert await shop.get_cart("u1") == before
        await shop.add("u1", "x")
        with pytest.raises(UnrecordedCallError, match="after a write to what it reads"):
            await shop.get_cart("u1")
    shop.ran.clear()
    async with AgentCacheSession(replay=path):
        await shop.get_cart("u1")
        await shop.get_cart.invalidate("u1")
        with pytest.raises(UnrecordedCallError):
            await shop.get_cart("u1")
    assert shop.ran == []


async def test_calls_made_at_once_find_their_own_whatever_the_order(path: Path) -> None:
    gates = {n: asyncio.Event() for n in range(4)}

    @watched
    async def tool(n: int) -> int:
        await gates[n].wait()
        return n * 10

    async with AgentCacheSession(record=path):
        tasks = [asyncio.create_task(tool(n)) for n in range(4)]
        for n in (2, 0, 3, 1):
            await asyncio.sleep(0)
            gates[n].set()
        assert await asyncio.gather(*tasks) == [0, 10, 20, 30]
    async with AgentCacheSession(replay=path):
        assert await asyncio.gather(*(tool(n) for n in (3, 1, 0, 2))) == [30, 10, 0, 20]


async def test_equal_calls_at_once_have_the_answers_of_those_begun_as_early(path: Path) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    begun: list[int] = []

    @watched
    async def tool() -> int:
        begun.append(len(begun))
        mine = begun[-1]
        await gates[mine].wait()
        return mine

    async with AgentCacheSession(record=path):
        tasks = [asyncio.create_task(tool()) for _ in range(2)]
        await asyncio.sleep(0)
        gates[1].set()  # the second one ends first
        assert await tasks[1] == 1
        gates[0].set()
        assert await tasks[0] == 0
    async with AgentCacheSession(replay=path):
        assert await asyncio.gather(tool(), tool()) == [0, 1]


async def test_an_unseen_call_names_the_nearest(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path):
        await shop.search("apples", limit=3)
        await shop.search("pears", limit=5)
    shop.ran.clear()
    async with AgentCacheSession(replay=path):
        with pytest.raises(UnrecordedCallError) as caught:
            await shop.search("pears", limit=4)
        with pytest.raises(UnrecordedCallError, match="no call of weigh was"):
            shop.weigh(1.0)
    error = caught.value
    assert error.tool == "search"
    assert error.call == 'search(text="pears", limit=4)'
    assert error.nearest == 'search(text="pears", limit=5)'
    assert error.difference == "limit is 4, recorded 5"
    assert error.path == str(path)
    assert shop.ran == []


async def test_types_of_arguments_count(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path):
        await shop.search("a", limit=1)
    async with AgentCacheSession(replay=path):
        with pytest.raises(UnrecordedCallError, match="limit is true, recorded 1"):
            await shop.search("a", limit=True)


async def test_who_asks_counts_as_far_as_the_scope(path: Path) -> None:
    @AgentCache("profile", scope="user")
    async def profile() -> str:
        return current[-1]

    @AgentCache("news")
    async def news() -> str:
        return "news"

    @AgentCache("notes", scope="session")
    async def notes() -> str:
        return current[-1]

    current: list[str] = []

    async def ask(user: str) -> tuple[str, str, str]:
        current.append(user)
        async with AgentCacheSession(f"chat of {user}", identity={"user": user, "request": object()}):
            return await profile(), await notes(), await news()

    async with AgentCacheSession(record=path):
        seen = [await ask("ann"), await ask("bob")]
    assert seen == [("ann", "ann", "news"), ("bob", "bob", "news")]
    async with AgentCacheSession(replay=path):
        assert [await ask("bob"), await ask("ann")] == seen[::-1]
        with pytest.raises(UnrecordedCallError, match=r'who is \{"user":"eve"\}, recorded \{"user":"ann"\}'):
            await ask("eve")


async def test_two_tools_of_one_name_are_two(path: Path) -> None:
    def make(answer: str) -> Any:
        @watched
        async def look_up(x: int) -> str:
            return answer

        return look_up

    def other(answer: str) -> Any:
        @watched
        async def look_up(x: int) -> str:
            return answer

        return look_up

    async with AgentCacheSession(record=path):
        assert [await make("first")(1), await other("second")(1)] == ["first", "second"]
    async with AgentCacheSession(replay=path):
        assert [await other("")(1), await make("")(1)] == ["second", "first"]
    async with AgentCacheSession(record=path):
        await make("first")(1)
    async with AgentCacheSession(replay=path):  # a tool that moved is the one that is recorded; a second one is not
        assert await other("")(1) == "first"
    async with AgentCacheSession(replay=path):
        assert await make("")(1) == "first"
        with pytest.raises(UnrecordedCallError, match="the tool is"):
            await other("")(1)


# -- errors ------------------------------------------------------------------------------------------------------------------


class OutOfStock(Exception):  # noqa: N818 - as a user may call it
    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"{item} is out of stock")
        self.item, self.left = item, left


class Refused(NoEffect):
    pass


def raising(error: BaseException) -> Any:
    @watched
    async def tool() -> None:
        raise error

    return tool


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        TimeoutError(),
        FileNotFoundError(2, "No such file", "x.txt"),
        ConnectionResetError(104, "reset"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        NoEffect("nothing done"),
    ],
)
async def test_errors_of_a_fixed_table_come_back_as_they_were(path: Path, error: Exception) -> None:
    tool = raising(error)
    for how in ({"record": path}, {"replay": path}):
        async with AgentCacheSession(**how):  # type: ignore[arg-type]
            with pytest.raises(type(error)) as caught:
                await tool()
        assert type(caught.value) is type(error)
        assert (caught.value.args, str(caught.value)) == (error.args, str(error))


async def test_other_errors_are_named_and_the_user_s_own_are_made_again(path: Path) -> None:
    tool = raising(OutOfStock("pear", 0))
    with pytest.raises(OutOfStock):
        async with AgentCacheSession(record=path):
            await tool()
    async with AgentCacheSession(replay=path):
        with pytest.raises(ReplayedToolError) as named:
            await tool()
    assert named.value.type_name == f"{__name__}.OutOfStock"
    assert named.value.text == "pear is out of stock"
    async with AgentCacheSession(replay=path, replay_errors=(OutOfStock,)):
        with pytest.raises(OutOfStock, match="pear is out of stock") as caught:
            await tool()
    assert (caught.value.item, caught.value.left) == ("pear", 0)


async def test_a_class_is_never_imported_or_made_because_a_file_names_it(path: Path) -> None:
    tool = raising(ValueError("x"))
    async with AgentCacheSession(record=path):
        with pytest.raises(ValueError, match="x"):
            await tool()
    recorded = path.read_text()
    for name in ("subprocess.CalledProcessError", "SystemExit", "KeyboardInterrupt", "ExceptionGroup", "print", "os.x"):
        path.write_text(recorded.replace('"type":"ValueError"', f'"type":"{name}"'))
        async with AgentCacheSession(replay=path):
            with pytest.raises(ReplayedToolError) as caught:
                await tool()
        assert caught.value.type_name == name


async def test_a_cancelled_call_has_no_answer(path: Path) -> None:
    started = asyncio.Event()

    @watched
    async def slow() -> None:
        started.set()
        await asyncio.Event().wait()

    @AgentCache("slow")
    async def slow_read() -> None:
        await slow()

    for tool in (slow, slow_read):
        started.clear()
        async with AgentCacheSession(record=path):
            task = asyncio.create_task(tool())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with AgentCacheSession(replay=path):
            with pytest.raises(CassetteError, match="was cancelled when it was recorded"):
                await tool()
            task = asyncio.create_task(tool())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, CassetteError)):
                await task


async def test_what_has_no_form_is_said_when_it_is_recorded_and_when_it_is_asked_for(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @watched
    async def connect() -> object:
        return threading.Lock()

    with caplog.at_level(logging.WARNING, "agent_cache"):
        async with AgentCacheSession(record=path):
            await connect()
            await connect()
    assert caplog.text.count("a result of connect cannot be recorded") == 1
    async with AgentCacheSession(replay=path):
        with pytest.raises(CassetteError, match=r"connect\(\) was recorded without its result"):
            await connect()


# -- what is recorded of tools inside tools ---------------------------------------------------------------------------------


async def test_calls_inside_a_tool_are_not_the_agent_s(shop: Shop, path: Path) -> None:
    @watched
    async def plan(user_id: str) -> object:
        await shop.add(user_id, "inside")
        return await shop.get_cart(user_id)

    async with AgentCacheSession(record=path):
        seen = [await shop.get_cart("u1"), await plan("u1"), await shop.get_cart("u1")]
    assert '"nested":true' in path.read_text()
    shop.ran.clear()
    async with AgentCacheSession(replay=path) as session:
        assert [await shop.get_cart("u1"), await plan("u1"), await shop.get_cart("u1")] == seen
        assert session.unplayed() == ()
    assert shop.ran == []


# -- loops, figures, observers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_loop", ["raise", "warn", "short_circuit", "staged"])
async def test_loops_are_found_in_a_replay_where_they_were_found(shop: Shop, path: Path, on_loop: Any) -> None:
    async def circling() -> list[object]:
        seen: list[object] = []
        for n in range(12):
            try:
                seen.append(await shop.get_cart("u1"))
                if n == 4:
                    await shop.add("u1", "x")
                if n == 6:
                    await shop.add("u2", "x")
            except AgentLoopDetectedError as error:
                seen.append((error.kind, error.count, n))
        return seen

    heard: list[list[LoopEvent]] = []

    class Ear:
        def on_event(self, event: object) -> None:
            if isinstance(event, LoopEvent):
                heard[-1].append(event)

    configure(observers=(Ear(),))
    seen: list[list[object]] = []
    for how in ({"record": path}, {"replay": path}):
        heard.append([])
        async with AgentCacheSession("s", on_loop=on_loop, **how):  # type: ignore[arg-type]
            seen.append(await circling())
    assert heard[0]
    assert heard[0] == heard[1]
    assert seen[0] == seen[1]


async def test_figures_and_events_say_that_it_was_replayed(shop: Shop, path: Path) -> None:
    events: list[Any] = []

    class Ear:
        def on_event(self, event: object) -> None:
            events.append(event)

    async with AgentCacheSession(record=path):
        await shop.get_cart("u1")
        await shop.add("u1", "x")
    configure(observers=(Ear(),))
    before = get_metrics()
    async with AgentCacheSession("again", replay=path) as session:
        await shop.get_cart("u1")
        await shop.add("u1", "x")
        assert session.get_metrics()["replayed"] == 2
        explained = await shop.get_cart.explain("u1")
    assert (explained.status, "replay" in explained.reason) == ("bypass", True)
    after = get_metrics()
    assert {name for name in ("hits", "misses", "bypasses", "invalidations") if before[name] != after[name]} == set()
    read, write = events
    assert isinstance(read, CallEvent)
    assert (read.tool, read.outcome, read.session_id, read.age) == ("get_cart", "replayed", "again", None)
    assert isinstance(write, InvalidationEvent)
    assert (write.tool, write.tags, write.reason) == ("add", (), "replayed")


async def test_time_plays_no_part(path: Path) -> None:
    number = iter(range(10))

    @AgentCache("tick", ttl=0.000001)
    async def tick() -> int:
        return next(number)

    with AgentCacheSession(record=path):
        seen = [await tick(), await tick()]
    with AgentCacheSession(replay=path):
        assert [await tick(), await tick()] == seen


# -- modes --------------------------------------------------------------------------------------------------------------------


async def test_once_records_and_then_replays(shop: Shop, path: Path) -> None:
    session = AgentCacheSession(record=path, record_mode="once")
    async with session:
        seen = await shop.get_cart("u1")
    for again in (session, AgentCacheSession(record=path, record_mode="once")):
        shop.ran.clear()
        async with again:
            assert await shop.get_cart("u1") == seen
            with pytest.raises(UnrecordedCallError):
                await shop.get_cart("u2")
        assert shop.ran == []


async def test_once_records_anew_what_failed(shop: Shop, path: Path) -> None:
    async def fails() -> None:
        async with AgentCacheSession(record=path, record_mode="once"):
            await shop.get_cart("u1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    async with AgentCacheSession(record=path, record_mode="once"):
        await shop.get_cart("u2")
    async with AgentCacheSession(replay=path):
        await shop.get_cart("u2")
        with pytest.raises(UnrecordedCallError):
            await shop.get_cart("u1")


async def test_new_episodes_replays_what_it_has_and_adds_what_it_has_not(shop: Shop, path: Path) -> None:
    async with AgentCacheSession(record=path):
        await shop.search("a")
    first = path.read_text()
    shop.ran.clear()
    async with AgentCacheSession(record=path, record_mode="new_episodes"):
        await shop.search("a")
        assert path.read_text() == first
    assert path.read_text() == first
    assert not path.with_name("run.cassette.partial").exists()
    async with AgentCacheSession(record=path, record_mode="new_episodes"):
        seen = [await shop.search("a"), await shop.search("b"), await shop.search("a")]
    assert shop.ran == [("search", "b", 3), ("search", "a", 3)]
    shop.ran.clear()
    async with AgentCacheSession(replay=path):
        assert [await shop.search("a"), await shop.search("b"), await shop.search("a")] == seen
    assert shop.ran == []


async def test_record_without_a_mode_begins_anew(shop: Shop, path: Path) -> None:
    for user in ("u1", "u2"):
        async with AgentCacheSession(record=path):
            await shop.get_cart(user)
    assert "u1" not in path.read_text()


async def test_a_session_that_lives_on_outside_is_another_one_inside(shop: Shop, path: Path) -> None:
    async with AgentCacheSession("thread-1"):
        await shop.get_cart("u1")
        async with AgentCacheSession(record=path), AgentCacheSession("thread-1"):
            await shop.get_cart("u1")
        shop.ran.clear()
        async with AgentCacheSession(replay=path), AgentCacheSession("thread-1"):
            await shop.get_cart("u1")
            with pytest.raises(UnrecordedCallError):
                await shop.get_cart("u2")
        assert shop.ran == []
        await shop.get_cart("u2")
        assert shop.ran == [("get_cart", "u2")]
