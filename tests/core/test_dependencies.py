"""``depends_on`` and cached tools inside cached tools: an answer is dropped by a write of whatever it turned out to read."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

import agent_cache
from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    AsyncCache,
    AsyncLRU,
    ConfigurationError,
    DiskBackend,
    MemoryBackend,
    RedisBackend,
    configure,
    depends_on,
    get_metrics,
    no_cache,
    refresh,
)
from agent_cache.engine.calls import REMEMBERED
from agent_cache.testing.servers import RedisServer


@pytest.fixture(params=["memory", "disk", "redis", "tiered"])
async def backend(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[Any]:
    REMEMBERED.clear()
    made: Any
    if request.param == "memory":
        made = MemoryBackend()
    elif request.param == "disk":
        made = DiskBackend(tmp_path / "cache.db")
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.cli("FLUSHALL")
        made = RedisBackend(server.url)
        if request.param == "tiered":
            made = agent_cache.TieredBackend(MemoryBackend(), made)
    configure(backend=made)
    yield made
    await made.close()


class Desk:
    """A source, its writes, and how often each read ran."""

    def __init__(self) -> None:
        self.data: dict[str, int] = {"ticket:42": 1, "user:7": 1, "user:8": 1}
        self.runs: Counter[str] = Counter()
        self.owner = "7"

        @AgentCacheInvalidator("{kind}:{ident}")
        async def write(kind: str, ident: str) -> None:
            self.data[f"{kind}:{ident}"] += 1

        @AgentCache("user:{ident}")
        async def user(ident: str) -> int:
            self.runs["user"] += 1
            return self.data[f"user:{ident}"]

        @AgentCache("summary")
        async def summary(which: str) -> list[int]:
            self.runs["summary"] += 1
            await depends_on("ticket:{ident}", ident="42")
            return [self.data["ticket:42"]]

        @AgentCache("page")
        async def page() -> list[int]:
            self.runs["page"] += 1
            return [*await summary("a"), await user(self.owner)]

        self.write: Any = write
        self.user: Any = user
        self.summary: Any = summary
        self.page: Any = page


async def test_a_write_of_what_it_depends_on_drops_the_answer(backend: Any) -> None:
    desk = Desk()
    for expected in (1, 2, 3):
        assert await desk.summary("a") == await desk.summary("a") == [expected]
        assert desk.runs["summary"] == expected
        await desk.write("user", "7")
        assert await desk.summary("a") == [expected]
        assert desk.runs["summary"] == expected
        await desk.write("ticket", "42")


async def test_cached_tools_inside_pass_theirs_up(backend: Any) -> None:
    desk = Desk()
    assert await desk.page() == await desk.page() == [1, 1]
    assert desk.runs == {"page": 1, "summary": 1, "user": 1}
    await desk.write("user", "8")
    assert await desk.page() == [1, 1]
    assert desk.runs["page"] == 1
    await desk.write("user", "7")
    assert await desk.page() == await desk.page() == [1, 2]
    await desk.write("ticket", "42")
    assert await desk.page() == await desk.page() == [2, 2]
    assert desk.runs == {"page": 3, "summary": 2, "user": 2}


async def test_those_inside_that_are_hits_pass_theirs_up_as_well(backend: Any) -> None:
    desk = Desk()
    for _ in range(3):
        await desk.user("7")
        await desk.summary("a")
    assert await desk.page() == [1, 1]
    assert await desk.page() == [1, 1]
    assert desk.runs == {"page": 1, "summary": 1, "user": 1}
    await desk.write("ticket", "42")
    assert await desk.page() == [2, 1]


async def test_what_it_no_longer_depends_on_does_not_drop_it(backend: Any) -> None:
    desk = Desk()
    await desk.page()
    desk.owner = "8"
    await desk.page.invalidate()
    assert await desk.page() == await desk.page() == [1, 1]
    await desk.page()
    runs = desk.runs["page"]
    await desk.write("user", "7")
    await desk.page()
    assert desk.runs["page"] == runs
    await desk.write("user", "8")
    assert await desk.page() == [1, 2]


async def test_what_can_be_done_to_it_by_hand(backend: Any) -> None:
    desk = Desk()
    await desk.summary("a")
    explained = await desk.summary.explain("a")
    assert explained
    assert {"any(ticket:42)", "all(ticket)", "any(summary)"} <= set(explained.tags)
    desk.data["ticket:42"] = 5
    with no_cache():
        assert await desk.summary("a") == [5]
    assert await desk.summary("a") == [1]
    with refresh():
        assert await desk.summary("a") == [5]
    assert await desk.summary("a") == [5]
    for drop in (lambda: desk.summary.invalidate("a"), desk.summary.invalidate_all):
        await desk.summary("a")
        runs = desk.runs["summary"]
        await drop()
        await desk.summary("a")
        await desk.summary("a")
        assert desk.runs["summary"] == runs + 1
    await desk.page()
    await desk.user.invalidate("7")
    runs = desk.runs["page"]
    await desk.page()
    assert desk.runs["page"] == runs + 1


async def test_without_the_await_the_first_answer_is_kept_only_where_it_is_asked_at_once(backend: Any) -> None:
    runs = 0

    @AgentCache("answers")
    async def answer() -> int:
        nonlocal runs
        runs += 1
        depends_on("ticket:42")
        return runs

    desk = Desk()
    first = [await answer() for _ in range(4)]
    assert first == ([1] * 4 if isinstance(backend, MemoryBackend) else [1, 2, 2, 2])
    await desk.write("ticket", "42")
    assert await answer() == runs == first[-1] + 1
    assert await answer() == runs


async def test_one_who_comes_after_a_write_does_not_ride_a_load_from_before(backend: Any) -> None:
    desk, gate, begun = Desk(), asyncio.Event(), asyncio.Event()

    @AgentCache("answers")
    async def answer() -> int:
        await depends_on("ticket:42")
        seen = desk.data["ticket:42"]
        begun.set()
        await gate.wait()
        return seen

    before = asyncio.create_task(answer())
    await begun.wait()
    await desk.write("ticket", "42")
    after = asyncio.create_task(answer())
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    assert await before == 1
    assert await after == 2
    assert await answer() == 2


async def test_a_write_while_it_loads_is_not_forgotten(backend: Any) -> None:
    desk, gates = Desk(), [asyncio.Event() for _ in range(4)]
    at: asyncio.Queue[int] = asyncio.Queue()

    @AgentCache("answers")
    async def answer(turn: int) -> int:
        for number, step in enumerate((lambda: depends_on("ticket:42"), None)):
            at.put_nowait(number)
            await gates[number].wait()
            if step is not None:
                await step()
                seen = desk.data["ticket:42"]
        return seen

    for turn, written_at in enumerate((0, 1)):
        for gate in gates:
            gate.clear()
        loading = asyncio.create_task(answer(turn))
        for number in range(2):
            assert await at.get() == number
            if number == written_at:
                await desk.write("ticket", "42")
            gates[number].set()
        await loading
        for gate in gates:
            gate.set()
        assert await answer(turn) == desk.data["ticket:42"]


async def test_scopes_have_it_on_their_chain_too(backend: Any) -> None:
    data, runs = Counter[str](), Counter[str]()

    @AgentCacheInvalidator("note", scope="user")
    async def write(who: str) -> None:
        data[who] += 1

    @AgentCache("note", scope="user")
    async def note(who: str) -> int:
        return data[who]

    @AgentCache("digest", scope="user")
    async def digest(who: str) -> int:
        runs[who] += 1
        return await note(who)

    async def as_user(who: str, what: Callable[[str], Any]) -> Any:
        async with AgentCacheSession(identity={"user": who}):
            return await what(who)

    for who in ("a", "b", "a", "b"):
        assert await as_user(who, digest) == 0
    assert runs == {"a": 1, "b": 1}
    await as_user("a", write)
    assert await as_user("a", digest) == 1
    assert await as_user("b", digest) == 0
    assert runs == {"a": 2, "b": 1}


async def test_what_is_one_users_is_not_kept_for_all(backend: Any) -> None:
    @AgentCache("me", scope="user")
    async def me(who: str) -> str:
        return who

    current = ""

    @AgentCache("greeting")
    async def greeting() -> str:
        return f"hello {await me(current)}"

    for current in ("a", "b", "a"):
        async with AgentCacheSession(identity={"user": current}):
            assert await greeting() == f"hello {current}"
    assert get_metrics()["unstorable" if "unstorable" in get_metrics() else "misses"]


async def test_what_ran_uncached_inside_leaves_nothing_to_keep(backend: Any) -> None:
    desk = Desk()

    @AgentCache("answers")
    async def answer() -> int:
        with no_cache():
            return int(await desk.user("7"))

    assert await answer() == 1
    await desk.write("user", "7")
    assert await answer() == 2


async def test_a_value_that_is_missing_leaves_nothing_to_keep(backend: Any) -> None:
    runs = 0

    @AgentCache("answers")
    async def answer() -> int:
        nonlocal runs
        runs += 1
        await depends_on("ticket:{ident}", ident=None)
        return runs

    assert [await answer(), await answer()] == [1, 2]


def test_def_tools_ask_at_once(tmp_path: Any) -> None:
    REMEMBERED.clear()
    data, runs, disk = {"ticket": 1}, Counter[str](), DiskBackend(tmp_path / "cache.db")
    for store in (MemoryBackend(), disk):
        configure(backend=store)
        runs.clear()

        @AgentCacheInvalidator("ticket")
        def write() -> None:
            data["ticket"] += 1

        @AgentCache("inner")
        def inner() -> int:
            depends_on("ticket")
            return data["ticket"]

        @AgentCache("outer")
        def outer() -> int:
            runs["outer"] += 1
            return inner()

        assert outer() == outer() == data["ticket"]
        assert runs["outer"] == 1
        write()
        assert outer() == outer() == data["ticket"]
        assert runs["outer"] == 2
    configure(backend=MemoryBackend())
    asyncio.run(disk.close())


async def test_hits_take_the_short_way() -> None:
    configure(backend=MemoryBackend())
    desk = Desk()
    for _ in range(3):
        await desk.page()
    from agent_cache.context import current_view

    log = current_view().log
    before = len(log)
    for _ in range(5):
        await desk.page()
    assert len(log) == before + 5


async def test_a_backend_of_its_own_is_reached_by_writes_it_did_not_know_of() -> None:
    own, data, gate, begun = MemoryBackend(), {"ticket": 1}, asyncio.Event(), asyncio.Event()
    configure(backend=MemoryBackend())

    @AgentCacheInvalidator("ticket")
    async def write(slowly: bool = False) -> None:
        if slowly:
            begun.set()
            await gate.wait()
        data["ticket"] += 1

    @AgentCache("answers", backend=own)
    async def answer() -> int:
        await depends_on("ticket")
        return data["ticket"]

    writing = asyncio.create_task(write(slowly=True))
    await begun.wait()
    assert await answer() == await answer() == 1
    gate.set()
    await writing
    assert await answer() == await answer() == 2
    assert await answer.explain()
    await write()
    assert await answer() == 3


async def test_outside_of_a_load_it_does_nothing() -> None:
    await depends_on("ticket:42")
    depends_on("ticket:42", "user")


@pytest.mark.parametrize(
    ("resources", "values"), [((), {}), ((3,), {}), (("",), {}), (("a:{b}",), {}), (("a:{b}",), {"c": 1})]
)
def test_bad_input_is_said(resources: Any, values: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        depends_on(*resources, **values)
    assert raised.value.parameter == "resources"


async def test_a_value_forges_no_path(backend: Any) -> None:
    data = {"x/y": 1}
    runs = 0

    @AgentCacheInvalidator("file:{path}")
    async def write(path: str) -> None: ...

    @AgentCache("answers")
    async def answer() -> int:
        nonlocal runs
        runs += 1
        await depends_on("file:{path}", path="x/y")
        return data["x/y"]

    await answer()
    await write("x/y")
    await answer()
    assert runs == 2
    await write("x")
    await answer()
    assert runs == 2


async def test_an_answer_in_place_of_a_loop_is_one_the_load_depends_on() -> None:
    REMEMBERED.clear()
    configure(backend=MemoryBackend())
    data = [1]

    @AgentCache("prices")
    async def price() -> int:
        return data[0]

    @AgentCache("offers:{number}")
    async def offer(number: int) -> int:
        await asyncio.sleep(0)
        return await price()

    @AgentCacheInvalidator("prices")
    async def change() -> None:
        data[0] += 1

    async with AgentCacheSession(max_tool_repeats=3, max_execution_depth=100, on_loop="short_circuit"):
        for number in range(12):
            await asyncio.sleep(0)
            assert await offer(number) == 1
        assert get_metrics()["loop_detections"]
    await change()
    assert [await offer(number) for number in range(12)] == [2] * 12


# -- on different backends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer_names_one", [False, True])
@pytest.mark.parametrize("how", ["write", "one call", "by hand", "all by hand"])
async def test_what_is_read_inside_is_on_another_backend(*, outer_names_one: bool, how: str) -> None:
    REMEMBERED.clear()
    configure(backend=MemoryBackend())
    elsewhere, data = MemoryBackend(), [1]

    @AgentCache("prices", backend=elsewhere)
    async def price() -> int:
        return data[0]

    @AgentCache("offers", backend=MemoryBackend() if outer_names_one else None)
    async def offer() -> int:
        return await price()

    @AgentCacheInvalidator("prices", backend=elsewhere)
    async def change() -> None:
        data[0] += 1

    @AgentCacheInvalidator(
        "prices", clear_all=False, key_fn=lambda _args, _kwargs: price.cache_key(), backend=elsewhere
    )
    async def change_one() -> None:
        data[0] += 1

    for expected in (1, 2, 3):
        assert await offer() == expected
        assert await offer() == expected
        if how == "write":
            await change()
        elif how == "one call":
            await change_one()
        else:
            data[0] += 1
            await (price.invalidate() if how == "by hand" else price.invalidate_all())


async def test_a_write_that_names_a_backend_reaches_reads_that_name_none() -> None:
    configure(backend=MemoryBackend())
    data = [1]

    @AgentCache("plain:{of}")
    async def read(of: str) -> int:
        return data[0]

    @AgentCacheInvalidator("plain:{of}", backend=MemoryBackend())
    async def write(of: str) -> None:
        data[0] += 1

    for expected in (1, 2, 3):
        assert await read("a") == expected
        await write("a")


def _personal(kind: str, asked: list[str]) -> Any:
    """A tool for everybody that turns out to read what is one user's."""
    backend = MemoryBackend()

    @AgentCache("profile", scope="user", backend=backend)
    async def profile() -> str:
        await asyncio.sleep(0)
        return WHO.get()

    async def page(name: str) -> str:
        asked.append(WHO.get())
        await asyncio.sleep(0)
        return f"{name} for {await profile()}"

    if kind == "AgentCache":
        return AgentCache("page", backend=backend)(page), backend
    if kind == "AsyncLRU":
        return AsyncLRU(backend=backend)(page), backend
    cache = AsyncCache(backend=backend)
    return (lambda name: cache.get(name, lambda: page(name))), backend


WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def _as(user: str, read: Any) -> Any:
    WHO.set(user)
    async with AgentCacheSession(identity={"user": user}):
        return await read("home")


@pytest.mark.parametrize("kind", ["AgentCache", "AsyncLRU", "AsyncCache"])
async def test_who_shares_a_load_is_not_given_what_it_read_of_another_user(kind: str) -> None:
    asked: list[str] = []
    read, _ = _personal(kind, asked)
    answers = await asyncio.gather(*(_as(user, read) for user in ("ada", "bob", "cyd")))
    assert answers == ["home for ada", "home for bob", "home for cyd"]
    assert sorted(asked) == ["ada", "bob", "cyd"]


async def test_nor_while_a_write_is_running() -> None:
    asked: list[str] = []
    read, backend = _personal("AgentCache", asked)
    writes = asyncio.Event()

    @AgentCacheInvalidator("page", backend=backend)
    async def publish() -> None:
        await writes.wait()

    publishing = asyncio.create_task(publish())
    await asyncio.sleep(0)
    answers = await asyncio.gather(*(_as(user, read) for user in ("ada", "bob", "cyd")))
    writes.set()
    await publishing
    assert answers == ["home for ada", "home for bob", "home for cyd"]


async def test_in_one_session_it_is_shared_all_the_same() -> None:
    asked: list[str] = []
    read, _ = _personal("AgentCache", asked)
    WHO.set("ada")
    async with AgentCacheSession(identity={"user": "ada"}):
        assert await asyncio.gather(read("home"), read("home")) == ["home for ada"] * 2
    assert asked == ["ada"]


async def test_a_failure_on_the_way_is_another_users_too() -> None:
    @AgentCache("profile", scope="user", backend=MemoryBackend())
    async def profile() -> str:
        await asyncio.sleep(0)
        return WHO.get()

    @AgentCache("page")
    async def page(name: str) -> str:
        await asyncio.sleep(0)
        raise LookupError(f"{name} is closed for {await profile()}")

    failed = await asyncio.gather(*(_as(user, page) for user in ("ada", "bob")), return_exceptions=True)
    assert [str(error) for error in failed] == ["home is closed for ada", "home is closed for bob"]
