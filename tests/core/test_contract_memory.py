"""The memory backend keeps the backend contract."""

from __future__ import annotations

from agent_cache import MemoryBackend
from agent_cache.testing import BackendContract, FakeClock


class TestMemoryBackend(BackendContract):
    def make(self, clock: FakeClock) -> MemoryBackend:
        return MemoryBackend(clock=clock, settle=self.settle)


def test_default_ttl_applies_to_keys_without_their_own() -> None:
    clock = FakeClock()
    backend = MemoryBackend(default_ttl=10, clock=clock).sync
    backend.set("short", 1)
    backend.set("long", 1, ttl=100)
    clock.advance(11)
    assert backend.keys() == ["long"]


def test_max_size_bounds_all_entries() -> None:
    backend = MemoryBackend(max_size=3).sync
    for number in range(10):
        backend.set(str(number), number)
    assert backend.count() == 3
    assert backend.stats()["evictions"] == 7
    assert backend.get("9") == 9


def test_a_read_key_outlives_an_unread_one() -> None:
    backend = MemoryBackend(max_size=2).sync
    backend.set("read", 1)
    backend.set("unread", 1)
    backend.get("read")
    backend.set("new", 1)
    assert set(backend.keys()) == {"read", "new"}


def test_max_bytes_bounds_what_is_held() -> None:
    backend = MemoryBackend(max_bytes=20_000).sync
    for number in range(50):
        backend.set(str(number), "x" * 1_000)
        assert backend.stats()["bytes"] <= 20_000
    assert backend.count() > 5
    assert backend.get("49") == "x" * 1_000


def test_replacing_one_of_as_many_keys_as_fit_evicts_none() -> None:
    backend = MemoryBackend(max_size=2).sync
    for key in "abc":  # "a" goes, and the hand stands at "b"
        backend.set(key, 1)
    backend.set("c", 2)
    assert set(backend.keys()) == {"b", "c"}
