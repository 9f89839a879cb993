"""A memory backend whose time stands still, set as the default, for each test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from agent_cache import BackendError, MemoryBackend, configure
from agent_cache.config import settings
from agent_cache.policy import scopes_of_reads
from agent_cache.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memory(clock: FakeClock) -> MemoryBackend:
    return MemoryBackend(clock=clock)


@pytest.fixture(autouse=True)
def _default_backend(_fresh_process_state: None, memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes_of_reads, "_scopes", {})  # other tests' reads do not widen a write of this one
    settings.notices.forget()
    configure(backend=memory)


class Faulty(MemoryBackend):
    """A memory backend whose named methods raise while ``down``; not in process, as a remote one."""

    in_process = False

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.down = set(methods)
        self.calls: list[str] = []

    def _enter(self, method: str) -> None:
        self.calls.append(method)
        if method in self.down:
            raise BackendError(f"{method} failed")

    async def lookup(self, *args: Any) -> Any:
        self._enter("lookup")
        return await super().lookup(*args)

    async def fill(self, *args: Any) -> Any:
        self._enter("fill")
        return await super().fill(*args)

    async def begin(self, tags: Sequence[Any], writer: str) -> Any:
        self._enter("begin")
        return await super().begin(tags, writer)

    async def end(self, *args: Any, **kwargs: Any) -> None:
        self._enter("end")
        await super().end(*args, **kwargs)
