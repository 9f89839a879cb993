"""What the disk tests share: a way to talk to a backend, and programs run in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_cache.backends.base import Found, NewEntry
from agent_cache.backends.disk import DiskBackend
from agent_cache.codecs import codec_for
from agent_cache.tags import read_tags, write_tags
from agent_cache.testing import FakeClock

CODEC = codec_for(Any)
KEY = b"key"
CART = read_tags([("cart", "42")], ())
WRITE = write_tags([("cart", "42")], ())


class Talk:
    """The blocking face of one backend, in few words."""

    def __init__(self, backend: DiskBackend) -> None:
        self.backend = backend
        self.sync = backend.sync

    def look(self, key: bytes | None = KEY, tags: Any = CART) -> Any:
        return self.sync.lookup(key, tags, CODEC)

    def value(self, key: bytes = KEY, tags: Any = CART) -> Any:
        """The stored value; "-" when there is none."""
        found = self.look(key, tags)
        return found.stored.fresh() if isinstance(found, Found) else "-"

    def fill(self, value: Any, token: Any = None, key: bytes = KEY, tags: Any = CART, **how: Any) -> bool:
        settings: dict[str, Any] = {"ttl": None, "load_seconds": 0.5, "group": "g", "maxsize": None, "chain": (), **how}
        token = token or self.look(None, tags).token
        return self.sync.fill(token, NewEntry(key, CODEC.freeze(value), **settings))

    def begin(self) -> Any:
        return self.sync.begin(WRITE, "writer")

    def end(self, window: Any, *, unknown: bool = False, no_effect: bool = False) -> None:
        self.sync.end(window, unknown=unknown, no_effect=no_effect)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def wall() -> FakeClock:
    return FakeClock(5_000_000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def make(path: Path, clock: FakeClock, wall: FakeClock) -> Iterator[Callable[..., Talk]]:
    """Makes backends on one file; they are closed at the end."""
    made: list[DiskBackend] = []

    def new(**settings: Any) -> Talk:
        backend = DiskBackend(settings.pop("path", path), **{"clock": clock, "wall": wall, **settings})
        made.append(backend)
        return Talk(backend)

    yield new
    for backend in made:
        backend.sync.close()
