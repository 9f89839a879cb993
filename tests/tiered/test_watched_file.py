"""Memory before a file: a hit that asks nobody is served only while SQLite says that nothing was committed."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCache, AgentCacheInvalidator, DiskBackend, MemoryBackend, TieredBackend
from agent_cache.backends.disk.store import EntryStore


class Opener:
    """One process's view of the file: a tier of its own, tools of its own over one source."""

    def __init__(self, path: Path, source: dict[str, int]) -> None:
        self.disk = DiskBackend(path)
        self.tier = TieredBackend(MemoryBackend(), self.disk)
        self.loads = 0

        @AgentCache("item:{name}", backend=self.tier)
        async def read(name: str) -> dict[str, int]:
            self.loads += 1
            return {"value": source[name]}

        @AgentCache("item:{name}", backend=self.tier)
        def read_def(name: str) -> dict[str, int]:
            self.loads += 1
            return {"value": source[name]}

        @AgentCacheInvalidator("item:{name}", backend=self.tier)
        async def write(name: str, value: int) -> None:
            source[name] = value

        self.read, self.read_def, self.write = read, read_def, write


@pytest.fixture
async def opener(tmp_path: Path) -> AsyncIterator[Callable[[], Opener]]:
    made: list[Opener] = []
    source = {"a": 1, "b": 1}

    def make() -> Opener:
        made.append(Opener(tmp_path / "cache.db", source))
        return made[-1]

    yield make
    for each in made:
        await each.tier.close()


@pytest.fixture
def selects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that reads entries or tags."""
    seen: list[str] = []
    real = EntryStore._select

    def select(self: EntryStore, sql: str, parameters: Any) -> Any:
        seen.append(sql)
        return real(self, sql, parameters)

    monkeypatch.setattr(EntryStore, "_select", select)
    return seen


async def warmed(each: Opener) -> None:
    """Read until the near tier answers at once: stored, flushed, revalidated."""
    await each.read("a")
    await each.disk.flush()
    for _ in range(3):
        await each.read("a")


async def test_a_warm_hit_selects_nothing(opener: Callable[[], Opener], selects: list[str]) -> None:
    here = opener()
    await warmed(here)
    selects.clear()
    for _ in range(50):
        assert await here.read("a") == {"value": 1}
    assert selects == []
    assert here.loads == 1


async def test_a_write_by_another_opener_is_seen_by_the_next_read(opener: Callable[[], Opener]) -> None:
    here, there = opener(), opener()
    for value in range(2, 8):
        await warmed(here)
        assert await here.read("a") == await there.read("a")
        await there.write("a", value)
        assert await here.read("a") == {"value": value}


async def test_a_write_elsewhere_costs_one_look_and_no_load(opener: Callable[[], Opener], selects: list[str]) -> None:
    here, there = opener(), opener()
    await warmed(here)
    await there.write("b", 2)
    selects.clear()
    assert await here.read("a") == {"value": 1}
    looked = len(selects)
    assert 1 <= looked <= 2
    for _ in range(20):
        await here.read("a")
    assert len(selects) == looked, "warm again"
    assert here.loads == 1


async def test_the_tools_of_two_threads_and_of_both_kinds_see_it(opener: Callable[[], Opener]) -> None:
    here, there = opener(), opener()
    await warmed(here)
    for _ in range(3):
        await asyncio.to_thread(here.read_def, "a")
    got: list[Any] = []

    def in_a_thread() -> None:
        got.append(here.read_def("a"))

    for value in range(2, 6):
        await there.write("a", value)
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        await asyncio.to_thread(thread.join)
        got.append(await here.read("a"))
        got.append(await asyncio.to_thread(here.read_def, "a"))
        assert got == [{"value": value}] * 3
        got.clear()


async def test_another_thread_looking_first_hides_nothing(opener: Callable[[], Opener]) -> None:
    """Each connection tells of a change once; who hears of it makes everybody look."""
    here, there = opener(), opener()
    await warmed(here)
    for _ in range(3):
        await asyncio.to_thread(here.read_def, "a")
    await there.write("a", 5)
    await asyncio.to_thread(here.tier._look_out)  # a thread of no part in it hears first
    assert await here.read("a") == {"value": 5}
    assert await asyncio.to_thread(here.read_def, "a") == {"value": 5}


async def test_a_change_between_the_look_and_the_warming_is_not_served(
    opener: Callable[[], Opener], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = opener(), opener()
    await warmed(here)
    await there.write("b", 2)  # makes the next read ask again
    real = here.disk.revalidate

    async def slow(*arguments: Any) -> Any:
        answer = await real(*arguments)
        await there.write("a", 9)
        here.tier._look_out()  # somebody of this process hears of it before the read goes on
        return answer

    monkeypatch.setattr(here.disk, "revalidate", slow)
    await here.read("a")  # may be the old one: it began before that write
    monkeypatch.setattr(here.disk, "revalidate", real)
    assert await here.read("a") == {"value": 9}


async def test_a_file_that_is_replaced_by_an_older_copy_is_noticed(
    opener: Callable[[], Opener], tmp_path: Path
) -> None:
    here = opener()
    await warmed(here)
    await here.tier.close()
    shutil.copy(tmp_path / "cache.db", tmp_path / "old.db")
    await here.write("a", 7)
    await warmed(here)
    (tmp_path / "old.db").replace(tmp_path / "cache.db")
    assert await here.read("a") == {"value": 7}


async def test_a_file_that_is_deleted_is_noticed(opener: Callable[[], Opener], tmp_path: Path) -> None:
    here, there = opener(), opener()
    await warmed(here)
    for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    await there.write("a", 3)
    assert await here.read("a") == {"value": 3}


async def test_its_own_writes_are_seen_at_once(opener: Callable[[], Opener]) -> None:
    here = opener()
    for value in range(2, 6):
        await warmed(here)
        await here.write("a", value)
        assert await here.read("a") == {"value": value}
