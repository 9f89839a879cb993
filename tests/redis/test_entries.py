"""What stands in Redis is read with suspicion: damaged, foreign, forged or of another version is a miss, never an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_cache import AgentCache, AgentCacheInvalidator, MemoryBackend, configure, get_metrics
from agent_cache.backends.redis import RedisBackend
from agent_cache.backends.redis.records import read_entry, read_tag
from agent_cache.backends.tiered import TieredBackend
from agent_cache.testing.servers import RedisServer

BackendAt = Callable[..., RedisBackend]
LetPass = Callable[[RedisBackend, float], Awaitable[None]]


class World:
    """One read, one write, and the records they have made."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.state = self.runs = 0
        self.led: list[bytes] = []
        """What was led while the tool ran last."""

        @AgentCache("cart")
        async def get(n: int = 0) -> list[Any]:
            self.runs += 1
            self.led = self.keys(b"l")
            return ["milk", self.state, n]

        @AgentCacheInvalidator("cart")
        async def put() -> None:
            self.state += 1

        self.get, self.put = get, put

    async def expect_miss(self, n: int = 0) -> None:
        runs = self.runs
        assert await self.get(n) == ["milk", self.state, n]
        assert self.runs == runs + 1

    async def expect_hit(self, n: int = 0) -> None:
        runs = self.runs
        assert await self.get(n) == ["milk", self.state, n]
        assert self.runs == runs

    def keys(self, kind: bytes) -> list[bytes]:
        return [key for key in self.server.cli("KEYS", "*") if b"}" + kind + b":" in key]

    @property
    def entry(self) -> bytes:
        (key,) = self.keys(b"e")
        return key


@pytest.fixture
def backend(backend_at: BackendAt) -> RedisBackend:
    made = backend_at()
    configure(backend=made)
    return made


@pytest.fixture
async def world(server: RedisServer, backend: RedisBackend) -> World:
    made = World(server)
    await made.expect_miss()
    await made.expect_hit()
    return made


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's load is waited for ten seconds; here there is none."""
    monkeypatch.setattr("agent_cache.engine.loads._LONGEST_WAIT", 0.2)


async def corrupt(backend: RedisBackend) -> int:
    return int((await backend.stats())["corrupt"])


# -- what was opened before ---------------------------------------------------------------------------------------------


async def test_an_entry_is_opened_again_when_its_bytes_have_changed_and_not_before(
    world: World, backend: RedisBackend
) -> None:
    (held,) = backend._recent._held.values()
    await world.expect_hit()
    assert list(backend._recent._held.values()) == [held]
    world.server.cli("SET", world.entry, world.server.cli("GET", world.entry)[:-1])
    await world.expect_miss()
    await world.expect_hit()
    (newer,) = backend._recent._held.values()
    assert newer is not held


async def test_an_entry_that_was_opened_before_is_served_no_more_once_a_tag_has_moved(world: World) -> None:
    entry = world.server.cli("GET", world.entry)
    await world.put()
    assert world.server.cli("GET", world.entry) == entry, "its bytes are what they were"
    await world.expect_miss()
    await world.expect_hit()


async def test_a_caller_who_changes_his_value_changes_nobody_elses(world: World) -> None:
    (await world.get()).append("mine")
    await world.expect_hit()


async def test_what_was_opened_is_bounded_and_forgotten_when_the_backend_is_closed(backend: RedisBackend) -> None:
    @AgentCache("big:{n}")
    async def get(n: int) -> str:
        return "x" * (60_000 if n < 200 else 100_000)

    for n in range(220):
        assert await get(n) == await get(n)
        assert backend._recent._bytes < (4 << 20) + 65_000
        assert backend._recent._bytes <= sum(len(each.raw) + 500 for each in backend._recent._held.values())
    assert all(len(each.raw) < 65_537 for each in backend._recent._held.values())
    await backend.close()
    assert not backend._recent._held


async def test_behind_a_near_tier_nothing_is_kept_twice(backend_at: BackendAt) -> None:
    far = backend_at()
    world = TieredBackend(MemoryBackend(), far)

    @AgentCache("near", backend=world)
    async def get() -> str:
        return "near"

    assert await get() == await get() == "near"
    assert not far._recent._held


# -- entries ----------------------------------------------------------------------------------------------------------


def _cut(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": _cut(0),
    "a letter": _cut(1),
    "head only": _cut(4),
    "half the stamp": _cut(30),
    "without its payload": _cut(-40),
    "last byte gone": _cut(-1),
    "garbage": lambda raw: b"\xff" * len(raw),
    "zeros": lambda raw: bytes(len(raw)),
    "text": lambda raw: b"hello",
    "a megabyte of nothing": lambda raw: bytes(1 << 20),
    "wrong letter": lambda raw: b"X" + raw[1:],
    "wrong format": lambda raw: b"E9" + raw[2:],
    "unknown flag": lambda raw: raw[:2] + b"\x80" + raw[3:],
    "seal that is not there": lambda raw: raw[:2] + b"\x01" + raw[3:],
    "more tags than it has": lambda raw: raw[:3] + b"\xff" + raw[4:],
    "another payload": lambda raw: raw.replace(b"milk", b"\xff\xfe\xfd\xfc"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_entry_is_a_miss_counted_and_replaced(
    damage: Callable[[bytes], bytes], world: World, backend: RedisBackend
) -> None:
    world.server.cli("SET", world.entry, damage(world.server.cli("GET", world.entry)))
    before = backend._links.round_trips
    await world.expect_miss()
    assert backend._links.round_trips - before <= 4, "it is not looked at again and again"
    assert await corrupt(backend) == 1
    await world.expect_hit()
    assert get_metrics()["backend_errors"] == 0


@pytest.mark.parametrize(
    "foreign", [("RPUSH", "a"), ("HSET", "a", "b"), ("SADD", "a"), ("ZADD", "1", "a"), ("XADD", "*", "a", "b")],
    ids=lambda command: command[0],
)  # fmt: skip
@pytest.mark.parametrize("kind", [b"e", b"t", b"l"], ids=["entry", "tag", "lead"])
async def test_a_key_of_ours_with_somebody_elses_type_is_replaced(
    kind: bytes, foreign: tuple[str, ...], world: World, backend: RedisBackend
) -> None:
    entry = world.entry
    keys = world.led if kind == b"l" else world.keys(kind)
    assert keys
    for key in keys:
        world.server.cli("DEL", key)
        world.server.cli(foreign[0], key, *foreign[1:])
    if kind == b"l":
        world.server.cli("DEL", entry)
    await world.expect_miss()
    if kind != b"l":  # nobody leads while that key is in the way; the tool runs, and what it returns is kept
        assert get_metrics()["backend_errors"] == 0
    await world.expect_hit()
    await world.put()
    await world.expect_miss()
    await world.expect_hit()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kind=st.sampled_from([b"e", b"t"]),
    which=st.integers(0, 9),
    bits=st.lists(st.integers(0, 10_000), min_size=1, max_size=4),
)
def test_no_flipped_bit_brings_an_exception(kind: bytes, which: int, bits: list[int], server: RedisServer) -> None:
    server.cli("FLUSHALL")
    backend = RedisBackend(server.url)
    runs = []

    @AgentCache("cart", backend=backend)
    def get() -> dict[str, int]:
        runs.append(1)
        return {"milk": 1}

    assert get() == {"milk": 1}
    keys = sorted(key for key in server.cli("KEYS", "*") if b"}" + kind + b":" in key)
    key = keys[which % len(keys)]
    raw = bytearray(server.cli("GET", key))
    for bit in bits:
        raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    server.cli("SET", key, bytes(raw), "KEEPTTL")
    before = len(runs)
    get()
    get()
    assert len(runs) - before <= 1  # at most one of them ran: whatever was damaged has been put right
    assert get_metrics()["backend_errors"] == 0
    get.invalidate()
    before = len(runs)
    assert get() == {"milk": 1}
    assert len(runs) == before + 1
    backend.sync.close()


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_can_be_looked_at(raw: bytes, sealed: bool) -> None:
    seal = b"secret" if sealed else None
    for head in (b"", b"E1", b"E1\x00\x01", b"T1", b"T1" + b"x" * 24):
        read_entry(head + raw, seal, b"key")
        read_tag(head + raw)


# -- tag records ------------------------------------------------------------------------------------------------------

TAG_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": _cut(0),
    "truncated": _cut(20),
    "garbage": lambda raw: b"\xff" * len(raw),
    "text": lambda raw: b"hello, this is quite another program's value, a long one",
    "wrong letter": lambda raw: b"X" + raw[1:],
    "writers that are no number": lambda raw: raw[:26] + b"zzzz" + raw[30:],
    "more writers than there are": lambda raw: raw[:26] + b"00ff" + raw[30:],
    "a number Python reads and Lua does not": lambda raw: raw[:26] + b"0_00" + raw[30:],
    "a signed number": lambda raw: raw[:26] + b"-001" + raw[30:],
    "a writer whose lease is no number": lambda raw: raw[:26] + b"0001" + b"n" * 12 + b"not a number!",
}


@pytest.mark.parametrize("damage", TAG_DAMAGES.values(), ids=TAG_DAMAGES)
async def test_a_damaged_tag_record_loses_the_entry_and_is_made_anew(
    damage: Callable[[bytes], bytes], world: World, backend: RedisBackend
) -> None:
    for key in world.keys(b"t"):
        world.server.cli("SET", key, damage(world.server.cli("GET", key)))
    before = backend._links.round_trips
    assert await world.get() == ["milk", world.state, 0]
    assert backend._links.round_trips - before < 20
    await world.expect_hit()
    await world.put()
    await world.expect_miss()
    await world.expect_hit()
    assert get_metrics()["backend_errors"] == 0


async def test_a_lost_tag_record_never_brings_an_older_entry_back(world: World) -> None:
    old = world.server.cli("GET", world.entry)
    await world.put()
    await world.expect_miss()
    for key in world.keys(b"t"):
        world.server.cli("DEL", key)
    world.server.cli("SET", world.entry, old)
    await world.expect_miss()


# -- versions of the format ---------------------------------------------------------------------------------------------


async def test_an_entry_of_the_next_version_is_a_miss_and_is_replaced(world: World, backend: RedisBackend) -> None:
    raw = world.server.cli("GET", world.entry)
    world.server.cli("SET", world.entry, b"E3" + raw[2:] + b"what E3 has more", "PX", 60_000)
    before = backend._links.round_trips
    await world.expect_miss()
    assert backend._links.round_trips - before <= 4
    assert world.server.cli("GET", world.entry)[:2] == b"E1"
    await world.expect_hit()


def _as_t2(world: World, tail: bytes) -> list[bytes]:
    keys = world.keys(b"t")
    for key in keys:
        world.server.cli("SET", key, b"T2" + world.server.cli("GET", key)[2:] + tail, "KEEPTTL")
    return keys


async def test_a_tag_record_of_the_next_version_means_what_it_meant(world: World) -> None:
    _as_t2(world, b"\x00what T2 has more")
    await world.expect_hit()
    await world.put()
    await world.expect_miss()
    await world.expect_hit()
    await world.get.invalidate()
    await world.expect_miss()


async def test_what_the_next_version_appended_to_a_tag_record_is_kept(world: World) -> None:
    tail = b"\x00what T2 has more"
    keys = _as_t2(world, tail)
    await world.put()
    await world.expect_miss()
    for key in keys:
        raw = world.server.cli("GET", key)
        assert raw[:2] == b"T2"
        assert raw.endswith(tail)  # records.py: "a build of today reads and keeps what it does not know"


# -- secrets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def sealed(server: RedisServer, backend_at: BackendAt) -> World:
    configure(backend=backend_at(secret="ours"))
    made = World(server)
    await made.expect_miss()
    await made.expect_hit()
    return made


@pytest.mark.parametrize(
    "forge",
    [
        lambda raw: raw.replace(b"milk", b"wine"),
        lambda raw: raw[:2] + b"\x00" + raw[3:],
        lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)),
        lambda raw: raw[:40] + bytes((raw[40] ^ 1,)) + raw[41:],
    ],
    ids=["payload", "flag taken off", "a bit of the payload", "a bit of the stamp"],
)
async def test_a_forged_entry_is_a_miss(forge: Callable[[bytes], bytes], sealed: World) -> None:
    raw = sealed.server.cli("GET", sealed.entry)
    sealed.server.cli("SET", sealed.entry, forge(raw))
    await sealed.expect_miss()
    await sealed.expect_hit()


async def test_an_unsealed_entry_is_a_miss_where_there_is_a_secret(sealed: World) -> None:
    raw = sealed.server.cli("GET", sealed.entry)
    count = raw[3]
    body = 24 + 12 * count + 24
    sealed.server.cli("SET", sealed.entry, raw[:2] + b"\x00" + raw[3:body] + raw[body + 16 :])
    await sealed.expect_miss()


async def test_entries_swapped_between_two_calls_are_misses(sealed: World) -> None:
    await sealed.expect_miss(1)
    one, two = sealed.keys(b"e")
    first, second = sealed.server.cli("MGET", one, two)
    sealed.server.cli("MSET", one, second, two, first)
    await sealed.expect_miss(0)
    await sealed.expect_miss(1)


async def test_an_entry_replayed_under_the_stamp_of_today_is_a_miss(sealed: World) -> None:
    old = sealed.server.cli("GET", sealed.entry)
    await sealed.put()
    await sealed.expect_miss()
    new = sealed.server.cli("GET", sealed.entry)
    end = 24 + 12 * new[3]
    sealed.server.cli("SET", sealed.entry, old[:4] + new[4:end] + old[end:])
    await sealed.expect_miss()
    sealed.server.cli("SET", sealed.entry, old)
    await sealed.expect_miss()


async def test_another_secret_knows_nothing_of_ours(sealed: World, backend_at: BackendAt) -> None:
    for secret in ("theirs", None):
        configure(backend=backend_at(secret=secret))
        await sealed.expect_miss()
    configure(backend=backend_at(secret=b"ours"))
    await sealed.expect_hit()


async def test_the_wrong_secret_cannot_read_what_stands_under_its_own_names(
    sealed: World, server: RedisServer, backend_at: BackendAt
) -> None:
    ours = server.cli("GET", sealed.entry)
    theirs = backend_at(secret="theirs", prefix="theirs:")
    configure(backend=theirs)
    await sealed.expect_miss()
    (key,) = [key for key in sealed.keys(b"e") if key.startswith(b"theirs:")]
    own = server.cli("GET", key)
    end = 24 + 12 * own[3]
    server.cli("SET", key, ours[:4] + own[4:end] + ours[end:])
    await sealed.expect_miss()
    assert await corrupt(theirs) == 1


# -- time -------------------------------------------------------------------------------------------------------------


async def test_an_entry_expires(server: RedisServer, backend: RedisBackend, let_pass: LetPass) -> None:
    runs = []

    @AgentCache("cart", ttl=60)
    async def get() -> int:
        runs.append(1)
        return 1

    await get()
    await let_pass(backend, 59)
    await get()
    assert len(runs) == 1
    await let_pass(backend, 2)
    await get()
    assert len(runs) == 2


@pytest.mark.parametrize("ttl", [None, 10_000_000])
async def testmax_ttl_caps_every_entry(
    ttl: float | None, server: RedisServer, backend_at: BackendAt, let_pass: LetPass
) -> None:
    backend = backend_at(max_ttl=100)
    runs = []

    @AgentCache("cart", ttl=ttl, backend=backend)
    async def get() -> int:
        runs.append(1)
        return 1

    await get()
    (entry,) = [key for key in server.cli("KEYS", "*") if b"}e:" in key]
    assert 0 < server.cli("PTTL", entry) <= 100_000
    await let_pass(backend, 101)
    await get()
    assert len(runs) == 2


async def test_tag_records_outlive_every_entry_and_everything_ends(
    server: RedisServer, backend_at: BackendAt, let_pass: LetPass
) -> None:
    backend = backend_at(max_ttl=1_000)
    configure(backend=TieredBackend(MemoryBackend(), backend))

    @AgentCache("cart:{n}", maxsize=None)
    async def get(n: int) -> int:
        return n

    @AgentCacheInvalidator("cart:{n}")
    async def put(n: int) -> None: ...

    @AgentCacheInvalidator("cart:{n}")
    async def fail(n: int) -> None:
        raise LookupError

    for n in range(5):
        await get(n)
        await put(n)
        await get(n)
        with pytest.raises(LookupError):
            await fail(n)
    await let_pass(backend, 900)
    for n in range(5, 8):
        await get(n)
    await backend.set("for ever", 1)
    await backend.set("for a while", 1, ttl=10)
    left = {key: server.cli("PTTL", key) for key in server.cli("KEYS", "*")}
    assert [key for key, ms in left.items() if ms == -1] == [b"ac:kv:for ever"]
    entries = [ms for key, ms in left.items() if b"}e:" in key]
    assert len(entries) == 8
    assert min(ms for key, ms in left.items() if b"}t:" in key and ms > 0) > max(entries)


async def test_default_ttl_is_of_the_key_value_cache(server: RedisServer, backend_at: BackendAt) -> None:
    backend = backend_at(default_ttl=50)
    await backend.set_many({"a": 1, "b": 2})
    await backend.set("c", 3, ttl=500)
    assert all(0 < server.cli("PTTL", f"ac:kv:{key}") <= 50_000 for key in "ab")
    assert 50_000 < server.cli("PTTL", "ac:kv:c") <= 500_000


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"hello", b"{", b"[1,", b"\x00" * 100])
async def test_a_damaged_value_of_the_key_value_cache_is_a_miss(
    raw: bytes, server: RedisServer, backend: RedisBackend
) -> None:
    server.cli("SET", "ac:kv:a", raw)
    server.cli("RPUSH", "ac:kv:list", "x")
    assert await backend.get("a", default="none") == "none"
    assert await backend.get_many(["a", "list"]) == {}
    assert await corrupt(backend) >= 2
