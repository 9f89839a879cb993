"""Entries that are kept beyond their freshness: how they stand in Redis, and who may load in their place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_cache import MemoryBackend
from agent_cache.backends.base import Found, Missing, NewEntry, Taken
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.redis.records import entry_bytes, read_entry
from agent_cache.backends.tiered import TieredBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags
from agent_cache.testing.servers import RedisServer

Process = Any
KEY = b"key-of-cart-42"
CART = read_tags([("cart", "42")], ())
CODEC = codec_for(Any)
STAMP = b"e" * 20 + b"v" * 12


def entry(value: object, lead: Any = None, grace: float = 20.0) -> NewEntry:
    return NewEntry(KEY, CODEC.freeze(value), 10.0, 0.1, "carts", None, (), lead, grace=grace)


async def raw_entry(server: RedisServer) -> bytes:
    keys = [key for key in server.cli("KEYS", "*") if b"}e:" in key]
    assert len(keys) == 1
    found: bytes = server.cli("GET", keys[0])
    return found


@pytest.mark.parametrize("seal", [None, b"of this test"])
def test_only_what_is_kept_longer_is_of_the_second_format(seal: bytes | None) -> None:
    plain = entry_bytes(STAMP, 1.0, 10.0, 0.1, b"payload", seal, KEY)
    lasting = entry_bytes(STAMP, 1.0, 10.0, 0.1, b"payload", seal, KEY, 20.0)
    assert (plain[:2], lasting[:2]) == (b"E1", b"E2"), (
        "who knows E1 only takes E2 for a miss, and would serve it as fresh"
    )
    for raw, grace in ((plain, 0.0), (lasting, 20.0)):
        read = read_entry(raw, seal, KEY)
        assert read is not None
        assert (read.stamp, read.ttl, read.load_seconds, read.grace, read.payload) == (
            STAMP,
            10.0,
            0.1,
            grace,
            b"payload",
        )


@pytest.mark.parametrize("cut", range(0, 69, 4))
def test_a_record_that_was_cut_is_none(cut: int) -> None:
    assert read_entry(entry_bytes(STAMP, 1.0, 10.0, 0.1, b"", None, KEY, 20.0)[:cut], None, KEY) is None


def test_a_seal_holds_the_grace_too() -> None:
    raw = bytearray(entry_bytes(STAMP, 1.0, 10.0, 0.1, b"payload", b"secret", KEY, 20.0))
    at = 5 + len(STAMP) + 24
    raw[at : at + 8] = entry_bytes(STAMP, 1.0, 10.0, 0.1, b"", None, KEY, 9_999.0)[at : at + 8]
    assert read_entry(bytes(raw), b"secret", KEY) is None


async def test_max_ttl_bounds_freshness_and_grace_together(server: RedisServer, process: Process) -> None:
    one = process(max_ttl=25)
    assert await one._backend.fill(await one.token(), entry("old", grace=100.0))
    key = next(key for key in server.cli("KEYS", "*") if b"}e:" in key)
    assert 24_000 < int(server.cli("PTTL", key)) <= 25_000
    found = await one.expect_value("old")
    assert 9 < found.ttl_left <= 10


async def test_one_process_loads_anew_what_has_expired(process: Any) -> None:
    one, two = process(), process()
    assert await one._backend.fill(await one.token(), entry("old"))
    await process.let_pass(12)
    seen, same = await one.expect_missing("expired"), await two.expect_missing("expired")
    assert seen.kept is not None
    mine = await one._backend.lead(KEY, CART, seen.token)
    assert not isinstance(mine, Taken), "the expired entry is not what a load was to bring"
    theirs = await two._backend.lead(KEY, CART, same.token)
    assert isinstance(theirs, Taken)
    assert not theirs.again, "wait"
    assert await one._backend.fill(seen.token, entry("new", mine))
    theirs = await two._backend.lead(KEY, CART, same.token)
    assert isinstance(theirs, Taken)
    assert theirs.again, "what was loaded since is there"
    await two.expect_value("new")


async def test_a_hit_that_may_be_kept_longer_costs_one_round_trip(process: Process) -> None:
    one = process()
    lasting = codec_for(Any)
    lasting.lasting = True
    assert await one._backend.fill(await one.token(), entry("old"))
    before = one._backend._links.round_trips
    found = await one._backend.lookup(KEY, CART, lasting)
    assert isinstance(found, Found)
    assert one._backend._links.round_trips - before == 1


async def test_a_copy_near_is_fresh_no_longer_than_the_entry(
    backend_at: Callable[..., RedisBackend], let_pass: Callable[..., Awaitable[None]]
) -> None:
    clock = [0.0]
    near = MemoryBackend(clock=lambda: clock[0])
    far, other = backend_at(), backend_at()
    tier = TieredBackend(near, far)
    missing = await other.lookup(KEY, CART, CODEC)
    assert isinstance(missing, Missing)
    assert await other.fill(missing.token, entry("old"))
    assert isinstance(await tier.lookup(KEY, CART, CODEC), Found)
    assert isinstance(await tier.lookup(KEY, CART, CODEC), Found)
    clock[0] += 12
    await let_pass(far, 12)
    expired = await tier.lookup(KEY, CART, CODEC)
    assert isinstance(expired, Missing)
    assert expired.kept is not None
    assert expired.kept.stored.fresh() == "old"
