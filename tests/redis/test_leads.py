"""One load among processes: a lease on each key, on which only the number of loads rests, never what is served."""

from __future__ import annotations

import asyncio
import subprocess
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheSession, get_metrics
from agent_cache.backends.base import Missing, NewEntry, Taken
from agent_cache.codecs import codec_for
from agent_cache.engine import loads
from agent_cache.tags import read_tags
from agent_cache.testing.servers import RedisServer

Process = Any
Eventually = Callable[..., Awaitable[None]]
KEY = b"key-of-cart-42"
CART = read_tags([("cart", "42")], ())
CODEC = codec_for(Any)


async def lead(process: Process, token: Any) -> Any:
    return await process._backend.lead(KEY, CART, token)


def entry(value: object, lead: Any = None) -> NewEntry:
    return NewEntry(KEY, CODEC.freeze(value), None, 0.1, "carts", None, (), lead)


def leads(server: RedisServer) -> list[bytes]:
    """The leads that are held now."""
    return [key for key in server.cli("KEYS", "*") if b"}l:" in key]


# --------------------------------------------------------------------------------------------------- the lease


async def test_the_second_process_waits_and_finds_what_the_first_stored(process: Process) -> None:
    one, two = process(), process()
    token = await one.token()
    mine = await lead(one, token)
    theirs = await lead(two, await two.token())
    assert isinstance(theirs, Taken)
    assert not theirs.again, "wait"
    assert await one._backend.fill(token, entry("loaded", mine))
    theirs = await lead(two, token)
    assert isinstance(theirs, Taken)
    assert theirs.again, "look up"
    await two.expect_value("loaded")


async def test_a_lead_is_given_back_by_its_fill_stored_or_refused(server: RedisServer, process: Process) -> None:
    one, two = process(), process()
    for refused in (False, True):
        await one.move()
        token = await one.token()
        mine = await lead(one, token)
        assert leads(server)
        if refused:
            await two.move()
        assert await one._backend.fill(token, entry("loaded", mine)) is not refused
        assert leads(server) == []
        assert not one._backend._keeper._kept


async def test_a_load_from_before_a_write_holds_up_nobody_after_it(server: RedisServer, process: Process) -> None:
    one, two = process(), process()
    before = await one.token()
    old = await lead(one, before)
    await two.move()
    token = await two.token()
    new = await lead(two, token)
    assert not isinstance(new, Taken), "the older load can store nothing any more"
    assert not await one._backend.fill(before, entry("old", old))
    assert len(leads(server)) == 1, "each gives back its own"
    assert await two._backend.fill(token, entry("new", new))
    assert leads(server) == []
    await one.expect_value("new")


async def test_a_dead_leader_is_followed_by_another_after_its_lease(process: Process) -> None:
    one, two = process(), process(lead_lease=3)
    token = await one.token()
    dead = await lead(one, token)
    one._backend._keeper.drop(dead)
    await process.let_pass(2)
    assert isinstance(await lead(two, token), Taken)
    await process.let_pass(2)
    assert not isinstance(await lead(two, token), Taken)


async def test_a_lead_is_renewed_for_as_long_as_its_load_takes(process: Process) -> None:
    one, two = process(lead_lease=3), process()
    token = await one.token()
    mine = await lead(one, token)
    assert list(one._backend._keeper._kept.values()) == [mine], "the keeper does this by the clock"
    assert mine.every == 1
    for _ in range(4):
        await process.let_pass(2)
        await one._backend._renew(mine)
    assert isinstance(await lead(two, token), Taken)


async def test_a_leader_that_was_given_up_takes_nothing_from_the_next_one(
    server: RedisServer, process: Process
) -> None:
    one, two = process(), process()
    token = await one.token()
    slow = await lead(one, token)
    await process.let_pass(4)
    assert not isinstance(await lead(two, token), Taken)
    await one._backend._renew(slow)
    await one._backend._let_go(slow)
    assert len(leads(server)) == 1
    assert isinstance(await lead(process(), token), Taken)


async def test_what_an_old_leader_brings_after_a_newer_write_is_refused(process: Process) -> None:
    one, two = process(), process()
    token = await one.token()
    mine = await lead(one, token)
    window = await two.begin()
    await two.end(window)
    fresh = await two.token()
    assert (await lead(one, token)).again, "its token is dead"
    assert not await one._backend.fill(token, entry("old", mine))
    await two.expect_missing("absent")
    newer = await lead(two, fresh)
    assert not isinstance(newer, Taken)
    assert await two._backend.fill(fresh, entry("new", newer))
    await one.expect_value("new")


async def test_nobody_leads_under_a_token_that_is_no_longer_current(process: Process) -> None:
    one, two = process(), process()
    token = await one.token()
    window = await two.begin()
    assert (await lead(one, token)).again
    await two.end(window, no_effect=True)
    assert (await lead(one, token)).again, "the versions are back, the fences are not"


# ---------------------------------------------------------------------------------------------- through the tools


@pytest.mark.parametrize("way", ["raises", "is refused", "cannot be stored", "is cancelled"])
async def test_a_lead_is_given_back_however_the_load_ends(
    server: RedisServer, process: Process, eventually: Eventually, way: str
) -> None:
    running = asyncio.Event()

    @AgentCache("cart:{user}", backend=process(lead_lease=600)._backend, cache_if=lambda value: way != "is refused")
    async def get_cart(user: int) -> object:
        assert leads(server)
        running.set()
        if way == "raises":
            raise LookupError
        if way == "cannot be stored":
            return object()
        if way == "is cancelled":
            await asyncio.Event().wait()
        return "cart"

    read = asyncio.create_task(get_cart(42))
    await running.wait()
    if way == "is cancelled":
        read.cancel()
    await asyncio.wait({read})
    await eventually(lambda: not leads(server), "its lease would have lasted")


class OneTool:
    """A tool that two processes have: it is the same function, in a session with a backend of each."""

    load: Callable[[], Awaitable[Any]]


@AgentCache("cart:{user}")
async def shared_tool(user: int) -> Any:
    return await OneTool.load()


async def call_with(process: Process) -> Any:
    async with AgentCacheSession(backend=process._backend, loop_detection=False):
        return await shared_tool(42)


async def test_one_process_loads_and_the_other_gets_a_value_of_its_own(process: Process) -> None:
    go, calls = asyncio.Event(), 0

    async def load() -> list[int]:
        nonlocal calls
        calls += 1
        await go.wait()
        return [calls]

    OneTool.load = load
    here, there = process(), process()
    reads = [asyncio.create_task(call_with(each)) for each in (here, there) * 20]
    async with asyncio.timeout(20):
        while not calls:
            await asyncio.sleep(0)
    go.set()
    values = await asyncio.gather(*reads)
    assert calls == 1
    assert values == [[1]] * 40
    assert len({id(value) for value in values}) == 40
    assert get_metrics()["coalesced"] == 39


async def test_a_follower_loads_alone_when_it_has_waited_long_enough(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "_LONGEST_WAIT", 0.02)
    one, two = process(), process()

    @AgentCache("cart:{user}", backend=two._backend)
    async def get_cart(user: int) -> str:
        return "loaded alone"

    held: list[Any] = []
    take = two._backend.lead

    async def taken_by_another(key: bytes, tags: Any, token: Any) -> Any:
        if not held:
            held.append(await one._backend.lead(key, tags, token))
        return await take(key, tags, token)

    monkeypatch.setattr(two._backend, "lead", taken_by_another)
    assert await get_cart(42) == "loaded alone"
    assert held
    assert not isinstance(held[0], Taken)
    assert (await get_cart.explain(42)).status == "hit", "its token is as good as the leader's"
    assert isinstance(await one.lookup(), Missing)


async def test_a_follower_loads_when_the_leader_brought_nothing(process: Process) -> None:
    running, go = asyncio.Event(), asyncio.Event()
    calls = 0

    async def load() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            running.set()
            await go.wait()
            raise LookupError
        return "loaded"

    OneTool.load = load
    first = asyncio.create_task(call_with(process()))
    await running.wait()
    second = asyncio.create_task(call_with(process()))
    go.set()
    with pytest.raises(LookupError):
        await first
    assert await second == "loaded"
    assert calls == 2


# -------------------------------------------------------------------------------------------- real processes

PROGRAM = textwrap.dedent("""
    import asyncio, sys
    from agent_cache import AgentCache
    from agent_cache.backends.redis import RedisBackend
    from agent_cache.testing.servers import Wire

    port, hangs = int(sys.argv[1]), sys.argv[2]
    backend = RedisBackend(f"redis://127.0.0.1:{port}/0", lead_lease=2, op_timeout=5)
    wire = Wire(port)

    @AgentCache("cart:{user}", backend=backend)
    async def get_cart(user: int) -> int:
        number = wire.call("INCR", "loads")
        print("loading", number, flush=True)
        if hangs == "first" and number == 1:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)  # the others arrive meanwhile
        return number

    async def main() -> None:
        await backend.connect()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        values = await asyncio.gather(*(get_cart(42) for _ in range(100)))
        print("values", *values, flush=True)
        await backend.close()

    asyncio.run(main())
    wire.close()
""")


class Herd:
    """Four processes with 100 callers each, on their marks."""

    def __init__(self, warm: Any, program: Path, port: int, hangs: str) -> None:
        program.write_text(PROGRAM)
        command = warm.command(str(program), str(port), hangs, imports=["redis.asyncio"])
        pipe = subprocess.PIPE
        self.processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) for _ in range(4)]
        for process in self.processes:
            assert self.line(process) == "ready\n"

    @staticmethod
    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    @staticmethod
    def go(processes: list[subprocess.Popen[str]]) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def herd(server: RedisServer, warm: Any, tmp_path: Path) -> Iterator[Callable[[str], Herd]]:
    made: list[Herd] = []

    def make(hangs: str) -> Herd:
        made.append(Herd(warm, tmp_path / "callers.py", server.port, hangs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answers(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return next(line for line in said.splitlines() if line.startswith("values")).split()[1:]


def test_four_processes_with_a_hundred_callers_each_load_a_cold_key_once(
    server: RedisServer, herd: Callable[[str], Herd]
) -> None:
    running = herd("nobody")
    running.go(running.processes)
    for process in running.processes:
        assert answers(process) == ["1"] * 100
    assert server.cli("GET", "loads") == b"1"


def test_a_leader_that_is_killed_leaves_nobody_without_an_answer(
    server: RedisServer, herd: Callable[[str], Herd]
) -> None:
    running = herd("first")
    first, *others = running.processes
    running.go([first])
    assert running.line(first) == "loading 1\n"
    running.go(others)
    first.kill()
    for process in others:
        assert answers(process) == ["2"] * 100
    assert server.cli("GET", "loads") == b"2"
