"""``configure(store_args=True)``: readable arguments beside an entry, and none where nobody asked."""

from __future__ import annotations

from typing import Any

import pytest

import agent_cache
from agent_cache import AgentCache
from agent_cache.backends.base import NewEntry
from agent_cache.backends.disk import DiskBackend
from agent_cache.backends.labels import label_bytes, read_label
from agent_cache.codecs import codec_for


async def _arguments(backend: Any) -> list[str]:
    return [entry.arguments async for entry in backend.scan()]


async def test_arguments_are_kept_with_the_entry(backend: Any) -> None:
    agent_cache.configure(backend=backend, store_args=True)

    @AgentCache("user:{user_id}", ignore=("trace",))
    async def look(user_id: int, city: str, trace: str = "") -> int:
        return user_id

    await look(7, "Bonn", trace="secret")
    assert await _arguments(backend) == ["user_id=7, city='Bonn'"]
    await backend.clear()
    await look(8, "x" * 5_000)
    (long,) = await _arguments(backend)
    assert len(long) == 2_000
    assert long.endswith("…")


async def test_not_unless_asked(backend: Any) -> None:
    agent_cache.configure(backend=backend)

    @AgentCache("user:{user_id}")
    async def look(user_id: int) -> int:
        return user_id

    await look(7)
    assert await _arguments(backend) == [""]


async def test_not_in_a_store_with_a_secret(tmp_path: Any) -> None:
    async with DiskBackend(tmp_path / "c.db", secret="s") as backend:
        agent_cache.configure(backend=backend, store_args=True)

        @AgentCache("user:{user_id}")
        async def look(user_id: int) -> int:
            return user_id

        await look(987654)
        assert await _arguments(backend) == [""]
        agent_cache.configure(backend=None)


@pytest.mark.parametrize("many", [1, 5_000])
def test_a_label_that_gets_too_long_does_without(many: int) -> None:
    stored = codec_for(Any).freeze(1, 100)
    entry = NewEntry(b"k", stored, None, 0.0, "group", None, (), arguments="né=1" * many)
    label = read_label(label_bytes([("any", (), ("cart", "1"))], entry))
    assert label is not None
    assert label.arguments == ("né=1" if many == 1 else "")
    assert label.tags == (("any", (), ("cart", "1")),)
