"""A check finds what is wrong, changes nothing unless it is told to, and what it mends works again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, ConfigurationError, configure
from agent_cache.backends.base import Finding, Found, NewEntry
from agent_cache.backends.disk.writer import Job
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags

Make = Callable[..., Any]
ran: list[str] = []
CODEC = codec_for(Any)
CART = read_tags([("cart", "42")], ())


@AgentCache("carts:{user_id}")
async def get_cart(user_id: str) -> list[str]:
    ran.append(user_id)
    return [user_id] * 3


@AgentCacheInvalidator("carts:{user_id}")
async def add(user_id: str) -> None:
    return None


async def used(backend: Any) -> None:
    ran.clear()
    configure(backend=backend)
    for user in ("a", "b", "c"):
        await get_cart(user)
    await add("a")
    await backend.set("k", {"v": 1})
    assert ran == ["a", "b", "c"]


def levels(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


async def test_a_sound_store_is_found_to_be_sound(backend: Any) -> None:
    await used(backend)
    report = await backend.integrity_check()
    assert report.ok, report
    assert report
    assert report.checked in (3, 4)
    assert report.outdated == report.checked - 3
    assert (report.removed, report.broken) == (0, {})
    assert report.findings
    assert await get_cart("b") == ["b"] * 3
    assert len(ran) == 3


async def test_an_empty_store_is_sound(backend: Any) -> None:
    report = await backend.integrity_check(repair=True)
    assert report.ok
    assert report.checked == 0


async def test_repair_is_checked(backend: Any) -> None:
    with pytest.raises(ConfigurationError, match="repair"):
        await backend.integrity_check("yes")


@pytest.mark.parametrize("kind", ["memory", "disk", "redis", "tiered_redis"])
async def test_the_blocking_face_checks_too(make: Make, kind: str) -> None:
    backend = make(kind)

    def work() -> bool:
        backend.sync.set("k", 1)
        report = backend.sync.integrity_check(repair=True)
        return bool(report) and report.checked == 1

    assert await asyncio.to_thread(work)


# -- disk


async def broken_file(make: Make, path: Path, *statements: str) -> Any:
    backend = make("disk", path=path)
    await used(backend)
    await backend.close()
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    return backend


async def test_a_payload_whose_bits_fell_over(make: Make, tmp_path: Path) -> None:
    change = "UPDATE entries SET payload = CAST(substr(payload, 1, 5) || x'00' || substr(payload, 7) AS BLOB) WHERE key > x'74'"
    backend = await broken_file(make, tmp_path / "c.db", change)
    report = await backend.integrity_check()
    assert not report.ok
    assert sum(report.broken.values()) == report.checked - 1
    assert all("checksum" in problem for problem in report.broken)
    assert report.removed == 0
    again = await backend.integrity_check(repair=True)
    assert again.removed == sum(report.broken.values())
    assert (await backend.integrity_check()).ok
    assert await get_cart("b") == ["b"] * 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE entries SET label = x'01ff' WHERE key > x'74'", "its label cannot be read"),
        ("UPDATE entries SET payload = 'text' WHERE key > x'74'", "its payload is no blob, or too large"),
        ("UPDATE entries SET created = 'long ago' WHERE key > x'74'", "not a row of ours: TypeError"),
        ("UPDATE entries SET key = CAST(x'7a' || key AS BLOB) WHERE key > x'74'", "not a row of ours: ValueError"),
        ("UPDATE entries SET key = CAST(x'ff' || key AS TEXT) WHERE key > x'74'", "not a row of ours: TypeError"),
        ("UPDATE entries SET stamp = 'none' WHERE key > x'74'", "not a row of ours: TypeError"),
    ],
)
async def test_rows_that_are_not_ours(make: Make, tmp_path: Path, change: str, problem: str) -> None:
    backend = await broken_file(make, tmp_path / "c.db", change)
    report = await backend.integrity_check(repair=True)
    assert set(report.broken) == {problem}
    assert report.removed == report.broken[problem] > 0
    assert (await backend.integrity_check()).ok
    assert await get_cart("b") == ["b"] * 3


async def test_sums_that_do_not_add_up(make: Make, tmp_path: Path) -> None:
    backend = await broken_file(make, tmp_path / "c.db", "UPDATE groups SET entries = entries + 7, bytes = 0")
    report = await backend.integrity_check()
    assert levels(report.findings) == {"file": "ok", "sums": "error", "rows": "ok", "set aside": "ok"}
    await backend.integrity_check(repair=True)
    assert (await backend.integrity_check()).ok
    assert (await backend.stats())["bytes"] > 0


@pytest.mark.parametrize("part", ["version = x'00'", "fence = 'text'", "markers = '[[1]]'", "markers = 'nonsense'"])
async def test_a_tag_that_cannot_be_read(make: Make, tmp_path: Path, part: str) -> None:
    backend = make("disk", path=tmp_path / "c.db")
    await used(backend)
    sql = f"UPDATE tags SET {part} WHERE id <> x''"  # noqa: S608
    await backend._run(Job(lambda db: db.execute(sql)))
    for _ in range(2):
        report = await backend.integrity_check()
        assert levels(report.findings)["rows"] == "error"
        assert levels(report.findings)["set aside"] == "ok"
    await backend.integrity_check(repair=True)
    assert (await backend.integrity_check()).ok
    ran.clear()
    assert await get_cart("b") == ["b"] * 3
    assert ran == ["b"]  # nothing from before is served


async def test_a_marker_that_cannot_be_read_does_not_keep_a_file_shut(make: Make, tmp_path: Path) -> None:
    """Opening it looks at the markers of other boots: what is no marker is damage, and damage is set aside."""
    backend = await broken_file(make, tmp_path / "c.db", "UPDATE tags SET markers = 'nonsense' WHERE id <> x''")
    await get_cart("b")
    await get_cart("b")
    assert ran == ["a", "b", "c", "b"]
    assert levels((await backend.integrity_check()).findings)["set aside"] == "warning"


async def test_a_damaged_file_is_told_and_set_aside_only_when_asked(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    backend = make("disk", path=path)
    await used(backend)
    await backend.set_many({f"k{number}": "x" * 500 for number in range(300)})
    await backend.close()
    raw = bytearray(path.read_bytes())
    last = len(raw) // 4096 - 2
    raw[(last - 4) * 4096 : last * 4096] = b"\xa5" * (4 * 4096)
    path.write_bytes(raw)
    for _ in range(2):
        report = await backend.integrity_check()
        assert levels(report.findings) == {"file": "error"}
        assert [each.name for each in tmp_path.iterdir() if "corrupt" in each.name] == []
    await backend.integrity_check(repair=True)
    assert [each.name for each in tmp_path.iterdir() if "corrupt" in each.name]
    after = await backend.integrity_check()
    assert (after.checked, levels(after.findings)["set aside"]) == (0, "warning")
    assert await get_cart("b") == ["b"] * 3


# -- Redis


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_redis_records_that_are_not_ours(make: Make, kind: str) -> None:
    backend = make(kind)
    await used(backend)

    async def every(mark: bytes) -> list[bytes]:
        return [name async for name in backend._scan(backend._names.prefix) if mark in name]

    async def put(name: bytes, value: bytes, *how: Any) -> None:
        slot = name[name.index(b"{") + 1 : name.index(b"}")] if b"{" in name else name
        await backend._links.ask(slot, [("SET", name, value, *how)])

    entries, tags = await every(b"}e:"), await every(b"}t:")
    await put(entries[0], b"nonsense", "PX", 60_000)
    await put(tags[0], b"nonsense", "PX", 60_000)
    await put(backend._names.value("k"), b"nonsense")
    await put(backend._names.prefix + b"{0}zz", b"somebody's")
    await put(backend._names.prefix + b"{0}l:00", b"endless")
    report = await backend.integrity_check()
    assert levels(report.findings) == {"tags": "error", "ends": "error", "names": "warning"}
    assert sum(report.broken.values()) == 2
    again = await backend.integrity_check(repair=True)
    assert again.removed == 2
    mended = await backend.integrity_check()
    assert mended.broken == {}
    assert levels(mended.findings) == {"tags": "ok", "ends": "ok", "names": "warning"}
    assert await backend.get("k") is None
    assert await get_cart("b") == ["b"] * 3


# -- memory


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: setattr(store, "_bytes", store._bytes + 1),
        lambda store: setattr(store._ring, "live", 0),
        lambda store: store._entries.pop(next(iter(store._entries))),
        lambda store: setattr(store, "max_size", 1),
        lambda store: setattr(store, "max_bytes", 1),
        lambda store: setattr(next(iter(store._entries.values())), "dead", True),
        lambda store: store._chains.clear(),
    ],
)
async def test_memory_that_does_not_add_up(make: Make, spoil: Callable[[Any], Any]) -> None:
    backend = make("memory")
    await used(backend)
    token = (await backend.lookup(None, CART, CODEC)).token
    await backend.fill(token, NewEntry(b"key", CODEC.freeze(1), None, 0.1, "g", None, ("user=a",)))
    assert (await backend.integrity_check()).ok
    spoil(backend.sync)
    report = await backend.integrity_check()
    assert levels(report.findings) == {"sums": "error"}
    assert not report
    await backend.integrity_check(repair=True)
    backend.sync.max_size = backend.sync.max_bytes = None
    assert (await backend.integrity_check()).ok
    token = (await backend.lookup(None, CART, CODEC)).token
    assert await backend.fill(token, NewEntry(b"key", CODEC.freeze(1), None, 0.1, "g", None, ()))
    assert isinstance(await backend.lookup(b"key", CART, CODEC), Found)
