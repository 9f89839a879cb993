"""Erased: not served, not stored by a load under way, and not in the store's bytes any more."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheSession, ConfigurationError, MemoryBackend, configure, erase
from agent_cache.backends.disk.writer import Job
from agent_cache.testing.servers import RedisServer

U1 = {"tenant": "acme", "user": "u1"}
U2 = {"tenant": "acme", "user": "u2"}
OTHER = {"tenant": "other", "user": "u1"}
ran: list[str] = []
gate: asyncio.Event | None = None
started: asyncio.Event | None = None


def _note(what: str) -> str:
    ran.append(what)
    return f"private-{what}-" + what * 3_000  # larger than a page of the file


@AgentCache("orders:{which}", scope="user")
async def orders(which: str) -> str:
    if started is not None and gate is not None:
        started.set()
        await gate.wait()
    return _note(f"orders{which}")


@AgentCache("plan", scope="tenant")
async def plan() -> str:
    return _note("plan")


@AgentCache("note", scope="session")
async def note() -> str:
    return _note("note")


@AgentCache("user:{user_id}")
async def profile(user_id: str) -> str:
    return _note(f"profile{user_id}")


@pytest.fixture(autouse=True)
def _fresh(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(backend=backend)
    ran.clear()
    monkeypatch.setitem(globals(), "gate", None)
    monkeypatch.setitem(globals(), "started", None)


async def _read_all(identity: dict[str, str], session: str) -> None:
    async with AgentCacheSession(session_id=session, identity=identity, keep=True):
        await orders("a")
        await orders("b")
        await plan()
        await note()


async def _hits(identity: dict[str, str], session: str) -> set[str]:
    """What is served from the store, of what :func:`_read_all` reads."""
    ran.clear()
    await _read_all(identity, session)
    found = {"ordersa", "ordersb", "plan", "note"} - set(ran)
    ran.clear()
    return found


async def test_one_user_is_erased_and_nobody_else(backend: Any) -> None:
    for at, identity in enumerate((U1, U2, OTHER)):
        await _read_all(identity, f"s{at}")
    await profile("u1")
    report = await erase(U1)
    assert report.complete
    assert report.entries == 3, "two reads of the user's, one of the session's; the tenant's plan stays"
    assert await _hits(U2, "s1") == {"ordersa", "ordersb", "plan", "note"}
    assert await _hits(OTHER, "s2") == {"ordersa", "ordersb", "plan", "note"}
    assert await _hits(U1, "s0") == {"plan"}
    await profile("u1")
    assert ran == []


async def test_a_tenant_is_erased_with_everybody_under_it(backend: Any) -> None:
    for at, identity in enumerate((U1, U2, OTHER)):
        await _read_all(identity, f"s{at}")
    report = await backend.erase({"tenant": "acme"}, sessions=["s0", "s1"])
    assert report.complete
    assert report.entries == 7
    assert await _hits(OTHER, "s2") == {"ordersa", "ordersb", "plan", "note"}
    assert await _hits(U1, "s0") == set()
    assert await _hits(U2, "s1") - {"plan"} == set(), "the plan was just read again"


async def test_a_load_under_way_is_not_stored(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    going, began = asyncio.Event(), asyncio.Event()
    monkeypatch.setitem(globals(), "gate", going)
    monkeypatch.setitem(globals(), "started", began)
    async with AgentCacheSession(identity=U1):
        task = asyncio.create_task(orders("a"))
        await began.wait()
        report = await backend.erase(U1)
        going.set()
        await task
    assert report.complete
    assert [entry.chain async for entry in backend.scan() if entry.chain] == []


async def test_open_sessions_keep_no_result(backend: Any) -> None:
    async with AgentCacheSession(identity=U1, on_loop="short_circuit") as session:
        await orders("a")
        await orders("a")
        state = session._state()
        state.remember("call", "private")
        report = await backend.erase({"tenant": "acme"})
        assert not state.results
        assert report.owners >= 3, "the tenant, the session, and the user that was found"


async def test_resources_are_erased_in_every_scope(backend: Any) -> None:
    await profile("u1")
    await profile("u2")
    async with AgentCacheSession(identity=U1):
        await orders("u1")
        report = await backend.erase(paths=["user:u1", "orders"])
        assert report.complete
        assert report.entries == 2
        ran.clear()
        await orders("u1")
    await profile("u2")
    assert ran == ["ordersu1"]
    await profile("u1")
    assert ran == ["ordersu1", "profileu1"]


@pytest.mark.parametrize("kind", ["disk", "tiered_disk"])
async def test_the_file_holds_nothing_of_it(backend: Any, tmp_path: Path) -> None:
    disk = backend.far if hasattr(backend, "far") else backend
    # as SQLite comes; some distributions build it so that it overwrites what is deleted, now, by itself
    await disk._run(Job(lambda db: db.execute("PRAGMA secure_delete=OFF").fetchall(), plain=True))
    for _ in range(2):  # what was written over and dropped before is in free pages
        await _read_all(U1, "s")
        await disk.flush()
        await orders.invalidate_all()
    await _read_all(U1, "s")
    await _read_all(U2, "t")
    await backend.erase(U1)
    # by another process: to close the file here would drop the locks that SQLite holds on it
    held = b"".join(
        subprocess.run(["cat", str(file)], capture_output=True, check=True).stdout
        for file in sorted(tmp_path.iterdir())
    )
    assert held.count(b"private-ordersa") == 1, "the other user's"
    assert b"private-note" in held, "the other user's session"
    report = await backend.erase({"tenant": "acme"}, sessions="t")
    assert report.complete
    held = b"".join(
        subprocess.run(["cat", str(file)], capture_output=True, check=True).stdout
        for file in sorted(tmp_path.iterdir())
    )
    assert b"private" not in held
    assert b"acme" not in held


@pytest.mark.parametrize("kind", ["redis", "tiered_redis"])
async def test_no_key_of_redis_holds_anything_of_it(backend: Any, redis_server: RedisServer) -> None:
    redis_server.cli("FLUSHALL")
    await _read_all(U1, "s")
    tags = len([key for key in redis_server.cli("KEYS", "*") if b"}t:" in key])
    assert any(b"private" in redis_server.cli("GET", key) for key in redis_server.cli("KEYS", "m*:{*"))
    assert (await backend.erase(U1, sessions="s", paths=["plan"])).complete
    keys = redis_server.cli("KEYS", "*")
    for key in keys:
        value = redis_server.cli("GET", key) if redis_server.cli("TYPE", key) in (b"string", "string") else b""
        assert b"private" not in value + key
        assert b"acme" not in value + key
        assert b"u1" not in key
    assert len([key for key in keys if b"}t:" in key]) < tags, "the tags of the user's own chain are gone"


async def test_near_copies_and_kept_ones_go_too(make: Any, tmp_path: Path) -> None:
    from agent_cache.backends.disk import DiskBackend
    from agent_cache.backends.tiered import TieredBackend

    kept = tmp_path / "kept.db"
    tiers = TieredBackend(MemoryBackend(), make("redis"), keep=DiskBackend(kept))
    configure(backend=tiers)
    await _read_all(U1, "s")
    await asyncio.gather(*tiers._keeping)
    assert tiers.near.sync.sizes()[0] > 0
    assert await tiers.keep.count() > 0
    assert await tiers.erase(U1)
    assert tiers.near.sync.chain_sizes(("tenant=acme", "user=u1")) == (0, 0)
    assert await tiers.keep.count() == 0
    await tiers.close()


@pytest.mark.parametrize("kind", ["disk", "redis"])
async def test_what_has_no_label_is_told_and_removed_if_asked(make: Any, kind: str) -> None:
    store = make(kind, labels=False)
    configure(backend=store)
    await _read_all(U1, "s")
    report = await store.erase(U2)
    assert not report
    assert report.left == {"unlabelled": 4}, kind
    report = await store.erase(U1)
    if kind == "disk":  # a chain's name is in its rows all the same
        assert report.entries == 3
        assert [1 async for _ in store.scan()] == [1]
    assert await _hits(U1, "s") <= {"plan", "note"}
    assert (await store.erase(U1, unknown=True)).complete
    assert await _hits(U1, "s") == set()


@pytest.mark.parametrize("kind", ["memory"])
@pytest.mark.parametrize(
    ("how", "parameter"),
    [
        ({}, "identity"),
        ({"identity": {}}, "identity"),
        ({"identity": "u1"}, "identity"),
        ({"identity": {"user": None}}, "identity"),
        ({"identity": {"user": object()}}, "identity"),
        ({"sessions": 3}, "sessions"),
        ({"sessions": [""]}, "sessions"),
        ({"paths": ["user:{id}"]}, "paths"),
        ({"paths": {"user": 1}}, "paths"),
        ({"identity": U1, "unknown": 1}, "unknown"),
        ({"identity": U1, "backend": "disk"}, "backend"),
    ],
)
async def test_what_cannot_be_is_refused(how: dict[str, Any], parameter: str) -> None:
    await _read_all(U1, "s")
    with pytest.raises(ConfigurationError, match=parameter):
        await erase(**how)
    assert await _hits(U1, "s") == {"ordersa", "ordersb", "plan", "note"}


@pytest.mark.parametrize("kind", ["disk"])
async def test_every_store_of_the_process_is_meant(make: Any, backend: Any) -> None:
    own, sessions_own = make("memory"), make("disk")

    @AgentCache("secret", scope="user", backend=own)
    async def secret() -> str:
        return "private"

    async with AgentCacheSession(identity=U1, backend=sessions_own):
        await orders("a")
        await secret()
        await sessions_own.flush()
        report = await erase(U1)
    assert report.entries == 2
    assert [1 async for _ in own.scan()] == [1 async for _ in sessions_own.scan()] == []


@pytest.mark.parametrize("kind", ["disk"])
def test_without_an_event_loop(backend: Any) -> None:
    asyncio.run(_read_all(U1, "s"))
    assert backend.sync.erase(U1).entries == 3
