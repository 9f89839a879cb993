"""Whose an answer is: scopes, identities, sessions and what is left when they end."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from typing import Any

import pytest

from agent_cache import (
    GLOBAL,
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    MemoryBackend,
    get_metrics,
    no_cache,
)

_numbers = itertools.count()
ACME, OTHER = {"tenant": "acme", "user": "u1"}, {"tenant": "other", "user": "u1"}


class Store:
    """A read that returns a new number per load, under a resource name no other test uses."""

    def __init__(self, **policy: Any) -> None:
        self.name = f"store{next(_numbers)}"
        self.runs = 0

        @AgentCache(self.name, **policy)
        async def read(n: int = 0) -> int:
            self.runs += 1
            return self.runs

        self.read = read

    def write(self, **policy: Any) -> Any:
        @AgentCacheInvalidator(self.name, **policy)
        async def write() -> None: ...

        return write


def test_global_prints_as_global() -> None:
    assert GLOBAL == "global"
    assert repr(GLOBAL) == "'global'"
    assert str(GLOBAL) == "global"


async def test_global_answers_are_everyones() -> None:
    store = Store()
    async with AgentCacheSession(identity=ACME):
        assert await store.read() == 1
    async with AgentCacheSession(identity=OTHER):
        assert await store.read() == 1
    assert await store.read() == 1


async def test_session_answers_are_one_sessions() -> None:
    store = Store(scope="session")
    async with AgentCacheSession():
        assert await store.read() == await store.read() == 1
        async with AgentCacheSession():
            assert await store.read() == 2
        assert await store.read() == 1


async def test_without_a_session_a_session_read_runs_uncached_and_is_counted() -> None:
    store = Store(scope="session")
    assert [await store.read(), await store.read()] == [1, 2]
    metrics = get_metrics()
    assert (metrics["bypasses"], metrics["reasons"]["no_session"]) == (2, 2)


async def test_a_scope_includes_the_fields_before_it() -> None:
    store = Store(scope="user")
    async with AgentCacheSession(identity=ACME):
        assert await store.read() == await store.read() == 1
    async with AgentCacheSession(identity=OTHER):
        assert await store.read() == 2
    async with AgentCacheSession(identity={"user": "u1"}):
        assert await store.read() == 3
    async with AgentCacheSession(identity={**ACME, "device": "phone"}):
        assert await store.read() == 1


async def test_a_wider_scope_is_shared_by_the_users_below() -> None:
    store = Store(scope="tenant")
    async with AgentCacheSession(identity=ACME):
        assert await store.read() == 1
    async with AgentCacheSession(identity={"tenant": "acme", "user": "u2"}):
        assert await store.read() == 1


@pytest.mark.parametrize(
    "identity", [None, {"tenant": "acme"}, {"tenant": None, "user": "u1"}, {"user": None}, {"user": {}}]
)
async def test_a_missing_identity_runs_uncached_never_wider(identity: dict[str, Any] | None) -> None:
    store = Store(scope="user")
    async with AgentCacheSession(identity=identity):
        assert [await store.read(), await store.read()] == [1, 2]
    assert get_metrics()["reasons"]["missing_identity"] == 2


async def test_identities_of_different_types_or_with_separators_are_different() -> None:
    store = Store(scope="user")
    seen = []
    identities: list[dict[str, Any]] = [
        {"user": 1}, {"user": "1"}, {"user": True}, {"tenant": "a", "user": "b"}, {"tenant": "a/user=b", "user": "b"},
        {"tenant": "a", "user": "b/c"}, {"tenant": "a/b", "user": "c"}, {"user": ""},
    ]  # fmt: skip
    for _ in range(2):
        for identity in identities:
            async with AgentCacheSession(identity=identity):
                seen.append(await store.read())
    assert seen == list(range(1, len(identities) + 1)) * 2


async def test_two_users_at_once_never_get_each_others_answer() -> None:
    @AgentCache(f"mine{next(_numbers)}", scope="user")
    async def mine() -> str:
        await asyncio.sleep(0)
        return who.get()

    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")

    async def one(user: str) -> None:
        who.set(user)
        async with AgentCacheSession(identity={"user": user}):
            for _ in range(4):
                assert await mine() == user

    await asyncio.gather(*(one(f"u{n % 5}") for n in range(50)))


async def test_nested_sessions_inherit_identity_and_backend() -> None:
    store, backend = Store(scope="user"), MemoryBackend()
    async with AgentCacheSession(identity=ACME, backend=backend):
        async with AgentCacheSession() as inner:
            assert dict(inner.identity) == ACME
            assert await store.read() == 1
        assert await store.read() == 1
        async with AgentCacheSession(identity=OTHER):
            assert await store.read() == 2
    assert backend.sync.sizes()[0] == 2


async def test_child_tasks_and_copied_threads_belong_to_the_session() -> None:
    store = Store(scope="session")

    @AgentCache("x", scope="session")
    def sync_read() -> int:
        return 1

    async with AgentCacheSession():
        assert await store.read() == 1
        assert await asyncio.create_task(store.read()) == 1
        await asyncio.to_thread(sync_read)
        assert sync_read.explain()


async def test_two_blocks_with_one_id_share_and_the_last_one_drops(memory: MemoryBackend) -> None:
    store = Store(scope="session")
    first, second = AgentCacheSession("s"), AgentCacheSession("s")
    await first.__aenter__()
    assert await store.read() == 1
    await asyncio.create_task(_in(second, store), context=contextvars.Context())
    assert store.runs == 1
    assert memory.sync.sizes()[0] == 1
    await first.__aexit__(None, None, None)
    assert memory.sync.sizes()[0] == 0
    async with AgentCacheSession("s"):
        assert await store.read() == 2


async def _in(session: AgentCacheSession, store: Store) -> None:
    async with session:
        assert await store.read() == 1


async def test_equal_ids_of_different_identities_share_nothing() -> None:
    store = Store(scope="session")
    async with AgentCacheSession("s", identity=ACME, keep=True):
        assert await store.read() == 1
    async with AgentCacheSession("s", identity=OTHER, keep=True):
        assert await store.read() == 2
    async with AgentCacheSession("s", identity=ACME):
        assert await store.read() == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_session_entries_are_dropped_at_exit_and_others_stay(memory: MemoryBackend, fails: bool) -> None:
    mine, all_ = Store(scope="session"), Store()
    try:
        async with AgentCacheSession("s"):
            await mine.read()
            await all_.read()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert memory.sync.sizes()[0] == 1
    assert await all_.read() == 1


def test_a_plain_session_drops_too(memory: MemoryBackend) -> None:
    @AgentCache("x", scope="session")
    def read() -> int:
        return 1

    with AgentCacheSession():
        read()
        assert memory.sync.sizes()[0] == 1
    assert memory.sync.sizes()[0] == 0


async def test_keep_leaves_entries_for_the_next_block() -> None:
    store = Store(scope="session")
    for _ in range(3):
        async with AgentCacheSession("chat", keep=True):
            assert await store.read() == 1


async def test_a_block_that_does_not_keep_drops_what_it_only_read(memory: MemoryBackend) -> None:
    store = Store(scope="session")
    async with AgentCacheSession("chat", keep=True):
        await store.read()
    async with AgentCacheSession("chat"):
        assert await store.read() == 1
    assert memory.sync.sizes()[0] == 0
    async with AgentCacheSession("chat"):
        assert await store.read() == 2


async def test_a_load_that_outlives_its_session_leaves_nothing_behind(memory: MemoryBackend) -> None:
    go_on = asyncio.Event()

    @AgentCache("x", scope="session")
    async def read() -> int:
        await go_on.wait()
        return 1

    async with AgentCacheSession("s"):
        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    go_on.set()
    assert await task == 1
    assert memory.sync.sizes()[0] == 0


async def test_a_session_opened_under_no_cache_reads_live() -> None:
    store = Store()
    await store.read()
    with no_cache():
        async with AgentCacheSession():
            assert await store.read() == 2


async def test_a_narrow_write_drops_this_session_only() -> None:
    store = Store(scope="session")
    write = store.write(scope="session")
    async with AgentCacheSession():
        assert await store.read() == 1
        async with AgentCacheSession():
            assert await store.read() == 2
            await write()
            assert await store.read() == 3
        assert await store.read() == 1


async def test_a_narrow_write_drops_this_identity_only() -> None:
    store = Store(scope="user")
    write = store.write(scope="user")
    for identity in (ACME, OTHER):
        async with AgentCacheSession(identity=identity):
            await store.read()
    async with AgentCacheSession(identity=ACME):
        await write()
        assert not await store.read.explain()
    async with AgentCacheSession(identity=OTHER):
        assert await store.read.explain()


async def test_a_global_write_reaches_every_scope() -> None:
    store = Store(scope="user")
    write = store.write()
    for identity in (ACME, OTHER):
        async with AgentCacheSession(identity=identity):
            await store.read()
    await write()
    for identity in (ACME, OTHER):
        async with AgentCacheSession(identity=identity):
            assert (await store.read.explain()).dropped_by == "write"


@pytest.mark.parametrize("why", ["another scope", "no session", "no identity"])
async def test_a_write_that_cannot_be_narrow_is_wide_and_warns_once(why: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(scope="user")
    write = store.write(scope="user")
    if why == "another scope":

        @AgentCache(store.name + ":{n}", scope="tenant")
        async def other(n: int) -> int:
            return n

    async with AgentCacheSession(identity=OTHER):
        await store.read()
    if why == "no session":
        await write()
        await write()
    else:
        async with AgentCacheSession(identity=ACME if why == "another scope" else {"tenant": "acme"}):
            await write()
            await write()
    async with AgentCacheSession(identity=OTHER):
        assert not await store.read.explain()
    assert len([r for r in caplog.records if "every scope" in r.getMessage()]) == 1


async def test_session_figures_are_its_own() -> None:
    store = Store()
    async with AgentCacheSession() as one:
        await store.read()
        await store.read()
        await store.read()
    async with AgentCacheSession() as two:
        await store.read()
    assert (one.get_metrics()["hits"], one.get_metrics()["misses"]) == (2, 1)
    assert (two.get_metrics()["hits"], two.get_metrics()["misses"]) == (1, 0)
    assert get_metrics()["hits"] == 3
    assert two.get_metrics()["resources"][store.name]["hits"] == 1
    assert set(one.get_metrics()) == set(get_metrics())
