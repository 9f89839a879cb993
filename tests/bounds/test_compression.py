"""Compression above a size: the same answers, fewer bytes, and nothing that a hostile store could do with it."""

from __future__ import annotations

import random
import sqlite3
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agent_cache import AgentCache, ConfigurationError, DiskBackend, RedisBackend, UnstorableResultError, configure
from agent_cache.backends import packing
from agent_cache.backends.packing import COMPRESS_FROM, Packing
from agent_cache.backends.redis.records import entry_bytes, read_entry
from agent_cache.codecs import codec_for, tool, with_user_codec
from agent_cache.codecs.frame import opened, sealed
from agent_cache.codecs.packed import PACKED, pack, unpack

Make = Callable[..., Any]
KINDS = ("disk", "redis")
CODEC = codec_for(Any)
ROWS = [{"id": n, "status": "shipped", "total": n * 1.25, "note": None, "tags": ["a", "b"]} for n in range(200)]


class Row(BaseModel):
    id: int
    status: str = "shipped"


class Tool:
    """A read of one argument, and how often it ran."""

    def __init__(self, result: Any, **policy: Any) -> None:
        self.runs = 0

        @AgentCache("rows", **policy)
        async def rows(n: int) -> Any:
            self.runs += 1
            return result

        self.read = rows


async def settled(backend: Any) -> None:
    """What was stored is where it belongs."""
    if isinstance(backend, DiskBackend):
        await backend.flush()


async def payloads(backend: Any) -> list[bytes]:
    """What the store holds of tools' results, as bytes."""
    await settled(backend)
    if isinstance(backend, DiskBackend):
        with closing(sqlite3.connect(backend.sync.path)) as db:
            return [row[0] for row in db.execute("SELECT payload FROM entries WHERE key<x'75' AND key>=x'74'")]
    found = []
    async for name in backend._scan(backend._names.prefix + b"{"):
        if b"}e:" in name:
            raw = (await backend._links.ask(name, [("GET", name)])).values[0]
            record = read_entry(raw, None, b"")
            assert record is not None
            found.append(record.payload)
    return found


async def plant(backend: Any, payload: bytes) -> None:
    """Put a payload of ours into the one entry there is."""
    await settled(backend)
    if isinstance(backend, DiskBackend):
        with sqlite3.connect(backend.sync.path) as db:
            db.execute("UPDATE entries SET payload=?", (payload,))
        db.close()
        return
    async for name in backend._scan(backend._names.prefix + b"{"):
        if b"}e:" in name:
            raw = (await backend._links.ask(name, [("GET", name)])).values[0]
            record = read_entry(raw, None, b"")
            assert record is not None
            assert raw.endswith(record.payload)
            await backend._links.ask(name, [("SET", name, raw[: -len(record.payload)] + payload, "PX", 60_000)])


@pytest.mark.parametrize("kind", [*KINDS, "tiered"])
@pytest.mark.parametrize("secret", [None, "s3cret"])
async def test_answers_are_the_same_and_take_less_room(kind: str, secret: str | None, make: Make) -> None:
    backend = make(kind, compress=True, secret=secret)
    large, small = Tool(ROWS), Tool({"a": 1})
    for _ in range(3):
        assert await large.read(1) == ROWS
        assert await small.read(2) == {"a": 1}
    assert (large.runs, small.runs) == (1, 1)
    if kind != "tiered":
        written = sorted(await payloads(backend), key=len)
        assert [payload[:1] for payload in written] == [b"J", PACKED]
        assert len(written[1]) < len(CODEC.freeze(ROWS).payload()) / 3


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_off_unless_asked_for(kind: str, make: Make) -> None:
    backend = make(kind)
    await Tool(ROWS).read(1)
    assert [payload[:1] for payload in await payloads(backend)] == [b"J"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
async def test_with_and_without_the_option_one_store_is_shared(kind: str, first: bool, make: Make) -> None:
    one = make(kind, compress=first)
    where = {"path": one.sync.path} if kind == "disk" else {"prefix": one._names.prefix.decode()}
    other = make(kind, compress=not first, **where)
    configure(backend=one)
    large = Tool(ROWS)
    await large.read(1)
    await one.set("k", ROWS)
    await settled(one)
    configure(backend=other)
    assert await large.read(1) == ROWS
    assert await other.get("k") == ROWS
    assert large.runs == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_to_an_older_version_it_is_a_miss(kind: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not know the format loads, and replaces it by what it knows."""
    new = make(kind, compress=True)
    where = {"path": new.sync.path} if kind == "disk" else {"prefix": new._names.prefix.decode()}
    large = Tool(ROWS)
    await large.read(1)
    await settled(new)
    old = make(kind, **where)
    monkeypatch.setattr(tool, "PACKED", b"\0")
    assert await large.read(1) == ROWS
    await settled(old)
    assert await large.read(1) == ROWS
    assert large.runs == 2
    monkeypatch.undo()
    configure(backend=new)
    assert await large.read(1) == ROWS
    assert large.runs == 2


@pytest.mark.parametrize("kind", [*KINDS, "tiered"])
async def test_the_key_value_surface(kind: str, make: Make) -> None:
    backend = make(kind, compress=100)
    await backend.set_many({"large": ROWS, "small": 1})
    assert await backend.get_many(["large", "small"]) == {"large": ROWS, "small": 1}
    assert await backend.get("large") == ROWS


async def test_models_and_codecs_of_the_user_go_through_it_too() -> None:
    class Shout:
        def encode(self, value: Any) -> bytes:
            return str(value).upper().encode()

        def decode(self, payload: bytes) -> Any:
            return payload.decode()

    for codec, value in (
        (codec_for(list[Row]), [Row(id=n) for n in range(100)]),
        (with_user_codec(Shout(), str), "X" * 5_000),
        (CODEC, {frozenset({n, n + 1}) for n in range(300)}),
    ):
        payload = pack(codec.freeze(value).payload())
        assert payload[:1] == PACKED
        assert codec.thaw_payload(payload).fresh() == value


async def test_what_takes_long_is_compressed_on_another_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[tuple[int, bool]] = []

    def noted(payload: bytes) -> bytes:
        where.append((len(payload), threading.current_thread() is threading.main_thread()))
        return pack(payload)

    monkeypatch.setattr(packing, "pack", noted)
    for kind in KINDS:
        backend = make(kind, compress=True)
        for size in (10_000, 500_000):
            await Tool("x" * size).read(size)
            await backend.set(str(size), "x" * size)
    assert {(size > 400_000, here) for size, here in where} == {(False, True), (True, False)}
    assert len(where) == 8


# -- from a store nobody can trust ----------------------------------------------------------------------------------


BIG, SMALL = (zlib.compress(bytes(size), 9) for size in (50_000_000, 1_000))


def bomb(claimed: int, packed: bytes) -> bytes:
    return sealed(PACKED, b"z" + claimed.to_bytes(4, "big") + packed)


INSIDE = CODEC.freeze("y" * 3_000).payload()
BODY = opened(pack(INSIDE))[1]
HOSTILE = {
    "says what it is": bomb(50_000_000, BIG),
    "says less": bomb(1_000, BIG),
    "says more": bomb(2_000, SMALL),
    "says nothing": bomb(0, BIG),
    "says most": bomb(0xFFFFFFFF, BIG),
    "packed twice": sealed(PACKED, b"z" + len(sealed(PACKED, BODY)).to_bytes(4, "big") + zlib.compress(sealed(PACKED, BODY))),
    "cut off": sealed(PACKED, BODY[:-3]),
    "something behind": sealed(PACKED, BODY + b"!"),
    "another method": sealed(PACKED, b"q" + BODY[1:]),
    "nothing": sealed(PACKED, b""),
    "no stream": sealed(PACKED, b"z\0\0\0\5hello"),
    "no payload inside": sealed(PACKED, b"z\0\0\0\5" + zlib.compress(b"hello")),
}  # fmt: skip


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_pack_did_not_make_is_refused_in_little_memory(payload: bytes) -> None:
    limit = 100_000
    tracemalloc.start()
    try:
        with pytest.raises(UnstorableResultError):
            CODEC.thaw_payload(payload, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["says what it is", "says less", "cut off", "packed twice"])
async def test_in_a_store_it_is_a_miss_and_counted(kind: str, name: str, make: Make) -> None:
    backend = make(kind, compress=True, max_entry_bytes=1_000_000)
    large = Tool(ROWS)
    await large.read(1)
    await plant(backend, HOSTILE[name])
    assert await large.read(1) == ROWS
    assert large.runs == 2
    stats = await backend.stats()
    assert stats["undecodable" if kind == "disk" else "corrupt"] >= 1
    await settled(backend)
    assert await large.read(1) == ROWS  # it has been replaced
    assert large.runs == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_with_a_secret_nothing_forged_is_unpacked(kind: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(kind, compress=True, secret="s3cret")
    large = Tool(ROWS)
    await large.read(1)
    unpacked: list[int] = []

    def noted(body: bytes, limit: int) -> bytes:
        unpacked.append(len(body))
        return unpack(body, limit)

    monkeypatch.setattr(tool, "unpack", noted)
    await plant(backend, pack(CODEC.freeze(ROWS + ROWS).payload()))
    assert await large.read(1) == ROWS
    assert (large.runs, unpacked) == (2, [])
    await settled(backend)
    assert await large.read(1) == ROWS
    assert (large.runs, len(unpacked)) == (2, 1)


def test_the_limit_is_the_readers() -> None:
    payload = pack(CODEC.freeze("x" * 50_000).payload())
    assert CODEC.thaw_payload(payload, 51_000).fresh() == "x" * 50_000
    with pytest.raises(UnstorableResultError, match="too_large"):
        CODEC.thaw_payload(payload, 49_000)


@given(st.binary(max_size=2_000), st.integers(0, 400), st.integers(0, 255))
def test_any_payload_comes_back_and_a_changed_one_never_differs(body: bytes, at: int, change: int) -> None:
    payload = sealed(b"J", body * 3)
    packed = pack(payload)
    assert len(packed) <= len(payload)
    if packed[:1] != PACKED:
        assert packed == payload
        return
    inside = opened(packed)[1]
    assert unpack(inside, len(payload)) == payload
    changed = bytearray(inside)
    changed[at % len(changed)] ^= change
    try:
        assert unpack(bytes(changed), len(payload)) == payload
    except UnstorableResultError:
        assert change


def test_what_does_not_become_smaller_is_left_as_it_is() -> None:
    noise = CODEC.freeze(random.Random(1).randbytes(10_000)).payload()
    text = CODEC.freeze("".join(map(chr, random.Random(1).choices(range(32, 65_000), k=5_000)))).payload()
    for payload in (noise, text, pack(INSIDE)):
        assert len(pack(payload)) <= len(payload)
    assert pack(pack(INSIDE)) == pack(INSIDE)


# -- asking for it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -1, 1.5, None, "yes"])
def test_bad_input_is_refused_at_construction(bad: Any) -> None:
    for backend in (lambda: DiskBackend("unused.db", compress=bad), lambda: RedisBackend(compress=bad)):
        with pytest.raises(ConfigurationError, match=r"compress=.*: give True"):
            backend()


@pytest.mark.parametrize(
    ("text", "least"),
    [("?compress=true", COMPRESS_FROM), ("?compress=500", 500), ("?compress=false", None), ("", None)],
)
def test_in_a_url(text: str, least: int | None, tmp_path: Path) -> None:
    from agent_cache.config import backend_from_url

    disk: Any = backend_from_url(f"disk://{tmp_path}/c.db{text}")
    redis: Any = backend_from_url(f"redis://localhost:1/0{text}")
    assert disk.far.sync.packing.least == redis.far._packing.least == least
    for bad in ("yes", "0", "-5", ""):
        with pytest.raises(ConfigurationError, match="compress is true, false"):
            backend_from_url(f"redis://localhost:1/0?compress={bad}")


def test_from_which_size_on() -> None:
    payload = CODEC.freeze("x" * 995).payload()
    size = len(payload)
    assert Packing(size).now(payload)[:1] == PACKED
    assert Packing(size + 1).now(payload) == payload
    assert Packing(False).now(payload) == payload
    assert entry_bytes(b"\0" * 20, 0.0, 0.0, 0.0, payload, None, b"")[-size:] == payload
