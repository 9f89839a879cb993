"""From any store into a file, and from the file into any store: values, ttls, tags; nothing stale, nothing twice."""

from __future__ import annotations

import asyncio
import gc
import gzip
import math
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agent_cache
from agent_cache import (
    AgentCache,
    AgentCacheInvalidator,
    AgentCacheSession,
    ConfigurationError,
    ExportFileError,
    MemoryBackend,
    configure,
)
from agent_cache.backends.base import Found, Missing, NewEntry, StoredEntry
from agent_cache.backends.tiered import TieredBackend
from agent_cache.codecs import codec_for
from agent_cache.moving import MoveReport, arriving, export, files, import_
from agent_cache.moving.format import Record, Sink
from agent_cache.tags import call_tags, read_tags, shared_tags, write_tags
from agent_cache.testing import FakeClock
from tests.moving.conftest import KINDS

Make = Callable[..., Any]
ran: list[str] = []
CODEC = codec_for(Any)
CART = read_tags([("cart", "42")], ())


@AgentCache("carts:{user_id}", ttl=300)
async def get_cart(user_id: str, note: str = "x") -> dict[str, list[str]]:
    ran.append(f"cart {user_id}")
    return {"items": [user_id]}


@AgentCache("prices")
async def get_price() -> float:
    ran.append("price")
    return 1.5


@AgentCache(["orders/{user_id}", "prices"], scope="user")
async def get_orders(user_id: str) -> tuple[int, ...]:
    ran.append(f"orders {user_id}")
    return 1, 2


@AgentCache("lost", cache_errors={KeyError: 60})
async def get_lost() -> int:
    ran.append("lost")
    raise KeyError("u9")


@AgentCacheInvalidator("carts:{user_id}")
async def add(user_id: str) -> None:
    return None


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


async def read_all() -> None:
    assert await get_cart("u1") == {"items": ["u1"]}
    assert await get_cart("u2", note="y") == {"items": ["u2"]}
    assert await get_price() == 1.5
    async with AgentCacheSession(identity={"user": "alice"}):
        assert await get_orders("o1") == (1, 2)


async def test_round_through_every_kind_of_store(make: Make, tmp_path: Path) -> None:
    """Memory, disk, Redis, a Cluster, tiers and back; the tools run once."""
    configure(namespace="shop")
    source = make("memory")
    configure(backend=source)
    await read_all()
    await source.set("k\ud800", {"v": None}, ttl=100)
    assert len(ran) == 4
    for number, kind in enumerate(["disk", "redis", "cluster", "tiered_redis", "tiered_disk", "memory", "memory"]):
        target = make(kind)
        file = tmp_path / f"{number}.export{'.gz' if number % 2 else ''}"
        left = await source.export(file)
        assert (left.entries, left.values, dict(left.left_out)) == (4, 1, {}), kind
        arrived = await target.import_(file)
        assert arrived == left
        configure(backend=target)
        await read_all()
        assert len(ran) == 4, kind
        assert await target.get("k\ud800") == {"v": None}
        entries = {entry.resource or entry.name: entry async for entry in target.scan()}
        assert 200 < (entries["carts:{user_id}"].ttl_left or 0) <= 300
        assert 50 < (entries["k\ud800"].ttl_left or 0) <= 100
        assert entries["prices"].ttl_left is None
        assert entries["orders/{user_id}, prices"].chain == ("user=alice",)
        assert {entry.namespace for entry in entries.values() if entry.is_tool} == {"shop"}
        source = target
    await add("u1")
    await read_all()
    assert ran[4:] == ["cart u1"]
    await get_orders.invalidate("o1")
    await get_cart.invalidate("u2", note="y")
    await read_all()
    assert ran[5:] == ["cart u2", "orders o1"]


async def test_what_arrived_is_dropped_by_writes_like_anything_else(backend: Any, make: Make, tmp_path: Path) -> None:
    first = make("memory")
    configure(backend=first)
    await read_all()
    await first.export(tmp_path / "f")
    await backend.import_(tmp_path / "f")
    configure(backend=backend)
    await add("u1")
    await get_price.invalidate_all()
    await read_all()
    assert sorted(ran[4:]) == ["cart u1", "price"]


async def test_what_a_write_dropped_and_what_is_a_session_s_stays(backend: Any, tmp_path: Path) -> None:
    configure(backend=backend)

    @AgentCache("mine", scope="session", backend=backend)
    async def mine() -> int:
        return 1

    await read_all()
    await add("u1")
    async with AgentCacheSession():
        await mine()
        report = await backend.export(tmp_path / "f")
    assert report.entries == 3
    assert sum(report.left_out.values()) in (1, 2)
    assert set(report.left_out) <= {"session", "unlabelled", "not_current"}
    fresh = MemoryBackend()
    await fresh.import_(tmp_path / "f")
    assert len([entry async for entry in fresh.scan()]) == 3


async def filled(backend: Any, value: Any = "v", ttl: float | None = 60.0, **how: Any) -> None:
    token = (await backend.lookup(None, CART, CODEC)).token
    assert await backend.fill(token, NewEntry(b"key", CODEC.freeze(value), ttl, 0.25, "g", None, (), **how))


async def test_time_in_the_file_is_counted(backend: Any, tmp_path: Path) -> None:
    wall = FakeClock(1_000_000.0)
    store = MemoryBackend()
    await filled(store, age=5)
    await store.set("long", 1, ttl=500)
    await export(store, tmp_path / "f", wall=wall, clock=wall)  # how long the export takes is measured by the same
    wall.advance(45)
    report = await import_(backend, tmp_path / "f", wall=wall)
    assert (report.entries, report.values) == (1, 1)
    found = await backend.lookup(b"key", CART, CODEC)
    assert isinstance(found, Found)
    assert 5 < (found.ttl_left or 0) <= 15
    assert 50 <= found.age < 60
    assert found.load_seconds == 0.25


@pytest.mark.parametrize("kind", ["memory", "disk", "redis", "cluster"])
async def test_nothing_leaves_younger_than_it_is_however_long_writing_takes(
    kind: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries are read several at once, and the last of them waits until the others are written."""
    clock = FakeClock(1_000.0)
    monkeypatch.setattr("agent_cache.backends.redis.scanning.uptime", clock)
    store = make(kind, **({"clock": clock} if kind in ("memory", "disk") else {}))
    for number in range(3):
        token = (await store.lookup(None, CART, CODEC)).token
        await store.fill(token, NewEntry(b"key%d" % number, CODEC.freeze("v"), 60.0, 0.25, "g", None, (), age=5.0))

    def slow(_entry: StoredEntry) -> bool:
        clock.advance(10)
        return True

    await export(store, tmp_path / "f", only=slow, clock=clock)
    records = files.Incoming(tmp_path / "f", b"")
    records.rewind()
    left = records.portion()
    records.close()
    assert [record.at for record in left] == [0, 10, 20]
    for record in left:
        assert record.ttl is not None
        assert 45 < record.ttl + record.at <= 60  # counted from when the export began
        assert 5 <= record.age - record.at < 20


async def test_an_entry_that_ended_while_others_were_written_is_over(tmp_path: Path) -> None:
    clock = FakeClock()
    store = MemoryBackend(clock=clock)
    await store.set("first", 1, ttl=10)
    await store.set("second", 1, ttl=10)
    found = []
    async for entry in store.scan():
        found.append((entry.is_current, entry.ttl_left))
        clock.advance(11)
    assert found == [(True, 10.0), (False, 0.0)]


async def test_what_expired_in_the_file_does_not_arrive(tmp_path: Path) -> None:
    wall = FakeClock(1_000_000.0)
    store, target = MemoryBackend(), MemoryBackend()
    await filled(store)
    await store.set("k", 1, ttl=10)
    await export(store, tmp_path / "f", wall=wall)
    wall.advance(61)
    report = await import_(target, tmp_path / "f", wall=wall)
    assert (report.entries, report.values, report.left_out) == (0, 0, {"expired": 2})
    frozen = await import_(target, tmp_path / "f", wall=wall, frozen=True)
    assert (frozen.entries, frozen.values, frozen.left_out) == (1, 1, {})


async def test_a_clock_that_went_back_makes_nothing_younger(tmp_path: Path) -> None:
    wall = FakeClock(1_000_000.0)
    store, target = MemoryBackend(), MemoryBackend()
    await filled(store, age=5)
    await export(store, tmp_path / "f", wall=wall)
    await import_(target, tmp_path / "f", wall=FakeClock(0.0))
    (entry,) = [entry async for entry in target.scan()]
    assert (entry.age or 0) >= 5
    assert (entry.ttl_left or 0) <= 60


async def test_older_ones_can_be_left_out(tmp_path: Path) -> None:
    store, target = MemoryBackend(), MemoryBackend()
    await filled(store, age=100)
    await store.export(tmp_path / "f")
    assert (await target.import_(tmp_path / "f", max_age=99)).left_out == {"too_old": 1}
    assert (await target.import_(tmp_path / "f", max_age=1000)).entries == 1


async def test_the_grace_comes_along(backend: Any, tmp_path: Path) -> None:
    store = MemoryBackend()
    await filled(store, grace=30.0)
    await store.export(tmp_path / "f")
    await backend.import_(tmp_path / "f")
    (entry,) = [entry async for entry in backend.scan()]
    assert entry.grace == 30.0
    assert 40 < (entry.ttl_left or 0) <= 60


async def test_what_is_there_is_kept_unless_it_is_to_be_replaced(backend: Any, tmp_path: Path) -> None:
    store = MemoryBackend()
    await filled(store, "old")
    await store.set("k", "old")
    await store.export(tmp_path / "f")
    await filled(backend, "new")
    await backend.set("k", "new")
    assert (await backend.import_(tmp_path / "f")).left_out == {"there": 2}
    assert await backend.get("k") == "new"
    assert (await backend.lookup(b"key", CART, CODEC)).stored.fresh() == "new"
    assert (await backend.import_(tmp_path / "f", replace=True)).entries == 1
    assert await backend.get("k") == "old"
    (entry,) = [entry async for entry in backend.scan(payloads=True) if entry.is_tool]
    assert codec_for(Any).thaw_payload(entry.payload).fresh() == "old"


async def test_while_a_write_runs_nothing_of_it_arrives(backend: Any, tmp_path: Path) -> None:
    store = MemoryBackend()
    await filled(store)
    await store.export(tmp_path / "f")
    window = await backend.begin(write_tags([("cart", "42")], ()), "writer")
    assert (await backend.import_(tmp_path / "f")).left_out == {"blocked": 1}
    await backend.end(window, unknown=False, no_effect=False)
    assert (await backend.import_(tmp_path / "f")).entries == 1


async def test_a_write_that_comes_between_token_and_fill_wins(backend: Any, tmp_path: Path) -> None:
    store = MemoryBackend()
    await filled(store)
    await store.export(tmp_path / "f")

    class Racing:
        """Between the two a whole write."""

        in_process = backend.in_process
        looked = 0

        async def lookup(self, key: bytes | None, tags: Any, codec: Any) -> Any:
            seen = await backend.lookup(key, tags, codec)
            self.looked += 1
            if self.looked == 1:  # the first look is from when the import began
                return seen
            window = await backend.begin(write_tags([("cart", "42")], ()), "writer")
            await backend.end(window, unknown=False, no_effect=False)
            return seen

        async def fill(self, token: Any, entry: NewEntry) -> bool:
            return bool(await backend.fill(token, entry))

    assert (await import_(Racing(), tmp_path / "f")).left_out == {"refused": 1}
    assert isinstance(await backend.lookup(b"key", CART, CODEC), Missing)


async def test_a_write_that_comes_before_an_entry_s_turn_wins(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryBackend()
    for number in range(3):
        token = store.sync.token(_cart(number))
        entry = NewEntry(b"key%d" % number, CODEC.freeze("old"), None, 0.0, "group", None, ())
        assert store.sync.fill(token, entry)
    await store.export(tmp_path / "f")
    monkeypatch.setattr(files, "_PORTION", 1)
    flush, written = arriving._flush, [False]

    async def writing(to: Any) -> None:
        """A whole write of another entry, once the first has been stored."""
        if not written[0]:
            written[0] = True
            window = await backend.begin(write_tags([("cart", "2")], ()), "writer")
            await backend.end(window, unknown=False, no_effect=False)
        await flush(to)

    monkeypatch.setattr(arriving, "_flush", writing)
    report = await backend.import_(tmp_path / "f")
    assert (report.entries, report.left_out) == (2, {"refused": 1})
    assert isinstance(await backend.lookup(b"key1", _cart(1), CODEC), Found)
    assert isinstance(await backend.lookup(b"key2", _cart(2), CODEC), Missing)


def _cart(number: int) -> Any:
    return read_tags([("cart", str(number))], ())


async def test_what_was_read_from_something_else_then_is_no_hit(tmp_path: Path) -> None:
    """The tool's resource has another name since: writes move that one."""
    store, target = MemoryBackend(), MemoryBackend()
    then = call_tags(shared_tags([("cart",)], "group", ()), ("#group", "0001"))
    now = call_tags(shared_tags([("basket",)], "group", ()), ("#group", "0001"))
    new = NewEntry(b"key", CODEC.freeze("old"), None, 0.0, "group", None, ())
    assert store.sync.fill(store.sync.token(then), new)
    await store.export(tmp_path / "f")
    assert (await target.import_(tmp_path / "f")).entries == 1
    assert isinstance(await target.lookup(b"key", then, CODEC), Found)
    missing = await target.lookup(b"key", now, CODEC)
    assert isinstance(missing, Missing)
    assert (missing.why, missing.kept) == ("absent", None)
    assert await target.fill(missing.token, new)
    assert isinstance(await target.lookup(b"key", now, CODEC), Found)


async def test_namespaces_are_selected_on_both_ways(make: Make, tmp_path: Path) -> None:
    store = make("disk")
    for name in ("a", "b", ""):
        configure(backend=store, namespace=name)
        await get_price()
    await store.set("k", 1)
    assert (await store.export(tmp_path / "ab", namespaces=["a", "b"])).entries == 2
    report = await store.export(tmp_path / "none", namespaces="")
    assert (report.entries, report.values) == (1, 1)
    target = make("redis")
    assert (await target.import_(tmp_path / "ab", namespaces="b")).left_out == {"other_namespace": 1}
    ran.clear()
    for name in ("b", "a"):
        configure(backend=target, namespace=name)
        await get_price()
    assert ran == ["price"]


async def test_only_some_entries(make: Make, tmp_path: Path) -> None:
    store = make("disk")
    configure(backend=store)
    await read_all()
    report = await store.export(tmp_path / "f", only=lambda entry: ("carts", "u1") in entry.paths)
    assert report.entries == 1


async def test_entries_without_labels_stay(make: Make, tmp_path: Path) -> None:
    for kind, how in (("disk", {"secret": "s"}), ("redis", {"labels": False})):
        store = make(kind, **how)
        configure(backend=store)
        await get_price()
        assert (await store.export(tmp_path / kind)).left_out == {"unlabelled": 1}


async def test_sealed_stores_exchange_entries(make: Make, tmp_path: Path) -> None:
    configure(secret="one for the keys")
    store = make("disk", secret="a", labels=True)
    configure(backend=store)
    await read_all()
    await store.export(tmp_path / "f", secret="the file's")
    target = make("redis", secret="b", labels=True)
    assert (await target.import_(tmp_path / "f", secret=b"the file's")).entries == 4
    configure(backend=target)
    await read_all()
    assert len(ran) == 4


@pytest.mark.parametrize(("made", "given"), [("a", None), (None, "a"), ("a", "b")])
async def test_another_secret_is_refused(made: str | None, given: str | None, tmp_path: Path) -> None:
    store = MemoryBackend()
    await filled(store)
    await store.export(tmp_path / "f", secret=made)
    with pytest.raises(ExportFileError, match="secret"):
        await store.import_(tmp_path / "f", secret=given)


async def test_the_file_is_its_owner_s_and_appears_when_it_is_whole(tmp_path: Path) -> None:
    store = MemoryBackend()
    await filled(store)
    file = tmp_path / "f.gz"
    await store.export(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes()[:2] == b"\x1f\x8b"
    assert b'"agent_cache":"export"' in gzip.decompress(file.read_bytes())
    with pytest.raises(ConfigurationError, match="overwrite=True"):
        await store.export(file)
    await store.set("more", 1)
    assert (await store.export(file, overwrite=True, compress=False)).values == 1
    assert file.read_bytes().startswith(b'{"agent_cache":"export"')

    def bad(_: object) -> bool:
        raise RuntimeError("a predicate of somebody's")

    before = file.read_bytes()
    with pytest.raises(RuntimeError):
        await store.export(file, overwrite=True, only=bad)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["f.gz"]


@pytest.mark.parametrize("known", [True, False])
async def test_an_error_kept_as_an_answer_comes_along(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into memory only where the tool is known: nobody else can tell an error from a value."""
    store, fresh = MemoryBackend(), MemoryBackend()
    configure(backend=store)
    with pytest.raises(KeyError):
        await get_lost()
    await store.export(tmp_path / "f")
    with monkeypatch.context() as patched:
        if not known:
            patched.setattr("agent_cache.moving.arriving.known_tool", lambda _group: None)
        report = await fresh.import_(tmp_path / "f")
    assert (report.entries, report.left_out) == ((1, {}) if known else (0, {"refused": 1}))
    configure(backend=fresh)
    for _ in range(2):
        with pytest.raises(KeyError, match="u9"):
            await get_lost()
    assert ran == ["lost"] * (1 if known else 2)


async def test_an_export_that_fails_is_quiet_when_it_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzip file that is not closed writes what it holds when it is freed; from Python 3.13 on that it cannot is said."""
    store = MemoryBackend()
    await store.set("k", 1)
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(ZeroDivisionError):
        await store.export(tmp_path / "f.gz", namespaces=None, only=lambda _entry: bool(1 / 0))
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert said == []


async def test_a_tool_that_is_not_known_yet_finds_its_entries_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import into memory before the tools are decorated: what is decoded is decoded by their own codec."""
    store = MemoryBackend()
    configure(backend=store)
    await read_all()
    await store.export(tmp_path / "f")
    fresh = MemoryBackend()
    with monkeypatch.context() as patched:
        patched.setattr("agent_cache.moving.arriving.known_tool", lambda _group: None)
        await fresh.import_(tmp_path / "f")
    configure(backend=fresh)
    first, second = await get_cart("u1"), await get_cart("u1")
    assert first == {"items": ["u1"]}
    first["items"].append("mine")
    assert second == await get_cart("u1") == {"items": ["u1"]}  # an own value for each caller
    assert len(ran) == 4
    assert agent_cache.get_metrics()["hits"] >= 3


async def test_a_payload_that_nobody_can_read_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, fresh = MemoryBackend(), MemoryBackend()
    configure(backend=store)
    await get_price()
    (entry,) = [entry async for entry in store.scan()]
    token = (await store.lookup(None, entry.tags or (), CODEC)).token
    await store.fill(token, NewEntry(entry.key, CODEC.freeze({"no": "float"}), 60, 0.1, entry.group, None, ()))
    await store.export(tmp_path / "f")
    text = (tmp_path / "f").read_bytes()
    assert b'"no"' in text
    with monkeypatch.context() as patched:  # taken in before there was the tool
        patched.setattr("agent_cache.moving.arriving.known_tool", lambda _group: None)
        await fresh.import_(tmp_path / "f")
    # made unreadable in the memory of the one who took it in
    configure(backend=fresh)
    (arrived,) = [entry async for entry in fresh.scan()]
    arrived.where.stored.thaw._payload = b"Jxxxxnonsense"
    assert await get_price() == 1.5
    assert len(ran) == 2


@pytest.mark.parametrize("kind", ["memory", "disk", "redis", "tiered_redis"])
async def test_the_blocking_face_moves_too(make: Make, kind: str, tmp_path: Path) -> None:
    store, target = make(kind), make(kind)

    def work() -> MoveReport:
        store.sync.set("k", [1], ttl=50)
        left = store.sync.export(tmp_path / "f.gz", namespaces=None)
        arrived = target.sync.import_(tmp_path / "f.gz", max_age=100)
        assert left == arrived
        assert target.sync.get("k") == [1]
        return arrived

    assert (await asyncio.to_thread(work)).values == 1


async def test_a_large_store_streams(make: Make, tmp_path: Path) -> None:
    store, target = make("disk"), make("redis")
    await store.set_many({f"k{number}": "x" * 1000 for number in range(3000)})
    assert (await store.export(tmp_path / "f.gz")).values == 3000
    assert (await target.import_(tmp_path / "f.gz")).values == 3000
    assert await target.count() == 3000


async def test_payloads_travel_unpacked(make: Make, tmp_path: Path) -> None:
    """Whether a store compresses is its own business."""
    store, target = make("disk", compress=1), make("redis", compress=True)
    await store.set("k", "x" * 10_000)
    await filled(store, ["y" * 10_000])
    await store.export(tmp_path / "f")
    assert b"x" * 10_000 in (tmp_path / "f").read_bytes()
    memory = MemoryBackend()
    for each in (target, memory):
        report = await each.import_(tmp_path / "f")
        assert (report.entries, report.values) == (1, 1)
        assert await each.get("k") == "x" * 10_000
        assert isinstance(await each.lookup(b"key", CART, CODEC), Found)
    (entry,) = [entry async for entry in target.scan() if entry.is_tool]
    assert entry.size < 1_000


async def test_a_damaged_payload_stays_and_does_not_arrive(make: Make, tmp_path: Path) -> None:
    store = make("redis")
    await store.set("k", [1])
    await store.set("sound", [1])
    await store._links.ask(b"", [("SET", store._names.value("k"), b"Jxxxx[1]")])
    assert (await store.export(tmp_path / "f")).left_out == {"unreadable": 1}
    with (tmp_path / "g").open("wb") as file:
        sink = Sink(file, 1.0, b"")
        assert sink.add(Record("k", b"Jxxxx[1]", 0.0, None))
        sink.end()
    assert (await MemoryBackend().import_(tmp_path / "g")).left_out == {"unreadable": 1}


async def test_near_copies_kept_on_disk_are_not_exported(make: Make, tmp_path: Path) -> None:
    keep = make("disk")
    tier = TieredBackend(MemoryBackend(), make("redis"), keep=keep)
    configure(backend=tier)
    await get_price()
    await asyncio.gather(*tier._keeping)
    assert [entry.name[:10] async for entry in keep.scan()] == ["near-copy:"]
    report = await keep.export(tmp_path / "f")
    assert (report.entries, report.values) == (0, 0)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"file": 3}, "file"),
        ({"file": ""}, "file"),
        ({"namespaces": 3}, "namespaces"),
        ({"namespaces": [3]}, "namespaces"),
        ({"only": 3}, "only"),
        ({"secret": ""}, "secret"),
        ({"secret": "x" * 65}, "secret"),
    ],
)
async def test_bad_input_to_export(how: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=match):
        await MemoryBackend().export(how.pop("file", tmp_path / "f"), **how)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("how", "match"), [({"max_age": -1}, "max_age"), ({"namespaces": 3}, "namespaces"), ({"secret": 3}, "secret")]
)
async def test_bad_input_to_import(how: dict[str, Any], match: str, tmp_path: Path) -> None:
    await MemoryBackend().export(tmp_path / "f")
    with pytest.raises(ConfigurationError, match=match):
        await MemoryBackend().import_(tmp_path / "f", **how)


async def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ExportFileError, match=r"nowhere.*No such file"):
        await MemoryBackend().import_("/nowhere/f")


@pytest.mark.parametrize("kind", ["tiered_disk", "tiered_redis"])
async def test_an_import_into_tiers_warms_the_near_one_too(make: Make, kind: str, tmp_path: Path) -> None:
    store, tier = MemoryBackend(), make(kind)
    configure(backend=store)
    await read_all()
    await store.export(tmp_path / "f")
    await tier.import_(tmp_path / "f")
    assert tier.near.sync.stats()["entries"] == 4
    configure(backend=tier)
    await read_all()
    assert len(ran) == 4
    assert (await tier.stats())["far_hits"] == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_what_never_expires_moves_too(make: Make, kind: str, tmp_path: Path) -> None:
    backend = make(kind)

    @AgentCache("forever", ttl=math.inf, backend=backend)
    async def forever() -> int:
        return 1

    assert await forever() == 1
    await backend.set("greeting", "hello", math.inf)
    await backend.set("later", "hello", 1e300)
    assert (await backend.export(tmp_path / "file")).values == 2
    arrived = make("redis")
    report = await arrived.import_(tmp_path / "file")
    assert (report.entries, report.values, report.left_out) == (1, 2, {})
    assert await arrived.get_many(["greeting", "later"]) == {"greeting": "hello", "later": "hello"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_entry_that_no_write_could_drop_does_not_arrive(make: Make, kind: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        sink = Sink(file, 0.0, b"")
        sink.add(Record(b"k" * 20, CODEC.freeze(1).payload(), 0.0, None, group="g", tags=()))
        sink.add(Record(b"l" * 20, CODEC.freeze(2).payload(), 0.0, None, group="g", tags=CART))
        sink.end()
    report = await make(kind).import_(tmp_path / "file")
    assert (report.entries, report.left_out) == (1, {"unlabelled": 1})
